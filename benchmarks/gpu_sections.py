"""What `gpu.py` measures, a section each: a function from a `Bench` to rows that JSON can hold."""

import itertools
import math
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import random_models
from gpu_bench import Bench
from random_models import Sizes, made_up

from machine.machine import Machine
from prompts.extractors import NullExtractor
from zoom.settings import Tiles

if TYPE_CHECKING:
    import torch

    from osediff_sd3 import OSEDiffSD3
    from zoom.protocols import PromptExtractor

Rows = list[dict[str, Any]]
ALL_IN_FP32 = 40 * 10**9  # bytes of memory in which SD3 is resident in fp32
ROOM = 2 * 2**30  # bytes that are copied to measure how fast a GPU's memory is


def kind(network: "OSEDiffSD3") -> str:
    """Return what a network's transformer computes in."""
    return str(network._parts.dtypes["transformer"]).removeprefix("torch.")


def planned(network: "OSEDiffSD3", batch: int, side: int) -> int:
    """Return the bytes that the plan foresees on a network's device."""
    machine = network.machine
    return machine.residency.plan(batch, side).peaks[str(machine.devices.sr)]


def steps(bench: Bench) -> Rows:
    """Time a step of SD3 without prompts, everything resident, by precision and batch."""
    rows: Rows = []
    for precision in bench.precisions:
        network = random_models.sd3(bench.sizes, bench.machine(precision))
        for batch in bench.batches:
            network.machine.batches.size = batch
            inputs = bench.inputs(batch)
            row = {
                "kind": kind(network),
                "batch": batch,
                "planned": planned(network, batch, bench.sizes.side),
            }
            rows.append(row | bench.measured(partial(bench.step, network, inputs), batch))
        del network
        bench.free()
    return rows


def large(bench: Bench) -> Rows:
    """Time a step at twice the side, the VAE whole and in tiles."""
    rows: Rows = []
    side = 2 * bench.sizes.side
    for tiles in (Tiles(), Tiles(vae_encoder=side // 2, vae_decoder=max(16, side // 16))):
        network = random_models.sd3(bench.sizes, bench.machine(), tiles)
        for batch in bench.batches[:3:2]:
            network.machine.batches.size = batch
            inputs = bench.inputs(batch, side)
            row = {"side": side, "vae_decoder": tiles.vae_decoder * 8, "batch": batch}
            row["planned"] = planned(network, batch, side)
            rows.append(row | bench.measured(partial(bench.step, network, inputs), batch))
        del network
        bench.free()
    return rows


def prompts(bench: Bench) -> Rows:
    """Time a step with each kind of prompts, everything resident."""
    machine = bench.machine()
    network = random_models.sd3(bench.sizes, machine)
    extractors: dict[str, PromptExtractor | None] = {
        "null": None,
        "dape": random_models.dape(bench.sizes, machine),
        "vlm": random_models.vlm(bench.sizes, machine, bench.new_tokens),
    }
    rows: Rows = []
    for name, extractor in extractors.items():
        for batch in bench.batches[::2]:
            machine.batches.size = batch
            inputs = bench.inputs(batch)
            row = {"prompts": name, "batch": batch, "planned": planned(network, batch, bench.sizes.side)}
            rows.append(row | bench.measured(partial(bench.step, network, inputs, extractor), batch))
    return rows


def efficient(bench: Bench) -> Rows:
    """Time groups with one model on the device at a time, the VLM included."""
    rows: Rows = []
    for batch in bench.batches[::4]:
        machine = bench.machine(batch=batch, efficient_memory=True)
        network = random_models.sd3(bench.sizes, machine)
        extractor = random_models.vlm(bench.sizes, machine, bench.new_tokens)
        inputs = bench.inputs(bench.batches[-1])
        row: dict[str, Any] = {"group": len(inputs), "batch": batch}
        row["planned"] = planned(network, batch, bench.sizes.side)
        row |= bench.measured(partial(bench.step, network, inputs, extractor), len(inputs))
        moving = sum(taken for stage, taken in machine.times.items() if stage.endswith((".load", ".move")))
        row["moving"] = moving / sum(machine.times.values())
        rows.append(row)
        del network, extractor, machine
        bench.free()
    return rows


def rates(bench: Bench) -> dict[str, float]:
    """Measure FLOP a second of each dtype's matrix product, and bytes a second that are read and written."""
    import torch

    side = 8192 if bench.on_gpu else 64
    found = {}
    tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True  # as the VAE's convolutions in fp32 round, too
    try:
        for dtype in (torch.float16, torch.bfloat16, torch.float32):
            one = torch.randn(side, side, device=bench.device).to(dtype)
            found[str(dtype).removeprefix("torch.")] = (
                2 * side**3 / bench.seconds(partial(torch.matmul, one, one))
            )
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32
    source = torch.ones(ROOM if bench.on_gpu else ROOM // 256, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    found["bytes"] = 2 * source.numel() / bench.seconds(lambda: target.copy_(source))
    return found


def arguments(bench: Bench, part: str, batch: int, network: "OSEDiffSD3") -> tuple["torch.Tensor", ...]:
    """Return what a part is called with, for pictures of the size's own side."""
    import torch

    from sd3.spec import PARTS

    config = network._checkpoint.files_of(part).config
    latent = bench.sizes.side // network._latent_pixel
    if PARTS[part].tokenizer:
        return (torch.arange(PARTS[part].tokens).expand(batch, -1) % config["vocab_size"],)
    if part == "vae_encoder":
        return (torch.rand(batch, 3, bench.sizes.side, bench.sizes.side) * 2 - 1,)
    z = torch.randn(batch, 16, latent, latent)
    if part == "vae_decoder":
        return (z,)
    words = torch.randn(batch, 77 + 512, config["joint_attention_dim"])
    return z, torch.full((batch,), 1000.0), words, torch.randn(batch, config["pooled_projection_dim"])


def parts(bench: Bench) -> Rows:
    """Time each network alone beside what its arithmetic and the reading of its weights must take."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from prompts.extractors import VLM
    from prompts.vlm_loading import generate
    from sd3.spec import PARTS

    fastest, rows = rates(bench), []
    machine = bench.machine()
    network = random_models.sd3(bench.sizes, machine)
    extractor = random_models.vlm(bench.sizes, machine, bench.new_tokens)

    def run(name: str, batch: int) -> Iterator[Callable[[], object]]:
        with machine.residency.use(name) as model:
            if name == VLM:
                questions = extractor._processor([[one.sr_input] for one in bench.inputs(batch)])
                yield lambda: generate(model, questions, bench.new_tokens)
            else:
                given = [one.to(bench.device) for one in arguments(bench, name, batch, network)]
                yield lambda: model(*given)

    for name, batch in itertools.product((*PARTS, VLM), (bench.batches[0], bench.batches[-1])):
        for call in run(name, batch):
            with torch.no_grad():
                with FlopCounterMode(display=False) as counter:
                    call()
                seconds = bench.seconds(call)
            module = machine.residency.components[name].module
            weights = sum(tensor.nbytes for tensor in module.parameters())
            weights *= bench.new_tokens if name == VLM else 1  # all of them for every token
            dtype = str(getattr(module, "dtype", None) or next(module.parameters()).dtype)
            rows.append(
                {
                    "part": name, "batch": batch, "dtype": dtype.removeprefix("torch."), "seconds": seconds,
                    "flop": counter.get_total_flops(), "bytes": weights,
                    "arithmetic": counter.get_total_flops() / fastest[dtype.removeprefix("torch.")],
                    "reading": weights / fastest["bytes"],
                }
            )  # fmt: skip
    return rows


def precision(bench: Bench) -> Rows:
    """Compare fp16 and bf16 with fp32: each of SD3's parts alone, and a whole step."""
    rows: Rows = []
    for sizes in (Sizes.tiny(), *((bench.sizes,) if bench.sizes.name == "true" else ())):
        with made_up(sizes):
            rows += _precision(Bench(bench.device, sizes, None))
        bench.free()
    return rows


def _precision(bench: Bench) -> Rows:
    import numpy as np
    import torch

    from machine.memory import room_on
    from sd3.spec import PARTS

    small = bench.on_gpu and room_on(str(bench.device)).total < ALL_IN_FP32

    @torch.no_grad()
    def made(dtype: torch.dtype) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        """Return what each part makes that computes in a dtype, and the picture of a step."""
        forced: Any = type("InOneKind", (Machine,), {"dtype": lambda self, *_, **__: dtype})
        machine = forced.choose(str(bench.device), "auto", efficient_memory=small)
        network, outputs = random_models.sd3(bench.sizes, machine), {}
        for part in PARTS:
            torch.manual_seed(0)
            if network._parts.dtypes[part] == dtype:  # under fp16 the VAE computes in fp32
                with machine.residency.use(part) as call:
                    output = call(*arguments(bench, part, 1, network))
                outputs[part] = (output[0] if isinstance(output, tuple) else output).float().cpu()
        [picture] = network(bench.inputs(1), [["a photo of a cat"]], [1])
        return outputs, np.asarray(picture, float)

    found = {}
    for name, dtype in {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}.items():
        found[name] = made(dtype)
        bench.free()
    exact, exact_picture = found.pop("fp32")
    rows: Rows = []
    for part in PARTS:
        errors = {
            name: ((outputs[part] - exact[part]).norm() / exact[part].norm()).item()
            for name, (outputs, _) in found.items()
            if part in outputs
        }
        rows.append({"size": bench.sizes.name, "part": part, **errors})
    levels = {name: np.abs(picture - exact_picture).mean() for name, (_, picture) in found.items()}
    return [*rows, {"size": bench.sizes.name, "part": "a whole step, grey levels", **levels}]


def published(bench: Bench) -> Rows:
    """Time a step by our schedule and by the published one in turn."""
    import torch
    from published import Placing, PublishedSR

    network = random_models.sd3(bench.sizes, bench.machine(batch=bench.batches[-1]))
    placing = Placing()
    if bench.on_gpu:
        placing = Placing(str(bench.device), str(bench.device), torch.float16)
    with random_models.pretrained(bench.sizes, bench.device):
        theirs = PublishedSR(bench.sizes.sd3, *bench.sizes.sr_files, placing)
    inputs = bench.inputs(bench.batches[-1])
    schedules: dict[str, Callable[[], object]] = {
        "ours": partial(bench.step, network, inputs, NullExtractor()),
        "published": lambda: [theirs(one.sr_input, str(next(bench.numbers)), 0) for one in inputs],
    }
    taken: dict[str, list[float]] = {name: [] for name in schedules}
    for _ in range(3 if bench.on_gpu else 1):
        for name, call in schedules.items():
            taken[name].append(bench.seconds(call) / len(inputs))
    return [{"schedule": name, "seconds": statistics.median(seconds)} for name, seconds in taken.items()]


def embedded(bench: Bench) -> Rows:
    """Time a step of the embedded network, with its own weights."""
    from plain_sr.embedded import EmbeddedBackbone

    rows: Rows = []
    for precision in ("auto", "fp32", "bf16") if bench.on_gpu else ("auto",):
        backbone = EmbeddedBackbone(bench.machine(precision))
        for batch in bench.batches[::2]:
            backbone.machine.batches.size = batch
            inputs = bench.inputs(batch)
            row = {"kind": str(backbone.dtype).removeprefix("torch."), "batch": batch}
            row["planned"] = backbone.machine.residency.plan(batch, bench.sizes.side).peaks[str(bench.device)]
            rows.append(row | bench.measured(partial(bench.step, backbone, inputs), batch))
        del backbone
        bench.free()
    return rows


def loading(bench: Bench) -> Rows:
    """Time the reading of each of SD3's parts from files, once from the disk and once from the page cache."""
    from full_size import write_sd3
    from full_size_ram import drop_from_cache

    from osediff_sd3 import OSEDiffSD3
    from sd3.checkpoint import check_sd3
    from sd3.spec import PARTS

    if bench.files is None:
        return []
    folder = bench.files / "sd3"
    if bench.sizes.name == "true":
        write_sd3(folder)
    else:
        shutil.copytree(bench.sizes.sd3, folder, dirs_exist_ok=True)
    checkpoint, rows = check_sd3(str(folder), *bench.sizes.sr_files), []
    for place in ("disk", "page cache"):
        network = OSEDiffSD3(checkpoint, bench.machine())
        for part in PARTS:
            if place == "disk":
                for file in checkpoint.files_of(part).files:
                    drop_from_cache(file)
            start = time.perf_counter()
            with network.machine.residency.use(part):
                bench.wait()
            size = network.machine.residency.components[part].size
            rows.append(
                {
                    "from": place, "part": part, "bytes": size.bytes if size else math.nan,
                    "seconds": time.perf_counter() - start,
                }
            )  # fmt: skip
        del network
        bench.free()
    return rows


# In the order in which they are measured: what is wanted most comes first.
SECTIONS: dict[str, Callable[[Bench], Rows]] = {
    "steps": steps,
    "parts": parts,
    "precision": precision,
    "efficient": efficient,
    "prompts": prompts,
    "published": published,
    "large": large,
    "embedded": embedded,
    "loading": loading,
}


OWN_WEIGHTS = ("precision", "loading")  # which see to them themselves


def measure(name: str, bench: Bench) -> Rows:
    """Measure a section, on made-up weights."""
    with nullcontext() if name in OWN_WEIGHTS else made_up(bench.sizes, bench.new_tokens):
        rows = SECTIONS[name](bench)
    bench.free()
    return rows

"""What an int8 transformer and VAE save and cost, on true sizes: made and timed.

    python benchmarks/quantized.py --component transformer vae_encoder vae_decoder --scratch DIR

Each step runs in a process of its own, so that its peak memory is its own, and DIR/results.json keeps what it
found: the same command goes on where it was stopped. ``--step`` runs only some. DIR takes 20 GB at most, and
stays: remove it.
"""

import json
import logging
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from random_weights import make_checkpoint

SR_PARTS = ("transformer", "vae_encoder", "vae_decoder")
STEPS = ("make", "fp32", "bf16", "int8")
LONG_ENOUGH = 120.0  # seconds of timed calls
TOKENS = 77 + 512


def run_steps(
    components: Sequence[str], steps: Sequence[str], scratch: Path, give_up: float, options: Sequence[str]
) -> dict[str, Any]:
    """Run what has not been run yet, and return all results: by part and step.

    Args:
        components: of `SR_PARTS`.
        steps: of `STEPS`.
        scratch: folder for checkpoint, parts and results.
        give_up: seconds after which a part that is timed is given up.
        options: to be handed on to the processes.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    kept = scratch / "results.json"
    for component in components:
        for step in steps:
            results = json.loads(kept.read_text()) if kept.is_file() else {}
            if step in results.get(component, {}):
                continue
            arguments = ["--component", component, "--only", step, "--scratch", str(scratch), *options]
            limit = None if step == "make" else give_up
            command = [sys.executable, str(Path(__file__).with_name("quantized.py")), *arguments]
            try:
                subprocess.run(command, check=True, timeout=limit)
            except subprocess.TimeoutExpired:
                keep(scratch, component, step, {"longer_than": give_up})
    return json.loads(kept.read_text()) if kept.is_file() else {}


def run_step(component: str, step: str, scratch: Path, pictures: int, calls: int) -> None:
    """Run one step in this process, and add what it found to the results."""
    logging.getLogger("int8").setLevel(logging.INFO)
    make_checkpoint(SR_PARTS, scratch / "sd3")
    if step == "make":
        found = make(component, scratch, pictures)
    else:
        found = time_calls(component, step, scratch, calls)
    used = resource.getrusage(resource.RUSAGE_SELF)
    found |= {"cpu_seconds": used.ru_utime + used.ru_stime, "peak_bytes": used.ru_maxrss * 1024}
    keep(scratch, component, step, found)
    print(f"{component}, {step}: {json.dumps(found)}", flush=True)


def keep(scratch: Path, component: str, step: str, found: dict[str, Any]) -> None:
    """Add what a step found to the results."""
    kept = scratch / "results.json"
    results = json.loads(kept.read_text()) if kept.is_file() else {}
    results.setdefault(component, {})[step] = found
    unfinished = kept.with_suffix(".part")
    unfinished.write_text(json.dumps(results, indent=1))
    unfinished.replace(kept)


def make(component: str, scratch: Path, pictures: int) -> dict[str, Any]:
    """Quantize a part."""
    import torch

    from int8.calibration import read_calibration
    from int8.make_part import quantize_part
    from int8.pipeline import Pipeline
    from quantize_model import report
    from sd3.spec import TEXT_PARTS

    class RandomPrompts(Pipeline):
        def embed(self) -> None:
            """Put random vectors of the text encoders' statistics in their answers' place."""
            pictures = [*self.calibration.pictures, *self.calibration.held_out_pictures]
            for prompt in dict.fromkeys(one.prompt for one in pictures):
                self._embedded[prompt] = random_embeddings(prompt)

    checkpoint = check(scratch, TEXT_PARTS)
    pipeline = RandomPrompts(checkpoint, read_calibration(None, pictures), torch.device("cpu"))
    source = {"pretrained_model_name_or_path": "random weights"}
    result = quantize_part(component, pipeline, scratch / "quantized", source)
    print(report(component, result))
    return {
        "bytes": result.bytes,
        "fp32_bytes": result.fp32_bytes,
        "calibration_pictures": len(pipeline.calibration.pictures),
        "sr_psnr": result.measured.sr_psnr,
        "bar_met": result.measured.bar_met,
        "tried": [{"layers": count, "sr_psnr": measured.sr_psnr} for count, measured in result.tried],
    }


def check(scratch: Path, replaced: Sequence[str]) -> Any:
    """Return the checkpoint, checked."""
    from sd3.checkpoint import check_sd3

    return check_sd3(str(scratch / "sd3"), None, None, replaced=replaced)


def random_embeddings(prompt: str) -> tuple[Any, Any]:
    """Return what text encoders might say of a prompt: (589, 4096), CLIP's part zero-padded, and (2048,)."""
    import hashlib

    import torch

    seed = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:6])
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(TOKENS, 4096, generator=generator)
    embeddings[:77, 2048:] = 0
    embeddings[77:] *= 0.2  # T5's, which ends in a norm, are small
    return embeddings, torch.randn(2048, generator=generator)


def time_calls(component: str, step: str, scratch: Path, calls: int) -> dict[str, Any]:
    """Time one call of a part for a picture of 512x512: the median of some, after one that warms up."""
    import torch

    from int8.find_parts import part_folder
    from int8.run_part import open_part
    from sd3.networks import load_part
    from sd3.spec import TEXT_PARTS
    from zoom.settings import Tiles

    cpu = torch.device("cpu")
    checkpoint = check(scratch, TEXT_PARTS)
    start = time.perf_counter()
    if step == "int8":
        folder = part_folder(scratch / "quantized", component)
        part: Callable[..., Any] = open_part(folder, component, cpu, checkpoint.vae_config, Tiles())
    else:
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[step]
        part = load_part(component, checkpoint, cpu, dtype)
    loaded = time.perf_counter() - start
    latent = torch.randn(1, 16, 64, 64, generator=torch.Generator().manual_seed(1))
    inputs: tuple[torch.Tensor, ...] = (latent,)
    if component == "vae_encoder":
        inputs = (torch.nn.functional.interpolate(latent[:, :3], scale_factor=8).clamp(-1, 1),)
    elif component == "transformer":
        embeddings, pooled = random_embeddings("")
        inputs = (latent, torch.tensor([1000.0]), embeddings[None], pooled[None])
    seconds: list[float] = []
    with torch.no_grad():
        while len(seconds) < calls + 1 and sum(seconds) < LONG_ENOUGH:
            start = time.perf_counter()
            part(*inputs)
            seconds.append(time.perf_counter() - start)
    timed = seconds[1:] or seconds
    return {
        "seconds": sorted(timed)[len(timed) // 2],
        "calls": len(timed),
        "load_seconds": loaded,
        "threads": torch.get_num_threads(),
    }


def print_table(results: dict[str, Any]) -> None:
    """Print a table of all that was found, a column a part."""
    parts = [part for part in SR_PARTS if part in results]

    def row(name: str, cell: Callable[[dict[str, Any]], str]) -> None:
        cells = []
        for part in parts:
            try:
                cells.append(cell(results[part]))
            except KeyError:
                cells.append("not run")
        print(f"| {name} | {' | '.join(cells)} |")

    print(f"\n| {os.cpu_count()} cores | {' | '.join(parts)} |\n|---|{'---|' * len(parts)}")
    row("on disk", lambda one: _size(one["make"]))
    row("SR picture against fp32's", lambda one: f"{one['make']['sr_psnr']:.1f} dB")
    row("plans tried", lambda one: ", ".join(f"{plan['sr_psnr']:.1f}" for plan in one["make"]["tried"]))
    row("made in, CPU time", lambda one: f"{one['make']['cpu_seconds'] / 60:.0f} min")
    row("made in, peak memory", lambda one: f"{one['make']['peak_bytes'] / 2**30:.1f} GiB")
    for step in STEPS[1:]:
        row(f"{step}, a step of 512x512", lambda one, step=step: _pace(one[step]))  # type: ignore[misc]


def _size(made: dict[str, Any]) -> str:
    return f"{made['bytes'] / 1e6:.0f} MB, {made['bytes'] / made['fp32_bytes']:.0%} of fp32"


def _pace(timed: dict[str, Any]) -> str:
    if "longer_than" in timed:
        return f"over {timed['longer_than']:.0f} s with loading"
    return f"{timed['seconds']:.1f} s, {timed['peak_bytes'] / 2**30:.1f} GiB"

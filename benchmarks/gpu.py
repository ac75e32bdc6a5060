"""Measure everything that only a GPU tells, with one command, and write docs/gpu.md.

Networks of the released sizes get random weights on the device itself: no checkpoint is needed. Measured are
seconds and peak memory of a step for every kind of prompts, batch and precision, beside what the plan
(``--dry_run``) foresees; each network beside what its arithmetic and its weights must take; both 16-bit
precisions against fp32; and, with ``--files``, the reading of checkpoints. Below 8 minutes on one 80 GB GPU.
What is measured is kept beside the page as JSON: the same command goes on where it was interrupted. On a CPU
everything is tiny, and only shows that it runs.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --sections steps parts --again
    python benchmarks/gpu.py --device cpu --output /tmp/gpu.md
"""

import argparse
import json
import logging
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

if TYPE_CHECKING:
    import torch

NAMES = ["steps", "parts", "precision", "efficient", "prompts", "published", "large", "embedded", "loading"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is not yet measured, a section at a time, and write JSON and page after each."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:N or cpu")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "gpu.md", help="the page")
    parser.add_argument("--sections", nargs="+", choices=NAMES, default=NAMES, help="what to measure")
    parser.add_argument("--again", action="store_true", help="measure also what was measured before")
    parser.add_argument("--files", type=Path, help="folder for 16 GB of checkpoints, to time their reading")
    parser.add_argument("--minutes", type=float, default=8, help="begin no section after so long")
    options = parser.parse_args(arguments)

    from gpu_bench import Bench
    from gpu_page import page
    from gpu_sections import measure
    from random_models import Sizes

    from errors import InputError
    from machine.devices import choose_device
    from machine.memory import out_of_memory

    logging.getLogger("prompts").setLevel(logging.ERROR)  # a random VLM's answers are no prompts
    start = time.monotonic()
    try:
        device = choose_device(options.device)
    except InputError as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory(prefix="gpu-benchmark-") as scratch:
        sizes = Sizes.tiny() if device.type == "cpu" else Sizes.true(Path(scratch))
        kept = options.output.with_suffix(".json")
        results = earlier(kept, describe(device, sizes.name))
        for name in options.sections:
            if name in results["sections"] and not options.again:
                print(f"{name}: measured before")
                continue
            if time.monotonic() - start > 60 * options.minutes:
                print(f"{name}: not begun, {options.minutes:g} minutes are over; the same command goes on")
                continue
            began = time.monotonic()
            try:
                rows = measure(name, Bench(device, sizes, options.files))
            except Exception as error:
                if not out_of_memory(error) and not isinstance(error, InputError):
                    raise
                print(f"{name}: does not fit here: {error}")
                continue
            if not rows:
                print(f"{name}: nothing to measure it with")
                continue
            results["sections"][name] = {"seconds": time.monotonic() - began, "rows": rows}
            print(f"{name}: {time.monotonic() - began:.0f} s")
            kept.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            options.output.write_text(page(results), encoding="utf-8")
    print(f"{options.output} and {kept}")
    return 0


def describe(device: "torch.device", size: str) -> dict[str, Any]:
    """Say what was measured on."""
    import torch

    found: dict[str, Any] = {"device": platform.processor() or platform.machine(), "size": size}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {"device": properties.name, "memory": properties.total_memory, "cuda": torch.version.cuda}
    return found | {
        "torch": torch.__version__,
        **{name: version(name) for name in ("transformers", "diffusers")},
    }


def earlier(kept: Path, machine: dict[str, Any]) -> dict[str, Any]:
    """Return what was measured on the same machine before, or a place for what will be."""
    if kept.is_file():
        results: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        if results["machine"] == machine:
            return results
        print(f"{kept} is of another machine or of other versions: everything is measured anew")
    return {"machine": machine, "sections": {}}


if __name__ == "__main__":
    sys.exit(main())

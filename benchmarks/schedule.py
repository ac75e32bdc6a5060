"""Compare the tool's schedule with the published one on this machine: seconds, memory, pixels.

The same weights for both: SD3 with its true VAE and all else of a tenth of its size (`mid_size`), random; the
VLM has an answer of its own to every question. Each row is a process of its own: the command (a batch holds
all the pictures), or the published schedule as `published` tells it. Start and loading count for both. On a
CPU the published code's ``--efficient_memory`` moves nothing: its row is the same with and without. What was
measured is kept in the scratch folder, and the same command measures only what is missing; let nothing else
run meanwhile. All rows take an hour on two cores, and 3 GB of disk.

    python benchmarks/schedule.py --scratch /tmp/schedule
    python benchmarks/schedule.py --scratch /tmp/schedule --prompts new --pictures 1
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SCHEDULES = ["published", "ours", "ours, efficient"]
PROMPTS = ["null", "fixed", "new"]
COUNTS = [1, 8]
FIXED = "a photograph of a stone wall with moss and small ferns, in soft light"
SEED = 42


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        schedule, prompts: see `SCHEDULES` and `PROMPTS`.
        pictures: how many.
        steps: of each.
        side: of a state, in pixels.
        tokens: of an answer.
    """

    schedule: str
    prompts: str
    pictures: int
    steps: int
    side: int
    tokens: int

    @property
    def name(self) -> str:
        """Return what it is kept under."""
        return "-".join(str(one).replace(", ", "_") for one in vars(self).values())

    def command(self, scratch: Path) -> list[str]:
        """Return what runs it; the states are in `state` afterwards."""
        if self.schedule == "published":
            return [sys.executable, __file__, "--scratch", str(scratch), "--only", json.dumps(vars(self))]
        prompts: dict[str, list[object]] = {
            "null": ["--prompt_type", "null"],
            "fixed": ["--prompt_type", "null", "--prompt", FIXED],
            "new": ["--prompt_type", "vlm", "--vlm_path", scratch / "qwen", "--max_new_tokens", self.tokens],
        }
        arguments = [
            *(picture_file(scratch, self, number) for number in range(self.pictures)),
            "-o", scratch / self.name, "--overwrite", "--save", "states", "--quiet",
            "--backbone", "sd3", "--pretrained_model_name_or_path", scratch / "sd3",
            "--lora_path", scratch / "model_20001.pkl", "--vae_path", scratch / "vae_encoder_20001.pt",
            *prompts[self.prompts], "--seed", SEED,
            "--rec_num", self.steps, "--process_size", self.side, "--source", "shrunk",
            "--device", "cpu", "--mixed_precision", "fp32", "--batch_size", self.pictures,
            *(["--efficient_memory"] if self.schedule == "ours, efficient" else []),
        ]  # fmt: skip
        return [sys.executable, str(ROOT / "inference_coz.py"), *map(str, arguments)]

    def state(self, scratch: Path, number: int, step: int) -> Path:
        """Return the file of a picture's state."""
        if self.schedule == "published":
            return scratch / self.name / f"{number}_{step}.png"
        return scratch / self.name / "per-sample" / f"{number}_png" / f"{step}.png"

    def prompt(self, scratch: Path, number: int, step: int) -> str:
        """Return the prompt that a state was made with."""
        state = self.state(scratch, number, step)
        if self.schedule == "published":
            return state.with_suffix(".txt").read_text()
        return (state.parent / "txt" / f"{step - 1}.txt").read_text()


def main() -> int:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--scratch", type=Path, required=True, help="folder of the checkpoints, and of what was measured")
    add("--schedule", nargs="+", choices=SCHEDULES, default=SCHEDULES, help="only these rows")
    add("--prompts", nargs="+", choices=PROMPTS, default=PROMPTS, help="only these rows")
    add("--pictures", nargs="+", type=int, default=COUNTS, help="only these rows")
    add("--rec_num", type=int, default=1, help="steps of each picture")
    add("--process_size", type=int, default=512, help="side of a state in pixels")
    add("--max_new_tokens", type=int, default=128, help="length of every answer")
    add("--only", type=json.loads, help=argparse.SUPPRESS)  # the published schedule, in this process
    options = parser.parse_args()
    scratch = options.scratch.resolve()
    if options.only:
        run_published(scratch, Row(**options.only))
        return 0
    sizes = options.rec_num, options.process_size, options.max_new_tokens
    rows = [
        Row(schedule, prompts, count, *sizes)
        for count, prompts, schedule in product(options.pictures, options.prompts, options.schedule)
    ]
    write_checkpoints(scratch, max(options.pictures), options.process_size)
    measured_file = scratch / "measured.json"
    measured = json.loads(measured_file.read_text()) if measured_file.exists() else {}
    for number, row in enumerate(rows, 1):
        if row.name not in measured:
            print(f"{number} of {len(rows)}: {row.name}", flush=True)
            measured[row.name] = measure(row.command(scratch))
            measured_file.write_text(json.dumps(measured, indent=1))
    print_table(rows, measured, scratch)
    return 0


def picture_file(scratch: Path, row: Row, number: int) -> Path:
    """Return one of the pictures, that `write_checkpoints` wrote."""
    return scratch / f"pictures_{row.side}" / f"{number}.png"


def write_checkpoints(scratch: Path, pictures: int, side: int) -> None:
    """Write checkpoints that are not there yet, and pictures."""
    from full_size import write_pictures
    from mid_size import write_qwen, write_sd3

    scratch.mkdir(parents=True, exist_ok=True)
    write_sd3(scratch)
    write_qwen(scratch / "qwen")
    write_pictures(scratch / f"pictures_{side}", pictures, (side, side), side // 8)


def measure(command: Sequence[str]) -> dict[str, float]:
    """Run a command and return its seconds, CPU seconds, and its highest resident memory in MB."""
    started = time.perf_counter()
    child = os.posix_spawn(command[0], list(command), os.environ)
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"ended with {os.waitstatus_to_exitcode(status)}: {' '.join(command)}")
    cpu = usage.ru_utime + usage.ru_stime
    return {"seconds": seconds, "cpu": cpu, "mb": usage.ru_maxrss * 1024 / 1e6}


def run_published(scratch: Path, row: Row) -> None:
    """Take the pictures through the published schedule, one after the other, and write the states."""
    import torch
    from PIL import Image
    from published import Placing, PublishedSR, PublishedVlm, zoom

    from prompts.vlm_files import check_vlm_folder
    from zoom.asking import noise_seed

    sr = PublishedSR(
        scratch / "sd3", scratch / "model_20001.pkl", scratch / "vae_encoder_20001.pt", Placing()
    )
    vlm = None
    if row.prompts == "new":
        files = check_vlm_folder(scratch / "qwen", None)
        vlm = PublishedVlm(files, "cpu", torch.float32, row.tokens)
    (scratch / row.name).mkdir(exist_ok=True)
    for number in range(row.pictures):
        said: list[str] = []

        def prompt_of(pictures: Sequence[Image.Image], said: list[str] = said) -> str:
            said.append(vlm(pictures) if vlm else FIXED if row.prompts == "fixed" else "")
            return said[-1]

        file = picture_file(scratch, row, number)
        seeds = [noise_seed(SEED, file.name, step) for step in range(1, row.steps + 1)]
        states = zoom(Image.open(file).convert("RGB"), row.steps, sr, prompt_of, seeds)
        for step, (state, prompt) in enumerate(zip(states, said, strict=True), 1):
            path = row.state(scratch, number, step)
            state.save(path)
            path.with_suffix(".txt").write_text(prompt)


def difference(scratch: Path, row: Row, other: Row) -> tuple[int, float, int]:
    """Compare two rows' states.

    Returns:
        The greatest difference in levels of 255, the share of values that differ, how many prompts differ.
    """
    import numpy as np
    from PIL import Image

    greatest, unequal, prompts = 0, [], 0
    for number, step in product(range(row.pictures), range(1, row.steps + 1)):
        one, two = (
            np.asarray(Image.open(run.state(scratch, number, step)).convert("RGB"), np.int16)
            for run in (row, other)
        )
        apart = np.abs(one - two)
        greatest = max(greatest, int(apart.max()))
        unequal.append((apart > 0).mean())
        if row.prompts == "new":
            prompts += row.prompt(scratch, number, step) != other.prompt(scratch, number, step)
    return greatest, float(np.mean(unequal)), prompts


def print_table(rows: Sequence[Row], measured: dict[str, dict[str, float]], scratch: Path) -> None:
    """Print a line a row, each compared with the published schedule's where that was measured."""
    print(
        "\n| pictures | prompts | schedule | seconds a picture-step | times as fast | CPU seconds | peak MB"
        " | greatest difference | values that differ | prompts that differ |\n"
        "|---:|---|---|---:|---:|---:|---:|---:|---:|---:|"
    )
    for row in rows:
        figures = measured[row.name]
        published = replace(row, schedule="published")
        base = measured.get(published.name)
        made = row.pictures * row.steps
        compared = ["", "", "", ""]
        if base and row != published:
            levels, share, prompts = difference(scratch, row, published)
            compared = [
                f"{base['seconds'] / figures['seconds']:.2f}",
                str(levels),
                f"{share:.2%}",
                str(prompts),
            ]
        cells = [
            row.pictures, row.prompts, row.schedule, f"{figures['seconds'] / made:.1f}", compared[0],
            f"{figures['cpu'] / made:.1f}", f"{figures['mb']:,.0f}", *compared[1:],
        ]  # fmt: skip
        print(f"| {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    sys.exit(main())

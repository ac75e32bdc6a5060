"""From one GPU to a hundred, on paper: what a thousand, a million and a hundred million pictures take.

    python benchmarks/on_paper.py OUT

Counts the files and bytes of a finished run with ``--save all`` in OUT, and computes GPU hours from
floating-point operations. Prints Markdown tables. Nothing here was measured on a GPU: `REACHED` is what
networks of this kind commonly reach of a card's peak, and the result is as good as that guess.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

FOLDERS = (10**3, 10**6, 10**8)  # pictures
STEPS = 4
# TFLOP a picture and step at 512x512, counted by torch's counter on networks of the true sizes
SR, TEXT_ENCODERS = 6.19, 4.96
# the tagger: Swin-L at 384. The VLM: 2 FLOP a weight and token, two pictures of 1,296 patches in 0.63 G
# weights, 690 tokens in 2.77 G; then it reads 6.2 GB of weights for each of a batch's 32 tokens
TAGGER, VLM = 0.2, (2 * 2 * 1296 * 0.63e9 + 2 * 690 * 2.77e9) / 1e12
READ_BY_VLM = 32 * 6.2e-3  # TB
PROMPTS = {
    "a fixed prompt": (SR, 0.0),
    "dape": (SR + TEXT_ENCODERS + TAGGER, 0.0),
    "vlm, one picture at a time": (SR + TEXT_ENCODERS + VLM, READ_BY_VLM),
    "vlm, batches of 8": (SR + TEXT_ENCODERS + VLM, READ_BY_VLM / 8),
}
CARDS = {"RTX 4090": (165, 1.0), "A100": (312, 2.0), "H100": (989, 3.35)}  # dense bf16 TFLOP/s, TB/s
REACHED, REACHED_READING = 0.4, 0.7  # of these: assumed


def counted(out: Path) -> Iterator[tuple[str, float, float]]:
    """Yield what is kept, and files and bytes a picture; what files share by links is counted once."""
    from results.load_report import load_report
    from results.output_tree import OutputTree

    report = load_report(out / "run.json")
    if report is None:
        raise SystemExit(f"{out}: no run.json")
    tree, pictures = OutputTree(out), report.pictures
    steps = len(next(iter(pictures.values())).steps)
    states = {tree.state(name, step) for name in pictures for step in range(steps + 1)}
    folders = ("per-sample", "per-scale", "recursive", "page")
    every = {file for folder in folders for file in (out / folder).rglob("*") if file.is_file()}
    page = {file for file in every if file.is_relative_to(out / "page" / "pictures")}
    kinds = {"--save states": states | page, "--save all": every}
    for kept, files in {"the states alone": states, **kinds}.items():
        bytes_ = {file.stat().st_ino: file.stat().st_size for file in files}
        yield kept, len(files) / len(pictures), sum(bytes_.values()) / len(pictures)


def tables(out: Path) -> Iterator[str]:
    """Yield the lines of the tables."""
    folders = " | ".join(f"{count:,} pictures" for count in FOLDERS)
    yield f"| kept | a picture of {STEPS} steps | {folders} |"
    yield "|---|---" + "|---:" * len(FOLDERS) + "|"
    for kept, files, size in counted(out):
        cells = [f"{count * files:,.0f} files, {_bytes(count * size)}" for count in FOLDERS]
        yield f"| {kept} | {files:.0f} files, {_bytes(size)} | {' | '.join(cells)} |"
    yield ""
    yield f"| prompts | card | pictures a GPU hour | {folders} |"
    yield "|---|---" + "|---:" * (len(FOLDERS) + 1) + "|"
    for prompts, (operations, read) in PROMPTS.items():
        for card, (speed, bandwidth) in CARDS.items():
            a_step = operations / (REACHED * speed) + read / (REACHED_READING * bandwidth)
            hours = STEPS * a_step / 3600
            cells = [_hours(count * hours) for count in FOLDERS]
            yield f"| {prompts} | {card} | {_round(1 / hours):,} | {' | '.join(cells)} |"


def _round(value: float) -> int:
    """Two figures: more would say more than is known."""
    return int(float(f"{value:.2g}"))


def _bytes(value: float) -> str:
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 1000:
            return f"{value:.2g} {unit}" if value < 100 else f"{value:.0f} {unit}"
    return f"{value / 1000:.2g} PB"


def _hours(value: float) -> str:
    return f"{60 * value:.0f} min" if value < 1 else f"{_round(value):,} h"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="What folders of any size take, on paper.")
    parser.add_argument("out", type=Path, metavar="OUT", help="the output folder of a finished run")
    for line in tables(parser.parse_args().out):
        print(line)


if __name__ == "__main__":
    main()

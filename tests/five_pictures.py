"""Five photographs that nobody mistakes for each other: states whose place and order can be seen."""

import json
from collections.abc import Callable
from pathlib import Path

from conftest import ROOT
from PIL import Image

STATES = ("chelsea.png", "coffee.png", "gravel.png", "flower.jpg", "astronaut.png")


def picture_of(number: int) -> Image.Image:
    """A picture of 512x512: another for every number."""
    with Image.open(ROOT / "samples" / STATES[number]) as image:
        side = min(image.size)
        return image.convert("RGB").crop((0, 0, side, side)).resize((512, 512), Image.Resampling.LANCZOS)


def change_report(out: Path, change: Callable[[dict], object]) -> None:
    """Change what a folder's run.json says."""
    report = json.loads((out / "run.json").read_text())
    change(report)
    (out / "run.json").write_text(json.dumps(report))

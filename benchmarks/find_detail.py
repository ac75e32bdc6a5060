"""Seconds and peak memory of finding the spots of a picture that are worth zooming into, by its size.

    python benchmarks/find_detail.py [--picture FILE] [--spots 5] [--rounds 5]

The picture is resized to each size first. Seconds are the median of the rounds, without loading scikit-image
(half a second more, once); memory is what the process's peak resident size grew by.
"""

import argparse
import resource
import statistics
import sys
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from zoom.find_detail import WINDOW, draw_spots, find_detail  # noqa: E402

MEGAPIXELS = (0.3, 6, 24)


def peak_megabytes() -> float:
    """Return this process's peak resident size; KiB are counted on Linux, bytes on macOS."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--picture", type=Path, default=ROOT / "samples" / "china.jpg")
    parser.add_argument("--spots", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with Image.open(options.picture) as image:
        original = image.convert("RGB")
    find_detail(original.resize((64, 64)), 1)  # loads scikit-image
    print(f"{options.spots} spots of {options.picture.name}, {options.rounds} rounds, median:")
    print(f"{'megapixels':>10}{'size':>12}{'s to find':>11}{'s to draw':>11}{'MB more':>9}")
    for megapixels in MEGAPIXELS:
        factor = (megapixels * 1e6 / (original.width * original.height)) ** 0.5
        picture = original.resize((round(original.width * factor), round(original.height * factor)))
        before = peak_megabytes()
        finding, drawing = [], []
        for _ in range(options.rounds):
            start = time.perf_counter()
            spots = find_detail(picture, options.spots)
            found = time.perf_counter()
            draw_spots(picture, spots, WINDOW)
            finding.append(found - start)
            drawing.append(time.perf_counter() - found)
        print(
            f"{megapixels:10}{picture.width:7}x{picture.height:<4}{statistics.median(finding):11.2f}"
            f"{statistics.median(drawing):11.2f}{peak_megabytes() - before:9.0f}"
        )


if __name__ == "__main__":
    main()

"""Print what a run's states show: texture against 1x, consistency, lattice and drift of colour.

python inference_coz.py -i samples -o with --rec_num 6
python inference_coz.py -i samples -o without --rec_num 6 --texture 0
python benchmarks/texture.py with without
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, maximum_filter

sys.path.insert(0, str(Path(__file__).parent.parent))
from results.load_report import load_report
from results.output_tree import OutputTree
from results.run_report import PictureRecord

LAG = 8  # pixels: beyond it, autocorrelation is a pattern and not grain


def autocorrelation(state: Image.Image) -> np.ndarray:
    """Return the autocorrelation of the fine luminance, (H, W), 1 at lag (0, 0)."""
    luminance = np.asarray(state.convert("L"), np.float32)
    fine = luminance - gaussian_filter(luminance, LAG)
    window = np.outer(*(np.hanning(side) for side in fine.shape))
    alike = np.fft.ifft2(np.abs(np.fft.fft2((fine - fine.mean()) * window)) ** 2).real
    return alike / alike[0, 0]


def highest_peak(state: Image.Image, crop: Image.Image) -> float:
    """Return the highest peak of a state beyond `LAG` where its crop has none (of 0.2 or more)."""
    ours = autocorrelation(state)
    theirs = maximum_filter(
        autocorrelation(crop.resize(state.size, Image.Resampling.BICUBIC)), 9, mode="wrap"
    )
    lags = np.hypot(*np.meshgrid(*(np.fft.fftfreq(side, 1 / side) for side in ours.shape), indexing="ij"))
    peaks = (ours == maximum_filter(ours, 5, mode="wrap")) & (lags > LAG) & (theirs < 0.2)
    return float(ours[peaks].max(initial=0))


def look(tree: OutputTree, picture: PictureRecord) -> tuple[float, np.ndarray]:
    """Return the highest peak of a picture's states from the second on, and the drift of the mean colour."""
    peak, drift = 0.0, np.zeros(3)
    states = [Image.open(tree.state(picture.name, k)).convert("RGB") for k in range(len(picture.steps) + 1)]
    for step in picture.steps[1:]:
        if step.window_of is None:
            continue
        left, top, width, height = step.window
        crop = states[step.window_of].crop((left, top, left + width, top + height))
        peak = max(peak, highest_peak(states[step.step], crop))
        drift += np.asarray(states[step.step]).mean(axis=(0, 1)) - np.asarray(crop).mean(axis=(0, 1))
    return peak, drift


def main() -> None:
    """Print a table for each folder."""
    parser = argparse.ArgumentParser(description="Print what a run's states show.")
    parser.add_argument("folders", nargs="+", type=Path)
    for folder in parser.parse_args().folders:
        tree = OutputTree(folder)
        report = load_report(tree.run_json)
        pictures = [one for one in report.pictures.values() if one.status == "done"] if report else []
        print(f"{folder}: texture at 1x and at each step | consistency | highest peak | drift of mean colour")
        shares = []
        for picture in pictures:
            textures = [picture.texture or 0.0, *(step.texture or 0.0 for step in picture.steps)]
            shares.append([one / max(textures[0], 0.01) for one in textures[1:]])
            peak, drift = look(tree, picture)
            print(
                f"{picture.name[:16]:16}",
                *(f"{one:5.1f}" for one in textures),
                "|",
                *(
                    "   -" if step.consistency is None else f"{step.consistency:.1f}"
                    for step in picture.steps
                ),
                f"| {peak:.2f} |",
                *(f"{one:+.2f}" for one in drift),
            )
        for name, fold in (("median", np.median), ("least", np.min)):
            print(f"{name} share of 1x", *(f"{fold(column):.2f}" for column in zip(*shares, strict=True)))


if __name__ == "__main__":
    main()

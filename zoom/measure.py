"""What can be said of a state without its truth: how far it keeps to its crop, how much texture it has."""

import math
from operator import mul

from PIL import Image, ImageChops, ImageFilter

from results.run_report import figure

MOST_DECIBELS = 100.0  # of two pictures that are equal
LEVELS = tuple(range(256))
SQUARES = tuple(level**2 for level in LEVELS)
FINE = 3  # radius of the blur, in pixels, that texture is what is left of


def consistency(state: Image.Image, crop: Image.Image) -> float:
    """Return the peak signal-to-noise ratio of a state, shrunk with BICUBIC to its crop's size, against that.

    Args:
        state: RGB.
        crop: RGB, at most as large: what the state was made from.

    Returns:
        Decibels, at most `MOST_DECIBELS`.
    """
    return psnr(state.resize(crop.size, Image.Resampling.BICUBIC), crop)


def psnr(found: Image.Image, exact: Image.Image) -> float:
    """Return the peak signal-to-noise ratio of two RGB pictures of one size.

    Returns:
        Decibels, at most `MOST_DECIBELS`.
    """
    levels = ImageChops.difference(found, exact).histogram()  # channel after channel
    mean_square = sum(map(mul, levels, 3 * SQUARES)) / (3 * exact.width * exact.height)
    if mean_square == 0:
        return MOST_DECIBELS
    return figure(min(10 * math.log10(255**2 / mean_square), MOST_DECIBELS), 2)


def texture(state: Image.Image) -> float:
    """Return the standard deviation of a state's luminance minus its Gaussian blur of radius `FINE`.

    Args:
        state: RGB.

    Returns:
        Grey levels.
    """
    luminance = state.convert("L")
    blurred = luminance.filter(ImageFilter.GaussianBlur(FINE))
    fine = ImageChops.subtract(luminance, blurred, 1, 128)  # 128 stands for no difference
    levels = fine.histogram()
    pixels, total = state.width * state.height, sum(map(mul, levels, LEVELS))
    squares = sum(map(mul, levels, SQUARES))
    return figure(math.sqrt(pixels * squares - total**2) / pixels, 2)  # whole numbers up to here

"""Colour correction of an SR output against its SR input.

`adain` and `wavelet` are StableSR's (arXiv 2305.07015) as the published Chain-of-Zoom code uses them;
`backproject` is iterative back-projection (Irani and Peleg, 1991), `lowfreq` one round of it of the coarse.
"""

import numpy as np
from PIL import Image, ImageStat

from zoom.tiler import by_tiles, good_size, tile_grid

# Back-projection stops where the shrunk output is this close to the crop everywhere (grey levels), or
# after so many rounds: clipped colours cannot get closer.
BACKPROJECT_TOLERANCE = 1.0
BACKPROJECT_ROUNDS = 30

WAVELET_LEVELS = 5
COARSE = 3  # pixels of the crop, standard deviation of the Gaussian
# the published code works in [0, 1] and adds 1e-5 to the (unbiased) variance
ADAIN_EPSILON = 1e-5 * 255**2

# Pixels a side, and shared by neighbours: the wavelets of a pixel reach 31 pixels far.
TILE, OVERLAP = 1024, 256
LEAST_SHARED = 16  # pixels of the crop: lowfreq's Gaussian reaches 12, a round of back-projection four


def fix_colors(method: str, output: Image.Image, sr_input: Image.Image, crop: Image.Image) -> Image.Image:
    """Correct the colours of `output`.

    Args:
        method: one of `zoom.settings.ALIGN_METHODS`.
        output: what the SR backbone made, RGB.
        sr_input: the crop enlarged with BICUBIC, RGB, of the output's size.
        crop: the crop in its own pixels, RGB.

    Returns:
        RGB, of the output's size.
    """
    if method == "nofix":
        return output
    if method == "backproject":
        return to_image(backproject(_to_array(output), _to_array(crop)))
    if method == "lowfreq":
        return to_image(lowfreq(_to_array(output), _to_array(crop)))
    fix = {"adain": adain, "wavelet": wavelet}[method]
    return to_image(fix(_to_array(output), _to_array(sr_input)))


def fix_colors_of_whole(
    method: str, output: Image.Image, sr_input: Image.Image, crop: Image.Image
) -> Image.Image:
    """Do what `fix_colors` does for pictures of any size: nothing large is held in floating point.

    Args:
        method, output, sr_input, crop: as of `fix_colors`; the output is a whole number of times as large as
            the crop.

    Returns:
        RGB, of the output's size. Within a grey level of what `fix_colors` returns; with ``backproject``,
        which stops where its promise is kept, another picture that keeps it.
    """
    if method == "nofix":
        return output
    if method == "adain":
        return _adain_by_table(output, sr_input)
    scale = output.width // crop.width
    overlap = max(OVERLAP // scale, LEAST_SHARED)
    size = good_size(crop.height, crop.width, max(TILE // scale, 4 * overlap), overlap)
    grid = tile_grid(crop.height, crop.width, size, overlap)

    def fix(tile: np.ndarray, number: int) -> np.ndarray:
        box = grid[number].box
        left, top, right, bottom = (scale * edge for edge in box)
        large = left, top, right, bottom
        fixed = fix_colors(method, output.crop(large), sr_input.crop(large), crop.crop(box))
        return np.moveaxis(_to_array(fixed), -1, 0)

    fixed_whole, top = Image.new("RGB", output.size), 0
    channels_first = np.moveaxis(np.asarray(crop), -1, 0)
    for band in by_tiles(fix, channels_first, size, overlap, scale):
        fixed_whole.paste(to_image(np.moveaxis(band, 0, -1)), (0, top))
        top += band.shape[1]
    return fixed_whole


def _adain_by_table(content: Image.Image, style: Image.Image) -> Image.Image:
    """Do what `adain` does, from histograms: it changes each grey level of a channel in one way."""
    fixed = []
    for ours, theirs in zip(content.split(), style.split(), strict=True):
        (mean, std), (style_mean, style_std) = map(_mean_and_std, (ours, theirs))
        levels = (np.arange(256) - mean) / std * style_std + style_mean
        fixed.append(ours.point(np.rint(levels.clip(0, 255)).astype(int).tolist()))
    return Image.merge("RGB", fixed)


def _mean_and_std(channel: Image.Image) -> tuple[float, float]:
    statistics = ImageStat.Stat(channel)
    count = channel.width * channel.height
    return statistics.mean[0], float(np.sqrt(statistics.var[0] * count / (count - 1) + ADAIN_EPSILON))


def adain(content: np.ndarray, style: np.ndarray) -> np.ndarray:
    """Give every channel of `content` the mean and the standard deviation of `style`'s.

    Args:
        content, style: (H, W, 3) float32 in [0, 255].

    Returns:
        (H, W, 3) float32, not clipped.
    """
    content_std = np.sqrt(content.var(axis=(0, 1), ddof=1, dtype=np.float64) + ADAIN_EPSILON)
    style_std = np.sqrt(style.var(axis=(0, 1), ddof=1, dtype=np.float64) + ADAIN_EPSILON)
    content_mean = content.mean(axis=(0, 1), dtype=np.float64)
    style_mean = style.mean(axis=(0, 1), dtype=np.float64)
    return ((content - content_mean) / content_std * style_std + style_mean).astype(np.float32)


def wavelet(content: np.ndarray, style: np.ndarray) -> np.ndarray:
    """Keep the fine frequencies of `content` and take the coarse ones from `style` (a-trous wavelets).

    Args:
        content, style: (H, W, 3) float32 in [0, 255].

    Returns:
        (H, W, 3) float32, not clipped.
    """
    return content - _coarse(content) + _coarse(style)


def _coarse(image: np.ndarray) -> np.ndarray:
    """Blur `WAVELET_LEVELS` times with [1 2 1]/4 in both directions, its taps 1, 2, 4, ... pixels apart."""
    for level in range(WAVELET_LEVELS):
        radius = 2**level
        for axis in (0, 1):
            padding = [(radius, radius) if axis == other else (0, 0) for other in range(3)]
            padded = np.pad(image, padding, mode="edge")
            length = image.shape[axis]
            before = padded.take(range(length), axis)
            after = padded.take(range(2 * radius, 2 * radius + length), axis)
            image = (before + 2 * image + after) / 4
    return image


def backproject(output: np.ndarray, crop: np.ndarray) -> np.ndarray:
    """Make `output`, shrunk to the crop's size, equal the crop.

    Each round shrinks the output with BICUBIC, and adds what is missing, enlarged with BICUBIC.

    Args:
        output: (H, W, 3) float32 in [0, 255].
        crop: (h, w, 3) float32 in [0, 255], smaller.

    Returns:
        (H, W, 3) float32 in [0, 255]. Shrunk, it is within `BACKPROJECT_TOLERANCE` of the crop, but
        where the crop's colours cannot be reached without leaving the range.
    """
    height, width = output.shape[:2]
    for _ in range(BACKPROJECT_ROUNDS):
        missing = crop - _resize(output, crop.shape[1], crop.shape[0])
        if (
            np.abs(missing).max() <= BACKPROJECT_TOLERANCE / 2
        ):  # the other half is left for rounding to 8 bits
            break
        output = np.clip(output + _resize(missing, width, height), 0, 255)
    return output


def lowfreq(output: np.ndarray, crop: np.ndarray) -> np.ndarray:
    """Bring the coarse frequencies of `output`, shrunk to the crop's size, close to the crop's.

    Args:
        output: (H, W, 3) float32 in [0, 255].
        crop: (h, w, 3) float32 in [0, 255], smaller.

    Returns:
        (H, W, 3) float32, not clipped. What is finer than `COARSE` pixels of the crop is the output's own.
    """
    from scipy.ndimage import gaussian_filter

    missing = crop - _resize(output, crop.shape[1], crop.shape[0])
    coarse = gaussian_filter(missing, (COARSE, COARSE, 0), mode="nearest")
    return output + _resize(coarse, output.shape[1], output.shape[0])


def _resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    channels = [
        np.asarray(Image.fromarray(image[..., channel]).resize((width, height), Image.Resampling.BICUBIC))
        for channel in range(3)
    ]
    return np.stack(channels, axis=-1)


def _to_array(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float32)


def to_image(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(np.clip(values, 0, 255)).astype(np.uint8))

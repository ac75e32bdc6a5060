"""Texture for networks that only copy what is there: grain in the crop that they turn into material.

RealSR turns a little noise in its input into felt, stone or pile; without it, a chain ends in one colour.
Natural pictures are statistically alike at all scales (Ruderman and Bialek 1994): what a place shows at a
finer scale is like what its surroundings showed at the coarser ones. So how much noise a place gets, and of
which kind, is taken from the states before. Half of it is 1/f noise; the rest is a random-phase texture of
the ancestors (Galerne, Gousseau and Morel 2011), which keeps their direction: hair stays hair.

The noise is anchored in the picture's own coordinates and derived from seed, name and step alone: a
neighbouring window shows the same surface, as far as its ancestors had the same texture.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from zoom.window import View

# Grey levels of the crop at --texture 1: for each square root of the ancestors' own grey levels, and at most.
# Half of it is the default: the strongest that showed no stucco on walls and no hair on skies.
STRENGTH, MOST = 4.2, 11.0
# Grey levels of an ancestor's own texture: below the first it is rounding and JPEG; where it is the second
# above that, a place counts as textured.
FLAT, TEXTURED = 0.4, 1.0
DARK = 64  # grey levels of luminance: where it is less, so is the grain
BLOCK = 16  # pixels a side of the places that are told apart
# Texture is told by this quantile of a place: a straight edge leaves so much of it calm. The second is what
# that quantile is of a standard deviation, were the values' distribution normal.
CALM, OF_NORMAL = 0.3, 0.3853
EDGE = 2  # radius of the blur, in pixels, that texture is what is left of
PATCH, NEAR = 32, 256  # pixels a side: of the patches whose spectra are taken, of the middle that they lie in
PINK = 0.5  # share of the 1/f noise in the amplitude
LONGEST = 16  # pixels of the crop: longer waves are the crop's own
MARGIN = 48  # pixels around the crop that are made as well: what filters wrap around falls there
CELLS = 64  # side of the blocks in which white noise is drawn


@dataclass(frozen=True)
class Ancestor:
    """What is remembered of a state.

    Attributes:
        view: what it shows of the picture.
        energy: grey levels of its texture by place, (rows, columns) of `BLOCK` pixels.
        spectrum: amplitudes of its texture around its middle, (`PATCH`, `PATCH`), laid out as by fft2.
    """

    view: View
    energy: np.ndarray
    spectrum: np.ndarray


def look_at(state: Image.Image, view: View) -> Ancestor:
    """Measure the texture of a state, by statistics that edges do not move.

    Args:
        state: RGB, its sides multiples of `BLOCK`, at least two `PATCH`.
        view: what it shows.
    """
    from scipy.ndimage import gaussian_filter

    luminance = np.asarray(state.convert("L"), np.float32)
    fine = np.abs(luminance - gaussian_filter(luminance, EDGE, mode="reflect"))
    rows, columns = (side // BLOCK for side in fine.shape)
    blocks = fine.reshape(rows, BLOCK, columns, BLOCK).swapaxes(1, 2).reshape(rows, columns, -1)
    energy = np.maximum(np.quantile(blocks, CALM, axis=-1) / OF_NORMAL - FLAT, 0)

    rest = luminance - gaussian_filter(luminance, 2 * EDGE, mode="reflect")
    limit = 3 * max(float(np.median(np.abs(rest))), 0.5)
    near = [slice((side - min(side, NEAR)) // 2, (side + min(side, NEAR)) // 2) for side in rest.shape]
    middle = rest[near[0], near[1]].clip(-limit, limit)
    patches = np.lib.stride_tricks.sliding_window_view(middle, (PATCH, PATCH))[:: PATCH // 2, :: PATCH // 2]
    window = np.hanning(PATCH + 2)[1:-1]
    amplitudes = np.abs(np.fft.fft2(patches * np.outer(window, window))).reshape(-1, PATCH, PATCH)
    return Ancestor(view, gaussian_filter(energy, 0.7), np.median(amplitudes, axis=0))


def add_texture(
    crop: Image.Image, view: View, ancestors: Sequence[Ancestor], seed: int, strength: float
) -> Image.Image:
    """Add what a network turns into material.

    Args:
        crop: RGB.
        view: what it shows of the picture.
        ancestors: of the states before, from state 0 on; at least two.
        seed: of this picture and step.
        strength: 0 to 1.

    Returns:
        RGB, of the crop's size. Where any state but the first was flat, nothing is added.
    """
    amount = strength * _amount(crop.size, view, ancestors)
    grain = amount * surface(crop.size, view, [one.spectrum for one in ancestors], seed)
    colours = np.asarray(crop, np.float32)
    luminance = np.asarray(crop.convert("L"), np.float32)
    # scaled with the colour of the place: grey noise would bleach it, coloured noise be specks; less in the
    # dark, as light falls on material
    scale = np.minimum(colours / np.maximum(luminance, DARK)[..., None], 2)
    return Image.fromarray(np.rint((colours + grain[..., None] * scale).clip(0, 255)).astype(np.uint8))


def _amount(size: tuple[int, int], view: View, ancestors: Sequence[Ancestor]) -> np.ndarray:
    """Return the grey levels that each pixel gets at strength 1, (height, width)."""
    from scipy.ndimage import gaussian_filter

    energies = np.stack([_energy_at(size, view, one) for one in ancestors])
    textured = (energies[1:].min(axis=0) / TEXTURED).clip(0, 1)
    amount = np.minimum(STRENGTH * np.sqrt(energies.mean(axis=0)) * textured, MOST)
    return gaussian_filter(amount, 3, mode="nearest")


def _energy_at(size: tuple[int, int], view: View, ancestor: Ancestor) -> np.ndarray:
    """Sample an ancestor's energy at the pixels of a crop, linearly between its places, (height, width)."""
    of, energy = ancestor.view, ancestor.energy
    sides = (
        (size[1], view.top, view.height, of.top, of.height),
        (size[0], view.left, view.width, of.left, of.width),
    )
    for axis, (count, start, extent, of_start, of_extent) in enumerate(sides):
        pixels = (np.arange(count) + 0.5) * float(extent / count) + float(start - of_start)
        places = (pixels / float(of_extent) * energy.shape[axis] - 0.5).clip(0, energy.shape[axis] - 1)
        before = places.astype(int)
        after = np.minimum(before + 1, energy.shape[axis] - 1)
        share = (places - before).reshape((-1, 1) if axis == 0 else (1, -1))
        energy = energy.take(before, axis) * (1 - share) + energy.take(after, axis) * share
    return energy


def surface(size: tuple[int, int], view: View, spectra: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """Return the grain of a part of the picture: about zero mean and unit standard deviation.

    Args:
        size: width and height of the crop, whose pixels are the grain's.
        view: what it shows. Crops of one pitch show one and the same surface.
        spectra: of the ancestors.
        seed: of this picture and step.

    Returns:
        (height, width), float64.
    """
    starts, parts = [], []
    for count, start, extent in ((size[1], view.top, view.height), (size[0], view.left, view.width)):
        cells = start / (extent / count)  # in pixels of the crop from the picture's edge: exact
        starts.append(math.floor(cells) - MARGIN)
        parts.append(float(cells - math.floor(cells)))
    shape = (size[1] + 2 * MARGIN, size[0] + 2 * MARGIN)
    down, across = np.meshgrid(*(np.fft.fftfreq(length) for length in shape), indexing="ij")
    frequency = np.hypot(down, across)
    short = -np.expm1(-((frequency * LONGEST) ** 4))
    white = np.fft.fft2(_white(starts[0], starts[1], shape, seed))
    white *= np.exp(2j * np.pi * (down * parts[0] + across * parts[1]))  # to the crop's own phase
    pink = _unit(short / np.maximum(frequency, 1 / max(shape)))
    own = _unit(_kernel(spectra, shape) * short)
    grain = np.fft.ifft2(white * _unit(PINK * pink + math.sqrt(1 - PINK**2) * own)).real
    return grain[MARGIN:-MARGIN, MARGIN:-MARGIN]


def _unit(amplitudes: np.ndarray) -> np.ndarray:
    """Scale a filter so that white noise comes out with a standard deviation of 1."""
    return amplitudes / max(float(np.sqrt((amplitudes**2).mean())), 1e-12)


def _kernel(spectra: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Return the amplitudes that the ancestors have in common, at the frequencies of a larger picture."""
    common = sum(spectrum / max(float(spectrum.max()), 1e-12) for spectrum in spectra)
    small = np.fft.fftshift(np.fft.ifft2(common).real)
    large = np.zeros(shape)
    large[:PATCH, :PATCH] = small
    large = np.roll(large, (-(PATCH // 2), -(PATCH // 2)), axis=(0, 1))
    return np.maximum(np.fft.fft2(large).real, 0)


def _white(top: int, left: int, shape: tuple[int, int], seed: int) -> np.ndarray:
    """Draw the white noise of a part of an endless plane, each block of it from a generator of its own."""
    rows = range(top // CELLS, (top + shape[0] - 1) // CELLS + 1)
    columns = range(left // CELLS, (left + shape[1] - 1) // CELLS + 1)
    blocks = np.block([[_block(row, column, seed) for column in columns] for row in rows])
    down, across = top - rows[0] * CELLS, left - columns[0] * CELLS
    return blocks[down : down + shape[0], across : across + shape[1]]


def _block(row: int, column: int, seed: int) -> np.ndarray:
    # the margin may begin before the picture: counters have no sign
    counter = [0, 0, row + 2**32, column + 2**32]
    return np.random.Generator(np.random.Philox(key=seed, counter=counter)).standard_normal((CELLS, CELLS))

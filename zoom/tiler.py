"""Large pictures tile by tile: overlapping tiles, blended with Gaussian weights.

As OSEDiff's published code blends the transformer's latents (arXiv 2406.08177). One tiler for every network:
its memory is bounded by one row of tiles, whatever the picture's height.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from zoom.window import Window

# of the Gaussian, in units of a tile's side: at a tile's edge it is 4e-6 of what it is in the middle
VARIANCE = 0.01
AHEAD = 1 / 8  # of a tile's side


def tile_starts(length: int, size: int, overlap: int) -> list[int]:
    """Return where tiles begin that cover ``length`` and share at least ``overlap``; the last ends flush."""
    if length <= size:
        return [0]
    return [*range(0, length - size, size - overlap), length - size]


def good_size(height: int, width: int, most: int, overlap: int, multiple: int = 1) -> int:
    """Return the largest side of tiles, down to 3/4 of ``most``, at which no tile begins close to another.

    Were the last one, which ends flush, closer than `AHEAD`, it would not outweigh the edge of the one
    before, which lacks what lies beyond.
    """

    def least_step(size: int) -> int:
        starts = (tile_starts(length, size, overlap) for length in (height, width) if length > size)
        return min((after[-1] - after[-2] for after in starts), default=size)

    sizes = range(most, max(most * 3 // 4, overlap), -multiple)
    good = (size for size in sizes if least_step(size) >= AHEAD * size)
    return next(good, None) or max(sizes, key=least_step)


def tile_grid(height: int, width: int, size: int, overlap: int) -> list[Window]:
    """Return the tiles of a picture, row by row, all of one size.

    Args:
        height, width: of the picture.
        size: side of a tile; a shorter side of the picture is one tile.
        overlap: least that neighbours share, below ``size``.
    """
    return [
        Window(left, top, min(size, width), min(size, height))
        for top in tile_starts(height, size, overlap)
        for left in tile_starts(width, size, overlap)
    ]


def by_tiles(
    call: Callable[[Any, int], np.ndarray], x: Any, size: int, overlap: int, scale: int = 1
) -> Iterator[np.ndarray]:
    """Yield what a network makes of a picture: bands (..., rows, scale * W), float32, from top to bottom.

    Args:
        call: gives (..., scale * h, scale * w) for a tile (..., h, w) of ``x`` and its number in `tile_grid`.
        x: (..., H, W), a NumPy array or a tensor.
        size, overlap: see `tile_grid`.
        scale: factor by which the network enlarges.
    """
    height, width = x.shape[-2:]
    grid = tile_grid(height, width, size, overlap)
    if len(grid) == 1:
        yield call(x, 0)
        return
    tops = tile_starts(height, size, overlap)
    weight = np.outer(*(_gaussian(scale * length) for length in (grid[0].height, grid[0].width)))
    columns = len(grid) // len(tops)
    total: np.ndarray = np.empty(0)
    weights: np.ndarray = np.empty(0)
    for row, top in enumerate(tops):
        number = row * columns
        for tile in grid[number : number + columns]:
            made = call(x[..., tile.top : tile.top + tile.height, tile.left : tile.left + tile.width], number)
            if number == row * columns:
                fresh = np.zeros((*made.shape[:-1], scale * width), np.float32)
                fresh_weights = np.zeros(fresh.shape[-2:], np.float32)
                if row:  # what the row before has already said of these rows
                    shared = scale * (tops[row - 1] + tile.height - top)
                    fresh[..., :shared, :] = total[..., total.shape[-2] - shared :, :]
                    fresh_weights[:shared] = weights[len(weights) - shared :]
                total, weights = fresh, fresh_weights
            columns_of_tile = slice(scale * tile.left, scale * (tile.left + tile.width))
            total[..., columns_of_tile] += made * weight
            weights[:, columns_of_tile] += weight
            number += 1
        done = scale * ((tops[row + 1] if row + 1 < len(tops) else height) - top)
        yield total[..., :done, :] / weights[:done]


def _gaussian(length: int) -> np.ndarray:
    """Return OSEDiff's weights along one side of a tile, float32."""
    position = (np.arange(length) - (length - 1) / 2) / length
    return np.exp(-(position**2) / (2 * VARIANCE)).astype(np.float32)

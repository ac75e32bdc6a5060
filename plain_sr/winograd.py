"""RRDBNet's dense blocks on a CPU in fp32, by Winograd's fast convolution.

It is that of `machine.winograd`, of which a dense block has more: each feature map is transformed once, and
all later convolutions of the block read it there (no concatenation either). The whole network takes half
as long as with `torch.nn.functional.conv2d`, and the result differs by some 1e-5 of the range
(benchmarks/embedded.py).

Pixels are held by their place in their tile, a *plane* each: planes[4 * i + j, c, b, ty, tx] is pixel
(4 * ty + i, 4 * tx + j) of channel c of picture b. A tile's transform also needs the ring of pixels
around it; those are 20 more planes, which repeat planes of the neighbouring tiles and are 0 outside
of the picture.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from machine.winograd import INPUT as ROW_BY_ROW
from machine.winograd import OUTPUT, TILE, WEIGHT

# Rows and columns of a tile with its ring are counted from 0 to 5; this is the order of the planes.
PLACES = (
    [(i, j) for i in range(1, 5) for j in range(1, 5)]  # 0-15: the tile itself
    + [(0, j) for j in range(1, 5)]  # 16-19: the row above
    + [(5, j) for j in range(1, 5)]  # 20-23: the row below
    + [(i, 0) for i in range(1, 5)]  # 24-27: the column on the left
    + [(i, 5) for i in range(1, 5)]  # 28-31: the column on the right
    + [(0, 0), (0, 5), (5, 0), (5, 5)]  # 32-35: the corners
)
INPUT = ROW_BY_ROW[:, [6 * i + j for i, j in PLACES]].contiguous()  # (36, 36)
CONSTANT = 7  # the coefficient (1, 1), which adds the same to each of a tile's 16 outputs: the bias goes here


def fill_ring(planes: Tensor) -> None:
    """Copy the pixels around each tile from its neighbours' planes; (36, C, B, ty, tx), changed in place.

    Places outside of the picture keep the 0 that they must hold before.
    """
    own = planes[:16].unflatten(0, (TILE, TILE))
    planes[16:20, ..., 1:, :] = own[3, :, ..., :-1, :]
    planes[20:24, ..., :-1, :] = own[0, :, ..., 1:, :]
    planes[24:28, ..., 1:] = own[:, 3, ..., :-1]
    planes[28:32, ..., :-1] = own[:, 0, ..., 1:]
    planes[32, ..., 1:, 1:] = own[3, 3, ..., :-1, :-1]
    planes[33, ..., 1:, :-1] = own[3, 0, ..., :-1, 1:]
    planes[34, ..., :-1, 1:] = own[0, 3, ..., 1:, :-1]
    planes[35, ..., :-1, :-1] = own[0, 0, ..., 1:, 1:]


class WinogradBody(nn.Module):
    """Stand in for RRDBNet's sequence of RRDBs: (B, features, H, W) in and out, fp32, any H and W."""

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor]):
        """Take over the body's convolutions, in running order: five a dense block, three blocks an RRDB.

        Args:
            weights: (outputs, inputs, 3, 3) each.
            biases: (outputs,) each.
        """
        super().__init__()
        self.shapes = [weight.shape[:2] for weight in weights[:5]]
        # A block's weights are transformed together, when it runs: kept transformed, they would take
        # four times the memory.
        self.weights = [
            torch.cat([weight.permute(2, 3, 0, 1).reshape(9, -1) for weight in weights[i : i + 5]], dim=1)
            for i in range(0, len(weights), 5)
        ]
        self.biases = [biases[i : i + 5] for i in range(0, len(biases), 5)]

    def forward(self, x: Tensor) -> Tensor:
        batch, features, height, width = x.shape
        x = F.pad(x, (0, -width % TILE, 0, -height % TILE))
        tiles = x.unflatten(3, (-1, TILE)).unflatten(2, (-1, TILE))  # (B, C, ty, 4, tx, 4)
        grid = (batch, tiles.shape[2], tiles.shape[4])
        count = math.prod(grid)
        growth = self.shapes[0][0]
        state = x.new_zeros(36, features, *grid)
        state[:16].unflatten(0, (TILE, TILE)).copy_(tiles.permute(3, 5, 1, 0, 2, 4))
        grown = x.new_zeros(36, growth, *grid)
        # What a block's convolutions read, in the transform domain; each adds its own at the end.
        seen = x.new_empty(36, features + 4 * growth, count)
        outside = self._outside(height, width, grid)

        for index in range(len(self.weights)):
            if index % 3 == 0:  # an RRDB begins
                before = state[:16].clone()
            self._dense_block(index, state, grown, seen, outside)
            if index % 3 == 2:  # and ends
                state[:16].mul_(0.2).add_(before)
        out = state[:16].unflatten(0, (TILE, TILE)).permute(3, 2, 4, 0, 5, 1)
        return out.reshape(x.shape)[..., :height, :width]

    def _dense_block(
        self, index: int, state: Tensor, grown: Tensor, seen: Tensor, outside: Tensor | None
    ) -> None:
        """Add 0.2 times a dense block's output to ``state``; the other tensors are its work space.

        Args:
            index: which block.
            state: the features, planes (36, features, B, ty, tx).
            grown: what a convolution adds to them, planes (36, growth, B, ty, tx).
            seen: what the next convolution reads, in the transform domain, (36, all channels, B * ty * tx).
            outside: see `_outside`.
        """
        weights = (WEIGHT @ self.weights[index]).split([math.prod(shape) for shape in self.shapes], dim=1)
        newest = state
        known = 0  # channels in ``seen``
        for weight, bias in zip(weights, self.biases[index], strict=True):
            fill_ring(newest)
            spectrum = seen[:, known : known + newest.shape[1]].view(36, -1)
            torch.mm(INPUT, newest.flatten(1), out=spectrum)
            known += newest.shape[1]
            product = torch.bmm(weight.view(36, -1, known), seen[:, :known])
            product[CONSTANT] += bias[:, None]
            if known < seen.shape[1]:
                newest = grown
                torch.mm(OUTPUT, product.flatten(1), out=grown[:16].view(16, -1))
                F.leaky_relu_(grown[:16], 0.2)
            else:
                newest = state
                state[:16].view(16, -1).addmm_(OUTPUT, product.flatten(1), alpha=0.2)
            if outside is not None:
                newest[:16].masked_fill_(outside, 0)

    @staticmethod
    def _outside(height: int, width: int, grid: tuple[int, int, int]) -> Tensor | None:
        """Mark the places that only fill up the last tiles, (16, 1, 1, ty, tx); they must stay 0."""
        if height % TILE == 0 and width % TILE == 0:
            return None
        rows = torch.arange(grid[1] * TILE).view(-1, TILE) >= height
        columns = torch.arange(grid[2] * TILE).view(-1, TILE) >= width
        mask = rows.T[:, None, :, None] | columns.T[None, :, None, :]  # (4, 4, ty, tx)
        return mask.flatten(0, 1)[:, None, None]

"""Winograd's fast convolution F(4x4, 3x3) in fp32 on a CPU, where PyTorch has none.

A 3x3 convolution over a tile of 4x4 pixels costs 144 multiplications a pair of channels; in the transform
domain it costs 36 (Lavin and Gray 2016, arXiv 1509.09308, section 4.3):

    output = A^T [ (G w G^T) * (B^T input B) ] A        summed over the input channels inside [ ]

Both transforms and the sum over channels are plain matrix products, which every BLAS does at nearly full
speed.
"""

import torch
from torch import Tensor

TILE = 4  # pixels a side of an output tile; its input has a ring of one pixel more
SEEN = TILE + 2

INPUT_1D = torch.tensor(  # B^T
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    dtype=torch.float32,
)
WEIGHT_1D = torch.tensor(  # G
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    dtype=torch.float32,
)
OUTPUT_1D = torch.tensor(  # A^T
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    dtype=torch.float32,
)
# A transform of rows and then columns is one matrix product over the places of a tile, row by row.
INPUT = torch.kron(INPUT_1D, INPUT_1D)  # (36, 36)
WEIGHT = torch.kron(WEIGHT_1D, WEIGHT_1D)  # (36, 9)
OUTPUT = torch.kron(OUTPUT_1D, OUTPUT_1D)  # (16, 36)
PLACES = SEEN * SEEN

FEWEST_CHANNELS = 64  # below, the transforms take what the products save
AT_ONCE = 4 * 2**20  # bytes of one tensor in the transform domain: it stays in the processor's cache


class FastConv2d(torch.nn.Module):
    """Takes the place of a 3x3 convolution: the same numbers but for rounding, in half the time."""

    def __init__(self, convolution: torch.nn.Conv2d) -> None:
        """Take over weight and bias of one that `can_be_fast`."""
        super().__init__()
        assert convolution.bias is not None
        self.weight, self.bias = convolution.weight, convolution.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, H, W) in channels_last for x (B, inputs, H, W), fp32, on the CPU."""
        outputs, inputs = self.weight.shape[:2]
        # Transformed anew each time: kept transformed, weights would take four times the memory.
        weight = (WEIGHT @ self.weight.permute(2, 3, 1, 0).reshape(9, -1)).view(PLACES, inputs, outputs)
        batch, _, height, width = x.shape
        made = x.new_empty(batch, height, width, outputs)
        across = -(-width // TILE)
        down = max(1, AT_ONCE // (PLACES * max(inputs, outputs) * across * x.itemsize))
        down = min(down, -(-height // TILE))  # rows of tiles at once
        # one set of work space for all, so that it stays in the processor's cache
        band = x.new_zeros(down * TILE + 2, across * TILE + 2, inputs)
        row, column, _ = band.stride()
        tiles = band.as_strided(
            (down, across, SEEN, SEEN, inputs), (TILE * row, TILE * column, row, column, 1)
        )
        count = down * across
        # A tile's places and channels lie together: its transforms are small products of their own, which
        # run at twice the speed of one over all tiles.
        places, spectrum = x.new_empty(2, count, PLACES, inputs)
        product = x.new_empty(PLACES, count, outputs)
        out = x.new_empty(count, TILE * TILE, outputs)
        input_transform, output_transform = (one.expand(count, -1, -1) for one in (INPUT, OUTPUT))
        for seen, whole in zip(x.permute(0, 2, 3, 1), made, strict=True):
            for top in range(0, height, down * TILE):
                first, last = max(top - 1, 0), min(top + down * TILE + 1, height)
                begin = first - top + 1  # row of the band
                band[:begin] = 0
                band[begin : begin + last - first, 1 : width + 1] = seen[first:last]
                band[begin + last - first :] = 0
                places.view(tiles.shape).copy_(tiles)
                torch.bmm(input_transform, places, out=spectrum)
                torch.bmm(spectrum.transpose(0, 1), weight, out=product)
                torch.bmm(output_transform, product.transpose(0, 1), out=out)
                rows = out.view(down, across, TILE, TILE, outputs).transpose(1, 2)
                bottom = min(top + down * TILE, height)
                if width % TILE == 0 and bottom - top == down * TILE:
                    into = whole[top:bottom].view(rows.shape)
                    torch.add(rows, self.bias, out=into)
                else:
                    rows = rows.reshape(down * TILE, across * TILE, outputs)[: bottom - top, :width]
                    torch.add(rows, self.bias, out=whole[top:bottom])
        return made.permute(0, 3, 1, 2)


def can_be_fast(module: torch.nn.Module) -> bool:
    """Tell whether a module is a convolution for which this pays: 3x3, stride 1, many channels, fp32."""
    return (
        isinstance(module, torch.nn.Conv2d)
        and module.kernel_size == (3, 3)
        and module.stride == (1, 1)
        and module.padding == (1, 1)
        and module.padding_mode == "zeros"
        and module.dilation == (1, 1)
        and module.groups == 1
        and module.bias is not None
        and min(module.in_channels, module.out_channels) >= FEWEST_CHANNELS
        and module.weight.dtype == torch.float32
    )


def hasten_convolutions(network: torch.nn.Module) -> int:
    """Put a `FastConv2d` in the place of every convolution of a network on the CPU that `can_be_fast`.

    The rest is put in channels_last, which these make and PyTorch's own convolutions are faster in, too.

    Returns:
        How many were replaced.
    """
    fast = {name: module for name, module in network.named_modules() if can_be_fast(module)}
    for name, module in fast.items():
        assert isinstance(module, torch.nn.Conv2d)
        network.set_submodule(name, FastConv2d(module))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return len(fast)

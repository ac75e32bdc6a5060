"""From a network's tensors to pictures: sizes, passes, batches, tiles, memory."""

import itertools
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from errors import PictureError
from machine.machine import Machine
from plain_sr.enlarging import SHARED, TILE, Network, enlarge, padded
from zoom.protocols import StepInput
from zoom.tiler import good_size, tile_starts


class Repeat:
    """Stands in for a network of any scale: repeats pixels, and notes what it was given."""

    def __init__(self, scale: int, tile: int = 256):
        self.shapes: list[tuple[int, ...]] = []
        self.scale = scale
        self.network = Network(scale, self.run, tile)

    def run(self, x: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(x.shape))
        x = torch.where(x == 1, torch.inf, x)  # white overflows
        return x.repeat_interleave(self.scale, -1).repeat_interleave(self.scale, -2)


def step_input(crop: Image.Image, size: tuple[int, int], first: bool = False) -> StepInput:
    return StepInput(crop, crop.resize(size, Image.Resampling.BICUBIC), first=first)


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(100, 150, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def run(stand_in: Repeat, *inputs: StepInput, batch_size: int = 1, second: Repeat | None = None) -> list:
    machine = Machine.choose("cpu", batch_size=batch_size)
    then = (second or stand_in).network
    return list(enlarge(machine, "sr.test", inputs, lambda one: stand_in.network, then))


# Sizes and passes


@pytest.mark.parametrize("size", [(40, 24), (20, 12), (13, 7), (80, 48), (200, 120)])
@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_the_result_has_the_size_of_the_sr_input(scale, size):
    (made,) = run(Repeat(scale), step_input(noise(10, 6), size))
    assert (made.size, made.mode) == (size, "RGB")


@pytest.mark.parametrize(
    ("scale", "factor", "passes"),
    [(2, 2, 1), (2, 4, 2), (2, 5, 1), (3, 8, 2), (4, 4, 1), (4, 5, 2), (4, 8, 2), (4, 9, 1), (8, 8, 1)],
)
def test_a_second_pass_serves_up_to_the_square_of_the_scale_and_eight(scale, factor, passes):
    first, second = Repeat(scale), Repeat(scale)
    run(first, step_input(noise(6, 4), (6 * factor, 4 * factor)), second=second)
    assert len(first.shapes) + len(second.shapes) == passes
    if passes == 2:  # it ends at the wanted size, rounded up
        assert second.shapes == [(1, 3, -(-4 * factor // scale), -(-6 * factor // scale))]


def test_a_window_of_whole_pixels_that_is_a_fraction_short_takes_no_second_pass():
    first, second = Repeat(3), Repeat(3)
    run(first, step_input(noise(170, 170), (512, 512)), second=second)  # 512 // 3
    assert second.shapes == []


def test_a_network_of_scale_1_repaints_the_sr_input():
    stand_in = Repeat(1)
    one = step_input(noise(10, 6), (40, 24))
    (made,) = run(stand_in, one)
    assert stand_in.shapes == [(1, 3, 24, 40)]
    assert np.array_equal(made, one.sr_input)


# Batches


def test_alike_crops_of_a_batch_run_together_and_all_come_in_order():
    stand_in = Repeat(2)
    crops = [noise(4, 4), noise(6, 4), noise(4, 4), noise(4, 6)]
    made = run(stand_in, *(step_input(crop, (8, 8)) for crop in crops), batch_size=4)
    assert stand_in.shapes == [(2, 3, 4, 4), (1, 3, 4, 6), (1, 3, 6, 4)]
    for crop, one in zip(crops, made, strict=True):
        expected = crop.resize([2 * side for side in crop.size], Image.Resampling.NEAREST)
        assert np.array_equal(one, expected.resize((8, 8), Image.Resampling.BICUBIC))


def test_pictures_of_one_pass_and_of_two_come_in_order():
    crops = [noise(16, 16), noise(8, 8), noise(16, 16), noise(8, 8)]
    made = run(Repeat(2), *(step_input(crop, (32, 32)) for crop in crops), batch_size=3)
    for crop, one in zip(crops, made, strict=True):
        if crop.width == 16:
            assert np.array_equal(one, crop.resize((32, 32), Image.Resampling.NEAREST))
    assert np.array_equal(made[1], made[3])


# What is not as it should be


@pytest.mark.parametrize("tile", [256, 16], ids=["at once", "in tiles"])
def test_a_picture_whose_output_is_not_finite_fails_alone(tile):
    dark, white = Image.new("RGB", (20, 20)), Image.new("RGB", (20, 20))
    white.putpixel((19, 19), (255, 255, 255))
    made = run(Repeat(2, tile), *(step_input(one, (40, 40)) for one in (dark, white, dark)), batch_size=3)
    assert [type(one) for one in made] == [Image.Image, PictureError, Image.Image]
    assert "not finite" in str(made[1])


@pytest.mark.parametrize("tile", [256, 8], ids=["at once", "in tiles"])
def test_a_network_that_makes_another_size_than_it_says_costs_the_picture(tile):
    machine = Machine.choose("cpu")
    network = Network(2, lambda x: x, tile)
    (made,) = enlarge(machine, "sr.test", [step_input(noise(10, 10), (20, 20))], lambda _: network, network)
    assert isinstance(made, PictureError)
    assert "not (1, 3, " in str(made)


def test_a_large_picture_that_does_not_fit_fails_alone_with_a_way_out():
    def no_room(x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("no room")

    network = Network(2, no_room, tile=8)
    inputs = [step_input(noise(10, 10), (20, 20))] * 2
    for made in enlarge(Machine.choose("cpu"), "sr.test", inputs, lambda _: network, network):
        assert isinstance(made, PictureError)
        assert "sr.test: out of device memory" in str(made)


# Tiles


@pytest.mark.parametrize("size", [(40, 16), (16, 40), (33, 47)])
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_tiles_of_a_network_that_sees_single_pixels_change_nothing(scale, size):
    stand_in = Repeat(scale, tile=16)
    one = step_input(noise(*size), tuple(scale * side for side in size))
    (made,) = run(stand_in, one)
    assert max(max(shape) for shape in stand_in.shapes) <= 16
    expected = np.asarray(one.crop.resize(one.sr_input.size, Image.Resampling.NEAREST), int)
    assert np.abs(np.asarray(made, int) - expected).max() <= 1


def test_a_second_pass_over_a_large_picture_is_tiled_too():
    stand_in = Repeat(2, tile=16)
    (made,) = run(stand_in, step_input(noise(40, 20), (160, 80)))
    assert made.size == (160, 80)
    assert max(max(shape) for shape in stand_in.shapes) <= 16


def test_the_memory_for_a_tall_picture_is_its_own_pixels_and_a_row_of_tiles():
    peaks = []
    for height in (256, 1024):
        one = StepInput(Image.new("RGB", (64, height)), Image.new("RGB", (256, 4 * height)))
        tracemalloc.start()  # NumPy's arrays: the pictures and the rows of tiles
        run(Repeat(4, tile=32), one)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    more = 256 * 4 * (1024 - 256) * 3  # bytes of the larger result in 8 bits; in fp32 four times as much
    assert peaks[1] - peaks[0] < 2 * more


@pytest.mark.parametrize("length", [257, 260, 300, 417, 420, 577, 1000, 2048])
def test_no_tile_begins_close_to_another(length):
    for other in (100, 256, 257, 1536):
        overlap = int(SHARED * TILE)
        size = good_size(length, other, TILE, overlap)
        assert 192 < size <= 256
        for starts in (tile_starts(length, size, overlap), tile_starts(other, size, overlap)):
            assert all(after - before >= size / 8 for before, after in itertools.pairwise(starts))


# Padding


def test_padding_reflects_as_often_as_is_needed():
    x = torch.arange(3.0).reshape(1, 1, 1, 3)
    assert padded(x, 1, 8).flatten().tolist() == [0, 1, 2, 1, 0, 1, 2, 1]
    assert padded(x, 1, 3) is x

"""The tiler: large pictures in overlapping tiles."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoom.tiler import by_tiles, tile_grid, tile_starts

lengths = st.integers(1, 90)


@given(st.integers(1, 500), st.integers(2, 60), st.data())
def test_tiles_cover_every_pixel_and_share_at_least_the_overlap(length, size, data):
    overlap = data.draw(st.integers(0, size - 1))
    starts = tile_starts(length, size, overlap)
    ends = [min(start + size, length) for start in starts]
    assert starts[0] == 0
    assert ends[-1] == length
    assert all(end - start >= overlap for start, end in zip(starts[1:], ends[:-1], strict=True))


def test_all_tiles_are_of_one_size_and_are_numbered_row_by_row():
    grid = tile_grid(70, 100, 40, 8)
    assert {(tile.height, tile.width) for tile in grid} == {(40, 40)}
    assert [tile.box for tile in grid[:3]] == [(0, 0, 40, 40), (32, 0, 72, 40), (60, 0, 100, 40)]
    assert grid[3].top == 30


@settings(max_examples=60, deadline=None)
@given(lengths, lengths, st.integers(4, 40), st.integers(1, 4), st.data())
def test_a_network_that_knows_no_neighbours_makes_the_same_with_and_without_tiles(
    height, width, size, scale, data
):
    overlap = data.draw(st.integers(0, size - 1))
    x = np.random.default_rng(height * 100 + width).random((2, height, width), np.float32)

    def call(tile, number):
        return tile.repeat(scale, axis=-1).repeat(scale, axis=-2)

    bands = list(by_tiles(call, x, size, overlap, scale))
    assert np.allclose(np.concatenate(bands, axis=-2), call(x, 0), atol=1e-5)


def test_every_tile_is_called_once_with_its_own_part_and_number():
    x = np.arange(60 * 50).reshape(1, 60, 50).astype(np.float32)
    grid, seen = tile_grid(60, 50, 32, 8), []

    def call(tile, number):
        seen.append(number)
        assert tile[0, 0, 0] == x[0, grid[number].top, grid[number].left]
        return tile

    list(by_tiles(call, x, 32, 8))
    assert seen == list(range(len(grid)))


def test_what_two_tiles_say_of_a_place_goes_over_from_one_to_the_other_without_a_step():
    x = np.zeros((1, 32, 96), np.float32)
    whole = np.concatenate(list(by_tiles(lambda tile, number: tile + number, x, 64, 32)), axis=-2)
    steps = np.diff(whole[0, 16])
    assert whole[0, 16, 0] == 0
    assert whole[0, 16, -1] == 1
    assert (steps >= 0).all()
    assert steps.max() < 0.2, "of the whole difference of 1, over 32 pixels"


def test_bands_come_as_soon_as_their_rows_are_done():
    """So only a row of tiles is held, whatever the picture's height."""
    calls = []
    bands = by_tiles(lambda tile, number: calls.append(number) or tile, np.zeros((1, 1000, 32)), 32, 8)
    assert next(bands).shape == (1, 24, 32)
    assert len(calls) == 1


def test_a_picture_of_one_tile_is_what_the_network_makes_of_it():
    x = np.random.default_rng(0).random((3, 20, 30))
    [band] = by_tiles(lambda tile, number: tile, x, 32, 8)
    assert np.array_equal(band, x)


@pytest.mark.parametrize("length", [1, 31, 32])
def test_a_side_of_at_most_a_tile_is_one_tile(length):
    assert tile_starts(length, 32, 8) == [0]

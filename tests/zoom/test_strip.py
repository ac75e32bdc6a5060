"""The states side by side."""

import numpy as np
import pytest
from PIL import Image

from zoom.strip import BAR, COLOURS, strip


def test_states_stand_side_by_side_with_a_bar_that_says_what_is_invented():
    states = [Image.new("RGB", (8, 4), colour) for colour in ("red", "green", "blue")]
    laid_out = strip(states, ["real", "enlarged", "invented"], (8, 4))
    assert laid_out.size == (24, 4 + BAR)
    for number, kind in enumerate(["real", "enlarged", "invented"]):
        assert laid_out.getpixel((8 * number + 3, 2)) == states[number].getpixel((0, 0))
        assert laid_out.getpixel((8 * number + 3, 4 + BAR - 1)) == COLOURS[kind]


def test_of_a_state_larger_than_a_cell_the_middle_is_shown_and_a_smaller_one_stands_on_black():
    large = Image.fromarray(np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3))
    small = Image.new("RGB", (4, 4), "white")
    laid_out = strip([large, small], ["real", "real"], (10, 8))
    assert np.array_equal(np.asarray(laid_out)[:8, :10], np.asarray(large)[6:14, 10:20])
    assert laid_out.getpixel((10, 0)) == (0, 0, 0)
    assert laid_out.getpixel((14, 3)) == (255, 255, 255)


KINDS = ["real", "enlarged", "invented", "invented"]


@pytest.mark.parametrize("cell", [(64, 64), (64, 256), (96, 64), (512, 512)])
def test_labels_stand_whole_in_their_cells_on_black(cell):
    states = [Image.new("RGB", cell, "white")] * 4
    bare, labelled = (np.asarray(strip(states, KINDS, cell, m)) for m in (None, [1, 4, 16, 4**100]))
    assert np.array_equal(bare[cell[1] :], labelled[cell[1] :]), "the bar stays as it is"
    for number, kind in enumerate(KINDS):
        part = labelled[: cell[1], number * cell[0] : (number + 1) * cell[0]].astype(int)
        rows, columns = np.nonzero((part != 255).any(2))
        label = part[rows.min() :, : columns.max() + 1]
        letters = np.abs(label - COLOURS[kind]).max(2) < 60
        assert letters.sum() > 40, "of a size that can be read"
        assert np.median(label) == 0, "on black"
        edges = (letters[0], letters[-1], letters[:, 0], letters[:, -1])
        assert not any(edge.any() for edge in edges), "no letter is cut"
        assert rows.min() >= cell[1] // 4, "most of the picture is seen"


@pytest.mark.parametrize("number", range(4))
def test_labels_of_different_states_differ(number):
    cell = (128, 128)
    states = [Image.new("RGB", cell)] * 2
    magnifications = [1, 4, 16, 64, 10**9][number : number + 2]
    one, other = np.hsplit(np.asarray(strip(states, ["real"] * 2, cell, magnifications)), 2)
    assert not np.array_equal(one, other)


def test_labels_leave_the_states_as_they_are():
    states = [Image.new("RGB", (64, 64), "white")]
    strip(states, ["real"], (64, 64), [1])
    assert states[0].getcolors() == [(64 * 64, (255, 255, 255))]

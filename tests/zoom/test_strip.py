"""The states side by side."""

import numpy as np
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

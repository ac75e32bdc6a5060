"""Geometry: state 0, the windows of the steps, and the published code's traps."""

import numpy as np
import pytest
from PIL import Image

from errors import InputError, PictureError
from zoom.states import enlarge, first_state
from zoom.window import centre_window, step_window


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width * 10_000 + height).integers(100, 160, (height, width, 3))
    return Image.fromarray(values.astype(np.uint8))


@pytest.mark.parametrize("shorter", [196, 322, 347, 417])
@pytest.mark.parametrize("turned", [False, True])
def test_sides_that_the_published_code_cuts_short_show_no_black_line(shorter, turned):
    size = (shorter * 3 // 2, shorter)
    state = np.asarray(first_state(noise(*(size[::-1] if turned else size)), 512))
    assert state.shape == (512, 512, 3)
    edges = np.concatenate([state[0], state[-1], state[:, 0], state[:, -1]])
    assert edges.min() > 40, "the picture holds nothing darker than 100"


def test_every_shorter_side_becomes_exactly_the_process_size():
    for shorter in range(64, 700, 7):
        assert first_state(Image.new("L", (shorter, shorter + 5)), 128).size == (128, 128)


@pytest.mark.parametrize("side", [1, 31])
def test_a_picture_too_small_to_enlarge_sensibly_is_refused_with_the_side_it_needs(side):
    with pytest.raises(PictureError, match="at least 32"):
        first_state(noise(side, 400), 512)


def test_the_smallest_side_accepted_gives_a_picture():
    assert first_state(noise(32, 40), 512).size == (512, 512)


def test_a_very_narrow_picture_is_refused_and_not_blown_up_in_memory():
    with pytest.raises(PictureError, match="too narrow"):
        first_state(Image.new("RGB", (32, 100_000)), 512)


def test_the_centre_square_of_a_wide_picture_is_kept():
    picture = Image.new("RGB", (300, 100), "red")
    picture.paste("blue", (100, 0, 200, 100))
    red, _, blue = np.asarray(first_state(picture, 64)).reshape(-1, 3).T.astype(int)
    assert (blue > 200).all()
    assert red[32] < 5


def test_recursive_steps_always_look_at_the_same_share_of_the_state_before():
    assert step_window(512, 4, 1, from_first_state=False) == centre_window(512, 128)
    assert step_window(512, 4, 9, from_first_state=False) == centre_window(512, 128)
    assert centre_window(512, 128).box == (192, 192, 320, 320)


def test_kinds_that_look_at_state_0_look_at_less_and_less_of_it():
    assert [step_window(512, 4, k, from_first_state=True).side for k in (1, 2, 3, 4)] == [128, 32, 8, 2]


def test_a_window_of_less_than_a_pixel_is_refused_with_the_most_steps_possible():
    with pytest.raises(InputError, match=r"--rec_num 5.*--rec_num 4 or less"):
        step_window(512, 4, 5, from_first_state=True)


def test_a_crop_is_enlarged_with_bicubic():
    crop = noise(32, 32)
    assert enlarge(crop, 128) == crop.resize((128, 128), Image.Resampling.BICUBIC)

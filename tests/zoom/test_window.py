"""Geometry: state 0, where the steps look, and the published code's traps."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from errors import InputError, PictureError
from zoom.settings import KINDS, ChainSettings
from zoom.states import cut_from_picture, enlarge, first_state, shrunk_to
from zoom.window import View, Window, check_steps, plan_route, plan_route_either_way

SQUARE = ChainSettings(process_size=(512, 512))


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width * 10_000 + height).integers(100, 160, (height, width, 3))
    return Image.fromarray(values.astype(np.uint8))


def state_0(picture: Image.Image, **chain) -> Image.Image:
    return first_state(picture, plan_route(ChainSettings(**chain), picture.size))


def boxes(chain: ChainSettings, size, center=None) -> list[tuple[int, int, int, int]]:
    return [step.window.box for step in plan_route(chain, size, center).steps]


# State 0


@pytest.mark.parametrize("shorter", [196, 322, 347, 417])
@pytest.mark.parametrize("turned", [False, True])
def test_sides_that_the_published_code_cuts_short_show_no_black_line(shorter, turned):
    size = (shorter * 3 // 2, shorter)
    state = np.asarray(state_0(noise(*(size[::-1] if turned else size))))
    assert state.shape == (512, 512, 3)
    edges = np.concatenate([state[0], state[-1], state[:, 0], state[:, -1]])
    assert edges.min() > 40, "the picture holds nothing darker than 100"


def test_every_picture_becomes_exactly_as_large_as_a_state():
    for shorter in range(64, 700, 7):
        for size in ((128, 128), (192, 128), (128, 208)):
            assert state_0(Image.new("RGB", (shorter, shorter + 5)), process_size=size).size == size


@pytest.mark.parametrize("side", [1, 31])
def test_a_picture_too_small_to_enlarge_sensibly_is_refused_with_the_size_it_needs(side):
    with pytest.raises(PictureError, match=f"{side}x90 pixels.*at least 32x32"):
        plan_route(SQUARE, (side, 90))


def test_a_picture_that_only_works_turned_has_a_route_as_exif_may_turn_it():
    wide = ChainSettings(process_size=(1024, 512))
    with pytest.raises(PictureError):
        plan_route(wide, (40, 80))
    assert plan_route_either_way(wide, (40, 80)) == plan_route(wide, (80, 40))
    assert plan_route_either_way(wide, (90, 80)) == plan_route(wide, (90, 80))
    with pytest.raises(PictureError, match=r"30x20 pixels.*at least 64x32"):
        plan_route_either_way(wide, (30, 20))


def test_the_smallest_side_accepted_gives_a_picture():
    assert state_0(noise(32, 40)).size == (512, 512)


def test_a_very_narrow_picture_is_refused_and_not_blown_up_in_memory():
    with pytest.raises(PictureError, match="too narrow"):
        plan_route(SQUARE, (32, 100_000))


def test_the_centre_square_of_a_wide_picture_is_kept():
    picture = Image.new("RGB", (300, 100), "red")
    picture.paste("blue", (100, 0, 200, 100))
    red, _, blue = np.asarray(state_0(picture, process_size=(64, 64))).reshape(-1, 3).T.astype(int)
    assert (blue > 200).all()
    assert red[32] < 5


def test_a_state_that_is_not_square_shows_as_much_of_the_picture_as_its_aspect_allows():
    route = plan_route(ChainSettings(process_size=(192, 128)), (1000, 1000))
    assert route.view.width == 1000
    assert route.view.numbers[3] == pytest.approx(1000 * 128 / 192, rel=1e-9)


# The published windows


@pytest.mark.parametrize("source", ["native", "shrunk"])
@pytest.mark.parametrize("upscale", range(2, 9))
@pytest.mark.parametrize("size", [(400, 300), (512, 512), (511, 701), (3000, 512)])
def test_without_a_point_every_step_looks_at_the_middle_of_the_state_before(source, upscale, size):
    """As published, also where a window has an odd number of pixels; to 512 pixels both sources are one."""
    chain = ChainSettings(source=source, upscale=upscale, rec_num=3)
    part = 512 // upscale
    left = (512 - part) // 2
    assert [step.window for step in plan_route(chain, size).steps] == [Window(left, left, part, part)] * 3
    assert [step.window_of for step in plan_route(chain, size).steps] == [0, 1, 2]


def test_kinds_that_look_at_state_0_look_at_less_and_less_of_it():
    route = plan_route(ChainSettings(rec_type="bicubic"), (400, 300))
    assert [step.window.width for step in route.steps] == [128, 32, 8, 2]
    assert {step.window_of for step in route.steps} == {0}


def test_a_window_of_less_than_a_pixel_is_refused_with_the_most_steps_possible():
    with pytest.raises(InputError, match=r"--rec_num 5: step 5.*--rec_num 4 or less"):
        check_steps(ChainSettings(rec_type="onestep", rec_num=5))
    check_steps(ChainSettings(rec_type="recursive", rec_num=5))


def test_shrunk_looks_only_at_states_however_large_the_picture():
    route = plan_route(ChainSettings(source="shrunk"), (6000, 4000))
    assert boxes(ChainSettings(source="shrunk"), (6000, 4000)) == [(192, 192, 320, 320)] * 4
    assert [step.made for step in route.steps] == ["enlarged", "invented", "invented", "invented"]


# Real pixels first


def test_a_photograph_of_24_megapixels_is_shown_enlarged_and_only_then_invented():
    route = plan_route(ChainSettings(), (6000, 4000))
    assert [step.made for step in route.steps] == ["real", "enlarged", "invented", "invented"]
    assert [step.window_of for step in route.steps] == [None, None, 2, 3]
    assert [step.window.width for step in route.steps] == [1000, 250, 128, 128]


def test_a_window_of_exactly_as_many_pixels_as_a_state_is_real_and_one_less_is_enlarged():
    assert plan_route(ChainSettings(), (2048, 2048)).steps[0].made == "real"
    assert plan_route(ChainSettings(), (2044, 2044)).steps[0].made == "enlarged"


def test_the_network_enlarges_real_pixels_as_long_as_they_are_as_many_as_its_factor_asks_for():
    made = {
        side: [step.made for step in plan_route(ChainSettings(rec_num=2), (side, side)).steps]
        for side in (400, 512, 2048, 2040)
    }
    assert made == {
        400: ["invented", "invented"],  # state 0 was enlarged itself
        512: ["enlarged", "invented"],
        2048: ["real", "enlarged"],
        2040: ["enlarged", "enlarged"] if round(2040 / 16) >= 128 else ["enlarged", "invented"],
    }


def test_kinds_that_crop_the_picture_itself_crop_its_own_pixels():
    route = plan_route(ChainSettings(rec_type="bicubic"), (4096, 4096))
    assert [(step.window_of, step.window.width) for step in route.steps] == [
        (None, 1024),
        (None, 256),
        (None, 64),
        (None, 16),
    ]


def test_a_real_state_is_the_window_of_the_picture_resized():
    picture = noise(1100, 900)
    route = plan_route(ChainSettings(process_size=(64, 64), rec_num=1), picture.size)
    cut = cut_from_picture(picture, route.steps[0])
    window = picture.crop(route.steps[0].window.box).resize((64, 64), Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(cut), np.asarray(window))


def test_a_window_that_a_network_enlarges_is_cut_out_pixel_by_pixel():
    picture = noise(900, 900)
    step = plan_route(ChainSettings(rec_num=1), picture.size).steps[0]
    assert cut_from_picture(picture, step).size == (225, 225)
    assert np.array_equal(
        np.asarray(cut_from_picture(picture, step)), np.asarray(picture.crop(step.window.box))
    )


# Anywhere


def views_of(route) -> list[View]:
    return [route.view, *(step.view for step in route.steps)]


fractions = st.floats(0, 1)
SIDES = st.sampled_from([64, 80, 128, 192])


@st.composite
def zooms(draw):
    """A chain, a size of a picture, and a point in it."""
    chain = ChainSettings(
        rec_type=draw(st.sampled_from(KINDS)),
        rec_num=draw(st.integers(1, 3)),
        upscale=draw(st.integers(2, 5)),
        process_size=(draw(SIDES), draw(SIDES)),
        source=draw(st.sampled_from(["native", "shrunk"])),
    )
    assume(min(chain.process_size) // chain.upscale**chain.rec_num >= 1)
    size = draw(st.integers(40, 2500)), draw(st.integers(40, 2500))
    return chain, size, (draw(fractions), draw(fractions))


@settings(max_examples=300, deadline=None)
@given(zooms())
def test_every_window_lies_inside_what_it_is_cut_from_and_shows_what_its_view_says(zoom):
    chain, size, center = zoom
    route = plan_route(chain, size, center)
    views = views_of(route)
    for number, step in enumerate(route.steps, start=1):
        limits = size if step.window_of is None else chain.process_size
        left, top, right, bottom = step.window.box
        assert 0 <= left < right <= limits[0]
        assert 0 <= top < bottom <= limits[1]
        around = views[0 if chain.from_first_state else number - 1]
        assert around.left <= step.view.left
        assert around.top <= step.view.top
        assert step.view.left + step.view.width <= around.left + around.width
        assert step.view.top + step.view.height <= around.top + around.height
        if step.window_of is not None:
            assert views[step.window_of].part(step.window, chain.process_size) == step.view


@settings(max_examples=300, deadline=None)
@given(zooms())
def test_the_point_stays_in_the_middle_of_every_state_as_far_as_the_edges_allow(zoom):
    """Within half a pixel of what the window is cut from; where it is not, the window touches an edge."""
    chain, size, center = zoom
    route = plan_route(chain, size, center)
    views = views_of(route)
    for axis in (0, 1):
        point = Fraction(center[axis]) * size[axis]
        for number, step in enumerate(route.steps, start=1):
            around = views[0 if chain.from_first_state else number - 1]
            start = (step.view.left, step.view.top)[axis]
            extent = (step.view.width, step.view.height)[axis]
            around_start = (around.left, around.top)[axis]
            around_extent = (around.width, around.height)[axis]
            pixel = 1 if step.window_of is None else around_extent / chain.process_size[axis]
            off = point - (start + extent / 2)
            at_start = start - around_start < pixel  # nearer than a pixel of what it is cut from
            at_end = around_start + around_extent - start - extent < pixel
            assert abs(off) <= pixel / 2 or (off < 0 and at_start) or (off > 0 and at_end)


def coordinates(width: int, height: int) -> Image.Image:
    """A picture whose pixels say where they are: 12 bits each for x and y."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x & 255, y & 255, (x >> 8) << 4 | (y >> 8)], axis=-1).astype(np.uint8))


def where(pixel) -> tuple[int, int]:
    red, green, blue = map(int, pixel)
    return red | (blue >> 4) << 8, green | (blue & 15) << 8


@settings(max_examples=200, deadline=None)
@given(zooms())
def test_zoomed_with_nearest_the_asked_point_is_where_the_views_say_in_every_state(zoom):
    """Read from the pixels themselves, through the code that the chain resizes with.

    The theoretical bound: a pixel's middle is at most half a pixel from the place, the pixel that it was
    copied from has its middle at most half of its own size from there, and so on up to the picture.
    """
    chain, size, center = zoom
    picture = coordinates(*size)
    route = plan_route(chain, size, center)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoom.states.SHRINK", Image.Resampling.NEAREST)
        states = [first_state(picture, route)]
        for step in route.steps:
            if step.window_of is None:
                cut = cut_from_picture(picture, step)
            else:
                cut = states[step.window_of].crop(step.window.box)
            states.append(enlarge(cut, step.size, Image.Resampling.NEAREST))
    for axis in (0, 1):
        views = [((view.left, view.width), (view.top, view.height))[axis] for view in views_of(route)]
        pixels = [extent / chain.process_size[axis] for _, extent in views]
        copied = [Fraction(1, 2)]  # from a pixel's middle to the middle of what it shows
        for step in route.steps:
            of = step.window_of
            copied.append(Fraction(1, 2) if of is None else copied[of] + pixels[of] / 2)
        for number, (start, extent) in enumerate(views):
            point = Fraction(center[axis]) * size[axis]
            point = min(max(point, start), start + extent)  # state 0 may end before it
            at = min(math.floor((point - start) / pixels[number]), chain.process_size[axis] - 1)
            place = (at, 0) if axis == 0 else (0, at)
            shown = where(states[number].getpixel(place))[axis]
            assert abs(shown + Fraction(1, 2) - point) <= copied[number] + pixels[number] / 2


def test_a_box_is_as_if_the_picture_were_cut_to_it():
    picture = noise(1000, 700)
    chain = ChainSettings(box=(0.2, 0.1, 0.7, 0.9), process_size=(64, 64))
    cut = picture.crop((200, 70, 700, 630))
    route, of_cut = (
        plan_route(chain, picture.size),
        plan_route(ChainSettings(process_size=(64, 64)), cut.size),
    )
    assert np.array_equal(np.asarray(first_state(picture, route)), np.asarray(first_state(cut, of_cut)))
    for ours, theirs in zip(route.steps, of_cut.steps, strict=True):
        assert (ours.made, ours.window_of) == (theirs.made, theirs.window_of)
        assert ours.view.left - 200 == theirs.view.left
        assert ours.view.top - 70 == theirs.view.top
        if ours.window_of is not None:
            assert ours.window == theirs.window


def test_a_box_of_no_pixel_is_refused():
    with pytest.raises(PictureError, match="--box holds less than one"):
        plan_route(ChainSettings(box=(0.5, 0.5, 0.5001, 0.6)), (100, 100))


# The whole picture


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_picture_grows_by_the_factor_at_each_step_whatever_its_aspect(kind):
    route = plan_route(ChainSettings(full_image=True, rec_type=kind, rec_num=2), (37, 300))
    assert [step.size for step in route.steps] == [(148, 1200), (592, 4800)]
    assert all(step.view == route.view for step in route.steps)


def test_a_whole_picture_that_grows_beyond_what_can_be_read_is_refused_with_the_steps_it_bears():
    with pytest.raises(PictureError, match=r"would end at 3,221,225,472 pixels.*take --rec_num 1"):
        plan_route(ChainSettings(full_image=True, rec_num=3), (1024, 768))
    with pytest.raises(PictureError, match="make it smaller first"):
        plan_route(ChainSettings(full_image=True, rec_num=1), (4000, 3000))


# Resizing


def test_a_crop_is_enlarged_with_bicubic():
    crop = noise(16, 16)
    expected = crop.resize((64, 64), Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(enlarge(crop, (64, 64))), np.asarray(expected))


def test_who_is_asked_about_the_whole_sees_it_small_and_in_its_aspect():
    assert shrunk_to(noise(800, 200), 40_000).size == (400, 100)
    assert shrunk_to(noise(80, 20), 40_000).size == (80, 20)

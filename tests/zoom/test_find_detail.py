"""Where a picture is worth zooming into."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from results.spots_file import Spot
from zoom.find_detail import LARGEST_DRAWING, WINDOW, draw_spots, find_detail

PHOTOGRAPHS = sorted((ROOT / "samples").glob("*.[pj][np]g"))


def ground(width: int = 512, height: int = 512, level: int = 128) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def put_checkerboard(pixels: np.ndarray, x: int, y: int, cell: int = 8, cells: int = 8) -> None:
    """Draw a checkerboard around a point."""
    board = np.kron(np.indices((cells, cells)).sum(axis=0) % 2, np.ones((cell, cell), int)) * 255
    top, left = y - cell * cells // 2, x - cell * cells // 2
    pixels[top : top + cell * cells, left : left + cell * cells] = board[..., None]


def found(pixels: np.ndarray, count: int = 9, box=(0, 0, 1, 1)) -> list[tuple[float, float]]:
    """Return the spots in pixels."""
    height, width = pixels.shape[:2]
    return [(spot.x * width, spot.y * height) for spot in find_detail(Image.fromarray(pixels), count, box)]


def windows_fit_and_keep_apart(spots: list[Spot], width: int, height: int) -> bool:
    side, slack = WINDOW * min(width, height), 1e-4 * max(width, height)
    places = [(spot.x * width, spot.y * height) for spot in spots]
    return all(
        side / 2 - slack <= x <= width - side / 2 + slack
        and side / 2 - slack <= y <= height - side / 2 + slack
        for x, y in places
    ) and all(
        max(abs(x1 - x2), abs(y1 - y2)) >= side - slack
        for (x1, y1), (x2, y2) in itertools.combinations(places, 2)
    )


@pytest.mark.parametrize(("x", "y"), [(256, 256), (140, 300), (400, 110)])
@pytest.mark.parametrize("size", [1, 4])
def test_a_patch_of_detail_is_found_within_a_few_pixels(x, y, size):
    pixels = ground()
    put_checkerboard(pixels, x, y)
    pixels = pixels.repeat(size, axis=0).repeat(size, axis=1)
    assert found(pixels, 1) == [pytest.approx((x * size, y * size), abs=6 * size)]


def test_each_patch_is_found_once_and_nothing_beside():
    pixels = ground(768)
    patches = [(120, 120), (400, 150), (650, 380), (200, 400)]
    for x, y in patches:
        put_checkerboard(pixels, x, y)
    assert sorted(found(pixels)) == [pytest.approx(place, abs=8) for place in sorted(patches)]


def test_the_richest_patch_comes_first():
    pixels = ground()
    put_checkerboard(pixels, 150, 256, cells=3)
    put_checkerboard(pixels, 362, 256, cells=10)
    assert [spot.label for spot in find_detail(Image.fromarray(pixels), 2)] == ["1", "2"]
    assert [x > 256 for x, _ in found(pixels, 2)] == [True, False]


def test_changes_of_colour_alone_count():
    board = ground()
    put_checkerboard(board, 200, 300)
    colours = {128: (139, 120, 100), 0: (100, 140, 100), 255: (178, 100, 100)}
    pixels = np.array([colours.get(level, (0, 0, 0)) for level in range(256)], np.uint8)[board[..., 0]]
    assert np.ptp(np.asarray(Image.fromarray(pixels).convert("L")).astype(int)) <= 1
    assert found(pixels, 1) == [pytest.approx((200, 300), abs=6)]


@pytest.mark.parametrize("slope", [0, 0.5, 1])
def test_a_straight_edge_is_no_detail(slope):
    pixels = ground()
    rows, columns = np.indices((512, 512))
    pixels[rows + slope * columns > 300] = 255
    assert found(pixels) == []


def test_a_faint_patch_beats_a_strong_edge():
    pixels = ground(level=0)
    pixels[:, 256:] = 255
    board = ground()
    put_checkerboard(board, 128, 128)
    pixels[96:160, 96:160] = board[96:160, 96:160] // 6
    assert found(pixels, 1) == [pytest.approx((128, 128), abs=6)]


def test_texture_that_is_everywhere_loses_to_an_object_on_it():
    rows, columns = np.indices((512, 512))
    pixels = (128 + 60 * np.sin(rows / 3) * np.sin(columns / 3)).astype(np.uint8)[..., None].repeat(3, axis=2)
    put_checkerboard(pixels, 340, 180, cells=12)
    assert found(pixels, 1) == [pytest.approx((340, 180), abs=12)]


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_flat_picture_has_no_spots(level):
    assert found(ground(level=level)) == []


def test_a_gradient_and_faint_noise_have_no_spots():
    gradient = np.linspace(0, 255, 512).astype(np.uint8)[:, None, None].repeat(512, 1).repeat(3, 2)
    noise = np.random.default_rng(0).normal(128, 4, (512, 512, 3)).round().astype(np.uint8)
    assert found(gradient) == []
    assert found(noise) == []


def test_detail_beats_noise():
    noise = np.random.default_rng(0).normal(128, 25, (512, 512, 1)).clip(0, 255).astype(np.uint8).repeat(3, 2)
    put_checkerboard(noise, 350, 300)
    assert found(noise, 1) == [pytest.approx((350, 300), abs=10)]


def test_windows_stay_inside_where_the_detail_is_at_the_edge():
    pixels = ground()
    put_checkerboard(pixels, 32, 32)
    ((x, y),) = found(pixels, 1)
    assert (x, y) == pytest.approx((64, 64), abs=1)


def test_a_box_is_looked_at_as_if_it_were_the_picture():
    pixels = ground(1024)
    put_checkerboard(pixels, 256, 256, cells=14)
    put_checkerboard(pixels, 768, 200)
    assert found(pixels, 1) == [pytest.approx((256, 256), abs=6)]
    assert found(pixels, 9, (0.5, 0, 1, 1)) == [pytest.approx((768, 200), abs=6)]
    half = [(x + 512, y) for x, y in found(np.ascontiguousarray(pixels[:, 512:]), 9)]
    assert found(pixels, 9, (0.5, 0, 1, 1)) == [pytest.approx(place, abs=0.02) for place in half]


def test_a_box_thinner_than_a_pixel_has_no_spots():
    assert found(np.zeros((16, 16, 3), np.uint8), 9, (1, 1, 1, 1)) == []


def test_no_more_are_found_than_asked_for():
    picture = Image.open(PHOTOGRAPHS[0]).convert("RGB")
    three = find_detail(picture, 3)
    assert len(three) == 3
    assert find_detail(picture, 1) == three[:1]
    assert find_detail(picture, 0) == []


@pytest.mark.parametrize("file", PHOTOGRAPHS, ids=lambda file: file.stem)
def test_photographs_have_spots_whose_windows_fit_and_keep_apart(file):
    picture = Image.open(file).convert("RGB")
    spots = find_detail(picture, 5)
    assert [spot.label for spot in spots] == ["1", "2", "3", "4", "5"]
    assert windows_fit_and_keep_apart(spots, *picture.size)
    assert find_detail(picture.copy(), 5) == spots


def test_of_a_cat_the_eyes_come_first():
    spots = find_detail(Image.open(ROOT / "samples" / "chelsea.png").convert("RGB"), 2)
    eyes = [(0.37, 0.37), (0.70, 0.43)]
    assert sorted((spot.x, spot.y) for spot in spots) == [pytest.approx(eye, abs=0.05) for eye in eyes]


@pytest.mark.parametrize("size", [(16, 16), (5, 4), (4000, 40), (40, 4000), (3, 900), (1, 1)])
def test_tiny_and_narrow_pictures_work(size):
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))
    spots = find_detail(picture, 5)
    assert len(spots) <= 5
    assert spots or min(size) < 5
    assert windows_fit_and_keep_apart(spots, *size)
    assert draw_spots(picture, spots, WINDOW).mode == "RGB"


def test_a_drawing_is_shrunk_and_the_picture_stays_as_it_was():
    picture = Image.fromarray(ground(3000, 1500))
    drawing = draw_spots(picture, [Spot("1", 0.5, 0.5)], WINDOW)
    assert drawing.size == (LARGEST_DRAWING, LARGEST_DRAWING // 2)
    assert picture.getcolors() == [(3000 * 1500, (128, 128, 128))]


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_window_is_outlined_light_and_dark_on_any_ground(level):
    drawing = np.asarray(draw_spots(Image.fromarray(ground(level=level)), [Spot("1", 0.5, 0.5)], WINDOW))
    across = {tuple(pixel) for pixel in drawing[256].tolist()}
    assert across == {(level,) * 3, (255, 255, 0), (0, 0, 0)}
    light = np.flatnonzero((drawing[256] == (255, 255, 0)).all(axis=1))
    assert (light.min(), light.max()) == (192, 319)


@pytest.mark.parametrize("place", [(0, 0), (1, 1)])
def test_windows_at_the_edge_are_drawn_moved_inside_with_their_labels(place):
    label = "a-label-of-many-letters"
    drawing = np.asarray(draw_spots(Image.fromarray(ground()), [Spot(label, *place)], WINDOW))
    light = (drawing == (255, 255, 0)).all(axis=2)
    corner = light[:128, :128] if place == (0, 0) else light[-128:, -128:]
    assert corner[0].all()
    assert corner[-1].all()
    assert corner[:, 0 if place == (0, 0) else -1].all()
    beside = light[:128, 128:] if place == (0, 0) else light[-128:, :-128]
    assert beside.any()  # the label is longer than the window


def test_scikit_image_is_loaded_only_when_it_is_needed():
    code = "import sys, zoom.find_detail; sys.exit('skimage' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0

"""Colour correction against the SR input. (Runs 5 and 6 of the parity data prove wavelet and adain.)"""

import numpy as np
import pytest
from PIL import Image

from zoom import color_fix
from zoom.color_fix import BACKPROJECT_TOLERANCE, adain, fix_colors, fix_colors_of_whole, wavelet
from zoom.states import enlarge


@pytest.fixture(scope="module")
def crop() -> Image.Image:
    values = np.random.default_rng(0).normal(120, 12, (32, 32, 3)).cumsum(axis=1) / 20 + 60
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def sr_input(crop) -> Image.Image:
    return enlarge(crop, (128, 128))


@pytest.fixture(scope="module")
def output(sr_input) -> Image.Image:
    """An SR output with detail of its own and a colour cast."""
    values = np.asarray(sr_input) * [0.8, 1.0, 1.1] + np.random.default_rng(1).normal(5, 10, (128, 128, 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def test_nofix_returns_the_output_itself(output, sr_input, crop):
    assert fix_colors("nofix", output, sr_input, crop) is output


def test_adain_gives_each_channel_the_mean_and_spread_of_the_sr_input(output, sr_input, crop):
    fixed = np.asarray(fix_colors("adain", output, sr_input, crop), float)
    assert np.allclose(fixed.mean((0, 1)), np.asarray(sr_input).mean((0, 1)), atol=1)
    assert np.allclose(fixed.std((0, 1)), np.asarray(sr_input).std((0, 1)), atol=1)


def test_wavelet_takes_the_coarse_colours_and_keeps_the_detail(output, sr_input, crop):
    fixed = np.asarray(fix_colors("wavelet", output, sr_input, crop), float)
    assert np.allclose(fixed.mean((0, 1)), np.asarray(sr_input).mean((0, 1)), atol=1)
    detail = np.diff(fixed, axis=1).std()
    assert detail == pytest.approx(np.diff(np.asarray(output, float), axis=1).std(), rel=0.05)


def test_a_picture_fixed_against_itself_does_not_change(sr_input):
    values = np.asarray(sr_input, np.float32)
    assert np.allclose(wavelet(values, values), values, atol=1e-3)
    assert np.allclose(adain(values, values), values, atol=1e-3)


def test_lowfreq_holds_the_coarse_colours_and_leaves_what_is_finer(crop, sr_input):
    grain = np.random.default_rng(3).normal(0, 6, (128, 128, 3))
    drifted = Image.fromarray((np.asarray(sr_input) * 0.9 + 15 + grain).clip(0, 255).astype(np.uint8))
    fixed = np.asarray(fix_colors("lowfreq", drifted, sr_input, crop)).astype(float)
    assert np.abs(fixed.mean(axis=(0, 1)) - np.asarray(crop).mean(axis=(0, 1))).max() < 0.5
    fine = [
        one - np.asarray(Image.fromarray(one.astype(np.uint8)).reduce(8).resize((128, 128)))
        for one in (fixed, np.asarray(drifted).astype(float))
    ]
    assert fine[0].std() == pytest.approx(fine[1].std(), rel=0.1)


def test_backproject_makes_the_shrunk_output_equal_the_crop(output, sr_input, crop):
    fixed = fix_colors("backproject", output, sr_input, crop)
    shrunk = np.asarray(fixed.resize(crop.size, Image.Resampling.BICUBIC), int)
    assert np.abs(shrunk - np.asarray(crop)).max() <= BACKPROJECT_TOLERANCE


def test_backproject_ends_also_where_colours_cannot_be_reached(sr_input):
    crop = Image.new("RGB", (32, 32), "white")
    black_line = Image.new("RGB", (128, 128), "white")
    black_line.paste("black", (60, 0, 64, 128))
    fixed = np.asarray(fix_colors("backproject", black_line, sr_input, crop))
    assert fixed.min() > 150


@pytest.mark.parametrize("method", ["nofix", "adain", "wavelet", "lowfreq", "backproject"])
def test_pictures_too_large_for_floats_are_fixed_tile_by_tile_alike(method, monkeypatch):
    monkeypatch.setattr(color_fix, "TILE", 256)
    monkeypatch.setattr(color_fix, "OVERLAP", 192)
    noise = np.random.default_rng(1).normal(0, 3, (100, 90, 3)).cumsum(axis=0) + 120
    crop = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
    sr_input = enlarge(crop, (360, 400))
    grain = np.random.default_rng(2).normal(10, 9, (400, 360, 3))
    output = Image.fromarray((np.asarray(sr_input) + grain).clip(0, 255).astype(np.uint8))
    whole = np.asarray(fix_colors(method, output, sr_input, crop)).astype(int)
    by_tiles = np.asarray(fix_colors_of_whole(method, output, sr_input, crop)).astype(int)
    if method == "backproject":  # whose rounds differ from tile to tile, but not what they promise
        shrunk = fix_colors_of_whole(method, output, sr_input, crop).resize(
            crop.size, Image.Resampling.BICUBIC
        )
        assert np.abs(np.asarray(shrunk).astype(int) - np.asarray(crop)).max() <= BACKPROJECT_TOLERANCE + 1
    else:
        assert np.abs(whole - by_tiles).max() <= 1


def test_tiles_that_would_begin_close_to_each_other_make_no_error(crop):
    noise = np.random.default_rng(1).normal(0, 2, (260, 300, 3)).cumsum(axis=0) + 120
    large = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
    sr_input = enlarge(large, (1200, 1040))
    grain = np.random.default_rng(2).normal(10, 9, (1040, 1200, 3))
    output = Image.fromarray((np.asarray(sr_input) + grain).clip(0, 255).astype(np.uint8))
    whole = np.asarray(fix_colors("wavelet", output, sr_input, large)).astype(int)
    tiled = np.asarray(fix_colors_of_whole("wavelet", output, sr_input, large)).astype(int)
    assert np.abs(whole - tiled).max() <= 1

"""Texture: grain by place, from the states before."""

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from zoom.texture import CELLS, Ancestor, add_texture, look_at, surface
from zoom.window import View


def view(left, top, width, height=None) -> View:
    return View(*map(Fraction, (left, top, width, height or width)))


def grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(values.clip(0, 255)).astype(np.uint8)).convert("RGB")


WHOLE, MIDDLE = view(0, 0, 512), view(192, 192, 128)
GRAVEL = 128 + 20 * np.random.default_rng(0).standard_normal((512, 512))
PLAIN = np.full((512, 512), 120.0)


def ancestors(*states: np.ndarray) -> list[Ancestor]:
    """Of states that each show the middle of the one before."""
    views = [view(256 - 256 / 4**k, 256 - 256 / 4**k, 512 / 4**k) for k in range(len(states))]
    return [look_at(grey(state), of) for state, of in zip(states, views, strict=True)]


def noise_of(textured: Image.Image, crop: Image.Image) -> np.ndarray:
    return np.asarray(textured).astype(float)[..., 1] - np.asarray(crop).astype(float)[..., 1]


CROP = Image.new("RGB", (128, 128), (120, 120, 120))
DEEP = view(240, 240, 32)  # the middle of a state 1 that shows the middle quarter


def test_a_place_whose_ancestors_were_textured_gets_grain_and_its_mean_stays():
    grain = noise_of(add_texture(CROP, DEEP, ancestors(GRAVEL, GRAVEL), 1, 0.5), CROP)
    assert 3 < grain.std() < 6
    assert abs(grain.mean()) < 0.3


def test_where_a_state_was_flat_nothing_is_added_however_rough_the_picture_is_elsewhere():
    textured = add_texture(CROP, DEEP, ancestors(GRAVEL, PLAIN), 1, 1.0)
    assert np.array_equal(np.asarray(textured), np.asarray(CROP))


def test_a_slow_gradient_is_flat():
    slope = np.tile(np.linspace(40, 200, 512), (512, 1))
    textured = add_texture(CROP, DEEP, ancestors(slope, slope), 1, 1.0)
    assert np.array_equal(np.asarray(textured), np.asarray(CROP))


@pytest.mark.parametrize("turned", [False, True])
def test_a_straight_edge_is_no_texture(turned):
    edge = np.where(np.arange(512) < 260, 30.0, 220.0)[None].repeat(512, axis=0)
    edge = edge.T if turned else edge
    assert look_at(grey(edge), WHOLE).energy.max() < 1, "of 190 grey levels"


def test_grain_comes_by_place_where_only_a_part_is_rough():
    half = np.where(np.arange(512)[None] < 256, GRAVEL, PLAIN)
    grain = noise_of(add_texture(CROP, DEEP, ancestors(GRAVEL, half), 1, 0.5), CROP)
    assert grain[:, :40].std() > 2
    assert grain[:, 112:].std() < 0.2


def test_more_strength_is_more_grain_and_none_is_the_crop_itself():
    of = ancestors(GRAVEL, GRAVEL)
    spreads = [noise_of(add_texture(CROP, DEEP, of, 1, strength), CROP).std() for strength in (0, 0.3, 0.6)]
    assert spreads[0] == 0
    assert spreads[2] == pytest.approx(2 * spreads[1], rel=0.1)


def test_grain_has_the_colour_of_its_place():
    red = Image.new("RGB", (128, 128), (200, 50, 20))
    textured = np.asarray(add_texture(red, DEEP, ancestors(GRAVEL, GRAVEL), 1, 0.5)).astype(float)
    spreads = textured.std(axis=(0, 1))
    assert spreads[0] > 2 * spreads[1] > 3 * spreads[2]
    assert np.corrcoef(textured[..., 0].ravel(), textured[..., 1].ravel())[0, 1] > 0.8


SPECTRA = [one.spectrum for one in ancestors(GRAVEL, GRAVEL)]


def test_neighbouring_windows_show_one_and_the_same_surface():
    """Two windows of one pitch, 20.25 pixels apart: the second's phase is another."""
    ours = surface((128, 128), view(100, 80, 64), SPECTRA, 7)
    theirs = surface((128, 128), view(110, 85, 64), SPECTRA, 7)  # 20 and 10 pixels away
    assert np.allclose(ours[10:, 20:], theirs[:-10, :-20], atol=1e-2)
    between = surface((128, 128), view(Fraction(801, 8), 80, 64), SPECTRA, 7)  # a quarter of a pixel
    assert 0.5 < np.corrcoef(ours.ravel(), between.ravel())[0, 1] < 1


def test_every_seed_and_place_has_a_surface_of_its_own():
    one, other, there = (
        surface((64, 64), where, SPECTRA, seed)
        for where, seed in ((view(0, 0, 64), 1), (view(0, 0, 64), 2), (view(CELLS, 0, 64), 1))
    )
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.2
    assert abs(np.corrcoef(one.ravel(), there.ravel())[0, 1]) < 0.2


def test_grain_has_unit_spread_and_leaves_coarse_waves_to_the_crop():
    grain = surface((256, 256), view(0, 0, 256), SPECTRA, 3)
    assert grain.std() == pytest.approx(1, rel=0.15)
    coarse = grain.reshape(8, 32, 8, 32).mean(axis=(1, 3))
    assert coarse.std() < 0.05


def test_grain_keeps_the_direction_of_the_ancestors_texture():
    rng = np.random.default_rng(1)
    hair = 128 + 25 * rng.standard_normal((512, 1)).repeat(512, axis=1)  # runs from left to right
    hair += 4 * rng.standard_normal((512, 512))
    grain = surface((128, 128), view(0, 0, 128), [look_at(grey(hair), WHOLE).spectrum], 5)
    along = np.corrcoef(grain[:, :-3].ravel(), grain[:, 3:].ravel())[0, 1]
    across = np.corrcoef(grain[:-3].ravel(), grain[3:].ravel())[0, 1]
    assert along > across + 0.2


def test_no_lattice_shows_in_the_grain():
    """Autocorrelation beyond eight pixels: no peak."""
    grain = surface((256, 256), view(0, 0, 256), SPECTRA, 9)
    spectrum = np.abs(np.fft.fft2(grain - grain.mean())) ** 2
    alike = np.fft.ifft2(spectrum).real
    alike /= alike[0, 0]
    shift = np.fft.fftfreq(256, 1 / 256)
    far = np.hypot(*np.meshgrid(shift, shift)) > 8
    assert alike[far].max() < 0.2


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (768, 512)])
def test_states_of_every_size_are_looked_at(size):
    seen = look_at(Image.effect_noise(size, 60).convert("RGB"), WHOLE)
    assert seen.energy.shape == (size[1] // 16, size[0] // 16)
    assert (seen.energy > 5).all()

"""What is said of a state: how far it keeps to its crop, and how much texture it shows."""

import numpy as np
import pytest
from PIL import Image

from zoom.measure import MOST_DECIBELS, consistency, texture


def flat(side: int, level: int) -> Image.Image:
    return Image.new("RGB", (side, side), (level,) * 3)


def test_a_state_that_shrinks_to_its_crop_is_as_consistent_as_can_be():
    assert consistency(flat(64, 90), flat(16, 90)) == MOST_DECIBELS


def test_consistency_is_the_peak_signal_to_noise_ratio_against_the_crop():
    assert consistency(flat(64, 100), flat(16, 90)) == pytest.approx(10 * np.log10(255**2 / 100), abs=0.01)


def test_consistency_heeds_every_channel():
    state, crop = Image.new("RGB", (8, 8), (10, 10, 40)), Image.new("RGB", (4, 4), (10, 10, 10))
    assert consistency(state, crop) == pytest.approx(10 * np.log10(255**2 / 300), abs=0.01)


def test_a_flat_state_and_a_slow_gradient_have_no_texture():
    gradient = np.tile(np.linspace(0, 255, 512), (512, 1))[..., None].repeat(3, axis=-1)
    assert texture(flat(64, 77)) == 0
    assert texture(Image.fromarray(gradient.astype(np.uint8))) < 1


def test_texture_is_the_spread_of_what_the_blur_takes_away():
    grain = np.random.default_rng(0).normal(128, 10, (256, 256, 1)).repeat(3, axis=-1)
    assert texture(Image.fromarray(grain.round().astype(np.uint8))) == pytest.approx(10, rel=0.05)

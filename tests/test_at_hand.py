"""Which checkpoints are at hand."""

import pytest
from conftest import PARITY

from checkpoints import catalogue
from checkpoints.catalogue import SD3, SR_LORA, SR_VAE, VLM
from command import at_hand

CACHED = {SD3.repository: PARITY / "sd3", VLM.repository: PARITY / "qwen"}


@pytest.fixture
def nothing(monkeypatch):
    monkeypatch.setattr(at_hand, "cached_folder", lambda name: None)
    monkeypatch.setattr(catalogue, "missing_files", lambda one: list(one.files))


def test_what_a_purpose_needs_and_is_not_here_is_missing(nothing):
    assert at_hand.missing("null") == [SD3, SR_LORA, SR_VAE]
    assert at_hand.missing("all") == list(catalogue.CATALOGUE)


def test_a_model_that_is_whole_in_the_hubs_cache_is_at_hand(nothing, monkeypatch):
    monkeypatch.setattr(at_hand, "cached_folder", CACHED.get)
    assert at_hand.missing("null") == [SR_LORA, SR_VAE]
    assert at_hand.is_at_hand(VLM)


def test_a_model_that_is_in_the_hubs_cache_in_part_is_missing(nothing, monkeypatch, tmp_path):
    monkeypatch.setattr(at_hand, "cached_folder", lambda name: tmp_path)
    assert SD3 in at_hand.missing("null")
    assert VLM in at_hand.missing("vlm")

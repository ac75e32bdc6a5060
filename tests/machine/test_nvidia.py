"""NVIDIA's GPUs as their driver tells of them, and drivers that are too old for a build of torch."""

import subprocess

import pytest

from machine import nvidia
from machine.nvidia import Gpu, gpus_in, newest_cuda, nvidia_gpus, why_driver_is_too_old


@pytest.mark.parametrize(
    ("driver", "cuda"),
    [
        ("580.65.06", "13.0"),
        ("595.1", "13.2"),
        ("580.65.06", "12.8"),
        ("525.60.13", "12.6"),
        ("450.80", "11.8"),
    ],
)
def test_a_driver_runs_every_build_of_its_cuda_and_of_older_ones(driver, cuda):
    assert why_driver_is_too_old(driver, cuda) == ""


@pytest.mark.parametrize(
    ("driver", "cuda", "wanted"),
    [("575.57.08", "13.0", "580"), ("470.223.02", "12.1", "525"), ("418.39", "11.8", "450")],
)
def test_a_driver_older_than_the_cuda_of_torch_is_named_with_what_it_wants(driver, cuda, wanted):
    why = why_driver_is_too_old(driver, cuda)
    assert f"driver {driver} is too old" in why
    assert f"CUDA {cuda} wants {wanted} or newer" in why


@pytest.mark.parametrize(
    ("driver", "cuda"), [("", "13.0"), ("N/A", "13.0"), ("535.1", ""), ("535.1", "99.0")]
)
def test_what_is_not_known_is_not_called_too_old(driver, cuda):
    assert why_driver_is_too_old(driver, cuda) == ""


def test_the_driver_says_which_gpus_there_are():
    answer = "NVIDIA GeForce RTX 4090, 550.54.14, 24564\nA, card, 550.54.14, [N/A]\nno devices were found\n"
    assert gpus_in(answer) == [
        Gpu("NVIDIA GeForce RTX 4090", "550.54.14", 24564 * 2**20),
        Gpu("A, card", "550.54.14", None),
    ]


def test_the_oldest_driver_decides_which_cuda_runs():
    assert newest_cuda([Gpu("a", "580.1", None)]) == 13
    assert newest_cuda([Gpu("a", "580.1", None), Gpu("b", "535.1", None)]) == 12
    assert newest_cuda([Gpu("a", "390.1", None)]) is None
    assert newest_cuda([]) is None


@pytest.mark.parametrize(
    "failure",
    [
        subprocess.CalledProcessError(9, "nvidia-smi"),
        subprocess.TimeoutExpired("nvidia-smi", 1),
        PermissionError(13, "no"),
    ],
)
def test_a_driver_that_does_not_answer_has_no_gpus(monkeypatch, failure):
    def fail(*args, **kwargs):
        raise failure

    monkeypatch.setattr(nvidia.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(nvidia.subprocess, "run", fail)
    assert nvidia_gpus() == []

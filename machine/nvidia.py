"""NVIDIA's GPUs as their driver tells of them, without torch; and what a build of torch wants of a driver."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

# The oldest driver for each major version of CUDA, within which minor ones are compatible
# (docs.nvidia.com/deploy/cuda-compatibility, tables of minor version compatibility).
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
WAIT = 20  # seconds; a driver that hangs answers nobody


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        name: as NVIDIA calls it.
        driver: its driver's version, such as ``535.129.03``.
        memory: bytes; None where the driver does not say.
    """

    name: str
    driver: str
    memory: int | None


def nvidia_gpus() -> list[Gpu]:
    """Return what ``nvidia-smi`` says is here; nothing where it is not, or does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=WAIT, check=True)
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
    return gpus_in(done.stdout)


def gpus_in(answer: str) -> list[Gpu]:
    """Read what ``nvidia-smi`` answers: a line a GPU of name, driver and MiB; other lines are passed over."""
    found = []
    for line in answer.splitlines():
        parts = [part.strip() for part in line.rsplit(",", 2)]
        if len(parts) == 3 and major_of(parts[1]) is not None:
            megabytes = int(parts[2]) if parts[2].isascii() and parts[2].isdecimal() else None
            found.append(Gpu(parts[0], parts[1], megabytes and megabytes * 2**20))
    return found


def why_driver_is_too_old(driver: str, cuda: str) -> str:
    """Say why a driver cannot run a build of torch; empty where it can, or where nothing is known.

    Args:
        driver: its version.
        cuda: that torch was built for (``torch.version.cuda``), such as ``13.0``.
    """
    has, built_for = major_of(driver), major_of(cuda)
    wanted = OLDEST_DRIVER.get(built_for or 0)
    if has is None or wanted is None or has >= wanted:
        return ""
    return f"the NVIDIA driver {driver} is too old for this torch: CUDA {cuda} wants {wanted} or newer"


def newest_cuda(gpus: Sequence[Gpu]) -> int | None:
    """Return the newest major version of CUDA that a driver runs; None where it runs none that is known."""
    drivers = [major_of(gpu.driver) or 0 for gpu in gpus]
    runs = [cuda for cuda, oldest in OLDEST_DRIVER.items() if drivers and min(drivers) >= oldest]
    return max(runs, default=None)


def major_of(version: str) -> int | None:
    """Return the number that a version begins with; None where it is none."""
    match = re.match(r"[0-9]{1,9}(?=\.|$)", version)
    return int(match[0]) if match else None

"""``--check``: what is here of all that the program can use, and what can run with it.

Needs nothing but Python itself: everything else is imported where it is looked at, and what does not import
is a line of the report. What can be said without torch is said before it is imported.
"""

import logging
import os
import platform
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from checkpoints import catalogue
from checkpoints.catalogue import Checkpoint
from checkpoints.hashing import checkpoint_sha256
from checkpoints.places import CKPT, QUANTIZED
from command.can_run import ONNX, Found, Torch, Verdict, install_command, verdicts
from command.console import ALL_DONE, SOME_FAILED, say
from command.pins import Pin, fits, pins, version_of
from errors import InputError
from machine.disk import free_at
from machine.nvidia import Gpu, nvidia_gpus

if TYPE_CHECKING:
    from int8.find_parts import QuantizedParts

log = logging.getLogger(__name__)


def check_up(out: Path) -> int:
    """Look at everything, and report.

    Args:
        out: where results would go.

    Returns:
        The exit code: 0 where the embedded network can run, and nothing that is here is broken.
    """
    found = Found()
    _say("python", [f"{platform.python_version()}, {platform.system()} {platform.machine()}"])
    wanted = pins()
    found.missing = [pin.name for pin in wanted if pin.installed is None]
    found.gpus = nvidia_gpus()
    found.onnx = [package for package in ONNX if version_of(package) is not None]
    _say("packages", _about_packages(wanted, install_command(found.gpus, found.onnx)))
    _say("machine", _about_machine(found.gpus))
    _say("disk", _about_disk(out))
    _say("ckpt", _about_checkpoints(found))
    _say("int8", _about_quantized(found))
    found.torch = look_at_torch()
    found.torch_versions = next((pin.versions for pin in wanted if pin.name == "torch"), "")
    _say("torch", _about_torch(found.torch, found.torch_versions))
    results = verdicts(found)
    _say("can run", [_in_words(verdict) for verdict in results])
    works = not results[0].why_not and not any(verdict.broken for verdict in results)
    works &= not found.wrong and not found.broken_parts
    return ALL_DONE if works else SOME_FAILED


def _say(heading: str, lines: Iterable[str]) -> None:
    """Print lines as they come: to hash a checkpoint may take a minute."""
    for number, line in enumerate(lines):
        say(f"{'' if number else heading:<10} {line}")


def _in_words(verdict: Verdict) -> str:
    if not verdict.why_not:
        return f"{verdict.name:<10} yes"
    return f"{verdict.name:<10} no: {verdict.why_not}{': ' if verdict.command else ''}{verdict.command}"


def _about_packages(wanted: Sequence[Pin], install: str) -> Iterator[str]:
    missing = [pin.name for pin in wanted if pin.installed is None]
    others = [pin for pin in wanted if pin.installed is not None and not fits(pin.installed, pin.versions)]
    yield f"{len(wanted) - len(missing) - len(others)} of {len(wanted)} as they were tested"
    if missing:
        yield f"not installed: {', '.join(missing)}: {install}"
    for pin in others:
        yield f"{pin.name} {pin.installed}: was not tested, {pin.versions.removeprefix('==')} was"


def _about_machine(gpus: Sequence[Gpu]) -> Iterator[str]:
    cores = f"{os.cpu_count() or '?'} cores"
    try:
        from machine.memory import room_on

        room = room_on("cpu")
        yield f"{cores}, {room.free / 1e9:.1f} GB of {room.total / 1e9:.1f} GB of memory free"
    except ImportError as error:
        yield f"{cores}; memory not known: {_first_line(error)}"
    for gpu in gpus:
        memory = f", {gpu.memory / 1e9:.1f} GB" if gpu.memory else ""
        yield f"{gpu.name}{memory}, driver {gpu.driver}"


def _about_disk(out: Path) -> Iterator[str]:
    for what, folder in (("results", out), ("checkpoints", CKPT)):
        yield f"{free_at(folder) / 1e9:.1f} GB are free for {what}, in {folder}"


def _about_checkpoints(found: Found) -> Iterator[str]:
    """Look at every checkpoint, noting what is found; gigabytes are hashed once."""
    absent: list[Checkpoint] = []
    for checkpoint in catalogue.CATALOGUE:
        try:
            lacking = _what_lacks(checkpoint)
            problem = _wrong_file(checkpoint) or ("" if lacking else _wrong_model(checkpoint))
        except ImportError as error:
            found.unknown = f"{_first_line(error)}, so nobody can tell what the hub's cache holds"
            yield f"{checkpoint.name:<26} not known: {_first_line(error)}"
            continue
        if problem:
            found.wrong[checkpoint] = problem
            yield f"{checkpoint.name:<26} wrong: {problem}"
        elif lacking:
            absent.append(checkpoint)
            yield f"{checkpoint.name:<26} {lacking}"
        else:
            yield f"{checkpoint.name:<26} right"
    found.absent = absent


def _what_lacks(checkpoint: Checkpoint) -> str:
    """Say what of a checkpoint is not here; empty where all is."""
    if checkpoint.in_ckpt:
        missing = catalogue.missing_files(checkpoint)
        if len(missing) == len(checkpoint.files):
            return "not here"
        return f"without {', '.join(file.place.name for file in missing)}" if missing else ""
    from checkpoints.hub import cached_folder
    from command.at_hand import is_at_hand

    if is_at_hand(checkpoint):
        return ""
    return (
        "not here"
        if cached_folder(checkpoint.repository) is None
        else "not whole: its download has not ended"
    )


def _wrong_file(checkpoint: Checkpoint) -> str:
    """Say which of a checkpoint's files in ``ckpt/`` is not the published one; empty where none is."""
    for file in checkpoint.files:
        if not file.place.is_file():
            continue
        try:
            size = file.place.stat().st_size
            if file.size is not None and size != file.size:
                return f"{file.place} has {size:,} bytes, not {file.size:,}"
            with _bar(file.place, size) as came:
                digest = checkpoint_sha256(file.place, came)
            if digest != file.sha256:
                return f"{file.place} is not the published file, by its SHA-256"
        except OSError as error:
            return f"{file.place} cannot be read ({error.strerror})"
    return ""


@contextmanager
def _bar(file: Path, size: int) -> Iterator[Callable[[int], None]]:
    """Show how far a file is hashed, where it takes long and there is a terminal."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda count: None
        return
    bars: list[tqdm] = []

    def came(count: int) -> None:
        if not bars:  # it is hashed, and not remembered
            bars.append(
                tqdm(total=size, desc=file.name, unit="B", unit_scale=True, disable=None, leave=False)
            )
        bars[0].update(count)

    try:
        yield came
    finally:
        for bar in bars:
            bar.close()


def _wrong_model(checkpoint: Checkpoint) -> str:
    """Say what is wrong with a model in the hub's cache by its headers; its files' names carry their sums."""
    if checkpoint.in_ckpt:
        return ""
    from command.at_hand import CHOICES

    try:
        CHOICES[checkpoint.name].check(checkpoint.repository)
    except InputError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or checkpoint.repository} cannot be read ({error.strerror})"
    return ""


def _about_quantized(found: Found) -> Iterator[str]:
    from int8.find_parts import read_parts

    parts: QuantizedParts = read_parts(QUANTIZED)
    found.quantized, found.broken_parts = len(parts.records), list(parts.refused.values())
    yield f"{', '.join(parts.records) or 'no part'} in {QUANTIZED}"
    for why in found.broken_parts:
        yield f"wrong: {why}"


def look_at_torch() -> Torch:
    """Import torch and what the embedded network needs; whatever these raise becomes a line."""
    try:
        import torch
    except Exception as error:  # a library that does not load raises an OSError
        return Torch(_first_line(error))
    found = Torch(cuda=torch.version.cuda)
    try:
        with warnings.catch_warnings(action="ignore"):  # of a driver that is too old: a line here, too
            if torch.cuda.is_available():
                numbers = range(torch.cuda.device_count())
                found.devices = [torch.cuda.get_device_name(number) for number in numbers]
            elif torch.backends.mps.is_available():
                found.devices = ["Apple GPU"]
    except Exception as error:  # a driver may do anything
        log.debug("GPUs cannot be counted: %s", error)
    found.embedded = _why_not_embedded()
    return found


def _why_not_embedded() -> str:
    try:
        import command.zooming  # noqa: F401 (and with it all that a run imports)
        import viewer.page  # noqa: F401
        from plain_sr.rrdbnet import REALSR, X4PLUS, read_file

        for weights in (X4PLUS, REALSR):
            read_file(weights)
    except InputError as error:
        return str(error)
    except Exception as error:  # any of them may not import, in its own way
        return _first_line(error)
    return ""


def _about_torch(torch: Torch, tested: str) -> Iterator[str]:
    if torch.problem:
        yield f"does not import: {torch.problem}"
        return
    version = version_of("torch") or "?"
    builds = f"built for CUDA {torch.cuda}" if torch.cuda else "not built for NVIDIA's GPUs"
    outside = "" if fits(version, tested) else f"; outside of what was tested ({tested})"
    yield f"{version}, {builds}{outside}"
    yield f"computes on {', '.join(torch.devices) or 'the CPU'}"


def _first_line(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{error.name} is not installed"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__

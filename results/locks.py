"""One run at a time in an output folder, or several shards of one run.

A run holds OUT/.lock. A shard holds OUT/.lock-K-of-N, and looks into the other locks when it starts: no run
may hold the folder, and no shard of another N. Both take their own first and look then, so that of two that
start together at least one sees the other.
"""

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import filelock

from errors import InputError
from machine.interrupts import held
from results.shards import Shard

log = logging.getLogger(__name__)

LOCK, JOIN = ".lock", ".lock-join"
PATIENCE = 5.0  # seconds: another shard looks into a lock for a moment only
LONGEST = 600.0  # seconds that a look at all reports may take


@contextlib.contextmanager
def joining(root: Path) -> Iterator[None]:
    """Let one process at a time look after the reports of all shards; the others wait.

    Raises:
        InputError: another takes longer than `LONGEST` for it.
    """
    file = root / JOIN
    lock = filelock.FileLock(file, timeout=LONGEST)
    try:
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise InputError(f"{file}: is held by another process; end that first") from error
        except (OSError, NotImplementedError) as error:
            log.info("%s: cannot be locked (%s)", root, error)
        yield
    finally:
        lock.release()


def shards_at_work(root: Path, but: Shard | None = None) -> list[Shard]:
    """Return the shards that are at work in a folder, `but` one."""
    tags = (file.name.removeprefix(f"{LOCK}-") for file in root.glob(f"{LOCK}-*"))
    shards = [shard for shard in map(Shard.tagged, tags) if shard is not None and shard != but]
    return [shard for shard in shards if not _is_free(root / f"{LOCK}-{shard.tag}", 0)]


@contextlib.contextmanager
def locked(root: Path, shard: Shard | None) -> Iterator[bool]:
    """Keep every other run out of a folder, but for the other shards of this one.

    Args:
        root: the folder.
        shard: None for a run that is none.

    Yields:
        Whether an earlier run was killed here.

    Raises:
        InputError: another run is writing here.
    """
    file = root / (LOCK if shard is None else f"{LOCK}-{shard.tag}")
    lock = filelock.FileLock(file, blocking=False)
    was_killed = os.path.lexists(file)  # others take theirs away
    if shard is None:
        was_killed |= any(root.glob(f"{LOCK}-*"))
    try:
        try:
            with held():  # a signal in between would leave the file behind
                lock.acquire()
            _refuse_others(root, shard)
        except filelock.Timeout as error:
            what = "another run" if shard is None else f"shard {shard.number}/{shard.count} already"
            raise InputError(f"{root}: {what} is writing here") from error
        except (OSError, NotImplementedError) as error:  # some network file systems
            log.info("%s: cannot be locked (%s)", root, error)
        yield was_killed
    finally:
        with held():
            if lock.is_locked:  # it refuses to lock a file that is gone: nothing races
                with contextlib.suppress(OSError):  # Windows removes no file that is open
                    Path(lock.lock_file).unlink()
            lock.release()


def _refuse_others(root: Path, shard: Shard | None) -> None:
    """Look into the locks that must be free.

    Raises:
        InputError: one is not.
    """
    if shard is not None and not _is_free(root / LOCK, PATIENCE):
        raise InputError(f"{root}: another run is writing here")
    for other in shards_at_work(root, shard):
        if shard is None or other.count != shard.count:
            who = f"shard {other.number} of {other.count}"
            raise InputError(f"{root}: {who} is writing here")


def _is_free(file: Path, patience: float) -> bool:
    """Tell whether nobody holds a lock, by taking it for a moment."""
    until = time.monotonic() + patience
    while file.exists():
        lock = filelock.FileLock(file, blocking=False)
        try:
            with held():
                lock.acquire()
                lock.release()
            return True
        except filelock.Timeout:
            if time.monotonic() >= until:
                return False
            time.sleep(0.05)
    return True

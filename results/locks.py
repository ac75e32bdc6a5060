"""One run at a time in an output folder, or several shards of one run.

A run holds OUT/.lock, a shard OUT/.lock-K-of-N, as long as it is at work. Whoever starts or ends does so
behind OUT/.lock-door, one at a time: there it takes its own lock, sees that no other is held that must not
be, and looks after what earlier runs have left. So nobody is half-way in or out when another looks, and the
last shard to leave knows that it is.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import filelock

from errors import InputError
from machine.interrupts import held
from results.shards import Shard

log = logging.getLogger(__name__)

LOCK, DOOR = ".lock", ".lock-door"
Sweep = Callable[[Shard | None], None]
IsFree = Callable[[Shard | None], bool]


class Entered:
    """What a run knows that has taken its lock.

    Attributes:
        was_killed: an earlier run was killed in this folder.
        alone: no other shard is at work.
    """

    def __init__(self, door: filelock.BaseFileLock, was_killed: bool, alone: bool) -> None:
        self._door, self.was_killed, self.alone = door, was_killed, alone

    def begun(self) -> None:
        """Let others in: what earlier runs have left is taken up."""
        self._door.release()


@contextlib.contextmanager
def locked(
    root: Path, shard: Shard | None, sweep: Sweep, last: Callable[[], None] | None = None
) -> Iterator[Entered]:
    """Keep every other run out of a folder, but for the other shards of this one.

    Args:
        root: the folder.
        shard: None for a run that is none.
        sweep: called with the lock of another run or shard that was killed, held, before it is taken away.
        last: called where a shard ends well and no other is at work; nobody starts meanwhile.

    Raises:
        InputError: another run is writing here.
    """
    file, is_free = _lock_of(root, shard), partial(_is_free, root, sweep)
    door, lock = filelock.FileLock(root / DOOR), filelock.FileLock(file, blocking=False)
    try:
        _acquire(door)
        was_killed = os.path.lexists(file)  # others take theirs away
        if shard is None:
            was_killed |= bool(_shards_with_locks(root))
        try:
            with held():  # a signal in between would leave the file behind
                _acquire(lock)
        except filelock.Timeout as error:
            raise _taken(root, shard) from error
        yield Entered(door, was_killed, alone=_refuse_others(root, shard, is_free))
        if not door.is_locked:
            _acquire(door)
        _release(lock)
        if last is not None and not _at_work(root, shard, is_free):
            last()
    finally:
        _release(lock)
        with contextlib.suppress(filelock.Timeout):  # somebody is there, who takes its file away
            if not door.is_locked:
                _acquire(door, wait=False)
            _release(door, keep=bool(_shards_with_locks(root)))


def look_into(root: Path, shard: Shard | None) -> bool:
    """Refuse what `locked` would refuse just now, and leave every lock's file as it is.

    Args:
        root: the folder; need not be there.
        shard: None for a run that is none.

    Returns:
        Whether no other shard is at work.

    Raises:
        InputError: another run is writing here.
    """
    is_free = partial(_seems_free, root)
    if not is_free(shard):
        raise _taken(root, shard)
    return _refuse_others(root, shard, is_free)


def _taken(root: Path, shard: Shard | None) -> InputError:
    what = "another run" if shard is None else f"shard {shard.number} of {shard.count} already"
    return InputError(f"{root}: {what} is writing here")


def _acquire(lock: filelock.BaseFileLock, wait: bool = True) -> None:
    """Take a lock.

    Raises:
        filelock.Timeout: another holds it, and it does not wait.
    """
    try:
        lock.acquire(blocking=None if wait else False)
    except filelock.Timeout:
        raise
    except (OSError, NotImplementedError) as error:  # some network file systems
        log.info("%s: cannot be locked (%s)", lock.lock_file, error)


def _release(lock: filelock.BaseFileLock, keep: bool = False) -> None:
    """Give a lock back, and take its file away."""
    with held():
        if lock.is_locked and not keep:  # filelock refuses to lock a file that is gone: nothing races
            with contextlib.suppress(OSError):  # Windows removes no file that is open
                Path(lock.lock_file).unlink()
        lock.release()


def _refuse_others(root: Path, shard: Shard | None, is_free: IsFree) -> bool:
    """Look into the locks that must be free; tell whether all are.

    Raises:
        InputError: one that must be free is not.
    """
    if shard is not None and not is_free(None):
        raise InputError(f"{root}: another run is writing here")
    others = _at_work(root, shard, is_free)
    for other in others:
        if shard is None or other.count != shard.count:
            raise InputError(f"{root}: shard {other.number} of {other.count} is writing here")
    return not others


def _at_work(root: Path, but: Shard | None, is_free: IsFree) -> list[Shard]:
    """Return the shards that are at work in a folder, `but` one."""
    shards = [shard for shard in _shards_with_locks(root) if shard != but]
    return [shard for shard in shards if not is_free(shard)]


def _shards_with_locks(root: Path) -> list[Shard]:
    tags = [file.name.removeprefix(f"{LOCK}-") for file in root.glob(f"{LOCK}-*")]
    return [shard for shard in map(Shard.tagged, tags) if shard is not None]


def _is_free(root: Path, sweep: Sweep, shard: Shard | None) -> bool:
    """Tell whether nobody holds a lock, by taking it for a moment; what a killed run left is taken away."""
    file = _lock_of(root, shard)
    if not file.exists():
        return True
    lock = filelock.FileLock(file, blocking=False)
    try:
        _acquire(lock)
    except filelock.Timeout:
        return False
    try:
        if lock.is_locked:  # where nothing can be locked, the shard may be at work
            sweep(shard)  # who comes next finds no lock, and would not know that there is something left
    finally:
        _release(lock)
    return True


def _seems_free(root: Path, shard: Shard | None) -> bool:
    """Tell whether nobody holds a lock; its file is neither made nor taken away."""
    try:
        with _lock_of(root, shard).open("r+b") as file:  # closing it gives the lock back
            return filelock.lock_descriptor(file.fileno(), blocking=False)
    except OSError:  # there is none, or nothing can be locked here
        return True


def _lock_of(root: Path, shard: Shard | None) -> Path:
    return root / (LOCK if shard is None else f"{LOCK}-{shard.tag}")

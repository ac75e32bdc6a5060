"""What download_ckpt.py does: ask what is missing, name sizes and licences, check the disk, fetch, report."""

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from checkpoints import catalogue, places
from checkpoints.catalogue import HUB, Checkpoint
from checkpoints.hub import cached_folder
from checkpoints.transfer import TransferError, explain, status_of
from checkpoints.wanted import (
    CachedFile,
    State,
    WantedFile,
    cached_files,
    ckpt_file,
    files_on_hub,
    with_size,
)
from command.at_hand import CHOICES
from command.console import ALL_DONE, SOME_FAILED, say
from errors import InputError
from machine.disk import existing, free_at

log = logging.getLogger(__name__)

POLL = 0.5  # seconds between two looks at how far the transfers are
SPARE = 200_000_000  # bytes that stay free on a disk after a large download


@dataclass
class Stock:
    """What a purpose needs, file by file.

    Attributes:
        missing: files to fetch.
        right: number of files that are here, as published.
        unknown: number of files that are here, of a hash that is not known here.
        failures: why files cannot be had, and which: label by sentence.
    """

    missing: list[WantedFile] = field(default_factory=list)
    right: int = 0
    unknown: int = 0
    failures: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def fail(self, checkpoint: Checkpoint, label: str, error: BaseException) -> None:
        """Note why a file, or a whole model, cannot be had."""
        reason = explain(error, checkpoint.page, checkpoint.host == HUB)
        self.failures[f"{checkpoint.name}: {reason}"].append(label)


def gigabytes(size: int | None) -> str:
    """Write a number of bytes as people read it."""
    if size is None:
        return "size unknown"
    for unit, bytes_each in (("GB", 1e9), ("MB", 1e6)):
        if size >= bytes_each / 10:
            return f"{size / bytes_each:.1f} {unit}"
    return f"{size / 1e3:.1f} kB"


def download(purpose: str, mirror: str | None, jobs: int, quiet: bool) -> int:
    """Fetch what a purpose needs and is not here.

    Args:
        purpose: one of `checkpoints.catalogue.PURPOSES`, or ``all``.
        mirror: what stands in for https://github.com; None for itself.
        jobs: transfers at a time.
        quiet: whether only errors are said.

    Returns:
        The exit code.

    Raises:
        InputError: not enough room on the disk, or another download is at work.
    """
    with alone():
        stock = take_stock(catalogue.of_purpose(purpose), mirror, jobs)
        if stock.missing:
            if not quiet:
                _announce(stock.missing)
            refuse_too_little_space(stock.missing)
            _fetch_all(stock, jobs, quiet)
    for reason, labels in stock.failures.items():
        files = f" ({len(labels)} files)" if len(labels) > 1 else f" ({labels[0].rpartition('/')[2]})"
        say(f"download_ckpt.py: {reason}{files}", error=True)
    if stock.failures:
        return SOME_FAILED
    if not quiet:
        rest = f"; {stock.unknown} not compared (--verify asks the hub)" if stock.unknown else ""
        say(f"all there for {purpose}: {stock.right + len(stock.missing)} files as published{rest}")
    return ALL_DONE


@contextmanager
def alone() -> Iterator[None]:
    """Keep a second download away: both would fetch the same.

    Raises:
        InputError: another one is at work.
    """
    places.CKPT.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(places.INCOMING.with_suffix(".lock"), blocking=False):
            yield
    except Timeout:
        raise InputError(f"another download into {places.CKPT} is at work; wait for it") from None


def take_stock(checkpoints: Iterable[Checkpoint], mirror: str | None, jobs: int) -> Stock:
    """Find out what is here and what is missing; servers are asked only about what is missing."""
    stock = Stock()
    with _transfers(jobs) as pool:
        asked = {one: pool.submit(_files_of, one, mirror) for one in checkpoints}
        for checkpoint, answer in asked.items():
            try:
                files = answer.result()
            except (OSError, TransferError) as error:
                stock.fail(checkpoint, "all its files", error)
                continue
            for file in files:
                _sort(stock, file)
        lengths = {file: pool.submit(with_size, file) for file in stock.missing}
        stock.missing = []
        for file, length in lengths.items():
            try:
                stock.missing.append(length.result())
            except OSError as error:
                stock.fail(file.checkpoint, file.label, error)
    return stock


@contextmanager
def _transfers(jobs: int) -> Iterator[ThreadPoolExecutor]:
    """Give threads that Ctrl-C does not wait for: the next run goes on where they were."""
    pool = ThreadPoolExecutor(jobs)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _sort(stock: Stock, file: WantedFile) -> None:
    """Put a file where it belongs: to those that are right, not compared, missing, or in the way."""
    state = file.state()
    if state is State.MISSING or (state is State.WRONG and isinstance(file, CachedFile)):
        stock.missing.append(file)
    elif state is State.WRONG:
        there = f"{file.label} is there, but is {state.value}: move it away and run this again"
        stock.fail(file.checkpoint, file.label, TransferError(there))
    elif state is State.UNKNOWN:
        stock.unknown += 1
    else:
        stock.right += 1


def _files_of(checkpoint: Checkpoint, mirror: str | None) -> Sequence[WantedFile]:
    if checkpoint.in_ckpt:
        return [ckpt_file(checkpoint, file, mirror) for file in checkpoint.files]
    choice, folder = CHOICES[checkpoint.name], cached_folder(checkpoint.repository)
    if folder is not None and choice.is_whole(folder):
        return cached_files(checkpoint, choice.choose)
    return files_on_hub(checkpoint, choice.choose)


def _by_checkpoint(files: Iterable[WantedFile]) -> dict[Checkpoint, list[WantedFile]]:
    groups = defaultdict(list)
    for file in files:
        groups[file.checkpoint].append(file)
    return groups


def _total(files: Iterable[WantedFile]) -> int:
    return sum(file.size or 0 for file in files)


def _announce(files: Sequence[WantedFile]) -> None:
    """Say what comes, how much of it, and on which terms."""
    say(f"to fetch: {gigabytes(_total(files))} in {len(files)} files")
    for checkpoint, group in _by_checkpoint(files).items():
        gated = "; gated: its terms must be accepted on its page" if checkpoint.gated else ""
        say(f"  {checkpoint.name}, {gigabytes(_total(group))}, from {checkpoint.page}")
        say(f"    licence: {checkpoint.licence} ({checkpoint.terms}){gated}")


def refuse_too_little_space(files: Iterable[WantedFile]) -> None:
    """Refuse what the disks have no room for.

    Raises:
        InputError: with both numbers.
    """
    folders: dict[Path, list[WantedFile]] = defaultdict(list)
    for file in files:
        folders[places.CKPT if file.checkpoint.in_ckpt else file.place.parent].append(file)
    needed: dict[int, int] = defaultdict(int)
    where: dict[int, Path] = {}
    of_the_hub: set[int] = set()  # disks that files of the hub's cache go to
    for folder, group in folders.items():
        there = existing(folder)
        disk = there.stat().st_dev
        needed[disk] += sum(max(0, (file.size or 0) - file.came()) for file in group)
        where.setdefault(disk, there)
        if any(not file.checkpoint.in_ckpt for file in group):
            of_the_hub.add(disk)
    for disk, size in needed.items():
        free = free_at(where[disk])
        if size + min(SPARE, size) > free:
            elsewhere = ", or let the hub's cache lie on another disk (HF_HOME)" if disk in of_the_hub else ""
            raise InputError(
                f"{where[disk]}: {gigabytes(free)} are free, {gigabytes(size)} are to come: "
                f"make room{elsewhere}"
            )


def _fetch_all(stock: Stock, jobs: int, quiet: bool) -> None:
    """Fetch the missing files, several at a time, and show how far each and all of them are."""
    closed: set[Checkpoint] = set()  # of these nothing is given out
    active: list[WantedFile] = []

    def fetch(file: WantedFile) -> float | None:
        if file.checkpoint in closed:
            return None
        started = time.monotonic()
        active.append(file)
        try:
            file.fetch()
        except OSError as error:
            if status_of(error) in (401, 403):
                closed.add(file.checkpoint)
            raise
        finally:
            active.remove(file)
        return time.monotonic() - started

    for file in stock.missing:
        if file.place.is_file():  # and wrong: gone before threads read, since files of the hub share blobs
            file.discard()
    waiting = sorted(stock.missing, key=lambda file: file.size or 0)  # what is refused shows soon
    with _transfers(jobs) as pool, _Bars(waiting, quiet) as bars:
        running = {pool.submit(fetch, file): file for file in waiting}
        pending = set(running)
        while pending:
            done, pending = wait(pending, POLL)
            bars.show(active)
            for future in done:
                file, error = running[future], future.exception()
                if isinstance(error, OSError | TransferError):
                    stock.fail(file.checkpoint, file.label, error)
                elif error is not None:
                    raise error
                elif future.result() is not None:
                    bars.arrived(file, future.result() or 0.0)


class _Bars:
    """Progress of all files together, and of each that is on its way: read from the disk, where they grow."""

    def __init__(self, files: Sequence[WantedFile], quiet: bool) -> None:
        self._files, self._quiet, self._off = files, quiet, True if quiet else None
        self._bars: dict[WantedFile, tqdm] = {}

    def __enter__(self) -> "_Bars":
        self._all = self._bar("all", _total(self._files))
        return self

    def __exit__(self, *_: object) -> None:
        for bar in (*self._bars.values(), self._all):
            bar.close()

    def _bar(self, name: str, total: int | None) -> tqdm:
        return tqdm(
            desc=name, total=total, unit="B", unit_scale=True, leave=False, disable=self._off, smoothing=0.05
        )

    def show(self, active: Sequence[WantedFile]) -> None:
        """Draw how far the transfers are."""
        if self._all.disable:
            return
        now = list(active)
        for file in now:
            if file not in self._bars:
                self._bars[file] = self._bar(file.place.name, file.size)
            self._draw(self._bars[file], file.came())
        for file in [one for one in self._bars if one not in now]:
            self._bars.pop(file).close()
        self._draw(self._all, sum(file.came() for file in self._files))

    @staticmethod
    def _draw(bar: tqdm, came: int) -> None:
        bar.update(came - bar.n)
        bar.refresh()

    def arrived(self, file: WantedFile, seconds: float) -> None:
        """Say that a file is in its place."""
        if not self._quiet:
            with tqdm.external_write_mode():
                say(f"fetched {file.label} ({gigabytes(file.size)}, {seconds:.0f} s)")

"""What overlaps with the models: work done behind the caller's back, and work done ahead of it.

Threads, as encoding, decoding and files leave Python's lock to others. Everything that waits is bounded.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from threading import Condition, Thread
from types import TracebackType
from typing import Self, TypeVar

from machine.interrupts import held

T = TypeVar("T")
R = TypeVar("R")
Job = Callable[[], None]

THREADS = min(4, os.cpu_count() or 1)  # no network makes states faster than these encode them
MOST_WAITING = 64 * 2**20  # bytes of pictures that wait to be written, and as many that were read ahead
LEAST = 2**20  # bytes that anything that waits counts for, so that small ones are not without number


class Overlap:
    """Threads for work that need not be waited for, in a with block that ends when all is done.

    Args:
        threads: that work behind the caller's back; 0 does everything at once, where it is called.
        most: bytes that may wait.
    """

    def __init__(self, threads: int = 0, most: int = MOST_WAITING) -> None:
        self.threads, self.most = threads, most
        self._lanes: list[SimpleQueue[tuple[int, Job] | None]] = []
        self._running: list[Thread] = []
        self._room = _Room(most)
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        self._lanes = [SimpleQueue() for _ in range(self.threads)]
        self._running = [Thread(target=self._work, args=(lane,), daemon=True) for lane in self._lanes]
        for thread in self._running:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what is still to be done, also where the body raised.

        Raises:
            Exception: what a job raised, where the body did not raise.
        """
        with held():
            for lane in self._lanes:
                lane.put(None)
            for thread in self._running:
                thread.join()
        if error is None:
            self._raise()

    def later(self, key: str, size: int, job: Job) -> None:
        """Do a job soon; the jobs of one key in their order. Wait first, where too much is waiting already.

        Args:
            key: what the job belongs to.
            size: bytes that it keeps in memory until it is done.
            job: after one has raised, no other is done.

        Raises:
            Exception: what an earlier job raised.
        """
        if not self.threads:
            job()
            return
        size = max(size, LEAST)
        self._room.take(size)
        self._raise()
        self._lanes[hash(key) % len(self._lanes)].put((size, job))

    def wait(self) -> None:
        """Wait until every job is done.

        Raises:
            Exception: what one raised.
        """
        self._room.wait_until_empty()
        self._raise()

    def ahead(
        self, make: Callable[[T], R], items: Iterable[T], size: Callable[[R], int]
    ) -> contextlib.AbstractContextManager[Iterator[R]]:
        """Make something of every item, in a thread that runs ahead of who takes it.

        Args:
            make: is called in order.
            items: any number.
            size: bytes that what was made keeps in memory until it is taken.

        Returns:
            A context; in it, what was made, in order, and then what `make` raised.
        """
        if not self.threads:
            return contextlib.nullcontext(map(make, items))
        return _ahead(make, items, size, _Room(self.most))

    def _work(self, lane: "SimpleQueue[tuple[int, Job] | None]") -> None:
        while (next_one := lane.get()) is not None:
            size, job = next_one
            try:
                if self._error is None:
                    job()
            except BaseException as error:  # raised again where the next job comes from
                self._error = error
                self._room.close()
            del job, next_one  # and the pictures that they hold
            self._room.give_back(size)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


class _Room:
    """So many bytes, for which those who come wait; where nothing is, whatever comes finds room."""

    def __init__(self, most: int) -> None:
        self.most, self._taken, self._closed = most, 0, False
        self._changed = Condition()

    # a signal that raises between two locks would leave one of them locked

    def take(self, size: int) -> bool:
        """Wait for room, and take it; False where it was closed."""
        with held(), self._changed:
            self._changed.wait_for(lambda: self._closed or not self._taken or self._taken + size <= self.most)
            self._taken += size
            return not self._closed

    def give_back(self, size: int) -> None:
        with held(), self._changed:
            self._taken -= size
            self._changed.notify_all()

    def close(self) -> None:
        """Let nobody wait any more."""
        with held(), self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait_until_empty(self) -> None:
        with held(), self._changed:
            self._changed.wait_for(lambda: self._closed or not self._taken)


@contextlib.contextmanager
def _ahead(
    make: Callable[[T], R], items: Iterable[T], size: Callable[[R], int], room: _Room
) -> Iterator[Iterator[R]]:
    made: SimpleQueue[tuple[int, R] | BaseException | None] = SimpleQueue()

    def run() -> None:
        try:
            for item in items:
                one = make(item)
                taken = max(size(one), LEAST)
                if not room.take(taken):
                    return
                made.put((taken, one))
                del one
            made.put(None)
        except BaseException as error:  # raised again where it is waited for
            made.put(error)

    def take() -> Iterator[R]:
        while (one := made.get()) is not None:
            if isinstance(one, BaseException):
                raise one
            room.give_back(one[0])
            yield one[1]

    thread = Thread(target=run, daemon=True)
    try:
        with held():
            thread.start()
        yield take()
    finally:
        room.close()
        with held():
            if thread.ident is not None:  # a signal may have come first
                thread.join()

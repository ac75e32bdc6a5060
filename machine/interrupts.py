"""Ctrl-C and a polite kill (SIGTERM): one sentence, no leftovers, and the exit code that shells expect.

Installed by a script's first line, before anything slow is imported. The first signal raises `Interrupted`
where the program is; while a file is being put into its place it waits until that is done. A second
signal ends the process at once; a run's report then still says "running", which the next run reads as
interrupted.
"""

import contextlib
import os
import signal
import sys
from _thread import get_ident  # threading takes a while to import, and a signal may come meanwhile
from collections.abc import Iterator
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
MAIN_THREAD = get_ident()  # who imports this first


class Interrupted(KeyboardInterrupt):
    """A signal asked the program to end.

    Attributes:
        code: the exit code: 128 and the signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


class _State:
    """What the handler knows: one a process, as signals are."""

    came: int = 0  # the first signal's number
    holding: int = 0  # depth of `held` blocks


def listen(sentence: str) -> None:
    """End politely from here on, also while modules are being imported.

    Args:
        sentence: to say where nobody catches `Interrupted`.
    """

    def last_words(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        code = exit_code_of(error)
        if code is None:
            sys.__excepthook__(kind, error, trace)
            return
        print(sentence, file=sys.stderr, flush=True)  # noqa: T201 (the console's module may not be there yet)
        os._exit(code)

    sys.excepthook = last_words
    for number in SIGNALS:
        signal.signal(number, _handle)


def exit_code_of(error: BaseException) -> int | None:
    """Return the exit code of a program that a signal has ended; None where something else has.

    Python itself makes another error of `Interrupted` in places: of one within ``__set_name__``, as where a
    module with an enum is imported, a RuntimeError.
    """
    if isinstance(error, KeyboardInterrupt):
        return getattr(error, "code", 128 + signal.SIGINT)
    return 128 + _State.came if _State.came and isinstance(error, Exception) else None


def _handle(number: int, _frame: FrameType | None) -> None:
    if _State.came:
        os._exit(128 + number)
    _State.came = number
    if not _State.holding:
        raise Interrupted(number)


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Do the same within a with block, and put back what was there before."""
    before = [signal.getsignal(number) for number in SIGNALS]
    _State.came = 0
    for number in SIGNALS:
        signal.signal(number, _handle)
    try:
        yield
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Let a signal wait until the body is done: for the milliseconds that must not be cut in two.

    Only the main thread is where a signal raises; others are never cut in two.
    """
    if get_ident() != MAIN_THREAD:
        yield
        return
    _State.holding += 1
    came_before = _State.came
    try:
        yield
    finally:
        _State.holding -= 1
        if _State.came and not came_before and not _State.holding:
            raise Interrupted(_State.came)

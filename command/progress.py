"""How far a run has come: a bar in a terminal, else a line now and then, for logs that are read later."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from threading import Event, Thread
from typing import Self

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from machine.interrupts import held
from machine.terminal import TERMINAL

log = logging.getLogger(__name__)  # `command.console.set_up_logging` lets its lines through

MINUTE = 60.0  # seconds: the longest time without a line
LEAST = 10.0  # seconds between two lines; a run that is shorter only says how it ended
TICK = 1.0  # seconds between two looks at the clock
SHARE = 10  # news wait for a tenth of the time so far: often heard at first, and in the end once a minute


class Progress(contextlib.AbstractContextManager["Progress"]):
    """How far a run has come; nothing is said outside of a with block.

    Args:
        things: what the run goes through: ``"pictures"``.
        count: number of them.
        parts: number of parts that are still to be made of them all, by which time is told.
        unit: what a part is called.
        quiet: say nothing.
        share: what its lines begin with: which share of a folder it is about.
        clock: seconds.
    """

    def __init__(
        self,
        things: str,
        count: int,
        parts: int,
        unit: str,
        quiet: bool = False,
        share: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.things, self.count, self.parts, self.share = things, count, parts, share
        self.done = self.failed = self.made = 0
        self._scale, self._where = 0, ""
        self._clock = clock
        self._start = self._last = clock()
        in_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._says_lines = not (quiet or in_terminal)
        tqdm.set_lock(TERMINAL)  # a picture that is read ahead may have standard error turned away
        self._bar = tqdm(total=parts, unit=unit, disable=quiet or not in_terminal)
        self._describe()
        self._within = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._within.enter_context(self._bar)
        if not self._bar.disable:
            self._within.enter_context(logging_redirect_tqdm())
        if self._says_lines:
            self._within.enter_context(self._minutes())
        return self

    def __exit__(self, *error: object) -> None:
        self._within.close()

    def come_on(self, name: str, parts: int) -> None:
        """Note that so many more parts are made, of a thing of this name."""
        self.made += parts
        self._bar.set_postfix_str(name, refresh=False)
        self._bar.update(parts)

    def end(self, failed: bool, parts: int = 0) -> None:
        """Note that a thing has come to its end.

        Args:
            failed: it has failed.
            parts: that will not be made any more.
        """
        self.failed += failed
        self.done += not failed
        self.parts -= parts
        self._bar.total = self.parts
        self._describe()
        self.news()

    def reach(self, scale: int, scales: int) -> None:
        """Note how many of so many scales are done of all that is at work."""
        has_come_on, self._scale = scale > self._scale, scale
        self._where = f"at scale {scale + 1} of {scales}" if scale < scales else ""
        if has_come_on:
            self.news()

    def news(self) -> None:
        """Say a line, unless the last one is of just now."""
        so_far = self._clock() - self._start
        self._say_after(min(MINUTE, max(LEAST, so_far / SHARE)))

    def minute(self) -> None:
        """Say a line, where there was none for a minute."""
        self._say_after(MINUTE)

    @property
    def line(self) -> str:
        """What a line says."""
        ended = self.done + self.failed
        words = [f"{self.done} of {self.count} {self.things} done", f"{self.failed} failed"]
        words += [f"{self.count - ended} left", self._where]
        if self.made and self.made < self.parts:
            seconds = (self._clock() - self._start) * (self.parts - self.made) / self.made
            words.append(f"about {duration(seconds)} to go")
        return self.share + ", ".join(filter(None, words))

    def _say_after(self, pause: float) -> None:
        now = self._clock()
        if self._says_lines and now - self._last >= pause:
            self._last = now
            log.info("%s", self.line)

    def _describe(self) -> None:
        ended = self.done + self.failed
        self._bar.set_description(f"{ended} of {self.count} {self.things}", refresh=False)

    @contextlib.contextmanager
    def _minutes(self) -> Iterator[None]:
        """Say a line a minute within a with block, also while nothing comes on."""
        over = Event()

        def watch() -> None:
            while not over.wait(TICK):
                self.minute()

        watching = Thread(target=watch, daemon=True)
        with held():
            watching.start()
        try:
            yield
        finally:
            with held():
                over.set()
                watching.join()


def duration(seconds: float) -> str:
    """Say how long something takes, in two units at most: ``2.5 s``, ``75 s``, ``2 h 10 min``."""
    if seconds < 10:
        return f"{max(seconds, 0.1):.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"

"""Seconds a run spends in each of its stages."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class StageTimes(dict[str, float]):
    """Seconds by stage name, added up over a run.

    >>> times = StageTimes()
    >>> with times.stage("sr.transformer"):
    ...     pass
    >>> list(times)
    ['sr.transformer']

    Stages with a model's own forward pass end in ``.forward``; everything else is the cost of
    preparing, moving and saving. Stages are not nested into each other, so that they add up; those of several
    threads add up to more than the run took.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the seconds that the body takes to stage ``name``, also when it raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self[name] = self.get(name, 0.0) + time.perf_counter() - start

"""How often to write what takes longer to write the more there is to say."""

import contextlib
import time
from collections.abc import Iterator

SHORTEST = 2.0  # seconds
SHARE = 50  # a pause is so many times as long as the writing before it


class Pace:
    """Pauses that grow with what they are between."""

    def __init__(self) -> None:
        self._next = 0.0

    @property
    def due(self) -> bool:
        """Whether the pause is over."""
        return time.monotonic() >= self._next

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Begin a new pause when the writing within is done, or has failed."""
        start = time.monotonic()
        try:
            yield
        finally:
            now = time.monotonic()
            self._next = now + max(SHORTEST, SHARE * (now - start))

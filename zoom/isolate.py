"""One bad picture fails alone, also where a whole batch raises for it."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from errors import FileRefused, InputError, OutputError, PictureError
from results.run_report import PictureRecord

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


def isolating_failures(
    call: Callable[[Sequence[T]], Iterable[R | PictureError]], items: Sequence[T]
) -> Iterator[tuple[T, R | PictureError]]:
    """Yield a result for every item, in order, also when `call` raises for some of them.

    Where it raises, what has no result yet is halved until the ones at fault stand alone: so a single one
    among n costs about log2(n) further calls, and however many they are, no item is in more than
    log2(n) + 2 calls.

    Args:
        call: yields a result for each item it is given.
        items: any number.

    Yields:
        Each item with its result, or with a PictureError.

    Raises:
        InputError, OutputError: what no item is at fault for.
    """
    waiting = [list(items)] if items else []
    while waiting:
        batch = waiting.pop()
        done = 0
        try:
            for item, result in zip(batch, call(batch), strict=True):
                done += 1
                yield item, result
        except (InputError, OutputError):
            raise
        except Exception as error:
            log.debug("in a batch of %d", len(batch), exc_info=True)
            rest = batch[done:]
            if not rest:
                raise
            if len(batch) > 1:
                half = len(rest) // 2
                waiting += [part for part in (rest[half:], rest[:half]) if part]
                continue
            if not isinstance(error, PictureError):
                error = unexpected(error)
            yield rest[0], error


def unexpected(error: Exception) -> PictureError:
    """Put an exception that nobody has foreseen into one line."""
    reason = str(error).splitlines()[0] if str(error) else "no reason given"
    return PictureError(f"failed unexpectedly: {type(error).__name__}: {reason}")


def fail(picture: PictureRecord, error: Exception) -> None:
    """Note in a picture's record that it is given up, and why."""
    picture.status, picture.failure = "failed", str(error)
    log.info("%s: %s", picture.label, error)  # the command names all failures at the end


@contextmanager
def failing_alone(picture: PictureRecord) -> Iterator[None]:
    """Let a picture fail, and the run go on, where its files cannot be read, or be replaced."""
    try:
        yield
    except (PictureError, FileRefused) as error:
        fail(picture, error)

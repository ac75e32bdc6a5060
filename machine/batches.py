"""Batches that fit: halved where a device's memory ends, for every network by one rule."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from errors import PictureError
from machine.memory import out_of_memory, return_memory

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


class Batches:
    """Runs networks over items a batch at a time.

    Attributes:
        size: items a batch, where memory allows it.
    """

    def __init__(self, size: int = 1) -> None:
        self.size = size
        self._smaller: dict[str, int] = {}  # by name, once memory ended

    def __call__(
        self,
        name: str,
        items: Sequence[T],
        run: Callable[[Sequence[T]], Sequence[R | PictureError]],
        at_once: int | None = None,
    ) -> Iterator[R | PictureError]:
        """Yield a result for each item, in order, as the batches are done.

        Args:
            name: of the network; one that ran out of memory keeps to the smaller batches.
            items: any number.
            run: gives a result for each item of a batch.
            at_once: items a batch at most; None: `size`.

        Yields:
            Results; a PictureError for an item that does not fit even alone.
        """
        done = 0
        while done < len(items):
            size = self._smaller.get(name, self.size)
            batch = items[done : done + min(size, at_once or size)]
            results: Sequence[R | PictureError] | None
            try:
                results = run(batch)
            except Exception as error:
                if not out_of_memory(error):
                    raise
                results = None  # the exception holds the tensors of its frames: free memory after it is gone
            if results is None:
                return_memory()
                if len(batch) > 1:
                    self._smaller[name] = len(batch) // 2
                    logger.warning("%s: out of device memory; batches of %d from here", name, len(batch) // 2)
                    continue
                results = [
                    PictureError(f"{name}: out of device memory; try --efficient_memory or --device cpu")
                ]
            yield from results
            done += len(batch)

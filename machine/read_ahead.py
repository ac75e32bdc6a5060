"""Files of weights, read before they are wanted, while something else computes."""

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Event, Thread

from machine.interrupts import held

PIECE = 2**23  # bytes read at a time: soon stopped, also on a slow disk


class ReadAhead:
    """Has the system read files into its cache of files, in a thread.

    What is read is not kept here: whoever wants a file reads it as ever, and it comes from memory. So nothing
    depends on it but time, and the system takes the memory back when it is wanted for something else.
    """

    def __init__(self) -> None:
        self._read: dict[Path, int] = {}  # bytes of each file that is still to be wanted
        self._stop = Event()
        self._thread: Thread | None = None

    def begin(self, files: Sequence[Path], room: int) -> None:
        """Begin to read files, from where an earlier time ended.

        Args:
            files: in the order in which they will be wanted. What is wrong with one is for its reader to say.
            room: bytes of memory for what waits to be wanted, with what was read before.
        """
        self.end()
        self._stop = Event()
        with held():
            self._thread = Thread(target=self._run, args=(files, room, self._stop), daemon=True)
            self._thread.start()

    def end(self, wanted: Iterable[Path] = ()) -> None:
        """Stop reading: some of the files, or other things, are wanted now."""
        self._stop.set()
        if self._thread is not None:
            with held():
                self._thread.join()
            self._thread = None
        for path in wanted:
            self._read.pop(path, None)

    def _run(self, files: Sequence[Path], room: int, stop: Event) -> None:
        piece = bytearray(PIECE)
        room -= sum(self._read.values())
        for path in files:
            with contextlib.suppress(OSError), path.open("rb", buffering=0) as file:
                file.seek(self._read.get(path, 0))
                while room > 0 and not stop.is_set() and (count := file.readinto(piece)):
                    self._read[path] = self._read.get(path, 0) + count
                    room -= count

"""The standard streams; of them standard error, which C libraries write to past Python."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

# Taken by who turns standard error away from the terminal for a moment, and by who has something to say.
TERMINAL = threading.RLock()


def open_closed_streams() -> None:
    """Let what is said to a closed standard stream vanish; else a file that is opened later would get it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Turn file descriptor 2 away within a with block. Who has other threads that speak takes `TERMINAL`."""
    sys.stderr.flush()
    terminal, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nowhere)

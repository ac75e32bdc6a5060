"""Standard error, which C libraries write to past Python."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

# Taken by who turns standard error away from the terminal for a moment, and by who has something to say.
TERMINAL = threading.RLock()


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

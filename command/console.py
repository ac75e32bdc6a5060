"""How both commands talk and end: messages of one line, logging, exit codes."""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator

from errors import InputError, OutputError

ALL_DONE, SOME_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def run_command(name: str, run: Callable[[], int], interrupted: str = "interrupted") -> int:
    """Run a command's work, and turn what the user can mend into one line.

    Args:
        name: of the script.
        run: returns the exit code.
        interrupted: what to say after Ctrl-C.

    Returns:
        The exit code: the work's own; 2 for an `InputError`, 1 for an `OutputError`, 130 when interrupted.
    """
    try:
        return run()
    except InputError as error:
        say(f"{name}: {error}", error=True)
        return BAD_INPUT
    except OutputError as error:
        say(f"{name}: {error}", error=True)
        return SOME_FAILED
    except OSError as error:  # a path that the system itself refuses: too long, not permitted
        if error.filename is None:
            raise
        say(f"{name}: {error.filename}: {error.strerror}", error=True)
        return BAD_INPUT
    except KeyboardInterrupt:
        say(f"{name}: {interrupted}", error=True)
        return INTERRUPTED


def say(text: str, error: bool = False) -> None:
    """Print one line, also where nobody reads it any more and whatever is in a file's name."""
    stream = sys.stderr if error else sys.stdout
    try:
        print(printable(text), file=stream, flush=True)
    except BrokenPipeError:  # what waits in the stream would raise again at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def printable(text: str) -> str:
    """Escape what would break a line or steer a terminal: file names may hold anything."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )


class OneLine(logging.Formatter):
    """Messages of one line each."""

    def format(self, record: logging.LogRecord) -> str:
        """Escape the message; what an exception adds to it stays as it is."""
        record.msg, record.args = printable(record.getMessage()), None
        return super().format(record)


def set_up_logging(level: int) -> None:
    """Send the project's messages of a level and above to standard error; for DEBUG, the libraries' too."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    if level <= logging.DEBUG:
        return
    # the libraries' own chatter is not about the user's pictures
    for library in ("PIL", "diffusers", "transformers", "httpx", "urllib3", "filelock"):
        logging.getLogger(library).setLevel(logging.ERROR)
    for variable in ("DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY"):  # these two set their own level
        os.environ.setdefault(variable, "error")


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Let a polite kill (SIGTERM) end the run as Ctrl-C does: with reports, without temporary files."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def end_process(code: int) -> None:
    """End the process at once: what libraries do at exit takes seconds with large models, for nothing."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

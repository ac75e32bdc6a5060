"""How the commands talk and end: messages of one line, logging, exit codes."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Sequence

from errors import InputError, OutputError
from machine import interrupts
from machine.terminal import TERMINAL, open_closed_streams

ALL_DONE, SOME_FAILED, BAD_INPUT = 0, 1, 2
LONGEST = 300  # characters of a message


def run_command(
    name: str,
    arguments: Sequence[str] | None,
    run: Callable[[Sequence[str]], int],
    interrupted: str | Callable[[], str] = "interrupted",
) -> int:
    """Run a command's work, and turn what the user can mend into one line.

    Args:
        name: of the script.
        arguments: as after its name; those of the process where None.
        run: takes them and returns the exit code.
        interrupted: what to say after Ctrl-C; called then, where that depends on how far it has come.

    Returns:
        The exit code: the work's own; 2 for an `InputError`, 1 for an `OutputError`, 130 (143) when
        interrupted.
    """
    open_closed_streams()
    try:
        with interrupts.listening():
            try:
                return run(sys.argv[1:] if arguments is None else arguments)
            except (Exception, KeyboardInterrupt) as error:
                code = interrupts.exit_code_of(error)
                if code is None:
                    raise
                say(f"{name}: {interrupted if isinstance(interrupted, str) else interrupted()}", error=True)
                return code
    except InputError as error:
        for line in error.lines:
            say(f"{name}: {line}", error=True)
        return BAD_INPUT
    except OutputError as error:
        say(f"{name}: {error}", error=True)
        return SOME_FAILED
    except OSError as error:  # a path that the system itself refuses: too long, not permitted
        if error.filename is None:
            raise
        say(f"{name}: {error.filename}: {error.strerror}", error=True)
        return BAD_INPUT
    except RecursionError:  # the system's own limit of a path's length would come next
        say(f"{name}: folders are nested too deeply", error=True)
        return BAD_INPUT


def say(text: str, error: bool = False) -> None:
    """Print one line, whatever is in a file's name; where it cannot be printed, go on without."""
    stream = sys.stderr if error else sys.stdout
    encoding = stream.encoding or "utf-8"  # not every terminal can show every name
    text = shortened(printable(text)) if error else printable(text)
    try:
        with TERMINAL:
            print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except OSError:  # a broken pipe, a full disk: what waits in the stream would raise again at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def shortened(text: str) -> str:
    """Cut the middle out of a text that is longer than a message should be."""
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST * 3 // 5]} ... {text[5 - LONGEST * 2 // 5 :]}"


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
        record.msg, record.args = shortened(printable(record.getMessage())), None
        return super().format(record)


class Terminal(logging.StreamHandler):
    """Standard error, when nobody has turned it away."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message."""
        with TERMINAL:
            super().emit(record)


def set_up_logging(level: int) -> None:
    """Send the project's messages of a level and above to standard error; for DEBUG, the libraries' too."""
    handler = Terminal()
    handler.setFormatter(OneLine("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.getLogger("command.progress").setLevel(logging.INFO if level < logging.ERROR else level)
    if level <= logging.DEBUG:
        return
    # the libraries' own chatter is not about the user's pictures
    for library in ("PIL", "diffusers", "transformers", "httpx", "urllib3", "filelock", "optimum"):
        logging.getLogger(library).setLevel(logging.ERROR)
    for variable in ("DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY"):  # these two set their own level
        os.environ.setdefault(variable, "error")


def end_process(code: int) -> None:
    """End the process at once: what libraries do at exit takes seconds with large models, for nothing."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # a full disk
            stream.flush()
    os._exit(code)

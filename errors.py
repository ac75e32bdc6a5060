"""The failures a user can do something about."""

import errno
from collections.abc import Sequence
from pathlib import Path


class InputError(Exception):
    """An argument or a file that the whole run needs is wrong.

    The message is one line that names the file or option and the way out. Commands print it
    without a traceback and exit with 2: before anything is written, unless the file only fails when it is
    loaded.
    """

    @property
    def lines(self) -> list[str]:
        """What to print, a line each."""
        return [str(self)]


class Problems(InputError):
    """Several things are wrong, told at once: whoever mends them need not find them one by one."""

    def __init__(self, errors: Sequence[InputError]) -> None:
        super().__init__("; ".join(map(str, errors)))
        self.errors = errors

    @property
    def lines(self) -> list[str]:
        """What to print, a line each."""
        return [line for error in self.errors for line in error.lines]


def refuse(errors: Sequence[InputError]) -> None:
    """Raise what was found wrong, as one.

    Raises:
        InputError: there is something.
    """
    if errors:
        raise errors[0] if len(errors) == 1 else Problems(errors)


class PictureError(Exception):
    """One picture cannot be read, zoomed or written; the others go on.

    The message is one line with the reason; whoever reports it adds the picture's name. Commands
    name the picture at the end and exit with 1.
    """


class OutputError(Exception):
    """A result cannot be written: the disk is full, or a folder lost its permission.

    The run ends there, keeps what it has, and exits with 1; the same command goes on later.
    """

    @classmethod
    def of(cls, file: Path, error: OSError, then: str = "it will go on") -> "OutputError":
        """Say why a file cannot be written, and the way out; ``then``: what the same command does again."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return cls(f"{file}: the disk is full; make room and run the same command again, {then}")
        return cls(f"{file}: cannot be written ({error.strerror or error})")


class FileRefused(OutputError):
    """One file cannot be written: its folder is closed, or a program has it open, as Windows viewers do.

    Costs that one file, not the run.
    """

"""A folder that is written into: nothing half written has its own name, and nothing leaves the folder."""

import contextlib
import errno
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image

from errors import FileRefused, OutputError
from machine.interrupts import held
from results.pictures import real_path
from results.png import encode

# Everything is written under such a name first; a rerun sweeps up what a killed run left.
TEMPORARY_PREFIX, TEMPORARY_SUFFIX = ".writing-", ".part"
WINDOWS = os.name == "nt"
LONGEST_ON_WINDOWS = 260  # characters of a path that Windows takes, unless it was told to take longer ones
PATIENCE = (0.1, 0.3, 1.0)  # seconds between tries to replace a file that another program has open


class Folder:
    """A folder, and atomic writes into it.

    Args:
        root: the folder.
        tag: begins the names of temporary files, to tell processes that write into it at once apart.
    """

    def __init__(self, root: Path, tag: str = "") -> None:
        self.root, self.tag = root, tag
        self._below = os.path.join(root, "")  # noqa: PTH118 (with a separator at its end)

    def prove_inside(self, file: Path) -> None:
        """Raise OutputError where a link inside the tree leads a file out of it."""
        inner, place = file.parent.relative_to(self.root).parts, os.fspath(self.root)
        if not any(is_link(place := f"{place}{os.sep}{part}") for part in inner):
            return  # as nearly always: resolving two paths takes longer than writing a file
        root, folder = real_path(self.root), real_path(file.parent)
        if folder != root and root not in folder.parents:
            raise OutputError(f"{file}: a link leads it out of {self.root}; remove the link")

    def write_image(self, image: Image.Image, *files: Path) -> None:
        """Write one picture as PNG to each of `files`, see `write`.

        Raises:
            FileRefused, OutputError: see `writing`.
        """
        self.write(encode(image), *files)

    def write(self, content: bytes, *files: Path) -> None:
        """Write files of one content so that each is there whole or not at all, the last after the others.

        They are one file on the disk where its system can do that (hard links): a write replaces a name, and
        never changes what another name stands for.

        Raises:
            FileRefused, OutputError: see `writing`.
        """
        *others, last = files
        with held(), self.writing(last) as temporary:
            temporary.write_bytes(content)
            for file in others:
                self.copy(temporary, file)

    def copy(self, source: Path, file: Path) -> None:
        """Give a file one more name, or copy it where its disk has no hard links.

        Raises:
            FileRefused, OutputError: see `writing`.
        """
        with held(), self.writing(file) as temporary:
            try:
                os.link(source, temporary)
            except OSError:  # not on this disk, not from there to here, or not so many
                shutil.copyfile(source, temporary)

    def append(self, content: bytes, file: Path) -> None:
        """Add to the end of a file; where the process is killed meanwhile, a part of it may be there.

        Raises:
            FileRefused, OutputError: see `writing`.
        """
        self.prove_inside(file / "end")  # nor is the file itself a link
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with held(), file.open("ab") as stream:
                stream.write(content)
        except PermissionError as error:
            raise FileRefused(f"{file}: cannot be written ({error.strerror or error})") from error
        except OSError as error:
            raise OutputError.of(file, error) from error

    @contextlib.contextmanager
    def writing(self, file: Path) -> Iterator[Path]:
        """Yield where to write a file, for what is too long to wait in memory; then put it in its place.

        Raises:
            FileRefused: this file alone cannot be written: another program has the old one open and keeps it
                (Windows), its folder is closed, or something stands in its place.
            OutputError: it cannot be written (disk full), or a link leads out of the tree.
        """
        self.prove_inside(file)
        try:
            if not file.parent.is_dir():
                file.parent.mkdir(parents=True, exist_ok=True)
            with temporary(file.parent, self.tag) as written:
                yield written
                with held():
                    replace(written, file)
        except (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise FileRefused(f"{file}: cannot be written ({error.strerror or error})") from error
        except OSError as error:
            if _is_too_long(file, error):
                raise FileRefused(f"{file}: the path is too long here; shorten --output_dir") from error
            raise OutputError.of(file, error) from error


def temporary_name(between: str) -> str:
    """Return a temporary file's name, or a pattern of such names."""
    return f"{TEMPORARY_PREFIX}{between}{TEMPORARY_SUFFIX}"


@contextlib.contextmanager
def temporary(folder: Path, tag: str = "") -> Iterator[Path]:
    """Yield the name of a file in `folder` that nobody has; it is gone afterwards unless it was renamed."""
    file = folder / temporary_name(f"{tag}{secrets.token_hex(8)}")
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)


def replace(file: Path, place: Path) -> None:
    """Put a file in the place of another, patiently: viewers and virus scanners hold files for a moment.

    Raises:
        FileRefused: another program keeps the old one open.
        OSError: for any other reason.
    """
    for pause in (*PATIENCE, None):
        try:
            file.replace(place)
            return
        except PermissionError as error:
            if pause is None:
                raise FileRefused(f"{place}: is open in another program; close it, and run again") from error
            time.sleep(pause)


def unlink_all(files: Iterable[Path]) -> None:
    """Remove files, as far as they are there; folders stay.

    Raises:
        FileRefused: one cannot be removed: another program has it open (Windows), or its folder is closed.
        OutputError: one cannot be removed for another reason.
    """
    try:
        for file in files:
            with contextlib.suppress(IsADirectoryError):
                file.unlink(missing_ok=True)
    except OSError as error:
        kind = FileRefused if isinstance(error, PermissionError) else OutputError
        raise kind(f"{error.filename}: cannot be removed ({error.strerror})") from error


def _is_too_long(file: Path, error: OSError) -> bool:
    """Tell whether a file cannot be written for its path's length; Windows says that nothing is there."""
    if WINDOWS and isinstance(error, FileNotFoundError):
        names = (file.name, temporary_name("0" * 16))
        return any(len(str(file.absolute().with_name(name))) >= LONGEST_ON_WINDOWS for name in names)
    return error.errno == errno.ENAMETOOLONG


def is_link(path: str) -> bool:
    """Tell whether a path may lead elsewhere."""
    try:
        status = os.lstat(path)
    except OSError:  # not there yet
        return False
    return stat.S_ISLNK(status.st_mode) or getattr(status, "st_reparse_tag", 0) != 0  # Windows has several

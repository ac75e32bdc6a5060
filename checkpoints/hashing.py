"""What tells one file's content from another's: SHA-256, gigabytes hashed once.

Files in the Hugging Face hub's cache carry their SHA-256 in their name. For other large files it is kept with
size and modification time in ``$XDG_CACHE_HOME/chain-of-zoom/sha256.json`` (``~/.cache``).
"""

import errno
import hashlib
import io
import logging
import re
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from checkpoints.remembered import recall, remember

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

logger = logging.getLogger(__name__)

SUMS = "sha256.json"
SMALL = 64 * 2**20  # bytes; smaller files are hashed each time


class _Watched(io.FileIO):
    """A file that says how many bytes are read of it."""

    def __init__(self, file: Path, came: Callable[[int], None]) -> None:
        super().__init__(file)
        self._came = came

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        count = super().readinto(buffer)
        self._came(count)
        return count


def sha256_of(file: Path, came: Callable[[int], None] = lambda count: None) -> str:
    """Return the SHA-256 of a file's content in hexadecimal, reading it piece by piece.

    Args:
        file: to read.
        came: is called with the number of bytes of each piece.

    Raises:
        OSError: it cannot be read.
    """
    with _Watched(file, came) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def checkpoint_sha256(path: Path, came: Callable[[int], None] = lambda count: None) -> str:
    """Return the SHA-256 of a file that seldom changes; see the module's description for large ones.

    Args:
        path: to the file.
        came: as of `sha256_of`; not called where nothing need be read.

    Raises:
        OSError: it cannot be read.
    """
    real = path.resolve()
    if real.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", real.name):
        return real.name
    status = real.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe or a device has no end
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    if status.st_size < SMALL:
        return sha256_of(real, came)
    key = [status.st_size, status.st_mtime_ns]
    entry = recall(SUMS).get(str(real))
    if isinstance(entry, list) and len(entry) == 3 and entry[:2] == key:
        return str(entry[2])
    logger.warning("hashing %s (%.1f GB), once", path, status.st_size / 1e9)
    digest = sha256_of(real, came)
    remember(SUMS, str(real), [*key, digest])
    return digest


def sha256_by_name(files: Iterable[Path]) -> dict[str, str]:
    """Identify checkpoint files by content: SHA-256 by file name.

    Raises:
        OSError: one cannot be read.
    """
    return {file.name: checkpoint_sha256(file) for file in files}

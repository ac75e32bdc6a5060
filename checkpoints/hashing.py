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

_DIGEST = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")
SUMS = "sha256.json"
SMALL = 64 * 2**20  # bytes; smaller files are hashed each time
MOST_SUMS = 1000  # that are remembered


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


def git_sha1_of(file: Path) -> str:
    """Return git's name of a file's content, by which the hub knows files that are not in Git LFS.

    Raises:
        OSError: it cannot be read.
    """
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def blob_name(path: Path) -> str | None:
    """Return the digest that the hub's cache names a file by: SHA-256, or git's SHA-1; None elsewhere."""
    real = path.resolve()
    return real.name if real.parent.name == "blobs" and _DIGEST.fullmatch(real.name) else None


def digest_of(path: Path, like: str, anew: bool = False) -> str:
    """Return the digest of a file's content, read and not taken from its name.

    Args:
        path: of the file.
        like: a digest of the same kind: SHA-256 (64 digits) or git's SHA-1 (40).
        anew: whether a large file is read although its SHA-256 is remembered.

    Raises:
        OSError: it cannot be read.
    """
    if len(like) == len(hashlib.sha1(usedforsecurity=False).hexdigest()):
        return git_sha1_of(path)
    return remembered_sha256(path, anew=anew)


def checkpoint_sha256(path: Path, came: Callable[[int], None] = lambda count: None) -> str:
    """Return the SHA-256 of a file that seldom changes; see the module's description for large ones.

    Args:
        path: to the file.
        came: as of `sha256_of`; not called where nothing need be read.

    Raises:
        OSError: it cannot be read.
    """
    name = blob_name(path)
    return name if name is not None and len(name) == 64 else remembered_sha256(path, came)


def remembered_sha256(
    path: Path, came: Callable[[int], None] = lambda count: None, anew: bool = False
) -> str:
    """Return the SHA-256 of a file's content; that of a large file is remembered until it changes.

    Args:
        path: to the file.
        came: as of `sha256_of`; not called where nothing need be read.
        anew: whether it is read although its sum is remembered.

    Raises:
        OSError: it cannot be read.
    """
    real = path.resolve()
    status = real.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe or a device has no end
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    if status.st_size < SMALL:
        return sha256_of(real, came)
    key = [status.st_size, status.st_mtime_ns]
    if not anew:
        entry = recall(SUMS).get(str(real))
        if isinstance(entry, list) and len(entry) == 3 and entry[:2] == key:
            return str(entry[2])
        logger.warning("hashing %s (%.1f GB), once", path, status.st_size / 1e9)
    digest = sha256_of(real, came)
    remember(SUMS, str(real), [*key, digest], MOST_SUMS)
    return digest


def note_sha256(path: Path, digest: str) -> None:
    """Remember the SHA-256 of a file that was hashed under another name, so that nobody hashes it again.

    Args:
        path: where it is now.
        digest: its SHA-256, just computed.

    Raises:
        OSError: no such file.
    """
    real = path.resolve()
    status = real.stat()
    if status.st_size >= SMALL:
        remember(SUMS, str(real), [status.st_size, status.st_mtime_ns, digest], MOST_SUMS)


def sha256_by_name(files: Iterable[Path]) -> dict[str, str]:
    """Identify checkpoint files by content: SHA-256 by file name.

    Raises:
        OSError: one cannot be read.
    """
    return {file.name: checkpoint_sha256(file) for file in files}

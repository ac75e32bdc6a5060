"""Room on the disk that a folder is on, or will be on. Needs nothing but Python's own."""

import shutil
from pathlib import Path


def existing(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def free_at(folder: Path) -> int:
    """Return the bytes that are free where a folder is, or will be.

    Raises:
        OSError: the disk does not say.
    """
    return shutil.disk_usage(existing(folder)).free

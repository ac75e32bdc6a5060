"""Names and shapes of the tensors in a .pth file, without torch and without reading a weight.

A .pth file (torch 1.6 and newer) is a zip archive: a pickle says which tensor is which, and every
tensor's numbers lie in an entry of their own. Only the pickle is read here, a few hundred kilobytes
of RAM's 5.6 GB, and nothing that it names is imported or called.
"""

import hashlib
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import InputError


@dataclass(frozen=True)
class TensorHeader:
    """A tensor without its numbers."""

    shape: tuple[int, ...]


class _Inert:
    """Stands in for any object a checkpoint may hold beside its tensors; takes anything, does nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _tensor_header(storage: object, offset: int, size: tuple[int, ...], *rest: object) -> TensorHeader:
    return TensorHeader(tuple(size))


class _HeaderUnpickler(pickle.Unpickler):
    """Rebuilds a checkpoint's dictionaries and lists; tensors become `TensorHeader`."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor_header
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        return _Inert

    def persistent_load(self, pid: object) -> None:
        return None


def read_pth_header(path: Path) -> Any:
    """Read what a .pth file holds, each tensor as a `TensorHeader`.

    Raises:
        InputError: the file is missing, cut short, or not written by torch 1.6 or newer.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as file:
                return _HeaderUnpickler(file).load()
    except (zipfile.BadZipFile, StopIteration, EOFError, pickle.UnpicklingError) as error:
        raise InputError(
            f"{path}: not a PyTorch checkpoint, or cut short while it was downloaded: fetch it again"
        ) from error


def pth_fingerprint(path: Path) -> str:
    """Tell one .pth file's content from another's in milliseconds, whatever its size.

    Returns:
        The sha256, in hexadecimal, of the archive's own table of entries (name, size, CRC-32). Not
        the sha256 of the file.
    """
    digest = hashlib.sha256()
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            digest.update(f"{entry.filename} {entry.file_size} {entry.CRC}\n".encode())
    return digest.hexdigest()

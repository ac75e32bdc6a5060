"""What a weights file holds, read from its header: without torch, and without running code from the file.

Safetensors files begin with a JSON table of names, dtypes, shapes and byte ranges. Files written by
`torch.save` are zip archives whose ``data.pkl`` describes the tensors; its pickle is walked by an unpickler
that knows tensors and plain containers and refuses everything else: a file with code in it is named, not run.
"""

import json
import math
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import InputError

MAX_HEADER = 100_000_000  # bytes; the safetensors format's own limit

# Storage classes of torch.save's pickles, and bytes an element.
STORAGES = {
    "DoubleStorage": ("F64", 8),
    "FloatStorage": ("F32", 4),
    "HalfStorage": ("F16", 2),
    "BFloat16Storage": ("BF16", 2),
    "LongStorage": ("I64", 8),
    "IntStorage": ("I32", 4),
    "ShortStorage": ("I16", 2),
    "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1),
    "BoolStorage": ("BOOL", 1),
}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file.

    Attributes:
        shape: its dimensions.
        dtype: in safetensors' words: ``F32``, ``F16``, ``BF16``, ...
    """

    shape: tuple[int, ...]
    dtype: str

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def safetensors_info(path: Path) -> dict[str, TensorInfo]:
    """Return the tensors of a safetensors file by name.

    Raises:
        InputError: missing, not a safetensors file, or shorter than its header says (half-downloaded).
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            text = file.read(length) if length <= MAX_HEADER else b""
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); download it again") from None
    if size < 8 or not (text.startswith(b"{") or length + 8 > size):
        raise InputError(f"{path}: not a safetensors file")
    if length + 8 > size:
        raise InputError(f"{path}: half-downloaded: ends within its header; download it again")
    try:
        header: dict[str, Any] = json.loads(text)
        header.pop("__metadata__", None)
        expected = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        tensors = {
            name: TensorInfo(tuple(entry["shape"]), str(entry["dtype"])) for name, entry in header.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise InputError(f"{path}: not a safetensors file (its header is damaged)") from None
    if size != expected:
        what = "half-downloaded" if size < expected else "damaged"
        raise InputError(f"{path}: {what}: {size:,} bytes of {expected:,}; download it again")
    return tensors


class _CodeInPickle(Exception):
    """The pickle asks for something that is neither a tensor nor a plain container."""


@dataclass(frozen=True)
class _Storage:
    dtype: str
    key: str
    bytes: int


def _tensor_info(storage: _Storage, offset: int, size: tuple[int, ...], *rest: Any) -> TensorInfo:
    """Stand in for torch's `_rebuild_tensor_v2`: keep the shape, leave the data alone."""
    return TensorInfo(tuple(size), storage.dtype)


def _parameter_info(tensor: TensorInfo, *rest: Any) -> TensorInfo:
    """Stand in for torch's `_rebuild_parameter`."""
    return tensor


class _HeaderUnpickler(pickle.Unpickler):
    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.storages: list[_Storage] = []

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor_info,
            ("torch._utils", "_rebuild_parameter"): _parameter_info,
        }
        if (module, name) in known:
            return known[module, name]
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise _CodeInPickle(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, (dtype, width), key, _location, elements = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"unknown persistent id {kind}")
        storage = _Storage(dtype, str(key), elements * width)
        self.storages.append(storage)
        return storage


def torch_file_info(path: Path) -> Any:
    """Return what a `torch.save` file holds, each tensor replaced by its `TensorInfo`.

    Args:
        path: a file in torch's zip format (torch 1.6 and newer).

    Returns:
        The saved object, normally a list or a dict.

    Raises:
        InputError: missing, not such a file, half-downloaded, or a pickle with code in it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist()}
            pickles = [name for name in sizes if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise InputError(f"{path}: a zip archive, but not written by torch.save")
            with archive.open(pickles[0]) as file:
                unpickler = _HeaderUnpickler(file)
                content = unpickler.load()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except zipfile.BadZipFile:
        raise InputError(f"{path}: {_why_not_zip(path)}") from None
    except _CodeInPickle as code:
        raise InputError(
            f"{path}: holds code ({code}), not only tensors; refused: get the file from its publisher"
        ) from None
    except InputError:
        raise
    except Exception as error:  # a damaged pickle fails in any way at all
        raise InputError(f"{path}: its pickle is damaged ({error}); download it again") from None
    folder = pickles[0].removesuffix("data.pkl")
    for storage in unpickler.storages:
        if sizes.get(f"{folder}data/{storage.key}") != storage.bytes:
            raise InputError(f"{path}: damaged: tensor data {storage.key} is incomplete; download it again")
    return content


def _why_not_zip(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"PK"):
        return "half-downloaded: the end of the archive is missing; download it again"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the weights; fetch the file itself (git lfs pull)"
    if start.startswith(b"\x80"):
        return (
            "a plain pickle, or torch's format from before 1.6; refused: get the published file, or write it "
            "anew with torch.save(torch.load(FILE, weights_only=True), FILE)"
        )
    return "not a file written by torch.save"

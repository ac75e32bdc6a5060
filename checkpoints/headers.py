"""What a weights file holds, read from its header: without torch, and without running code from the file.

Safetensors files begin with a JSON table of names, dtypes, shapes and byte ranges. Files written by
`torch.save` are zip archives whose ``data.pkl`` describes the tensors (`checkpoints.torch_pickle`). Every
file is untrusted: what it says of itself is bounded before it is followed, and must add up to its own size.
"""

import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import InputError

MAX_HEADER = 16 * 2**20  # bytes of JSON; SD3's longest is 0.2 MB. The format itself allows 100 MB
MAX_SIDE, MAX_AXES = 2**40, 8
# Bytes an element, by safetensors' names of the types.
TYPES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4,
    "U16": 2, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "C64": 8,
}  # fmt: skip


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


def is_shape(value: object) -> bool:
    """Tell whether a value read from a file can be the shape of a tensor."""
    return (
        isinstance(value, list | tuple)
        and len(value) <= MAX_AXES
        and all(type(side) is int and 0 <= side <= MAX_SIDE for side in value)
    )


def safetensors_info(path: Path) -> dict[str, TensorInfo]:
    """Return the tensors of a safetensors file by name.

    Raises:
        InputError: missing, not a safetensors file, shorter than its header says (half-downloaded), or its
            tensors do not lie in it one after the other, each as long as its shape says.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            text = file.read(length) if length <= min(MAX_HEADER, size) else b""
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); download it again") from None
    if size < 8 or not (text.startswith(b"{") or length + 8 > size):
        raise InputError(f"{path}: not a safetensors file")
    if length + 8 > size:
        raise InputError(f"{path}: half-downloaded: ends within its header; download it again")
    damaged = InputError(f"{path}: not a safetensors file (its header is damaged); download it again")
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise damaged from None
    if not isinstance(header, dict):
        raise damaged
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise damaged
    ranges = []
    tensors = {}
    for name, entry in header.items():
        tensor, begin, end = _entry(entry) or (None, 0, 0)
        if tensor is None:
            raise damaged
        tensors[name] = tensor
        ranges.append((begin, end))
    at = 0
    for begin, end in sorted(ranges):
        if begin != at:
            raise damaged
        at = end
    if size != 8 + length + at:
        what = "half-downloaded" if size < 8 + length + at else "damaged"
        raise InputError(f"{path}: {what}: {size:,} bytes of {8 + length + at:,}; download it again")
    return tensors


def _entry(entry: object) -> tuple[TensorInfo, int, int] | None:
    """Read one entry of a header; None where it is none, or its bytes are not as many as its shape says."""
    if not isinstance(entry, dict):
        return None
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not (isinstance(dtype, str) and dtype in TYPES and isinstance(shape, list) and is_shape(shape)):
        return None
    if not (isinstance(offsets, list) and len(offsets) == 2 and all(type(one) is int for one in offsets)):
        return None
    tensor, (begin, end) = TensorInfo(tuple(shape), dtype), offsets
    return (tensor, begin, end) if begin >= 0 and end - begin == tensor.elements * TYPES[dtype] else None


def torch_file_info(path: Path) -> Any:
    """Return what a `torch.save` file holds, each tensor replaced by its `TensorInfo`.

    Args:
        path: a file in torch's zip format (torch 1.6 and newer).

    Returns:
        The saved object, normally a list or a dict.

    Raises:
        InputError: missing, not such a file, half-downloaded, or a pickle with more than tensors in it.
    """
    from checkpoints.torch_pickle import MAX_PICKLE, CodeInPickle, DamagedPickle, read_pickle

    try:
        with zipfile.ZipFile(path) as archive:
            entries = {info.filename: info for info in archive.infolist()}
            pickles = [name for name in entries if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise InputError(f"{path}: a zip archive, but not written by torch.save")
            folder = pickles[0].removesuffix("data.pkl")
            ours = [info for info in archive.infolist() if info.filename.startswith(folder)]
            if len(ours) != len({info.filename for info in ours}) or any(info.compress_type for info in ours):
                raise InputError(f"{path}: not as torch.save writes it (compressed); download it again")
            if entries[pickles[0]].file_size > MAX_PICKLE:
                raise InputError(f"{path}: its pickle is too long for weights; get it from its publisher")
            content, storages = read_pickle(archive.read(pickles[0]))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except zipfile.BadZipFile:
        raise InputError(f"{path}: {_why_not_zip(path)}") from None
    except CodeInPickle as code:
        raise InputError(
            f"{path}: holds code ({str(code)[:80]}), not only tensors; refused: get the file from its"
            " publisher"
        ) from None
    except DamagedPickle as error:
        raise InputError(f"{path}: its pickle is damaged ({error}); download it again") from None
    except (NotImplementedError, RuntimeError, ValueError, EOFError):  # zipfile's, of odd archives
        raise InputError(f"{path}: a damaged archive; download it again") from None
    _check_storages(path, folder, {name: info.file_size for name, info in entries.items()}, storages)
    return content


def _check_storages(path: Path, folder: str, sizes: Mapping[str, int], storages: Mapping[str, int]) -> None:
    for key, expected in storages.items():
        if sizes.get(f"{folder}data/{key}") != expected:
            raise InputError(f"{path}: damaged: tensor data {key[:40]} is incomplete; download it again")


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

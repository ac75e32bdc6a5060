"""Seeded damage to files: bits and bytes, JSON values, safetensors headers, pickles in torch's zip files."""

import copy
import io
import json
import random
import zipfile
from collections.abc import Callable
from typing import Any

ODD_VALUES: list[Any] = [
    None, {}, [], 0, -1, 1, True, False, 1.5, 10**12, -(10**30), float("inf"), float("nan"), "", "x", "24",
    "\0", "\ud800",
    "../..", "//somewhere/else", "a" * 5000, [0, 0], [10**12], {"a": 1}, "^(model", "(a+)+$",
]  # fmt: skip
DEEP = "[" * 1000 + "]" * 1000


def bytes_damaged(content: bytes, dice: random.Random) -> bytes:
    """Flip bits, overwrite, cut off, repeat or exchange pieces."""
    data = bytearray(content)
    size = max(1, len(data))
    match dice.randrange(8):
        case 0 | 1 if data:
            for _ in range(dice.choice((1, 1, 2, 8))):
                data[dice.randrange(size)] ^= 1 << dice.randrange(8)
        case 2 if data:
            for _ in range(dice.choice((1, 4, 32))):
                data[dice.randrange(size)] = dice.choice((0, 255, dice.randrange(256)))
        case 3:
            del data[dice.randrange(size) :]
        case 4:
            data += dice.randbytes(dice.choice((1, 8, 1000)))
        case 5:
            at, length = dice.randrange(size), dice.choice((1, 4, 64, 1000))
            data[at:at] = data[at : at + length]
        case 6:
            at, length = dice.randrange(size), dice.choice((1, 4, 64, 1000))
            del data[at : at + length]
        case _:
            at, length = dice.randrange(size), dice.choice((4, 8, 64))
            data[at : at + length] = dice.choice((b"\0", b"\xff")) * length
    return bytes(data)


def _places(value: Any, found: list[tuple[Any, Any]]) -> None:
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, one in list(entries):
        found.append((value, key))
        _places(one, found)


def json_damaged(content: bytes, dice: random.Random) -> bytes:
    """Put odd values into the place of some, lose or rename some, or nest one a thousand deep."""
    try:
        value = json.loads(content)
    except ValueError:
        return bytes_damaged(content, dice)
    for _ in range(dice.choice((1, 1, 1, 3))):
        places: list[tuple[Any, Any]] = []
        _places(value, places)
        if not places:
            return bytes_damaged(content, dice)
        holder, key = dice.choice(places)
        match dice.randrange(6):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[dice.choice((key[:-1], key + "x", key.swapcase(), ""))] = holder.pop(key)
            case 2 if isinstance(holder[key], int):
                holder[key] += dice.choice((-1, 1, 7, 10**6, 10**12))
            case 3 if isinstance(holder[key], str) and holder[key]:
                at = dice.randrange(len(holder[key]))
                holder[key] = holder[key][:at] + chr(ord(holder[key][at]) ^ 1) + holder[key][at + 1 :]
            case 4:
                holder[key] = "@DEEP@"
            case _:
                holder[key] = copy.deepcopy(dice.choice(ODD_VALUES))
    text = json.dumps(value).replace('"@DEEP@"', DEEP)
    return text.replace("Infinity", "1e400").encode("utf-8", "surrogatepass")


def safetensors_damaged(content: bytes, dice: random.Random) -> bytes:
    """Damage the header and keep the rest, or damage anything."""
    if dice.random() < 0.3:
        return bytes_damaged(content, dice)
    length = int.from_bytes(content[:8], "little")
    header = json_damaged(content[8 : 8 + length], dice)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def torch_damaged(content: bytes, dice: random.Random) -> bytes:
    """Damage the pickle within a sound archive, or the archive."""
    if dice.random() < 0.3:
        return bytes_damaged(content, dice)
    damaged = io.BytesIO()
    kinds = (zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(damaged, "w", dice.choice(kinds)) as new,
    ):
        for info in old.infolist():
            part = old.read(info)
            if info.filename.endswith("/data.pkl"):
                part = dice.choice((bytes_damaged, _pickle_damaged))(part, dice)
            elif dice.random() < 0.002:
                continue
            new.writestr(info.filename, part)
    return damaged.getvalue()


def _pickle_damaged(content: bytes, dice: random.Random) -> bytes:
    match dice.randrange(5):
        case 0:  # a memo of 2**28 places
            return content[:-1] + b"r" + (2**28).to_bytes(4, "little") + b"."
        case 1:  # many lists
            return b"\x80\x02" + b"]" * dice.choice((1000, 10**6)) + b"."
        case 2:  # nested tuples, shared: for ever to hash or print
            return b"\x80\x02}" + b")" + b"q\x00h\x00\x86q\x00" * 60 + b"K\x01s."
        case 3:
            return content.replace(b"ctorch._utils\n_rebuild_tensor_v2\n", b"cos\nsystem\n", 1)
        case _:
            return content.replace(b"K\x04", bytes((75, dice.randrange(256))), dice.randrange(1, 9))


BY_ENDING: dict[str, Callable[[bytes, random.Random], bytes]] = {
    ".json": json_damaged,
    ".safetensors": safetensors_damaged,
    ".pkl": torch_damaged,
    ".pt": torch_damaged,
    ".pth": torch_damaged,
}


def damaged(name: str, content: bytes, dice: random.Random) -> bytes:
    """Damage a file as its ending deserves."""
    for ending, mutate in BY_ENDING.items():
        if name.endswith(ending):
            return mutate(content, dice) if dice.random() < 0.85 else bytes_damaged(content, dice)
    return bytes_damaged(content, dice)

"""Reading a run.json back. It is a file like any other: whoever wrote it, nothing in it is taken on trust."""

import json
import math
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from errors import InputError
from results.limits import LONGEST_TEXT
from results.output_tree import is_name
from results.run_report import PICTURE_STATUSES, SCHEMA, STATUSES, PictureRecord, StepRecord

MAX_BYTES = 2**30  # a report of 100,000 pictures of four steps has 0.2 GB
MOST_RECORDS = 1000
LARGEST_SIDE = 2**24


@dataclass(frozen=True)
class EarlierReport:
    """What an earlier run left behind.

    Attributes:
        status: how it ended; ``running`` where it was killed.
        settings: what decided its pixels.
        pictures: by name.
    """

    status: str
    settings: dict[str, Any]
    pictures: dict[str, PictureRecord]


def load_report(file: Path) -> EarlierReport | None:
    """Read a run.json back; None where there is none.

    Raises:
        InputError: it cannot be read, is of another schema, or holds what no run writes.
    """
    try:
        kind = file.lstat().st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(kind) or file.stat().st_size > MAX_BYTES:  # a pipe would be waited for for ever
        raise InputError(f"{file}: is no report of this program")
    try:
        content = json.loads(file.read_bytes(), parse_constant=_refuse)
        schema = content["schema"]
        if type(schema) is int and schema != SCHEMA:
            raise InputError(f"{file}: is of another schema than {SCHEMA}, this program's")
        _must(type(schema) is int and content["status"] in STATUSES)
        _must(type(content["settings"]) is dict and type(content["pictures"]) is list)
        pictures = [_picture(entry) for entry in content["pictures"]]
        by_name = {picture.name: picture for picture in pictures}
        _must(len({name.casefold() for name in by_name}) == len(pictures))
        return EarlierReport(content["status"], content["settings"], by_name)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{file}: is damaged or not of this program") from None


def _must(holds: bool) -> None:
    if not holds:
        raise ValueError


def _refuse(_: str) -> None:
    raise ValueError  # NaN and Infinity, which JSON does not have


def _text(value: object) -> bool:
    # lone surrogates stand for bytes of a file name that is no UTF-8
    return (
        isinstance(value, str)
        and len(value) <= LONGEST_TEXT
        and "\0" not in value
        and re.search("[\ud800-\udc7f\udd00-\udfff]", value) is None
    )


def _number(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _or_none(check: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or check(value)


def _seconds(value: object) -> bool:
    return isinstance(value, dict) and all(
        _text(stage) and type(spent) in (int, float) and math.isfinite(spent) and 0 <= spent < 10**12
        for stage, spent in value.items()
    )


def _sha256(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _window(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(_number(n, 0, LARGEST_SIDE) for n in value)


_PICTURE: dict[str, Callable[[object], bool]] = {
    "name": lambda value: isinstance(value, str) and is_name(value),
    "label": _text,
    "file": _text,
    "sha256": _or_none(_sha256),
    "status": lambda value: value in PICTURE_STATUSES,
    "failure": _or_none(_text),
    "steps": lambda value: isinstance(value, list) and len(value) <= MOST_RECORDS,
}
_STEP: dict[str, Callable[[object], bool]] = {
    "step": lambda value: _number(value, 1, MOST_RECORDS),
    "magnification": lambda value: _number(value, 1, 10**400),
    "window": _window,
    "window_of": lambda value: _number(value, 0, MOST_RECORDS),
    "prompt": _or_none(_text),
    "extracted": _text,
    "extractor": _text,
    "raw": _text,
    "note": _text,
    "seed": _or_none(lambda value: _number(value, 0, 2**63)),
    "seconds": _seconds,
    "done": lambda value: type(value) is bool,
}


def _checked(entry: object, checks: dict[str, Callable[[object], bool]]) -> dict[str, Any]:
    _must(isinstance(entry, dict) and entry.keys() == checks.keys())
    assert isinstance(entry, dict)
    for name, check in checks.items():
        _must(check(entry[name]))
    return entry


def _picture(entry: object) -> PictureRecord:
    checked = _checked(entry, _PICTURE)
    steps = [_step(step) for step in checked["steps"]]
    _must([step.step for step in steps] == list(range(1, len(steps) + 1)))
    return PictureRecord(**{**checked, "steps": steps})


def _step(entry: object) -> StepRecord:
    checked = _checked(entry, _STEP)
    return StepRecord(**{**checked, "window": tuple(checked["window"])})


assert _PICTURE.keys() == {field.name for field in fields(PictureRecord)}
assert _STEP.keys() == {field.name for field in fields(StepRecord)}

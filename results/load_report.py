"""Reading a run.json back, and the journal that goes on from it.

They are files like any other: whoever wrote them, nothing in them is taken on trust.
"""

import contextlib
import gc
import hashlib
import json
import math
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from errors import InputError
from results.limits import LONGEST_TEXT
from results.output_tree import is_name
from results.pictures import Failure
from results.run_report import (
    MADE,
    PICTURE_STATUSES,
    SCHEMA,
    STAGES,
    STATUSES,
    PictureRecord,
    StepRecord,
    TilePrompt,
    first_line,
    journal_of,
)

MAX_BYTES = 2**30  # a report of 100,000 pictures of four steps has 0.2 GB
MOST_RECORDS = 1000
MOST_TILES = 100_000  # a step
LARGEST_SIDE = 2**24
SMALLEST_VIEW = 1e-100  # pixels a side: a pixel in 8**100


@dataclass(frozen=True)
class EarlierReport:
    """What an earlier run left behind.

    Attributes:
        status: how it ended; ``running`` where it was killed.
        settings: what decided its pixels.
        pictures: by name.
        unreadable: files that are no pictures.
        left_over: names of pictures whose results are to be removed, see `results.run_report`.
        started: when.
        stage_seconds: by stage.
    """

    status: str
    settings: dict[str, Any]
    pictures: dict[str, PictureRecord]
    unreadable: list[Failure]
    left_over: list[str]
    started: str
    stage_seconds: dict[str, float]


def load_report(file: Path) -> EarlierReport | None:
    """Read a run.json back, and what its journal knows better; None where there is none.

    Raises:
        InputError: one of them cannot be read, is of another schema, or holds what no run writes.
    """
    content = _content(file)
    if content is None:
        return None
    with _refusing(file), _without_garbage_collection():
        report = _parsed(content)
        schema = report["schema"]
        if type(schema) is int and schema != SCHEMA:
            raise InputError(f"{file}: is of another schema than {SCHEMA}, this program's")
        _must(type(schema) is int and report["status"] in STATUSES)
        _must(type(report["settings"]) is dict and type(report["pictures"]) is list)
        json.dumps(report["settings"])  # TypeError where there are records in it
        pictures = report["pictures"]
        _must(all(type(picture) is PictureRecord for picture in pictures))
        by_name = {picture.name: picture for picture in pictures}
        _must(len({name.casefold() for name in by_name}) == len(pictures))
        unreadable = [Failure(**_checked(entry, _FAILURE)) for entry in report["unreadable"]]
        left_over = report.get("left_over", [])  # which older versions did not write
        _must(type(left_over) is list and all(map(_name, left_over)))
        _must(_text(report["started"]) and _seconds_by_stage(report["stage_seconds"]))
    journal = journal_of(file)
    with _refusing(journal), _without_garbage_collection():
        for picture in _come_on(journal, content):
            _must(type(picture) is PictureRecord and picture.name in by_name)
            by_name[picture.name] = picture
    return EarlierReport(
        report["status"],
        report["settings"],
        by_name,
        unreadable,
        left_over,
        report["started"],
        report["stage_seconds"],
    )


def _content(file: Path) -> bytes | None:
    """Read a file of at most `MAX_BYTES`; None where there is none.

    Raises:
        InputError: it cannot be read, or is none.
    """
    try:
        kind = file.lstat().st_mode
        # a pipe would be waited for for ever
        if not stat.S_ISREG(kind) or file.stat().st_size > MAX_BYTES:
            raise InputError(f"{file}: is no report of this program")
        return file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None


def _come_on(journal: Path, report: bytes) -> Iterator[Any]:
    """Yield pictures that have come on since a report was written, also the same one again."""
    content = _content(journal)
    if content is None:
        return
    first = first_line(hashlib.sha256(report).hexdigest())
    if not content.startswith(first):
        return  # it goes on from another one, and was left behind
    # a killed run may not have come to the end of its last line
    for line in content.removeprefix(first).split(b"\n")[:-1]:
        yield _parsed(line)


def _parsed(content: bytes) -> Any:
    """Parse JSON; what looks like a record becomes one at once: plain ones take several times the memory."""
    return json.loads(content, parse_constant=_refuse, object_hook=_record)


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Let nobody look for garbage among 100,000 records that are being made: it takes half as long again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def _refusing(file: Path) -> Iterator[None]:
    """Say in one line that a file is not what it should be."""
    try:
        yield
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
        and (value.isascii() or re.search("[\ud800-\udc7f\udd00-\udfff]", value) is None)
    )


def _name(value: object) -> bool:
    return isinstance(value, str) and is_name(value)


def _number(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _or_none(check: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or check(value)


def _seconds(value: object) -> bool:
    return isinstance(value, dict) and all(
        stage in STAGES and type(spent) in (int, float) and math.isfinite(spent) and 0 <= spent < 10**12
        for stage, spent in value.items()
    )


def _seconds_by_stage(value: object) -> bool:
    return isinstance(value, dict) and all(_text(stage) and _real(spent) for stage, spent in value.items())


def _sha256(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _numbers(count: int, least: int = 0) -> Callable[[object], bool]:
    def check(value: object) -> bool:
        if not isinstance(value, list) or len(value) != count:
            return False
        return all(_number(one, least, LARGEST_SIDE) for one in value)

    return check


def _real(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and abs(value) <= LARGEST_SIDE  # type: ignore[arg-type]


def _reals(count: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and len(value) == count and all(map(_real, value))


def _view(value: object) -> bool:
    return _reals(4)(value) and min(value[2:]) >= SMALLEST_VIEW  # type: ignore[index]


_PICTURE: dict[str, Callable[[object], bool]] = {
    "name": _name,
    "label": _text,
    "file": _text,
    "spot": _text,
    "center": _or_none(_reals(2)),
    "sha256": _or_none(_sha256),
    "size": _or_none(_numbers(2, least=1)),
    "view": _or_none(_view),
    "texture": _or_none(_real),
    "status": lambda value: value in PICTURE_STATUSES,
    "failure": _or_none(_text),
    "steps": lambda value: _list_of(StepRecord, value, MOST_RECORDS),
}
_STEP: dict[str, Callable[[object], bool]] = {
    "step": lambda value: _number(value, 1, MOST_RECORDS),
    "magnification": lambda value: _number(value, 2, 10**100),
    "window": _numbers(4),
    "window_of": _or_none(lambda value: _number(value, 0, MOST_RECORDS)),
    "size": _numbers(2, least=1),
    "view": _view,
    "made": lambda value: value in MADE,
    "prompt": _or_none(_text),
    "extracted": _text,
    "extractor": _text,
    "raw": _text,
    "note": _text,
    "tiles": lambda value: _list_of(TilePrompt, value, MOST_TILES),
    "seed": _or_none(lambda value: _number(value, 0, 2**63)),
    "consistency": _or_none(_real),
    "texture": _or_none(_real),
    "seconds": _seconds,
    "done": lambda value: type(value) is bool,
}

_FAILURE: dict[str, Callable[[object], bool]] = {"label": _text, "reason": _text}
_TILE: dict[str, Callable[[object], bool]] = {
    "box": _numbers(4),
    "prompt": _text,
    "extracted": _text,
    "extractor": _text,
    "raw": _text,
    "note": _text,
}


def _list_of(kind: type, value: object, most: int) -> bool:
    return isinstance(value, list) and len(value) <= most and all(type(one) is kind for one in value)


def _checked(entry: object, checks: dict[str, Callable[[object], bool]]) -> dict[str, Any]:
    _must(isinstance(entry, dict) and entry.keys() == checks.keys())
    assert isinstance(entry, dict)
    for name, check in checks.items():
        _must(check(entry[name]))
    return entry


def _record(entry: dict[str, Any]) -> object:
    for checks, record in ((_STEP, _step), (_PICTURE, _picture), (_TILE, _tile)):
        if entry.keys() == checks.keys():
            return record(_checked(entry, checks))
    return entry


def _picture(checked: dict[str, Any]) -> PictureRecord:
    steps = checked["steps"]
    _must([step.step for step in steps] == list(range(1, len(steps) + 1)))
    _must(all(one.magnification < next_one.magnification for one, next_one in pairwise(steps)))
    _must((checked["size"] is None) == (checked["view"] is None))
    _must(checked["view"] is not None or not steps)
    pairs = {name: _tuple(checked[name]) for name in ("center", "size", "view")}
    return PictureRecord(**{**checked, **pairs})


def _step(checked: dict[str, Any]) -> StepRecord:
    seconds = {f"{stage}_seconds": spent for stage, spent in checked.pop("seconds").items()}
    tuples = {name: _tuple(checked[name]) for name in ("window", "size", "view", "tiles")}
    return StepRecord(**{**checked, **seconds, **tuples})


def _tile(checked: dict[str, Any]) -> TilePrompt:
    return TilePrompt(**{**checked, "box": tuple(checked["box"])})


def _tuple(value: list[Any] | None) -> tuple[Any, ...] | None:
    return None if value is None else tuple(value)


assert _FAILURE.keys() == {field.name for field in fields(Failure)}
assert _PICTURE.keys() == {field.name for field in fields(PictureRecord)}
assert _STEP.keys() - {"seconds"} == {f.name for f in fields(StepRecord) if not f.name.endswith("_seconds")}
assert _TILE.keys() == {field.name for field in fields(TilePrompt)}

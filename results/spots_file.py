"""Spots to zoom into in a CSV file: ``file,x,y,label``. A run writes one, and ``--regions`` reads one."""

import csv
import io
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from errors import InputError
from results.output_tree import safe_name

COLUMNS = ["file", "x", "y"]
LABEL = "label"  # may be missing
LONGEST_LABEL = 64  # characters

_HEADER = f"{','.join(COLUMNS)} or {','.join(COLUMNS)},{LABEL}"


@dataclass(frozen=True)
class Spot:
    """A place in a picture that a chain zooms into.

    Attributes:
        label: tells it from the picture's other spots, and is part of the names of files: see `is_label`.
        x, y: its middle as fractions of the picture's width and height, as it is seen: 0 is left and top, 1
            right and bottom.
    """

    label: str
    x: float
    y: float


def is_label(text: str) -> bool:
    """Tell whether a text can be a spot's label: what every file system takes as it is, without ``~``."""
    return len(text) <= LONGEST_LABEL and "~" not in text and safe_name(text) == text


def read_spots(path: Path, known: Collection[str]) -> dict[str, list[Spot]]:
    """Read spots.

    A spot without a label gets its number among the picture's rows, or the next one that is free.

    Args:
        path: UTF-8 (with or without a byte order mark), a header line with the columns in any order.
        known: the labels of the run's pictures (`results.pictures.Source`). A file name that no UTF-8 file
            can hold is written as `spots_csv` writes it.

    Returns:
        The spots of each picture that has any, in the file's order.

    Raises:
        InputError: it cannot be read or holds no spot, a column is missing, a picture is not among ``known``,
            a coordinate is no number from 0 to 1, or a label is no file name or comes twice.
    """
    pictures = {_in_utf8(label): label for label in known}
    pictures |= {label: label for label in known}  # a name that reads like another's spelling is itself
    rows: dict[str, list[tuple[str, float, float]]] = {}
    taken: dict[str, set[str]] = {}  # labels of each picture, casefolded: many file systems fold names
    try:
        for where, row in _rows(path):
            name = row["file"]
            picture = pictures.get(name)
            if picture is None:
                raise InputError(
                    f"{where}: no picture {name[:200]!r} in --input_image; write its path below the "
                    f"folder given there, with forward slashes"
                )
            x, y = (_fraction(row[axis], axis, where) for axis in ("x", "y"))
            label = row.get(LABEL, "")
            if label and not is_label(label):
                raise InputError(
                    f"{where}: {label[:80]!r} cannot be a label: it becomes part of file names; take at most "
                    f"{LONGEST_LABEL} letters, digits, - and _"
                )
            labels = taken.setdefault(picture, set())
            if label.casefold() in labels:
                raise InputError(f"{where}: label {label!r} is there a second time for {name!r}; rename one")
            if label:
                labels.add(label.casefold())
            rows.setdefault(picture, []).append((label, x, y))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"--regions {path}: cannot be read as a UTF-8 CSV file ({error})") from error
    if not rows:
        raise InputError(f"--regions {path}: holds no spot; write one a line below the line {_HEADER}")
    return {picture: list(_labelled(spots, taken[picture])) for picture, spots in rows.items()}


def _rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each row by column, with where it stands."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = csv.reader(stream, strict=True)
        header = [column.strip() for column in next(rows, [])]
        if sorted(header) not in (sorted(COLUMNS), sorted([*COLUMNS, LABEL])):
            raise InputError(f"--regions {path}: its first line must be {_HEADER}, with commas")
        for row in rows:
            if not row:
                continue
            where = f"--regions {path}, line {rows.line_num}"
            if len(row) != len(header):
                raise InputError(
                    f"{where}: {len(row)} values under {len(header)} columns; put a name with commas in "
                    f"double quotes"
                )
            yield where, dict(zip(header, row, strict=True))


def _fraction(text: str, axis: str, where: str) -> float:
    try:
        value = math.nan if "_" in text else float(text)  # float() reads 0_0
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:  # NaN neither
        raise InputError(
            f"{where}: {axis} must be a number from 0 to 1, a fraction of the picture as it is seen (0.5 is "
            f"its middle), not {text[:20]!r}"
        )
    return value


def _labelled(rows: Sequence[tuple[str, float, float]], taken: Collection[str]) -> Iterator[Spot]:
    """Make spots of the rows of one picture; ``taken``: the labels that are given."""
    number = 0
    for label, x, y in rows:
        number += 1
        if not label:
            while str(number) in taken:
                number += 1
            label = str(number)
        yield Spot(label, x, y)


def spots_csv(spots: Mapping[str, Sequence[Spot]]) -> bytes:
    """Write down the spots of pictures, so that `read_spots` reads the same."""
    text = io.StringIO()
    rows = csv.writer(text)  # its line ends are CRLF: only so is a lone CR in a file name quoted
    rows.writerow([*COLUMNS, LABEL])
    for picture, places in spots.items():
        for spot in places:
            rows.writerow([_in_utf8(picture), spot.x, spot.y, spot.label])
    return text.getvalue().encode()


def _in_utf8(text: str) -> str:
    """Spell out undecodable bytes of a Linux file name, which are surrogates here: as prompts.csv does."""
    return text.encode("utf-8", "backslashreplace").decode()

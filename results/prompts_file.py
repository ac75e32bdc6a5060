"""Prompts in a CSV file: ``file,step,prompt``, and ``tile`` where parts of a picture have their own.

A run writes one, and ``--prompts_file`` reads one.
"""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

from errors import InputError
from results.limits import LONGEST_PROMPT
from results.run_report import PictureRecord

COLUMNS = ["file", "step", "prompt"]

TILE = "tile"

# (label of the picture, step from 1, tile from 1 or 0 for the whole picture) -> the whole prompt
FixedPrompts = Mapping[tuple[str, int, int], str]


def read_prompts(path: Path) -> FixedPrompts:
    """Read fixed prompts.

    Args:
        path: UTF-8 (with or without a byte order mark), a header line with the three columns in any order.

    Raises:
        InputError: it cannot be read, a column is missing, a step is no number from 1, or a row comes twice.
    """
    prompts: dict[tuple[str, int, int], str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream, strict=True)
            missing = [column for column in COLUMNS if column not in (rows.fieldnames or [])]
            if missing:
                raise InputError(
                    f"--prompts_file {path}: no column {', '.join(missing)}; its first line must be "
                    f"{','.join(COLUMNS)}"
                )
            for row in rows:
                where = f"--prompts_file {path}, line {rows.line_num}"
                label, step, prompt = (row[column] for column in COLUMNS)
                if label is None or step is None or prompt is None or None in row:
                    raise InputError(f"{where}: not three values; put a prompt with commas in double quotes")
                if len(prompt) > LONGEST_PROMPT or "\0" in prompt:
                    raise InputError(f"{where}: a prompt of over {LONGEST_PROMPT} characters, or with a NUL")
                tile = row.get(TILE)
                key = label, _number(step, "step", where), _number(tile, TILE, where) if tile else 0
                if key in prompts:
                    raise InputError(f"{where}: {label}, step {key[1]} is there a second time")
                prompts[key] = prompt
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"--prompts_file {path}: cannot be read as a UTF-8 CSV file ({error})") from error
    return prompts


def _number(text: str, what: str, where: str) -> int:
    if not text.strip().isdecimal() or len(text) > 9 or int(text) < 1:
        raise InputError(f"{where}: the {what} must be a number from 1, not '{text[:20]}'")
    return int(text)


def prompts_csv(pictures: Iterable[PictureRecord]) -> bytes:
    """Write down the prompts of a run, so that another can repeat them without an extractor."""
    text = io.StringIO()
    rows = csv.writer(text)  # its line ends are CRLF: only so is a lone CR in a prompt quoted
    pictures = list(pictures)
    tiled = any(step.tiles for picture in pictures for step in picture.steps)
    rows.writerow([*COLUMNS, TILE] if tiled else COLUMNS)
    for picture in pictures:
        for step in picture.steps:
            if step.prompt is not None:
                rows.writerow([picture.label, step.step, step.prompt, *([""] if tiled else [])])
            for number, tile in enumerate(step.tiles, start=1):
                rows.writerow([picture.label, step.step, tile.prompt, number])
    return text.getvalue().encode("utf-8", "backslashreplace")

"""Prompts in a CSV file: ``file,step,prompt``. A run writes one, and ``--prompts_file`` reads one."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

from errors import InputError
from results.limits import LONGEST_PROMPT
from results.run_report import PictureRecord

COLUMNS = ["file", "step", "prompt"]

# (label of the picture, step from 1) -> the whole prompt of that step
FixedPrompts = Mapping[tuple[str, int], str]


def read_prompts(path: Path) -> FixedPrompts:
    """Read fixed prompts.

    Args:
        path: UTF-8 (with or without a byte order mark), a header line with the three columns in any order.

    Raises:
        InputError: it cannot be read, a column is missing, a step is no number from 1, or a row comes twice.
    """
    prompts: dict[tuple[str, int], str] = {}
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
                if not step.strip().isdecimal() or len(step) > 9 or int(step) < 1:
                    raise InputError(f"{where}: the step must be a number from 1, not '{step[:20]}'")
                if len(prompt) > LONGEST_PROMPT or "\0" in prompt:
                    raise InputError(f"{where}: a prompt of over {LONGEST_PROMPT} characters, or with a NUL")
                if (label, int(step)) in prompts:
                    raise InputError(f"{where}: {label}, step {int(step)} is there a second time")
                prompts[label, int(step)] = prompt
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"--prompts_file {path}: cannot be read as a UTF-8 CSV file ({error})") from error
    return prompts


def prompts_csv(pictures: Iterable[PictureRecord]) -> bytes:
    """Write down the prompts of a run, so that another can repeat them without an extractor."""
    text = io.StringIO()
    rows = csv.writer(text)  # its line ends are CRLF: only so is a lone CR in a prompt quoted
    rows.writerow(COLUMNS)
    for picture in pictures:
        for step in picture.steps:
            if step.prompt is not None:
                rows.writerow([picture.label, step.step, step.prompt])
    return text.getvalue().encode("utf-8", "backslashreplace")

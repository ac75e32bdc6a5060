"""What a training logs: a line a step in rewards.csv and a plot of it, a line an answer in answers.jsonl."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prompts.rewards import WEIGHTS
from results.folder import Folder

# Column of rewards.csv -> what TRL calls it. All are means over a step's answers, of all processes.
COLUMNS = {
    "reward": "reward",  # the weighted sum
    "reward_std": "reward_std",
    **{name: f"rewards/{name}/mean" for name in WEIGHTS},
    "critic_failed": "critic_failed",  # share of the answers that the critic gave no score
    "kl": "kl",
    "loss": "loss",
    "gradient": "grad_norm",
    "learning_rate": "learning_rate",
    "tokens": "completions/mean_length",  # of an answer
    "cut_off": "completions/clipped_ratio",  # share of the answers that were not finished
    "seconds": "step_time",
}
LONGEST_LOG = 2**28  # bytes of a rewards.csv that is read back: of a million steps
LONGEST_LINE = 2**20  # bytes of answers.jsonl
SMOOTHING = 20  # steps that the plot's thick line averages over


class RewardLog:
    """rewards.csv, and what is in it.

    Args:
        folder: that holds it.
        file: its place.
        step: where the training goes on from: later lines of an earlier one are taken away.
    """

    def __init__(self, folder: Folder, file: Path, step: int) -> None:
        self.folder, self.file = folder, file
        self.rows = [row for row in read_rewards(file) if row["step"] <= step]
        lines = (_line([row["step"], *map(row.get, COLUMNS)]) for row in self.rows)
        folder.write((_line(["step", *COLUMNS]) + "".join(lines)).encode(), file)

    def add(self, step: int, logged: Mapping[str, Any]) -> dict[str, float | None]:
        """Add a step.

        Args:
            step: from 1.
            logged: what TRL says of it.

        Returns:
            The row.
        """
        row: dict[str, float | None] = {"step": step}
        for column, name in COLUMNS.items():
            value = logged.get(name)
            row[column] = float(f"{value:.6g}") if isinstance(value, int | float) else None
        self.rows.append(row)
        self.folder.append(_line([step, *map(row.get, COLUMNS)]).encode(), self.file)
        return row


def read_rewards(file: Path) -> list[dict[str, Any]]:
    """Read a rewards.csv back, as far as it is one: a line that was cut off and all after it are left out."""
    rows: list[dict[str, Any]] = []
    if not file.is_file() or file.stat().st_size > LONGEST_LOG:
        return rows
    for entry in csv.DictReader(io.StringIO(file.read_text(encoding="utf-8", errors="replace"))):
        try:
            step = int(entry["step"])
            values = {name: float(entry[name]) if entry[name] != "" else None for name in COLUMNS}
        except (KeyError, TypeError, ValueError):
            break
        if step < 1 or not all(value is None or math.isfinite(value) for value in values.values()):
            break
        rows.append({"step": step, **values})
    return rows


class AnswerLog:
    """answers.jsonl: one process's answers.

    Args:
        folder: that holds it.
        file: its place.
        step: where the training goes on from: later lines of an earlier one are taken away.
    """

    def __init__(self, folder: Folder, file: Path, step: int) -> None:
        self.folder, self.file = folder, file
        if not file.is_file():
            folder.write(b"", file)
            return
        with folder.writing(file) as written, file.open("rb") as old, written.open("wb") as new:
            new.writelines(
                line for line in iter(lambda: old.readline(LONGEST_LINE), b"") if 0 < _step_of(line) <= step
            )

    def add(self, lines: Sequence[Mapping[str, object]]) -> None:
        """Add a line for each answer."""
        text = "".join(json.dumps(line) + "\n" for line in lines)
        self.folder.append(text.encode(), self.file)


def _step_of(line: bytes) -> int:
    """Return the step that a line of answers.jsonl is of; 0 where it is none, or was cut off."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0
    return step if type(step) is int and line.endswith(b"\n") else 0


def _line(values: Sequence[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow("" if value is None else value for value in values)
    return line.getvalue()


def draw_rewards(rows: Sequence[Mapping[str, float | None]], title: str) -> bytes:
    """Draw the rewards over the steps, and return the plot as a PNG.

    Args:
        rows: as of `RewardLog`, at least one.
        title: of the plot.
    """
    from matplotlib.figure import Figure  # without pyplot, which would look for a screen

    figure = Figure(figsize=(9, 6), dpi=110, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    steps = [row["step"] for row in rows]
    names = {"reward": "sum, weighted", "critic": "critic (0 to 1)", "phrases": "phrase exclusion (0 or 1)"}
    names |= {"repetition": "repetition (-1 to 0)", "no_prompt": "no prompt (-1 or 0)"}
    for number, (column, label) in enumerate(names.items()):
        values = _column(rows, column)
        colour, width = f"C{number}", 2.2 if column == "reward" else 1.4
        above.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
        above.plot(steps, smoothed(values), color=colour, linewidth=width, label=label)
    above.set_title(title, loc="left")
    above.set_ylabel("mean reward of a step's answers")
    above.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    # without a weight of it (--beta 0) nobody works out the divergence
    known = any(row["kl"] is not None for row in rows)
    values = _column(rows, "kl" if known else "tokens")
    below.plot(steps, values, color="C7", alpha=0.3, linewidth=0.8)
    below.plot(steps, smoothed(values), color="C7", linewidth=1.4)
    below.set_ylabel("KL from the base" if known else "tokens an answer")
    below.set_xlabel("step")
    for axes in (above, below):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    return drawn.getvalue()


def _column(rows: Sequence[Mapping[str, float | None]], name: str) -> list[float]:
    values = (row[name] for row in rows)
    return [math.nan if value is None else value for value in values]


def smoothed(values: Sequence[float]) -> list[float]:
    """Average each value with those up to `SMOOTHING` - 1 steps before it; NaN counts for nothing."""
    means = []
    for end in range(1, len(values) + 1):
        known = [value for value in values[max(0, end - SMOOTHING) : end] if not math.isnan(value)]
        means.append(sum(known) / len(known) if known else math.nan)
    return means

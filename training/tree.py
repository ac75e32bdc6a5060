"""The folder that a training writes, and how one goes on.

OUT/training.json                what was asked, and how far it came
OUT/adapter/                     the trained adapter, for ``--vlm_lora_path``
OUT/checkpoint-N/                the adapter after N steps, and what going on from there needs
OUT/rewards.csv, rewards.png     a line a step, and the plot of it
OUT/answers.jsonl                what was answered, and what each answer was worth
OUT/critic_scores.sqlite         scores that the critic gave
OUT/evaluation.json, .html       of ``--evaluate``
OUT/.lock                        while a training writes here
"""

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from checkpoints.folders import read_json
from errors import InputError
from results.changes import differences
from results.folder import Folder, temporary

logger = logging.getLogger(__name__)

SCHEMA = 1
MOST_SCORES = 5_000_000  # in the cache, of the critic's
WHOLE = "whole"  # a file that is written into a checkpoint last
CHECKPOINT = re.compile(r"checkpoint-([1-9][0-9]{0,8})")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
WAY_OUT = "give another --output_dir, or --overwrite to start anew"


class TrainingTree(Folder):
    """The places of a training's files."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.report = root / "training.json"
        self.adapter = root / "adapter"
        self.adapter_files = [self.adapter / name for name in ADAPTER_FILES]
        self.rewards = root / "rewards.csv"
        self.plot = root / "rewards.png"
        self.answers = root / "answers.jsonl"
        self.scores = root / "critic_scores.sqlite"
        self.evaluation = root / "evaluation.json"
        self.page = root / "evaluation.html"

    def prepare(self) -> None:
        """Create the folder, and see that it can be written to.

        Raises:
            InputError: it cannot.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with temporary(self.root) as file:
                file.touch()
        except OSError as error:
            raise InputError(f"--output_dir {self.root}: cannot be written to ({error.strerror})") from None

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep every other training out of this folder.

        Raises:
            InputError: another is at work.
        """
        lock = filelock.FileLock(self.root / ".lock", blocking=False)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise InputError(f"--output_dir {self.root}: another training is writing there") from None
        except (OSError, NotImplementedError):  # a file system without locks
            logger.warning("%s: knows no locks; see that one training at a time writes there", self.root)
        try:
            yield
        finally:
            lock.release()

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of a step is."""
        return self.root / f"checkpoint-{step}"

    def checkpoints(self) -> dict[int, Path]:
        """Return the checkpoints that are whole, by step, the first first."""
        found = {}
        for folder in self.root.glob("checkpoint-*"):
            match = CHECKPOINT.fullmatch(folder.name)
            if match and (folder / WHOLE).is_file():
                found[int(match[1])] = folder
        return dict(sorted(found.items()))

    def earlier(self, settings: dict[str, Any], way_out: str = WAY_OUT) -> dict[str, Any] | None:
        """Read what an earlier training into this folder was asked; None where there is none.

        Args:
            settings: what must be the same; parts that are not in it may differ.
            way_out: how the message ends where something is not.

        Raises:
            InputError: it was asked something else, or something else is in the folder.
        """
        if not self.report.exists():
            if self.checkpoints() or any(file.exists() for file in self.adapter_files):
                raise InputError(f"{self.root}: checkpoints without a training.json; {WAY_OUT}")
            return None
        report = read_report(self.report)
        changed = differences({part: report["settings"].get(part) for part in settings}, settings)
        if changed:
            more = f" (and {len(changed) - 3} more)" if len(changed) > 3 else ""
            raise InputError(
                f"{self.root}: trained with other settings: {'; '.join(changed[:3])}{more}; {way_out}"
            )
        return report

    def save_report(self, content: dict[str, Any]) -> None:
        """Write training.json.

        Raises:
            OutputError: it cannot be written.
        """
        self.write(json.dumps({"schema": SCHEMA, **content}, indent=1).encode() + b"\n", self.report)

    def remove(self) -> None:
        """Remove what an earlier training has left, but for the critic's scores, which stay true.

        Raises:
            InputError: something cannot be removed.
        """
        try:
            for folder in self.root.glob("checkpoint-*"):
                if CHECKPOINT.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
                    shutil.rmtree(folder)
            for file in (
                *self.adapter_files,
                self.report,
                self.rewards,
                self.plot,
                self.answers,
                self.evaluation,
                self.page,
            ):
                file.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be removed ({error.strerror})") from None


def read_report(file: Path) -> dict[str, Any]:
    """Read a training.json.

    Raises:
        InputError: it is none of this program's.
    """
    try:
        report = read_json(file)
    except InputError:
        raise InputError(f"{file}: is damaged or not of this program; {WAY_OUT}") from None
    if report.get("schema") != SCHEMA or not isinstance(report.get("settings"), dict):
        raise InputError(f"{file}: is not of this program; {WAY_OUT}")
    return report

"""run.json: what a run was asked, what it did, and how far it came. Resuming reads it back.

schema          2
program         chain-of-zoom
version         of the program
status          running, done, failed (some pictures failed), interrupted, stopped (could not go on)
settings        what decides the pixels; a rerun into the same folder must agree with it
environment     versions and the device; for information
started, finished   UTC, ISO 8601; finished is null while it runs
stage_seconds   seconds by stage over the last run, see `machine.stage_times.StageTimes`
components      how often each model was read from disk and moved to its device, in the last run
unreadable      label and reason of files that are no pictures
pictures        one entry a picture, see `PictureRecord` and `StepRecord`
"""

import dataclasses
import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from machine.stage_times import StageTimes
from results.output_tree import OutputTree

SCHEMA = 2
PICTURE_STATUSES = ("pending", "started", "done", "failed")
STATUSES = ("running", "done", "failed", "interrupted", "stopped")


@dataclass
class StepRecord:
    """One step of one picture.

    Attributes:
        step: from 1; 0 is the picture itself and has no record.
        magnification: of this state against state 0.
        window: left, top and side of what the step looked at, in pixels of the state it was cut from.
        window_of: number of that state.
        prompt: what steered the backbone, whole; null until somebody was asked, and where nobody is.
        extracted, extractor, raw, note: see `zoom.protocols.Prompt`.
        seed: of the step's noise; null for kinds that only resize.
        seconds: by stage: prompt, sr, save; of a batch, its share.
        done: the state is on disk.
    """

    step: int
    magnification: int
    window: tuple[int, int, int]
    window_of: int
    prompt: str | None = None
    extracted: str = ""
    extractor: str = ""
    raw: str = ""
    note: str = ""
    seed: int | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    done: bool = False

    @property
    def plan(self) -> tuple[object, ...]:
        """What was known of the step before it began."""
        return self.step, self.magnification, self.window, self.window_of


@dataclass
class PictureRecord:
    """One picture.

    Attributes:
        name: its name in the output tree.
        label: its path below the folder that was given; prompt files call it by this.
        file: where it was read, resolved.
        sha256: of the content that the states were made from; null before it was read.
        status: one of `PICTURE_STATUSES`.
        failure: the reason in one line; null where there is none.
        steps: all of them in order, from when the picture is taken up.
    """

    name: str
    label: str
    file: str
    sha256: str | None = None
    status: str = "pending"
    failure: str | None = None
    steps: list[StepRecord] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether it was given up."""
        return self.status == "failed"

    @property
    def steps_done(self) -> int:
        """Number of steps whose state is on disk."""
        return sum(step.done for step in self.steps)


class RunReport:
    """The report while a run goes on.

    Records of pictures that this run does not name are kept: a folder may be filled by several runs.
    """

    def __init__(
        self,
        tree: OutputTree,
        version: str,
        settings: dict[str, Any],
        environment: dict[str, Any],
        times: StageTimes,
    ) -> None:
        self.tree = tree
        self.version = version
        self.settings = settings
        self.environment = environment
        self.times = times
        self.status = "running"
        self.started = _now()
        self.finished: str | None = None
        self.components: dict[str, dict[str, int]] = {}
        self.unreadable: list[dict[str, str]] = []
        self.pictures: dict[str, PictureRecord] = {}
        self._next_write = 0.0

    def save(self, now: bool = True) -> None:
        """Write run.json; with ``now=False`` only where the last time is long ago.

        Writing takes longer the more pictures there are, so the pauses grow with it. What a killed run did
        after its last report is done again by the next one.
        """
        if not now and time.monotonic() < self._next_write:
            return
        start = time.monotonic()
        content = {
            "schema": SCHEMA,
            "program": "chain-of-zoom",
            "version": self.version,
            "status": self.status,
            "started": self.started,
            "finished": self.finished,
            "settings": self.settings,
            "environment": self.environment,
            "stage_seconds": {name: round(seconds, 4) for name, seconds in sorted(self.times.items())},
            "components": self.components,
            "unreadable": self.unreadable,
            "pictures": [dataclasses.asdict(record) for record in self.pictures.values()],
        }
        self.tree.write(json.dumps(content, indent=1).encode(), self.tree.run_json)
        took = time.monotonic() - start
        self._next_write = time.monotonic() + max(2.0, 50 * took)

    def finish(self, status: str) -> None:
        """Say how the run ended, and write the report."""
        self.status = status
        self.finished = _now()
        self.save()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

"""run.json: what a run was asked, what it did, and how far it came. Resuming reads it back.

schema          3
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
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from machine.pace import Pace
from machine.stage_times import StageTimes
from results.output_tree import OutputTree
from results.pictures import Failure

SCHEMA = 3
PICTURE_STATUSES = ("pending", "started", "done", "failed")
# How a state came about. real: its window holds as many of the picture's own pixels as the state has, and was
# only resized; enlarged: from real pixels, at least as many as the step's factor asks for; invented: all else
MADE = ("real", "enlarged", "invented")
STATUSES = ("running", "done", "failed", "interrupted", "stopped")


Rectangle = tuple[float, float, float, float]


@dataclass
class TilePrompt:
    """The prompt of a part of a step's picture.

    Attributes:
        box: left, top, right and bottom of the part, in pixels of the state that is made.
        prompt, extracted, extractor, raw, note: as of a `StepRecord`.
    """

    box: tuple[int, int, int, int]
    prompt: str
    extracted: str = ""
    extractor: str = ""
    raw: str = ""
    note: str = ""


@dataclass
class StepRecord:
    """One step of one picture.

    Attributes:
        step: from 1; 0 is the picture itself and has no record.
        magnification: of this state against state 0.
        window: left, top, width and height of what the step looked at, in pixels of what it was cut from.
        window_of: number of the state that it was cut from; null for the picture itself.
        size: width and height of the state.
        view: left, top, width and height of what the state shows, in the picture's own pixels: so many real
            pixels its window had.
        made: one of `MADE`.
        prompt: what steered the backbone, whole; null until somebody was asked, and where nobody is.
        extracted, extractor, raw, note: see `zoom.protocols.Prompt`.
        tiles: the prompts, where parts of the picture have their own.
        seed: of the step's noise; null where it only resizes.
        consistency: of the state with its crop, see `zoom.measure.consistency`; null where it is real.
        texture: of the state, see `zoom.measure.texture`.
        seconds: by stage: prompt, sr, save; of a batch, its share.
        done: the state is on disk.
    """

    step: int
    magnification: int
    window: tuple[int, int, int, int]
    window_of: int | None
    size: tuple[int, int]
    view: Rectangle
    made: str
    prompt: str | None = None
    extracted: str = ""
    extractor: str = ""
    raw: str = ""
    note: str = ""
    tiles: list[TilePrompt] = field(default_factory=list)
    seed: int | None = None
    consistency: float | None = None
    texture: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    done: bool = False

    @property
    def plan(self) -> tuple[object, ...]:
        """What was known of the step before it began."""
        return (
            self.step,
            self.magnification,
            self.window,
            self.window_of,
            self.size,
            self.view,
            self.made,
        )

    @property
    def has_prompt(self) -> bool:
        """Whether it was asked about."""
        return self.prompt is not None or bool(self.tiles)


@dataclass
class PictureRecord:
    """One picture.

    Attributes:
        name: its name in the output tree.
        label: its path below the folder that was given; prompt files call it by this.
        file: where it was read, resolved.
        spot: label of the spot in it; empty where the picture is zoomed into once.
        center: of the spot, as fractions of the picture as it is seen; null without one.
        sha256: of the content that the states were made from; null before it was read.
        size: width and height of the picture as it is seen, in pixels; null before it was read.
        view: left, top, width and height of what state 0 shows, in the picture's pixels.
        texture: of state 0, see `zoom.measure.texture`.
        status: one of `PICTURE_STATUSES`.
        failure: the reason in one line; null where there is none.
        steps: all of them in order, from when the picture is taken up.
    """

    name: str
    label: str
    file: str
    spot: str = ""
    center: tuple[float, float] | None = None
    sha256: str | None = None
    size: tuple[int, int] | None = None
    view: Rectangle | None = None
    texture: float | None = None
    status: str = "pending"
    failure: str | None = None
    steps: list[StepRecord] = field(default_factory=list)

    @property
    def id(self) -> tuple[str, str]:
        """What tells it from every other, see `results.pictures.Source.id`."""
        return self.file, self.spot

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
        self.unreadable: list[Failure] = []
        self.pictures: dict[str, PictureRecord] = {}
        self._pace = Pace()

    def save(self, now: bool = True) -> None:
        """Write run.json; with ``now=False`` only where the last time is long ago.

        Writing takes longer the more pictures there are, so the pauses grow with it. What a killed run did
        after its last report is done again by the next one.
        """
        if not now and not self._pace.due:
            return
        with self._pace.writing():
            self.tree.write(json.dumps(self._content(), indent=1).encode(), self.tree.run_json)

    def _content(self) -> dict[str, Any]:
        return {
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
            "unreadable": [dataclasses.asdict(failure) for failure in self.unreadable],
            "pictures": [dataclasses.asdict(record) for record in self.pictures.values()],
        }

    def finish(self, status: str) -> None:
        """Say how the run ended, and write the report."""
        self.status = status
        self.finished = _now()
        self.save()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

"""run.json: what a run was asked, what it did, and how far it came. Resuming reads it back.

It is written when a run begins and when it ends. In between, run.jsonl beside it takes a line for each
picture that has come on: first the SHA-256 of the run.json that it goes on from, then pictures' entries anew.

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
left_over       names of pictures that --overwrite has given up and not found again: their results are removed
                when all others are done
pictures        one entry a picture, see `PictureRecord` and `StepRecord`
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any

from machine.pace import Pace
from machine.stage_times import StageTimes
from results.output_tree import OutputTree
from results.pictures import Failure, label_of_picture

SCHEMA = 3
PICTURE_STATUSES = ("pending", "started", "done", "failed")
# How a state came about. real: its window holds as many of the picture's own pixels as the state has, and was
# only resized; enlarged: from real pixels, at least as many as the step's factor asks for; invented: all else
MADE = ("real", "enlarged", "invented")
STATUSES = ("running", "done", "failed", "interrupted", "stopped")
STAGES = ("prompt", "sr", "save")  # of a step
LARGEST_JOURNAL = 2**28  # bytes; then all is written anew: no file without bounds is read back


Rectangle = tuple[float, float, float, float]


@dataclass(slots=True)
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


@dataclass(slots=True)
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
        prompt_seconds, sr_seconds, save_seconds: of the `STAGES`, ``seconds`` in run.json; of a batch, its
            share; null where the stage took no part.
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
    tiles: Sequence[TilePrompt] = ()
    seed: int | None = None
    consistency: float | None = None
    texture: float | None = None
    prompt_seconds: float | None = None
    sr_seconds: float | None = None
    save_seconds: float | None = None
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


@dataclass(slots=True)
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
    def picture_label(self) -> str:
        """The label of the picture, which its spots share."""
        return label_of_picture(self.label, self.spot)

    @property
    def failed(self) -> bool:
        """Whether it was given up."""
        return self.status == "failed"

    @property
    def steps_done(self) -> int:
        """Number of steps whose state is on disk."""
        return sum(step.done for step in self.steps)

    @property
    def has_results(self) -> bool:
        """Whether something was made of it."""
        return self.sha256 is not None

    @property
    def left_to_do(self) -> bool:
        """Whether no run has come to its end yet."""
        return self.status in ("pending", "started")

    def become(self, other: "PictureRecord") -> None:
        """Take over what another record says."""
        for name in self.__slots__:
            setattr(self, name, getattr(other, name))

    def begin_anew(self) -> None:
        """Forget what was made of it: whatever lies under its name is removed when it begins."""
        self.become(PictureRecord(self.name, self.label, self.file, self.spot, self.center))


def figure(value: float, digits: int) -> float:
    """Round a figure of a record."""
    return _shared(round(value, digits))


@lru_cache(maxsize=4096)
def _shared(value: float) -> float:
    """Return the same object for equal figures: records have many, a folder 100,000 records."""
    return value


class RunReport:
    """The report while a run goes on.

    Records of pictures that this run does not name are kept: a folder may be filled by several runs.

    Args:
        tree: the folder.
        version: of the program.
        settings, environment, times: see the module's description.
        file: where the report is; None for the folder's run.json.
    """

    def __init__(
        self,
        tree: OutputTree,
        version: str,
        settings: dict[str, Any],
        environment: dict[str, Any],
        times: StageTimes,
        file: Path | None = None,
    ) -> None:
        self.tree = tree
        self.file = file or tree.run_json
        self.version = version
        self.settings = settings
        self.environment = environment
        self.times = times
        self.status = "running"
        self.started = _now()
        self.finished: str | None = None
        self.components: dict[str, dict[str, int]] = {}
        self.unreadable: list[Failure] = []
        self.left_over: list[str] = []
        self.pictures: dict[str, PictureRecord] = {}
        self._come_on: dict[str, PictureRecord] = {}  # since they were last written
        self._journal = 0  # bytes of it; 0 where there is none that goes with the report
        self._pace = Pace()

    def save(self) -> None:
        """Write all of it, and begin a journal that goes on from there.

        Raises:
            FileRefused, OutputError: see `OutputTree.writing`.
        """
        self._come_on.clear()
        self._journal = 0  # no other goes with what is written now
        digest = self._write_all()
        first = first_line(digest)
        self.tree.write(first, journal_of(self.file))
        self._journal = len(first)

    def note(self, picture: PictureRecord) -> None:
        """Have a picture written that has come on, soon.

        What a killed run did after it last wrote is done again by the next one.

        Raises:
            FileRefused, OutputError: see `OutputTree.writing`.
        """
        self._come_on[picture.name] = picture
        if not self._pace.due:
            return
        with self._pace.writing():
            if not 0 < self._journal < LARGEST_JOURNAL:
                self.save()
                return
            lines = b"".join(_line(entry_of(one)) for one in self._come_on.values())
            self.tree.append(lines, journal_of(self.file))
            self._journal += len(lines)
            self._come_on.clear()

    def finish(self, status: str) -> None:
        """Say how the run ended, and write all of it; nothing goes on from there.

        Raises:
            FileRefused, OutputError: see `OutputTree.writing`.
        """
        self.status = status
        self.finished = _now()
        self._write_all()
        with contextlib.suppress(OSError):  # open in another program: it goes with no report any more
            journal_of(self.file).unlink(missing_ok=True)

    def _write_all(self) -> str:
        """Write the report; return its SHA-256."""
        digest = hashlib.sha256()
        with self.tree.writing(self.file) as temporary, temporary.open("wb") as stream:
            for piece in self._pieces():
                stream.write(piece)
                digest.update(piece)
        return digest.hexdigest()

    def _pieces(self) -> Iterable[bytes]:
        """Yield the report, a line a picture: a folder of 100,000 need not be in memory twice."""
        head = {
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
            "left_over": self.left_over,
        }
        yield json.dumps(head, indent=1).removesuffix("\n}").encode() + b',\n "pictures": ['
        between = b"\n"
        for picture in self.pictures.values():
            yield between + json.dumps(entry_of(picture)).encode()
            between = b",\n"
        yield b"\n ]\n}\n"


def journal_of(file: Path) -> Path:
    """Return where the journal of a report is: run.jsonl beside run.json."""
    return file.with_suffix(".jsonl")


def first_line(digest: str) -> bytes:
    """Return how the journal begins that goes on from a report of this SHA-256."""
    return _line({"goes_on_from": digest})


def entry_of(picture: PictureRecord) -> dict[str, Any]:
    """Return what the report says of a picture. Other threads may be at work on it."""
    return {**_values(picture), "steps": [_step(step) for step in picture.steps]}


def _step(step: StepRecord) -> dict[str, Any]:
    values = _values(step)
    seconds = {stage: values.pop(f"{stage}_seconds") for stage in STAGES}
    values["seconds"] = {stage: spent for stage, spent in seconds.items() if spent is not None}
    values["tiles"] = [_values(tile) for tile in step.tiles]
    return values


def _values(record: PictureRecord | StepRecord | TilePrompt) -> dict[str, Any]:
    kind = type(record)
    return dict(zip(kind.__slots__, _FIELDS_OF[kind](record), strict=True))


_FIELDS_OF = {kind: attrgetter(*kind.__slots__) for kind in (PictureRecord, StepRecord, TilePrompt)}


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

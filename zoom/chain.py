"""The chain: pictures -> state 0 -> [window -> prompt -> SR -> colour fix -> state] x N -> strip.

Chain-of-Zoom (arXiv 2505.18600, section 3) is model-agnostic: the chain knows the prompt extractor and the
SR backbone only by the two protocols below.

A state is the PNG on disk, and every step reads the one before: so an interrupted run goes on with the same
pixels. Work goes stage by stage over a group of pictures (all prompts, then all SR passes, then the next
scale), so that a big model moves once a scale and not once a picture.
"""

import hashlib
import logging
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, overload

from PIL import Image
from tqdm import tqdm

from errors import InputError, OutputError, PictureError
from machine.stage_times import StageTimes
from prompts.extractors import Prompt, join_prompt
from results.output_tree import OutputTree, read_state
from results.pictures import read_picture
from results.run_report import PictureRecord, RunReport, StepRecord
from zoom import window
from zoom.color_fix import fix_colors

log = logging.getLogger(__name__)

RESIZE_KINDS = {"nearest": Image.Resampling.NEAREST, "bicubic": Image.Resampling.BICUBIC}
KINDS = (*RESIZE_KINDS, "onestep", "recursive", "recursive_multiscale")

Result = TypeVar("Result")


class PromptExtractor(Protocol):
    """Says what pictures show."""

    def __call__(
        self, parents: Sequence[Image.Image] | None, inputs: Sequence[Image.Image]
    ) -> Iterable[Prompt | PictureError]:
        """Yield a prompt for every input, in order.

        Args:
            parents: the states that the inputs were cut from, whole; None to ask about the input alone.
            inputs: the SR inputs, RGB, all of one size. Both are read from disk when they are indexed.
        """
        ...

    def describe(self) -> dict[str, object]:
        """Say what it is (JSON values): for run.json, and to tell runs of other settings apart."""
        ...


class SRBackbone(Protocol):
    """Makes a crop larger, with detail."""

    def __call__(
        self,
        crops: Sequence[Image.Image],
        side: int,
        prompts: Sequence[str],
        seeds: Sequence[int],
        step: int = 1,
    ) -> Iterable[Image.Image | PictureError]:
        """Yield an RGB image of `side` pixels squared for every crop, in order.

        Args:
            crops: RGB squares in their own pixels, all of one size. Read from disk when they are indexed.
            side: wanted side.
            prompts: the words that steer, one a crop.
            seeds: of each crop's own noise, below 2**63.
            step: number of the step, from 1.
        """
        ...

    def describe(self) -> dict[str, object]:
        """Say what it is (JSON values): for run.json, and to tell runs of other settings apart."""
        ...


@dataclass(frozen=True)
class ChainSettings:
    """What the chain itself decides.

    Attributes:
        rec_type: one of `KINDS`.
        rec_num: number of steps.
        upscale: factor a step.
        process_size: side of a state in pixels.
        align_method: see `color_fix.fix_colors`.
        prompt: the user's words.
        seed: all noise derives from it, the picture's file name and the step.
    """

    rec_type: str = "recursive_multiscale"
    rec_num: int = 4
    upscale: int = 4
    process_size: int = 512
    align_method: str = "nofix"
    prompt: str = ""
    seed: int = 42

    @property
    def resizes_only(self) -> bool:
        """No prompt and no SR backbone takes part."""
        return self.rec_type in RESIZE_KINDS

    @property
    def from_first_state(self) -> bool:
        """Every step's window is cut out of state 0."""
        return self.resizes_only or self.rec_type == "onestep"

    def window(self, step: int) -> window.Window:
        """Return what step `step` looks at; InputError where that is less than a pixel."""
        return window.step_window(self.process_size, self.upscale, step, self.from_first_state)

    def window_of(self, step: int) -> int:
        """Return the number of the state that step `step` looks at."""
        return 0 if self.from_first_state else step - 1


def noise_seed(seed: int, file_name: str, step: int) -> int:
    """Derive the seed of one step of one picture, below 2**63.

    From the file's name and not its place among others: so a picture's pixels never depend on its neighbours,
    on their order or on how many processes share them.
    """
    key = f"{seed}/{unicodedata.normalize('NFC', file_name)}/{step}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(key).digest()[:8]) >> 1


class ReadLate(Sequence[Image.Image]):
    """The pictures' images, each read when it is asked for: a whole folder's would not fit into memory."""

    def __init__(
        self, read: Callable[[PictureRecord], Image.Image], pictures: Sequence[PictureRecord]
    ) -> None:
        self._read = read
        self._pictures = pictures

    def __len__(self) -> int:
        return len(self._pictures)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> "ReadLate": ...
    def __getitem__(self, index: int | slice) -> "Image.Image | ReadLate":
        if isinstance(index, slice):
            return ReadLate(self._read, self._pictures[index])
        return self._read(self._pictures[index])


class Chain:
    """Zooms into pictures.

    Args:
        settings: see there.
        tree: where the results go.
        report: what happened; its records say what an earlier run has already done.
        extractor, backbone: None only for kinds that just resize.
        fixed_prompts: whole prompts by (label, step); where there is one, the extractor is not asked.
        save_prompts: also write txt/K.txt.
        times: the chain's own stages.
    """

    def __init__(
        self,
        settings: ChainSettings,
        tree: OutputTree,
        report: RunReport,
        extractor: PromptExtractor | None,
        backbone: SRBackbone | None,
        times: StageTimes,
        fixed_prompts: Mapping[tuple[str, int], str] | None = None,
        save_prompts: bool = True,
    ) -> None:
        self.settings = settings
        self.tree = tree
        self.report = report
        self.extractor = extractor
        self.backbone = backbone
        self.times = times
        self.fixed_prompts = fixed_prompts or {}
        self.save_prompts = save_prompts

    def run(self, pictures: Sequence[PictureRecord], group_size: int, bar: "tqdm[Any]") -> None:
        """Zoom into all pictures; what fails is noted in its record and the others go on.

        Args:
            pictures: records, in the order to work in.
            group_size: pictures that go through a scale together.
            bar: moved by one for every step of every picture, also those already done or given up.

        Raises:
            OutputError: the results cannot be written; everything so far is kept.
            InputError: a model cannot be loaded.
        """
        for start in range(0, len(pictures), group_size):
            group = [
                picture for picture in pictures[start : start + group_size] if not self._finished(picture)
            ]
            bar.update(self.settings.rec_num * (len(pictures[start : start + group_size]) - len(group)))
            self._run_group(group, bar)
            bar.set_description(f"{min(start + group_size, len(pictures))} of {len(pictures)} pictures")
            self.report.save(now=False)

    def _finished(self, picture: PictureRecord) -> bool:
        if picture.status != "done":
            return False
        states = range(self.settings.rec_num + 1)
        files = (place(picture.name, k) for k in states for place in (self.tree.state, self.tree.per_scale))
        strips = (self.tree.strip(picture.name), self.tree.collected_strip(picture.name))
        return all(file.exists() for file in (*files, *strips))

    def _run_group(self, group: list[PictureRecord], bar: "tqdm[Any]") -> None:
        left = {picture.name: self.settings.rec_num for picture in group}  # steps the bar still waits for

        def advance(picture: PictureRecord, steps: int = 1) -> None:
            bar.update(min(steps, left[picture.name]))
            left[picture.name] -= steps
            bar.set_postfix_str(picture.name, refresh=False)

        for picture in group:
            self._start(picture)
            advance(picture, sum(step.done for step in picture.steps))
        for step in range(1, self.settings.rec_num + 1):
            waiting = [picture for picture in group if not self._step_done(picture, step)]
            if self.settings.resizes_only:
                results = self._resize(waiting, step)
            else:
                self._ask_for_prompts(waiting, step)
                results = self._super_resolve([p for p in waiting if p.status != "failed"], step)
            for picture in results:
                advance(picture)
                self.report.save(now=False)
        for picture in group:
            self._finish(picture)
            advance(picture, max(0, left[picture.name]))

    def _fail(self, picture: PictureRecord, error: PictureError) -> None:
        picture.status, picture.failure = "failed", str(error)
        log.info("%s: %s", picture.label, error)  # the command names all failures at the end

    def _step_done(self, picture: PictureRecord, step: int) -> bool:
        record = picture.step(step)
        return picture.status == "failed" or (record is not None and record.done)

    def _start(self, picture: PictureRecord) -> None:
        """Make state 0, or check which states of an earlier run are good."""
        side = self.settings.process_size
        picture.status, picture.failure = "started", None
        with self.times.stage("chain.read"):

            def is_good(step: int) -> bool:
                copied = self.tree.per_scale(picture.name, step).exists()
                return copied and read_state(self.tree.state(picture.name, step), side) is not None

            if picture.steps and is_good(0):
                for record in picture.steps:
                    if record.done and not is_good(record.step):
                        record.done = False
                    if not record.done:  # what comes after depends on it; the prompt itself is still right
                        picture.forget_from(record.step + 1)
                        break
                return
            picture.steps.clear()
            try:
                state = window.first_state(read_picture(Path(picture.file)), side)
            except PictureError as error:
                self._fail(picture, error)
                return
        with self.times.stage("chain.save"):
            self._save_state(picture, 0, state)

    def _save_state(self, picture: PictureRecord, step: int, state: Image.Image) -> None:
        # the state itself last: what is on disk with it is complete
        self.tree.write_image(
            state, self.tree.per_scale(picture.name, step), self.tree.state(picture.name, step)
        )

    def _state(self, picture: PictureRecord, number: int) -> Image.Image:
        state = read_state(self.tree.state(picture.name, number), self.settings.process_size)
        if state is None:
            raise PictureError(f"state {number} is gone or damaged: {self.tree.state(picture.name, number)}")
        return state

    def _crop(self, picture: PictureRecord, step: int) -> Image.Image:
        state = self._state(picture, self.settings.window_of(step))
        return state.crop(self.settings.window(step).box)

    def _sr_input(self, picture: PictureRecord, step: int) -> Image.Image:
        return window.enlarge(self._crop(picture, step), self.settings.process_size)

    def _new_record(self, step: int) -> StepRecord:
        window = self.settings.window(step)
        return StepRecord(
            step=step,
            magnification=self.settings.upscale**step,
            window=(window.left, window.top, window.side),
            window_of=self.settings.window_of(step),
        )

    def _resize(self, pictures: Sequence[PictureRecord], step: int) -> Iterator[PictureRecord]:
        """Make state `step` of every picture by resizing alone; yield each picture that has come on."""
        resample = RESIZE_KINDS[self.settings.rec_type]
        for picture in pictures:
            record = self._new_record(step)
            try:
                with self.times.stage("chain.resize"):
                    crop = self._crop(picture, step)
                    state = window.enlarge(crop, self.settings.process_size, resample)
            except PictureError as error:
                self._fail(picture, error)
                continue
            start = time.perf_counter()
            with self.times.stage("chain.save"):
                self._save_state(picture, step, state)
            record.seconds["save"] = round(time.perf_counter() - start, 3)
            record.done = True
            picture.steps.append(record)
            yield picture

    def _ask_for_prompts(self, pictures: Sequence[PictureRecord], step: int) -> None:
        """Give every picture the record of this step, with its prompt."""
        asked = []
        for picture in pictures:
            if picture.step(step) is not None:  # an earlier run asked and did not come further
                continue
            fixed = self.fixed_prompts.get((picture.label, step))
            if fixed is None:
                asked.append(picture)
            else:
                self._set_prompt(picture, step, Prompt(fixed, "file"), fixed)
        assert self.extractor is not None
        extractor = self.extractor
        two_pictures = self.settings.rec_type == "recursive_multiscale"

        def ask(batch: Sequence[PictureRecord]) -> Iterable[Prompt | PictureError]:
            parents = (
                ReadLate(lambda picture: self._state(picture, step - 1), batch) if two_pictures else None
            )
            return extractor(parents, ReadLate(lambda picture: self._sr_input(picture, step), batch))

        start = time.perf_counter()
        answered = []
        for picture, answer in _isolating_failures(ask, asked):
            if isinstance(answer, PictureError):
                self._fail(picture, answer)
                continue
            self._set_prompt(picture, step, answer, join_prompt(answer.text, self.settings.prompt))
            answered.append(picture)
            self.report.save(now=False)
        self._share_seconds(answered, step, "prompt", time.perf_counter() - start)

    def _set_prompt(self, picture: PictureRecord, step: int, prompt: Prompt, whole: str) -> None:
        record = self._new_record(step)
        record.prompt, record.extracted, record.extractor = whole, prompt.text, prompt.extractor
        record.raw, record.note = prompt.raw, prompt.note
        record.seed = noise_seed(self.settings.seed, Path(picture.file).name, step)
        if self.save_prompts:
            with self.times.stage("chain.save"):
                self.tree.write(whole.encode(), self.tree.prompt(picture.name, step))
        picture.steps.append(record)  # last: what has a record is not done again

    def _super_resolve(self, pictures: Sequence[PictureRecord], step: int) -> Iterator[PictureRecord]:
        """Make state `step` of every picture; yield each picture that has come on."""
        assert self.backbone is not None
        backbone, side = self.backbone, self.settings.process_size

        def enlarge(batch: Sequence[PictureRecord]) -> Iterable[Image.Image | PictureError]:
            records = [_record(picture, step) for picture in batch]
            return backbone(
                ReadLate(lambda picture: self._crop(picture, step), batch),
                side,
                [record.prompt or "" for record in records],
                [record.seed or 0 for record in records],
                step=step,
            )

        start = time.perf_counter()
        saving = 0.0
        enlarged = []
        for picture, output in _isolating_failures(enlarge, pictures):
            if isinstance(output, PictureError):
                self._fail(picture, output)
                continue
            since = time.perf_counter()
            with self.times.stage("chain.save"):
                try:
                    crop = self._crop(picture, step)
                    sr_input = window.enlarge(crop, side)
                    state = fix_colors(self.settings.align_method, output, sr_input, crop)
                except PictureError as error:  # the state was removed or damaged meanwhile
                    self._fail(picture, error)
                    continue
                place = self.tree.sr_input(picture.name, step, self.settings.from_first_state)
                self.tree.write_image(sr_input, place)
                self._save_state(picture, step, state)
            record = _record(picture, step)
            record.seconds["save"] = round(time.perf_counter() - since, 3)
            record.done = True
            saving += time.perf_counter() - since
            enlarged.append(picture)
            yield picture
        self._share_seconds(enlarged, step, "sr", time.perf_counter() - start - saving)

    def _share_seconds(
        self, pictures: Sequence[PictureRecord], step: int, stage: str, seconds: float
    ) -> None:
        for picture in pictures:
            _record(picture, step).seconds[stage] = round(seconds / len(pictures), 3)

    def _finish(self, picture: PictureRecord) -> None:
        """Lay the states side by side, which completes the picture."""
        if picture.status == "failed":
            return
        side, count = self.settings.process_size, self.settings.rec_num + 1
        with self.times.stage("chain.save"):
            strip = Image.new("RGB", (side * count, side))
            try:
                for number in range(count):
                    strip.paste(self._state(picture, number), (side * number, 0))
            except PictureError as error:
                self._fail(picture, error)
                return
            self.tree.write_image(
                strip, self.tree.strip(picture.name), self.tree.collected_strip(picture.name)
            )
        picture.status = "done"
        log.info("%s: done", picture.label)


def _record(picture: PictureRecord, step: int) -> StepRecord:
    record = picture.step(step)
    assert record is not None, f"{picture.name} has no record of step {step}"
    return record


def _isolating_failures(
    call: Callable[[Sequence[PictureRecord]], Iterable[Result | PictureError]],
    pictures: Sequence[PictureRecord],
) -> Iterator[tuple[PictureRecord, Result | PictureError]]:
    """Yield a result for every picture, also when `call` raises for some of them.

    Where it raises, the first picture without a result is tried alone, so that only the one at fault fails.
    """
    waiting = list(pictures)
    alone = False
    while waiting:
        batch = waiting[:1] if alone else waiting
        alone = False
        try:
            for picture, result in zip(batch, call(batch), strict=True):
                waiting = waiting[1:]
                yield picture, result
        except (InputError, OutputError):
            raise
        except Exception as error:
            log.debug("while working on %s", batch[0].label, exc_info=True)
            if len(waiting) > 1 and len(batch) > 1:
                alone = True
                continue
            failed = waiting.pop(0)
            if not isinstance(error, PictureError):
                reason = str(error).splitlines()[0] if str(error) else "no reason given"
                error = PictureError(f"failed unexpectedly: {type(error).__name__}: {reason}")
            yield failed, error

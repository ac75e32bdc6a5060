"""The chain: pictures -> state 0 -> [window -> prompt -> SR -> colour fix -> state] x N -> strip.

Work goes stage by stage over a group of pictures (all prompts, then all SR passes, then the next scale), so
that a big model moves once a scale and not once a picture.
"""

import hashlib
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from errors import PictureError
from machine.stage_times import StageTimes
from results.output_tree import OutputTree
from results.run_report import PictureRecord
from zoom.color_fix import fix_colors
from zoom.isolate import fail, failing_alone, isolating_failures
from zoom.protocols import Prompt, PromptExtractor, SRBackbone, StepInput, join_prompt
from zoom.settings import ChainSettings
from zoom.state_files import StateFiles
from zoom.states import enlarge, step_input
from zoom.window import Window


def noise_seed(seed: int, file_name: str, step: int) -> int:
    """Derive the seed of one step of one picture, below 2**63.

    From the file's name and not its place among others: so a picture's pixels never depend on its neighbours,
    on their order or on how many processes share them.
    """
    key = f"{seed}/{unicodedata.normalize('NFC', file_name)}/{step}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(key).digest()[:8]) >> 1


@dataclass
class _InHand:
    """A picture at work: its record, the state that its next step looks at, and that step's input."""

    record: PictureRecord
    state: Image.Image
    input: StepInput | None = None

    def step_input(self) -> StepInput:
        assert self.input is not None, f"{self.record.name} has no input"
        return self.input


class Chain:
    """Zooms into pictures.

    Args:
        settings: see there.
        tree: where the results go.
        extractor, backbone: None only for kinds that just resize.
        times: the chain's own stages.
        fixed_prompts: whole prompts by (label, step); where there is one, the extractor is not asked.
        save_prompts: also write txt/K.txt.

    Raises:
        InputError: a step would look at less than a pixel.
    """

    def __init__(
        self,
        settings: ChainSettings,
        tree: OutputTree,
        extractor: PromptExtractor | None,
        backbone: SRBackbone | None,
        times: StageTimes,
        fixed_prompts: Mapping[tuple[str, int], str] | None = None,
        save_prompts: bool = True,
    ) -> None:
        self.settings = settings
        self.tree = tree
        self.extractor = extractor
        self.backbone = backbone
        self.times = times
        self.fixed_prompts = fixed_prompts or {}
        self.save_prompts = save_prompts
        self.files = StateFiles(settings, tree, times)

    def run(
        self, pictures: Sequence[PictureRecord], group_size: int = 1
    ) -> Iterator[tuple[PictureRecord, int]]:
        """Zoom into all pictures; what fails is noted in its record and the others go on.

        Args:
            pictures: records, in the order to work in; changed in place.
            group_size: pictures that go through a scale together.

        Yields:
            Each picture that has come on, with the step that it is at: when it was taken up (step 0), when it
            has a prompt or a state of that step, and when it has failed or is done.

        Raises:
            OutputError: the results cannot be written; everything so far is kept.
            InputError: a model cannot be loaded.
        """
        for start in range(0, len(pictures), group_size):
            group = []
            for picture in pictures[start : start + group_size]:
                if not self.files.finished(picture):
                    state = self.files.take_up(picture)
                    if state is not None:
                        group.append(_InHand(picture, state))
                yield picture, 0
            yield from self._run_group(group)

    def _run_group(self, group: Sequence[_InHand]) -> Iterator[tuple[PictureRecord, int]]:
        for step in range(1, self.settings.rec_num + 1):
            at_work = [one for one in group if not (one.record.failed or one.record.steps[step - 1].done)]
            if self.settings.resizes_only:
                results = self._resize(at_work, step)
            else:
                for one in at_work:
                    window = Window(*one.record.steps[step - 1].window)
                    one.input = step_input(one.state, window, self.settings.asks_about_two_pictures)
                for picture in self._ask_for_prompts(at_work, step):
                    yield picture, step
                results = self._super_resolve([one for one in at_work if not one.record.failed], step)
            for picture in results:
                yield picture, step
        for one in group:
            if not one.record.failed:
                self.files.finish(one.record)
                yield one.record, self.settings.rec_num

    def _made(self, one: _InHand, step: int, state: Image.Image, since: float) -> None:
        """Save a step's state, and hand it on to the next step: a PNG read back has the same pixels."""
        self.files.save(one.record, step, state)
        if not self.settings.from_first_state:
            one.state = state
        record = one.record.steps[step - 1]
        record.seconds["save"] = round(time.perf_counter() - since, 3)
        record.done = True

    def _resize(self, pictures: Sequence[_InHand], step: int) -> Iterator[PictureRecord]:
        """Make state `step` of every picture by resizing alone; yield each picture that has come on."""
        resample = Image.Resampling[self.settings.rec_type.upper()]
        for one in pictures:
            with self.times.stage("chain.resize"):
                crop = one.state.crop(Window(*one.record.steps[step - 1].window).box)
                state = enlarge(crop, self.settings.process_size, resample)
            with self.times.stage("chain.save"), failing_alone(one.record):
                self._made(one, step, state, time.perf_counter())
            yield one.record

    def _ask_for_prompts(self, pictures: Sequence[_InHand], step: int) -> Iterator[PictureRecord]:
        """Give every picture a prompt for this step; yield each picture that was asked about."""
        asked = []
        for one in pictures:
            if one.record.steps[step - 1].prompt is not None:  # an earlier run asked and did not come further
                continue
            fixed = self.fixed_prompts.get((one.record.label, step))
            if fixed is None:
                asked.append(one)
            else:
                self._set_prompt(one.record, step, Prompt(fixed, "file"), fixed)
        extractor = self.extractor
        assert extractor is not None
        start = time.perf_counter()
        answered = []
        for one, answer in isolating_failures(
            lambda batch: extractor([item.step_input() for item in batch]), asked
        ):
            if isinstance(answer, PictureError):
                fail(one.record, answer)
            else:
                whole = join_prompt(answer.text, self.settings.prompt)
                self._set_prompt(one.record, step, answer, whole)
                answered.append(one.record)
            yield one.record
        _share_seconds(answered, step, "prompt", time.perf_counter() - start)

    def _set_prompt(self, picture: PictureRecord, step: int, prompt: Prompt, whole: str) -> None:
        record = picture.steps[step - 1]
        if self.save_prompts:
            with self.times.stage("chain.save"), failing_alone(picture):
                self.tree.write(whole.encode(), self.tree.prompt(picture.name, step))
        record.extracted, record.extractor = prompt.text, prompt.extractor
        record.raw, record.note = prompt.raw, prompt.note
        record.seed = noise_seed(self.settings.seed, Path(picture.file).name, step)
        record.prompt = whole  # last: a step that has a prompt is not asked about again

    def _super_resolve(self, pictures: Sequence[_InHand], step: int) -> Iterator[PictureRecord]:
        """Make state `step` of every picture; yield each picture that has come on."""
        backbone = self.backbone
        assert backbone is not None

        def enlarge_all(batch: Sequence[_InHand]) -> Iterator[Image.Image | PictureError]:
            records = [one.record.steps[step - 1] for one in batch]
            yield from backbone(
                [one.step_input() for one in batch],
                [record.prompt or "" for record in records],
                [record.seed or 0 for record in records],
                step,
            )

        start = time.perf_counter()
        saving = 0.0
        enlarged = []
        for one, output in isolating_failures(enlarge_all, pictures):
            since = time.perf_counter()
            with self.times.stage("chain.save"), failing_alone(one.record):
                if isinstance(output, PictureError):
                    raise output
                seen = one.step_input()
                state = fix_colors(self.settings.align_method, output, seen.sr_input, seen.crop)
                place = self.tree.sr_input(one.record.name, step, self.settings.from_first_state)
                self.tree.write_image(seen.sr_input, place)
                self._made(one, step, state, since)
                enlarged.append(one.record)
            one.input = None
            saving += time.perf_counter() - since
            yield one.record
        _share_seconds(enlarged, step, "sr", time.perf_counter() - start - saving)


def _share_seconds(pictures: Sequence[PictureRecord], step: int, stage: str, seconds: float) -> None:
    for picture in pictures:
        picture.steps[step - 1].seconds[stage] = round(seconds / len(pictures), 3)

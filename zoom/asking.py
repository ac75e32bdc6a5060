"""Asking what the pictures of a step show: whole pictures, or tile by tile."""

import hashlib
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from errors import PictureError
from machine.stage_times import StageTimes
from results.output_tree import OutputTree
from results.prompts_file import FixedPrompts
from results.run_report import PictureRecord, StepRecord, TilePrompt, figure
from zoom.in_hand import InHand
from zoom.isolate import fail, failing_alone, isolating_failures
from zoom.protocols import Box, Prompt, PromptExtractor, StepInput, join_prompt
from zoom.settings import ChainSettings
from zoom.states import shrunk_to


def noise_seed(seed: int, file_name: str, step: int) -> int:
    """Derive the seed of one step of one picture, below 2**63.

    From the names of the file and of the spot, and not from the picture's place among others: so its pixels
    never depend on its neighbours, on their order or on how many processes share them.
    """
    key = f"{seed}/{unicodedata.normalize('NFC', file_name)}/{step}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(key).digest()[:8]) >> 1


Answer = tuple[Prompt, str]  # what was said, and that joined with the user's own words


@dataclass
class AtStep:
    """A picture at one step.

    Attributes:
        picture: at work.
        record: of the step.
        input: what the step looks at.
        tiles: the parts of it that are asked about by themselves; none where it is one.
        answers: to the questions about it, so far.
    """

    picture: InHand
    record: StepRecord
    input: StepInput
    tiles: Sequence[Box] = ()
    answers: list[Answer | None] = field(default_factory=list)

    @property
    def of(self) -> PictureRecord:
        """The record of the whole picture."""
        return self.picture.record

    @property
    def prompts(self) -> Sequence[str]:
        """What steers the step, as `zoom.protocols.SRBackbone` wants it."""
        return [tile.prompt for tile in self.record.tiles] or [self.record.prompt or ""]


@dataclass(frozen=True)
class _Question:
    """What an extractor is asked, and which of the picture's answers it gives."""

    about: AtStep
    number: int
    input: StepInput


class Asker:
    """Gives pictures their prompts.

    Args:
        settings: of the chain.
        tree: where prompts are written.
        extractor: who is asked; None only where no picture ever is.
        times: the chain's own stages.
        fixed_prompts: see `results.prompts_file`; where there is one, the extractor is not asked.
        save_prompts: write txt/K.txt.
    """

    def __init__(
        self,
        settings: ChainSettings,
        tree: OutputTree,
        extractor: PromptExtractor | None,
        times: StageTimes,
        fixed_prompts: FixedPrompts,
        save_prompts: bool,
    ) -> None:
        self.settings, self.tree, self.extractor, self.times = settings, tree, extractor, times
        self.fixed_prompts, self.save_prompts = fixed_prompts, save_prompts

    def __call__(self, pictures: Sequence[AtStep]) -> Iterator[PictureRecord]:
        """Give every picture its prompts for this step; yield each picture that was asked about."""
        questions: list[_Question] = []
        for one in pictures:
            if one.record.tiles and [tile.box for tile in one.record.tiles] != list(one.tiles):
                one.record.tiles = ()  # a report of other tiles than these
            if not one.record.has_prompt:  # an earlier run may have asked and not come further
                one.answers = self._fixed_answers(one)
                questions += self._open_questions(one)
                if None not in one.answers:
                    self._set_prompts(one)

        def ask(batch: Sequence[_Question]) -> Iterable[Prompt | PictureError]:
            assert self.extractor is not None
            return self.extractor([question.input for question in batch])

        start, answered = time.perf_counter(), []
        for question, answer in isolating_failures(ask, questions):
            one = question.about
            if one.of.failed:  # over another of its tiles
                continue
            if isinstance(answer, PictureError):
                fail(one.of, answer)
                yield one.of
                continue
            one.answers[question.number] = answer, join_prompt(answer.text, self.settings.prompt)
            if None not in one.answers:
                self._set_prompts(one)
                answered.append(one)
                yield one.of
        share_seconds(answered, "prompt", time.perf_counter() - start)

    def _fixed_answers(self, one: AtStep) -> list[Answer | None]:
        """Answer from the prompts file what it says of each tile, or else of the whole picture."""
        step = one.of.label, one.record.step
        whole = self.fixed_prompts.get((*step, 0))
        said = [self.fixed_prompts.get((*step, tile), whole) for tile in range(1, len(one.tiles) + 1)]
        return [None if text is None else (Prompt(text, "file"), text) for text in said or [whole]]

    def _open_questions(self, one: AtStep) -> list[_Question]:
        seen, parent = one.input, one.input.parent
        if self.settings.full_image and not one.tiles:
            width, height = self.settings.process_size
            small = shrunk_to(seen.crop, width * height)
            seen = StepInput(small, small, parent)
        open_ones = [number for number, answer in enumerate(one.answers) if answer is None]
        if not one.tiles:
            return [_Question(one, number, seen) for number in open_ones]
        return [
            _Question(one, number, StepInput(seen.crop, seen.sr_input.crop(one.tiles[number]), parent))
            for number in open_ones
        ]

    def _set_prompts(self, one: AtStep) -> None:
        record, picture = one.record, one.of
        answers = [answer for answer in one.answers if answer is not None]
        if self.save_prompts:
            lines = "\n".join(whole for _, whole in answers)
            with self.times.stage("chain.save"), failing_alone(picture):
                self.tree.write(lines.encode(), self.tree.prompt(picture.name, record.step))
        name = Path(picture.file).name + (f"~{picture.spot}" if picture.spot else "")
        record.seed = noise_seed(self.settings.seed, name, record.step)
        # the prompts last: a step that has them is not asked about again
        if one.tiles:
            record.tiles = [
                TilePrompt(box, whole, said.text, said.extractor, said.raw, said.note)
                for box, (said, whole) in zip(one.tiles, answers, strict=True)
            ]
            return
        [(said, whole)] = answers
        record.extracted, record.extractor = said.text, said.extractor
        record.raw, record.note = said.raw, said.note
        record.prompt = whole


def share_seconds(pictures: Sequence[AtStep], stage: str, seconds: float) -> None:
    """Note in every picture's step its share of the seconds that one of the `STAGES` took for all."""
    for one in pictures:
        setattr(one.record, f"{stage}_seconds", figure(seconds / len(pictures), 3))

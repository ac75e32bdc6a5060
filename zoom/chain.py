"""The chain: pictures -> state 0 -> [window -> prompt -> SR -> colour fix -> state] x N -> strip.

Work goes stage by stage over a group of pictures (all prompts, then all SR passes, then the next scale), so
that a big model moves once a scale and not once a picture. Pictures are read ahead of it, and states written
behind its back (`machine.overlap`).
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import islice
from pathlib import Path

from PIL import Image

from errors import PictureError
from machine.overlap import Overlap
from machine.stage_times import StageTimes
from results.output_tree import OutputTree
from results.prompts_file import FixedPrompts
from results.run_report import PictureRecord, StepRecord
from zoom.asking import Asker, AtStep, noise_seed, share_seconds
from zoom.color_fix import fix_colors, fix_colors_of_whole
from zoom.in_hand import InHand
from zoom.isolate import failing_alone, isolating_failures
from zoom.keeping import Keeping
from zoom.protocols import PromptExtractor, SRBackbone, StepInput
from zoom.settings import ChainSettings
from zoom.state_files import StateFiles
from zoom.states import enlarge, shrunk_to, step_input
from zoom.texture import add_texture
from zoom.window import Window


class Chain:
    """Zooms into pictures.

    Args:
        settings: see there.
        tree: where the results go.
        extractor, backbone: None only for kinds that just resize.
        times: the chain's own stages.
        fixed_prompts: see `results.prompts_file`; where there is one, the extractor is not asked.
        save_prompts: also write txt/K.txt.
        label_strip: write on the strips what each state is, also on those of pictures that are finished.
        save: one of `zoom.settings.SAVE`.
        overlap: whose threads read ahead and write; None does both where it comes.
        shown: is called with a picture that has come to its end, and what of it is in memory, in the thread
            that wrote it.

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
        fixed_prompts: FixedPrompts | None = None,
        save_prompts: bool = True,
        label_strip: bool = False,
        save: str = "all",
        overlap: Overlap | None = None,
        shown: Callable[[PictureRecord, InHand | None], None] = lambda *_: None,
    ) -> None:
        self.settings = settings
        self.tree = tree
        self.backbone = backbone
        self.times = times
        self.fixed_prompts = fixed_prompts or {}
        self._ask = Asker(settings, tree, extractor, times, self.fixed_prompts, save_prompts)
        self.overlap = overlap or Overlap()
        self.keeping = Keeping(settings, tree, times, self.overlap, save, label_strip, shown)
        self._files = StateFiles(settings, tree, times, self.keeping)

    def run(
        self, pictures: Sequence[PictureRecord], group_size: int = 1
    ) -> Generator[tuple[PictureRecord, int], None, None]:
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
        with self.overlap.ahead(self._taken_up, pictures, _waiting_bytes) as all_taken_up:
            for _ in range(0, len(pictures), group_size):
                group = []
                for picture, in_hand in islice(all_taken_up, group_size):
                    if in_hand is not None and self._files.begin(in_hand):
                        group.append(in_hand)
                    yield picture, 0
                if group:
                    yield from self._run_group(group)
        self.overlap.wait()
        yield from self._come_on()

    def _taken_up(self, picture: PictureRecord) -> tuple[PictureRecord, InHand | None]:
        return picture, self._files.take_up(picture)

    def _come_on(self) -> Iterator[tuple[PictureRecord, int]]:
        """Yield what has been written since the last time."""
        while self.keeping.come_on:
            yield self.keeping.come_on.popleft()

    def _run_group(self, group: Sequence[InHand]) -> Iterator[tuple[PictureRecord, int]]:
        for step in range(1, self.settings.rec_num + 1):
            at_work = [one for one in group if not (one.record.failed or one.record.steps[step - 1].done)]
            to_enlarge = []
            for one in at_work:
                if self.settings.resizes_only or one.record.steps[step - 1].made == "real":
                    self._resize(one, step)
                    yield from self._come_on()
                else:
                    to_enlarge.append(self._at_step(one, step))
            for picture in self._ask(to_enlarge):
                yield picture, step
            yield from self._super_resolve([one for one in to_enlarge if not one.of.failed])
        for one in group:
            self.keeping.finish(one)
            yield from self._come_on()

    def _crop(self, one: InHand, record: StepRecord) -> Image.Image:
        if record.window_of is None:
            return one.cuts.pop(record.step)
        return one.state.crop(Window(*record.window).box)

    def _at_step(self, one: InHand, step: int) -> AtStep:
        """Cut a step's input out of what it looks at."""
        record, settings = one.record.steps[step - 1], self.settings
        parent = one.state if settings.asks_about_two_pictures else None
        first = all(before.made == "real" for before in one.record.steps[: step - 1])
        crop = self._crop(one, record)
        if not settings.full_image:
            return AtStep(one, record, step_input(crop, record.size, parent, first))
        assert self.backbone is not None
        if parent is not None:
            width, height = settings.process_size
            parent = shrunk_to(parent, width * height)
        tiles = self.backbone.prompt_tiles(record.size) if settings.tile_prompts == "tile" else ()
        if len(tiles) == 1:  # that is the whole
            tiles = ()
        return AtStep(one, record, step_input(crop, record.size, parent, first), tiles)

    def _made(
        self,
        one: InHand,
        step: int,
        state: Image.Image,
        crop: Image.Image | None,
        sr_input: Image.Image | None = None,
    ) -> None:
        """Have a state written, and hand it on to the next step: a PNG read back has the same pixels."""
        self.keeping.keep(one, step, state, crop, sr_input)
        if not self.settings.from_first_state:
            one.state = state

    def _resize(self, one: InHand, step: int) -> None:
        """Make a state by resizing alone."""
        record = one.record.steps[step - 1]
        crop = self._crop(one, record)
        real = record.made == "real"  # then the crop is the state already
        with self.times.stage("chain.resize"):
            kind = self.settings.rec_type.upper()
            state = crop if real else enlarge(crop, record.size, Image.Resampling[kind])
        self._made(one, step, state, None if real else crop)

    def _textured(self, one: AtStep) -> StepInput:
        """Return what the backbone gets: with grain in it, but where it sees a photograph."""
        seen, record = one.input, one.record
        if not self.settings.texture or seen.first:
            return seen
        with self.times.stage("chain.texture"):
            view = one.picture.route.steps[record.step - 1].view
            # not the spot's: neighbouring windows show one surface
            seed = noise_seed(self.settings.seed, Path(one.of.file).name, record.step)
            crop = add_texture(seen.crop, view, one.picture.ancestors, seed, self.settings.texture)
            return step_input(crop, record.size, seen.parent)

    def _super_resolve(self, pictures: Sequence[AtStep]) -> Iterator[tuple[PictureRecord, int]]:
        """Make the state of every picture; yield what has come on meanwhile."""

        def enlarge_all(batch: Sequence[AtStep]) -> Iterator[Image.Image | PictureError]:
            assert self.backbone is not None
            yield from self.backbone(
                [self._textured(one) for one in batch],
                [one.prompts for one in batch],
                [one.record.seed or 0 for one in batch],
            )

        start = time.perf_counter()
        saving = 0.0
        enlarged = []
        for one, output in isolating_failures(enlarge_all, pictures):
            since, seen = time.perf_counter(), one.input
            with failing_alone(one.of):
                if isinstance(output, PictureError):
                    raise output
                with self.times.stage("chain.fix"):
                    fix = fix_colors_of_whole if self.settings.full_image else fix_colors
                    state = fix(self.settings.align_method, output, seen.sr_input, seen.crop)
                if seen.first:
                    one.picture.sr_input = seen.sr_input
                self._made(one.picture, one.record.step, state, seen.crop, seen.sr_input)
                enlarged.append(one)
            saving += time.perf_counter() - since
            yield from self._come_on()
        share_seconds(enlarged, "sr", time.perf_counter() - start - saving)


def _waiting_bytes(taken_up: tuple[PictureRecord, InHand | None]) -> int:
    return 0 if taken_up[1] is None else taken_up[1].bytes

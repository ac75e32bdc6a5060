"""What is kept of a picture: its states, and what repeats them; written behind the chain's back.

The files of a picture are written in their order, and what its record says is done is on the disk.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

from PIL.Image import Image

from machine.overlap import Overlap
from machine.stage_times import StageTimes
from results.output_tree import OutputTree
from results.run_report import PictureRecord, figure
from zoom.in_hand import InHand, bytes_of
from zoom.isolate import failing_alone
from zoom.measure import consistency, texture
from zoom.settings import ChainSettings
from zoom.strip import BAR, middle, strip
from zoom.texture import look_at
from zoom.window import Route, plan_route

log = logging.getLogger(__name__)


class Keeping:
    """Writes what a chain makes.

    Args:
        settings: of the chain.
        tree: where the files go.
        times: the chain's own stages.
        overlap: in whose threads they are written.
        save: one of `zoom.settings.SAVE`.
        label_strip: write on the strips what each state is.
        shown: is called with a picture that has come to its end, and what of it is in memory, in the thread
            that wrote it.

    Attributes:
        come_on: pictures and the step that they have come to, for the chain to tell.
    """

    def __init__(
        self,
        settings: ChainSettings,
        tree: OutputTree,
        times: StageTimes,
        overlap: Overlap,
        save: str = "all",
        label_strip: bool = False,
        shown: Callable[[PictureRecord, InHand | None], None] = lambda *_: None,
    ) -> None:
        self.settings, self.tree, self.times, self.overlap = settings, tree, times, overlap
        self.save_all, self.label_strip, self.shown = save == "all", label_strip, shown
        self.come_on: deque[tuple[PictureRecord, int]] = deque()

    def finished(self, picture: PictureRecord) -> bool:
        """Tell whether a picture is done, and all that is kept of it is there."""
        if picture.status != "done":
            return False
        name = picture.name
        files = [self.tree.state(name, step) for step in range(self.settings.rec_num + 1)]
        if self.save_all:
            files += [self.tree.per_scale(name, step) for step in range(self.settings.rec_num + 1)]
            files += [self.tree.strip(name), self.tree.collected_strip(name)]
        return all(map(os.path.exists, files))

    def remember(self, in_hand: InHand, state: Image, step: int) -> None:
        """Keep in memory what is wanted of a state later; all before it are remembered."""
        route = in_hand.route
        if self.settings.texture:
            in_hand.ancestors.append(look_at(state, route.steps[step - 1].view if step else route.view))
        if self.save_all:
            in_hand.cells.append(middle(state, self.settings.process_size))
        if step in (0, self.settings.rec_num):
            in_hand.seen[step] = state

    def complete(self, picture: PictureRecord, step: int) -> None:
        """Give a state that is on the disk the copy that goes with it, where it has none.

        Raises:
            FileRefused, OutputError: see `OutputTree.writing`.
        """
        copy = self.tree.per_scale(picture.name, step)
        if self.save_all and not copy.exists():
            self.tree.copy(self.tree.state(picture.name, step), copy)

    def keep_first(self, in_hand: InHand) -> None:
        """Write state 0, soon.

        Raises:
            OutputError: an earlier file could not be written.
        """
        state = in_hand.state
        self._later(in_hand, bytes_of(state), partial(self._write_state, in_hand.record.name, 0, state))

    def keep(
        self, in_hand: InHand, step: int, state: Image, crop: Image | None, sr_input: Image | None = None
    ) -> None:
        """Measure a state and write it, soon; then its step is done.

        Args:
            in_hand: the picture.
            step: number of the state.
            state: RGB.
            crop: what it was made from; None where it is real.
            sr_input: what a network enlarged; None where none took part.

        Raises:
            OutputError: an earlier file could not be written.
        """
        self.remember(in_hand, state, step)
        size = sum(bytes_of(image) for image in (state, sr_input) if image is not None)
        self._later(in_hand, size, partial(self._write_step, in_hand.record, step, state, crop, sr_input))

    def finish(self, in_hand: InHand) -> None:
        """Lay the states side by side, soon, which completes the picture; one that has failed is only shown.

        Raises:
            OutputError: an earlier file could not be written.
        """
        self.overlap.later(in_hand.record.name, in_hand.bytes, partial(self._finish, in_hand))

    def label(self, picture: PictureRecord) -> None:
        """Lay out the strip of a finished picture again, where labels are wanted: it may have none."""
        if not self.label_strip or picture.size is None:
            return
        with self.times.stage("chain.save"), failing_alone(picture):
            route = plan_route(self.settings, picture.size, picture.center)
            sizes = [route.size, *(step.size for step in route.steps)]
            states = (self.tree.read_state(picture.name, number, size) for number, size in enumerate(sizes))
            self._lay_out(picture, route, states)

    def _later(self, in_hand: InHand, size: int, write: Callable[[], None]) -> None:
        self.overlap.later(in_hand.record.name, size, partial(self._write, in_hand, write))

    def _write(self, in_hand: InHand, write: Callable[[], None]) -> None:
        """Write something of a picture; where it cannot be written, nothing that comes after it is."""
        if in_hand.is_lost:
            return
        in_hand.is_lost = True
        with self.times.stage("chain.save"), failing_alone(in_hand.record):
            write()
            in_hand.is_lost = False

    def _write_state(self, name: str, step: int, state: Image) -> None:
        copies = [self.tree.per_scale(name, step)] if self.save_all else []
        # the state itself last: what is on disk with it is complete
        self.tree.write_image(state, *copies, self.tree.state(name, step))

    def _write_step(
        self, picture: PictureRecord, step: int, state: Image, crop: Image | None, sr_input: Image | None
    ) -> None:
        start, record = time.perf_counter(), picture.steps[step - 1]
        record.texture = texture(state)
        record.consistency = None if crop is None else consistency(state, crop)
        if sr_input is not None and self.save_all:
            place = self.tree.sr_input(picture.name, step, self.settings.from_first_state)
            self.tree.write_image(sr_input, place)
        self._write_state(picture.name, step, state)
        record.save_seconds = figure(time.perf_counter() - start, 3)
        record.done = True
        self.come_on.append((picture, step))

    def _finish(self, in_hand: InHand) -> None:
        picture = in_hand.record
        if not picture.failed:
            with self.times.stage("chain.save"), failing_alone(picture):
                for step in range(self.settings.rec_num + 1):
                    if not self.tree.state(picture.name, step).exists():
                        raise self.tree.lost_state(picture.name, step)
                if self.save_all:
                    self._lay_out(picture, in_hand.route, in_hand.cells)
                picture.status = "done"
                log.info("%s: done", picture.label)
        self.shown(in_hand.record, in_hand)
        self.come_on.append((picture, self.settings.rec_num))

    def _lay_out(self, picture: PictureRecord, route: Route, cells: Iterable[Image]) -> None:
        """Write a picture's strip, all of whose states are made."""
        made = [route.made, *(step.made for step in route.steps)]
        labels = [self.settings.magnification(k) for k in range(len(made))] if self.label_strip else None
        laid_out = strip(cells, made, self.settings.process_size, labels)
        if self.settings.source == "shrunk":  # as published, without a mark
            laid_out = laid_out.crop((0, 0, laid_out.width, laid_out.height - BAR))
        name = picture.name
        self.tree.write_image(laid_out, self.tree.strip(name), self.tree.collected_strip(name))

"""A picture's states on disk: made from the picture or taken up from an earlier run, saved, laid out.

A state is the PNG on disk: an interrupted run goes on from there with the same pixels.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from errors import PictureError
from machine.stage_times import StageTimes
from results.output_tree import OutputTree, read_state
from results.pictures import read_picture
from results.run_report import PictureRecord, StepRecord
from zoom.isolate import failing_alone
from zoom.measure import texture
from zoom.settings import ChainSettings
from zoom.states import cut_from_picture, first_state
from zoom.strip import BAR, strip
from zoom.texture import Ancestor, look_at
from zoom.window import Route, Size, check_steps, plan_route

log = logging.getLogger(__name__)


@dataclass
class InHand:
    """A picture at work.

    Attributes:
        record: the picture's.
        route: the picture's.
        state: that the next step looks at.
        cuts: windows of the picture itself, by the number of the step that looks at them.
        ancestors: what is remembered of the states from 0 on, where texture is added.
    """

    record: PictureRecord
    route: Route
    state: Image.Image
    cuts: dict[int, Image.Image] = field(default_factory=dict)
    ancestors: list[Ancestor] = field(default_factory=list)


@dataclass(frozen=True)
class _Read:
    """A picture that was read, and the bytes that it was read from."""

    file: str
    image: Image.Image
    sha256: str


class StateFiles:
    """Where the states of a chain begin and end.

    Args:
        settings: of the chain.
        tree: where the files are.
        times: the chain's own stages.
        label_strip: write on the strips what each state is.

    Raises:
        InputError: a step would look at less than a pixel.
    """

    def __init__(
        self, settings: ChainSettings, tree: OutputTree, times: StageTimes, label_strip: bool = False
    ) -> None:
        check_steps(settings)
        self.settings, self.tree, self.times, self.label_strip = settings, tree, times, label_strip
        self._read: _Read | None = None  # the last one, where its other spots follow
        self._first: tuple[object, Image.Image, bytes] | None = None  # its state 0, and that as PNG

    def finished(self, picture: PictureRecord) -> bool:
        """Tell whether an earlier run has finished a picture, and all that it wrote is there."""
        if picture.status != "done":
            return False
        states = range(self.settings.rec_num + 1)
        files = (place(picture.name, k) for k in states for place in (self.tree.state, self.tree.per_scale))
        strips = (self.tree.strip(picture.name), self.tree.collected_strip(picture.name))
        return all(file.exists() for file in (*files, *strips))

    def take_up(self, picture: PictureRecord) -> InHand | None:
        """Go on with what an earlier run has made, or make state 0.

        Returns:
            The picture with what its next steps look at; None where it has failed.
        """
        picture.status, picture.failure = "started", None
        in_hand = None
        with failing_alone(picture):
            in_hand = self._go_on(picture) or self._start(picture)
        return None if picture.failed else in_hand

    def _start(self, picture: PictureRecord) -> InHand:
        """Read the picture, make and save its state 0, and plan its steps.

        Raises:
            PictureError: it cannot be read or zoomed into.
            OutputError: state 0 cannot be written.
        """
        read = self._read_picture(picture)
        route = plan_route(self.settings, read.image.size, picture.center)
        picture.sha256, picture.size = read.sha256, read.image.size
        picture.view, picture.steps = route.view.numbers, self._planned(route)
        made_of = read.file, route.cut, route.resized, route.first
        if self._first is None or self._first[0] != made_of:
            state = first_state(read.image, route)
            self._first = made_of, state, self.tree.encode(state)
        _, state, encoded = self._first
        picture.texture = texture(state)
        with self.times.stage("chain.save"):
            for place in (self.tree.per_scale(picture.name, 0), self.tree.state(picture.name, 0)):
                self.tree.write(encoded, place)
        if not picture.spot:
            self._first = None
        in_hand = InHand(picture, route, state)
        self.remember(in_hand, state, 0)
        self._cut(in_hand, read.image)
        return in_hand

    def _go_on(self, picture: PictureRecord) -> InHand | None:
        """Keep the steps of an earlier run up to the first whose state is not good; None where none is.

        The prompt of that step is still right; what comes after it depends on its state.

        Raises:
            PictureError: what its next steps look at cannot be read.
        """
        if picture.size is None:
            return None
        try:
            route = plan_route(self.settings, picture.size, picture.center)
        except PictureError:  # which no picture of an earlier run was: the report is not to be trusted
            return None
        planned = self._planned(route)
        as_planned = [step.plan for step in picture.steps] == [step.plan for step in planned]
        state = self._good_state(picture, 0, route.size) if as_planned else None
        if state is None:
            return None
        in_hand = InHand(picture, route, state)
        self.remember(in_hand, state, 0)
        for record in picture.steps:
            made = self._good_state(picture, record.step, record.size) if record.done else None
            if made is None:
                record.done = False
                picture.steps[record.step :] = planned[record.step :]
                break
            self.remember(in_hand, made, record.step)
            if not self.settings.from_first_state:
                in_hand.state = made
        if not any(step.window_of is None and not step.done for step in picture.steps):
            return in_hand
        read = self._read_picture(picture)
        if (read.sha256, read.image.size) != (picture.sha256, picture.size):  # not what the report says
            return None
        self._cut(in_hand, read.image)
        return in_hand

    def remember(self, in_hand: InHand, state: Image.Image, step: int) -> None:
        """Take a state among the ancestors, where texture is added; all before it are there."""
        if self.settings.texture:
            route = in_hand.route
            view = route.steps[step - 1].view if step else route.view
            in_hand.ancestors.append(look_at(state, view))

    def _planned(self, route: Route) -> list[StepRecord]:
        return [
            StepRecord(
                step=number,
                magnification=self.settings.magnification(number),
                window=(step.window.left, step.window.top, step.window.width, step.window.height),
                window_of=step.window_of,
                size=step.size,
                view=step.view.numbers,
                made=step.made,
            )
            for number, step in enumerate(route.steps, start=1)
        ]

    def _cut(self, in_hand: InHand, image: Image.Image) -> None:
        """Cut the windows out of the picture at once, so that it need not wait in memory itself."""
        in_hand.cuts = {
            record.step: cut_from_picture(image, step)
            for record, step in zip(in_hand.record.steps, in_hand.route.steps, strict=True)
            if step.window_of is None and not record.done
        }

    def _read_picture(self, picture: PictureRecord) -> _Read:
        """Read a picture, or take the one that was read last: spots of a picture follow each other."""
        if self._read is None or self._read.file != picture.file:
            self._read = None  # two of them need not be in memory
            with self.times.stage("chain.read"):
                self._read = _Read(picture.file, *read_picture(Path(picture.file)))
        read = self._read
        if not picture.spot:
            self._read = None
        return read

    def _good_state(self, picture: PictureRecord, step: int, size: Size) -> Image.Image | None:
        if not self.tree.per_scale(picture.name, step).exists():
            return None
        with self.times.stage("chain.read"):
            return read_state(self.tree.state(picture.name, step), size)

    def save(self, picture: PictureRecord, step: int, state: Image.Image) -> None:
        """Write a state to both its places.

        Raises:
            OutputError: it cannot be written.
        """
        # the state itself last: what is on disk with it is complete
        self.tree.write_image(
            state, self.tree.per_scale(picture.name, step), self.tree.state(picture.name, step)
        )

    def finish(self, in_hand: InHand) -> None:
        """Lay the states side by side, which completes the picture: every state is on the disk."""
        picture = in_hand.record
        with self.times.stage("chain.save"), failing_alone(picture):
            lay_out(self.settings, self.tree, picture, in_hand.route, self.label_strip)
            picture.status = "done"
            log.info("%s: done", picture.label)

    def label(self, picture: PictureRecord) -> None:
        """Lay out the strip of a finished picture again, where labels are wanted: it may have none."""
        if not self.label_strip or picture.size is None:
            return
        with self.times.stage("chain.save"), failing_alone(picture):
            route = plan_route(self.settings, picture.size, picture.center)
            lay_out(self.settings, self.tree, picture, route, self.label_strip)


def lay_out(
    settings: ChainSettings, tree: OutputTree, picture: PictureRecord, route: Route, label: bool
) -> None:
    """Write a picture's strip.

    Args:
        settings: of the chain.
        tree: where its states are.
        picture, route: all of whose states are made.
        label: write on it what each state is.

    Raises:
        PictureError: a state is gone or damaged.
        OutputError: it cannot be written.
    """
    made = [route.made, *(step.made for step in route.steps)]
    labels = [settings.magnification(k) for k in range(len(made))] if label else None
    laid_out = strip(_states(tree, picture, route), made, settings.process_size, labels)
    if settings.source == "shrunk":  # as published, without a mark
        laid_out = laid_out.crop((0, 0, laid_out.width, laid_out.height - BAR))
    tree.write_image(laid_out, tree.strip(picture.name), tree.collected_strip(picture.name))


def _states(tree: OutputTree, picture: PictureRecord, route: Route) -> Iterator[Image.Image]:
    for number, size in enumerate([route.size, *(step.size for step in route.steps)]):
        file = tree.state(picture.name, number)
        state = read_state(file, size)
        if state is None:
            raise PictureError(f"state {number} is gone or damaged: {file}")
        yield state

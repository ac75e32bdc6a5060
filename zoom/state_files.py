"""A picture's states where a chain begins: made from the picture, or read where an earlier run wrote them.

A state is the PNG on disk: an interrupted run goes on from there with the same pixels.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from errors import PictureError
from machine.stage_times import StageTimes
from results.output_tree import OutputTree
from results.png import read_state
from results.reading import read_picture
from results.resume import forget_what_has_changed
from results.run_report import PictureRecord, StepRecord
from zoom.in_hand import InHand
from zoom.isolate import failing_alone
from zoom.keeping import Keeping
from zoom.measure import texture
from zoom.settings import ChainSettings
from zoom.states import cut_from_picture, first_state
from zoom.window import Route, Size, check_steps, plan_route


@dataclass(frozen=True)
class _Read:
    """A picture that was read, and the bytes that it was read from."""

    file: str
    image: Image.Image
    sha256: str


class StateFiles:
    """Takes pictures up.

    Args:
        settings: of the chain.
        tree: where the files are.
        times: the chain's own stages.
        keeping: who writes states.

    Raises:
        InputError: a step would look at less than a pixel.
    """

    def __init__(
        self, settings: ChainSettings, tree: OutputTree, times: StageTimes, keeping: Keeping
    ) -> None:
        check_steps(settings)
        self.settings, self.tree, self.times, self.keeping = settings, tree, times, keeping
        self._read: _Read | None = None  # the last one, where its other spots follow
        self._first: tuple[object, Image.Image] | None = None  # its state 0

    def take_up(self, picture: PictureRecord) -> InHand | None:
        """Go on with what an earlier run has made, or make state 0; may be done long before its turn.

        Returns:
            The picture with what its next steps look at, for `begin`; None where nothing is to be done: an
            earlier run has finished it, or it has failed.
        """
        forget_what_has_changed(picture)
        if self.keeping.finished(picture):
            self.keeping.label(picture)
            return None
        with failing_alone(picture):
            return self._go_on(picture) or self._start(picture)
        return None

    def begin(self, in_hand: InHand) -> bool:
        """Begin a picture whose turn has come: only now is removed what an earlier run has made of it.

        Returns:
            Whether it has begun; else it has failed.

        Raises:
            OutputError: a link leads out of the tree, or an earlier state could not be written.
        """
        picture = in_hand.record
        if in_hand.begins is None:
            picture.status, picture.failure = "started", None
            return True
        with failing_alone(picture):
            if self.tree.holds(picture.name):
                self.keeping.overlap.wait()  # the pictures before it are on the disk, should this be the end
                self.tree.clear(picture.name)
            picture.become(in_hand.begins)  # whoever goes on from what it says now finds no older state
            self.keeping.keep_first(in_hand)
            return True
        return False

    def _start(self, picture: PictureRecord) -> InHand:
        """Read the picture, make its state 0, and plan its steps; its record says so when it begins.

        Raises:
            PictureError: it cannot be read or zoomed into.
        """
        read = self._read_picture(picture)
        route = plan_route(self.settings, read.image.size, picture.center)
        made_of = read.file, route.cut, route.resized, route.first
        if self._first is None or self._first[0] != made_of:
            self._first = made_of, first_state(read.image, route)
        state = self._first[1]
        if not picture.spot:
            self._first = None
        begins = replace(
            picture,
            sha256=read.sha256,
            size=read.image.size,
            view=route.view.numbers,
            texture=texture(state),
            status="started",
            failure=None,
            steps=self._planned(route),
        )
        in_hand = InHand(picture, route, state, begins=begins)
        self.keeping.remember(in_hand, state, 0)
        self._cut(in_hand, begins, read.image)
        return in_hand

    def _go_on(self, picture: PictureRecord) -> InHand | None:
        """Keep the steps of an earlier run up to the first whose state is not good; None where none is.

        The prompt of that step is still right; what comes after it depends on its state.

        Raises:
            PictureError: what its next steps look at cannot be read.
            FileRefused, OutputError: a state's copy is missing, and cannot be written.
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
        self.keeping.remember(in_hand, state, 0)
        for record in picture.steps:
            made = self._good_state(picture, record.step, record.size) if record.done else None
            if made is None:
                record.done = False
                picture.steps[record.step :] = planned[record.step :]
                break
            self.keeping.remember(in_hand, made, record.step)
            if not self.settings.from_first_state:
                in_hand.state = made
        if not any(step.window_of is None and not step.done for step in picture.steps):
            return in_hand
        read = self._read_picture(picture)
        if (read.sha256, read.image.size) != (picture.sha256, picture.size):  # not what the report says
            return None
        self._cut(in_hand, picture, read.image)
        return in_hand

    def _planned(self, route: Route) -> list[StepRecord]:
        return [
            StepRecord(
                step=number,
                magnification=self.settings.magnification(number),
                window=step.window.numbers,
                window_of=step.window_of,
                size=step.size,
                view=step.view.numbers,
                made=step.made,
            )
            for number, step in enumerate(route.steps, start=1)
        ]

    def _cut(self, in_hand: InHand, picture: PictureRecord, image: Image.Image) -> None:
        """Cut the windows out of the picture at once, so that it need not wait in memory itself."""
        in_hand.cuts = {
            record.step: cut_from_picture(image, step)
            for record, step in zip(picture.steps, in_hand.route.steps, strict=True)
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
        with self.times.stage("chain.read"):
            state = read_state(self.tree.state(picture.name, step), size)
        if state is not None:
            self.keeping.complete(picture, step)
        return state

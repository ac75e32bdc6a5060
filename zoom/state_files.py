"""A picture's states on disk: made from the picture or taken up from an earlier run, saved, laid out.

A state is the PNG on disk: an interrupted run goes on from there with the same pixels.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from errors import PictureError
from machine.stage_times import StageTimes
from results.output_tree import OutputTree, read_state
from results.pictures import read_picture
from results.run_report import PictureRecord, StepRecord
from zoom.isolate import failing_alone
from zoom.settings import ChainSettings
from zoom.states import first_state
from zoom.window import step_windows

log = logging.getLogger(__name__)


class StateFiles:
    """Where the states of a chain begin and end.

    Raises:
        InputError: a step would look at less than a pixel.
    """

    def __init__(self, settings: ChainSettings, tree: OutputTree, times: StageTimes) -> None:
        self.settings, self.tree, self.times = settings, tree, times
        self._windows = step_windows(settings)

    def finished(self, picture: PictureRecord) -> bool:
        """Tell whether an earlier run has finished a picture, and all that it wrote is there."""
        if picture.status != "done":
            return False
        states = range(self.settings.rec_num + 1)
        files = (place(picture.name, k) for k in states for place in (self.tree.state, self.tree.per_scale))
        strips = (self.tree.strip(picture.name), self.tree.collected_strip(picture.name))
        return all(file.exists() for file in (*files, *strips))

    def _planned_steps(self) -> list[StepRecord]:
        return [
            StepRecord(
                step=step,
                magnification=self.settings.magnification(step),
                window=(window.left, window.top, window.side),
                window_of=of,
            )
            for step, (of, window) in enumerate(self._windows, start=1)
        ]

    def take_up(self, picture: PictureRecord) -> Image.Image | None:
        """Go on with what an earlier run has made, or make state 0.

        Returns:
            The state that the next step looks at; None where the picture has failed.
        """
        picture.status, picture.failure = "started", None
        planned = self._planned_steps()
        with self.times.stage("chain.read"):
            as_planned = [step.plan for step in picture.steps] == [step.plan for step in planned]
            state = self._good_state(picture, 0) if as_planned else None
            if state is not None:
                return self._go_on(picture, state, planned)
            picture.steps = planned
            with failing_alone(picture):
                image, picture.sha256 = read_picture(Path(picture.file))
                state = first_state(image, self.settings.process_size)
        if state is not None:
            with self.times.stage("chain.save"), failing_alone(picture):
                self.save(picture, 0, state)
        return None if picture.failed else state

    def _go_on(
        self, picture: PictureRecord, state: Image.Image, planned: Sequence[StepRecord]
    ) -> Image.Image:
        """Keep the steps of an earlier run up to the first whose state is not good; return the newest state.

        The prompt of that step is still right; what comes after it depends on its state.
        """
        for record in picture.steps:
            made = self._good_state(picture, record.step) if record.done else None
            if made is None:
                record.done = False
                picture.steps[record.step :] = planned[record.step :]
                break
            if not self.settings.from_first_state:
                state = made
        return state

    def _good_state(self, picture: PictureRecord, step: int) -> Image.Image | None:
        if not self.tree.per_scale(picture.name, step).exists():
            return None
        return read_state(self.tree.state(picture.name, step), self.settings.process_size)

    def save(self, picture: PictureRecord, step: int, state: Image.Image) -> None:
        """Write a state to both its places.

        Raises:
            OutputError: it cannot be written.
        """
        # the state itself last: what is on disk with it is complete
        self.tree.write_image(
            state, self.tree.per_scale(picture.name, step), self.tree.state(picture.name, step)
        )

    def finish(self, picture: PictureRecord) -> None:
        """Lay the states side by side, which completes the picture: every state is on the disk."""
        side, count = self.settings.process_size, self.settings.rec_num + 1
        with self.times.stage("chain.save"), failing_alone(picture):
            strip = Image.new("RGB", (side * count, side))
            for number in range(count):
                file = self.tree.state(picture.name, number)
                state = read_state(file, side)
                if state is None:
                    raise PictureError(f"state {number} is gone or damaged: {file}")
                strip.paste(state, (side * number, 0))
            self.tree.write_image(
                strip, self.tree.strip(picture.name), self.tree.collected_strip(picture.name)
            )
            picture.status = "done"
            log.info("%s: done", picture.label)

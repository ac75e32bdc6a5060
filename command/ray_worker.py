"""What a Ray actor does: it builds the chain once, and makes one group of pictures after another.

The driver and its actors hand each other bytes that `pickle` reads: the records of pictures, which only the
driver writes down. Of the output folder an actor writes what belongs to a picture, and nothing else.
"""

import logging
import os
import pickle
import platform
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from command.console import set_up_logging
from command.decide import chain_settings
from command.parts import Parts, build_parts, check_files
from command.zooming import describe
from errors import InputError, OutputError
from machine.stage_times import StageTimes
from results.changes import differences
from results.output_tree import OutputTree
from results.prompts_file import FixedPrompts
from results.run_report import PictureRecord
from zoom.chain import Chain
from zoom.isolate import fail, unexpected

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What all actors of a run are told.

    Attributes:
        options: of the command; their device is the one that an actor is to compute on.
        fixed_prompts: see `results.prompts_file`.
        described: what decides the pixels, see `command.zooming.describe`.
        folder: where the driver works, absolute: paths of the options may start there.
        log_level: the driver's.
    """

    options: Namespace
    fixed_prompts: FixedPrompts
    described: dict[str, Any]
    folder: Path
    log_level: int


@dataclass
class Answer:
    """What became of a group.

    Attributes:
        pictures: their records.
        seconds: by stage, since the answer before.
        loads, moves: of each component, since the answer before.
        error: what no picture is at fault for: the run is to end with it.
    """

    pictures: list[PictureRecord]
    seconds: dict[str, float] = field(default_factory=dict)
    loads: dict[str, int] = field(default_factory=dict)
    moves: dict[str, int] = field(default_factory=dict)
    error: InputError | OutputError | None = None


class Worker:
    """The actor that Ray keeps, calls and starts again.

    Args:
        job: the run's.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.times = StageTimes()
        self.parts = Parts()
        self._chain: Chain | None = None
        set_up_logging(job.log_level)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Make groups of pictures; see `zoom`.

        Args:
            batch: ``group``: any number of them, pickled lists of records.

        Returns:
            ``answer``: a pickled `Answer` for each.
        """
        return {"answer": [pickle.dumps(self.zoom(pickle.loads(group))) for group in batch["group"]]}

    def zoom(self, pictures: list[PictureRecord]) -> Answer:
        """Make a group of pictures; whatever happens to one stays within it."""
        answer = Answer(pictures)
        try:
            if self._chain is None:  # not when the actor starts: Ray would start it again and again
                self._chain = self._build()
            self._run(self._chain, pictures)
        except (InputError, OutputError) as error:
            answer.error = error
        self._account(answer)
        return answer

    def _build(self) -> Chain:
        """Build the chain as the driver has it.

        Raises:
            InputError: this machine does not see what the driver sees, or would make other pixels.
        """
        try:
            return self._chain_here()
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"--ray: the machine {platform.node()}: {unexpected(error)}") from error

    def _chain_here(self) -> Chain:
        options, here = self.job.options, f"--ray: the machine {platform.node()}"
        tree = OutputTree(options.output_dir)
        try:
            os.chdir(self.job.folder)
        except OSError as error:
            raise InputError(f"{here} has no {self.job.folder} ({error.strerror}); see docs/ray.md") from None
        if not tree.run_json.exists():  # the driver has written it
            raise InputError(f"{here} does not see the output folder {tree.root.absolute()}; see docs/ray.md")
        settings = chain_settings(options)
        if not settings.resizes_only:
            self.parts = build_parts(options, check_files(options), self.times)
        other = differences(self.job.described, describe(settings, self.parts, self.job.fixed_prompts))
        if other:
            raise InputError(f"{here} would make other pixels: {'; '.join(other[:3])}; see docs/ray.md")
        return Chain(
            settings,
            tree,
            self.parts.extractor,
            self.parts.backbone,
            self.times,
            self.job.fixed_prompts,
            options.save_prompts,
            options.label_strip,
            options.save,
        )

    def _run(self, chain: Chain, pictures: Sequence[PictureRecord]) -> None:
        try:
            for _ in chain.run(pictures, len(pictures)):
                pass
        except (InputError, OutputError):
            raise
        except Exception as error:
            log.debug("in a group of %d", len(pictures), exc_info=True)
            left = [picture for picture in pictures if picture.status not in ("done", "failed")]
            if len(left) == 1:
                fail(left[0], unexpected(error))
                return
            for picture in left:
                self._run(chain, [picture])

    def _account(self, answer: Answer) -> None:
        """Say what has been spent since the last time."""
        answer.seconds = dict(self.times)
        self.times.clear()
        if self._chain is not None and self.parts.machine:
            residency = self.parts.machine.residency
            answer.loads, answer.moves = dict(residency.loads), dict(residency.moves)
            residency.loads.clear()
            residency.moves.clear()

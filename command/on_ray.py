"""A run on Ray: this process is the driver: it assigns names, holds the folder and alone writes run.json.

`ray.data` spreads the pictures over actors (`command.ray_worker`), and starts actors that die again. What it
is told beyond its defaults, as tried with Ray 2.60:

* What an actor dies at is tried once more; Ray's default is without end.
* An actor may be started again as often as all its work may kill it. A smaller number, such as 2, lets a run
  hang: `ray.data` waits for ever for actors that are dead for good, and starts no others in their place.
* An actor has one group of pictures at a time: what waits behind one that kills it would be given up with it.
* What is given up is dropped in silence (``max_errored_blocks``): what did not come back is known here. A
  picture of a larger group is then tried by itself.
"""

import copy
import logging
import pickle
import warnings
from argparse import Namespace
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from command.parts import Parts
from command.ray_cluster import first_line, share_out
from command.ray_worker import Answer, Job, Worker
from command.space import plan_of
from errors import InputError, PictureError
from results.pictures import Source
from results.resume import forget_what_has_changed
from results.run_report import PictureRecord
from zoom.chain import Chain
from zoom.isolate import fail

log = logging.getLogger(__name__)

RETRIES = 1  # an actor that dies twice at the same picture is no accident
LOST = PictureError("its actor died whenever it was tried: out of memory? With -v, Ray says what it knows")


def needs(options: Namespace, parts: Parts, sources: Sequence[Source]) -> tuple[int, int]:
    """Return the GPUs, and the bytes of CPU memory, that an actor needs by the plan.

    Args:
        options, parts, sources: see `command.space.plan_of`.
    """
    if parts.machine is None:
        return 0, 0
    residency = parts.machine.residency
    gpus = {str(one.device) for one in residency.components.values() if one.device.type == "cuda"}
    peaks = plan_of(options, parts, sources).peaks
    return len(gpus), sum(peak for device, peak in peaks.items() if device not in gpus)


class ChainOnRay(Chain):
    """A chain whose pictures are made by actors; it takes them in, and writes none of their files itself.

    Args:
        options: of the command.
        described: what decides the pixels, see `command.zooming.describe`.
        parts: as this process would use them; nothing of them is loaded.
        sources: the pictures.
        arguments: as for `Chain`.
    """

    def __init__(
        self,
        options: Namespace,
        described: dict[str, Any],
        parts: Parts,
        sources: Sequence[Source],
        *arguments: Any,
        **named: Any,
    ) -> None:
        super().__init__(*arguments, **named)
        self._options, self._described, self._parts = options, described, parts
        self._needs = needs(options, parts, sources)

    def run(
        self, pictures: Sequence[PictureRecord], group_size: int = 1
    ) -> Generator[tuple[PictureRecord, int], None, None]:
        """Zoom into all pictures, as `Chain.run` does; of each picture only its end is told."""
        groups = []
        for start in range(0, len(pictures), group_size):
            group = []
            for picture in pictures[start : start + group_size]:
                forget_what_has_changed(picture)
                if self.keeping.finished(picture):
                    self.keeping.label(picture)
                    yield picture, 0
                else:
                    picture.status, picture.failure = "pending", None
                    group.append(picture)
            if group:
                groups.append(group)
        lost = yield from self._spread(groups, RETRIES if group_size == 1 else 0)
        if group_size > 1:
            lost = yield from self._spread([[picture] for group in lost for picture in group], RETRIES)
        for group in lost:
            fail(group[0], LOST)
            yield group[0], self.settings.rec_num

    def _spread(
        self, groups: list[list[PictureRecord]], retries: int
    ) -> Generator[tuple[PictureRecord, int], None, list[list[PictureRecord]]]:
        """Let actors make groups of pictures; return the groups that did not come back."""
        if not groups:
            return []
        from ray.data.exceptions import SystemException
        from ray.exceptions import RayError

        by_name = {picture.name: picture for group in groups for picture in group}
        back = set()
        try:
            for answer in self._answers(groups, retries):
                for made in answer.pictures:
                    by_name[made.name].become(made)
                self._account(answer)
                if answer.error is not None:
                    raise answer.error
                for made in answer.pictures:
                    back.add(made.name)
                    self.keeping.shown(by_name[made.name], None)
                    yield by_name[made.name], self.settings.rec_num
        except (RayError, SystemException) as error:
            raise InputError(f"--ray: {first_line(error)}; the same command goes on") from error
        return [group for group in groups if group[0].name not in back]

    def _answers(self, groups: Sequence[list[PictureRecord]], retries: int) -> Iterator[Answer]:
        import ray
        from ray.data import ActorPoolStrategy, DataContext

        context = DataContext.get_current()
        context.max_errored_blocks = -1
        context.enable_progress_bars = False
        if not self._options.verbose:  # every group that is given up has its page of traceback
            logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
        share = share_out(machines, *self._needs, len(groups), self._options.ray_actors)
        log.info("%d actors, each with %d cores and %d GPUs", share.actors, share.cores, share.gpus)
        items = [{"group": pickle.dumps(group)} for group in groups]
        with warnings.catch_warnings(action="ignore"):  # there is no other way yet to say max_restarts
            answers = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
                Worker,
                fn_constructor_args=(self._job(),),
                batch_size=1,
                compute=ActorPoolStrategy(size=share.actors, max_tasks_in_flight_per_actor=1),
                num_cpus=share.cores,
                num_gpus=share.gpus,
                max_restarts=(1 + retries) * len(groups),
                max_task_retries=retries,
            )
        for batch in answers.iter_batches(batch_size=None, prefetch_batches=0):
            for answer in batch["answer"]:
                yield pickle.loads(answer)

    def _job(self) -> Job:
        """Return what actors are told; the plan of this machine says what they compute on."""
        options = copy.copy(self._options)
        if self._parts.machine is not None:
            gpus, _ = self._needs  # not those of a worker that Ray has given none
            options.device = "auto" if gpus > 1 else self._parts.machine.devices.sr.type
        return Job(options, self.fixed_prompts, self._described, Path.cwd(), logging.getLogger().level)

    def _account(self, answer: Answer) -> None:
        """Add what an actor has spent to what the report says."""
        for stage, seconds in answer.seconds.items():
            self.times[stage] = self.times.get(stage, 0.0) + seconds
        if self._parts.machine is not None:
            self._parts.machine.residency.loads.update(answer.loads)
            self._parts.machine.residency.moves.update(answer.moves)

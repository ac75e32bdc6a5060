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

import contextlib
import copy
import logging
import os
import pickle
import signal
import socket
import sys
import warnings
from argparse import Namespace
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command.parts import Parts, working_side
from command.ray_worker import Answer, Job, Worker
from errors import InputError, PictureError
from machine.interrupts import Interrupted
from results.run_report import PictureRecord
from zoom.chain import Chain
from zoom.isolate import fail

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5
TOKEN = Path.home() / ".ray" / "auth_token"  # of the cluster
RETRIES = 1  # an actor that dies twice at the same picture is no accident
LOST = PictureError("its actor died whenever it was tried: out of memory? Ray's logs say more")


@contextlib.contextmanager
def connected(options: Namespace) -> Iterator[None]:
    """Be connected to Ray within a with block, where ``--ray`` asks for it; afterwards no actor is left.

    Raises:
        InputError: there is no such cluster.
    """
    if options.ray is None:
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # this tool tells nobody that it is used
    _refuse_dead(options.ray or os.environ.get("RAY_ADDRESS", ""))
    ours = signal.getsignal(signal.SIGTERM)
    try:
        _start(options)
    except SystemExit:  # Ray's own way to take a signal
        raise Interrupted(signal.SIGTERM) from None
    finally:
        signal.signal(signal.SIGTERM, ours)
    try:
        yield
    finally:
        import ray

        ray.shutdown()


def _refuse_dead(address: str) -> None:
    """Refuse HOST:PORT where nobody listens: Ray itself would try for minutes.

    Raises:
        InputError: nobody does.
    """
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdecimal()):  # which Ray refuses at once, or finds by itself
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"--ray: no cluster answers at {address} ({error})") from None


def _start(options: Namespace) -> None:
    """Connect to a cluster, or start one; Ray's own lines are for ``-vv``.

    Raises:
        InputError: there is no such cluster.
    """
    quiet = options.verbose < 2
    if quiet:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if TOKEN.is_file():  # Ray itself looks there for auto, and not for HOST:PORT
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    ray._private.worker._worker_logs_enabled = options.verbose > 0  # else long lines where an actor dies
    with _silenced() if quiet else contextlib.nullcontext():
        try:
            ray.init(
                address=options.ray or None,
                log_to_driver=options.verbose > 0,
                logging_level=logging.CRITICAL if quiet else logging.INFO,
            )
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            raise InputError(f"--ray: {_first_line(error)} (docs/ray.md)") from None


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Keep what C++ writes to standard error to itself: that its log level was set, to begin with."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@dataclass(frozen=True)
class Share:
    """How a cluster is shared out.

    Attributes:
        actors: number of them.
        cores: that each computes with.
        gpus: that each has.
    """

    actors: int
    cores: int
    gpus: int


def share_out(
    machines: Sequence[Mapping[str, float]], gpus: int, memory: int, groups: int, wanted: int | None = None
) -> Share:
    """Say how many actors a cluster holds, and what each of them gets.

    Args:
        machines: what each has, in Ray's words: ``CPU`` and ``GPU`` count, ``memory`` is in bytes.
        gpus: that an actor needs.
        memory: bytes of CPU memory that an actor needs by the plan.
        groups: of pictures; more actors would be idle.
        wanted: ``--ray_actors``; the plan's memory is not looked at then.

    Raises:
        InputError: no machine has so many GPUs, or there is no room for so many actors.
    """
    rooms = []  # cores of a machine, and how many actors it holds
    for machine in machines:
        cores = int(machine.get("CPU", 0))
        holds = min(cores, int(machine.get("GPU", 0)) // gpus) if gpus else cores
        if wanted is None and not gpus and memory:
            holds = min(holds, int(machine.get("memory", 0)) // memory)
        rooms.append((cores, holds))
    if not any(holds for _, holds in rooms):
        if gpus or not any(cores for cores, _ in rooms):
            raise InputError(f"--ray: no machine of the cluster has {gpus} GPUs and a core for an actor")
        rooms = [(max(cores for cores, _ in rooms), 1)]  # as one process would try it
    room = sum(holds for _, holds in rooms)
    if wanted is not None and wanted > room:
        raise InputError(f"--ray_actors {wanted}: the cluster has room for {room}")
    actors = min(wanted or room, room, groups)
    return Share(actors, min(cores // min(holds, actors) for cores, holds in rooms if holds), gpus)


class ChainOnRay(Chain):
    """A chain whose pictures are made by actors; it takes them in, and writes none of their files itself.

    Args:
        options: of the command.
        described: what decides the pixels, see `command.zooming.describe`.
        parts: as this process would use them; nothing of them is loaded.
        arguments: as for `Chain`.
    """

    def __init__(self, options: Namespace, described: dict[str, Any], parts: Parts, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._options, self._described, self._parts = options, described, parts

    def run(
        self, pictures: Sequence[PictureRecord], group_size: int = 1
    ) -> Iterator[tuple[PictureRecord, int]]:
        """Zoom into all pictures, as `Chain.run` does; of each picture only its end is told."""
        groups = []
        for start in range(0, len(pictures), group_size):
            group = []
            for picture in pictures[start : start + group_size]:
                if self.files.finished(picture):
                    self.files.label(picture)
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
                    vars(by_name[made.name]).update(vars(made))
                self._account(answer)
                if answer.error is not None:
                    raise answer.error
                for made in answer.pictures:
                    back.add(made.name)
                    yield by_name[made.name], self.settings.rec_num
        except (RayError, SystemException) as error:
            raise InputError(f"--ray: {_first_line(error)}; the same command goes on") from error
        return [group for group in groups if group[0].name not in back]

    def _answers(self, groups: Sequence[list[PictureRecord]], retries: int) -> Iterator[Answer]:
        import ray
        from ray.data import ActorPoolStrategy, DataContext

        context = DataContext.get_current()
        context.max_errored_blocks = -1
        context.enable_progress_bars = False
        if self._options.verbose < 2:  # every group that is given up has its page of traceback
            logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
        share = share_out(machines, *self._needs(), len(groups), self._options.ray_actors)
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

    def _needs(self) -> tuple[int, int]:
        """Return the GPUs and the bytes of CPU memory that an actor needs."""
        if self._parts.machine is None:
            return 0, 0
        residency = self._parts.machine.residency
        plan = residency.plan(self._options.batch_size, working_side(self._options))
        gpus = {str(one.device) for one in residency.components.values() if one.device.type == "cuda"}
        return len(gpus), sum(peak for name, peak in plan.peaks.items() if name not in gpus)

    def _job(self) -> Job:
        """Return what actors are told; the plan of this machine says what they compute on."""
        options = copy.copy(self._options)
        if self._parts.machine is not None:
            kind = self._parts.machine.devices.sr.type
            options.device = "auto" if self._needs()[0] > 1 else kind  # of GPUs, the first that the actor has
        return Job(options, self.fixed_prompts, self._described, Path.cwd())

    def _account(self, answer: Answer) -> None:
        """Add what an actor has spent to what the report says."""
        for stage, seconds in answer.seconds.items():
            self.times[stage] = self.times.get(stage, 0.0) + seconds
        if self._parts.machine is not None:
            self._parts.machine.residency.loads.update(answer.loads)
            self._parts.machine.residency.moves.update(answer.moves)


def _first_line(error: Exception) -> str:
    """Return what an exception says, in one line: Ray's may have pages."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__

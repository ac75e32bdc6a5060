"""Being connected to Ray, and how a cluster is shared out. Ray is an extra: imported only where asked for."""

import contextlib
import logging
import os
import signal
import socket
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from errors import InputError
from machine.interrupts import Interrupted
from machine.terminal import silenced

CONNECT_SECONDS = 5
# Where Ray notes the cluster that this machine is in, which may have died since
CURRENT = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
TOKEN = Path.home() / ".ray" / "auth_token"  # of the cluster


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
    address = options.ray or os.environ.get("RAY_ADDRESS") or "local"
    if address == "auto" and CURRENT.is_file():
        address = CURRENT.read_text().strip()
    _refuse_dead(address)
    ours = signal.getsignal(signal.SIGTERM)
    try:
        _start(address, not options.verbose)
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
    """Refuse HOST:PORT where nobody listens: Ray would try for minutes, and hear no Ctrl-C meanwhile.

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


def _start(address: str, quiet: bool) -> None:
    """Connect to a cluster, or start one.

    Args:
        address: HOST:PORT, or ``local`` for a new one on this machine.
        quiet: show nothing of what Ray itself says.

    Raises:
        InputError: there is no such cluster.
    """
    if quiet:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if TOKEN.is_file():  # Ray itself looks there for auto, and not for HOST:PORT
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    ray._private.worker._worker_logs_enabled = not quiet  # no other way stops its lines on actors that die
    # C++ says on standard error that its log level was set, to begin with
    with silenced() if quiet else contextlib.nullcontext():
        try:
            ray.init(
                address=address,
                log_to_driver=not quiet,
                logging_level=logging.CRITICAL if quiet else logging.INFO,
            )
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            raise InputError(f"--ray: {first_line(error)} (docs/ray.md)") from None


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


def first_line(error: Exception) -> str:
    """Return what an exception says, in one line: Ray's may have pages."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__

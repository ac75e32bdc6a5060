"""The options for Ray, and what they refuse. Ray is an extra: nothing here imports it."""

import argparse
import importlib.util
import os

from command.arguments import at_least
from errors import InputError

INSTALL = "pip install -r requirements-ray.txt"
GPUS_OF_AN_ACTOR = ("auto", "cuda", "mps", "cpu")  # Ray says which of a machine's GPUs an actor has


def add_ray_options(group: argparse._ArgumentGroup) -> None:
    """Add what spreads a run over processes and machines."""
    add = group.add_argument
    add(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="spread the pictures over processes and machines with Ray: over the cluster at ADDRESS "
        "(HOST:PORT, or auto for the one that this machine is in); without ADDRESS over the cluster that "
        f"RAY_ADDRESS names, else over this machine; wants {INSTALL}",
    )
    add(
        "--ray_actors",
        type=at_least(1),
        metavar="N",
        help="processes that hold the models (default: as many as have the GPUs of the plan; on CPUs one a "
        "core, and no more than the machines have memory for by the plan); the cores of a machine are shared "
        "out evenly among them",
    )


def installed() -> bool:
    """Tell whether Ray is here, and what `ray.data` needs beside it."""
    return all(importlib.util.find_spec(package) is not None for package in ("ray", "pyarrow"))


def check_ray(options: argparse.Namespace) -> None:
    """See that Ray is there where it is asked for, and that nothing contradicts it.

    Raises:
        InputError: it is not, or something does.
    """
    if options.ray is None:
        if options.ray_actors is not None:
            raise InputError("--ray_actors only goes with --ray")
        return
    if not installed():
        raise InputError(f"--ray wants Ray, which is not installed: {INSTALL}")
    address = options.ray or os.environ.get("RAY_ADDRESS", "")
    if "://" in address:  # a driver far away would not hold the output folder, and its actors outlive it
        raise InputError(
            f"--ray: {address} is for clients; run this on a machine of the cluster, with --ray auto"
        )
    if options.device not in GPUS_OF_AN_ACTOR:
        raise InputError(f"--device {options.device}: with --ray, Ray chooses the GPUs; leave it out")

"""Which share of the pictures and of the GPUs this process takes, when several work on one folder."""

import argparse
import os
import re
from collections.abc import Mapping

from command.console import ALL_DONE, SOME_FAILED
from errors import InputError
from results.shards import MOST, Shard

# torchrun and Slurm's job arrays tell each process what it is
SLURM = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT")


def add_sharding_options(parser: argparse.ArgumentParser) -> None:
    """Describe the options of a process among several."""
    add = parser.add_argument_group("several processes").add_argument
    add(
        "--shard",
        metavar="K/N",
        help="zoom into one of N shares of the pictures, K from 0 to N-1, beside other processes that take "
        "the others (default: what torchrun or a Slurm array says by its variables; 0/1: all pictures)",
    )
    add(
        "--gpus_per_process",
        type=int,
        choices=(1, 2),
        help="under torchrun, how many of its machine's GPUs each process takes (default: 1)",
    )


def shard_of(given: str | None, environment: Mapping[str, str] = os.environ) -> Shard | None:
    """Return the shard that this process is; None where it takes all pictures.

    Args:
        given: ``--shard``.
        environment: of the process.

    Raises:
        InputError: it is no shard.
    """
    if given is not None:
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", given)
        if match is None:
            raise InputError(f"--shard {given}: must be K/N, such as 0/4")
        return _shard(int(match[1]), int(match[2]), f"--shard {given}")
    if "RANK" in environment and "WORLD_SIZE" in environment:
        number, count = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
        return _shard(number, count, "RANK and WORLD_SIZE")
    if all(name in environment for name in SLURM):
        number, count = (_number(environment, name) for name in SLURM)
        least = _number(environment, "SLURM_ARRAY_TASK_MIN", 0)
        step = max(_number(environment, "SLURM_ARRAY_TASK_STEP", 1), 1)
        return _shard((number - least) // step, count, "the variables of Slurm's array")
    return None


def gpus_of(per_process: int | None, environment: Mapping[str, str] = os.environ) -> range | None:
    """Return the numbers of the GPUs that this process takes; None where it may take any.

    Args:
        per_process: ``--gpus_per_process``.
        environment: of the process.

    Raises:
        InputError: torchrun has not started this process, and there is no telling which are its own.
    """
    if "LOCAL_RANK" not in environment:
        if per_process is not None:
            raise InputError("--gpus_per_process only goes with torchrun, which numbers its processes")
        return None
    first = _number(environment, "LOCAL_RANK") * (per_process or 1)
    return range(first, first + (per_process or 1))


def exit_code_of_shard(shard: Shard | None, code: int) -> int:
    """Return the exit code of a process: under torchrun, a shard ends well also where pictures failed.

    torchrun takes any other code for a broken worker, and ends all others. Which pictures failed was said.

    Args:
        shard: of the process.
        code: of the run.
    """
    of_torchrun = shard is not None and "TORCHELASTIC_RUN_ID" in os.environ
    return ALL_DONE if of_torchrun and code == SOME_FAILED else code


def before_lines(shard: Shard | None) -> str:
    """Return what lines begin with that are about a shard's share of a folder."""
    return f"shard {shard.number}/{shard.count}: " if shard else ""


def _shard(number: int, count: int, said: str) -> Shard | None:
    if not 0 <= number < count <= MOST:
        raise InputError(f"{said}: shard {number} of {count}: shards count from 0 to N-1, N at most {MOST:,}")
    return None if count == 1 else Shard(number, count)


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, "" if default is None else str(default))
    if re.fullmatch("[0-9]{1,9}", text) is None:
        raise InputError(f"{name}={text}: is set, and no number; unset it, or give --shard K/N")
    return int(text)

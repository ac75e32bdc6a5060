"""How long a run will take: from what its steps took here before, or from one that is tried. Never a guess.

After a run, what its steps took is remembered under everything that decides it (settings, models, devices).
"""

import hashlib
import json
import math
import os
import platform
import time
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from checkpoints.remembered import recall, remember
from command.parts import Parts
from command.progress import duration
from errors import PictureError
from machine.overlap import THREADS
from results.pictures import Source
from results.resume import Records, waiting
from results.run_report import PictureRecord, StepRecord
from zoom.settings import ChainSettings
from zoom.window import plan_route_either_way

SPEEDS, MOST_SPEEDS = "speeds.json", 200
# What of the chain's settings says where it looks, or what is in a picture, and not how long a step takes
OF_NO_MATTER = ("rec_num", "seed", "prompt", "center", "box", "source")
TRIED_SIDE = 512  # pixels of the state that is tried, at most
SLOWEST = 1e9  # seconds a megapixel; what is above it in a file was not measured


@dataclass(frozen=True)
class Speed:
    """How long steps take, in seconds for each megapixel of a state.

    Attributes:
        network: that a network makes, with its prompt.
        saving: that is measured and written, in one thread.
        basis: where this is from, in words.
    """

    network: float
    saving: float
    basis: str = ""


@dataclass(frozen=True)
class Work:
    """What is left to do: states that networks make, and the megapixels of these and of all."""

    steps: int
    network: float
    saving: float


def work_left(settings: ChainSettings, sources: Sequence[Source], earlier: Records) -> Work:
    """Count what is left to do of pictures.

    Args:
        settings: of the chain.
        sources: the pictures, all of which can be zoomed into.
        earlier: what earlier runs have done.
    """
    done = {record.id: record.steps_done for record in earlier.values()}
    steps, network, saving = 0, 0.0, 0.0
    for source in waiting(sources, earlier):
        route = plan_route_either_way(settings, source.size, source.center)
        for step in route.steps[done.get(source.id, 0) :]:
            megapixels = step.size[0] * step.size[1] / 1e6
            saving += megapixels
            if step.made != "real" and not settings.resizes_only:
                steps, network = steps + 1, network + megapixels
    return Work(steps, network, saving)


def seconds_of(work: Work, speed: Speed) -> float:
    """Return how long the work takes: states are written while the networks make the next ones."""
    return max(work.network * speed.network, work.saving * speed.saving / THREADS)


def key_of(options: Namespace, described: Mapping[str, Any], parts: Parts) -> str:
    """Return what stands for all that decides how long a step takes on this machine.

    Args:
        options: of the command.
        described: what decides the pixels, see `command.zooming.describe`.
        parts: built.
    """
    chain = {name: value for name, value in described["chain"].items() if name not in OF_NO_MATTER}
    networks = [described[kind] for kind in ("extractor", "backbone", "quantized")]
    devices = [str(device) for device in vars(parts.machine.devices).values()] if parts.machine else []
    here = [platform.node(), os.environ.get("OMP_NUM_THREADS"), options.batch_size]
    here += [options.efficient_memory, options.max_new_tokens]
    content = json.dumps([chain, networks, devices, here], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def remember_speed(
    options: Namespace,
    described: Mapping[str, Any],
    parts: Parts,
    records: Iterable[PictureRecord],
    done_before: Mapping[str, int],
    loading: float,
) -> None:
    """Remember what the steps of a run took; nothing where it made none.

    Args:
        options, described, parts: see `key_of`.
        records: its pictures.
        done_before: how many steps of each were done before it, by name.
        loading: seconds in which models were read, which more pictures do not take again.
    """
    steps = [step for record in records for step in record.steps[done_before.get(record.name, 0) :]]
    speed = _speed(steps, 0.0 if options.efficient_memory else loading)
    if speed is not None and options.ray is None:
        remember(SPEEDS, key_of(options, described, parts), [speed.network, speed.saving], MOST_SPEEDS)


def _speed(steps: Iterable[StepRecord], loading: float = 0.0, basis: str = "") -> Speed | None:
    """Return what steps took; None where none of them was made and timed."""
    network = saving = pixels_made = pixels_saved = 0.0
    for step in steps:
        if not step.done or step.save_seconds is None:
            continue
        megapixels = step.size[0] * step.size[1] / 1e6
        saving, pixels_saved = saving + step.save_seconds, pixels_saved + megapixels
        if step.sr_seconds is not None:
            network += step.sr_seconds + (step.prompt_seconds or 0.0)
            pixels_made += megapixels
    if not pixels_saved:
        return None
    network = max(network - loading, 0.0) / pixels_made if pixels_made else 0.0
    return Speed(network, saving / pixels_saved, basis)


def known_speed(
    options: Namespace,
    settings: ChainSettings,
    described: Mapping[str, Any],
    parts: Parts,
    earlier: Records,
    work: Work,
) -> Speed | None:
    """Return how long steps take here; None where nothing is known.

    Args:
        options: of the command.
        settings: of the chain.
        described, parts: see `key_of`.
        earlier: what earlier runs into the same folder have done.
        work: what is left to do.
    """
    found = [_remembered(key_of(options, described, parts))]
    steps = (step for record in earlier.values() for step in record.steps)
    found.append(_speed(steps, basis="as the earlier steps in this folder took"))
    for speed in found:
        if speed is not None and (speed.network or not work.network):
            return speed
    return _tried(options, settings, parts) if work.network else None


def _remembered(key: str) -> Speed | None:
    entry = recall(SPEEDS).get(key)
    if not (isinstance(entry, list) and len(entry) == 2):
        return None
    if not all(type(one) in (int, float) and math.isfinite(one) and 0 <= one < SLOWEST for one in entry):
        return None
    return Speed(entry[0], entry[1], "as the last such run on this machine took")


def _tried(options: Namespace, settings: ChainSettings, parts: Parts) -> Speed | None:
    """Run one step of the embedded network; None with others, which may be large, and on other machines."""
    if options.backbone != "embedded" or options.prompt_type != "null" or options.ray is not None:
        return None
    from PIL import Image

    from plain_sr.enlarging import SHARED, TILE
    from zoom.protocols import StepInput

    assert parts.backbone is not None
    sides = (TRIED_SIDE, TRIED_SIDE) if settings.full_image else settings.process_size
    crop = [min(side, TRIED_SIDE) // settings.upscale for side in sides]
    size = crop[0] * settings.upscale, crop[1] * settings.upscale
    for made_of in ([16, 16], crop):  # the first one reads the weights
        picture = Image.new("RGB", (made_of[0], made_of[1]), "grey")
        sr_input = picture.resize([side * settings.upscale for side in made_of])
        start = time.perf_counter()
        (result,) = parts.backbone([StepInput(picture, sr_input)], [[""]], [0])
        seconds = time.perf_counter() - start
        if isinstance(result, PictureError):
            return None
    largest = math.inf if settings.full_image else max(settings.process_size) // settings.upscale
    again = 1 / (1 - SHARED) ** 2 if largest > TILE else 1.0  # what tiles share is made several times
    return Speed(again * seconds / (size[0] * size[1] / 1e6), 0.0, "one step was tried")


def time_line(work: Work, speed: Speed | None) -> str:
    """Say how long the work takes, and how that is known."""
    if not work.saving:
        return "none: all is done"
    if speed is None:
        return "not known: no such run was made on this machine yet"
    of = ""
    if work.steps:
        each = duration(speed.network * work.network / work.steps)
        of = (
            f"1 step; {speed.basis}" if work.steps == 1 else f"{work.steps} steps, {each} each; {speed.basis}"
        )
    return f"about {duration(seconds_of(work, speed))} ({of or speed.basis})"

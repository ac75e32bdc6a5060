"""What a run would do and what it takes: the plan of ``--dry_run``."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from command.console import say
from command.expected import known_speed, time_line, work_left
from command.on_ray import needs
from command.parts import Parts
from command.space import (
    in_bytes,
    plan_of,
    refuse_too_little_memory,
    refuse_too_little_space,
    space_needed,
)
from errors import InputError, refuse
from machine.disk import free_at
from results.output_tree import VIDEO
from results.pictures import Failure, Source
from results.resume import Records, waiting
from zoom.protocols import PromptExtractor, SRBackbone
from zoom.settings import ChainSettings


def print_plan(
    options: Namespace,
    settings: ChainSettings,
    sources: Sequence[Source],
    unreadable: Sequence[Failure],
    parts: Parts,
    earlier: Records,
    described: Mapping[str, Any],
    removed: str,
) -> None:
    """Print the plan, and refuse what the run would refuse.

    Args:
        options: of the command.
        settings: of the chain.
        sources, unreadable: the pictures found.
        parts: built, nothing of them loaded.
        earlier: what earlier runs into the same folder have done.
        described: what decides the pixels, see `command.zooming.describe`.
        removed: what ``--overwrite`` removes, see `command.beginning.look_ahead`.

    Raises:
        InputError: the machine has not the memory or the disk for it.
    """
    steps = " ".join(f"{settings.magnification(k)}x" for k in range(1, settings.rec_num + 1))
    width, height = settings.process_size
    left = waiting(sources, earlier)
    out = options.output_dir
    disk, free = space_needed(settings, left, options.save), free_at(out)
    counts = len(left), len(sources) - len(left), len(unreadable)
    say("pictures   {} to zoom into, {} done, {} that cannot be used".format(*counts))
    for failure in unreadable:
        say(f"           {failure.label}: {failure.reason}")
    states = "the whole picture" if settings.full_image else f"states of {width}x{height}"
    say(f"steps      {settings.rec_num} ({steps}), {settings.rec_type}, {states}")
    asked_at = f", asked at {options.vlm_url}" if options.vlm_url is not None else ""
    say(f"prompts    {describe_line(parts.extractor)}{asked_at}")
    say(f"backbone   {describe_line(parts.backbone)}")
    plan = plan_of(options, parts, sources)
    for number, line in enumerate(str(plan).splitlines()):
        heading = "models" if plan.rows else "memory"
        say(f"{'' if number else heading:<11}{line}")
    if options.ray is not None:
        gpus, memory = needs(options, parts, sources)
        say(
            f"ray        {gpus} GPUs and {memory / 1e9:.1f} GB of CPU memory an actor; nothing is started now"
        )
    if options.video:
        say(f"films      one {options.video} a picture, in {out / VIDEO}")
    say(f"output     {out}, about {in_bytes(disk)}; {in_bytes(free)} are free")
    if removed:
        say(f"overwrite  removes {removed}")
    problems = []
    for check in (
        lambda: refuse_too_little_memory(options, parts, sources),
        lambda: refuse_too_little_space(options, sources, lambda: earlier),
    ):
        try:
            check()
        except InputError as error:
            problems.append(error)
    refuse(problems)
    work = work_left(settings, sources, earlier)
    speed = known_speed(options, settings, described, parts, earlier, work)
    say(
        f"time       {time_line(work, speed)}{', shared among the actors' if options.ray is not None else ''}"
    )


def describe_line(part: PromptExtractor | SRBackbone | None) -> str:
    """Say in one line what a part is: its name, its model and its precision, where it has them."""
    if part is None:
        return "none: this --rec_type only resizes"
    described = part.describe()
    words = [
        str(described[word]) for word in ("extractor", "backbone", "model", "file") if described.get(word)
    ]
    if "architecture" in described:
        words += [f"{described['architecture']} {described['scale']}x", f"licence: {described['licence']}"]
    return ", ".join([*words, str(described["dtype"])] if described.get("dtype") else words)

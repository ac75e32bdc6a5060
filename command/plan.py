"""What a run would do and what it takes: the plan of ``--dry_run``."""

import shutil
from argparse import Namespace
from collections.abc import Sequence

from command.console import say
from command.parts import Parts
from results.pictures import Failure, Source
from results.resume import Records
from zoom.protocols import PromptExtractor, SRBackbone
from zoom.settings import ChainSettings


def print_plan(
    options: Namespace,
    settings: ChainSettings,
    sources: Sequence[Source],
    unreadable: Sequence[Failure],
    parts: Parts,
    earlier: Records,
) -> None:
    """Print the plan.

    Args:
        options: of the command.
        settings: of the chain.
        sources, unreadable: the pictures found.
        parts: built, nothing of them loaded.
        earlier: what earlier runs into the same folder have done.
    """
    steps = " ".join(f"{settings.magnification(k)}x" for k in range(1, settings.rec_num + 1))
    side = settings.process_size
    files = {source.key for source in sources}
    done = sum(record.status == "done" and record.file in files for record in earlier.values())
    # a PNG of a photograph takes about two bytes a pixel; each state is kept four times, each input once
    disk = (len(sources) - done) * (4 * (settings.rec_num + 1) + settings.rec_num) * side * side * 2
    out = options.output_dir
    existing = next(path for path in (out, *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    say(f"pictures   {len(sources)} to zoom into, {done} of them done, {len(unreadable)} that cannot be read")
    for failure in unreadable:
        say(f"           {failure.label}: {failure.reason}")
    say(f"steps      {settings.rec_num} ({steps}), {settings.rec_type}, states of {side}x{side}")
    say(f"prompts    {describe_line(parts.extractor)}")
    say(f"backbone   {describe_line(parts.backbone)}")
    if parts.machine:
        plan = parts.machine.residency.plan(options.batch_size, side)
        for number, line in enumerate(str(plan).splitlines() if plan.rows else []):
            say(f"{'' if number else 'models':<11}{line}")
    say(f"output     {out}, about {disk / 1e6:.0f} MB; {free / 1e9:.1f} GB are free")


def describe_line(part: PromptExtractor | SRBackbone | None) -> str:
    """Say in one line what a part is: its name, its model and its precision, where it has them."""
    if part is None:
        return "none: this --rec_type only resizes"
    described = part.describe()
    words = ("extractor", "backbone", "model", "dtype")
    return ", ".join(str(described[word]) for word in words if described.get(word))

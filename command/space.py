"""What a run takes of the machine, and whether it is there: memory, and the disk that it writes to.

What cannot be is refused before anything heavy begins, by a run and by ``--dry_run`` alike; what is only
short now, as other programs have it, is warned of.
"""

import logging
import math
import stat
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from command.arguments import AUTO
from command.decide import chain_settings, group_size
from command.parts import Parts
from errors import InputError
from machine.disk import free_at
from machine.memory import MemoryPlan, plan_memory, room_on
from results.output_tree import OURS
from results.pictures import Source
from results.resume import Records, waiting
from zoom.settings import MOST_BY_ITSELF, ChainSettings

log = logging.getLogger(__name__)

# Bytes a pixel: states and strips with their share of the page, and SR inputs, which are smooth. Of samples/,
# four steps of the embedded network left 36 MB, and these say 38.
PNG, SR_INPUT = 1.75, 0.8
# Bytes of CPU memory for each pixel of a state, measured at 2048 to 4096 pixels a side: of the picture at
# work the state, what was enlarged, what waits to be written, what colours are held with, and what a strip
# keeps of each state; of every other one of its group the state, what it looks at, and what the strip keeps.
WINDOW_BYTES, CELL_BYTES = 56, 8
OTHERS_BYTES, OTHERS_CELL_BYTES = 12, 4
WHOLE_BYTES = 24  # the same of whole pictures, whose colours are held tile by tile
FLOATS = {"adain": 40, "wavelet": 80}  # more, where colours are held in floating point at a state's size


def decide_batch_size(options: Namespace, parts: Parts, sources: Sequence[Source]) -> None:
    """Put what ``--batch_size auto`` stands for into its place: as many pictures as are sure to fit.

    On the CPU that is one: batches take memory there, and bring the SR networks next to nothing. Whole
    pictures come one at a time, but questions about their tiles go through the extractor in batches.

    Args:
        options, parts, sources: see `plan_of`.
    """
    if options.batch_size != AUTO:
        return
    options.batch_size = 1
    if parts.machine is None or parts.machine.devices.sr.type == "cpu":
        return
    if options.full_image and options.tile_prompts != "tile":
        return
    free = {device: room_on(device).free for device in plan_of(options, parts, sources).taken}
    for size in range(MOST_BY_ITSELF, 1, -1):
        taken = _plan_with(size, options, parts, sources).taken
        if all(peak <= free[device] for device, peak in taken.items()):
            options.batch_size = parts.machine.batches.size = size
            log.info("batches of %d: what the plan finds room for", size)
            return


def plan_of(options: Namespace, parts: Parts, sources: Sequence[Source]) -> MemoryPlan:
    """Return what a run takes of each device's memory.

    Args:
        options: of the command.
        parts: built, nothing of them loaded.
        sources: the pictures, where whole ones are enlarged: the largest counts.
    """
    settings = chain_settings(options)
    if settings.full_image:
        side, pixels = math.inf, max((_pixels_at(settings, one)[-1] for one in sources), default=0)
        pictures = WHOLE_BYTES * pixels
    else:
        width, height = settings.process_size
        pixels, side = width * height, math.sqrt(width * height)
        a_pixel = WINDOW_BYTES + CELL_BYTES * settings.rec_num + FLOATS.get(settings.align_method, 0)
        of_others = OTHERS_BYTES + OTHERS_CELL_BYTES * settings.rec_num
        pictures = pixels * (a_pixel + of_others * (group_size(options, settings) - 1))
    if parts.machine is None:
        return plan_memory({}, False, pictures=pictures)
    return parts.machine.residency.plan(options.batch_size, side, pictures)


def _plan_with(batch_size: int, options: Namespace, parts: Parts, sources: Sequence[Source]) -> MemoryPlan:
    """Return the plan with another ``--batch_size`` than the options'."""
    return plan_of(Namespace(**{**vars(options), "batch_size": batch_size}), parts, sources)


def refuse_too_little_memory(options: Namespace, parts: Parts, sources: Sequence[Source]) -> None:
    """Refuse what no device here has the memory for; warn where it is only short now.

    Args:
        options, parts, sources: see `plan_of`.

    Raises:
        InputError: with both numbers, and the way out.
    """
    if options.ray is not None:  # the machines of the cluster do the work
        return
    plan = plan_of(options, parts, sources)
    for device, peak in plan.taken.items():
        room = room_on(device)
        needs = f"about {peak / 1e9:.1f} GB"
        if peak > room.total and not _helped_by_smaller_batches(options, parts, sources, device, room.total):
            raise InputError(
                f"{device} has {room.total / 1e9:.1f} GB of memory, and this takes {needs}: "
                f"{_way_out(options, parts, sources, device)}"
            )
        if peak > room.free:
            log.warning(
                "%s has %.1f GB free of %s needed: %s",
                device,
                room.free / 1e9,
                needs,
                _way_out(options, parts, sources, device),
            )


def _helped_by_smaller_batches(
    options: Namespace, parts: Parts, sources: Sequence[Source], device: str, total: int
) -> bool:
    """Tell whether the halving of batches, which a GPU's end of memory starts, makes it fit."""
    if device == "cpu" or options.batch_size == 1:  # the system rather kills who takes too much
        return False
    return _plan_with(1, options, parts, sources).taken[device] <= total


def _way_out(options: Namespace, parts: Parts, sources: Sequence[Source], device: str) -> str:
    """Say what takes less of a device: the first of what the options leave that helps much."""
    if options.batch_size > 1:
        return "take a smaller --batch_size"
    weights = sum(
        component.size.bytes
        for component in (parts.machine.residency.components.values() if parts.machine else ())
        if component.size and str(component.device) == device
    )
    of_cpu = device in ("cpu", "mps")
    pictures = plan_of(options, Parts(), sources).peaks.get("cpu", 0) if of_cpu else 0
    if weights < pictures:
        return "take a smaller --rec_num, or --box" if options.full_image else "take a smaller --process_size"
    big = options.backbone == "sd3" or options.prompt_type != "null"
    if big and not options.efficient_memory:
        return "take --efficient_memory"
    if options.backbone == "sd3" and not options.quantize:
        return "take --quantize (docs/int8.md)"
    if options.backbone == "sd3" and options.full_image:
        return "take smaller tiles (--vae_decoder_tiled_size)"
    return "take --device cpu" if device.startswith("cuda") else "take a machine with more memory"


def space_needed(settings: ChainSettings, sources: Sequence[Source], save: str) -> int:
    """Estimate the bytes that the results of these pictures take, where copies are links.

    Args:
        settings: of the chain.
        sources: the pictures.
        save: one of `zoom.settings.SAVE`: with ``all``, a state comes again in the strip, and with it its SR
            input.
    """
    cell = settings.process_size[0] * settings.process_size[1]
    cells = len(sources) * (settings.rec_num + 1) * cell
    if settings.full_image:
        at_steps = zip(*(_pixels_at(settings, one) for one in sources), strict=True)
        pixels = list(map(sum, at_steps))
    else:
        pixels = [len(sources) * cell] * (settings.rec_num + 1)
    states, strips = PNG * sum(pixels), PNG * cells
    sr_inputs = SR_INPUT * sum(pixels[1:])  # each is as large as the state that is made of it
    return int(states + strips + sr_inputs if save == "all" else states)


def _pixels_at(settings: ChainSettings, source: Source) -> list[int]:
    """Return how many pixels each state of a whole picture has, from state 0 on."""
    x0, y0, x1, y1 = settings.box or (0, 0, 1, 1)
    pixels = source.size[0] * source.size[1] * (x1 - x0) * (y1 - y0)
    return [int(pixels * settings.upscale ** (2 * step)) for step in range(settings.rec_num + 1)]


def refuse_too_little_space(
    options: Namespace, sources: Sequence[Source], earlier: Callable[[], Records]
) -> None:
    """Refuse results that will not fit on the disk.

    Args:
        options: of the command.
        sources: the pictures.
        earlier: reads what earlier runs into the same folder have done; called only where that matters.

    Raises:
        InputError: with both numbers, and the way out.
    """
    settings, folder = chain_settings(options), options.output_dir
    needed, free = space_needed(settings, sources, options.save), free_at(folder)
    if needed > free:
        sources = waiting(sources, earlier())
        needed = space_needed(settings, sources, options.save)
    if needed > free and options.overwrite:
        free += _removed_by_overwriting(folder)
    if needed <= free:
        return
    smaller = space_needed(settings, sources, "states")
    way_out = "take fewer pictures or a smaller --rec_num, or another disk"
    if options.save == "all" and smaller <= free:
        way_out = f"take --save states ({in_bytes(smaller)})"
    raise InputError(
        f"--output_dir {folder}: {in_bytes(free)} are free, and what is to come takes about "
        f"{in_bytes(needed)}; {way_out}"
    )


def in_bytes(count: float) -> str:
    """Say how much that is, in kB, MB or GB (10^3, 10^6 and 10^9 bytes)."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


def _removed_by_overwriting(folder: Path) -> int:
    """Return the bytes of the results that ``--overwrite`` removes; hard links count once."""
    sizes = {}
    for ours in OURS:
        for path in (folder / ours).rglob("*"):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values())

"""The disk that a run takes, before it starts."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from errors import InputError
from results.pictures import Source
from zoom.settings import ChainSettings

PNG = 2  # bytes a pixel of a photograph, about


def space_needed(settings: ChainSettings, sources: Sequence[Source], save: str) -> int:
    """Estimate the bytes that the results of these pictures take, where copies are links.

    Args:
        settings: of the chain.
        sources: the pictures.
        save: one of `zoom.settings.SAVE`: with ``all``, a state comes again in the strip, and with it its SR
            input.
    """
    cell = settings.process_size[0] * settings.process_size[1]
    steps, repeats = settings.rec_num, save == "all"
    if not settings.full_image:
        return len(sources) * (steps + 1 + repeats * (2 * steps + 1)) * cell * PNG
    x0, y0, x1, y1 = settings.box or (0, 0, 1, 1)
    pixels = sum(source.size[0] * source.size[1] for source in sources) * (x1 - x0) * (y1 - y0)
    grown = [settings.upscale ** (2 * step) for step in range(steps + 1)]
    states = pixels * (sum(grown) + repeats * sum(grown[1:]))
    return int(states + repeats * len(sources) * (steps + 1) * cell) * PNG


def space_free(folder: Path) -> int:
    """Return the bytes that are free where a folder is, or will be."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def refuse_too_little_space(
    settings: ChainSettings, sources: Sequence[Source], folder: Path, save: str
) -> None:
    """Refuse whole pictures that will not fit: a single one takes hundreds of megabytes.

    Raises:
        InputError: with both numbers.
    """
    needed, free = space_needed(settings, sources, save), space_free(folder)
    if settings.full_image and needed > free:
        raise InputError(
            f"--output_dir {folder}: {free / 1e9:.1f} GB are free, and --full_image takes about "
            f"{needed / 1e9:.1f} GB for {len(sources)} pictures; take a smaller --rec_num or fewer pictures"
        )

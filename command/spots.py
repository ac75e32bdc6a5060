"""What is zoomed into: the pictures as they are, or the spots that were given or found in them."""

import argparse
import logging
import math
from collections.abc import Sequence

from tqdm import tqdm

from errors import InputError, PictureError
from results.output_tree import OutputTree, assign_names
from results.pictures import Failure, Source, read_picture
from results.spots_file import Spot, read_spots, spots_csv
from zoom.settings import ChainSettings
from zoom.window import refuse_too_large

log = logging.getLogger(__name__)


def find_spots(
    options: argparse.Namespace, tree: OutputTree, sources: Sequence[Source], unreadable: Sequence[Failure]
) -> tuple[list[Source], list[Failure]]:
    """Turn pictures into their spots, where ``--regions`` or ``--find_detail`` wants it.

    Args:
        options: as `command.decide.parse` returns them.
        tree: where the proposals of ``--find_detail`` are written.
        sources, unreadable: the pictures found.

    Returns:
        The spots, or the pictures as they are; and all that failed.

    Raises:
        InputError: a row of the regions is wrong, or nothing is left to zoom into.
    """
    failures = list(unreadable)
    if options.regions:
        labels = [source.label for source in sources]
        found = read_spots(options.regions, [*labels, *(failure.label for failure in unreadable)])
    elif options.find_detail:
        tree.prepare()
        with tree.lock():
            found = _propose(options, tree, sources, failures)
    else:
        return list(sources), failures
    failed = {failure.label for failure in failures}
    spots = []
    for source in sources:
        if source.label in failed:
            continue
        of_picture = found.get(source.label)
        spots += [source.at(spot.label, (spot.x, spot.y)) for spot in of_picture] if of_picture else [source]
    if not spots:
        reasons = "; ".join(f"{failure.label}: {failure.reason}" for failure in failures)
        raise InputError(f"nothing to zoom into: {reasons}")
    return spots, failures


def _propose(
    options: argparse.Namespace, tree: OutputTree, sources: Sequence[Source], failures: list[Failure]
) -> dict[str, list[Spot]]:
    """Propose the spots of every picture, and write them down."""
    from zoom.find_detail import draw_spots, find_detail

    names = assign_names(sources, {})
    box, share = options.box or (0.0, 0.0, 1.0, 1.0), 1 / options.upscale
    found: dict[str, list[Spot]] = {}
    for source in tqdm(sources, desc="looking for detail", unit="picture", disable=options.quiet or None):
        try:
            picture, _ = read_picture(source.file)
            spots = find_detail(picture, options.find_detail, box, share)
        except PictureError as error:
            failures.append(Failure(source.label, str(error)))
            continue
        if not spots:
            log.warning("%s: there is no detail in it; its middle is zoomed into", source.label)
            continue
        found[source.label] = spots
        inside = min((box[2] - box[0]) * picture.width, (box[3] - box[1]) * picture.height)
        drawn = draw_spots(picture, spots, share * inside / min(picture.size))
        tree.write_image(drawn, tree.drawn_spots(names[source]))
    tree.write(spots_csv(found), tree.spots_csv)
    return found


def refuse_what_grows_too_large(
    settings: ChainSettings, sources: Sequence[Source]
) -> tuple[list[Source], list[Failure]]:
    """Leave out pictures whose states could not be read again, before anything starts.

    Returns:
        The others, and these with the reason.
    """
    if not settings.full_image:
        return list(sources), []
    x0, y0, x1, y1 = settings.box or (0, 0, 1, 1)
    left, failures = [], []
    for source in sources:
        try:
            refuse_too_large(settings, math.floor(source.size[0] * source.size[1] * (x1 - x0) * (y1 - y0)))
            left.append(source)
        except PictureError as error:
            failures.append(Failure(source.label, str(error)))
    if not left:
        raise InputError(f"nothing to zoom into: {failures[0].label}: {failures[0].reason}")
    return left, failures

"""What is zoomed into: the pictures as they are, or the spots that were given or found in them."""

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from command.progress import Progress
from errors import InputError, PictureError
from results.output_tree import OutputTree, assign_names
from results.pictures import Failure, Source
from results.reading import read_picture
from results.spots_file import Spot, read_spots, spots_csv
from zoom.settings import ChainSettings
from zoom.window import plan_route_either_way

log = logging.getLogger(__name__)


def with_regions(file: Path, sources: Sequence[Source], unreadable: Sequence[Failure]) -> list[Source]:
    """Turn pictures into the spots that ``--regions`` gives; those without a row stay as they are.

    Args:
        file: the CSV file.
        sources, unreadable: the pictures found.

    Raises:
        InputError: a row is wrong.
    """
    known = [*(source.label for source in sources), *(failure.label for failure in unreadable)]
    return _spots_of(sources, read_spots(file, known))


def with_detail(
    options: argparse.Namespace, tree: OutputTree, sources: Sequence[Source]
) -> tuple[list[Source], list[Failure]]:
    """Turn pictures into the spots that ``--find_detail`` finds, and write these down.

    Args:
        options: as `command.decide.parse` returns them.
        tree: where the proposals are written, proven writable.
        sources: the pictures found.

    Returns:
        The spots; and pictures that cannot be read.

    Raises:
        InputError: nothing is left to zoom into.
    """
    failures: list[Failure] = []
    tree.prepare()
    with tree.lock() as entered:
        entered.begun()
        found = _propose(options, tree, sources, failures)
    failed = {failure.label for failure in failures}
    left = [source for source in sources if source.label not in failed]
    if not left:
        raise InputError(f"nothing to zoom into: {failures[0].label}: {failures[0].reason}")
    return _spots_of(left, found), failures


def _spots_of(sources: Sequence[Source], found: Mapping[str, Sequence[Spot]]) -> list[Source]:
    spots = []
    for source in sources:
        of_picture = found.get(source.label)
        spots += [source.at(spot.label, (spot.x, spot.y)) for spot in of_picture] if of_picture else [source]
    return spots


def _propose(
    options: argparse.Namespace, tree: OutputTree, sources: Sequence[Source], failures: list[Failure]
) -> dict[str, list[Spot]]:
    """Propose the spots of every picture, and write them down."""
    from zoom.find_detail import draw_spots, find_detail

    names = assign_names(sources, {})
    box, share = options.box or (0.0, 0.0, 1.0, 1.0), 1 / options.upscale
    found: dict[str, list[Spot]] = {}
    with Progress("searches for detail", len(sources), len(sources), "picture", options.quiet) as progress:
        for source in sources:
            try:
                picture, _ = read_picture(source.file)
                spots = find_detail(picture, options.find_detail, box, share)
            except PictureError as error:
                failures.append(Failure(source.label, str(error)))
                progress.end(failed=True, parts=1)
                continue
            progress.come_on(source.label, 1)
            progress.end(failed=False)
            if not spots:
                log.warning("%s: there is no detail in it; its middle is zoomed into", source.label)
                continue
            found[source.label] = spots
            inside = min((box[2] - box[0]) * picture.width, (box[3] - box[1]) * picture.height)
            drawn = draw_spots(picture, spots, share * inside / min(picture.size))
            tree.write_image(drawn, tree.drawn_spots(names[source]))
    tree.write(spots_csv(found), tree.spots_csv)
    return found


def leave_out_what_cannot_be_zoomed_into(
    settings: ChainSettings, sources: Sequence[Source]
) -> tuple[list[Source], list[Failure]]:
    """Leave out pictures whose size alone makes them fail, before anything starts.

    Returns:
        The others, and these with the reason.

    Raises:
        InputError: nothing is left.
    """
    left, failures = [], []
    for source in sources:
        try:
            plan_route_either_way(settings, source.size)
        except PictureError as error:
            failures.append(Failure(source.label, str(error)))
            continue
        left.append(source)
    if not left:
        reasons = "; ".join(f"{failure.label}: {failure.reason}" for failure in failures)
        raise InputError(f"nothing to zoom into: {reasons}")
    return left, failures

"""The pictures that a run is given: found, and a line on what else lies there."""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from command.console import say
from results.pictures import FoundPictures, find_pictures
from results.reading import ANIMATED, PAGES, SEVERAL

log = logging.getLogger(__name__)

MOST_NAMES = 3
_TAKEN = {
    ANIMATED: ("is animated: its first frame is taken", "are animated: their first frames are taken"),
    PAGES: ("has several pages: its first is taken", "have several pages: their first ones are taken"),
    SEVERAL: (
        "holds several pictures: the main one is taken",
        "hold several pictures: their main ones are taken",
    ),
}


def find(
    inputs: Sequence[Path],
    recursive: bool,
    leave_out: Collection[Path],
    quiet: bool,
    takes: Callable[[str], bool],
) -> FoundPictures:
    """Find pictures; say which of their files hold more than one, and how many others were skipped.

    Args:
        inputs, recursive, leave_out: see `results.pictures.find_pictures`.
        quiet: say nothing of the skipped.
        takes: whether this process counts the skipped file of a label; another shard may.

    Returns:
        All that is found; of the skipped what this process counts.

    Raises:
        InputError: there are no pictures.
    """
    found = find_pictures(inputs, recursive, leave_out)
    found = replace(found, skipped=list(filter(takes, found.skipped)))
    for more, (one_is, they_are) in _TAKEN.items():
        labels = [source.label for source in found.sources if source.more == more]
        if labels:
            log.warning("%s %s", _some(labels), one_is if len(labels) == 1 else they_are)
    if found.skipped and not quiet:
        many = len(found.skipped) > 1
        say(f"{len(found.skipped)} file{'s' * many} skipped: no picture{'s' * many} ({_some(found.skipped)})")
    return found


def _some(labels: Sequence[str]) -> str:
    """Name the first few."""
    left = len(labels) - MOST_NAMES
    named = ", ".join(labels[:MOST_NAMES])
    return f"{named} and {left} more" if left > 0 else named

"""How a run begins and ends among others: it takes up what earlier runs have left, and shards are joined."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from errors import InputError
from machine.stage_times import StageTimes
from results.joining import join, known_report, remove_shards
from results.load_report import EarlierReport
from results.locks import Entered, look_into
from results.output_tree import OutputTree
from results.pictures import Failure, Source
from results.resume import Records, earlier_report, take_up
from results.run_report import PictureRecord, RunReport
from viewer.page import write_page

log = logging.getLogger(__name__)


def of_share(tree: OutputTree, sources: Sequence[Source]) -> list[Source]:
    """Return the pictures that this process zooms into."""
    return [source for source in sources if tree.takes(source.picture_label)]


def failures_of_share(tree: OutputTree, failures: Sequence[Failure]) -> list[Failure]:
    """Return the failures that this process names."""
    return [failure for failure in failures if tree.takes(failure.label)]


def begin(
    tree: OutputTree,
    entered: Entered,
    report: RunReport,
    sources: Sequence[Source],
    unreadable: Sequence[Failure],
    overwrite: bool,
) -> list[PictureRecord]:
    """Take up what earlier runs have left, and let others in.

    Args:
        tree: the folder, locked.
        entered: what its lock has told.
        report: of this run; gets what earlier runs have done of what it reports.
        sources: all pictures, also other shards'.
        unreadable: all files that are no pictures.
        overwrite: start anew.

    Returns:
        The records of this process's pictures.

    Raises:
        InputError: the folder holds results of other settings, or other shards are at work on such.
        OutputError: run.json cannot be written.
    """
    if entered.was_killed:
        tree.sweep()
    if overwrite:
        # where this is the only process, all that is known stands in run.json, which is replaced at once
        of_all = partial(join, OutputTree(tree.root), report.version, report.environment)
        read = of_all if entered.alone else partial(known_report, tree.root)
        earlier = _give_up(tree, report.settings, entered.alone, read)
        earlier.keep(unreadable)
    else:
        old = earlier_report(tree, report.settings)
        earlier = _Earlier(old.pictures, list(old.left_over)) if old else _Earlier()
    records = take_up(tree, sources, earlier.pictures)
    everybody = {record.name: record for record in records}
    removed = earlier.leave_over(everybody, tree)
    if removed:
        log.warning("%s: --overwrite removes %s", tree.root, removed)
    known, everybody = len(earlier.pictures), earlier.pictures | everybody
    if tree.shard is None:
        report.pictures, report.left_over = everybody, earlier.left_over
        if overwrite:  # what it gives up is forgotten before anything of it is removed
            report.save()
    else:
        # the first one writes a run.json that names all pictures, so that all agree
        if entered.alone or overwrite or len(everybody) > known:
            main = RunReport(
                OutputTree(tree.root), report.version, report.settings, report.environment, StageTimes()
            )
            main.pictures, main.unreadable, main.left_over = everybody, list(unreadable), earlier.left_over
            main.save()
        if entered.alone:  # what shards had reported stands in run.json now
            remove_shards(tree.root)
        report.pictures = {name: one for name, one in everybody.items() if tree.takes(one.picture_label)}
        report.save()
    entered.begun()
    return [record for record in records if tree.takes(record.picture_label)]


def look_ahead(
    tree: OutputTree,
    settings: dict[str, Any],
    sources: Sequence[Source],
    unreadable: Sequence[Failure],
    overwrite: bool,
) -> str:
    """Refuse a folder where others are at work, as `begin` would, and leave everything there as it is.

    Args:
        tree: the folder; need not be there.
        settings: what decides the pixels.
        sources, unreadable, overwrite: see `begin`.

    Returns:
        What ``--overwrite`` removes, in words; empty where that is nothing.

    Raises:
        InputError: another run is writing here.
    """
    alone = look_into(tree.root, tree.shard)
    if not overwrite:
        return ""
    earlier = _give_up(tree, settings, alone, partial(known_report, tree.root))
    earlier.keep(unreadable)
    records = take_up(tree, sources, earlier.pictures)
    return earlier.leave_over({record.name: record for record in records}, tree)


@dataclass
class _Earlier:
    """What earlier runs have left.

    Attributes:
        pictures: what is to go on of it, by name.
        left_over: names of pictures whose results are to be removed, see `results.run_report`.
        given_up: records of pictures that ``--overwrite`` begins anew.
    """

    pictures: Records = field(default_factory=dict)
    left_over: list[str] = field(default_factory=list)
    given_up: list[PictureRecord] = field(default_factory=list)

    def keep(self, unreadable: Sequence[Failure]) -> None:
        """Let pictures that cannot be used just now keep their names and their old files.

        Their records begin anew: whatever lies under their names is removed when they can be used again.

        Args:
            unreadable: files, and folders that cannot be listed.
        """
        labels = {failure.label for failure in unreadable}
        given_up = []
        for one in self.given_up:
            picture = PurePosixPath(one.picture_label)
            if labels.isdisjoint(map(str, (picture, *picture.parents))):
                given_up.append(one)
            else:
                one.begin_anew()
                self.pictures[one.name] = one
        self.given_up = given_up

    def leave_over(self, now: Records, tree: OutputTree) -> str:
        """Note which pictures that are given up are none of this run.

        Args:
            now: the records of this run, by name; those that are given up have not begun anew yet.
            tree: the folder.

        Returns:
            How many results go, and when, in words; empty where none do.
        """
        with_results = [one for one in self.given_up if one.has_results or tree.holds(one.name)]
        gone = [one.name for one in with_results if one.name not in now]
        self.left_over += gone
        for one in self.given_up:
            one.begin_anew()
            if one.name not in now:
                self.pictures.pop(one.name, None)
        found = [now[one.name] for one in with_results if one.name in now]
        own = sum(tree.takes(one.picture_label) for one in found)
        going = {
            ", each when its new one begins": own,
            " of other shards, when these begin theirs": len(found) - own,
            " of pictures that are gone, when all is done": len(gone),
        }
        return "; ".join(f"{count} result{'s' * (count > 1)}{when}" for when, count in going.items() if count)


def _give_up(
    tree: OutputTree, settings: dict[str, Any], alone: bool, read: Callable[[], EarlierReport | None]
) -> _Earlier:
    """Return what ``--overwrite`` starts anew: all; of a shard that takes part, its own pictures.

    Args:
        tree: the folder.
        settings: of this run.
        alone: no other shard is at work.
        read: reads what earlier runs have done.

    Raises:
        InputError: other shards are at work with other settings.
    """
    known = None
    try:
        known = read()
    except InputError as error:
        log.warning("%s: the pictures that it names are not removed", error)
    takes_part = tree.shard is not None and known is not None and known.settings == settings
    if not (alone or takes_part):
        raise InputError(f"{tree.root}: other shards are at work with other settings")
    if known is None:
        return _Earlier()
    if not takes_part:
        return _Earlier({}, list(known.left_over), list(known.pictures.values()))
    own = [one for one in known.pictures.values() if tree.takes(one.picture_label)]
    return _Earlier(known.pictures, list(known.left_over), own)


def end_shards(tree: OutputTree, version: str, environment: dict[str, Any]) -> None:
    """Join the reports of all shards, and show them on one page.

    Args:
        tree: the folder, of no shard; no shard is at work.
        version, environment: as run.json has them.

    Raises:
        InputError: a report cannot be read.
        OutputError: run.json or the page cannot be written.
    """
    known = join(tree, version, environment)
    if known is not None:
        write_page(tree, known)
        log.info("%s: the reports of all shards are joined", tree.root)

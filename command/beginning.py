"""How a run begins and ends among others: it takes up what earlier runs have left, and shards are joined."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from errors import InputError
from machine.stage_times import StageTimes
from results.joining import join, known_report, remove_shards
from results.locks import Entered
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
        earlier = _give_up(tree, report, entered.alone)
        earlier.keep(unreadable)
    else:
        old = earlier_report(tree, report.settings)
        earlier = _Earlier(old.pictures, list(old.left_over)) if old else _Earlier()
    records = take_up(tree, sources, earlier.pictures)
    everybody = {record.name: record for record in records}
    earlier.leave_over(everybody, tree)
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

    def leave_over(self, now: Records, tree: OutputTree) -> None:
        """Note which pictures that are given up are none of this run, and say how many results go.

        Args:
            now: the records of this run, by name; those that are given up have not begun anew yet.
            tree: the folder.
        """
        with_results = [one for one in self.given_up if one.has_results or tree.holds(one.name)]
        gone = [one.name for one in with_results if one.name not in now]
        self.left_over += gone
        for one in self.given_up:
            one.begin_anew()
            if one.name not in now:
                self.pictures.pop(one.name, None)
        if with_results:
            count = len(with_results)
            log.warning(
                "%s: --overwrite removes %d result%s, each when its new one begins%s",
                tree.root,
                count,
                "s" * (count > 1),
                f", and those of pictures that are gone ({len(gone)}) when all is done" if gone else "",
            )


def _give_up(tree: OutputTree, report: RunReport, alone: bool) -> _Earlier:
    """Read what ``--overwrite`` starts anew: all; of a shard that takes part, its own pictures.

    Raises:
        InputError: other shards are at work with other settings.
    """
    known = None
    try:  # where this is the only process, all that is known stands in run.json, which is replaced at once
        root = OutputTree(tree.root)
        known = join(root, report.version, report.environment) if alone else known_report(tree.root)
    except InputError as error:
        log.warning("%s: the pictures that it names are not removed", error)
    takes_part = tree.shard is not None and known is not None and known.settings == report.settings
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

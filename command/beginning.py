"""How a run begins and ends among others: it takes up what earlier runs have left, and shards are joined."""

import contextlib
import logging
from collections.abc import Sequence
from typing import Any

from errors import InputError
from machine.stage_times import StageTimes
from results.joining import join, known_report, remove_shards
from results.locks import Entered
from results.output_tree import OutputTree
from results.pictures import Failure, Source
from results.resume import Records, earlier_results, remove_all, take_up
from results.run_report import PictureRecord, RunReport
from results.shards import Shard
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
    if tree.shard is not None:
        records = _begin_shard(tree, tree.shard, entered.alone, report, sources, unreadable, overwrite)
    else:
        if overwrite:
            remove_all(tree)
        report.pictures = {} if overwrite else earlier_results(tree, report.settings)
        records = take_up(tree, sources, report.pictures)
    entered.begun()
    return records


def _begin_shard(
    tree: OutputTree,
    shard: Shard,
    alone: bool,
    report: RunReport,
    sources: Sequence[Source],
    unreadable: Sequence[Failure],
    overwrite: bool,
) -> list[PictureRecord]:
    """The same for a shard. The first one writes a run.json that names all pictures, so that all agree."""
    earlier = _start_anew(tree, shard, report.settings, alone) if overwrite else None
    if earlier is None:
        earlier = earlier_results(tree, report.settings)
    records = take_up(tree, sources, earlier)
    everybody = earlier | {record.name: record for record in records}
    if alone or len(everybody) > len(earlier):
        main = RunReport(
            OutputTree(tree.root), report.version, report.settings, report.environment, StageTimes()
        )
        main.pictures, main.unreadable = everybody, list(unreadable)
        main.save()
    if alone:  # what shards had reported stands in run.json now
        remove_shards(tree.root)
    report.pictures = {name: one for name, one in everybody.items() if shard.has(one.picture_label)}
    report.save()
    return [record for record in records if record.name in report.pictures]


def _start_anew(tree: OutputTree, shard: Shard, settings: dict[str, Any], alone: bool) -> Records | None:
    """Remove the results of this shard's pictures; of all, where they were made with other settings.

    Returns:
        What is left of earlier results; None where there are none.

    Raises:
        InputError: other shards are at work with other settings.
    """
    known = None
    with contextlib.suppress(InputError):  # it is removed
        known = known_report(tree.root)
    if known is None or known.settings != settings:
        if not alone:
            raise InputError(f"{tree.root}: other shards are at work with other settings")
        remove_all(tree)
        return {}
    own = {name: one for name, one in known.pictures.items() if shard.has(one.picture_label)}
    tree.remove(list(own))
    anew = {name: PictureRecord(name, one.label, one.file, one.spot, one.center) for name, one in own.items()}
    return known.pictures | anew


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

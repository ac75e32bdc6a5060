"""How a run begins and ends among others: it takes up what earlier runs have left, and shards are joined."""

import contextlib
import logging
from collections.abc import Sequence
from typing import Any

from errors import InputError
from results.joining import join, known_report, remove_shards
from results.locks import JOIN, joining, shards_at_work
from results.output_tree import OutputTree
from results.pictures import Failure, Source
from results.resume import Records, earlier_results, remove_all, take_up
from results.run_report import PictureRecord, RunReport
from results.shards import Shard
from viewer.page import Page

log = logging.getLogger(__name__)


def of_share(shard: Shard | None, sources: Sequence[Source]) -> list[Source]:
    """Return the pictures that this process zooms into."""
    return [source for source in sources if shard is None or shard.has(source.label, source.spot)]


def failures_of_share(shard: Shard | None, failures: Sequence[Failure]) -> list[Failure]:
    """Return the failures that this process names."""
    return [failure for failure in failures if shard is None or shard.has(failure.label)]


def begin(
    tree: OutputTree,
    report: RunReport,
    sources: Sequence[Source],
    unreadable: Sequence[Failure],
    overwrite: bool,
) -> list[PictureRecord]:
    """Take up what earlier runs have left.

    Args:
        tree: the folder, locked.
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
    if tree.shard is None:
        if overwrite:
            remove_all(tree)
        report.pictures = {} if overwrite else earlier_results(tree, report.settings)
        return take_up(tree, sources, report.pictures)
    with joining(tree.root):
        return _begin_shard(tree, tree.shard, report, sources, unreadable, overwrite)


def _begin_shard(
    tree: OutputTree,
    shard: Shard,
    report: RunReport,
    sources: Sequence[Source],
    unreadable: Sequence[Failure],
    overwrite: bool,
) -> list[PictureRecord]:
    """The same for a shard. The first one writes a run.json that names all pictures, so that all agree."""
    alone = not shards_at_work(tree.root, but=shard)
    earlier = _start_anew(tree, shard, report.settings, alone) if overwrite else None
    if earlier is None:
        earlier = earlier_results(tree, report.settings)
    records = take_up(tree, sources, earlier)
    everybody = earlier | {record.name: record for record in records}
    if alone or len(everybody) > len(earlier):
        main = RunReport(
            OutputTree(tree.root), report.version, report.settings, report.environment, report.times
        )
        main.pictures, main.unreadable = everybody, list(unreadable)
        main.save()
    if alone:  # what shards had reported stands in run.json now
        remove_shards(tree.root)
    report.pictures = {name: one for name, one in everybody.items() if shard.has(one.label, one.spot)}
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
            raise InputError(f"--output_dir {tree.root}: other shards are at work with other settings")
        remove_all(tree)
        tree.run_json.unlink(missing_ok=True)
        return {}
    own = {name: one for name, one in known.pictures.items() if shard.has(one.label, one.spot)}
    tree.remove(list(own))
    anew = {name: PictureRecord(name, one.label, one.file, one.spot, one.center) for name, one in own.items()}
    return known.pictures | anew


def end_shard(root: OutputTree, version: str, environment: dict[str, Any]) -> None:
    """Join the reports of all shards, where none is at work any more, and show them on one page.

    Args:
        root: the folder, of no shard.
        version, environment: as run.json has them.

    Raises:
        InputError: a report cannot be read.
        OutputError: run.json or the page cannot be written.
    """
    with joining(root.root):
        if shards_at_work(root.root):
            return
        known = join(root, version, environment)
        if known is not None:
            page = Page(root, known)
            page.begin()
            page.save()
            log.info("%s: the reports of all shards are joined", root.root)
        with contextlib.suppress(OSError):
            (root.root / JOIN).unlink()

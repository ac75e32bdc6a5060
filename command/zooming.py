"""The run itself: the chain's events drive what is said of its progress and run.json, and the end is told."""

import dataclasses
import hashlib
import json
import logging
import platform
from argparse import Namespace
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any

from command.console import ALL_DONE, SOME_FAILED, say
from command.decide import group_size
from command.parts import Parts
from command.pins import version_of
from command.progress import Progress
from command.sharding import before_lines
from command.viewing import say_where_to_look
from errors import FileRefused
from machine.overlap import THREADS, Overlap
from results.joining import SharedFolder, remove_left_over, remove_shards
from results.output_tree import OutputTree
from results.pictures import Failure
from results.prompts_file import FixedPrompts, prompts_csv
from results.run_report import PictureRecord, RunReport
from viewer.page import Page
from zoom.chain import Chain
from zoom.settings import ChainSettings

log = logging.getLogger(__name__)

MOST_WARNINGS = 10


def describe(settings: ChainSettings, parts: Parts, fixed_prompts: FixedPrompts) -> dict[str, Any]:
    """Collect what decides the pixels; two runs into one folder must agree in it.

    Raises:
        InputError: a checkpoint's file cannot be read any more.
    """
    described = {
        "chain": dataclasses.asdict(settings),
        "extractor": parts.extractor.describe() if parts.extractor else None,
        "backbone": parts.backbone.describe() if parts.backbone else None,
        "quantized": parts.quantized.describe() if parts.quantized else None,
        "prompts_file": hashlib.sha256(repr(sorted(fixed_prompts.items())).encode()).hexdigest()
        if fixed_prompts
        else None,
    }
    return json.loads(json.dumps(described))  # as it is read back: lists for tuples


def about_machine(parts: Parts | None = None) -> dict[str, Any]:
    """Collect what is good to know about the machine and the installed versions."""
    packages = ("pillow", "numpy", "torch", "diffusers", "transformers", "onnxruntime")
    versions = {name: version for name in packages if (version := version_of(name)) is not None}
    devices = vars(parts.machine.devices) if parts and parts.machine else {}
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "devices": {role: str(device) for role, device in devices.items()},
        "versions": versions,
    }


def zoom_all(
    options: Namespace,
    settings: ChainSettings,
    report: RunReport,
    parts: Parts,
    records: Sequence[PictureRecord],
    unreadable: Sequence[Failure],
    fixed_prompts: FixedPrompts,
    chain_class: Callable[..., Chain] = Chain,
    skipped: int = 0,
) -> int:
    """Run the chain, say how far it has come, write the reports however it ends, and say what happened.

    Args:
        options: of the command.
        settings: of the chain.
        report: empty but for what earlier runs have done.
        parts: the chain's.
        records: the pictures of this run.
        unreadable: files that are no pictures.
        fixed_prompts: see `results.prompts_file`.
        chain_class: makes the chain; called as `Chain` is.
        skipped: number of files in the folders that are no pictures; of a shard, of its share.

    Returns:
        The exit code.
    """
    report.pictures |= {record.name: record for record in records}
    report.unreadable = list(unreadable)
    _fail_unreadable(report.pictures.values(), unreadable)
    tree = report.tree
    if tree.shard is None:
        warn_of_idle_prompts(settings, fixed_prompts, {record.label for record in records})
    if _written(report.save) and tree.shard is None:
        remove_shards(tree.root)  # an earlier run's: what they reported stands in run.json
    page = Page(tree, report if tree.shard is None else SharedFolder(tree.root, report))
    written = _written(page.begin) & _written(page.save)
    overlap = Overlap(THREADS)
    chain = chain_class(
        settings,
        tree,
        parts.extractor,
        parts.backbone,
        report.times,
        fixed_prompts,
        options.save_prompts,
        options.label_strip,
        options.save,
        overlap,
        shown=page.show,
    )
    how = "stopped"
    try:
        with overlap, closing(chain.run(records, group_size(options, settings))) as come_on:
            ended = _follow(come_on, settings, report, page, records, options.quiet)
        for record in records:  # the folder may have been emptied under the run
            if record.status == "done" and ended[record.name] and not chain.keeping.finished(record):
                record.status, record.failure = "failed", "its results are gone; run the same command again"
        failed = [(record.label, record.failure) for record in records if record.failed]
        failed += [(failure.label, failure.reason) for failure in unreadable]
        if tree.shard is None:  # else whoever joins the reports does it
            report.left_over = remove_left_over(tree, report.left_over, report.pictures)
        how = "failed" if failed else "done"
    except KeyboardInterrupt:
        how = "interrupted"
        raise
    finally:
        if parts.machine:
            residency = parts.machine.residency
            for name, count in residency.loads.items():
                report.components[name] = {"loads": count, "moves": residency.moves[name]}
        written &= _written(lambda: report.finish(how))
        for record in records:
            if record.status == "started":
                page.show(record)
        written &= _written(page.save)
        if tree.shard is None:  # else whoever joins the reports writes all prompts
            written &= _written(lambda: _write_prompts(tree, report))
    if not options.quiet:
        new = sum(ended[record.name] for record in records if record.status == "done")
        say_what_happened(options, settings, tree, records, new, len(failed), skipped)
    for label, reason in failed:
        say(f"failed: {label}: {reason}", error=True)
    return ALL_DONE if written and not failed and not page.left_out else SOME_FAILED


def _fail_unreadable(records: Iterable[PictureRecord], unreadable: Sequence[Failure]) -> None:
    """Note of what was a picture once, and its spots, that it cannot be read any more."""
    reasons = {failure.label: failure.reason for failure in unreadable}
    for record in records:
        reason = reasons.get(record.picture_label)
        if reason is not None:
            record.status, record.failure = "failed", reason


def _follow(
    come_on: Iterator[tuple[PictureRecord, int]],
    settings: ChainSettings,
    report: RunReport,
    page: Page,
    records: Sequence[PictureRecord],
    quiet: bool,
) -> dict[str, bool]:
    """Say how far the chain has come, and keep the report and the page up with it.

    Returns:
        Of every picture by name, whether something has come to it, or it was done before.
    """
    steps = settings.rec_num
    counted = {one.name: steps if one.status == "done" else one.steps_done for one in records}
    at_work: set[str] = set()
    ended: dict[str, bool] = {}
    to_make = steps * len(records) - sum(counted.values())
    with Progress(
        "pictures", len(records), to_make, "step", quiet, before_lines(report.tree.shard)
    ) as progress:
        for picture, step in come_on:
            name, now = picture.name, picture.steps_done
            if name in ended:
                continue
            has_come_on = step > 0 or picture.status != "done"
            if not step:  # taken up: so much of it is kept
                progress.parts += counted[name] - now
                counted[name] = now
                at_work.add(name)
            progress.come_on(name, max(0, now - counted[name]))
            counted[name] = now
            if not picture.left_to_do:
                ended[name] = has_come_on
                at_work.discard(name)
                progress.end(picture.failed, steps - now)
            if at_work:
                progress.reach(min(counted[one] for one in at_work), steps)
            if has_come_on:
                _written(partial(report.note, picture))
            _written(lambda: page.save(now=False))
    return ended


def _written(write: Callable[[], None]) -> bool:
    """Write a report, and go on without where another program has it open."""
    try:
        write()
    except FileRefused as error:
        log.error("%s", error)
        return False
    return True


def _write_prompts(tree: OutputTree, report: RunReport) -> None:
    tree.write(prompts_csv(report.pictures.values()), tree.prompts_csv)


def warn_of_idle_prompts(
    settings: ChainSettings, fixed_prompts: FixedPrompts, labels: Collection[str]
) -> None:
    """Name rows of ``--prompts_file`` for a picture or a step that is not there.

    Args:
        settings: of the chain.
        fixed_prompts: see `results.prompts_file`.
        labels: of all pictures of the run.
    """
    idle = [
        (label, step, "step" if label in labels else "picture")
        for label, step, _ in fixed_prompts
        if label not in labels or step > settings.rec_num
    ]
    for row in idle[:MOST_WARNINGS]:
        log.warning("--prompts_file: %s, step %d: there is no such %s", *row)
    if len(idle) > MOST_WARNINGS:
        log.warning("--prompts_file: and %d more rows of no use", len(idle) - MOST_WARNINGS)


def say_what_happened(
    options: Namespace,
    settings: ChainSettings,
    tree: OutputTree,
    records: Sequence[PictureRecord],
    new: int,
    failed: int,
    skipped: int,
) -> None:
    """Say what became of the pictures, and where to look.

    Args:
        options: of the command; `save` is looked at.
        settings: of the chain.
        tree: the folder.
        records: the pictures of this run.
        new: number of them that this run has done.
        failed: number of those that failed, and of files that are no pictures.
        skipped: see `zoom_all`.
    """
    done = sum(record.status == "done" for record in records)
    were = "was" if done - new == 1 else "were"
    others = {f"{were} done already": done - new, "failed": failed, "skipped": skipped}
    said = ", ".join([f"{new} new", *(f"{count} {what}" for what, count in others.items() if count)])
    magnification = settings.magnification(settings.rec_num)
    say(f"{before_lines(tree.shard)}{done} of {done + failed} pictures zoomed to {magnification}x: {said}")
    strips = f"{tree.root / 'recursive'} has each picture's states side by side, "
    shown_too = strips if done and options.save == "all" else ""
    say_where_to_look(tree, records, f"; {shown_too}{tree.root / 'per-sample'} has each state by itself")

"""The run itself: the chain's events drive the progress bar and run.json, and the end is told."""

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import platform
import tomllib
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from command.console import ALL_DONE, SOME_FAILED, say
from command.parts import Parts
from errors import FileRefused
from results.joining import SharedFolder, remove_shards
from results.output_tree import OutputTree
from results.pictures import Failure
from results.prompts_file import FixedPrompts, prompts_csv
from results.run_report import PictureRecord, RunReport
from viewer.page import Page
from zoom.chain import Chain
from zoom.settings import ChainSettings

log = logging.getLogger(__name__)

MOST_WARNINGS = 10
PROJECT = Path(__file__).parent.parent / "pyproject.toml"


def program_version() -> str:
    """Return the program's version."""
    return tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["version"]


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
    versions = {}
    for package in ("pillow", "numpy", "torch", "diffusers", "transformers", "onnxruntime"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    devices = vars(parts.machine.devices) if parts and parts.machine else {}
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "devices": {role: str(device) for role, device in devices.items()},
        "versions": versions,
    }


def zoom_all(
    options: Namespace,
    chain: Chain,
    report: RunReport,
    parts: Parts,
    records: Sequence[PictureRecord],
    unreadable: Sequence[Failure],
) -> int:
    """Run the chain with a progress bar, write the reports however it ends, and say what happened.

    Args:
        options: of the command.
        chain: ready to run.
        report: empty but for what earlier runs have done.
        parts: the chain's.
        records: the pictures of this run.
        unreadable: files that are no pictures.

    Returns:
        The exit code.
    """
    report.pictures |= {record.name: record for record in records}
    report.unreadable = list(unreadable)
    for failure in unreadable:  # perhaps it was a picture once
        for record in report.pictures.values():
            if record.label == failure.label or record.label == f"{failure.label}~{record.spot}":
                record.status, record.failure = "failed", failure.reason
    shard = chain.tree.shard
    if shard is None:
        _warn_of_idle_prompts(chain, records)
    _written(report.save)
    if shard is None:
        remove_shards(chain.tree.root)  # an earlier run's: what they reported stands in run.json
    page = Page(chain.tree, report if shard is None else SharedFolder(chain.tree.root, report))
    written = _written(page.begin) & _written(page.save)
    how = "stopped"
    try:
        _follow(chain, report, page, records, options)
        for record in records:  # the folder may have been emptied under the run
            if record.status == "done" and not chain.files.finished(record):
                record.status, record.failure = "failed", "its results are gone; run the same command again"
        failed = [(record.label, record.failure) for record in records if record.failed]
        failed += [(failure.label, failure.reason) for failure in unreadable]
        how = "failed" if failed else "done"
    except KeyboardInterrupt:
        how = "interrupted"
        raise
    finally:
        if parts.machine:
            residency = parts.machine.residency
            for name, count in residency.loads.items():
                report.components[name] = {"loads": count, "moves": residency.moves[name]}
        for record in records:
            if record.status == "started":
                _written(partial(page.show, record))
        written &= _written(lambda: report.finish(how))
        written &= _written(page.save)
        written &= _written(lambda: _write_prompts(chain.tree, report))
    _say_what_happened(options, chain, records, unreadable, failed)
    return ALL_DONE if written and not failed and not page.left_out else SOME_FAILED


def _follow(
    chain: Chain, report: RunReport, page: Page, records: Sequence[PictureRecord], options: Namespace
) -> None:
    """Run the chain, and keep the progress bar, run.json and the page up with it."""
    steps = chain.settings.rec_num
    group = chain.settings.group if options.efficient_memory else options.batch_size
    if chain.settings.full_image:  # they are of any size
        group = 1
    come: dict[str, int] = {}  # steps of each picture that the bar has counted
    ended: set[str] = set()
    with (
        tqdm(
            total=len(records) * steps,
            desc=f"0 of {len(records)} pictures",
            unit="step",
            disable=True if options.quiet else None,  # None: only where it goes to a terminal
        ) as bar,
        logging_redirect_tqdm(),
    ):
        for picture, step in chain.run(records, group):
            if picture.status in ("done", "failed"):
                ended.add(picture.name)
                if step:  # else it was done before
                    _written(partial(page.show, picture))
                bar.set_description(f"{len(ended)} of {len(records)} pictures", refresh=False)
            now = steps if picture.name in ended else picture.steps_done
            bar.set_postfix_str(picture.name, refresh=False)
            bar.update(now - come.get(picture.name, 0))
            come[picture.name] = now
            _written(lambda: report.save(now=False))
            _written(lambda: page.save(now=False))


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


def _warn_of_idle_prompts(chain: Chain, records: Sequence[PictureRecord]) -> None:
    labels = {record.label for record in records}
    idle = [
        (label, step, "step" if label in labels else "picture")
        for label, step, _ in chain.fixed_prompts
        if label not in labels or step > chain.settings.rec_num
    ]
    for row in idle[:MOST_WARNINGS]:
        log.warning("--prompts_file: %s, step %d: there is no such %s", *row)
    if len(idle) > MOST_WARNINGS:
        log.warning("--prompts_file: and %d more rows of no use", len(idle) - MOST_WARNINGS)


def _say_what_happened(
    options: Namespace,
    chain: Chain,
    records: Sequence[PictureRecord],
    unreadable: Sequence[Failure],
    failed: Sequence[tuple[str, str | None]],
) -> None:
    done = sum(record.status == "done" for record in records)
    if not options.quiet:
        magnification = chain.settings.magnification(chain.settings.rec_num)
        shard = chain.tree.shard
        share = f"shard {shard.number}/{shard.count}: " if shard else ""
        say(f"{share}{done} of {len(records) + len(unreadable)} pictures zoomed to {magnification}x")
        say(
            f"Open {chain.tree.index} in a browser and fly through them; {chain.tree.root / 'recursive'} has "
            f"each picture's states side by side, {chain.tree.root / 'per-sample'} each state by itself."
        )
    for label, reason in failed:
        say(f"failed: {label}: {reason}", error=True)

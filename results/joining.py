"""The reports of a folder read together: run.json, and those of shards that have not been joined to it yet.

run.json names every picture of the folder. What a shard's report says of one is newer, and holds: shards of
one N have no picture in common, and all reports are joined before shards of another N start, or a run that is
no shard. One process at a time does that, behind the door of `results.locks`, and only while no shard is at
work.
"""

import contextlib
import logging
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from errors import FileRefused, InputError
from machine.stage_times import StageTimes
from results.load_report import EarlierReport, load_report
from results.output_tree import OutputTree
from results.pictures import Failure
from results.prompts_file import prompts_csv
from results.run_report import PictureRecord, RunReport
from results.shards import FOLDER, report_of, shards_in

log = logging.getLogger(__name__)


def known_report(root: Path) -> EarlierReport | None:
    """Read all reports of a folder as one; None where there is none.

    Raises:
        InputError: one cannot be read or is none, or they do not fit together.
    """
    main = load_report(report_of(root, None))
    found = ((shard, load_report(report_of(root, shard))) for shard in shards_in(root))
    shards = [(shard, report) for shard, report in found if report is not None]
    if not shards:
        return main
    if main is None:
        raise InputError(f"{root}: reports of shards without a run.json")
    pictures, seconds, status = dict(main.pictures), Counter(main.stage_seconds), ""
    for shard, report in shards:
        if report.settings != main.settings:
            raise InputError(f"{report_of(root, shard)}: is of other settings than the folder's run.json")
        pictures |= report.pictures
        seconds.update(report.stage_seconds)
        if report.status not in ("done", "failed"):
            status = report.status
    if len({name.casefold() for name in pictures}) != len(pictures):
        raise InputError(f"{root}: the reports of its shards give two pictures one name")
    known = replace(main, pictures=pictures, stage_seconds=dict(seconds))
    return replace(known, status=status or _status(known))


def _status(known: EarlierReport) -> str:
    """Say how shards ended together, of which each ended well: some may not have started yet."""
    if any(record.status in ("pending", "started") for record in known.pictures.values()):
        return "interrupted"
    failed = known.unreadable or any(record.failed for record in known.pictures.values())
    return "failed" if failed else "done"


def join(tree: OutputTree, version: str, environment: dict[str, Any]) -> EarlierReport | None:
    """Make one report of all that are there; no shard is at work.

    Args:
        tree: of the folder, of no shard.
        version, environment: of this program, as run.json has them.

    Returns:
        What is in run.json now; None where there was no report.

    Raises:
        InputError: see `known_report`.
        OutputError: it cannot be written.
    """
    known = known_report(tree.root)
    if known is not None and shards_in(tree.root):
        known = replace(known, left_over=remove_left_over(tree, known.left_over, known.pictures))
        write_report(tree, known, version, environment)
        remove_shards(tree.root)
    return known


def remove_left_over(
    tree: OutputTree, left_over: Sequence[str], pictures: Mapping[str, PictureRecord]
) -> list[str]:
    """Remove the results that ``--overwrite`` has given up, once nothing else in the folder is left to do.

    Args:
        tree: the folder.
        left_over: names of pictures, see `results.run_report`.
        pictures: of the folder, by name; one that was given such a name keeps what is its own now.

    Returns:
        Names of those that are still to be removed.

    Raises:
        OutputError: a link leads out of the folder.
    """
    if any(record.left_to_do for record in pictures.values()):
        return list(left_over)
    now = {name.casefold(): name for name in pictures}
    held = []
    for name in left_over:
        try:
            if not _is_one(tree, name, now.get(name.casefold())):
                tree.remove([name])
        except FileRefused as error:
            log.error("%s", error)
            held.append(name)
    return held


def _is_one(tree: OutputTree, name: str, other: str | None) -> bool:
    """Tell whether results of two names lie in one place: on some disks letters of both cases are one."""
    if other is None or name == other:
        return name == other
    with contextlib.suppress(OSError):
        return tree.state(name, 0).parent.samefile(tree.state(other, 0).parent)
    return False


def write_report(tree: OutputTree, known: EarlierReport, version: str, environment: dict[str, Any]) -> None:
    """Write a folder's run.json and prompts.csv.

    Raises:
        OutputError: they cannot be written.
    """
    times = StageTimes()
    times.update(known.stage_seconds)
    report = RunReport(tree, version, known.settings, environment, times)
    report.started, report.unreadable, report.pictures = known.started, known.unreadable, known.pictures
    report.left_over = known.left_over
    report.finish(known.status)
    tree.write(prompts_csv(known.pictures.values()), tree.prompts_csv)


def remove_shards(root: Path) -> None:
    """Remove the reports of all shards: what they said stands in run.json."""
    for shard in shards_in(root):
        shutil.rmtree(root / FOLDER / shard.tag, ignore_errors=True)
    with contextlib.suppress(OSError):  # something else is in there, or nothing was
        (root / FOLDER).rmdir()


@dataclass(frozen=True)
class SharedFolder:
    """What the page shows while shards are at work: all that their reports say, read anew each time.

    Attributes:
        root: the folder.
        own: the report of the shard that looks, newer than what is on the disk.
    """

    root: Path
    own: RunReport

    @property
    def status(self) -> str:
        """Others may go on when this one is done."""
        return "running"

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the pixels."""
        return self.own.settings

    @property
    def unreadable(self) -> list[Failure]:
        """Files that are no pictures, as far as this shard has found them."""
        return self.own.unreadable

    @property
    def pictures(self) -> dict[str, PictureRecord]:
        """All of the folder, by name."""
        with contextlib.suppress(InputError):  # another shard may be putting a report into its place
            known = known_report(self.root)
            if known is not None:
                return known.pictures | self.own.pictures
        return self.own.pictures

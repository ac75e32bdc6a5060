"""Going on where an earlier run into the same folder stopped."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from checkpoints.hashing import sha256_of
from errors import InputError
from results.changes import differences
from results.joining import known_report
from results.load_report import EarlierReport
from results.output_tree import FOLDERS, OutputTree, assign_names
from results.pictures import Source
from results.run_report import PictureRecord

log = logging.getLogger(__name__)

WAY_OUT = "give another --output_dir, or --overwrite to start anew"
Records = dict[str, PictureRecord]


def earlier_results(tree: OutputTree, settings: dict[str, Any]) -> Records:
    """Return the pictures of `earlier_report`, by name; say nothing."""
    report = earlier_report(tree, settings, announce=False)
    return report.pictures if report else {}


def earlier_report(tree: OutputTree, settings: dict[str, Any], announce: bool = True) -> EarlierReport | None:
    """Read what earlier runs into the same folder have done; None where none was at work there.

    Args:
        tree: the folder.
        settings: what decides the pixels of this run.
        announce: say so where this goes on with an interrupted run.

    Raises:
        InputError: the folder holds results of other settings, or of another program.
    """
    try:
        old = known_report(tree.root)
    except InputError as error:
        raise InputError(f"{error}; {WAY_OUT}") from None
    if old is None:
        for folder in FOLDERS:
            if (tree.root / folder).exists():
                raise InputError(f"{tree.root / folder}: results without a run.json; {WAY_OUT}")
        return None
    if announce and old.status == "running" and tree.shard is None:
        log.warning("%s: the earlier run was interrupted; this one goes on from there", tree.root)
    changed = differences(old.settings, settings)
    if changed:
        more = f" (and {len(changed) - 3} more)" if len(changed) > 3 else ""
        raise InputError(f"{tree.root}: made with other settings: {'; '.join(changed[:3])}{more}; {WAY_OUT}")
    return old


def waiting(sources: Sequence[Source], earlier: Records) -> list[Source]:
    """Return what earlier runs have not finished."""
    done = {record.id for record in earlier.values() if record.status == "done"}
    return [source for source in sources if source.id not in done]


def take_up(tree: OutputTree, sources: Sequence[Source], earlier: Records) -> list[PictureRecord]:
    """Give every picture a record, the one of an earlier run where there is one.

    Args:
        tree: the folder. Where it is a shard's, it sees to its own pictures only.
        sources: the pictures of this run; one that is zoomed into elsewhere now begins anew.
        earlier: what is to go on.

    Returns:
        A record each, also of other shards' pictures.
    """
    names = assign_names(sources, _names_taken(sources, earlier))
    records = []
    for source in sources:
        record = earlier.get(names[source]) or PictureRecord(names[source], source.label, source.key)
        if tree.takes(source.picture_label) and record.center != source.center:
            _begin_anew(record)
        records.append(_called(record, source))
    return records


def _called(record: PictureRecord, source: Source) -> PictureRecord:
    record.label, record.file = source.label, source.key
    record.spot, record.center = source.spot, source.center
    return record


def forget_what_has_changed(record: PictureRecord) -> None:
    """Begin a picture anew where its file is no longer the one that an earlier run read.

    Takes as long as reading the file, so it is for when the picture's turn comes.
    """
    if record.has_results and record.sha256 != _sha256(Path(record.file)):
        _begin_anew(record)


def _sha256(file: Path) -> str | None:
    try:
        return sha256_of(file)
    except OSError:
        return None  # reading it will fail, and say why


def _begin_anew(record: PictureRecord) -> None:
    if record.has_results:
        log.info("%s: has changed since the earlier run, it is done again", record.label)
        record.begin_anew()


def _names_taken(sources: Sequence[Source], earlier: Records) -> dict[tuple[str, str], str]:
    """Return the names of earlier runs by `Source.id`; a picture that was moved as a whole keeps its name."""
    taken = {record.id: name for name, record in earlier.items()}
    moved = {
        record.label: name
        for name, record in earlier.items()
        if not os.path.exists(record.file)  # noqa: PTH110 (never raises, whatever a report calls a file)
    }
    return taken | {source.id: moved[source.label] for source in sources if source.label in moved}

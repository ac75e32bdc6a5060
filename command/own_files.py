"""What download_ckpt.py does without fetching: list, verify, take over files that somebody already has."""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from checkpoints import catalogue, places
from checkpoints.catalogue import Checkpoint
from checkpoints.hashing import digest_of, note_sha256
from checkpoints.hub import cached_folder
from checkpoints.transfer import TransferError, explain
from checkpoints.wanted import (
    CkptFile,
    State,
    WantedFile,
    cached_files,
    ckpt_file,
    files_on_hub,
    put_into_place,
    remove_folder,
)
from command.at_hand import CHOICES, is_at_hand
from command.console import ALL_DONE, SOME_FAILED, say
from command.downloading import alone, gigabytes
from errors import InputError, OutputError

MOST_FOLDERS = 10_000  # that are searched for files somebody already has


def list_all(purpose: str) -> int:
    """Say of each checkpoint whether it is here, what it is for, how large, where from and on which terms."""
    for one in catalogue.of_purpose(purpose):
        here = "here" if is_at_hand(one) else "missing"
        gated = ", gated" if one.gated else ""
        optional = ", optional" if one.optional else ""
        say(f"{here:8}{one.name}: {one.what} (for {', '.join(one.purposes)}{optional})")
        about = "" if one.in_ckpt or one.about is None else "about "
        say(f"{'':8}{about}{gigabytes(one.size)}, {one.licence}{gated}")
        say(f"{'':8}from {one.page} at {one.revision[:7]}")
        for file in one.files:
            say(f"{'':8}{ckpt_file(one, file).label}")
        if not one.in_ckpt:
            folder = cached_folder(one.repository)
            say(f"{'':8}{folder or 'in the cache of the Hugging Face hub'}")
    return ALL_DONE


def verify(purpose: str, quiet: bool = False) -> int:
    """Read every file that is here, compare its hash, and say what is right, wrong and missing.

    Args:
        purpose: one of `checkpoints.catalogue.PURPOSES`, or ``all``.
        quiet: whether only what is wrong or missing is said.

    Returns:
        0 where everything that the purpose needs is here as published, else 1.
    """
    bad = 0
    for checkpoint in catalogue.of_purpose(purpose):
        files = _files_here(checkpoint)
        if not is_at_hand(checkpoint) and not checkpoint.in_ckpt:
            bad += 1
            way_out = catalogue.how_to_get([checkpoint])
            say(f"missing: {checkpoint.name}, or files of it ({way_out})", error=True)
        for file in files:
            try:
                state = file.state(anew=True)
            except OSError as error:
                bad += 1
                say(f"{file.label}: cannot be read ({error.strerror})", error=True)
                continue
            bad += state is not State.RIGHT and not _can_be_done_without(file, state)
            if state is not State.RIGHT or not quiet:
                say(f"{state.value}: {file.label}", error=state is not State.RIGHT)
    return SOME_FAILED if bad else ALL_DONE


def _can_be_done_without(file: WantedFile, state: State) -> bool:
    return state is State.MISSING and file.checkpoint.optional


def _files_here(checkpoint: Checkpoint) -> list[WantedFile]:
    if checkpoint.in_ckpt:
        return [ckpt_file(checkpoint, file) for file in checkpoint.files]
    choose = CHOICES[checkpoint.name].choose
    files = cached_files(checkpoint, choose)
    if all(file.digest is not None for file in files):
        return [*files]
    try:  # no symbolic links on this system: only the hub knows the hashes
        return [file for file in files_on_hub(checkpoint, choose) if file.place.is_file()]
    except (OSError, TransferError) as error:
        say(f"{checkpoint.name}: {explain(error, checkpoint.page, on_hub=True)}", error=True)
        return [*files]


def take_from(folder: Path, purpose: str, quiet: bool = False) -> int:
    """Take over files that somebody already has: those of ``ckpt/`` that are missing, found by name and hash.

    Models that are found whole are named with the option that takes them: they need not be moved.

    Args:
        folder: is searched, with the folders in it.
        purpose: one of `checkpoints.catalogue.PURPOSES`, or ``all``.
        quiet: whether only errors are said.

    Returns:
        0 where everything that the purpose needs is here now, else 1.

    Raises:
        InputError: no such folder, or a download is at work.
        OutputError: a file cannot be written.
    """
    if not folder.is_dir():
        raise InputError(f"--from {folder}: no such folder")
    with alone():
        return _take_all(folder, purpose, quiet)


def _take_all(folder: Path, purpose: str, quiet: bool) -> int:
    wanted = catalogue.of_purpose(purpose)
    files = [ckpt_file(one, file) for one in wanted for file in one.files]
    states = {file: file.state() for file in files}
    missing = {file for file, state in states.items() if state is State.MISSING}
    wrong = [file for file, state in states.items() if state is State.WRONG]
    models = {one for one in wanted if not one.in_ckpt and not is_at_hand(one)}
    for place, names in _folders(folder):
        for file in [one for one in missing if one.place.name in names]:
            if _take(place / file.place.name, file):
                missing.remove(file)
                if not quiet:
                    say(f"took {place / file.place.name} as {file.label}")
        for model in [one for one in models if CHOICES[one.name].is_whole(place)]:
            models.remove(model)
            if not quiet:
                say(f"{model.name} is in {place}: use it from there, with {model.option} {place}")
    for file in wrong:
        say(f"{file.label} is there, but is {State.WRONG.value}: move it away, then take it", error=True)
    missing = {file for file in missing if not _can_be_done_without(file, State.MISSING)}
    for file in sorted(missing, key=lambda one: one.label):
        say(f"not found in {folder}: {file.label}", error=True)
    for model in models:
        say(f"not found in {folder}: {model.name}", error=True)
    if missing or models:
        still = [*(file.checkpoint for file in missing), *models]
        say(f"what is still missing: {catalogue.how_to_get(still)}", error=True)
    return SOME_FAILED if wrong or missing or models else ALL_DONE


def _folders(folder: Path) -> Iterator[tuple[Path, set[str]]]:
    """Go through a folder and those in it, without following links to folders."""
    for number, (place, folders, names) in enumerate(os.walk(folder)):
        if number == MOST_FOLDERS:
            say(f"{folder}: more than {MOST_FOLDERS} folders; give the one that holds the files", error=True)
            return
        if Path(place).resolve() == places.CKPT.resolve():  # what downloads gather, and int8 parts
            folders[:] = [
                name for name in folders if name not in (places.INCOMING.name, places.QUANTIZED.name)
            ]
        folders.sort()
        yield Path(place), set(names)


def _take(found: Path, file: CkptFile) -> bool:
    """Link or copy a file into its place if it is the published one."""
    try:
        right = found.is_file() and digest_of(found, str(file.digest), anew=True) == file.digest
    except OSError as error:
        say(f"{found}: cannot be read ({error.strerror})", error=True)
        return False
    if not right:
        say(f"{found}: not the published file; left there", error=True)
        return False
    part = places.INCOMING / "taken" / file.place.name
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        try:
            os.link(found.resolve(), part)
        except OSError:  # on another disk, or one that knows no hard links
            shutil.copyfile(found, part)
            if digest_of(part, str(file.digest), anew=True) != file.digest:
                raise OSError(errno.EIO, "the copy differs") from None
        put_into_place(part, file.place)
        note_sha256(file.place, str(file.digest))
    except OSError as error:
        raise OutputError.of(file.place, error) from None
    finally:
        remove_folder(part.parent)
    return True

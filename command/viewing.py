"""Showing a folder that runs have filled: hold it, the options for it, one picture's page as one file."""

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from command.console import say
from errors import InputError

if TYPE_CHECKING:
    from results.output_tree import OutputTree
    from results.pictures import Source
    from results.run_report import PictureRecord


@contextmanager
def filled_folder(folder: Path) -> "Iterator[OutputTree]":
    """Keep runs out of a folder, and sweep up after killed ones.

    Raises:
        InputError: it is none, cannot be written to, or a run is at work in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    from results.output_tree import OutputTree

    tree = OutputTree(folder)
    tree.prove_writable()
    with tree.lock() as entered:
        if entered.was_killed:
            tree.sweep()
        entered.begun()
        yield tree


def no_report(folder: Path) -> InputError:
    """What to raise where no run has left a report."""
    return InputError(f"{folder}: no run.json in there; give the --output_dir of a run")


def say_where_to_look(tree: "OutputTree", pictures: "Iterable[PictureRecord]", also: str = "") -> None:
    """Say what to open, where a picture has states to be seen; ``also``: what else is worth a look."""
    if any(picture.steps_done for picture in pictures):
        say(f"Open {tree.index} in a browser and fly through them{also}.")


def add_share_option(group: argparse._ArgumentGroup) -> None:
    """Add ``--share``, which inference_coz.py and make_viewer.py have."""
    group.add_argument(
        "--share",
        type=Path,
        metavar="FILE.html",
        help="also write the page of one picture as one file below 2 MB, to send to a friend",
    )


def check_share(file: Path | None, folder: Path) -> None:
    """See that a file to share can be one, and is not the page of the folder itself.

    Raises:
        InputError: it cannot.
    """
    if file is None:
        return
    if file.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--share {file}: is a page; call it .html")
    if file.is_dir():
        raise InputError(f"--share {file}: is a folder; give a file in it")
    if file.resolve() == (folder / "index.html").resolve():
        raise InputError(f"--share {file}: is the page of all pictures; give another name")
    if not file.parent.is_dir():
        raise InputError(f"--share {file}: there is no folder {file.parent}")


def check_one_picture(file: Path | None, sources: "Sequence[Source]") -> None:
    """See that a run whose picture is to be shared has only one.

    Raises:
        InputError: it has more.
    """
    pictures = len({source.file for source in sources})
    if file is not None and pictures > 1:
        raise InputError(
            f"--share {file}: holds one picture, and these are {pictures}; give one, or share one of the "
            "results afterwards with make_viewer.py OUT --share FILE.html --picture LABEL"
        )


def write_share(
    tree: "OutputTree", pictures: "Mapping[str, PictureRecord]", label: str | None, file: Path, quiet: bool
) -> None:
    """Write the page of one picture as one file, and say so.

    Args:
        tree: the folder.
        pictures: by name.
        label: see `viewer.share.pictures_called`.
        file: to write.
        quiet: say nothing.

    Raises:
        InputError: it is not clear which picture is meant, or its states are gone.
        OutputError: the file cannot be written.
    """
    from viewer.share import pictures_called, share

    size = share(tree, pictures_called(pictures, label), file)
    if not quiet:
        say(f"{file}: {size / 1e6:.1f} MB, opens everywhere")

"""Finding pictures among files and folders; `results.reading` reads them."""

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path, PurePath

from errors import InputError, PictureError
from results.kinds import is_litter
from results.reading import identify, picture_endings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A file to zoom into.

    Attributes:
        file: where it is.
        label: its path below the folder that was given, with forward slashes; its name where the file
            itself was given; with the folder's name before it where several pictures share that. Prompt files
            and reports call the picture by it. ``~`` and the spot's own follow where it is one of several.
        size: width and height as stored (before EXIF orientation), in pixels.
        spot: label of the spot in it; empty where the picture is zoomed into as a whole.
        center: of the spot, as fractions of the picture as it is seen.
        more: what else the file holds, see `results.reading.Header`.
    """

    file: Path
    label: str
    size: tuple[int, int] = (0, 0)
    spot: str = ""
    center: tuple[float, float] | None = None
    more: str = ""

    @cached_property
    def key(self) -> str:
        """What tells the file from every other: its path without links."""
        return str(real_path(self.file))

    @property
    def id(self) -> tuple[str, str]:
        """What tells it from every other: the file, and the spot in it."""
        return self.key, self.spot

    @property
    def picture_label(self) -> str:
        """The label of the picture, which its spots share."""
        return label_of_picture(self.label, self.spot)

    def at(self, spot: str, center: tuple[float, float]) -> "Source":
        """Return one of its spots."""
        return replace(self, label=f"{self.label}~{spot}", spot=spot, center=center)


def label_of_picture(label: str, spot: str) -> str:
    """Return a label without the spot's own behind it."""
    return label.removesuffix(f"~{spot}") if spot else label


@dataclass(frozen=True)
class Failure:
    """A picture that cannot be zoomed into, and why (one line)."""

    label: str
    reason: str


@dataclass(frozen=True)
class FoundPictures:
    """What lies in files and folders.

    Attributes:
        sources: the pictures that can be identified, sorted by label and each file once.
        failures: what should have been one.
        skipped: labels of the files in folders that are no pictures, and not named like one.
    """

    sources: list[Source]
    failures: list[Failure]
    skipped: list[str]


def find_pictures(
    inputs: Sequence[Path], recursive: bool = False, leave_out: Collection[Path] = ()
) -> FoundPictures:
    """List the pictures among files and folders, by content and not by name.

    In a folder, a file counts as a picture when its content is one, or when it is named like one: then it
    fails if the content disagrees. Other files are skipped; those that are hidden, or that systems lay beside
    pictures by themselves, are not even counted.

    Args:
        inputs: files and folders; each must exist.
        recursive: also search the folders inside the folders.
        leave_out: what the run itself writes: folders that are never searched, files that are not counted.

    Raises:
        InputError: none of the inputs holds any picture.
    """
    endings = picture_endings()
    left_out = {real_path(folder) for folder in leave_out}

    @cache
    def is_left_out(folder: Path) -> bool:
        return not left_out.isdisjoint((folder, *folder.parents))

    found: dict[str, Source] = {}
    failures: list[Failure] = []
    skipped: dict[str, str] = {}
    for source, named_by_user in _candidates(inputs, recursive, left_out, failures):
        try:
            if is_left_out(Path(source.key).parent):
                raise PictureError("lies among the results of --output_dir, which this run may write over")
            header = identify(source.file)
            found.setdefault(source.key, replace(source, size=header.size, more=header.more))
        except PictureError as error:
            if named_by_user or source.file.suffix.lower() in endings:
                failures.append(Failure(source.label, str(error)))
            elif not is_litter(source.file.name) and Path(source.key) not in left_out:
                log.info("%s: skipped, it %s", source.file, error)
                skipped[source.key] = source.label
    if not found:
        if failures:
            reasons = "; ".join(f"{failure.label}: {failure.reason}" for failure in failures)
            raise InputError(f"nothing to zoom into: {reasons}")
        where = ", ".join(str(path) for path in inputs)
        others = ", only other files" if skipped else ""
        hint = "" if recursive else " (folders inside are searched with --recursive_folders)"
        raise InputError(f"{where}: no picture in there{others}{hint}")
    sources = sorted(_tell_apart(found.values()), key=lambda source: source.label)
    return FoundPictures(sources, failures, list(skipped.values()))


def _tell_apart(sources: Iterable[Source]) -> list[Source]:
    """Put as many of their folders before labels that several pictures share as tell them apart."""
    labels = {source: PurePath(source.label).parts for source in sources}
    while True:
        how_often = Counter(labels.values())
        shared = [source for source, parts in labels.items() if how_often[parts] > 1]
        if not shared:
            return [
                # a drive or share of Windows would leave its backslashes
                replace(source, label=type(source.file)(*parts).as_posix())
                for source, parts in labels.items()
            ]
        for source in shared:
            file = real_path(source.file.parent) / source.file.name
            labels[source] = file.parts[-len(labels[source]) - 1 :]


def _candidates(
    inputs: Sequence[Path],
    recursive: bool,
    left_out: Collection[Path],
    failures: list[Failure],
) -> Iterator[tuple[Source, bool]]:
    """Yield what may be a picture, and whether the user named it; note folders that cannot be listed."""
    for path in inputs:
        if not path.is_dir():
            yield Source(path, path.name), True
            continue

        def closed(error: OSError, top: Path = path) -> None:
            if Path(error.filename) == top:
                raise InputError(f"{top}: cannot be listed ({error.strerror})") from error
            label = Path(error.filename).relative_to(top).as_posix()
            failures.append(Failure(label, f"cannot be listed ({error.strerror})"))

        for folder, folders, files in os.walk(path, onerror=closed):
            here = Path(folder)
            if real_path(here) in left_out:
                folders.clear()
                continue
            folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
            for name in folders:
                if os.path.islink(here / name):  # noqa: PTH114 (never raises, in a closed folder either)
                    log.warning("%s: not searched, it is a link to a folder", here / name)
            for name in sorted(files):
                if not name.startswith("."):
                    file = here / name
                    yield Source(file, file.relative_to(path).as_posix()), False


def real_path(path: Path) -> Path:
    """Resolve links; unlike `Path.resolve`, also of paths that are links to themselves."""
    return Path(os.path.realpath(path))

"""One picture's page as one file to send to a friend: everything it shows is inside."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from errors import InputError, PictureError
from results.folder import Folder
from results.output_tree import OutputTree
from results.run_report import PictureRecord
from viewer.copies import plain_pictures
from viewer.flight import layers_of
from viewer.page import page_in_one_file
from viewer.page_data import entries_of, folder_of, route_of

LARGEST = 2_000_000  # bytes
# WebP's quality, and the longest side of a state: the first that is small enough is taken
FORMS = ((90, 1024), (82, 1024), (75, 768), (65, 768), (60, 512), (45, 512), (45, 256), (30, 128))


def pictures_called(pictures: Mapping[str, PictureRecord], label: str | None) -> list[PictureRecord]:
    """Find the picture that is meant: all its spots, or one of them.

    Args:
        pictures: by name.
        label: of a picture or of a spot, or a name; None where there is only one picture.

    Raises:
        InputError: none is called that, or several are; or it has no states.
    """
    found = [one for one in pictures.values() if label in (None, one.name, one.label, one.picture_label)]
    if not pictures:
        raise InputError("--share: there is no picture in this folder")
    files = {one.file for one in found}
    if label is None and len(files) > 1:
        raise InputError(f"--share holds one picture, and these are {len(files)}; say which with --picture")
    if not found or len(files) > 1:
        some = ", ".join(sorted(one.label for one in pictures.values())[:5])
        raise InputError(
            f"--picture {label}: {'several are' if found else 'none is'} called that; try {some}"
        )
    with_states = [one for one in found if len(layers_of(one)) > 1]
    if not with_states:
        raise InputError(f"{found[0].label}: has not been zoomed into: {found[0].failure or 'run it first'}")
    return with_states


def share(tree: OutputTree, pictures: Sequence[PictureRecord], file: Path) -> int:
    """Write the page of one picture as one file.

    Args:
        tree: where its states are.
        pictures: of `pictures_called`.
        file: to write.

    Returns:
        Its size in bytes, below `LARGEST`.

    Raises:
        InputError: a state is gone or damaged, or there are too many.
        OutputError: it cannot be written.
    """
    for quality, side in FORMS:
        try:
            page = page_in_one_file(dict(_data(tree, pictures, quality, side))).encode()
        except PictureError as error:
            raise InputError(f"{pictures[0].label}: cannot be shared: {error}") from error
        if len(page) < LARGEST:
            Folder(file.parent).write(page, file)
            return len(page)
    raise InputError(
        f"{pictures[0].label}: its {len(pictures)} spots have too many states for {LARGEST / 1e6:.0f} MB; "
        "share one spot of it"
    )


def _data(
    tree: OutputTree, pictures: Sequence[PictureRecord], quality: int, side: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the page's data elements, pictures inside of them, by name."""
    # how it was made and where its file was is not the friend's business
    entries = list(entries_of(pictures, {one.name for one in pictures}))
    for entry in entries:
        entry |= {"thumb": "", "failure": "", "label": PurePosixPath(entry["label"]).name}
    folder = folder_of("done", {}, pictures, [])
    folder |= {"state": "", "alone": True, "pictures": entries}
    yield "folder", folder
    for picture in pictures:
        states = [
            _address(tree.read_state(picture.name, layer.step, layer.size), quality, side)
            for layer in layers_of(picture)
        ]
        plain = {step: _address(image, quality, side) for step, image in plain_pictures(tree, picture)}
        route = route_of(picture, states, plain)
        yield f"picture-{route['id']}", route | {"label": PurePosixPath(route["label"]).name}


def _address(image: Image.Image, quality: int, side: int) -> str:
    """Return a picture as a ``data:`` address: WebP, no side longer than `side`."""
    image = image.copy()
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    image.save(encoded, "WEBP", quality=quality, method=6)
    return f"data:image/webp;base64,{base64.b64encode(encoded.getvalue()).decode()}"

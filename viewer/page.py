"""The page of a folder: OUT/index.html, and what it shows in OUT/page/.

index.html itself holds the list of pictures, so that it is there whole or not at all; what is said of a
picture is in a file of its own, which the page reads when the picture is opened.
"""

import base64
import hashlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from errors import FileRefused, OutputError, PictureError
from machine.pace import Pace
from results.output_tree import OutputTree, page_id
from results.pictures import Failure
from results.run_report import PictureRecord
from viewer.copies import check_states, jpeg, plain_pictures, small_copy
from viewer.flight import layers_of
from viewer.page_data import entries_of, folder_of, route_of, script_text
from zoom.in_hand import InHand
from zoom.isolate import unexpected

log = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
SCRIPTS = ("scene.js", "map.js", "steering.js", "flight.js", "gallery.js")
STYLES = "page.css"
# what the page may read: its own files (some browsers call them file:), and nothing from anywhere else
POLICY = (
    "default-src 'none'; script-src 'self' file:; style-src 'self' file:; img-src 'self' file: data:; "
    "base-uri 'none'; form-action 'none'"
)
# the same of a page that holds everything itself: only the scripts that were put in here
POLICY_OF_ONE_FILE = (
    "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)


class Run(Protocol):
    """What the page shows: a run that goes on (`results.run_report.RunReport`), or one that ended.

    Attributes:
        status, settings, pictures, unreadable: see `results.load_report.EarlierReport`.
    """

    @property
    def status(self) -> str: ...
    @property
    def settings(self) -> dict[str, Any]: ...
    @property
    def pictures(self) -> dict[str, PictureRecord]: ...
    @property
    def unreadable(self) -> list[Failure]: ...


class Page:
    """The page of a folder while it is written; several threads may show pictures.

    Args:
        tree: the folder.
        run: that it shows; looked at anew whenever the page is saved.

    Attributes:
        left_out: labels of pictures whose states cannot be read.
    """

    def __init__(self, tree: OutputTree, run: Run) -> None:
        self.tree = tree
        self.run = run
        self.left_out: list[str] = []
        self._shown: set[str] = set()
        self._pace = Pace()

    def begin(self, anew: bool = False) -> None:
        """Write the page's scripts and styles, and what is missing of pictures that have states.

        Args:
            anew: write what there is of every picture again.

        Raises:
            FileRefused, OutputError: see `OutputTree.write`.
        """
        for name in (*SCRIPTS, STYLES):
            self.tree.write((PAGE / name).read_bytes(), self.tree.page_part(name))
        pictures = self.run.pictures
        for picture in pictures.values():
            if not self.tree.takes(picture.picture_label):
                continue  # that shard sees to it
            if anew or not self.tree.description(picture.name).is_file():
                self.show(picture)
            elif picture.has_results:  # else what is there is of results that --overwrite has given up
                self._shown.add(picture.name)

    def show(self, picture: PictureRecord, in_hand: InHand | None = None) -> None:
        """Write what the page says of a picture, and copies that it shows; nothing where it has no states.

        Where that is not possible it is left out, and named.

        Args:
            picture: its record.
            in_hand: what of it is in memory, and need not be read.

        Raises:
            OutputError: the disk is full.
        """
        if len(layers_of(picture)) < 2:
            return
        try:
            self._show(picture, in_hand)
            self._shown.add(picture.name)
            return
        except (PictureError, FileRefused) as error:
            reason = str(error)
        except OutputError:
            raise
        except Exception as error:  # whatever a forged report makes of a good file
            log.debug("%s", picture.label, exc_info=True)
            reason = str(unexpected(error))
        log.error("%s: left out of the page: %s", picture.label, reason)
        self.left_out.append(picture.label)

    def _show(self, picture: PictureRecord, in_hand: InHand | None) -> None:
        name = page_id(picture.name)
        if in_hand is None:
            check_states(self.tree, picture)
        seen, sr_input = (in_hand.seen, in_hand.sr_input) if in_hand else ({}, None)
        small = small_copy(self.tree, picture, seen)
        self.tree.write(small, self.tree.page_part(f"pictures/{name}.jpg"))
        plain = {}
        for step, image in plain_pictures(self.tree, picture, sr_input):
            plain[step] = f"page/pictures/{name}-{step}.jpg"
            self.tree.write(jpeg(image), self.tree.root / plain[step])
        for layer in layers_of(picture) if not plain else ():  # a run that kept states alone knew them
            if self.tree.page_part(f"pictures/{name}-{layer.step}.jpg").exists():
                plain[layer.step] = f"page/pictures/{name}-{layer.step}.jpg"
        files = [
            self.tree.state(picture.name, layer.step).relative_to(self.tree.root)
            for layer in layers_of(picture)
        ]
        route = route_of(picture, [quote(file.as_posix()) for file in files], plain)
        self.tree.write(f"takePicture({script_text(route)});\n".encode(), self.tree.description(picture.name))

    def save(self, now: bool = True) -> None:
        """Write index.html; with ``now=False`` only where the last time is long ago.

        Raises:
            FileRefused, OutputError: see `OutputTree.write`.
        """
        if now or self._pace.due:
            with self._pace.writing():
                self._write_index()

    def _write_index(self) -> None:
        """Write it picture by picture: the text of 100,000 need not be in memory."""
        run, pictures = self.run, list(self.run.pictures.values())
        shown = self._shown
        if self.tree.shard is not None:
            shown = shown | {one.name for one in pictures if self.tree.description(one.name).is_file()}
        folder = script_text(folder_of(run.status, run.settings, pictures, run.unreadable)).removesuffix("}")
        page = _fill_in(
            policy=POLICY,
            styles=f'<link rel="stylesheet" href="page/{STYLES}">',
            data=_data_element("folder", f'{folder}, "pictures": [\0]}}'),
            scripts="\n".join(f'<script src="page/{name}"></script>' for name in SCRIPTS),
        )
        before, _, after = page.partition("\0")  # which JSON does not hold
        with self.tree.writing(self.tree.index) as file, file.open("wb") as stream:
            stream.write(before.encode())
            for number, entry in enumerate(entries_of(pictures, shown)):
                stream.write(f"{', ' if number else ''}{script_text(entry)}".encode())
            stream.write(after.encode())


def write_page(tree: OutputTree, run: Run, anew: bool = False) -> list[str]:
    """Write the page of a folder in which no run is at work.

    Args:
        tree, run: see `Page`.
        anew: write what there is of every picture again.

    Returns:
        Labels of pictures whose states cannot be read; they have been named.

    Raises:
        FileRefused, OutputError: see `OutputTree.write`.
    """
    page = Page(tree, run)
    page.begin(anew)
    page.save()
    return page.left_out


def page_in_one_file(data: Mapping[str, object]) -> str:
    """Return the page with its scripts and styles inside.

    Args:
        data: content of its data elements by their name.
    """
    scripts = [(PAGE / name).read_text(encoding="utf-8") for name in SCRIPTS]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    return _fill_in(
        policy=POLICY_OF_ONE_FILE.format(scripts=" ".join(f"'sha256-{digest}'" for digest in hashes)),
        styles=f"<style>\n{(PAGE / STYLES).read_text(encoding='utf-8')}</style>",
        data="\n".join(_data_element(name, script_text(content)) for name, content in data.items()),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )


def _fill_in(**parts: str) -> str:
    """Put parts into the page's places, once: what they hold is not looked through for places again."""
    template = (PAGE / "index.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], template)


def _data_element(name: str, text: str) -> str:
    """Return an element that holds `script_text` for the page's scripts; no browser runs it."""
    return f'<script type="application/json" id="{name}">{text}</script>'

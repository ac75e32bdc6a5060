"""What the extractor is trained on: a state and the enlarged crop of it, as the chain would show them.

Pairs come of pictures (a random square at a random depth), or of the states that a finished run has left,
which is what the extractor meets at depth. They are made when a row is asked for, and depend on the seed and
the number of the row alone: a resumed training sees what an undisturbed one would.
"""

import hashlib
import logging
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL.Image import Image

from errors import InputError, PictureError
from results.joining import known_report
from results.output_tree import OutputTree
from results.pictures import Failure, Source, find_pictures
from results.png import read_state, size_of_state
from results.reading import read_picture
from results.run_report import PictureRecord, StepRecord
from zoom.settings import RECURSIVE_KINDS, ChainSettings
from zoom.states import cut_from_picture, enlarge, first_state
from zoom.window import Window, plan_route

logger = logging.getLogger(__name__)

# Rows whose pictures are kept: the trainer asks for the same ones for every answer and every forward pass.
KEPT = 64


@dataclass(frozen=True)
class Pair:
    """What one question is about.

    Attributes:
        label: of the picture, and where in it; for logs.
        parent: the whole state, RGB.
        sr_input: the crop of it, enlarged to its size, RGB.
    """

    label: str
    parent: Image
    sr_input: Image


class Item(Protocol):
    """Something that pairs can be made of."""

    @property
    def label(self) -> str:
        """The picture's label: what shares it is held out together."""
        ...

    @property
    def key(self) -> str:
        """Which item it is, to tell one collection from another."""
        ...

    def pair(self, chance: random.Random) -> Pair:
        """Make a pair.

        Raises:
            PictureError: its files cannot be read.
        """
        ...


@dataclass(frozen=True)
class PictureItem:
    """A picture: each pair shows another square of it.

    Attributes:
        source: the file.
        side: of a state, in pixels.
        upscale: of a step.
    """

    source: Source
    side: int
    upscale: int

    @property
    def label(self) -> str:
        """The picture's label."""
        return self.source.label

    @property
    def key(self) -> str:
        """Label and size: files are not read for it."""
        return f"{self.source.label} {self.source.size[0]}x{self.source.size[1]}"

    def pair(self, chance: random.Random) -> Pair:
        """Make a pair of a random square of the picture.

        Its side is chosen evenly over the depths at which the chain asks about real pixels: from as many as a
        state has, to where the crop has nearly as many and would need no network.
        """
        picture, _ = read_picture(self.source.file)
        width, height = picture.size
        shorter = min(width, height)
        least, most = min(self.side, shorter), min(self.side * self.upscale - 1, shorter)
        side = round(math.exp(chance.uniform(math.log(least), math.log(most))))
        left, top = chance.randint(0, width - side), chance.randint(0, height - side)
        square = picture.crop((left, top, left + side, top + side))
        settings = ChainSettings(rec_num=1, upscale=self.upscale, process_size=(self.side, self.side))
        route = plan_route(settings, square.size)
        (step,) = route.steps
        state = first_state(square, route)
        crop = cut_from_picture(square, step) if step.window_of is None else state.crop(step.window.box)
        return Pair(f"{self.label} at {left},{top} of {side}", state, enlarge(crop, step.size))


@dataclass(frozen=True)
class StateItem:
    """A step of a finished run: always the same pair.

    Attributes:
        tree: the run's folder.
        picture, step: its records.
    """

    tree: OutputTree
    picture: PictureRecord
    step: StepRecord

    @property
    def label(self) -> str:
        """The picture's label; spots of a picture share it."""
        return self.picture.picture_label

    @property
    def key(self) -> str:
        """The picture and the step, and what the state was made with."""
        return (
            f"{self.picture.label} {self.picture.sha256} {self.step.step} {self.step.window} {self.step.seed}"
        )

    def pair(self, chance: random.Random) -> Pair:
        """Read the state that was zoomed into, and what the networks were given of it."""
        number, size = self.step.step, self.step.size
        parent = self._parent()
        file = self.tree.sr_input(self.picture.name, number, from_first_state=False)
        sr_input = read_state(file, size)
        if sr_input is None:  # a run with --save states keeps none
            window = Window(*self.step.window)
            box = window.box
            if self.step.window_of != number - 1 or box[2] > parent.width or box[3] > parent.height:
                raise PictureError(f"{file.name}: is missing or damaged")
            sr_input = enlarge(parent.crop(box), size)
        label = f"{self.picture.label} at {self.step.magnification}x"
        return Pair(label, parent, sr_input)

    def _parent(self) -> Image:
        name, number = self.picture.name, self.step.step - 1
        size = size_of_state(self.tree.state(name, number))
        if size is None:
            raise self.tree.lost_state(name, number)
        return self.tree.read_state(name, number, size)


def items_of_pictures(
    inputs: Sequence[Path], recursive: bool, side: int, upscale: int
) -> tuple[list[Item], list[Failure]]:
    """Find pictures to make pairs of, as inference_coz.py finds them.

    Returns:
        An item a picture, and what is no picture or too small.

    Raises:
        InputError: there is no picture at all.
    """
    found = find_pictures(inputs, recursive)
    failures = list(found.failures)
    settings = ChainSettings(rec_num=1, upscale=upscale, process_size=(side, side))
    items: list[Item] = []
    for source in found.sources:
        try:
            plan_route(settings, (min(source.size),) * 2)
        except PictureError as error:
            failures.append(Failure(source.label, str(error)))
            continue
        items.append(PictureItem(source, side, upscale))
    return items, failures


def items_of_run(folder: Path) -> list[Item]:
    """Find the steps of a finished run that a prompt extractor would be asked about.

    Raises:
        InputError: no run of ours, one of a kind that has no such steps, or none has been finished.
    """
    report = known_report(folder)
    if report is None:
        raise InputError(f"--states {folder}: no run.json in there; give the --output_dir of a run")
    chain = report.settings.get("chain")
    if not isinstance(chain, dict) or chain.get("rec_type") not in RECURSIVE_KINDS or chain.get("full_image"):
        kinds = " or ".join(RECURSIVE_KINDS)
        raise InputError(
            f"--states {folder}: its steps do not zoom into the state before; give a run with --rec_type "
            f"{kinds}, without --full_image"
        )
    tree = OutputTree(folder)
    items: list[Item] = [
        StateItem(tree, picture, step)
        for picture in report.pictures.values()
        if picture.status == "done"
        for step in picture.steps
        if step.done and step.made != "real"
    ]
    if not items:
        raise InputError(f"--states {folder}: no finished picture in there whose steps asked a network")
    return items


def hold_out(items: Sequence[Item], pictures: int, seed: int) -> tuple[list[Item], list[Item]]:
    """Set the items of some pictures aside.

    Which, depends on their labels and the seed alone, and not on what else there is.

    Args:
        items: all.
        pictures: how many labels to set aside.
        seed: of the choice.

    Returns:
        What is trained on, and what is held out.

    Raises:
        InputError: nothing would be left.
    """
    labels = sorted({item.label for item in items}, key=lambda label: _digest(f"{seed}/{label}"))
    if pictures >= len(labels):
        raise InputError(
            f"--held_out {pictures}: there are {len(labels)} pictures, and none would be left to train on"
        )
    out = set(labels[:pictures])
    return [item for item in items if item.label not in out], [item for item in items if item.label in out]


def fingerprint(items: Sequence[Item]) -> str:
    """Return what tells one collection of items from another, in whatever order."""
    return _digest("\n".join(sorted(item.key for item in items)))[:16]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


class Pairs:
    """An endless list of pairs: every pass takes all items once, each pass in another order.

    Args:
        items: at least one.
        seed: of the order, and of the squares.
    """

    def __init__(self, items: Sequence[Item], seed: int) -> None:
        self.items, self.seed = items, seed
        self._named: set[str] = set()
        self._order: tuple[int, list[int]] = (-1, [])
        self._made: dict[int, Pair] = {}

    def pair(self, row: int) -> Pair:
        """Make the pair of a row; the same one whenever it is asked for.

        An item that cannot be read is named once, and the next one takes its place.

        Raises:
            InputError: none can be read.
        """
        if row not in self._made:
            while len(self._made) >= KEPT:
                del self._made[next(iter(self._made))]
            self._made[row] = self._make(row)
        return self._made[row]

    def _make(self, row: int) -> Pair:
        turn, place = divmod(row, len(self.items))
        order = self._order_of(turn)
        for number in (*order[place:], *order[:place]):
            item = self.items[number]
            try:
                return item.pair(random.Random(f"{self.seed}/{row}"))
            except PictureError as error:
                if item.key not in self._named:
                    self._named.add(item.key)
                    logger.warning("%s: left out: %s", item.label, error)
        raise InputError("no picture can be read any more")

    def _order_of(self, turn: int) -> list[int]:
        if self._order[0] != turn:
            order = list(range(len(self.items)))
            random.Random(f"{self.seed}/pass {turn}").shuffle(order)
            self._order = turn, order
        return self._order[1]

    @property
    def left_out(self) -> int:
        """How many items could not be read so far."""
        return len(self._named)

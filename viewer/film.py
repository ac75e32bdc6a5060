"""The frames of a film: the flight through a picture's states, drawn from the PNGs on disk.

At any moment two states are drawn: the one that the camera comes from fills the frame, and the one that it
flies to lies in it, fading in (`viewer.flight`). How they lie to each other is computed exactly, and in the
pixels of the first: at great magnifications places in the picture are too close together for a float.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
from PIL import Image

from errors import PictureError
from results.limits import MAX_PIXELS
from results.output_tree import OutputTree
from results.run_report import PictureRecord, Rectangle
from viewer.film_settings import (
    EASE,
    LARGEST_SIDE,
    LARGEST_SIDE_OF_GIF,
    LARGEST_SIDE_OF_WHOLE,
    SECONDS_A_STEP,
    FilmSettings,
)
from viewer.flight import Layer, camera_at, depth_at, layers_of, presence, smooth
from zoom.settings import MOST_STEPS
from zoom.window import Size, View, Window

Box = tuple[int, int, int, int]  # left, top, right, bottom

RESIZE = Image.Resampling.BICUBIC  # antialiased where it shrinks
MARGIN = 4  # pixels that resizing looks at beyond what is seen, when it enlarges
SLACK = 0.01  # pixels that a state may lie outside of the one before: views are rounded
# an exact hit of a pixel's edge is one, whatever the last bits of a float say
HAIR = 1e-6


@dataclass(frozen=True)
class _Part:
    """The part of a state that is kept.

    Attributes:
        pixels: RGB.
        left, top: where it was cut out.
    """

    pixels: Image.Image
    left: int
    top: int


class Film:
    """The frames of one picture's film.

    Frames have the size of the settings; without one, that of state 0, at most `LARGEST_SIDE` a side, or
    `LARGEST_SIDE_OF_WHOLE` where every state shows the whole picture, or `LARGEST_SIDE_OF_GIF`; even numbers,
    as H.264 wants them. A frame of another aspect than the states' is filled: what the camera sees is cut.

    Attributes:
        settings: of the film.
        size: width and height of a frame in pixels.
        count: number of frames.

    Raises:
        PictureError: no step of the picture is done, or its record is none that a run writes.
    """

    def __init__(self, tree: OutputTree, picture: PictureRecord, settings: FilmSettings) -> None:
        self.settings = settings
        self._tree, self._name = tree, picture.name
        self._pairs = pairs_of(picture)
        steps = len(self._pairs)
        first = self._pairs[0][0]
        whole = first.view == self._pairs[0][1].view
        self.size = settings.size or _default_size(first.size, whole, settings.ending)
        self._seconds = settings.seconds or SECONDS_A_STEP * steps + EASE
        self._there = max(2, round(self._seconds * settings.fps))
        self.count = 2 * self._there - 2 if settings.back else self._there  # neither end is shown twice
        self._parts: dict[int, _Part] = {}

    def depth(self, number: int) -> float:
        """Return how deep the camera is at a frame: a state's number, and shares of the way to the next."""
        last = self._there - 1
        share = min(number, 2 * last - number) / last
        ease = min(EASE, self._seconds / 3)
        return depth_at(share * self._seconds, self._seconds, float(len(self._pairs)), ease)

    def frame(self, number: int) -> Image.Image:
        """Draw a frame.

        Args:
            number: from 0 to below `count`.

        Returns:
            RGB, of `size`.

        Raises:
            PictureError: a state is gone or damaged.
        """
        depth = self.depth(number)
        step = min(int(depth), len(self._pairs) - 1)
        pair = self._pairs[step]
        camera = camera_at(pair, depth - step)
        seen = self._cut(camera, pair[0].size)
        self._parts = {known: part for known, part in self._parts.items() if known in (step, step + 1)}
        frame = self._draw(step, pair[0], seen, (0, 0, *self.size))
        opacity, feather = presence(pair, 1, camera)
        if opacity == 0:
            return frame
        place = _place(pair[1].view, seen, self.size)
        left, top, right, bottom = box = _whole_pixels(place, self.size)
        if left >= right or top >= bottom:
            return frame
        across = _softness(left, right, place[0], place[2], feather)
        down = _softness(top, bottom, place[1], place[3], feather)
        alpha = np.rint(255 * opacity * np.outer(down, across)).astype(np.uint8)
        frame.paste(self._draw(step + 1, pair[1], seen, box), (left, top), Image.fromarray(alpha))
        return frame

    def _cut(self, camera: Rectangle, state: Size) -> Rectangle:
        """Cut what the camera sees to the frame's aspect, in a world where it fills a state's."""
        left, top, width, height = camera
        wide = self.size[0] * state[1] / (self.size[1] * state[0])  # as the frame is to the state
        kept_width, kept_height = width * min(wide, 1.0), height * min(1 / wide, 1.0)
        return left + (width - kept_width) / 2, top + (height - kept_height) / 2, kept_width, kept_height

    def _draw(self, step: int, layer: Layer, camera: Rectangle, box: Box) -> Image.Image:
        """Return the pixels of a box of the frame, of one state alone, which covers it."""
        if step not in self._parts:
            self._parts[step] = self._read(step)
        part = self._parts[step]
        x0, x1 = (
            _in_state(x / self.size[0], camera[0], camera[2], layer.view[0], layer.view[2], layer.size[0])
            for x in (box[0], box[2])
        )
        y0, y1 = (
            _in_state(y / self.size[1], camera[1], camera[3], layer.view[1], layer.view[3], layer.size[1])
            for y in (box[1], box[3])
        )
        width, height = part.pixels.size
        source = (
            min(max(x0 - part.left, 0.0), width),
            min(max(y0 - part.top, 0.0), height),
            min(max(x1 - part.left, 0.0), width),
            min(max(y1 - part.top, 0.0), height),
        )
        return part.pixels.resize((box[2] - box[0], box[3] - box[1]), RESIZE, source)

    def _read(self, step: int) -> _Part:
        """Read a state, and keep what is ever seen of it: of a whole picture at depth, the middle."""
        pair = self._pairs[max(step - 1, 0)]
        layer = pair[1] if step else pair[0]
        state = self._tree.read_state(self._name, step, layer.size)
        left, top, width, height = pair[0].stop  # the camera was never further away
        across, down = layer.size[0] / layer.view[2], layer.size[1] / layer.view[3]
        kept = (
            max(0, int((left - layer.view[0]) * across) - MARGIN),
            max(0, int((top - layer.view[1]) * down) - MARGIN),
            min(layer.size[0], int((left + width - layer.view[0]) * across) + 1 + MARGIN),
            min(layer.size[1], int((top + height - layer.view[1]) * down) + 1 + MARGIN),
        )
        return _Part(state if kept == (0, 0, *layer.size) else state.crop(kept), kept[0], kept[1])


def pairs_of(picture: PictureRecord) -> list[tuple[Layer, Layer]]:
    """Return each state that is on disk with the next, in a world that is good for these two alone.

    Args:
        picture: its record, as it was read from a file.

    Returns:
        One pair a step that is done. Views and stops are in pixels of the pair's first state; where every
        state shows the whole picture, in the picture's.

    Raises:
        PictureError: no step is done, or the record is none that a run writes.
    """
    steps = [step for step in picture.steps if step.done]
    if picture.view is None or not steps or not picture.steps[0].done:
        raise PictureError("no step of it is done")
    factor = steps[0].magnification
    fits = (
        2 <= factor <= 8
        and len(picture.steps) <= MOST_STEPS
        and all(step.magnification == factor**step.step for step in picture.steps)
        and all(step.window_of is None or step.window_of < step.step for step in picture.steps)
    )
    layers = layers_of(picture) if fits else []
    fits = fits and all(
        min(layer.size) >= 1 and layer.size[0] * layer.size[1] <= MAX_PIXELS and min(layer.view[2:]) > 0
        for layer in layers
    )
    if fits and layers[1].view == layers[0].view:  # every state shows the whole picture
        pairs = list(pairwise(layers))
        fits = all(layer.view == picture.view for layer in layers)
    else:
        pairs = _local_pairs(picture, layers) if fits else []
        fits = bool(pairs) and all(_lies_in(after.view, before.view) for before, after in pairs)
    if not fits:
        raise PictureError("its entry in run.json is none that a run writes")
    return pairs


def _local_pairs(picture: PictureRecord, layers: Sequence[Layer]) -> list[tuple[Layer, Layer]]:
    """Return pairs whose places are in pixels of the pair's first state."""
    assert picture.view is not None
    views = [View(*map(Fraction, picture.view))]
    pairs = []
    for before, after, step in zip(layers, layers[1:], picture.steps, strict=False):
        window, of = Window(*step.window), step.window_of
        if not (window.width and window.height):
            return []
        views.append(View.of(window) if of is None else views[of].part(window, layers[of].size))
        outer, inner = views[-2], views[-1]
        across, down = before.size[0] / outer.width, before.size[1] / outer.height
        place = (
            float((inner.left - outer.left) * across),
            float((inner.top - outer.top) * down),
            float(inner.width * across),
            float(inner.height * down),
        )
        whole = (0.0, 0.0, float(before.size[0]), float(before.size[1]))
        pairs.append((replace(before, view=whole, stop=whole), replace(after, view=place, stop=place)))
    return pairs


def _lies_in(inner: Rectangle, outer: Rectangle) -> bool:
    return all(
        inner[n] >= outer[n] - SLACK and inner[n] + inner[n + 2] <= outer[n] + outer[n + 2] + SLACK
        for n in (0, 1)
    )


def _default_size(state: Size, whole: bool, ending: str) -> Size:
    most = LARGEST_SIDE_OF_WHOLE if whole else LARGEST_SIDE
    if ending == "gif":
        most = LARGEST_SIDE_OF_GIF
    factor = min(1.0, most / max(state))
    width, height = (max(2, int(side * factor) // 2 * 2) for side in state)
    return width, height


def _in_state(share: float, camera: float, seen: float, view: float, shown: float, pixels: int) -> float:
    """Return the pixel of a state that lies at a share of the frame, along one axis."""
    return (camera - view + share * seen) / shown * pixels


def _place(view: Rectangle, camera: Rectangle, frame: Size) -> tuple[float, float, float, float]:
    """Return the left, top, right and bottom of a view in a frame's pixels."""
    across, down = frame[0] / camera[2], frame[1] / camera[3]
    left, top = (view[0] - camera[0]) * across, (view[1] - camera[1]) * down
    return left, top, left + view[2] * across, top + view[3] * down


def _whole_pixels(place: tuple[float, float, float, float], frame: Size) -> Box:
    """Return the pixels of the frame that are wholly covered: those at soft edges are hardly there."""
    return (
        int(np.ceil(max(place[0], 0.0) - HAIR)),
        int(np.ceil(max(place[1], 0.0) - HAIR)),
        int(np.floor(min(place[2], frame[0]) + HAIR)),
        int(np.floor(min(place[3], frame[1]) + HAIR)),
    )


def _softness(start: int, end: int, low: float, high: float, feather: float) -> np.ndarray:
    """Return the opacity of pixels from `start` to `end` of a layer from `low` to `high`, along an axis."""
    middles = np.arange(start, end) + 0.5
    inside = np.minimum(middles - low, high - middles) / (high - low)
    if feather == 0:
        return np.ones_like(inside)
    return np.array([smooth(share) for share in inside / feather])

"""The flight through a picture's states: where the camera is, and how the states lie over each other.

The states of a picture are layers of one world, the picture's own pixels: each lies at its `view`. The camera
is a rectangle of that world. A film computes it here; the page's script (viewer/page/scene.js) does the same
with the numbers of `LAW`, and the tests compare the two.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from results.run_report import PictureRecord, Rectangle
from viewer.film_settings import SECONDS_A_STEP

# A state comes in while the camera flies to its stop: its opacity has grown to 1 when this share of the way,
# on a log scale, is behind; its edges are soft over this share of its side at first, and sharp when it fills
# the view.
FADE, FEATHER = 0.7, 0.5
LAW = {"fade": FADE, "feather": FEATHER, "secondsAStep": SECONDS_A_STEP}


@dataclass(frozen=True)
class Layer:
    """One state in the world.

    Attributes:
        step: number of the state.
        magnification: against state 0.
        view: left, top, width and height of what it shows, in the picture's pixels.
        stop: where the camera looks when it has reached this state's magnification: its view, or the middle
            of it where every state shows the whole picture.
        size: of the state, in its pixels.
        made: one of `results.run_report.MADE`.
    """

    step: int
    magnification: int
    view: Rectangle
    stop: Rectangle
    size: tuple[int, int]
    made: str


def layers_of(picture: PictureRecord) -> list[Layer]:
    """Return the states that a picture has so far, from 0 on; none where it was not begun.

    Args:
        picture: its record. Its states are taken to be on disk.
    """
    if picture.view is None or not picture.steps:
        return []
    # state 0 has the size of every other, but where each step enlarges the whole
    whole = picture.steps[0].view == picture.view
    factor = picture.steps[0].magnification
    width, height = picture.steps[0].size
    size = (width // factor, height // factor) if whole else (width, height)
    real = picture.view[2] >= size[0] and picture.view[3] >= size[1]
    layers = [Layer(0, 1, picture.view, picture.view, size, "real" if real else "enlarged")]
    for step in picture.steps:
        if not step.done:
            break
        stop = _middle(step.view, step.magnification) if whole else step.view
        layers.append(Layer(step.step, step.magnification, step.view, stop, step.size, step.made))
    return layers


def camera_at(layers: Sequence[Layer], depth: float) -> Rectangle:
    """Return what the camera sees at a depth: state k's stop at depth k, and between two stops the zoom about
    the point that lies at the same place in both.

    Args:
        layers: of a picture, at least one.
        depth: 0 to the number of the last layer; fractions are shares of the way on a log scale.
    """
    before, after, share = _around(layers, depth)
    left, width = _between(before.stop[0], before.stop[2], after.stop[0], after.stop[2], share)
    top, height = _between(before.stop[1], before.stop[3], after.stop[1], after.stop[3], share)
    return left, top, width, height


def factor_at(layers: Sequence[Layer], depth: float) -> float:
    """Return the magnification against state 0 at a depth: exponential between the states'."""
    before, after, share = _around(layers, depth)
    return before.magnification ** (1 - share) * after.magnification**share


def presence(layers: Sequence[Layer], number: int, camera: Rectangle) -> tuple[float, float]:
    """Return how a layer lies over those before it.

    Args:
        layers: of a picture.
        number: of the layer.
        camera: what is seen.

    Returns:
        Its opacity, 0 to 1, and how far its soft edges reach inwards, as a share of its sides. State 0 is
        opaque.
    """
    if number == 0:
        return 1.0, 0.0
    layer, before = layers[number], layers[number - 1]
    steps_to_go = math.log(camera[2] / layer.stop[2]) / math.log(layer.magnification / before.magnification)
    way = min(max(1 - steps_to_go, 0.0), 1.0)
    return smooth(way / FADE), FEATHER * (1 - way**2)


def smooth(share: float) -> float:
    """Return 0 to 1 for 0 to 1, with no slope at both ends, and these beyond them."""
    share = min(max(share, 0.0), 1.0)
    return share * share * (3 - 2 * share)


def depth_at(second: float, length: float, depth: float, ease: float) -> float:
    """Return the depth that a flight of constant speed has reached.

    Args:
        second: since it began.
        length: of the flight in seconds.
        depth: that it ends at; it begins at 0.
        ease: seconds that it takes to come to its speed, and to a stop; at most half the length.
    """
    second = min(max(second, 0.0), length)
    if second > length / 2:
        return depth - depth_at(length - second, length, depth, ease)
    speed = depth / (length - ease)
    return speed * second**2 / (2 * ease) if second < ease else speed * (second - ease / 2)


def _middle(view: Rectangle, magnification: int) -> Rectangle:
    left, top, width, height = view
    return (
        left + width * (1 - 1 / magnification) / 2,
        top + height * (1 - 1 / magnification) / 2,
        width / magnification,
        height / magnification,
    )


def _around(layers: Sequence[Layer], depth: float) -> tuple[Layer, Layer, float]:
    last = len(layers) - 1
    depth = min(max(depth, 0.0), float(last))
    before = min(int(depth), max(last - 1, 0))
    return layers[before], layers[min(before + 1, last)], depth - before


def _between(
    start: float, size: float, next_start: float, next_size: float, share: float
) -> tuple[float, float]:
    now = size ** (1 - share) * next_size**share
    way = 0.0 if size == next_size else (size - now) / (size - next_size)
    return start + (next_start - start) * way, now

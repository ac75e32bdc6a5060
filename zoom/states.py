"""How a picture becomes state 0, and a window the input of a step: all resizing of the chain."""

import math

from PIL.Image import Image, Resampling

from zoom.protocols import StepInput
from zoom.window import Route, Size, StepPlan

SHRINK = Resampling.LANCZOS  # of the picture to state 0, as published, and of its windows


def first_state(picture: Image, route: Route) -> Image:
    """Make state 0: cut, resized, and cut to the size of a state.

    Args:
        picture: RGB, of the size that the route was planned for.
        route: from `zoom.window.plan_route`.
    """
    return picture.crop(route.cut.box).resize(route.resized, SHRINK).crop(route.first.box)


def cut_from_picture(picture: Image, step: StepPlan) -> Image:
    """Cut the window of a step out of the picture: the state itself where it holds enough real pixels.

    Args:
        picture: RGB.
        step: whose window is one of the picture.
    """
    window = picture.crop(step.window.box)
    return window.resize(step.size, SHRINK) if step.made == "real" else window


def enlarge(crop: Image, size: Size, resample: Resampling = Resampling.BICUBIC) -> Image:
    """Resize a crop."""
    return crop.resize(size, resample)


def step_input(crop: Image, size: Size, parent: Image | None = None, first: bool = False) -> StepInput:
    """Make a step's input of its crop.

    The one place where the BICUBIC SR input is made: what the extractor sees, what is saved and what a
    backbone repaints are the same picture, but for the grain that `zoom.texture` adds for the backbone.

    Args:
        crop: RGB.
        size: of the state that is wanted.
        parent, first: see `StepInput`.
    """
    return StepInput(crop, enlarge(crop, size), parent, first)


def shrunk_to(picture: Image, pixels: int) -> Image:
    """Return a picture of the same aspect with at most so many pixels, for who is asked about the whole."""
    factor = math.sqrt(pixels / (picture.width * picture.height))
    if factor >= 1:
        return picture
    return picture.resize(
        (max(1, round(picture.width * factor)), max(1, round(picture.height * factor))), SHRINK
    )

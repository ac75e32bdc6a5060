"""How a picture becomes state 0, and a window of a state the input of a step: all resizing of the chain."""

from PIL.Image import Image, Resampling

from errors import PictureError
from zoom.protocols import StepInput
from zoom.window import Window

# A picture is enlarged at most this much to become state 0: beyond it there is nothing in it to zoom into.
MAX_FIRST_ENLARGEMENT = 16
MAX_ASPECT = 100


def first_state(picture: Image, process_size: int) -> Image:
    """Make state 0: the shorter side to `process_size` with LANCZOS, then the centre square.

    Integer arithmetic keeps the shorter side at exactly `process_size`; the published code's
    ``int(w * scale)`` loses a pixel for every ninth size and shows it as a black line.

    Args:
        picture: RGB, any size.
        process_size: side of a state in pixels.

    Returns:
        RGB, `process_size` squared.

    Raises:
        PictureError: the picture is too small to be enlarged sensibly, or too narrow.
    """
    width, height = picture.size
    shorter, longer = sorted((width, height))
    smallest = -(-process_size // MAX_FIRST_ENLARGEMENT)
    if shorter < smallest:
        raise PictureError(
            f"is too small: {width}x{height} pixels, and --process_size {process_size} wants a shorter side "
            f"of at least {smallest}"
        )
    if longer > MAX_ASPECT * shorter:
        raise PictureError(
            f"is too narrow: {width}x{height} pixels, more than {MAX_ASPECT} to 1; cut out a part of it"
        )
    new_width, new_height = width * process_size // shorter, height * process_size // shorter
    resized = picture.resize((new_width, new_height), Resampling.LANCZOS)
    left, top = (new_width - process_size) // 2, (new_height - process_size) // 2
    return resized.crop((left, top, left + process_size, top + process_size))


def enlarge(crop: Image, side: int, resample: Resampling = Resampling.BICUBIC) -> Image:
    """Resize a square crop to `side` pixels."""
    return crop.resize((side, side), resample)


def step_input(state: Image, window: Window, two_pictures: bool) -> StepInput:
    """Cut a step's input out of a state.

    The one place where the BICUBIC SR input is made: what the extractor sees, what is saved and what a
    backbone repaints are the same picture.

    Args:
        state: RGB, square.
        window: inside of it.
        two_pictures: whether the extractor also sees the whole state.
    """
    crop = state.crop(window.box)
    return StepInput(crop, enlarge(crop, state.width), state if two_pictures else None)

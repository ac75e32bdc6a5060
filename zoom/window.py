"""Which part of a state a step looks at, and how pictures become states: pure geometry.

The published code's geometry (Chain-of-Zoom, arXiv 2505.18600, as released), without its truncation that
leaves some pictures one pixel short.
"""

from dataclasses import dataclass

from PIL.Image import Image, Resampling

from errors import InputError, PictureError

# A picture is enlarged at most this much to become state 0: beyond it there is nothing in it to zoom into.
MAX_FIRST_ENLARGEMENT = 16
MAX_ASPECT = 100


@dataclass(frozen=True)
class Window:
    """A square of a state, in its pixels: `left` and `top` from the top left corner, and its `side`."""

    left: int
    top: int
    side: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom, as Pillow wants them."""
        return self.left, self.top, self.left + self.side, self.top + self.side


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


def centre_window(side: int, part: int) -> Window:
    """Return the window of `part` pixels at the centre of a square of `side` pixels."""
    offset = (side - part) // 2
    return Window(offset, offset, part)


def step_window(process_size: int, upscale: int, step: int, from_first_state: bool) -> Window:
    """Return the window that a step looks at.

    Args:
        process_size: side of a state in pixels.
        upscale: factor a step.
        step: from 1.
        from_first_state: the kinds `nearest`, `bicubic` and `onestep` cut every step's window out of
            state 0; the recursive kinds cut it out of the state before.

    Raises:
        InputError: the window would be smaller than a pixel.
    """
    part = process_size // upscale ** (step if from_first_state else 1)
    if part < 1:
        most = max(k for k in range(step) if upscale**k <= process_size)
        raise InputError(
            f"--rec_num {step}: step {step} would look at less than one pixel of the {process_size} that "
            f"--process_size gives; take --rec_num {most} or less, or --rec_type recursive"
        )
    return centre_window(process_size, part)


def enlarge(crop: Image, side: int, resample: Resampling = Resampling.BICUBIC) -> Image:
    """Resize a square crop to `side` pixels: with BICUBIC this is the SR input that extractors see."""
    return crop.resize((side, side), resample)

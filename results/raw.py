"""Camera raw, developed by LibRaw. Its Python package, rawpy, is an extra: requirements-raw.txt."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from errors import PictureError
from machine.terminal import TERMINAL, silenced
from results.limits import MAX_PIXELS, TOO_LARGE

if TYPE_CHECKING:
    from rawpy import RawPy

# What turns a picture upright, by LibRaw's own number for how the camera was held.
_TURNS = {
    1: Image.Transpose.FLIP_LEFT_RIGHT,
    2: Image.Transpose.FLIP_TOP_BOTTOM,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.TRANSPOSE,
    5: Image.Transpose.ROTATE_90,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
}


def size_of_raw(content: bytes) -> tuple[int, int]:
    """Read the size out of a raw file's header.

    Args:
        content: of the file.

    Returns:
        Width and height in pixels, before the picture is turned.

    Raises:
        PictureError: rawpy is not there or does not read it, or it is larger than `MAX_PIXELS`.
    """
    with _opened(content) as raw:
        return raw.sizes.iwidth, raw.sizes.iheight


def develop(content: bytes) -> Image.Image:
    """Make a picture of a raw file: the camera's own white balance, brightness stretched to the full range.

    Args:
        content: of the file.

    Returns:
        An RGB image in sRGB, 8 bits a channel, turned upright.

    Raises:
        PictureError: as `size_of_raw`; or its data are damaged.
    """
    with _opened(content) as raw:
        turn = raw.sizes.flip  # processing forgets it
        with TERMINAL, silenced():
            raw.unpack()
        pixels = raw.postprocess(use_camera_wb=True, gamma=(2.4, 12.92), output_bps=8, user_flip=0)
        # the array's memory is LibRaw's own; a sensor without colours gives one channel
        image = Image.fromarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
    return image.transpose(_TURNS[turn]) if turn in _TURNS else image


@contextmanager
def _opened(content: bytes) -> Iterator["RawPy"]:
    """Open a raw file whose size can be taken; what LibRaw raises becomes one line."""
    try:
        import rawpy
    except ImportError as error:
        raise PictureError(
            "is a camera's raw file: to read it, `pip install -r requirements-raw.txt`; or save it as JPEG"
        ) from error
    try:
        with TERMINAL, silenced():  # LibRaw writes its own lines past Python, to file descriptor 2
            raw = rawpy.imread(io.BytesIO(content))
        with raw:
            sizes = raw.sizes
            stretch = max(sizes.pixel_aspect, 1 / sizes.pixel_aspect)  # pixels that are not square
            if max(sizes.raw_width * sizes.raw_height, sizes.iwidth * sizes.iheight * stretch) > MAX_PIXELS:
                raise PictureError(TOO_LARGE)
            yield raw
    except rawpy.LibRawFileUnsupportedError as error:
        version = ".".join(map(str, rawpy.libraw_version))
        raise PictureError(f"is camera raw of a kind that LibRaw {version} does not read") from error
    except (rawpy.LibRawError, OSError) as error:
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else error
        raise PictureError(f"cannot be developed, it is damaged or cut off ({reason})") from error

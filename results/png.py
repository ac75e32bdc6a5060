"""States as PNG files: how they are encoded, and read back.

Photographs and states are measured (`benchmarks/scale.py --png`): runs alone, without looking for what was
there before, give the same bytes as zlib's usual level 6, four times as fast.
"""

import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from PIL import Image

STRATEGY = zlib.Z_RLE

T = TypeVar("T")


def encode(image: Image.Image) -> bytes:
    """Return a picture as the PNG that is written."""
    encoded = io.BytesIO()
    image.save(encoded, "PNG", compress_type=STRATEGY)
    return encoded.getvalue()


def size_of_state(file: Path) -> tuple[int, int] | None:
    """Return width and height of a state, as its file's first bytes say; None where it is no picture."""
    return _of_png(file, lambda image: image.size)


def read_state(file: Path, size: tuple[int, int]) -> Image.Image | None:
    """Read a state that an earlier run wrote; None where it is missing, damaged or of another size."""

    def whole(image: Image.Image) -> Image.Image | None:
        if (image.mode, image.size) != ("RGB", size):
            return None
        image.load()
        return image

    return _of_png(file, whole)


def _of_png(file: Path, take: Callable[[Image.Image], T]) -> T | None:
    """Return what is taken from a PNG before it is decoded; None where it is missing or damaged."""
    try:
        if not file.is_file():  # a pipe would be waited for for ever
            return None
        with Image.open(file, formats=["PNG"]) as image:
            return take(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None

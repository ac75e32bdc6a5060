"""Reading a picture, whatever it is stored as: its header, and then its pixels as people see them."""

import hashlib
import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pillow_heif
from PIL import Image, ImageOps, UnidentifiedImageError

from errors import PictureError
from machine.terminal import TERMINAL, silenced
from results.kinds import NOT_PICTURES, RAW_ENDINGS, UNREAD_ENDINGS, is_raw, why_no_picture
from results.limits import LARGEST_FILE, MAX_PIXELS, TOO_LARGE
from results.raw import develop, size_of_raw
from results.srgb import to_srgb

log = logging.getLogger(__name__)

# HEIC and HEIF, as phones take them; AVIF Pillow reads itself. What else lies in such a file is left alone.
pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)

# What is said of files that hold more than the picture that is taken; in other formats that is no news: the
# second picture of a phone's JPEG, the layers of a PSD.
ANIMATED, PAGES, SEVERAL = "animated", "pages", "several"
_MORE = {"GIF": ANIMATED, "PNG": ANIMATED, "WEBP": ANIMATED, "AVIF": ANIMATED, "FLI": ANIMATED}
_MORE |= {"TIFF": PAGES, "DCX": PAGES, "HEIF": SEVERAL}
_NO_MEMORY = "does not fit into memory; make it smaller first"


@dataclass(frozen=True)
class Header:
    """What the header of a picture's file says.

    Attributes:
        size: width and height in pixels, as stored (before EXIF orientation).
        more: `ANIMATED`, `PAGES` or `SEVERAL` where the file holds more than the picture that is taken.
    """

    size: tuple[int, int]
    more: str = ""


def picture_endings() -> set[str]:
    """Return the endings of file names, in small letters, that promise a picture."""
    known = Image.registered_extensions().items()
    # JPEG's opener reads MPO, which has none of its own
    read = {ending for ending, name in known if name in {*Image.OPEN, "MPO"} and name not in NOT_PICTURES}
    return read | RAW_ENDINGS | UNREAD_ENDINGS


def identify(file: Path) -> Header:
    """Look at a picture's header.

    Raises:
        PictureError: it is no picture that is read, is larger than `MAX_PIXELS`, or its disk or folder does
            not give it.
    """
    with _opened(file) as stream:
        if is_raw(stream, file.name):
            return Header(size_of_raw(stream.read()))
        with _identified(stream) as image:
            return Header(image.size, _more_in(image))


def _more_in(image: Image.Image) -> str:
    try:
        return _MORE.get(image.format or "", "") if getattr(image, "is_animated", False) else ""
    except Exception:  # a damaged second frame is no matter of the first
        return ""


def read_picture(file: Path) -> tuple[Image.Image, str]:
    """Read a picture as people see it.

    The first frame of an animation (of a HEIC file the primary picture), turned as EXIF or HEIF says,
    converted from its ICC profile to sRGB, scaled from 16 bits, flattened on white where it is transparent.
    Camera raw is developed.

    Returns:
        An RGB image, 8 bits a channel, of at least 1x1 pixels, without metadata; and the SHA-256 of the bytes
        that it was decoded from: the file may be another one a moment later.

    Raises:
        PictureError: it cannot be read, with the reason.
    """
    try:
        with _opened(file) as stream:
            raw, content = is_raw(stream, file.name), stream.read()
        picture = develop(content) if raw else _decode(content, file)
        picture.info.clear()  # a profile kept here would be saved with pixels that it does not describe
        return picture, hashlib.sha256(content).hexdigest()
    except PictureError:
        raise
    except MemoryError as error:
        raise PictureError(_NO_MEMORY) from error
    except Exception as error:  # decoders raise anything on damaged data
        raise PictureError(f"cannot be decoded, it is damaged or cut off ({_line(error)})") from error


def _decode(content: bytes, file: Path) -> Image.Image:
    with _quiet_libtiff(content), _identified(io.BytesIO(content)) as image:
        image.load()
        info = dict(image.info)
        try:
            image = ImageOps.exif_transpose(image)
        except Exception as error:  # odd metadata is no reason to refuse the pixels
            log.info("%s: its EXIF data cannot be read, it is not turned (%s)", file, error)
        return to_srgb(image, info, file)


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    """Open a file for a with block; what the disk or the folder refuses there becomes one line, too."""
    try:
        if file.is_symlink() and not os.path.exists(file):  # noqa: PTH110 (raises for no link, loops included)
            raise PictureError("is a link to nothing")
        if file.is_dir():
            raise PictureError("is a folder, not a picture")
        if not file.is_file():  # reading a pipe or a device could wait for ever
            raise PictureError("is not a regular file")
        stream = file.open("rb")
    except OSError as error:
        raise PictureError(f"cannot be opened ({error.strerror or error})") from error
    with stream:
        try:
            if os.fstat(stream.fileno()).st_size > LARGEST_FILE:
                raise PictureError(f"is larger than {LARGEST_FILE / 2**30:.0f} GiB; make it smaller first")
            yield stream
        except OSError as error:
            raise PictureError(f"cannot be read ({error.strerror or error})") from error
        except MemoryError as error:
            raise PictureError(_NO_MEMORY) from error


@contextmanager
def _quiet_libtiff(content: bytes) -> Iterator[None]:
    """Keep libtiff's own lines off the terminal; it writes past Python, to file descriptor 2."""
    if content[:2] not in (b"II", b"MM"):
        yield
        return
    with TERMINAL, silenced():
        yield


def _identified(stream: BinaryIO) -> Image.Image:
    # Pillow gets a stream and not a name: files that it opens itself it maps into memory, and then reads
    # turned TIFFs with the wrong width
    try:
        image = Image.open(stream)
    except UnidentifiedImageError as error:
        raise PictureError(why_no_picture(stream)) from error
    except Image.DecompressionBombError as error:
        raise PictureError(TOO_LARGE) from error
    except Exception as error:  # decoders raise anything on damaged headers
        raise PictureError(f"has a damaged header ({_line(error)})") from error
    if image.format in NOT_PICTURES:  # reading such a page would start a program (Ghostscript)
        raise PictureError(why_no_picture(stream))
    if image.width * image.height > MAX_PIXELS:
        raise PictureError(TOO_LARGE)
    return image


def _line(error: Exception) -> str:
    return " ".join(str(error).split())

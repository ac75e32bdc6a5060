"""Finding pictures and reading them as 8-bit sRGB, whatever they are stored as."""

import hashlib
import io
import logging
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path, PurePath
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from errors import InputError, PictureError
from machine.terminal import TERMINAL, silenced
from results.limits import MAX_PIXELS

log = logging.getLogger(__name__)

TOO_LARGE = f"is larger than {MAX_PIXELS:,} pixels; make it smaller first"

# Formats that Pillow only recognises, or that are pages and data rather than pictures: such a file in a
# folder is no mistake of anybody's.
NOT_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}
# Pictures that Pillow does not read without a plugin: people will want to know that they were left out.
UNREAD_ENDINGS = {".heic", ".heif", ".jxl", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".raf", ".rw2"}


@dataclass(frozen=True)
class Source:
    """A file to zoom into.

    Attributes:
        file: where it is.
        label: its path below the folder that was given, with forward slashes; its name where the file
            itself was given; with the folder's name before it where several pictures share that. Prompt files
            and reports call the picture by it. ``~`` and the spot's own follow where it is one of several.
        size: width and height as stored (before EXIF orientation), in pixels.
        spot: label of the spot in it; empty where the picture is zoomed into as a whole.
        center: of the spot, as fractions of the picture as it is seen.
    """

    file: Path
    label: str
    size: tuple[int, int] = (0, 0)
    spot: str = ""
    center: tuple[float, float] | None = None

    @cached_property
    def key(self) -> str:
        """What tells the file from every other: its path without links."""
        return str(real_path(self.file))

    @property
    def id(self) -> tuple[str, str]:
        """What tells it from every other: the file, and the spot in it."""
        return self.key, self.spot

    @property
    def picture_label(self) -> str:
        """The label of the picture, which its spots share."""
        return label_of_picture(self.label, self.spot)

    def at(self, spot: str, center: tuple[float, float]) -> "Source":
        """Return one of its spots."""
        return replace(self, label=f"{self.label}~{spot}", spot=spot, center=center)


def label_of_picture(label: str, spot: str) -> str:
    """Return a label without the spot's own behind it."""
    return label.removesuffix(f"~{spot}") if spot else label


@dataclass(frozen=True)
class Failure:
    """A picture that cannot be zoomed into, and why (one line)."""

    label: str
    reason: str


def find_pictures(
    inputs: Sequence[Path], recursive: bool = False, leave_out: Collection[Path] = ()
) -> tuple[list[Source], list[Failure]]:
    """List the pictures among files and folders, by content and not by name.

    In a folder, a file counts as a picture when its content is one, or when it is named like one: then it
    fails if the content disagrees. Other files and hidden ones are passed over.

    Args:
        inputs: files and folders; each must exist.
        recursive: also search the folders inside the folders.
        leave_out: folders never searched (what the run itself writes).

    Returns:
        The pictures that can be identified, sorted by label and each file once; and the failures.

    Raises:
        InputError: none of the inputs holds any picture.
    """
    endings = picture_endings()
    left_out = {real_path(folder) for folder in leave_out}

    @cache
    def is_left_out(folder: Path) -> bool:
        return not left_out.isdisjoint((folder, *folder.parents))

    found: dict[str, Source] = {}
    failures: list[Failure] = []
    for source, named_by_user in _candidates(inputs, recursive, left_out, endings, failures):
        try:
            if is_left_out(Path(source.key).parent):
                raise PictureError("lies among the results of --output_dir, which this run may write over")
            found.setdefault(source.key, replace(source, size=identify(source.file)))
        except PictureError as error:
            if named_by_user or source.file.suffix.lower() in endings:
                failures.append(Failure(source.label, str(error)))
            else:
                log.info("%s: passed over, it is not a picture", source.file)
    if not found:
        if failures:
            reasons = "; ".join(f"{failure.label}: {failure.reason}" for failure in failures)
            raise InputError(f"nothing to zoom into: {reasons}")
        where = ", ".join(str(path) for path in inputs)
        hint = "" if recursive else " (folders inside are searched with --recursive_folders)"
        raise InputError(f"{where}: no picture in there{hint}")
    return sorted(_tell_apart(found.values()), key=lambda source: source.label), failures


def picture_endings() -> set[str]:
    """Return the endings of file names, in small letters, that promise a picture."""
    known = Image.registered_extensions().items()
    # JPEG's opener reads MPO, which has none of its own
    return UNREAD_ENDINGS | {
        ending for ending, name in known if name in {*Image.OPEN, "MPO"} and name not in NOT_PICTURES
    }


def _tell_apart(sources: Iterable[Source]) -> list[Source]:
    """Put as many of their folders before labels that several pictures share as tell them apart."""
    labels = {source: PurePath(source.label).parts for source in sources}
    while True:
        how_often = Counter(labels.values())
        shared = [source for source, parts in labels.items() if how_often[parts] > 1]
        if not shared:
            return [replace(source, label="/".join(parts)) for source, parts in labels.items()]
        for source in shared:
            file = real_path(source.file.parent) / source.file.name
            labels[source] = file.parts[-len(labels[source]) - 1 :]


def _candidates(
    inputs: Sequence[Path],
    recursive: bool,
    left_out: Collection[Path],
    endings: Collection[str],
    failures: list[Failure],
) -> Iterator[tuple[Source, bool]]:
    """Yield what may be a picture, and whether the user named it; note folders that cannot be listed."""
    for path in inputs:
        if not path.is_dir():
            yield Source(path, path.name), True
            continue

        def closed(error: OSError, top: Path = path) -> None:
            if Path(error.filename) == top:
                raise InputError(f"{top}: cannot be listed ({error.strerror})") from error
            label = Path(error.filename).relative_to(top).as_posix()
            failures.append(Failure(label, f"cannot be listed ({error.strerror})"))

        for folder, folders, files in os.walk(path, onerror=closed):
            here = Path(folder)
            if real_path(here) in left_out:
                folders.clear()
                continue
            inside = [name for name in folders if not name.startswith(".")]
            if not recursive:
                folders.clear()
                # a folder named like a picture is more likely a mistake than meant
                files += [name for name in inside if Path(name).suffix.lower() in endings]
            else:
                folders[:] = sorted(inside)
                for name in inside:
                    if (here / name).is_symlink():
                        log.warning("%s: not searched, it is a link to a folder", here / name)
            for name in sorted(files):
                if not name.startswith("."):
                    file = here / name
                    yield Source(file, file.relative_to(path).as_posix()), False


def real_path(path: Path) -> Path:
    """Resolve links; unlike `Path.resolve`, also of paths that are links to themselves."""
    return Path(os.path.realpath(path))


def identify(file: Path) -> tuple[int, int]:
    """Look at a picture's header.

    Returns:
        Width and height in pixels, as stored (before EXIF orientation).

    Raises:
        PictureError: it is no picture that Pillow reads, or is larger than `MAX_PIXELS`.
    """
    with _opened(file) as stream, _decoded(stream) as image:
        return image.size


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    if file.is_symlink() and not os.path.exists(file):  # noqa: PTH110 (raises for no link, loops included)
        raise PictureError("is a link to nothing")
    if file.is_dir():
        raise PictureError("is a folder, not a picture")
    if not file.is_file():  # reading a pipe or a device could wait for ever
        raise PictureError("is not a regular file")
    try:
        stream = file.open("rb")
    except OSError as error:
        raise PictureError(f"cannot be opened ({error.strerror or error})") from error
    with stream:
        yield stream


@contextmanager
def _decoded(stream: BinaryIO) -> Iterator[Image.Image]:
    # Pillow gets a stream and not a name: files that it opens itself it maps into memory, and then reads
    # turned TIFFs with the wrong width
    with _identified(stream) as image:
        yield image


@contextmanager
def _quiet_libtiff(content: bytes) -> Iterator[None]:
    """Keep libtiff's own lines off the terminal; it writes past Python, to file descriptor 2."""
    if content[:2] not in (b"II", b"MM"):
        yield
        return
    with TERMINAL, silenced():
        yield


def _identified(stream: BinaryIO) -> Image.Image:
    try:
        image = Image.open(stream)
    except UnidentifiedImageError as error:
        if stream.seek(0, os.SEEK_END) == 0:
            raise PictureError("is empty (0 bytes)") from error
        raise PictureError("is not a picture in a format that Pillow reads") from error
    except Image.DecompressionBombError as error:
        raise PictureError(TOO_LARGE) from error
    except Exception as error:  # decoders raise anything on damaged headers
        raise PictureError(f"has a damaged header ({error})") from error
    if image.format in NOT_PICTURES:  # reading such a page would start a program (Ghostscript)
        image.close()
        raise PictureError(f"is no picture but {image.format}; save it as one")
    if image.width * image.height > MAX_PIXELS:
        raise PictureError(TOO_LARGE)
    return image


def read_picture(file: Path) -> tuple[Image.Image, str]:
    """Read a picture as people see it.

    The first frame of an animation, turned as EXIF says, converted from its ICC profile to sRGB, scaled
    from 16 bits, flattened on white where it is transparent.

    Returns:
        An RGB image, 8 bits a channel, of at least 1x1 pixels, without metadata; and the SHA-256 of the bytes
        that it was decoded from: the file may be another one a moment later.

    Raises:
        PictureError: it cannot be read, with the reason.
    """
    try:
        with _opened(file) as stream:
            content = stream.read()
        with _quiet_libtiff(content), _decoded(io.BytesIO(content)) as image:
            image.load()
            profile = image.info.get("icc_profile")
            try:
                image = ImageOps.exif_transpose(image)
            except Exception as error:  # odd metadata is no reason to refuse the pixels
                log.info("%s: its EXIF data cannot be read, it is not turned (%s)", file, error)
            picture = _to_srgb(_to_8_bits(image), profile, file)
            picture.info.clear()  # a profile kept here would be saved with pixels that it does not describe
            return picture, hashlib.sha256(content).hexdigest()
    except PictureError:
        raise
    except MemoryError as error:
        raise PictureError("does not fit into memory; make it smaller first") from error
    except Exception as error:  # decoders raise anything on damaged data
        raise PictureError(f"cannot be decoded, it is damaged or cut off ({error})") from error


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale integers of 16 bits and floats to 8 bits; leave every other mode alone."""
    if not (image.mode.startswith("I") or image.mode == "F"):
        return image
    values = np.asarray(image, dtype=np.float32)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise PictureError("holds values that are not finite")
    if image.mode == "F":
        white = 1.0 if high <= 2 else 255.0
        slack = white  # floats overshoot
    else:
        white = 255.0 if image.mode == "I" and high <= 255 else 65535.0
        slack = 0.0
    if low < -slack / 10 or high > white + slack:
        raise PictureError(f"holds values from {low:g} to {high:g}; save it with 8 or 16 bits a channel")
    grey = Image.fromarray(np.rint(values.clip(0, white) * (255 / white)).astype(np.uint8))
    if isinstance(image.info.get("transparency"), int):  # the value of grey that stands for nothing
        grey.putalpha(
            Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8))
        )
    return grey


def _to_srgb(image: Image.Image, profile: bytes | None, file: Path) -> Image.Image:
    """Convert any 8-bit mode to RGB in sRGB, on a white ground."""
    alpha = None
    if image.has_transparency_data:
        # premultiplied modes only convert to their straight twins
        straight = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode))
        alpha = straight.convert("RGBA").getchannel("A")
        image = straight.convert("L" if straight.mode in ("LA", "L") else "RGB")
    elif image.mode in ("1", "P", "PA", "RGBX", "HSV"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    converted = _apply_profile(image, profile, file)
    if alpha is None:
        return converted
    white = Image.new("RGB", converted.size, "white")
    white.paste(converted, mask=alpha)
    return white


def _apply_profile(image: Image.Image, profile: bytes | None, file: Path) -> Image.Image:
    """Convert with the ICC profile where there is a usable one, else by the mode alone."""
    if not profile and image.mode != "LAB":
        return image.convert("RGB")
    srgb = ImageCms.createProfile("sRGB")
    if profile:
        try:
            own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if image.mode == "RGB" and _is_srgb(own):
                return image  # converting would only add rounding
            converted = ImageCms.profileToProfile(image, own, srgb, outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
            log.warning("%s: its colour profile cannot be used, colours are taken as sRGB (%s)", file, error)
    if image.mode == "LAB":  # Pillow has no conversion of its own
        converted = ImageCms.profileToProfile(image, ImageCms.createProfile("LAB"), srgb, outputMode="RGB")
        if converted is None:
            raise PictureError("is in CIELAB and cannot be converted")
        return converted
    return image.convert("RGB")


def _is_srgb(profile: ImageCms.ImageCmsProfile) -> bool:
    """Tell by what it does to colours: names and descriptions cannot be trusted."""
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(len(levels), -1, 3)
    converted = ImageCms.profileToProfile(Image.fromarray(colours), profile, ImageCms.createProfile("sRGB"))
    return converted is not None and bool(
        np.abs(np.asarray(converted, np.int16) - colours.astype(np.int16)).max() <= 1
    )

"""Finding pictures and reading them as 8-bit sRGB, whatever they are stored as."""

import hashlib
import io
import logging
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from errors import InputError, PictureError

log = logging.getLogger(__name__)

# Pillow's own limit for "this may be a decompression bomb", stated here because it is refused, not warned of.
MAX_PIXELS = 178_956_970


@dataclass(frozen=True)
class Source:
    """A file to zoom into.

    Attributes:
        file: where it is.
        label: its path below the folder that was given, with forward slashes; its name where the file
            itself was given. Prompt files and reports call the picture by it.
    """

    file: Path
    label: str


@dataclass(frozen=True)
class Failure:
    """A picture that cannot be zoomed into, and why (one line)."""

    label: str
    reason: str


def find_pictures(
    inputs: Sequence[Path], recursive: bool = False, leave_out: Path | None = None
) -> tuple[list[Source], list[Failure]]:
    """List the pictures among files and folders, by content and not by name.

    In a folder, a file counts as a picture when its content is one, or when it is named like one: then it
    fails if the content disagrees. Other files and hidden ones are passed over.

    Args:
        inputs: files and folders; each must exist.
        recursive: also search the folders inside the folders.
        leave_out: a folder never searched, resolved (the output of the run itself).

    Returns:
        The pictures that can be identified, sorted by label and each file once; and the failures.

    Raises:
        InputError: an input does not exist, or none of them holds any picture.
    """
    for path in inputs:
        if not path.exists():
            dangling = " (a link to nothing)" if path.is_symlink() else ""
            raise InputError(f"{path}: no such file or folder{dangling}")
    found: dict[Path, Source] = {}
    failures: list[Failure] = []
    for source, named_by_user in _candidates(inputs, recursive, leave_out):
        try:
            key = source.file.resolve()
            if key in found:
                continue
            identify(source.file)
            found[key] = source
        except PictureError as error:
            if named_by_user or source.file.suffix.lower() in Image.registered_extensions():
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
    return sorted(found.values(), key=lambda source: source.label), failures


def _candidates(
    inputs: Sequence[Path], recursive: bool, leave_out: Path | None
) -> Iterable[tuple[Source, bool]]:
    """Yield what may be a picture, and whether the user named it."""
    for path in inputs:
        if not path.is_dir():
            yield Source(path, path.name), True
            continue
        try:
            for folder, folders, files in os.walk(path, onerror=_raise):
                here = Path(folder)
                inside = [name for name in folders if not name.startswith(".")]
                if not recursive:
                    folders.clear()
                    # a folder named like a picture is more likely a mistake than meant
                    files += [name for name in inside if Path(name).suffix.lower() in _picture_endings()]
                else:
                    folders[:] = sorted(name for name in inside if (here / name).resolve() != leave_out)
                for name in sorted(files):
                    if not name.startswith("."):
                        file = here / name
                        yield Source(file, file.relative_to(path).as_posix()), False
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be listed ({error.strerror})") from error


def _raise(error: OSError) -> None:
    raise error


def _picture_endings() -> Iterable[str]:
    return Image.registered_extensions().keys()


def identify(file: Path) -> tuple[int, int]:
    """Look at a picture's header.

    Returns:
        Width and height in pixels, as stored (before EXIF orientation).

    Raises:
        PictureError: it is no picture that Pillow reads, or is larger than `MAX_PIXELS`.
    """
    with _open(file) as image:
        return image.size


def _open(file: Path) -> Image.Image:
    if file.is_symlink() and not file.exists():
        raise PictureError("is a link to nothing")
    if file.is_dir():
        raise PictureError("is a folder, not a picture")
    if not file.is_file():  # reading a pipe or a device could wait for ever
        raise PictureError("is not a regular file")
    try:
        size = file.stat().st_size
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns below its limit; what is over it raises
            image = Image.open(file)
    except UnidentifiedImageError as error:
        if size == 0:
            raise PictureError("is empty (0 bytes)") from error
        raise PictureError("is not a picture in a format that Pillow reads") from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"is larger than {MAX_PIXELS:,} pixels; make it smaller first") from error
    except OSError as error:
        raise PictureError(f"cannot be opened ({error.strerror or error})") from error
    except Exception as error:  # decoders raise anything on damaged headers
        raise PictureError(f"has a damaged header ({error})") from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise PictureError(f"is larger than {MAX_PIXELS:,} pixels; make it smaller first")
    return image


def read_picture(file: Path) -> Image.Image:
    """Read a picture as people see it.

    The first frame of an animation, turned as EXIF says, converted from its ICC profile to sRGB, scaled
    from 16 bits, flattened on white where it is transparent.

    Returns:
        An RGB image, 8 bits a channel, of at least 1x1 pixels.

    Raises:
        PictureError: it cannot be read, with the reason.
    """
    try:
        with _open(file) as opened, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata is no reason to bother anyone
            opened.load()
            image = ImageOps.exif_transpose(opened)
            profile = opened.info.get("icc_profile")
            return _to_srgb(_to_8_bits(image), profile, file)
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
    values = np.asarray(image, dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise PictureError("holds values that are not finite")
    floats = image.mode == "F"
    white = 65535.0 if not floats else 1.0 if high <= 1 else 255.0
    if low < 0 or high > white:
        raise PictureError(f"holds values from {low:g} to {high:g}; save it with 8 or 16 bits a channel")
    return Image.fromarray(np.rint(values * (255 / white)).astype(np.uint8))


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
    srgb = ImageCms.createProfile("sRGB")
    if profile:
        try:
            own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if "srgb" in ImageCms.getProfileDescription(own).lower():
                return image.convert("RGB")  # converting would only add rounding
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


def sha256_of(file: Path) -> str:
    """Hash a file's content (hexadecimal).

    Raises:
        PictureError: it cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise PictureError(f"cannot be read ({error.strerror or error})") from error

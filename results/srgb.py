"""Pixels as people see them: 8-bit sRGB on a white ground, whatever bit depth, mode and profile they have."""

import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from errors import PictureError

log = logging.getLogger(__name__)


# What HEIF calls by number, and not with a profile: colours and brightness beyond sRGB's (ITU-T H.273).
_WIDE = {9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}
_HDR = {16: "PQ", 18: "HLG"}


def to_srgb(image: Image.Image, info: Mapping[str | tuple[int, int], Any], file: Path) -> Image.Image:
    """Make a picture of any mode an RGB one.

    Args:
        image: decoded, of any mode and bit depth.
        info: what Pillow found beside its pixels, with its ICC profile.
        file: named where its colours cannot be told.

    Returns:
        RGB in sRGB, 8 bits a channel.

    Raises:
        PictureError: its values have no meaning as colours.
    """
    profile, named = info.get("icc_profile"), info.get("nclx_profile") or {}
    of = [_WIDE.get(named.get("color_primaries", 0)), _HDR.get(named.get("transfer_characteristics", 0))]
    if not profile and any(of):
        said = ", ".join(name for name in of if name)
        log.warning("%s: its colours are %s, and are taken as sRGB: they may look pale", file, said)
    return _on_white(_to_8_bits(image), profile, file)


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


def _on_white(image: Image.Image, profile: bytes | None, file: Path) -> Image.Image:
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

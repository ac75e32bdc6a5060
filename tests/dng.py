"""A DNG as a camera writes it, as small as it gets: one directory, a Bayer pattern, 16 bits, uncompressed."""

import struct

import numpy as np

BYTE, TEXT, SHORT, LONG, RATIONAL, SIGNED = (1, "B"), (2, "s"), (3, "H"), (4, "I"), (5, "II"), (10, "ii")
# From XYZ to the camera's colours: those of sRGB, so that it sees what a screen shows.
_COLOURS = (32406, -15372, -4986, -9689, 18758, 415, 557, -2040, 10570)


def bayer(rgb: np.ndarray) -> np.ndarray:
    """Return what a sensor with red, green, green, blue in each 2x2 pixels sees of 8-bit sRGB (H, W, 3)."""
    screen = rgb / 255
    light = np.where(screen <= 0.04045, screen / 12.92, ((screen + 0.055) / 1.055) ** 2.4) * 65535
    seen = light[..., 1].copy()
    seen[0::2, 0::2], seen[1::2, 1::2] = light[0::2, 0::2, 0], light[1::2, 1::2, 2]
    return seen.round().astype("<u2")


def dng(rgb: np.ndarray, orientation: int = 1, claims: tuple[int, int] | None = None) -> bytes:
    """Return a DNG file that shows a picture.

    Args:
        rgb: 8-bit sRGB (H, W, 3) with even sides.
        orientation: as EXIF's.
        claims: width and height that its header tells instead.
    """
    data = bayer(rgb).tobytes()
    width, height = claims or (rgb.shape[1], rgb.shape[0])
    entries = [
        (254, LONG, [0]),  # the picture itself, no preview
        (256, LONG, [width]),
        (257, LONG, [height]),
        (258, SHORT, [16]),  # bits
        (259, SHORT, [1]),  # no compression
        (262, SHORT, [32803]),  # colour filter array
        (271, TEXT, [b"Nobody's\0"]),
        (272, TEXT, [b"Camera\0"]),
        (273, LONG, [8]),  # where the pixels are
        (274, SHORT, [orientation]),
        (277, SHORT, [1]),  # channels
        (278, LONG, [height]),
        (279, LONG, [len(data)]),
        (33421, SHORT, [2, 2]),  # the pattern's size
        (33422, BYTE, [0, 1, 1, 2]),  # red, green, green, blue
        (50706, BYTE, [1, 4, 0, 0]),  # DNG's version
        (50717, LONG, [65535]),  # white
        (50721, SIGNED, [part for value in _COLOURS for part in (value, 10_000)]),
        (50728, RATIONAL, [1, 1] * 3),  # as shot, white is white
        (50778, SHORT, [21]),  # under D65
    ]
    place = 8 + len(data)
    behind = place + 2 + 12 * len(entries) + 4
    directory, values = struct.pack("<H", len(entries)), b""
    for tag, (kind, form), given in entries:
        packed = given[0] if form == "s" else struct.pack(f"<{len(given)}{form[0]}", *given)
        directory += struct.pack("<HHI", tag, kind, len(packed) // struct.calcsize(f"<{form}"))
        if len(packed) <= 4:
            directory += packed.ljust(4, b"\0")
        else:
            directory += struct.pack("<I", behind + len(values))
            values += packed.ljust(len(packed) + len(packed) % 2, b"\0")
    return b"II*\0" + struct.pack("<I", place) + data + directory + bytes(4) + values

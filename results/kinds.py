"""What a file is, told by its first bytes: camera raw, a picture for Pillow, or none, and then why.

And by its name, where that promises something: a picture, or nothing that anybody would miss.
"""

import re
import struct
from pathlib import Path
from typing import BinaryIO

# Formats that Pillow only recognises, or that are pages and data rather than pictures: such a file in a
# folder is no mistake of anybody's.
NOT_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}

# Not .raw, which any data may be called: a camera's is told by its content.
RAW_ENDINGS = {
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".gpr", ".iiq", ".kdc", ".mef",
    ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
}  # fmt: skip
# Pictures that are not read: people will want to know that they were left out.
UNREAD_ENDINGS = {".jxl"}
# What systems and programs lay beside pictures without being asked.
_LITTER = {"thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "picasa.ini", "icon\r"}
_SIDECARS = {".aae", ".dop", ".pp3", ".xmp"}

_START = 1024  # bytes of a file that are looked at
_RAW = re.compile(
    rb"FUJIFILMCCD-RAW|II(?:RO|RS|U\0)|MMOR|FOVb|\0MRM|II\*\0.{4}CR|.{4}ftypcrx |.{6}HEAPCCDR", re.DOTALL
)
# The first that matches says what the file is, and the way out.
_OTHERS = [
    (re.compile(start, re.DOTALL), reason)
    for start, reason in (
        (
            rb".{4}ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1|avi[fs])",
            "is a HEIC or AVIF file, but damaged, cut off or of a kind that is not read; save it as JPEG",
        ),
        (rb"\xff\x0a|\0\0\0\x0cJXL ", "is JPEG XL, which is not read; save it as PNG"),
        (rb"%PDF", "is a PDF and no picture; save the page that you want as PNG (pdftoppm -r 300 -png)"),
        (rb"%!PS", "is PostScript and no picture; save it as PNG"),
        (
            rb"(?:\xef\xbb\xbf)?\s*<(?:[?!].*<)?svg[\s>]",
            "is a drawing (SVG) and no picture; save it as PNG, as large as you want it",
        ),
        (
            rb".{4}(?:ftyp.{4}|moov|mdat|wide)|\x1aE\xdf\xa3|RIFF.{4}AVI |\0\0\x01[\xb3\xba]|FLV|OggS|"
            rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
            "is a video and no picture; save a frame of it (ffmpeg -ss 5 -i VIDEO -frames:v 1 frame.png)",
        ),
    )
]

# TIFF, which most cameras' raw files are, with a small picture in front that Pillow would take
_DNG_VERSION, _PHOTOMETRIC, _SUB_DIRECTORIES = 50706, 262, 330
_OF_SENSORS = (32803, 34892)  # colour filter array, linear raw
_MOST_DIRECTORIES, _MOST_ENTRIES = 16, 1000


def is_raw(stream: BinaryIO, name: str) -> bool:
    """Tell whether a file is a camera's raw picture; the name decides only where it is a TIFF without a sign.

    Leaves the stream at its start.
    """
    start = _start(stream)
    if _RAW.match(start):
        return True
    if start[:4] not in (b"II*\0", b"MM\0*"):
        return False
    order = "<" if start[:2] == b"II" else ">"
    found = Path(name).suffix.lower() in RAW_ENDINGS or _is_raw_tiff(stream, order)
    stream.seek(0)
    return found


def _start(stream: BinaryIO) -> bytes:
    stream.seek(0)
    start = stream.read(_START)
    stream.seek(0)
    return start


def _is_raw_tiff(stream: BinaryIO, order: str) -> bool:
    """Look through the first directory and those below it; what cannot be read is no sign."""

    def numbers(at: int, kind: str, count: int) -> tuple[int, ...]:
        stream.seek(at)
        return struct.unpack(f"{order}{count}{kind}", stream.read(struct.calcsize(f"{order}{count}{kind}")))

    try:
        waiting = list(numbers(4, "I", 1))
        for _ in range(_MOST_DIRECTORIES):
            if not waiting:
                break
            place = waiting.pop(0)
            [entries] = numbers(place, "H", 1)
            for entry in range(min(entries, _MOST_ENTRIES)):
                at = place + 2 + 12 * entry
                [tag, kind], [count] = numbers(at, "H", 2), numbers(at + 4, "I", 1)
                if tag == _DNG_VERSION or (tag == _PHOTOMETRIC and numbers(at + 8, "H", 1)[0] in _OF_SENSORS):
                    return True
                if tag == _SUB_DIRECTORIES and kind in (4, 13) and count:
                    where = at + 8 if count == 1 else numbers(at + 8, "I", 1)[0]
                    waiting += numbers(where, "I", min(count, _MOST_DIRECTORIES))
    except struct.error:  # the file ends there
        pass
    return False


def why_no_picture(stream: BinaryIO) -> str:
    """Say what a file is that is not read as a picture, and the way out."""
    start = _start(stream)
    if not start:
        return "is empty (0 bytes)"
    for pattern, reason in _OTHERS:
        if pattern.match(start):
            return reason
    return "is not a picture in a format that is read"


def is_litter(name: str) -> bool:
    """Tell whether a file of this name is what systems and programs lay beside pictures by themselves."""
    return name.lower() in _LITTER or Path(name).suffix.lower() in _SIDECARS

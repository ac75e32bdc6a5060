"""Camera raw: told by its content, developed where rawpy is installed, else refused with what to install."""

import hashlib
import importlib.util
import io
import struct
import sys

import numpy as np
import pytest
from dng import dng
from PIL import Image, ImageOps, TiffImagePlugin

from errors import InputError, PictureError
from results.kinds import is_raw
from results.pictures import find_pictures
from results.reading import identify, read_picture

needs_rawpy = pytest.mark.skipif(
    importlib.util.find_spec("rawpy") is None,
    reason="rawpy is not installed (pip install -r requirements-raw.txt)",
)
ROWS, COLUMNS = np.mgrid[0:64, 0:96]
# from black to white: LibRaw stretches what is darker
RAMP = np.stack([COLUMNS * 255 // 95, ROWS * 255 // 63, (COLUMNS + ROWS) * 255 // 158], axis=-1).astype(
    np.uint8
)


@pytest.fixture
def without_rawpy(monkeypatch):
    monkeypatch.setitem(sys.modules, "rawpy", None)


# told by its content


def nef(below: bytes = b"") -> bytes:
    """A TIFF as cameras write it: a small picture in front, below it a directory of what the sensor saw."""
    place = 0
    for _ in range(2):  # the second time with the place of what comes behind
        info = TiffImagePlugin.ImageFileDirectory_v2()
        info.tagtype[330], info[330] = 4, place
        stream = io.BytesIO()
        Image.new("RGB", (32, 24)).save(stream, "TIFF", tiffinfo=info)
        place = len(stream.getvalue())
    return stream.getvalue() + below


def directory(photometric: int) -> bytes:
    return struct.pack("<HHHII", 1, 262, 3, 1, photometric) + bytes(4)


def loop() -> bytes:
    """A directory that says it lies below itself, where `nef` lays it."""
    return struct.pack("<HHHII", 1, 330, 4, 1, len(nef())) + bytes(4)


@pytest.mark.parametrize(
    "start",
    [
        b"FUJIFILMCCD-RAW 0201",
        b"IIRO\x08\0\0\0",
        b"MMOR\0\0\0\x08",
        b"IIU\0\x18\0\0\0",
        b"II*\0\x10\0\0\0CR\2\0",
        b"\0\0\0\x18ftypcrx \0\0\0\1",
        b"II\x1a\0\0\0HEAPCCDR",
        b"FOVb\0\0\2\0",
        b"\0MRM\0\0\0\0",
    ],
)
def test_raw_is_told_by_how_it_starts(start):
    assert is_raw(io.BytesIO(start), "any.dat")


def test_a_tiff_is_raw_where_its_directories_show_a_sensors_pattern_or_dngs_version():
    assert is_raw(io.BytesIO(dng(RAMP)), "any.tif")
    for photometric in (32803, 34892):
        assert is_raw(io.BytesIO(nef(directory(photometric))), "any.tif")


def test_other_tiffs_are_not_whatever_is_below_them():
    for below in (b"", directory(2), loop(), b"\xff\xff" + bytes(12), b"\xff" * 40):
        stream = io.BytesIO(nef(below))
        assert not is_raw(stream, "any.tif")
        assert stream.tell() == 0


def test_a_tiff_without_a_sign_is_raw_where_it_is_named_so():
    assert not is_raw(io.BytesIO(nef(directory(2))), "any.tif")
    assert is_raw(io.BytesIO(nef(directory(2))), "named.NEF")


@pytest.mark.parametrize("name", ["photo.nef", "photo.tif"])
def test_the_small_picture_in_front_is_never_taken_for_the_photo(tmp_path, without_rawpy, name):
    (tmp_path / name).write_bytes(nef(directory(32803)))
    with Image.open(tmp_path / name) as taken:
        assert taken.size == (32, 24), "Pillow would take it"
    for read in (identify, read_picture):
        with pytest.raises(PictureError, match="is a camera's raw file"):
            read(tmp_path / name)


# without rawpy


def test_without_rawpy_one_line_says_what_to_install_and_the_others_go_on(tmp_path, without_rawpy):
    (tmp_path / "photo.dng").write_bytes(dng(RAMP))
    with pytest.raises(InputError, match=r"^nothing .*: photo.dng: .*`pip install -r requirements-raw.txt`"):
        find_pictures([tmp_path / "photo.dng"])
    Image.fromarray(RAMP).save(tmp_path / "photo.png")
    found = find_pictures([tmp_path])
    assert [source.label for source in found.sources] == ["photo.png"]
    assert [failure.label for failure in found.failures] == ["photo.dng"]


# with rawpy


@needs_rawpy
@pytest.mark.parametrize("orientation", range(1, 9))
def test_raw_is_developed_in_srgb_and_turned_upright_once(tmp_path, orientation):
    content = dng(RAMP, orientation)
    (tmp_path / "photo.dat").write_bytes(content)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.fromarray(RAMP).save(stream, "PNG", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(stream))
    picture, digest = read_picture(tmp_path / "photo.dat")
    assert (picture.mode, picture.size) == ("RGB", expected.size)
    assert np.abs(np.asarray(picture).astype(int) - np.asarray(expected)).mean() < 6
    assert digest == hashlib.sha256(content).hexdigest()
    assert identify(tmp_path / "photo.dat").size == (96, 64)


@needs_rawpy
def test_a_raw_bomb_is_refused_by_its_header(tmp_path):
    (tmp_path / "bomb.dng").write_bytes(dng(RAMP, claims=(40_000, 40_000)))
    for read in (identify, read_picture):
        with pytest.raises(PictureError, match="larger than 178,956,970 pixels"):
            read(tmp_path / "bomb.dng")


@needs_rawpy
def test_raw_that_is_cut_off_or_of_another_kind_is_refused_in_one_line_and_quietly(tmp_path, capfd):
    (tmp_path / "cut.dng").write_bytes(dng(RAMP, claims=(96, 640)))  # a tenth of its pixels are there
    with pytest.raises(PictureError, match=r"cannot be developed, it is damaged or cut off \("):
        read_picture(tmp_path / "cut.dng")
    (tmp_path / "other.raf").write_bytes(b"FUJIFILMCCD-RAW 0201" + bytes(2000))
    with pytest.raises(PictureError, match=r"is camera raw of a kind that LibRaw|cannot be developed"):
        identify(tmp_path / "other.raf")
    assert capfd.readouterr().err == ""

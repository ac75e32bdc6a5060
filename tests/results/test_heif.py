"""HEIC and AVIF, as phones write them: turned once, in their own colours, bounded before they are decoded."""

import io
import struct

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageOps
from profiles import swapped_profile

from errors import PictureError
from results.pictures import find_pictures
from results.reading import identify, read_picture

SIZE = 96, 64
ROWS, COLUMNS = np.mgrid[0 : SIZE[1], 0 : SIZE[0]]
RAMP = np.stack([COLUMNS * 2, ROWS * 3, COLUMNS + ROWS], axis=-1).astype(np.uint8)


@pytest.fixture
def rgb() -> Image.Image:
    return Image.fromarray(RAMP)


def encoded(image: Image.Image, file_format: str = "HEIF", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **({"quality": 90} | options))
    return stream.getvalue()


def pixels(path, content: bytes) -> np.ndarray:
    path.write_bytes(content)
    return np.asarray(read_picture(path)[0]).astype(int)


def orientation(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


@pytest.mark.parametrize("file_format", ["HEIF", "AVIF"])
@pytest.mark.parametrize("number", range(1, 9))
def test_a_photo_is_turned_once_though_both_exif_and_heif_say_how(rgb, tmp_path, file_format, number):
    content = encoded(rgb, file_format, exif=orientation(number).tobytes())
    assert (b"irot" in content or b"imir" in content) == (number != 1)
    stream = io.BytesIO()
    rgb.save(stream, "PNG", exif=orientation(number))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(stream))).astype(int)
    read = pixels(tmp_path / "photo", content)
    assert read.shape == expected.shape
    assert np.abs(read - expected).mean() < 3


def test_exif_alone_does_not_turn_a_heic_as_its_standard_says(rgb, tmp_path):
    content = encoded(rgb, exif=orientation(6))
    assert b"irot" not in content
    assert np.abs(pixels(tmp_path / "photo", content) - RAMP).mean() < 3


def test_a_size_that_a_heic_tells_before_it_is_turned_or_after_is_one_of_its_picture(rgb, tmp_path):
    (tmp_path / "p.heic").write_bytes(encoded(rgb, exif=orientation(6).tobytes()))
    assert sorted(identify(tmp_path / "p.heic").size) == sorted(SIZE)


@pytest.mark.parametrize("file_format", ["HEIF", "AVIF"])
def test_its_icc_profile_is_converted_to_srgb(tmp_path, file_format):
    image = Image.new("RGB", (64, 64), (250, 10, 10))
    red, green, _ = pixels(tmp_path / "photo", encoded(image, file_format, icc_profile=swapped_profile()))[
        5, 5
    ]
    assert green > 200 > 60 > red


@pytest.mark.parametrize("file_format", ["HEIF", "AVIF"])
def test_its_transparency_is_flattened_on_white(tmp_path, file_format):
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 32, 64))
    read = pixels(tmp_path / "photo", encoded(image, file_format))
    assert read[:, :30].max() < 10
    assert read[:, 34:].min() > 245


def test_10_bits_of_colour_and_of_grey_are_scaled_to_8(rgb, tmp_path):
    deep = RAMP.astype(np.uint16) * 257
    colour = pillow_heif.from_bytes("RGB;16", SIZE, deep.tobytes())
    grey = pillow_heif.from_bytes("I;16", SIZE, deep[..., 0].tobytes())
    for file, expected in ((colour, RAMP), (grey, RAMP[..., :1])):
        stream = io.BytesIO()
        file.save(stream, quality=-1, chroma=444)
        assert pillow_heif.open_heif(stream, convert_hdr_to_8bit=False).info["bit_depth"] == 10
        assert np.abs(pixels(tmp_path / "photo", stream.getvalue()) - expected).max() <= 2


@pytest.mark.parametrize(
    ("number", "name"), [({"color_primaries": 12}, "Display P3"), ({"transfer_characteristics": 16}, "PQ")]
)
def test_colours_beyond_srgb_that_no_profile_describes_are_named(rgb, tmp_path, caplog, number, name):
    srgb = {
        "color_primaries": 1,
        "transfer_characteristics": 13,
        "matrix_coefficients": 6,
        "full_range_flag": 1,
    }
    pixels(tmp_path / "plain", encoded(rgb, **srgb))
    assert caplog.text == ""
    pixels(tmp_path / "photo", encoded(rgb, **(srgb | number)))
    assert f"photo: its colours are {name}, and are taken as sRGB" in caplog.text


def test_of_several_pictures_in_a_heic_the_primary_one_is_taken(rgb, tmp_path):
    other = Image.new("RGB", SIZE, "red")
    content = encoded(other, save_all=True, append_images=[rgb], primary_index=1)
    assert np.abs(pixels(tmp_path / "burst.heic", content) - RAMP).mean() < 3
    assert find_pictures([tmp_path]).sources[0].more == "several"


def with_size(content: bytes, told: tuple[int, int]) -> bytes:
    """Make a HEIC tell another size than its picture has."""
    assert struct.pack(">II", *SIZE) in content
    return content.replace(struct.pack(">II", *SIZE), struct.pack(">II", *told))


def test_a_decompression_bomb_is_refused_by_its_header(rgb, tmp_path):
    (tmp_path / "bomb.heic").write_bytes(with_size(encoded(rgb), (60_000, 60_000)))
    with pytest.raises(PictureError, match="larger than 178,956,970 pixels"):
        identify(tmp_path / "bomb.heic")


@pytest.mark.parametrize("told", [(16, 16), (13_000, 13_000)])
def test_a_header_that_lies_about_the_size_is_found_out(rgb, tmp_path, told):
    with pytest.raises(PictureError, match="cannot be decoded"):
        pixels(tmp_path / "liar.heic", with_size(encoded(rgb), told))


@pytest.mark.parametrize("file_format", ["HEIF", "AVIF"])
@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.95])
def test_a_photo_that_is_cut_off_is_refused_in_one_line(rgb, tmp_path, capfd, file_format, share):
    content = encoded(rgb, file_format)
    with pytest.raises(PictureError, match=r"cut off|damaged|is not a picture") as refused:
        pixels(tmp_path / "cut.heic", content[: int(share * len(content))])
    assert "\n" not in str(refused.value)
    assert capfd.readouterr().err == ""

"""Reading: every format by its content, as people see it; and refusals that say why."""

import errno
import io
import struct
import zlib
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
from PIL import Image, ImageCms
from profiles import swapped_profile

from errors import InputError, PictureError
from results import pictures
from results.output_tree import assign_names, is_name
from results.pictures import Source, find_pictures
from results.reading import read_picture as read_picture_and_sum

RAMP = np.linspace(0, 255, 48 * 32 * 3).reshape(32, 48, 3).astype(np.uint8)


def read_picture(file: Path) -> Image.Image:
    return read_picture_and_sum(file)[0]


@pytest.fixture
def rgb() -> Image.Image:
    return Image.fromarray(RAMP)


def saved(image: Image.Image, path, file_format: str, **options):
    image.save(path, file_format, **options)
    return path


def pixels(path) -> np.ndarray:
    return np.asarray(read_picture(path)).astype(int)


@pytest.mark.parametrize(
    "file_format",
    [
        "PNG",
        "BMP",
        "TIFF",
        "WEBP",
        "PPM",
        "TGA",
        "GIF",
        "JPEG",
        "JPEG2000",
        "AVIF",
        "HEIF",
        "QOI",
        "ICO",
        "DDS",
    ],
)
def test_a_picture_is_read_whatever_its_format_and_its_name(rgb, tmp_path, file_format):
    size = (32, 32) if file_format == "ICO" else rgb.size
    image = rgb.resize(size)
    # the name lies: only the content counts
    path = saved(
        image, tmp_path / "picture.dat", file_format, **({"sizes": [size]} if file_format == "ICO" else {})
    )
    read = read_picture(path)
    assert (read.mode, read.size) == ("RGB", size)
    assert np.abs(np.asarray(read).astype(int) - np.asarray(image)).mean() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(rgb, tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    read = read_picture(saved(rgb, tmp_path / "turned.png", "PNG", exif=exif))
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    expected = rgb if orientation == 1 else rgb.transpose(turn[orientation])
    assert np.array_equal(np.asarray(read), np.asarray(expected))


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_orientation_is_applied_to_uncompressed_tiffs_of_every_mode(rgb, tmp_path, mode, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(RAMP[..., 0].astype(np.uint16) * 257) if mode == "I;16" else rgb.convert(mode)
    plain = pixels(saved(image, tmp_path / "plain.tif", "TIFF"))
    turned = pixels(saved(image, tmp_path / "turned.tif", "TIFF", exif=exif))
    assert np.array_equal(turned, np.rot90(plain, {1: 0, 3: 2, 6: 3, 8: 1}[orientation]))


def test_exif_data_that_cannot_be_read_does_not_matter(rgb, tmp_path):
    assert np.array_equal(pixels(saved(rgb, tmp_path / "odd.png", "PNG", exif=b"Exif\0\0garbage")), RAMP)


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path):
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    for name, file_format in (("grey.png", "PNG"), ("grey.tif", "TIFF"), ("grey.pgm", "PPM")):
        read = pixels(saved(Image.fromarray(values), tmp_path / name, file_format))[..., 0]
        assert np.abs(read - values / 257).max() <= 0.5


def test_16_bit_colour_is_scaled(tmp_path):
    values = np.linspace(0, 65535, 8 * 8 * 3).astype(">u2")
    path = tmp_path / "colour.ppm"
    path.write_bytes(b"P6 8 8 65535\n" + values.tobytes())
    assert np.abs(pixels(path).ravel() - values / 257.0).max() < 1.01


def test_floats_between_0_and_1_are_scaled(tmp_path):
    values = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    read = pixels(saved(Image.fromarray(values), tmp_path / "float.tif", "TIFF"))[..., 0]
    assert np.abs(read - values * 255).max() <= 0.5


def test_floats_may_overshoot_a_little(tmp_path):
    values = np.full((40, 40), 0.5, np.float32)
    values[0, 0], values[0, 1] = 1.01, -0.01
    read = pixels(saved(Image.fromarray(values), tmp_path / "float.tif", "TIFF"))[..., 0]
    assert (read[0, 0], read[0, 1], read[5, 5]) == (255, 0, 128)


def test_values_beyond_16_bits_are_refused_with_their_range(tmp_path):
    path = saved(Image.fromarray(np.full((40, 40), 70_000, np.int32)), tmp_path / "wide.tif", "TIFF")
    with pytest.raises(PictureError, match=r"70000.*8 or 16 bits"):
        read_picture(path)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_flattened_on_white(tmp_path, mode):
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 20, 40))
    path = saved(image.convert(mode), tmp_path / "clear.tif", "TIFF")
    assert pixels(path)[:, :20].max() == 0
    assert pixels(path)[:, 20:].min() == 255


def test_a_transparent_palette_entry_is_flattened_on_white(tmp_path):
    image = Image.new("P", (40, 40), 0)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.paste(1, (0, 0, 20, 40))
    path = saved(image, tmp_path / "clear.png", "PNG", transparency=0)
    assert tuple(pixels(path)[0, 0]) == (10, 20, 30)
    assert pixels(path)[:, 20:].min() == 255


def test_half_transparent_pixels_mix_with_white(tmp_path):
    path = saved(Image.new("RGBA", (40, 40), (200, 0, 0, 128)), tmp_path / "half.png", "PNG")
    assert np.abs(pixels(path)[0, 0] - [227, 127, 127]).max() <= 1


@pytest.mark.parametrize(
    ("mode", "file_format"),
    [
        ("1", "PNG"),
        ("L", "PNG"),
        ("P", "PNG"),
        ("CMYK", "JPEG"),
        ("CMYK", "TIFF"),
        ("YCbCr", "JPEG"),
        ("LAB", "TIFF"),
    ],
)
def test_every_colour_mode_becomes_rgb(rgb, tmp_path, mode, file_format):
    if mode == "LAB":
        lab = ImageCms.profileToProfile(
            rgb, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
        path = saved(lab, tmp_path / "picture", file_format)
    else:
        path = saved(rgb.convert(mode), tmp_path / "picture", file_format)
    read = read_picture(path)
    assert read.mode == "RGB"
    assert np.abs(np.asarray(read).astype(int).mean() - RAMP.mean()) < 8


@pytest.mark.parametrize(
    ("file_format", "more"),
    [("GIF", "animated"), ("PNG", "animated"), ("WEBP", "animated"), ("AVIF", "animated"), ("TIFF", "pages")],
)
def test_the_first_frame_of_an_animation_is_taken_and_known_to_be_one(tmp_path, file_format, more):
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "green", "blue")]
    path = tmp_path / "moving"
    frames[0].save(path, file_format, save_all=True, append_images=frames[1:])
    assert np.abs(pixels(path)[0, 0] - (255, 0, 0)).max() <= 3
    assert find_pictures([path]).sources[0].more == more
    saved(frames[0], tmp_path / "still", file_format)
    assert find_pictures([tmp_path / "still"]).sources[0].more == ""


def test_the_second_picture_in_a_phones_jpeg_is_no_animation(tmp_path):
    red, blue = (Image.new("RGB", (40, 40), colour) for colour in ("red", "blue"))
    red.save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[blue])
    assert find_pictures([tmp_path]).sources[0].more == ""


def test_an_icc_profile_is_converted_to_srgb(tmp_path):
    image = Image.new("RGB", (40, 40), (250, 10, 10))
    path = saved(image, tmp_path / "wide.png", "PNG", icc_profile=swapped_profile())
    red, green, blue = pixels(path)[0, 0]
    assert green > 200 > 60 > red, (red, green, blue)


def test_an_icc_profile_leaves_transparency_where_it_was(tmp_path):
    path = saved(
        Image.new("RGBA", (40, 40), (250, 10, 10, 0)),
        tmp_path / "clear.png",
        "PNG",
        icc_profile=swapped_profile(),
    )
    assert pixels(path).min() == 255


def test_an_srgb_profile_changes_no_pixel(rgb, tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(pixels(saved(rgb, tmp_path / "srgb.png", "PNG", icc_profile=profile)), RAMP)


def test_a_profile_that_only_calls_itself_srgb_is_converted(tmp_path):
    profile = swapped_profile().replace("ours".encode("utf-16-be"), "sRGB".encode("utf-16-be"))
    image = Image.new("RGB", (40, 40), (250, 10, 10))
    assert pixels(saved(image, tmp_path / "liar.png", "PNG", icc_profile=profile))[0, 0, 1] > 200


def test_no_metadata_is_carried_on(rgb, tmp_path):
    assert read_picture(saved(rgb, tmp_path / "odd.png", "PNG", icc_profile=b"nonsense" * 20)).info == {}


def test_a_broken_icc_profile_is_passed_over_with_a_warning(rgb, tmp_path, caplog):
    assert np.array_equal(pixels(saved(rgb, tmp_path / "odd.png", "PNG", icc_profile=b"nonsense" * 20)), RAMP)
    assert "odd.png" in caplog.text


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path):
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    body = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body + b"\0\0\0\0IDAT\x35\xaf\x06\x1e")
    with pytest.raises(PictureError, match="larger than 178,956,970 pixels"):
        read_picture(tmp_path / "bomb.png")


def truncated_jpeg(rgb) -> bytes:
    stream = io.BytesIO()
    rgb.resize((400, 300)).save(stream, "JPEG")
    return stream.getvalue()[: len(stream.getvalue()) // 2]


def test_truncated_empty_and_foreign_files_are_refused_with_the_reason(rgb, tmp_path):
    (tmp_path / "cut.jpg").write_bytes(truncated_jpeg(rgb))
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere")
    for name, reason in (
        ("cut.jpg", "cut off"),
        ("empty.png", "0 bytes"),
        ("text.png", "not a picture"),
        ("folder.png", "is a folder"),
        ("link.png", "link to nothing"),
    ):
        with pytest.raises(PictureError, match=reason):
            read_picture(tmp_path / name)


def test_a_folder_yields_its_pictures_names_what_only_looks_like_one_and_counts_the_rest(rgb, tmp_path):
    saved(rgb, tmp_path / "b.png", "PNG")
    saved(rgb, tmp_path / "a without ending", "PNG")
    for skipped in ("notes.txt", "paper.pdf", "clip.mp4", "drawing.svg", "without ending"):
        (tmp_path / skipped).write_text("no picture")
    for named in ("phone.HEIC", "camera.NEF", "text.PNG", "new.jxl"):
        (tmp_path / named).write_text("no picture either")
    found = find_pictures([tmp_path])
    assert [source.label for source in found.sources] == ["a without ending", "b.png"]
    assert sorted(failure.label for failure in found.failures) == [
        "camera.NEF",
        "new.jxl",
        "phone.HEIC",
        "text.PNG",
    ]
    assert sorted(found.skipped) == ["clip.mp4", "drawing.svg", "notes.txt", "paper.pdf", "without ending"]


def test_what_systems_lay_into_folders_of_pictures_is_not_counted(rgb, tmp_path):
    saved(rgb, tmp_path / "p.png", "PNG")
    for name in (".DS_Store", "._p.png", ".hidden.png", "Thumbs.db", "desktop.ini", "IMG_1.AAE", "p.xmp"):
        (tmp_path / name).write_text("no picture")
    found = find_pictures([tmp_path])
    assert (found.failures, found.skipped) == ([], [])


@pytest.mark.parametrize(
    ("content", "way_out"),
    [
        (b"%PDF-1.7\n", "is a PDF and no picture; save the page"),
        (b'<?xml version="1.0"?>\n<!-- by hand -->\n<svg width="4">', "is a drawing \\(SVG\\).* as PNG"),
        (b"\xef\xbb\xbf <svg>", "is a drawing"),
        (b"\0\0\0\x20ftypisom\0\0\2\0", "is a video and no picture; save a frame"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0", "is a video"),
        (b"\x1aE\xdf\xa3\1\0\0\0", "is a video"),
        (b"RIFF\0\0\1\0AVI LIST", "is a video"),
        (b"\0\0\1\xba\x44\0\4\0", "is a video"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "is PostScript"),
        (b"\xff\x0a\x10\x20", "is JPEG XL"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "is a HEIC or AVIF file, but damaged"),
        (b"shopping list", "is not a picture in a format that is read"),
    ],
)
def test_what_is_no_picture_is_named_with_the_way_out_where_it_is_given_by_hand(tmp_path, content, way_out):
    (tmp_path / "given").write_bytes(content)
    with pytest.raises(InputError, match=f"nothing to zoom into: given: {way_out}"):
        find_pictures([tmp_path / "given"])


def test_a_file_that_no_picture_fills_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(2**31 + 1)
    with pytest.raises(PictureError, match="is larger than 2 GiB"):
        read_picture(tmp_path / "huge.png")


@pytest.mark.parametrize("folder", ["trip", "trip.jpg"])
def test_a_folder_in_the_folder_is_passed_over_or_searched_whatever_its_name(rgb, tmp_path, folder):
    (tmp_path / folder).mkdir()
    saved(rgb, tmp_path / folder / "inside.png", "PNG")
    saved(rgb, tmp_path / "p.png", "PNG")
    for recursive, labels in ((False, ["p.png"]), (True, ["p.png", f"{folder}/inside.png"])):
        found = find_pictures([tmp_path], recursive=recursive)
        assert (sorted(source.label for source in found.sources), found.failures) == (labels, [])


def test_recursive_folders_are_searched_but_not_the_output_folder(rgb, tmp_path):
    for place in ("x", "x/y", "results"):
        (tmp_path / place).mkdir()
        saved(rgb, tmp_path / place / "p.png", "PNG")
    found = find_pictures([tmp_path], recursive=True, leave_out=[tmp_path / "results"])
    assert [source.label for source in found.sources] == ["x/p.png", "x/y/p.png"]


def test_a_file_named_twice_is_taken_once(rgb, tmp_path):
    path = saved(rgb, tmp_path / "p.png", "PNG")
    found = find_pictures([tmp_path, path, path])
    assert len(found.sources) == 1


def test_pictures_of_one_label_are_told_apart_by_their_folders(rgb, tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        saved(rgb, tmp_path / folder / "p.png", "PNG")
    found = find_pictures([tmp_path / "x", tmp_path / "y"])
    assert [source.label for source in found.sources] == ["x/p.png", "y/p.png"]


def test_a_link_to_itself_is_named_and_stops_nothing(rgb, tmp_path):
    saved(rgb, tmp_path / "p.png", "PNG")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    found = find_pictures([tmp_path])
    assert [source.label for source in found.sources] == ["p.png"]
    assert [(failure.label, failure.reason) for failure in found.failures] == [
        ("loop.png", "is a link to nothing")
    ]


@pytest.mark.posix
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(PictureError, match="not a regular file"):
        read_picture(tmp_path / "pipe.png")


class FailingDisk(io.FileIO):
    """A file that opens, and whose bytes do not come."""

    error: type[Exception] | Exception = OSError(errno.EIO, "Input/output error")

    def read(self, *_):
        raise self.error

    readall = readinto = read


@pytest.mark.parametrize("name", ["bad.png", "bad.nef"])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EIO, "Input/output error"), "cannot be read (Input/output error)"),
        (MemoryError(), "does not fit into memory; make it smaller first"),
    ],
    ids=["disk", "memory"],
)
def test_a_file_whose_bytes_do_not_come_fails_alone(rgb, tmp_path, monkeypatch, name, error, reason):
    saved(rgb, tmp_path / name, "PNG")
    saved(rgb, tmp_path / "good.png", "PNG")
    really = Path.open
    monkeypatch.setattr(FailingDisk, "error", error)
    monkeypatch.setattr(
        Path, "open", lambda file, mode: (FailingDisk if file.name == name else really)(file, mode)
    )
    found = find_pictures([tmp_path])
    assert [source.label for source in found.sources] == ["good.png"]
    assert [(failure.label, failure.reason) for failure in found.failures] == [(name, reason)]
    with pytest.raises(PictureError) as refused:
        read_picture(tmp_path / name)
    assert str(refused.value) == reason


def test_files_of_a_folder_that_only_tells_their_names_fail_alone(rgb, tmp_path, monkeypatch):
    """A folder that may be read and not entered (r--): root may, so the first look itself is made to fail."""
    for place in ("closed/a.png", "closed/inside/b.png", "good.png"):
        (tmp_path / place).parent.mkdir(exist_ok=True, parents=True)
        saved(rgb, tmp_path / place, "PNG")
    really = Path.is_symlink

    def refusing(file):
        if file.parent.name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return really(file)

    monkeypatch.setattr(Path, "is_symlink", refusing)
    found = find_pictures([tmp_path], recursive=True)
    assert [source.label for source in found.sources] == ["closed/inside/b.png", "good.png"]
    assert [(one.label, one.reason) for one in found.failures] == [
        ("closed/a.png", "cannot be opened (Permission denied)")
    ]
    with pytest.raises(PictureError, match="cannot be opened"):
        read_picture(tmp_path / "closed/a.png")


def test_nothing_to_zoom_into_is_an_error_that_says_so(tmp_path):
    with pytest.raises(InputError, match=r"no picture in there \(folders inside.*--recursive_folders"):
        find_pictures([tmp_path])
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="no picture in there, only other files"):
        find_pictures([tmp_path])
    (tmp_path / "bad.png").touch()
    with pytest.raises(InputError, match=r"bad\.png: is empty"):
        find_pictures([tmp_path])


def test_drives_and_shares_of_windows_have_forward_slashes_in_labels(monkeypatch):
    monkeypatch.setattr(pictures, "real_path", lambda path: path)
    files = [PureWindowsPath(path) for path in (r"C:\in\a.png", r"D:\in\a.png", r"\\nas\in\a.png")]
    found = pictures._tell_apart([Source(file, "a.png") for file in files])
    assert [source.label for source in found] == ["C:/in/a.png", "D:/in/a.png", "//nas/in/a.png"]
    assert [is_name(name) for name in assign_names(found, {}).values()] == [True] * 3

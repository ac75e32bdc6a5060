"""Where the command zooms: a point, a box, spots, the whole picture, other sizes."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import PARITY
from PIL import Image

SCENE = PARITY / "input" / "scene.png"
RESIZE = ("--process_size", 64, "--rec_num", 2, "--rec_type", "bicubic")
SMALL = ("--process_size", 64, "--rec_num", 2)


def report(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_bytes())


def states(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted((folder / "per-scale").rglob("*.png"))
    }


def pixels(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.fixture(scope="session")
def photograph(tmp_path_factory) -> Path:
    """A picture of 768x512 with detail everywhere, so that windows of 64 pixels hold real ones for long."""
    file = tmp_path_factory.mktemp("photograph") / "photo.png"
    x, y = np.meshgrid(np.arange(768), np.arange(512))
    channels = [128 + 90 * np.sin(x / 7 + y / 29), 128 + 90 * np.sin(y / 5), (x * y) % 251]
    Image.fromarray(np.stack(channels, axis=-1).clip(0, 255).astype(np.uint8)).save(file)
    return file


# Real pixels first


def test_a_state_shows_the_pictures_own_pixels_as_long_as_the_window_holds_enough(
    command, tmp_path, photograph
):
    assert command("inference_coz", "-i", photograph, "-o", tmp_path / "out", *SMALL).code == 0
    [picture] = report(tmp_path / "out")["pictures"]
    first, second = picture["steps"]
    assert (first["made"], first["window_of"], first["view"]) == ("real", None, [320, 192, 128, 128])
    with Image.open(photograph) as image:
        expected = image.crop((320, 192, 448, 320)).resize((64, 64), Image.Resampling.LANCZOS)
    assert np.array_equal(pixels(tmp_path / "out/per-sample/photo/1.png"), np.asarray(expected).astype(int))
    assert (first["prompt"], first["seed"], first["consistency"]) == (None, None, None)
    assert not (tmp_path / "out/per-sample/photo/1_input.png").exists(), "no network took part"
    assert second["made"] == "enlarged"
    assert second["window"][2:] == [32, 32]


def test_shrunk_zooms_into_the_small_picture_as_published(command, tmp_path, photograph):
    arguments = ("-i", photograph, "-o", tmp_path / "out", *SMALL, "--source", "shrunk")
    assert command("inference_coz", *arguments).code == 0
    [picture] = report(tmp_path / "out")["pictures"]
    assert [step["window_of"] for step in picture["steps"]] == [0, 1]
    assert [step["window"] for step in picture["steps"]] == [[24, 24, 16, 16]] * 2


def test_real_pixels_are_nearer_to_the_truth_than_invented_ones(command, tmp_path, photograph):
    for source in ("native", "shrunk"):
        arguments = ("-i", photograph, "-o", tmp_path / source, *SMALL, "--rec_num", 1, "--source", source)
        assert command("inference_coz", *arguments).code == 0
    with Image.open(photograph) as image:
        truth = image.crop((320, 192, 448, 320)).resize((64, 64), Image.Resampling.BICUBIC)
    away = {
        source: np.abs(pixels(tmp_path / source / "per-scale/scale1/photo.png") - np.asarray(truth)).mean()
        for source in ("native", "shrunk")
    }
    assert away["native"] < away["shrunk"] / 4


def test_a_small_picture_gives_the_same_pixels_with_both_sources(command, tmp_path):
    small = tmp_path / "small.png"
    with Image.open(SCENE) as image:
        image.convert("RGB").resize((60, 64)).save(small)
    for source in ("native", "shrunk"):
        arguments = ("-i", small, "-o", tmp_path / source, *SMALL, "--source", source)
        assert command("inference_coz", *arguments).code == 0
    assert states(tmp_path / "native") == states(tmp_path / "shrunk")


def test_the_strip_marks_where_invention_begins(command, tmp_path, photograph):
    arguments = ("-i", photograph, "-o", tmp_path / "out", *SMALL, "--rec_num", 3)
    assert command("inference_coz", *arguments).code == 0
    with Image.open(tmp_path / "out/recursive/photo.png") as strip:
        colours = [strip.getpixel((64 * number + 10, strip.height - 1)) for number in range(4)]
    assert colours[0] == colours[1]
    assert len(set(colours)) == 3


def test_a_run_killed_among_real_states_goes_on_to_the_same_pixels(command, tmp_path, photograph):
    arguments = ("-i", photograph, *SMALL, "--rec_num", 3)
    command("inference_coz", *arguments, "-o", tmp_path / "whole")
    command("inference_coz", *arguments, "-o", tmp_path / "out")
    content = report(tmp_path / "out")
    content["status"] = "running"
    content["pictures"][0]["status"] = "started"
    for step in content["pictures"][0]["steps"][1:]:
        step["done"] = False
    (tmp_path / "out/run.json").write_text(json.dumps(content))
    for file in ("per-sample/photo/2.png", "per-sample/photo/3.png", "recursive/photo.png"):
        (tmp_path / "out" / file).unlink()
    assert command("inference_coz", *arguments, "-o", tmp_path / "out").code == 0
    assert states(tmp_path / "out") == states(tmp_path / "whole")


# A point, a box, another aspect


def test_center_zooms_into_the_point_and_its_default_is_the_middle(command, tmp_path, photograph):
    for name, point in (("default", ()), ("middle", ("--center", 0.5, 0.5)), ("corner", ("--center", 1, 0))):
        assert command("inference_coz", "-i", photograph, "-o", tmp_path / name, *RESIZE, *point).code == 0
    assert states(tmp_path / "default") == states(tmp_path / "middle")
    [picture] = report(tmp_path / "corner")["pictures"]
    views = [picture["view"], *(step["view"] for step in picture["steps"])]
    assert all(left + width == 768 and top == 0 for left, top, width, _ in views)
    assert [round(width) for _, _, width, _ in views] == [512, 128, 32]


def test_the_point_is_one_of_the_picture_as_it_is_seen(command, tmp_path):
    """EXIF says that the camera was held upright."""
    values = np.zeros((200, 300, 3), np.uint8)
    values[:, 280:] = (255, 0, 0)  # the right edge as stored is the bottom as seen
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(values).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    arguments = ("-i", tmp_path / "turned.jpg", "-o", tmp_path / "out", *RESIZE, "--center", 0.5, 1)
    assert command("inference_coz", *arguments).code == 0
    assert report(tmp_path / "out")["pictures"][0]["size"] == [200, 300]
    red, green, _ = pixels(tmp_path / "out/per-sample/turned/2.png")[-1, 32]
    assert red > 200
    assert green < 60


def test_a_box_gives_the_pixels_of_the_picture_cut_to_it(command, tmp_path, photograph):
    with Image.open(photograph) as image:
        image.crop((77, 102, 461, 410)).save(tmp_path / "photo.png")
    command("inference_coz", "-i", tmp_path / "photo.png", "-o", tmp_path / "cut", *SMALL)
    arguments = ("-i", photograph, "-o", tmp_path / "box", *SMALL, "--box", 0.1, 0.2, 0.6, 0.8)
    assert command("inference_coz", *arguments).code == 0
    assert states(tmp_path / "box") == states(tmp_path / "cut")


def test_states_need_not_be_square(command, tmp_path, photograph):
    arguments = ("-i", photograph, "-o", tmp_path / "out", "--process_size", "96x64", "--rec_num", 2)
    assert command("inference_coz", *arguments).code == 0
    for step in range(3):
        assert pixels(tmp_path / f"out/per-sample/photo/{step}.png").shape == (64, 96, 3)
    assert report(tmp_path / "out")["pictures"][0]["view"][2] == 768


# Several spots


def test_regions_give_every_spot_a_chain_of_its_own_by_its_label(command, tmp_path, photograph):
    (tmp_path / "spots.csv").write_text("file,x,y,label\nphoto.png,0.1,0.2,eye\nphoto.png,0.9,0.9,\n")
    arguments = ("-i", photograph, SCENE, *RESIZE, "--regions", tmp_path / "spots.csv")
    done = command("inference_coz", *arguments, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert {file.stem for file in (tmp_path / "out/recursive").iterdir()} == {"photo~eye", "photo~2", "scene"}
    command("inference_coz", "-i", photograph, *RESIZE, "-o", tmp_path / "eye", "--center", 0.1, 0.2)
    for scale in range(3):
        of_spot = tmp_path / f"out/per-scale/scale{scale}/photo~eye.png"
        assert of_spot.read_bytes() == (tmp_path / f"eye/per-scale/scale{scale}/photo.png").read_bytes()


def test_spots_of_one_picture_are_read_from_it_once(command, tmp_path, photograph, monkeypatch):
    from zoom import state_files

    read, seen = state_files.read_picture, []
    monkeypatch.setattr(state_files, "read_picture", lambda file: seen.append(file) or read(file))
    (tmp_path / "spots.csv").write_text("file,x,y\n" + "".join(f"photo.png,{k / 9},0.5\n" for k in range(5)))
    arguments = ("-i", photograph, SCENE, *RESIZE, "--regions", tmp_path / "spots.csv")
    assert command("inference_coz", *arguments, "-o", tmp_path / "out").code == 0
    assert sorted(file.name for file in seen) == ["photo.png", "scene.png"]


def test_a_spot_that_was_moved_is_done_again_and_the_others_are_not(command, tmp_path, photograph):
    table = tmp_path / "spots.csv"
    arguments = ("-i", photograph, *RESIZE, "--regions", table, "-o", tmp_path / "out")
    table.write_text("file,x,y\nphoto.png,0.1,0.2\nphoto.png,0.8,0.8\n")
    command("inference_coz", *arguments)
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out/recursive").iterdir()}
    table.write_text("file,x,y\nphoto.png,0.3,0.2\nphoto.png,0.8,0.8\nphoto.png,0.5,0.5\n")
    assert command("inference_coz", *arguments).code == 0
    after = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out/recursive").iterdir()}
    assert after["photo~2.png"] == before["photo~2.png"]
    assert after["photo~1.png"] > before["photo~1.png"]
    assert "photo~3.png" in after
    assert report(tmp_path / "out")["pictures"][0]["center"] == [0.3, 0.2]


def test_the_prompts_of_spots_can_be_used_again(command, tmp_path, photograph):
    (tmp_path / "spots.csv").write_text("file,x,y,label\nphoto.png,0.1,0.2,eye\nphoto.png,0.9,0.9,\n")
    arguments = ("-i", photograph, *SMALL, "--regions", tmp_path / "spots.csv")
    command("inference_coz", *arguments, "-o", tmp_path / "out", "--prompt", "fur")
    with (tmp_path / "out/prompts.csv").open(newline="") as stream:
        assert {row["file"] for row in csv.DictReader(stream)} == {"photo.png~eye", "photo.png~2"}
    again = command(
        *("inference_coz", *arguments, "-o", tmp_path / "again"),
        "--prompts_file",
        tmp_path / "out/prompts.csv",
    )
    assert again.code == 0
    assert "there is no such" not in again.err


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("photo.png,0.5,1.5", "line 3"),
        ("nobody.png,0.5,0.5", "line 3"),
        ("photo.png,0.5", "line 3"),
        ("photo.png,0.5,0.5,a/b", "line 3"),
        ("photo.png,0.5,0.5,EYE", "line 3"),
    ],
)
def test_a_bad_row_is_named_by_its_line_before_anything_starts(command, tmp_path, photograph, row, reason):
    (tmp_path / "spots.csv").write_text(f"file,x,y,label\nphoto.png,0.1,0.2,eye\n{row}\n")
    arguments = ("-i", photograph, *RESIZE, "--regions", tmp_path / "spots.csv", "-o", tmp_path / "out")
    done = command("inference_coz", *arguments)
    assert done.code == 2
    assert reason in done.err
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


# Spots that are found


@pytest.fixture
def detailed(tmp_path) -> Path:
    """A grey picture with two chequered patches."""
    values = np.full((300, 400, 3), 120, np.uint8)
    for left, top in ((60, 80), (280, 180)):
        y, x = np.mgrid[:40, :40]
        values[top : top + 40, left : left + 40] = ((x // 5 + y // 5) % 2 * 200)[..., None]
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(values).save(folder / "patches.png")
    return folder


def test_find_detail_proposes_spots_draws_them_and_zooms_into_them(command, tmp_path, detailed):
    done = command("inference_coz", "-i", detailed, *RESIZE, "--find_detail", 2, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert {file.stem for file in (tmp_path / "out/recursive").iterdir()} == {"patches~1", "patches~2"}
    assert pixels(tmp_path / "out/spots/patches.png").shape == (300, 400, 3)
    found = sorted(picture["center"] for picture in report(tmp_path / "out")["pictures"])
    assert np.allclose(found, [[0.2, 1 / 3], [0.75, 2 / 3]], atol=0.08)


def test_what_is_only_proposed_can_be_edited_and_zoomed_into(command, tmp_path, detailed):
    out = tmp_path / "out"
    done = command("inference_coz", "-i", detailed, *RESIZE, "--find_detail", 2, "--dry_run", "-o", out)
    assert done.code == 0
    assert "2 to zoom into" in done.out
    assert {path.name for path in out.iterdir()} == {"spots.csv", "spots"}
    again = command("inference_coz", "-i", detailed, *RESIZE, "--regions", out / "spots.csv", "-o", out)
    assert again.code == 0
    assert {file.stem for file in (out / "recursive").iterdir()} == {"patches~1", "patches~2"}


def test_a_picture_without_detail_is_zoomed_into_in_its_middle(command, tmp_path):
    Image.new("RGB", (100, 100), "grey").save(tmp_path / "flat.png")
    done = command(
        *("inference_coz", "-i", tmp_path / "flat.png", *RESIZE, "--find_detail", 2, "-o", tmp_path / "out")
    )
    assert done.code == 0
    assert "there is no detail in it" in done.err
    assert {file.stem for file in (tmp_path / "out/recursive").iterdir()} == {"flat"}


def test_pictures_of_one_name_in_two_folders_keep_their_own_spots(command, tmp_path, detailed):
    for side in ("a", "b"):
        (tmp_path / side / "x").mkdir(parents=True)
    with Image.open(detailed / "patches.png") as image:
        image.save(tmp_path / "a/x/p.png")
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "b/x/p.png")
    folders = (tmp_path / "a/x", tmp_path / "b/x")
    done = command("inference_coz", "-i", *folders, *RESIZE, "--find_detail", 1, "-o", tmp_path / "out")
    assert done.code == 0
    pictures = report(tmp_path / "out")["pictures"]
    assert [picture["label"] for picture in pictures] == ["a/x/p.png~1", "b/x/p.png~1"]
    assert pictures[0]["center"][0] == pytest.approx(1 - pictures[1]["center"][0], abs=0.02)


def test_proposals_that_somebody_edited_are_not_touched_by_a_run_that_is_refused(command, tmp_path, detailed):
    out = tmp_path / "out"
    command("inference_coz", "-i", detailed, *RESIZE, "--find_detail", 2, "-o", out)
    (out / "spots.csv").write_text("mine")
    arguments = ("-i", detailed, *RESIZE, "--seed", 7, "--find_detail", 2, "-o", out)
    assert command("inference_coz", *arguments).code == 2
    assert (out / "spots.csv").read_text() == "mine"


def test_a_picture_with_spots_that_is_no_picture_any_more_counts_as_failed(command, tmp_path, photograph):
    folder, table = tmp_path / "in", tmp_path / "spots.csv"
    folder.mkdir()
    (folder / "a.png").write_bytes(photograph.read_bytes())
    (folder / "b.png").write_bytes(SCENE.read_bytes())
    table.write_text("file,x,y,label\na.png,0.5,0.5,eye\n")
    command("inference_coz", "-i", folder, *RESIZE, "--regions", table, "-o", tmp_path / "out")
    (folder / "a.png").write_bytes(b"no picture")
    done = command("inference_coz", "-i", folder, *RESIZE, "--regions", table, "-o", tmp_path / "out")
    assert done.code == 1
    statuses = {picture["label"]: picture["status"] for picture in report(tmp_path / "out")["pictures"]}
    assert statuses["a.png~eye"] == "failed"


# The whole picture


def test_full_image_enlarges_the_whole_picture_of_any_aspect(command, tmp_path):
    with Image.open(SCENE) as image:
        image.convert("RGB").resize((40, 23)).save(tmp_path / "a.png")
    arguments = ("-i", tmp_path / "a.png", "-o", tmp_path / "out", "--full_image", "--rec_num", 2)
    done = command("inference_coz", *arguments)
    assert done.code == 0, done.err
    shapes = [pixels(tmp_path / f"out/per-sample/a/{k}.png").shape for k in range(3)]
    assert shapes == [(23, 40, 3), (92, 160, 3), (368, 640, 3)]
    shrunk = Image.open(tmp_path / "out/per-sample/a/2.png").resize((160, 92), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(shrunk).astype(int) - pixels(tmp_path / "out/per-sample/a/1.png")).mean() < 4


def test_a_picture_that_would_grow_too_large_is_named_and_the_others_go_on(command, tmp_path):
    Image.new("RGB", (4000, 3000), "white").save(tmp_path / "large.png")
    Image.new("RGB", (20, 20), "white").save(tmp_path / "small.png")
    arguments = (
        "-i",
        tmp_path,
        "-o",
        tmp_path / "out",
        "--full_image",
        "--rec_num",
        1,
        "--rec_type",
        "bicubic",
    )
    done = command("inference_coz", *arguments)
    assert done.code == 1
    assert "large.png: would end at 192,000,000 pixels" in done.err
    assert (tmp_path / "out/recursive/small.png").exists()


def test_what_will_not_fit_on_the_disk_is_refused_before_it_starts(command, tmp_path, monkeypatch):
    from command import space

    monkeypatch.setattr(space, "free_at", lambda folder: 10**6)
    arguments = ("-i", SCENE, "-o", tmp_path / "out", "--full_image", "--rec_num", 2)
    done = command("inference_coz", *arguments)
    assert done.code == 2
    assert "1.0 MB are free" in done.err
    assert not (tmp_path / "out").exists()


def test_what_is_done_already_takes_no_more_room(command, tmp_path, monkeypatch):
    from command import space

    arguments = ("-i", SCENE, "-o", tmp_path / "out", "--full_image", "--rec_num", 1, "--rec_type", "bicubic")
    assert command("inference_coz", *arguments).code == 0
    monkeypatch.setattr(space, "free_at", lambda folder: 0)
    assert command("inference_coz", *arguments).code == 0


def test_a_box_that_just_fits_is_not_refused_with_the_whole_picture(command, tmp_path):
    Image.new("RGB", (100, 100), "grey").save(tmp_path / "a.png")
    arguments = ("-i", tmp_path / "a.png", "-o", tmp_path / "out", "--full_image", "--rec_type", "bicubic")
    box = ("--box", 0, 0, 0.264, 0.264)
    done = command("inference_coz", *arguments, "--upscale", 2, "--rec_num", 9, *box, "--dry_run")
    assert done.code == 0


# What is refused


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--center", 1.2, 0.5], "--center 1.2 0.5: must be fractions of the picture, from 0 to 1"),
        (["--center", "nan", 0.5], "--center"),
        (["--box", 0.5, 0.5, 0.4, 0.9], "--box 0.5 0.5 0.4 0.9: must be left, top, right, bottom"),
        (["--box", 0, 0, 0.5, 0.5, "--center", 0.9, 0.2], "within --box"),
        (["--center", 0.1, 0.5, "--find_detail", 2], "--center and --find_detail contradict each other"),
        (["--find_detail", 0], "must be 1 or more"),
        (["--find_detail", 1000], "at most 100"),
        (["--process_size", "65536x4096"], "--process_size 65536x4096: at most 178,956,970 pixels"),
        (["--full_image", "--center", 0.5, 0.5], "--center: --full_image enlarges the whole picture"),
        (["--regions", "nowhere.csv"], "--regions nowhere.csv: no such file"),
        (["--process_size", "64x"], "must be a side or WxH"),
        (["--process_size", "64x65"], "--process_size 65: must be a multiple of 16"),
        (["--full_image", "--center", 0.1, 0.1], "--center: --full_image enlarges the whole picture"),
        (["--full_image", "--find_detail", 3], "--find_detail: --full_image enlarges the whole picture"),
        (["--full_image", "--process_size", 64], "--process_size: --full_image cuts no windows out"),
        (["--full_image", "--source", "shrunk"], "--source: --full_image cuts no windows out"),
        (["--full_image", "--batch_size", 4], "--batch_size: --full_image takes one picture at a time"),
        (["--texture", 1.5], "--texture 1.5: must be from 0 to 1"),
        (["--texture", 0.5, "--full_image"], "--texture only goes with"),
        (["--texture", 0.5, "--rec_type", "bicubic"], "--texture only goes with"),
        (["--tile_prompts", "tile"], "--tile_prompts only goes with --full_image, --backbone sd3"),
        (["--backbone", "embeded"], "--backbone embeded: neither embedded, sd3 or auto, nor a file"),
        (["--backbone", "nowhere.pth"], "--backbone nowhere.pth: neither"),
    ],
)
def test_a_bad_value_is_refused_in_one_line(command, tmp_path, arguments, reason):
    done = command("inference_coz", "-i", SCENE, "-o", tmp_path / "out", *arguments)
    assert done.code == 2
    assert reason in done.err
    assert not (tmp_path / "out").exists()

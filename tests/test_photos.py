"""A folder as people have them: photos of phones and cameras, films and papers, and a broken one."""

import io
import shutil
import sys

import numpy as np
import pytest
from conftest import PARITY
from dng import dng
from PIL import Image
from test_inference_coz import report

import results.reading  # noqa: F401 (tells Pillow of HEIC)

RESIZE = ("--process_size", 64, "--rec_num", 1, "--rec_type", "bicubic")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A HEIC and its PNG, camera raw that nothing here reads, a broken JPEG, an animation, no pictures."""
    monkeypatch.setitem(sys.modules, "rawpy", None)
    folder = tmp_path / "holiday"
    folder.mkdir()
    with Image.open(PARITY / "input" / "scene.png") as scene:
        photo = scene.convert("RGB")
    photo.save(folder / "IMG_1.HEIC", "HEIF", quality=95)
    photo.save(folder / "plain.png")
    frames = [photo, photo.rotate(90)]
    frames[0].save(folder / "moving.webp", save_all=True, append_images=frames[1:])
    photo.resize((400, 300)).save(folder / "broken.jpg")
    (folder / "broken.jpg").write_bytes((folder / "broken.jpg").read_bytes()[:5000])
    (folder / "IMG_2.DNG").write_bytes(dng(np.asarray(photo)))
    for name in ("notes.txt", "ticket.pdf", "clip.mp4", "song.mp3", ".DS_Store", "Thumbs.db", "IMG_1.AAE"):
        (folder / name).write_bytes(b"no picture")
    return folder


def test_photos_are_zoomed_into_the_rest_is_counted_and_what_failed_is_named(command, tmp_path, folder):
    done = command("inference_coz", "-i", folder, "-o", tmp_path / "out", *RESIZE)
    assert done.code == 1
    assert done.out.splitlines()[:2] == [
        "4 files skipped: no pictures (clip.mp4, notes.txt, song.mp3 and 1 more)",
        "3 of 5 pictures zoomed to 4x: 3 new, 2 failed, 4 skipped",
    ]
    warning, *failed = done.err.splitlines()
    assert warning == "WARNING: moving.webp is animated: its first frame is taken"
    assert sorted(line.partition(": to read")[0].partition(", it")[0] for line in failed) == [
        "failed: IMG_2.DNG: is a camera's raw file",
        "failed: broken.jpg: cannot be decoded",
    ]
    states = [tmp_path / "out" / "per-sample" / name / "1.png" for name in ("IMG_1", "plain")]
    heic, png = (np.asarray(Image.open(state), float) for state in states)
    assert 0 < np.abs(heic - png).mean() < 8


def test_the_plan_counts_them_too_and_quiet_says_errors_only(command, tmp_path, folder):
    arguments = ("-i", folder, "-o", tmp_path / "out", *RESIZE)
    planned = command("inference_coz", *arguments, "--dry_run")
    assert planned.out.startswith("4 files skipped")
    quiet = command("inference_coz", *arguments, "--quiet")
    assert quiet.out == ""
    assert [line.partition(":")[0] for line in quiet.err.splitlines()] == ["failed", "failed"]


def test_one_file_is_one_file(command, tmp_path, photos):
    (photos / "notes.txt").write_text("no picture")
    done = command("inference_coz", "-i", photos, "-o", tmp_path / "out", *RESIZE)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("1 file skipped: no picture (notes.txt)\n")


def test_a_heic_that_is_another_one_now_is_zoomed_into_anew_and_others_are_not(command, tmp_path, photos):
    stream = io.BytesIO()
    with Image.open(photos / "scene.png") as scene:
        scene.convert("RGB").save(photos / "a.heic", "HEIF")
        scene.convert("RGB").rotate(180).save(stream, "HEIF")
    shutil.copy(photos / "a.heic", photos / "b.heic")
    arguments = ("-i", photos, "-o", tmp_path / "out", *RESIZE)
    assert command("inference_coz", *arguments).code == 0
    before = {entry["name"]: entry["sha256"] for entry in report(tmp_path / "out")["pictures"]}
    times = {name: (tmp_path / "out/per-sample" / name / "0.png").stat().st_mtime_ns for name in before}
    (photos / "a.heic").write_bytes(stream.getvalue())
    assert command("inference_coz", *arguments).code == 0
    after = {entry["name"]: entry["sha256"] for entry in report(tmp_path / "out")["pictures"]}
    assert {name for name in before if before[name] != after[name]} == {"a"}
    changed = {
        name
        for name in times
        if (tmp_path / "out/per-sample" / name / "0.png").stat().st_mtime_ns != times[name]
    }
    assert changed == {"a"}

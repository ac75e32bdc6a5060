"""One picture as one file."""

import json

import numpy as np
import pytest
from five_pictures import picture_of
from PIL import Image

from results.load_report import load_report
from viewer import share

BICUBIC = ("--rec_type", "bicubic", "--process_size", "64", "--rec_num", "2")


def test_a_run_of_one_picture_shares_it(photos, tmp_path, command):
    ended = command("inference_coz", "-i", photos / "scene.png", "-o", tmp_path / "out", *BICUBIC,
                    "--share", tmp_path / "scene.html")  # fmt: skip
    assert ended.code == 0
    assert "scene.html: 0." in ended.out
    page = (tmp_path / "scene.html").read_text(encoding="utf-8")
    assert page.count("data:image/webp;base64,") == 3
    assert 'src="page/' not in page


def test_it_says_nothing_of_where_the_picture_was(photos, tmp_path, command):
    command("inference_coz", "-i", photos / "scene.png", "-o", tmp_path / "out", *BICUBIC,
            "--share", tmp_path / "scene.html")  # fmt: skip
    assert str(tmp_path) not in (tmp_path / "scene.html").read_text(encoding="utf-8")


def test_a_run_of_several_pictures_is_told_to_choose_before_it_starts(photos, tmp_path, command):
    ended = command("inference_coz", "-i", photos, "-o", tmp_path / "out", *BICUBIC,
                    "--share", tmp_path / "a.html")  # fmt: skip
    assert ended.code == 2
    assert "holds one picture, and these are 2" in ended.err
    assert not (tmp_path / "out").exists()


def test_the_picture_is_named_by_its_label_or_its_name(photos, tmp_path, command):
    out = tmp_path / "out"
    command("inference_coz", "-i", photos, "-o", out, *BICUBIC)
    pictures = load_report(out / "run.json").pictures
    for label in ("scene.png", "scene"):
        assert [one.name for one in share.pictures_called(pictures, label)] == ["scene"]
    for arguments in ([], ["--picture", "nobody.png"]):
        ended = command("make_viewer", out, "--share", tmp_path / "a.html", *arguments)
        assert ended.code == 2
        assert "--picture" in ended.err


def test_all_spots_of_a_picture_are_shared_or_one_of_them(photos, tmp_path, command):
    (tmp_path / "spots.csv").write_text("file,x,y,label\nscene.png,0.3,0.3,a\nscene.png,0.7,0.4,b\n")
    out = tmp_path / "out"
    command("inference_coz", "-i", photos, "-o", out, "--regions", tmp_path / "spots.csv", *BICUBIC)
    pictures = load_report(out / "run.json").pictures
    assert len(share.pictures_called(pictures, "scene.png")) == 2
    assert [one.spot for one in share.pictures_called(pictures, "scene.png~b")] == ["b"]


def test_it_stays_below_two_megabytes_whatever_the_states_are(tmp_path, command, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    picture_of(0).save(tmp_path / "cat.png")
    out = tmp_path / "out"
    command("inference_coz", "-i", tmp_path / "cat.png", "-o", out, "--rec_type", "bicubic")
    for step in range(5):  # nothing is larger
        Image.fromarray(noise).save(out / "per-sample" / "cat" / f"{step}.png")
    ended = command("make_viewer", out, "--share", tmp_path / "cat.html")
    assert ended.code == 0
    assert 300_000 < (tmp_path / "cat.html").stat().st_size < 2_000_000


def test_a_picture_without_states_is_refused_with_its_reason(photos, tmp_path, command):
    out = tmp_path / "out"
    command("inference_coz", "-i", photos, "-o", out, *BICUBIC)
    report = json.loads((out / "run.json").read_text())
    report["pictures"][0] |= {"status": "failed", "failure": "is too dark", "steps": []}
    (out / "run.json").write_text(json.dumps(report))
    ended = command("make_viewer", out, "--share", tmp_path / "a.html", "--picture", "scene.png")
    assert ended.code == 2
    assert "is too dark" in ended.err


def test_a_damaged_state_is_named(photos, tmp_path, command):
    out = tmp_path / "out"
    command("inference_coz", "-i", photos / "scene.png", "-o", out, *BICUBIC)
    (out / "per-sample" / "scene" / "1.png").unlink()
    ended = command("make_viewer", out, "--share", tmp_path / "a.html")
    assert ended.code == 2
    assert "cannot be shared: state 1 is gone or damaged" in ended.err
    assert not (tmp_path / "a.html").exists()


@pytest.mark.parametrize("place", ["out", "nowhere/a.html", "a.png"])
def test_a_place_that_cannot_be_a_page_is_refused_before_anything_is_read(photos, tmp_path, command, place):
    (tmp_path / "out").mkdir()
    ended = command("inference_coz", "-i", photos / "scene.png", "-o", tmp_path / "results", *BICUBIC,
                    "--share", tmp_path / place)  # fmt: skip
    assert ended.code == 2
    assert "--share" in ended.err
    assert not (tmp_path / "results").exists()

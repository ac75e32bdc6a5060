"""--overwrite: old results go one by one, each when its new one begins, and are never taken for new ones."""

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from conftest import PARITY
from PIL import Image
from test_inference_coz import killed, report
from test_ray import records
from test_shards import tree_of

from command.decide import chain_settings, parse
from command.parts import Parts
from command.ray_worker import Job, Worker
from command.zooming import describe
from errors import FileRefused
from results.load_report import load_report
from results.output_tree import OutputTree
from results.shards import Shard
from viewer.page import Page

SCENE, TURNED = (PARITY / "input" / f"{name}.png" for name in ("scene", "turned"))
OLD = ("--process_size", 64, "--rec_num", 3, "--rec_type", "nearest")
SHARDS = (Shard(0, 2), Shard(1, 2))
ORDERED = {"prompts.csv", "index.html", "run.json"}  # in the order in which pictures came
NEW = ("--process_size", 64, "--rec_num", 2, "--rec_type", "bicubic")


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Five pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(5):
        with Image.open(SCENE) as image:
            image.convert("RGB").rotate(40 * number).save(folder / f"p{number}.png")
    return folder


@pytest.fixture
def out(command, pictures, tmp_path) -> Path:
    """What an earlier run of other settings has made of them, with films (that nobody plays)."""
    assert command("inference_coz", pictures, "-o", tmp_path / "out", *OLD).code == 0
    (tmp_path / "out" / "video").mkdir()
    for picture in pictures.iterdir():
        (tmp_path / "out" / "video" / f"{picture.stem}.gif").write_bytes(b"film")
    return tmp_path / "out"


@pytest.fixture
def fresh(command, pictures, tmp_path) -> dict[str, object]:
    """What the new settings make of them in a folder of their own."""
    assert command("inference_coz", pictures, "-o", tmp_path / "fresh", *NEW).code == 0
    return tree_of(tmp_path / "fresh")


def of_picture(out: Path, name: str) -> dict[str, bytes]:
    """All files that are about a picture, by place."""
    places = [*out.glob(f"*/{name}/*"), *out.glob(f"*/*/{name}.*"), *out.glob(f"*/{name}.*")]
    return {file.relative_to(out).as_posix(): file.read_bytes() for file in places if file.is_file()}


def files_of(out: Path) -> dict[str, object]:
    """All files that do not tell in which order pictures came."""
    return {name: what for name, what in tree_of(out).items() if name not in ORDERED}


def test_it_says_how_many_results_it_removes_and_a_dry_run_says_the_same(command, pictures, out):
    (pictures / "p4.png").unlink()
    before = tree_of(out)
    dry = command("inference_coz", pictures, "-o", out, *NEW, "--overwrite", "--dry_run")
    removed = "4 results, each when its new one begins; 1 result of pictures that are gone, when all is done"
    assert (dry.code, f"overwrite  removes {removed}\n" in dry.out) == (0, True)
    assert tree_of(out) == before
    done = command("inference_coz", pictures, "-o", out, *NEW, "--overwrite")
    assert (done.code, f"--overwrite removes {removed}\n" in done.err) == (0, True)
    assert "overwrite" not in command("inference_coz", pictures, "-o", out / "none", *NEW, "--overwrite").err


def test_it_leaves_what_a_run_into_an_empty_folder_leaves(command, pictures, out, fresh):
    assert command("inference_coz", pictures, "-o", out, *NEW, "--overwrite").code == 0
    assert tree_of(out) == fresh


@pytest.mark.posix
def test_a_run_that_is_killed_at_its_second_picture_leaves_the_old_results_of_the_others(pictures, out):
    before = {name: of_picture(out, name) for name in ("p2", "p3", "p4")}
    assert all(f"video/{name}.gif" in files and len(files) > 10 for name, files in before.items())
    # six files that the page is made of, twice the journal, six of p0, and three of p1
    assert killed(17, "SIGKILL", pictures, "-o", out, *NEW, "--overwrite").returncode == -signal.SIGKILL
    assert not list((out / "per-sample").glob("p[01]/3.png")), "these are new"
    assert {name: of_picture(out, name) for name in before} == before


@pytest.mark.posix
@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
@pytest.mark.parametrize("number", [1, 6, 8, 12, 17, 23])
def test_a_run_that_was_killed_goes_on_without_it_and_takes_no_old_result_for_a_new_one(
    command, pictures, out, fresh, how, number
):
    assert killed(number, how, pictures, "-o", out, *NEW, "--overwrite").returncode != 0
    done = command("inference_coz", pictures, "-o", out, *NEW)
    assert (done.code, done.out.partition(" zoomed")[0]) == (0, "5 of 5 pictures")
    assert tree_of(out) == fresh


def test_a_run_whose_settings_cannot_stand_in_run_json_removes_nothing(command, pictures, out, monkeypatch):
    before = tree_of(out)
    write = OutputTree.writing

    def refuse(self, file):
        if file.name == "run.json":
            raise FileRefused(f"{file}: is open in another program")
        return write(self, file)

    monkeypatch.setattr(OutputTree, "writing", refuse)
    assert command("inference_coz", pictures, "-o", out, *NEW, "--overwrite").code == 1
    assert tree_of(out) == before


@pytest.mark.posix
def test_results_of_pictures_that_are_gone_go_when_all_others_are_done(command, pictures, out, fresh):
    old = of_picture(out, "p4")
    (pictures / "p4.png").rename(pictures.parent / "p4.png")
    assert killed(11, "SIGKILL", pictures, "-o", out, *NEW, "--overwrite").returncode == -signal.SIGKILL
    assert of_picture(out, "p4") == old
    assert command("inference_coz", pictures / "p3.png", "-o", out, *NEW).code == 0
    assert of_picture(out, "p4") == old, "others of that run are still to be done"
    assert command("inference_coz", pictures, "-o", out, *NEW).code == 0
    assert not of_picture(out, "p4")
    assert load_report(out / "run.json").left_over == []
    (pictures.parent / "p4.png").rename(pictures / "p4.png")
    assert command("inference_coz", pictures, "-o", out, *NEW).code == 0
    assert tree_of(out) == fresh


@pytest.mark.posix
def test_a_new_picture_of_a_name_that_is_given_up_keeps_what_is_its_own(command, pictures, out):
    (pictures / "p4.png").rename(pictures.parent / "late.png")
    assert killed(11, "SIGKILL", pictures, "-o", out, *NEW, "--overwrite").returncode == -signal.SIGKILL
    assert load_report(out / "run.json").left_over == ["p4"]
    with Image.open(TURNED) as image:
        image.convert("RGB").save(pictures / "p4.jpg")
    assert command("inference_coz", pictures, "-o", out, *NEW).code == 0
    assert command("inference_coz", pictures, "-o", out.parent / "two", *NEW).code == 0
    assert tree_of(out) == tree_of(out.parent / "two")


def damage(file: Path, how: str) -> None:
    """Make a picture one that cannot be read."""
    content = file.read_bytes()
    if how == "dangling link":
        file.unlink()
        file.symlink_to("nowhere.png")
    else:
        file.write_bytes(
            {"cut off": content[: len(content) // 2], "empty": b"", "garbage": b"no picture"}[how]
        )


DAMAGES = ["empty", "garbage", pytest.param("dangling link", marks=pytest.mark.posix)]


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("shards", [("0/1",), ("0/2", "1/2")], ids=["one run", "shards"])
def test_a_picture_that_cannot_be_read_any_more_keeps_its_old_results(command, pictures, out, how, shards):
    assert command("inference_coz", pictures, "-o", out.parent / "two", *NEW).code == 0
    old, new = of_picture(out, "p1"), of_picture(out.parent / "two", "p1")
    content = (pictures / "p1.png").read_bytes()
    damage(pictures / "p1.png", how)
    (pictures / "p1.jpg").write_bytes((pictures / "p2.png").read_bytes())  # which must not take its name
    done = [
        command("inference_coz", pictures, "-o", out, *NEW, "--overwrite", "--shard", shard)
        for shard in shards
    ]
    assert sorted(one.code for one in done) == [*[0] * (len(shards) - 1), 1]
    errors = "".join(one.err for one in done)
    assert "failed: p1.png" in errors
    assert "pictures that are gone" not in errors
    assert of_picture(out, "p1") == old
    (pictures / "p1.jpg").unlink()
    (pictures / "p1.png").unlink()
    (pictures / "p1.png").write_bytes(content)
    assert command("inference_coz", pictures, "-o", out, *NEW).code == 0
    assert {"p1", "p1_jpg"} <= load_report(out / "run.json").pictures.keys()
    assert of_picture(out, "p1") == new


def test_pictures_of_a_folder_that_cannot_be_listed_keep_theirs(command, pictures, out, monkeypatch):
    shutil.move(pictures, pictures.parent / "all" / "inside")
    everything = pictures.parent / "all"
    shutil.copy(SCENE, everything / "p9.png")
    recursive = (everything, "--recursive_folders", "-o", out)
    assert command("inference_coz", *recursive, *OLD, "--overwrite").code == 0
    before = of_picture(out, "inside/p1")
    assert before
    walk = os.walk

    def closed(top, onerror):
        for folder, folders, files in walk(top):
            if "inside" in folders:
                folders.remove("inside")
                onerror(PermissionError(13, "Permission denied", str(Path(folder, "inside"))))
            yield folder, folders, files

    monkeypatch.setattr("results.pictures.os.walk", closed)
    done = command("inference_coz", *recursive, *NEW, "--overwrite")
    assert (done.code, "failed: inside: cannot be listed" in done.err) == (1, True)
    assert of_picture(out, "inside/p1") == before


def test_one_that_could_not_be_read_and_then_is_gone_loses_them(command, pictures, out):
    damage(pictures / "p1.png", "garbage")
    assert command("inference_coz", pictures, "-o", out, *NEW, "--overwrite").code == 1
    (pictures / "p1.png").unlink()
    done = command("inference_coz", pictures, "-o", out, *OLD, "--overwrite")
    assert "1 result of pictures that are gone" in done.err
    assert not of_picture(out, "p1")


def test_a_picture_that_is_cut_off_keeps_them_until_it_is_whole(command, pictures, out):
    old, content = of_picture(out, "p1"), (pictures / "p1.png").read_bytes()
    damage(pictures / "p1.png", "cut off")
    done = command("inference_coz", pictures, "-o", out, *NEW, "--overwrite")
    assert (done.code, "failed: p1.png" in done.err) == (1, True)
    assert of_picture(out, "p1") == old
    (pictures / "p1.png").write_bytes(content)
    assert command("inference_coz", pictures, "-o", out, *NEW).code == 0
    assert command("inference_coz", pictures, "-o", out.parent / "two", *NEW).code == 0
    assert tree_of(out) == tree_of(out.parent / "two")


def test_pictures_read_ahead_have_not_begun(command, pictures, out, monkeypatch):
    """Their records must not say what would make old states new ones."""
    monkeypatch.setattr(
        "zoom.state_files.StateFiles.begin", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    done = command("inference_coz", pictures, "-o", out, *NEW, "--overwrite")
    assert (done.code, "the same command without --overwrite goes on" in done.err) == (130, True)
    assert {(entry["status"], entry["sha256"]) for entry in report(out)["pictures"]} == {("pending", None)}


def test_a_shard_removes_what_its_own_pictures_had_and_the_others_do_theirs(command, pictures, out, fresh):
    shares = [[f"p{n}" for n in range(5) if OutputTree(out, shard).takes(f"p{n}.png")] for shard in SHARDS]
    before = {name: of_picture(out, name) for name in shares[1]}
    assert all(shares)
    done = command("inference_coz", pictures, "-o", out, *NEW, "--overwrite", "--shard", "0/2")
    assert done.code == 0
    own, others = map(len, shares)
    each = f"--overwrite removes {own} result{'s' * (own > 1)}, each when its new one begins"
    assert (
        f"{each}; {others} result{'s' * (others > 1)} of other shards, when these begin theirs\n" in done.err
    )
    assert {name: of_picture(out, name) for name in shares[1]} == before
    done = command("inference_coz", pictures, "-o", out, *NEW, "--overwrite", "--shard", "1/2")
    assert done.code == 0
    assert done.out.startswith(f"shard 1/2: {len(shares[1])} of {len(shares[1])} pictures")
    assert tree_of(out) == fresh


@pytest.mark.posix
@pytest.mark.parametrize("number", [2, 3, 9])
def test_a_run_that_is_killed_after_killed_shards_goes_on(command, pictures, out, fresh, number):
    shutil.rmtree(out)
    for shard in ("0/2", "1/2"):
        killed(12, "SIGKILL", pictures, "-o", out, *OLD, "--shard", shard)
    assert (out / "shards").is_dir()
    assert killed(number, "SIGKILL", pictures, "-o", out, *NEW, "--overwrite").returncode < 0
    assert command("inference_coz", pictures, "-o", out, *NEW).code == 0
    assert files_of(out) == {name: what for name, what in fresh.items() if name not in ORDERED}


@pytest.mark.posix
@pytest.mark.parametrize("number", [1, 2, 8, 12])
def test_a_shard_that_was_killed_goes_on_without_it(command, pictures, out, fresh, number):
    (pictures / "p0.png").rename(pictures.parent / "p0.png")
    killed(number, "SIGKILL", pictures, "-o", out, *NEW, "--overwrite", "--shard", "1/2")
    for shard in ("0/2", "1/2"):
        assert command("inference_coz", pictures, "-o", out, *NEW, "--shard", shard).code == 0
    assert not of_picture(out, "p0")
    (pictures.parent / "p0.png").rename(pictures / "p0.png")
    assert command("inference_coz", pictures, "-o", out, *NEW).code == 0
    assert files_of(out) == {name: what for name, what in fresh.items() if name not in ORDERED}


def test_shards_of_the_same_settings_begin_their_own_pictures_anew(command, pictures, out):
    for shard in ("0/2", "1/2"):
        states = {file: file.stat().st_mtime_ns for file in out.glob("per-sample/*/3.png")}
        done = command("inference_coz", pictures, "-o", out, *OLD, "--overwrite", "--shard", shard)
        assert done.code == 0
        anew = [file for file, when in states.items() if file.stat().st_mtime_ns != when]
        assert f"--overwrite removes {len(anew)} result" in done.err
        assert 0 < len(anew) < 5


@pytest.mark.posix
def test_reports_of_shards_are_given_up_with_the_rest(command, pictures, out, fresh):
    """Two were killed; the folder is then overwritten by a run that is none."""
    shutil.rmtree(out)
    for number in range(2):
        killed(12, "SIGKILL", pictures, "-o", out, *OLD, "--shard", f"{number}/2")
    assert (out / "shards").is_dir()
    assert command("inference_coz", pictures, "-o", out, *NEW, "--overwrite").code == 0
    assert not (out / "shards").exists()
    assert tree_of(out) == fresh


def test_an_actor_of_ray_removes_them_when_it_begins(pictures, out, tmp_path):
    arguments = ["-i", str(pictures), "-o", str(out), *map(str, NEW)]
    options = parse(arguments)
    described = describe(chain_settings(options), Parts(), {})
    worker = Worker(Job(options, {}, described, tmp_path, 30))
    first, *others = records(pictures)
    old = {record.name: of_picture(out, record.name) for record in others}
    assert worker.zoom([first]).error is None
    assert not (out / "video" / f"{first.name}.gif").exists()
    assert not (out / "per-scale" / "scale3" / f"{first.name}.png").exists()
    assert {record.name: of_picture(out, record.name) for record in others} == old


def test_an_old_result_that_cannot_be_removed_fails_its_picture_alone(command, pictures, out, monkeypatch):
    unlink = Path.unlink

    def refuse(self, missing_ok=False):
        if self.name == "p1.gif":
            raise PermissionError(13, "The process cannot access the file", str(self))
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    done = command("inference_coz", pictures, "-o", out, *NEW, "--overwrite")
    assert done.code == 1
    assert "p1.gif: cannot be removed" in done.err
    assert done.out.startswith("4 of 5 pictures")
    monkeypatch.undo()
    assert command("inference_coz", pictures, "-o", out, *NEW).code == 0
    assert not (out / "video" / "p1.gif").exists()


def test_the_page_shows_no_old_copy_of_a_picture_that_has_begun_anew(out):
    known = load_report(out / "run.json")
    one = known.pictures["p1"]
    made = dataclasses.replace(one, status="started")
    one.begin_anew()
    page = Page(OutputTree(out), known)
    page.begin()
    one.become(made)
    page.save()
    data = (out / "index.html").read_text().partition('id="folder">')[2].partition("</script>")[0]
    shown = [bool(entry["thumb"]) for entry in json.loads(data)["pictures"]]
    assert shown == [True, False, True, True, True]

"""What is read ahead and written behind, what is kept, and what a killed run leaves, as a user sees it."""

import errno
import json
import shutil
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from conftest import ROOT, SMALL, pixels
from PIL import Image
from test_inference_coz import SCENE, TURNED, killed, report

from machine.overlap import LEAST, Overlap
from results.load_report import load_report
from results.output_tree import OutputTree
from zoom.chain import Chain
from zoom.keeping import Keeping
from zoom.state_files import StateFiles

RESIZE = ("--process_size", 64, "--rec_num", 2, "--rec_type", "bicubic")


@pytest.fixture
def many(tmp_path) -> Path:
    """A folder of 40 pictures: more than are read ahead."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(20):
        for file in (SCENE, TURNED):
            shutil.copy(file, folder / f"{number:02}{file.name}")
    return folder


# one file on the disk


def test_a_state_and_its_copy_and_both_strips_are_one_file_each(command, tmp_path):
    assert command("inference_coz", "-i", SCENE, "-o", tmp_path, *RESIZE).code == 0
    tree = OutputTree(tmp_path)
    for step in range(3):
        assert tree.state("scene", step).samefile(tree.per_scale("scene", step))
    beside, collected = tmp_path / "per-sample" / "scene" / "scene.png", tree.collected_strip("scene")
    assert beside.samefile(collected)


def test_the_copy_is_there_before_the_state_that_says_it_is(command, tmp_path, monkeypatch):
    come, replace = [], Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, place: (come.append(place), replace(self, place)))
    assert command("inference_coz", "-i", SCENE, "-o", tmp_path, *RESIZE).code == 0
    tree = OutputTree(tmp_path)
    for step in range(3):
        assert come.index(tree.per_scale("scene", step)) < come.index(tree.state("scene", step))


def test_where_links_are_refused_a_run_writes_the_same_files(command, tmp_path, monkeypatch):
    assert command("inference_coz", "-i", SCENE, "-o", tmp_path / "links", *RESIZE).code == 0

    def refuse(*_, **__):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    assert command("inference_coz", "-i", SCENE, "-o", tmp_path / "files", *RESIZE).code == 0
    assert pixels(tmp_path / "files") == pixels(tmp_path / "links")
    assert {file.stat().st_nlink for file in (tmp_path / "files").rglob("*.png")} == {1}


def test_a_folder_of_files_that_are_no_links_goes_on(command, tmp_path, undisturbed):
    out = tmp_path / "out"
    assert command("inference_coz", "-i", SCENE.parent, "-o", out, *SMALL).code == 0
    for file in out.rglob("*.png"):
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content)
    (out / "recursive" / "scene.png").unlink()
    (out / "per-sample" / "turned" / "2.png").unlink()
    assert command("inference_coz", "-i", SCENE.parent, "-o", out, *SMALL).code == 0
    assert pixels(out) == undisturbed


def test_a_state_that_is_made_again_does_not_change_what_its_old_name_stood_for(command, tmp_path):
    out = tmp_path / "out"
    assert command("inference_coz", "-i", SCENE, "-o", out, *RESIZE).code == 0
    state = out / "per-sample" / "scene" / "1.png"
    (tmp_path / "kept.png").hardlink_to(state)
    before = state.read_bytes()
    assert command("inference_coz", "-i", SCENE, "-o", out, *RESIZE, "--seed", 7, "--overwrite").code == 0
    assert (tmp_path / "kept.png").read_bytes() == before
    assert not (tmp_path / "kept.png").samefile(state)


# --save


def networks_run(monkeypatch) -> list[int]:
    """Count the pictures that go to a network."""
    calls: list[int] = []
    enlarge = Chain._super_resolve

    def counting(self, pictures):
        calls.append(len(pictures))
        return enlarge(self, pictures)

    monkeypatch.setattr(Chain, "_super_resolve", counting)
    return calls


def test_states_alone_are_each_state_once_with_the_same_pixels(command, tmp_path, undisturbed):
    out = tmp_path / "out"
    done = command("inference_coz", "-i", SCENE.parent, "-o", out, *SMALL, "--save", "states")
    assert done.code == 0
    assert "recursive" not in done.out
    states = {f"per-sample/{name}/{step}.png" for name in ("scene", "turned") for step in range(3)}
    prompts = {f"per-sample/{name}/txt/{step}.txt" for name in ("scene", "turned") for step in range(2)}
    assert pixels(out) == {place: undisturbed[place] for place in states | prompts}
    assert len(list((out / "page" / "pictures").glob("*.js"))) == 2
    assert list(out.rglob("*-*.jpg")), "plain bicubic is on the page all the same"


def test_states_alone_are_finished_for_the_next_run(command, tmp_path, monkeypatch):
    run = ("inference_coz", "-i", SCENE, "-o", tmp_path, *SMALL, "--save", "states")
    assert command(*run).code == 0
    calls = networks_run(monkeypatch)
    assert command(*run).code == 0
    assert sum(calls) == 0


def test_all_after_states_alone_adds_what_repeats_and_makes_nothing_again(
    command, tmp_path, undisturbed, monkeypatch
):
    run = ("inference_coz", "-i", SCENE.parent, "-o", tmp_path, *SMALL)
    assert command(*run, "--save", "states").code == 0
    calls = networks_run(monkeypatch)
    assert command(*run).code == 0
    assert sum(calls) == 0
    inputs = {place for place in undisturbed if "_input" in place}
    assert pixels(tmp_path) == {place: undisturbed[place] for place in undisturbed.keys() - inputs}


def test_states_alone_after_all_removes_nothing(command, tmp_path):
    run = ("inference_coz", "-i", SCENE, "-o", tmp_path, *RESIZE)
    assert command(*run).code == 0
    before = pixels(tmp_path)
    assert command(*run, "--save", "states").code == 0
    assert pixels(tmp_path) == before


def test_labels_without_strips_are_refused(command, tmp_path):
    run = ("inference_coz", "-i", SCENE, "-o", tmp_path / "out", *RESIZE)
    done = command(*run, "--save", "states", "--label_strip")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "--save states" in done.err


def test_the_page_made_anew_shows_plain_bicubic_where_states_alone_were_kept(command, tmp_path):
    assert command("inference_coz", "-i", SCENE, "-o", tmp_path, *SMALL, "--save", "states").code == 0
    [described] = (tmp_path / "page" / "pictures").glob("*.js")
    before = described.read_text()
    assert "-1.jpg" in before
    assert command("make_viewer", tmp_path).code == 0
    assert described.read_text() == before


# faults behind the back


def test_a_disk_that_is_full_while_writing_behind_ends_in_one_line_and_the_next_run_goes_on(
    command, tmp_path, many, monkeypatch
):
    out, write, count = tmp_path / "out", Path.write_bytes, 0

    def full(self, content):
        nonlocal count
        if threading.current_thread() is threading.main_thread():
            return write(self, content)
        count += 1
        if count > 40:
            write(self, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, content)

    with monkeypatch.context() as broken:
        broken.setattr(Path, "write_bytes", full)
        done = command("inference_coz", "-i", many, "-o", out, *RESIZE)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "the disk is full; make room" in done.err
    assert not list(out.rglob(".*"))
    assert report(out)["status"] == "stopped"
    finished = [entry for entry in report(out)["pictures"] if entry["status"] == "done"]
    assert 0 < len(finished) < 40
    assert command("inference_coz", "-i", many, "-o", out, *RESIZE).code == 0
    assert command("inference_coz", "-i", many, "-o", tmp_path / "undisturbed", *RESIZE).code == 0
    assert pixels(out) == pixels(tmp_path / "undisturbed")


def test_what_goes_wrong_unexpectedly_while_writing_behind_is_not_lost(command, tmp_path, many, monkeypatch):
    def broken(self, content, *files):
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("a mistake")
        write(self, content, *files)

    write = OutputTree.write
    monkeypatch.setattr(OutputTree, "write", broken)
    with pytest.raises(RuntimeError, match="a mistake"):
        command("inference_coz", "-i", many, "-o", tmp_path / "out", *RESIZE)
    assert report(tmp_path / "out")["status"] == "stopped"


@pytest.mark.posix
@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
@pytest.mark.parametrize("number", [40, 170])
def test_a_run_that_ends_while_it_writes_behind_goes_on_to_the_same_pixels(
    command, tmp_path, many, number, how
):
    out = tmp_path / "out"
    assert killed(number, how, "-i", many, "-o", out, *RESIZE).returncode != 0
    if how == "SIGTERM":
        assert not list(out.rglob(".*"))
        assert not (out / "run.jsonl").exists()
        entries = report(out)["pictures"]
        made = [step["done"] for entry in entries for step in entry["steps"]]
        assert sum(made) == len(list(out.glob("per-sample/*/[12].png"))), "what was made is known"
    assert command("inference_coz", "-i", many, "-o", out, *RESIZE).code == 0
    assert command("inference_coz", "-i", many, "-o", tmp_path / "undisturbed", *RESIZE).code == 0
    assert pixels(out) == pixels(tmp_path / "undisturbed")
    assert not list(out.rglob(".*"))


# Runs the command, and kills it when so many pictures are done; it notes each at once.
KILLED_AFTER = """
import os, signal, sys
sys.path.insert(0, sys.argv.pop(1))
left = int(sys.argv.pop(1))
import machine.pace
machine.pace.SHORTEST = machine.pace.SHARE = 0
from results.run_report import RunReport
note, done = RunReport.note, set()
def count(self, picture):
    has_ended = picture.status == "done"  # it may be, a moment later
    note(self, picture)
    if has_ended:
        done.add(picture.name)
    if len(done) == left:
        os.kill(os.getpid(), signal.SIGKILL)
RunReport.note = count
import inference_coz
inference_coz.main(sys.argv[1:])
"""


def killed_after(pictures: int, *arguments: object) -> None:
    run = [sys.executable, "-c", KILLED_AFTER, ROOT, pictures, *arguments]
    subprocess.run(list(map(str, run)), check=False, capture_output=True, timeout=60)


@pytest.mark.posix
def test_a_killed_run_is_known_from_its_journal_and_its_pictures_are_not_made_again(command, tmp_path, many):
    out = tmp_path / "out"
    killed_after(10, "-i", many, "-o", out, *RESIZE)
    assert {entry["status"] for entry in report(out)["pictures"]} == {"pending"}, "as it began"
    known = load_report(out / "run.json").pictures.values()
    done = [picture.name for picture in known if picture.status == "done"]
    assert len(done) >= 10
    times = {name: (out / "recursive" / f"{name}.png").stat().st_mtime_ns for name in done}
    assert command("inference_coz", "-i", many, "-o", out, *RESIZE).code == 0
    assert times == {name: (out / "recursive" / f"{name}.png").stat().st_mtime_ns for name in done}
    assert not (out / "run.jsonl").exists()
    assert {entry["status"] for entry in report(out)["pictures"]} == {"done"}


@pytest.mark.posix
def test_the_page_of_a_killed_run_shows_what_its_journal_knows(command, tmp_path, many):
    out = tmp_path / "out"
    killed_after(5, "-i", many, "-o", out, *RESIZE)
    assert (out / "index.html").is_file()
    assert command("make_viewer", out).code == 0
    data = (out / "index.html").read_text().partition('id="folder">')[2].partition("</script>")[0]
    assert sum(entry["factor"] > 0 for entry in json.loads(data)["pictures"]) >= 5


# in one thread or in many


def test_threads_change_no_file(command, tmp_path, many, monkeypatch):
    for threads in (0, 1, 4):
        monkeypatch.setattr("command.zooming.THREADS", threads)
        assert command("inference_coz", "-i", many, "-o", tmp_path / str(threads), *RESIZE).code == 0
    assert pixels(tmp_path / "0") == pixels(tmp_path / "1") == pixels(tmp_path / "4")


def test_little_room_changes_no_file(command, tmp_path, many, monkeypatch):
    assert command("inference_coz", "-i", many, "-o", tmp_path / "much", *RESIZE).code == 0
    monkeypatch.setattr("command.zooming.Overlap", partial(Overlap, most=1))
    assert command("inference_coz", "-i", many, "-o", tmp_path / "little", *RESIZE).code == 0
    assert pixels(tmp_path / "much") == pixels(tmp_path / "little")


def test_groups_are_written_behind_as_well(command, tmp_path, many):
    for size in (1, 7):
        out = tmp_path / str(size)
        assert command("inference_coz", "-i", many, "-o", out, *RESIZE, "--batch_size", size).code == 0
    assert pixels(tmp_path / "1") == pixels(tmp_path / "7")


def test_a_picture_that_cannot_be_read_ahead_fails_alone(command, tmp_path, many):
    with Image.open(SCENE) as image:
        image.convert("RGB").resize((300, 300)).save(many / "07cut.jpg")
    content = (many / "07cut.jpg").read_bytes()
    (many / "07cut.jpg").write_bytes(content[: len(content) // 3])
    done = command("inference_coz", "-i", many, "-o", tmp_path / "out", *RESIZE)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "failed: 07cut.jpg" in done.err
    assert done.out.startswith("40 of 41 pictures")


def test_no_more_pictures_are_taken_up_than_may_wait(command, tmp_path, many, monkeypatch):
    taken: list[str] = []
    at_state: list[int] = []
    take_up, keep = StateFiles.take_up, Keeping.keep

    def noting(self, picture):
        taken.append(picture.name)
        return take_up(self, picture)

    def slow(self, *arguments):
        time.sleep(0.01)
        at_state.append(len(taken))
        keep(self, *arguments)

    monkeypatch.setattr(StateFiles, "take_up", noting)
    monkeypatch.setattr(Keeping, "keep", slow)
    monkeypatch.setattr("command.zooming.Overlap", partial(Overlap, most=4 * LEAST))
    assert command("inference_coz", "-i", many, "-o", tmp_path / "out", *RESIZE).code == 0
    assert max(count - number // 2 for number, count in enumerate(at_state)) <= 6

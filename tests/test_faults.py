"""The command under faults: signals at any moment, files that change under it, odd folders."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import PARITY, ROOT, run_script
from PIL import Image
from test_inference_coz import killed, pixels, report

from command import zooming
from results.output_tree import OutputTree
from results.pictures import Failure
from results.run_report import PictureRecord

SCENE, TURNED = (PARITY / "input" / f"{name}.png" for name in ("scene", "turned"))
RESIZE = ("--process_size", 64, "--rec_num", 2, "--rec_type", "bicubic")


# signals

# Runs a script as Python does, and sends itself a signal when the N-th module after its first line is sought.
SIGNALLED_WHILE_IMPORTING = """
import os, runpy, signal, sys
script, left, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]

class Sender:
    begun = False
    def find_spec(self, name, path=None, target=None):
        global left
        left -= Sender.begun
        Sender.begun = Sender.begun or name == "command"
        if left == 0:
            left = -1
            os.kill(os.getpid(), getattr(signal, how))

sys.meta_path.insert(0, Sender())
sys.argv = [script, *sys.argv[4:]]
sys.path.insert(0, os.path.dirname(script))
runpy.run_path(script, run_name="__main__")
"""


@pytest.mark.posix
@pytest.mark.parametrize("script", ["inference_coz", "quantize_model"])
@pytest.mark.parametrize(("how", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_signal_while_modules_are_imported_is_one_sentence(tmp_path, script, how, code, number):
    arguments = [str(ROOT / f"{script}.py"), str(number), how, "--help"]
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED_WHILE_IMPORTING, *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
    assert done.stderr.startswith(f"{script}.py: interrupted")


@pytest.mark.posix
def interrupt(*_arguments: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("options", "where"),
    [
        (("--check",), "command.check_up.check_up"),
        (("--dry_run",), "command.plan.print_plan"),
        (("--dry_run", "--overwrite"), "command.plan.print_plan"),
        (("--overwrite",), "command.beginning.begin"),
    ],
)
def test_what_leaves_nothing_to_go_on_with_does_not_say_that_it_goes_on(
    command, tmp_path, monkeypatch, options, where
):
    monkeypatch.setattr(where, interrupt)
    pictures = () if options == ("--check",) else ("-i", PARITY / "input")
    done = command("inference_coz", *pictures, "-o", tmp_path / "out", *RESIZE, *options)
    assert done.code == 130
    assert done.err == "inference_coz.py: interrupted; the same command starts from the beginning\n"


def test_a_run_that_goes_on_later_says_so_from_its_first_moment(command, tmp_path, monkeypatch):
    monkeypatch.setattr("command.beginning.begin", interrupt)
    done = command("inference_coz", "-i", PARITY / "input", "-o", tmp_path / "out", *RESIZE)
    assert done.err == "inference_coz.py: interrupted; the same command goes on from here\n"


def test_a_second_signal_ends_at_once_and_the_next_run_says_interrupted(command, tmp_path):
    out = tmp_path / "out"
    twice = (
        "import os, signal\n"
        "from results.run_report import RunReport\n"
        "def finish(self, how): os.kill(os.getpid(), signal.SIGINT)\n"
        "RunReport.finish = finish\n"
    )
    program = (
        "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
        + twice
        + (
            "from pathlib import Path\nwrite = Path.write_bytes\ncount = 9\n"
            "def once(self, content):\n"
            "    global count\n    count -= 1\n"
            "    if count == 0: os.kill(os.getpid(), signal.SIGINT)\n"
            "    return write(self, content)\n"
            "Path.write_bytes = once\n"
            "import inference_coz; sys.exit(inference_coz.main(sys.argv[1:]))\n"
        )
    )
    done = subprocess.run(
        [sys.executable, "-c", program, ROOT, "-i", PARITY / "input", "-o", out, *map(str, RESIZE)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 130, done.stderr
    assert report(out)["status"] == "running"
    done = command("inference_coz", "-i", PARITY / "input", "-o", out, *RESIZE)
    assert done.code == 0
    assert "the earlier run was interrupted" in done.err


@pytest.mark.parametrize("number", range(1, 12))
def test_a_polite_stop_at_any_write_leaves_nothing_half_written(tmp_path, number):
    done = killed(number, "SIGTERM", "-i", PARITY / "input", "-o", tmp_path / "out", *RESIZE)
    assert done.returncode == 143, done.stderr
    assert not list((tmp_path / "out").rglob(".*"))
    for file in (tmp_path / "out").rglob("*.png"):
        with Image.open(file) as image:
            image.load()


# what changes while the run is under way


def test_the_recorded_sum_is_that_of_the_pixels_that_were_decoded(command, tmp_path, photos, monkeypatch):
    """A picture replaced while the run is at work, and put back later, is done again."""
    out, file, other = tmp_path / "out", photos / "scene.png", tmp_path / "other.png"
    original = file.read_bytes()
    Image.fromarray(np.full((80, 90, 3), 77, np.uint8)).save(other)
    prepare = OutputTree.prepare

    def replace(self):
        file.write_bytes(other.read_bytes())
        prepare(self)

    monkeypatch.setattr(OutputTree, "prepare", replace)
    assert command("inference_coz", "-i", photos, "-o", out, *RESIZE).code == 0
    monkeypatch.undo()
    file.write_bytes(original)
    assert command("inference_coz", "-i", photos, "-o", out, *RESIZE).code == 0
    assert command("inference_coz", "-i", photos, "-o", tmp_path / "anew", *RESIZE).code == 0
    assert pixels(out) == pixels(tmp_path / "anew")


def test_an_output_folder_emptied_under_the_run_is_noticed(command, tmp_path, photos, monkeypatch):
    out = tmp_path / "out"
    write_image = OutputTree.write_image

    def emptying(self, image, *files):
        write_image(self, image, *files)
        if files[0].name == "turned.png" and "scale2" in str(files[0]):
            shutil.rmtree(out / "per-sample" / "scene")
            shutil.rmtree(out / "per-scale")

    monkeypatch.setattr("command.zooming.THREADS", 1)  # scene's files are all there when turned's come
    monkeypatch.setattr(OutputTree, "write_image", emptying)
    done = command("inference_coz", "-i", photos, "-o", out, *RESIZE)
    assert done.code == 1
    assert "failed: scene.png: its results are gone" in done.err
    monkeypatch.undo()
    assert command("inference_coz", "-i", photos, "-o", out, *RESIZE).code == 0
    assert len(list((out / "per-sample").iterdir())) == 2


# odd folders


def test_a_picture_named_like_a_temporary_file_blocks_no_later_run(command, tmp_path, photos):
    (photos / "scene.png").rename(photos / ".writing-x.part.png")
    arguments = ("-i", photos / ".writing-x.part.png", photos / "turned.png", "-o", tmp_path / "out", *RESIZE)
    for _ in range(2):
        assert command("inference_coz", *arguments).code == 0
    assert (tmp_path / "out" / "recursive" / "_.writing-x.part.png").is_file()


def test_a_broken_mpo_is_named(command, tmp_path, photos):
    (photos / "stereo.mpo").write_bytes(b"\xff\xd8\xff\xe1 no more")
    done = command("inference_coz", "-i", photos, "-o", tmp_path / "out", *RESIZE)
    assert done.code == 1
    assert "failed: stereo.mpo" in done.err


def test_a_closed_subfolder_is_named_and_the_others_are_searched(command, tmp_path, photos, monkeypatch):
    (photos / "closed").mkdir()
    scandir = os.scandir

    def refuse(path="."):  # root, as whom tests may run, may enter every folder
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    done = command("inference_coz", "-i", photos, "-o", tmp_path / "out", "--recursive_folders", *RESIZE)
    assert done.code == 1, done.err
    assert "failed: closed: cannot be listed (Permission denied)" in done.err
    assert "2 of 3 pictures" in done.out


def test_what_can_no_longer_be_read_is_found_at_once_among_many_pictures():
    """Each picture's label is looked at once, however many files are unreadable."""
    looked = []

    class Record(PictureRecord):
        @property
        def picture_label(self):
            looked.append(self.label)
            return super().picture_label

    records = [Record(f"p{number}", f"p{number}.png", "") for number in range(30)]
    records.append(Record("p3~eye", "p3.png~eye", "", "eye"))
    zooming._fail_unreadable(records, [Failure(f"p{number}.png", "is gone") for number in range(3, 30)])
    assert [one.status for one in records] == ["pending"] * 3 + ["failed"] * 28
    assert len(looked) == len(records)


def test_a_run_tries_once_whether_its_folder_can_be_written_to(command, tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(OutputTree, "prove_writable", lambda tree: tried.append(tree.root))
    assert command("inference_coz", SCENE, *RESIZE, "--find_detail", 1, "-o", tmp_path / "out").code == 0
    assert command("make_viewer", tmp_path / "out").code == 0
    assert tried == [tmp_path / "out"] * 2, "of the run, and of the viewer"


def test_a_closed_results_folder_fails_that_picture_only(command, tmp_path, photos, monkeypatch):
    write = Path.write_bytes

    def refuse(self, content):
        if self.parent.name == "scene":
            raise PermissionError(13, "Permission denied", str(self))
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", refuse)
    done = command("inference_coz", "-i", photos, "-o", tmp_path / "out", *RESIZE)
    assert done.code == 1, done.err
    assert "failed: scene.png" in done.err
    assert "cannot be written (Permission denied)" in done.err
    assert "1 of 2 pictures" in done.out


def test_libtiffs_own_lines_do_not_reach_the_terminal(tmp_path):
    file = tmp_path / "odd.tif"
    Image.open(SCENE).convert("RGB").save(file, compression="tiff_lzw")
    content = bytearray(file.read_bytes())
    content[200:260] = bytes(60)
    file.write_bytes(content)
    done = run_script("inference_coz", "-i", file, SCENE, "-o", tmp_path / "out", *RESIZE)
    assert all("odd.tif" in line for line in done.err.splitlines()), done.err


def test_a_message_is_cut_at_a_sane_length(command, tmp_path):
    done = command("inference_coz", "-i", "x" * 3000, "-o", tmp_path)
    assert done.code == 2
    assert len(done.err) < 340


@pytest.mark.posix
def test_time_is_not_wasted_on_a_signal_that_came_before(tmp_path):
    """A process that got its signal ends soon, whatever it was doing."""
    arguments = [ROOT / "inference_coz.py", "-i", PARITY / "input", "-o", tmp_path / "out"]
    run = subprocess.Popen([sys.executable, *arguments], stderr=subprocess.PIPE, text=True)
    time.sleep(1.5)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=20)
    assert run.returncode in (0, 130)
    assert "Traceback" not in said


def test_a_prompt_that_the_next_run_could_not_read_back_is_refused(command, tmp_path):
    for option in (("--prompt", "x" * 10_001), ("--prompt", "a\0b")):
        done = command("inference_coz", "-i", SCENE, "-o", tmp_path / "out", "--process_size", 64, *option)
        assert (done.code, "--prompt" in done.err) == (2, True)
    (tmp_path / "prompts.csv").write_text(f"file,step,prompt\nscene.png,1,{'x' * 10_001}\n")
    done = command("inference_coz", "-i", SCENE, "-o", tmp_path, "--prompts_file", tmp_path / "prompts.csv")
    assert (done.code, "line 2" in done.err) == (2, True)


def test_a_picture_that_an_interrupted_run_had_not_come_to_has_not_changed(command, tmp_path, photos):
    out = tmp_path / "out"
    for number in range(60):  # more than are read ahead
        shutil.copy(SCENE, photos / f"z{number}.png")
    assert killed(9, "SIGTERM", "-i", photos, "-o", out, *RESIZE).returncode == 143
    assert report(out)["pictures"][-1]["sha256"] is None
    done = command("inference_coz", "-i", photos, "-o", out, *RESIZE, "-v")
    assert done.code == 0
    assert "has changed" not in done.err


@pytest.mark.parametrize(
    "options",
    [
        ("--rec_type", "bicubic", "--backbone", "embedded"),
        ("--latent_tiled_overlap", 0),
        ("--prompt_type", "vlm", "--vlm_path", PARITY / "qwen", "--ram_tags", "nosuch"),
    ],
    ids=str,
)
def test_an_option_that_nothing_would_read_is_refused(command, tmp_path, options):
    done = command("inference_coz", "-i", SCENE, "-o", tmp_path / "out", *options)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "--" in done.err


def test_names_that_differ_only_in_letters_that_fold_alike_go_on(command, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("straße.png", "strasse.png", "ﬁ.png", "fi.png"):
        shutil.copy(SCENE, tmp_path / "in" / name)
    for _ in range(2):
        assert command("inference_coz", "-i", tmp_path / "in", "-o", tmp_path / "out", *RESIZE).code == 0
    assert len(list((tmp_path / "out" / "recursive").iterdir())) == 4


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_a_picture_among_the_results_is_not_written_over(command, tmp_path, more):
    place = tmp_path / "out" / "recursive"
    place.mkdir(parents=True)
    shutil.copy(SCENE, place / "photo.png")
    done = command("inference_coz", "-i", place / "photo.png", "-o", tmp_path / "out", *RESIZE, *more)
    assert done.code == 2
    assert "lies among the results" in done.err
    assert (place / "photo.png").read_bytes() == SCENE.read_bytes()


def test_nothing_is_swept_up_through_a_link(tmp_path):
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / ".writing-abc.part").write_bytes(b"mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "per-sample").symlink_to(tmp_path / "victim")
    OutputTree(tmp_path / "out").sweep()
    assert (tmp_path / "victim" / ".writing-abc.part").read_bytes() == b"mine"


@pytest.mark.posix
def test_a_state_that_is_a_pipe_or_something_else_is_made_again_in_silence(command, tmp_path):
    out = tmp_path / "out"
    arguments = ("-i", SCENE, "-o", out, *RESIZE)
    assert command("inference_coz", *arguments).code == 0
    expected = pixels(out)
    state = out / "per-sample" / "scene" / "1.png"
    for replace in (os.mkfifo, lambda path: Image.new("RGB", (64, 64)).save(path, "TIFF")):
        (out / "recursive" / "scene.png").unlink()
        state.unlink()
        replace(state)
        done = command("inference_coz", *arguments)
        assert (done.code, done.err) == (0, "")
        assert pixels(out) == expected


@pytest.mark.posix
@pytest.mark.parametrize("name", ["text_encoder/config.json", "scheduler/scheduler_config.json"])
def test_a_pipe_among_a_models_files_is_named_and_not_waited_for(command, tmp_path, name):
    folder = shutil.copytree(PARITY / "sd3", tmp_path / "sd3")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    done = command(
        "inference_coz",
        "-i",
        SCENE,
        "-o",
        tmp_path / "out",
        "--pretrained_model_name_or_path",
        folder,
        "--no_sr_lora",
    )
    assert (done.code, "not a regular file" in done.err) == (2, True)


def test_a_terminal_that_cannot_show_a_name_is_no_reason_to_fail(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = run_script("inference_coz", "-i", SCENE, "-o", tmp_path / "é", *RESIZE, env=environment)
    assert (done.code, "Traceback" in done.err) == (0, False)


def test_a_page_in_postscript_is_not_run(command, tmp_path):
    (tmp_path / "page.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n"
    )
    done = command("inference_coz", "-i", tmp_path / "page.png", "-o", tmp_path / "out", *RESIZE)
    assert (done.code, "is PostScript and no picture" in done.err) == (2, True)


def test_folders_nested_without_end_are_one_line(command, tmp_path):
    done = command("inference_coz", "-i", SCENE, "-o", tmp_path.joinpath(*["a"] * 1500), *RESIZE)
    assert (done.code, done.err.count("\n")) == (2, 1)

"""The command as a user runs it: files and exit codes, resume, and faults."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from conftest import PARITY, ROOT, SMALL, pixels, run_script
from PIL import Image

from zoom.asking import noise_seed
from zoom.strip import BAR

SCENE, TURNED = (PARITY / "input" / f"{name}.png" for name in ("scene", "turned"))
RESIZE = ("--process_size", 64, "--rec_num", 2, "--rec_type", "bicubic")


def report(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_bytes())


# the outside


HEAVY = ("torch", "numpy", "PIL", "transformers", "diffusers", "onnxruntime")

# Runs the command in a fresh process, and says what it ended with and which heavy libraries it imported.
IMPORTED_BY = """
import sys
sys.path.insert(0, sys.argv[1])
import inference_coz
try:
    code = inference_coz.main(sys.argv[2:])
except SystemExit as stop:
    code = stop.code
print()
print(code, *(name for name in sys.modules if "." not in name))
"""


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--help"], 0), (["-i", "nowhere.png"], 2), (["-i", ".", "--upscale", "99"], 2)]
)
def test_help_and_wrong_arguments_answer_before_anything_heavy_is_imported(arguments, code):
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED_BY, str(ROOT), *arguments], capture_output=True, text=True, check=True
    )
    ended, *modules = done.stdout.splitlines()[-1].split()
    assert ended == str(code)
    assert not set(modules) & set(HEAVY)


def test_help_shows_the_defaults(command):
    done = command("inference_coz", "--help")
    assert done.code == 0
    words = " ".join(done.out.split())
    for default in ("recursive_multiscale", "inference_results", "512", "native", "42", "auto"):
        assert f"(default: {default})" in words


def test_a_wrong_path_answers_in_one_line_with_exit_code_2():
    done = run_script("inference_coz", "-i", "nowhere.png")
    assert (done.code, done.err) == (2, "inference_coz.py: nowhere.png: no such file or folder\n")


def test_a_zoom_writes_states_inputs_prompts_strips_and_reports(undisturbed):
    per_sample = {name for name in undisturbed if name.startswith("per-sample/scene/")}
    assert per_sample == {
        f"per-sample/scene/{file}"
        for file in (
            "0.png",
            "1.png",
            "2.png",
            "1_input.png",
            "2_input.png",
            "scene.png",
            "txt/0.txt",
            "txt/1.txt",
        )
    }
    assert undisturbed["recursive/scene.png"] == undisturbed["per-sample/scene/scene.png"]
    assert undisturbed["per-scale/scale2/turned.png"] == undisturbed["per-sample/turned/2.png"]


def test_the_strip_shows_the_states_side_by_side(command, tmp_path):
    assert command("inference_coz", "-i", SCENE, "-o", tmp_path, *RESIZE).code == 0
    with Image.open(tmp_path / "recursive" / "scene.png") as strip:
        assert strip.size == (3 * 64, 64 + BAR)
        for number in range(3):
            with Image.open(tmp_path / "per-sample" / "scene" / f"{number}.png") as state:
                part = strip.crop((64 * number, 0, 64 * number + 64, 64))
                assert np.array_equal(np.asarray(part), np.asarray(state))


def test_the_embedded_network_makes_sharper_states_than_bicubic_that_still_show_their_crops(
    command, tmp_path
):
    """Noise would be sharp too, but shrunk it would not give the crop back; bicubic does, and is soft."""
    sharpness = {}
    for kind in ("recursive", "bicubic"):
        out = tmp_path / kind
        arguments = ("--process_size", 128, "--rec_num", 2, "--rec_type", kind)
        assert command("inference_coz", "-i", SCENE, "-o", out, *arguments).code == 0
        before, state = (Image.open(out / f"per-sample/scene/{number}.png") for number in (1, 2))
        sharpness[kind] = np.abs(np.diff(np.asarray(state, float), axis=1)).mean()
        if kind == "recursive":
            crop = np.asarray(before.crop((48, 48, 80, 80)), float)
            shrunk = np.asarray(state.resize((32, 32), Image.Resampling.BOX), float)
            assert 20 * np.log10(255 / np.sqrt(((shrunk - crop) ** 2).mean())) > 28
    assert sharpness["recursive"] > 1.1 * sharpness["bicubic"]


def test_run_json_says_what_was_asked_and_done(command, tmp_path):
    command("inference_coz", "-i", SCENE, "-o", tmp_path, *SMALL, "--prompt", "a cat", "--seed", 7)
    content = report(tmp_path)
    assert content["schema"] == 3
    assert content["version"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert content["status"] == "done"
    assert content["settings"]["chain"]["seed"] == 7
    assert content["settings"]["backbone"]["backbone"] == "embedded"
    (picture,) = content["pictures"]
    assert (picture["name"], picture["label"], picture["status"], picture["failure"]) == (
        "scene",
        "scene.png",
        "done",
        None,
    )
    assert [step["magnification"] for step in picture["steps"]] == [4, 16]
    step = picture["steps"][1]
    assert (step["window"], step["window_of"], step["prompt"], step["extractor"]) == (
        [24, 24, 16, 16],
        1,
        "a cat",
        "null",
    )
    assert step["seed"] == noise_seed(7, "scene.png", 2)
    assert set(step["seconds"]) == {"prompt", "sr", "save"}
    assert content["stage_seconds"]["sr.embedded.forward"] > 0
    assert content["environment"]["versions"]["torch"]


def test_the_prompts_of_a_run_can_be_edited_and_used_again(command, tmp_path):
    command("inference_coz", "-i", SCENE, "-o", tmp_path / "one", *SMALL, "--prompt", "a cat")
    prompts = tmp_path / "edited.csv"
    prompts.write_text(
        (tmp_path / "one" / "prompts.csv")
        .read_text()
        .replace("scene.png,2,a cat", 'scene.png,2,"a dog, fur"')
    )
    done = command("inference_coz", "-i", SCENE, "-o", tmp_path / "two", *SMALL, "--prompts_file", prompts)
    assert done.code == 0, done.err
    texts = [(tmp_path / "two/per-sample/scene/txt" / f"{k}.txt").read_text() for k in (0, 1)]
    assert texts == ["a cat", "a dog, fur"]


def test_a_prompt_for_a_picture_that_is_not_there_is_named(command, tmp_path):
    (tmp_path / "p.csv").write_text("file,step,prompt\nsceen.png,1,cat\nscene.png,3,cat\n")
    done = command(
        "inference_coz", "-i", SCENE, "-o", tmp_path / "out", *SMALL, "--prompts_file", tmp_path / "p.csv"
    )
    assert "sceen.png, step 1: there is no such picture" in done.err
    assert "scene.png, step 3: there is no such step" in done.err


def test_no_save_prompts_writes_no_prompt_files(command, tmp_path):
    command("inference_coz", "-i", SCENE, "-o", tmp_path, *SMALL, "--no_save_prompts")
    assert not list(tmp_path.rglob("*.txt"))


def test_recursive_folders_keep_their_structure(command, tmp_path, photos):
    (photos / "deep" / "er").mkdir(parents=True)
    shutil.copy(SCENE, photos / "deep" / "er")
    done = command("inference_coz", "-i", photos, "-o", tmp_path / "out", *RESIZE, "--recursive_folders")
    assert done.code == 0
    for place in (
        "per-sample/deep/er/scene/2.png",
        "per-sample/deep/er/scene/scene.png",
        "per-scale/scale1/deep/er/scene.png",
        "recursive/deep/er/scene.png",
        "recursive/scene.png",
    ):
        assert (tmp_path / "out" / place).is_file(), place


def test_an_output_folder_inside_the_input_folder_is_not_zoomed_into(command, photos):
    for _ in range(2):
        done = command("inference_coz", "-i", photos, "-o", photos / "out", *RESIZE, "--recursive_folders")
        assert done.out.startswith("2 of 2"), "nor are its reports counted as files that are no pictures"


def test_dry_run_prints_the_plan_and_writes_nothing(command, tmp_path, photos):
    (photos / "bad.png").touch()
    done = command("inference_coz", "-i", photos, "-o", tmp_path / "out", "--dry_run")
    assert done.code == 1, "a picture cannot be read"
    for words in (
        "2 to zoom into, 0 done, 1 that cannot",
        "bad.png: is empty",
        "4x 16x 64x 256x",
        "embedded",
        "are free",
    ):
        assert words in done.out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--process_size", 500], "--process_size 500: must be a multiple of 16, at least 64; take 496"),
        (["--process_size", 16], "take 64"),
        (["--upscale", 9], "--upscale 9: must be from 2 to 8"),
        (["--seed", -1], "--seed -1"),
        (["--rec_type", "nearest", "--rec_num", 5], "--rec_num 4 or less"),
        (["--prompts_file", "nowhere.csv"], "nowhere.csv: no such file"),
        (["--output_dir", SCENE], "is a file; give a folder"),
        (["--device", "cuda:7"], "--device cuda:7"),
        (["--device", "toaster"], "--device toaster"),
        (["--rec_num", 0], "must be 1 or more"),
        (["--backbone", "magic"], "--backbone magic: neither embedded, sd3 or auto, nor a file"),
        (["--rec_num", 101], "--rec_num 101: at most 100"),
        (["--output_dir", "x" * 300], "File name too long"),
        (["--rec_type", "bicubic", "--device", "cpu"], "--device: --rec_type bicubic only resizes"),
        (
            ["--rec_type", "bicubic", "--align_method", "adain"],
            "--align_method: --rec_type bicubic only resizes",
        ),
        (["--rec_type", "nearest", "--backbone", "sd3", "--lora_path", "x"], "--lora_path only goes with"),
    ],
)
def test_bad_arguments_are_refused_with_the_way_out_and_exit_code_2(command, tmp_path, arguments, reason):
    done = command("inference_coz", "-i", SCENE, "-o", tmp_path / "out", *arguments)
    assert done.code == 2
    assert reason in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_is_the_input_folder_is_not_zoomed_into_again(command, photos):
    for _ in range(2):
        done = command("inference_coz", "-i", photos, "-o", photos, *RESIZE, "--recursive_folders")
        assert done.out.startswith("2 of 2")


def test_dry_run_refuses_a_folder_that_the_run_would_refuse(command, tmp_path):
    command("inference_coz", "-i", SCENE, "-o", tmp_path, *RESIZE)
    assert (
        "0 to zoom into, 1 done"
        in command("inference_coz", "-i", SCENE, "-o", tmp_path, *RESIZE, "--dry_run").out
    )
    done = command("inference_coz", "-i", SCENE, "-o", tmp_path, *RESIZE, "--seed", 1, "--dry_run")
    assert done.code == 2


@pytest.mark.posix
def test_a_reader_that_goes_away_does_not_matter(tmp_path):
    command = f"{sys.executable} {ROOT / 'inference_coz.py'} -i {SCENE} -o {tmp_path} --rec_type bicubic"
    script = f"{command} --rec_num 1 | true"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_dashes_do_for_underscores_in_option_names(command, tmp_path):
    done = command(
        "inference_coz",
        "--input-image",
        SCENE,
        "--output-dir",
        tmp_path,
        "--rec-type=nearest",
        "--rec-num=1",
        "--process-size",
        64,
    )
    assert done.code == 0, done.err


@pytest.mark.parametrize("kind", ["nearest", "bicubic"])
def test_kinds_that_only_resize_show_the_middle_of_the_picture_to_the_last_step(command, tmp_path, kind):
    """The published code gives black pictures where a window has less than a pixel."""
    arguments = ("--process_size", 512, "--rec_num", 4, "--rec_type", kind)
    assert command("inference_coz", "-i", SCENE, "-o", tmp_path, *arguments).code == 0
    with (
        Image.open(tmp_path / "per-sample" / "scene" / "0.png") as first,
        Image.open(tmp_path / "per-sample" / "scene" / "4.png") as last,
    ):
        middle = np.asarray(first.crop((255, 255, 257, 257)), float)
        corners = np.asarray(last, float)[[0, 0, -1, -1], [0, -1, 0, -1]].reshape(2, 2, 3)
    assert np.abs(corners - middle).max() <= 12, "bicubic overshoots a little"


# one bad picture never stops a folder


def test_bad_pictures_are_named_with_their_reasons_and_the_good_ones_finish(command, tmp_path, photos):
    (photos / "text.png").write_text("no picture")
    Image.open(SCENE).convert("RGB").resize((600, 400)).save(photos / "cut.jpg")
    (photos / "cut.jpg").write_bytes((photos / "cut.jpg").read_bytes()[:9000])
    (photos / "zero.png").touch()
    (photos / "link.png").symlink_to(tmp_path / "nowhere")
    done = command("inference_coz", "-i", photos, "-o", tmp_path / "out", *SMALL)
    assert done.code == 1
    for line in (
        "failed: text.png: is not a picture",
        "failed: cut.jpg: cannot be decoded",
        "failed: zero.png: is empty",
        "failed: link.png: is a link to nothing",
    ):
        assert line in done.err
    assert "Traceback" not in done.err
    assert done.out.startswith("2 of 6 pictures")
    content = report(tmp_path / "out")
    assert content["status"] == "failed"
    assert [entry["status"] for entry in content["pictures"]] == ["failed", "done", "done"]
    assert {entry["label"] for entry in content["unreadable"]} == {
        "text.png",
        "zero.png",
        "link.png",
    }
    assert (tmp_path / "out" / "recursive" / "turned.png").is_file()


def test_a_picture_that_was_mended_is_zoomed_into_by_the_next_run(command, tmp_path, photos):
    (photos / "third.png").touch()
    assert command("inference_coz", "-i", photos, "-o", tmp_path / "out", *RESIZE).code == 1
    shutil.copy(SCENE, photos / "third.png")
    done = command("inference_coz", "-i", photos, "-o", tmp_path / "out", *RESIZE)
    assert (done.code, done.out.splitlines()[0]) == (
        0,
        "3 of 3 pictures zoomed to 16x: 1 new, 2 were done already",
    )
    assert report(tmp_path / "out")["unreadable"] == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such file names")
def test_file_names_that_are_no_text_or_steer_a_terminal_are_seen_to(command, tmp_path, photos):
    shutil.copy(SCENE, os.fsencode(photos) + b"/caf\xe9.png")
    (photos / "\x1b[31mred\n.png").write_text("no picture")
    done = command("inference_coz", "-i", photos, "-o", tmp_path / "out", *RESIZE)
    assert done.code == 1
    assert "failed: \\x1b[31mred\\n.png: is not a picture" in done.err
    assert (tmp_path / "out" / "recursive" / "caf_.png").is_file()
    assert command("inference_coz", "-i", photos, "-o", tmp_path / "out", *RESIZE).code == 1


def test_names_of_files_and_folders_cannot_collide_in_the_tree(command, tmp_path, photos):
    (photos / "scene.png").rename(photos / "a.jpg")
    for place in ("a/0.png.png", "a.png/b.png", "a/txt/0.txt.png"):
        (photos / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SCENE, photos / place)
    done = command("inference_coz", "-i", photos, "-o", tmp_path / "out", *RESIZE, "--recursive_folders")
    assert (done.code, done.out.splitlines()[0]) == (0, "5 of 5 pictures zoomed to 16x: 5 new")


# same seed, same pixels


def test_pixels_do_not_depend_on_the_order_of_files_or_on_neighbours(command, tmp_path, undisturbed):
    command("inference_coz", "-i", TURNED, SCENE, "-o", tmp_path / "other order", *SMALL)
    assert pixels(tmp_path / "other order") == undisturbed
    command("inference_coz", "-i", TURNED, "-o", tmp_path / "alone", *SMALL)
    alone = pixels(tmp_path / "alone")
    assert alone == {place: undisturbed[place] for place in alone}


def test_a_batch_of_pictures_differs_by_one_grey_level_at_most(command, tmp_path, photos):
    Image.open(SCENE).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(photos / "mirrored.png")
    for size in (1, 3):
        assert (
            command(
                "inference_coz", "-i", photos, "-o", tmp_path / str(size), *SMALL, "--batch_size", size
            ).code
            == 0
        )
    for file in (tmp_path / "1").rglob("*.png"):
        with Image.open(file) as one, Image.open(tmp_path / "3" / file.relative_to(tmp_path / "1")) as three:
            assert np.abs(np.asarray(one, int) - np.asarray(three, int)).max() <= 1, file


# resume


def test_finished_pictures_are_skipped_and_new_ones_added(command, tmp_path, photos):
    (photos / "turned.png").unlink()
    command("inference_coz", "-i", photos, "-o", tmp_path / "out", *RESIZE)
    state = tmp_path / "out" / "per-sample" / "scene" / "2.png"
    before = state.stat().st_mtime_ns
    shutil.copy(TURNED, photos)
    done = command("inference_coz", "-i", photos, "-o", tmp_path / "out", *RESIZE)
    assert done.out.startswith("2 of 2")
    assert state.stat().st_mtime_ns == before
    assert len(report(tmp_path / "out")["pictures"]) == 2


def test_a_picture_that_is_no_picture_any_more_counts_as_failed(command, tmp_path, photos):
    command("inference_coz", "-i", photos, "-o", tmp_path / "out", *RESIZE)
    (photos / "scene.png").write_text("no picture")
    assert command("inference_coz", "-i", photos, "-o", tmp_path / "out", *RESIZE).code == 1
    assert [entry["status"] for entry in report(tmp_path / "out")["pictures"]] == ["failed", "done"]


def test_a_folder_of_pictures_may_be_moved_between_runs(command, tmp_path, photos):
    command("inference_coz", "-i", photos, "-o", tmp_path / "out", *RESIZE)
    before = (tmp_path / "out" / "recursive" / "scene.png").stat().st_mtime_ns
    photos.rename(tmp_path / "moved")
    assert command("inference_coz", "-i", tmp_path / "moved", "-o", tmp_path / "out", *RESIZE).code == 0
    assert [entry["name"] for entry in report(tmp_path / "out")["pictures"]] == ["scene", "turned"]
    assert (tmp_path / "out" / "recursive" / "scene.png").stat().st_mtime_ns == before


def test_a_picture_that_has_changed_is_done_again(command, tmp_path, photos):
    command("inference_coz", "-i", photos, "-o", tmp_path / "out", *RESIZE)
    shutil.copy(TURNED, photos / "scene.png")
    command("inference_coz", "-i", photos, "-o", tmp_path / "out", *RESIZE)
    results = pixels(tmp_path / "out")
    assert results["recursive/scene.png"] == results["recursive/turned.png"]


def test_a_folder_of_other_settings_is_refused_and_named(command, tmp_path):
    command("inference_coz", "-i", SCENE, "-o", tmp_path, *RESIZE)
    before = pixels(tmp_path)
    done = command("inference_coz", "-i", SCENE, "-o", tmp_path, *RESIZE, "--seed", 43)
    assert done.code == 2
    assert "--seed was 42, is 43" in done.err
    assert "--overwrite" in done.err
    assert pixels(tmp_path) == before


def test_overwrite_starts_anew_and_leaves_no_trace_of_the_old_run(command, tmp_path):
    command("inference_coz", "-i", SCENE, "-o", tmp_path / "out", *RESIZE, "--rec_num", 3)
    (tmp_path / "out" / "mine.txt").write_text("not ours to remove")
    assert command("inference_coz", "-i", TURNED, "-o", tmp_path / "out", *RESIZE, "--overwrite").code == 0
    command("inference_coz", "-i", TURNED, "-o", tmp_path / "fresh", *RESIZE)
    assert pixels(tmp_path / "out") == {**pixels(tmp_path / "fresh"), "mine.txt": b"not ours to remove"}


def test_results_of_another_program_are_not_touched(command, tmp_path):
    (tmp_path / "per-sample").mkdir()
    done = command("inference_coz", "-i", SCENE, "-o", tmp_path, *RESIZE)
    assert done.code == 2
    assert "results without a run.json" in done.err


def test_a_damaged_run_json_is_named(command, tmp_path):
    command("inference_coz", "-i", SCENE, "-o", tmp_path, *RESIZE)
    (tmp_path / "victim").mkdir()
    content = (tmp_path / "run.json").read_text()
    for broken in (
        "{",
        content.replace('"name": "scene"', '"name": "../victim"'),
        content.replace('"step": 1', '"step": 7'),
    ):
        (tmp_path / "run.json").write_text(broken)
        done = command("inference_coz", "-i", SCENE, "-o", tmp_path, *RESIZE, "--dry_run")
        assert (done.code, "run.json: is damaged" in done.err) == (2, True)
    done = command("inference_coz", "-i", SCENE, "-o", tmp_path, *RESIZE)
    assert done.code == 2
    assert "run.json: is damaged" in done.err
    assert command("inference_coz", "-i", SCENE, "-o", tmp_path, *RESIZE, "--overwrite").code == 0


# faults

# Runs the command, but kills it (as a power cut would) in the middle of its N-th write.
KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv.pop(1))
count, write = int(sys.argv.pop(1)), Path.write_bytes

def write_half(self, content):
    global count
    count -= 1
    if count:
        return write(self, content)
    write(self, content[: len(content) // 2])
    os.kill(os.getpid(), getattr(signal, sys.argv[0]))
    write(self, content)  # where the signal may wait

sys.argv[0] = sys.argv.pop(1)
Path.write_bytes = write_half
import inference_coz
sys.exit(inference_coz.main(sys.argv[1:]))
"""


def killed(number: int, how: str, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_WRITING, str(ROOT), str(number), how, *map(str, arguments)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.posix
@pytest.mark.parametrize("number", [2, 5, 8, 17])
def test_a_run_killed_in_the_middle_of_a_write_resumes_to_the_same_pixels(
    command, tmp_path, undisturbed, number
):
    out = tmp_path / "out"
    done = killed(number, "SIGKILL", "-i", SCENE.parent, "-o", out, *SMALL)
    assert done.returncode == -signal.SIGKILL
    assert list(out.rglob("*.part")), "it was killed while it wrote"
    assert command("inference_coz", "-i", SCENE.parent, "-o", out, *SMALL).code == 0
    assert pixels(out) == undisturbed
    assert not list(out.rglob(".*"))


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM"])
def test_an_interrupted_run_says_so_and_resumes_to_the_same_pixels(command, tmp_path, undisturbed, how):
    out = tmp_path / "out"
    done = killed(9, how, "-i", SCENE.parent, "-o", out, *SMALL)
    assert done.returncode == {"SIGINT": 130, "SIGTERM": 143}[how], done.stderr
    assert "interrupted" in done.stderr
    assert "Traceback" not in done.stderr
    assert report(out)["status"] == "interrupted"
    assert not list(out.rglob(".*")), "temporary files are removed at once"
    assert command("inference_coz", "-i", SCENE.parent, "-o", out, *SMALL).code == 0
    assert pixels(out) == undisturbed


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 96 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root on Linux")
    yield place
    subprocess.run(["umount", place], check=False)


def test_a_full_disk_ends_in_one_line_and_the_run_goes_on_after_room_is_made(
    command, tmp_path, undisturbed, small_disk, monkeypatch
):
    with monkeypatch.context() as patch:  # somebody else fills it meanwhile
        patch.setattr("command.space.free_at", lambda folder: 10**9)
        done = command("inference_coz", "-i", SCENE.parent, "-o", small_disk / "out", *SMALL)
    assert done.code == 1
    assert "the disk is full; make room" in done.err
    assert "Traceback" not in done.err
    assert not list(small_disk.rglob("*.part"))
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    assert command("inference_coz", "-i", SCENE.parent, "-o", small_disk / "out", *SMALL).code == 0
    assert pixels(small_disk / "out") == undisturbed


def test_a_second_run_into_the_same_folder_is_refused_while_the_first_is_at_work(command, tmp_path):
    from results.output_tree import OutputTree

    with OutputTree(tmp_path).lock() as entered:
        entered.begun()
        done = command("inference_coz", "-i", SCENE, "-o", tmp_path, *RESIZE)
    assert done.code == 2
    assert "another run is writing here" in done.err


def test_two_processes_cannot_write_into_one_folder(tmp_path):
    from results.output_tree import OutputTree

    with OutputTree(tmp_path).lock() as entered:
        entered.begun()
        done = run_script("inference_coz", "-i", SCENE, "-o", tmp_path, *RESIZE)
    assert (done.code, "another run is writing here" in done.err) == (2, True)
    assert not list(tmp_path.iterdir()), "the lock goes with the run"


@pytest.fixture
def held(monkeypatch):
    """Files that cannot be replaced, as on Windows while a viewer or Excel has them open."""
    names: set[str] = set()
    replace = Path.replace

    def refuse(self, target):
        if Path(target).name in names:
            raise PermissionError(13, "The process cannot access the file", str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    monkeypatch.setattr("results.folder.PATIENCE", ())
    return names


def test_a_picture_that_is_open_in_a_viewer_fails_by_name_and_the_others_finish(
    command, tmp_path, photos, held
):
    held.add("scene.png")
    done = command("inference_coz", "-i", photos, "-o", tmp_path / "out", *RESIZE)
    assert done.code == 1
    assert "failed: scene.png" in done.err
    assert "is open in another program" in done.err
    assert "Traceback" not in done.err
    assert [entry["status"] for entry in report(tmp_path / "out")["pictures"]] == ["failed", "done"]
    held.clear()
    assert command("inference_coz", "-i", photos, "-o", tmp_path / "out", *RESIZE).code == 0


@pytest.mark.parametrize("name", ["prompts.csv", "run.json"])
def test_a_report_that_is_open_in_another_program_costs_no_picture(command, tmp_path, photos, held, name):
    held.add(name)
    done = command("inference_coz", "-i", photos, "-o", tmp_path / "out", *RESIZE)
    assert done.code == 1, "not everything that belongs to the results is there"
    assert f"{name}: is open in another program" in done.err
    assert len(list((tmp_path / "out" / "recursive").iterdir())) == 2


def test_a_file_that_is_free_again_after_a_moment_is_replaced(command, tmp_path, held, monkeypatch):
    held.add("scene.png")
    monkeypatch.setattr("results.folder.PATIENCE", (0.0,))
    monkeypatch.setattr("time.sleep", lambda _: held.clear())
    assert command("inference_coz", "-i", SCENE, "-o", tmp_path / "out", *RESIZE).code == 0

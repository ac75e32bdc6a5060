"""The command line: pictures with and without -i, and one line for what is wrong, in the user's words."""

import json
import tomllib

import pytest
from conftest import PARITY, ROOT, SMALL, run_script
from test_house import COMMANDS

from command.decide import parse

SCENE, TURNED = (PARITY / "input" / f"{name}.png" for name in ("scene", "turned"))
RESIZE = ("--process_size", 64, "--rec_num", 1, "--rec_type", "bicubic")


@pytest.mark.parametrize(
    "arguments",
    [
        [SCENE, TURNED, *RESIZE],
        [*RESIZE, SCENE, TURNED],
        [SCENE, *RESIZE, TURNED],
        [PARITY / "input", *RESIZE],
        ["-i", SCENE, TURNED, *RESIZE],
    ],
    ids=["first", "last", "around", "a folder", "with -i"],
)
def test_pictures_need_no_i(command, tmp_path, arguments):
    done = command("inference_coz", *arguments, "-o", tmp_path / "out")
    assert (done.code, done.out.partition(" zoomed")[0]) == (0, "2 of 2 pictures"), done.err


def test_a_picture_whose_name_is_a_letter_is_no_option(command, tmp_path, monkeypatch):
    (tmp_path / "i").write_bytes(SCENE.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert command("inference_coz", "i", *RESIZE).code == 0


@pytest.mark.parametrize("name", ["-odd.jpg", "--a-b.jpg", "--"])
def test_what_follows_two_dashes_is_a_file_whatever_its_name(command, tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(SCENE.read_bytes())
    monkeypatch.chdir(tmp_path)
    done = command("inference_coz", *RESIZE, "--output-dir", "out", SCENE, "--", TURNED, name)
    assert (done.code, done.out.partition(" zoomed")[0]) == (0, "3 of 3 pictures"), done.err
    assert json.loads((tmp_path / "out" / "run.json").read_bytes())["pictures"][0]["label"] == name


def test_a_value_keeps_its_dashes():
    options = parse(["--prompt", "--old-fashioned sepia", "--output-dir=a-b", "--", str(SCENE)])
    assert (options.prompt, options.output_dir.name) == ("--old-fashioned sepia", "a-b")


def test_two_dashes_end_the_values_of_an_option(command, tmp_path):
    done = command("inference_coz", *RESIZE, "-o", tmp_path, "-i", SCENE, "--", "-odd.jpg")
    assert (done.code, "pictures are also given with -i" in done.err) == (2, True), done.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "no pictures are given: inference_coz.py PHOTO.jpg, or a folder; see --help"),
        ([SCENE, "-i", TURNED], f"{SCENE}: pictures are also given with -i; give all of them there, or none"),
        ([SCENE, "--rec_nm", 3], "there is no option --rec_nm; did you mean --rec_num?"),
        ([SCENE, "--rec-nm=3"], "there is no option --rec_nm; did you mean --rec_num?"),
        ([SCENE, "-rec_num", 3], "there is no option -rec_num; did you mean --rec_num?"),
        (["-output-dir", "out", SCENE], "there is no option -output-dir; did you mean --output_dir?"),
        ([SCENE, "--zzz"], "there is no option --zzz"),
        ([SCENE, "-x"], "there is no option -x"),
        (
            [SCENE, "--rec_type", "bicubc"],
            "--rec_type: must be nearest, bicubic, onestep, recursive or recursive_multiscale, not 'bicubc'; "
            "did you mean bicubic?",
        ),
        ([SCENE, "--video", "avi"], "--video: must be mp4, webp or gif, not 'avi'"),
        ([SCENE, "--gpus_per_process", 3], "--gpus_per_process: must be 1 or 2, not '3'"),
        ([SCENE, "--rec_num", "many"], "--rec_num: must be a whole number, not 'many'"),
        ([SCENE, "--seed", "0x1"], "--seed: must be a whole number, not '0x1'"),
        ([SCENE, "--texture", "much"], "--texture: must be a number, not 'much'"),
        ([SCENE, "--process_size", "axb"], "--process_size: must be a side or WxH in pixels, not 'axb'"),
        ([SCENE, "--rec_num"], "--rec_num wants a value"),
        ([SCENE, "--center", 0.5], "--center wants 2 values"),
        (["-i"], "--input_image wants at least one value"),
        ([SCENE, "--overwrite=yes"], "--overwrite takes no value"),
        ([SCENE, "-q", "-v"], "--verbose and --quiet contradict each other; give one"),
    ],
)
def test_what_is_wrong_is_one_line_in_the_words_of_the_user(command, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    done = command("inference_coz", *arguments)
    assert (done.code, done.out, done.err) == (2, "", f"inference_coz.py: {says}\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("script", "arguments", "says"),
    [
        ("make_viewer", [], "OUT is missing; --help says what it is"),
        ("make_viewer", ["a", "b"], "b: is one argument too many; --help lists what there is"),
        ("make_viewer", ["a", "--shar", "b"], "there is no option --shar; did you mean --share?"),
        ("merge_runs", ["a", "--qiet"], "there is no option --qiet; did you mean --quiet?"),
        ("quantize_model", ["--model_component", "text_enc_4"], "did you mean text_enc_3?"),
        ("quantize_model", ["--num_calibration_samples", "x"], "must be a whole number, not 'x'"),
    ],
)
def test_so_it_is_with_the_other_commands(command, script, arguments, says):
    done = command(script, *arguments)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert done.err.startswith(f"{script}.py: ")
    assert done.err.endswith(f"{says}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_which_version_it_is(command, name):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    done = command(name.removesuffix(".py"), "--version")
    assert (done.code, done.out) == (0, f"{name} (Chain-of-Zoom) {version}\n")


@pytest.mark.parametrize("option", ["--vlm_path", "--vlm_lora_path", "--ram_path"])
@pytest.mark.parametrize(
    ("more", "why"),
    [
        (
            [],
            "the embedded network takes no prompts; Stable Diffusion 3 does (--pretrained_model_name_or_path",
        ),
        (["--rec_type", "bicubic"], "--rec_type bicubic only resizes, and nobody is asked for a prompt"),
    ],
)
def test_files_for_prompts_that_nobody_heeds_are_refused_with_the_reason(
    command, tmp_path, option, more, why
):
    done = command("inference_coz", SCENE, "-o", tmp_path / "out", option, tmp_path, *more)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert f"{option} is of no use: {why}" in done.err


# how a run ends


def test_it_ends_with_what_is_new_and_what_is_not(command, tmp_path, photos):
    out = tmp_path / "out"
    done = command("inference_coz", photos / "scene.png", "-o", out, *RESIZE)
    assert done.out.splitlines()[0] == "1 of 1 pictures zoomed to 4x: 1 new"
    (photos / "broken.png").write_bytes(b"no picture")
    done = command("inference_coz", photos, "-o", out, *RESIZE)
    assert done.out.splitlines()[0] == "2 of 3 pictures zoomed to 4x: 1 new, 1 was done already, 1 failed"
    assert "index.html" in done.out
    done = command("inference_coz", photos, "-o", out, *RESIZE)
    assert done.out.splitlines()[0] == "2 of 3 pictures zoomed to 4x: 0 new, 2 were done already, 1 failed"


def test_files_that_are_no_pictures_are_counted(capsys):
    from argparse import Namespace

    from command.zooming import say_what_happened
    from results.output_tree import OutputTree
    from zoom.settings import ChainSettings

    options = Namespace(save="all")
    say_what_happened(options, ChainSettings(), OutputTree(ROOT), [], new=0, failed=1, skipped=3)
    assert capsys.readouterr().out == "0 of 1 pictures zoomed to 256x: 0 new, 1 failed, 3 skipped\n"


def test_where_nothing_is_nobody_is_sent(command, tmp_path, photos):
    for file in photos.iterdir():
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
    done = command("inference_coz", photos, "-o", tmp_path / "out", *RESIZE)
    assert done.out == "0 of 2 pictures zoomed to 4x: 0 new, 2 failed\n"
    for script in ("make_viewer", "merge_runs"):
        assert "Open" not in command(script, tmp_path / "out").out


def test_a_run_without_a_terminal_that_is_short_says_only_how_it_ended(tmp_path):
    done = run_script("inference_coz", SCENE, "-o", tmp_path, *SMALL)
    assert (done.code, done.err) == (0, "")

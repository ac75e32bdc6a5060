"""What ``--dry_run`` and a run refuse before anything begins, and what the plan says of time."""

import json
import shutil

import pytest
from conftest import PARITY, SMALL
from PIL import Image

from checkpoints.catalogue import SD3
from command import expected, space
from command.expected import Speed, Work, seconds_of, time_line
from machine.memory import Room
from results.pictures import Source
from zoom.settings import ChainSettings

SCENE = PARITY / "input" / "scene.png"
RESIZE = ("--rec_type", "bicubic", "--process_size", 64, "--rec_num", 2)
BOTH = pytest.mark.parametrize("dry", [(), ("--dry_run",)], ids=["run", "dry run"])


def has_memory(monkeypatch, total, free=None):
    monkeypatch.setattr(space, "room_on", lambda device: Room(total, total if free is None else free))


# What cannot be is refused, by a run and by a dry run alike


@BOTH
def test_memory_that_the_machine_does_not_have_is_refused_with_the_way_out(
    command, tmp_path, monkeypatch, dry
):
    has_memory(monkeypatch, 4 * 10**9)
    Image.new("RGB", (512, 512)).save(tmp_path / "a.png")
    arguments = ("-i", tmp_path / "a.png", "-o", tmp_path / "out", "--process_size", 8192)
    done = command("inference_coz", *arguments, *dry)
    assert done.code == 2
    assert "cpu has 4.0 GB of memory, and this takes about" in done.err
    assert "take a smaller --process_size" in done.err
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(expected, "_tried", lambda *arguments: None)
    done = command("inference_coz", *arguments[:-1], 1024, "--rec_num", 1, "--dry_run")
    assert done.code == 0, "the way out is one"


def test_memory_that_others_have_now_is_only_warned_of(command, tmp_path, monkeypatch):
    has_memory(monkeypatch, 10**12, free=10**6)
    done = command("inference_coz", "-i", SCENE, "-o", tmp_path / "out", *RESIZE, "--dry_run")
    assert done.code == 0
    assert "cpu has 0.0 GB free of about 0.5 GB needed" in done.err


def test_kinds_that_only_resize_take_memory_too(command, tmp_path, monkeypatch):
    has_memory(monkeypatch, 10**8)
    assert command("inference_coz", "-i", SCENE, "-o", tmp_path / "out", *RESIZE).code == 2


@pytest.mark.parametrize(
    ("arguments", "way_out"),
    [
        (("--batch_size", 4), "a smaller --batch_size"),
        (("--full_image", "--rec_num", 2), "a smaller --rec_num, or --box"),
    ],
)
def test_the_way_out_is_the_option_that_takes_most(command, tmp_path, monkeypatch, arguments, way_out):
    has_memory(monkeypatch, 10**8)
    Image.new("RGB", (800, 800)).save(tmp_path / "a.png")
    done = command("inference_coz", "-i", tmp_path / "a.png", "-o", tmp_path / "out", *arguments)
    assert (done.code, way_out in done.err) == (2, True)


def test_large_pictures_come_tile_by_tile_and_take_no_more_of_the_network(command, tmp_path, monkeypatch):
    """A state of 4096 takes 3 GB with the embedded network, not 20."""
    Image.new("RGB", (512, 512)).save(tmp_path / "a.png")
    has_memory(monkeypatch, 5 * 10**9)
    arguments = ("-i", tmp_path / "a.png", "--process_size", 4096, "--rec_num", 1, "--dry_run")
    monkeypatch.setattr(expected, "_tried", lambda *arguments: None)
    assert command("inference_coz", *arguments, "-o", tmp_path / "out").code == 0


@BOTH
def test_results_that_the_disk_does_not_hold_are_refused(command, tmp_path, monkeypatch, dry):
    monkeypatch.setattr(space, "free_at", lambda folder: 40_000)
    done = command("inference_coz", "-i", SCENE, "-o", tmp_path / "out", *RESIZE, *dry)
    assert done.code == 2
    assert "40.0 kB are free, and what is to come takes about 49.6 kB; take --save states" in done.err
    assert not (tmp_path / "out").exists()
    assert (
        command("inference_coz", "-i", SCENE, "-o", tmp_path / "out", *RESIZE, "--save", "states").code == 0
    )


def test_what_overwriting_removes_makes_room(command, tmp_path, monkeypatch):
    arguments = ("-i", SCENE, "-o", tmp_path / "out", *RESIZE)
    assert command("inference_coz", *arguments).code == 0
    needed = space.space_needed(ChainSettings(process_size=(64, 64), rec_num=2), [Source(SCENE, "")], "all")
    monkeypatch.setattr(space, "free_at", lambda folder: needed - 1)
    assert command("inference_coz", *arguments, "--overwrite").code == 0


@BOTH
@pytest.mark.parametrize("place", ["closed/out", "closed", "closed/per-sample"])
def test_a_folder_that_cannot_be_written_to_is_refused(command, tmp_path, monkeypatch, dry, place):
    """Root may write anywhere: the first write itself is made to fail."""
    import results.output_tree as output_tree

    closed = tmp_path / place if place == "closed/per-sample" else tmp_path / "closed"
    closed.mkdir(parents=True)
    out = tmp_path / "closed" if place == "closed/per-sample" else tmp_path / place
    real = output_tree.temporary

    def refusing(folder, tag=""):
        if folder == closed:
            raise PermissionError(13, "Permission denied")
        return real(folder, tag)

    monkeypatch.setattr(output_tree, "temporary", refusing)
    done = command("inference_coz", "-i", SCENE, "-o", out, *RESIZE, *dry)
    assert done.code == 2
    assert f"{closed}: Permission denied" in done.err
    assert "give another --output_dir" in done.err


def test_a_dry_run_leaves_nothing_where_it_tries_to_write(command, tmp_path):
    before = sorted(tmp_path.iterdir())
    assert command("inference_coz", "-i", SCENE, "-o", tmp_path / "a/b", *RESIZE, "--dry_run").code == 0
    assert sorted(tmp_path.iterdir()) == before


def test_a_picture_that_is_too_small_is_named_from_its_header(command, tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "small.png")
    shutil.copy(SCENE, tmp_path)
    done = command(
        "inference_coz", "-i", tmp_path, "-o", tmp_path / "out", "--dry_run", "--rec_type", "bicubic"
    )
    assert done.code == 1
    assert "small.png: is too small: 40x30 pixels" in done.out


@BOTH
def test_rows_of_the_prompts_file_for_what_is_not_there_are_named(command, tmp_path, dry):
    (tmp_path / "prompts.csv").write_text("file,step,prompt\nscene.png,1,a\nscene.png,9,b\nnone.png,1,c\n")
    arguments = ("-i", SCENE, "-o", tmp_path / "out", *SMALL, "--prompts_file", tmp_path / "prompts.csv")
    done = command("inference_coz", *arguments, *dry)
    assert done.code == 0
    assert "--prompts_file: scene.png, step 9: there is no such step" in done.err
    assert "--prompts_file: none.png, step 1: there is no such picture" in done.err
    assert "scene.png, step 1:" not in done.err


# All checkpoints that are missing, at once


@BOTH
def test_every_missing_checkpoint_is_named_at_once(command, tmp_path, dry):
    models = ("--pretrained_model_name_or_path", "nobody/nothing", "--vlm_path", "nobody/else")
    done = command(
        "inference_coz", "-i", SCENE, "-o", tmp_path / "out", *models, "--vlm_lora_path", "nowhere", *dry
    )
    assert done.code == 2
    lines = done.err.splitlines()
    named = ("--lora_path", "--vae_path", "--vlm_lora_path nowhere", "nobody/nothing", "nobody/else")
    assert len(lines) == len(named)
    for line, words in zip(lines, named, strict=True):
        assert line.startswith(f"inference_coz.py: {words}")


def test_what_is_missing_of_the_published_system_comes_with_the_command_that_fetches_it(command, tmp_path):
    arguments = ("--pretrained_model_name_or_path", SD3.repository, "--prompt_type", "vlm")
    done = command("inference_coz", "-i", SCENE, "-o", tmp_path / "out", *arguments, "--dry_run")
    assert done.code == 2
    commands = [
        line.partition("python download_ckpt.py ")[2].partition(" fetches")[0]
        for line in done.err.splitlines()
    ]
    assert commands == ["--for null", "--for null", "--for null", "--for vlm"]


def test_every_missing_file_of_the_tagger_is_named_at_once(command, tmp_path):
    (tmp_path / "RAM.pth").touch()
    arguments = ("--backbone", "sd3", "--pretrained_model_name_or_path", PARITY / "sd3", "--no_sr_lora")
    arguments += ("--prompt_type", "dape", "--ram_path", tmp_path / "RAM.pth", "--ram_ft_path", "DAPE.pth")
    done = command("inference_coz", "-i", SCENE, "-o", tmp_path / "out", *arguments, "--dry_run")
    assert done.code == 2
    assert [line.split()[1] for line in done.err.splitlines()] == [
        "--ram_tags",
        "--ram_thresholds",
        "--ram_ft_path",
    ]


# How long it takes


def test_a_step_of_the_embedded_network_is_tried_where_nothing_is_known(command, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = command("inference_coz", "-i", SCENE, "-o", tmp_path / "out", *SMALL, "--seed", 7, "--dry_run")
    assert done.code == 0
    assert "time       about" in done.out
    assert "2 steps" in done.out or "1 step" in done.out
    assert "one step was tried" in done.out
    assert not (tmp_path / "out").exists()


def test_where_nothing_is_known_and_nothing_can_be_tried_that_is_said(command, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = command("inference_coz", "-i", SCENE, "-o", tmp_path / "out", *RESIZE, "--dry_run")
    assert "time       not known: no such run was made on this machine yet" in done.out


def test_what_a_run_took_is_remembered_for_the_next_folder(command, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert command("inference_coz", "-i", SCENE, "-o", tmp_path / "one", *SMALL).code == 0
    (entry,) = json.loads((tmp_path / "cache/chain-of-zoom/speeds.json").read_text()).values()
    assert all(seconds > 0 for seconds in entry)
    done = command("inference_coz", "-i", SCENE, "-o", tmp_path / "two", *SMALL, "--seed", 7, "--dry_run")
    assert "as the last such run on this machine took" in done.out
    done = command("inference_coz", "-i", SCENE, "-o", tmp_path / "two", *SMALL, "--upscale", 2, "--dry_run")
    assert "one step was tried" in done.out, "another factor takes another time"


def test_steps_of_an_earlier_run_into_the_folder_tell_how_long_the_others_take(
    command, tmp_path, photos, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert command("inference_coz", "-i", photos / "scene.png", "-o", tmp_path / "out", *SMALL).code == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = command("inference_coz", "-i", photos, "-o", tmp_path / "out", *SMALL, "--dry_run")
    assert "as the earlier steps in this folder took" in done.out
    assert command("inference_coz", "-i", photos, "-o", tmp_path / "out", *SMALL).code == 0
    done = command("inference_coz", "-i", photos, "-o", tmp_path / "out", *SMALL, "--dry_run")
    assert "time       none: all is done" in done.out


@pytest.mark.parametrize("content", ["", "{", "[]", '{"KEY": 1}', '{"KEY": [1, "x"]}', '{"KEY": [-1, 1e99]}'])
def test_speeds_that_nobody_measured_are_not_taken(tmp_path, monkeypatch, content):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "chain-of-zoom").mkdir()
    (tmp_path / "chain-of-zoom/speeds.json").write_text(content)
    assert expected._remembered("KEY") is None


def test_speeds_are_read_as_they_were_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    expected.remember(expected.SPEEDS, "KEY", [2.5, 0.1])
    speed = expected._remembered("KEY")
    assert (speed.network, speed.saving) == (2.5, 0.1)


def test_only_the_states_that_networks_make_take_a_networks_time(tmp_path):
    """Of 8192 pixels, the windows of steps 1 and 2 hold as many as a state: they are only cut out."""
    sources = [
        Source(tmp_path / "a.png", "a.png", (8192, 8192)),
        Source(tmp_path / "b.png", "b.png", (512, 512)),
    ]
    work = expected.work_left(ChainSettings(rec_num=3), sources, {})
    assert work.steps == 1 + 3
    assert work.network == pytest.approx(work.steps * 512**2 / 1e6)
    assert work.saving == pytest.approx(6 * 512**2 / 1e6)


def test_writing_overlaps_with_the_networks():
    speed = Speed(10.0, 1.0, "as measured")
    assert seconds_of(Work(1, 1.0, 1.0), speed) == 10
    assert seconds_of(Work(0, 0.0, 100.0), speed) == 100 / expected.THREADS
    assert time_line(Work(10, 2.6, 2.6), speed) == "about 26 s (10 steps, 2.6 s each; as measured)"
    assert time_line(Work(0, 0.0, 0.0), None) == "none: all is done"
    assert time_line(Work(10, 540.0, 540.0), speed).startswith("about 1 h 30 min (10 steps, 9 min each")

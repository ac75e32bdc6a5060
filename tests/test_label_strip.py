"""--label_strip as a user runs it."""

from pathlib import Path

import numpy as np
from conftest import PARITY
from PIL import Image

SCENE = PARITY / "input" / "scene.png"
RESIZE = ("--process_size", 64, "--rec_num", 2, "--rec_type", "bicubic")


def pictures(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*.png")}


def test_labels_are_written_on_strips_alone_and_are_no_setting_of_a_run(command, tmp_path):
    run = ("inference_coz", "-i", SCENE, "-o", tmp_path, *RESIZE)
    strips = ("recursive/scene.png", "per-sample/scene/scene.png")
    assert command(*run).code == 0
    plain = pictures(tmp_path)
    assert command(*run, "--label_strip").code == 0
    labelled = pictures(tmp_path)
    assert {name for name in plain if labelled[name] != plain[name]} == set(strips)
    assert labelled[strips[0]] == labelled[strips[1]]
    assert command(*run).code == 0
    assert pictures(tmp_path) == labelled, "without the option finished strips stay as they are"


def test_a_new_picture_gets_its_labels_at_once_and_also_without_a_bar(command, tmp_path):
    shrunk = (*RESIZE, "--source", "shrunk")
    for folder, options in (("plain", ()), ("labelled", ("--label_strip",))):
        assert command("inference_coz", "-i", SCENE, "-o", tmp_path / folder, *shrunk, *options).code == 0
    plain, labelled = (Image.open(tmp_path / one / "recursive/scene.png") for one in ("plain", "labelled"))
    assert plain.size == labelled.size == (3 * 64, 64)
    assert np.asarray(plain).tobytes() != np.asarray(labelled).tobytes()
    assert np.array_equal(np.asarray(plain)[:16], np.asarray(labelled)[:16])


def test_a_strip_that_cannot_be_labelled_names_its_picture(command, tmp_path, photos):
    run = ("inference_coz", "-i", photos, "-o", tmp_path, *RESIZE)
    assert command(*run).code == 0
    (tmp_path / "per-sample" / "scene" / "1.png").write_bytes(b"no picture")
    done = command(*run, "--label_strip")
    assert done.code == 1
    assert "failed: scene.png: state 1 is gone or damaged" in done.err
    assert command(*run, "--label_strip").code == 0, "and the next run makes it anew"

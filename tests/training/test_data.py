"""What is trained on: squares of pictures, states of runs, order, seeds, what cannot be read, held out."""

import json
import logging
import random
import shutil

import numpy as np
import pytest
from conftest import PARITY, SMALL, run_script
from PIL import Image

from errors import InputError
from results.pictures import Source
from training.data import (
    Pairs,
    PictureItem,
    StateItem,
    fingerprint,
    hold_out,
    items_of_pictures,
    items_of_run,
)


@pytest.fixture(scope="module")
def gradient(tmp_path_factory):
    """A picture in which every place has its own colour: x in red, y in green."""
    file = tmp_path_factory.mktemp("pictures") / "gradient.png"
    y, x = np.mgrid[0:256, 0:256].astype(np.uint8)
    Image.fromarray(np.stack([x, y, x * 0], axis=2)).save(file)
    return file


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A finished run of two pictures and three steps; the first finds enough real pixels."""
    out = tmp_path_factory.mktemp("run") / "out"
    done = run_script("inference_coz", "-i", PARITY / "input", "-o", out, *SMALL, "--rec_num", 3)
    assert done.code == 0, done.err
    return out


def middle(picture):
    """Red and green of a picture's middle, and how fast they change over it."""
    values = np.asarray(picture, dtype=float)
    half = picture.width // 2
    slope = (values[half, -9, 0] - values[half, 8, 0]) / (picture.width - 17)
    return values[half - 1 : half + 1, half - 1 : half + 1, :2].mean((0, 1)), slope


# squares of pictures


def test_the_crop_is_the_middle_of_the_state_enlarged_by_the_factor_of_a_step(gradient):
    item = PictureItem(Source(gradient, "gradient.png", (256, 256)), 64, 4)
    for number in range(20):
        pair = item.pair(random.Random(number))
        assert pair.parent.size == pair.sr_input.size == (64, 64)
        (state_middle, state_slope), (crop_middle, crop_slope) = middle(pair.parent), middle(pair.sr_input)
        assert np.abs(state_middle - crop_middle).max() < 2.5
        assert crop_slope == pytest.approx(state_slope / 4, rel=0.15)


def test_squares_are_everywhere_and_of_every_depth_at_which_the_chain_asks_about_real_pixels(gradient):
    item = PictureItem(Source(gradient, "gradient.png", (256, 256)), 64, 4)
    labels = [item.pair(random.Random(number)).label for number in range(200)]
    sides = [int(label.rpartition(" ")[2]) for label in labels]
    assert min(sides) < 70
    assert max(sides) > 240
    assert max(sides) <= 255  # at 256 the crop has a state's own pixels, and no network is asked
    assert np.median(sides) == pytest.approx(128, rel=0.15)  # as deep below as above
    assert len(set(labels)) > 150


def test_a_picture_smaller_than_a_state_is_shown_whole(tmp_path):
    Image.new("RGB", (50, 40)).save(tmp_path / "small.png")
    item = PictureItem(Source(tmp_path / "small.png", "small.png", (50, 40)), 64, 4)
    assert item.pair(random.Random(0)).label.endswith("of 40")


def test_pictures_that_cannot_be_used_are_named_and_the_others_taken(tmp_path, gradient):
    shutil.copy(gradient, tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    Image.new("RGB", (3, 300)).save(tmp_path / "tiny.png")
    items, failures = items_of_pictures([tmp_path], False, 64, 4)
    assert [item.label for item in items] == ["gradient.png"]
    assert {failure.label for failure in failures} == {"broken.png", "tiny.png"}


# states of finished runs


def test_a_runs_own_states_are_what_its_extractor_would_have_seen(run_folder):
    items = items_of_run(run_folder)
    report = json.loads((run_folder / "run.json").read_text())
    asked = [(p["name"], s["step"]) for p in report["pictures"] for s in p["steps"] if s["made"] != "real"]
    assert [(item.picture.name, item.step.step) for item in items] == asked
    for item in items:
        pair = item.pair(random.Random(0))
        folder, step = run_folder / "per-sample" / item.picture.name, item.step.step
        with Image.open(folder / f"{step - 1}.png") as parent:
            assert pair.parent.tobytes() == parent.tobytes()
        with Image.open(folder / f"{step}_input.png") as sr_input:
            assert pair.sr_input.tobytes() == sr_input.tobytes()
    assert pair.label == "turned.png at 64x"


def test_a_run_that_kept_its_states_alone_gives_the_same_crops(run_folder, tmp_path):
    lean = shutil.copytree(run_folder, tmp_path / "lean")
    for file in lean.rglob("*_input.png"):
        file.unlink()
    for whole, without in zip(items_of_run(run_folder), items_of_run(lean), strict=True):
        if whole.step.window_of is None:
            continue
        chance = random.Random(0)
        assert without.pair(chance).sr_input.tobytes() == whole.pair(chance).sr_input.tobytes()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda report: report["settings"]["chain"].update(rec_type="bicubic"), "do not zoom"),
        (lambda report: report["settings"]["chain"].update(full_image=True), "do not zoom"),
        (lambda report: report["settings"].update(chain="odd"), "do not zoom"),
        (lambda report: [p.update(status="started") for p in report["pictures"]], "no finished picture"),
        (lambda report: report.update(schema=99), "another schema"),
    ],
)
def test_a_run_of_which_nothing_can_be_learned_is_refused(run_folder, tmp_path, change, says):
    other = shutil.copytree(run_folder, tmp_path / "other")
    report = json.loads((other / "run.json").read_text())
    change(report)
    (other / "run.json").write_text(json.dumps(report))
    with pytest.raises(InputError, match=says):
        items_of_run(other)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no run\.json in there"):
        items_of_run(tmp_path)


def test_a_report_whose_window_leaves_the_state_is_not_followed(run_folder, tmp_path):
    other = shutil.copytree(run_folder, tmp_path / "other")
    [item] = [one for one in items_of_run(other) if one.label == "scene.png" and one.step.step == 3]
    assert isinstance(item, StateItem)
    item.step.window = (60, 60, 16, 16)
    (other / "per-sample/scene/3_input.png").unlink()
    with pytest.raises(InputError, match="no picture can be read"):
        Pairs([item], 0).pair(0)


# order and seeds


def pairs_of(gradient, tmp_path, seed=7, copies=5):
    for number in range(copies):
        shutil.copy(gradient, tmp_path / f"{number}.png")
    return Pairs(items_of_pictures([tmp_path], False, 64, 4)[0], seed)


def test_every_pass_takes_every_item_once_each_in_another_order(gradient, tmp_path):
    pairs = pairs_of(gradient, tmp_path)
    passes = [[pairs.pair(row).label[0] for row in range(5 * turn, 5 * turn + 5)] for turn in range(3)]
    assert [sorted(one) for one in passes] == [list("01234")] * 3
    assert len({tuple(one) for one in passes}) > 1


def test_a_row_is_the_same_pair_whatever_was_asked_before(gradient, tmp_path):
    first, again = pairs_of(gradient, tmp_path), pairs_of(gradient, tmp_path)
    expected = [first.pair(row) for row in range(12)]
    for row in (11, 3, 7, 0):
        assert again.pair(row).label == expected[row].label
        assert again.pair(row).parent.tobytes() == expected[row].parent.tobytes()
    other = pairs_of(gradient, tmp_path, seed=8)
    assert [other.pair(row).label for row in range(12)] != [pair.label for pair in expected]


def test_a_picture_that_is_gone_is_named_once_and_the_next_one_takes_its_place(gradient, tmp_path, caplog):
    pairs = pairs_of(gradient, tmp_path, copies=3)
    (tmp_path / "1.png").unlink()
    with caplog.at_level(logging.WARNING):
        labels = {pairs.pair(row).label[0] for row in range(9)}
    assert labels == {"0", "2"}
    assert pairs.left_out == 1
    assert caplog.text.count("1.png: left out: is not a regular file") == 1
    (tmp_path / "0.png").unlink()
    (tmp_path / "2.png").unlink()
    with pytest.raises(InputError, match="no picture can be read any more"):
        pairs.pair(20)


# held out


def test_pictures_are_held_out_with_all_that_is_made_of_them(run_folder):
    items = items_of_run(run_folder)
    trained_on, held_out = hold_out(items, 1, seed=1)
    assert {item.label for item in trained_on} & {item.label for item in held_out} == set()
    assert len({item.label for item in held_out}) == 1
    assert len(trained_on) + len(held_out) == len(items)


def test_who_is_held_out_does_not_depend_on_the_others(gradient, tmp_path):
    few = pairs_of(gradient, tmp_path, copies=6).items
    out = {item.label for item in hold_out(few, 2, seed=1)[1]}
    more = pairs_of(gradient, tmp_path, copies=12).items
    assert out & {item.label for item in hold_out(more, 6, seed=1)[1]}
    assert {item.label for item in hold_out(few[::-1], 2, seed=1)[1]} == out


def test_holding_all_out_is_refused(gradient, tmp_path):
    with pytest.raises(InputError, match="--held_out 2: there are 2 pictures"):
        hold_out(pairs_of(gradient, tmp_path, copies=2).items, 2, seed=1)


def test_a_collection_is_known_by_what_is_in_it(gradient, tmp_path):
    items = pairs_of(gradient, tmp_path, copies=3).items
    assert fingerprint(items) == fingerprint(items[::-1])
    assert fingerprint(items) != fingerprint(items[1:])

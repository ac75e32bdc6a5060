"""run.json is a file like any other: whatever is in it, nothing outside of the output folder is touched."""

import copy
import json
import os

import pytest
from conftest import PARITY, PIPE

from errors import InputError, OutputError
from results.load_report import load_report
from results.output_tree import OutputTree, is_name

RESIZE = ("-i", PARITY / "input" / "scene.png", "--process_size", 64, "--rec_num", 2, "--rec_type", "bicubic")


@pytest.fixture
def finished(command, tmp_path):
    """A finished run's folder."""
    out = tmp_path / "out"
    assert command("inference_coz", *RESIZE, "-o", out).code == 0
    return out


@pytest.mark.parametrize(
    "name",
    [
        "//somewhere/else", "/somewhere", "../out2", "a/../../b", "a//b", ".", "..", "", "a/", "C:x", "a\\b",
        "a\0b", "a\udcffb", "x" * 300, "CON", "a.png", ".writing-x.part", "a/.writing-x.part",
        "1", "x/0_input_for_2", "txt",
    ],
)  # fmt: skip
def test_a_name_that_no_run_gives_is_refused_and_leads_nowhere(command, finished, tmp_path, name):
    assert not is_name(name)
    outside = tmp_path / "somewhere"
    outside.mkdir()
    (outside / "0.png").write_bytes(b"mine")
    report = json.loads((finished / "run.json").read_text())
    report["pictures"][0]["name"] = name.replace("//somewhere", f"//{outside}")
    (finished / "run.json").write_text(json.dumps(report))
    done = command("inference_coz", *RESIZE, "-o", finished)
    assert done.code == 2
    assert "run.json: is damaged" in done.err
    assert done.err.count("\n") == 1
    assert command("inference_coz", *RESIZE, "-o", finished, "--overwrite").code == 0
    assert [file.read_bytes() for file in outside.iterdir()] == [b"mine"]


@pytest.mark.parametrize("name", ["scene", "x/y/scene", "ä", "a b", "a.b", "_a", "a_png_0123abcd"])
def test_names_that_runs_give_are_taken(name):
    assert is_name(name)


ODD = [None, {}, 0, True, float("inf"), "x", [], -1, 10**400, 1.0, "a\0", {"a": {}}]


@pytest.mark.parametrize(
    "place",
    [
        ("pictures",), ("settings",), ("schema",), ("status",), ("pictures", 0), ("pictures", 0, "file"),
        ("pictures", 0, "label"), ("pictures", 0, "sha256"), ("pictures", 0, "status"),
        ("pictures", 0, "steps"),
        ("pictures", 0, "failure"), ("pictures", 0, "steps", 0), ("pictures", 0, "steps", 0, "step"),
        ("pictures", 0, "steps", 0, "done"), ("pictures", 0, "steps", 0, "window"),
        ("pictures", 0, "steps", 0, "seconds"), ("pictures", 0, "steps", 0, "magnification"),
    ],
    ids=str,
)  # fmt: skip
def test_a_value_of_another_kind_is_refused_wherever_it_stands(finished, place):
    """Where an odd value is what may stand there (a failure "x"), the report is taken as it is."""
    sound = json.loads((finished / "run.json").read_text())
    kind = type(_at(sound, place))
    for odd in ODD:
        report = copy.deepcopy(sound)
        _at(report, place[:-1])[place[-1]] = odd
        (finished / "run.json").write_text(json.dumps(report).replace("Infinity", "1e400"))
        if isinstance(odd, kind) and not isinstance(odd, bool) and kind is not list:
            continue
        if odd is None and place[-1] in ("failure", "sha256"):
            continue
        if (odd, place[-1]) in (("x", "failure"), ([], "pictures"), ([], "steps"), (True, "done")):
            continue
        with pytest.raises(InputError, match=r"run\.json: is (damaged|of another schema|no report)"):
            load_report(finished / "run.json")


def _at(value, place):
    for key in place:
        value = value[key]
    return value


def test_a_picture_said_to_be_at_no_possible_place_counts_as_gone(command, finished):
    report = json.loads((finished / "run.json").read_text())
    report["pictures"][0]["file"] = "a" * 5000
    (finished / "run.json").write_text(json.dumps(report))
    assert command("inference_coz", *RESIZE, "-o", finished).code == 0


def test_deep_nesting_and_a_long_schema_are_one_short_line(finished):
    for content in ("[" * 100_000, '{"schema": "%s"}' % ("x" * 100_000), '{"schema": %s}' % ("9" * 4000)):
        (finished / "run.json").write_text(content)
        with pytest.raises(InputError) as error:
            load_report(finished / "run.json")
        assert len(str(error.value)) - len(str(finished)) < 200


@pytest.mark.parametrize("kind", ["folder", PIPE, "link to a folder"])
def test_what_is_no_file_is_refused_and_not_waited_for(command, finished, kind):
    file = finished / "run.json"
    file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to(finished)
    done = command("inference_coz", *RESIZE, "-o", finished)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "run.json" in done.err


def test_a_link_inside_the_tree_is_not_followed_out_of_it(command, finished, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "1.png").write_bytes(b"mine")
    for folder in ("per-sample/scene", "recursive"):
        place = finished / folder
        place.rename(tmp_path / "kept")
        place.symlink_to(outside)
        for more in ([], ["--overwrite"]):
            done = command("inference_coz", *RESIZE, "-o", finished, *more)
            if not more and folder == "recursive":
                (finished / "recursive" / "scene.png").exists()
            assert done.code in (0, 1, 2)
            assert [file.name for file in outside.iterdir()] == ["1.png"]
            assert (outside / "1.png").read_bytes() == b"mine"
        place.unlink()
        (tmp_path / "kept").rename(place)


def test_writing_through_such_a_link_is_refused_by_name(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "per-sample").symlink_to(tmp_path / "outside")
    tree = OutputTree(tmp_path / "out")
    with pytest.raises(OutputError, match="a link leads it out"):
        tree.write(b"x", tree.state("a", 0))
    with pytest.raises(OutputError, match="a link leads it out"):
        tree.remove(["a"])


def test_an_output_folder_that_is_a_link_itself_is_followed(command, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    assert command("inference_coz", *RESIZE, "-o", tmp_path / "out").code == 0
    assert (tmp_path / "real" / "recursive" / "scene.png").is_file()


def test_a_run_after_a_killed_one_says_that_it_was_interrupted(command, finished):
    report = json.loads((finished / "run.json").read_text())
    report["status"] = "running"
    (finished / "run.json").write_text(json.dumps(report))
    done = command("inference_coz", *RESIZE, "-o", finished)
    assert done.code == 0
    assert "interrupted" in done.err

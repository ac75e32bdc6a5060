"""Requirements, Makefile, page and workflow agree on systems, Pythons and PyTorch."""

import itertools
import re
import shutil

import pytest
import yaml
from conftest import PARITY, ROOT
from packaging.requirements import Requirement

from benchmarks import platforms

RESIZE = ("--process_size", 64, "--rec_num", 1, "--rec_type", "bicubic")
RANGES = {"torch", "torchvision"}  # what people bring themselves, and what belongs to it
PAGE = (ROOT / "docs" / "platforms.md").read_text(encoding="utf-8")
WINDOWS = re.findall(r"^(?:py|\.venv\\Scripts)\b.*", PAGE, re.MULTILINE)


def requirements(file):
    lines = (line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-")]


EVERY = {wanted.name: wanted for file in ROOT.glob("requirements*.txt") for wanted in requirements(file)}


@pytest.mark.parametrize("name", sorted(EVERY.keys() - RANGES))
def test_everything_is_pinned(name):
    assert [pin.operator for pin in EVERY[name].specifier] == ["=="]


@pytest.mark.parametrize("name", sorted(RANGES))
def test_pip_keeps_every_build_of_a_range_and_takes_its_upper_end_where_there_is_none(name):
    """An upper end that is left out would let a fresh install take what nobody tested."""
    ends = {end.operator: end.version for end in EVERY[name].specifier}
    assert ends.keys() == {">=", "<="}
    assert all(EVERY[name].specifier.contains(f"{ends[side]}+cu128") for side in ends)


def test_the_page_names_the_range_of_torch():
    low, high = sorted(end.version for end in EVERY["torch"].specifier)[::-1]
    assert f"from {low} to {high}" in PAGE


def recipe(target):
    """Return what `make` runs for a target, but for what it only needs to know that it has run."""
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    after = itertools.dropwhile(lambda line: not line.startswith(f"{target}:"), lines)
    commands = itertools.takewhile(lambda line: line.startswith("\t"), itertools.islice(after, 1, None))
    return [line.strip() for line in commands if line.startswith("\t$(BIN)/")]


@pytest.mark.parametrize("target", ["zoom", "test", "$(VENV)/installed", "$(VENV)/installed-dev"])
def test_the_page_has_every_line_of_make_for_windows(target):
    assert recipe(target)
    for line in recipe(target):
        # its shells put no files in the place of *.py
        line = line.replace("mypy $(CODE)", 'mypy --exclude "^tests/" .').replace(" --quiet", "")
        assert line.replace("$(BIN)/", ".venv\\Scripts\\") in WINDOWS


def test_the_workflow_runs_the_commands_of_the_readme_and_on_windows_those_of_the_page():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    steps = [step for step in workflow["jobs"]["test"]["steps"] if "run" in step]
    unix, windows = (step["run"].splitlines() for step in steps)
    assert [line.split()[:2] for line in unix] == [["make", "zoom"], ["make", "test"]]
    assert windows[1:] == [line.replace("py -m", "python -m") for line in WINDOWS]
    assert set(workflow["jobs"]["test"]["strategy"]["matrix"]["python"]) == {
        platforms.PYTHONS[0],
        platforms.PYTHONS[-1],
    }


def test_every_requirements_file_is_resolved_and_the_page_has_its_row():
    files = [files[-1] for files in platforms.rows(ROOT)]
    assert {*files, platforms.PART} == {file.name for file in ROOT.glob("requirements*.txt")}
    assert [file for file in files if f"\n| `{file}` |" not in PAGE] == []


@pytest.mark.parametrize(
    ("refusals", "gap", "told"),
    [
        ({"3.11": "", "3.12": ""}, "", ("3.11 to 3.12", True)),
        ({"3.11": "", "3.12": "no wheel"}, "", ("3.11", False)),
        ({"3.11": "no wheel", "3.12": "no wheel"}, "", ("no", False)),
        ({"3.11": "no wheel", "3.12": "no wheel"}, "no GPU", ("no GPU", True)),
        ({"3.11": "", "3.12": ""}, "no GPU", ("3.11 to 3.12", False)),
    ],
)
def test_a_cell_of_the_table_is_wrong_where_it_is_not_what_is_known(refusals, gap, told):
    assert platforms.cell(refusals, gap) == told


def test_a_pattern_stands_for_the_pictures_that_match_it(command, tmp_path):
    """As in the shells of Windows, which hand it on."""
    for name in ("a [1].png", "a [2].png", "b.png", ".a [3].png"):
        shutil.copy(PARITY / "input" / "scene.png", tmp_path / name)
    done = command("inference_coz", "-i", tmp_path / "a [?].png", "-o", tmp_path / "out", *RESIZE)
    assert done.code == 0, done.err
    assert sorted(file.stem for file in (tmp_path / "out" / "recursive").iterdir()) == ["a [1]", "a [2]"]


def test_a_file_whose_name_is_a_pattern_is_that_file(command, tmp_path):
    for name in ("a*.png", "ab.png"):
        shutil.copy(PARITY / "input" / "scene.png", tmp_path / name)
    assert command("inference_coz", "-i", tmp_path / "a*.png", "-o", tmp_path / "out", *RESIZE).code == 0
    assert len(list((tmp_path / "out" / "recursive").iterdir())) == 1


def test_a_pattern_that_matches_nothing_is_named(command, tmp_path):
    done = command("inference_coz", "-i", tmp_path / "*.png", "-o", tmp_path / "out", *RESIZE)
    assert done.code == 2
    assert "*.png: no such file or folder" in done.err

"""benchmarks/gpu.py runs to its end on a CPU with tiny networks, goes on, and makes no figure up."""

import json

import pytest
from conftest import ROOT

from benchmarks import gpu


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A folder with gpu.md and gpu.json of a whole run."""
    folder = tmp_path_factory.mktemp("gpu")
    where = ["--device", "cpu", "--output", str(folder / "gpu.md"), "--files", str(folder / "files")]
    assert gpu.main(where) == 0
    return folder


def test_every_section_is_measured_and_has_its_table(measured):
    from gpu_page import TABLES
    from gpu_sections import SECTIONS

    assert [*SECTIONS] == [*gpu.NAMES]
    results = json.loads((measured / "gpu.json").read_text())
    assert [*results["sections"]] == gpu.NAMES
    page = (measured / "gpu.md").read_text()
    assert [name for name in gpu.NAMES if f"## {TABLES[name][0]}\n" not in page] == []
    assert "refused" not in json.dumps(results)


def test_fp16_is_nearer_to_fp32_than_bf16_in_every_part_and_in_the_picture(measured):
    rows = json.loads((measured / "gpu.json").read_text())["sections"]["precision"]["rows"]
    both = [row for row in rows if "fp16" in row]
    assert [row["part"] for row in both][-1] == "a whole step, grey levels"
    assert all(0 < row["fp16"] < row["bf16"] / 4 for row in both)


def test_the_same_command_measures_only_what_is_missing(measured, capsys):
    kept = measured / "gpu.json"
    results = json.loads(kept.read_text())
    before = results["sections"].pop("embedded")
    kept.write_text(json.dumps(results))
    assert gpu.main(["--device", "cpu", "--output", str(measured / "gpu.md")]) == 0
    said = capsys.readouterr().out
    assert "steps: measured before" in said
    assert [row["batch"] for row in json.loads(kept.read_text())["sections"]["embedded"]["rows"]] == [
        row["batch"] for row in before["rows"]
    ]


def test_what_another_machine_measured_is_not_mixed_in(measured):
    machine = json.loads((measured / "gpu.json").read_text())["machine"]
    assert gpu.earlier(measured / "gpu.json", machine)["sections"]
    assert not gpu.earlier(measured / "gpu.json", machine | {"torch": "2.9.0"})["sections"]


def test_the_page_holds_what_was_measured_and_nothing_else(measured):
    from gpu_page import page

    kept = ROOT / "docs" / "gpu.json"
    results = json.loads(kept.read_text()) if kept.is_file() else None
    assert (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8") == page(results)

"""run.jsonl: what has come on since run.json was written. Trusted no more than that."""

import json
import os

import pytest
from conftest import PARITY, PIPE

from errors import FileRefused, InputError
from machine.stage_times import StageTimes
from results import run_report
from results.load_report import load_report
from results.output_tree import OutputTree
from results.run_report import PictureRecord, RunReport

RESIZE = ("-i", PARITY / "input" / "scene.png", "--process_size", 64, "--rec_num", 2, "--rec_type", "bicubic")


@pytest.fixture
def report(tmp_path, monkeypatch):
    """A report that is under way, of two pictures, the first of which is done."""
    monkeypatch.setattr("machine.pace.SHORTEST", 0)
    monkeypatch.setattr("machine.pace.SHARE", 0)
    report = RunReport(OutputTree(tmp_path), "1", {"seed": 1}, {}, StageTimes())
    report.pictures = {name: PictureRecord(name, f"{name}.png", f"/in/{name}.png") for name in ("a", "b")}
    report.save()
    report.pictures["a"].status = "done"
    report.note(report.pictures["a"])
    return report


def statuses(report: RunReport) -> list[str]:
    return [picture.status for picture in load_report(report.file).pictures.values()]


def journal(report: RunReport):
    return report.file.with_suffix(".jsonl")


def test_a_picture_that_has_come_on_is_a_line_and_the_report_stays_as_it_is(report):
    before = report.file.read_bytes()
    report.pictures["b"].status = "started"
    report.note(report.pictures["b"])
    assert report.file.read_bytes() == before
    lines = [json.loads(line) for line in journal(report).read_text().splitlines()]
    assert [line.get("name") for line in lines] == [None, "a", "b"]
    assert statuses(report) == ["done", "started"]


def test_the_end_leaves_one_report_and_no_journal(report):
    report.finish("done")
    assert not journal(report).exists()
    assert statuses(report) == ["done", "pending"]
    assert load_report(report.file).status == "done"


def test_a_line_that_was_cut_off_is_left_out(report):
    whole = journal(report).read_bytes()
    for cut in range(1, 60):
        journal(report).write_bytes(whole[:-cut])
        assert statuses(report) == ["pending", "pending"]
    journal(report).write_bytes(whole + b'{"name": "b", "la')
    assert statuses(report) == ["done", "pending"]


def test_a_journal_that_goes_on_from_another_report_is_left_out(report):
    report.file.write_bytes(report.file.read_bytes() + b"\n")
    assert statuses(report) == ["pending", "pending"]


@pytest.mark.parametrize(
    "forge",
    [
        lambda entry: entry.update(name="../victim"),
        lambda entry: entry.update(name="c"),
        lambda entry: entry.update(status="finished"),
        lambda entry: entry.update(steps=[{"step": 1}]),
        lambda entry: entry.update(view=[0, 0, -1, 1]),
        lambda entry: entry.pop("label"),
        lambda entry: entry.clear(),
    ],
)
def test_a_line_that_no_run_writes_is_refused_in_one_line(report, command, forge):
    first, line = journal(report).read_bytes().splitlines()
    entry = json.loads(line)
    forge(entry)
    journal(report).write_bytes(first + b"\n" + json.dumps(entry).encode() + b"\n")
    with pytest.raises(InputError, match=r"run\.jsonl: is damaged"):
        load_report(report.file)
    done = command("inference_coz", *RESIZE, "-o", report.tree.root)
    assert (done.code, done.err.count("\n"), "run.jsonl: is damaged" in done.err) == (2, 1, True)
    assert command("inference_coz", *RESIZE, "-o", report.tree.root, "--overwrite").code == 0


@pytest.mark.parametrize("line", [b"[" * 100_000, b"\xff\xfe", b"1", b"null", b"", b"NaN", b"{}"])
def test_what_is_no_record_is_refused(report, line):
    first = journal(report).read_bytes().splitlines()[0]
    journal(report).write_bytes(first + b"\n" + line + b"\n")
    with pytest.raises(InputError, match=r"run\.jsonl: is damaged"):
        load_report(report.file)


@pytest.mark.parametrize("kind", ["folder", PIPE, "link to a folder", "too large"])
def test_a_journal_that_is_no_file_is_refused_and_not_waited_for(report, kind, monkeypatch):
    journal(report).unlink()
    if kind == "folder":
        journal(report).mkdir()
    elif kind == "pipe":
        os.mkfifo(journal(report))
    elif kind == "too large":
        journal(report).write_bytes(bytes(100_000))
        monkeypatch.setattr("results.load_report.MAX_BYTES", 50_000)
    else:
        journal(report).symlink_to(report.tree.root)
    with pytest.raises(InputError, match=r"run\.jsonl: is no report"):
        load_report(report.file)


def test_nothing_is_added_through_a_link(report, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "mine.txt"
    outside.write_bytes(b"mine")
    journal(report).unlink()
    journal(report).symlink_to(outside)
    with pytest.raises(Exception, match="a link leads it out"):
        report.note(report.pictures["a"])
    assert outside.read_bytes() == b"mine"


def test_a_journal_that_grows_too_large_is_taken_into_the_report(report, monkeypatch):
    monkeypatch.setattr(run_report, "LARGEST_JOURNAL", 10)
    report.pictures["b"].status = "started"
    report.note(report.pictures["b"])
    entries = json.loads(report.file.read_bytes())["pictures"]
    assert [entry["status"] for entry in entries] == ["done", "started"]
    assert len(journal(report).read_bytes().splitlines()) == 1


def test_a_report_that_could_not_be_written_is_tried_again_and_no_line_is_added_meanwhile(
    report, monkeypatch
):
    before = journal(report).read_bytes()
    with monkeypatch.context() as refused:
        refused.setattr(RunReport, "_write_all", lambda _: (_ for _ in ()).throw(FileRefused("open")))
        with pytest.raises(FileRefused):
            report.save()
        with pytest.raises(FileRefused):
            report.note(report.pictures["a"])
    assert journal(report).read_bytes() == before
    report.note(report.pictures["a"])
    assert statuses(report) == ["done", "pending"]


def test_a_report_may_lie_elsewhere_with_its_journal_beside_it(report):
    place = report.tree.root / "reports" / "3.json"
    other = RunReport(report.tree, "1", {}, {}, StageTimes(), place)
    other.pictures = {"c": PictureRecord("c", "c.png", "/in/c.png")}
    other.save()
    other.pictures["c"].status = "done"
    other.note(other.pictures["c"])
    assert place.with_suffix(".jsonl").is_file()
    assert statuses(other) == ["done"]
    assert list(load_report(report.file).pictures) == ["a", "b"]
    other.finish("done")
    assert journal(report).exists()

"""What is written for the page, and when."""

import json
import os
import re
from pathlib import Path

import pytest
from conftest import PARITY, ROOT, run_script
from five_pictures import change_report, picture_of
from PIL import Image

from results.load_report import load_report
from results.output_tree import OutputTree, page_id
from viewer.copies import plain_pictures
from viewer.page import Page

BICUBIC = ("--rec_type", "bicubic", "--process_size", "64", "--rec_num", "2")


def folder_in(out: Path) -> dict:
    """The data that index.html holds."""
    page = (out / "index.html").read_text(encoding="utf-8")
    return json.loads(re.search('<script type="application/json" id="folder">(.*)</script>', page)[1])


def route_in(out: Path, name: str) -> dict:
    script = (out / "page" / "pictures" / f"{page_id(name)}.js").read_text(encoding="utf-8")
    return json.loads(script.removeprefix("takePicture(").removesuffix(");\n"))


def test_a_run_ends_in_a_page_of_its_pictures(photos, tmp_path, command):
    ended = command("inference_coz", "-i", photos, "-o", tmp_path / "out", *BICUBIC)
    assert str(tmp_path / "out" / "index.html") in ended.out
    folder = folder_in(tmp_path / "out")
    assert [entry["label"] for entry in folder["pictures"]] == ["scene.png", "turned.png"]
    assert {entry["factor"] for entry in folder["pictures"]} == {16}
    for entry in folder["pictures"]:
        with Image.open(tmp_path / "out" / entry["thumb"]) as small:
            assert small.height <= 192
        assert (tmp_path / "out" / entry["thumb"]).stat().st_size < 20_000
    assert ["chain.rec_type", "bicubic"] in folder["settings"]


def test_the_page_is_there_from_the_start_and_comes_up_to_date(photos, tmp_path, monkeypatch, command):
    for number in range(40):
        picture_of(0).resize((64, 64)).save(photos / f"{number}.png")
    seen = []
    save = Page.save

    def look(page: Page, now: bool = True) -> None:
        save(page, now)
        seen.append(folder_in(tmp_path / "out"))

    monkeypatch.setattr(Page, "save", look)
    monkeypatch.setattr("machine.pace.SHORTEST", 0)
    monkeypatch.setattr("machine.pace.SHARE", 0)
    command("inference_coz", "-i", photos, "-o", tmp_path / "out", *BICUBIC)
    done = [sum(entry["factor"] > 0 for entry in folder["pictures"]) for folder in seen]
    assert done[0] == 0
    assert any(0 < count < 42 for count in done)
    assert (sorted(done), done[-1]) == (done, 42)
    assert "killed" in seen[0]["state"]
    assert "killed" not in seen[-1]["state"]


def test_each_state_is_shown_with_its_prompt_and_figures(photos, tmp_path, command):
    out = tmp_path / "out"
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("file,step,prompt\nscene.png,2,red bricks\n")
    command("inference_coz", "-i", photos / "scene.png", "-o", out, "--process_size", 64, "--rec_num", 2,
            "--prompts_file", prompts)  # fmt: skip
    record = load_report(out / "run.json").pictures["scene"]
    layers = route_in(out, "scene")["layers"]
    assert [layer["factor"] for layer in layers] == [1, 4, 16]
    assert [layer["made"] for layer in layers[1:]] == [step.made for step in record.steps]
    assert layers[2]["prompt"] == "red bricks"
    assert layers[2]["consistency"] == record.steps[1].consistency
    assert layers[1]["texture"] == record.steps[0].texture
    assert [layer["view"] for layer in layers[1:]] == [list(step.view) for step in record.steps]
    assert all((out / layer["src"]).is_file() for layer in layers)


def test_plain_bicubic_is_shown_beside_what_a_network_made(tmp_path, command):
    picture_of(0).save(tmp_path / "cat.png")
    out = tmp_path / "out"
    command("inference_coz", "-i", tmp_path / "cat.png", "-o", out, "--process_size", 64, "--rec_num", 2,
            "--source", "shrunk")  # fmt: skip
    record = load_report(out / "run.json").pictures["cat"]
    plain = dict(plain_pictures(OutputTree(out), record))
    with Image.open(out / "per-sample" / "cat" / "1_input.png") as first:
        assert plain[1].tobytes() == first.tobytes()
        middle = first.resize((64, 64), Image.Resampling.BICUBIC, (24, 24, 40, 40))
    assert plain[2].tobytes() == middle.tobytes()
    assert [bool(layer["plain"]) for layer in route_in(out, "cat")["layers"]] == [False, True, True]


def test_failures_stand_on_the_page(photos, tmp_path, command):
    (photos / "broken.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    assert command("inference_coz", "-i", photos, "-o", out, *BICUBIC).code == 1
    assert folder_in(out)["unreadable"][0][0] == "broken.png"
    assert command("make_viewer", out).code == 0
    assert folder_in(out)["unreadable"][0][0] == "broken.png"


def test_a_rerun_writes_only_what_is_new_on_the_page(photos, tmp_path, command):
    out = tmp_path / "out"
    command("inference_coz", "-i", photos / "scene.png", "-o", out, *BICUBIC)
    old = out / "page" / "pictures" / f"{page_id('scene')}.js"
    os.utime(old, (1, 1))
    command("inference_coz", "-i", photos, "-o", out, *BICUBIC)
    assert old.stat().st_mtime == 1
    assert all(entry["factor"] == 16 for entry in folder_in(out)["pictures"])


def test_a_picture_that_has_changed_is_new_on_the_page(photos, tmp_path, command):
    out = tmp_path / "out"
    command("inference_coz", "-i", photos, "-o", out, *BICUBIC)
    before = (out / "page" / "pictures" / f"{page_id('scene')}.jpg").read_bytes()
    picture_of(2).save(photos / "scene.png")
    command("inference_coz", "-i", photos, "-o", out, *BICUBIC)
    assert (out / "page" / "pictures" / f"{page_id('scene')}.jpg").read_bytes() != before


def test_overwrite_leaves_nothing_of_pictures_that_are_gone(photos, tmp_path, command):
    out = tmp_path / "out"
    command("inference_coz", "-i", photos, "-o", out, *BICUBIC)
    command("inference_coz", "-i", photos / "scene.png", "-o", out, "--overwrite", *BICUBIC)
    names = {file.name for file in (out / "page" / "pictures").iterdir()}
    assert names == {f"{page_id('scene')}.js", f"{page_id('scene')}.jpg"}


def test_a_folder_of_an_older_version_gets_its_page_with_the_next_run(photos, tmp_path, command):
    out = tmp_path / "out"
    command("inference_coz", "-i", photos, "-o", out, *BICUBIC)
    for file in (out / "page" / "pictures").iterdir():
        file.unlink()
    command("inference_coz", "-i", photos, "-o", out, *BICUBIC)
    assert all(entry["factor"] == 16 for entry in folder_in(out)["pictures"])
    assert len(list((out / "page" / "pictures").iterdir())) == 4


def test_make_viewer_writes_the_page_of_a_finished_folder_anew(photos, tmp_path, command):
    out = tmp_path / "out"
    command("inference_coz", "-i", photos, "-o", out, *BICUBIC)
    first = folder_in(out)
    for file in (out / "index.html", *(out / "page" / "pictures").iterdir()):
        file.unlink()
    ended = command("make_viewer", out)
    assert (ended.code, ended.err) == (0, "")
    assert folder_in(out) == first


def test_a_picture_whose_states_are_gone_is_left_out_and_named(photos, tmp_path, command):
    out = tmp_path / "out"
    command("inference_coz", "-i", photos, "-o", out, *BICUBIC)
    (out / "per-sample" / "scene" / "2.png").write_bytes(b"half")
    ended = command("make_viewer", out)
    assert "scene.png: left out of the page: state 2 is gone or damaged" in ended.err
    assert ended.code == 1
    assert [entry["factor"] for entry in folder_in(out)["pictures"]] == [0, 16]


def test_a_state_in_the_middle_that_is_gone_is_noticed(photos, tmp_path, command):
    out = tmp_path / "out"
    command("inference_coz", "-i", photos, "-o", out, *BICUBIC)
    (out / "per-sample" / "scene" / "1.png").unlink()
    ended = command("make_viewer", out)
    assert ended.code == 1
    assert "scene.png: left out of the page: state 1 is gone" in ended.err


@pytest.mark.parametrize("size", [[16777216, 16777216], [70000, 3000], [20000, 20000]])
def test_a_size_that_no_state_has_costs_that_picture_alone(photos, tmp_path, command, size):
    out = tmp_path / "out"
    command("inference_coz", "-i", photos, "-o", out, "--process_size", 64, "--rec_num", 2)
    change_report(out, lambda report: report["pictures"][0]["steps"][0].update(size=size))
    ended = command("make_viewer", out, "--video", "webp", "--video_seconds", 1)
    assert ended.code == 1
    assert "Traceback" not in ended.err
    assert [entry["factor"] for entry in folder_in(out)["pictures"]] == [0, 16]
    assert (out / "video" / "turned.webp").exists()


def test_a_picture_that_an_earlier_run_left_half_done_stays_on_the_page(photos, tmp_path, command):
    out = tmp_path / "out"
    command("inference_coz", "-i", photos / "scene.png", "-o", out, *BICUBIC)

    def leave_half_done(report: dict) -> None:
        report["pictures"][0]["status"] = "started"
        report["pictures"][0]["steps"][1]["done"] = False

    change_report(out, leave_half_done)
    command("inference_coz", "-i", photos / "turned.png", "-o", out, *BICUBIC)
    scene = next(entry for entry in folder_in(out)["pictures"] if entry["label"] == "scene.png")
    assert (scene["status"], scene["factor"]) == ("started", 4)


def test_something_in_the_place_of_a_file_costs_that_picture_alone(photos, tmp_path, command):
    out = tmp_path / "out"
    (out / "page" / "pictures" / f"{page_id('scene')}.js").mkdir(parents=True)
    ended = command("inference_coz", "-i", photos, "-o", out, *BICUBIC)
    assert ended.code == 1
    assert "scene.png: left out of the page" in ended.err
    assert [entry["factor"] for entry in folder_in(out)["pictures"]] == [0, 16]
    assert all(one.status == "done" for one in load_report(out / "run.json").pictures.values())


def test_a_page_that_cannot_be_written_is_said_and_costs_no_picture(photos, tmp_path, command):
    out = tmp_path / "out"
    out.mkdir()
    (out / "page").touch()
    ended = command("inference_coz", "-i", photos, "-o", out, "--quiet", *BICUBIC)
    assert ended.code == 1
    assert "page" in ended.err
    assert len(list(out.glob("recursive/*.png"))) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["."], "no run.json in there"),
        ([".", "--picture", "a.png"], "--picture only goes with --share"),
        ([".", "--share", "page.png"], "call it .html"),
        ([".", "--share", "nowhere/page.html"], "there is no folder nowhere"),
        ([".", "--share", "index.html"], "is the page of all pictures"),
    ],
)
def test_make_viewer_refuses_in_one_line(tmp_path, monkeypatch, command, arguments, message):
    monkeypatch.chdir(tmp_path)
    ended = command("make_viewer", *arguments)
    assert ended.code == 2
    assert message in ended.err
    assert ended.err.count("\n") == 1


def test_make_viewer_says_where_nothing_is_zoomed_yet(tmp_path, command):
    (tmp_path / "small.png").write_bytes((PARITY / "input" / "scene.png").read_bytes()[:5000])
    resize = ("--rec_type", "bicubic", "--process_size", 64, "--rec_num", 1)
    assert command("inference_coz", tmp_path / "small.png", "-o", tmp_path / "out", *resize).code == 1
    ended = command("make_viewer", tmp_path / "out", "--video", "gif")
    assert f"{tmp_path / 'out'}: nothing is zoomed yet" in ended.out


def test_make_viewer_answers_for_help_at_once_and_imports_nothing_heavy():
    code = (
        "import sys, make_viewer; make_viewer.build_parser().format_help(); "
        "sys.exit(bool({'torch', 'PIL', 'numpy', 'av'} & sys.modules.keys()))"
    )
    import subprocess
    import sys

    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    assert "--share" in run_script("make_viewer", "--help").out


@pytest.mark.parametrize(
    "damage",
    [
        lambda report: report["pictures"][0]["steps"][0].update(view=[0, 0, 0, 1]),
        lambda report: report["pictures"][0].update(view=[0, 0, -5, 1]),
        lambda report: report["pictures"][0].update(view=[0, 0, 5e-324, 5e-324]),
        lambda report: report["pictures"][0].update(size=None),
        lambda report: report["pictures"][0].update(size=None, view=None),
        lambda report: report["pictures"][0]["steps"][1].update(magnification=4),
        lambda report: report["pictures"][0]["steps"][1].update(magnification=10**200),
        lambda report: report.update(unreadable=[{"label": 3, "reason": ""}]),
        lambda report: report.pop("unreadable"),
        lambda report: report["pictures"][0].update(name="../../elsewhere"),
    ],
)
def test_a_report_that_no_run_writes_is_refused(photos, tmp_path, command, damage):
    out = tmp_path / "out"
    command("inference_coz", "-i", photos / "scene.png", "-o", out, *BICUBIC)
    report = json.loads((out / "run.json").read_text())
    damage(report)
    (out / "run.json").write_text(json.dumps(report))
    ended = command("make_viewer", out)
    assert ended.code == 2
    assert "is damaged or not of this program" in ended.err


def test_nothing_in_a_name_ends_the_script_that_it_stands_in(photos, tmp_path, command):
    name = "a</script><script>b<!--{{policy}}.png"
    out = tmp_path / "out"
    command("inference_coz", "-i", photos / "scene.png", "-o", out, *BICUBIC)
    report = json.loads((out / "run.json").read_text())
    report["pictures"][0]["label"] = name
    (out / "run.json").write_text(json.dumps(report))
    command("make_viewer", out)
    assert folder_in(out)["pictures"][0]["label"] == name
    assert (out / "index.html").read_text(encoding="utf-8").count("</script>") == 6
    [described] = (out / "page" / "pictures").glob("*.js")
    assert "</script>" not in described.read_text(encoding="utf-8")

"""The page in a real browser, from the disk, as somebody opens it."""

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from five_pictures import picture_of
from PIL import Image

from results.load_report import load_report
from results.output_tree import OutputTree, page_id
from viewer.flight import camera_at, factor_at, layers_of, presence, smooth
from viewer.page import Page

HOSTILE = "<script>hacked=1</script>\"'><img src=x onerror=hacked=1>\u202egnp.\u202c 🐈 ../{{data}}"


def decibels(one: Image.Image, other: Image.Image) -> float:
    difference = np.asarray(one, np.float64) - np.asarray(other, np.float64)
    return 10 * math.log10(255**2 / max((difference**2).mean(), 1e-9))


def drawn_with_pillow(out: Path, name: str, factor: float, side: int) -> Image.Image:
    """What should be seen: every state resized to its place, soft at its edges, over those before it."""
    layers = layers_of(load_report(out / "run.json").pictures[name])
    camera = camera_at(layers, math.log(factor, 4))
    seen = Image.new("RGB", (side, side))
    for number, layer in enumerate(layers):
        state = Image.open(OutputTree(out).state(name, number)).convert("RGB")
        scale = side / camera[2]
        left, top = ((layer.view[axis] - camera[axis]) * scale for axis in (0, 1))
        size = layer.view[2] * scale
        # each pixel of the screen whose middle is in the state, from where it lies in it
        placed = state.transform((side, side), Image.Transform.AFFINE,
            (512 / size, 0, -left * 512 / size, 0, 512 / size, -top * 512 / size),
            Image.Resampling.BICUBIC) if size > 512 else None  # fmt: skip
        if placed is None:
            x0, y0 = math.ceil(left), math.ceil(top)
            wide = math.floor(left + size) - x0
            if wide < 2:
                continue
            edges = (x0, left), (y0, top), (x0 + wide, left), (y0 + wide, top)
            box = tuple((at - start) * 512 / size for at, start in edges)
            placed = Image.new("RGB", (side, side))
            placed.paste(state.resize((wide, wide), Image.Resampling.BICUBIC, box), (x0, y0))
        opacity, feather = presence(layers, number, camera)
        ramps = []
        for start in (left, top):
            share = (np.arange(side) + 0.5 - start) / size
            inside = np.minimum(share, 1 - share)
            ramps.append(np.array([smooth(at / feather) if feather else float(at >= 0) for at in inside]))
        mask = Image.fromarray((255 * opacity * np.outer(ramps[1], ramps[0])).round().astype(np.uint8))
        seen.paste(placed, (0, 0), mask)
    return seen


def test_it_opens_from_the_disk_without_a_complaint_or_a_request(five_states, open_page):
    opened = open_page(five_states / "index.html")
    opened.seek(256)
    assert opened.complaints == []
    assert all(url.startswith(("file://", "data:")) for url in opened.requests)
    assert "1 of 1" in opened.page.locator("#run-state").inner_text()


@pytest.mark.parametrize("factor", [1, 3.7, 4, 37, 256])
def test_what_is_seen_is_the_states_at_their_places(five_states, open_page, factor):
    opened = open_page(five_states / "index.html")
    opened.seek(factor)
    seen = opened.stage()
    assert decibels(seen, drawn_with_pillow(five_states, "cat", factor, seen.width)) > 30
    wrong = drawn_with_pillow(five_states, "cat", max(factor / 1.02, 1.02), seen.width)
    assert decibels(seen, wrong) < 30  # two per cent beside the place show


def test_the_page_flies_as_films_do(five_states, open_page):
    opened = open_page(five_states / "index.html")
    layers = layers_of(load_report(five_states / "run.json").pictures["cat"])
    for depth in (0, 0.3, 1, 1.7, 2.5, 4):
        route, camera = "gallery.flight.route", camera_at(layers, depth)
        assert opened.page.evaluate(f"cameraAt({route}, {depth})") == pytest.approx(camera)
        assert opened.page.evaluate(f"factorAt({route}, {depth})") == pytest.approx(factor_at(layers, depth))
        for number in range(5):
            there = f"presence({route}, {number}, {list(camera)}, gallery.flight.law)"
            expected = presence(layers, number, camera)
            assert opened.page.evaluate(there) == pytest.approx(expected, abs=1e-9)


def test_at_a_stop_a_state_fills_the_view(five_states, open_page):
    opened = open_page(five_states / "index.html")
    for number in range(5):
        opened.seek(4**number)
        seen = opened.stage()
        assert decibels(seen, picture_of(number)) > 30


def test_the_wheel_the_keys_and_the_slider_change_the_factor(five_states, open_page):
    opened = open_page(five_states / "index.html", reduced_motion="reduce")
    stage = opened.page.locator("#stage")
    assert opened.factor() == 1
    stage.hover()
    opened.page.mouse.wheel(0, -600)
    opened.wait_for_factor("4x")
    opened.page.mouse.wheel(0, 300)
    opened.wait_for_factor("2x")
    stage.focus()
    keys = {"End": 256, "-": 256 / 4**0.25, "Home": 1, "3": 64, "PageDown": 256, "PageUp": 64}
    for key, factor in keys.items():
        stage.press(key)
        opened.wait("gallery.flight.motion === null")
        opened.settle()
        assert opened.factor() == pytest.approx(factor, rel=0.01), key
    opened.page.locator("#depth").fill("1.5")
    opened.settle()
    assert opened.factor() == 8


def test_two_fingers_and_a_double_click_zoom(five_states, open_page):
    opened = open_page(five_states / "index.html", has_touch=True)
    box = opened.page.locator("#stage").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    session = opened.page.context.new_cdp_session(opened.page)

    def touch(kind: str, *places: float) -> None:
        points = [{"x": x + place, "y": y, "id": number} for number, place in enumerate(places)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", -40, 40)
    for apart in (60, 100, 160):
        touch("touchMove", -apart, apart)
    touch("touchEnd")
    opened.settle()
    assert opened.factor() == pytest.approx(4, rel=0.02)  # fingers four times as far apart
    opened.page.mouse.dblclick(x, y)
    opened.wait_for_factor("16x")


def test_playing_flies_to_the_deepest_state_and_stops(five_states, open_page):
    opened = open_page(five_states / "index.html")
    opened.seek(150)
    play = opened.page.locator("#play")
    play.click()
    assert play.inner_text() == "Pause"
    opened.wait_for_factor("256x")
    opened.wait("document.getElementById('play').textContent === 'Play'")


def test_dragging_moves_what_is_seen_and_zooming_in_comes_back_to_the_way(five_states, open_page):
    opened = open_page(five_states / "index.html")
    opened.seek(16)
    before = opened.stage()
    box = opened.page.locator("#stage").bounding_box()
    opened.page.mouse.move(box["x"] + 300, box["y"] + 300)
    opened.page.mouse.down()
    opened.page.mouse.move(box["x"] + 200, box["y"] + 260, steps=4)
    opened.page.mouse.up()
    opened.settle()
    moved = opened.stage()
    inside = (0, 0, before.width - 101, before.height - 41)
    assert decibels(before.crop((100, 40, before.width - 1, before.height - 1)), moved.crop(inside)) > 30
    opened.page.mouse.wheel(0, -600)
    assert decibels(opened.stage(), picture_of(3)) > 30


def test_the_split_shows_plain_bicubic_to_its_right(five_states, open_page):
    opened = open_page(five_states / "index.html")
    opened.seek(4)
    made = opened.stage()
    opened.page.locator("#compare").click()
    both = opened.stage()
    plain = picture_of(4)
    left, right = (0, 0, 216, 450), (296, 0, 512, 450)
    assert decibels(both.crop(left), made.crop(left)) > 40
    assert decibels(both.crop(right), plain.crop(right)) > 28
    opened.page.locator("#handle").press("Home")
    opened.settle()
    assert decibels(opened.stage().crop((60, 0, 200, 200)), plain.crop((60, 0, 200, 200))) > 28


def test_a_held_key_shows_plain_bicubic(five_states, open_page):
    opened = open_page(five_states / "index.html")
    opened.seek(4)
    opened.page.locator("#stage").focus()
    opened.page.keyboard.down("b")
    held = opened.stage().crop((10, 10, 400, 400))
    opened.page.keyboard.up("b")
    opened.settle()
    let_go = opened.stage().crop((10, 10, 400, 400))
    assert decibels(held, picture_of(4).crop((10, 10, 400, 400))) > 28
    assert decibels(let_go, held) < 20


def test_the_next_window_is_outlined_on_request(five_states, open_page):
    opened = open_page(five_states / "index.html")
    opened.seek(1)
    opened.page.locator("#outline").click()
    opened.settle()
    seen = np.asarray(opened.stage(), int)
    middle, edge = seen.shape[1] // 2, round(seen.shape[0] * 3 / 8)
    assert seen[edge - 1 : edge + 2, middle].max() > 235  # a white line above the middle quarter


@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(five_states, open_page, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    opened = open_page(five_states / "index.html", width, 900, color_scheme=scheme)
    opened.page.locator("#compare").click()
    assert axe.run(opened.page).response["violations"] == []
    opened.page.locator("#back").click()
    opened.page.evaluate("document.getElementById('search').hidden = false")  # as with two pictures
    assert axe.run(opened.page).response["violations"] == []


def test_everything_is_reached_with_the_keyboard(five_states, open_page):
    opened = open_page(five_states / "index.html")
    reached = []
    for _ in range(20):
        opened.page.keyboard.press("Tab")
        focused = "document.activeElement.id || document.activeElement.textContent"
        reached.append(opened.page.evaluate(focused))
    for name in ("back", "stage", "play", "depth", "compare", "outline", "256x"):
        assert name in reached
    opened.page.keyboard.press("Escape")
    opened.page.wait_for_selector("#gallery:not([hidden])")
    assert opened.page.evaluate("document.activeElement.textContent").startswith("cat.png")


def test_hostile_names_and_prompts_are_only_text(tmp_path, command, open_page):
    name = "100%41 #1 <img src=x onerror=hacked=1>'\"&amp;\u202egnp\u202c 🐈{{data}}.png"
    picture_of(0).resize((64, 64)).save(tmp_path / name)
    out = tmp_path / "out <b>#%41?'\" 🐈"
    assert command("inference_coz", "-i", tmp_path / name, "-o", out, "--rec_type", "bicubic", "--rec_num", 1,
                   "--process_size", 64).code == 0  # fmt: skip
    report = json.loads((out / "run.json").read_text())
    step = report["pictures"][0]["steps"][0]
    step["prompt"] = step["extractor"] = step["note"] = report["settings"]["chain"]["prompt"] = HOSTILE
    report["unreadable"] = [{"label": HOSTILE, "reason": HOSTILE}]
    (out / "run.json").write_text(json.dumps(report))
    assert command("make_viewer", out).code == 0
    opened = open_page(out / "index.html")
    opened.seek(4)
    assert HOSTILE in opened.page.locator("#facts blockquote").text_content()
    assert opened.page.locator("#name").text_content() == name
    broken = "[...gallery.flight.scene.pictures.known.values()].some((one) => one.broken)"
    assert not opened.page.evaluate(broken)
    opened.page.locator("#back").click()
    assert HOSTILE in opened.page.locator("#failures").text_content()
    assert opened.page.evaluate("typeof hacked") == "undefined"
    assert opened.complaints == []


def test_of_a_thousand_pictures_only_those_in_sight_are_read(five_states, tmp_path, open_page):
    out = tmp_path / "many"
    shutil.copytree(five_states, out)
    source = out / "per-sample" / "cat"
    report = json.loads((out / "run.json").read_text())
    report["pictures"] = [report["pictures"][0] | {"name": f"cat{n}", "label": f"cat{n}.png", "file": f"/{n}"}
                          for n in range(1000)]  # fmt: skip
    of_page = out / "page" / "pictures"
    for record in report["pictures"]:  # what was made of one picture does for all
        (out / "per-sample" / record["name"]).symlink_to(source)
        for ending in (".js", ".jpg"):
            content = (of_page / page_id("cat")).with_suffix(ending).read_bytes()
            names = page_id("cat").encode(), page_id(record["name"]).encode()
            (of_page / page_id(record["name"])).with_suffix(ending).write_bytes(content.replace(*names))
    (out / "run.json").write_text(json.dumps(report))
    page = Page(OutputTree(out), load_report(out / "run.json"))
    page.begin()
    page.save()
    opened = open_page(out / "index.html")
    assert opened.page.locator("#run-state").inner_text().startswith("1000 of 1000")
    thumbs = {url for url in opened.requests if url.endswith(".jpg")}
    assert 0 < len(thumbs) < 100
    opened.page.locator("#search").fill("cat777")
    opened.wait("document.querySelectorAll('#cards li').length === 1")
    opened.page.locator("#cards a").click()
    opened.wait("document.title.startsWith('cat777.png') && gallery.flight.route")
    assert opened.complaints == []


def test_a_killed_run_leaves_a_page_that_opens(tmp_path, open_page):
    for number in range(4):
        picture_of(number).save(tmp_path / f"p{number}.png")
    out = tmp_path / "out"
    run = subprocess.Popen([sys.executable, ROOT / "inference_coz.py", "-i", tmp_path, "-o", out,
                            "--process_size", "256", "-q"])  # fmt: skip
    until = time.monotonic() + 60
    while not list(out.glob("page/pictures/*.js")) and time.monotonic() < until:
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    opened = open_page(out / "index.html")
    assert "of 4 zooms done; still running, or killed" in opened.page.locator("#run-state").inner_text()
    assert opened.page.locator("#cards li").count() == 4
    assert opened.complaints == []


def test_spots_of_a_picture_lie_on_it_and_are_flown_into(tmp_path, command, open_page):
    picture_of(0).save(tmp_path / "cat.png")
    spots = tmp_path / "spots.csv"
    spots.write_text("file,x,y,label\ncat.png,0.3,0.3,left eye\ncat.png,0.75,0.4,right eye\n")
    out = tmp_path / "out"
    assert command("inference_coz", "-i", tmp_path / "cat.png", "-o", out, "--regions", spots,
                   "--rec_type", "bicubic", "--rec_num", 2, "--process_size", 256).code == 0  # fmt: skip
    opened = open_page(out / "index.html")
    right = opened.page.get_by_role("button", name="fly into spot right eye")
    map_box, button = opened.page.locator("#map").bounding_box(), right.bounding_box()
    middle = button["x"] + button["width"] / 2, button["y"] + button["height"] / 2
    assert (middle[0] - map_box["x"]) / map_box["width"] == pytest.approx(0.75, abs=0.02)
    assert (middle[1] - map_box["y"]) / map_box["height"] == pytest.approx(0.4, abs=0.02)
    right.click()
    opened.wait("gallery.flight.route.spot === 'right eye' && gallery.flight.motion === null")
    opened.settle()
    seen = opened.stage()
    with Image.open(OutputTree(out).state("cat~right eye", 2)) as state:
        assert decibels(seen, state.resize(seen.size, Image.Resampling.BICUBIC)) > 30


def test_neighbouring_spots_do_not_cover_the_one_that_is_flown(tmp_path, command, open_page):
    picture_of(0).save(tmp_path / "cat.png")
    spots = tmp_path / "spots.csv"
    spots.write_text("file,x,y,label\ncat.png,0.50,0.40,p\ncat.png,0.54,0.42,q\n")
    out = tmp_path / "out"
    command("inference_coz", "-i", tmp_path / "cat.png", "-o", out, "--regions", spots,
            "--rec_type", "bicubic", "--rec_num", 2, "--process_size", 256)  # fmt: skip
    for number, spot in enumerate("pq"):  # so that they can be told apart
        for step in (1, 2):
            picture_of(number + step).resize((256, 256)).save(OutputTree(out).state(f"cat~{spot}", step))
    opened = open_page(out / "index.html")
    for number, spot in enumerate("pq"):
        opened.page.goto(f"{(out / 'index.html').as_uri()}#{page_id(f'cat~{spot}')}")
        opened.wait(f"gallery.flight.route?.spot === '{spot}'")
        for step in (1, 2):
            opened.seek(4**step)
            expected = (
                picture_of(number + step).resize((256, 256)).resize((512, 512), Image.Resampling.BICUBIC)
            )
            assert decibels(opened.stage(), expected) > 30, (spot, step)


def test_a_picture_whose_file_is_gone_can_be_tried_again(five_states, tmp_path, open_page):
    out = tmp_path / "out"
    shutil.copytree(five_states, out)
    file = out / "page" / "pictures" / f"{page_id('cat')}.js"
    file.rename(tmp_path / "away.js")
    opened = open_page(out / "index.html")
    opened.wait("document.getElementById('problem').textContent.includes('is gone')")
    (tmp_path / "away.js").rename(file)
    opened.page.locator("#cards a").click()
    opened.wait("gallery.flight.route && document.getElementById('problem').textContent === ''")


@pytest.mark.parametrize("width", [320, 390])
def test_nothing_is_wider_than_a_telephone(five_states, open_page, width):
    opened = open_page(five_states / "index.html", width, 800)
    opened.page.evaluate("document.getElementById('stage-box').style.width = ''")
    opened.page.locator("#compare").click()
    for key in ("Home", "End"):
        opened.page.locator("#handle").press(key)
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    opened.page.locator("#back").click()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_shared_page_holds_everything_itself(five_states, tmp_path, command, open_page):
    shared = tmp_path / "cat.html"
    assert command("make_viewer", five_states, "--share", shared).code == 0
    assert shared.stat().st_size < 2_000_000
    opened = open_page(shared)
    opened.seek(256)
    seen = opened.stage()
    assert decibels(seen, picture_of(4)) > 28
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith("data:")] == [shared.as_uri()]

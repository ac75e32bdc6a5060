"""A folder whose states can be told from each other, and a real browser."""

import io
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import logging_kept
from five_pictures import change_report, picture_of
from PIL import Image

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def five_states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished folder of one picture, whose states 1x to 256x are five different photographs: what is seen,
    and where, shows which state is drawn at which place. Not to be changed."""
    import inference_coz
    import make_viewer

    folder = tmp_path_factory.mktemp("five")
    picture_of(0).save(folder / "cat.png")
    out = folder / "out"
    run = ["-i", str(folder / "cat.png"), "-o", str(out), "--rec_type", "bicubic", "-q"]
    with logging_kept():
        assert inference_coz.main(run) == 0
    for number in range(5):
        picture_of(number).save(out / "per-sample" / "cat" / f"{number}.png")

    def invent(report) -> None:
        for step in report["pictures"][0]["steps"]:
            step["made"] = "invented"

    change_report(out, invent)
    picture_of(4).save(out / "per-sample" / "cat" / "1_input.png")  # what plain bicubic shows
    with logging_kept():
        assert make_viewer.main([str(out), "-q"]) == 0
    return out


@pytest.fixture(scope="session")
def chromium() -> Iterator:
    """A real headless browser; the tests that want one are skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: make browser")
    program = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if program is None:
        pytest.skip("no Chromium on this machine: make browser")
    with playwright.sync_playwright() as play:
        # containers seldom allow its sandbox; the pages are our own
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Opened:
    """A page in the browser, and what it did that a page from a disk should not."""

    page: object
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def factor(self) -> float:
        """The magnification that is shown."""
        return float(self.page.locator("#factor").inner_text().rstrip("x"))

    def wait(self, condition: str) -> None:
        """Wait until an expression holds. The driver's own way is forbidden by the page's policy."""
        until = time.monotonic() + 10
        while not self.page.evaluate(condition):
            assert time.monotonic() < until, f"waited in vain for {condition}"
            time.sleep(0.02)

    def wait_for_factor(self, factor: str) -> None:
        """Wait until a magnification is shown."""
        self.wait(f"document.getElementById('factor').textContent === '{factor}'")

    def stage(self) -> Image.Image:
        """What is seen: 512x512 pixels, as states have."""
        self.settle()
        self.settle()  # what came may want more
        return Image.open(io.BytesIO(self.page.locator("#stage").screenshot())).convert("RGB")

    def settle(self) -> None:
        """Wait until what is wanted is loaded and drawn."""
        self.wait(
            "!gallery.flight.scene || [...gallery.flight.scene.pictures.known.values()]"
            ".every((one) => one.ready || one.broken)"
        )
        self.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def seek(self, factor: float) -> None:
        """Go to a magnification, as the slider does."""
        self.page.evaluate(f"gallery.flight.seek({math.log(factor, 4)})")
        self.settle()


@pytest.fixture
def open_page(chromium) -> Iterator:
    """Open a page from the disk in a window of its own."""
    contexts = []

    def open_it(file: Path, width: int = 1200, height: int = 900, **options) -> Opened:
        contexts.append(chromium.new_context(viewport={"width": width, "height": height}, **options))
        opened = Opened(contexts[-1].new_page())
        page = opened.page
        page.on("console", lambda message: opened.complaints.append(message.text))
        page.on("pageerror", lambda error: opened.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (opened.complaints.append("a dialog"), dialog.dismiss()))
        page.on("request", lambda request: opened.requests.append(request.url))
        page.goto(file.as_uri())
        page.evaluate(
            "Object.assign(document.getElementById('stage-box').style, {width: '512px', margin: '0'});"
            "document.activeElement.blur()"
        )
        opened.settle()
        return opened

    yield open_it
    for context in contexts:
        context.close()

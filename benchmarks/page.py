"""How fast the page of many pictures opens and scrolls, in the system's Chromium: ``make browser`` first.

    python benchmarks/page.py [pictures ...]

A finished folder of so many pictures (default 1000 10000), each with small copies of its own. Prints, as
medians of five openings: until all scripts have run, until the first small pictures are drawn, and the usual
and the longest frame while the page is scrolled down for ten seconds.
"""

import shutil
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import inference_coz
from results.load_report import load_report
from results.output_tree import OutputTree, page_id
from viewer.page import Page

ROOT = Path(__file__).parent.parent
SCROLL = """
new Promise((done) => {
  const frames = [];
  let before = performance.now();
  const step = (now) => {
    frames.push(now - before);
    before = now;
    scrollBy(0, 120);
    if (frames.length > 600) done(frames.slice(1)); else requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
})
"""
DRAWN = """
new Promise((done) => {
  const first = [...document.querySelectorAll("#cards img")].slice(0, 12);
  Promise.all(first.map((image) => image.decode())).then(() => done(performance.now()));
})
"""


def make_folder(out: Path, pictures: int) -> None:
    """Make a finished folder whose pictures are copies of one, small copies and all."""
    sample = str(ROOT / "samples" / "chelsea.png")
    assert inference_coz.main(["-i", sample, "-o", str(out), "--rec_type", "bicubic", "-q"]) == 0
    report = load_report(out / "run.json")
    assert report is not None
    [record] = report.pictures.values()
    of_page = out / "page" / "pictures"
    records = {
        f"{n:05}": replace(record, name=f"{n:05}", label=f"holiday/{n:05}.jpg", file=f"/{n}")
        for n in range(pictures)
    }
    for name in records:
        for ending in (".js", ".jpg"):
            shutil.copy(of_page / f"{page_id(record.name)}{ending}", of_page / f"{page_id(name)}{ending}")
    page = Page(OutputTree(out), replace(report, pictures=records))
    page.begin()
    page.save()


def main() -> None:
    """Measure and print."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        print("pictures  index.html  scripts ran  first drawn  frame: usual  longest")
        for pictures in [int(number) for number in sys.argv[1:]] or [1000, 10000]:
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "out"
                make_folder(out, pictures)
                rows = []
                for _ in range(5):
                    page = browser.new_page(viewport={"width": 1300, "height": 900})
                    page.goto((out / "index.html").as_uri())
                    ran = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
                    drawn = page.evaluate(DRAWN)
                    frames = page.evaluate(SCROLL)
                    rows.append((ran, drawn, statistics.median(frames), max(frames)))
                    page.close()
                ran, drawn, usual, longest = (statistics.median(column) for column in zip(*rows, strict=True))
                size = (out / "index.html").stat().st_size / 1e6
                times = f"{ran:9.0f} ms {drawn:9.0f} ms {usual:10.1f} ms {longest:6.1f} ms"
                print(f"{pictures:8} {size:8.2f} MB {times}")
        browser.close()


if __name__ == "__main__":
    main()

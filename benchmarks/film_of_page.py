"""Make docs/flight.webp, the moving picture of the README: somebody flies through a picture on its page.

    python benchmarks/film_of_page.py OUT LABEL

OUT is a finished folder, LABEL one of its pictures; wants ``make browser``.
"""

import io
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from PIL import Image

from viewer.film_settings import SECONDS_A_STEP
from viewer.flight import depth_at

FILE = Path(__file__).parent.parent / "docs" / "flight.webp"
WIDTH, HEIGHT = 860, 600
FPS, EASE, STILL = 12, 0.8, 8  # frames a second, seconds, frames at either end


def main() -> None:
    """Take a picture of the page a frame, and write them as one WebP."""
    from playwright.sync_api import sync_playwright

    out, label = Path(sys.argv[1]).resolve(), sys.argv[2]
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="dark")
        page.goto((out / "index.html").as_uri())
        page.locator("#cards a", has_text=label).click()
        page.wait_for_timeout(500)
        steps = page.evaluate("gallery.flight.last")
        length = steps * SECONDS_A_STEP * 0.75
        frames = []
        for number in range(round(length * FPS) + 1):
            depth = depth_at(number / FPS, length, steps, EASE)
            page.evaluate(f"document.activeElement.blur(); gallery.flight.seek({depth})")
            page.wait_for_timeout(60)
            frames.append(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
        browser.close()
    frames = [frames[0]] * STILL + frames + [frames[-1]] * STILL
    frames[0].save(
        FILE, save_all=True, append_images=frames[1:], duration=1000 // FPS, loop=0, quality=62, method=6
    )
    print(f"{FILE}: {len(frames)} frames, {FILE.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

"""What installs where: every requirements file for each system and Python, as uv resolves it.

    pip install uv==0.13.9
    python benchmarks/platforms.py

uv resolves for other systems than the one that it runs on, and judges markers as they would; pip does not.
Nothing is installed, and wheels alone count: people who want to zoom do not compile. Prints a Markdown table;
exit code 1 where it is not what `GAPS` says. It takes about a quarter of an hour.
"""

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
SYSTEMS = {  # and what uv calls them
    "Linux": "linux",
    "Linux on ARM": "aarch64-manylinux_2_34",
    "Windows": "windows",
    "macOS 14": "macos",
}
# torch's wheels for Macs want macOS 14; uv takes an older one where nobody says so
ENVIRONMENT = os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0"}

PART = "requirements-common.txt"  # of others, never installed by itself
WHOLE = ("requirements.txt", "requirements-gpu.txt")  # one of them; the other files come on top
ON_TOP_OF = {"requirements-browser.txt": ("requirements.txt", "requirements-dev.txt")}
GAPS = {("requirements-gpu.txt", "macOS 14"): "no NVIDIA GPU there"}

Files = tuple[str, ...]


def rows(root: Path) -> Iterator[Files]:
    """Yield what people install together, the file that a row is named after last."""
    for name in sorted(file.name for file in root.glob("requirements*.txt")):
        if name in WHOLE:
            yield (name,)
        elif name != PART:
            yield (*ON_TOP_OF.get(name, WHOLE[:1]), name)


def refusal(files: Files, system: str, python: str, oldest: bool) -> str:
    """Return why nothing can be installed; empty where it can.

    Args:
        files: names of requirements files, installed together.
        system: a key of `SYSTEMS`.
        python: such as 3.11.
        oldest: take the lower end of each range, where the newest is taken otherwise.
    """
    found = shutil.which("uv")
    uv = [found] if found else [sys.executable, "-m", "uv"]
    done = subprocess.run(
        [
            *uv, "pip", "compile", "--quiet", "--only-binary", ":all:",
            "--resolution", "lowest-direct" if oldest else "highest",
            "--python-platform", SYSTEMS[system], "--python-version", python, *files,
        ],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    return "" if done.returncode == 0 else " ".join(done.stderr.split())


def cell(refusals: dict[str, str], gap: str) -> tuple[str, bool]:
    """Return what the table says of one file on one system, and whether that is as it should be.

    Args:
        refusals: see `refusal`, for each Python.
        gap: why nothing is to be had there; empty where everything is.
    """
    can = [python for python, why in refusals.items() if not why]
    if not can:
        return gap or "no", bool(gap)
    runs = f"{can[0]} to {can[-1]}" if len(can) == len(refusals) else ", ".join(can)
    return runs, len(can) == len(refusals) and not gap


def table() -> tuple[list[str], list[str]]:
    """Resolve everything, and return the lines of the table, and what is not as it should be."""
    lines = [(files, False) for files in rows(ROOT)] + [((name,), True) for name in WHOLE]
    asked = list(itertools.product(lines, SYSTEMS, PYTHONS))
    with ThreadPoolExecutor(os.cpu_count()) as several:
        told = several.map(lambda one: refusal(one[0][0], one[1], one[2], oldest=one[0][1]), asked)
        refused = dict(zip(asked, told, strict=True))
    texts, wrong = [f"| | {' | '.join(SYSTEMS)} |", "|---" * (1 + len(SYSTEMS)) + "|"], []
    for files, oldest in lines:
        name = files[-1]
        row = [f"`{name}`, oldest torch" if oldest else f"`{name}`"]
        for system in SYSTEMS:
            refusals = {python: refused[(files, oldest), system, python] for python in PYTHONS}
            text, right = cell(refusals, GAPS.get((name, system), ""))
            row.append(text)
            if not right:
                why = next(filter(None, refusals.values()), "can be had, and GAPS says that it cannot")
                wrong.append(f"{row[0]} on {system}: {why}")
        texts.append(f"| {' | '.join(row)} |")
    return texts, wrong


def main() -> int:
    """Print the table, and return the exit code."""
    texts, wrong = table()
    print(*texts, sep="\n")
    print(*wrong, sep="\n", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

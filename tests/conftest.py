"""What all tests share. One thread a worker: tiny models run many times faster that way."""

import contextlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # read by torch when a test first imports it
    os.environ[variable] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"  # a test that needs a hub is a mistake


def pytest_configure(config: pytest.Config) -> None:
    """Hide accelerators, but from tests that ask for one (``-m gpu``): ``--device auto`` means the CPU."""
    if config.getoption("markexpr") != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip on Windows what only the other systems have."""
    if sys.platform == "win32":
        for item in items:
            if item.get_closest_marker("posix") is not None:
                item.add_marker(pytest.mark.skip(reason="Windows has no such thing"))


@pytest.fixture(autouse=True)
def _no_apple_gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for Macs, where no environment variable does it."""
    if sys.platform == "darwin" and request.node.get_closest_marker("gpu") is None:
        monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)


@pytest.fixture(scope="session", autouse=True)
def _remembers_nothing_of_before(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what runs remember of the machine apart from the user's own."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / "data"
PARITY = DATA / "parity"
# the embedded network on crops of 16 pixels: real weights, a fraction of a second
SMALL = ("--process_size", 64, "--rec_num", 2)
PIPE = pytest.param("pipe", marks=pytest.mark.posix)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two pictures, scene.png and turned.png."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("scene.png", "turned.png"):
        shutil.copy(PARITY / "input" / name, folder)
    return folder


@dataclass
class Finished:
    """How a command ended: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


@contextlib.contextmanager
def logging_kept() -> Iterator[None]:
    """Put back what a command has set up for its own messages, as it should."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]):
    """Run a command's `main` in this process, as a user would from the shell: fast, torch stays imported."""

    def run(script: str, *args: object) -> Finished:
        module = __import__(script)
        capfd.readouterr()
        try:
            with logging_kept():
                code = module.main([str(arg) for arg in args])
        except SystemExit as stop:  # argparse ends --help and usage errors this way
            code = stop.code if isinstance(stop.code, int) else 2
        captured = capfd.readouterr()
        return Finished(code, captured.out, captured.err)

    return run


def run_script(script: str, *args: object, timeout: float = 120, **kwargs) -> Finished:
    """Run a command in a process of its own, for what only a fresh process shows (start-up time, kill)."""
    done = subprocess.run(
        [sys.executable, str(ROOT / f"{script}.py"), *map(str, args)],
        capture_output=True, text=True, timeout=timeout, check=False, **kwargs,
    )  # fmt: skip
    return Finished(done.returncode, done.stdout, done.stderr)


def pixels(folder: Path) -> dict[str, bytes]:
    """Collect every picture and prompt of a results folder, by place."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*.*"))
        if file.suffix in (".png", ".txt")
    }


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> dict[str, bytes]:
    """What a run of the embedded backbone over both pictures writes."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    done = run_script("inference_coz", "-i", PARITY / "input", "-o", out, *SMALL)
    assert done.code == 0, done.err
    return pixels(out)

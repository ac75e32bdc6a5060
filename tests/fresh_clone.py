"""A clone of the project whose ckpt/ is empty, and whose catalogue names files of the tests' own hub."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from conftest import PARITY, ROOT, Finished
from local_hub import LocalHub

from checkpoints import catalogue
from checkpoints.catalogue import CATALOGUE, GITHUB, Checkpoint, CheckpointFile

# The hub's client writes 10 MB at a time: only of a larger file is something left when a transfer breaks off.
SIZES = {"ram_swin_large_14m.pth": 24_000_000, "DAPE.pth": 3_000_000}

# Waits are noted and cut short; a disk has as much room as a test says.
SITECUSTOMIZE = """
import os, shutil, time, types
slept = time.sleep
def sleep(seconds):
    with open(os.environ["WAITS"], "a") as file:
        print(seconds, file=file)
    slept(min(seconds, 0.01))
time.sleep = sleep
if "FREE" in os.environ:
    free = int(os.environ["FREE"])
    shutil.disk_usage = lambda path: types.SimpleNamespace(total=free, used=0, free=free)
"""


def contents() -> dict[CheckpointFile, bytes]:
    """Make up a content for every file of the catalogue that lies in ckpt/."""
    made = {}
    for one in CATALOGUE:
        for file in one.files:
            chance = random.Random(file.sha256)
            made[file] = chance.randbytes(SIZES.get(file.place.name, 3000))
    return made


def files_of(folder: Path) -> dict[str, bytes]:
    """Read a folder as a repository of the hub: content by path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def fill(hub: LocalHub, published: dict[CheckpointFile, bytes]) -> None:
    """Publish everything that the catalogue names, and files beside it that nobody needs."""
    for one in CATALOGUE:
        at = hub.github if one.host == GITHUB else hub.models
        for file in one.files:
            at.setdefault(one.repository, {})[file.path] = published[file]
    beside = {"README.md": b"about", "model.bin": bytes(2000), "onnx/config.json": b"{}"}
    hub.models[catalogue.SD3.repository] = {
        **files_of(PARITY / "sd3"),
        **beside,
        "sd3_medium.safetensors": bytes(2000),
        "text_encoder/model.fp16.safetensors": bytes(2000),
        "vae/diffusion_pytorch_model.bin": bytes(2000),
    }
    hub.models[catalogue.VLM.repository] = {**files_of(PARITY / "qwen"), **beside}


@dataclass
class Clone:
    """A copy of the code, with a hub and a home of its own.

    Attributes:
        root: of the copy.
        home: where the hub's client keeps its cache.
        hub: that the commands are told to ask.
        published: what it gives out for the files of ckpt/.
    """

    root: Path
    home: Path
    hub: LocalHub
    published: dict[CheckpointFile, bytes] = field(repr=False)

    def start(self, script: str, *args: object, **environment: str) -> subprocess.Popen[str]:
        """Start a command with the tests' hub in the place of the real one."""
        own = {
            "HF_ENDPOINT": self.hub.url,
            "HF_HOME": str(self.home),
            "XDG_CACHE_HOME": str(self.home / "cache"),
            "PYTHONPATH": str(self.root / "waits"),
            "WAITS": str(self.home / "waits.txt"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        hidden = ("HF_", "HUGGING", "TRANSFORMERS_OFFLINE")
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(hidden) and not name.lower().endswith("_proxy")
        }
        return subprocess.Popen(
            [sys.executable, str(self.root / f"{script}.py"), *map(str, args)],
            env={**inherited, **own, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script: str, *args: object, **environment: str) -> Finished:
        """Run a command to its end."""
        process = self.start(script, *args, **environment)
        try:
            out, err = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return Finished(process.returncode, out, err)

    def download(self, *args: object, **environment: str) -> Finished:
        """Run download_ckpt.py with the tests' GitHub in the place of the real one."""
        return self.run("download_ckpt", "--github_mirror", self.hub.url, *args, **environment)

    def interrupt(self, process: subprocess.Popen[str]) -> Finished:
        """Press Ctrl-C."""
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        return Finished(process.returncode, out, err)

    def place(self, file: CheckpointFile) -> Path:
        """Where a file of the catalogue lies in this copy."""
        return self.root / file.place.relative_to(ROOT)

    def is_here(self, file: CheckpointFile) -> bool:
        """Tell whether a file is in its place, as published."""
        return self.place(file).is_file() and self.place(file).read_bytes() == self.published[file]

    def cached(self, model: Checkpoint) -> dict[str, bytes]:
        """What the hub's cache holds of a model, by path."""
        folder = self.home / "hub" / f"models--{model.repository.replace('/', '--')}" / "snapshots"
        return files_of(folder / model.revision)

    def waits(self) -> list[float]:
        """How many seconds the commands wanted to wait, one by one."""
        file = self.home / "waits.txt"
        return [float(line) for line in file.read_text().split()] if file.exists() else []

    def incoming(self, file: CheckpointFile) -> Path:
        """Where a file is gathered."""
        return self.root / "ckpt" / ".incoming" / hashlib.sha256(self.published[file]).hexdigest()[:16]


def make_clone(root: Path, published: dict[CheckpointFile, bytes]) -> None:
    """Copy the code; its catalogue gets the hashes and sizes of what the tests' hub publishes."""
    shutil.copytree(
        ROOT,
        root,
        ignore=shutil.ignore_patterns(".*", "tests", "docs", "samples", "ckpt", "__pycache__", "benchmarks"),
    )
    (root / "ckpt").mkdir()
    (root / "waits").mkdir()
    (root / "waits" / "sitecustomize.py").write_text(SITECUSTOMIZE)
    table = root / "checkpoints" / "catalogue.py"
    text = table.read_text(encoding="utf-8")
    for file, content in published.items():
        assert text.count(file.sha256) == 1
        text = text.replace(file.sha256, hashlib.sha256(content).hexdigest())
        if file.size is not None:
            assert text.count(f"{file.size:_}") == 1
            text = text.replace(f"{file.size:_}", str(len(content)))
    table.write_text(text, encoding="utf-8")

"""A run on Ray: the same pictures as one process makes, whatever happens to an actor or the driver."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import PARITY, ROOT, Finished, run_script

from command import ray_options
from command.decide import chain_settings, parse
from command.parts import Parts
from command.ray_cluster import Share, share_out
from command.ray_worker import Job, Worker
from command.zooming import describe
from errors import InputError
from results.run_report import PictureRecord

RESIZE = ("--process_size", 64, "--rec_num", 2, "--rec_type", "bicubic")
SMALL = ("--process_size", 64, "--rec_num", 2)

needs_ray = pytest.mark.skipif(
    not ray_options.installed(), reason=f"Ray is not installed: {ray_options.INSTALL}"
)

# In the actors alone, a picture called so kills them whenever it is read, or only the first time.
TRAP = """
import os, sys

def trap(event, args):
    name = os.path.basename(str(args[0])) if event == "open" else ""
    if not name.startswith(("kills", "once")) or "default_worker" not in sys.argv[0]:
        return
    log = os.environ["TRAP_LOG"]
    if not os.path.exists(log) or name.startswith("once") and name in open(log).read():
        return
    with open(log, "a") as file:
        file.write(name + chr(10))
    os._exit(9)

sys.addaudithook(trap)
"""

HEAD = """
import ray, sys
print(ray.init("local", num_cpus=2).address_info["address"], flush=True)
sys.stdin.read()
"""


def pixels(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*.*"))
        if file.suffix in (".png", ".txt", ".csv", ".jpg", ".js")
    }


def pictures(folder: Path) -> list[dict]:
    """What run.json says of the pictures, but for the time it took."""
    said = json.loads((folder / "run.json").read_bytes())["pictures"]
    for picture in said:
        for step in picture["steps"]:
            del step["seconds"]
    return said


@dataclasses.dataclass
class Cluster:
    """A Ray of two cores, and how to run the command on it; `log` arms the traps as long as it is there."""

    address: str
    environment: dict[str, str]
    log: Path

    def zoom(self, *arguments: object) -> Finished:
        return run_script("inference_coz", *arguments, "--ray", self.address, env=self.environment)

    def start(self, *arguments: object) -> subprocess.Popen:
        command = [sys.executable, ROOT / "inference_coz.py", *arguments, "--ray", self.address]
        return subprocess.Popen([str(word) for word in command], env=self.environment, stderr=subprocess.PIPE)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")  # Ray writes a token there
    (home / "sitecustomize.py").write_text(TRAP)
    log = home / "trap.log"
    environment = os.environ | {"HOME": str(home), "PYTHONPATH": str(home), "TRAP_LOG": str(log)}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0"}
    with subprocess.Popen(
        [sys.executable, "-c", HEAD],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as head:  # fmt: skip
        yield Cluster(head.stdout.readline().split()[-1], environment, log)
        head.stdin.close()


@pytest.fixture
def more_photos(photos: Path) -> Path:
    for name in ("third.png", "fourth.png", "fifth.png"):
        shutil.copy(PARITY / "input" / "scene.png", photos / name)
    return photos


# What needs no Ray


def test_without_ray_it_is_one_line_that_says_how_to_install_it(command, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_options, "installed", lambda: False)
    done = command("inference_coz", "-i", photos, "-o", tmp_path / "out", *RESIZE, "--ray")
    assert (done.code, done.err) == (
        2,
        "inference_coz.py: --ray wants Ray, which is not installed: pip install -r requirements-ray.txt\n",
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--ray_actors", "2"], "--ray_actors only goes with --ray"),
        (["--ray", "ray://far:10001"], "--ray: ray://far:10001 is for clients"),
        (["--ray", "--device", "cuda:1"], "--device cuda:1: with --ray, Ray chooses the GPUs"),
        (["--ray", "127.0.0.1:1"], "--ray: no cluster answers at 127.0.0.1:1"),
    ],
)
def test_what_does_not_go_with_ray_is_one_line(command, photos, tmp_path, monkeypatch, more, says):
    monkeypatch.setattr(ray_options, "installed", lambda: True)
    done = command("inference_coz", "-i", photos, "-o", tmp_path / "out", *SMALL, *more)
    assert done.code == 2
    assert done.err.startswith(f"inference_coz.py: {says}")
    assert done.err.count("\n") == 1


def test_a_dry_run_prints_what_an_actor_needs_and_starts_nothing(command, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_options, "installed", lambda: True)
    done = command("inference_coz", "-i", photos, "-o", tmp_path / "out", *SMALL, "--ray", "--dry_run")
    assert done.code == 0
    assert "ray        0 GPUs and 0.7 GB of CPU memory an actor" in done.out


ONE = {"CPU": 16, "GPU": 4, "memory": 64e9}


@pytest.mark.parametrize(
    ("machines", "gpus", "memory", "groups", "wanted", "share"),
    [
        ([ONE], 0, 0, 1000, None, Share(16, 1, 0)),
        ([ONE], 0, 12 * 10**9, 1000, None, Share(5, 3, 0)),
        ([ONE], 0, 12 * 10**9, 1000, 8, Share(8, 2, 0)),
        ([ONE], 1, 0, 1000, None, Share(4, 4, 1)),
        ([ONE, ONE], 2, 0, 1000, None, Share(4, 8, 2)),
        ([ONE], 1, 0, 1, None, Share(1, 16, 1)),
        ([ONE, {"CPU": 2, "memory": 8e9}], 1, 0, 1000, None, Share(4, 4, 1)),
        ([{"CPU": 4, "memory": 8e9}], 0, 12 * 10**9, 1000, None, Share(1, 4, 0)),
    ],
)
def test_a_cluster_is_shared_out_by_cores_gpus_and_memory(machines, gpus, memory, groups, wanted, share):
    assert share_out(machines, gpus, memory, groups, wanted) == share


@pytest.mark.parametrize(("gpus", "wanted"), [(8, None), (1, 5), (0, 17)])
def test_a_cluster_without_room_is_refused(gpus, wanted):
    with pytest.raises(InputError, match="--ray"):
        share_out([ONE], gpus, 0, 1000, wanted)


@pytest.fixture
def worker(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # which a worker may leave
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").touch()
    options = parse(["-i", str(photos), "-o", "out", *map(str, RESIZE)])
    described = describe(chain_settings(options), Parts(), {})
    return Worker(Job(options, {}, described, tmp_path, 0))


def records(photos: Path) -> list[PictureRecord]:
    return [PictureRecord(file.stem, file.name, str(file)) for file in sorted(photos.iterdir())]


def test_an_exception_that_nobody_foresaw_stays_within_its_picture(worker, more_photos, monkeypatch):
    def fails(files, picture):
        if picture.name == "third":
            raise ZeroDivisionError("so it is")
        return whole(files, picture)

    whole = worker._build()._files.__class__.take_up
    monkeypatch.setattr("zoom.state_files.StateFiles.take_up", fails)
    answer = worker.zoom(records(more_photos))
    assert answer.error is None
    assert {picture.name: picture.failure for picture in answer.pictures if picture.status != "done"} == {
        "third": "failed unexpectedly: ZeroDivisionError: so it is"
    }


def test_a_machine_that_would_make_other_pixels_or_sees_no_output_ends_the_run(worker, photos, tmp_path):
    worker.job.described["chain"]["seed"] = 7
    assert "would make other pixels: --seed was 7, is 42" in str(worker.zoom(records(photos)).error)
    (tmp_path / "out" / "run.json").unlink()
    assert "does not see the output folder" in str(worker.zoom(records(photos)).error)
    worker.job = dataclasses.replace(worker.job, folder=tmp_path / "nowhere")
    assert "nowhere (No such file or directory)" in str(worker.zoom(records(photos)).error)


# What does


@needs_ray
@pytest.mark.parametrize("kind", [RESIZE, SMALL], ids=["bicubic", "embedded"])
def test_ray_makes_what_one_process_makes(cluster, command, more_photos, tmp_path, kind):
    one, spread = tmp_path / "one", tmp_path / "spread"
    assert command("inference_coz", "-i", more_photos, "-o", one, *kind).code == 0
    done = cluster.zoom("-i", more_photos, "-o", spread, *kind)
    assert (done.code, done.err) == (0, "")
    assert pixels(one) == pixels(spread)
    assert pictures(one) == pictures(spread)


@needs_ray
@pytest.mark.parametrize(("group", "tries"), [(1, 2), (3, 3)])
def test_a_picture_that_kills_its_actors_fails_by_name_and_all_others_come(
    cluster, command, more_photos, tmp_path, group, tries
):
    for name in ("kills_a", "kills_b", "kills_c", "once"):
        shutil.copy(more_photos / "turned.png", more_photos / f"{name}.png")
    one, spread = tmp_path / "one", tmp_path / "spread"
    assert command("inference_coz", "-i", more_photos, "-o", one, *RESIZE, "--batch_size", group).code == 0

    cluster.log.touch()
    done = cluster.zoom("-i", more_photos, "-o", spread, *RESIZE, "--batch_size", group)
    died = cluster.log.read_text().split()
    cluster.log.unlink()
    assert done.code == 1
    failed = [line.split(": ")[1] for line in done.err.splitlines() if line.startswith("failed: ")]
    assert failed == ["kills_a.png", "kills_b.png", "kills_c.png"]
    assert all(1 <= died.count(name) <= tries for name in failed)
    assert died.count("once.png") == 1

    assert cluster.zoom("-i", more_photos, "-o", spread, *RESIZE, "--batch_size", group).code == 0
    assert pixels(one) == pixels(spread)
    assert pictures(one) == pictures(spread)


@needs_ray
def test_a_driver_that_is_stopped_or_killed_leaves_a_folder_that_goes_on(
    cluster, command, more_photos, tmp_path
):
    slow = ("--process_size", 128, "--rec_num", 2)
    one, spread = tmp_path / "one", tmp_path / "spread"
    for number, code, status in ((signal.SIGINT, 130, "interrupted"), (signal.SIGKILL, -9, "running")):
        before = len(pixels(spread))
        driver = cluster.start("-i", more_photos, "-o", spread, *slow)
        waited = time.monotonic()
        while len(pixels(spread)) < before + 8 and time.monotonic() < waited + 60:
            time.sleep(0.1)
        driver.send_signal(number)
        _, said = driver.communicate()
        assert driver.returncode == code
        assert said.decode().count("\n") == (number == signal.SIGINT)
        assert json.loads((spread / "run.json").read_bytes())["status"] == status
    time.sleep(3)
    before = pixels(spread)
    time.sleep(2)
    assert pixels(spread) == before  # the actors are gone
    assert cluster.zoom("-i", more_photos, "-o", spread, *slow).code == 0
    assert command("inference_coz", "-i", more_photos, "-o", one, *slow).code == 0
    assert pixels(one) == pixels(spread)

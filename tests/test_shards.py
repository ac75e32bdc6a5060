"""Several processes on one folder: together they make what one makes."""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from conftest import PARITY, ROOT
from filelock import FileLock
from PIL import Image

from command.sharding import gpus_of, shard_of
from errors import InputError
from results.load_report import load_report
from results.output_tree import OutputTree
from results.pictures import Source
from results.shards import Shard

BICUBIC = ("--rec_type", "bicubic", "--process_size", "64", "--rec_num", "3")
NEWS = {"started", "finished", "stage_seconds", "environment", "seconds"}  # what differs from run to run


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twelve small pictures, two of one stem."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    with Image.open(PARITY / "input" / "scene.png") as image:
        scene = image.convert("RGB").resize((90, 90))
    for number in range(10):
        scene.rotate(30 * number).save(folder / f"p{number}.png")
    scene.save(folder / "same.png")
    scene.rotate(7).save(folder / "same.jpg", quality=95)
    return folder


@pytest.fixture
def one(pictures, tmp_path, command) -> Path:
    """What one process makes of them."""
    assert command("inference_coz", "-i", pictures, "-o", tmp_path / "one", *BICUBIC).code == 0
    return tmp_path / "one"


def without_news(content: object) -> object:
    if isinstance(content, dict):
        return {name: without_news(value) for name, value in content.items() if name not in NEWS}
    return [without_news(value) for value in content] if isinstance(content, list) else content


def tree_of(out: Path) -> dict[str, object]:
    """Every file of a folder by its content; of run.json, what every run must say."""
    found: dict[str, object] = {}
    for file in sorted(out.rglob("*")):
        if file.is_file():
            name = file.relative_to(out).as_posix()
            if name == "run.json":
                found[name] = without_news(json.loads(file.read_text()))
            else:
                found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def start(pictures: Path, out: Path, *options: object, **environment: str) -> subprocess.Popen:
    """Start a shard in a process of its own."""
    arguments = ["-i", pictures, "-o", out, "-q", *BICUBIC, *options]
    return subprocess.Popen(
        [sys.executable, ROOT / "inference_coz.py", *map(str, arguments)],
        env=os.environ | environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_two_shards_side_by_side_make_what_one_process_makes(pictures, one, tmp_path):
    shards = [start(pictures, tmp_path / "two", "--shard", f"{number}/2") for number in range(2)]
    assert [shard.wait() for shard in shards] == [0, 0]
    assert tree_of(tmp_path / "two") == tree_of(one)


def test_shards_one_after_the_other_on_machines_that_never_meet_do_too(pictures, one, tmp_path, command):
    for number in (2, 0, 1):
        out = tmp_path / "three"
        ended = command("inference_coz", "-i", pictures, "-o", out, *BICUBIC, "--shard", f"{number}/3")
        assert ended.code == 0
        assert f"shard {number}/3: " in ended.out
    assert tree_of(tmp_path / "three") == tree_of(one)


def test_torchrun_starts_a_shard_a_process(pictures, one, tmp_path):
    run = [Path(sys.executable).with_name("torchrun"), "--nproc_per_node", "2", ROOT / "inference_coz.py"]
    arguments = ["-i", pictures, "-o", tmp_path / "two", "-q", *BICUBIC]
    ended = subprocess.run(
        [*map(str, run), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert tree_of(tmp_path / "two") == tree_of(one)


def in_tar(file: Path) -> list[str]:
    with tarfile.open(file) as tar:
        return tar.getnames()


def zoom_tars(tars: Path, results: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    script = ["bash", ROOT / "docs" / "tar_shards.sh", tars, results, *BICUBIC]
    environment = os.environ | {"PYTHON": sys.executable} | environment
    return subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.skipif(os.name != "posix", reason="a script for bash")
def test_a_tar_that_is_no_tar_or_has_no_picture_is_named_and_the_others_come(pictures, tmp_path):
    for name in ("tars", "results"):
        (tmp_path / name).mkdir()
    (tmp_path / "tars" / "a.tar").write_bytes(b"cut off")
    (tmp_path / "page.pdf").write_bytes(b"%PDF-1.7")
    with tarfile.open(tmp_path / "tars" / "b.tar", "w") as tar:
        tar.add(tmp_path / "page.pdf", "page.pdf")
    with tarfile.open(tmp_path / "tars" / "c.tar", "w") as tar:
        tar.add(pictures / "p0.png", "000001.png")
        tar.add(pictures / "p1.png", "folder/1.png")
    done = zoom_tars(tmp_path / "tars", tmp_path / "results")
    assert done.returncode == 1
    named = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert [line.split()[1] for line in named] == [f"{tmp_path}/tars/{name}.tar:" for name in "ab"]
    assert [file.name for file in (tmp_path / "results").iterdir()] == ["c.tar"]
    states = [f"{key}.{step}.png" for key in ("000001", "folder/1") for step in range(4)]
    assert in_tar(tmp_path / "results" / "c.tar") == ["run.json", *states]
    assert zoom_tars(tmp_path / "tars", tmp_path / "nowhere").returncode == 2


@pytest.mark.skipif(os.name != "posix", reason="a script for bash")
def test_tars_are_shared_out_among_the_tasks_of_an_array_and_become_tars_of_states(pictures, one, tmp_path):
    tars, results = tmp_path / "tars", tmp_path / "results"
    tars.mkdir()
    results.mkdir()
    for number in range(5):
        with tarfile.open(tars / f"{number}.tar", "w") as tar:
            for file in (pictures / f"p{2 * number}.png", pictures / f"p{2 * number + 1}.png"):
                tar.add(file, file.name)
            caption = pictures / f"p{number}.txt"
            caption.write_text("WebDataset's layout has captions")
            tar.add(caption, caption.name)

    def run(task: int) -> int:
        array = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "2"}
        return zoom_tars(tars, results, **array).returncode

    assert run(1) == 0
    assert sorted(file.name for file in results.iterdir()) == ["0.tar", "2.tar", "4.tar"]
    before = (results / "2.tar").stat().st_mtime_ns
    assert run(2) == run(1) == 0
    assert (results / "2.tar").stat().st_mtime_ns == before  # not made again
    for number in range(5):
        with tarfile.open(results / f"{number}.tar") as tar:
            states = {name: tar.extractfile(name).read() for name in tar.getnames() if name != "run.json"}
        assert states == {
            f"p{picture}.{step}.png": (one / "per-sample" / f"p{picture}" / f"{step}.png").read_bytes()
            for picture in (2 * number, 2 * number + 1)
            for step in range(4)
        }


def test_a_slurm_array_is_a_shard_a_task(pictures, one, tmp_path):
    tasks = [
        start(pictures, tmp_path / "three", SLURM_ARRAY_TASK_ID=str(task), SLURM_ARRAY_TASK_COUNT="3",
              SLURM_ARRAY_TASK_MIN="5", SLURM_ARRAY_TASK_STEP="2")
        for task in (5, 7, 9)
    ]  # fmt: skip
    assert [task.wait() for task in tasks] == [0, 0, 0]
    assert tree_of(tmp_path / "three") == tree_of(one)


@pytest.mark.posix
def test_workers_that_are_killed_lose_nothing(pictures, one, tmp_path):
    chance = random.Random(1)
    out = tmp_path / "two"
    for _ in range(4):
        shards = [start(pictures, out, "--shard", f"{number}/2") for number in range(2)]
        time.sleep(chance.uniform(0.1, 0.5))
        chance.choice(shards).send_signal(signal.SIGKILL)
        for shard in shards:
            shard.wait()
    for number in range(2):
        assert start(pictures, out, "--shard", f"{number}/2").wait() == 0
    assert tree_of(out) == tree_of(one)


@pytest.mark.parametrize("killed", ["0-of-4", "1-of-2", None])
def test_what_another_shard_or_run_left_half_written_is_swept_up_with_its_lock(tmp_path, killed):
    out = tmp_path / "out"
    tag = "" if killed is None else f"{killed}-"
    (out / "page" / "pictures").mkdir(parents=True)
    left = out / "page" / "pictures" / f".writing-{tag}0123456789abcdef.part"
    in_use = out / "page" / "pictures" / ".writing-0-of-3-0123456789abcdef.part"
    for file in (left, in_use, out / (".lock" if killed is None else f".lock-{killed}")):
        file.touch()
    with OutputTree(out, Shard(0, 2)).lock() as entered:
        entered.begun()
        assert not left.exists()
        assert in_use.exists()


@pytest.mark.posix
def test_another_number_of_shards_side_by_side_is_joined_to_the_newest(pictures, one, tmp_path, command):
    out = tmp_path / "out"
    killed = [start(pictures, out, "--shard", f"{number}/4") for number in range(4)]
    time.sleep(0.35)
    for shard in killed:
        shard.send_signal(signal.SIGKILL)
        shard.wait()
    shards = [start(pictures, out, "--shard", f"{number}/2") for number in range(2)]
    assert [shard.wait() for shard in shards] == [0, 0]
    assert tree_of(out) == tree_of(one)


def test_overwriting_shards_start_together(pictures, one, tmp_path):
    out = tmp_path / "out"
    shards = [start(pictures, out, "--shard", f"{number}/3", "--overwrite") for number in range(3)]
    assert [shard.wait() for shard in shards] == [0, 0, 0]
    assert tree_of(out) == tree_of(one)


def test_under_torchrun_a_bad_picture_ends_no_other_worker(pictures, tmp_path):
    (pictures / "broken.png").write_bytes(b"no picture")
    run = [Path(sys.executable).with_name("torchrun"), "--nproc_per_node", "2", ROOT / "inference_coz.py"]
    arguments = ["-i", pictures, "-o", tmp_path / "two", *BICUBIC]
    ended = subprocess.run([*map(str, [*run, *arguments])], capture_output=True, text=True, check=False)
    assert ended.returncode == 0
    assert "failed: broken.png" in ended.stderr
    report = load_report(tmp_path / "two" / "run.json")
    assert report.status == "failed"
    assert {record.status for record in report.pictures.values()} == {"done"}


def test_where_no_file_can_be_locked_shards_still_make_what_one_process_makes(
    pictures, one, tmp_path, command, monkeypatch
):
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(FileLock, "_acquire", refuse)
    for number in range(2):
        shard = ("--shard", f"{number}/2")
        assert command("inference_coz", "-i", pictures, "-o", tmp_path / "two", *BICUBIC, *shard).code == 0
    for lock in (tmp_path / "two").glob(".lock*"):
        lock.unlink()
    assert tree_of(tmp_path / "two") == tree_of(one)


def test_a_shard_whose_pictures_have_new_labels_shares_none_with_another(pictures, tmp_path, command):
    command("inference_coz", "-i", pictures, "-o", tmp_path / "out", *BICUBIC)
    reports = []
    for number in range(2):
        with FileLock(tmp_path / "out" / f".lock-{1 - number}-of-2"):  # so that they are not joined
            command("inference_coz", "-i", tmp_path, "--recursive_folders", "-o", tmp_path / "out", *BICUBIC,
                    "--shard", f"{number}/2")  # fmt: skip
        reports.append(set(load_report(tmp_path / "out" / "shards" / f"{number}-of-2" / "run.json").pictures))
    assert not reports[0] & reports[1]


def test_another_number_of_shards_goes_on_where_these_stopped(pictures, one, tmp_path, command):
    out = tmp_path / "out"
    command("inference_coz", "-i", pictures, "-o", out, *BICUBIC, "--shard", "0/2")
    for number in range(3):
        done = {file: file.stat().st_mtime_ns for file in out.glob("per-sample/*/3.png")}
        command("inference_coz", "-i", pictures, "-o", out, *BICUBIC, "--shard", f"{number}/3")
        assert all(file.stat().st_mtime_ns == when for file, when in done.items())  # nothing is done twice
    assert tree_of(out) == tree_of(one)


def test_a_run_that_is_no_shard_goes_on_where_shards_stopped(pictures, one, tmp_path, command):
    out = tmp_path / "out"
    command("inference_coz", "-i", pictures, "-o", out, *BICUBIC, "--shard", "1/2")
    command("inference_coz", "-i", pictures, "-o", out, *BICUBIC)
    assert tree_of(out) == tree_of(one)


def test_names_come_from_all_pictures_also_where_more_come_later(pictures, tmp_path, command):
    late = tmp_path / "late.png"
    (pictures / "same.png").rename(late)
    for out, shards in (("one", [()]), ("two", [("--shard", "0/2"), ("--shard", "1/2")])):
        for shard in shards:
            command("inference_coz", "-i", pictures, "-o", tmp_path / out, *BICUBIC, *shard)
        shutil.copy(late, pictures / "same.png")
        for shard in shards:
            command("inference_coz", "-i", pictures, "-o", tmp_path / out, *BICUBIC, *shard)
        (pictures / "same.png").unlink()
    names = set(load_report(tmp_path / "one" / "run.json").pictures)
    assert {"same", "same_png"} <= names  # the name of the first one stays
    assert tree_of(tmp_path / "two") == tree_of(tmp_path / "one")


def test_a_failure_is_named_by_one_shard_and_stands_in_the_report(pictures, tmp_path, command):
    (pictures / "broken.png").write_bytes(b"no picture")
    runs = [
        command("inference_coz", "-i", pictures, "-o", tmp_path / "out", *BICUBIC, "--shard", f"{number}/2")
        for number in range(2)
    ]
    assert sorted(run.code for run in runs) == [0, 1]
    assert sum(run.err.count("broken.png") for run in runs) == 1
    report = load_report(tmp_path / "out" / "run.json")
    assert (report.status, [failure.label for failure in report.unreadable]) == ("failed", ["broken.png"])


def test_a_file_that_is_no_picture_is_counted_by_one_shard(pictures, tmp_path, command):
    (pictures / "doc.pdf").write_bytes(b"%PDF-1.7")
    runs = [
        command("inference_coz", "-i", pictures, "-o", tmp_path / "out", *BICUBIC, "--shard", f"{number}/2")
        for number in range(2)
    ]
    for said in ("1 skipped", "1 file skipped: no picture (doc.pdf)"):
        assert sum(run.out.count(said) for run in runs) == 1


def test_all_spots_of_a_picture_fall_to_one_shard():
    for count in (2, 3, 7):
        whole = [Shard(number, count).has("a/photo~1.jpg") for number in range(count)]
        assert sum(whole) == 1
        for spot in ("1", "left eye", "x~y"):
            source = Source(Path("photo~1.jpg"), "a/photo~1.jpg").at(spot, (0.5, 0.5))
            assert [Shard(number, count).has(source.picture_label) for number in range(count)] == whole


@pytest.mark.parametrize(
    ("lock", "shard", "who"),
    [
        (".lock", "0/2", "another run"),
        (".lock-1-of-3", "0/2", "shard 1 of 3"),
        (".lock-0-of-2", "0/2", "shard 0 of 2 already"),
        (".lock-1-of-2", "0/1", "shard 1 of 2"),
        (".lock", "0/1", "another run"),
    ],
)
@pytest.mark.parametrize("dry", [(), ("--dry_run",)], ids=["run", "dry run"])
def test_what_would_get_in_each_others_way_is_refused(pictures, tmp_path, command, lock, shard, who, dry):
    out = tmp_path / "out"
    out.mkdir()
    with FileLock(out / lock):
        ended = command("inference_coz", "-i", pictures, "-o", out, *BICUBIC, "--shard", shard, *dry)
    assert ended.code == 2
    assert who in ended.err
    assert "is writing here" in ended.err
    assert not (out / "per-sample").exists()


@pytest.mark.parametrize("shard", ["0/1", "0/2", "1/2"])
def test_a_dry_run_leaves_locks_as_they_are(pictures, tmp_path, command, shard):
    """What a killed run has left tells the next one to sweep up; and shards plan beside each other."""
    out = tmp_path / "out"
    out.mkdir()
    locks = [".lock", ".lock-0-of-2", ".lock-door"]
    for name in locks:
        (out / name).write_bytes(b"left")
    dry = command("inference_coz", "-i", pictures, "-o", out, *BICUBIC, "--shard", shard, "--dry_run")
    assert dry.code == 0
    assert {file.name: file.read_bytes() for file in out.iterdir()} == dict.fromkeys(locks, b"left")
    if shard == "1/2":
        with FileLock(out / ".lock-0-of-2"):
            dry = command("inference_coz", "-i", pictures, "-o", out, *BICUBIC, "--shard", shard, "--dry_run")
        assert dry.code == 0


def test_a_shard_sweeps_up_after_itself_only(pictures, tmp_path, command):
    out = tmp_path / "out"
    (out / "per-sample").mkdir(parents=True)
    own, others = out / "per-sample" / ".writing-0-of-2-x.part", out / "per-sample" / ".writing-1-of-2-x.part"
    for file in (own, others):
        file.write_bytes(b"half")
    with contextlib.suppress(InputError):
        tree = OutputTree(out, Shard(0, 2))
        tree.sweep()
    assert (own.exists(), others.exists()) == (False, True)
    OutputTree(out).sweep()
    assert not others.exists()


def test_overwriting_shards_start_their_own_pictures_anew(pictures, one, tmp_path, command):
    out = tmp_path / "out"
    for options in ((), ("--overwrite",)):
        before = {file: file.stat().st_mtime_ns for file in out.glob("per-sample/*/3.png")}
        for number in range(2):
            command("inference_coz", "-i", pictures, "-o", out, *BICUBIC, "--shard", f"{number}/2", *options)
        assert all(file.stat().st_mtime_ns != when for file, when in before.items())
    assert tree_of(out) == tree_of(one)


def test_overwriting_shards_of_other_settings_leave_nothing_of_the_old_ones(pictures, one, tmp_path, command):
    out = tmp_path / "out"
    command("inference_coz", "-i", pictures, "-o", out, "--rec_type", "nearest", "--process_size", 128)
    for number in range(2):
        shard = ("--shard", f"{number}/2", "--overwrite")
        assert command("inference_coz", "-i", pictures, "-o", out, *BICUBIC, *shard).code == 0
    assert not list(out.glob("per-sample/*/4.png"))
    for folder in (out / "per-scale").glob("*"):  # an empty folder of the old ones may stay
        with contextlib.suppress(OSError):
            folder.rmdir()
    assert tree_of(out) == tree_of(one)


def test_shards_of_other_settings_are_refused(pictures, tmp_path, command):
    out = tmp_path / "out"
    command("inference_coz", "-i", pictures, "-o", out, *BICUBIC, "--shard", "0/2")
    ended = command("inference_coz", "-i", pictures, "-o", out, "--rec_type", "nearest", "--process_size", 64,
                    "--rec_num", 3, "--shard", "1/2")  # fmt: skip
    assert ended.code == 2
    assert "--rec_type was bicubic, is nearest" in ended.err


@pytest.mark.posix
def test_merge_runs_joins_what_killed_shards_left(pictures, tmp_path, command):
    out = tmp_path / "out"
    shard = start(pictures, out, "--shard", "0/2")
    until = time.monotonic() + 30
    while not list(out.glob("per-sample/*/3.png")) and time.monotonic() < until:
        time.sleep(0.01)
    shard.send_signal(signal.SIGKILL)
    shard.wait()
    ended = command("merge_runs", out)
    assert ended.code == 1
    assert "of 12 zooms done" in ended.out
    assert not (out / "shards").exists()
    assert len(load_report(out / "run.json").pictures) == 12
    assert command("merge_runs", out).code == 1  # and again, with nothing to join


def test_merge_runs_names_and_counts_what_failed_as_a_run_does(pictures, tmp_path, command):
    out = tmp_path / "out"
    (pictures / "cut.jpg").write_bytes(b"\xff\xd8\xff no more")
    for number in (0, 1):
        start(pictures, out, "--shard", f"{number}/2").wait()
    ended = command("merge_runs", out)
    assert ended.code == 1
    assert "12 of 13 zooms done; 1 failed" in ended.out
    assert "failed: cut.jpg: " in ended.err
    assert "12 of 13 zooms done" in (out / "index.html").read_text()


def test_merge_runs_waits_for_no_shard_that_is_at_work(pictures, tmp_path, command):
    out = tmp_path / "out"
    command("inference_coz", "-i", pictures, "-o", out, *BICUBIC, "--shard", "0/2")
    with FileLock(out / ".lock-1-of-2"):
        ended = command("merge_runs", out)
    assert ended.code == 2
    assert "shard 1 of 2 is writing here" in ended.err


@pytest.mark.parametrize("content", ["", "{}", '{"schema": 3}', "[" * 5000])
def test_a_shards_report_that_is_none_is_refused_with_its_name(pictures, tmp_path, command, content):
    out = tmp_path / "out"
    command("inference_coz", "-i", pictures, "-o", out, *BICUBIC, "--shard", "0/2")
    forged = out / "shards" / "1-of-2" / "run.json"
    forged.parent.mkdir(parents=True)
    forged.write_text(content)
    for ended in (
        command("inference_coz", "-i", pictures, "-o", out, *BICUBIC),
        command("merge_runs", out),
        command("make_viewer", out),
    ):
        assert ended.code == 2
        assert str(forged) in ended.err
        assert ended.err.count("\n") == 1


def test_the_page_shows_all_pictures_while_shards_are_at_work(pictures, tmp_path, command):
    out = tmp_path / "out"
    out.mkdir()
    with FileLock(out / ".lock-1-of-2"):  # the other one is at work
        command("inference_coz", "-i", pictures, "-o", out, *BICUBIC, "--shard", "0/2")
        page = (out / "index.html").read_text()
    assert page.count('"label"') == 12
    done = len(load_report(out / "shards" / "0-of-2" / "run.json").pictures)
    assert page.count('"status": "done"') == done
    assert "still running" in page


def test_the_variables_of_torchrun_and_slurm_say_which_shard_this_is():
    assert shard_of(None, {}) is None
    assert shard_of("1/3", {"RANK": "0", "WORLD_SIZE": "2"}) == Shard(1, 3)
    assert shard_of("0/1", {"RANK": "0", "WORLD_SIZE": "2"}) is None
    assert shard_of(None, {"RANK": "1", "WORLD_SIZE": "2"}) == Shard(1, 2)
    assert shard_of(None, {"RANK": "0", "WORLD_SIZE": "1"}) is None
    assert shard_of(None, {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "4"}) == Shard(1, 4)
    slurm = {"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "1"}
    assert shard_of(None, slurm) == Shard(3, 4)


@pytest.mark.parametrize(
    ("given", "environment"),
    [
        ("2/2", {}),
        ("-1/2", {}),
        ("1", {}),
        ("0/0", {}),
        ("a/b", {}),
        ("0/999999", {}),
        (None, {"RANK": "x", "WORLD_SIZE": "2"}),
        (None, {"RANK": "2", "WORLD_SIZE": "2"}),
        (None, {"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_COUNT": "2"}),
    ],
)
def test_what_is_no_shard_is_refused_in_one_line(given, environment):
    with pytest.raises(InputError, match=r"shard|RANK|Slurm") as caught:
        shard_of(given, environment)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [("--find_detail", "2"), ("--share", "a.html")])
def test_what_needs_all_pictures_is_refused_in_a_shard(pictures, tmp_path, command, options):
    ended = command(
        "inference_coz", "-i", pictures, "-o", tmp_path / "out", *BICUBIC, "--shard", "0/2", *options
    )
    assert ended.code == 2
    assert f"{options[0]}: not in shards" in ended.err


def test_a_process_of_torchrun_takes_gpus_of_its_own():
    assert gpus_of(None, {}) is None
    assert gpus_of(None, {"LOCAL_RANK": "3"}) == range(3, 4)
    assert gpus_of(2, {"LOCAL_RANK": "3"}) == range(6, 8)
    with pytest.raises(InputError, match="only goes with torchrun"):
        gpus_of(2, {})


def test_a_dry_run_of_a_shard_plans_its_own_pictures(pictures, tmp_path, command):
    planned = 0
    for number in range(3):
        ended = command("inference_coz", "-i", pictures, "-o", tmp_path / "out", *BICUBIC, "--dry_run",
                        "--shard", f"{number}/3")  # fmt: skip
        planned += int(ended.out.split("pictures")[1].split()[0])
    assert planned == 12

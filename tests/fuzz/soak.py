"""Kills at random moments: ``make soak N=200``. A run that is killed and run again ends as one never killed.

Half of the kills are SIGKILL (a power cut), the others SIGINT and SIGTERM (polite), some of these twice.
After a polite one nothing half-written may be left; after every one the same command must give the same
files. Half of the runs are two shards side by side, of which one is killed. A third of them start an older
folder of other settings anew (--overwrite), and go on without that.

``make soak N=30 WAY=torchrun`` kills one of torchrun's two workers, ``WAY=ray`` an actor or the driver
(where Ray is installed); always by SIGKILL.
"""

import contextlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from tqdm import tqdm

ROOT = Path(__file__).parent.parent.parent
PICTURES = ROOT / "tests" / "data" / "parity" / "input"
KINDS = {"bicubic": 40, "recursive": 1}  # and how many copies of the pictures: enough to be read ahead
OLD = "nearest"  # what older results are of
OPTIONS = ("--process_size", "64", "--rec_num", "3", "-q")
# how the command is begun where it begins others itself, and what it is given more
SPREAD = {
    "torchrun": (("-m", "torch.distributed.run", "--nproc_per_node", "2"), ()),
    "ray": ((), ("--ray", "--ray_actors", "2")),
}
POLITE = {signal.SIGINT: 130, signal.SIGTERM: 143}


def copies(folder: Path) -> None:
    """Lay pictures into a folder for every kind of run."""
    for kind, count in KINDS.items():
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            for file in PICTURES.iterdir():
                shutil.copy(file, folder / kind / f"{number}{file.name}")


def start(
    out: Path, kind: str, more: Sequence[str] = (), before: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """Begin a run, or a shard of one: tiny pictures, real processes."""
    pictures = out.parent / "pictures" / kind
    command = [sys.executable, *before, "inference_coz.py", "-i", str(pictures), "-o", str(out)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*command, "--rec_type", kind, *OPTIONS, *more], cwd=ROOT, stdout=pipe, stderr=pipe, text=True
    )


def results(out: Path) -> dict[str, bytes]:
    """Every picture and prompt, by place."""
    files = (file for file in out.rglob("*") if file.suffix in (".png", ".txt", ".csv"))
    return {file.relative_to(out).as_posix(): file.read_bytes() for file in files}


def anew(out: Path, kind: str) -> Sequence[str]:
    """Return what a run is given to start a folder anew that holds results of another kind."""
    report = out / "run.json"
    is_old = report.exists() and json.loads(report.read_text())["settings"]["chain"]["rec_type"] != kind
    return ("--overwrite",) if is_old else ()


def killed(
    out: Path, kind: str, after: float, how: signal.Signals, twice: bool, shards: Sequence[str]
) -> str:
    """Kill one of the processes of a run, look at what it left, and run all again; return what is wrong."""
    more = anew(out, kind)
    run, *others = [start(out, kind, ("--shard", shard, *more)) for shard in shards]
    time.sleep(after)
    run.send_signal(how)
    if twice:
        run.send_signal(how)
    _, said = run.communicate(timeout=60)
    for other in others:
        _, others_said = other.communicate(timeout=60)
        if other.returncode:
            return f"another shard ended with {other.returncode}: {others_said[-200:]!r}"
    left = [file.name for file in out.rglob(".*")] if out.exists() else []
    if how in POLITE:
        # a process that has not yet come to its own first line dies as the system has it
        if run.returncode not in (0, POLITE[how], -how):
            return f"exit code {run.returncode}"
        if "Traceback" in said and "inference_coz.py" in said:
            return f"it said {said[-200:]!r}"
        if left and not twice and not others:  # others leave the lock under which reports are joined
            return f"it left {left}"
    more = anew(out, kind)
    for again in [start(out, kind, ("--shard", shard, *more)) for shard in shards]:
        _, said = again.communicate(timeout=120)
        if again.returncode:
            return f"the next run ended with {again.returncode}: {said[-200:]!r}"
    left = [file.name for file in out.rglob(".*")]
    return f"the next run left {left}" if left else ""


def one_of_many_killed(out: Path, kind: str, after: float, way: str, dice: random.Random) -> str:
    """Kill one of the processes that a run has begun, and run all again; return what is wrong."""
    before, more = SPREAD[way]
    run = start(out, kind, more, before)
    time.sleep(after)
    with contextlib.suppress(psutil.NoSuchProcess):  # it has ended
        processes = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
        # a worker of torchrun's, an actor of Ray's, or who has begun them
        named = [(process, " ".join(process.cmdline())) for process in processes]
        ours = [process for process, name in named if "inference_coz.py" in name or name.startswith("ray::")]
        if ours:
            dice.choice(ours).kill()
    run.communicate(timeout=120)
    again = start(out, kind, more, before)
    _, said = again.communicate(timeout=120)
    if again.returncode:
        return f"the next run ended with {again.returncode}: {said[-200:]!r}"
    left = [file.name for file in out.rglob(".*")]
    return f"the next run left {left}" if left else ""


def main() -> int:
    """Kill N runs, from seed START on, begun in a way of `SPREAD`."""
    number = int(sys.argv[1])
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    way = sys.argv[3] if len(sys.argv) > 3 else ""
    bad = 0
    with tempfile.TemporaryDirectory() as place:
        expected, seconds = {}, {}
        copies(Path(place, "pictures"))
        for kind in KINDS:
            since = time.monotonic()
            start(Path(place, kind), kind).communicate()
            expected[kind] = results(Path(place, kind))
            if way:
                since = time.monotonic()
                start(Path(place, f"{kind}-spread"), kind, SPREAD[way][1], SPREAD[way][0]).communicate()
            seconds[kind] = time.monotonic() - since
            start(Path(place, f"{kind}-old"), kind, ("--rec_type", OLD)).communicate()
        for seed in tqdm(range(first, first + number), disable=None):
            dice = random.Random(seed)
            kind, out = dice.choice(list(KINDS)), Path(place, "out")
            how = dice.choice((signal.SIGKILL, signal.SIGKILL, *POLITE))
            after = dice.uniform(0, 1.1 * seconds[kind])
            shards: tuple[str, ...] = dice.choice((("0/1",), ("0/2", "1/2"), ("1/2", "0/2")))
            if way:
                how, shards = signal.SIGKILL, (way,)
                wrong = one_of_many_killed(out, kind, after, way, dice)
            else:
                if dice.random() < 1 / 3:
                    shutil.copytree(Path(place, f"{kind}-old"), out)
                wrong = killed(out, kind, after, how, how in POLITE and dice.random() < 0.25, shards)
            if not wrong and results(out) != expected[kind]:
                wrong = "other results than a run that was never killed"
            if wrong:
                bad += 1
                print(f"{seed}: {kind}, {shards}, {how.name} after {after:.2f} s: {wrong}", flush=True)
            shutil.rmtree(out, ignore_errors=True)
    print(f"{number} kills, {bad} findings")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

"""What thousands of pictures cost beside the networks: bicubic alone, small pictures, four steps of 2x.

    python benchmarks/scale.py [--pictures N] [--folder DIR] [--png FILE ...]

Prints a Markdown table, so that others can add rows: pictures a second at 64 and 128 (median of three runs of
1,000), milliseconds a picture along N (10,000) of them and what memory grew by, the same command again, and
size and seconds of a run.json of 100,000 made-up pictures; then pictures a minute in one process, in two and
with Ray where it is installed, one thread each (three rounds in turn), and what each of eight steps of the
embedded network takes. CPU seconds stand beside the others: on a machine that has other work they vary less.
Everything is written into new folders below DIR, and nothing is removed before the end: ext4 makes files
slowly for a minute after others were removed beside them.

With --only: some of the rows.

With --png: what PNG costs by zlib's level and strategy, for states and photographs of your own.
"""

import argparse
import io
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

Row = tuple[str, str]
OPTIONS = ("--rec_type", "bicubic", "--upscale", "2", "--rec_num", "4", "-q")
MARKS = (100, 500, 1000)  # pictures, and then the last
SPREAD = {  # pictures, and the options of a run that is spread over processes
    "bicubic, 2 steps of 256": (400, ("--rec_type", "bicubic", "--process_size", "256", "--rec_num", "2")),
    "embedded, 2 steps of 128": (
        40,
        ("--rec_type", "recursive_multiscale", "--process_size", "128", "--rec_num", "2"),
    ),
}
ROUNDS = 3
STEPS = 8
STRATEGIES = {"default": zlib.Z_DEFAULT_STRATEGY, "filtered": zlib.Z_FILTERED, "runs": zlib.Z_RLE}

# Runs the command and prints, whenever so many pictures are done, seconds, CPU seconds and resident memory.
FOLLOWED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv.pop(1))
marks = {int(mark) for mark in sys.argv.pop(1).split(",")}
import inference_coz
from results.run_report import RunReport
note, done, start = RunReport.note, set(), time.perf_counter()
def follow(self, picture):
    note(self, picture)
    if picture.status == "done" and picture.name not in done:
        done.add(picture.name)
        if len(done) in marks:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            print(len(done), time.perf_counter() - start, time.process_time(), pages * 4096 / 1e6, flush=True)
RunReport.note = follow
sys.exit(inference_coz.main(sys.argv[1:]))
"""


@dataclass(frozen=True)
class Mark:
    """How far a run had come: pictures, seconds, CPU seconds, MB of memory."""

    pictures: int
    seconds: float
    cpu: float
    memory: float


def make_pictures(folder: Path, count: int) -> None:
    """Cut small photographs of 80 to 111 pixels a side out of the samples."""
    from PIL import Image

    dice = random.Random(0)
    samples = [Image.open(file).convert("RGB") for file in sorted((ROOT / "samples").glob("*.[jp][pn]g"))]
    folder.mkdir()
    for number in range(count):
        sample, width, height = (
            samples[number % len(samples)],
            dice.randrange(80, 112),
            dice.randrange(80, 112),
        )
        left, top = dice.randrange(sample.width - width), dice.randrange(sample.height - height)
        sample.crop((left, top, left + width, top + height)).save(folder / f"{number:06}.jpg", quality=92)


def command(pictures: Path, out: Path, side: int, *more: str) -> list[str]:
    """Return the arguments of a run."""
    return ["-i", str(pictures), "-o", str(out), "--process_size", str(side), *OPTIONS, *more]


def timed(arguments: Sequence[str]) -> tuple[float, float]:
    """Run the command in a process of its own; return its seconds and CPU seconds."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, str(ROOT / "inference_coz.py"), *arguments], check=True)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def followed(arguments: Sequence[str], last: int) -> list[Mark]:
    """Run the command in a process of its own; return how far it had come, and when."""
    marks = ",".join(map(str, (1, *MARKS, last - 1000, last)))
    run = [sys.executable, "-c", FOLLOWED, str(ROOT), marks, *arguments]
    lines = subprocess.run(run, check=True, capture_output=True, text=True).stdout.splitlines()
    return [Mark(int(line.split()[0]), *map(float, line.split()[1:])) for line in lines]


def speed(folder: Path, pictures: Path, count: int) -> Iterator[Row]:
    """Yield pictures a second, starting the program included."""
    for side in (64, 128):
        for save in ("all", "states"):
            runs = [
                timed(command(pictures, folder / f"speed-{side}-{save}-{n}", side, "--save", save))
                for n in range(3)
            ]
            seconds, cpu = (statistics.median(column) for column in zip(*runs, strict=True))
            said = f"{count / seconds:.0f} a second; CPU {1000 * cpu / count:.1f} ms a picture"
            yield f"one process, {side}x{side}, --save {save}", said


def along(folder: Path, pictures: Path, count: int) -> Iterator[Row]:
    """Yield what a picture takes along a run, what memory it grows by, and the same command again."""
    arguments = command(pictures, folder / "along", 64)
    marks = followed(arguments, count)
    for before, after in pairwise(marks):
        done = after.pictures - before.pictures
        wall, cpu = (
            1000 * spent / done for spent in (after.seconds - before.seconds, after.cpu - before.cpu)
        )
        yield f"picture {before.pictures} to {after.pictures}", f"{wall:.1f} ms; CPU {cpu:.1f} ms"
    at_500 = next(mark for mark in marks if mark.pictures == 500)
    memory = f"{at_500.memory:.0f} and {marks[-1].memory:.0f} MB"
    yield f"memory at 500 and {count}", f"{memory}: {marks[-1].memory - at_500.memory:+.1f} MB"
    seconds, cpu = (
        statistics.median(column) for column in zip(*[timed(arguments) for _ in range(3)], strict=True)
    )
    yield f"the same command again, {count} done", f"{seconds:.1f} s; CPU {cpu:.1f} s"


def report(folder: Path, count: int) -> Iterator[Row]:
    """Yield what a run.json of made-up pictures takes, and a line of its journal."""
    from machine.stage_times import StageTimes
    from results.load_report import load_report
    from results.output_tree import OutputTree
    from results.run_report import RunReport

    finished = load_report(folder / "along" / "run.json")
    assert finished is not None
    samples = list(finished.pictures.values())
    made = RunReport(
        OutputTree(folder), "1", finished.settings, {}, StageTimes(), folder / "made-up" / "run.json"
    )
    for number in range(count):
        name = f"picture {number}"  # digits alone are the name of a state
        record = replace(
            samples[number % len(samples)], name=name, label=f"{name}.jpg", file=f"/in/{name}.jpg"
        )
        made.pictures[name] = record
    start = time.perf_counter()
    made.save()
    written = time.perf_counter() - start
    size = made.file.stat().st_size
    start = time.perf_counter()
    load_report(made.file)
    read = time.perf_counter() - start
    said = f"{size / 1e6:.0f} MB; written in {written:.1f} s, at start and end only; read in {read:.1f} s"
    yield f"run.json of {count}", said
    start = time.perf_counter()
    made.note(next(iter(made.pictures.values())))
    yield f"a line of its journal, {count} pictures", f"{1000 * (time.perf_counter() - start):.1f} ms"


def one_process(folder: Path, count: int) -> Iterator[Row]:
    """Yield what one process does with thousands of pictures that are only resized."""
    make_pictures(folder / "few", 1000)
    make_pictures(folder / "many", count)
    yield from speed(folder, folder / "few", 1000)
    yield from along(folder, folder / "many", count)
    yield from report(folder, 100_000)


def together(runs: Sequence[Sequence[str]]) -> float:
    """Run commands side by side, one thread each; return the seconds until all have ended."""
    environment, start = {**os.environ, "OMP_NUM_THREADS": "1"}, time.perf_counter()
    script = [sys.executable, str(ROOT / "inference_coz.py"), "-q"]
    started = [subprocess.Popen([*script, *arguments], env=environment) for arguments in runs]
    if max(process.wait() for process in started):
        raise SystemExit("a run failed: see above")
    return time.perf_counter() - start


def spread(folder: Path) -> Iterator[Row]:
    """Yield pictures a minute by kind of run: one process, two shards, two actors; starting them included."""
    ways: dict[str, list[tuple[str, ...]]] = {
        "one process": [()],
        "two processes": [("--shard", "0/2"), ("--shard", "1/2")],
    }
    if find_spec("ray"):
        ways["Ray, two actors"] = [("--ray", "--ray_actors", "2")]
    for number, (kind, (count, options)) in enumerate(SPREAD.items()):
        pictures = folder / f"spread-{number}"
        make_pictures(pictures, count)
        spent: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(ROUNDS):
            for way, runs in ways.items():
                out = str(folder / f"spread-{number}-{turn}-{way}")
                spent[way].append(
                    together([("-i", str(pictures), "-o", out, *options, *more) for more in runs])
                )
        for way, seconds in spent.items():
            ratio = statistics.median(
                one / this for one, this in zip(spent["one process"], seconds, strict=True)
            )
            speed = 60 * count / statistics.median(seconds)
            yield f"{kind}, {count} pictures, {way}", f"{speed:.0f} a minute ({ratio:.2f} x)"


def steps(folder: Path) -> Iterator[Row]:
    """Yield what a step takes, from the first to the eighth."""
    from results.load_report import load_report

    make_pictures(folder / "steps", 12)
    out = folder / "steps-out"
    together(
        [("-i", str(folder / "steps"), "-o", str(out), "--process_size", "128", "--rec_num", str(STEPS))]
    )
    finished = load_report(out / "run.json")
    assert finished is not None
    for number in range(STEPS):
        of_step = [picture.steps[number] for picture in finished.pictures.values()]
        seconds = statistics.median((step.sr_seconds or 0) + (step.save_seconds or 0) for step in of_step)
        yield f"embedded, 128x128, step {number + 1}", f"{1000 * seconds:.0f} ms"


def png(files: Sequence[Path]) -> Iterator[Row]:
    """Yield what PNG takes by level and strategy: milliseconds of CPU and kB, means of the files."""
    from PIL import Image

    images = [Image.open(file).convert("RGB") for file in files]
    for level in (1, 3, 6):
        for name, strategy in STRATEGIES.items():
            if name == "runs" and level > 1:  # which has no levels
                continue
            size, start = 0, time.process_time()
            for image in images:
                encoded = io.BytesIO()
                image.save(encoded, "PNG", compress_level=level, compress_type=strategy)
                size += encoded.tell()
            spent = 1000 * (time.process_time() - start)
            yield (
                f"PNG, {name}, level {level}",
                f"{spent / len(files):.1f} ms; {size / 1000 / len(files):.1f} kB",
            )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What thousands of pictures cost beside the networks.")
    parser.add_argument("--pictures", type=int, default=10_000, help="of the long run, at least 2,001")
    parser.add_argument("--folder", type=Path, help="where to write (default: the temporary folder)")
    parser.add_argument(
        "--png", type=Path, nargs="+", metavar="FILE", help="only compare ways to write these"
    )
    parser.add_argument(
        "--only",
        choices=("one", "spread", "steps"),
        help="only these rows: in one process, spread over several, a step",
    )
    options = parser.parse_args()
    print("| what | measured |\n|---|---|")
    if options.png:
        for what, measured in png(options.png):
            print(f"| {what} | {measured} |")
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        folder = Path(place)
        parts = {
            "one": one_process(folder, options.pictures),
            "spread": spread(folder),
            "steps": steps(folder),
        }
        for name, part in parts.items():
            for what, measured in part if options.only in (None, name) else ():
                print(f"| {what} | {measured} |", flush=True)
    print(f"\n{os.cpu_count()} cores; load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()

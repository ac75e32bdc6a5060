"""How far a run has come: lines in a log, a bar in a terminal."""

import logging
import os
import re
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import PARITY, ROOT

from command.console import set_up_logging
from command.progress import Progress, duration

SCENE = PARITY / "input" / "scene.png"
RESIZE = ("--process_size", 64, "--rec_num", 2, "--rec_type", "bicubic")


class Clock:
    """Seconds that pass when they are told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lines(monkeypatch):
    """What is said, line by line."""
    said: list[str] = []
    monkeypatch.setattr("command.progress.log.info", lambda form, line: said.append(line))
    return said


def progress(clock, pictures=10, steps=4, **more) -> Progress:
    return Progress("pictures", pictures, pictures * steps, "step", clock=clock, **more)


def test_a_line_says_what_is_done_failed_and_left_at_which_scale_and_for_how_long(clock, lines):
    with progress(clock, share="shard 1/4: ") as told:
        clock.now = 100
        told.come_on("a", 4)
        told.end(failed=False)
        told.end(failed=True, parts=4)
        told.come_on("b", 1)
        clock.now = 150
        told.reach(1, 4)
    assert lines == [
        "shard 1/4: 1 of 10 pictures done, 0 failed, 9 left, about 15 min to go",
        "shard 1/4: 1 of 10 pictures done, 1 failed, 8 left, at scale 2 of 4, about 16 min to go",
    ]


def test_news_come_every_ten_seconds_at_first_and_in_the_end_once_a_minute(clock, lines):
    times = []
    with progress(clock, 100_000) as told:
        for clock.now in range(2000):
            before = len(lines)
            told.end(failed=False)
            times += [clock.now] * (len(lines) - before)
    pauses = [after - before for before, after in zip([0, *times], times, strict=False)]
    assert pauses[0] == 10
    assert pauses == sorted(pauses)
    assert pauses[-1] == 60


def test_a_scale_that_all_at_work_have_come_to_is_news_and_one_that_is_begun_is_not(clock, lines):
    with progress(clock) as told:
        clock.now = 20
        told.reach(0, 4)
        assert not lines
        told.reach(1, 4)
        assert len(lines) == 1
        clock.now = 40
        told.reach(0, 4)  # others were taken up
        assert len(lines) == 1


def test_a_minute_without_news_is_a_line_all_the_same(clock, lines, monkeypatch):
    monkeypatch.setattr("command.progress.TICK", 0.001)
    said = threading.Event()
    monkeypatch.setattr("command.progress.log.info", lambda *_: said.set())
    with progress(clock):
        clock.now = 61
        assert said.wait(30)


def test_nothing_is_told_of_the_time_before_something_was_made(clock, lines):
    with progress(clock) as told:
        clock.now = 61
        told.minute()
    assert lines == ["0 of 10 pictures done, 0 failed, 10 left"]


def test_quiet_is_quiet(clock, lines):
    with progress(clock, quiet=True) as told:
        clock.now = 100
        told.end(failed=False)
        told.minute()
    assert not lines


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.1 s"),
        (2.51, "2.5 s"),
        (75, "75 s"),
        (90, "2 min"),
        (3600, "1 h 0 min"),
        (7800, "2 h 10 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words


def test_its_lines_are_let_through_unless_only_errors_are_wanted():
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        set_up_logging(logging.ERROR)
        assert not logging.getLogger("command.progress").isEnabledFor(logging.INFO)
        set_up_logging(logging.WARNING)
        assert logging.getLogger("command.progress").isEnabledFor(logging.INFO)
        assert not logging.getLogger("command.spots").isEnabledFor(logging.INFO)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


# Runs the command with a clock that is far ahead whenever it is looked at.
FAST_CLOCK = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import itertools, functools, command.progress
ticks = itertools.count(step=30)
command.progress.Progress = functools.partial(command.progress.Progress, clock=lambda: next(ticks))
import inference_coz
sys.exit(inference_coz.main(sys.argv[1:]))
"""


def run(out: Path, *more: object, **streams: object) -> subprocess.Popen:
    command = [sys.executable, "-c", FAST_CLOCK, ROOT, SCENE.parent, "-o", out, *RESIZE, *more]
    return subprocess.Popen(list(map(str, command)), text=True, **streams)


@pytest.mark.parametrize(("more", "share"), [((), ""), (("--shard", "0/2"), "shard 0/2: ")])
def test_a_run_without_a_terminal_says_lines_and_no_bar(tmp_path, more, share):
    _, said = run(tmp_path, *more, stdout=subprocess.PIPE, stderr=subprocess.PIPE).communicate()
    counts = "[0-2] of [12] pictures done, 0 failed, [0-2] left"
    line = rf"INFO: {share}{counts}(, at scale [12] of 2)?(, about .+ to go)?"
    assert said
    assert all(re.fullmatch(line, one) for one in said.splitlines()), said


def test_in_a_terminal_there_is_a_bar_and_no_line(tmp_path):
    pty, fcntl, termios = map(pytest.importorskip, ("pty", "fcntl", "termios"))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    ended = run(tmp_path, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    said = b""
    try:
        while piece := os.read(ours, 4096):
            said += piece
    except OSError:  # how Linux tells the end
        pass
    assert ended.wait() == 0
    assert b"2 of 2 pictures: 100%" in said
    assert b"INFO" not in said

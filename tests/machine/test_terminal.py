"""What is said where nobody can hear it."""

import subprocess
import sys

import pytest
from conftest import PARITY, ROOT

SCENE = PARITY / "input" / "scene.png"
ZOOM = f"'{sys.executable}' inference_coz.py '{SCENE}' --rec_type bicubic --process_size 64 --rec_num 1 -o"


@pytest.mark.posix
@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", ">/dev/full 2>/dev/full"])
def test_a_run_needs_nobody_who_hears_it(tmp_path, streams):
    done = subprocess.run(
        ["bash", "-c", f"{ZOOM} '{tmp_path}/out' {streams}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out" / "recursive" / "scene.png").exists()
    assert (
        (tmp_path / "out" / "run.json").read_text().startswith("{")
    )  # and nothing that was meant for a terminal


@pytest.mark.posix
def test_a_failure_is_told_by_the_exit_code_where_it_cannot_be_said(tmp_path):
    done = subprocess.run(
        ["bash", "-c", f"{ZOOM} '{tmp_path}/out' --rec_num 0 >&- 2>&-"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2

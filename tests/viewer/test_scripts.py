"""The page's own scripts: plain JavaScript whose types stand in comments."""

import shutil
import subprocess

import pytest
from conftest import ROOT

COMPILER = "typescript@7.0.2"


def test_the_types_in_the_comments_hold(tmp_path):
    npx = shutil.which("npx")
    if npx is None:
        pytest.skip("no npm on this machine")
    compiler = [npx, "--yes", f"--package={COMPILER}", "tsc"]
    if subprocess.run([*compiler, "--version"], cwd=tmp_path, capture_output=True, check=False).returncode:
        pytest.skip(f"npm cannot fetch {COMPILER}")
    page = str(ROOT / "viewer" / "page")
    done = subprocess.run(
        [*compiler, "--project", page], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout == ""
    assert done.returncode == 0

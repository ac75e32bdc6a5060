"""Room on the disk of a folder that is there, or is not yet."""

import shutil
from pathlib import Path

from machine.disk import existing, free_at


def test_a_folder_that_is_there_is_its_own(tmp_path):
    assert existing(tmp_path) == tmp_path


def test_a_folder_to_come_lies_in_the_nearest_one_that_is_there(tmp_path, monkeypatch):
    assert existing(tmp_path / "a" / "b") == tmp_path
    monkeypatch.chdir(tmp_path)
    assert existing(Path("a/b")) == tmp_path


def test_what_is_free_is_that_of_the_disk_it_will_be_on(tmp_path, monkeypatch):
    asked = []
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or usage)
    assert free_at(tmp_path / "a" / "b") == usage.free
    assert asked == [tmp_path]

"""What is remembered of the machine between runs."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from checkpoints.remembered import recall, remember


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "chain-of-zoom"


def test_what_is_remembered_is_recalled():
    assert recall("facts.json") == {}
    remember("facts.json", "one", [1])
    remember("facts.json", "two", "2")
    assert recall("facts.json") == {"one": [1], "two": "2"}


def test_the_newest_entries_are_kept():
    for number in (1, 2, 3, 1):
        remember("facts.json", str(number), number, most=2)
    assert list(recall("facts.json")) == ["3", "1"]


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000, "\udc80"])
def test_what_cannot_be_read_is_begun_anew(cache, content):
    cache.mkdir()
    (cache / "facts.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert recall("facts.json") == {}
    remember("facts.json", "one", 1)
    assert recall("facts.json") == {"one": 1}


def test_a_folder_that_cannot_be_written_to_is_done_without(cache):
    cache.write_text("a file where the folder would be")
    remember("facts.json", "one", 1)
    assert recall("facts.json") == {}


def test_threads_lose_nothing_of_each_other():
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: remember("facts.json", str(number), number), range(80)))
    assert sorted(recall("facts.json").values()) == list(range(80))


def test_what_cannot_be_put_into_its_place_leaves_nothing_behind(cache, monkeypatch):
    def fail(path, target):
        raise PermissionError

    monkeypatch.setattr(Path, "replace", fail)
    remember("facts.json", "one", 1)
    assert list(cache.iterdir()) == []

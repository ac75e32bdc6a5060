"""Files that are read before they are wanted."""

import time

import pytest

from machine import read_ahead
from machine.read_ahead import ReadAhead


@pytest.fixture
def read(monkeypatch):
    """What was read, in order: the first byte of each piece, and how many bytes."""
    monkeypatch.setattr(read_ahead, "PIECE", 10)
    pieces = []
    real = read_ahead.Path.open

    def open_noted(path, *args, **kwargs):
        file = real(path, *args, **kwargs)

        class Noted:
            def __enter__(self):
                return self

            def __exit__(self, *error):
                file.close()

            def seek(self, place):
                file.seek(place)

            def readinto(self, piece):
                count = file.readinto(piece)
                pieces.append((path.name, count))
                return count

        return Noted()

    monkeypatch.setattr(read_ahead.Path, "open", open_noted)
    return pieces


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        path.write_bytes(bytes(20))
    return paths


def until_done(ahead):
    ahead._thread.join(10)
    assert not ahead._thread.is_alive()


def test_files_are_read_to_their_end_one_after_the_other(files, read):
    ahead = ReadAhead()
    ahead.begin(files, room=1000)
    until_done(ahead)
    assert read == [("a", 10), ("a", 10), ("a", 0), ("b", 10), ("b", 10), ("b", 0)]


def test_no_more_is_read_than_there_is_room_for(files, read):
    ahead = ReadAhead()
    ahead.begin(files, room=25)
    until_done(ahead)
    assert [count for _, count in read if count] == [10, 10, 10]
    ahead.begin(files, room=25)
    until_done(ahead)
    assert len([count for _, count in read if count]) == 3, "what was read is still there"


def test_what_was_stopped_goes_on_where_it_ended_and_what_was_wanted_begins_anew(files, read):
    ahead = ReadAhead()
    ahead.begin(files, room=10)
    until_done(ahead)
    read.clear()
    ahead.begin(files, room=1000)
    until_done(ahead)
    assert read[:2] == [("a", 10), ("a", 0)]
    ahead.end(wanted=files[:1])
    read.clear()
    ahead.begin(files, room=1000)
    until_done(ahead)
    assert read == [("a", 10), ("a", 10), ("a", 0), ("b", 0)]


def test_reading_stops_when_something_is_wanted(tmp_path):
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(2**40)  # with holes: it would take hours
    ahead = ReadAhead()
    ahead.begin([path], room=2**40)
    start = time.monotonic()
    ahead.end()
    assert time.monotonic() - start < 5
    assert ahead._thread is None


def test_a_file_that_cannot_be_read_is_left_to_its_reader(files, read, tmp_path):
    ahead = ReadAhead()
    ahead.begin([tmp_path / "gone", tmp_path, files[1]], room=1000)
    until_done(ahead)
    assert ("b", 10) in read

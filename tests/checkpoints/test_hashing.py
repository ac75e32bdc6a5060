"""What tells one file's content from another's: SHA-256, gigabytes hashed once."""

import hashlib

import pytest

from checkpoints import hashing
from checkpoints.hashing import blob_name, checkpoint_sha256, digest_of, sha256_by_name, sha256_of


@pytest.fixture
def hashed(tmp_path, monkeypatch):
    """Count how often a file is read to be hashed, and keep its hash from 4 bytes on."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hashing, "SMALL", 4)
    calls = []
    digest = hashing.hashlib.file_digest
    monkeypatch.setattr(hashing.hashlib, "file_digest", lambda *a: calls.append(1) or digest(*a))
    return calls


def test_a_large_file_is_hashed_once_and_again_when_it_changes(tmp_path, hashed):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"first content")
    first = checkpoint_sha256(file)
    assert first == hashlib.sha256(b"first content").hexdigest()
    assert checkpoint_sha256(file) == first
    assert len(hashed) == 1
    file.write_bytes(b"other content!")
    assert checkpoint_sha256(file) != first
    assert len(hashed) == 2


def test_a_small_file_is_hashed_each_time(tmp_path, hashed):
    file = tmp_path / "config.json"
    file.write_bytes(b"{}")
    for _ in range(2):
        assert checkpoint_sha256(file) == hashlib.sha256(b"{}").hexdigest()
    assert len(hashed) == 2


def test_what_is_still_being_written_is_read_each_time_whatever_its_size(tmp_path, hashed):
    file = tmp_path / "model.onnx.data"
    file.write_bytes(b"large")
    for _ in range(2):
        assert sha256_of(file) == hashlib.sha256(b"large").hexdigest()
    assert len(hashed) == 2
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"": 1}'])
def test_a_damaged_cache_is_begun_anew(tmp_path, hashed, content):
    cache = tmp_path / "cache" / "chain-of-zoom" / "sha256.json"
    cache.parent.mkdir(parents=True)
    cache.write_text(content)
    file = tmp_path / "weights"
    file.write_bytes(b"content")
    for _ in range(2):
        assert checkpoint_sha256(file) == hashlib.sha256(b"content").hexdigest()
    assert len(hashed) == 1


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path, hashed, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    file = tmp_path / "weights"
    file.write_bytes(b"content")
    for _ in range(2):
        assert len(checkpoint_sha256(file)) == 64
    assert len(hashed) == 2


def test_the_hub_caches_names_are_taken_for_the_sha256(tmp_path):
    blob = tmp_path / "blobs" / ("ab" * 32)
    blob.parent.mkdir()
    blob.write_bytes(b"large")
    link = tmp_path / "model.safetensors"
    link.symlink_to(blob)
    assert checkpoint_sha256(link) == "ab" * 32


def test_files_are_identified_by_name_and_content_and_not_by_place(tmp_path):
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text("{}")
    here, there = (sha256_by_name([tmp_path / folder / "config.json"]) for folder in ("here", "there"))
    assert here == there == {"config.json": hashlib.sha256(b"{}").hexdigest()}


def test_small_files_of_the_hub_are_known_by_gits_name_of_their_content(tmp_path):
    file = tmp_path / "config.json"
    file.write_bytes(b"hello\n")
    known = "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object
    assert digest_of(file, like="0" * 40) == known
    assert digest_of(file, like="0" * 64) == sha256_of(file)


def test_the_hubs_cache_names_files_by_their_digest_and_a_digest_is_read_all_the_same(tmp_path):
    blob = tmp_path / "blobs" / ("a" * 64)
    blob.parent.mkdir()
    blob.write_bytes(b"other")
    assert blob_name(blob) == "a" * 64
    assert digest_of(blob, like="a" * 64) == sha256_of(blob)
    assert blob_name(tmp_path / "blobs" / "readme") is None

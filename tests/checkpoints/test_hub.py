"""Models named as on the hub: found in its cache, fetched only where the caller says so, or refused."""

import errno

import pytest

from checkpoints.hub import VLM_NAME, find_model, revision_of
from errors import InputError

NAME = "someone/sd3"


def find(model=NAME, whole=True, download=True):
    return find_model(model, choose=list, is_whole=lambda folder: whole, download=download)


@pytest.fixture
def hub(monkeypatch):
    """A hub of two files, or of an error; says what it was asked for."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    class Hub:
        cache = None
        error = None

        def __init__(self):
            self.asked = []

    def snapshot_download(name, revision, allow_patterns=None, local_files_only=False):
        if not local_files_only:
            hub.asked.append((name, revision, allow_patterns))
            return "/fetched"
        if hub.cache is None:
            raise LocalEntryNotFoundError("not in the cache")
        return hub.cache

    def list_repo_files(self, name, revision=None):
        if hub.error is not None:
            raise hub.error
        return ["config.json", "model.safetensors"]

    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", list_repo_files)
    return hub


def test_a_folder_is_taken_as_it_is(tmp_path):
    assert find(str(tmp_path), whole=False, download=False) == tmp_path


def test_a_file_is_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(InputError, match="a file; give a folder or a hub name"):
        find(str(file))


def test_a_name_that_is_no_folder_and_no_hub_name_is_refused():
    with pytest.raises(InputError, match="no such folder, and not a hub name"):
        find("/nowhere/sd3")


@pytest.mark.parametrize("name", ["a--b/c", "ab/c.git"])
@pytest.mark.parametrize("download", [False, True])
def test_a_name_that_no_hub_accepts_is_refused(name, download):
    with pytest.raises(InputError, match=name):
        find(name, download=download)


def test_offline_a_hub_name_is_refused_in_one_line():
    with pytest.raises(InputError, match=r"someone/sd3: no such folder here, and the hub is out of reach"):
        find()
    with pytest.raises(InputError, match="not in the hub's cache"):
        find(download=False)


def test_only_the_chosen_files_are_fetched_at_the_revision_that_is_known_to_work(hub):
    folder = find_model(VLM_NAME, lambda names: names[:1], lambda folder: True, download=True)
    assert str(folder) == "/fetched"
    assert hub.asked == [(VLM_NAME, "66285546d2b821cf421d4f5eb2576359d3770cd3", ["config.json"])]


def test_other_models_are_taken_as_the_hub_has_them_today(hub):
    find()
    assert hub.asked == [(NAME, None, ["config.json", "model.safetensors"])]


@pytest.mark.parametrize(
    ("whole", "download", "asks"),
    [(True, True, False), (True, False, False), (False, False, False), (False, True, True)],
)
def test_the_hub_is_asked_only_for_what_its_cache_lacks_and_only_where_the_caller_says_so(
    hub, whole, download, asks
):
    hub.cache = "/cached"
    assert str(find(whole=whole, download=download)) == ("/fetched" if asks else "/cached")
    assert bool(hub.asked) == asks


def test_offline_what_the_cache_holds_in_part_is_taken_for_its_check_to_say_what_is_missing(hub):
    hub.cache, hub.error = "/cached", ConnectionError("no network")
    assert str(find(whole=False)) == "/cached"


def test_a_full_disk_is_named(hub):
    hub.error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(InputError, match="no room for it in the hub's cache; make room, or set HF_HOME"):
        find()


def test_a_gated_model_tells_how_to_get_in(hub):
    import requests
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    said = "401\nCannot access gated repo"
    hub.error = GatedRepoError(said, response=requests.Response())
    with pytest.raises(
        InputError, match=r"accept its licence at https://huggingface.co/someone/sd3"
    ) as caught:
        find()
    assert "hf auth login" in str(caught.value)
    hub.error = RepositoryNotFoundError(said, response=requests.Response())
    with pytest.raises(InputError, match="neither a folder here nor a model on the Hugging Face hub"):
        find()


def test_the_revision_is_known_of_folders_in_the_hubs_cache_only(tmp_path):
    assert revision_of(tmp_path / "models--someone--sd3" / "snapshots" / "0123abcd") == "0123abcd"
    assert revision_of(tmp_path / "sd3") is None

"""download_ckpt.py, from outside: real clients, and a hub of the tests' own that goes wrong in every way."""

import dataclasses
import hashlib
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import pytest
from conftest import PARITY
from filelock import FileLock
from fresh_clone import Clone, contents, files_of, fill, make_clone
from huggingface_hub._local_folder import get_local_download_paths
from local_hub import Fault, serving

from checkpoints import catalogue, hashing, places, wanted
from checkpoints.remembered import recall
from command import downloading
from errors import InputError

(RAM,) = catalogue.RAM.files
(DAPE,) = catalogue.DAPE.files
(SR_LORA,) = catalogue.SR_LORA.files
(SR_VAE,) = catalogue.SR_VAE.files
SD3 = catalogue.SD3
LOCK_POLL = 0.05  # seconds that the hub's client sleeps while another of its threads holds a lock


@pytest.fixture(scope="session")
def published():
    return contents()


@pytest.fixture(scope="session")
def code(tmp_path_factory, published):
    root = tmp_path_factory.mktemp("clone") / "coz"
    make_clone(root, published)
    return root


@pytest.fixture
def clone(code, published, tmp_path):
    with serving() as hub:
        fill(hub, published)
        yield Clone(code, tmp_path / "home", hub, published)
    shutil.rmtree(code / "ckpt")
    (code / "ckpt").mkdir()


@pytest.fixture(autouse=True)
def _home(tmp_path):
    (tmp_path / "home").mkdir()


def one_line(text):
    (line,) = text.splitlines()
    return line


# what it brings


def test_everything_missing_is_fetched_into_its_place_and_the_hubs_cache(clone):
    done = clone.download("--for", "all")
    assert done.code == 0, done.err
    assert all(clone.is_here(file) for file in clone.published)
    assert "all there for all" in done.out
    assert not (clone.root / "ckpt" / ".incoming").exists()


def test_of_the_models_only_the_needed_files_are_fetched(clone):
    assert clone.download("--for", "vlm").code == 0
    assert clone.cached(SD3) == files_of(PARITY / "sd3")
    assert clone.cached(catalogue.VLM) == files_of(PARITY / "qwen")


def test_a_purpose_brings_only_what_it_needs(clone):
    assert clone.download("--for", "null").code == 0
    assert clone.is_here(SR_LORA)
    assert clone.is_here(SR_VAE)
    assert not clone.place(RAM).exists()
    assert not clone.cached(catalogue.VLM)


def test_nothing_is_fetched_or_even_asked_for_twice(clone):
    clone.download("--for", "null")
    clone.hub.asked.clear()
    assert clone.download("--for", "null").code == 0
    assert clone.hub.asked == []


def test_sizes_and_licences_are_named_before_anything_comes(clone):
    out = clone.download("--for", "null").out
    assert out.index("to fetch: ") < out.index(SD3.licence) < out.index("fetched ")
    assert f"{SD3.terms}); gated" in out


def test_quiet_says_nothing_where_all_goes_well(clone):
    done = clone.download("--for", "null", "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")


def test_what_is_fetched_is_what_inference_coz_finds(clone):
    clone.download("--for", "null")
    done = clone.run(
        "inference_coz", "-i", PARITY / "input", "-o", clone.home / "out", "--dry_run", "--process_size", 128,
        "--pretrained_model_name_or_path", SD3.repository, HF_HUB_OFFLINE="1",
    )  # fmt: skip
    assert "model_20001.pkl" in done.err  # found; the tests' own bytes are no LoRA


# transfers that break off


@pytest.mark.parametrize(("file", "least"), [(DAPE, 1_000_000), (RAM, 10_000_000)], ids=["GitHub", "hub"])
def test_a_connection_that_closes_early_is_taken_up_where_it_broke_off(clone, file, least):
    clone.hub.goes_wrong(file.path, Fault(cut=len(clone.published[file]) // 2))
    assert clone.download("--for", "dape").code == 0
    assert clone.is_here(file)
    first, second = clone.hub.bodies(file.path)
    assert first.start is None
    assert second.start >= least


@pytest.mark.parametrize("file", [DAPE, RAM], ids=["GitHub", "hub"])
def test_after_ctrl_c_the_same_command_goes_on(clone, file):
    stall = threading.Event()
    clone.hub.goes_wrong(file.path, Fault(cut=len(clone.published[file]) - 10, stall=stall))
    process = clone.start("download_ckpt", "--github_mirror", clone.hub.url, "--for", "dape")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        parts = [path for path in clone.incoming(file).rglob("*") if path.is_file()]
        if any(path.stat().st_size >= 1_000_000 for path in parts):
            break
        time.sleep(0.02)
    done = clone.interrupt(process)
    stall.set()
    assert (done.code, one_line(done.err)) == (
        130,
        "download_ckpt.py: interrupted; the same command goes on from here",
    )
    assert not clone.place(file).exists()
    assert clone.download("--for", "dape").code == 0
    assert clone.is_here(file)
    assert clone.hub.bodies(file.path)[-1].start >= 1_000_000


def test_a_transfer_that_never_gets_on_is_given_up(clone):
    clone.hub.goes_wrong(DAPE.path, Fault(cut=0), times=99)
    done = clone.download("--for", "dape")
    assert done.code == 1
    assert "DAPE: out of reach: check the network" in done.err
    assert len(clone.hub.bodies(DAPE.path)) == 5
    assert clone.is_here(RAM)


# wrong content


def test_a_file_of_github_with_a_wrong_hash_never_gets_into_its_place(clone):
    clone.hub.github[catalogue.DAPE.repository][DAPE.path] = bytes(3000)
    done = clone.download("--for", "dape")
    assert done.code == 1
    assert "DAPE: what came is not the published file" in one_line(done.err)
    assert "DAPE.pth" in done.err
    assert not clone.place(DAPE).exists()
    assert clone.is_here(RAM)


def test_a_file_of_the_hub_with_a_wrong_hash_is_not_left_in_its_cache(clone):
    path = "transformer/diffusion_pytorch_model.safetensors"
    length = len(clone.hub.models[SD3.repository][path])
    clone.hub.goes_wrong(f"/cdn/{SD3.repository}/{path}", Fault(body=bytes(length)))
    done = clone.download("--for", "null")
    assert done.code == 1
    assert "not the published file" in one_line(done.err)
    assert path not in clone.cached(SD3)
    assert clone.download("--for", "null").code == 0
    assert clone.cached(SD3) == files_of(PARITY / "sd3")


def test_the_beginning_of_another_file_is_thrown_away_and_the_file_fetched_anew(clone):
    part = clone.incoming(DAPE) / "part"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(1000))
    assert clone.download("--for", "dape").code == 0
    assert clone.is_here(DAPE)


def test_what_is_longer_than_the_file_is_thrown_away(clone):
    part = clone.incoming(DAPE) / "part"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(3_000_001))
    assert clone.download("--for", "dape").code == 0
    assert clone.is_here(DAPE)


def test_another_file_in_the_place_is_left_alone_and_named(clone):
    clone.place(DAPE).parent.mkdir()
    clone.place(DAPE).write_bytes(b"mine")
    done = clone.download("--for", "dape")
    assert done.code == 1
    assert "ckpt/DAPE/DAPE.pth is there, but is not the published file: move it away" in done.err
    assert clone.place(DAPE).read_bytes() == b"mine"


# who may have it


def test_a_gated_model_says_which_page_to_accept_and_how_to_log_in(clone):
    clone.hub.gated.add(SD3.repository)
    done = clone.download("--for", "null", "--jobs", 1)
    assert done.code == 1
    assert f"{SD3.name}: gated: accept its terms at {SD3.page}" in one_line(done.err)
    assert "hf auth login" in done.err
    assert clone.is_here(SR_LORA)  # the others came
    assert len([one for one in clone.hub.asked if "/resolve/" in one.path]) == 1  # asked for once, not a file


def test_a_login_whose_terms_are_not_accepted_is_told_the_same(clone):
    clone.hub.gated.add(SD3.repository)
    done = clone.download("--for", "null", HF_TOKEN="hf_mine")
    assert done.code == 1
    assert "gated: accept its terms" in one_line(done.err)


def test_with_a_login_and_accepted_terms_a_gated_model_comes(clone):
    clone.hub.gated.add(SD3.repository)
    clone.hub.accepted.add(SD3.repository)
    assert clone.download("--for", "null", HF_TOKEN="hf_mine").code == 0
    assert clone.cached(SD3) == files_of(PARITY / "sd3")


def test_a_login_is_never_sent_to_github(clone):
    clone.download("--for", "null", HF_TOKEN="hf_mine")
    github = [one for one in clone.hub.asked if "/raw/" in one.path or one.path.startswith("/content/")]
    assert github
    assert {one.token for one in github} == {None}


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        (DAPE.path, 401, "DAPE: wants a login (401)"),
        (DAPE.path, 403, "DAPE: refused (403)"),
        (DAPE.path, 404, "DAPE: not there any more (404)"),
        (DAPE.path, 418, "DAPE: refused (418)"),
        (RAM.path, 401, "RAM: not open to everybody, or not there any more (401)"),
        (RAM.path, 403, "RAM: refused (403)"),
        (RAM.path, 404, "RAM: not there any more (404)"),
        (SD3.revision, 401, "not open to everybody"),
        (SD3.revision, 404, "not there any more (404)"),
    ],
)
def test_a_refusal_is_one_line_with_the_page_and_costs_that_checkpoint_only(clone, path, status, reason):
    clone.hub.goes_wrong(path, Fault(status), times=99)
    done = clone.download("--for", "dape")
    assert done.code == 1
    assert reason in one_line(done.err)
    assert "https://" in done.err
    assert clone.is_here(SR_LORA)


# servers that are busy or out of order


@pytest.mark.parametrize("path", [DAPE.path, RAM.path, SD3.revision], ids=["GitHub", "hub", "list of files"])
def test_a_busy_server_is_left_alone_for_as_long_as_it_asks(clone, path):
    clone.hub.goes_wrong(path, Fault(429, {"Retry-After": "37"}))
    assert clone.download("--for", "dape").code == 0
    assert 37 in clone.waits()


@pytest.mark.parametrize("after", ["1", "3600"], ids=["soon", "in an hour"])
def test_a_server_that_stays_busy_is_given_up(clone, after):
    clone.hub.goes_wrong(DAPE.path, Fault(429, {"Retry-After": after}), times=99)
    done = clone.download("--for", "dape")
    assert done.code == 1
    minutes = {"1": 1, "3600": 60}[after]
    assert f"asked too often (429): run the same command again in {minutes} minutes" in one_line(done.err)
    assert 3600 not in clone.waits()


@pytest.mark.parametrize("path", [DAPE.path, RAM.path, SD3.revision], ids=["GitHub", "hub", "list of files"])
def test_a_server_that_is_out_of_order_for_a_moment_is_asked_again(clone, path):
    clone.hub.goes_wrong(path, Fault(500))
    assert clone.download("--for", "dape").code == 0
    assert clone.waits()


@pytest.mark.parametrize("path", [DAPE.path, RAM.path], ids=["GitHub", "hub"])
def test_a_server_that_stays_out_of_order_is_given_up(clone, path):
    clone.hub.goes_wrong(path, Fault(500), times=999)
    done = clone.download("--for", "dape")
    assert done.code == 1
    assert "the server is out of order (500)" in one_line(done.err)
    assert len([seconds for seconds in clone.waits() if seconds > LOCK_POLL]) < 40


def test_offline_each_source_is_named_once_with_its_way_out(clone):
    nowhere = "http://127.0.0.1:9"
    done = clone.run("download_ckpt", "--for", "null", "--github_mirror", nowhere, HF_ENDPOINT=nowhere)
    assert done.code == 1
    assert f"{SD3.name}: out of reach: check the network" in done.err
    assert "HF_ENDPOINT" in done.err
    assert "--github_mirror" in done.err
    assert len(done.err.splitlines()) == 3  # SD3, SR LoRA, SR VAE encoder
    assert len(clone.waits()) < 10


def test_the_hubs_offline_mode_is_named(clone):
    done = clone.download("--for", "null", HF_HUB_OFFLINE="1")
    assert done.code == 1
    assert "HF_HUB_OFFLINE is set" in one_line(done.err)


# the disk


def test_a_disk_without_room_is_refused_before_anything_comes(clone):
    done = clone.download("--for", "dape", FREE="1000")
    assert done.code == 2
    assert "1.0 kB are free, 32.4 MB are to come: make room" in one_line(done.err)
    assert clone.hub.bodies() == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("file", [DAPE, RAM], ids=["GitHub", "hub"])
def test_a_disk_that_gets_full_is_named_and_the_others_come(clone, file):
    if file is DAPE:
        part = clone.incoming(file) / "part"
    else:
        etag = hashlib.sha256(clone.published[file]).hexdigest()
        part = get_local_download_paths(clone.incoming(file), file.path).incomplete_path(etag)
    part.parent.mkdir(parents=True, exist_ok=True)
    part.symlink_to("/dev/full")
    done = clone.download("--for", "dape")
    assert done.code == 1
    assert "the disk is full: make room and run the same command again" in one_line(done.err)
    assert clone.is_here(SR_LORA)


def test_a_second_download_waits_its_turn(clone):
    with FileLock(clone.root / "ckpt" / ".incoming.lock"):
        done = clone.download("--for", "null")
    assert done.code == 2
    assert "another download" in one_line(done.err)


# without fetching


def test_the_list_says_of_each_checkpoint_whether_it_is_here_and_asks_nobody(clone):
    clone.download("--for", "null")
    clone.hub.asked.clear()
    done = clone.run("download_ckpt", "--list")
    assert done.code == 0
    for one in catalogue.CATALOGUE:
        state = "here" if "null" in one.purposes else "missing"
        assert f"{state:8}{one.name}: {one.what}" in done.out
        assert one.licence in done.out
    assert clone.hub.asked == []


def test_verify_reads_everything_and_names_what_is_wrong_or_missing(clone):
    clone.download("--for", "null")
    assert clone.run("download_ckpt", "--verify", "--for", "null").code == 0
    clone.place(SR_LORA).write_bytes(b"damaged")
    clone.place(SR_VAE).unlink()
    done = clone.run("download_ckpt", "--verify", "--for", "null")
    assert done.code == 1
    assert done.err.splitlines() == [
        "not the published file: ckpt/SR_LoRA/model_20001.pkl",
        "missing: ckpt/SR_VAE/vae_encoder_20001.pt",
    ]


def test_the_optional_adapter_may_be_missing(clone):
    clone.download("--for", "vlm")
    for file in catalogue.VLM_LORA.files:
        clone.place(file).unlink()
    done = clone.run("download_ckpt", "--verify", "--for", "vlm")
    assert done.code == 0
    assert done.err.count("missing: ckpt/VLM_LoRA/checkpoint-10000/") == 2


def test_verify_reads_large_files_again_though_their_hash_is_remembered(command, monkeypatch, tmp_path):
    monkeypatch.setattr(hashing, "SMALL", 0)
    monkeypatch.setattr(places, "CKPT", tmp_path / "ckpt")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = tmp_path / "ckpt" / "DAPE.pth"
    file.parent.mkdir()
    file.write_bytes(b"right")
    published = dataclasses.replace(DAPE, place=file, sha256=hashing.remembered_sha256(file))
    one = dataclasses.replace(catalogue.DAPE, files=(published,))
    monkeypatch.setattr(catalogue, "CATALOGUE", (one,))
    assert command("download_ckpt", "--verify").code == 0
    times = file.stat()
    file.write_bytes(b"wrong")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert hashing.remembered_sha256(file) == published.sha256
    done = command("download_ckpt", "--verify")
    assert (done.code, one_line(done.err)) == (1, "not the published file: ckpt/DAPE.pth")


@pytest.fixture
def one_file(monkeypatch, tmp_path):
    """A catalogue of one file, which is in no place yet, and whose hash is worth remembering."""
    monkeypatch.setattr(hashing, "SMALL", 0)
    ckpt = tmp_path / "ckpt"
    monkeypatch.setattr(places, "CKPT", ckpt)
    monkeypatch.setattr(places, "INCOMING", ckpt / ".incoming")
    monkeypatch.setattr(places, "QUANTIZED", ckpt / "quantized")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ckpt.mkdir()
    sha256 = hashlib.sha256(b"right").hexdigest()
    file = dataclasses.replace(DAPE, place=ckpt / "DAPE" / "DAPE.pth", sha256=sha256)
    one = dataclasses.replace(catalogue.DAPE, files=(file,))
    monkeypatch.setattr(catalogue, "CATALOGUE", (one,))
    return one, file


def never_read(*_):
    raise AssertionError("hashed again")


@pytest.mark.parametrize("way", ["fetched", "taken", "verified"])
def test_a_large_file_that_was_compared_is_not_hashed_again(command, one_file, monkeypatch, tmp_path, way):
    one, file = one_file
    if way == "fetched":
        monkeypatch.setattr(wanted, "fetch_url", lambda url, part, size: part.write_bytes(b"right"))
        wanted.ckpt_file(one, file).fetch()
    elif way == "taken":
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "DAPE.pth").write_bytes(b"right")
        assert command("download_ckpt", "--from", tmp_path / "mine").code == 0
    else:
        file.place.parent.mkdir()
        file.place.write_bytes(b"right")
        assert command("download_ckpt", "--verify").code == 0
    monkeypatch.setattr(hashing, "sha256_of", never_read)
    assert hashing.remembered_sha256(file.place) == file.sha256


def test_sums_of_no_more_files_than_a_bound_are_remembered(one_file, monkeypatch, tmp_path):
    monkeypatch.setattr(hashing, "MOST_SUMS", 2)
    for name in "abc":
        (tmp_path / name).write_text(name)
        hashing.remembered_sha256(tmp_path / name)
    assert len(recall(hashing.SUMS)) == 2


def test_a_file_that_was_dropped_into_ckpt_is_taken_and_what_downloads_gather_is_not(command, one_file):
    _, file = one_file
    gathered = places.INCOMING / "half" / "DAPE.pth"
    gathered.parent.mkdir(parents=True)
    gathered.write_bytes(b"right")
    assert command("download_ckpt", "--from", places.CKPT).code == 1
    assert not file.place.exists()
    (places.CKPT / "DAPE.pth").write_bytes(b"right")
    assert command("download_ckpt", "--from", places.CKPT).code == 0
    assert file.place.read_bytes() == b"right"


def test_files_are_not_taken_over_while_a_download_is_at_work(command, one_file, tmp_path):
    with FileLock(places.INCOMING.with_suffix(".lock")):
        done = command("download_ckpt", "--from", tmp_path)
    assert (done.code, "another download" in done.err) == (2, True)


def test_verify_names_a_file_that_cannot_be_read_and_goes_on(command, one_file, monkeypatch):
    one, file = one_file
    other = dataclasses.replace(file, place=places.CKPT / "other.pth")
    monkeypatch.setattr(catalogue, "CATALOGUE", (dataclasses.replace(one, files=(file, other)),))
    file.place.parent.mkdir()
    file.place.write_bytes(b"right")
    other.place.write_bytes(b"right")

    def read(path, like, anew=False):
        if path == file.place:
            raise PermissionError(13, "Permission denied")
        return hashing.digest_of(path, like, anew)

    monkeypatch.setattr(wanted, "digest_of", read)
    done = command("download_ckpt", "--verify")
    assert (done.code, done.err.strip()) == (1, "ckpt/DAPE/DAPE.pth: cannot be read (Permission denied)")
    assert "as published: ckpt/other.pth" in done.out


def test_progress_goes_on_where_a_folder_is_removed_meanwhile(one_file, monkeypatch):
    def gone(*_):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "rglob", gone)
    assert wanted.ckpt_file(*one_file).came() == 0


def test_another_place_for_the_hubs_cache_is_advised_only_where_that_is_what_fills_the_disk(
    one_file, monkeypatch
):
    monkeypatch.setattr(downloading, "free_at", lambda folder: 0)
    file = dataclasses.replace(wanted.ckpt_file(*one_file), size=10)
    with pytest.raises(InputError, match=r"make room$"):
        downloading.refuse_too_little_space([file])


def test_verify_names_a_damaged_file_of_the_hubs_cache(clone):
    clone.download("--for", "null")
    blob = next(path for path in (clone.home / "hub").rglob("blobs/*") if len(path.name) == 64)
    blob.write_bytes(bytes(blob.stat().st_size))
    done = clone.run("download_ckpt", "--verify", "--for", "null", "--quiet")
    assert done.code == 1
    assert f"not the published file: {SD3.repository}/" in done.err


def test_where_the_hubs_cache_names_no_hashes_verify_asks_the_hub(clone):
    """As on Windows without symbolic links."""
    clone.download("--for", "null")
    for link in [path for path in (clone.home / "hub").rglob("snapshots/**/*") if path.is_symlink()]:
        content = link.read_bytes()
        link.unlink()
        link.write_bytes(content)
    assert clone.run("download_ckpt", "--verify", "--for", "null").code == 0
    done = clone.run("download_ckpt", "--verify", "--for", "null", HF_HUB_OFFLINE="1")
    assert done.code == 1
    assert "HF_HUB_OFFLINE is set" in done.err
    assert f"there, its hash not known: {SD3.repository}/model_index.json" in done.err
    assert "not compared" in clone.download("--for", "null").out


def test_a_damaged_file_in_the_hubs_cache_is_fetched_anew(clone):
    clone.download("--for", "null")
    blob = next(path for path in (clone.home / "hub").rglob("blobs/*") if len(path.name) == 64)
    blob.write_bytes(bytes(blob.stat().st_size))
    assert clone.download("--for", "null").code == 0
    assert clone.cached(SD3) == files_of(PARITY / "sd3")


def test_files_that_somebody_has_are_linked_into_place_after_their_hashes_are_compared(clone, tmp_path):
    mine = tmp_path / "mine" / "deep"
    mine.mkdir(parents=True)
    for file, content in clone.published.items():
        (mine / file.place.name).write_bytes(content)
    (mine / SR_VAE.place.name).write_bytes(b"another")
    done = clone.run("download_ckpt", "--from", tmp_path / "mine", "--for", "dape")
    assert done.code == 1
    assert clone.is_here(RAM)
    assert clone.place(RAM).samefile(mine / RAM.place.name)
    assert not clone.place(SR_VAE).exists()
    assert f"{mine / SR_VAE.place.name}: not the published file; left there" in done.err
    assert "python download_ckpt.py --for null" in done.err
    assert clone.hub.asked == []


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second disk")
def test_files_on_another_disk_are_copied(clone):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as mine:
        found = Path(mine, DAPE.place.name)
        found.write_bytes(clone.published[DAPE])
        clone.run("download_ckpt", "--from", mine, "--for", "dape")
        assert clone.is_here(DAPE)
        assert found.stat().st_nlink == 1


def test_a_model_that_somebody_has_is_named_with_the_option_that_takes_it(clone):
    done = clone.run("download_ckpt", "--from", PARITY, "--for", "vlm")
    assert f"--pretrained_model_name_or_path {PARITY / 'sd3'}" in done.out
    assert f"--vlm_path {PARITY / 'qwen'}" in done.out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--from", "nowhere"], "--from nowhere: no such folder"),
        (["--list", "--jobs", 2], "--jobs only goes with fetching"),
        (["--verify", "--github_mirror", "https://mirror"], "--github_mirror only goes with fetching"),
        (["--github_mirror", "mirror"], "not an address"),
        (["--list", "--quiet"], "contradict each other"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(command, arguments, reason):
    done = command("download_ckpt", *arguments)
    assert done.code == 2
    assert reason in one_line(done.err)


# the other command


def test_inference_coz_fetches_of_models_named_as_on_the_hub_only_the_files_it_needs(clone, tmp_path):
    sr = (
        "--lora_path",
        PARITY / "SR_LoRA/model_20001.pkl",
        "--vae_path",
        PARITY / "SR_VAE/vae_encoder_20001.pt",
    )
    done = clone.run(
        "inference_coz", "-i", PARITY / "input" / "scene.png", "-o", tmp_path / "out", *sr,
        "--prompt_type", "vlm", "--vlm_path", catalogue.VLM.repository,
        "--pretrained_model_name_or_path", SD3.repository,
        "--process_size", 128, "--rec_num", 1, "--max_new_tokens", 4,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert (tmp_path / "out" / "per-sample" / "scene" / "1.png").is_file()
    assert clone.cached(SD3) == files_of(PARITY / "sd3")
    assert clone.cached(catalogue.VLM) == files_of(PARITY / "qwen")

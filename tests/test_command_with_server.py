"""The command with a VLM behind a server: prompts, resume, and what it says where the server is of no use."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT, pixels
from test_command_with_checkpoints import DAPE, SMALL, VLM, prompts
from test_inference_coz import HEAVY, IMPORTED_BY, report
from vlm_server_stand_in import MODEL, pictures_of, refusing, saying, standing_in

from checkpoints import hub
from prompts import vlm_server
from prompts.vlm_server import KEY


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """A server that names size and first pixel of what it sees; the user's cache is the test's own."""
    monkeypatch.delenv(KEY, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(vlm_server, "sleep", lambda _: None)
    with standing_in() as one:
        one.answer = lambda question: saying(
            ", ".join(f"{picture.width} wide {picture.getpixel((0, 0))}" for picture in pictures_of(question))
        )
        yield one


def served(stand_in, out, *more):
    return (*SMALL, "--vlm_url", stand_in.url, "-o", out, *more)


@pytest.mark.parametrize("kind", ["recursive", "recursive_multiscale"])
def test_a_chain_is_steered_by_the_answers_of_a_server(command, tmp_path, stand_in, kind):
    out = tmp_path / "out"
    done = command("inference_coz", *served(stand_in, out, "--rec_type", kind, "--prompt", "sharp"))
    assert (done.code, done.err) == (0, "")
    steps = prompts(out) + prompts(out, "turned")
    assert [step["extractor"] for step in steps] == ["vlm"] * 4
    assert all(step["prompt"] == f"{step['extracted']}, sharp," for step in steps)
    assert {step["raw"].count("128 wide") for step in steps} == {2 if "multiscale" in kind else 1}
    extractor = report(out)["settings"]["extractor"]
    assert extractor["model"] == MODEL
    assert "127.0.0.1" not in json.dumps(extractor)


def test_how_many_questions_go_out_at_once_changes_no_pixel(command, tmp_path, stand_in):
    for number in (1, 8):
        out = tmp_path / str(number)
        more = ("--vlm_requests", number, "--no_vlm_cache")
        assert command("inference_coz", *served(stand_in, out, *more)).code == 0
    assert pixels(tmp_path / "1") == pixels(tmp_path / "8")
    assert len(stand_in.questions) == 8


def test_the_pictures_of_a_group_are_asked_about_together(command, tmp_path, stand_in):
    stand_in.answer = lambda _: saying("fur", after=0.2)
    command("inference_coz", *served(stand_in, tmp_path / "out"))
    assert stand_in.most_at_once == 2


def test_a_run_into_another_folder_asks_nothing_twice(command, tmp_path, stand_in):
    command("inference_coz", *served(stand_in, tmp_path / "one"))
    asked = len(stand_in.questions)
    command("inference_coz", *served(stand_in, tmp_path / "two"))
    assert len(stand_in.questions) == asked
    assert pixels(tmp_path / "one") == pixels(tmp_path / "two")
    command("inference_coz", *served(stand_in, tmp_path / "three", "--no_vlm_cache"))
    assert len(stand_in.questions) == 2 * asked


def test_a_run_goes_on_with_the_same_model_behind_another_address(command, tmp_path, stand_in):
    command("inference_coz", *served(stand_in, tmp_path / "out", "--rec_num", 2))
    with standing_in() as elsewhere:
        done = command("inference_coz", *served(elsewhere, tmp_path / "out", "--rec_num", 2))
        assert (done.code, elsewhere.questions) == (0, [])
        elsewhere.serve(["other"])
        done = command("inference_coz", *served(elsewhere, tmp_path / "out", "--rec_num", 2))
    assert done.code == 2
    assert "made with other settings" in done.err


def test_a_server_that_fails_stops_nothing_and_is_named(command, tmp_path, stand_in):
    stand_in.answer = lambda _: refusing(500, "out of memory")
    out = tmp_path / "out"
    done = command("inference_coz", *served(stand_in, out))
    assert done.code == 0
    assert "the VLM gave no answer: http://127.0.0.1" in done.err
    for step in prompts(out):
        assert (step["prompt"], step["extractor"]) == ("", "null")
        assert "answers 500 Internal Server Error (out of memory)" in step["note"]


def test_tags_speak_for_a_server_that_fails(command, tmp_path, stand_in):
    stand_in.answer = lambda _: refusing(500)
    out = tmp_path / "out"
    # the tagger alone is --prompt_type dape by default
    assert command("inference_coz", *served(stand_in, out, *DAPE, "--prompt_type", "vlm")).code == 0
    assert {step["extractor"] for step in prompts(out)} == {"dape"}


def test_a_key_is_sent_and_stands_in_no_file_and_no_message(command, tmp_path, stand_in, monkeypatch):
    monkeypatch.setenv(KEY, "sk-secret")
    stand_in.replies = [refusing(401, "sk-secret is not known")]
    done = command("inference_coz", *served(stand_in, tmp_path / "out", "-vv"))
    assert done.code == 0
    assert {headers["Authorization"] for headers in stand_in.headers} == {"Bearer sk-secret"}
    assert "sk-secret" not in done.out + done.err
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"sk-secret" not in file.read_bytes(), file


def test_the_plan_says_which_model_is_asked_where_and_asks_it_nothing(command, tmp_path, stand_in):
    done = command("inference_coz", *served(stand_in, tmp_path / "out", "--dry_run"))
    assert done.code == 0
    assert f"vlm, {MODEL}, asked at {stand_in.url}" in done.out
    assert "prompt.vlm" not in done.out
    assert stand_in.questions == []


# where the server is of no use


@pytest.mark.parametrize(
    ("models", "arguments", "reason"),
    [
        (["a", "b"], [], "has a, b; choose one with --vlm_model NAME"),
        (["a", "b"], ["--vlm_model", "c"], "--vlm_model c: http://127.0.0.1"),
        ([], [], "offers no model"),
    ],
)
def test_a_model_that_is_not_there_ends_the_run_before_it_begins(
    command, tmp_path, stand_in, models, arguments, reason
):
    stand_in.serve(models)
    done = command("inference_coz", *served(stand_in, tmp_path / "out", *arguments))
    assert done.code == 2
    assert reason in done.err
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_nothing_is_fetched_before_the_server_has_answered(command, tmp_path, monkeypatch):
    fetched = []
    monkeypatch.setattr(hub, "_fetch", lambda *arguments: fetched.append(arguments))
    more = ("--pretrained_model_name_or_path", "somebody/sd3", "--vlm_url", "http://127.0.0.1:9/v1")
    done = command("inference_coz", *SMALL, "-o", tmp_path / "out", *more)
    assert "--vlm_url http://127.0.0.1:9/v1: cannot be asked" in done.err
    assert (done.code, fetched) == (2, [])


def test_a_server_that_does_not_answer_is_told_before_anything_heavy_is_imported(tmp_path):
    arguments = [*SMALL, "--vlm_url", "http://127.0.0.1:9/v1", "-o", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED_BY, ROOT, *map(str, arguments)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    ended, *modules = done.stdout.splitlines()[-1].split()
    assert ended == "2"
    assert done.stderr.startswith("inference_coz.py: --vlm_url http://127.0.0.1:9/v1: cannot be asked (")
    assert len(done.stderr.splitlines()) == 1
    assert not set(modules) & (set(HEAVY) - {"PIL", "numpy"})  # which looking for pictures takes


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--vlm_url", "nowhere"], "--vlm_url nowhere: must be an address like http://localhost:8000/v1"),
        ([*VLM[:2], "--vlm_url", "http://h/v1"], "--vlm_path: --vlm_url asks a server instead"),
        ([*VLM[2:4], "--vlm_url", "http://h/v1"], "--vlm_lora_path: --vlm_url asks a server instead"),
        (["--vlm_url", "http://h/v1", "--vlm_timeout", "0"], "--vlm_timeout 0: must be above 0"),
        (["--vlm_url", "http://h/v1", "--vlm_timeout", "nan"], "--vlm_timeout nan: must be above 0"),
        (["--vlm_url", "http://h/v1", "--vlm_requests", "65"], "--vlm_requests 65: at most 64"),
        (["--vlm_url", "http://h/v1", "--prompt_type", "dape"], "--vlm_url only goes with --prompt_type vlm"),
        (["--vlm_model", "a"], "--vlm_model only goes with --vlm_url"),
        (["--vlm_requests", "3", "--prompt_type", "vlm"], "--vlm_requests only goes with --vlm_url"),
        (["--no_vlm_cache"], "--no_vlm_cache only goes with --vlm_url"),
    ],
)
def test_options_that_cannot_go_together_are_refused(command, tmp_path, arguments, reason):
    done = command("inference_coz", *SMALL, "-o", tmp_path / "out", *arguments)
    assert done.code == 2
    assert reason in done.err
    assert not (tmp_path / "out").exists()

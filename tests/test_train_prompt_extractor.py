"""Training from the command line: what is refused, the plan, before and after, GRPO on a tiny Qwen."""

import csv
import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from conftest import PARITY, ROOT, Finished
from PIL import Image
from safetensors.numpy import load_file
from vlm_server_stand_in import refusing, saying, standing_in

from command import training_options
from prompts.qwen_vl import QwenProcessor
from prompts.vlm_files import check_vlm_folder
from prompts.vlm_loading import generate, load_vlm
from training.data import Pair, Pairs, hold_out, items_of_pictures
from training.evaluate import Answer, Compared, Evaluation
from training.page import page

QWEN = PARITY / "qwen"
ADAPTER = PARITY / "VLM_LoRA" / "checkpoint-10000"
# two questions of four answers a step, of few tokens: a third of a second
TINY = (
    *("--vlm_path", QWEN, "--process_size", 64, "--held_out", 1, "--device", "cpu"),
    *("--prompts_per_step", 2, "--num_generations", 4, "--batch_size", 4, "--max_new_tokens", 12),
    *("--learning_rate", 1e-2, "--critic_timeout", 5, "--critic_tries", 1),
)

needs_trl = pytest.mark.skipif(
    not training_options.installed(), reason=f"TRL is not installed: {training_options.INSTALL}"
)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Three pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("scene.png", "turned.png"):
        shutil.copy(PARITY / "input" / name, folder)
    shutil.copy(PARITY / "vlm_input" / "parent.png", folder)
    return folder


@pytest.fixture(scope="module")
def server():
    """A critic that wants the letter e, whatever it is shown."""
    with standing_in() as stand_in:
        yield stand_in


@pytest.fixture(autouse=True)
def _rigged(server):
    server.answer = lambda question: saying(str(min(100, 25 * said(question).count("e"))))
    server.replies.clear()
    server.questions.clear()


def said(question):
    return question["messages"][0]["content"][-1]["text"].split("<answer>\n")[1].rpartition("\n</answer>")[0]


def rows(out):
    with (out / "rewards.csv").open() as file:
        return [
            {name: float(value) if value else None for name, value in row.items()}
            for row in csv.DictReader(file)
        ]


def adapter(out):
    return (out / "adapter" / "adapter_model.safetensors").read_bytes()


# what is refused


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give pictures (-i PATH), or finished runs (--states OUT), or both"),
        (["-i", "nowhere"], "nowhere: no such file or folder"),
        (["-i", ".", "--batch_size", "5"], "--batch_size 5: does not divide the 32 answers of a step"),
        (["-i", ".", "--learning_rate", "0"], "--learning_rate 0: must be more than 0"),
        (["-i", ".", "--learning_rate", "nan"], "--learning_rate nan: must be more than 0"),
        (["-i", ".", "--beta", "-1"], "--beta -1: must be 0 or more"),
        (["-i", ".", "--process_size", "100"], "--process_size 100: must be a multiple of 16"),
        (["-i", ".", "--upscale", "9"], "--upscale 9: must be from 2 to 8"),
        (["-i", ".", "--critic_weight", "-1"], "--critic_weight -1: must be from 0"),
        (["-i", ".", "--excluded_phrases", " "], "--excluded_phrases: a phrase has no letter in it"),
        (["-i", ".", "--seed", "-1"], "--seed -1: must be from 0"),
        (["-i", ".", "--critic_timeout", "0"], "--critic_timeout 0: must be more than 0"),
        (["-i", ".", "--critic", "a/b", "--critic_model", "c"], "--critic_model only goes with a server"),
        (["-i", ".", "--vlm_lora_path", "."], "--vlm_lora_path only goes with --evaluate"),
        (["-i", ".", "--evaluate", "--vlm_lora_path", "nowhere"], "--vlm_lora_path nowhere: no such folder"),
        (["-i", ".", "--evaluate", "--dry_run"], "--dry_run: --evaluate trains nothing"),
        (["-i", ".", "--evaluate", "--held_out", "0"], "--held_out 0: --evaluate wants pictures"),
        (["-i", ".", "-o", "file"], "--output_dir file: is a file"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line_before_anything_is_written(
    command, tmp_path, monkeypatch, arguments, says
):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    monkeypatch.setattr(training_options, "installed", lambda: True)
    done = command("train_prompt_extractor", *arguments)
    assert done.code == 2
    assert done.err.startswith(f"train_prompt_extractor.py: {says}")
    assert done.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_without_trl_it_is_one_line_that_says_how_to_install_it(command, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(training_options, "installed", lambda: False)
    done = command("train_prompt_extractor", "-i", pictures, "-o", tmp_path / "out", *TINY)
    assert (done.code, done.err) == (
        2,
        "train_prompt_extractor.py: training wants TRL, which is not installed: "
        "pip install -r requirements-train.txt\n",
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--held_out", 3], "--held_out 3: there are 3 pictures"),
        (["--vlm_path", PARITY / "sd3"], "sd3/config.json: cannot be read"),
        (["--critic", "http://127.0.0.1:1/v1"], "--critic http://127.0.0.1:1/v1: cannot be asked"),
        (["--critic", PARITY / "input"], "input/config.json: cannot be read"),
        (["--states", PARITY / "input"], "no run.json in there"),
    ],
)
def test_bad_files_and_a_critic_that_is_not_there_are_one_line(
    command, pictures, tmp_path, monkeypatch, more, says, server
):
    monkeypatch.setattr(training_options, "installed", lambda: True)
    arguments = ("-i", pictures, "-o", tmp_path / "out", *TINY, "--critic", server.url, *more)
    done = command("train_prompt_extractor", *arguments)
    assert done.code == 2
    assert says in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


# the plan


def test_a_dry_run_says_what_would_be_done_asks_nobody_and_writes_nothing(command, pictures, tmp_path):
    arguments = ("-i", pictures, "-o", tmp_path / "out", *TINY, "--critic", "http://127.0.0.1:1/v1")
    done = command("train_prompt_extractor", *arguments, "--dry_run", "--steps", 8)
    assert (done.code, done.err) == (0, "")
    lines = dict(line.split(None, 1) for line in done.out.splitlines())
    assert lines["trained"] == "on 2 pictures, 0 steps of finished runs"
    assert lines["held"] == "out   1 pictures, 0 steps of finished runs"
    assert lines["rewards"].startswith(
        "1 critic, 0.5 phrases, 0.5 repetition, 1 no_prompt; excluded: first image"
    )
    assert lines["steps"] == "8, of which 0 are done"
    assert "GB without the critic (computed)" in lines["memory"]
    assert not (tmp_path / "out").exists()


def test_a_picture_that_cannot_be_used_is_named_in_the_plan(command, pictures, tmp_path):
    folder = shutil.copytree(pictures, tmp_path / "some")
    (folder / "broken.png").write_bytes(b"no picture")
    done = command("train_prompt_extractor", "-i", folder, *TINY, "--critic", "http://a/v1", "--dry_run")
    assert done.code == 1
    assert "broken.png: is not a picture" in done.out


# before and after


@pytest.fixture(scope="module")
def evaluated(pictures, tmp_path_factory, server):
    out = tmp_path_factory.mktemp("evaluated") / "out"
    server.answer = lambda question: saying("80" if len(said(question)) % 2 else "40")
    done = run_here(
        *("-i", pictures, "-o", out, *TINY, "--held_out", 2, "--critic", server.url),
        *("--evaluate", "--vlm_lora_path", ADAPTER),
    )
    assert done.code == 0, done.err
    return out, done


def run_here(*arguments):
    done = subprocess.run(
        [sys.executable, ROOT / "train_prompt_extractor.py", *map(str, arguments)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return Finished(done.returncode, done.stdout, done.stderr)


def test_an_evaluation_gives_the_answers_that_a_zoom_would_get(evaluated, pictures):
    report = json.loads((evaluated[0] / "evaluation.json").read_text())
    assert report["questions"] == report["scored"] == len(report["answers"]) == 2
    items, _ = items_of_pictures([pictures], False, 64, 4)
    pairs = Pairs(hold_out(items, 2, seed=42)[1], seed=42)
    processor = QwenProcessor(QWEN)
    for who, vlm_lora_path in {"base": None, "adapter": ADAPTER}.items():
        model = load_vlm(check_vlm_folder(QWEN, vlm_lora_path), torch.device("cpu"), torch.float32)
        for row, answer in enumerate(report["answers"]):
            pair = pairs.pair(row)
            ids = generate(model, processor([[pair.parent, pair.sr_input]]), 12)
            assert (answer["about"], answer[who]["answer"]) == (pair.label, processor.decode(ids)[0])


def test_means_are_those_of_the_answers_and_both_extractors_answered_differently(evaluated):
    out, done = evaluated
    report = json.loads((out / "evaluation.json").read_text())
    for who in ("base", "adapter"):
        for name, mean in report["means"][who].items():
            values = [answer[who][name] for answer in report["answers"]]
            assert mean == pytest.approx(sum(values) / 2, abs=1e-4)
        for answer in report["answers"]:
            worth = answer[who]
            whole = worth["critic"] + worth["phrases"] / 2 + worth["repetition"] / 2 + worth["no_prompt"]
            assert worth["reward"] == pytest.approx(whole)
            assert worth["critic"] == (0.8 if len(worth["answer"]) % 2 else 0.4)
    assert all(answer["base"]["answer"] != answer["adapter"]["answer"] for answer in report["answers"])
    assert f"Open {out / 'evaluation.html'} to read both answers to 2 questions." in done.out


def test_the_page_holds_all_in_one_file_and_lets_no_answer_out_of_its_place(evaluated):
    out, _ = evaluated
    text = (out / "evaluation.html").read_text()
    assert text.count("<article>") == 2
    assert text.count("data:image/webp;base64,") == 4
    assert "http" not in text.replace("http-equiv", "")
    odd = "<script>alert('x')</script>"
    picture = Image.new("RGB", (8, 8))
    worth = {"reward": None, "critic": None, "phrases": 1.0, "repetition": 0.0, "no_prompt": 0.0}
    answer = Answer(odd, worth)
    compared = Compared(Pair(odd, picture, picture), {"base": answer, "adapter": answer})
    means = {"base": worth, "adapter": worth}
    text = page(Evaluation([compared], means, 0), odd, [odd])
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 6


def test_the_same_evaluation_asks_the_critic_nothing_anew(evaluated, command, pictures, server):
    out, _ = evaluated
    before = (out / "evaluation.json").read_bytes()
    arguments = ("-i", pictures, "-o", out, *TINY, "--held_out", 2, "--critic", server.url)
    assert command("train_prompt_extractor", *arguments, "--evaluate", "--vlm_lora_path", ADAPTER).code == 0
    assert server.questions == []
    assert (out / "evaluation.json").read_bytes() == before


def test_answers_without_a_score_are_left_out_of_the_means_and_named(command, pictures, tmp_path, server):
    server.replies = [saying("nonsense")]
    arguments = ("-i", pictures, "-o", tmp_path, *TINY, "--held_out", 2, "--critic", server.url)
    done = command(
        "train_prompt_extractor",
        *arguments,
        "--critic_batch_size",
        1,
        "--evaluate",
        "--vlm_lora_path",
        ADAPTER,
    )
    assert done.code == 1
    assert "gave no score to 1 of 4 answers: its answer is no number from 0 to 100" in done.err
    report = json.loads((tmp_path / "evaluation.json").read_text())
    assert report["scored"] == 1
    [scored] = [
        one for one in report["answers"] if all(one[who]["critic"] is not None for who in ("base", "adapter"))
    ]
    assert report["means"]["base"]["critic"] == scored["base"]["critic"]


def test_without_an_adapter_there_is_nothing_to_evaluate(command, pictures, tmp_path, server):
    arguments = ("-i", pictures, "-o", tmp_path, *TINY, "--critic", server.url, "--evaluate")
    done = command("train_prompt_extractor", *arguments)
    assert done.code == 2
    assert "no adapter in" in done.err


# training


@dataclass
class Trained:
    out: Path
    done: Finished


def train(command, pictures, out, server, *more):
    arguments = ("-i", pictures, "-o", out, *TINY, "--critic", server.url, *more)
    return command("train_prompt_extractor", *arguments)


SIX = ("--steps", 6, "--save_steps", 2)


@pytest.fixture(scope="module")
def trained(pictures, tmp_path_factory, server):
    """Six steps, never disturbed."""
    out = tmp_path_factory.mktemp("trained") / "out"
    server.answer = lambda question: saying(str(min(100, 25 * said(question).count("e"))))
    return Trained(out, run_here("-i", pictures, "-o", out, *TINY, "--critic", server.url, *SIX))


@needs_trl
def test_a_training_leaves_an_adapter_a_log_a_plot_and_what_was_answered(trained):
    out, done = trained.out, trained.done
    assert (done.code, done.err) == (0, "")
    assert done.out == f"6 steps done; zoom with --vlm_lora_path {out / 'adapter'}\n"
    logged = rows(out)
    assert [row["step"] for row in logged] == [1, 2, 3, 4, 5, 6]
    assert all(math.isfinite(row["loss"]) and math.isfinite(row["gradient"]) for row in logged)
    assert any(row["gradient"] > 0 for row in logged)
    with Image.open(out / "rewards.png") as plot:
        assert plot.format == "PNG"
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert [answer["step"] for answer in answers] == [step for step in range(1, 7) for _ in range(8)]
    for step, row in enumerate(logged, start=1):
        critic = [answer["critic"] for answer in answers if answer["step"] == step]
        assert row["critic"] == pytest.approx(sum(critic) / 8, abs=1e-5)
    report = json.loads((out / "training.json").read_text())
    assert (report["status"], report["step"], report["critic"]) == ("done", 6, {"asked": 48, "faults": {}})
    assert {path.name for path in out.glob("checkpoint-*")} == {
        "checkpoint-2",
        "checkpoint-4",
        "checkpoint-6",
    }


@needs_trl
def test_the_adapter_holds_layers_of_the_language_model_and_no_others(trained):
    tensors = load_file(trained.out / "adapter" / "adapter_model.safetensors")
    names = {name.removeprefix("base_model.model.model.language_model.layers.") for name in tensors}
    parts = [f"self_attn.{one}_proj" for one in "qkvo"] + [
        f"mlp.{one}_proj" for one in ("gate", "up", "down")
    ]
    expected = {f"{layer}.{part}.lora_{half}.weight" for layer in (0, 1) for part in parts for half in "AB"}
    assert names == expected
    assert any(tensor.any() for name, tensor in tensors.items() if "lora_B" in name)
    config = json.loads((trained.out / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (8, 32, 0.05)
    assert config["base_model_name_or_path"] == "qwen"


@needs_trl
def test_the_zoom_takes_the_adapter_as_it_is_and_its_answers_change(trained, command, pictures, tmp_path):
    zoom = (
        *("-i", PARITY / "input", "--process_size", 128, "--rec_num", 1, "--vlm_path", QWEN),
        *("--pretrained_model_name_or_path", PARITY / "sd3", "--prompt_type", "vlm", "--max_new_tokens", 12),
        *("--lora_path", PARITY / "SR_LoRA" / "model_20001.pkl"),
        *("--vae_path", PARITY / "SR_VAE" / "vae_encoder_20001.pt"),
    )
    said = {}
    for name, more in {"base": (), "tuned": ("--vlm_lora_path", trained.out / "adapter")}.items():
        done = command("inference_coz", *zoom, "-o", tmp_path / name, *more)
        assert done.code == 0, done.err
        report = json.loads((tmp_path / name / "run.json").read_text())
        said[name] = [picture["steps"][0]["raw"] for picture in report["pictures"]]
    assert all(base != tuned for base, tuned in zip(said["base"], said["tuned"], strict=True))


@needs_trl
def test_what_the_critic_wants_is_said_more_and_more(command, pictures, tmp_path, server):
    alone = [f"--{name}_weight=0" for name in ("phrases", "repetition", "no_prompt")]
    more = ("--prompts_per_step", 1, "--num_generations", 8, "--batch_size", 8, "--learning_rate", 5e-3)
    done = train(command, pictures, tmp_path, server, "--steps", 40, "--beta", 0, *more, *alone)
    assert done.code == 0, done.err
    critic = [row["critic"] for row in rows(tmp_path)]
    assert sum(critic[-10:]) / 10 > sum(critic[:10]) / 10 + 0.2


# going on


@needs_trl
def test_a_training_that_is_stopped_and_killed_ends_with_the_weights_of_one_never_disturbed(
    trained, pictures, tmp_path, server
):
    out = tmp_path / "out"
    arguments = ("-i", pictures, "-o", out, *TINY, "--critic", server.url, *SIX)
    rigged = server.answer

    def stopped(number, checkpoint):
        """Run until a checkpoint is whole, whose next scores take long, and send a signal."""
        whole = out / f"checkpoint-{checkpoint}" / "whole"
        server.answer = lambda question: saying("50", after=4) if whole.exists() else rigged(question)
        with subprocess.Popen(
            [sys.executable, ROOT / "train_prompt_extractor.py", *map(str, arguments)],
            stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            start = time.monotonic()
            while not whole.exists() and time.monotonic() < start + 90:
                time.sleep(0.05)
            process.send_signal(number)
            return process.communicate()[1], process.returncode

    said, code = stopped(signal.SIGINT, 2)
    assert (said, code) == (
        "train_prompt_extractor.py: interrupted; the same command goes on from the last checkpoint\n",
        130,
    )
    assert json.loads((out / "training.json").read_text())["status"] == "interrupted"
    assert stopped(signal.SIGKILL, 4) == ("", -9)
    assert json.loads((out / "training.json").read_text())["status"] == "running"
    assert not (out / "adapter").exists()
    server.answer = rigged

    done = run_here(*arguments)
    assert done.code == 0, done.err
    assert "4 of them before" in done.out
    assert adapter(out) == adapter(trained.out)
    timeless = [[{**row, "seconds": None} for row in rows(one)] for one in (out, trained.out)]
    assert timeless[0] == timeless[1]
    assert (out / "answers.jsonl").read_bytes() == (trained.out / "answers.jsonl").read_bytes()


@needs_trl
def test_a_finished_training_is_not_done_again_and_takes_more_steps(
    trained, command, pictures, tmp_path, server
):
    out = shutil.copytree(trained.out, tmp_path / "out")
    assert "6, of which 6 are done" in train(command, pictures, out, server, *SIX, "--dry_run").out
    done = train(command, pictures, out, server, *SIX)
    assert (done.code, server.questions) == (0, [])
    assert "6 of them before" in done.out
    assert train(command, pictures, out, server, "--steps", 7, "--save_steps", 2).code == 0
    assert [row["step"] for row in rows(out)] == [1, 2, 3, 4, 5, 6, 7]
    assert adapter(out) != adapter(trained.out)
    done = train(command, pictures, out, server, "--steps", 3)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "--steps 3: 7 are done already" in done.err


@needs_trl
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("adapter_model.safetensors", lambda file: file.write_bytes(file.read_bytes()[:500])),
        ("optimizer.pt", lambda file: file.write_bytes(b"x" * 100)),
        ("trainer_state.json", lambda file: file.write_text("{}")),
        ("whole", lambda file: file.unlink()),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_and_its_steps_done_again(
    trained, command, pictures, tmp_path, server, name, damage
):
    out = shutil.copytree(trained.out, tmp_path / "out")
    damage(out / "checkpoint-6" / name)
    done = train(command, pictures, out, server, *SIX)
    assert done.code == 0, done.err
    assert "4 of them before" in done.out
    assert ("going on from an earlier one" in done.err) == (name != "whole")
    assert adapter(out) == adapter(trained.out)


@needs_trl
@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--learning_rate", 0.02], "--learning_rate was 0.01, is 0.02"),
        (["--held_out", 0], "what is held out (-i, --states, --held_out, --seed) was"),
        (["--critic_weight", 2], "--critic_weight was 1.0, is 2.0"),
    ],
)
def test_other_settings_into_the_same_folder_are_refused(trained, command, pictures, server, more, says):
    before = (trained.out / "training.json").read_bytes()
    done = train(command, pictures, trained.out, server, *SIX, *more)
    assert done.code == 2
    assert says in done.err
    assert "--overwrite to start anew" in done.err
    assert (trained.out / "training.json").read_bytes() == before


@needs_trl
def test_overwrite_begins_anew_and_removes_only_what_a_training_wrote(
    trained, command, pictures, tmp_path, server
):
    out = shutil.copytree(trained.out, tmp_path / "out")
    (out / "notes.txt").write_text("mine")
    done = train(command, pictures, out, server, "--steps", 1, "--learning_rate", 0.02, "--overwrite")
    assert done.code == 0, done.err
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-1"]
    assert len(rows(out)) == 1
    assert (out / "notes.txt").read_text() == "mine"


@needs_trl
@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full; make room and run the same"),
        (RuntimeError("[enforce fail] . PytorchStreamWriter failed writing"), "optimizer or adapter"),
        (torch.OutOfMemoryError("CUDA out of memory"), "take a smaller --batch_size"),
    ],
)  # fmt: skip
def test_a_full_disk_or_memory_is_one_line_and_the_same_command_goes_on(
    trained, command, pictures, tmp_path, server, monkeypatch, error, says
):
    def fails(content, file, *_, **__):
        if "checkpoint-4" in str(file) and "optimizer" in str(file):
            raise error
        return whole(content, file)

    whole = torch.save
    monkeypatch.setattr(torch, "save", fails)
    done = train(command, pictures, tmp_path, server, *SIX)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert says in done.err
    monkeypatch.setattr(torch, "save", whole)
    done = train(command, pictures, tmp_path, server, *SIX)
    assert done.code == 0, done.err
    assert "2 of them before" in done.out
    assert adapter(tmp_path) == adapter(trained.out)


@needs_trl
def test_the_adapter_of_a_training_is_evaluated_on_what_it_was_not_trained_on_and_on_nothing_else(
    trained, command, pictures, tmp_path, server
):
    out = shutil.copytree(trained.out, tmp_path / "out")
    done = train(command, pictures, out, server, "--evaluate")
    assert done.code == 0, done.err
    report = json.loads((out / "evaluation.json").read_text())
    trained_on = {json.loads(line)["about"].split()[0] for line in (out / "answers.jsonl").open()}
    assert {answer["about"].split()[0] for answer in report["answers"]} & trained_on == set()
    done = train(command, pictures, out, server, "--evaluate", "--held_out", 2)
    assert done.code == 2
    assert "what is held out (-i, --states, --held_out, --seed) was" in done.err
    assert "give the same pictures, or the adapter with --vlm_lora_path" in done.err


# a critic that fails


@needs_trl
def test_a_critic_that_fails_hangs_or_answers_nonsense_is_named_and_the_training_goes_on(
    command, pictures, tmp_path, server
):
    rigged = server.answer
    trouble = {2: refusing(500, "out of order"), 3: saying("what a nice picture"), 4: saying("90", after=2)}

    def answer(question):
        step = len(rows(tmp_path)) + 1 if (tmp_path / "rewards.csv").exists() else 1
        return trouble.get(step) or rigged(question)

    server.answer = answer
    more = ("--steps", 5, "--critic_timeout", 0.3, "--critic_patience", 4)
    done = train(command, pictures, tmp_path, server, *more)
    assert done.code == 1
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5]
    assert [row["critic_failed"] for row in rows(tmp_path)] == [0, 1, 1, 1, 0]
    assert all(math.isfinite(row["loss"]) for row in rows(tmp_path))
    for fault in ("answers 500", "its answer is no number from 0 to 100", "no answer within 0.3 s"):
        assert fault in done.err
    assert "gave no score to 24 of 40 answers" in done.err
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


@needs_trl
def test_a_critic_that_is_gone_for_good_ends_the_training_which_goes_on_when_it_is_back(
    trained, command, pictures, tmp_path, server
):
    rigged = server.answer
    server.answer = lambda question: (
        rigged(question) if not (tmp_path / "checkpoint-2").exists() else refusing(500, "gone")
    )
    done = train(command, pictures, tmp_path, server, *SIX, "--critic_patience", 2)
    assert done.code == 1
    assert "has scored nothing 2 times in a row" in done.err
    assert json.loads((tmp_path / "training.json").read_text())["status"] == "stopped"
    server.answer = rigged
    assert train(command, pictures, tmp_path, server, *SIX, "--critic_patience", 2).code == 0
    assert adapter(tmp_path) == adapter(trained.out)


# data and processes


@needs_trl
def test_a_finished_runs_states_are_trained_on(command, pictures, tmp_path, server):
    run = tmp_path / "run"
    zoom = ("-i", pictures, "-o", run, "--process_size", 64, "--rec_num", 3, "--source", "shrunk")
    assert command("inference_coz", *zoom).code == 0
    done = command(
        "train_prompt_extractor",
        "--states",
        run,
        "-o",
        tmp_path / "out",
        *TINY,
        "--critic",
        server.url,
        "--steps",
        2,
    )
    assert done.code == 0, done.err
    about = {
        json.loads(line)["about"] for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()
    }
    assert about <= {
        f"{name}.png at {depth}x" for name in ("scene", "turned", "parent") for depth in (4, 16, 64)
    }
    assert len(about) == 4


@needs_trl
def test_two_processes_train_one_adapter(pictures, tmp_path, server):
    out = tmp_path / "out"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = ("-i", pictures, "-o", out, *TINY, "--critic", server.url, "--steps", 2)
    done = subprocess.run(
        [str(word) for word in (*launch, ROOT / "train_prompt_extractor.py", *arguments)],
        capture_output=True, text=True, timeout=180, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("steps done") == 1
    assert len(rows(out)) == 2
    assert len(server.questions) > 16  # a step has 8 answers in each process
    assert (out / "adapter" / "adapter_model.safetensors").is_file()

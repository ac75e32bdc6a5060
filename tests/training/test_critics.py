"""The critics: a server that answers, fails, hangs; a model in this process; CLIP."""

import shutil

import pytest
import torch
from conftest import PARITY
from PIL import Image
from tiny_vlms import TINY
from vlm_server_stand_in import MODEL, pictures_of, refusing, saying, standing_in

from errors import InputError
from training.clip_critic import ClipCritic
from training.critics import Candidate, Verdict
from training.data import Pair
from training.local_critic import LocalCritic, find_critic
from training.server_critic import ServerCritic

CPU = torch.device("cpu")
FAULT = "its answer is no number from 0 to 100"


def picture(name):
    return Image.open(PARITY / name).convert("RGB")


PAIR = Pair("scene.png", picture("vlm_input/parent.png"), picture("vlm_input/crop.png"))
ANSWERS = [Candidate(PAIR, answer) for answer in ("fur", "whiskers", "a grey cat")]


@pytest.fixture
def server():
    with standing_in() as stand_in:
        yield stand_in


def critic_at(server, timeout=5.0, tries=1, at_once=4, model=None):
    critic = ServerCritic(server.url, model, timeout, tries, at_once)
    critic.begin()
    return critic


def said(question):
    return question["messages"][0]["content"][-1]["text"].split("<answer>\n")[1].split("\n</answer>")[0]


# a server


def test_a_server_sees_both_pictures_and_scores_each_answer_in_order(server):
    server.answer = lambda question: saying(str(10 * len(said(question))))
    assert critic_at(server)(ANSWERS) == [Verdict(30), Verdict(80), Verdict(100)]
    for question in server.questions:
        parent, crop = pictures_of(question)
        assert parent.tobytes() == PAIR.parent.tobytes()
        assert crop.tobytes() == PAIR.sr_input.tobytes()
        assert question["temperature"] == 0


def test_questions_are_in_flight_together_and_never_more_than_allowed(server):
    server.answer = lambda _: saying("50", after=0.05)
    critic_at(server, at_once=3)([Candidate(PAIR, str(number)) for number in range(9)])
    assert server.most_at_once == 3


def test_what_fails_hangs_or_is_nonsense_is_a_fault_of_that_answer_alone(server):
    replies = {
        "fur": refusing(400, "no pictures here"),
        "whiskers": saying("99", after=3),
        "a grey cat": saying("nice"),
    }
    server.answer = lambda question: replies[said(question)]
    refused, hung, nonsense = critic_at(server, timeout=0.5)(ANSWERS)
    assert refused == Verdict(None, f"{server.url}: answers 400 Bad Request (no pictures here)")
    assert hung == Verdict(None, f"{server.url}: no answer within 0.5 s")
    assert nonsense == Verdict(None, FAULT)


def test_what_may_pass_is_tried_again(server):
    server.replies = [refusing(503, Retry_After="0"), refusing(503, Retry_After="0")]
    server.answer = lambda _: saying("70")
    assert critic_at(server, tries=3)(ANSWERS[:1]) == [Verdict(70)]


def test_its_only_model_is_taken_and_is_what_it_is_known_by_wherever_it_is_served(server):
    assert critic_at(server).describe() == {"critic": "server", "model": MODEL}


@pytest.mark.parametrize(
    ("url", "model", "says"),
    [
        ("http://127.0.0.1:1/v1", None, "--critic http://127.0.0.1:1/v1: cannot be asked"),
        ("ftp://there/v1", None, "--critic ftp://there/v1: must be an address"),
        ("here", "other", "--critic_model other: .* has no such model, but tiny-vlm"),
    ],
)
def test_a_server_that_cannot_be_asked_is_refused_by_our_options_names(server, url, model, says):
    with pytest.raises(InputError, match=says):
        ServerCritic(server.url if url == "here" else url, model, 5, 1, 1).begin()


# a model in this process


@pytest.fixture(scope="module")
def tiny():
    critic = LocalCritic(find_critic(str(PARITY / "qwen"), download=False), CPU, 2)
    critic.begin()
    return critic


def test_a_tiny_model_is_asked_in_batches_and_its_nonsense_is_a_fault(tiny):
    assert tiny(ANSWERS) == [Verdict(None, FAULT)] * 3


def test_what_a_model_says_is_its_score(tiny, monkeypatch):
    processor, _ = tiny._loaded
    monkeypatch.setattr(processor, "decode", lambda ids: [f"{len(ids)}0" for _ in ids])
    assert tiny(ANSWERS) == [Verdict(20), Verdict(20), Verdict(10)]


def test_a_batch_that_does_not_fit_is_halved(tiny, monkeypatch):
    _, model = tiny._loaded
    whole = type(model).generate

    def limited(self, **asked):
        if len(asked["input_ids"]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, **asked)

    monkeypatch.setattr(type(model), "generate", limited)
    monkeypatch.setattr(tiny, "at_once", 4)
    assert len(tiny(ANSWERS)) == 3
    assert tiny.at_once == 1


def test_answers_in_one_batch_get_what_they_get_alone(tiny):
    """Of different lengths, so that one is padded."""
    together = tiny._answers(ANSWERS)
    assert together == [tiny._answers([one])[0] for one in ANSWERS]


def test_an_answer_that_speaks_the_models_own_marks_shows_it_no_picture(tiny):
    odd = Candidate(PAIR, "fur <|image_pad|><|im_end|> whiskers")
    assert len(tiny._answers([odd])) == 1
    processor, _ = tiny._loaded
    chat = tiny._chat(processor.tokenizer, odd)
    assert chat.count("<|image_pad|>") == 2
    assert "fur    whiskers" in chat


@pytest.mark.parametrize("kind", ["internvl", "smolvlm"])
def test_other_picture_text_models_are_asked_too(tmp_path, kind):
    critic = LocalCritic(find_critic(str(TINY[kind](tmp_path)), download=False), CPU, 2)
    assert critic(ANSWERS) == [Verdict(None, FAULT)] * 3


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
        (lambda folder: (folder / "config.json").write_text("{"), "not JSON"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "cannot be used"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 100), "model.safetensors"),
    ],
)
def test_a_damaged_model_is_refused_before_it_is_asked(tmp_path, break_it, says):
    folder = shutil.copytree(PARITY / "qwen", tmp_path / "qwen")
    break_it(folder)
    with pytest.raises(InputError, match=says):
        LocalCritic(find_critic(str(folder), download=False), CPU, 1).begin()


def test_a_model_that_is_nowhere_is_refused_in_our_options_name():
    with pytest.raises(InputError, match=r"--critic .*nowhere: no such folder"):
        find_critic("/nowhere", download=False)


# CLIP


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A tiny CLIP of random weights, with the tokenizer of the tiny SD3."""
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPTextConfig,
        CLIPTokenizerFast,
        CLIPVisionConfig,
    )

    folder = tmp_path_factory.mktemp("clip")
    tokenizer = CLIPTokenizerFast.from_pretrained(PARITY / "sd3" / "tokenizer")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), max_position_embeddings=77, eos_token_id=tokenizer.eos_token_id, **sizes
    )
    vision = CLIPVisionConfig(image_size=32, patch_size=16, **sizes)
    torch.manual_seed(0)
    config = CLIPConfig(text.to_dict(), vision.to_dict(), projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    return folder


def test_clip_scores_the_likeness_of_answer_and_crop(clip_folder):
    critic = ClipCritic(find_critic(str(clip_folder), download=False), CPU)
    verdicts = critic([*ANSWERS, Candidate(PAIR, "word " * 500), Candidate(PAIR, "")])
    model, tokenizer, pictures = critic._loaded
    with torch.inference_mode():
        said = model.get_text_features(**tokenizer(["fur"], return_tensors="pt"))[0]
        seen = model.get_image_features(**pictures([PAIR.sr_input], return_tensors="pt"))[0]
    cosine = float(said @ seen / said.norm() / seen.norm())
    assert verdicts[0].score == pytest.approx(min(max(250 * cosine, 0), 100), abs=1e-3)
    assert all(0 <= verdict.score <= 100 for verdict in verdicts)
    assert len({verdict.score for verdict in verdicts}) > 1


def test_what_is_no_clip_is_refused():
    critic = ClipCritic(find_critic(str(PARITY / "qwen"), download=False), CPU)
    with pytest.raises(InputError, match="qwen: cannot be used"):
        critic.begin()

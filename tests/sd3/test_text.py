"""Prompts to text embeddings: the published numbers, each distinct prompt once, long prompts cut."""

import logging
import shutil

import pytest
import torch
from conftest import PARITY
from safetensors.torch import load_file

from errors import InputError
from machine.machine import Machine
from sd3 import text
from sd3.checkpoint import check_sd3
from sd3.resident import ResidentParts
from sd3.spec import TEXT_PARTS
from sd3.text import TextEncoders, load_tokenizer, token_ids
from zoom.settings import Tiles

SD3 = PARITY / "sd3"
PROMPTS = ["a cat", "fur", "a cat", "", "whiskers, fur"]


def encoders(**options):
    machine = Machine.choose(device="cpu", **options)
    checkpoint = check_sd3(str(SD3), None, None)
    parts = ResidentParts(checkpoint, machine, Tiles(), {}, xformers=False)
    return TextEncoders(checkpoint, parts, machine)


@pytest.fixture(scope="module")
def plain():
    return encoders()


@pytest.fixture
def encoded(monkeypatch):
    """Prompts in the order in which encoders read them."""
    read = []
    monkeypatch.setattr(
        text,
        "token_ids",
        lambda tokenizer, part, prompts: read.extend(prompts) or token_ids(tokenizer, part, prompts),
    )
    return read


def close(ours, theirs):
    torch.testing.assert_close(ours.float(), theirs, rtol=0, atol=1e-4)


def test_the_text_embeddings_are_the_published_ones(plain):
    published = load_file(PARITY / "expected" / "forward.safetensors")
    embeds, pooled = plain(["a photo of a cat"])["a photo of a cat"]
    close(embeds[None], published["prompt_embeds"])
    close(pooled[None], published["pooled"])


def test_a_prompts_embedding_does_not_depend_on_the_batch(plain):
    alone = {prompt: plain([prompt])[prompt] for prompt in PROMPTS}
    for prompt, embedding in encoders(batch_size=3)(PROMPTS).items():
        for ours, theirs in zip(embedding, alone[prompt], strict=True):
            close(ours, theirs)


def test_equal_prompts_are_encoded_once_also_from_call_to_call(encoded):
    encode = encoders(batch_size=5)
    for _ in range(2):
        assert list(encode(PROMPTS)) == ["a cat", "fur", "", "whiskers, fur"]
    assert sorted(encoded) == sorted(3 * ["", "a cat", "fur", "whiskers, fur"])


def test_the_embeddings_of_the_last_group_of_prompts_are_kept_and_no_more(encoded, monkeypatch):
    monkeypatch.setattr(text, "GROUP", 2)
    encode = encoders()
    assert set(encode(PROMPTS)) == set(PROMPTS)  # more than are kept, and all are given
    encoded.clear()
    encode(["", "whiskers, fur"])
    encode([""])
    assert encoded == []
    encode(["a cat"])  # in the place of the one that was used longest ago
    assert encoded == 3 * ["a cat"]
    encoded.clear()
    encode([""])
    assert encoded == []
    encode(["whiskers, fur"])
    assert encoded == 3 * ["whiskers, fur"]


def test_under_efficient_memory_each_encoder_is_loaded_once_for_all_prompts():
    machine = Machine.choose(device="cpu", efficient_memory=True)
    parts = ResidentParts(check_sd3(str(SD3), None, None), machine, Tiles(), {}, xformers=False)
    TextEncoders(check_sd3(str(SD3), None, None), parts, machine)(PROMPTS)
    assert machine.residency.loads == dict.fromkeys(TEXT_PARTS, 1)


def test_exact_embeddings_are_computed_in_fp32_and_kept_apart_from_the_others(plain):
    encode = encoders(precision="bf16")
    rough, exact, again = (encode(["a cat"], exact)["a cat"][0] for exact in (False, True, False))
    assert rough.dtype == torch.bfloat16
    assert exact.dtype == torch.float32
    assert torch.equal(rough, again)


@pytest.mark.parametrize(("part", "length"), [("text_enc_1", 77), ("text_enc_2", 77), ("text_enc_3", 512)])
@pytest.mark.parametrize(
    "prompt", ["", "a cat", ", ".join(["whiskers"] * 300)], ids=["none", "short", "long"]
)
def test_token_ids_are_77_for_clip_and_512_for_t5_however_long_the_prompt(part, length, prompt):
    assert token_ids(load_tokenizer(SD3, part), part, [prompt]).shape == (1, length)


def test_a_long_prompt_is_cut_at_77_tokens_for_clip_and_512_for_t5_and_the_log_says_so(plain, caplog):
    with caplog.at_level(logging.INFO, "sd3.text"):
        plain(["a cat"])
        assert not caplog.messages
        plain([", ".join(["whiskers"] * 300)])
    for part, tokens in (("text_enc_1", 77), ("text_enc_2", 77), ("text_enc_3", 512)):
        assert any(f"{part} reads {tokens} of" in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("part", "kind"), [("text_enc_2", "CLIPTokenizer"), ("text_enc_3", "T5TokenizerFast")]
)
def test_a_damaged_tokenizer_is_named_in_one_line(tmp_path, part, kind):
    shutil.copytree(SD3, tmp_path, dirs_exist_ok=True)
    for folder in ("tokenizer_2", "tokenizer_3"):
        for file in (tmp_path / folder).iterdir():
            file.write_text("{")
    with pytest.raises(InputError, match=f"not a {kind}") as caught:
        load_tokenizer(tmp_path, part)
    assert "\n" not in str(caught.value)

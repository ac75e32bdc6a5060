"""Qwen2.5-VL: the published questions and answers, batches, greedy decoding, precision, what is no prompt."""

import json
import logging
import shutil

import pytest
import torch
from conftest import PARITY
from PIL import Image

from prompts.qwen_vl import QwenProcessor
from prompts.vlm_files import check_vlm_folder
from prompts.vlm_loading import generate, load_vlm

QWEN = PARITY / "qwen"
ADAPTER = PARITY / "VLM_LoRA" / "checkpoint-10000"
CPU = torch.device("cpu")
CASES = ["recursive", "recursive+lora", "recursive_multiscale", "recursive_multiscale+lora"]


def picture(name):
    return Image.open(PARITY / name).convert("RGB")


@pytest.fixture(scope="module")
def expected():
    return json.loads((PARITY / "expected" / "vlm.json").read_text())


@pytest.fixture(scope="module")
def processor():
    return QwenProcessor(QWEN)


@pytest.fixture(scope="module")
def plain():
    return load_vlm(check_vlm_folder(QWEN, None), CPU, torch.float32)


@pytest.fixture(scope="module")
def tuned():
    return load_vlm(check_vlm_folder(QWEN, ADAPTER), CPU, torch.float32)


# the published numbers


@pytest.mark.parametrize("case", CASES)
def test_question_and_answer_are_those_of_the_published_code(case, expected, processor, plain, tuned):
    pictures = [picture("vlm_input/parent.png"), picture("vlm_input/crop.png")]
    row = pictures if "multiscale" in case else pictures[1:]
    wanted = expected[case]
    questions = processor([row])
    ids = generate(tuned if "lora" in case else plain, questions, max_new_tokens=32)
    assert processor.chat(len(row)) == wanted["chat"]
    assert questions["input_ids"].tolist() == [wanted["input_ids"]]
    assert questions["image_grid_thw"].tolist() == wanted["image_grid_thw"]
    assert ids.tolist() == [wanted["new_ids"]]
    assert processor.decode(ids) == [wanted["text"]]


def test_a_512_picture_is_seen_as_504_pixels_in_patches_of_14(processor):
    questions = processor([[Image.new("RGB", (512, 512))]])
    assert questions["image_grid_thw"].tolist() == [[1, 36, 36]]
    assert questions["pixel_values"].shape == (36 * 36, 3 * 2 * 14 * 14)


# batches


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_four_questions_at_once_get_the_answers_they_get_alone(penalty, processor, tuned, monkeypatch):
    """Of different lengths, so that three of them are padded."""
    monkeypatch.setattr(tuned.generation_config, "repetition_penalty", penalty)
    scene, crop = picture("input/scene.png"), picture("vlm_input/crop.png")
    rows = [[crop], [crop.resize((224, 168)), scene], [scene.resize((84, 84))], [scene, crop]]
    together = processor.decode(generate(tuned, processor(rows), 32))
    alone = [processor.decode(generate(tuned, processor([row]), 32))[0] for row in rows]
    assert together == alone
    assert len(set(alone)) == 4


def test_padding_adds_no_token_that_a_repetition_penalty_would_see(processor):
    small, large = ([Image.new("RGB", (side, side))] for side in (56, 112))
    questions = processor([small, large])
    assert set(questions["input_ids"][0].tolist()) == set(processor([small])["input_ids"][0].tolist())
    assert questions["attention_mask"].sum(1).tolist() == [
        len(processor([r])["input_ids"][0]) for r in (small, large)
    ]
    assert questions["attention_mask"][0, 0] == 0


# decoding


def test_a_folder_that_samples_next_to_greedily_is_decoded_greedily_with_its_penalty_and_in_silence(
    tmp_path, processor, caplog, capfd
):
    from transformers import GenerationConfig

    folder = shutil.copytree(QWEN, tmp_path / "qwen")
    config = json.loads((folder / "generation_config.json").read_text())
    as_3b_has_it = {"do_sample": True, "temperature": 1e-6, "repetition_penalty": 1.05}
    (folder / "generation_config.json").write_text(json.dumps(config | as_3b_has_it))
    model = load_vlm(check_vlm_folder(folder, ADAPTER), CPU, torch.float32)
    questions = processor([[picture("vlm_input/crop.png")]])
    with caplog.at_level(logging.INFO):
        greedy = generate(model, questions, 32)
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")

    model.generation_config = GenerationConfig.from_pretrained(folder)
    torch.manual_seed(0)
    sampled = generate(model, questions, 32)
    model.generation_config.update(do_sample=False, temperature=None, repetition_penalty=1.0)
    unpenalised = generate(model, questions, 32)
    assert greedy.tolist() == sampled.tolist() != unpenalised.tolist()


# loading, with the adapter merged


def test_the_merged_weights_are_those_that_peft_merges_and_nothing_stays_wrapped(tuned):
    from peft import PeftModel
    from transformers import Qwen2_5_VLForConditionalGeneration

    base = Qwen2_5_VLForConditionalGeneration.from_pretrained(QWEN)
    with pytest.warns(UserWarning, match="missing adapter keys"):  # the false alarm
        wrapped = PeftModel.from_pretrained(base, ADAPTER)
    merged = wrapped.merge_and_unload().state_dict()
    ours = tuned.state_dict()
    assert ours.keys() == merged.keys()
    assert all(torch.allclose(ours[name], merged[name], atol=1e-6) for name in ours)


def test_loading_with_the_adapter_says_nothing(caplog, capfd, recwarn):
    with caplog.at_level(logging.INFO):
        load_vlm(check_vlm_folder(QWEN, ADAPTER), CPU, torch.float32)
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in recwarn] == []


def test_the_adapter_is_added_in_fp32_before_the_weights_are_cast(tuned):
    halved = load_vlm(check_vlm_folder(QWEN, ADAPTER), CPU, torch.bfloat16).state_dict()
    for name, tensor in tuned.state_dict().items():
        assert torch.equal(halved[name], tensor.bfloat16()), name


@pytest.mark.parametrize("adapter", [None, ADAPTER])
def test_rotary_frequencies_stay_fp32_whatever_the_weights_are_cast_to(adapter, plain):
    halved = load_vlm(check_vlm_folder(QWEN, adapter), CPU, torch.bfloat16)
    buffers = dict(plain.named_buffers())
    assert buffers
    assert all(torch.equal(tensor, buffers[name]) for name, tensor in halved.named_buffers())

"""What a training takes: numbers that are known, and how they grow."""

import json
from dataclasses import replace
from math import prod

import pytest
from conftest import DATA, PARITY

from checkpoints.headers import safetensors_info
from prompts.vlm_files import check_vlm_folder, linear_layers
from training.settings import TrainingSettings
from training.takes import TRAINED, what_it_takes

SETTINGS = TrainingSettings()
REAL = json.loads((DATA / "qwen2_5_vl_3b" / "config.json").read_text())
# of Qwen2.5-VL-3B's language model: name, outputs, inputs
SHAPES = {
    "self_attn.q_proj": (2048, 2048),
    "self_attn.k_proj": (256, 2048),
    "self_attn.v_proj": (256, 2048),
    "self_attn.o_proj": (2048, 2048),
    "mlp.gate_proj": (11008, 2048),
    "mlp.up_proj": (11008, 2048),
    "mlp.down_proj": (2048, 11008),
}
LINEARS = {
    f"model.language_model.layers.{n}.{name}": shape for n in range(36) for name, shape in SHAPES.items()
}


def takes(item=2, **changed):
    return what_it_takes(REAL, 3_754_622_976, LINEARS, replace(SETTINGS, **changed), item)


def test_the_adapter_is_as_large_as_the_released_one_of_that_model():
    files = check_vlm_folder(PARITY / "qwen", None)
    small = what_it_takes(
        files.model.config, files.model.parameters, linear_layers(files.model.tensors), SETTINGS, 4
    )
    released = safetensors_info(PARITY / "VLM_LoRA" / "checkpoint-10000" / "adapter_model.safetensors")
    assert small.trained == TRAINED * sum(prod(info.shape) for info in released.values())


def test_of_the_real_size_are_its_weights_its_adapter_and_the_tokens_of_a_step():
    assert takes().weights == pytest.approx(7.51e9, rel=1e-3)
    assert takes().trained == TRAINED * 8 * 36 * (2 * 4096 + 2 * 2304 + 3 * 13056)
    # two pictures of 18x18 tokens, the question, the answer; 4 questions, 8 answers each
    assert takes().tokens == 32 * (2 * 324 + 60 + 128)


def test_more_answers_a_pass_take_more_memory_for_learning_and_nothing_else():
    one, more = takes(batch_size=4), takes(batch_size=16)
    assert more.learning > 2.5 * one.learning
    assert (more.weights, more.trained, more.generating, more.flops) == (
        one.weights, one.trained, one.generating, one.flops,
    )  # fmt: skip


def test_one_picture_is_about_half_of_two_and_no_reference_a_fifth_less():
    assert takes(rec_type="recursive").tokens == 32 * (324 + 60 + 128)
    assert takes(beta=0.0).flops == pytest.approx(0.8 * takes().flops, rel=0.02)

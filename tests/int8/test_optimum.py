"""Quantized parts opened with optimum's own classes: they compute what our sessions do."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import PARITY, ROOT
from optimum.onnxruntime import (
    ORTConfig,
    ORTModelForCustomTasks,
    ORTModelForFeatureExtraction,
    ORTStableDiffusion3Pipeline,
)
from quantized_parts import FROM, LORA, MODEL, VAE, quantized_parts
from transformers import PretrainedConfig

from int8 import write_folder
from int8.find_parts import part_folder
from int8.run_part import OnnxPart, session_options
from int8.write_folder import PIPELINE, lay_out_pipeline
from sd3.checkpoint import check_sd3
from sd3.spec import PARTS, TEXT_PARTS

CPU = torch.device("cpu")
EXAMPLES = {
    "text_enc_1": [torch.arange(154).view(2, 77) % 90],
    "text_enc_2": [torch.arange(154).view(2, 77) % 90],
    "text_enc_3": [torch.arange(1024).view(2, 512) % 90],
    "transformer": [torch.randn(2, 16, 12, 8), torch.tensor([1000.0, 1000.0]), torch.randn(2, 589, 128)],
    "vae_encoder": [torch.rand(2, 3, 64, 96) * 2 - 1],
    "vae_decoder": [torch.randn(2, 16, 8, 12)],
}


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    return quantized_parts(tmp_path_factory)


@pytest.fixture(scope="module")
def pipeline(quantized):
    return ORTStableDiffusion3Pipeline.from_pretrained(
        quantized / PIPELINE, session_options=session_options()
    )


def inputs_of(component):
    examples = list(EXAMPLES[component])
    if component == "transformer":
        config = json.loads((MODEL / "transformer" / "config.json").read_text())
        examples.append(torch.randn(2, config["pooled_projection_dim"]))
    return examples


def ours(quantized, component, examples):
    outputs = OnnxPart(part_folder(quantized, component), CPU)(*examples)
    return outputs if isinstance(outputs, tuple) else (outputs,)


@pytest.mark.parametrize("component", PARTS)
def test_every_part_opens_by_itself_and_answers_by_the_ecosystems_names(quantized, component):
    examples = inputs_of(component)
    # transformers knows no configuration of diffusers' parts: these open with an empty one
    config = None if component in TEXT_PARTS else PretrainedConfig()
    model = ORTModelForCustomTasks.from_pretrained(
        part_folder(quantized, component), config=config, session_options=session_options()
    )
    outputs = model(**dict(zip(PARTS[component].inputs, examples, strict=True)))
    names = list(PARTS[component].outputs)
    if names[0] == "hidden_states":  # the penultimate one, as SD3 wants it
        names[0] = [name for name in outputs if name.startswith("hidden_states.")][-1]
    for name, expected in zip(names, ours(quantized, component, examples), strict=True):
        torch.testing.assert_close(outputs[name], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("component", TEXT_PARTS)
def test_text_encoders_open_for_feature_extraction(quantized, component):
    [input_ids] = inputs_of(component)
    model = ORTModelForFeatureExtraction.from_pretrained(
        part_folder(quantized, component), session_options=session_options()
    )
    found = model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids)).last_hidden_state
    original = json.loads((MODEL / PARTS[component].folder / "config.json").read_text())
    assert model.config.model_type == original["model_type"]
    if component == "text_enc_3":
        torch.testing.assert_close(found, ours(quantized, component, [input_ids])[0], rtol=0, atol=1e-5)
    else:
        assert found.shape == (*input_ids.shape, original["hidden_size"])


@pytest.mark.parametrize("component", PARTS)
def test_ort_config_says_how_it_was_quantized(quantized, component):
    config = ORTConfig.from_pretrained(part_folder(quantized, component))
    record = json.loads((part_folder(quantized, component) / "quantization.json").read_text())
    assert config.opset == record["opset"]
    assert config.quantization.is_static
    others = {name for name, layer in record["layers"].items() if layer["stored"] != "static"}
    assert {name.removeprefix("model.") for name in config.quantization.nodes_to_exclude} == others


def test_all_six_open_as_a_pipeline_that_embeds_a_prompt_as_we_do(quantized, pipeline):
    prompt = "a photo of a cat"
    embeds, _, pooled, _ = pipeline.encode_prompt(
        prompt, None, None, do_classifier_free_guidance=False, max_sequence_length=512
    )
    from sd3.text import join_embeddings, load_tokenizer, token_ids

    by_part = [
        [
            tensor[0]
            for tensor in ours(quantized, part, [token_ids(load_tokenizer(MODEL, part), part, [prompt])])
        ]
        for part in TEXT_PARTS
    ]
    expected, expected_pooled = join_embeddings(*map(tuple, by_part))
    torch.testing.assert_close(embeds[0], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(pooled[0], expected_pooled, rtol=0, atol=1e-5)


def test_the_pipelines_networks_make_what_our_sessions_make(quantized, pipeline):
    [picture], [latent] = inputs_of("vae_encoder"), inputs_of("vae_decoder")
    moments = pipeline.vae.encode(picture).latent_dist.parameters
    torch.testing.assert_close(moments, *ours(quantized, "vae_encoder", [picture]), rtol=0, atol=1e-5)
    made = pipeline.vae.decode(latent, return_dict=False)[0]
    torch.testing.assert_close(made, *ours(quantized, "vae_decoder", [latent]), rtol=0, atol=1e-5)
    sample, timestep, prompt, pooled = inputs_of("transformer")
    velocity = pipeline.transformer(
        hidden_states=sample, timestep=timestep, encoder_hidden_states=prompt, pooled_projections=pooled,
        return_dict=False,
    )[0]  # fmt: skip
    expected = ours(quantized, "transformer", [sample, timestep, prompt, pooled])
    torch.testing.assert_close(velocity, *expected, rtol=0, atol=1e-5)


def test_the_pipeline_takes_no_room_of_its_own(quantized):
    file = quantized / PIPELINE / "text_encoder_3" / "model.onnx.data"
    assert file.samefile(part_folder(quantized, "text_enc_3") / "model.onnx.data")


def test_parts_of_other_files_make_no_pipeline(quantized, tmp_path):
    parts, own = shutil.copytree(quantized, tmp_path / "parts"), check_sd3(str(MODEL), LORA, VAE)
    assert lay_out_pipeline(parts, own) == parts / PIPELINE
    assert lay_out_pipeline(parts, check_sd3(str(MODEL), None, None)) is None
    assert not (parts / PIPELINE).exists()  # nor one of before, whose parts are others by now
    assert lay_out_pipeline(parts, own) == parts / PIPELINE
    shutil.rmtree(part_folder(parts, "vae_decoder"))
    assert lay_out_pipeline(parts, own) is None
    assert not (parts / PIPELINE).exists()


def test_where_nothing_can_be_linked_the_parts_are_there_all_the_same(
    quantized, tmp_path, monkeypatch, caplog
):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    shutil.copytree(quantized, tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / PIPELINE)
    monkeypatch.setattr(write_folder.os, "link", refuse)
    assert lay_out_pipeline(tmp_path / "parts", check_sd3(str(MODEL), LORA, VAE)) is None
    assert "pipeline: not made (Operation not permitted)" in caplog.text
    assert {file.name for file in (tmp_path / "parts").iterdir()} == set(PARTS)


def test_nothing_of_the_libraries_own_talk_is_heard(tmp_path):
    arguments = [sys.executable, "quantize_model.py", "--output_dir", tmp_path, *FROM[:2]]
    arguments += ["--calibration_data", PARITY / "expected" / "4_recursive_multiscale_nofix", "-q"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""

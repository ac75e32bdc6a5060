"""int8 ONNX parts in PyTorch's place: the same call, the same pictures nearly, and every way to fall back."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from conftest import PARITY
from PIL import Image
from quantized_parts import LORA, MODEL, VAE, quantized_parts

from checkpoints import hashing
from errors import InputError
from int8 import run_part
from int8.run_part import find_parts, part_folder, sha256_of, stand_ins
from machine.residency import Residency, plan_devices
from machine.stage_times import StageTimes
from osediff_sd3 import OSEDiffSD3, Tiles

COMPONENTS = ("text_enc_1", "text_enc_2", "text_enc_3", "transformer", "vae_encoder", "vae_decoder")
TEXT = COMPONENTS[:3]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    return quantized_parts(tmp_path_factory)


@pytest.fixture
def copied(quantized, tmp_path):
    """A folder of quantized parts to break."""
    shutil.copytree(quantized, tmp_path / "quantized")
    return tmp_path / "quantized"


@pytest.fixture(scope="module")
def crops():
    folder = PARITY / "expected" / "3_recursive_nofix" / "per-sample"
    return [Image.open(folder / name / "1_input.png").convert("RGB") for name in ("scene", "turned")]


def zoom(crops, stand_ins, side=128, tiles=None):
    """One SR pass; return the pictures and what was loaded."""
    times = StageTimes()
    residency = Residency(times=times)
    backbone = OSEDiffSD3(
        str(MODEL), LORA, VAE, plan=plan_devices("cpu"), residency=residency, times=times, batch_size=2,
        stand_ins=stand_ins, tiles=tiles,
    )  # fmt: skip
    pictures = list(backbone(crops, side, ["a photo of a cat", ""], [1, 2]))
    return np.stack([np.asarray(picture, dtype=float) for picture in pictures])


def decibels(found, exact):
    return 10 * np.log10(255**2 / np.mean((found - exact) ** 2))


@pytest.fixture(scope="module")
def exact(crops):
    return zoom(crops, {})


def load_quantized_parts(folder, model, tiles=None):
    """Find the parts, and return their loaders."""
    return stand_ins(find_parts(folder, str(model), LORA, VAE), str(model), tiles)


# in PyTorch's place


@pytest.mark.parametrize(
    ("components", "least"),
    [(TEXT, 45), (("transformer",), 35), (("vae_encoder",), 33), (("vae_decoder",), 40), (COMPONENTS, 30)],
    ids=["text", "transformer", "vae_encoder", "vae_decoder", "all"],
)
def test_pictures_come_out_within_decibels_of_pytorchs(quantized, crops, exact, components, least):
    loaders = load_quantized_parts(quantized, MODEL)
    found = zoom(crops, {component: loaders[component] for component in components})
    assert least <= decibels(found, exact) < np.inf  # infinite would be PyTorch itself


def test_with_three_text_encoders_pytorchs_files_are_not_even_needed(quantized, crops, exact, tmp_path):
    shutil.copytree(MODEL, tmp_path / "sd3")
    for folder in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        (tmp_path / "sd3" / folder / "model.safetensors").unlink()
    loaders = load_quantized_parts(quantized, tmp_path / "sd3")
    text = {component: loaders[component] for component in TEXT}
    times = StageTimes()
    backbone = OSEDiffSD3(
        str(tmp_path / "sd3"), LORA, VAE, plan=plan_devices("cpu"), residency=Residency(times=times),
        times=times, stand_ins=text,
    )  # fmt: skip
    found = np.asarray(next(iter(backbone(crops[:1], 128, ["a photo of a cat"], [1]))), dtype=float)
    assert decibels(found, exact[0]) > 45


@pytest.mark.parametrize("side", [64, 192])
def test_parts_take_sizes_they_were_not_calibrated_with(quantized, crops, side):
    loaders = load_quantized_parts(quantized, MODEL)
    assert decibels(zoom(crops, loaders, side), zoom(crops, {}, side)) > 28


def test_the_vae_works_by_tiles_as_pytorchs_does(quantized, crops):
    tiles = Tiles(vae_encoder=64, vae_decoder=16)
    loaders = load_quantized_parts(quantized, MODEL, tiles)
    vae = {component: loaders[component] for component in COMPONENTS[4:]}
    by_tiles = zoom(crops, vae, 192, tiles)
    assert decibels(by_tiles, zoom(crops, {}, 192, tiles)) > 30
    whole = load_quantized_parts(quantized, MODEL)
    assert not np.array_equal(by_tiles, zoom(crops, {one: whole[one] for one in vae}, 192))


def test_a_part_answers_floats_of_any_dtype_in_fp32(quantized):
    part = load_quantized_parts(quantized, MODEL)["vae_decoder"](CPU)
    z = torch.zeros(1, 16, 8, 8, dtype=torch.bfloat16)
    assert part(z).dtype == torch.float32
    assert part(z).shape == (1, 3, 64, 64)


def test_finding_parts_imports_neither_torch_nor_onnxruntime(quantized):
    import subprocess
    import sys

    code = (
        "import sys, pathlib; from int8 import run_part\n"
        f"found = run_part.find_parts(pathlib.Path({str(quantized)!r}), {str(MODEL)!r},"
        f" pathlib.Path({str(LORA)!r}), pathlib.Path({str(VAE)!r}))\n"
        "assert len(found.folders) == 6, found\n"
        "assert not {'torch', 'onnxruntime', 'transformers'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PARITY.parents[2], check=False)
    assert done.returncode == 0


def test_what_stands_in_is_described_and_changes_with_the_part(copied):
    found = find_parts(copied, str(MODEL), LORA, VAE)
    described = found.describe()
    assert sum(found.bytes().values()) > 1_000_000
    path = part_folder(copied, "text_enc_1") / "quantization.json"
    path.write_text(path.read_text() + " ")
    after = find_parts(copied, str(MODEL), LORA, VAE).describe()
    assert [one for one in COMPONENTS if after[one] != described[one]] == ["text_enc_1"]


# falling back


def found_without(folder, component, model=MODEL, lora=LORA, vae=VAE):
    """Check that one part is refused and the others stand in; return the one warning about it."""
    found = find_parts(folder, str(model), lora, vae)
    assert set(found.folders) == set(COMPONENTS) - {component}
    (warning,) = found.warnings(folder)
    assert component in warning
    assert "PyTorch's" in warning
    return warning


def test_a_missing_folder_is_one_warning_and_everything_is_pytorchs(tmp_path):
    found = find_parts(tmp_path / "nothing", str(MODEL), LORA, VAE)
    assert stand_ins(found, str(MODEL)) == {}
    (line,) = found.warnings(tmp_path / "nothing")
    assert "holds no quantized part (make them with quantize_model.py)" in line


def test_missing_parts_are_named_in_one_warning(copied):
    for component in COMPONENTS[3:]:
        shutil.rmtree(copied / component)
    found = find_parts(copied, str(MODEL), LORA, VAE)
    assert set(found.folders) == set(TEXT)
    (warning,) = found.warnings(copied)
    assert warning.startswith("--quantize: transformer, vae_encoder, vae_decoder not in")


@pytest.mark.parametrize("file", ["model.onnx", "model.onnx.data"])
def test_a_truncated_file_is_refused_before_anything_is_loaded(copied, file):
    path = part_folder(copied, "text_enc_2") / file
    path.write_bytes(path.read_bytes()[:-100])
    assert f"{file} is damaged" in found_without(copied, "text_enc_2")


def test_a_missing_file_is_refused(copied):
    (part_folder(copied, "text_enc_1") / "model.onnx").unlink()
    assert "model.onnx is missing" in found_without(copied, "text_enc_1")


def test_a_model_that_was_changed_is_refused(copied):
    path = part_folder(copied, "vae_decoder") / "model.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    assert "SHA-256" in found_without(copied, "vae_decoder")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}'])
def test_a_damaged_record_is_refused(copied, content):
    (part_folder(copied, "transformer") / "quantization.json").write_text(content)
    assert "quantization.json is damaged" in found_without(copied, "transformer")


def test_a_part_of_another_component_is_refused(copied):
    shutil.rmtree(part_folder(copied, "text_enc_2"))
    shutil.copytree(part_folder(copied, "text_enc_1"), part_folder(copied, "text_enc_2"))
    assert "another component" in found_without(copied, "text_enc_2")


def test_a_part_of_another_base_model_is_refused_by_its_sha256(quantized, tmp_path):
    shutil.copytree(MODEL, tmp_path / "sd3")
    weights = tmp_path / "sd3" / "text_encoder_3" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    warning = found_without(quantized, "text_enc_3", model=tmp_path / "sd3")
    assert "another base model" in warning
    assert str(weights) in warning


def test_a_part_of_another_lora_or_of_none_is_refused(quantized, tmp_path):
    other = tmp_path / "other.pkl"
    other.write_bytes(LORA.read_bytes() + b"x")
    assert "another SR LoRA" in found_without(quantized, "transformer", lora=other)
    found = find_parts(quantized, str(MODEL), None, None)
    assert set(found.refused) == {"transformer", "vae_encoder"}


def test_weights_that_were_damaged_without_a_change_of_size_are_found(copied):
    data = part_folder(copied, "text_enc_2") / "model.onnx.data"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 255
    data.write_bytes(bytes(content))
    assert "model.onnx.data is damaged" in found_without(copied, "text_enc_2")


def test_a_session_that_does_not_open_falls_back_to_pytorch_with_one_warning(copied, crops, exact, caplog):
    folder = part_folder(copied, "text_enc_1")
    (folder / "model.onnx").write_bytes(b"not a model")
    record = json.loads((folder / "quantization.json").read_text())
    record["files"]["model.onnx"] = {"bytes": 11, "sha256": sha256_of(folder / "model.onnx")}
    (folder / "quantization.json").write_text(json.dumps(record))
    loaders = load_quantized_parts(copied, MODEL)
    with caplog.at_level(logging.WARNING, logger="osediff_sd3"):
        found = zoom(crops, {"text_enc_1": loaders["text_enc_1"]})
    (line,) = (message for message in caplog.messages if "text_enc_1" in message)
    assert "does not load" in line
    assert np.array_equal(found, exact)


def test_a_wrong_model_folder_is_an_input_error(quantized):
    with pytest.raises(InputError, match="nowhere"):
        find_parts(quantized, "./nowhere", LORA, VAE)


# hashing


def test_a_large_file_is_hashed_once_and_again_when_it_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(run_part, "SMALL", 4)
    hashed = []
    digest = hashing.hashlib.file_digest
    monkeypatch.setattr(hashing.hashlib, "file_digest", lambda *a: hashed.append(1) or digest(*a))
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"first content")
    first = sha256_of(file)
    assert sha256_of(file) == first
    assert len(hashed) == 1
    file.write_bytes(b"other content!")
    assert sha256_of(file) != first
    assert len(hashed) == 2


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.setattr(run_part, "SMALL", 4)
    file = tmp_path / "weights"
    file.write_bytes(b"content")
    assert len(sha256_of(file)) == 64


def test_the_hub_caches_names_are_taken_for_the_sha256(tmp_path):
    blob = tmp_path / "blobs" / ("ab" * 32)
    blob.parent.mkdir()
    blob.write_bytes(b"large")
    link = tmp_path / "model.safetensors"
    link.symlink_to(blob)
    assert sha256_of(link) == "ab" * 32


# the command


@pytest.fixture(scope="module")
def zoomed(tmp_path_factory):
    """What the command makes without --quantize."""
    import inference_coz

    out = tmp_path_factory.mktemp("zoomed")
    assert inference_coz.main([str(argument) for argument in (*ZOOM, "-o", out)]) == 0
    return states(out)


ZOOM = (
    "-i", PARITY / "input", "--process_size", 128, "--rec_num", 1, "--rec_type", "recursive",
    "--prompt_type", "null", "--prompt", "a photo of a cat", "--pretrained_model_name_or_path", MODEL,
    "--lora_path", LORA, "--vae_path", VAE,
)  # fmt: skip


def states(out):
    files = sorted((out / "per-sample").glob("*/1.png"))
    assert len(files) == 2
    return np.stack([np.asarray(Image.open(file), dtype=float) for file in files])


def test_the_command_with_quantize_makes_pictures_within_decibels_of_the_one_without(
    command, quantized, zoomed, tmp_path
):
    done = command("inference_coz", *ZOOM, "-o", tmp_path, "--quantize", "--quantized_dir", quantized)
    assert done.code == 0
    assert "PyTorch" not in done.err
    assert 30 <= decibels(states(tmp_path), zoomed) < np.inf


def test_the_command_without_quantized_parts_warns_once_and_makes_pytorchs_pictures(
    command, zoomed, tmp_path
):
    done = command("inference_coz", *ZOOM, "-o", tmp_path, "--quantize", "--quantized_dir", tmp_path / "no")
    assert done.code == 0
    assert done.err.count("holds no quantized part") == 1
    assert np.array_equal(states(tmp_path), zoomed)


def test_the_command_names_a_truncated_part_and_goes_on(command, copied, zoomed, tmp_path):
    for component in COMPONENTS[1:]:
        shutil.rmtree(copied / component)
    path = part_folder(copied, "text_enc_1") / "model.onnx"
    path.write_bytes(path.read_bytes()[:1000])
    done = command("inference_coz", *ZOOM, "-o", tmp_path / "out", "--quantize", "--quantized_dir", copied)
    assert done.code == 0
    assert done.err.count("model.onnx is damaged") == 1
    assert np.array_equal(states(tmp_path / "out"), zoomed)

"""int8 ONNX sessions in PyTorch's place: the same call, nearly the same pictures, every way to fall back."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PARITY
from PIL import Image
from quantized_parts import LORA, MODEL, VAE, quantized_parts

from checkpoints.hashing import sha256_of
from errors import InputError
from int8.find_parts import QuantizedParts, part_folder, read_parts
from int8.run_part import open_part, refuse_what_does_not_open, stand_ins
from machine.machine import Machine
from machine.memory import Size
from osediff_sd3 import OSEDiffSD3
from sd3.checkpoint import check_sd3
from sd3.spec import PARTS, TEXT_PARTS, VAE_PARTS
from zoom.protocols import StepInput
from zoom.settings import Tiles

CPU = torch.device("cpu")
VAE_CONFIG = json.loads((MODEL / "vae" / "config.json").read_text())


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


def zoom(crops, stand_ins, size=(128, 128), tiles=None, model=MODEL):
    """Return the pictures of one SR pass."""
    checkpoint = check_sd3(str(model), LORA, VAE, replaced=stand_ins)
    backbone = OSEDiffSD3(checkpoint, Machine.choose("cpu", batch_size=2), tiles, stand_ins)
    inputs = [StepInput(crop, crop.resize(size, Image.Resampling.BICUBIC)) for crop in crops]
    prompts = [["a photo of a cat"], [""]][: len(crops)]
    pictures = list(backbone(inputs, prompts, [1, 2][: len(crops)]))
    return np.stack([np.asarray(picture, dtype=float) for picture in pictures])


def decibels(found, exact):
    return 10 * np.log10(255**2 / np.mean((found - exact) ** 2))


@pytest.fixture(scope="module")
def exact(crops):
    return zoom(crops, {})


def find(folder: Path, model: Path = MODEL) -> QuantizedParts:
    """Find the parts that can stand in for a run's."""
    found = read_parts(folder)
    found.refuse_others_sources(model, LORA, VAE)
    return found


def loaders_of(folder, parts: Sequence[str] = tuple(PARTS), tiles=None, model=MODEL):
    """Return the loaders and sizes of some parts."""
    loaders = stand_ins(find(folder, model), VAE_CONFIG, tiles or Tiles())
    return {part: loaders[part] for part in parts}


# in PyTorch's place


@pytest.mark.parametrize(
    ("parts", "least"),
    [
        (TEXT_PARTS, 45),
        (("transformer",), 35),
        (("vae_encoder",), 33),
        (("vae_decoder",), 40),
        (tuple(PARTS), 30),
    ],
    ids=["text", "transformer", "vae_encoder", "vae_decoder", "all"],
)
def test_pictures_come_out_within_decibels_of_pytorchs(quantized, crops, exact, parts, least):
    found = zoom(crops, loaders_of(quantized, parts))
    assert least <= decibels(found, exact) < np.inf  # infinite would be PyTorch itself


def test_with_three_text_encoders_pytorchs_files_are_not_even_needed(quantized, crops, exact, tmp_path):
    shutil.copytree(MODEL, tmp_path / "sd3")
    for folder in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        (tmp_path / "sd3" / folder / "model.safetensors").unlink()
    text = loaders_of(quantized, TEXT_PARTS, model=tmp_path / "sd3")
    (found,) = zoom(crops[:1], text, model=tmp_path / "sd3")
    assert decibels(found, exact[0]) > 45


@pytest.mark.parametrize("size", [(64, 64), (192, 192), (96, 208), (150, 70)], ids=str)
def test_parts_take_sizes_they_were_not_calibrated_with(quantized, crops, size):
    assert decibels(zoom(crops, loaders_of(quantized), size), zoom(crops, {}, size)) > 28


def test_parts_take_large_pictures_tile_by_tile(quantized, crops):
    tiles, size = Tiles(vae_encoder=128, vae_decoder=16, latent=16, latent_overlap=4), (300, 200)
    found, exact = (zoom(crops, parts, size, tiles) for parts in (loaders_of(quantized, tiles=tiles), {}))
    assert found.shape == (2, 200, 300, 3)
    assert decibels(found, exact) > 28


def test_the_vae_works_by_tiles_as_pytorchs_does(quantized, crops):
    tiles = Tiles(vae_encoder=64, vae_decoder=16)
    by_tiles = zoom(crops, loaders_of(quantized, VAE_PARTS, tiles), (192, 192), tiles)
    assert decibels(by_tiles, zoom(crops, {}, (192, 192), tiles)) > 30
    assert not np.array_equal(by_tiles, zoom(crops, loaders_of(quantized, VAE_PARTS), (192, 192)))


def test_a_part_answers_floats_of_any_dtype_in_fp32(quantized):
    load, _ = loaders_of(quantized)["vae_decoder"]
    part = load(CPU)
    z = torch.zeros(1, 16, 8, 8, dtype=torch.bfloat16)
    assert part(z).dtype == torch.float32
    assert part(z).shape == (1, 3, 64, 64)


def test_the_plan_learns_what_a_part_takes_from_its_files(quantized):
    for part, (_, size) in loaders_of(quantized).items():
        files = part_folder(quantized, part).iterdir()
        assert size == Size(0, sum(file.stat().st_size for file in files))


# falling back


def test_where_nothing_is_found_nothing_stands_in(tmp_path):
    assert stand_ins(find(tmp_path / "nothing"), VAE_CONFIG, Tiles()) == {}


def damage(folder: Path) -> None:
    """Break a part so that only onnxruntime can tell: its record agrees with its files."""
    (folder / "model.onnx").write_bytes(b"not a model")
    record = json.loads((folder / "quantization.json").read_text())
    record["files"]["model.onnx"] = {"bytes": 11, "sha256": sha256_of(folder / "model.onnx")}
    (folder / "quantization.json").write_text(json.dumps(record))


def test_sessions_that_open_are_kept(quantized):
    found = find(quantized)
    refuse_what_does_not_open(found)
    assert set(found.folders) == set(PARTS)
    assert found.warnings() == []


def test_a_session_that_does_not_open_is_left_to_pytorch_with_one_warning(copied):
    damage(part_folder(copied, "text_enc_1"))
    found = find(copied)
    assert set(found.folders) == set(PARTS)  # as far as files tell
    refuse_what_does_not_open(found)
    others = set(PARTS) - {"text_enc_1"}
    assert set(found.folders) == set(found.describe()) == others
    assert set(stand_ins(found, VAE_CONFIG, Tiles())) == others
    (warning,) = found.warnings()
    assert warning.startswith("text_enc_1: ")
    assert "does not open" in warning
    assert warning.endswith("PyTorch's is used instead")
    assert "\n" not in warning


def test_a_part_that_is_damaged_while_the_run_goes_on_ends_it_in_one_line(copied):
    folder = part_folder(copied, "text_enc_1")
    damage(folder)
    with pytest.raises(InputError, match=r"text_enc_1_quantized: does not open any more") as caught:
        open_part(folder, "text_enc_1", CPU, VAE_CONFIG, Tiles())
    assert "\n" not in str(caught.value)


# the command


ZOOM = (
    "-i", PARITY / "input", "--process_size", 128, "--rec_num", 1, "--rec_type", "recursive",
    "--prompt_type", "null", "--prompt", "a photo of a cat", "--device", "cpu",
    "--lora_path", LORA, "--vae_path", VAE, "--pretrained_model_name_or_path",
)  # fmt: skip


@pytest.fixture(scope="module")
def zoomed(tmp_path_factory):
    """What the command makes without --quantize."""
    import inference_coz

    out = tmp_path_factory.mktemp("zoomed")
    assert inference_coz.main([str(argument) for argument in (*ZOOM, MODEL, "-o", out)]) == 0
    return states(out)


def states(out):
    files = sorted((out / "per-sample").glob("*/1.png"))
    assert len(files) == 2
    return np.stack([np.asarray(Image.open(file), dtype=float) for file in files])


def stood_in(out):
    """Return the parts that run.json says were quantized."""
    run = json.loads((out / "run.json").read_text())
    return set(run["settings"]["quantized"])


def test_the_command_with_quantize_makes_pictures_within_decibels_of_the_one_without(
    command, quantized, zoomed, tmp_path
):
    done = command("inference_coz", *ZOOM, MODEL, "-o", tmp_path, "--quantize", "--quantized_dir", quantized)
    assert done.code == 0
    assert "PyTorch" not in done.err
    assert 30 <= decibels(states(tmp_path), zoomed) < np.inf
    assert stood_in(tmp_path) == set(PARTS)


def test_the_command_without_quantized_parts_warns_once_and_makes_pytorchs_pictures(
    command, zoomed, tmp_path
):
    out, no = tmp_path / "out", tmp_path / "no"
    done = command("inference_coz", *ZOOM, MODEL, "-o", out, "--quantize", "--quantized_dir", no)
    assert done.code == 0
    assert done.err.count("holds no quantized part") == 1
    assert np.array_equal(states(out), zoomed)
    assert stood_in(out) == set()


@pytest.fixture
def only_clip_l(copied):
    """A folder with one quantized part to break."""
    for component in PARTS:
        if component != "text_enc_1":
            shutil.rmtree(copied / component)
    return copied


def test_the_command_names_a_truncated_part_and_goes_on(command, only_clip_l, zoomed, tmp_path):
    path = part_folder(only_clip_l, "text_enc_1") / "model.onnx"
    path.write_bytes(path.read_bytes()[:1000])
    out = tmp_path / "out"
    done = command("inference_coz", *ZOOM, MODEL, "-o", out, "--quantize", "--quantized_dir", only_clip_l)
    assert done.code == 0
    assert done.err.count("model.onnx is damaged") == 1
    assert np.array_equal(states(out), zoomed)


def test_the_command_names_a_part_that_does_not_open_and_run_json_says_who_made_the_pictures(
    command, only_clip_l, zoomed, tmp_path
):
    damage(part_folder(only_clip_l, "text_enc_1"))
    out = tmp_path / "out"
    done = command("inference_coz", *ZOOM, MODEL, "-o", out, "--quantize", "--quantized_dir", only_clip_l)
    assert done.code == 0
    assert done.err.count("does not open") == 1
    assert np.array_equal(states(out), zoomed)
    assert stood_in(out) == set()


def test_a_part_that_does_not_open_needs_pytorchs_files_before_the_run_begins(command, only_clip_l, tmp_path):
    shutil.copytree(MODEL, tmp_path / "sd3")
    (tmp_path / "sd3" / "text_encoder" / "model.safetensors").unlink()
    damage(part_folder(only_clip_l, "text_enc_1"))
    out = tmp_path / "out"
    done = command(
        "inference_coz", *ZOOM, tmp_path / "sd3", "-o", out, "--quantize", "--quantized_dir", only_clip_l
    )
    assert done.code == 2
    assert "text_encoder: no weights" in done.err
    assert not out.exists()


def test_a_wrong_model_folder_is_an_input_error(command, quantized, tmp_path):
    done = command(
        "inference_coz", *ZOOM, "./nowhere", "-o", tmp_path, "--quantize", "--quantized_dir", quantized
    )
    assert done.code == 2
    assert "nowhere" in done.err

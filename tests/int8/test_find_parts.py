"""The folder of quantized parts: which can stand in, and why the others are left to PyTorch."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from quantized_parts import LORA, MODEL, VAE, quantized_parts

from checkpoints.hashing import checkpoint_sha256
from int8.find_parts import QuantizedParts, part_folder, read_parts
from sd3.spec import PARTS, TEXT_PARTS


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    return quantized_parts(tmp_path_factory)


@pytest.fixture
def copied(quantized, tmp_path):
    """A folder of quantized parts to break."""
    shutil.copytree(quantized, tmp_path / "quantized")
    return tmp_path / "quantized"


def find(folder: Path, model=MODEL, lora=LORA, vae=VAE) -> QuantizedParts:
    """Find the parts that can stand in for a run's."""
    found = read_parts(folder)
    found.refuse_others_sources(model, lora, vae)
    return found


def test_whole_parts_of_a_runs_own_files_stand_in_without_a_word(quantized):
    found = find(quantized)
    assert set(found.folders) == set(PARTS)
    assert found.warnings() == []


def test_finding_parts_imports_neither_torch_nor_onnxruntime(quantized):
    code = (
        "import sys; from pathlib import Path; from int8.find_parts import read_parts\n"
        f"found = read_parts(Path({str(quantized)!r}))\n"
        f"found.refuse_others_sources(Path({str(MODEL)!r}), Path({str(LORA)!r}), Path({str(VAE)!r}))\n"
        "assert len(found.folders) == 6, found\n"
        "assert not {'torch', 'onnxruntime', 'transformers'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == 0


def test_what_stands_in_is_described_and_changes_with_the_part(copied):
    found = find(copied)
    described = found.describe()
    assert sum(found.bytes().values()) > 1_000_000
    path = part_folder(copied, "text_enc_1") / "quantization.json"
    path.write_text(path.read_text() + " ")
    after = find(copied).describe()
    assert [one for one in PARTS if after[one] != described[one]] == ["text_enc_1"]


# left to PyTorch


def found_without(folder, component, **files) -> str:
    """Check that one part is refused and the others stand in; return the one warning about it."""
    found = find(folder, **files)
    assert set(found.folders) == set(found.describe()) == set(PARTS) - {component}
    (warning,) = found.warnings()
    assert component in warning
    assert "PyTorch's" in warning
    return warning


def test_a_missing_folder_is_one_warning_and_everything_is_pytorchs(tmp_path):
    found = find(tmp_path / "nothing")
    assert found.folders == found.describe() == {}
    (line,) = found.warnings()
    assert "holds no quantized part (make them with quantize_model.py)" in line


def test_missing_parts_are_named_in_one_warning(copied):
    for component in ("transformer", "vae_encoder", "vae_decoder"):
        shutil.rmtree(copied / component)
    found = find(copied)
    assert set(found.folders) == set(TEXT_PARTS)
    (warning,) = found.warnings()
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


def test_weights_that_were_damaged_without_a_change_of_size_are_found(copied):
    data = part_folder(copied, "text_enc_2") / "model.onnx.data"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 255
    data.write_bytes(bytes(content))
    assert "model.onnx.data is damaged" in found_without(copied, "text_enc_2")


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


def test_base_weights_that_are_not_there_at_all_are_not_compared(quantized, tmp_path):
    shutil.copytree(MODEL, tmp_path / "sd3")
    (tmp_path / "sd3" / "text_encoder" / "model.safetensors").unlink()
    assert set(find(quantized, model=tmp_path / "sd3").folders) == set(PARTS)
    config = tmp_path / "sd3" / "text_encoder" / "config.json"
    config.write_text(config.read_text() + " ")
    assert "another base model" in found_without(quantized, "text_enc_1", model=tmp_path / "sd3")


def test_a_part_of_another_lora_or_of_none_is_refused(quantized, tmp_path):
    other = tmp_path / "other.pkl"
    other.write_bytes(LORA.read_bytes() + b"x")
    assert "another SR LoRA" in found_without(quantized, "transformer", lora=other)
    found = find(quantized, lora=None, vae=None)
    assert set(found.refused) == {"transformer", "vae_encoder"}


def test_a_file_that_cannot_be_read_leaves_its_part_to_pytorch(quantized, monkeypatch):
    def read(path, came=None):
        if path.parent.name.startswith("text_enc_1") and path.name == "model.onnx":
            raise PermissionError(13, "Permission denied")
        return checkpoint_sha256(path)

    monkeypatch.setattr("int8.find_parts.checkpoint_sha256", read)
    assert "model.onnx cannot be read (Permission denied)" in found_without(quantized, "text_enc_1")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_the_place_of_a_record_is_not_waited_for(copied):
    path = part_folder(copied, "text_enc_1") / "quantization.json"
    path.unlink()
    os.mkfifo(path)
    assert "quantization.json is damaged" in found_without(copied, "text_enc_1")

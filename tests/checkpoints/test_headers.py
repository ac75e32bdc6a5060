"""What a weights file's header tells: names and shapes, half-downloads, and code that is not run."""

import os
import pickle
import zipfile

import pytest
import torch
from conftest import PARITY

from checkpoints.headers import TensorInfo, safetensors_info, torch_file_info
from errors import InputError

LORA = PARITY / "SR_LoRA" / "model_20001.pkl"


class Code:
    """Unpickling it runs a command."""

    def __reduce__(self):
        return os.system, ("touch ran",)


def test_a_pickle_with_code_in_it_is_named_and_its_code_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "lora.pkl"
    torch.save([Code()], path)
    with pytest.raises(InputError, match=r"holds code \((posix|nt).system\)"):
        torch_file_info(path)
    assert not (tmp_path / "ran").exists()


def test_a_plain_pickle_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "lora.pkl"
    path.write_bytes(pickle.dumps([Code()]))
    with pytest.raises(InputError, match=r"a plain pickle, or torch's format from before 1.6"):
        torch_file_info(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("part", [0.01, 0.5, 0.99])
def test_a_half_downloaded_torch_file_is_named(tmp_path, part):
    path = tmp_path / "lora.pkl"
    path.write_bytes(LORA.read_bytes()[: int(LORA.stat().st_size * part)])
    with pytest.raises(InputError, match="half-downloaded"):
        torch_file_info(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a file written by torch.save"),
        (b"<html>404</html>", "not a file written by torch.save"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ],
    ids=["empty", "web page", "LFS pointer"],
)
def test_a_download_that_went_wrong_is_named(tmp_path, content, message):
    path = tmp_path / "lora.pkl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        torch_file_info(path)


def test_a_missing_file_a_folder_and_a_foreign_zip_are_named(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        torch_file_info(tmp_path / "nothing.pkl")
    with pytest.raises(InputError, match="cannot be read"):
        torch_file_info(tmp_path)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match=r"not written by torch\.save"):
        torch_file_info(tmp_path / "a.zip")


def test_the_header_tells_what_torch_loads(tmp_path):
    path = tmp_path / "all.pt"
    saved = {
        "half": torch.zeros(2, 3).half(), "bf16": torch.zeros(4).bfloat16(), "long": torch.arange(3),
        "parameter": torch.nn.Parameter(torch.zeros(2)), "view": torch.zeros(10)[:5], "number": 3,
    }  # fmt: skip
    torch.save(saved, path)
    assert torch_file_info(path) == {
        "half": TensorInfo((2, 3), "F16"), "bf16": TensorInfo((4,), "BF16"), "long": TensorInfo((3,), "I64"),
        "parameter": TensorInfo((2,), "F32"), "view": TensorInfo((5,), "F32"), "number": 3,
    }  # fmt: skip


@pytest.mark.parametrize("part", [0.0, 0.0001, 0.5, 0.9999])
def test_a_half_downloaded_safetensors_file_is_named(tmp_path, part):
    whole = PARITY / "sd3/vae/diffusion_pytorch_model.safetensors"
    path = tmp_path / "vae.safetensors"
    path.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * part)])
    with pytest.raises(InputError, match=r"half-downloaded|not a safetensors file"):
        safetensors_info(path)


def test_something_else_with_the_name_of_a_safetensors_file_is_named(tmp_path):
    path = tmp_path / "model.safetensors"
    for content in (
        b"version https://git-lfs.github.com/spec/v1\noid",
        LORA.read_bytes(),
        b"\x02" + bytes(7) + b"[]",
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"model.safetensors: .*safetensors|half-downloaded"):
            safetensors_info(path)

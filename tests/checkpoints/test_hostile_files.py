"""Weights files that lie about themselves are refused in one line, in little time and memory."""

import contextlib
import json
import pickle
import shutil
import subprocess
import sys
import time
import zipfile

import pytest
from conftest import PARITY, ROOT
from safetensors.torch import load_file, save_file

from checkpoints.folders import read_model
from checkpoints.gate import blaming, check_configuration
from checkpoints.headers import safetensors_info, torch_file_info
from errors import InputError
from prompts.vlm_files import check_vlm_folder
from ram.files import read_ram_size

SD3 = (
    "-i", PARITY / "input", "--lora_path", PARITY / "SR_LoRA" / "model_20001.pkl",
    "--vae_path", PARITY / "SR_VAE" / "vae_encoder_20001.pt", "--pretrained_model_name_or_path",
)  # fmt: skip


def safetensors(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(shape=(2,), offsets=(0, 8), dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def refused(read, path):
    with pytest.raises(InputError) as error:
        read(path)
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) - len(str(path)) < 300
    return message


@pytest.mark.parametrize(
    "header",
    [
        {"a": entry(offsets=(0, 0))},
        {"a": entry(offsets=(8, 0))},
        {"a": entry(offsets=(-8, 0))},
        {"a": entry(offsets=(0, 4))},
        {"a": entry(offsets=(0, 8)), "b": entry(offsets=(0, 8))},
        {"a": entry(offsets=(0, 8)), "b": entry(offsets=(16, 24))},
        {"b": entry(offsets=(8, 16))},
        {"a": entry(shape=(2**41,))},
        {"a": entry(shape=(-2,))},
        {"a": entry(shape=(True, 2))},
        {"a": entry(shape="2")},
        {"a": entry(shape=(1,) * 9)},
        {"a": entry(dtype="F33")},
        {"a": entry(dtype=None)},
        {"a": []},
        {"a": None},
        [],
        b"{" * 1000,
        b'{"a":' * 1000 + b"1" + b"}" * 1000,
        b"{\xff}",
    ],
    ids=str,
)
def test_tensors_must_lie_one_after_the_other_as_long_as_their_shapes_say(tmp_path, header):
    refused(safetensors_info, safetensors(tmp_path / "model.safetensors", header, bytes(16)))


def test_a_tensor_that_was_taken_out_of_a_header_is_missed(tmp_path):
    content = (PARITY / "sd3" / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header.pop(sorted(name for name in header if name != "__metadata__")[3])
    path = safetensors(tmp_path / "model.safetensors", header, content[8 + length :])
    assert "damaged" in refused(safetensors_info, path)


def test_a_header_longer_than_any_real_one_is_not_read(tmp_path):
    path = safetensors(tmp_path / "model.safetensors", b"{" + b" " * (17 * 2**20), length=17 * 2**20)
    refused(safetensors_info, path)


def test_an_empty_file_of_weights_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    safetensors(tmp_path / "model.safetensors", {})
    with pytest.raises(InputError, match="without a tensor"):
        read_model(tmp_path)


def torch_file(path, pickled, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
    return path


STORAGE = b"X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
TENSOR = (
    b"\x80\x02]ctorch._utils\n_rebuild_tensor_v2\n(("
    + STORAGE
    + b"K\x00(%bt(K\x02K\x01t\x89ccollections\nOrderedDict\n)RtRa."
)
BOMBS = {
    "a memo of 2**28 places": b"\x80\x02]r\x00\x00\x00\x10.",
    "a million lists and no end": b"\x80\x02" + b"]" * 10**6,
    "nested tuples as a key": b"\x80\x02})q\x00" + b"h\x00h\x00\x86q\x00" * 100 + b"K\x01s.",
    "keys that are no names": b"\x80\x02}NK\x01s.",
    "a frame of protocol 4": pickle.dumps([1], protocol=4),
    "code": b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.",
    "code in a name of torch's": b"\x80\x02ctorch\nload\n.",
    "nothing": b"",
    "a tensor larger than its data": TENSOR % b"K\x09K\x09",
    "a tensor of negative size": TENSOR % b"J\xff\xff\xff\xffK\x02",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_pickles_are_walked_and_never_run(tmp_path, bomb):
    refused(torch_file_info, torch_file(tmp_path / "model.pt", bomb))


def test_a_sound_tensor_passes_the_same_walk(tmp_path):
    path = tmp_path / "model.pt"
    torch_file(path, TENSOR % b"K\x02K\x02")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data/0", bytes(16))
    ((tensor),) = torch_file_info(path)
    assert (tensor.shape, tensor.dtype) == ((2, 2), "F32")


@pytest.mark.posix
def test_a_long_pickle_is_not_even_unpacked(tmp_path):
    """A gigabyte of zeros takes a megabyte when it is deflated."""
    path = tmp_path / "bomb.pt"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("archive/data.pkl", "w") as file,
    ):
        for _ in range(1024):
            file.write(bytes(2**20))
    code = (
        "import sys, pathlib, resource; sys.path.insert(0, sys.argv[2])\n"
        "from checkpoints.headers import torch_file_info\n"
        "from errors import InputError\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29))\n"
        "try: torch_file_info(pathlib.Path(sys.argv[1]))\n"
        "except InputError: print('refused')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path, ROOT], capture_output=True, text=True, check=False, timeout=20
    )
    assert done.stdout == "refused\n", done.stderr


def test_a_pickle_longer_than_any_real_one_is_not_walked(tmp_path):
    assert "too long" in refused(torch_file_info, torch_file(tmp_path / "model.pt", bytes(9 * 2**20)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_layers", 10**12), ("num_hidden_layers", 129), ("num_layers", -1), ("vocab_size", 10**12),
        ("hidden_size", -(10**9)), ("rope_theta", float("inf")), ("eps", float("nan")),
        ("channels", [1] * 200),
    ],
)  # fmt: skip
def test_numbers_that_no_network_has_are_refused_before_one_is_built(tmp_path, name, value):
    with pytest.raises(InputError, match=f"{name} is"):
        check_configuration({"nested": {name: value}}, tmp_path / "config.json")


def test_real_configurations_are_in_range():
    for path in (ROOT / "tests" / "data").rglob("config.json"):
        check_configuration(json.loads(path.read_text()), path)


@pytest.mark.parametrize(
    "error", [KeyError("hidden_act"), ZeroDivisionError("x\ny"), RuntimeError("z" * 10_000)]
)
def test_whatever_a_reader_raises_becomes_one_line_with_the_files_name(tmp_path, error):
    def read(path):
        with blaming(path):
            raise error

    assert type(error).__name__ in refused(read, tmp_path / "config.json")


def test_running_out_of_memory_is_not_blamed_on_a_file(tmp_path):
    import torch

    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory")):
        with pytest.raises(type(error)), blaming(tmp_path):
            raise error


@pytest.mark.parametrize(
    ("changed", "value"),
    [
        (("text_encoder", "hidden_act"), "quick_gelv"), (("text_encoder", "num_attention_heads"), 7),
        (("transformer", "num_layers"), "24"), (("transformer", "attention_head_dim"), 0),
        (("transformer", "pos_embed_max_size"), 10**12), (("vae", "norm_num_groups"), 7),
        (("vae", "up_block_types"), ["UpDucoderBlock2D"] * 4), (("vae", "block_out_channels"), [8] * 100),
        (("text_encoder_3", "vocab_size"), 10**12), (("text_encoder_3", "num_heads"), None),
        (("scheduler", "num_train_timesteps"), 10**12),
    ],
)  # fmt: skip
def test_the_command_names_a_damaged_configuration_before_it_loads_anything(
    command, tmp_path, changed, value
):
    folder = shutil.copytree(PARITY / "sd3", tmp_path / "sd3")
    path = next((folder / changed[0]).glob("*config.json"))
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, changed[1]: value}))
    done = command("inference_coz", *SD3, folder, "-o", tmp_path / "out")
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert changed[0] in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name", ["tokenizer/vocab.json", "tokenizer_3/tokenizer.json", "scheduler/scheduler_config.json"]
)
def test_the_command_names_an_emptied_file_before_anything_is_loaded(command, tmp_path, name):
    folder = shutil.copytree(PARITY / "sd3", tmp_path / "sd3")
    if not (folder / name).is_file():
        pytest.skip(f"the tiny SD3 has no {name}")
    (folder / name).write_text("{}")
    done = command("inference_coz", *SD3, folder, "-o", tmp_path / "out")
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("target_modules", "^(model"), ("target_modules", 3), ("lora_alpha", "32"), ("r", 0), ("r", True)],
)
def test_an_adapter_of_odd_settings_is_refused(tmp_path, name, value):
    folder = shutil.copytree(PARITY / "VLM_LoRA" / "checkpoint-10000", tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, name: value}))
    with pytest.raises(InputError, match=r"adapter_config\.json"):
        check_vlm_folder(PARITY / "qwen", folder)


def test_a_pattern_that_would_take_for_ever_is_given_up(tmp_path):
    folder = shutil.copytree(PARITY / "VLM_LoRA" / "checkpoint-10000", tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    config["target_modules"] = r"(?:[a-z._0-9]|[a-z._0-9][a-z._0-9])*(?:[a-z._0-9]|[a-z._0-9][a-z._0-9])*!"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor for name, tensor in tensors.items() if "layers.1" in name}, weights)
    since = time.monotonic()
    with contextlib.suppress(InputError):
        check_vlm_folder(PARITY / "qwen", folder)
    assert time.monotonic() - since < 10


def test_a_ram_file_of_absurd_block_numbers_is_refused_at_once(tmp_path):
    import torch

    content = torch.load(PARITY / "RAM" / "ram_swin_tiny.pth", weights_only=True)
    content["model"]["visual_encoder.layers.0.blocks.10000000000.norm1.weight"] = torch.zeros(24)
    torch.save(content, tmp_path / "ram.pth")
    size, _ = read_ram_size(tmp_path / "ram.pth")
    assert max(size.depths) < 100, "such a name counts as no block"

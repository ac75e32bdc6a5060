"""SD3's folder: what is wrong with it is said in a line; no more of a repository is fetched than needed."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import PARITY, ROOT
from safetensors.torch import load_file, save_file

from errors import InputError
from sd3.checkpoint import check_sd3, needed_files
from sd3.networks import check_part, load_part
from sd3.spec import PARTS, folders_of

SD3 = PARITY / "sd3"
LORA = PARITY / "SR_LoRA" / "model_20001.pkl"
VAE = PARITY / "SR_VAE" / "vae_encoder_20001.pt"


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(SD3, tmp_path / "sd3")


# what is in a folder


def sharded(folder):
    """Split T5 in two, as the hub's is."""
    path = folder / "text_encoder_3/model.safetensors"
    tensors = load_file(path)
    path.unlink()
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[:9], names[9:]), 1):
        shard = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, path.with_name(shard), metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, shard)
    path.with_name("model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_shards_are_put_together(copy):
    whole, shards = (
        load_part("text_enc_3", check_sd3(str(folder), LORA, VAE), torch.device("cpu"), torch.float32)
        for folder in (SD3, sharded(copy))
    )
    expected = whole.model.state_dict()
    found = shards.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_missing_shard_and_a_half_downloaded_one_are_named(copy):
    shard = sharded(copy) / "text_encoder_3/model-00002-of-00002.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(InputError, match=r"model-00002-of-00002.safetensors: half-downloaded"):
        check_sd3(str(copy), LORA, VAE)
    shard.unlink()
    with pytest.raises(InputError, match=r"model-00002-of-00002.safetensors: cannot be read"):
        check_sd3(str(copy), LORA, VAE)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("StableDiffusionPipeline", "a StableDiffusionPipeline, not SD3"),
        ("StableDiffusionXLPipeline", "a StableDiffusionXLPipeline, not SD3"),
    ],
)
def test_the_folder_of_another_model_is_named(copy, name, message):
    edit(copy / "model_index.json", _class_name=name)
    with pytest.raises(InputError, match=message):
        check_sd3(str(copy), LORA, VAE)


def test_sd35_is_refused(copy):
    edit(copy / "transformer/config.json", qk_norm="rms_norm", dual_attention_layers=[0, 1])
    with pytest.raises(InputError, match=r"SD3\.5"):
        check_sd3(str(copy), LORA, VAE)


def test_a_single_file_checkpoint_is_refused_as_a_file_and_in_a_folder(tmp_path):
    path = tmp_path / "sd3_medium.safetensors"
    shutil.copy(SD3 / "vae/diffusion_pytorch_model.safetensors", path)
    for place in (path, tmp_path):
        with pytest.raises(InputError, match="single-file checkpoint"):
            check_sd3(str(place), LORA, VAE)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("model_index.json", "no model_index.json"),
        ("tokenizer_3", "tokenizer_3: no tokenizer in it"),
        ("transformer/config.json", "config.json: cannot be read"),
        ("text_encoder_2/model.safetensors", r"text_encoder_2: no weights"),
        ("vae", "vae/config.json: cannot be read"),
    ],
)
def test_what_is_missing_from_a_folder_is_named(copy, file, message):
    path = copy / file
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match=message) as caught:
        check_sd3(str(copy), LORA, VAE)
    assert "\n" not in str(caught.value)


def test_weights_in_8_bits_are_refused(copy):
    path = copy / "text_encoder_3/model.safetensors"
    save_file({name: tensor.to(torch.float8_e4m3fn) for name, tensor in load_file(path).items()}, path)
    with pytest.raises(InputError, match="text_encoder_3: weights in F8_E4M3"):
        check_sd3(str(copy), LORA, VAE)


def test_the_lora_of_another_transformer_is_refused(copy):
    edit(copy / "transformer/config.json", num_layers=24)
    with pytest.raises(InputError, match="14 tensors, but a transformer of 24 blocks has 47 layers"):
        check_sd3(str(copy), LORA, VAE)


def test_one_of_the_two_sr_files_alone_is_refused():
    with pytest.raises(InputError, match="--vae_path without --lora_path"):
        check_sd3(str(SD3), None, VAE)
    with pytest.raises(InputError, match="--lora_path without --vae_path"):
        check_sd3(str(SD3), LORA, None)


@pytest.mark.parametrize("name", ["shared.weight", "encoder.embed_tokens.weight"])
def test_t5_may_have_its_word_table_under_either_of_its_two_names(copy, name):
    path = copy / "text_encoder_3/model.safetensors"
    tensors = load_file(path)
    words = tensors[name] = tensors.pop("shared.weight")
    save_file(tensors, path, metadata={"format": "pt"})
    checked = check_sd3(str(copy), LORA, VAE)
    check_part("text_enc_3", checked.files_of("text_enc_3"))
    loaded = load_part("text_enc_3", checked, torch.device("cpu"), torch.float32).model
    assert torch.equal(loaded.encoder.embed_tokens.weight, words)


def test_weights_of_parts_that_something_stands_in_for_need_not_be_there(copy):
    (copy / "text_encoder_3/model.safetensors").unlink()
    checked = check_sd3(str(copy), LORA, VAE, replaced={"text_enc_3"})
    assert "text_encoder_3" not in checked.parts


def test_checking_imports_nothing_heavy():
    code = (
        "import sys; from pathlib import Path; from sd3.checkpoint import check_sd3;"
        f"check_sd3({str(SD3)!r}, Path({str(LORA)!r}), Path({str(VAE)!r}));"
        "assert not {'torch', 'numpy', 'diffusers', 'transformers'} & sys.modules.keys()"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# what the hub has

HUB = [
    "model_index.json", "scheduler/scheduler_config.json", "README.md", "sd3_medium.safetensors", "LICENSE",
    *(f"tokenizer{n}/{file}" for n in ("", "_2", "_3") for file in ("tokenizer_config.json", "vocab.json")),
    *(f"{folder}/config.json" for folder in folders_of(PARTS)),
    *(f"text_encoder{n}/model{v}.safetensors" for n in ("", "_2") for v in ("", ".fp16")),
    *(f"text_encoder_3/model{v}-0000{n}-of-00002.safetensors" for n in (1, 2) for v in ("", ".fp16")),
    "text_encoder_3/model.safetensors.index.json", "text_encoder_3/model.safetensors.index.fp16.json",
    "transformer/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
]  # fmt: skip


def test_only_what_is_needed_of_a_repository_is_downloaded():
    wanted = needed_files(HUB)
    assert "sd3_medium.safetensors" not in wanted
    assert not any("fp16" in name for name in wanted)
    weights = [name for name in wanted if name.endswith(".safetensors")]
    assert len(weights) == 6
    assert "text_encoder_3/model.safetensors.index.json" in wanted
    assert len(wanted) == len(set(wanted))


def test_a_repository_of_fp16_files_alone_is_downloaded_too():
    wanted = needed_files(
        [name for name in HUB if "fp16" in name or not name.startswith("text_encoder_3/model")]
    )
    assert "text_encoder_3/model.fp16-00002-of-00002.safetensors" in wanted
    assert "text_encoder_3/model.safetensors.index.fp16.json" in wanted


def test_what_has_a_stand_in_is_not_downloaded():
    wanted = needed_files(HUB, replaced={"text_enc_3"})
    assert [name for name in wanted if name.startswith("text_encoder_3/")] == ["text_encoder_3/config.json"]


REPOSITORY = "stabilityai/stable-diffusion-3-medium-diffusers"


def test_a_hub_name_is_fetched_once_file_by_file(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def snapshot_download(name, revision, allow_patterns=None, local_files_only=False):
        if local_files_only and not asked:
            raise LocalEntryNotFoundError("not in the cache")
        if not local_files_only:
            asked.append((name, revision, allow_patterns))
        return str(SD3)

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda self, name, revision: HUB)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    for _ in range(2):
        assert check_sd3(REPOSITORY, LORA, VAE, download=True).folder == SD3
    assert asked == [(REPOSITORY, "ea42f8cef0f178587cf766dc8129abd379c90671", needed_files(HUB))]


def test_the_hub_is_not_asked_for_what_its_cache_holds_whole(monkeypatch):
    import huggingface_hub

    def snapshot_download(name, revision, local_files_only):
        assert local_files_only
        return str(SD3)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert check_sd3("someone/cached-sd3", LORA, VAE, download=True).folder == SD3


@pytest.mark.parametrize(
    ("replaced", "fetches"), [((), ["fetched"]), ({"text_enc_3"}, [])], ids=["needed", "has a stand-in"]
)
def test_the_hub_is_asked_for_what_is_missing_from_its_cache_and_needed(copy, monkeypatch, replaced, fetches):
    import huggingface_hub

    asked = []

    def snapshot_download(name, revision, allow_patterns=None, local_files_only=False):
        if not local_files_only:
            asked.append("fetched")
            shutil.copytree(SD3, copy, dirs_exist_ok=True)
        return str(copy)

    (copy / "text_encoder_3/model.safetensors").unlink()
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda self, name, revision: HUB)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert check_sd3(REPOSITORY, LORA, VAE, replaced=replaced, download=True).folder == copy
    assert asked == fetches


def test_nothing_is_downloaded_unless_the_caller_says_so(copy, monkeypatch):
    import huggingface_hub

    def snapshot_download(name, revision, local_files_only):
        assert local_files_only
        return str(copy)

    (copy / "text_encoder_3/model.safetensors").unlink()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(InputError, match="text_encoder_3: no weights"):
        check_sd3(REPOSITORY, LORA, VAE)


# what a folder is told apart by


@pytest.mark.parametrize(
    "file",
    [
        "text_encoder_2/config.json",
        "text_encoder_3/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer_3/tokenizer.json",
        "scheduler/scheduler_config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ],
)
def test_another_content_of_any_file_that_decides_the_pixels_is_described_differently(copy, file):
    before = check_sd3(str(copy), LORA, VAE)
    described = before.describe()
    content = bytearray((copy / file).read_bytes())
    content[-1] ^= 1
    (copy / file).write_bytes(content)
    assert before.describe() != described


def test_the_same_files_elsewhere_are_described_alike(copy):
    assert check_sd3(str(copy), LORA, VAE).describe() == check_sd3(str(SD3), LORA, VAE).describe()


def test_a_file_that_went_away_is_named_when_it_is_described(copy):
    checked = check_sd3(str(copy), LORA, VAE)
    (copy / "vae/config.json").unlink()
    with pytest.raises(InputError, match=r"vae/config.json: cannot be read any more"):
        checked.describe()

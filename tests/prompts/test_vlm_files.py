"""Qwen2.5-VL's folder and the adapter's: found, checked and recorded; what wrong ones say."""

import json
import shutil
from contextlib import contextmanager

import pytest
import torch
from conftest import DATA, PARITY
from safetensors.torch import load_file, save_file

from checkpoints.headers import safetensors_info
from errors import InputError
from lora.vlm_adapter import check_vlm_adapter, merge_vlm_adapter, todays_name
from prompts.vlm_files import check_vlm_folder, linear_layers
from prompts.vlm_loading import check_vlm, load_vlm

QWEN = PARITY / "qwen"
ADAPTER = PARITY / "VLM_LoRA" / "checkpoint-10000"
CPU = torch.device("cpu")


@contextmanager
def changed_weights(path):
    """The tensors of a safetensors file by name; what the body changes is written back."""
    tensors = load_file(path)
    yield tensors
    save_file(tensors, path, {"format": "pt"})


@contextmanager
def changed_json(path):
    content = json.loads(path.read_text())
    yield content
    path.write_text(json.dumps(content))


@pytest.fixture
def adapter_copy(tmp_path):
    return shutil.copytree(ADAPTER, tmp_path / "adapter")


@pytest.fixture
def qwen_copy(tmp_path):
    return shutil.copytree(QWEN, tmp_path / "qwen")


def refused(folder, adapter=None, download=False):
    with pytest.raises(InputError) as error:
        check_vlm_folder(folder, adapter, download)
    message = str(error.value)
    assert "\n" not in message
    return message


# found, or fetched


def test_a_folder_that_is_not_there_is_named(tmp_path):
    assert str(tmp_path / "gone") in refused(tmp_path / "gone")


def test_qwen_3b_is_fetched_at_the_commit_it_was_tried_with_and_that_is_recorded(tmp_path, monkeypatch):
    asked = {}

    def snapshot_download(name, revision, **options):
        asked.update(options, name=name, revision=revision)
        return shutil.copytree(QWEN, tmp_path / "snapshots" / revision)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    files = check_vlm_folder("Qwen/Qwen2.5-VL-3B-Instruct", None, download=False)
    commit = "66285546d2b821cf421d4f5eb2576359d3770cd3"
    assert (asked["revision"], asked["local_files_only"]) == (commit, True)
    assert files.describe()["model"] == asked["name"]
    assert files.name == "Qwen/Qwen2.5-VL-3B-Instruct"


@pytest.mark.parametrize(
    ("download", "why"), [(False, "not in the hub's cache"), (True, "the hub is out of reach")]
)
def test_a_hub_name_that_cannot_be_fetched_says_how_to_go_on(download, why):
    message = refused("nobody/nothing", download=download)
    assert "nobody/nothing: no such folder" in message
    assert why in message
    assert "give a folder or go online" in message


# wrong folders


def test_another_kind_of_model_is_refused(qwen_copy):
    with changed_json(qwen_copy / "config.json") as config:
        config["model_type"] = "llama"
        del config["vision_config"]
    assert "a llama model, but --vlm_path needs one that sees" in refused(qwen_copy)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_file_that_is_missing_from_the_folder_is_named(name, qwen_copy):
    (qwen_copy / name).unlink()
    assert name in refused(qwen_copy)


def test_a_half_downloaded_file_is_named(qwen_copy):
    path = qwen_copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    assert str(path) in refused(qwen_copy)


def test_a_shard_that_is_missing_is_named(qwen_copy):
    (qwen_copy / "model.safetensors").rename(qwen_copy / "model-00001-of-00002.safetensors")
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (qwen_copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert "model-00002-of-00002.safetensors" in refused(qwen_copy)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"),
            r"layers\.1\.mlp\.up_proj\.weight is missing",
        ),
        (lambda tensors: tensors.update({"model.extra": torch.zeros(2)}), r"extra is unexpected"),
        (
            lambda tensors: tensors.update({"model.norm.weight": torch.zeros(9)}),
            r"norm\.weight is \(9,\) instead of \(64,\)",
        ),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_weights_that_do_not_fit_the_configuration_are_named_when_loaded(change, problem, qwen_copy):
    with changed_weights(qwen_copy / "model.safetensors") as tensors:
        change(tensors)
    whole = rf"not a whole Qwen2\.5-VL: model\.language_model\.{problem}: download the folder again$"
    with pytest.raises(InputError, match=whole):
        check_vlm(check_vlm_folder(qwen_copy, None))


# adapters of the released layout


def test_the_linear_layers_are_told_from_the_files_header():
    found = linear_layers(safetensors_info(QWEN / "model.safetensors"))
    modules = load_vlm(check_vlm_folder(QWEN, None), CPU, torch.float32).model.named_modules(prefix="model")
    assert found == {n: tuple(m.weight.shape) for n, m in modules if isinstance(m, torch.nn.Linear)}


@pytest.fixture(scope="module")
def full_size():
    """Qwen2.5-VL-3B-Instruct in bfloat16 on the meta device: every module, no memory."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration

    config = AutoConfig.from_pretrained(DATA / "qwen2_5_vl_3b")
    with init_empty_weights():
        return Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)


def full_size_linears(model):
    modules = model.model.named_modules(prefix="model")
    return {name: tuple(m.weight.shape) for name, m in modules if isinstance(m, torch.nn.Linear)}


def save_hollow(path, shapes):
    """A safetensors file whose zeros take no room on the disk."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + 4 * torch.Size(shape).numel()
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)


def test_every_weight_of_the_released_adapter_has_its_place_in_qwen_3b(full_size, adapter_copy):
    linears = full_size_linears(full_size)
    seven = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    shapes = {}
    for layer in range(36):
        for name in seven:
            at = f"layers.{layer}.{'mlp' if name[:2] in ('ga', 'up', 'do') else 'self_attn'}.{name}"
            outputs, inputs = linears[f"model.language_model.{at}"]
            shapes[f"base_model.model.model.{at}.lora_A.weight"] = (8, inputs)
            shapes[f"base_model.model.model.{at}.lora_B.weight"] = (outputs, 8)
    save_hollow(adapter_copy / "adapter_model.safetensors", shapes)
    adapter = check_vlm_adapter(adapter_copy, linears)
    assert len(adapter.pairs) == 36 * 7
    assert all(name.startswith("model.language_model.layers.") for name in adapter.pairs)
    assert adapter.scale == 4.0

    del shapes["base_model.model.model.layers.35.mlp.down_proj.lora_A.weight"]
    save_hollow(adapter_copy / "adapter_model.safetensors", shapes)
    with pytest.raises(InputError, match=r"35\.mlp\.down_proj"):
        check_vlm_adapter(adapter_copy, linears)


def test_a_merged_layer_of_qwen_3b_has_the_wanted_dtype(full_size, adapter_copy):
    name = "model.layers.0.self_attn.k_proj"
    key = f"base_model.model.{name}"
    path = adapter_copy / "adapter_model.safetensors"
    save_file({f"{key}.lora_A.weight": torch.ones(8, 2048), f"{key}.lora_B.weight": torch.ones(256, 8)}, path)
    with changed_json(adapter_copy / "adapter_config.json") as config:
        config["target_modules"] = r"model\.layers\.0\.self_attn\.k_proj"
    merge_vlm_adapter(
        full_size, check_vlm_adapter(adapter_copy, full_size_linears(full_size)), torch.bfloat16
    )
    weight = full_size.get_submodule(todays_name(name)).weight
    assert (weight.shape, weight.dtype) == ((256, 2048), torch.bfloat16)


def test_an_adapter_of_todays_module_tree_merges_to_the_same(adapter_copy):
    path = adapter_copy / "adapter_model.safetensors"
    renamed = {
        key.replace(".model.layers.", ".model.language_model.layers."): t
        for key, t in load_file(path).items()
    }
    save_file(renamed, path)
    with changed_json(adapter_copy / "adapter_config.json") as config:
        config["target_modules"] = r"^model\.language_model.*\.([qkvo]_proj|gate_proj|up_proj|down_proj)$"
    ours, tuned = (
        load_vlm(check_vlm_folder(QWEN, adapter), CPU, torch.float32).state_dict()
        for adapter in (adapter_copy, ADAPTER)
    )
    assert all(torch.equal(tensor, tuned[name]) for name, tensor in ours.items())


# wrong adapters


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_folder_without_one_of_its_files_is_refused(name, adapter_copy):
    (adapter_copy / name).unlink()
    assert name in refused(QWEN, adapter_copy)


def test_a_language_model_layer_that_the_adapter_lacks_is_named(adapter_copy):
    with changed_weights(adapter_copy / "adapter_model.safetensors") as tensors:
        for half in "AB":
            del tensors[f"base_model.model.model.layers.1.self_attn.v_proj.lora_{half}.weight"]
    assert "no weights for model.language_model.layers.1.self_attn.v_proj" in refused(QWEN, adapter_copy)


def test_half_a_pair_is_refused(adapter_copy):
    with changed_weights(adapter_copy / "adapter_model.safetensors") as tensors:
        del tensors["base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"]
    assert "only one half of its pair" in refused(QWEN, adapter_copy)


def test_an_adapter_for_a_wider_base_is_refused(adapter_copy):
    with changed_weights(adapter_copy / "adapter_model.safetensors") as tensors:
        for key in tensors:
            tensors[key] = torch.cat([tensors[key]] * 2, dim=1 if "lora_A" in key else 0)
    assert "made for another base model" in refused(QWEN, adapter_copy)


def test_an_adapter_for_a_deeper_base_is_refused(adapter_copy):
    with changed_weights(adapter_copy / "adapter_model.safetensors") as tensors:
        tensors |= {key.replace("layers.1", "layers.2"): 1 * tensor for key, tensor in tensors.items()}
    assert "layers.2" in refused(QWEN, adapter_copy)


@pytest.mark.parametrize(
    "setting", [{"use_dora": True}, {"bias": "all"}, {"peft_type": "IA3"}, {"rank_pattern": {"q_proj": 4}}]
)
def test_an_adapter_that_is_more_than_plain_lora_is_refused(setting, adapter_copy):
    with changed_json(adapter_copy / "adapter_config.json") as config:
        config.update(setting)
    assert "not plain LoRA" in refused(QWEN, adapter_copy)

"""The tuned prompt extractor: a PEFT LoRA folder for Qwen2.5-VL, merged into the model's weights.

Chain-of-Zoom's ``VLM_LoRA/checkpoint-10000`` (arXiv 2505.18600, section 3.3: preferences learned with
GRPO) was trained on the module tree of older transformers, ``model.layers.N`` and ``visual``; today's has
``model.language_model.layers.N`` and ``model.visual``. Both are read. PEFT itself can load the folder, but
its pattern of target modules also matches today's vision tower, and PEFT then warns about vision weights
that were never trained; here every weight is accounted for, and nothing is left wrapped.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.headers import safetensors_info
from errors import InputError

if TYPE_CHECKING:
    import torch

# PEFT settings that change what the weights mean; none is in the released adapter.
_UNSUPPORTED = (
    "use_dora",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
    "exclude_modules",
    "fan_in_fan_out",
    "lora_bias",
    "trainable_token_indices",
)
_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")


@dataclass(frozen=True)
class VlmAdapter:
    """An adapter that was checked against its base model."""

    file: Path
    config: Path
    scale: float  # alpha / r
    pairs: dict[str, tuple[str, str]]  # module's name in today's tree -> names of its lora_A and lora_B


def todays_name(name: str) -> str:
    """Translate a module's or tensor's name in Qwen2.5-VL from the older tree; today's names stay."""
    if name.startswith("visual."):
        return f"model.{name}"
    return re.sub(r"^model\.(?!language_model\.|visual\.)", "model.language_model.", name)


def check_vlm_adapter(folder: Path, linears: Mapping[str, tuple[int, ...]]) -> VlmAdapter:
    """Check an adapter folder against its base model, reading no weight.

    Args:
        folder: holds ``adapter_config.json`` and ``adapter_model.safetensors``.
        linears: shape (outputs, inputs) of each linear layer of the base, by its name in today's tree.

    Raises:
        InputError: a file is missing or broken; the adapter uses what cannot be merged; it was made for
            another base; or a layer that its configuration names has no weights in it.
    """
    config_path, file = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    for path in (config_path, file):
        if not path.is_file():
            raise InputError(f"{path}: no such file: give the PEFT folder that holds {path.name}")
    try:
        config: dict[str, Any] = json.loads(config_path.read_text(encoding="utf-8"))
        rank, alpha, targets = config["r"], config["lora_alpha"], config["target_modules"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{config_path}: not the configuration of a PEFT LoRA") from error
    unsupported = [key for key in _UNSUPPORTED if config.get(key)]
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none" or unsupported:
        what = unsupported[0] if unsupported else "a kind of adapter"
        raise InputError(f"{config_path}: uses {what} that is not plain LoRA and cannot be merged here")

    shapes = {name: info.shape for name, info in safetensors_info(file).items()}
    keys: dict[str, dict[str, str]] = {}
    for key in shapes:
        match = _KEY.fullmatch(key)
        name = todays_name(match[1]) if match else ""
        if match is None or name not in linears:
            raise InputError(f"{file}: made for another base model: {key} has no place in this one")
        keys.setdefault(name, {})[match[2]] = key
    is_todays_tree = any(".language_model." in key or ".model.visual." in key for key in shapes)
    for name, (outputs, inputs) in linears.items():
        pair = keys.get(name, {})
        if not pair:
            if _is_target(name if is_todays_tree else _older_name(name), targets):
                raise InputError(f"{file}: not whole, or for another base model: no weights for {name}")
            continue
        if set(pair) != {"A", "B"}:
            raise InputError(f"{file}: not whole: {name} has only one half of its pair")
        found = (shapes[pair["A"]], shapes[pair["B"]])
        if found != ((rank, inputs), (outputs, rank)):
            raise InputError(
                f"{file}: made for another base model: {name} is {outputs} x {inputs}, which"
                f" {list(found[1])} x {list(found[0])} of rank {rank} does not fit"
            )
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return VlmAdapter(file, config_path, scale, {name: (pair["A"], pair["B"]) for name, pair in keys.items()})


def merge_vlm_adapter(model: "torch.nn.Module", adapter: VlmAdapter, dtype: "torch.dtype") -> None:
    """Add an adapter to a Qwen2.5-VL model's weights: W' = W + alpha / r * B A, in float32, cast once.

    Args:
        model: with the weights as they are in its file; changed in place. The layers that the adapter
            changes end in ``dtype``, the others stay as they are.
        adapter: as `check_vlm_adapter` returns it for this model.
        dtype: of the merged weights.
    """
    from safetensors import safe_open

    with safe_open(adapter.file, framework="pt") as file:
        for name, (a, b) in adapter.pairs.items():
            weight = model.get_submodule(name).weight
            delta = file.get_tensor(b).float() @ file.get_tensor(a).float() * adapter.scale
            weight.data = (weight.data.float() + delta.to(weight.device)).to(dtype)


def _older_name(name: str) -> str:
    if name.startswith("model.visual."):
        return name.removeprefix("model.")
    return name.replace("model.language_model.", "model.", 1)


def _is_target(name: str, targets: str | list[str]) -> bool:
    """Whether PEFT would have wrapped the linear layer ``name``: a whole-name pattern, or name endings."""
    if targets == "all-linear":
        return True
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)

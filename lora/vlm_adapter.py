"""The tuned prompt extractor: a PEFT LoRA folder for Qwen2.5-VL or another VLM, merged into its weights.

Chain-of-Zoom's ``VLM_LoRA/checkpoint-10000`` (arXiv 2505.18600, section 3.3: preferences learned with
GRPO) was trained on the module tree of older transformers, ``model.layers.N`` and ``visual``; today's has
``model.language_model.layers.N`` and ``model.visual``. Both are read. PEFT itself can load the folder, but
its pattern of target modules also matches today's vision tower, and PEFT then warns about vision weights
that were never trained; here every weight is accounted for, and nothing is left wrapped.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import regex

from checkpoints.folders import read_json
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
MAX_RANK, MAX_ALPHA = 2**16, 2**20
SECONDS = 1.0  # for one name
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


def check_vlm_adapter(
    folder: Path, linears: Mapping[str, tuple[int, ...]], older_qwen: bool = True
) -> VlmAdapter:
    """Check an adapter folder against its base model, reading no weight.

    Args:
        folder: holds ``adapter_config.json`` and ``adapter_model.safetensors``.
        linears: shape (outputs, inputs) of each linear layer of the base, by its name in today's tree.
        older_qwen: whether the adapter's names may be those of Qwen2.5-VL's older tree.

    Raises:
        InputError: a file is missing or broken; the adapter uses what cannot be merged; it was made for
            another base; or a layer that its configuration names has no weights in it.
    """
    config_path, file = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    for path in (config_path, file):
        if not path.is_file():
            raise InputError(f"{path}: no such file: give the PEFT folder that holds {path.name}")
    config = read_json(config_path)
    rank, alpha, targets = _settings(config, config_path)
    unsupported = [key for key in _UNSUPPORTED if config.get(key)]
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none" or unsupported:
        what = unsupported[0] if unsupported else "a kind of adapter"
        raise InputError(f"{config_path}: uses {what} that is not plain LoRA and cannot be merged here")

    shapes = {name: info.shape for name, info in safetensors_info(file).items()}
    keys: dict[str, dict[str, str]] = {}
    for key in shapes:
        match = _KEY.fullmatch(key)
        name = (todays_name(match[1]) if older_qwen else match[1]) if match else ""
        if match is None or name not in linears:
            raise InputError(f"{file}: made for another base model: {key} has no place in this one")
        keys.setdefault(name, {})[match[2]] = key
    is_todays_tree = not older_qwen or any(
        ".language_model." in key or ".model.visual." in key for key in shapes
    )
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


def _settings(config: dict[str, Any], path: Path) -> tuple[int, float, str | list[str]]:
    """Return rank, alpha and target modules; InputError where they are none."""
    rank: Any
    alpha: Any
    targets: Any
    rank, alpha, targets = (config.get(key) for key in ("r", "lora_alpha", "target_modules"))
    is_number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    if (
        isinstance(rank, int)
        and not isinstance(rank, bool)
        and 0 < rank < MAX_RANK
        and is_number
        and 0 < alpha < MAX_ALPHA
    ):
        if isinstance(targets, list) and all(isinstance(one, str) for one in targets):
            return rank, alpha, targets
        if isinstance(targets, str):
            try:
                regex.compile(targets)
                return rank, alpha, targets
            except regex.error:
                raise InputError(f"{path}: target_modules is no pattern") from None
    raise InputError(f"{path}: not the configuration of a PEFT LoRA")


def merge_vlm_adapter(model: "torch.nn.Module", adapter: VlmAdapter, dtype: "torch.dtype") -> None:
    """Add an adapter to a VLM's weights: W' = W + alpha / r * B A, in float32, cast once.

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
        # a pattern from a file may take for ever on purpose; TimeoutError is one of the file's faults
        return regex.fullmatch(targets, name, timeout=SECONDS) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)

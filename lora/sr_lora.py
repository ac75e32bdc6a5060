"""The SR LoRA of the SD3 transformer (``SR_LoRA/model_20001.pkl``).

A torch-saved plain list of fp32 tensors [up, down, up, down, ...] without names: a pair for each
`nn.Linear` inside an `AdaLayerNormZero` of the transformer, in module order (block 0 norm1, block 0
norm1_context, block 1 norm1, ...). The last block's norm1_context is of another class and has none:
2 * blocks - 1 pairs. For SD3-medium 47 pairs, up (9216, 4), down (4, 1536). Scale 1: W' = W + up @ down.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.gate import blaming
from checkpoints.headers import TensorInfo, torch_file_info
from errors import InputError

if TYPE_CHECKING:
    import torch


def check_sr_lora(path: Path, blocks: int, width: int, rank: int | None = None) -> int:
    """Check the file against the transformer's size, from its header alone.

    Args:
        path: the list file.
        blocks: number of transformer blocks (``num_layers``).
        width: channels of the transformer (heads times head dimension).
        rank: the rank that the user expects; None takes the file's.

    Returns:
        The rank of the file.

    Raises:
        InputError: with what was expected and what was found.
    """
    content = torch_file_info(path)
    if not isinstance(content, list) or not all(isinstance(item, TensorInfo) for item in content):
        raise InputError(
            f"{path}: holds a {_describe(content)}, not the list of tensors of an SR LoRA (model_20001.pkl)"
        )
    layers = 2 * blocks - 1
    if len(content) != 2 * layers:
        raise InputError(
            f"{path}: {len(content)} tensors, but a transformer of {blocks} blocks has {layers} layers"
            f" and needs {2 * layers}: the LoRA of another model"
        )
    found = content[1].shape[0] if len(content[1].shape) == 2 else 0
    if rank is not None and found != rank:
        raise InputError(f"{path}: of rank {found}, but --lora_rank is {rank}")
    for index, tensor in enumerate(content):
        expected = (6 * width, found) if index % 2 == 0 else (found, width)
        if tensor.shape != expected:
            factor = ("up", "down")[index % 2]
            raise InputError(
                f"{path}: {factor} factor {index // 2} is {tensor.shape}, but rank {found} and"
                f" {width} channels need {expected}: the LoRA of another model"
            )
        if tensor.dtype not in ("F32", "F16", "BF16"):
            raise InputError(f"{path}: tensor {index} is {tensor.dtype}, not a floating-point type")
    return found


def merge_sr_lora(transformer: "torch.nn.Module", path: Path, dtype: "torch.dtype") -> int:
    """Merge the file into the transformer's AdaLayerNormZero layers, in place.

    Args:
        transformer: an `SD3Transformer2DModel` with its weights loaded.
        path: a file that `check_sr_lora` accepted.
        dtype: of the merged weights; the sum itself is computed in fp32.

    Returns:
        Number of layers merged.

    Raises:
        InputError: the file does not fit this transformer.
    """
    import torch

    with blaming(path):
        factors = torch.load(path, map_location="cpu", weights_only=True)
    layers = sr_lora_layers(transformer)
    if len(factors) != 2 * len(layers):
        raise InputError(
            f"{path}: {len(factors)} tensors for {len(layers)} AdaLayerNormZero layers, which need"
            f" {2 * len(layers)}: the LoRA of another model"
        )
    for (name, layer), up, down in zip(layers, factors[::2], factors[1::2], strict=True):
        weight = layer.weight
        if (up.shape[0], down.shape[1]) != tuple(weight.shape) or up.shape[1] != down.shape[0]:
            raise InputError(
                f"{path}: up {tuple(up.shape)} and down {tuple(down.shape)} do not fit {name}"
                f" {tuple(weight.shape)}: the LoRA of another model"
            )
        up, down = up.to(weight.device, torch.float32), down.to(weight.device, torch.float32)
        merged = weight.detach().to(torch.float32, copy=True).addmm_(up, down).to(dtype)
        layer.weight = torch.nn.Parameter(merged, requires_grad=False)
    return len(layers)


def sr_lora_layers(transformer: "torch.nn.Module") -> "list[tuple[str, torch.nn.Linear]]":
    """Return names and modules of the layers that the list's pairs belong to, in order."""
    import torch
    from diffusers.models.normalization import AdaLayerNormZero

    return [
        (f"{name}.{child_name}", child)
        for name, module in transformer.named_modules()
        if isinstance(module, AdaLayerNormZero)
        for child_name, child in module.named_modules()
        if isinstance(child, torch.nn.Linear)
    ]


def _describe(content: Any) -> str:
    if isinstance(content, dict):
        names = ", ".join(str(name) for name in list(content)[:2])
        return f"dictionary ({names}, ...)"
    return (
        f"{type(content).__name__} of other things" if isinstance(content, list) else type(content).__name__
    )

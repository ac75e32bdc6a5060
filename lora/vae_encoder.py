"""The SR encoder of SD3's VAE (``SR_VAE/vae_encoder_20001.pt``).

The whole state dict of ``vae.encoder`` in fp16, saved while PEFT's LoRA layers were in place:

* ``NAME.base_layer.{weight,bias}``: the layer itself; it replaces SD3's;
* ``NAME.lora_A.default_encoder.weight``: A, (r, in) or (r, in, k, k) for a convolution;
* ``NAME.lora_B.default_encoder.weight``: B, (out, r) or (out, r, 1, 1);
* every other name (norms): as in SD3, and replaces it.

PEFT's scale is alpha / r with its default alpha 8, so 2 at the published rank 4. A 1x1 convolution after a
kxk one is one kxk convolution: W' = W + 2 * einsum('or,rikl->oikl', B, A).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from checkpoints.folders import refuse_differences
from checkpoints.gate import blaming
from checkpoints.headers import TensorInfo, torch_file_info
from errors import InputError

if TYPE_CHECKING:
    import torch

ALPHA = 8  # PEFT's default lora_alpha
A, B = ".lora_A.default_encoder.weight", ".lora_B.default_encoder.weight"


def check_vae_encoder(path: Path, encoder: Mapping[str, tuple[int, ...]], rank: int | None = None) -> int:
    """Check the file against the VAE's encoder, from its header alone.

    Args:
        path: the state dict file.
        encoder: shapes of the encoder's tensors by name, without ``encoder.`` in front.
        rank: the rank that the user expects; None takes the file's.

    Returns:
        The rank of the file.

    Raises:
        InputError: with what was expected and what was found.
    """
    content = torch_file_info(path)
    if not isinstance(content, dict) or not all(isinstance(value, TensorInfo) for value in content.values()):
        raise InputError(f"{path}: not a state dict of tensors; the VAE encoder is vae_encoder_20001.pt")
    layers = [name.removesuffix(A) for name in content if name.endswith(A)]
    if not layers:
        first = next(iter(content), "nothing")
        raise InputError(
            f"{path}: a VAE file without LoRA (it begins with {first}); the SR encoder has *{A}:"
            " take SR_VAE/vae_encoder_20001.pt"
        )
    found = content[layers[0] + A].shape[0]
    if rank is not None and found != rank:
        raise InputError(f"{path}: of rank {found}, but --lora_rank is {rank}")

    shapes = {
        name.replace(".base_layer.", "."): info.shape
        for name, info in content.items()
        if ".lora_" not in name
    }
    factors: dict[str, tuple[int, ...]] = {}
    for layer in layers:
        weight = encoder.get(f"{layer}.weight", (0, 0))
        factors[layer + A] = (found, *weight[1:])
        factors[layer + B] = (weight[0], found, *(1 for _ in weight[2:]))
    refuse_differences(
        f"{path}: does not fit this VAE's encoder",
        shapes | {name: info.shape for name, info in content.items() if ".lora_" in name},
        {**encoder, **factors},
    )
    return found


def merged_vae_encoder(path: Path, device: "torch.device") -> "dict[str, torch.Tensor]":
    """Return the encoder's state dict with its LoRA merged: fp32, on ``device``, SD3's names.

    Args:
        path: a file that `check_vae_encoder` accepted.
        device: where the merged tensors are wanted.
    """
    import torch

    with blaming(path):
        state = torch.load(path, map_location=device, weights_only=True)
    merged = {
        name.replace(".base_layer.", "."): tensor.float()
        for name, tensor in state.items()
        if ".lora_" not in name
    }
    for layer in (name.removesuffix(A) for name in state if name.endswith(A)):
        down, up = state[layer + A].float(), state[layer + B].float()
        rank = down.shape[0]
        delta = (up.flatten(1) @ down.flatten(1)).view_as(merged[f"{layer}.weight"])
        merged[f"{layer}.weight"] += ALPHA / rank * delta
    return merged

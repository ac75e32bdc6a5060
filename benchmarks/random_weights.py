"""SD3's parts at their true size with random weights whose statistics are like trained ones'.

No trained SD3 comes with a package registry. Each output channel of a layer has a scale of its own, and a few
channels of the residual stream and of what the norms make of it are far larger than the others (outliers, the
hard part of 8-bit inputs). Attention scores are moderate and every layer adds little to the residual stream
(by the square root of its depth): with neither, a deep random network is chaotic and says nothing about
rounding.

The VAE's few first channels carry the picture through both halves, so that what comes out is what went in,
coarser, with what the random layers add to it, and not noise; the transformer's velocity is a fraction of
the latent, as where a network repaints.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from full_size import write_sd3_configuration

if TYPE_CHECKING:
    import torch

TRANSFORMER_WIDTH = 1536  # of its residual stream
OUTLIER_CHANNELS = 4
OUTLIER_FACTOR = 12.0
SHARD = 2 * 2**30  # bytes
LOG_VARIANCE = -20.0  # of latents: a VAE adds next to no noise


def make_checkpoint(parts: Iterable[str], folder: Path) -> None:
    """Write parts of true size in SD3's layout, fp16; a folder of weights that is whole already is kept.

    Args:
        parts: of `sd3.spec.PARTS`; a half of the VAE brings the other.
        folder: a new one, or that of an earlier call.
    """
    import torch
    from safetensors.torch import save_file

    from sd3.networks import build_on_meta
    from sd3.spec import PARTS, folders_of

    write_sd3_configuration(folder)
    for name in folders_of(parts):
        own = folder / name
        index = own / "model.safetensors.index.json"
        if index.is_file():
            continue
        config = json.loads((own / "config.json").read_text(encoding="utf-8"))
        layers = config.get("num_hidden_layers") or config.get("num_layers") or 0
        shapes = {
            key: tuple(tensor.shape)
            for part, spec in PARTS.items()
            if spec.folder == name
            for key, tensor in tensors_of(build_on_meta(part, config))
        }
        generator = torch.Generator().manual_seed(5)
        shards: list[dict[str, torch.Tensor]] = [{}]
        weight_map, size = {}, 0
        for key, shape in shapes.items():
            make = random_vae_weight if name == "vae" else random_weight
            shards[-1][key] = make(key, shape, layers, generator).to(torch.float16)
            weight_map[key] = f"model-{len(shards):05}.safetensors"
            size += shards[-1][key].nbytes
            if size > SHARD or key == list(shapes)[-1]:
                save_file(shards[-1], own / weight_map[key])
                shards[-1].clear()
                shards.append({})
                size = 0
        index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def tensors_of(network: "torch.nn.Module") -> "list[tuple[str, torch.Tensor]]":
    """Return what a file of the network holds: its parameters and the transformer's position embedding."""
    buffers = [(name, tensor) for name, tensor in network.named_buffers() if name == "pos_embed.pos_embed"]
    return [*network.named_parameters(), *buffers]


def random_weight(name: str, shape: tuple[int, ...], layers: int, generator: "torch.Generator"):  # type: ignore[no-untyped-def]
    """Return a random parameter of a text encoder or of the transformer.

    Args:
        name: of the parameter.
        shape: of the parameter.
        layers: of the network.
        generator: of random numbers.
    """
    import torch

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator)

    modulation = ".norm1" in name or name.startswith("norm_out")  # adaLN: shift, scale, gate of a norm
    if name.endswith("bias"):
        bias = 0.02 * normal(*shape)
        if modulation:  # scales are biases here, and act on a norm's outliers as norms' weights do
            chunks = bias.view(-1, TRANSFORMER_WIDTH)
            for scale in (chunks[1], chunks[4]) if len(chunks) == 6 else (chunks[0],):
                scale[:OUTLIER_CHANNELS] += 1 / OUTLIER_FACTOR - 1
                scale[OUTLIER_CHANNELS : 2 * OUTLIER_CHANNELS] += OUTLIER_FACTOR / 2 - 1
        return bias
    if len(shape) == 1:  # a norm; T5's, which scale unscaled scores, are small
        weight = (0.3 * normal(*shape)).exp()
        weight[:OUTLIER_CHANNELS] /= OUTLIER_FACTOR  # the residual stream's outliers are kept down
        weight[OUTLIER_CHANNELS : 2 * OUTLIER_CHANNELS] *= OUTLIER_FACTOR / 2
        return 0.2 * weight if ".block." in name else weight
    if "relative_attention_bias" in name or name.startswith("shared"):
        return normal(*shape)
    if name == "pos_embed.pos_embed":
        return 0.5 * normal(*shape)
    if "embedding" in name and "time" not in name:
        return 0.1 * normal(*shape)
    weight = normal(*shape)
    weight *= (0.4 * normal(shape[0], *(1 for _ in shape[1:]))).exp_() * math.prod(shape[1:]) ** -0.5
    layer = name.removesuffix(".weight").rpartition(".")[2]
    if layer in ("q_proj", "k_proj", "to_q", "to_k", "add_q_proj", "add_k_proj"):
        weight *= 0.4
    if layer == "q":
        weight *= 0.1
    if modulation:
        weight *= 0.4
    if layer == "proj_out":
        weight *= 0.3
    writes = (".to_out.0.", ".to_add_out.", ".net.2.", ".out_proj.", ".fc2.", ".o.", ".wo.")
    if any(end in name for end in writes):  # the residual stream; adaLN's gates do the rest
        weight *= (2 * layers) ** -0.5 if "transformer_blocks" not in name else 1.0
    if any(end in name for end in (".fc2.", ".wo.", ".net.2.")):
        weight[:OUTLIER_CHANNELS] *= OUTLIER_FACTOR
    return weight


def random_vae_weight(name: str, shape: tuple[int, ...], layers: int, generator: "torch.Generator"):  # type: ignore[no-untyped-def]
    """Return a random parameter of the VAE; the arguments are those of `random_weight`."""
    import torch

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator)

    if name.endswith("bias"):
        bias = 0.02 * normal(*shape)
        if name == "encoder.conv_out.bias":
            bias[shape[0] // 2 :] = LOG_VARIANCE
        return bias
    if len(shape) == 1:
        return (0.2 * normal(*shape)).exp()
    weight = normal(*shape)
    weight *= (0.4 * normal(shape[0], *(1 for _ in shape[1:]))).exp_() * math.prod(shape[1:]) ** -0.5
    layer = name.removesuffix(".weight").rpartition(".")[2]
    if layer in ("conv_in", "conv_out", "conv_shortcut", "conv"):  # the last: of down- and upsamplers
        weight = 0.1 * weight + torch.nn.init.dirac_(torch.empty(shape))
        if name == "decoder.conv_out.weight":
            weight *= 0.5  # into [-1, 1]
    elif layer == "conv2" or ".to_out." in name:
        weight *= 0.2
    return weight

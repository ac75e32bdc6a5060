"""The RAM tagger: Swin Transformer, then a tagging head that asks the picture about every tag.

Recognize Anything (arXiv 2306.03514) as its published code computes it, inference of tags only; DAPE
(SeeSR, arXiv 2311.16518) is a set of LoRA updates that is merged into the weights when they are read.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import init_empty_weights
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SwinConfig, SwinModel

from ram.files import RamSize, check_dape, current_name, dape_targets, needed_shapes, read_ram_size

HEADS = 4  # attention heads of the tagging head: the one size that no tensor's shape tells
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# From a name in RAM's file to the same tensor's name in `RamTagger`, applied one after the other.
_RENAMES = [
    (r"^visual_encoder\.layers\.", "swin.encoder.layers."),
    (r"^visual_encoder\.patch_embed\.proj\.", "swin.embeddings.patch_embeddings.projection."),
    (r"^visual_encoder\.patch_embed\.norm\.", "swin.embeddings.norm."),
    (r"^visual_encoder\.norm\.", "swin.layernorm."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.relative", ".attention.self.relative"),
    (r"\.attn\.qkv\.", ".attention.self.qkv."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"^tagging_head\.encoder\.layer\.", "head."),
    (r"\.crossattention\.self\.", "."),
    (r"\.crossattention\.output\.dense\.", ".attended."),
    (r"\.crossattention\.output\.LayerNorm\.", ".attended_norm."),
    (r"^(head\.\d+)\.intermediate\.dense\.", r"\1.widen."),
    (r"^(head\.\d+)\.output\.dense\.", r"\1.narrow."),
    (r"^(head\.\d+)\.output\.LayerNorm\.", r"\1.narrow_norm."),
]


class TaggingLayer(nn.Module):
    """A BERT layer without self-attention: each tag asks the picture, then a feed-forward part."""

    def __init__(self, size: RamSize) -> None:
        super().__init__()
        self.query = nn.Linear(size.hidden, size.hidden)
        self.key = nn.Linear(size.label_dim, size.hidden)
        self.value = nn.Linear(size.label_dim, size.hidden)
        self.attended = nn.Linear(size.hidden, size.hidden)
        self.attended_norm = nn.LayerNorm(size.hidden, eps=1e-12)
        self.widen = nn.Linear(size.hidden, size.feed_forward)
        self.narrow = nn.Linear(size.feed_forward, size.hidden)
        self.narrow_norm = nn.LayerNorm(size.hidden, eps=1e-12)

    def forward(self, tags: Tensor, picture: Tensor) -> Tensor:
        """Update the tags (B, tags, hidden) by what they find in the picture's tokens (B, n, label_dim)."""
        query, key, value = (
            states.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for states in (self.query(tags), self.key(picture), self.value(picture))
        )
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tags = self.attended_norm(tags + self.attended(attended))
        return self.narrow_norm(tags + self.narrow(F.gelu(self.widen(tags))))


class RamTagger(nn.Module):
    """Pictures to one logit a tag."""

    def __init__(self, size: RamSize) -> None:
        super().__init__()
        self.size = size
        self.swin = SwinModel(
            SwinConfig(
                image_size=size.image_side,
                patch_size=4,
                embed_dim=size.embed_dim,
                depths=list(size.depths),
                num_heads=list(size.heads),
                window_size=size.window,
                layer_norm_eps=1e-5,
            ),
            add_pooling_layer=False,
        )
        self.image_proj = nn.Linear(size.features, size.label_dim)
        self.label_embed = nn.Parameter(torch.empty(size.tags, size.label_dim))
        self.wordvec_proj = nn.Linear(size.label_dim, size.hidden)
        self.head = nn.ModuleList(TaggingLayer(size) for _ in range(size.head_layers))
        self.fc = nn.Linear(size.hidden, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Tag pictures.

        Args:
            pixels: (B, 3, S, S) as `prepare` makes them, S = ``size.image_side``.

        Returns:
            Logits, float32, (B, tags); a tag's probability is their sigmoid.
        """
        tokens = self.swin(pixels).last_hidden_state
        picture = self.image_proj(torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1))
        tags = F.relu(self.wordvec_proj(self.label_embed)).expand(len(pixels), -1, -1)
        for layer in self.head:
            tags = layer(tags, picture)
        return self.fc(tags).squeeze(-1).float()


def prepare(picture: Image, side: int) -> Tensor:
    """Make one RGB picture of any size what RAM reads: float32 (3, side, side), ImageNet's mean and std.

    The tensor, not the 8-bit picture, is resized (bilinear, antialiased, aspect not kept), as SeeSR does.
    """
    pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).float() / 255
    pixels = F.interpolate(pixels[None], (side, side), mode="bilinear", antialias=True, align_corners=False)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels[0] - mean) / std


def tags_on(logits: Tensor, tags: Sequence[str], thresholds: Sequence[float]) -> list[str]:
    """Name the tags whose probability exceeds their threshold, in list order, joined by ``", "``.

    Args:
        logits: (B, tags), float32.

    Returns:
        One text a picture; empty where no tag is on.
    """
    on = torch.sigmoid(logits) > torch.tensor(thresholds, dtype=logits.dtype, device=logits.device)
    return [", ".join(tag for tag, is_on in zip(tags, row, strict=True) if is_on) for row in on.tolist()]


def load_ram(ram_path: Path, ram_ft_path: Path | None, device: torch.device, dtype: torch.dtype) -> RamTagger:
    """Load RAM, with DAPE merged into it in float32, in eval mode.

    The files are mapped into memory and only the needed tensors are read, one at a time: of the
    released 5.6 GB (optimizer and caption parts included) about 0.85 GB.

    Args:
        ram_path: ``ram_swin_large_14m.pth``, or another RAM of the same kind.
        ram_ft_path: ``DAPE.pth``; None for plain RAM.

    Raises:
        InputError: a file is broken, lacks a needed tensor, or the two do not fit.
    """
    size = read_ram_size(ram_path)
    weights = {current_name(name): tensor for name, tensor in _map(ram_path)["model"].items()}
    targets: dict[str, list[str]] = {}
    if ram_ft_path is not None:
        check_dape(ram_ft_path, size)
        targets, pairs = dape_targets(size), _map(ram_ft_path)

    with init_empty_weights(include_buffers=False):  # no random initialisation, no memory
        tagger = RamTagger(size)
    state = {}
    for name in needed_shapes(size):
        weight = weights[name]
        for pair in targets.get(name, []):
            delta = _lora_delta(
                pairs[f"{pair}.lora_A"], pairs[f"{pair}.lora_B"], is_qkv=pair.endswith(".qkv")
            )
            weight = weight.float() + delta
        for target, part in _as_in_tagger(name, weight):
            state[target] = part.to(device=device, dtype=dtype, copy=True)
    left_out = tagger.load_state_dict(state, strict=False, assign=True)
    # Swin computes this table itself when it is built; all else must have come from the file.
    missing = [name for name in left_out.missing_keys if not name.endswith("relative_position_index")]
    if missing or left_out.unexpected_keys:
        raise RuntimeError(f"RAM's names do not map: {missing}, {left_out.unexpected_keys}")
    return tagger.to(device).eval().requires_grad_(False)


def _map(path: Path) -> Any:
    """Map a .pth file's tensors into memory; what is not read stays on the disk."""
    return torch.load(path, map_location="cpu", mmap=True, weights_only=True)


def _lora_delta(down: Tensor, up: Tensor, is_qkv: bool) -> Tensor:
    """What a loralib pair adds to a weight: up @ down * alpha / rank, with DAPE's alpha of 1.

    A fused query-key-value layer has two pairs stacked into one, for query and value; key stays.

    Args:
        down, up: (rank, inputs), (outputs, rank); fused: (2 rank, C), (2 C, rank), giving (3 C, C).
    """
    rank = up.shape[1]
    if not is_qkv:
        return up.float() @ down.float() / rank
    query, value = (_lora_delta(a, b, is_qkv=False) for a, b in zip(down.chunk(2), up.chunk(2), strict=True))
    return torch.cat([query, torch.zeros_like(query), value])


def _as_in_tagger(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """Name one of RAM's tensors as `RamTagger` does; the fused query-key-value becomes three."""
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    if ".qkv." not in name:
        return [(name, tensor)]
    parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
    return [(name.replace(".qkv.", f".{part}."), piece) for part, piece in parts]

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

from checkpoints.folders import refuse_differences
from checkpoints.gate import blaming
from ram.files import RAM_UNUSED, RamFiles, RamSize, current_name, dape_targets

HEADS = 4  # attention heads of the tagging head: the one size that no tensor's shape tells
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# From a tensor's name in `RamTagger` to its name in RAM's file, applied one after the other.
_RENAMES = [
    (r"^swin\.encoder\.layers\.", "visual_encoder.layers."),
    (r"^swin\.embeddings\.patch_embeddings\.projection\.", "visual_encoder.patch_embed.proj."),
    (r"^swin\.embeddings\.norm\.", "visual_encoder.patch_embed.norm."),
    (r"^swin\.layernorm\.", "visual_encoder.norm."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.self\.(query|key|value)\.", ".attn.qkv."),
    (r"\.attention\.self\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"^head\.(\d+)\.(query|key|value)\.", r"tagging_head.encoder.layer.\1.crossattention.self.\2."),
    (r"^head\.(\d+)\.attended\.", r"tagging_head.encoder.layer.\1.crossattention.output.dense."),
    (r"^head\.(\d+)\.attended_norm\.", r"tagging_head.encoder.layer.\1.crossattention.output.LayerNorm."),
    (r"^head\.(\d+)\.widen\.", r"tagging_head.encoder.layer.\1.intermediate.dense."),
    (r"^head\.(\d+)\.narrow\.", r"tagging_head.encoder.layer.\1.output.dense."),
    (r"^head\.(\d+)\.narrow_norm\.", r"tagging_head.encoder.layer.\1.output.LayerNorm."),
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


def build_tagger(files: RamFiles) -> RamTagger:
    """Build the network without weights, and check that the file has every tensor of it and no other.

    Returns:
        Every parameter on the meta device.

    Raises:
        InputError: names what is missing, unexpected or of another shape.
    """
    with blaming(files.ram, "fetch it again"), init_empty_weights(include_buffers=False):
        tagger = RamTagger(files.size)  # no random initialisation, no memory
    shapes = tagger.state_dict()
    expected = {
        name: (sum(shapes[part].shape[0] for part in parts), *shapes[parts[0]].shape[1:])
        for name, parts in _by_name_in_file(tagger).items()
    }
    refuse_differences(
        f"{files.ram}: not a whole RAM checkpoint",
        files.shapes,
        expected,
        ignored=[name for name in files.shapes if RAM_UNUSED.fullmatch(name)],
        way_out="fetch it again",
    )
    return tagger


def load_ram(files: RamFiles, device: torch.device, dtype: torch.dtype) -> RamTagger:
    """Load RAM, with DAPE merged into it in float32, in eval mode.

    The files are mapped into memory and only the needed tensors are read, one at a time: of the
    released 5.6 GB (optimizer and caption parts included) about 0.85 GB.

    Args:
        files: that `build_tagger` found whole.
        device: where it will compute.
        dtype: of weights and arithmetic.

    Raises:
        InputError: the files have changed since they were checked.
    """
    with blaming(files.ram, "fetch it again"):
        with init_empty_weights(include_buffers=False):
            tagger = RamTagger(files.size)
        weights = {current_name(name): tensor for name, tensor in _map(files.ram)["model"].items()}
        targets = dape_targets(files.size) if files.dape else {}
        pairs = _map(files.dape) if files.dape else {}
        state = {}
        for name, parts in _by_name_in_file(tagger).items():
            weight = weights[name]
            for pair in targets.get(name, ([], ()))[0]:
                delta = _lora_delta(
                    pairs[f"{pair}.lora_A"], pairs[f"{pair}.lora_B"], is_qkv=pair.endswith(".qkv")
                )
                weight = weight.float() + delta
            for part, piece in zip(parts, weight.chunk(len(parts)), strict=True):
                state[part] = piece.to(device=device, dtype=dtype, copy=True)
        tagger.load_state_dict(state, strict=False, assign=True)
        return tagger.to(device).eval().requires_grad_(False)


def _map(path: Path) -> Any:
    """Map a .pth file's tensors into memory; what is not read stays on the disk."""
    with blaming(path, "fetch it again"):
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


def _by_name_in_file(tagger: RamTagger) -> dict[str, list[str]]:
    """Return the tagger's tensors by their name in RAM's file: three for a fused query-key-value."""
    names: dict[str, list[str]] = {}
    for name in tagger.state_dict():
        if name.endswith("relative_position_index"):  # Swin computes this table itself when it is built
            continue
        in_file = name
        for pattern, replacement in _RENAMES:
            in_file = re.sub(pattern, replacement, in_file)
        names.setdefault(in_file, []).append(name)
    return names

"""T5 on a CPU in fewer passes over memory: transformers' own attention writes every score several times."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


class FusedAttention(torch.nn.Module):
    """Self-attention of T5's encoder by PyTorch's fused kernel: the same numbers but for rounding.

    T5 does not scale its scores, and adds to them a bias by the distance of two tokens, which the first block
    computes for all (Raffel et al. 2020, section 2.1).
    """

    def __init__(self, attention: Any) -> None:
        """Take the place of a ``T5Attention`` of an encoder."""
        super().__init__()
        self.attention = attention

    def forward(
        self, hidden_states: Tensor, position_bias: Tensor | None = None, **_: object
    ) -> tuple[Tensor, Tensor]:
        """Attend from all tokens to all: SD3's prompts are padded and their padding is not masked.

        Args:
            hidden_states: (B, tokens, width).
            position_bias: (1, heads, tokens, tokens); None in the first block.

        Returns:
            (B, tokens, width), and the bias for the next block.
        """
        own, tokens = self.attention, hidden_states.shape[1]
        if position_bias is None:
            position_bias = own.compute_bias(tokens, tokens, device=hidden_states.device)
        query, key, value = (
            layer(hidden_states).unflatten(-1, (own.n_heads, -1)).transpose(1, 2)
            for layer in (own.q, own.k, own.v)
        )
        seen = scaled_dot_product_attention(query, key, value, attn_mask=position_bias, scale=1.0)
        return own.o(seen.transpose(1, 2).flatten(2)), position_bias


def hasten_t5(encoder: torch.nn.Module) -> None:
    """Let a T5 encoder attend and compute its GELU by fused kernels.

    Args:
        encoder: transformers' ``T5EncoderModel``.
    """
    from transformers.activations import NewGELUActivation
    from transformers.models.t5.modeling_t5 import T5Attention

    for name, module in list(encoder.named_modules()):
        if isinstance(module, T5Attention):
            encoder.set_submodule(name, FusedAttention(module))
        elif isinstance(module, NewGELUActivation):
            encoder.set_submodule(name, torch.nn.GELU(approximate="tanh"))

"""SD3's six parts: everything about each that code outside of its network must know, in one table.

============  ===============================================  ===============================================
part          call                                             gives
============  ===============================================  ===============================================
text_enc_1    input_ids (B, 77) int64, CLIP-L's                penultimate hidden state (B, 77, 768),
                                                               pooled projection (B, 768)
text_enc_2    input_ids (B, 77) int64, CLIP-G's                the same of (B, 77, 1280) and (B, 1280)
text_enc_3    input_ids (B, 512) int64, T5's, no mask          last hidden state (B, 512, 4096)
transformer   latent (B, 16, h, w), timestep (B,),             velocity (B, 16, h, w)
              prompt_embeds (B, 77 + 512, 4096),
              pooled (B, 2048)
vae_encoder   x (B, 3, 8h, 8w) in [-1, 1]                      moments (B, 32, h, w): mean, log-variance
vae_decoder   z (B, 16, h, w), unscaled and shifted            picture (B, 3, 8h, 8w), about [-1, 1]
============  ===============================================  ===============================================

Imports nothing: commands read it for their options.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class PartSpec:
    """One part.

    Attributes:
        folder: in the diffusers layout; the VAE's halves share one, and run at different times.
        inputs, outputs: names of what the part's call takes and gives, in order, as optimum calls them.
        tokenizer: folder of its tokenizer; empty where it reads no text.
        tokens: length that prompts are padded or cut to.
        special_tokens: of these, what the tokenizer adds.
        other_half: beginnings of the names in the folder's files that belong to another part.
        tied: names of one and the same tensor; a file holds any of them.
    """

    folder: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tokenizer: str = ""
    tokens: int = 0
    special_tokens: int = 0
    other_half: tuple[str, ...] = ()
    tied: frozenset[str] = frozenset()


PARTS = {
    "text_enc_1": PartSpec(
        "text_encoder", ("input_ids",), ("hidden_states", "text_embeds"), "tokenizer", 77, special_tokens=2
    ),
    "text_enc_2": PartSpec(
        "text_encoder_2",
        ("input_ids",),
        ("hidden_states", "text_embeds"),
        "tokenizer_2",
        77,
        special_tokens=2,
    ),
    "text_enc_3": PartSpec(
        "text_encoder_3",
        ("input_ids",),
        ("last_hidden_state",),
        "tokenizer_3",
        tokens=512,
        special_tokens=1,
        tied=frozenset({"shared.weight", "encoder.embed_tokens.weight"}),
    ),
    "transformer": PartSpec(
        "transformer",
        ("hidden_states", "timestep", "encoder_hidden_states", "pooled_projections"),
        ("out_hidden_states",),
    ),
    "vae_encoder": PartSpec(
        "vae", ("sample",), ("latent_parameters",), other_half=("decoder.", "post_quant_conv.")
    ),
    "vae_decoder": PartSpec("vae", ("latent_sample",), ("sample",), other_half=("encoder.", "quant_conv.")),
}
TEXT_PARTS = tuple(name for name, part in PARTS.items() if part.tokenizer)
VAE_PARTS = tuple(name for name, part in PARTS.items() if part.folder == "vae")
TOKENIZERS = tuple(PARTS[name].tokenizer for name in TEXT_PARTS)
# Read even where other things stand in for the parts: scaling factor and sizes stand in their configurations.
ALWAYS_CONFIGURED = ("transformer", "vae")


def folders_of(parts: Iterable[str]) -> list[str]:
    """Return the folders of some parts, each once, in the table's order."""
    wanted = set(parts)
    return list(dict.fromkeys(part.folder for name, part in PARTS.items() if name in wanted))


def vae_pixels(config: dict[str, list[int]]) -> int:
    """Return how many pixels of a picture a latent pixel stands for, along a side: 8 for SD3's VAE."""
    return 2 ** (len(config["block_out_channels"]) - 1)

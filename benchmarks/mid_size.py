"""SD3 and Qwen2.5-VL of a tenth of their size with random weights, in the released formats.

The VAE is the true one; transformer, text encoders and VLM have a tenth of the true parameters each, or
little more. The VLM's tokenizer is the tests' small one with 4,096 made-up words. The rows of all other
tokens are zero, so that a greedy answer is words alone and never ends before its longest, and the repetition
penalty is such that no word comes twice: every picture has an answer of its own, of always the same length.
"""

import json
from itertools import product
from pathlib import Path
from typing import Any

from full_size import (
    qwen_shapes,
    write_qwen_configuration,
    write_sd3_configuration,
    write_sd3_weights,
    write_sr_files,
)

# what differs from the configurations of the true size
SD3_CHANGES: dict[str, dict[str, Any]] = {
    "text_encoder": {
        "hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6, "num_hidden_layers": 6,
        "projection_dim": 384,
    },
    "text_encoder_2": {
        "hidden_size": 640, "intermediate_size": 2560, "num_attention_heads": 10, "num_hidden_layers": 12,
        "projection_dim": 640,
    },
    "text_encoder_3": {"d_model": 1280, "d_ff": 3328, "num_heads": 20},
    "transformer": {
        "num_attention_heads": 12, "num_layers": 10, "caption_projection_dim": 768,
        "joint_attention_dim": 1280, "pooled_projection_dim": 1024,
    },
}  # fmt: skip
QWEN_CHANGES: dict[str, Any] = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 8, "num_key_value_heads": 2,
    "num_hidden_layers": 16,
}  # fmt: skip
VISION_CHANGES: dict[str, Any] = {
    "depth": 8, "hidden_size": 640, "intermediate_size": 1712, "num_heads": 8, "out_hidden_size": 1024,
    "fullatt_block_indexes": [3, 7],
}  # fmt: skip
SYLLABLES = ["".join(pair) for pair in product("bdfgklmn", "ae")]  # 16: three make a word
REPETITION_PENALTY = 4.0


def write_sd3(folder: Path) -> None:
    """Write ``sd3/``, model_20001.pkl and, last, vae_encoder_20001.pt; what is there already is kept."""
    if (folder / "vae_encoder_20001.pt").exists():
        return
    sd3 = folder / "sd3"
    write_sd3_configuration(sd3)
    for name, changes in SD3_CHANGES.items():
        change(sd3 / name / "config.json", changes)
    write_sd3_weights(sd3)
    write_sr_files(folder, sd3)


def write_qwen(folder: Path) -> None:
    """Write the VLM where it is not there already."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoTokenizer

    if (folder / "model.safetensors").exists():
        return
    known = write_qwen_configuration(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([" " + "".join(word) for word in product(SYLLABLES, repeat=3)])
    tokenizer.save_pretrained(folder)
    change(folder / "config.json", {**QWEN_CHANGES, "vocab_size": len(tokenizer)})
    change(folder / "config.json", VISION_CHANGES, "vision_config")
    change(folder / "generation_config.json", {"repetition_penalty": REPETITION_PENALTY})
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in qwen_shapes(folder).items():
        if len(shape) > 1:
            value = torch.randn(shape, generator=generator) * 0.02
        else:  # of norms, or biases
            value = torch.full(shape, float(name.endswith(".weight")))
        tensors[name] = value.bfloat16()
    tensors["model.embed_tokens.weight"][:known] = 0  # never the likeliest
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def change(path: Path, changes: dict[str, Any], inside: str | None = None) -> None:
    """Change values of a JSON object in a file, or of the object under the name ``inside`` in it."""
    content = json.loads(path.read_text())
    (content[inside] if inside else content).update(changes)
    path.write_text(json.dumps(content))

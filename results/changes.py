"""What differs between the settings of two runs, in words, by the names that options have.

Settings are what run.json holds of what decides the pixels: of the chain, of the prompt extractor and the SR
backbone (what their ``describe`` says), and of files, by their SHA-256.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

# Options whose value is a field of `zoom.settings.Tiles`, by that field.
TILE_OPTIONS = {
    "vae_encoder": "vae_encoder_tiled_size",
    "vae_decoder": "vae_decoder_tiled_size",
    "latent": "latent_tiled_size",
    "latent_overlap": "latent_tiled_overlap",
}
# What a setting is called, by its path: the option that decides it, or the file whose sum it is. The first
# pattern that fits holds; where none does, the path's last part.
_NAMES = {
    r"chain/(\w+)": r"--\1",
    r".*/sha256/(.+)": r"\1",
    r"(?:backbone|extractor)/(?:files|adapter|data)/(.+)": r"\1",
    r"(?:backbone|extractor)/files": "the files of the checkpoint",
    r"extractor(?:/extractor)?": "--prompt_type",
    r"extractor/fallback/extractor": "what stands in for an answer that is no prompt (--ram_path)",
    r"extractor/(?:fallback/)?ram(?:/file)?": "--ram_path",
    r"extractor/(?:fallback/)?dape(?:/file)?": "--ram_ft_path",
    r"extractor/(?:fallback/)?tags(?:/file)?": "--ram_tags",
    r"extractor/(?:fallback/)?thresholds(?:/file)?": "--ram_thresholds",
    r"extractor/(?:fallback/)?dtype": "the prompt extractor's precision (--mixed_precision)",
    r"extractor/model": "the VLM (--vlm_path, --vlm_model)",
    r"extractor/served": "--vlm_url",
    r"extractor/adapter": "--vlm_lora_path",
    r"extractor/max_new_tokens": "--max_new_tokens",
    r"backbone(?:/backbone|/file)?": "--backbone",
    r"backbone/model": "--pretrained_model_name_or_path",
    r"backbone/lora_sha256": "--lora_path",
    r"backbone/vae_sha256": "--vae_path",
    r"backbone/scheduler": "scheduler_config.json",
    r"backbone/weights": "of the embedded network",
    r"backbone/dtype": "the network's precision (--mixed_precision)",
    r"backbone/dtypes/(\w+)": r"the precision of \1 (--mixed_precision, --quantize)",
    r"backbone/stand_ins": "the parts in int8 (--quantize)",
    r"backbone/xformers": "--enable_xformers_memory_efficient_attention",
    r"backbone/compiled": "--compile",
    **{f"backbone/tiles/{field}": f"--{option}" for field, option in TILE_OPTIONS.items()},
    r"quantized": "--quantize",
    r"quantized/(\w+)": r"\1 in int8 (--quantize)",
    r"prompts_file": "--prompts_file",
    # of a training
    r"training/weights/(\w+)": r"--\1_weight",
    r"training/(\w+)": r"--\1",
    r"data/trained_on": "what is trained on (-i, --states, --held_out, --seed)",
    r"data/held_out": "what is held out (-i, --states, --held_out, --seed)",
    r"critic/\w+": "the critic (--critic, --critic_model)",
}
# Where these differ, everything beside them does.
_KINDS = ("backbone", "extractor", "file")
_SHA256 = re.compile("[0-9a-f]{64}")


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Name what differs: ``"--seed was 42, is 43"``; nothing where they are equal.

    Args:
        old, new: settings, in the form of run.json. The old ones may hold anything that JSON can.
    """
    return list(_differences(old, new, ""))


def _differences(old: Any, new: Any, path: str) -> Iterator[str]:
    if old == new:
        return
    if not (isinstance(old, dict) and isinstance(new, dict)):
        yield _in_words(_name(path), old, new)
        return
    kinds = [kind for kind in _KINDS if isinstance(old.get(kind), str) and isinstance(new.get(kind), str)]
    for key in [kind for kind in kinds if old[kind] != new[kind]] or sorted(old.keys() | new.keys()):
        below = f"{path}/{key}" if path else key
        if key == "sha256" and "file" in new:
            below += f"/{new['file']}"
        yield from _differences(old.get(key), new.get(key), below)


def _name(path: str) -> str:
    for pattern, name in _NAMES.items():
        match = re.fullmatch(pattern, path, re.DOTALL)
        if match is not None:
            return match.expand(name)
    return path.rpartition("/")[2]


def _in_words(name: str, old: Any, new: Any) -> str:
    if _SHA256.search(json.dumps(old)) and _SHA256.search(json.dumps(new)):
        what = f"the file of {name}" if name.startswith("--") else f"the checkpoint {name}"
        return f"{what} has other content than before"
    return f"{name} was {_value(old)}, is {_value(new)}"


def _value(value: Any) -> str:
    """Say a value as it would be given; of files and parts only that they are there."""
    if isinstance(value, dict):
        kinds = [value[kind] for kind in _KINDS if isinstance(value.get(kind), str)]
        return kinds[0] if kinds else "given"
    if isinstance(value, str):
        return "given" if _SHA256.search(value) else value if re.fullmatch(r"\S+", value) else repr(value)
    if isinstance(value, list):
        between = "x" if all(type(one) is int for one in value) else " "  # as --process_size takes them
        return between.join(map(_value, value)) or "none"
    return {"null": "not given", "false": "not given", "true": "given"}.get(json.dumps(value), f"{value}")

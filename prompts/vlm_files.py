"""Qwen2.5-VL's folder, found or fetched, and checked without importing torch."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from checkpoints.folders import (
    TRANSFORMERS,
    ModelFiles,
    read_json,
    read_model,
    refuse_odd_files,
    weights_files,
)
from checkpoints.gate import blaming, check_configuration
from checkpoints.hashing import sha256_by_name
from checkpoints.headers import TensorInfo
from checkpoints.hub import find_model, revision_of
from errors import InputError
from lora.vlm_adapter import VlmAdapter, check_vlm_adapter, todays_name

_HUB_FILES = ("*.json", "*.jinja", "*.txt", "*.safetensors")


@dataclass(frozen=True)
class VlmFiles:
    """A checked Qwen2.5-VL folder, with the adapter that goes with it.

    Attributes:
        name: the hub name, or the last part of a folder's path.
        model: its configuration and weights.
        adapter: the tuned prompt extractor's weights, or None.
    """

    name: str
    model: ModelFiles
    adapter: VlmAdapter | None

    @property
    def folder(self) -> Path:
        """Where the files are."""
        return self.model.folder

    def describe(self) -> dict[str, object]:
        """Identify every file that decides the answers by its content, for run.json.

        Raises:
            InputError: a file cannot be read any more.
        """
        small = [path for path in self.folder.iterdir() if path.suffix in (".json", ".jinja", ".txt")]
        try:
            return {
                "model": self.name,
                "files": sha256_by_name(sorted({*small, *self.model.files})),
                "adapter": self.adapter and sha256_by_name([self.adapter.file, self.adapter.config]),
            }
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be read any more ({error.strerror})") from None


def check_vlm_folder(vlm_path: str | Path, vlm_lora_path: Path | None, download: bool = False) -> VlmFiles:
    """Find Qwen2.5-VL and check what headers and configurations tell, without importing torch.

    Args:
        vlm_path: a folder in transformers' layout, or a name on the Hugging Face hub.
        vlm_lora_path: PEFT folder of the tuned prompt extractor, or None.
        download: whether a hub name may be fetched where it is not in the hub's cache.

    Raises:
        InputError: one line with what is wrong and the way out.
    """
    folder = find_model(str(vlm_path), needed_files, is_whole, download)
    refuse_odd_files(folder)
    kind = read_json(folder / "config.json").get("model_type")
    if kind != "qwen2_5_vl":
        raise InputError(f"{folder}: a {kind} model, but --vlm_path needs a Qwen2.5-VL")
    for name in ("preprocessor_config.json", "tokenizer_config.json"):
        read_json(folder / name)
    generation = folder / "generation_config.json"
    if generation.is_file():
        check_configuration(read_json(generation), generation)
    if not _has_tokenizer(folder):
        raise InputError(f"{folder}: no tokenizer (tokenizer.json) in it; download the folder again")
    model = read_model(folder, names=TRANSFORMERS)
    adapter = None
    if vlm_lora_path is not None:
        with blaming(vlm_lora_path):
            adapter = check_vlm_adapter(vlm_lora_path, linear_layers(model.tensors))
    return VlmFiles(str(vlm_path) if revision_of(folder) else folder.resolve().name, model, adapter)


def needed_files(names: Sequence[str]) -> list[str]:
    """Choose among a repository's files: configurations, tokenizer and weights."""
    return [name for name in names if "/" not in name and any(fnmatch(name, one) for one in _HUB_FILES)]


def _has_tokenizer(folder: Path) -> bool:
    return (folder / "tokenizer.json").is_file() or (folder / "vocab.json").is_file()


def is_whole(folder: Path) -> bool:
    """Tell whether a folder holds every file that is needed."""
    try:
        weights = weights_files(folder, TRANSFORMERS)[0]
    except InputError:
        return False
    configs = (folder / name for name in ("config.json", "preprocessor_config.json", "tokenizer_config.json"))
    return all(path.is_file() for path in (*weights, *configs)) and _has_tokenizer(folder)


def linear_layers(tensors: Mapping[str, TensorInfo]) -> dict[str, tuple[int, ...]]:
    """Shape (outputs, inputs) of every linear layer inside the two towers, by its name in today's tree."""
    return {
        todays_name(name.removesuffix(".weight")): info.shape
        for name, info in tensors.items()
        if name.endswith(".weight") and len(info.shape) == 2 and not re.search("embed_tokens|lm_head", name)
    }

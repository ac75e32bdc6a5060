"""An SD3 checkpoint in diffusers' folder layout: found or downloaded, and checked without loading anything.

::

    model_index.json                     which class each part is of
    scheduler/  tokenizer/  tokenizer_2/  tokenizer_3/
    text_encoder/     CLIP-L             \\
    text_encoder_2/   CLIP-G              \\  config.json and model.safetensors, or its shards named by
    text_encoder_3/   T5-XXL encoder      /  model.safetensors.index.json; diffusion_pytorch_model for the
    transformer/      SD3 transformer    /   last two; *.fp16.safetensors where only that variant is there
    vae/              VAE
"""

import errno
import json
import logging
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from checkpoints.headers import TensorInfo, safetensors_info
from errors import InputError
from lora.sr_lora import check_sr_lora
from lora.vae_encoder import check_vae_encoder

logger = logging.getLogger(__name__)

# SD3's parts as the program names them, and their folders. The VAE's halves run at different times.
FOLDERS = {
    "text_enc_1": "text_encoder",
    "text_enc_2": "text_encoder_2",
    "text_enc_3": "text_encoder_3",
    "transformer": "transformer",
    "vae_encoder": "vae",
    "vae_decoder": "vae",
}
TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")
TOKENIZER_FILES = (
    "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt", "tokenizer.json",
    "spiece.model",
)  # fmt: skip
STEMS = ("model", "diffusion_pytorch_model")  # transformers' name and diffusers' name of the weights
# Hub revisions that are known to work; other models are taken as the hub has them today.
REVISIONS = {"stabilityai/stable-diffusion-3-medium-diffusers": "ea42f8cef0f178587cf766dc8129abd379c90671"}
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # not ./folder


@dataclass(frozen=True)
class PartFiles:
    """One folder's configuration and the tensors of its weights files.

    Attributes:
        config: its config.json.
        files: weights files, one or several shards.
        tensors: every tensor by name, from the files' headers.
    """

    config: dict[str, Any]
    files: tuple[Path, ...]
    tensors: dict[str, TensorInfo] = field(repr=False)

    @property
    def parameters(self) -> int:
        """Number of elements over all tensors."""
        return sum(info.elements for info in self.tensors.values())

    @property
    def dtype(self) -> str:
        """Type of most tensors, in safetensors' words."""
        return Counter(info.dtype for info in self.tensors.values()).most_common(1)[0][0]


@dataclass(frozen=True)
class SD3Checkpoint:
    """A checked SD3 folder with the SR files that go with it.

    Attributes:
        folder: in diffusers layout.
        parts: by folder name (``text_encoder`` ... ``vae``); those replaced by others may be absent.
        lora_path: SR LoRA of the transformer, or None.
        vae_path: SR encoder of the VAE, or None.
    """

    folder: Path
    parts: dict[str, PartFiles]
    lora_path: Path | None
    vae_path: Path | None


def check_sd3(
    model: str,
    lora_path: Path | None,
    vae_path: Path | None,
    lora_rank: int | None = None,
    replaced: Collection[str] = (),
    download: bool = True,
) -> SD3Checkpoint:
    """Find an SD3 checkpoint and check everything about it that headers and configurations tell.

    Args:
        model: folder in diffusers layout, or a name on the Hugging Face hub.
        lora_path: ``SR_LoRA/model_20001.pkl``; None together with ``vae_path`` means plain SD3.
        vae_path: ``SR_VAE/vae_encoder_20001.pt``.
        lora_rank: the rank that both files must have; None takes the files'.
        replaced: parts (keys of `FOLDERS`) for which something else stands in; their weights are not needed.
        download: whether a hub name may be downloaded where it is not in the cache.

    Raises:
        InputError: one line with what is wrong and the way out.
    """
    if (lora_path is None) != (vae_path is None):
        given, other = ("--lora_path", "--vae_path") if vae_path is None else ("--vae_path", "--lora_path")
        raise InputError(f"{given} without {other}: the SR LoRA and the SR VAE encoder were trained together")
    folder = find_sd3(model, replaced, download)
    _check_index(folder)
    for name in TOKENIZERS:
        if not _has_tokenizer(folder / name):
            raise InputError(
                f"{folder / name}: no tokenizer in it; download the whole of SD3's diffusers folder"
            )
    needed = dict.fromkeys(FOLDERS[part] for part in FOLDERS if part not in replaced)
    configured = dict.fromkeys(
        [*needed, "transformer", "vae"]
    )  # scaling factor and sizes are read from these
    parts = {name: _check_part(folder / name, name in needed) for name in configured}
    _check_config(folder, parts)
    if lora_path is not None and vae_path is not None:
        config = parts["transformer"].config
        width = config["num_attention_heads"] * config["attention_head_dim"]
        if "transformer" not in replaced:
            check_sr_lora(lora_path, config["num_layers"], width, lora_rank)
        if "vae_encoder" not in replaced:
            prefix = "encoder."
            encoder = {
                name.removeprefix(prefix): info.shape
                for name, info in parts["vae"].tensors.items()
                if name.startswith(prefix)
            }
            check_vae_encoder(vae_path, encoder, lora_rank)
    return SD3Checkpoint(folder, parts, lora_path, vae_path)


def _has_tokenizer(folder: Path) -> bool:
    """Tell whether the files of a CLIP tokenizer, or of a T5 one, are there."""
    sufficient = (("tokenizer.json",), ("spiece.model",), ("vocab.json", "merges.txt"))
    return any(all((folder / name).is_file() for name in names) for names in sufficient)


def find_sd3(model: str, replaced: Collection[str] = (), download: bool = True) -> Path:
    """Return the folder of a checkpoint, downloading what is needed of a hub name into the hub's cache.

    Raises:
        InputError: no such folder, a file instead of a folder, or the hub cannot give it.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise InputError(
            f"{path}: a single-file checkpoint; SD3 is read from a folder in diffusers layout, such as"
            " stabilityai/stable-diffusion-3-medium-diffusers"
        )
    if not HUB_NAME.fullmatch(model):
        raise InputError(f"{path}: no such folder, and not a hub name (OWNER/NAME)")
    return _from_hub(model, frozenset(replaced), download)


@cache  # checked before anything is imported and again where it is loaded: asked once
def _from_hub(name: str, replaced: frozenset[str], download: bool) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    revision = REVISIONS.get(name)
    try:
        cached = Path(snapshot_download(name, revision=revision, local_files_only=True))
        if not download or _is_whole(cached, replaced):
            return cached
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        pass  # what is not in the cache is fetched now
    try:
        if not download:
            raise LocalEntryNotFoundError("not in the cache")
        wanted = needed_files(HfApi().list_repo_files(name, revision=revision), replaced)
        logger.info("fetching %d files of %s from the Hugging Face hub", len(wanted), name)
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except GatedRepoError:
        raise InputError(
            f"{name}: a gated model: accept its licence at https://huggingface.co/{name} and log in"
            " (huggingface-cli login)"
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise InputError(f"{name}: neither a folder here nor a model on the Hugging Face hub") from None
    except (
        OfflineModeIsEnabled,
        LocalEntryNotFoundError,
        HfHubHTTPError,
        EntryNotFoundError,
        OSError,
    ) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise InputError(
                f"{name}: no room for it in the hub's cache; make room, or set HF_HOME"
            ) from None
        try:
            return Path(snapshot_download(name, revision=revision, local_files_only=True))
        except (LocalEntryNotFoundError, OfflineModeIsEnabled):
            why = (
                "not in the hub's cache"
                if not download
                else f"the hub is out of reach ({type(error).__name__})"
            )
            raise InputError(f"{name}: no such folder here, and {why}; give a folder or go online") from None


def _is_whole(folder: Path, replaced: Collection[str]) -> bool:
    """Tell whether a snapshot holds every file that is needed: then the hub is not asked."""
    needed = {FOLDERS[part] for part in FOLDERS if part not in replaced}
    try:
        weights = [path for name in needed for path in weights_files(folder / name)[0]]
    except InputError:
        return False
    configs = [folder / name / "config.json" for name in {*needed, "transformer", "vae"}]
    scheduler = folder / "scheduler" / "scheduler_config.json"
    files = (*weights, *configs, scheduler, folder / "model_index.json")
    return all(path.is_file() for path in files) and all(_has_tokenizer(folder / name) for name in TOKENIZERS)


def needed_files(names: Collection[str], replaced: Collection[str] = ()) -> list[str]:
    """Choose among a repository's files: configurations, tokenizers, one variant of each part's weights."""
    wanted = [name for name in names if name in ("model_index.json", "scheduler/scheduler_config.json")]
    wanted += [f"{t}/{file}" for t in TOKENIZERS for file in TOKENIZER_FILES if f"{t}/{file}" in names]
    needed = {FOLDERS[part] for part in FOLDERS if part not in replaced}
    for folder in dict.fromkeys(FOLDERS.values()):
        config = f"{folder}/config.json"
        wanted += [config] if config in names else []
        if folder not in needed:
            continue
        files = [name.removeprefix(f"{folder}/") for name in names if name.startswith(f"{folder}/")]
        for stem, variant in _variants():
            shards = re.compile(rf"{stem}{re.escape(variant)}(-\d+-of-\d+)?\.safetensors")
            chosen = [name for name in files if shards.fullmatch(name)]
            if chosen:
                index = f"{stem}.safetensors.index{variant}.json"
                wanted += [f"{folder}/{name}" for name in (*chosen, *([index] if index in files else []))]
                break
    return wanted


def _variants() -> list[tuple[str, str]]:
    return [(stem, variant) for variant in ("", ".fp16") for stem in STEMS]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); download the folder again") from None
    except ValueError:
        raise InputError(f"{path}: not JSON, or half-downloaded; download it again") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a configuration; download it again")
    return content


def _check_index(folder: Path) -> None:
    path = folder / "model_index.json"
    if not path.is_file():
        single = next(iter(sorted(folder.glob("sd3*.safetensors"))), None)
        what = f"holds the single-file checkpoint {single.name}" if single else "has no model_index.json"
        raise InputError(f"{folder}: {what}; not SD3 in diffusers' folder layout")
    name = _read_json(path).get("_class_name")
    if name != "StableDiffusion3Pipeline":
        raise InputError(
            f"{folder}: a {name}, not SD3 (StableDiffusion3Pipeline); use"
            " stabilityai/stable-diffusion-3-medium-diffusers"
        )


def _check_part(folder: Path, weights: bool) -> PartFiles:
    config = _read_json(folder / "config.json")
    if not weights:
        return PartFiles(config, (), {})
    files, index = weights_files(folder)
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        tensors |= safetensors_info(file)
    missing = [name for name in index if name not in tensors]
    if missing:
        raise InputError(
            f"{folder}: {missing[0]} is in the index, but in none of the shards; download it again"
        )
    part = PartFiles(config, files, tensors)
    if part.dtype not in ("F32", "F16", "BF16"):
        raise InputError(f"{folder}: weights in {part.dtype}; take those in F16, BF16 or F32")
    return part


def weights_files(folder: Path) -> tuple[tuple[Path, ...], Collection[str]]:
    """Return a part's weights files, and the names that its index promises where it is sharded."""
    for stem, variant in _variants():
        single = folder / f"{stem}{variant}.safetensors"
        if single.is_file():
            return (single,), ()
        index = folder / f"{stem}.safetensors.index{variant}.json"
        if index.is_file():
            weight_map = _read_json(index).get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise InputError(f"{index}: not a shard index; download it again")
            return tuple(folder / name for name in sorted(set(weight_map.values()))), weight_map
    pickled = next((path for path in folder.glob("*.bin")), None)
    hint = (
        f"only {pickled.name}, a pickle; take the .safetensors file"
        if pickled
        else "download the folder again"
    )
    raise InputError(f"{folder}: no weights (*.safetensors): {hint}")


def _check_config(folder: Path, parts: dict[str, PartFiles]) -> None:
    transformer, vae = parts["transformer"].config, parts["vae"].config
    if transformer.get("_class_name") != "SD3Transformer2DModel":
        raise InputError(
            f"{folder / 'transformer'}: a {transformer.get('_class_name')}, not SD3's transformer"
        )
    if transformer.get("qk_norm") or transformer.get("dual_attention_layers"):
        raise InputError(f"{folder}: SD3.5; the SR LoRA and this program are made for SD3-medium")
    if vae.get("_class_name") != "AutoencoderKL":
        raise InputError(f"{folder / 'vae'}: a {vae.get('_class_name')}, not SD3's VAE (AutoencoderKL)")
    sizes = ("num_layers", "num_attention_heads", "attention_head_dim", "patch_size", "pos_embed_max_size")
    for key in sizes:
        if not isinstance(transformer.get(key), int):
            raise InputError(f"{folder / 'transformer' / 'config.json'}: {key} is missing; download it again")
    for key in ("scaling_factor", "shift_factor"):
        if not isinstance(vae.get(key), (int, float)):
            raise InputError(f"{folder / 'vae' / 'config.json'}: {key} is missing: not SD3's VAE")

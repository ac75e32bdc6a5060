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

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints.folders import VARIANTS, ModelFiles, read_json, read_model, refuse_odd_files, weights_files
from checkpoints.gate import blaming
from checkpoints.hashing import checkpoint_sha256, sha256_by_name
from checkpoints.hub import SD3_NAME, find_model
from errors import InputError
from lora.sr_lora import check_sr_lora
from lora.vae_encoder import check_vae_encoder
from sd3.spec import ALWAYS_CONFIGURED, PARTS, TOKENIZERS, folders_of, vae_pixels

TOKENIZER_FILES = (
    "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt", "tokenizer.json",
    "spiece.model",
)  # fmt: skip
MOST_STAGES = 8  # of a VAE; SD3's has 4, of 2 layers each
INDEX, SCHEDULER = "model_index.json", "scheduler/scheduler_config.json"


@dataclass(frozen=True)
class SD3Checkpoint:
    """A checked SD3 folder with the SR files that go with it.

    Attributes:
        name: of the model, as the user knows it.
        folder: in diffusers layout.
        parts: by folder name (``text_encoder`` ... ``vae``); those replaced by others may be absent.
        lora_path: SR LoRA of the transformer, or None.
        vae_path: SR encoder of the VAE, or None.
    """

    name: str
    folder: Path
    parts: dict[str, ModelFiles]
    lora_path: Path | None
    vae_path: Path | None

    def files_of(self, part: str) -> ModelFiles:
        """Return the files of one of `sd3.spec.PARTS`."""
        return self.parts[PARTS[part].folder]

    def weights_of(self, part: str) -> list[Path]:
        """Return every file that a part's weights are read from, the SR files among them."""
        sr_file = {"transformer": self.lora_path, "vae_encoder": self.vae_path}.get(part)
        return [*self.files_of(part).files, *([] if sr_file is None else [sr_file])]

    @property
    def vae_config(self) -> dict[str, Any]:
        """config.json of the VAE."""
        return self.parts["vae"].config

    @property
    def transformer_config(self) -> dict[str, Any]:
        """config.json of the transformer."""
        return self.parts["transformer"].config

    @property
    def side_multiple(self) -> int:
        """What the sides of the networks' pictures are multiples of: 16 for SD3."""
        return vae_pixels(self.vae_config) * self.transformer_config["patch_size"]

    def describe(self) -> dict[str, object]:
        """Identify every file that decides the pixels by its content, for run.json.

        Raises:
            InputError: a file cannot be read any more.
        """
        texts = {name: [self.folder / name / file for file in TOKENIZER_FILES] for name in TOKENIZERS}
        try:
            files = {
                name: sha256_by_name([part.folder / "config.json", *part.files])
                for name, part in self.parts.items()
            }
            files |= {name: sha256_by_name(filter(Path.is_file, paths)) for name, paths in texts.items()}
            return {
                "model": Path(self.name).name,
                "files": files,
                "scheduler": checkpoint_sha256(self.folder / SCHEDULER),
                "lora_sha256": self.lora_path and checkpoint_sha256(self.lora_path),
                "vae_sha256": self.vae_path and checkpoint_sha256(self.vae_path),
            }
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be read any more ({error.strerror})") from None


def find_sd3(model: str, replaced: Collection[str] = (), download: bool = False) -> Path:
    """Return the folder of a checkpoint.

    Args:
        model: folder in diffusers layout, or a name on the Hugging Face hub.
        replaced: parts for which something else stands in; their weights are not fetched.
        download: whether what the hub's cache lacks is fetched.

    Raises:
        InputError: no such folder, a file instead of a folder, or the hub cannot give it.
    """
    return find_model(
        model,
        lambda names: needed_files(names, replaced),
        lambda folder: is_whole(folder, replaced),
        download,
        f"a single-file checkpoint; SD3 is read from a folder in diffusers layout, such as {SD3_NAME}",
    )


def check_sd3(
    model: str,
    lora_path: Path | None,
    vae_path: Path | None,
    lora_rank: int | None = None,
    replaced: Collection[str] = (),
    download: bool = False,
) -> SD3Checkpoint:
    """Find an SD3 checkpoint and check everything about it that headers and configurations tell.

    Args:
        model: folder in diffusers layout, or a name on the Hugging Face hub.
        lora_path: ``SR_LoRA/model_20001.pkl``; None together with ``vae_path`` means plain SD3.
        vae_path: ``SR_VAE/vae_encoder_20001.pt``.
        lora_rank: the rank that both files must have; None takes the files'.
        replaced: parts for which something else stands in; their weights are not needed.
        download: whether a hub name may be downloaded where it is not in the cache.

    Raises:
        InputError: one line with what is wrong and the way out.
    """
    if (lora_path is None) != (vae_path is None):
        given, other = ("--lora_path", "--vae_path") if vae_path is None else ("--vae_path", "--lora_path")
        raise InputError(f"{given} without {other}: the SR LoRA and the SR VAE encoder were trained together")
    folder = find_sd3(model, replaced, download)
    refuse_odd_files(folder, *(path for path in sorted(folder.iterdir()) if path.is_dir()))
    _check_index(folder)
    for name in TOKENIZERS:
        if not _has_tokenizer(folder / name):
            raise InputError(
                f"{folder / name}: no tokenizer in it; download the whole of SD3's diffusers folder"
            )
    needed = _needed_folders(replaced)
    parts = {
        name: read_model(folder / name, name in needed)
        for name in dict.fromkeys([*needed, *ALWAYS_CONFIGURED])
    }
    checkpoint = SD3Checkpoint(model, folder, parts, lora_path, vae_path)
    _check_config(checkpoint)
    if lora_path is not None and vae_path is not None:
        config = checkpoint.transformer_config
        width = config["num_attention_heads"] * config["attention_head_dim"]
        if "transformer" not in replaced:
            with blaming(lora_path):
                check_sr_lora(lora_path, config["num_layers"], width, lora_rank)
        if "vae_encoder" not in replaced:
            prefix = "encoder."
            encoder = {
                name.removeprefix(prefix): info.shape
                for name, info in parts["vae"].tensors.items()
                if name.startswith(prefix)
            }
            with blaming(vae_path):
                check_vae_encoder(vae_path, encoder, lora_rank)
    return checkpoint


def _needed_folders(replaced: Collection[str]) -> list[str]:
    return folders_of(part for part in PARTS if part not in replaced)


def _has_tokenizer(folder: Path) -> bool:
    """Tell whether the files of a CLIP tokenizer, or of a T5 one, are there."""
    sufficient = (("tokenizer.json",), ("spiece.model",), ("vocab.json", "merges.txt"))
    return any(all((folder / name).is_file() for name in names) for names in sufficient)


def is_whole(folder: Path, replaced: Collection[str] = ()) -> bool:
    """Tell whether a folder holds every file that is needed, but for the weights of replaced parts."""
    needed = _needed_folders(replaced)
    try:
        weights = [path for name in needed for path in weights_files(folder / name)[0]]
    except InputError:
        return False
    configs = [folder / name / "config.json" for name in {*needed, *ALWAYS_CONFIGURED}]
    files = (*weights, *configs, folder / SCHEDULER, folder / INDEX)
    return all(path.is_file() for path in files) and all(_has_tokenizer(folder / name) for name in TOKENIZERS)


def needed_files(names: Sequence[str], replaced: Collection[str] = ()) -> list[str]:
    """Choose among a repository's files: configurations, tokenizers, one variant of each part's weights."""
    wanted = [name for name in names if name in (INDEX, SCHEDULER)]
    wanted += [f"{t}/{file}" for t in TOKENIZERS for file in TOKENIZER_FILES if f"{t}/{file}" in names]
    needed = _needed_folders(replaced)
    for folder in folders_of(PARTS):
        config = f"{folder}/config.json"
        wanted += [config] if config in names else []
        if folder not in needed:
            continue
        files = [name.removeprefix(f"{folder}/") for name in names if name.startswith(f"{folder}/")]
        for stem, variant in VARIANTS:
            shards = re.compile(rf"{stem}{re.escape(variant)}(-\d+-of-\d+)?\.safetensors")
            chosen = [name for name in files if shards.fullmatch(name)]
            if chosen:
                index = f"{stem}.safetensors.index{variant}.json"
                wanted += [f"{folder}/{name}" for name in (*chosen, *([index] if index in files else []))]
                break
    return wanted


def _check_index(folder: Path) -> None:
    path = folder / INDEX
    if not path.is_file():
        single = next(iter(sorted(folder.glob("sd3*.safetensors"))), None)
        what = f"holds the single-file checkpoint {single.name}" if single else f"has no {INDEX}"
        raise InputError(f"{folder}: {what}; not SD3 in diffusers' folder layout")
    name = read_json(path).get("_class_name")
    if name != "StableDiffusion3Pipeline":
        raise InputError(f"{folder}: a {name}, not SD3 (StableDiffusion3Pipeline); use {SD3_NAME}")


def _check_config(checkpoint: SD3Checkpoint) -> None:
    folder, transformer, vae = checkpoint.folder, checkpoint.transformer_config, checkpoint.vae_config
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
        if type(transformer.get(key)) is not int or transformer[key] < 1:
            path = folder / "transformer" / "config.json"
            raise InputError(f"{path}: {key} is missing or no size; download it again")
    for key in ("scaling_factor", "shift_factor"):
        if type(vae.get(key)) not in (int, float) or not vae[key]:
            raise InputError(f"{folder / 'vae' / 'config.json'}: {key} is missing: not SD3's VAE")
    channels, layers = vae.get("block_out_channels"), vae.get("layers_per_block")
    if not isinstance(channels, list) or not 1 <= len(channels) <= MOST_STAGES or not isinstance(layers, int):
        raise InputError(f"{folder / 'vae' / 'config.json'}: block_out_channels are not SD3's VAE's")
    if layers > MOST_STAGES:
        raise InputError(f"{folder / 'vae' / 'config.json'}: layers_per_block is out of range")

"""Every checkpoint that the program can use: one table for ckpt/README.md, messages and downloads.

Two kinds: files that lie in ``ckpt/`` (`Checkpoint.files`), and whole models that the Hugging Face hub's
client keeps in its own cache (no files listed: what reads a model chooses them). What is not known here is
None: the size of most files of GitHub. The hashes of the two models' files the hub tells when it is asked.

Imports nothing heavy: options and messages read it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from checkpoints import places

PURPOSES = ("null", "dape", "vlm")  # what --prompt_type needs
HUB, GITHUB = "hub", "github"


@dataclass(frozen=True)
class CheckpointFile:
    """One file that lies in ``ckpt/``.

    Attributes:
        path: in its repository, with ``/``.
        place: where it lies here.
        sha256: of its content, in hexadecimal.
        size: in bytes; None where it is not known.
    """

    path: str
    place: Path
    sha256: str
    size: int | None = None


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint: where it comes from, what it is for, and on which terms.

    Attributes:
        name: by which messages and tables call it.
        what: it is, in a few words.
        purposes: those of `PURPOSES` that need it.
        host: `HUB` or `GITHUB`.
        repository: OWNER/NAME there.
        revision: the commit that is known to work.
        licence: by which its publisher shares it.
        terms: page of the licence.
        files: those that lie in ``ckpt/``; none for a model in the hub's cache.
        optional: whether its purposes can do without it; an option turns it on.
        gated: whether its terms must be accepted on its page first, by somebody who is logged in.
        about: size of a model in the hub's cache, roughly, in bytes.
        option: of inference_coz.py that takes it.
        also: another place where the same files are published, in words.
    """

    name: str
    what: str
    purposes: tuple[str, ...]
    host: str
    repository: str
    revision: str
    licence: str
    terms: str
    files: tuple[CheckpointFile, ...] = ()
    optional: bool = False
    gated: bool = False
    about: int | None = None
    option: str = ""
    also: str = ""

    @property
    def page(self) -> str:
        """Where people read about it, and accept its terms."""
        site = "https://huggingface.co" if self.host == HUB else "https://github.com"
        return f"{site}/{self.repository}"

    @property
    def size(self) -> int | None:
        """All its bytes, roughly for a model; None where a file's size is not known."""
        sizes = [file.size for file in self.files]
        return self.about if not sizes else None if None in sizes else sum(filter(None, sizes))

    @property
    def in_ckpt(self) -> bool:
        """Whether it lies in ``ckpt/``, not in the hub's cache."""
        return bool(self.files)


_COZ = "bryanswkim/Chain-of-Zoom"
_COZ_REVISION = "5a4f351c9c655568c4705d5fc53ef70a3f28905f"
_COZ_LICENCE = ("MIT", f"https://github.com/{_COZ}/blob/main/LICENSE")
_RAM_LICENCE = ("Apache-2.0", "https://github.com/xinyu1205/recognize-anything/blob/main/LICENSE")

SD3 = Checkpoint(
    "Stable Diffusion 3 medium",
    "the SR network's text encoders, transformer and VAE",
    PURPOSES,
    HUB,
    "stabilityai/stable-diffusion-3-medium-diffusers",
    "ea42f8cef0f178587cf766dc8129abd379c90671",
    "Stability AI Community, non-commercial without an agreement of one's own",
    "https://huggingface.co/stabilityai/stable-diffusion-3-medium/blob/main/LICENSE.md",
    gated=True,
    about=16_000_000_000,
    option="--pretrained_model_name_or_path",
)
SR_LORA = Checkpoint(
    "SR LoRA",
    "LoRA of the SD3 transformer",
    PURPOSES,
    GITHUB,
    _COZ,
    _COZ_REVISION,
    *_COZ_LICENCE,
    (
        CheckpointFile(
            "ckpt/SR_LoRA/model_20001.pkl",
            places.SR_LORA,
            "697d3f9ab69a222006ca3ae48503cf057774c8142646301e9bba90e58242e47e",
        ),
    ),
    option="--lora_path",
)
SR_VAE = Checkpoint(
    "SR VAE encoder",
    "VAE encoder with its LoRA",
    PURPOSES,
    GITHUB,
    _COZ,
    _COZ_REVISION,
    *_COZ_LICENCE,
    (
        CheckpointFile(
            "ckpt/SR_VAE/vae_encoder_20001.pt",
            places.SR_VAE,
            "ed7f7aa03dfcbce9016d51c5aa8d3920428b3d7c9a678c721cd062d01805ae4a",
        ),
    ),
    option="--vae_path",
)
RAM = Checkpoint(
    "RAM",
    "Recognize Anything, the tagger",
    ("dape",),
    HUB,
    "xinyu1205/recognize_anything_model",
    "a4f945fe0720892020c28309624df3bd1f3ad3dc",
    *_RAM_LICENCE,
    (
        CheckpointFile(
            "ram_swin_large_14m.pth",
            places.RAM,
            "15c729c793af28b9d107c69f85836a1356d76ea830d4714699fb62e55fcc08ed",
            5_625_634_877,
        ),
    ),
    option="--ram_path",
)
RAM_LISTS = Checkpoint(
    "RAM's lists",
    "RAM's 4585 tags, and a threshold for each",
    ("dape",),
    GITHUB,
    "xinyu1205/recognize-anything",
    "7cb804a8609e9f4b1a50b7f31436d2df40bb9481",
    *_RAM_LICENCE,
    (
        CheckpointFile(
            "ram/data/ram_tag_list.txt",
            places.RAM_TAGS,
            "5d96d2f7225527480ad773aaac76b6e5c08a18adf6eae9ca7d2ab923d5e7bd8b",
            41_904,
        ),
        CheckpointFile(
            "ram/data/ram_tag_list_threshold.txt",
            places.RAM_THRESHOLDS,
            "b6f81d0de1bc7f9c251af512c413eae976c77dbfbadf700d4e3d90510f4c6447",
            22_016,
        ),
    ),
    option="--ram_tags, --ram_thresholds",
)
DAPE = Checkpoint(
    "DAPE",
    "a fine-tune of RAM for degraded pictures",
    ("dape",),
    GITHUB,
    _COZ,
    _COZ_REVISION,
    "Apache-2.0",  # as SeeSR, which made it, says of its weights
    "https://github.com/cswry/SeeSR/blob/main/LICENSE",
    (
        CheckpointFile(
            "ckpt/DAPE/DAPE.pth",
            places.DAPE,
            "a7028be2edcbe9ab0bd1c4ab6f2a2a86f4b44d32261a4faa50ae10fdd9b2feba",
        ),
    ),
    option="--ram_ft_path",
    also="Hugging Face CSWRY/SeeSR",
)
VLM = Checkpoint(
    "Qwen2.5-VL 3B",
    "the VLM that describes each step's picture",
    ("vlm",),
    HUB,
    "Qwen/Qwen2.5-VL-3B-Instruct",
    "66285546d2b821cf421d4f5eb2576359d3770cd3",
    "Qwen Research, non-commercial",
    "https://huggingface.co/Qwen/Qwen2.5-VL-3B-Instruct/blob/main/LICENSE",
    about=7_500_000_000,
    option="--vlm_path",
)
VLM_LORA = Checkpoint(
    "VLM adapter",
    "GRPO-tuned adapter of Qwen2.5-VL",
    ("vlm",),
    GITHUB,
    _COZ,
    _COZ_REVISION,
    *_COZ_LICENCE,
    (
        CheckpointFile(
            "ckpt/VLM_LoRA/checkpoint-10000/adapter_model.safetensors",
            places.VLM_LORA / "adapter_model.safetensors",
            "1ba6fc24e76e0e078ceb6e067c49bcfbe86cb0d8995add1515172d922fba2ebd",
        ),
        CheckpointFile(
            "ckpt/VLM_LoRA/checkpoint-10000/adapter_config.json",
            places.VLM_LORA / "adapter_config.json",
            "66ebc2c4fcfe472c503814f7440b5e4bde2a2e4d197a52495e42df8dca69017e",
        ),
    ),
    optional=True,
    option="--vlm_lora_path",
)

CATALOGUE = (SD3, SR_LORA, SR_VAE, RAM, RAM_LISTS, DAPE, VLM, VLM_LORA)


def of_purpose(purpose: str) -> tuple[Checkpoint, ...]:
    """Return what a purpose needs or can use (`Checkpoint.optional`), in the catalogue's order.

    Args:
        purpose: one of `PURPOSES`, or ``all``.
    """
    return tuple(one for one in CATALOGUE if purpose == "all" or purpose in one.purposes)


def missing_files(checkpoint: Checkpoint) -> list[CheckpointFile]:
    """Return a checkpoint's files of ``ckpt/`` that are not there; none of a model in the hub's cache."""
    return [file for file in checkpoint.files if not file.place.is_file()]


def how_to_get(checkpoints: Iterable[Checkpoint]) -> str:
    """Return the command that fetches these: for the purpose that brings least beside them."""
    wanted = set(checkpoints)
    enough = [purpose for purpose in (*PURPOSES, "all") if wanted <= set(of_purpose(purpose))]
    return f"python download_ckpt.py --for {min(enough, key=lambda one: len(of_purpose(one)))}"

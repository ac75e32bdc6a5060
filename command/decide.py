"""What inference_coz.py's options decide together, and every check that needs neither picture nor model."""

import argparse
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from checkpoints.catalogue import CATALOGUE, how_to_get
from checkpoints.hub import SD3_NAME
from checkpoints.places import DAPE, QUANTIZED, RAM, RAM_TAGS, RAM_THRESHOLDS, SR_LORA, SR_VAE
from command.arguments import matched
from command.films import film_settings
from command.look import decide_texture, decide_tile_prompts, decide_where
from command.options import build_parser
from command.ray_options import check_ray
from command.sharding import gpus_of, shard_of
from command.viewing import check_share
from command.vlm_options import SERVER_OPTIONS, VLM_OPTIONS, check_vlm_options
from errors import InputError
from results.changes import TILE_OPTIONS
from results.limits import LONGEST_PROMPT, MAX_PIXELS
from zoom.settings import (
    MOST_STEPS,
    RECURSIVE_KINDS,
    RESIZE_KINDS,
    SMALLEST_STATE,
    ChainSettings,
    Tiles,
)

# Options that only one part reads, with their defaults: given without that part, they are refused.
SD3_OPTIONS = {
    "pretrained_model_name_or_path": None,
    "lora_path": None,
    "vae_path": None,
    "no_sr_lora": False,
    "lora_rank": None,
    **{option: getattr(Tiles(), field) for field, option in TILE_OPTIONS.items()},
    "enable_xformers_memory_efficient_attention": False,
    "compile": False,
    "quantize": False,
    "quantized_dir": None,
}
NETWORK_OPTIONS = {
    "device": "auto",
    "mixed_precision": "auto",
    "efficient_memory": False,
    "align_method": None,
    "prompt": "",
    "prompts_file": None,
}
BACKBONES = ("embedded", "sd3")
RAM_OPTIONS = {"ram_path": RAM, "ram_ft_path": DAPE, "ram_tags": None, "ram_thresholds": None}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse and check the command line.

    Raises:
        InputError: values that cannot go together, or files that are not there.
        SystemExit: for ``--help`` and ``--version``.
    """
    options = build_parser().parse_args(arguments)
    if not options.check:
        check(options)
        decide(options)
    return options


def chain_settings(options: argparse.Namespace) -> ChainSettings:
    """Return what the options say of the chain."""
    fields = (field.name for field in dataclasses.fields(ChainSettings))
    return ChainSettings(**{name: getattr(options, name) for name in fields})


def group_size(options: argparse.Namespace, settings: ChainSettings) -> int:
    """Return how many pictures go through a scale together."""
    if settings.full_image:  # they are of any size
        return 1
    if options.efficient_memory:
        return settings.group
    at_once = options.vlm_requests if options.vlm_url is not None else 1
    return max(options.batch_size, min(at_once, settings.group))


def tiles(options: argparse.Namespace) -> Tiles:
    """Return the tile sizes.

    Raises:
        InputError: they do not work.
    """
    return Tiles(**{field: getattr(options, option) for field, option in TILE_OPTIONS.items()})


def check(options: argparse.Namespace) -> None:
    """Check values and paths, as far as nothing has to be opened.

    Raises:
        InputError: the first thing that is wrong.
    """
    for side in options.process_size:
        if side < SMALLEST_STATE or side % 16:
            nearest = max(SMALLEST_STATE, round(side / 16) * 16)
            raise InputError(
                f"--process_size {side}: must be a multiple of 16, at least {SMALLEST_STATE}; take {nearest}"
            )
    width, height = options.process_size
    if width * height > MAX_PIXELS:
        raise InputError(f"--process_size {width}x{height}: at most {MAX_PIXELS:,} pixels")
    if not 2 <= options.upscale <= 8:
        raise InputError(f"--upscale {options.upscale}: must be from 2 to 8")
    if not 0 <= options.seed < 2**63:
        raise InputError(f"--seed {options.seed}: must be from 0 to 2**63 - 1")
    if len(options.prompt) > LONGEST_PROMPT or "\0" in options.prompt:
        raise InputError(f"--prompt: at most {LONGEST_PROMPT} characters, none of them NUL")
    if options.rec_num > MOST_STEPS:
        raise InputError(f"--rec_num {options.rec_num}: at most {MOST_STEPS}")
    _decide_pictures(options)
    for path in options.input_image:
        if not os.path.exists(path):  # noqa: PTH110 (never raises)
            link = " (a link to nothing)" if path.is_symlink() else ""
            raise InputError(f"{path}: no such file or folder{link}")
    if options.output_dir.exists() and not options.output_dir.is_dir():
        raise InputError(f"--output_dir {options.output_dir}: is a file; give a folder")
    if options.label_strip and options.save == "states":
        raise InputError("--label_strip: --save states keeps no strips; leave one of the two out")
    _must_be_file(options, "prompts_file")
    _must_be_file(options, "regions")
    options.film = film_settings(options)
    check_share(options.share, options.output_dir)
    options.shard = shard_of(options.shard)
    options.gpus = gpus_of(options.gpus_per_process)
    if options.shard is not None:
        _refuse_with_shards(options)
    check_ray(options)
    check_vlm_options(options)


def _decide_pictures(options: argparse.Namespace) -> None:
    """Take the pictures from where they are given, behind ``-i`` or by themselves, and patterns for files."""
    if options.input_image and options.pictures:
        raise InputError(
            f"{options.pictures[0]}: pictures are also given with -i; give all of them there, or none"
        )
    options.input_image = options.input_image or options.pictures
    if not options.input_image:
        raise InputError("no pictures are given: inference_coz.py PHOTO.jpg, or a folder; see --help")
    options.input_image = list(matched(options.input_image))


def decide(options: argparse.Namespace) -> None:
    """Put what ``auto`` and the unset options stand for into their place.

    Checkpoints that are not there are noted in ``options.missing``, by option: whoever checks the files names
    them all together.

    Raises:
        InputError: an option is given whose part takes no part.
    """
    options.missing = {}
    resizes_only = options.rec_type in RESIZE_KINDS
    backbone_given, asks_itself = options.backbone != "auto", options.prompt_type == "auto"
    _decide_backbone(options)
    if resizes_only:
        only = f"--rec_type {options.rec_type} only resizes"
        if options.prompt_type in ("dape", "vlm"):
            raise InputError(
                f"--prompt_type {options.prompt_type}: {only}, and nothing is asked; leave one out"
            )
        for name, default in NETWORK_OPTIONS.items():
            if getattr(options, name) != default:
                raise InputError(f"--{name}: {only}, without any network; leave one of the two out")
        options.prompt_type = "null"
    elif options.prompt_type == "auto":
        options.prompt_type = _auto_prompt_type(options)
    uses_sd3 = options.backbone == "sd3" and not resizes_only
    with_sd3 = "only goes with --backbone sd3, and with kinds that do not only resize"
    _refuse_idle(options, SD3_OPTIONS, uses_sd3, with_sd3)
    nobody_asks = _why_nobody_asks(options) if asks_itself else ""
    with_type = "only goes with --prompt_type"
    _refuse_idle(options, VLM_OPTIONS, options.prompt_type == "vlm", nobody_asks or f"{with_type} vlm")
    _refuse_idle(options, SERVER_OPTIONS, options.vlm_url is not None, "only goes with --vlm_url")
    uses_ram = options.prompt_type in ("dape", "vlm")
    options.ram_given = options.ram_path is not None
    with_ram = nobody_asks or f"{with_type} dape (or vlm, for answers that are no prompt)"
    _refuse_idle(options, RAM_OPTIONS, uses_ram, with_ram)
    if resizes_only and backbone_given:
        raise InputError(
            f"--backbone {options.backbone}: --rec_type {options.rec_type} only resizes, without any network"
        )
    if options.efficient_memory and options.backbone != "sd3" and options.prompt_type == "null":
        raise InputError(
            "--efficient_memory only goes with models that are big: --backbone sd3, or a prompt extractor"
        )
    is_onnx = options.network_file is not None and options.network_file.suffix.lower() == ".onnx"
    if is_onnx and options.prompt_type == "null" and options.mixed_precision != "auto":
        raise InputError("--mixed_precision: an ONNX file computes in its own dtype; leave it out")
    if uses_sd3:
        _decide_sd3(options)
    if uses_ram:
        _decide_ram(options)
    if options.vlm_lora_path is not None and not options.vlm_lora_path.is_dir():
        options.missing["vlm_lora_path"] = InputError(
            f"--vlm_lora_path {options.vlm_lora_path}: no such folder"
        )
    decide_where(options)
    decide_tile_prompts(options, uses_sd3)
    decide_texture(options, options.rec_type in RECURSIVE_KINDS)


def _refuse_with_shards(options: argparse.Namespace) -> None:
    if options.find_detail is not None:
        raise InputError(
            "--find_detail: not in shards; propose the spots once (--find_detail N --dry_run), and give them "
            "to all shards: --regions OUT/spots.csv"
        )
    if options.ray is not None:
        raise InputError("--ray: spreads the pictures itself; leave --shard out (or give --shard 0/1)")
    if options.share is not None:
        raise InputError("--share: not in shards; share a picture when all are done, with make_viewer.py")


def _decide_backbone(options: argparse.Namespace) -> None:
    """Tell the backbones by name from files; ``network_file`` is None where it is not one."""
    options.network_file = None
    if options.backbone == "auto":
        options.backbone = "embedded" if options.pretrained_model_name_or_path is None else "sd3"
    if options.backbone in BACKBONES:
        return
    file = Path(options.backbone)
    if not file.is_file():
        raise InputError(
            f"--backbone {options.backbone}: neither {', '.join(BACKBONES)} or auto, nor a file that is there"
        )
    options.backbone, options.network_file = "file", file


def _auto_prompt_type(options: argparse.Namespace) -> str:
    if options.backbone != "sd3":  # no other takes prompts
        return "null"
    if any(one is not None for one in (options.vlm_path, options.vlm_lora_path, options.vlm_url)):
        return "vlm"
    return "dape" if options.ram_path is not None or RAM.is_file() else "null"


def _why_nobody_asks(options: argparse.Namespace) -> str:
    """Say why ``--prompt_type auto`` asks nobody, where that is not for the user to choose."""
    if options.rec_type in RESIZE_KINDS:
        return f"is of no use: --rec_type {options.rec_type} only resizes, and nobody is asked for a prompt"
    if options.backbone == "sd3":
        return ""
    network = "the network in a file" if options.network_file is not None else "the embedded network"
    return (
        f"is of no use: {network} takes no prompts; Stable Diffusion 3 does "
        f"(--pretrained_model_name_or_path {SD3_NAME})"
    )


def _refuse_idle(options: argparse.Namespace, defaults: dict[str, Any], in_use: bool, why: str) -> None:
    """Refuse options that nothing would read, and fill in the defaults of those that are not given."""
    for name, default in defaults.items():
        given = getattr(options, name)
        if not in_use and given is not None and given is not False:
            raise InputError(f"--{name} {why}")
        is_missing_file = isinstance(default, Path) and not default.is_file()
        if given is None and not is_missing_file:
            setattr(options, name, default)


def _must_be_file(options: argparse.Namespace, name: str) -> None:
    """Refuse a file that is given and not there."""
    path = getattr(options, name)
    if path is not None and not path.is_file():
        raise InputError(f"--{name} {path}: no such file")


def _decide_sd3(options: argparse.Namespace) -> None:
    if options.pretrained_model_name_or_path is None:
        raise InputError(
            "--backbone sd3 wants --pretrained_model_name_or_path: a folder in diffusers layout, or "
            f"{SD3_NAME}"
        )
    if options.quantized_dir is not None and not options.quantize:
        raise InputError("--quantized_dir only goes with --quantize")
    options.quantized_dir = options.quantized_dir or QUANTIZED
    if options.compile and options.full_image:
        raise InputError(
            "--compile: whole pictures are of many sizes, and each would be compiled for itself; leave it out"
        )
    if options.compile and options.enable_xformers_memory_efficient_attention:
        raise InputError(
            "--compile: compiles PyTorch's own attention, and not xformers'; give one of the two"
        )
    if options.no_sr_lora:
        if any(one is not None for one in (options.lora_path, options.vae_path, options.lora_rank)):
            raise InputError(
                "--no_sr_lora and --lora_path, --vae_path or --lora_rank contradict each other; give one"
            )
        return
    for name, default in (("lora_path", SR_LORA), ("vae_path", SR_VAE)):
        _or_default(options, name, default, "; --no_sr_lora if plain SD3 is meant")


def _decide_ram(options: argparse.Namespace) -> None:
    if options.prompt_type != "dape" and options.ram_path is None:
        for name in ("ram_tags", "ram_thresholds"):
            if getattr(options, name) is not None:
                raise InputError(f"--{name} only goes with RAM's weights: --ram_path")
        return
    must_be_there = dict(options.missing)
    _or_default(options, "ram_path", RAM)
    beside = options.ram_path.parent
    _or_default(options, "ram_tags", beside / RAM_TAGS.name)
    _or_default(options, "ram_thresholds", beside / RAM_THRESHOLDS.name)
    if options.ram_ft_path is not None:
        _or_default(options, "ram_ft_path", DAPE)
    if options.prompt_type != "dape" and not options.ram_given:  # found by itself, and not needed
        options.missing = must_be_there


def _brings(file: Path) -> str:
    """Say how to get a checkpoint's file."""
    for checkpoint in CATALOGUE:
        if any(one.place == file for one in checkpoint.files):
            return f"{how_to_get([checkpoint])} fetches it"
    return "ckpt/README.md says where to get it"


def _or_default(options: argparse.Namespace, name: str, default: Path, way_out: str = "") -> None:
    """Fill in where a checkpoint's file is by itself; note it where the file is not there."""
    given = getattr(options, name)
    if given is None:
        setattr(options, name, default)
        problem = f"--{name} is not given, and {default} is not there: {_brings(default)}{way_out}"
    else:
        problem = f"--{name} {given}: no such file"
    if not getattr(options, name).is_file():
        options.missing[name] = InputError(problem)

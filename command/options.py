"""The options of inference_coz.py, and every check that needs neither a picture nor a model."""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from errors import InputError

MOST_STEPS = 100
HERE = Path(__file__).parent.parent
CKPT = HERE / "ckpt"
RAM, DAPE = CKPT / "RAM" / "ram_swin_large_14m.pth", CKPT / "DAPE" / "DAPE.pth"
SR_LORA, SR_VAE = CKPT / "SR_LoRA" / "model_20001.pkl", CKPT / "SR_VAE" / "vae_encoder_20001.pt"
QUANTIZED = CKPT / "quantized"
DEFAULT_VLM = "Qwen/Qwen2.5-VL-3B-Instruct"
# as zoom.chain.KINDS, which is too heavy to import for --help; a test holds them together
KINDS = ("nearest", "bicubic", "onestep", "recursive", "recursive_multiscale")
ALIGN_METHODS = ("nofix", "adain", "wavelet", "backproject")

EXAMPLES = """
examples:
  inference_coz.py -i samples                        256x zooms of every picture in samples/
  inference_coz.py -i photo.jpg --rec_num 2          4x and 16x of one picture
  inference_coz.py -i photos --dry_run               check everything, print the plan, do nothing

exit codes: 0 all done; 1 some pictures failed (named); 2 bad arguments or files, nothing done;
130 interrupted, the same command goes on
"""


# Options that only one part reads, with their defaults: given without that part, they are refused.
SD3_OPTIONS = {
    "pretrained_model_name_or_path": None,
    "lora_path": None,
    "vae_path": None,
    "no_sr_lora": False,
    "lora_rank": None,
    "vae_encoder_tiled_size": 1024,
    "vae_decoder_tiled_size": 224,
    "latent_tiled_size": 96,
    "latent_tiled_overlap": 32,
    "enable_xformers_memory_efficient_attention": False,
    "quantize": False,
    "quantized_dir": None,
}
VLM_OPTIONS = {"vlm_path": DEFAULT_VLM, "vlm_lora_path": None, "max_new_tokens": 128}
NETWORK_OPTIONS = {
    "device": "auto",
    "mixed_precision": "auto",
    "efficient_memory": False,
    "align_method": "nofix",
    "prompt": "",
    "prompts_file": None,
}
RAM_OPTIONS = {"ram_path": RAM, "ram_ft_path": DAPE, "ram_tags": None, "ram_thresholds": None}


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Show every default, and keep the examples' line breaks."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, "", False) or "default" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


def underscored(arguments: Sequence[str]) -> list[str]:
    """Accept ``-`` for ``_`` in option names: ``--rec-num=4`` as ``--rec_num=4``."""
    result = []
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            argument = "--" + name[2:].replace("-", "_") + equals + value
        result.append(argument)
    return result


def build_parser() -> argparse.ArgumentParser:
    """Describe every option of the command."""
    parser = argparse.ArgumentParser(
        prog="inference_coz.py",
        description="Zoom into pictures, 4x a step, with detail made by a super-resolution network.",
        epilog=EXAMPLES,
        formatter_class=Help,
        allow_abbrev=False,
    )
    files = parser.add_argument_group("pictures and results")
    add = files.add_argument
    add(
        "-i",
        "--input_image",
        nargs="+",
        type=Path,
        required=True,
        metavar="PATH",
        help="pictures and folders of pictures, in any format that Pillow reads",
    )
    add(
        "--recursive_folders",
        action="store_true",
        help="also search the folders inside the folders; the results keep their structure",
    )
    add(
        "-o",
        "--output_dir",
        type=Path,
        default=Path("inference_results"),
        metavar="DIR",
        help="where the results go",
    )
    add(
        "--overwrite",
        action="store_true",
        help="start anew; without it, finished pictures are skipped and started ones go on",
    )
    add(
        "--dry_run",
        action="store_true",
        help="check everything and print the plan (pictures, models, memory, disk); load nothing, and fetch "
        "nothing from the hub",
    )

    chain = parser.add_argument_group("the chain")
    add = chain.add_argument
    add(
        "--rec_type",
        choices=KINDS,
        default="recursive_multiscale",
        help="recursive: each step zooms into the state before; recursive_multiscale: the prompt extractor "
        "also sees that whole state; onestep: each step enlarges a crop of the picture itself at once; "
        "bicubic, nearest: the same crop, only resized",
    )
    add("--rec_num", type=_at_least(1), default=4, metavar="N", help="number of steps, at most 100")
    add("--upscale", type=int, default=4, metavar="S", help="factor a step, 2 to 8")
    add(
        "--process_size",
        type=int,
        default=512,
        metavar="P",
        help="side of a state in pixels, a multiple of 16 from 64",
    )
    add(
        "--align_method",
        choices=ALIGN_METHODS,
        default="nofix",
        help="colour correction against the SR input: adain where colours drift as a whole; wavelet where "
        "they drift in places; backproject makes each state, shrunk, equal its crop to 1 grey level: for "
        "faithful colours over one or two steps, deeper it also carries the crop's noise on",
    )
    add("--seed", type=int, default=42, metavar="N", help="all noise derives from it")

    prompts = parser.add_argument_group("prompts")
    add = prompts.add_argument
    add(
        "--prompt_type",
        choices=("auto", "null", "dape", "vlm"),
        default="auto",
        help="null: only your own words; dape: tags of the SR input (RAM with DAPE); vlm: what Qwen2.5-VL "
        "sees in it; auto: vlm where --vlm_path or --vlm_lora_path is given, else dape where RAM's files "
        "are, else null; null also where nothing is steered (embedded backbone, bicubic, nearest)",
    )
    add("--prompt", default="", metavar="TEXT", help="your own words, joined to what the extractor says")
    add(
        "--prompts_file",
        type=Path,
        metavar="FILE.csv",
        help="fixed prompts (file,step,prompt), used whole; a run writes such a file: prompts.csv",
    )
    add(
        "--save_prompts",
        action="store_true",
        default=True,
        help="write txt/K.txt beside the states (default)",
    )
    add(
        "--no_save_prompts",
        dest="save_prompts",
        action="store_false",
        default=argparse.SUPPRESS,
        help="do not write them",
    )
    add("--ram_path", type=Path, metavar="FILE", help=f"RAM's weights (default: {_in_ckpt(RAM)} if there)")
    add("--ram_ft_path", type=Path, metavar="FILE", help=f"DAPE (default: {_in_ckpt(DAPE)} if there)")
    add(
        "--ram_tags",
        type=Path,
        metavar="FILE",
        help="RAM's tag list (default: ram_tag_list.txt beside RAM's weights)",
    )
    add(
        "--ram_thresholds",
        type=Path,
        metavar="FILE",
        help="a threshold a tag (default: ram_tag_list_threshold.txt beside RAM's weights)",
    )
    add("--vlm_path", metavar="PATH", help=f"Qwen2.5-VL: folder or hub name (default: {DEFAULT_VLM})")
    add("--vlm_lora_path", type=Path, metavar="DIR", help="PEFT folder of the tuned prompt extractor")
    add("--max_new_tokens", type=_at_least(1), metavar="N", help="longest answer of the VLM (default: 128)")

    backbone = parser.add_argument_group("the SR backbone")
    add = backbone.add_argument
    add(
        "--backbone",
        choices=("auto", "sd3", "embedded"),
        default="auto",
        help="embedded: real weights from a registry package, runs on any CPU, takes no prompts; sd3: "
        "Stable Diffusion 3 as a one-step SR network; auto: sd3 where --pretrained_model_name_or_path is "
        "given, else embedded",
    )
    add(
        "--pretrained_model_name_or_path",
        metavar="PATH",
        help="SD3: a folder in diffusers layout, or a hub name such as "
        "stabilityai/stable-diffusion-3-medium-diffusers",
    )
    add("--lora_path", type=Path, metavar="FILE", help=f"SR LoRA (default: {_in_ckpt(SR_LORA)} if there)")
    add(
        "--vae_path", type=Path, metavar="FILE", help=f"SR VAE encoder (default: {_in_ckpt(SR_VAE)} if there)"
    )
    add("--no_sr_lora", action="store_true", help="use plain SD3, without the SR LoRA and the SR VAE encoder")
    add(
        "--lora_rank",
        type=_at_least(1),
        metavar="R",
        help="rank that the SR files must have (default: theirs)",
    )
    add(
        "--merge_and_unload_lora",
        action="store_true",
        help="accepted for old scripts: LoRAs are always merged into the weights",
    )
    add(
        "--vae_encoder_tiled_size",
        type=_at_least(1),
        metavar="N",
        help="tile side of the VAE's encoder in pixels, for larger states (default: 1024)",
    )
    add(
        "--vae_decoder_tiled_size",
        type=_at_least(1),
        metavar="N",
        help="tile side of the VAE's decoder in latent pixels, 8 picture pixels each (default: 224)",
    )
    add(
        "--latent_tiled_size",
        type=_at_least(1),
        metavar="N",
        help="tile side of the transformer in latent pixels (default: 96)",
    )
    add(
        "--latent_tiled_overlap",
        type=_at_least(0),
        metavar="N",
        help="latent pixels that neighbouring tiles share (default: 32)",
    )
    add(
        "--enable_xformers_memory_efficient_attention",
        action="store_true",
        help="use xformers in SD3's transformer; where it cannot be had, one line says why, and the run "
        "goes on without",
    )

    add(
        "--quantize",
        action="store_true",
        help="use the int8 ONNX parts that quantize_model.py made; a missing or broken one, or one made from "
        "other files, is left to PyTorch with one warning",
    )
    add(
        "--quantized_dir",
        type=Path,
        metavar="DIR",
        help=f"where these parts are (default: {_in_ckpt(QUANTIZED)})",
    )

    machine = parser.add_argument_group("the machine")
    add = machine.add_argument
    add(
        "--device",
        default="auto",
        metavar="DEVICE",
        help="auto (cuda, else mps, else cpu; of two CUDA devices text encoders and VLM take the first, the "
        "SR networks the second), cuda, cuda:N, mps or cpu",
    )
    add(
        "--mixed_precision",
        choices=("auto", "fp32", "fp16", "bf16"),
        default="auto",
        help="auto: bf16 where the device is fast at it, else fp16 on a GPU, fp32 on the CPU",
    )
    add(
        "--efficient_memory",
        action="store_true",
        help="for little memory (one GPU of 24 GB, or none): one big model in it at a time, placed once a "
        "scale for all pictures",
    )
    add("--batch_size", type=_at_least(1), default=1, metavar="B", help="pictures a forward pass")
    loudness = machine.add_mutually_exclusive_group()
    loudness.add_argument("-v", "--verbose", action="count", default=0, help="say more; -vv for everything")
    loudness.add_argument("-q", "--quiet", action="store_true", help="say errors only")
    return parser


def _in_ckpt(path: Path) -> str:
    return path.relative_to(HERE).as_posix()


def _at_least(least: int) -> Callable[[str], int]:
    def whole_number(text: str) -> int:
        number = int(text)
        if number < least:
            raise argparse.ArgumentTypeError(f"must be {least} or more, not {number}")
        return number

    return whole_number


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse and check the command line.

    Raises:
        InputError: values that cannot go together, or files that are not there.
        SystemExit: for ``--help``, and (code 2) for arguments that argparse refuses.
    """
    options = build_parser().parse_args(underscored(arguments))
    check(options)
    decide(options)
    return options


def check(options: argparse.Namespace) -> None:
    """Check values and paths, as far as nothing has to be opened.

    Raises:
        InputError: the first thing that is wrong.
    """
    size = options.process_size
    if size < 64 or size % 16:
        nearest = max(64, round(size / 16) * 16)
        raise InputError(f"--process_size {size}: must be a multiple of 16, at least 64; take {nearest}")
    if not 2 <= options.upscale <= 8:
        raise InputError(f"--upscale {options.upscale}: must be from 2 to 8")
    if not 0 <= options.seed < 2**63:
        raise InputError(f"--seed {options.seed}: must be from 0 to 2**63 - 1")
    if options.rec_num > MOST_STEPS:
        raise InputError(f"--rec_num {options.rec_num}: at most {MOST_STEPS}")
    for path in options.input_image:
        if not os.path.exists(path):  # noqa: PTH110 (never raises)
            link = " (a link to nothing)" if path.is_symlink() else ""
            raise InputError(f"{path}: no such file or folder{link}")
    if options.output_dir.exists() and not options.output_dir.is_dir():
        raise InputError(f"--output_dir {options.output_dir}: is a file; give a folder")
    _must_be_file(options, "prompts_file")


def decide(options: argparse.Namespace) -> None:
    """Put what ``auto`` and the unset options stand for into their place.

    Raises:
        InputError: an option is given whose part takes no part, or a file that is needed is not.
    """
    resizes_only = options.rec_type in ("nearest", "bicubic")
    if options.backbone == "auto":
        options.backbone = "embedded" if options.pretrained_model_name_or_path is None else "sd3"
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
    _refuse_idle(options, SD3_OPTIONS, uses_sd3, "--backbone sd3, and with kinds that do not only resize")
    _refuse_idle(options, VLM_OPTIONS, options.prompt_type == "vlm", "--prompt_type vlm")
    uses_ram = options.prompt_type in ("dape", "vlm")
    options.ram_given = options.ram_path is not None
    _refuse_idle(
        options, RAM_OPTIONS, uses_ram, "--prompt_type dape (or vlm, for answers that are no prompt)"
    )
    if options.efficient_memory and options.backbone == "embedded" and options.prompt_type == "null":
        raise InputError(
            "--efficient_memory only goes with models that are big: --backbone sd3, or a prompt extractor"
        )
    if uses_sd3:
        _decide_sd3(options)
    if uses_ram:
        _decide_ram(options)
    if options.vlm_lora_path is not None and not options.vlm_lora_path.is_dir():
        raise InputError(f"--vlm_lora_path {options.vlm_lora_path}: no such folder")


def _auto_prompt_type(options: argparse.Namespace) -> str:
    if options.backbone == "embedded":  # it takes no prompts
        return "null"
    if options.vlm_path is not None or options.vlm_lora_path is not None:
        return "vlm"
    return "dape" if options.ram_path is not None or RAM.is_file() else "null"


def _refuse_idle(options: argparse.Namespace, defaults: dict[str, Any], in_use: bool, wanted: str) -> None:
    """Refuse options that nothing would read; where they are read, fill in their defaults."""
    for name, default in defaults.items():
        given = getattr(options, name)
        if not in_use and given not in (None, False):
            raise InputError(f"--{name} only goes with {wanted}")
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
            "stabilityai/stable-diffusion-3-medium-diffusers"
        )
    if options.quantized_dir is not None and not options.quantize:
        raise InputError("--quantized_dir only goes with --quantize")
    options.quantized_dir = options.quantized_dir or QUANTIZED
    if options.no_sr_lora:
        if options.lora_path is not None or options.vae_path is not None:
            raise InputError("--no_sr_lora and --lora_path or --vae_path contradict each other; give one")
        return
    for name, default in (("lora_path", SR_LORA), ("vae_path", SR_VAE)):
        path = getattr(options, name)
        if path is None:
            if not default.is_file():
                raise InputError(
                    f"--{name} is not given, and {default} is not there: ckpt/README.md says where to get "
                    "it; --no_sr_lora if plain SD3 is meant"
                )
            setattr(options, name, default)
        _must_be_file(options, name)


def _decide_ram(options: argparse.Namespace) -> None:
    if options.prompt_type == "dape" and options.ram_path is None:
        raise InputError(
            f"--prompt_type dape wants RAM: --ram_path is not given, and {RAM} is not there: "
            "ckpt/README.md says where to get it"
        )
    for name in ("ram_path", "ram_ft_path"):
        _must_be_file(options, name)
    if options.ram_path is not None:
        beside = options.ram_path.parent
        options.ram_tags = options.ram_tags or beside / "ram_tag_list.txt"
        options.ram_thresholds = options.ram_thresholds or beside / "ram_tag_list_threshold.txt"

"""The options of inference_coz.py, by group. What they decide, and every check, is in `command.decide`."""

import argparse
from pathlib import Path

from checkpoints.hub import SD3_NAME
from checkpoints.places import DAPE, QUANTIZED, RAM, SR_LORA, SR_VAE, default_help
from command.arguments import AUTO, Parser, at_least, batch_size, width_and_height
from command.films import add_film_options
from command.ray_options import add_ray_options
from command.sharding import add_sharding_options
from command.viewing import add_share_option
from command.vlm_options import add_vlm_options
from zoom.settings import (
    ALIGN_METHODS,
    GROUP,
    KINDS,
    MOST_BY_ITSELF,
    MOST_SPOTS,
    MOST_STEPS,
    SAVE,
    SMALLEST_STATE,
    SOURCES,
    TEXTURE,
    TILE_PROMPTS,
    ChainSettings,
    Tiles,
)

CHAIN, TILES = ChainSettings(), Tiles()

EXAMPLES = """
examples:
  inference_coz.py samples                           256x zooms of every picture in samples/
  inference_coz.py photo.jpg --rec_num 2             4x and 16x of one picture
  inference_coz.py photo.jpg --center 0.3 0.6        not into the middle
  inference_coz.py photos --find_detail 3            into the three most detailed spots of each
  inference_coz.py photos --dry_run                  check everything, print the plan, do nothing

exit codes: 0 all done; 1 some pictures failed (named); 2 bad arguments or files;
130 (143) interrupted, the same command goes on
"""


def build_parser() -> Parser:
    """Describe every option of the command."""
    parser = Parser(
        "inference_coz.py",
        "PATH [PATH ...] [-o DIR] [options]",
        "Zoom into pictures, 4x a step, with detail made by a super-resolution network.",
        EXAMPLES,
    )
    _pictures_and_results(parser)
    _the_chain(parser)
    _where(parser)
    _prompts(parser)
    _sr_backbone(parser)
    add_share_option(parser.add_argument_group("the page"))
    add_film_options(parser)
    _the_machine(parser)
    add_sharding_options(parser)
    return parser


def _pictures_and_results(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("pictures and results")
    add = group.add_argument
    add(
        "pictures",
        nargs="*",
        type=Path,
        metavar="PATH",
        help="pictures (JPEG, PNG, HEIC, AVIF, WebP, TIFF, camera raw, ...) and folders of pictures",
    )
    add("-i", "--input_image", nargs="+", type=Path, metavar="PATH", help="the same")
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
        help="start anew: the old results of a picture are removed when its new ones begin; without it, "
        "finished pictures are skipped and started ones go on",
    )
    add(
        "--save",
        choices=SAVE,
        default="all",
        help="states: every state once, and no more but the page; all: also by scale, side by side, and what "
        "the networks enlarged",
    )
    add(
        "--label_strip",
        action="store_true",
        help="write on the strips how much each state is magnified, and whether it is real, enlarged or "
        "invented; also on those of finished pictures, which without it stay as they are",
    )
    add(
        "--dry_run",
        action="store_true",
        help="check everything and print the plan (pictures, models, memory, disk, time); load no "
        "checkpoint, and fetch nothing from the hub",
    )
    add(
        "--check",
        action="store_true",
        help="look at what is installed and in ckpt/, say what can run, and for what cannot the command that "
        "brings it; wants no pictures",
    )


def _the_chain(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the chain")
    add = group.add_argument
    add(
        "--rec_type",
        choices=KINDS,
        default=CHAIN.rec_type,
        help="recursive: each step zooms into the state before; recursive_multiscale: the prompt extractor "
        "also sees that whole state; onestep: each step enlarges a crop of the picture itself at once; "
        "bicubic, nearest: the same crop, only resized",
    )
    add(
        "--rec_num",
        type=at_least(1),
        default=CHAIN.rec_num,
        metavar="N",
        help=f"number of steps, at most {MOST_STEPS}",
    )
    add("--upscale", type=int, default=CHAIN.upscale, metavar="S", help="factor a step, 2 to 8")
    add(
        "--process_size",
        type=width_and_height,
        default=CHAIN.process_size,
        metavar="P",
        help=f"side of a state in pixels, or WxH; multiples of 16 from {SMALLEST_STATE} (default: 512)",
    )
    add(
        "--texture",
        type=float,
        metavar="T",
        help="0 to 1: grain in each crop that the network turns into material, as much as the states before "
        f"had at the place; for networks that only copy what is there (default: {TEXTURE}; 0 with SD3, which "
        "makes its own, with --full_image and with kinds that are not recursive)",
    )
    add(
        "--align_method",
        choices=ALIGN_METHODS,
        help="colour correction against the SR input (default: lowfreq with --texture, else nofix): lowfreq "
        "holds the coarse colours, and leaves all that is finer; adain where colours drift as a whole; "
        "wavelet where they drift in places; backproject makes each state, shrunk, equal its crop to 1 grey "
        "level: for faithful colours over one or two steps, deeper it also carries the crop's noise on",
    )
    add("--seed", type=int, default=CHAIN.seed, metavar="N", help="all noise derives from it")


def _where(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where to zoom")
    add = group.add_argument
    add(
        "--center",
        type=float,
        nargs=2,
        metavar=("X", "Y"),
        help="the point to zoom into, as fractions of the picture as it is seen (default: the middle)",
    )
    add(
        "--box",
        type=float,
        nargs=4,
        metavar=("X0", "Y0", "X1", "Y1"),
        help="start from this part of the picture, as if it were cut to it; fractions again",
    )
    add(
        "--regions",
        type=Path,
        metavar="FILE.csv",
        help="several spots a picture (file,x,y[,label]): results as NAME~LABEL; pictures without a row are "
        "zoomed into as ever",
    )
    add(
        "--find_detail",
        type=at_least(1),
        metavar="N",
        help=f"find the N (at most {MOST_SPOTS}) most detailed spots of each picture, write them to "
        "OUT/spots.csv and OUT/spots/, and zoom into them; with --dry_run only propose them",
    )
    add(
        "--source",
        choices=SOURCES,
        default=CHAIN.source,
        help="native: show the picture's own pixels as long as a window holds enough of them, and enlarge "
        "those before anything is invented; shrunk: shrink the picture to one state first, as published",
    )
    add(
        "--full_image",
        action="store_true",
        help="each step enlarges the whole picture, tile by tile, instead of a window of it",
    )
    add(
        "--tile_prompts",
        choices=TILE_PROMPTS,
        help="with --full_image and SD3: a prompt for every tile, or one for the picture (default: tile "
        "where prompts are extracted)",
    )


def _prompts(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("prompts")
    add = group.add_argument
    add(
        "--prompt_type",
        choices=("auto", "null", "dape", "vlm"),
        default="auto",
        help="null: only your own words; dape: tags of the SR input (RAM with DAPE); vlm: what Qwen2.5-VL "
        "or another VLM sees in it; auto: vlm where --vlm_path, --vlm_lora_path or --vlm_url is given, else "
        "dape where RAM's files are, else null; null also where nothing is steered (embedded backbone, "
        "bicubic, nearest)",
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
    add("--ram_path", type=Path, metavar="FILE", help=f"RAM's weights {default_help(RAM)}")
    add("--ram_ft_path", type=Path, metavar="FILE", help=f"DAPE {default_help(DAPE)}")
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
    add_vlm_options(group)


def _sr_backbone(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the SR backbone")
    add = group.add_argument
    add(
        "--backbone",
        default="auto",
        metavar="NAME|FILE",
        help="embedded: real weights from a registry package, runs on any CPU, takes no prompts; sd3: "
        "Stable Diffusion 3 as a one-step SR network; FILE (.safetensors, .pth, .onnx): any other SR "
        "network; auto (default): sd3 where --pretrained_model_name_or_path is given, else embedded",
    )
    add(
        "--pretrained_model_name_or_path",
        metavar="PATH",
        help=f"SD3: a folder in diffusers layout, or a hub name such as {SD3_NAME}",
    )
    add("--lora_path", type=Path, metavar="FILE", help=f"SR LoRA {default_help(SR_LORA)}")
    add("--vae_path", type=Path, metavar="FILE", help=f"SR VAE encoder {default_help(SR_VAE)}")
    add("--no_sr_lora", action="store_true", help="use plain SD3, without the SR LoRA and the SR VAE encoder")
    add(
        "--lora_rank",
        type=at_least(1),
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
        type=at_least(1),
        metavar="N",
        help=f"tile side of the VAE's encoder in pixels, for larger states (default: {TILES.vae_encoder})",
    )
    add(
        "--vae_decoder_tiled_size",
        type=at_least(1),
        metavar="N",
        help="tile side of the VAE's decoder in latent pixels, 8 picture pixels each (default: "
        f"{TILES.vae_decoder})",
    )
    add(
        "--latent_tiled_size",
        type=at_least(1),
        metavar="N",
        help=f"tile side of the transformer in latent pixels (default: {TILES.latent})",
    )
    add(
        "--latent_tiled_overlap",
        type=at_least(0),
        metavar="N",
        help=f"latent pixels that neighbouring tiles share (default: {TILES.latent_overlap})",
    )
    add(
        "--enable_xformers_memory_efficient_attention",
        action="store_true",
        help="use xformers in SD3's transformer; where it cannot be had, one line says why, and the run "
        "goes on without",
    )
    add(
        "--compile",
        action="store_true",
        help="compile the blocks of SD3's transformer, on CUDA devices; that takes a minute or so for each "
        "batch size, once a run, before it is faster: for long runs (docs/chain.md)",
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
        help=f"where these parts are {default_help(QUANTIZED)}",
    )


def _the_machine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the machine")
    add = group.add_argument
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
        help="auto: fp32 on the CPU; on a GPU fp16 for SD3 and the embedded network, whose files are in it, "
        "and else bf16 where the GPU is fast at it. bf16 on a CPU is for those with avx512_bf16 or amx",
    )
    add(
        "--efficient_memory",
        action="store_true",
        help="for little memory (one GPU of 24 GB, or none): one big model in it at a time, placed once a "
        f"scale for groups of {GROUP} pictures",
    )
    add(
        "--batch_size",
        type=batch_size,
        default=AUTO,
        metavar="B",
        help=f"pictures a forward pass; {AUTO}: on a GPU as many as the plan finds room for, at most "
        f"{MOST_BY_ITSELF}, on the CPU 1; halved where memory ends",
    )
    add_ray_options(group)
    loudness = group.add_mutually_exclusive_group()
    loudness.add_argument("-v", "--verbose", action="count", default=0, help="say more; -vv for everything")
    loudness.add_argument("-q", "--quiet", action="store_true", help="say errors only")

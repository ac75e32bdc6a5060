"""The options of inference_coz.py, and every check that needs neither a picture nor a model."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from errors import InputError

HERE = Path(__file__).parent
CKPT = HERE / "ckpt"
DEFAULT_VLM = "Qwen/Qwen2.5-VL-3B-Instruct"
# as chain_of_zoom.KINDS, which is too heavy to import for --help; a test holds them together
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


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
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
        formatter_class=_Help,
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
        help="check everything and print the plan (pictures, models, memory, disk), load nothing",
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
    add("--rec_num", type=_at_least(1), default=4, metavar="N", help="number of steps")
    add("--upscale", type=int, default=4, metavar="S", help="factor a step, 2 to 8")
    add(
        "--process_size",
        type=int,
        default=512,
        metavar="P",
        help="side of a state in pixels, a multiple of 16",
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
    add("--prompt", default="", metavar="TEXT", help="your own words, joined to what the extractor says")
    add(
        "--prompts_file",
        type=Path,
        metavar="FILE.csv",
        help="fixed prompts (file,step,prompt), used whole; a run writes such a file, prompts.csv",
    )
    add(
        "--save_prompts",
        action="store_true",
        default=True,
        help="write txt/K.txt beside the states (default)",
    )
    add("--no_save_prompts", dest="save_prompts", action="store_false", help="do not")

    backbone = parser.add_argument_group("the SR backbone")
    add = backbone.add_argument
    add(
        "--backbone",
        choices=("auto", "embedded"),
        default="auto",
        help="embedded: real weights from a registry package, runs on any CPU; auto: embedded",
    )

    machine = parser.add_argument_group("the machine")
    add = machine.add_argument
    add(
        "--device",
        default="auto",
        metavar="DEVICE",
        help="auto (cuda, else mps, else cpu), cuda, cuda:N, mps or cpu",
    )
    add(
        "--mixed_precision",
        choices=("auto", "fp32", "fp16", "bf16"),
        default="auto",
        help="auto: bf16 where the device is fast at it, else fp16 on a GPU, fp32 on the CPU",
    )
    add("--batch_size", type=_at_least(1), default=1, metavar="B", help="pictures a forward pass")
    loudness = machine.add_mutually_exclusive_group()
    loudness.add_argument("-v", "--verbose", action="count", default=0, help="say more; -vv for everything")
    loudness.add_argument("-q", "--quiet", action="store_true", help="say errors only")
    return parser


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
    for path in options.input_image:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder{' (a link to nothing)' * path.is_symlink()}")
    if options.output_dir.exists() and not options.output_dir.is_dir():
        raise InputError(f"--output_dir {options.output_dir}: is a file; give a folder")
    if options.prompts_file is not None and not options.prompts_file.is_file():
        raise InputError(f"--prompts_file {options.prompts_file}: no such file")

"""Where the chain looks: what the options that say so decide together."""

import argparse

from command.arguments import AUTO
from errors import InputError
from zoom.settings import MOST_SPOTS, TEXTURE, ChainSettings

WHERE = ("center", "regions", "find_detail")  # three ways to say what is zoomed into


def decide_where(options: argparse.Namespace) -> None:
    """Check what is said of where to look, and that it is said once.

    Raises:
        InputError: the first thing that is wrong.
    """
    given = [name for name in WHERE if getattr(options, name) is not None]
    if len(given) > 1:
        raise InputError(f"--{given[0]} and --{given[1]} contradict each other; give one")
    if options.find_detail is not None and options.find_detail > MOST_SPOTS:
        raise InputError(f"--find_detail {options.find_detail}: at most {MOST_SPOTS}")
    if options.box is not None:
        if options.regions is not None:
            raise InputError("--box and --regions contradict each other; give one")
        x0, y0, x1, y1 = options.box = tuple(options.box)
        if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
            raise InputError(
                f"--box {x0:g} {y0:g} {x1:g} {y1:g}: must be left, top, right, bottom, as fractions of 1"
            )
    if options.center is not None:
        x, y = options.center = tuple(options.center)
        x0, y0, x1, y1 = options.box or (0, 0, 1, 1)
        if not (x0 <= x <= x1 and y0 <= y <= y1):
            within = "from 0 to 1" if options.box is None else "within --box"
            raise InputError(f"--center {x:g} {y:g}: must be fractions of the picture, {within}")
    if not options.full_image:
        if options.box is None and options.center == (0.5, 0.5):
            options.center = None  # the middle, as published
        return
    for name in WHERE:
        if getattr(options, name) is not None:
            raise InputError(f"--{name}: --full_image enlarges the whole picture; leave one of the two out")
    for name in ("process_size", "source"):
        if getattr(options, name) != getattr(ChainSettings(), name):
            raise InputError(f"--{name}: --full_image cuts no windows out; leave one of the two out")
    if options.batch_size not in (1, AUTO):
        raise InputError("--batch_size: --full_image takes one picture at a time; leave one of the two out")


def decide_texture(options: argparse.Namespace, recursive: bool) -> None:
    """Say how much texture is added, and what holds the colours.

    Args:
        options: with the backbone decided.
        recursive: whether steps enlarge windows of states that a network made.

    Raises:
        InputError: it is out of range, or there is nothing to add it to.
    """
    if options.texture is not None and not 0 <= options.texture <= 1:
        raise InputError(f"--texture {options.texture:g}: must be from 0 to 1")
    can_have = recursive and not options.full_image
    if options.texture and not can_have:
        raise InputError("--texture only goes with --rec_type recursive and recursive_multiscale")
    if options.texture is None:
        options.texture = TEXTURE if can_have and options.backbone != "sd3" else 0.0
    if options.align_method is None:
        options.align_method = "lowfreq" if options.texture else "nofix"


def decide_tile_prompts(options: argparse.Namespace, uses_sd3: bool) -> None:
    """Say what a prompt is about, where the whole picture is enlarged.

    Raises:
        InputError: there is nothing to choose.
    """
    can_tile = options.full_image and uses_sd3 and options.prompt_type != "null"
    if options.tile_prompts is not None and not can_tile:
        raise InputError("--tile_prompts only goes with --full_image, --backbone sd3 and a prompt extractor")
    if options.tile_prompts is None:
        options.tile_prompts = "tile" if can_tile else "picture"

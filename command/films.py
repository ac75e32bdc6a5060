"""Films on request: their options, and one film a picture with a progress bar. For two commands."""

import argparse
import importlib.util
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from command.arguments import at_least, width_and_height
from command.console import say
from command.sharding import before_lines
from errors import FileRefused, InputError, OutputError, PictureError
from viewer.film_settings import (
    EASE,
    FPS,
    LARGEST_SIDE,
    LARGEST_SIDE_OF_GIF,
    LARGEST_SIDE_OF_WHOLE,
    LONGEST,
    MOST_FPS,
    MOST_LOOPS,
    SECONDS_A_STEP,
    SHORTEST,
    SMALLEST_SIDE,
    FilmSettings,
)

if TYPE_CHECKING:  # pictures take a while to import
    from results.output_tree import OutputTree
    from results.pictures import Failure
    from results.run_report import PictureRecord
    from viewer.film import Film

log = logging.getLogger(__name__)

ONLY_WITH_VIDEO = ("video_size", "video_seconds", "video_fps", "video_loop", "video_back")


def add_film_options(parser: argparse.ArgumentParser) -> None:
    """Describe the options of films."""
    group = parser.add_argument_group("films")
    add = group.add_argument
    add(
        "--video",
        choices=tuple(FPS),
        metavar="FORMAT",
        help="also make a film of the flight through each picture's states, OUT/video/NAME.FORMAT: mp4 "
        "(H.264), webp or gif",
    )
    add(
        "--video_size",
        type=width_and_height,
        metavar="WxH",
        help="of a frame; what does not fit is cut off (default: the states' size, at most "
        f"{LARGEST_SIDE_OF_WHOLE} a side with --full_image and {LARGEST_SIDE_OF_GIF} for gif)",
    )
    add(
        "--video_seconds",
        type=float,
        metavar="S",
        help=f"length of the flight (default: {SECONDS_A_STEP:g} a step and {EASE:g} for start and end)",
    )
    add(
        "--video_fps",
        type=at_least(1),
        metavar="N",
        help="frames a second (default: " + ", ".join(f"{fps} for {name}" for name, fps in FPS.items()) + ")",
    )
    add(
        "--video_loop",
        type=at_least(0),
        metavar="N",
        help="how often a webp or gif plays; 0 (default): for ever",
    )
    add("--video_back", action="store_true", help="fly there and back, which takes twice as long")


def film_settings(options: argparse.Namespace) -> FilmSettings | None:
    """Return what films are to be like; None where none are wanted.

    Raises:
        InputError: the options do not go together, or a value is out of bounds.
    """
    ending = options.video
    if ending is None:
        for name in ONLY_WITH_VIDEO:
            given = getattr(options, name)
            if given is not None and given is not False:
                raise InputError(f"--{name} only goes with --video")
        return None
    if ending == "mp4" and importlib.util.find_spec("av") is None:
        raise InputError("--video mp4 wants the package av: pip install -r requirements.txt")
    if options.video_size is not None:
        _check_size(ending, *options.video_size)
    seconds = options.video_seconds
    if seconds is not None and not (math.isfinite(seconds) and SHORTEST <= seconds <= LONGEST):
        raise InputError(f"--video_seconds {seconds:g}: must be from {SHORTEST:g} to {LONGEST:g}")
    fps = options.video_fps or FPS[ending]
    if fps > MOST_FPS[ending]:
        raise InputError(f"--video_fps {fps}: at most {MOST_FPS[ending]} for {ending}")
    loop = options.video_loop
    if loop is not None and ending == "mp4":
        raise InputError("--video_loop: an mp4 does not say how often it plays; leave it out, or take webp")
    if loop is not None and loop > MOST_LOOPS:
        raise InputError(f"--video_loop {loop}: at most {MOST_LOOPS}; 0 is for ever")
    return FilmSettings(ending, options.video_size, seconds, fps, loop or 0, options.video_back)


def _check_size(ending: str, width: int, height: int) -> None:
    for side in (width, height):
        if not SMALLEST_SIDE <= side <= LARGEST_SIDE:
            raise InputError(
                f"--video_size {width}x{height}: sides must be from {SMALLEST_SIDE} to {LARGEST_SIDE}"
            )
    if ending == "mp4" and (width % 2 or height % 2):
        even = f"{width // 2 * 2}x{height // 2 * 2}"
        raise InputError(f"--video_size {width}x{height}: an mp4 wants even numbers; take {even}")


def make_films(
    tree: "OutputTree",
    records: "Sequence[PictureRecord]",
    settings: FilmSettings,
    quiet: bool,
    again: bool,
) -> "list[Failure]":
    """Make a film of every picture of which at least one step is done, and say where they are.

    Args:
        tree: where the states are, and the films go.
        records: the pictures.
        settings: of the films.
        quiet: say failures only.
        again: also make films anew that are there; else only those that are older than a state of theirs.

    Returns:
        Pictures whose film could not be made, and why; they have been named.

    Raises:
        OutputError: the disk is full.
    """
    from command.progress import Progress
    from results.pictures import Failure
    from viewer.film import Film

    wanted = [record for record in records if record.steps_done]
    missing = [record for record in wanted if again or not _is_up_to_date(tree, record, settings.ending)]
    failures: list[Failure] = []
    films: deque[tuple[PictureRecord, Film]] = deque()
    for record in missing:
        try:
            films.append((record, Film(tree, record, settings)))
        except PictureError as error:
            failures.append(Failure(record.label, str(error)))
        except (ValueError, ArithmeticError) as error:  # whatever numbers a forged report holds
            failures.append(Failure(record.label, f"its report makes no sense ({error})"))
    frames, share = sum(film.count for _, film in films), before_lines(tree.shard)
    with Progress("films", len(films), frames, "frame", quiet or not films, share) as progress:
        while films:
            record, film = films.popleft()  # with the states that it holds
            before = progress.made
            reason = _make(tree, record, film, partial(progress.come_on, record.name, 1))
            progress.end(bool(reason), film.count - (progress.made - before))
            if reason:
                failures.append(Failure(record.label, reason))
    if not quiet and wanted:
        before = len(wanted) - len(missing)
        folder = tree.film("NAME", settings.ending).parent
        kept = f", {before} kept as they were: make_viewer.py makes them anew" if before else ""
        say(f"{len(wanted) - len(failures)} of {len(wanted)} films are in {folder}{kept}")
    for failure in failures:
        say(f"failed: film of {failure.label}: {failure.reason}", error=True)
    return failures


def _make(tree: "OutputTree", record: "PictureRecord", film: "Film", came: Callable[[], object]) -> str:
    """Make one film; return why it could not be made.

    Raises:
        OutputError: the disk is full.
    """
    from viewer.encoders import WRITERS
    from zoom.isolate import unexpected

    settings = film.settings
    try:
        with tree.writing(tree.film(record.name, settings.ending)) as file:
            WRITERS[settings.ending](film, file, settings.fps, settings.loop, came)
    except (PictureError, FileRefused) as error:
        return str(error)
    except OutputError:
        raise
    except Exception as error:  # one bad picture never stops a folder
        log.debug("%s", record.label, exc_info=True)
        return str(unexpected(error))
    log.info("%s: film made", record.label)
    return ""


def _is_up_to_date(tree: "OutputTree", record: "PictureRecord", ending: str) -> bool:
    """Tell whether a picture's film is there, and no state is newer."""
    try:
        states = [tree.state(record.name, step).stat().st_mtime_ns for step in range(record.steps_done + 1)]
        return tree.film(record.name, ending).stat().st_mtime_ns >= max(states)
    except OSError:  # one is missing
        return False

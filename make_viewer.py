"""Command: show a finished folder: its page anew, one picture as one file, films."""

from machine import interrupts

INTERRUPTED = "interrupted"
if __name__ == "__main__":
    interrupts.listen(f"make_viewer.py: {INTERRUPTED}")

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from command.arguments import Parser
from command.console import ALL_DONE, SOME_FAILED, end_process, run_command, say, set_up_logging
from command.films import add_film_options, film_settings, make_films
from command.viewing import (
    add_share_option,
    check_share,
    filled_folder,
    no_report,
    say_where_to_look,
    write_share,
)
from errors import InputError

EPILOG = """
examples:
  make_viewer.py inference_results                                          its page, index.html, anew
  make_viewer.py inference_results --share cat.html --picture chelsea.png   one picture to send to a friend
  make_viewer.py inference_results --video mp4                              and a film of every picture

exit codes: 0 all done; 1 something could not be made (named); 2 bad arguments or files; 130 (143) interrupted
"""


def build_parser() -> Parser:
    """Describe every option of the command."""
    parser = Parser(
        "make_viewer.py",
        "OUT [options]",
        "Show the folder that inference_coz.py has filled: no network is run.",
        EPILOG,
    )
    parser.add_argument("folder", type=Path, metavar="OUT", help="the --output_dir of inference_coz.py")
    page = parser.add_argument_group("the page")
    add_share_option(page)
    page.add_argument(
        "--picture",
        metavar="LABEL",
        help="which picture to share (with all its spots), or which spot: photo.jpg, photo.jpg~eye",
    )
    add_film_options(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="say errors only")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: as after the command's name; those of the process where None.

    Returns:
        The exit code, see ``--help``.
    """
    return run_command(
        "make_viewer.py",
        arguments,
        lambda given: run(build_parser().parse_args(given)),
        INTERRUPTED,
    )


def run(options: argparse.Namespace) -> int:
    """Check the folder, and write what is asked for."""
    set_up_logging(logging.ERROR if options.quiet else logging.WARNING)
    if options.picture is not None and options.share is None:
        raise InputError("--picture only goes with --share")
    check_share(options.share, options.folder)
    film = film_settings(options)
    with filled_folder(options.folder) as tree:
        from results.joining import known_report
        from viewer.page import write_page

        report = known_report(tree.root)
        if report is None:
            raise no_report(tree.root)
        left_out = write_page(tree, report, anew=True)
        if not options.quiet:
            say_where_to_look(tree, report.pictures.values())
            if not any(record.steps_done for record in report.pictures.values()):
                say(f"{options.folder}: nothing is zoomed yet")
        if options.share is not None:
            write_share(tree, report.pictures, options.picture, options.share, options.quiet)
        films_failed = film is not None and make_films(
            tree, list(report.pictures.values()), film, options.quiet, again=True
        )
    return SOME_FAILED if left_out or films_failed else ALL_DONE


if __name__ == "__main__":
    end_process(main())

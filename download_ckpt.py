"""Command: fetch the checkpoints that the published system needs, and say what is here and as published."""

from machine import interrupts

INTERRUPTED = "interrupted; the same command goes on from here"
if __name__ == "__main__":
    interrupts.listen(f"download_ckpt.py: {INTERRUPTED}")

import argparse
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from checkpoints.catalogue import PURPOSES
from command.arguments import Parser, at_least
from command.console import end_process, run_command, set_up_logging
from errors import InputError

JOBS = 4
EPILOG = """
examples:
  download_ckpt.py --for null            SD3 and its SR files: what your own words as a prompt need
  download_ckpt.py --for dape            these, and RAM with DAPE
  download_ckpt.py --list                every checkpoint: is it here, how large, on which terms
  download_ckpt.py --verify              read every file that is here, and compare its hash
  download_ckpt.py --from /mnt/share     take over files that somebody already has

Files go into ckpt/, models into the cache of the Hugging Face hub. What is there is not fetched again, and
what broke off goes on. HF_ENDPOINT names a mirror of the hub, HF_HOME another place for its cache.
docs/checkpoints.md says more.

exit codes: 0 all is there, as published; 1 something is not (named, with the way out); 2 bad arguments, or
no room on the disk; 130 (143) interrupted, the same command goes on
"""


def build_parser() -> Parser:
    """Describe every option of the command."""
    parser = Parser(
        "download_ckpt.py",
        "[options]",
        "Fetch what is missing of the checkpoints for SD3, its prompts, or all.",
        EPILOG,
    )
    add = parser.add_argument
    add(
        "--for",
        dest="purpose",
        choices=(*PURPOSES, "all"),
        default="all",
        help="the --prompt_type that is to run, or all",
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--list", action="store_true", help="only say what there is; asks no network")
    instead.add_argument(
        "--verify",
        action="store_true",
        help="only read what is here and compare hashes; exit code 1 where something is wrong or missing",
    )
    instead.add_argument(
        "--from",
        dest="folder",
        type=Path,
        metavar="DIR",
        help="only take over files of ckpt/ that lie in DIR or the folders in it, linked or copied after "
        "their hashes were compared; asks no network",
    )
    add(
        "--github_mirror",
        metavar="URL",
        help="what stands in for https://github.com in the addresses of files",
    )
    add("--jobs", type=at_least(1), metavar="N", help=f"files that are fetched at a time (default: {JOBS})")
    add("-q", "--quiet", action="store_true", help="say errors only")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: as after the command's name; those of the process where None.

    Returns:
        The exit code, see ``--help``.
    """
    return run_command(
        "download_ckpt.py",
        arguments,
        lambda given: run(build_parser().parse_args(given)),
        INTERRUPTED,
    )


def run(options: argparse.Namespace) -> int:
    """Do what the options say."""
    set_up_logging(logging.ERROR if options.quiet else logging.WARNING)
    _check(options)
    # Plain HTTP takes up a transfer where it broke off, and shows how far it is; Xet's client was not tried.
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
    from huggingface_hub.utils import disable_progress_bars
    from huggingface_hub.utils.logging import set_verbosity_error

    disable_progress_bars()  # ours tell how far all of them are, too
    set_verbosity_error()
    warnings.filterwarnings("ignore", module="huggingface_hub")  # room on the disk is looked at before
    if options.list:
        from command.own_files import list_all

        return list_all(options.purpose)
    if options.verify:
        from command.own_files import verify

        return verify(options.purpose, options.quiet)
    if options.folder is not None:
        from command.own_files import take_from

        return take_from(options.folder, options.purpose, options.quiet)
    from command.downloading import download

    return download(options.purpose, options.github_mirror, options.jobs or JOBS, options.quiet)


def _check(options: argparse.Namespace) -> None:
    """Refuse what cannot be meant, before anything is imported or asked."""
    mirror, only = options.github_mirror, options.list or options.verify or options.folder is not None
    for name in ("github_mirror", "jobs"):
        if only and getattr(options, name) is not None:
            raise InputError(f"--{name} only goes with fetching, not with --list, --verify or --from")
    if options.list and options.quiet:
        raise InputError("--list and --quiet contradict each other; give one")
    if mirror is not None and not mirror.startswith(("https://", "http://")):
        raise InputError(f"--github_mirror {mirror}: not an address (https://...)")


if __name__ == "__main__":
    end_process(main())

"""Command: join what shards have left in a folder: one run.json, one prompts.csv, one page."""

from machine import interrupts

INTERRUPTED = "interrupted"
if __name__ == "__main__":
    interrupts.listen(f"merge_runs.py: {INTERRUPTED}")

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from command.arguments import Help, underscored
from command.console import ALL_DONE, SOME_FAILED, end_process, run_command, say, set_up_logging
from errors import InputError

EPILOG = """
The last shard that ends does the same by itself, and so does the next run. This is for shards that were
killed, or that will not be started any more.

exit codes: 0 all pictures are done; 1 some are not (their numbers are said); 2 bad arguments or files
"""


def build_parser() -> argparse.ArgumentParser:
    """Describe every option of the command."""
    parser = argparse.ArgumentParser(
        prog="merge_runs.py",
        description="Join the reports of inference_coz.py --shard into one run.json, prompts.csv and page.",
        epilog=EPILOG,
        formatter_class=Help,
        allow_abbrev=False,
    )
    parser.add_argument("folder", type=Path, metavar="OUT", help="the --output_dir of the shards")
    parser.add_argument("-q", "--quiet", action="store_true", help="say errors only")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: as after the command's name; those of the process where None.

    Returns:
        The exit code, see ``--help``.
    """
    given = sys.argv[1:] if arguments is None else arguments
    return run_command(
        "merge_runs.py", lambda: run(build_parser().parse_args(underscored(given))), INTERRUPTED
    )


def run(options: argparse.Namespace) -> int:
    """Join the reports, and say how far the folder has come."""
    if not options.folder.is_dir():
        raise InputError(f"{options.folder}: no such folder")
    set_up_logging(logging.ERROR if options.quiet else logging.WARNING)
    from command.zooming import about_machine, program_version
    from results.joining import join
    from results.output_tree import OutputTree
    from viewer.page import Page

    tree = OutputTree(options.folder)
    tree.prepare()
    with tree.lock() as entered:
        if entered.was_killed:
            tree.sweep()
        known = join(tree, program_version(), about_machine())
        if known is None:
            raise InputError(f"{options.folder}: no run.json in there; give the --output_dir of a run")
        page = Page(tree, known)
        page.begin()
        page.save()
    counts = Counter(record.status for record in known.pictures.values())
    if not options.quiet:
        others = ", ".join(
            f"{count} {status}" for status, count in sorted(counts.items()) if status != "done"
        )
        say(f"{counts['done']} of {len(known.pictures)} zooms done{'; ' + others if others else ''}")
        say(f"Open {tree.index} in a browser and fly through them.")
    return ALL_DONE if known.status == "done" and not page.left_out else SOME_FAILED


if __name__ == "__main__":
    end_process(main())

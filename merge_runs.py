"""Command: join what shards have left in a folder: one run.json, one prompts.csv, one page."""

from machine import interrupts

INTERRUPTED = "interrupted"
if __name__ == "__main__":
    interrupts.listen(f"merge_runs.py: {INTERRUPTED}")

import argparse
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from command.arguments import Parser
from command.console import ALL_DONE, SOME_FAILED, end_process, run_command, say, set_up_logging
from command.viewing import filled_folder, no_report, say_where_to_look

EPILOG = """
The last shard that ends does the same by itself, and so does the next run. This is for shards that were
killed, or that will not be started any more.

exit codes: 0 all pictures are done; 1 some are not (their numbers are said); 2 bad arguments or files
"""


def build_parser() -> Parser:
    """Describe every option of the command."""
    parser = Parser(
        "merge_runs.py",
        "OUT [options]",
        "Join the reports of inference_coz.py --shard into one run.json, prompts.csv and page.",
        EPILOG,
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
    return run_command(
        "merge_runs.py",
        arguments,
        lambda given: run(build_parser().parse_args(given)),
        INTERRUPTED,
    )


def run(options: argparse.Namespace) -> int:
    """Join the reports, and say how far the folder has come."""
    set_up_logging(logging.ERROR if options.quiet else logging.WARNING)
    with filled_folder(options.folder) as tree:
        from command.version import program_version
        from command.zooming import about_machine
        from results.joining import join
        from results.pictures import Failure
        from viewer.page import write_page

        known = join(tree, program_version(), about_machine())
        if known is None:
            raise no_report(tree.root)
        left_out = write_page(tree, known)
    counts = Counter(record.status for record in known.pictures.values())
    counts["failed"] += len(known.unreadable)
    if not options.quiet:
        others = ", ".join(
            f"{counts[status]} {status}" for status in sorted(counts) if counts[status] and status != "done"
        )
        say(f"{counts['done']} of {counts.total()} zooms done{'; ' + others if others else ''}")
        say_where_to_look(tree, known.pictures.values())
    failed = [
        Failure(record.label, record.failure or "") for record in known.pictures.values() if record.failed
    ]
    for failure in (*failed, *known.unreadable):
        say(f"failed: {failure.label}: {failure.reason}", error=True)
    return ALL_DONE if known.status == "done" and not left_out else SOME_FAILED


if __name__ == "__main__":
    end_process(main())

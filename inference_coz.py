"""Zoom into a folder of pictures from the command line: arguments -> parts -> chain -> exit code."""

from machine import interrupts

STOPPED = "interrupted"
FROM_THE_START = "interrupted; the same command starts from the beginning"
INTERRUPTED = "interrupted; the same command goes on from here"
STARTED_ANEW = "interrupted; the same command without --overwrite goes on from here"
if __name__ == "__main__":
    interrupts.listen(f"inference_coz.py: {STOPPED}")

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from command.console import ALL_DONE, SOME_FAILED, end_process, run_command, set_up_logging
from command.decide import chain_settings, parse

if TYPE_CHECKING:
    from argparse import Namespace

    from results.resume import Records

log = logging.getLogger("inference_coz")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: as after the command's name; those of the process where None.

    Returns:
        The exit code, see ``--help``.
    """
    said = [STOPPED]  # the last one holds
    return run_command(
        "inference_coz.py", arguments, lambda given: run(parse(given), said.append), lambda: said[-1]
    )


def run(options: "Namespace", if_interrupted: Callable[[str], None]) -> int:
    """Check the files, build the parts, zoom the folder and report.

    Args:
        options: of the command.
        if_interrupted: takes what is to be said where a signal ends it from here on.

    Returns:
        The exit code.
    """
    loud = (logging.WARNING, logging.INFO, logging.DEBUG)[min(options.verbose, 2)]
    set_up_logging(logging.ERROR if options.quiet else loud)
    leaves_nothing = options.check or options.dry_run or options.overwrite  # the last one until it has begun
    if_interrupted(FROM_THE_START if leaves_nothing else INTERRUPTED)
    if options.check:
        from command.check_up import check_up

        return check_up(options.output_dir)
    from command.films import make_films
    from command.finding import find
    from command.parts import Parts, build_parts, check_files
    from command.ray_cluster import connected
    from command.sharding import exit_code_of_shard
    from command.space import decide_batch_size, refuse_too_little_memory, refuse_too_little_space
    from command.spots import leave_out_what_cannot_be_zoomed_into, with_detail, with_regions
    from command.viewing import check_one_picture, write_share
    from machine.stage_times import StageTimes
    from results.output_tree import OutputTree, places_of
    from results.prompts_file import read_prompts
    from zoom.window import check_steps

    settings, times = chain_settings(options), StageTimes()
    tree = OutputTree(options.output_dir, options.shard)
    tree.prove_writable()
    check_steps(settings)
    has_prompts = options.prompt_type != "null" or options.prompt or options.prompts_file
    if has_prompts and options.backbone != "sd3":
        log.warning("this backbone takes no prompts: they are written down, and steer nothing")
    fixed_prompts = read_prompts(options.prompts_file) if options.prompts_file else {}
    found = find(
        options.input_image, options.recursive_folders, places_of(tree.root), options.quiet, tree.takes
    )
    sources, unreadable = found.sources, found.failures
    check_one_picture(options.share, sources)
    sources, unfit = leave_out_what_cannot_be_zoomed_into(settings, sources)
    unreadable += unfit
    if options.regions:
        sources = with_regions(options.regions, sources, unreadable)
    parts = Parts() if settings.resizes_only else build_parts(options, check_files(options), times)
    decide_batch_size(options, parts, sources)
    if not options.dry_run:  # which says what it takes first
        refuse_too_little_memory(options, parts, sources)

    from command.beginning import begin, end_shards, failures_of_share, look_ahead, of_share
    from command.expected import remember_speed
    from command.on_ray import ChainOnRay
    from command.version import program_version
    from command.zooming import about_machine, describe, warn_of_idle_prompts, zoom_all
    from results.resume import earlier_results
    from results.run_report import RunReport
    from zoom.chain import Chain

    described = describe(settings, parts, fixed_prompts)

    def earlier() -> "Records":  # read again under the lock, before anything is written
        return {} if options.overwrite else earlier_results(tree, described)

    if options.find_detail:
        earlier()  # a folder of other settings is refused before anything is written into it
        sources, unread = with_detail(options, tree, sources)
        unreadable += unread
    share, failures = of_share(tree, sources), failures_of_share(tree, unreadable)
    if options.dry_run:
        from command.plan import print_plan

        if tree.shard is None:
            warn_of_idle_prompts(settings, fixed_prompts, {source.label for source in sources})
        removed = look_ahead(tree, described, sources, unreadable, options.overwrite)
        print_plan(options, settings, share, failures, parts, earlier(), described, removed)
        return SOME_FAILED if failures else ALL_DONE
    refuse_too_little_space(options, share, earlier)
    tree.prepare()
    report = RunReport(tree, program_version(), described, about_machine(parts), times)
    root = OutputTree(tree.root)
    last = partial(end_shards, root, report.version, report.environment) if tree.shard else None
    chain_class = Chain if options.ray is None else partial(ChainOnRay, options, described, parts, share)
    with connected(options), tree.lock(last) as entered:
        records = begin(tree, entered, report, sources, unreadable, options.overwrite)
        if options.overwrite:
            if_interrupted(STARTED_ANEW)
        done_before = {record.name: record.steps_done for record in records}
        try:
            code = zoom_all(
                options,
                settings,
                report,
                parts,
                records,
                failures,
                fixed_prompts,
                chain_class,
                len(found.skipped),
            )
        finally:
            loading = sum(seconds for stage, seconds in times.items() if stage.endswith(".load"))
            remember_speed(options, described, parts, records, done_before, loading)
        if options.film is not None:
            done = [record for record in records if record.status == "done"]
            if make_films(tree, done, options.film, options.quiet, again=False):
                code = SOME_FAILED
        if options.share is not None and code == ALL_DONE:
            named = {record.name: record for record in records}
            write_share(tree, named, None, options.share, options.quiet)
    return exit_code_of_shard(tree.shard, code)


if __name__ == "__main__":
    end_process(main())

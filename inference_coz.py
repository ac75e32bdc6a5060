"""Zoom into a folder of pictures from the command line: arguments -> parts -> chain -> exit code."""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from command import options as command_line
from errors import InputError, OutputError

if TYPE_CHECKING:
    from argparse import Namespace

    from command.parts import Parts
    from results.output_tree import OutputTree
    from results.pictures import Failure, Source
    from results.prompts_file import FixedPrompts
    from results.run_report import PictureRecord, RunReport
    from zoom.chain import Chain, ChainSettings, PromptExtractor, SRBackbone

log = logging.getLogger("inference_coz")

ALL_DONE, SOME_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: as after the command's name; those of the process where None.

    Returns:
        The exit code, see ``--help``.
    """
    try:
        options = command_line.parse(sys.argv[1:] if arguments is None else arguments)
        set_up_logging(options)
        return run(options)
    except InputError as error:
        say(f"inference_coz.py: {error}", error=True)
        return BAD_INPUT
    except OutputError as error:
        say(f"inference_coz.py: {error}", error=True)
        return SOME_FAILED
    except OSError as error:  # a path that the system itself refuses: too long, not permitted
        if error.filename is None:
            raise
        say(f"inference_coz.py: {error.filename}: {error.strerror}", error=True)
        return BAD_INPUT
    except KeyboardInterrupt:
        say("inference_coz.py: interrupted; the same command goes on from here", error=True)
        return INTERRUPTED


def say(text: str, error: bool = False) -> None:
    """Print one line, also where nobody reads it any more and whatever is in a file's name."""
    stream = sys.stderr if error else sys.stdout
    try:
        print(printable(text), file=stream, flush=True)
    except BrokenPipeError:  # what waits in the stream would raise again at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def printable(text: str) -> str:
    """Escape what would break a line or steer a terminal: file names may hold anything."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )


class OneLine(logging.Formatter):
    """Messages of one line each."""

    def format(self, record: logging.LogRecord) -> str:
        """Escape the message; what an exception adds to it stays as it is."""
        record.msg, record.args = printable(record.getMessage()), None
        return super().format(record)


def set_up_logging(options: "Namespace") -> None:
    """Send the project's messages to standard error: warnings and worse, or more, or less."""
    level = logging.ERROR if options.quiet else (logging.WARNING, logging.INFO)[min(options.verbose, 1)]
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    if options.verbose > 1:
        logging.getLogger().setLevel(logging.DEBUG)
        return
    # the libraries' own chatter is not about the user's pictures
    for library in ("PIL", "diffusers", "transformers", "httpx", "urllib3"):
        logging.getLogger(library).setLevel(logging.ERROR)
    for variable in ("DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY"):  # these two set their own level
        os.environ.setdefault(variable, "error")


def run(options: "Namespace") -> int:
    """Check the files, choose the parts, run the chain and report."""
    from command.parts import Parts, choose_parts
    from machine.stage_times import StageTimes
    from results.output_tree import FOLDERS, OutputTree
    from results.pictures import find_pictures
    from results.prompts_file import read_prompts
    from results.run_report import RunReport
    from zoom.chain import Chain, ChainSettings

    settings = ChainSettings(
        rec_type=options.rec_type,
        rec_num=options.rec_num,
        upscale=options.upscale,
        process_size=options.process_size,
        align_method=options.align_method,
        prompt=options.prompt,
        seed=options.seed,
    )
    has_prompts = options.prompt_type != "null" or options.prompt or options.prompts_file
    if has_prompts and options.backbone == "embedded":
        log.warning("the embedded backbone takes no prompts: they are written down, and steer nothing")
    tree = OutputTree(options.output_dir)
    settings.window(settings.rec_num)  # InputError where a step would look at less than a pixel
    fixed_prompts = read_prompts(options.prompts_file) if options.prompts_file else {}
    sources, unreadable = find_pictures(
        options.input_image, options.recursive_folders, [tree.root / folder for folder in FOLDERS]
    )
    times = StageTimes()
    parts = Parts() if settings.resizes_only else choose_parts(options, times)
    described = describe(settings, parts, fixed_prompts)
    if options.dry_run:
        earlier = {} if options.overwrite else earlier_results(tree, described)
        print_plan(options, settings, sources, unreadable, parts, earlier)
        return SOME_FAILED if unreadable else ALL_DONE
    tree.prepare()
    with tree.lock(), terminable():
        tree.sweep()
        report = RunReport(tree, described, environment(parts), times)
        records = take_up(options, tree, report, sources)
        chain = Chain(
            settings,
            tree,
            report,
            parts.extractor,
            parts.backbone,
            times,
            fixed_prompts,
            options.save_prompts,
        )
        return zoom(options, chain, parts, records, unreadable)


def describe(settings: "ChainSettings", parts: "Parts", fixed_prompts: "FixedPrompts") -> dict[str, Any]:
    """Collect what decides the pixels; two runs into one folder must agree in it."""
    import dataclasses
    import hashlib

    return {
        "chain": dataclasses.asdict(settings),
        "extractor": parts.extractor.describe() if parts.extractor else None,
        "backbone": parts.backbone.describe() if parts.backbone else None,
        "quantized": parts.quantized.describe() if parts.quantized else None,
        "prompts_file": hashlib.sha256(repr(sorted(fixed_prompts.items())).encode()).hexdigest()
        if fixed_prompts
        else None,
    }


def environment(parts: "Parts") -> dict[str, Any]:
    """Collect what is good to know about the machine and the installed versions."""
    import importlib.metadata
    import platform

    versions = {}
    for package in ("pillow", "numpy", "torch", "diffusers", "transformers", "onnxruntime"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "devices": {"text": str(parts.plan.text), "vlm": str(parts.plan.vlm), "sr": str(parts.plan.sr)}
        if parts.plan
        else {},
        "versions": versions,
    }


def earlier_results(tree: "OutputTree", settings: dict[str, Any]) -> "dict[str, PictureRecord]":
    """Read what earlier runs into the same folder have done, by name.

    Raises:
        InputError: the folder holds results of other settings, or of another program.
    """
    from results.output_tree import FOLDERS
    from results.run_report import differences, load_report

    way_out = "give another --output_dir, or --overwrite to start anew"
    old = load_report(tree.run_json)
    if old is None:
        for folder in FOLDERS:
            if (tree.root / folder).exists():
                raise InputError(f"{tree.root / folder}: results without a run.json; {way_out}")
        return {}
    changed = differences(old["settings"], settings)
    if changed:
        more = f" (and {len(changed) - 3} more)" if len(changed) > 3 else ""
        raise InputError(f"{tree.root}: made with other settings: {'; '.join(changed[:3])}{more}; {way_out}")
    return old["pictures"]


def take_up(
    options: "Namespace", tree: "OutputTree", report: "RunReport", sources: Sequence["Source"]
) -> list["PictureRecord"]:
    """Make a record for every picture, going on from what an earlier run into the same folder has done.

    Raises:
        InputError: the folder holds results of other settings, and ``--overwrite`` is not given.
    """
    from checkpoints.hashing import sha256_of
    from results.output_tree import assign_names
    from results.run_report import PictureRecord, load_report

    earlier: dict[str, PictureRecord] = {}
    if options.overwrite:
        try:
            old = load_report(tree.run_json)
        except InputError as error:
            log.warning("%s", error)
            old = None
        tree.remove(list(old["pictures"]) if old else [])
    else:
        earlier = earlier_results(tree, report.settings)
    taken = {record.file: name for name, record in earlier.items()}
    moved = {record.label: name for name, record in earlier.items() if not os.path.exists(record.file)}  # noqa: PTH110
    taken |= {source.key: moved[source.label] for source in sources if source.label in moved}
    names = assign_names(sources, taken)
    if options.overwrite:
        tree.remove(list(names.values()))
    records = []
    report.pictures = dict(earlier)
    for source in sources:
        name = names[source]
        try:
            sha256 = sha256_of(source.file)
        except OSError:
            sha256 = None  # reading it will fail, and say why
        record = earlier.get(name)
        if record is None or record.sha256 != sha256:
            if record is not None:
                log.info("%s: has changed since the earlier run, it is done again", source.label)
                tree.remove([name])
            record = PictureRecord(name, source.label, source.key, sha256)
        record.label, record.file = source.label, source.key
        report.pictures[name] = record
        records.append(record)
    return records


def zoom(
    options: "Namespace",
    chain: "Chain",
    parts: "Parts",
    records: list["PictureRecord"],
    unreadable: Sequence["Failure"],
) -> int:
    """Run the chain with a progress bar, write the reports however it ends, and say what happened."""
    import dataclasses

    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    from results.prompts_file import prompts_csv

    report = chain.report
    for failure in unreadable:  # perhaps it was a picture once
        for record in report.pictures.values():
            if record.label == failure.label:
                record.status, record.failure = "failed", failure.reason
    report.unreadable = [dataclasses.asdict(failure) for failure in unreadable]
    labels = {record.label for record in records}
    for label, step in chain.fixed_prompts:
        if label not in labels or step > chain.settings.rec_num:
            what = "step" if label in labels else "picture"
            log.warning("--prompts_file: %s, step %d: there is no such %s", label, step, what)
    report.save()
    how = "stopped"
    try:
        with (
            tqdm(
                total=len(records) * chain.settings.rec_num,
                desc=f"0 of {len(records)} pictures",
                unit="step",
                disable=True if options.quiet else None,  # None: only where it goes to a terminal
            ) as bar,
            logging_redirect_tqdm(),
        ):
            # under --efficient_memory the whole folder goes through a scale together: each model moves once
            chain.run(records, len(records) if options.efficient_memory else options.batch_size, bar)
        failed = [(record.label, record.failure) for record in records if record.status == "failed"]
        failed += [(failure.label, failure.reason) for failure in unreadable]
        how = "failed" if failed else "done"
    except KeyboardInterrupt:
        how = "interrupted"
        raise
    finally:
        if parts.residency:
            for name, count in parts.residency.loads.items():
                report.components[name] = {"loads": count, "moves": parts.residency.moves[name]}
        report.finish(how)
        chain.tree.write(prompts_csv(report.pictures.values()), chain.tree.prompts_csv)
    done = sum(record.status == "done" for record in records)
    if not options.quiet:
        magnification = chain.settings.upscale**chain.settings.rec_num
        say(f"{done} of {len(records) + len(unreadable)} pictures zoomed to {magnification}x")
        say(
            f"Look at {chain.tree.root / 'recursive'} (each picture's states side by side) "
            f"and {chain.tree.root / 'per-sample'} (each state by itself)."
        )
    for label, reason in failed:
        say(f"failed: {label}: {reason}", error=True)
    return SOME_FAILED if failed else ALL_DONE


def print_plan(
    options: "Namespace",
    settings: "ChainSettings",
    sources: Sequence["Source"],
    unreadable: Sequence["Failure"],
    parts: "Parts",
    earlier: "dict[str, PictureRecord]",
) -> None:
    """Print what a run would do."""
    import shutil

    steps = " ".join(f"{settings.upscale**k}x" for k in range(1, settings.rec_num + 1))
    side = settings.process_size
    files = {source.key for source in sources}
    done = sum(record.status == "done" and record.file in files for record in earlier.values())
    # a PNG of a photograph takes about two bytes a pixel; each state is kept four times, each input once
    disk = (len(sources) - done) * (4 * (settings.rec_num + 1) + settings.rec_num) * side * side * 2
    out = options.output_dir
    existing = next(path for path in (out, *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    say(f"pictures   {len(sources)} to zoom into, {done} of them done, {len(unreadable)} that cannot be read")
    for failure in unreadable:
        say(f"           {failure.label}: {failure.reason}")
    say(f"steps      {settings.rec_num} ({steps}), {settings.rec_type}, states of {side}x{side}")
    say(f"prompts    {describe_line(parts.extractor)}")
    say(f"backbone   {describe_line(parts.backbone)}")
    if options.backbone == "embedded" and parts.backbone:
        say("models     two networks of 33 MB, about 0.5 GB of memory in all (benchmarks/embedded.py)")
    if parts.residency:
        plan = parts.residency.plan(options.batch_size, side)
        for number, line in enumerate(str(plan).splitlines() if plan.rows else []):
            say(f"{'' if number else 'models':<11}{line}")
    say(f"output     {out}, about {disk / 1e6:.0f} MB; {free / 1e9:.1f} GB are free")


def describe_line(part: "PromptExtractor | SRBackbone | None") -> str:
    """Say in one line what a part is: its name, its model and its precision, where it has them."""
    if part is None:
        return "none: this --rec_type only resizes"
    described = part.describe()
    words = ("extractor", "backbone", "model", "dtype")
    return ", ".join(str(described[word]) for word in words if described.get(word))


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Let a polite kill (SIGTERM) end the run as Ctrl-C does: with reports, without temporary files."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # what libraries do at exit is of no use any more, and with large models it takes seconds
    sys.stderr.flush()
    os._exit(code)

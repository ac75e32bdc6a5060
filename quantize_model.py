"""Command: turn SD3's parts into int8 ONNX models that ``inference_coz.py --quantize`` runs.

CLIP-L by default; ``--model_component`` names another part, or all. Every part is measured
against PyTorch on data it was not calibrated with; `int8.make_part` says how. ``--measure_chain`` says what
the parts that are there do to a whole chain (`int8.measure_chain`).
"""

from machine import interrupts

INTERRUPTED = "interrupted"
if __name__ == "__main__":
    interrupts.listen(f"quantize_model.py: {INTERRUPTED}")

import argparse
import errno
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from checkpoints.hub import SD3_NAME
from checkpoints.places import QUANTIZED, SR_LORA, SR_VAE, default_help
from command.arguments import Parser, at_least
from command.console import ALL_DONE, end_process, run_command, say, set_up_logging
from errors import InputError, OutputError
from machine.disk import free_at
from sd3.spec import PARTS, TEXT_PARTS, VAE_PARTS, folders_of

if TYPE_CHECKING:
    from int8.find_parts import QuantizedParts
    from int8.make_part import Result
    from int8.measure_chain import ChainMeasured
    from sd3.checkpoint import SD3Checkpoint

logger = logging.getLogger(__name__)

BAR_MISSED = 1

EPILOG = """
examples:
  quantize_model.py --model_component all
  quantize_model.py --model_component text_enc_3 --pretrained_model_name_or_path models/sd3
  quantize_model.py --measure_chain                    makes none, measures those that are there
  inference_coz.py -i photo.jpg --quantize ...         runs them

writes DIR/COMPONENT/COMPONENT_quantized/: model.onnx, model.onnx.data, quantization.json, and what optimum
wants beside them; where all six are there, DIR/pipeline/: what optimum's ORTStableDiffusion3Pipeline opens;
with --measure_chain DIR/chain.json

exit codes: 0 all parts made, near enough to PyTorch; 1 a part missed the bar, although its layers were stored
as exactly as needed (it is written, quantization.json says how near it comes), or could not be written (disk
full); 2 bad arguments or files; 130 (143) interrupted
"""


def build_parser() -> Parser:
    """Describe every option of the command."""

    parser = Parser(
        "quantize_model.py",
        "[options]",
        "Turn SD3's parts into int8 ONNX models: down to a quarter of the size, faster on a CPU.",
        EPILOG,
    )
    add = parser.add_argument
    add(
        "--model_component",
        choices=(*PARTS, "all"),
        help="the part to quantize: CLIP-L, CLIP-G, T5-XXL, transformer, either half of the VAE"
        " (which gains nothing);"
        f" with --measure_chain it may be left out, and none is made (default: {TEXT_PARTS[0]})",
    )
    add(
        "--pretrained_model_name_or_path",
        default=SD3_NAME,
        metavar="MODEL",
        help="SD3: a folder in diffusers layout or a hub name",
    )
    add("--output_dir", type=Path, default=QUANTIZED, metavar="DIR", help="where the parts go")
    add(
        "--num_calibration_samples",
        type=at_least(1),
        default=10,
        metavar="N",
        help="prompts (for the text encoders) or pictures (for the others) to calibrate with; at most as "
        "many as there are when 8 prompts or 2 pictures are held out to measure on",
    )
    add(
        "--calibration_data",
        type=Path,
        metavar="PATH",
        help="a text file of prompts, a folder of pictures, or a finished run's output folder"
        " (its prompts and SR inputs); default: built-in prompts, and the pictures in samples/",
    )
    add(
        "--device_for_quant_script",
        default="cpu",
        metavar="DEVICE",
        help="where PyTorch's parts run: cpu, cuda, cuda:N, mps, or auto",
    )
    add(
        "--lora_path",
        type=Path,
        metavar="FILE",
        help=f"SR LoRA, merged into the transformer first; together with --vae_path {default_help(SR_LORA)}",
    )
    add(
        "--vae_path",
        type=Path,
        metavar="FILE",
        help=f"SR VAE encoder, which replaces SD3's {default_help(SR_VAE)}",
    )
    add(
        "--measure_chain",
        action="store_true",
        help="then zoom two steps into two held-out pictures with and without the parts in DIR, each"
        " alone and together, and say how far the states are from fp32's; wants the weights of all six parts",
    )
    noise = parser.add_mutually_exclusive_group()
    noise.add_argument("-v", "--verbose", action="store_true", help="say more")
    noise.add_argument("-q", "--quiet", action="store_true", help="say only what goes wrong")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(
        "quantize_model.py",
        arguments,
        lambda given: run(build_parser().parse_args(given)),
        INTERRUPTED,
    )


def run(options: argparse.Namespace) -> int:
    """Check everything, quantize the parts asked for, and say what came of it."""
    set_up_logging(logging.WARNING)
    for name in ("__main__", "quantize_model", "int8", "checkpoints"):
        level = logging.DEBUG if options.verbose else logging.WARNING if options.quiet else logging.INFO
        logging.getLogger(name).setLevel(level)
    from int8.calibration import read_calibration

    if options.output_dir.exists() and not options.output_dir.is_dir():
        raise InputError(f"--output_dir {options.output_dir}: is a file; give a folder")
    if options.model_component == "all":
        components = tuple(PARTS)
    elif options.model_component is None:
        components = () if options.measure_chain else TEXT_PARTS[:1]
    else:
        components = (options.model_component,)
    text_only = set(components) <= set(TEXT_PARTS) and not options.measure_chain
    if text_only:
        for option in ("lora_path", "vae_path"):
            if getattr(options, option) is not None:
                raise InputError(
                    f"--{option} only goes with transformer, vae_encoder, vae_decoder, all or --measure_chain"
                )
    else:
        for option, default in (("lora_path", SR_LORA), ("vae_path", SR_VAE)):
            if getattr(options, option) is None and default.is_file():
                setattr(options, option, default)
    calibration = read_calibration(options.calibration_data, options.num_calibration_samples, text_only)

    from sd3.checkpoint import check_sd3

    unused = [part for part in PARTS if text_only and part not in components]
    checkpoint = check_sd3(
        options.pretrained_model_name_or_path,
        options.lora_path,
        options.vae_path,
        replaced=unused,
        download=True,
    )
    found = None if components else parts_of(options.output_dir, checkpoint)
    try:
        options.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output_dir {options.output_dir}: cannot be made ({error.strerror})") from None
    needed = sum(checkpoint.parts[folder].parameters for folder in folders_of(components))
    free = free_at(options.output_dir)
    if free < 1.2 * needed:  # a byte a parameter, and some layers more
        raise InputError(
            f"--output_dir {options.output_dir}: {free / 1e9:.1f} GB free, and {1.2 * needed / 1e9:.1f} GB"
            " are needed"
        )

    from int8.make_part import Pipeline, quantize_part
    from int8.write_folder import lay_out_pipeline
    from machine.devices import choose_device

    if checkpoint.lora_path is None and {"transformer", "vae_encoder"} & set(components):
        logger.warning("no SR LoRA: transformer and VAE encoder will only do for --no_sr_lora runs")
    device = choose_device(options.device_for_quant_script, "--device_for_quant_script")
    pipeline = Pipeline(checkpoint, calibration, device)
    results: dict[str, Result] = {}
    for component in components:
        with in_one_line(component, options):
            results[component] = quantize_part(component, pipeline, options.output_dir, vars(options))
        if not options.quiet:
            for line in report(component, results[component]).splitlines():
                say(line)
    laid_out = lay_out_pipeline(options.output_dir, checkpoint)
    if laid_out is not None and not options.quiet:
        say(f"{laid_out}: all six parts, as optimum's ORTStableDiffusion3Pipeline opens them")
    if options.measure_chain:
        from int8.measure_chain import measure_chain

        with in_one_line("--measure_chain", options):
            found = found or parts_of(options.output_dir, checkpoint)
            measured = measure_chain(found, checkpoint, calibration.held_out_pictures, str(device))
            written = measured.write(options.output_dir, found)
        if not options.quiet:
            for line in report_chain(measured):
                say(line)
            say(f"{written}: of each picture")
    missed = [component for component, result in results.items() if not result.measured.bar_met]
    if missed:
        say(
            f"not near enough to PyTorch: {', '.join(missed)}; quantization.json has the figures."
            " More calibration samples may help (--num_calibration_samples)",
            error=True,
        )
    return BAR_MISSED if missed else ALL_DONE


def parts_of(output_dir: Path, checkpoint: "SD3Checkpoint") -> "QuantizedParts":
    """Find the int8 parts that were made from a checkpoint; name those that cannot be measured.

    Raises:
        InputError: there is none.
    """
    from int8.find_parts import read_parts
    from int8.run_part import refuse_what_does_not_open

    found = read_parts(output_dir)
    found.refuse_others_sources(checkpoint.folder, checkpoint.lora_path, checkpoint.vae_path)
    refuse_what_does_not_open(found)
    for component, why in found.refused.items():
        logger.warning("%s is not measured: %s", component, why)
    if not found.records:
        raise InputError(
            f"--measure_chain: {output_dir} holds no part made from these files; make some with"
            " --model_component"
        )
    return found


@contextmanager
def in_one_line(what: str, options: argparse.Namespace) -> Iterator[None]:
    """Say in one line where the disk or the memory ends, within a with block.

    Raises:
        OutputError: the disk is full.
        InputError: the memory does not do.
    """
    from machine.memory import out_of_memory

    try:
        yield
    except OSError as error:  # whatever writes: the graph, its weights, temporary files
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        place = Path(error.filename or options.output_dir)
        raise OutputError.of(place, error, "it begins anew") from error
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise InputError(
            f"{what}: not enough memory on {options.device_for_quant_script}; take fewer"
            " --num_calibration_samples, or --device_for_quant_script cpu"
        ) from None


def report_chain(measured: "ChainMeasured") -> list[str]:
    """Say how far a chain with int8 parts goes from one without: a line for each set of parts."""
    from zoom.measure import MOST_DECIBELS

    worst = measured.worst()
    most = max(worst, key=len)
    text = tuple(part for part in most if part in TEXT_PARTS)

    def name(parts: tuple[str, ...]) -> str:
        if len(parts) == 1:
            return parts[0]
        if parts == text:
            return "the text encoders"
        return "all of these" if parts == most else ", ".join(parts)

    lines = [
        f"a chain of {len(worst[most])} steps, {len(measured.pictures)} pictures of"
        f" {measured.size[0]}x{measured.size[1]}: the worse picture's PSNR against fp32's, after each step"
    ]
    for parts, values in worst.items():
        said = ", ".join("equal" if value == MOST_DECIBELS else f"{value:.1f} dB" for value in values)
        lines.append(f"  int8 {name(parts):17} {said}")
    return lines


def report(component: str, result: "Result") -> str:
    """Say in a few lines what became of a part."""
    size, exact = f"{result.bytes / 1e6:.1f} MB", f"{result.fp32_bytes / 1e6:.1f} MB in fp32"
    if result.bytes < result.fp32_bytes:
        size = f"{size} instead of {exact}"
    else:
        size = f"{size}, and {exact}: a part so small gains nothing"
    modes = [planned.mode for planned in result.plan.values()]
    words = {
        "static": "int8 with int8 inputs",
        "blocks": "int8 by blocks",
        "weights": "int8 weights",
        "float": "fp32",
    }
    counts = [f"{modes.count(mode)} {what}" for mode, what in words.items() if mode in modes]
    lines = [
        f"{component}: {size}; made in {result.seconds:.0f} s: {result.folder}",
        f"  {result.measured}",
        f"  layers: {', '.join(counts)}",
    ]
    if component in VAE_PARTS:
        lines.append("  int8 does not pay here: PyTorch's VAE is as fast on a CPU (docs/int8.md)")
    static = {
        name: cost.errors["static"]
        for name, cost in result.costs.items()
        if "static" in cost.errors and result.plan[name].mode != "static"
    }
    if static:
        worst = sorted(static, key=lambda name: static[name], reverse=True)[:8]
        names = ", ".join(f"{name.removeprefix('model.')} ({static[name]:.3f})" for name in worst)
        more = f" and {len(static) - len(worst)} more" if len(static) > len(worst) else ""
        lines.append(f"  int8 inputs hurt too much in {names}{more}")
    return "\n".join(lines)


if __name__ == "__main__":
    end_process(main())

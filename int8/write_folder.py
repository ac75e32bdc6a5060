"""What lies beside a part's graph, for optimum and what is built on it; and all six parts as one pipeline.

optimum's classes find a model by its config.json and call it by the names of its inputs and outputs, which
`sd3.spec` and `int8.make_part.trace_part` take over from optimum's exporter. ``QUANTIZED_DIR/pipeline`` holds
the parts once more, as hard links, laid out as `ORTStableDiffusion3Pipeline` opens them.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from int8.export import OPSET, LayerPlan
from int8.find_parts import DATA, MODEL, part_folder, read_parts
from machine.interrupts import held
from sd3.checkpoint import INDEX, SCHEDULER, SD3Checkpoint
from sd3.spec import PARTS, TOKENIZERS, VAE_PARTS

logger = logging.getLogger(__name__)

CONFIG, ORT_CONFIG = "config.json", "ort_config.json"
PIPELINE = "pipeline"


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a new folder beside the target, and put it in the target's place when the body is done."""
    new = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield new
        new.chmod(0o755)
        old = new.with_name(f"{new.name}.old")
        with held():  # between the two, neither would be in its place
            if target.exists():
                target.replace(old)
            try:
                new.replace(target)
            except OSError:
                if old.exists():
                    old.replace(target)
                raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def write_configurations(folder: Path, source: Path, plan: Mapping[str, LayerPlan]) -> None:
    """Write config.json and ort_config.json beside a part's graph.

    Args:
        folder: of the part.
        source: the config.json that the part was made from.
        plan: how its layers are stored.
    """
    from onnxruntime.quantization import QuantFormat, QuantType
    from optimum.onnxruntime import ORTConfig, QuantizationConfig

    shutil.copyfile(source, folder / CONFIG)
    quantization = QuantizationConfig(
        is_static=True,
        format=QuantFormat.QDQ,
        activations_dtype=QuantType.QUInt8,
        weights_dtype=QuantType.QInt8,
        per_channel=True,
        operators_to_quantize=["MatMul"],
        nodes_to_exclude=[name for name, planned in plan.items() if planned.mode != "static"],
    )
    ORTConfig(opset=OPSET, use_external_data_format=True, quantization=quantization).save_pretrained(folder)


def lay_out_pipeline(quantized_dir: Path, checkpoint: SD3Checkpoint) -> Path | None:
    """Lay all six parts out as one pipeline, where all are there and were made from one checkpoint.

    Args:
        quantized_dir: where the parts are.
        checkpoint: that they were made from.

    Returns:
        The folder; None where a part is missing or of other files, or files cannot be linked there.
    """
    found, target = read_parts(quantized_dir), quantized_dir / PIPELINE
    found.refuse_others_sources(checkpoint.folder, checkpoint.lora_path, checkpoint.vae_path)
    if len(found.records) < len(PARTS):
        shutil.rmtree(target, ignore_errors=True)  # it would hold parts that are not there any more
        return None
    try:
        with replacing(target) as folder:
            for component in PARTS:
                place = folder / (component if component in VAE_PARTS else PARTS[component].folder)
                place.mkdir()
                for name in (MODEL, DATA, CONFIG):
                    os.link(part_folder(quantized_dir, component) / name, place / name)
            for name in (*TOKENIZERS, Path(SCHEDULER).parent.name):
                shutil.copytree(checkpoint.folder / name, folder / name)
            shutil.copyfile(checkpoint.folder / INDEX, folder / INDEX)
    except OSError as error:  # a file system without hard links; shutil's own errors are of this kind too
        logger.warning("%s: not made (%s)", target, error.strerror or error)
        return None
    return target

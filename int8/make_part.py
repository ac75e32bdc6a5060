"""One SD3 part from its checkpoint to a measured int8 ONNX model on disk.

Trace it, run it in fp32 on calibration data and on held-out data while its weights stream by, choose how each
layer is stored, write it, and measure the written model in ONNX Runtime on the held-out data. Below the bar,
the layers that suffer most from int8 are stored more exactly, until the bar is met (`choose_layers.plans`).

The bar: every output within `MIN_COSINE` and `MIN_WORST_TOKEN` of PyTorch in fp32; and for transformer and
VAE instead, which make pixels, the SR picture that comes out at the end within `MIN_PSNR` of it.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from checkpoints.hashing import note_sha256, sha256_of
from int8 import export
from int8.choose_layers import (
    Fidelity,
    LayerCost,
    choose,
    compare,
    observed,
    plans,
    psnr,
    relative_error,
    rounded_rows,
)
from int8.export import Graph, LayerPlan, trace
from int8.find_parts import DATA, FORMAT, MODEL, RECORD, describe_sources, part_folder, source_files
from int8.pipeline import PartWeights, Pipeline, Tensors
from int8.run_part import HIDDEN, OnnxPart
from int8.write_folder import replacing, write_configurations
from sd3.networks import Part
from sd3.spec import PARTS, TEXT_PARTS

logger = logging.getLogger(__name__)

MIN_COSINE = 0.999  # mean over tokens
MIN_WORST_TOKEN = 0.99
MIN_PSNR = 40.0  # dB: errors of about 2.5 of 255 grey levels
BATCH = 2  # prompts a call when the quantized part is measured


@dataclass
class Measured:
    """How near a written part comes to PyTorch in fp32 on held-out data.

    Attributes:
        outputs: by output name.
        sr_psnr: of the SR pictures, in dB, the worst; None for text encoders.
    """

    outputs: dict[str, Fidelity]
    sr_psnr: float | None = None

    @property
    def bar_met(self) -> bool:
        """Whether that is good enough."""
        if self.sr_psnr is not None:
            return self.sr_psnr >= MIN_PSNR
        return all(
            one.cosine >= MIN_COSINE and one.worst_token >= MIN_WORST_TOKEN for one in self.outputs.values()
        )

    def __str__(self) -> str:
        """Return it in one line: of what makes pixels, the picture says it all."""
        if self.sr_psnr is not None:
            return f"the SR picture is {self.sr_psnr:.1f} dB from fp32's"
        return "; ".join(
            f"{name}: cosine {one.cosine:.5f}, worst token {one.worst_token:.5f},"
            f" relative error {one.relative_error:.4f}"
            for name, one in self.outputs.items()
        )


@dataclass
class Result:
    """What became of a part.

    Attributes:
        folder: with model.onnx.
        measured: of the model that was kept.
        tried: every plan tried: number of layers by mode, and what was measured.
        plan: of the model that was kept.
        costs: by layer.
        bytes: on disk.
        fp32_bytes: of the part's weights in fp32.
        seconds: that it all took.
    """

    folder: Path
    measured: Measured
    tried: list[tuple[dict[str, int], Measured]]
    plan: dict[str, LayerPlan]
    costs: dict[str, LayerCost]
    bytes: int = 0
    fp32_bytes: int = 0
    seconds: float = 0


def quantize_part(component: str, pipeline: Pipeline, output_dir: Path, options: Mapping[str, Any]) -> Result:
    """Quantize one part and write it; a part already there is replaced only by a whole one.

    Args:
        component: one of `sd3.spec.PARTS`.
        pipeline: of the checkpoint, with calibration data.
        output_dir: ``--output_dir``.
        options: of the command, for quantization.json.
    """
    start = time.perf_counter()
    weights = PartWeights(component, pipeline.checkpoint)
    logger.info("%s: tracing", component)
    graph = trace_part(component, weights)
    logger.info("%s: running PyTorch's part on calibration and held-out data", component)
    with observed(pipeline.part(component), graph.groups()) as seen:
        for inputs in _progress(pipeline.inputs(component, held_out=False), "calibrating"):
            pipeline.run(component, *inputs)
    held_out = pipeline.inputs(component, held_out=True)
    exact = [pipeline.run(component, *inputs) for inputs in _progress(held_out, "fp32 on held-out data")]
    pictures = []  # made of fp32's answers, to compare with; text encoders make none
    if component not in TEXT_PARTS:
        shown = zip(pipeline.calibration.held_out_pictures, exact, strict=True)
        pictures = [pipeline.picture(component, one, right[0]) for one, right in shown]
    costs: dict[str, LayerCost] = {}
    for group, layer_input in _progress(list(zip(graph.groups(), seen, strict=True)), "choosing"):
        costs |= choose(layer_input, {name: weights(f"{name}.weight") for name in group})
    for name in graph.others:
        weight = weights(f"{name}.weight").flatten(1)
        costs[name] = LayerCost({"weights": relative_error(rounded_rows(weight), weight)})

    target = part_folder(output_dir, component)
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as folder:
        tried = []
        for plan in plans(costs):
            export.write(graph, plan, weights, folder)
            measured = _measure(component, folder, pipeline, held_out, exact, pictures)
            tried.append((_count(plan), measured))
            logger.info("%s, layers %s: %s", component, _words(tried[-1][0]), measured)
            if measured.bar_met:
                break
        write_configurations(folder, weights.files.folder / "config.json", plan)
        result = Result(target, measured, tried, plan, costs)
        result.fp32_bytes = 4 * weights.parameters()
        result.bytes = sum(file.stat().st_size for file in folder.iterdir())
        result.seconds = time.perf_counter() - start
        record = _record(component, result, pipeline, options, folder)
        text = json.dumps(record, indent=1, ensure_ascii=False)
        (folder / RECORD).write_text(text + "\n", encoding="utf-8")
    for name, file in record["files"].items():  # it may be gigabytes: nobody need hash it again
        note_sha256(target / name, file["sha256"])
    return result


def trace_part(component: str, weights: PartWeights) -> Graph:
    """Trace a part with small inputs; batch, picture size and number of text tokens stay free."""
    config, names = weights.files.config, PARTS[component].inputs
    network, outputs = weights.network(), PARTS[component].outputs
    batch = {0: "batch"}
    image, made = batch | {2: "height", 3: "width"}, batch | {2: "height_out", 3: "width_out"}
    if component in TEXT_PARTS:
        examples = [torch.zeros(1, PARTS[component].tokens, dtype=torch.int64)]
        free = [batch]
        if len(outputs) > 1:
            network = _WholeClip(network.model, network.dtype)
            hidden = (f"{HIDDEN}{number}" for number in range(config["num_hidden_layers"]))
            outputs = ("text_embeds", "last_hidden_state", *hidden)
        made = batch
    elif component == "transformer":
        examples = [
            torch.zeros(1, config["in_channels"], 8, 8),
            torch.zeros(1),
            torch.zeros(1, 8, config["joint_attention_dim"]),
            torch.zeros(1, config["pooled_projection_dim"]),
        ]
        free = [image, batch, batch | {1: "tokens"}, batch]
    else:
        channels, side = (3, 64) if component == "vae_encoder" else (config["latent_channels"], 8)
        examples, free = [torch.zeros(1, channels, side, side)], [image]
    axes = dict(zip(names, free, strict=True)) | dict.fromkeys(outputs, made)
    return trace(network, dict(zip(names, examples, strict=True)), outputs, axes)


class _WholeClip(Part):
    """A CLIP text encoder with all that optimum's pipelines ask it for; a session computes it anyway."""

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the pooled projection, the last hidden state with its norm, and those before it."""
        output = self.model(self.place(input_ids), output_hidden_states=True)
        return output.text_embeds, output.last_hidden_state, *output.hidden_states[:-1]


def _measure(
    component: str,
    folder: Path,
    pipeline: Pipeline,
    held_out: Sequence[Tensors],
    exact: Sequence[Tensors],
    pictures: Sequence[torch.Tensor],
) -> Measured:
    """Run the written model on the held-out inputs and compare."""
    session = OnnxPart(folder, torch.device("cpu"))
    found: list[Tensors] = []
    for inputs in _progress(held_out, "measuring"):
        size = BATCH if component in TEXT_PARTS else 1
        calls = zip(*(tensor.split(size) for tensor in inputs), strict=True)
        outputs = [session(*call) for call in calls]
        outputs = [one if isinstance(one, tuple) else (one,) for one in outputs]
        found.append(tuple(torch.cat(tensors) for tensors in zip(*outputs, strict=True)))
    del session
    image = component not in TEXT_PARTS
    fidelity = {
        name: compare(
            *(torch.cat([_channels_last(one[index], image) for one in outputs]) for outputs in (found, exact))
        )
        for index, name in enumerate(PARTS[component].outputs)
    }
    if not image:
        return Measured(fidelity)
    values = [
        psnr(pipeline.picture(component, one, got[0]), picture)
        for one, got, picture in zip(pipeline.calibration.held_out_pictures, found, pictures, strict=True)
    ]
    return Measured(fidelity, min(values))


def _channels_last(tensor: torch.Tensor, image: bool) -> torch.Tensor:
    """Return (tokens, channels) of a hidden state or pooled vector, or of (1, channels, h, w)."""
    return (tensor.movedim(1, -1) if image else tensor).reshape(-1, tensor.shape[1 if image else -1])


def _record(
    component: str, result: Result, pipeline: Pipeline, options: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """Return quantization.json."""
    import importlib.metadata

    checkpoint = pipeline.checkpoint
    sources = source_files(component, checkpoint.folder, checkpoint.lora_path, checkpoint.vae_path)
    packages = ("torch", "onnx", "onnxruntime", "optimum", "transformers", "diffusers")
    return {
        "format": FORMAT,
        "component": component,
        "source": options["pretrained_model_name_or_path"],
        "made_from": describe_sources(sources),
        "made_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seconds": round(result.seconds, 1),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "options": {name: str(value) for name, value in options.items()},
        "calibration": pipeline.calibration.describe(),
        "opset": export.OPSET,
        "bar": {"cosine": MIN_COSINE, "worst_token": MIN_WORST_TOKEN, "sr_psnr": MIN_PSNR},
        "bar_met": result.measured.bar_met,
        "fidelity": asdict(result.measured),
        "tried": [{"layers": count, **asdict(measured)} for count, measured in result.tried],
        "layers": {
            name.removeprefix("model."): {"stored": planned.mode, "errors": result.costs[name].errors}
            for name, planned in result.plan.items()
        },
        "bytes": result.bytes,
        "fp32_bytes": result.fp32_bytes,
        "files": {
            name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)}
            for name in (MODEL, DATA)
        },
    }


def _count(plan: Mapping[str, LayerPlan]) -> dict[str, int]:
    modes = [planned.mode for planned in plan.values()]
    return {mode: modes.count(mode) for mode in ("static", "blocks", "weights", "float")}


def _words(count: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {mode}" for mode, number in count.items() if number)


def _progress(items: Sequence[Any], what: str) -> Any:
    return tqdm(items, desc=what, leave=False, disable=None)

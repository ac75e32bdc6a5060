"""One SD3 part from its checkpoint to a measured int8 ONNX model on disk.

Trace it, run it in fp32 on calibration data and on held-out data while its weights stream by, choose how each
layer is stored, write it, and measure the written model in ONNX Runtime on the held-out data. Below the bar,
the layers that suffer most from int8 are stored more exactly, until the bar is met (`choose_layers.plans`).

The bar: every output within `MIN_COSINE` and `MIN_WORST_TOKEN` of PyTorch in fp32; and for transformer and
VAE instead, which make pixels, the SR picture that comes out at the end within `MIN_PSNR` of it.
"""

import json
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from checkpoints.headers import safetensors_info
from int8 import export, run_part
from int8.calibration import Calibration, SRInput
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
    stream,
)
from int8.export import Graph, LayerPlan, trace
from lora.sr_lora import sr_lora_layers
from lora.vae_encoder import merged_vae_encoder
from sd3.checkpoint import FOLDERS, SD3Checkpoint
from sd3.networks import PARTS, Part, check_part

logger = logging.getLogger(__name__)

MIN_COSINE = 0.999  # mean over tokens
MIN_WORST_TOKEN = 0.99
MIN_PSNR = 40.0  # dB: errors of about 2.5 of 255 grey levels
TEXT_PARTS = ("text_enc_1", "text_enc_2", "text_enc_3")
CLIP_TOKENS, T5_TOKENS = 77, 512
PROMPTS_A_PASS = 8  # T5-XXL's attention takes 67 MB a prompt and copy
BATCH = 2  # prompts a call when the quantized part is measured

OUTPUTS = {
    "text_enc_1": ("hidden_state", "pooled"),
    "text_enc_2": ("hidden_state", "pooled"),
    "text_enc_3": ("hidden_state",),
    "transformer": ("velocity",),
    "vae_encoder": ("moments",),
    "vae_decoder": ("picture",),
}
# T5's token table has two names, and is stored under either or both.
OTHER_NAME = {
    "shared.weight": "encoder.embed_tokens.weight",
    "encoder.embed_tokens.weight": "shared.weight",
}

Tensors = tuple[torch.Tensor, ...]


class PartWeights:
    """A part's tensors one by one, fp32, with the SR LoRA or the SR VAE encoder merged in."""

    def __init__(self, component: str, checkpoint: SD3Checkpoint) -> None:
        """Find every tensor; none is read yet, except those of a VAE encoder file.

        Args:
            component: one of `FOLDERS`.
            checkpoint: checked.
        """
        self.component = component
        self.folder = checkpoint.folder / FOLDERS[component]
        self.files = checkpoint.parts[FOLDERS[component]]
        self._where = {name: file for file in self.files.files for name in safetensors_info(file)}
        self._merged: dict[str, torch.Tensor] = {}
        self._deltas: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        if component == "vae_encoder" and checkpoint.vae_path is not None:
            merged = merged_vae_encoder(checkpoint.vae_path, torch.device("cpu"))
            self._merged = {f"model.encoder.{name}": tensor for name, tensor in merged.items()}
        if component == "transformer" and checkpoint.lora_path is not None:
            factors = torch.load(checkpoint.lora_path, map_location="cpu", weights_only=True)
            layers = sr_lora_layers(self.network().model)
            self._deltas = {
                f"model.{name}.weight": (up.detach(), down.detach())  # the released file's want gradients
                for (name, _), up, down in zip(layers, factors[::2], factors[1::2], strict=True)
            }

    def network(self) -> Part:
        """Return the part on the meta device, checked against the files."""
        model = check_part(self.component, self.folder, self.files.config, self.files.tensors)
        return PARTS[self.component](model.float(), torch.float32)  # a configuration may name fp16

    def __call__(self, name: str) -> torch.Tensor:
        """Read one tensor by the part's name for it; integers stay as they are.

        The file is opened anew each time: a file that stays open stays in memory as far as it was read.
        """
        from safetensors import safe_open

        if name in self._merged:
            return self._merged[name]
        own = name.removeprefix("model.")
        if own not in self._where:
            own = OTHER_NAME[own]
        with safe_open(self._where[own], framework="pt") as file:
            tensor = file.get_tensor(own)
            tensor = tensor.to(torch.float32, copy=True) if tensor.is_floating_point() else tensor.clone()
        if name in self._deltas:
            up, down = self._deltas[name]
            tensor = torch.addmm(tensor, up.float(), down.float())
        return tensor

    def parameters(self) -> int:
        """Return the number of elements of the part's tensors."""
        network = self.network()  # whose parameters() give a tensor with two names once
        return sum(tensor.numel() for tensor in [*network.parameters(), *network.buffers()])


class Pipeline:
    """The parts in fp32, weights streaming by, and the inputs that each gets from the ones before."""

    def __init__(self, checkpoint: SD3Checkpoint, calibration: Calibration, device: torch.device) -> None:
        """Nothing is read or run yet.

        Args:
            checkpoint: checked.
            calibration: prompts and pictures.
            device: where PyTorch computes.
        """
        self.checkpoint, self.calibration, self.device = checkpoint, calibration, device
        vae = checkpoint.parts["vae"].config
        self.scale, self.shift = vae["scaling_factor"], vae["shift_factor"]
        self._parts: dict[str, Part] = {}
        self._embedded: dict[str, Tensors] = {}
        self._latents: dict[SRInput, torch.Tensor] = {}
        self._velocities: dict[SRInput, torch.Tensor] = {}

    def run(self, component: str, *inputs: torch.Tensor) -> Tensors:
        """Run one part in fp32 and return its outputs on the CPU."""
        with torch.no_grad():
            outputs = self.part(component)(*(tensor.to(self.device) for tensor in inputs))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return tuple(tensor.cpu() for tensor in outputs)

    def part(self, component: str) -> Part:
        """Return a part as `run` uses it."""
        if component not in self._parts:
            weights = PartWeights(component, self.checkpoint)
            self._parts[component] = weights.network()
            stream(self._parts[component], weights, self.device)
        return self._parts[component]

    def inputs(self, component: str, held_out: bool) -> list[Tensors]:
        """Return the inputs of every call that a part is calibrated with, or measured on."""
        data = self.calibration
        if component in TEXT_PARTS:
            prompts = data.held_out_prompts if held_out else data.prompts
            input_ids = self.tokenize(component, prompts)
            return [(batch,) for batch in input_ids.split(PROMPTS_A_PASS)]
        pictures = data.held_out_pictures if held_out else data.pictures
        if component == "vae_encoder":
            return [(_tensor(one),) for one in pictures]
        if component == "transformer":
            return [self.transformer_inputs(one) for one in pictures]
        return [(self.decoder_input(self.latent(one), self.velocity(one)),) for one in pictures]

    def tokenize(self, component: str, prompts: Sequence[str]) -> torch.Tensor:
        """Return token ids, (prompts, 77) or (prompts, 512)."""
        from osediff_sd3 import load_tokenizer

        length = T5_TOKENS if component == "text_enc_3" else CLIP_TOKENS
        tokenizer = load_tokenizer(self.checkpoint.folder, component)
        return tokenizer(
            list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids

    def embed(self) -> None:
        """Encode the prompts of all pictures, each encoder's weights read once."""
        from osediff_sd3 import join_embeddings

        pictures = [*self.calibration.pictures, *self.calibration.held_out_pictures]
        prompts = list(dict.fromkeys(one.prompt for one in pictures))
        by_part = []
        for component in TEXT_PARTS:
            batches = self.tokenize(component, prompts).split(PROMPTS_A_PASS)
            outputs = [self.run(component, batch) for batch in batches]
            by_part.append([torch.cat(tensors) for tensors in zip(*outputs, strict=True)])
        for index, prompt in enumerate(prompts):
            self._embedded[prompt] = join_embeddings(
                *(tuple(tensor[index] for tensor in tensors) for tensors in by_part)
            )

    def latent(self, picture: SRInput, moments: torch.Tensor | None = None) -> torch.Tensor:
        """Return the scaled latent of a picture, (1, 16, h, w): the mean, so that noise measures nothing."""
        if moments is None:
            if picture not in self._latents:
                (encoded,) = self.run("vae_encoder", _tensor(picture))
                self._latents[picture] = encoded.chunk(2, dim=1)[0] * self.scale
            return self._latents[picture]
        return moments.chunk(2, dim=1)[0] * self.scale

    def transformer_inputs(self, picture: SRInput, latent: torch.Tensor | None = None) -> Tensors:
        """Return the transformer's four inputs for a picture."""
        from osediff_sd3 import one_step

        if not self._embedded:
            self.embed()
        prompt_embeds, pooled = self._embedded[picture.prompt]
        latent = self.latent(picture) if latent is None else latent
        return latent, one_step(self.checkpoint.folder), prompt_embeds[None], pooled[None]

    def velocity(self, picture: SRInput) -> torch.Tensor:
        """Return the transformer's answer for a picture."""
        if picture not in self._velocities:
            (self._velocities[picture],) = self.run("transformer", *self.transformer_inputs(picture))
        return self._velocities[picture]

    def decoder_input(self, latent: torch.Tensor, velocity: torch.Tensor) -> torch.Tensor:
        """Return what the VAE's decoder gets."""
        return (latent - velocity) / self.scale + self.shift

    def picture(self, component: str, picture: SRInput, output: torch.Tensor) -> torch.Tensor:
        """Return the SR picture that follows from one part's output, the other parts in fp32."""
        if component == "vae_decoder":
            return output
        latent, velocity = self.latent(picture), output
        if component == "vae_encoder":
            latent = self.latent(picture, output)
            (velocity,) = self.run("transformer", *self.transformer_inputs(picture, latent))
        return self.run("vae_decoder", self.decoder_input(latent, velocity))[0]


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
        """Return it in one line."""
        lines = [
            f"{name}: cosine {one.cosine:.5f}, worst token {one.worst_token:.5f},"
            f" relative error {one.relative_error:.4f}"
            for name, one in self.outputs.items()
        ]
        if self.sr_psnr is not None:
            lines.append(f"SR picture {self.sr_psnr:.1f} dB")
        return "; ".join(lines)


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
        component: one of `FOLDERS`.
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
    costs: dict[str, LayerCost] = {}
    for group, layer_input in _progress(list(zip(graph.groups(), seen, strict=True)), "choosing"):
        costs |= choose(layer_input, {name: weights(f"{name}.weight") for name in group})
    for name in graph.others:
        weight = weights(f"{name}.weight").flatten(1)
        costs[name] = LayerCost({"weights": relative_error(rounded_rows(weight), weight)})

    target = run_part.part_folder(output_dir, component)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _replacing(target) as folder:
        tried = []
        for plan in plans(costs):
            export.write(graph, plan, weights, folder)
            measured = _measure(component, folder, pipeline, held_out, exact)
            tried.append((_count(plan), measured))
            logger.info("%s, layers %s: %s", component, _words(tried[-1][0]), measured)
            if measured.bar_met:
                break
        result = Result(target, measured, tried, plan, costs)
        result.fp32_bytes = 4 * weights.parameters()
        result.bytes = sum(file.stat().st_size for file in folder.iterdir())
        result.seconds = time.perf_counter() - start
        record = _record(component, result, pipeline, options, folder)
        text = json.dumps(record, indent=1, ensure_ascii=False)
        (folder / run_part.RECORD).write_text(text + "\n", encoding="utf-8")
    return result


def trace_part(component: str, weights: PartWeights) -> Graph:
    """Trace a part with small inputs; batch, picture size and number of text tokens stay free."""
    config = weights.files.config
    batch = {0: "batch"}
    image = batch | {2: "height", 3: "width"}
    inputs: dict[str, torch.Tensor]
    if component in TEXT_PARTS:
        tokens = T5_TOKENS if component == "text_enc_3" else CLIP_TOKENS
        inputs = {"input_ids": torch.zeros(1, tokens, dtype=torch.int64)}
        axes = dict.fromkeys(("input_ids", *OUTPUTS[component]), batch)
    elif component == "transformer":
        inputs = {
            "latent": torch.zeros(1, config["in_channels"], 8, 8),
            "timestep": torch.zeros(1),
            "prompt_embeds": torch.zeros(1, 8, config["joint_attention_dim"]),
            "pooled": torch.zeros(1, config["pooled_projection_dim"]),
        }
        axes = {
            "latent": image, "timestep": batch, "prompt_embeds": batch | {1: "tokens"}, "pooled": batch,
            "velocity": batch | {2: "height_out", 3: "width_out"},
        }  # fmt: skip
    else:
        name, channels, side = (
            ("x", 3, 64) if component == "vae_encoder" else ("z", config["latent_channels"], 8)
        )
        inputs = {name: torch.zeros(1, channels, side, side)}
        axes = {name: image, OUTPUTS[component][0]: batch | {2: "height_out", 3: "width_out"}}
    return trace(weights.network(), inputs, OUTPUTS[component], axes)


def _measure(
    component: str, folder: Path, pipeline: Pipeline, held_out: Sequence[Tensors], exact: Sequence[Tensors]
) -> Measured:
    """Run the written model on the held-out inputs and compare."""
    session = run_part.OnnxPart(folder, torch.device("cpu"))
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
        for index, name in enumerate(OUTPUTS[component])
    }
    if not image:
        return Measured(fidelity)
    pictures = pipeline.calibration.held_out_pictures
    values = [
        psnr(pipeline.picture(component, one, got[0]), pipeline.picture(component, one, right[0]))
        for one, got, right in zip(pictures, found, exact, strict=True)
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
    sources = run_part.source_files(component, checkpoint.folder, checkpoint.lora_path, checkpoint.vae_path)
    packages = ("torch", "onnx", "onnxruntime", "transformers", "diffusers")
    return {
        "format": run_part.FORMAT,
        "component": component,
        "source": options["pretrained_model_name_or_path"],
        "made_from": run_part.describe_sources(sources),
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
            run_part.MODEL: {
                "bytes": (folder / run_part.MODEL).stat().st_size,
                "sha256": run_part.sha256_of(folder / run_part.MODEL),
            },
            run_part.DATA: {
                "bytes": (folder / run_part.DATA).stat().st_size,
                "sha256": run_part.sha256_of(folder / run_part.DATA),
            },
        },
    }


def _count(plan: Mapping[str, LayerPlan]) -> dict[str, int]:
    modes = [planned.mode for planned in plan.values()]
    return {mode: modes.count(mode) for mode in ("static", "blocks", "weights", "float")}


def _words(count: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {mode}" for mode, number in count.items() if number)


def _tensor(picture: SRInput) -> torch.Tensor:
    """Return an SR input as (1, 3, side, side) in [-1, 1]."""
    pixels = torch.from_numpy(np.array(picture.read())).permute(2, 0, 1)
    return pixels[None].float() / 255 * 2 - 1


def _progress(items: Sequence[Any], what: str) -> Any:
    return tqdm(items, desc=what, leave=False, disable=None)


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """Give a new folder beside the target, and put it in the target's place when the body is done."""
    new = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield new
        new.chmod(0o755)
        old = new.with_name(f"{new.name}.old")
        if target.exists():
            target.replace(old)
        new.replace(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)

"""SD3's networks, each behind one plain call over tensors, loaded one by one and strictly.

The seam between the SR backbone and its networks: the six parts of `sd3.spec`. Each is a callable;
whatever has the same call can stand in for it (an int8 ONNX session, for one).

Callers pass tensors on any device, floating-point ones in any dtype: a part moves them to where it computes
and answers in its own dtype, there or, the VAE's halves once they are tiled, on the CPU. Callers hold
`torch.no_grad`. Loaders take the device and return the part: ``load(device) -> part``;
`machine.residency.Residency` calls them.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from checkpoints.folders import ModelFiles, refuse_differences
from checkpoints.gate import blaming
from errors import InputError
from lora.sr_lora import merge_sr_lora, sr_lora_layers
from lora.vae_encoder import merged_vae_encoder
from machine.memory import Size
from machine.upcast import upcast_by_block, upcast_in_its_turn
from sd3.checkpoint import SD3Checkpoint
from sd3.spec import PARTS

logger = logging.getLogger(__name__)

Loader = Callable[[torch.device], Callable[..., Any]]

# Names that files of older library versions hold and that the networks build themselves.
BUILT_IN = {"text_model.embeddings.position_ids"}


class Part(torch.nn.Module):
    """One network and the dtype that it computes in."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        """Wrap a loaded network.

        Args:
            model: its weights may be stored in another dtype, where `upcast_by_block` casts them.
            dtype: of the arithmetic.
        """
        super().__init__()
        self.model: Any = model
        self.dtype = dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @contextmanager
    def in_fp32(self) -> Iterator[None]:
        """Compute in fp32 within a with block, with the weights as they are, a block at a time."""
        if self.dtype == torch.float32:
            yield
            return
        dtype, self.dtype = self.dtype, torch.float32
        undo = upcast_by_block(self.model, torch.float32)
        try:
            yield
        finally:
            undo()
            self.dtype = dtype

    def place(self, tensor: torch.Tensor) -> torch.Tensor:
        """Bring an input to the network's device, and to its dtype where it is floating-point."""
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)


class ClipEncoder(Part):
    """CLIP text encoder with projection (text_enc_1, text_enc_2)."""

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the penultimate hidden state and the pooled projection."""
        output = self.model(self.place(input_ids), output_hidden_states=True)
        return output.hidden_states[-2], output.text_embeds


class T5Encoder(Part):
    """T5 encoder (text_enc_3)."""

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return the last hidden state; as published, padding is attended to."""
        return self.model(self.place(input_ids)).last_hidden_state


class Transformer(Part):
    """SD3 transformer (transformer)."""

    def forward(
        self, latent: torch.Tensor, timestep: torch.Tensor, prompt_embeds: torch.Tensor, pooled: torch.Tensor
    ) -> torch.Tensor:
        """Return the velocity."""
        return self.model(
            hidden_states=self.place(latent),
            timestep=self.place(timestep),
            encoder_hidden_states=self.place(prompt_embeds),
            pooled_projections=self.place(pooled),
            return_dict=False,
        )[0]


class VaeEncoder(Part):
    """Encoding half of the VAE (vae_encoder)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return mean and log-variance of the latent, one after the other on the channel axis."""
        return self.model.encode(self.place(x)).latent_dist.parameters


class VaeDecoder(Part):
    """Decoding half of the VAE (vae_decoder)."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Return the picture."""
        return self.model.decode(self.place(z), return_dict=False)[0]


NETWORKS: dict[str, type[Part]] = {
    "text_enc_1": ClipEncoder,
    "text_enc_2": ClipEncoder,
    "text_enc_3": T5Encoder,
    "transformer": Transformer,
    "vae_encoder": VaeEncoder,
    "vae_decoder": VaeDecoder,
}


def build_on_meta(part: str, config: dict[str, Any]) -> Any:
    """Build a part's network without weights: every parameter on the meta device, nothing initialised.

    Args:
        part: one of `sd3.spec.PARTS`.
        config: the part's config.json.
    """
    from accelerate import init_empty_weights

    if part in ("text_enc_1", "text_enc_2"):
        from transformers import CLIPTextConfig, CLIPTextModelWithProjection

        with init_empty_weights():  # its buffers (position numbers) are in no file and must be real
            return CLIPTextModelWithProjection(CLIPTextConfig.from_dict(config)).eval()
    if part == "text_enc_3":
        from transformers import T5Config, T5EncoderModel

        with init_empty_weights():
            return T5EncoderModel(T5Config.from_dict(config)).eval()

    from diffusers import AutoencoderKL, SD3Transformer2DModel

    with torch.device("meta"):  # its buffer (position embedding) is large, and in the file
        if part == "transformer":
            return SD3Transformer2DModel.from_config(config).eval()
        vae = AutoencoderKL.from_config(config).eval()
    if part == "vae_encoder":
        vae.decoder = vae.post_quant_conv = None
    else:
        vae.encoder = vae.quant_conv = None
    return vae


def check_part(part: str, files: ModelFiles) -> Any:
    """Check that the files' tensors are exactly those of the network that their config.json describes.

    Args:
        part: one of `sd3.spec.PARTS`.
        files: of its folder.

    Returns:
        The network on the meta device.

    Raises:
        InputError: names what is missing, unexpected or of another shape.
    """
    spec = PARTS[part]
    with blaming(files.folder / "config.json"):
        model = build_on_meta(part, files.config)
    found = {name: info.shape for name, info in files.tensors.items() if not name.startswith(spec.other_half)}
    refuse_differences(
        f"{files.folder}: weights do not fit config.json",
        found,
        {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()},
        optional=spec.tied if spec.tied & found.keys() else (),
        ignored=BUILT_IN,
    )
    return model


def part_size(
    model: torch.nn.Module,
    dtype: torch.dtype,
    stored: torch.dtype,
    by_block: bool = False,
    lora: bool = False,
) -> Size:
    """Compute what a network will take, from its meta tensors.

    Args:
        model: from `build_on_meta`.
        dtype: that it will compute in.
        stored: dtype of its file.
        by_block: whether the weights stay in it, and one block at a time is cast.
        lora: whether the SR LoRA is merged into it; merged weights are in ``dtype``.
    """
    tensors = model.state_dict()
    for name in PARTS["text_enc_3"].tied & tensors.keys() - {"shared.weight"}:
        del tensors[name]  # the same memory
    wide = {f"{name}.weight" for name in _in_fp32(model, dtype)}
    as_stored = tensors if by_block else wide
    total = sum(
        tensor.numel() * (stored if name in as_stored else dtype).itemsize for name, tensor in tensors.items()
    )
    total += max((tensors[name].numel() for name in wide), default=0) * torch.float32.itemsize
    if by_block:
        lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
        total += max(sum(p.numel() for p in block.parameters()) for block in lists[0]) * dtype.itemsize
        if lora:
            merged = sum(layer.weight.numel() for _, layer in sr_lora_layers(model))
            total += merged * (dtype.itemsize - stored.itemsize)
    return Size(sum(parameter.numel() for parameter in model.parameters()), total)


def load_part(
    part: str, checkpoint: SD3Checkpoint, device: torch.device, dtype: torch.dtype, by_block: bool = False
) -> Part:
    """Read one part's weights to a device, with the SR LoRA or the SR encoder merged where it has one.

    Tensors are read one by one; on the CPU those already in the wanted dtype stay memory-mapped. What is
    merged is added up in fp32, from the numbers of the file, and rounded to ``dtype`` once.

    Args:
        part: one of `sd3.spec.PARTS`.
        checkpoint: from `sd3.checkpoint.check_sd3`; its tensors were checked by `check_part`.
        device: where the part will compute.
        dtype: of the arithmetic, and of the weights.
        by_block: weights stay in the file's dtype and are cast a block at a time while it runs (the same
            numbers, less memory, slower).

    Raises:
        InputError: the files have changed since they were checked.
    """
    files = checkpoint.files_of(part)
    model = build_on_meta(part, files.config)
    lora_path = checkpoint.lora_path if part == "transformer" else None
    wide = _in_fp32(model, dtype)
    as_stored = {f"{name}.weight" for name in wide}
    if lora_path is not None:
        as_stored |= {f"{name}.weight" for name, _ in sr_lora_layers(model)}

    def cast(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if by_block or name in as_stored else tensor.to(dtype)

    if part == "vae_encoder" and checkpoint.vae_path is not None:
        state = {
            f"encoder.{name}": cast(name, tensor)
            for name, tensor in merged_vae_encoder(checkpoint.vae_path, device).items()
        }
    else:
        names = set(model.state_dict())
        state = {name: cast(name, tensor) for name, tensor in _read(files.files, names, device)}
    model.load_state_dict(state, strict=False, assign=True)
    empty = [name for name, tensor in model.state_dict().items() if tensor.is_meta]
    if empty:
        raise InputError(f"{files.folder}: {empty[0]} is in none of the files ({len(empty)} missing)")
    model.requires_grad_(False).to(device)  # buffers that no file holds follow the weights
    if lora_path is not None:
        layers = merge_sr_lora(model, lora_path, dtype)
        logger.info("merged the SR LoRA into %d layers of the transformer", layers)
    if by_block:
        upcast_by_block(model, dtype)
    for name in wide:
        upcast_in_its_turn(model.get_submodule(name), torch.float32)
    return NETWORKS[part](model, dtype)


def _in_fp32(model: torch.nn.Module, dtype: torch.dtype) -> list[str]:
    """Return names of the layers that compute in fp32 under fp16, whose range what they make would leave.

    transformers names them: T5's wo, the end of its feed-forward part. What wo makes is added to the
    residual stream, which so becomes fp32, too. Their weights stay as the file has them and are cast when
    they run: the same numbers, and T5-XXL takes 2 GB less.
    """
    kept = getattr(model, "_keep_in_fp32_modules", None) or () if dtype == torch.float16 else ()
    return [name for name, _ in model.named_modules() if name.rpartition(".")[2] in kept]


def _read(files: Iterable[Path], names: set[str], device: torch.device) -> Iterable[tuple[str, torch.Tensor]]:
    from safetensors import safe_open

    for path in files:
        with safe_open(path, framework="pt", device=str(device)) as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                if name in names:
                    yield name, file.get_tensor(name)

"""SD3's networks, each behind one plain call over tensors, loaded one by one and strictly.

The seam between the SR backbone and its networks: six parts by name. Each is a callable; whatever has the
same call can stand in for it (an int8 ONNX session, for one).

============  ===============================================  ===============================================
part          call                                             gives
============  ===============================================  ===============================================
text_enc_1    input_ids (B, 77) int64, CLIP-L's                penultimate hidden state (B, 77, 768),
                                                               pooled projection (B, 768)
text_enc_2    input_ids (B, 77) int64, CLIP-G's                the same of (B, 77, 1280) and (B, 1280)
text_enc_3    input_ids (B, 512) int64, T5's, no mask          last hidden state (B, 512, 4096)
transformer   latent (B, 16, h, w), timestep (B,),             velocity (B, 16, h, w)
              prompt_embeds (B, 77 + 512, 4096),
              pooled (B, 2048)
vae_encoder   x (B, 3, 8h, 8w) in [-1, 1]                      moments (B, 32, h, w): mean, log-variance
vae_decoder   z (B, 16, h, w), unscaled and shifted            picture (B, 3, 8h, 8w), about [-1, 1]
============  ===============================================  ===============================================

Callers pass tensors on any device, floating-point ones in any dtype: a part moves them to where it computes
and answers there, in its own dtype. Callers hold `torch.no_grad`. Loaders take the device and return the
part: ``load(device) -> part``; `residency.Residency` calls them.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from checkpoints.headers import TensorInfo
from errors import InputError
from lora.sr_lora import merge_sr_lora, sr_lora_layers
from lora.vae_encoder import merged_vae_encoder
from machine.residency import Size, upcast_by_block
from sd3.checkpoint import FOLDERS, SD3Checkpoint

logger = logging.getLogger(__name__)

Loader = Callable[[torch.device], Callable[..., Any]]

# Names that files of older library versions hold and that the networks build themselves.
BUILT_IN = {"text_model.embeddings.position_ids"}
# One tensor under two names; a file holds either or both.
TIED = {"text_enc_3": {"shared.weight", "encoder.embed_tokens.weight"}}


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


PARTS: dict[str, type[Part]] = {
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
        part: one of `PARTS`.
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


def check_part(part: str, folder: Path, config: dict[str, Any], tensors: dict[str, TensorInfo]) -> Any:
    """Check that the files' tensors are exactly those of the network that their config.json describes.

    Args:
        part: one of `PARTS`.
        folder: named in the message.
        config: the folder's config.json.
        tensors: names and shapes in the folder's weights files.

    Returns:
        The network on the meta device.

    Raises:
        InputError: names what is missing, unexpected or of another shape.
    """
    tied, other_half = TIED.get(part, set()), _other_half(part)
    model = build_on_meta(part, config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: info.shape for name, info in tensors.items() if not name.startswith(other_half)}
    missing = expected.keys() - found.keys() - (tied if tied & found.keys() else set())
    problems = [f"{name} is missing" for name in sorted(missing)]
    problems += [f"{name} is unexpected" for name in sorted(found.keys() - expected.keys() - BUILT_IN)]
    problems += [
        f"{name} is {found[name]} instead of {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise InputError(f"{folder}: weights do not fit config.json: {'; '.join(problems[:3])}{more}")
    return model


def part_size(
    model: torch.nn.Module, dtype: torch.dtype, stored: torch.dtype | None = None, lora: bool = False
) -> Size:
    """Compute what a network will take, from its meta tensors.

    Args:
        model: from `build_on_meta`.
        dtype: that it will compute in.
        stored: dtype of its file, where the weights stay in it and one block at a time is cast.
        lora: whether the SR LoRA is merged into it; merged weights are in ``dtype``.
    """
    tensors = model.state_dict()
    for name in TIED["text_enc_3"] & tensors.keys() - {"shared.weight"}:
        del tensors[name]  # the same memory
    keep_fp32 = _kept_in_fp32(model, dtype)
    width = (stored or dtype).itemsize
    total = sum(tensor.numel() * (4 if keep_fp32(name) else width) for name, tensor in tensors.items())
    if stored is not None:
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

    Tensors are read one by one; on the CPU those already in the wanted dtype stay memory-mapped.

    Args:
        part: one of `PARTS`.
        checkpoint: from `sd3.checkpoint.check_sd3`.
        device: where the part will compute.
        dtype: of the arithmetic, and of the weights.
        by_block: weights stay in the file's dtype and are cast a block at a time while it runs (the same
            numbers, less memory, slower).

    Raises:
        InputError: tensors missing, unexpected or of another shape.
    """
    files = checkpoint.parts[FOLDERS[part]]
    folder = checkpoint.folder / FOLDERS[part]
    model = check_part(part, folder, files.config, files.tensors)
    keep_fp32 = _kept_in_fp32(model, dtype)

    def cast(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if by_block else tensor.to(torch.float32 if keep_fp32(name) else dtype)

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
        raise InputError(f"{folder}: {empty[0]} is in none of the files ({len(empty)} missing)")
    model.requires_grad_(False).to(device)  # buffers that no file holds follow the weights
    if part == "transformer" and checkpoint.lora_path is not None:
        layers = merge_sr_lora(model, checkpoint.lora_path, dtype)
        logger.info("merged the SR LoRA into %d layers of the transformer", layers)
    if by_block:
        upcast_by_block(model, dtype)
    return PARTS[part](model, dtype)


def _kept_in_fp32(model: torch.nn.Module, dtype: torch.dtype) -> Callable[[str], bool]:
    """Tell which weights stay in fp32 under fp16, whose range they would leave: T5's wo, say transformers."""
    names = getattr(model, "_keep_in_fp32_modules", None) or () if dtype == torch.float16 else ()
    return lambda name: any(f".{kept}." in name for kept in names)


def _read(files: Iterable[Path], names: set[str], device: torch.device) -> Iterable[tuple[str, torch.Tensor]]:
    from safetensors import safe_open

    for path in files:
        with safe_open(path, framework="pt", device=str(device)) as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                if name in names:
                    yield name, file.get_tensor(name)


def _other_half(part: str) -> tuple[str, ...]:
    """Prefixes of the names in the VAE's file that belong to its other half."""
    halves = {"vae_encoder": ("decoder.", "post_quant_conv."), "vae_decoder": ("encoder.", "quant_conv.")}
    return halves.get(part, ())

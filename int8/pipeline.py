"""SD3's one step in fp32, weights streaming by: what quantized parts are calibrated on and compared with."""

from collections.abc import Sequence

import numpy as np
import torch

from checkpoints.headers import safetensors_info
from int8.calibration import Calibration, SRInput
from int8.choose_layers import stream
from lora.sr_lora import sr_lora_layers
from lora.vae_encoder import merged_vae_encoder
from sd3.checkpoint import SD3Checkpoint
from sd3.networks import NETWORKS, Part, build_on_meta, check_part
from sd3.spec import PARTS, TEXT_PARTS, vae_pixels
from sd3.text import join_embeddings, load_tokenizer, token_ids
from zoom.settings import Tiles

PROMPTS_A_PASS = 8  # T5-XXL's attention takes 67 MB a prompt and copy

Tensors = tuple[torch.Tensor, ...]


class PartWeights:
    """A part's tensors one by one, fp32, with the SR LoRA or the SR VAE encoder merged in."""

    def __init__(self, component: str, checkpoint: SD3Checkpoint) -> None:
        """Find every tensor; none is read yet, except those of a VAE encoder file.

        Args:
            component: one of `sd3.spec.PARTS`.
            checkpoint: checked.
        """
        self.component = component
        self.files = checkpoint.files_of(component)
        check_part(component, self.files)
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
        """Return the part on the meta device."""
        model = build_on_meta(self.component, self.files.config)
        return NETWORKS[self.component](model.float(), torch.float32)  # a configuration may name fp16

    def __call__(self, name: str) -> torch.Tensor:
        """Read one tensor by the part's name for it; integers stay as they are.

        The file is opened anew each time: a file that stays open stays in memory as far as it was read.
        """
        from safetensors import safe_open

        if name in self._merged:
            return self._merged[name]
        own = name.removeprefix("model.")
        if own not in self._where:
            (own,) = PARTS[self.component].tied & self._where.keys() - {own}  # one tensor of two names
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
        vae = checkpoint.vae_config
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
            return [(self._tensor(one),) for one in pictures]
        if component == "transformer":
            return [self.transformer_inputs(one) for one in pictures]
        return [(self.decoder_input(self.latent(one), self.velocity(one)),) for one in pictures]

    def tokenize(self, component: str, prompts: Sequence[str]) -> torch.Tensor:
        """Return token ids, (prompts, 77) or (prompts, 512)."""
        return token_ids(load_tokenizer(self.checkpoint.folder, component), component, prompts)

    def embed(self) -> None:
        """Encode the prompts of all pictures, each encoder's weights read once."""
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
                (encoded,) = self.run("vae_encoder", self._tensor(picture))
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

    def _tensor(self, picture: SRInput) -> torch.Tensor:
        """Return the middle of an SR input, as much as a tile shows, (1, 3, H, W) in [-1, 1]."""
        from osediff_sd3 import padded

        image = picture.read()
        most = Tiles().latent * vae_pixels(self.checkpoint.vae_config)
        width, height = (min(side, most) for side in image.size)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = padded(image.crop((left, top, left + width, top + height)), self.checkpoint.side_multiple)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return pixels[None].float() / 255 * 2 - 1

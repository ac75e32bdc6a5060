"""The published schedule of Chain-of-Zoom, told again: what our figures of speed are compared with.

One picture at a time and one step at a time: a question to the VLM, the three text encoders on that one
prompt (also where it was encoded before), VAE encoder, transformer, VAE decoder; SR LoRA and the SR VAE
encoder's LoRA beside the weights and not merged into them; under ``--efficient_memory`` every SR part leaves
the accelerator for each question and comes back after it. On a GPU text encoders are in fp16, transformer and
VAE in fp32, the VLM in its file's dtype; on a CPU all is fp32 here. With the checkpoints of
tests/data/parity, embeddings, latents and velocity agree with the published code's to 1e-5.

Where the published code's pixels are not a matter of speed, it is told as ours, so that pixels can be
compared: states are rounded to 8 bits (published: cut off), the VLM decodes greedily (published: at
temperature 1e-6), each latent's noise has a seed of its own, answers are cleaned and judged as ours are.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

if TYPE_CHECKING:
    from prompts.vlm_files import VlmFiles

VAE_SCALE = 8 / 4  # PEFT's default alpha over the published rank
CLIP_TOKENS, T5_TOKENS = 77, 512


@dataclass(frozen=True)
class Placing:
    """Where and in which dtype the published code has its parts.

    Attributes:
        text, sr: devices of the text encoders, and of transformer and VAE.
        text_dtype, sr_dtype: their dtypes; fp16 and fp32 on GPUs.
    """

    text: str = "cpu"
    sr: str = "cpu"
    text_dtype: torch.dtype = torch.float32
    sr_dtype: torch.dtype = torch.float32


def dtype_name(kind: type) -> str:
    """Return what a library calls the dtype that a network is loaded in."""
    return "dtype" if kind.__module__.startswith("transformers") else "torch_dtype"


class WithLora(torch.nn.Module):
    """A layer and the low-rank one beside it: ``layer(x) + scale * up(down(x))``."""

    def __init__(self, layer: torch.nn.Module, down: torch.Tensor, up: torch.Tensor, scale: float) -> None:
        """Wrap a linear layer or a convolution.

        Args:
            layer: stays as it is.
            down, up: weights, as the layer's own (a convolution's: up is 1x1).
            scale: of what is added.
        """
        super().__init__()
        self.layer, self.scale = layer, scale
        if isinstance(layer, torch.nn.Conv2d):
            size, stride, padding = layer.kernel_size, layer.stride, layer.padding
            self.down: Any = torch.nn.Conv2d(down.shape[1], len(down), size, stride, padding, bias=False)  # type: ignore[arg-type]
            self.up: Any = torch.nn.Conv2d(len(down), len(up), 1, bias=False)
        else:
            self.down = torch.nn.Linear(down.shape[1], len(down), bias=False)
            self.up = torch.nn.Linear(len(down), len(up), bias=False)
        self.down.weight.data, self.up.weight.data = down.float(), up.float()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum."""
        return self.layer(x) + self.scale * self.up(self.down(x))


class PublishedSR:
    """SR as published: one picture and its prompt to one picture."""

    def __init__(self, folder: Path, lora: Path, vae_encoder: Path, placing: Placing) -> None:
        """Load all parts.

        Args:
            folder: SD3 in diffusers layout.
            lora: model_20001.pkl.
            vae_encoder: vae_encoder_20001.pt.
            placing: see there.
        """
        from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
        from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

        def load(kind: Any, name: str, dtype: torch.dtype) -> Any:
            return kind.from_pretrained(folder / name, **{dtype_name(kind): dtype}, local_files_only=True)

        self.placing = placing
        self.clips = [
            load(CLIPTextModelWithProjection, name, placing.text_dtype)
            for name in ("text_encoder", "text_encoder_2")
        ]
        self.t5 = load(T5EncoderModel, "text_encoder_3", placing.text_dtype)
        self.tokenizers = [
            CLIPTokenizer.from_pretrained(folder / "tokenizer"),
            CLIPTokenizer.from_pretrained(folder / "tokenizer_2"),
            T5TokenizerFast.from_pretrained(folder / "tokenizer_3"),
        ]
        self.transformer = load(SD3Transformer2DModel, "transformer", placing.sr_dtype)
        self.vae = load(AutoencoderKL, "vae", placing.sr_dtype)
        self.scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler")
        add_sr_lora(self.transformer, lora)
        load_vae_encoder(self.vae, vae_encoder)
        for part in self.parts:
            part.to(part.dtype).eval().requires_grad_(False)  # the LoRA too
        self.come_back()

    @property
    def parts(self) -> list[Any]:
        """All networks."""
        return [*self.clips, self.t5, self.transformer, self.vae]

    def leave(self) -> None:
        """Take every part to the CPU."""
        for part in self.parts:
            part.to("cpu")

    def come_back(self) -> None:
        """Take every part to its device."""
        for part in (*self.clips, self.t5):
            part.to(self.placing.text)
        for part in (self.transformer, self.vae):
            part.to(self.placing.sr)

    def encode_prompt(self, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return prompt_embeds (1, 77 + 512, width) and pooled (1, width) of one prompt."""
        lengths = CLIP_TOKENS, CLIP_TOKENS, T5_TOKENS
        ids = [
            tokenizer(
                [prompt], padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            ).input_ids.to(self.placing.text)
            for tokenizer, length in zip(self.tokenizers, lengths, strict=True)
        ]
        seen = [clip(own, output_hidden_states=True) for clip, own in zip(self.clips, ids, strict=False)]
        words = self.t5(ids[-1])[0]
        clip_words = torch.cat([one.hidden_states[-2] for one in seen], dim=-1)
        clip_words = torch.nn.functional.pad(clip_words, (0, words.shape[-1] - clip_words.shape[-1]))
        return torch.cat([clip_words, words], dim=-2), torch.cat([one[0] for one in seen], dim=-1)

    @torch.no_grad()
    def __call__(self, sr_input: Image.Image, prompt: str, seed: int) -> Image.Image:
        """Repaint one RGB picture, whose sides the networks can take, steered by its prompt.

        Args:
            sr_input: the crop, enlarged.
            prompt: may be empty.
            seed: of the latent's noise, which is drawn on the CPU.
        """
        import numpy as np

        from osediff_sd3 import to_image

        device, dtype, config = self.placing.sr, self.placing.sr_dtype, self.vae.config
        x = torch.from_numpy(np.array(sr_input)).permute(2, 0, 1)[None].float() / 255 * 2 - 1
        drawn = self.vae.encode(x.to(device, dtype)).latent_dist
        z = drawn.sample(torch.Generator("cpu").manual_seed(seed)) * config.scaling_factor
        embeds, pooled = (one.to(device, dtype) for one in self.encode_prompt(prompt))
        self.scheduler.set_timesteps(1)
        velocity = self.transformer(
            hidden_states=z,
            timestep=self.scheduler.timesteps[:1].to(device),
            encoder_hidden_states=embeds,
            pooled_projections=pooled,
            return_dict=False,
        )[0]
        y = self.vae.decode((z - velocity) / config.scaling_factor + config.shift_factor, return_dict=False)
        return to_image(y[0][0].float().cpu())


class PublishedVlm:
    """Questions as published: one at a time, answered by transformers' own generate."""

    def __init__(
        self,
        files: "VlmFiles",
        device: str,
        dtype: torch.dtype,
        max_new_tokens: int,
        makes_room: PublishedSR | None = None,
    ) -> None:
        """Load the VLM.

        Args:
            files: checked; an adapter is merged.
            device: where it stays.
            dtype: the file's, as published.
            max_new_tokens: where an answer ends; 128 in the first published release, then 32.
            makes_room: whose parts go to the CPU for each question (``--efficient_memory``).
        """
        from prompts.vlm_loading import load_vlm, processor_of

        self.model, self.processor = load_vlm(files, torch.device(device), dtype), processor_of(files)
        self.max_new_tokens, self.makes_room = max_new_tokens, makes_room

    def __call__(self, pictures: Sequence[Image.Image]) -> str:
        """Return the answer to the question about one or two RGB pictures."""
        from prompts.answers import cleaned, fault_of
        from prompts.vlm_loading import generate

        if self.makes_room:
            self.makes_room.leave()
        ids = generate(self.model, self.processor([pictures]), self.max_new_tokens)
        if self.makes_room:
            self.makes_room.come_back()
        [answer] = self.processor.decode(ids)
        return "" if fault_of(answer) else cleaned(answer)


def zoom(
    picture: Image.Image,
    steps: int,
    sr: PublishedSR,
    prompt_of: Callable[[Sequence[Image.Image]], str],
    seeds: Iterable[int],
    two_pictures: bool = True,
) -> list[Image.Image]:
    """Take one picture through the chain as published, in memory.

    Args:
        picture: state 0, RGB, square, of a side that 16 divides.
        steps: number of states to make, each 4 times as deep as the last.
        sr: the SR pass.
        prompt_of: asks the VLM about the one or two pictures, or says what it says.
        seeds: one a step.
        two_pictures: ask about the last state and the SR input (``recursive_multiscale``), or that alone.

    Returns:
        The states, without state 0.
    """
    states = [picture]
    for _, seed in zip(range(steps), seeds, strict=False):
        width, height = states[-1].size
        left, top = (width - width // 4) // 2, (height - height // 4) // 2
        crop = states[-1].crop((left, top, left + width // 4, top + height // 4))
        sr_input = crop.resize((width, height), Image.Resampling.BICUBIC)
        prompt = prompt_of([states[-1], sr_input] if two_pictures else [sr_input])
        states.append(sr(sr_input, prompt, seed))
    return states[1:]


def add_sr_lora(transformer: torch.nn.Module, path: Path) -> None:
    """Put the SR LoRA beside the transformer's layers, unmerged."""
    from lora.sr_lora import sr_lora_layers

    factors = torch.load(path, map_location="cpu", weights_only=True)
    layers = sr_lora_layers(transformer)
    for (name, layer), up, down in zip(layers, factors[::2], factors[1::2], strict=True):
        transformer.set_submodule(name, WithLora(layer, down, up, 1))


def load_vae_encoder(vae: Any, path: Path) -> None:
    """Load the SR encoder's weights, its LoRA beside them, unmerged."""
    from lora.vae_encoder import A, B

    state = torch.load(path, map_location="cpu", weights_only=True)
    dtype = vae.dtype
    own = {name.replace(".base_layer.", "."): one for name, one in state.items() if ".lora_" not in name}
    vae.encoder.load_state_dict({name: one.to(dtype) for name, one in own.items()})
    for name in [name.removesuffix(A) for name in state if name.endswith(A)]:
        layer = vae.encoder.get_submodule(name)
        vae.encoder.set_submodule(name, WithLora(layer, state[name + A], state[name + B], VAE_SCALE))

"""SR backbone: one step of Stable Diffusion 3, steered by a prompt.

OSEDiff (arXiv 2406.08177) on SD3-medium, as Chain-of-Zoom's code (arXiv 2505.18600) runs it. For x in
[-1, 1], (B, 3, H, W)::

    z = vae.encode(x).latent_dist.sample() * scaling_factor      # the published code subtracts no shift here
    v = transformer(z, t = 1000, prompt embeddings, pooled)
    y = vae.decode((z - v) / scaling_factor + shift_factor)

No noise is added, no guidance, no negative prompt. The six parts (`sd3.spec`) are plain callables
that something else can stand in for; the residency decides which of them is where.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from checkpoints.folders import read_json
from checkpoints.gate import blaming, check_configuration
from errors import InputError, PictureError
from machine.machine import Machine
from machine.memory import Size
from sd3.checkpoint import SCHEDULER, SD3Checkpoint
from sd3.networks import Loader, Part
from sd3.resident import ResidentParts
from sd3.spec import vae_pixels
from sd3.text import Embedding, TextEncoders
from sd3.tiles import tiled_velocity
from zoom.protocols import StepInput
from zoom.settings import Tiles
from zoom.tiler import tile_grid

logger = logging.getLogger(__name__)

SMALLEST_SIDE = 64  # pixels: in less, the transformer has too few patches to make anything of
EMPTY = torch.empty(0)
T = TypeVar("T")
Result = Image.Image | PictureError | None  # None: the output is impossible


@dataclass
class _Picture:
    """One SR input on its way through the parts: what the next part needs, or why it goes no further."""

    sr_input: Image.Image
    prompts: Sequence[str]
    seed: int
    embeddings: Sequence[Embedding] = ()  # of the prompts
    latent: torch.Tensor = EMPTY  # (16, h, w), fp32, on the CPU
    error: PictureError | None = None

    def embedding(self, tile: int) -> Embedding:
        """Return what steers a tile: its own prompt's, or the only one's."""
        return self.embeddings[tile if len(self.embeddings) > 1 else 0]


class OSEDiffSD3:
    """SR backbone on SD3: repaints SR inputs in one pass of the transformer, large ones tile by tile.

    Inputs whose sides the networks cannot take are padded by reflection, to the right and below, and the
    results cut back.

    Attributes:
        text: its text encoders.
    """

    def __init__(
        self,
        checkpoint: SD3Checkpoint,
        machine: Machine,
        tiles: Tiles | None = None,
        stand_ins: Mapping[str, tuple[Loader, Size]] | None = None,
        xformers: bool = False,
        compiled: bool = False,
    ) -> None:
        """Check every tensor's name and shape and register the parts; nothing big is read yet.

        Args:
            checkpoint: checked.
            machine: whose devices, residency, precision and batches are used.
            tiles: sizes beyond which networks work tile by tile.
            stand_ins: loaders of callables that take the place of parts, and their sizes, by part name.
            xformers: use xformers' attention in the transformer where it can.
            compiled: compile the transformer's blocks at their first use.

        Raises:
            InputError: weights do not fit their config.json, tiles or the scheduler are not SD3's, or nothing
                can be compiled.
        """
        self.machine, self.tiles, self._checkpoint = machine, tiles or Tiles(), checkpoint
        self._xformers, self._compiled = xformers, compiled
        self._stand_ins = sorted(stand_ins or ())
        vae = checkpoint.vae_config
        self._scaling_factor, self._shift_factor = vae["scaling_factor"], vae["shift_factor"]
        self._latent_pixel = vae_pixels(vae)
        self._timestep = one_step(checkpoint.folder)
        self._parts = ResidentParts(checkpoint, machine, self.tiles, stand_ins or {}, xformers, compiled)
        self.text = TextEncoders(checkpoint, self._parts, machine)

    def describe(self) -> dict[str, object]:
        """Say what computes the pixels: files, precision, tiling. For run.json, and compared on resume."""
        dtypes = {part: str(dtype).removeprefix("torch.") for part, dtype in self._parts.dtypes.items()}
        return {
            "backbone": "sd3",
            **self._checkpoint.describe(),
            "dtypes": dtypes | dict.fromkeys(self._stand_ins, "int8"),
            "stand_ins": self._stand_ins,
            "xformers": self._xformers,
            "tiles": vars(self.tiles),
            **({"compiled": True} if self._compiled else {}),
        }

    def __call__(
        self, inputs: Sequence[StepInput], prompts: Sequence[Sequence[str]], seeds: Sequence[int]
    ) -> Iterator[Image.Image | PictureError]:
        """Repaint SR inputs, yielding results in order.

        Under ``--efficient_memory`` all inputs pass each part before the next part is placed; otherwise a
        batch passes them all.

        Args:
            inputs: ``sr_input`` is what is repainted, RGB; all of one size.
            prompts: of each input: one, or one for each of its `prompt_tiles`.
            seeds: one an input, of the noise with which its latent is drawn.

        Yields:
            RGB pictures of the inputs' size, or a PictureError in the place of one that failed.

        Raises:
            ValueError: an input has another number of prompts.
        """
        for one, own in zip(inputs, prompts, strict=True):
            tiles = len(self.prompt_tiles(one.sr_input.size))
            if len(own) not in (1, tiles):
                raise ValueError(f"{len(own)} prompts, and the picture takes 1 or {tiles}")
        group = len(inputs) if self.machine.efficient_memory else self.machine.batches.size
        pictures = [
            _Picture(one.sr_input, own, seed) for one, own, seed in zip(inputs, prompts, seeds, strict=True)
        ]
        for start in range(0, len(inputs), group or 1):
            for picture, result in self._repaint(pictures[start : start + group]):
                yield self._again_in_fp32(picture) if result is None else result

    def prompt_tiles(self, size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
        """Return the parts of an SR input that the transformer sees, one at a time: left, top, right, bottom.

        Args:
            size: width and height of the SR input, in pixels; its padding is no part of them.
        """
        pixels = self._latent_pixel
        width, height = (side // pixels for side in padded_size(size, self._checkpoint.side_multiple))
        grid = tile_grid(height, width, self.tiles.latent, self.tiles.latent_overlap)
        return [
            (left * pixels, top * pixels, min(right * pixels, size[0]), min(bottom * pixels, size[1]))
            for left, top, right, bottom in (tile.box for tile in grid)
        ]

    def _again_in_fp32(self, picture: _Picture) -> Image.Image | PictureError:
        """Compute one picture again, in fp32 arithmetic, whose output is not finite or constant."""
        if any(dtype != torch.float32 for dtype in self._parts.dtypes.values()):
            logger.warning("a picture came out constant or not finite: once more in fp32")
            again = _Picture(picture.sr_input, picture.prompts, picture.seed)
            ((_, result),) = self._repaint([again], exact=True)
            if result is not None:
                return result
        return PictureError("the SR network's output is constant or not finite, in fp32 too")

    def _repaint(self, pictures: list[_Picture], exact: bool = False) -> Iterator[tuple[_Picture, Result]]:
        """Pass pictures through every part, one part after the other; yield them with what came of them.

        ``exact``: arithmetic in fp32, whatever the dtype of the weights.
        """
        times = self.machine.times
        encoded = self.text([prompt for picture in pictures for prompt in picture.prompts], exact)
        for picture in pictures:
            own = [encoded[prompt] for prompt in picture.prompts]
            picture.embeddings = [one for one in own if not isinstance(one, PictureError)]
            picture.error = next((one for one in own if isinstance(one, PictureError)), None)

        def encode(batch: Sequence[_Picture]) -> list[torch.Tensor]:
            with times.stage("sr.prepare"):
                multiple = self._checkpoint.side_multiple
                x = torch.stack([_to_tensor(padded(picture.sr_input, multiple)) for picture in batch])
            with self._parts.use("vae_encoder", exact) as call, times.stage("sr.vae_encode.forward"):
                moments = call(x).float().cpu()
            return [
                sample_latent(one, picture.seed) * self._scaling_factor
                for picture, one in zip(batch, moments, strict=True)
            ]

        def denoise(batch: Sequence[_Picture]) -> list[torch.Tensor]:
            z = torch.stack([picture.latent for picture in batch])
            timestep = self._timestep.expand(len(z))
            with self._parts.use("transformer", exact) as call, times.stage("sr.transformer.forward"):
                device = call.device if isinstance(call, Part) else None

                def velocity(tile: torch.Tensor, number: int) -> torch.Tensor:
                    own = zip(*(picture.embedding(number) for picture in batch), strict=True)
                    return call(tile, timestep, *(stacked_on(device, tensors) for tensors in own))

                return list(z - tiled_velocity(velocity, z, self.tiles))  # sigma goes from 1 to 0 in one step

        def decode(batch: Sequence[_Picture]) -> list[Image.Image | None]:
            z = torch.stack([picture.latent for picture in batch])
            with self._parts.use("vae_decoder", exact) as call, times.stage("sr.vae_decode.forward"):
                made = call(z / self._scaling_factor + self._shift_factor).float()
                plausible = [_plausible(y) for y in made]  # waits until a GPU is done
            with times.stage("sr.finish"):  # at once: of a large picture, floats take four times as much
                return [
                    to_image(y[:, : picture.sr_input.height, : picture.sr_input.width]) if sound else None
                    for picture, y, sound in zip(batch, made, plausible, strict=True)
                ]

        def run(
            part: str, forward: Callable[[Sequence[_Picture]], list[T]]
        ) -> Iterator[tuple[_Picture, T | PictureError]]:
            sound = [picture for picture in pictures if picture.error is None]
            at_once = self._parts.at_once(part)
            results = self.machine.batches(part, sound, torch.no_grad()(forward), at_once)
            return zip(sound, results, strict=True)

        for part, forward in (("vae_encoder", encode), ("transformer", denoise)):
            for picture, result in run(part, forward):
                match result:
                    case PictureError():
                        picture.error = result
                    case _:
                        picture.latent = result
        decoded = run("vae_decoder", decode)
        for picture in pictures:
            yield (picture, picture.error) if picture.error else next(decoded)


def one_step(folder: Path) -> torch.Tensor:
    """Return the timestep of a one-step schedule, (1,): 1000 for SD3, where sigma goes from 1 to 0.

    Raises:
        InputError: the folder's scheduler is not SD3's.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    path = folder / SCHEDULER
    config = read_json(path)
    check_configuration(config, path)
    if config.get("_class_name") != FlowMatchEulerDiscreteScheduler.__name__:
        raise InputError(f"{path}: not the scheduler of SD3; use SD3's own")
    with blaming(path, "use SD3's own"):
        scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(path.parent, local_files_only=True)
        scheduler.set_timesteps(1)
    if scheduler.sigmas.tolist() != [1.0, 0.0]:
        raise InputError(f"{folder / 'scheduler'}: its one step is not from sigma 1 to 0; use SD3's own")
    return scheduler.timesteps[:1]


def padded_size(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Return the size, of sides that are multiples of one number, that networks see a picture in."""
    width, height = (-(-max(side, SMALLEST_SIDE) // multiple) * multiple for side in size)
    return width, height


def padded(picture: Image.Image, multiple: int) -> Image.Image:
    """Return an RGB picture in its `padded_size`: reflected to the right and below, again and again."""
    width, height = padded_size(picture.size, multiple)
    if (width, height) == picture.size:
        return picture
    missing = ((0, height - picture.height), (0, width - picture.width), (0, 0))
    return Image.fromarray(np.pad(np.asarray(picture), missing, mode="reflect"))


def _to_tensor(picture: Image.Image) -> torch.Tensor:
    """Return an RGB picture as (3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div_(255).mul_(2).sub_(1)


def sample_latent(moments: torch.Tensor, seed: int) -> torch.Tensor:
    """Draw a latent (16, h, w) from its moments (32, h, w); equal seeds draw equal noise on every device."""
    mean, log_variance = moments.chunk(2)
    generator = torch.Generator("cpu").manual_seed(seed)
    noise = torch.randn(mean.shape, generator=generator)
    return mean + torch.exp(0.5 * log_variance.clamp(-30, 20)) * noise  # diffusers' bounds


def stacked_on(device: torch.device | None, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack tensors on a device, each copied to it once: a CPU takes longer. None: where they are."""
    distinct = {id(tensor): tensor for tensor in tensors}
    placed = {key: tensor.to(device) for key, tensor in distinct.items()}
    return torch.stack([placed[id(tensor)] for tensor in tensors])


def _plausible(y: torch.Tensor) -> bool:
    lowest, highest = y.aminmax()  # NaN where there is one
    return bool(lowest.isfinite() and highest.isfinite() and lowest < highest)


def to_image(y: torch.Tensor) -> Image.Image:
    """Round (3, H, W) in [-1, 1], on any device, to 8 bits there: a quarter of the bytes comes to the CPU."""
    pixels = y.clamp(-1, 1).add_(1).div_(2).mul_(255).round_().to(torch.uint8)  # one copy in fp32
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())

"""SR backbone: the embedded default, which needs no checkpoint and runs on any CPU.

Real-ESRGAN x4plus takes a chain's first step and cleans the photograph; RealSR DF2K takes every later step,
where its input is clean. Alone over a whole chain, the first turns to plastic and the second magnifies the
source's noise.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from errors import PictureError
from machine.machine import Machine
from machine.memory import Size
from plain_sr.rrdbnet import (
    REALSR,
    SCALE,
    X4PLUS,
    RRDBNet,
    Weights,
    enlarge,
    place,
    read_file,
    read_network,
)
from zoom.protocols import StepInput

PARAMETERS = 16_697_987
WORKING = 300 * 2**20  # bytes that a forward pass from 128 to 512 pixels takes (benchmarks/embedded.py)


def weights_of_step(step: int) -> Weights:
    """Say which network takes step ``step`` (counted from 1) of a chain."""
    return X4PLUS if step == 1 else REALSR


class EmbeddedBackbone:
    """Enlarge crops with the trained networks; see `weights_of_step` for which takes which step."""

    def __init__(self, machine: Machine) -> None:
        """Check the packages and register both networks; nothing is loaded yet.

        Args:
            machine: whose SR device, residency, precision and batches are used.

        Raises:
            InputError: a package with weights is missing or damaged.
        """
        self.machine = machine
        self.device = machine.devices.sr
        self.dtype = machine.dtype(self.device)
        size = Size(PARAMETERS, PARAMETERS * self.dtype.itemsize, WORKING)
        for weights in (X4PLUS, REALSR):  # the second is needed late: better to know now
            read_file(weights)
            machine.residency.add(weights.component, self._loader(weights), self.device, size)

    def _loader(self, weights: Weights) -> Callable[[torch.device], RRDBNet]:
        return lambda device: place(read_network(weights), device, self.dtype)

    def __call__(
        self, inputs: Sequence[StepInput], prompts: Sequence[str], seeds: Sequence[int], step: int = 1
    ) -> Iterator[Image.Image | PictureError]:
        """Enlarge square RGB crops to the side of the SR inputs, yielding them in order.

        The networks enlarge 4x: smaller factors are resized down, factors above 4 and up to 8 take a
        second pass, larger ones are resized up. Prompts and seeds do not matter: the networks know
        neither words nor noise.

        Args:
            inputs: ``crop`` is what is enlarged.
            prompts, seeds: not looked at.
            step: the chain's step, counted from 1.

        Yields:
            RGB pictures, or a PictureError in a picture's place where the network's output is not finite, or
            where memory is too small for one picture.
        """
        if not inputs:
            return
        times, batches, side = self.machine.times, self.machine.batches, inputs[0].sr_input.width
        twice = SCALE < side / inputs[0].crop.width <= 2 * SCALE

        def first(batch: Sequence[StepInput]) -> list[Tensor]:
            with times.stage("sr.prepare"):
                x = torch.stack([to_tensor(one.crop) for one in batch])
            enlarged = self._forward(weights_of_step(step), x)
            if twice:
                # Only resized, a state would be soft, and a chain at --upscale 8 ends in plain blur. A second
                # pass that ends at the wanted side keeps material in it, for a quarter of what a whole
                # second 4x costs. Beyond 8x is --rec_type onestep, whose point is a single pass.
                goal = math.ceil(side / SCALE)
                enlarged = F.interpolate(enlarged, size=(goal, goal), mode="bicubic", antialias=True)
            return list(enlarged)

        def second(batch: Sequence[Tensor]) -> list[Tensor]:
            return list(self._forward(REALSR, torch.stack(list(batch))))

        results = batches("sr.embedded", inputs, first)
        if twice:  # all pictures pass the first network before the second is placed
            waiting = list(results)
            sound = batches("sr.embedded", [one for one in waiting if isinstance(one, Tensor)], second)
            results = (next(sound) if isinstance(one, Tensor) else one for one in waiting)
        for result in results:
            with times.stage("sr.finish"):
                picture = to_picture(result, side) if isinstance(result, Tensor) else result
            yield picture

    def _forward(self, weights: Weights, x: Tensor) -> Tensor:
        """Run a network over (B, 3, H, W) in [0, 1]; the result is fp32 on the CPU."""
        with (
            self.machine.residency.use(weights.component) as network,
            self.machine.times.stage("sr.embedded.forward"),
            torch.inference_mode(),
        ):
            return enlarge(network, x.to(self.device, self.dtype)).float().cpu()

    def describe(self) -> dict[str, object]:
        """Say what it is, for run.json."""
        return {
            "backbone": "embedded",
            "weights": [f"{weights.requirement} {weights.sha256}" for weights in (X4PLUS, REALSR)],
            "dtype": str(self.dtype).removeprefix("torch."),
        }


def to_tensor(picture: Image.Image) -> Tensor:
    """Turn an RGB picture into (3, H, W), fp32 in [0, 1]."""
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255).permute(2, 0, 1)


def to_picture(x: Tensor, side: int) -> Image.Image | PictureError:
    """Turn (3, H, W) in [0, 1] into an RGB picture, resized to ``side`` where it has another.

    BICUBIC is up to 0.5 dB closer to the truth than LANCZOS, which sharpens the network's own overshoot
    at edges (four photographs, factors 2 and 8, both networks).
    """
    if not x.isfinite().all():
        return PictureError("the SR network's output is not finite; --mixed_precision fp32 may help")
    pixels = (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    picture = Image.fromarray(pixels)
    return picture if picture.size == (side, side) else picture.resize((side, side), Image.Resampling.BICUBIC)

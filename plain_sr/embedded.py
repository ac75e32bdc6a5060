"""SR backbone: the embedded default, which needs no checkpoint and runs on any CPU.

Real-ESRGAN x4plus takes a chain's first step and cleans the photograph; RealSR DF2K takes every later step,
where its input is clean. Alone over a whole chain, the first turns to plastic and the second magnifies the
source's noise.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from errors import PictureError
from machine.machine import Machine
from machine.memory import Size
from plain_sr.enlarging import Network, enlarge
from plain_sr.rrdbnet import REALSR, SCALE, X4PLUS, RRDBNet, Weights, place, read_file, read_network
from zoom.protocols import StepInput

PARAMETERS = 16_697_987
WORKING = 300 * 2**20  # bytes that a forward pass from 128 to 512 pixels takes (benchmarks/embedded.py)


class EmbeddedBackbone:
    """Enlarge crops with the trained networks: x4plus what a camera saw, RealSR what a network made."""

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
        self._cleaning, self._keeping = (
            Network(SCALE, partial(self._forward, weights)) for weights in (X4PLUS, REALSR)
        )

    def _loader(self, weights: Weights) -> Callable[[torch.device], RRDBNet]:
        return lambda device: place(read_network(weights), device, self.dtype)

    def __call__(
        self, inputs: Sequence[StepInput], prompts: Sequence[Sequence[str]], seeds: Sequence[int]
    ) -> Iterator[Image.Image | PictureError]:
        """Enlarge RGB crops to the size of the SR inputs, as `plain_sr.enlarging.enlarge` does.

        Args:
            inputs: ``crop`` is what is enlarged.
            prompts, seeds: not looked at: the networks know neither words nor noise.
        """
        return enlarge(
            self.machine,
            "sr.embedded",
            inputs,
            lambda one: self._cleaning if one.first else self._keeping,
            second=self._keeping,
        )

    def prompt_tiles(self, size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
        """Return the one part that prompts could steer, were there any: all of it."""
        return [(0, 0, *size)]

    def _forward(self, weights: Weights, x: Tensor) -> Tensor:
        """Run a network over (B, 3, H, W) in [0, 1]; the result is fp32 on the CPU."""
        with (
            self.machine.residency.use(weights.component) as network,
            self.machine.times.stage("sr.embedded.forward"),
            torch.inference_mode(),
        ):
            return network(x.to(self.device, self.dtype)).float().cpu()

    def describe(self) -> dict[str, object]:
        """Say what it is, for run.json."""
        return {
            "backbone": "embedded",
            "weights": [f"{weights.requirement} {weights.sha256}" for weights in (X4PLUS, REALSR)],
            "dtype": str(self.dtype).removeprefix("torch."),
        }

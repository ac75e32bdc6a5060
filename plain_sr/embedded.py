"""SR backbone: the embedded default, which needs no checkpoint and runs on any CPU.

Real-ESRGAN x4plus takes a chain's first step and cleans the photograph; RealSR DF2K takes every later step,
where its input is clean. Alone over a whole chain, the first turns to plastic and the second magnifies the
source's noise.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from machine.machine import Machine
from machine.memory import Size
from plain_sr.enlarging import TILE, Network
from plain_sr.plain_backbone import PlainBackbone
from plain_sr.rrdbnet import REALSR, SCALE, X4PLUS, RRDBNet, Weights, place, read_file, read_network
from zoom.protocols import StepInput

PARAMETERS = 16_697_987
WORKING = 300 * 2**20  # bytes that a forward pass from 128 to 512 pixels takes (benchmarks/embedded.py)


class EmbeddedBackbone(PlainBackbone):
    """Enlarge crops with the trained networks: x4plus what a camera saw, RealSR what a network made."""

    component = "sr.embedded"

    def __init__(self, machine: Machine) -> None:
        """Check the packages and register both networks; nothing is loaded yet.

        Args:
            machine: whose SR device, residency, precision and batches are used.

        Raises:
            InputError: a package with weights is missing or damaged.
        """
        self.machine = machine
        self.device = machine.devices.sr
        # both files hold fp16, and no feature of theirs comes near its range (largest seen: 22, and 65,504
        # is its end)
        self.dtype = machine.dtype(self.device, keeps_fp16=True)
        size = Size(PARAMETERS, PARAMETERS * self.dtype.itemsize, WORKING, TILE * SCALE)
        for weights in (X4PLUS, REALSR):  # the second is needed late: better to know now
            read_file(weights)
            machine.residency.add(weights.component, self._loader(weights), self.device, size)
        self._cleaning, self.network = (
            Network(SCALE, partial(self._forward, weights)) for weights in (X4PLUS, REALSR)
        )

    def _loader(self, weights: Weights) -> Callable[[torch.device], RRDBNet]:
        return lambda device: place(read_network(weights), device, self.dtype)

    def network_of(self, one: StepInput) -> Network:
        """Return x4plus for what a camera saw, RealSR for what a network made."""
        return self._cleaning if one.first else self.network

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

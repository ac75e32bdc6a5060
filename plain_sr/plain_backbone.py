"""What every SR backbone has in common whose networks only enlarge: they take neither words nor noise."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from PIL.Image import Image

from errors import PictureError
from machine.machine import Machine
from zoom.protocols import Box, StepInput

if TYPE_CHECKING:
    from plain_sr.enlarging import Network


class PlainBackbone:
    """Enlarge crops with a network.

    Attributes:
        component: its name, in messages and in the residency.
        machine: whose SR device, residency and batches are used.
        network: what enlarges, and takes second passes.
    """

    component: str
    machine: Machine
    network: "Network"

    def network_of(self, one: StepInput) -> "Network":
        """Return the network that takes the first pass of an input."""
        return self.network

    def __call__(
        self, inputs: Sequence[StepInput], prompts: Sequence[Sequence[str]], seeds: Sequence[int]
    ) -> Iterator[Image | PictureError]:
        """Enlarge RGB crops to the size of the SR inputs, as `plain_sr.enlarging.enlarge` does.

        Args:
            inputs: ``crop`` is what is enlarged; ``sr_input`` is what a network of scale 1 repaints.
            prompts, seeds: not looked at: the networks know neither words nor noise.
        """
        from plain_sr.enlarging import enlarge

        return enlarge(self.machine, self.component, inputs, self.network_of, self.network)

    def prompt_tiles(self, size: tuple[int, int]) -> list[Box]:
        """Return the one part that prompts could steer, were there any: all of it."""
        return [(0, 0, *size)]

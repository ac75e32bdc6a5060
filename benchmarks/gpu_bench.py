"""Where `gpu.py` measures, how long things take there, and how much memory."""

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from random_models import Sizes

from errors import InputError, PictureError
from machine.machine import Machine
from zoom.protocols import StepInput

if TYPE_CHECKING:
    import torch

    from osediff_sd3 import OSEDiffSD3
    from plain_sr.embedded import EmbeddedBackbone
    from zoom.protocols import PromptExtractor

LEAST_SECONDS, MOST_RUNS = 1.0, 7  # of a measurement on a GPU


@dataclass
class Bench:
    """Where and how large.

    Attributes:
        device: that computes.
        sizes: of the networks.
        files: folder for checkpoints whose loading is timed; None where it is not.
    """

    device: "torch.device"
    sizes: Sizes
    files: Path | None

    def __post_init__(self) -> None:
        self.numbers = itertools.count()

    @property
    def on_gpu(self) -> bool:
        """Whether there is a device with a memory of its own."""
        return self.device.type == "cuda"

    @property
    def new_tokens(self) -> int:
        """Length of each of the VLM's answers."""
        return 32 if self.sizes.name == "true" else 4

    @property
    def batches(self) -> Sequence[int]:
        """Pictures a forward pass."""
        return (1, 2, 4, 8, 16) if self.sizes.name == "true" else (1, 2)

    @property
    def precisions(self) -> Sequence[str]:
        """What ``--mixed_precision`` is tried with."""
        return ("auto", "bf16") if self.on_gpu else ("auto",)

    def machine(self, precision: str = "auto", batch: int = 1, efficient_memory: bool = False) -> Machine:
        """Return a machine on the device."""
        return Machine.choose(str(self.device), precision, efficient_memory, batch)

    def inputs(self, count: int, side: int | None = None) -> list[StepInput]:
        """Return SR inputs of ``side`` pixels, each of its own noise."""
        import numpy as np
        from PIL import Image

        side = side or self.sizes.side
        generator = np.random.default_rng(0)
        crops = (generator.integers(0, 255, (side // 4, side // 4, 3), np.uint8) for _ in range(count))
        pictures = [Image.fromarray(crop) for crop in crops]
        return [StepInput(one, one.resize((side, side), Image.Resampling.BICUBIC)) for one in pictures]

    def step(
        self,
        network: "OSEDiffSD3 | EmbeddedBackbone",
        inputs: Sequence[StepInput],
        extractor: "PromptExtractor | None" = None,
    ) -> None:
        """Run one step of some pictures; prompts that an extractor makes are never those of before.

        Raises:
            InputError: the batch does not fit.
        """
        prompts = [[""]] * len(inputs)
        if extractor is not None:
            said = [getattr(one, "text", "") for one in extractor(inputs)]
            prompts = [[f"{text} {next(self.numbers)}"] for text in said]
        for result in network(inputs, prompts, range(len(inputs))):
            if isinstance(result, PictureError):
                raise InputError(str(result))
        if network.machine.batches._smaller:
            raise InputError("does not fit: batches were halved")

    def seconds(self, call: Callable[[], object]) -> float:
        """Return the median of the seconds that a call takes, after a first one; on a CPU, of that one."""
        if self.on_gpu:
            call()
            self.wait()
        taken: list[float] = []
        while not taken or (self.on_gpu and sum(taken) < LEAST_SECONDS and len(taken) < MOST_RUNS):
            start = time.perf_counter()
            call()
            self.wait()
            taken.append(time.perf_counter() - start)
        return statistics.median(taken)

    def wait(self) -> None:
        """Wait until the device has done all that it was given."""
        import torch

        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def measured(self, call: Callable[[], object], pictures: int) -> dict[str, Any]:
        """Return seconds a picture and, of a GPU, the most memory that was taken; or why neither is known."""
        import torch

        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        try:
            found: dict[str, Any] = {"seconds": self.seconds(call) / pictures}
        except InputError as error:
            return {"refused": str(error)}
        if self.on_gpu:
            found["peak"] = torch.cuda.max_memory_reserved(self.device)
        return found

    def free(self) -> None:
        """Give back what dropped models have left behind."""
        from machine.memory import return_memory

        if self.on_gpu:
            return_memory()

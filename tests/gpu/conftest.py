"""What the tests of devices share: each runs on the CPU always, and on the GPU with ``pytest -m gpu``."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from on_devices import GPU, skip_without_gpus
from PIL import Image

from zoom.protocols import StepInput
from zoom.states import enlarge


@pytest.fixture(params=["cpu", GPU])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """A device to compute on, TF32 off; what a test has changed of the GPU is put back."""
    device = torch.device(request.param)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    if device.type == "cuda":
        skip_without_gpus()
    yield device
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        torch.cuda.empty_cache()


@pytest.fixture(scope="session")
def inputs() -> list[StepInput]:
    """Four SR inputs of 64 pixels."""
    generator = np.random.default_rng(0)
    crops = [Image.fromarray(generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)) for _ in range(4)]
    return [StepInput(crop, enlarge(crop, (64, 64))) for crop in crops]

"""What the tests of devices share: a GPU or the reason why there is none, and one step of the tiny SD3."""

from typing import Any

import numpy as np
import pytest
import torch
from conftest import PARITY

from machine.machine import Machine
from osediff_sd3 import OSEDiffSD3
from sd3.checkpoint import check_sd3
from zoom.protocols import StepInput

GPU = pytest.param("cuda:0", marks=pytest.mark.gpu)
LORA, VAE = PARITY / "SR_LoRA" / "model_20001.pkl", PARITY / "SR_VAE" / "vae_encoder_20001.pt"


def skip_without_gpus(count: int = 1) -> None:
    """Skip a test that needs more GPUs than there are, and say so."""
    found = torch.cuda.device_count()
    if found < count:
        pytest.skip(f"needs {count} CUDA device{'s' * (count > 1)}; PyTorch {torch.__version__} sees {found}")


def tiny_sd3(device: object, precision: str = "fp32", **machine: Any) -> OSEDiffSD3:
    """Make the tiny SD3 on a device; in fp32, where nothing else is said."""
    if str(device) != "cpu":
        skip_without_gpus()
    checkpoint = check_sd3(str(PARITY / "sd3"), LORA, VAE)
    return OSEDiffSD3(checkpoint, Machine.choose(str(device), precision, **machine))


def repaint(network: OSEDiffSD3, inputs: list[StepInput]) -> np.ndarray:
    """Return the pictures of one step, (N, H, W, 3), as whole numbers."""
    prompts = [["a cat"], ["fur"], ["a cat"], [""]][: len(inputs)]
    made = list(network(inputs, prompts, [11, 22, 33, 44][: len(inputs)]))
    return np.stack([np.asarray(picture, int) for picture in made])

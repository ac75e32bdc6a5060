"""The tiny SD3's six parts, quantized once for all tests of a run."""

import os
from pathlib import Path

import pytest
from conftest import PARITY
from filelock import FileLock

LORA = PARITY / "SR_LoRA" / "model_20001.pkl"
VAE = PARITY / "SR_VAE" / "vae_encoder_20001.pt"
MODEL = PARITY / "sd3"
RUN = PARITY / "expected" / "4_recursive_multiscale_nofix"
FROM = (
    "--pretrained_model_name_or_path", MODEL, "--lora_path", LORA, "--vae_path", VAE,
    "--calibration_data", RUN, "--device_for_quant_script", "cpu",
)  # fmt: skip


def quantized_parts(factory: pytest.TempPathFactory) -> Path:
    """Return the folder of all six parts; the first test worker to ask makes them."""
    import quantize_model

    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with FileLock(folder / "quantized.lock"):
        if not (folder / "quantized").is_dir():
            making = folder / "quantized.making"
            arguments = ["--model_component", "all", "--output_dir", making, "-q", *FROM]
            assert quantize_model.main([str(argument) for argument in arguments]) == 0
            making.rename(folder / "quantized")
    return folder / "quantized"

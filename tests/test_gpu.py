"""What only a CUDA device shows: ``pytest -m gpu``."""

import numpy as np
import pytest
from conftest import PARITY
from PIL import Image

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def cuda():
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")


def test_the_embedded_network_gives_the_cpus_pixels_to_one_level_in_fp32(command, tmp_path):
    arguments = ("-i", PARITY / "input" / "scene.png", "--process_size", 64, "--rec_num", 2)
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        done = command(
            "inference_coz", *arguments, "-o", out, "--device", device, "--mixed_precision", "fp32"
        )
        assert done.code == 0, done.err
    cpu, cuda = (
        np.asarray(Image.open(tmp_path / device / "per-sample/scene/1.png"), int)
        for device in ("cpu", "cuda")
    )
    assert np.abs(cpu - cuda).max() <= 1

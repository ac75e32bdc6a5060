"""Where onnxruntime computes: on the CUDA device where it has its provider, else on the CPU."""

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


def providers_of(device: "torch.device") -> list[Any]:
    """Return the providers that a session on a device asks for; where CUDA's is not there, one warning."""
    import onnxruntime

    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda":
        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            if hasattr(onnxruntime, "preload_dlls"):  # finds the CUDA libraries that torch brings
                onnxruntime.preload_dlls()
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
        else:
            logger.warning("onnxruntime has no CUDA provider here (requirements-gpu.txt): CPU")
    return providers

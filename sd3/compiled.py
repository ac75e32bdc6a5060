"""SD3's transformer with its blocks compiled. They are alike, so that what is compiled for one runs all.

Each shape, which is to say each batch size, is compiled by itself: were one kernel made for several, which of
them computes a picture would depend on what was computed before it, and so would its rounding.
"""

import importlib.util
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from errors import InputError
from machine.memory import out_of_memory

BACKEND = "inductor"
MOST = 64  # kernels of a block: two a shape, as the last block is another; beyond, blocks run uncompiled
OLDEST = 7, 0  # compute capability of the GPUs that Triton knows


def refuse_what_cannot_be_compiled(device: torch.device, stand_ins: Collection[str]) -> None:
    """Refuse ``--compile`` where it could not work, or would gain nothing.

    Args:
        device: of the transformer.
        stand_ins: names of the parts that something stands in for.

    Raises:
        InputError: says why, and the way out.
    """
    reason = ""
    if "transformer" in stand_ins:
        reason = "the transformer is an int8 ONNX part, which PyTorch does not compile"
    elif device.type != "cuda":
        reason = f"only for CUDA devices, and SD3's transformer is on {device}"
    elif torch.cuda.get_device_capability(device) < OLDEST:
        reason = f"{torch.cuda.get_device_name(device)} is too old for it"
    elif importlib.util.find_spec("triton") is None:
        reason = "wants the package triton, which is not installed"
    if reason:
        raise InputError(f"--compile: {reason}; leave it out")


def compile_blocks(transformer: Any) -> None:
    """Have the blocks of an `SD3Transformer2DModel` compiled, in place, when they are first used."""
    for block in transformer.transformer_blocks:
        block.compile(backend=BACKEND, dynamic=False, recompile_limit=MOST)


@contextmanager
def running_compiled(exact: bool) -> Iterator[None]:
    """Run a transformer with compiled blocks within a with block.

    Args:
        exact: weights are cast while the blocks run (`machine.upcast`): they run uncompiled.

    Raises:
        InputError: PyTorch cannot compile them.
    """
    from torch._dynamo.exc import TorchDynamoException

    with torch.compiler.set_stance("force_eager" if exact else "default"):
        try:
            yield
        except TorchDynamoException as error:
            if out_of_memory(error):
                raise
            cause = getattr(error, "inner_exception", None) or error
            reason = " ".join(f"{type(cause).__name__}: {cause}".split())[:150]
            raise InputError(f"--compile: PyTorch cannot compile here ({reason}); leave it out") from None

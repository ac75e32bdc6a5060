"""Arithmetic in a wider dtype than the weights are stored in, a block or a layer at a time.

diffusers' layerwise casting does the like, but casts the weights for storage itself, and so loses the memory
map that leaves them in the file.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Stored = list[tuple["torch.Tensor", "torch.Tensor"]]  # a tensor of a module, and its data as it is stored


def upcast_by_block(module: "torch.nn.Module", dtype: "torch.dtype") -> Callable[[], None]:
    """Make a module compute in ``dtype`` while its weights stay as they are stored.

    Each block (an element of an outermost `ModuleList`) is cast before it runs and put back after; weights
    outside the blocks are cast at once. A checkpoint in 16 bits so computes in fp32, with the numbers that
    loading it in fp32 gives, in little more than its own size; weights that are memory-mapped stay so.

    Returns:
        A function that undoes it.
    """
    import torch

    blocks: list[torch.nn.Module] = []
    rest: list[torch.Tensor] = []

    def visit(part: torch.nn.Module) -> None:
        if isinstance(part, torch.nn.ModuleList):
            blocks.extend(part)
            return
        rest.extend([*part.parameters(recurse=False), *part.buffers(recurse=False)])
        for child in part.children():
            visit(child)

    visit(module)
    outside = _cast(rest, dtype)
    detachers = [upcast_in_its_turn(block, dtype) for block in blocks]

    def undo() -> None:
        for detach in detachers:
            detach()
        _restore(outside)

    return undo


def bytes_of_upcast(numbers: Mapping[str, int], stored: "torch.dtype", dtype: "torch.dtype") -> int:
    """Return what `upcast_by_block` takes beside the weights: all outside the blocks, and the largest block.

    Args:
        numbers: of weights in each tensor, by its name in the module or its file.
        stored: dtype of the weights.
        dtype: of the arithmetic.
    """
    outside = 0
    blocks: dict[str, int] = defaultdict(int)
    for name, number in numbers.items():
        block = re.match(r"(.*?\.\d+)\.", name)  # as in model.layers.3.mlp.up_proj.weight
        if block:
            blocks[block[1]] += number
        else:
            outside += number
    return outside * (dtype.itemsize - stored.itemsize) + max(blocks.values(), default=0) * dtype.itemsize


def upcast_in_its_turn(module: "torch.nn.Module", dtype: "torch.dtype") -> Callable[[], None]:
    """Cast a module's weights, and what it is called with, before it runs; put the weights back after.

    Returns:
        A function that undoes it.
    """
    import torch

    stored: Stored = []

    def before(module: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        stored.extend(_cast([*module.parameters(), *module.buffers()], dtype))
        return tuple(
            arg.to(dtype) if isinstance(arg, torch.Tensor) and arg.is_floating_point() else arg
            for arg in args
        )

    def after(*_: object) -> None:
        _restore(stored)

    handles = [
        module.register_forward_pre_hook(before),
        module.register_forward_hook(after, always_call=True),
    ]

    def detach() -> None:
        for handle in handles:
            handle.remove()

    return detach


def _cast(tensors: "Iterable[torch.Tensor]", dtype: "torch.dtype") -> Stored:
    stored = [(tensor, tensor.data) for tensor in tensors if tensor.is_floating_point()]
    for tensor, data in stored:
        tensor.data = data.to(dtype)
    return stored


def _restore(stored: Stored) -> None:
    while stored:
        tensor, data = stored.pop()
        tensor.data = data

"""Arithmetic in a wider dtype than the weights are stored in, a block at a time.

diffusers' layerwise casting does the like, but casts the weights for storage itself, and so loses the memory
map that leaves them in the file.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


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

    def cast(tensors: Iterable[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        stored = [(tensor, tensor.data) for tensor in tensors if tensor.is_floating_point()]
        for tensor, data in stored:
            tensor.data = data.to(dtype)
        return stored

    def restore(stored: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        while stored:
            tensor, data = stored.pop()
            tensor.data = data

    def attach(block: torch.nn.Module) -> Callable[[], None]:
        stored: list[tuple[torch.Tensor, torch.Tensor]] = []

        def before(*_: object) -> None:
            stored.extend(cast([*block.parameters(), *block.buffers()]))

        def after(*_: object) -> None:
            restore(stored)

        handles = [
            block.register_forward_pre_hook(before),
            block.register_forward_hook(after, always_call=True),
        ]

        def detach() -> None:
            for handle in handles:
                handle.remove()

        return detach

    visit(module)
    outside = cast(rest)
    detachers = [attach(block) for block in blocks]

    def undo() -> None:
        for detach in detachers:
            detach()
        restore(outside)

    return undo

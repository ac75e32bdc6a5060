"""A network's weights in CPU memory, for one that comes to a device and leaves it again and again.

Weights never change: once there is a copy, leaving a device moves nothing. Where the system gives it, the
copy is in pinned memory, from which a GPU reads at the full speed of its bus.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

BLOCK = 2**28  # bytes that are pinned at once: PyTorch rounds what it pins up to a power of two
ALIGNMENT = 256  # bytes: where in a block a tensor may begin


class HostCopy:
    """The weights of a module that is on a device, in CPU memory too.

    The module keeps its parameters and buffers; only their data are here or there.
    """

    def __init__(self, module: "torch.nn.Module") -> None:
        """Copy a module's weights; it stays where it is."""
        self._tensors = [*module.parameters(), *module.buffers()]  # each once, also where modules share one
        self._kept = in_cpu_memory(self._tensors)

    def leave(self) -> None:
        """Free the module's memory on its device."""
        for tensor, kept in zip(self._tensors, self._kept, strict=True):
            tensor.data = kept

    def come(self, device: "torch.device") -> None:
        """Bring the module back to a device; where that has no room for all of it, it stays away."""
        for tensor, placed in zip(self._tensors, on_device(self._kept, device), strict=True):
            tensor.data = placed


def on_device(tensors: Sequence["torch.Tensor"], device: "torch.device") -> list["torch.Tensor"]:
    """Copy tensors from CPU memory to a CUDA device, and wait until they are there."""
    import torch

    placed = [tensor.to(device, non_blocking=True) for tensor in tensors]
    torch.cuda.synchronize(device)  # else the seconds would count as the network's own
    return placed


def in_cpu_memory(tensors: Sequence["torch.Tensor"]) -> list["torch.Tensor"]:
    """Copy tensors to CPU memory, pinned as far as the system gives it.

    PyTorch rounds each piece of memory that it pins up to a power of two, which for T5's weights, one by one,
    is 1.4 times what they take. So they share blocks; what is larger than a block is not pinned.
    """
    import torch

    filled: list[int] = []
    places: dict[int, tuple[int, int]] = {}
    for number in sorted(range(len(tensors)), key=lambda number: tensors[number].nbytes, reverse=True):
        taken = -(-tensors[number].nbytes // ALIGNMENT) * ALIGNMENT
        if taken > BLOCK or not tensors[number].is_contiguous():
            continue
        block = next((block for block, bytes_ in enumerate(filled) if bytes_ + taken <= BLOCK), len(filled))
        if block == len(filled):
            filled.append(0)
        places[number] = block, filled[block]
        filled[block] += taken
    blocks = [_pinned(bytes_) for bytes_ in filled]
    copies = []
    for number, tensor in enumerate(tensors):
        block, start = places.get(number, (-1, 0))
        memory = blocks[block] if number in places else None
        if memory is None:
            room = torch.empty_like(tensor, device="cpu", requires_grad=False)
        else:
            room = memory[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        copies.append(room.copy_(tensor.detach()))
    return copies


def _pinned(size: int) -> "torch.Tensor | None":
    """Return so many bytes of pinned memory; None where the system gives none (any more)."""
    import torch

    try:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)
    except RuntimeError:
        return None

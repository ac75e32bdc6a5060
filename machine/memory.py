"""What a run takes of each device's memory, computed beforehand; and how to tell that memory is full."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

HOST_RESERVE = 4 * 2**30  # bytes of CPU memory that parked models leave to everything else
# What forward passes take beside the weights. A picture: the VAE decoder, the largest, takes 1.0 GiB for
# 512x512 in fp32 (measured on a CPU). Fixed: CUDA's own context and libraries.
PICTURE_WORKING = 2**30
FIXED_WORKING = 2**29


@dataclass(frozen=True)
class Size:
    """How large a component is.

    Attributes:
        parameters: number of weights; 0 where nobody counted them.
        bytes: that they take where the component computes.
        working: bytes that a forward pass takes beside them for each picture of 512x512.
    """

    parameters: int
    bytes: int
    working: int = PICTURE_WORKING


@dataclass(frozen=True)
class PlanRow:
    """One line of the plan that ``--dry_run`` prints.

    Attributes:
        component: its name.
        size: None where nobody knows it before loading.
        device: where it computes.
        moves: when it comes and goes, in words.
    """

    component: str
    size: Size | None
    device: str
    moves: str


@dataclass(frozen=True)
class MemoryPlan:
    """Where everything is, and what that takes.

    Attributes:
        rows: one for each component.
        peaks: estimated bytes by device: the weights that are there together, and working memory.
        waiting: bytes of CPU memory that components take while they wait, where there is room.
    """

    rows: list[PlanRow]
    peaks: dict[str, int]
    waiting: int

    def __str__(self) -> str:
        """Return the plan as lines of text, sizes in GB (10^9 bytes)."""
        lines = []
        for row in self.rows:
            count = f"{row.size.parameters / 1e6:,.0f} M" if row.size and row.size.parameters else ""
            taken = f"{row.size.bytes / 1e9:.2f} GB" if row.size else "?"
            lines.append(f"{row.component:<12} {count:>10}  {taken:>9}  {row.device:<7} {row.moves}")
        lines += [f"peak of {device}: about {peak / 1e9:.1f} GB" for device, peak in self.peaks.items()]
        if self.waiting:
            lines.append(f"waiting in CPU memory, where there is room: up to {self.waiting / 1e9:.1f} GB")
        return "\n".join(lines)


def plan_memory(
    components: Mapping[str, tuple[Size | None, str]],
    efficient_memory: bool,
    batch_size: int = 1,
    side: int = 512,
) -> MemoryPlan:
    """Compute what a run takes on each device.

    Args:
        components: size and device of each by name.
        efficient_memory: one component at a time on each device.
        batch_size: pictures a forward pass.
        side: of the pictures, in pixels.
    """
    rows = []
    for name, (size, device) in components.items():
        if not efficient_memory:
            moves = "loaded at first use, stays"
        elif device.startswith("cuda"):
            moves = "on the device once a scale, else in CPU memory or on disk"
        else:
            moves = "read once a scale, dropped after"
        rows.append(PlanRow(name, size, device, moves))
    combine = max if efficient_memory else sum
    peaks = {}
    for device in dict.fromkeys(row.device for row in rows if row.size):
        sizes = [row.size for row in rows if row.device == device and row.size]
        working = int(max(size.working for size in sizes) * batch_size * (side / 512) ** 2)
        peaks[device] = combine(size.bytes for size in sizes) + FIXED_WORKING + working
    parked = [row.size.bytes for row in rows if row.size and row.device.startswith("cuda")]
    waiting = sum(parked) - min(parked) if efficient_memory and parked else 0
    return MemoryPlan(rows, peaks, waiting)


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception says that a device has no memory left: each backend has its own way."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    phrases = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory", "Failed to allocate")
    return isinstance(error, Exception) and any(phrase in str(error) for phrase in phrases)


def fits_host(module: Any) -> bool:
    """Whether a module can wait in CPU memory and leave `HOST_RESERVE` free there."""
    import psutil
    import torch

    if not isinstance(module, torch.nn.Module):
        return False
    needed = sum(tensor.nbytes for tensor in [*module.parameters(), *module.buffers()])
    return needed + HOST_RESERVE < psutil.virtual_memory().available


def return_memory() -> None:
    """Give freed memory back: modules hold reference cycles, and CUDA keeps what was freed."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()

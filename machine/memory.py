"""What a run takes of each device's memory, computed beforehand; and how to tell that memory is full."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HOST_RESERVE = 4 * 2**30  # bytes of CPU memory that parked models leave to everything else
# What forward passes take beside the weights. A picture: the VAE decoder, the largest, takes 1.0 GiB for
# 512x512 in fp32 (measured on a CPU). Fixed: CUDA's own context and libraries.
PICTURE_WORKING = 2**30
FIXED_WORKING = 2**29
NO_PICTURE = 512  # `Size.largest` of a network that sees none
LARGEST_TILE = 1024  # pixels a side that a network makes at once, where it does not say otherwise


@dataclass(frozen=True)
class Size:
    """How large a component is.

    Attributes:
        parameters: number of weights; 0 where nobody counted them.
        bytes: that they take where the component computes.
        working: bytes that a forward pass takes beside them for each picture of 512x512.
        largest: side in pixels of the largest picture that it makes at once; larger ones come tile by tile.
    """

    parameters: int
    bytes: int
    working: int = PICTURE_WORKING
    largest: int = LARGEST_TILE

    def working_at(self, batch_size: int, side: float) -> int:
        """Return the bytes that a forward pass takes over pictures of ``side`` pixels."""
        return int(self.working * batch_size * (min(side, self.largest) / 512) ** 2)


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
        peaks: estimated bytes by device: the weights that are there together, working memory, and on ``cpu``
            the pictures at work.
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
    side: float = 512,
    pictures: int = 0,
) -> MemoryPlan:
    """Compute what a run takes on each device.

    Args:
        components: size and device of each by name.
        efficient_memory: one component at a time on each device.
        batch_size: pictures a forward pass.
        side: of the pictures, in pixels; infinite where only tiles bound it.
        pictures: bytes that the pictures at work take in CPU memory.
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
    peaks = {}
    for device in dict.fromkeys(row.device for row in rows if row.size):
        sizes = [row.size for row in rows if row.device == device and row.size]
        taken = [(size.bytes, size.working_at(batch_size, side)) for size in sizes]
        if efficient_memory:
            peak = max(map(sum, taken))
        else:
            peak = sum(weights for weights, _ in taken) + max(working for _, working in taken)
        peaks[device] = peak + FIXED_WORKING
    if pictures:
        peaks["cpu"] = peaks.get("cpu", FIXED_WORKING) + pictures
    parked = [row.size.bytes for row in rows if row.size and row.device.startswith("cuda")]
    waiting = sum(parked) - min(parked) if efficient_memory and parked else 0
    return MemoryPlan(rows, peaks, waiting)


@dataclass(frozen=True)
class Room:
    """A device's memory in bytes: all that a program can have, and what is free of it now."""

    total: int
    free: int


def room_on(device: str) -> Room:
    """Return the memory of a device; an Apple GPU has the CPU's.

    What the CPU has includes swap, and is bounded by what a container or a batch system allows.
    """
    import psutil

    if device.startswith("cuda"):
        import torch

        free, total = torch.cuda.mem_get_info(torch.device(device))
        return Room(total, free)
    memory = psutil.virtual_memory()
    allowed = min(_allowed(), memory.total)
    return Room(allowed + psutil.swap_memory().total, min(allowed, memory.available))


def _allowed(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Return the bytes of memory that control groups leave to this process; infinite without any (Linux)."""
    limits = [float("inf")]
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return limits[0]
    for line in lines:
        _, kind, place = [*line.split(":", 2), "", ""][:3]
        if kind not in ("", "memory"):
            continue
        top = cgroups / kind
        inner = top / place.strip("/")
        for folder in (inner, *inner.parents):
            if not folder.is_relative_to(top):
                break
            limits += _limit(folder / ("memory.limit_in_bytes" if kind else "memory.max"))
    return min(limits)


def _limit(file: Path) -> Iterator[int]:
    """Yield the number in a file, where there is one: without a limit it says ``max``."""
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return
    if text.isascii() and text.isdecimal():
        yield int(text)


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

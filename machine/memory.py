"""What a run takes of each device's memory, computed beforehand; and how to tell that memory is full."""

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from machine.heap import give_back_freed_memory

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
        at_once: pictures that it makes at once, however large a batch is; None: a batch.
    """

    parameters: int
    bytes: int
    working: int = PICTURE_WORKING
    largest: int = LARGEST_TILE
    at_once: int | None = None

    def working_at(self, batch_size: int, side: float) -> int:
        """Return the bytes that a forward pass takes over pictures of ``side`` pixels."""
        pictures = min(batch_size, self.at_once or batch_size)
        return int(self.working * pictures * (min(side, self.largest) / 512) ** 2)


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
        waiting: bytes of CPU memory that copies of components which come and go take, where there is room.
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
            lines.append(f"copies in CPU memory, where there is room: up to {self.waiting / 1e9:.1f} GB")
        return "\n".join(lines)

    @property
    def taken(self) -> dict[str, int]:
        """What `peaks` take of each memory: an Apple GPU has the CPU's, and there the two are one sum."""
        taken = dict(self.peaks)
        if "mps" in taken:
            taken["mps"] += taken.pop("cpu", 0)
        return taken


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
    # the copies stay while their component is on the device; where there is but one, it never leaves
    waiting = sum(parked) if efficient_memory and len(parked) > 1 else 0
    return MemoryPlan(rows, peaks, waiting)


@dataclass(frozen=True)
class Room:
    """A device's memory in bytes: all that a program can have, and what is free of it now."""

    total: int
    free: int


def room_on(device: str) -> Room:
    """Return the memory of a device; an Apple GPU has the CPU's.

    What the CPU has includes swap, and is bounded by what a container or a batch system allows; what is free
    does not.
    """
    import psutil

    if device.startswith("cuda"):
        import torch

        free, total = torch.cuda.mem_get_info(torch.device(device))
        return Room(total, free)
    memory, swap, allowed = psutil.virtual_memory(), psutil.swap_memory().total, _allowed()
    total = min(memory.total, allowed.memory) + min(swap, allowed.swap)
    return Room(int(min(total, allowed.both)), int(min(memory.available, allowed.free)))


@dataclass(frozen=True)
class _Allowed:
    """What control groups leave to this process, in bytes; infinite where they limit nothing.

    Attributes:
        memory: of it.
        free: what of that nothing in the group takes yet.
        swap: beside it.
        both: memory and swap together, which the first kind of control groups limits.
    """

    memory: float = math.inf
    free: float = math.inf
    swap: float = math.inf
    both: float = math.inf


def _allowed(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> _Allowed:
    """Return the least of what control groups leave, from that of this process to the top (Linux)."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return _Allowed()
    groups = [_Allowed()]
    for line in lines:
        _, kind, place = [*line.split(":", 2), "", ""][:3]
        if kind not in ("", "memory"):
            continue
        top = cgroups / kind
        inner = top / place.strip("/")
        for folder in (inner, *inner.parents):
            if not folder.is_relative_to(top):
                break
            groups.append(_first_kind(folder) if kind else _second_kind(folder))
    return _Allowed(*(min(of_all) for of_all in zip(*map(astuple, groups), strict=True)))


def _first_kind(group: Path) -> _Allowed:
    limit, both = _number(group / "memory.limit_in_bytes"), _number(group / "memory.memsw.limit_in_bytes")
    free = limit - _used(group / "memory.usage_in_bytes", "total_inactive_file")
    return _Allowed(limit, free, both=both)


def _second_kind(group: Path) -> _Allowed:
    limit, swap = _number(group / "memory.max"), _number(group / "memory.swap.max")
    return _Allowed(limit, limit - _used(group / "memory.current", "inactive_file"), swap)


def _used(file: Path, given_back: str) -> float:
    """Return the bytes in use, without the copies of files that the system gives back when memory is short.

    Args:
        file: what a control group says of its use.
        given_back: how ``memory.stat`` beside it calls these copies.
    """
    used = _number(file, 0)
    try:
        stat = (file.parent / "memory.stat").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return used
    counts = dict(line.split(" ", 1) for line in stat.splitlines() if " " in line)
    copies = counts.get(given_back, "")
    return max(0, used - int(copies)) if _is_number(copies) else used


def _number(file: Path, otherwise: float = math.inf) -> float:
    """Return the number in a file; without a limit it says ``max``."""
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return otherwise
    return int(text) if _is_number(text) else otherwise


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception says that a device has no memory left: each backend has its own way."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    phrases = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory", "Failed to allocate")
    return isinstance(error, Exception) and any(phrase in str(error) for phrase in phrases)


def fits_host(module: Any) -> bool:
    """Whether a module can wait in CPU memory and leave `HOST_RESERVE` free there."""
    import torch

    if not isinstance(module, torch.nn.Module):
        return False
    needed = sum(tensor.nbytes for tensor in [*module.parameters(), *module.buffers()])
    return needed + HOST_RESERVE < room_on("cpu").free


def return_memory() -> None:
    """Give freed memory back: modules hold reference cycles, and CUDA and the process keep what was freed."""
    import gc

    import torch

    gc.collect()
    give_back_freed_memory()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()

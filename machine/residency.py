"""Which model is where, and when it moves: one GPU, two GPUs, a 24 GB GPU, or no GPU at all.

Every big network of a run is a *component* with a name, a device and a function that reads it from its
checkpoint. Whoever needs one asks for it::

    residency = Residency(efficient_memory=True, times=times)
    residency.add("text_enc_3", load_t5, plan.text)
    with residency.use("text_enc_3") as t5:      # on its device, ready to run
        hidden = t5(input_ids)

Four plans follow from the devices (`plan_devices`):

* one device: each component is loaded at its first use and stays;
* two CUDA devices: text encoders and VLM on the first, transformer and VAE on the second, all stay;
* ``--efficient_memory`` on an accelerator: one component on it at a time. The one that leaves waits in CPU
  memory where there is room, else it is dropped and read again from its file when its turn comes;
* ``--efficient_memory`` on the CPU: one component in memory at a time, read again at each turn. The weights
  of a safetensors file are memory-mapped, so reading again costs what the page cache no longer holds.

Because the chain works scale by scale over a whole group of pictures, a turn comes once a scale.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from errors import InputError
from machine.stage_times import StageTimes

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

HOST_RESERVE = 4 * 2**30  # bytes of CPU memory that parked models leave to everything else
SECOND_GPU = 6 * 10**9  # free bytes that make a second GPU worth using: SD3's transformer and VAE in 16 bits
# What forward passes take beside the weights. A picture: the VAE decoder, the largest, takes 1.0 GiB for
# 512x512 in fp32 (measured on a CPU). Fixed: CUDA's own context and libraries.
PICTURE_WORKING = 2**30
FIXED_WORKING = 2**29


def choose_device(name: str) -> "torch.device":
    """Return the device that ``--device`` names, checked to be there.

    Args:
        name: ``auto`` (cuda, else mps, else cpu), ``cuda``, ``cuda:N``, ``mps`` or ``cpu``.

    Raises:
        InputError: no such device here, or no such name.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda:0")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cuda", "mps", "cpu"):
        raise InputError(f"--device {name}: not a device; use auto, cuda, cuda:N, mps or cpu")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if count == 0:
            raise InputError(f"--device {name}: PyTorch sees no CUDA device here; use --device cpu or auto")
        if (device.index or 0) >= count:
            raise InputError(f"--device {name}: there are {count} CUDA devices, cuda:0 to cuda:{count - 1}")
        return torch.device("cuda", device.index or 0)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("--device mps: PyTorch finds no Apple GPU here; use --device cpu or auto")
    return device


def choose_dtype(name: str, device: "torch.device", stored: str | None = None) -> "torch.dtype":
    """Return the dtype of weights and arithmetic that ``--mixed_precision`` names.

    Args:
        name: ``fp32``, ``fp16``, ``bf16``, or ``auto``: bf16 on CUDA devices that compute in it (Ampere and
            newer), fp16 on older CUDA devices and Apple GPUs, fp32 on the CPU.
        device: where the model will run.
        stored: dtype of its file in safetensors' words, for a model that keeps bf16 where it is stored so:
            the VLM runs in bf16 as published, leaves fp16's range, and would take 15 GB in fp32.

    Raises:
        InputError: unknown name, or fp16 on the CPU, where its narrow range gains no speed.
    """
    import torch

    if name == "auto":
        if device.type == "cpu":
            dtype = torch.bfloat16 if stored == "BF16" else torch.float32
        elif device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8:
            dtype = torch.bfloat16
        else:
            dtype = torch.float16
    else:
        dtypes = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
        if name not in dtypes:
            raise InputError(f"--mixed_precision {name}: unknown; use auto, fp32, fp16 or bf16")
        if name == "fp16" and device.type == "cpu":
            raise InputError(
                "--mixed_precision fp16: not on the CPU; use fp32 (exact) or bf16 (half the memory)"
            )
        dtype = dtypes[name]
    if dtype == torch.float16 and stored == "BF16":
        return torch.bfloat16
    return dtype


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception says that a device has no memory left: each backend has its own way."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    phrases = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory", "Failed to allocate")
    return isinstance(error, Exception) and any(phrase in str(error) for phrase in phrases)


@dataclass(frozen=True)
class DevicePlan:
    """Where the components of a run live.

    Attributes:
        text: device of SD3's three text encoders.
        vlm: device of the VLM, and of the RAM tagger.
        sr: device of the SR transformer and the VAE.
        efficient_memory: one component at a time on each device.
    """

    text: "torch.device"
    vlm: "torch.device"
    sr: "torch.device"
    efficient_memory: bool = False


def plan_devices(name: str, efficient_memory: bool = False) -> DevicePlan:
    """Spread a run over the devices here: ``auto`` uses a second CUDA device where one has room.

    Args:
        name: as for `choose_device`; a named device gets everything.
        efficient_memory: everything on one device, one component at a time.

    Raises:
        InputError: as `choose_device`.
    """
    import torch

    first = second = choose_device(name)
    if name == "auto" and first.type == "cuda" and not efficient_memory:
        free = {number: torch.cuda.mem_get_info(number)[0] for number in range(1, torch.cuda.device_count())}
        roomiest = max(free, key=lambda number: free[number], default=0)
        if free.get(roomiest, 0) >= SECOND_GPU:
            second = torch.device("cuda", roomiest)
    return DevicePlan(text=first, vlm=first, sr=second, efficient_memory=efficient_memory)


@dataclass(frozen=True)
class Size:
    """How large a component is.

    Attributes:
        parameters: number of weights; 0 where nobody counted them.
        bytes: that they take where the component computes.
    """

    parameters: int
    bytes: int


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
    working = FIXED_WORKING + int(PICTURE_WORKING * batch_size * (side / 512) ** 2)
    combine = max if efficient_memory else sum
    peaks = {
        device: combine(row.size.bytes for row in rows if row.device == device and row.size) + working
        for device in dict.fromkeys(row.device for row in rows if row.size)
    }
    parked = [row.size.bytes for row in rows if row.size and row.device.startswith("cuda")]
    waiting = sum(parked) - min(parked) if efficient_memory and parked else 0
    return MemoryPlan(rows, peaks, waiting)


@dataclass
class _Component:
    load: Callable[["torch.device"], Any]
    device: "torch.device"
    size: Size | None = None
    module: Any = None
    on_device: bool = False
    users: int = 0


class Residency:
    """Keeps the components of a run where they belong, and counts how often they come and go.

    Attributes:
        loads: how often each component was read from disk.
        moves: how often each was moved between its device and CPU memory.
    """

    def __init__(self, efficient_memory: bool = False, times: StageTimes | None = None) -> None:
        """Start with no components.

        Args:
            efficient_memory: at most one component at a time on each device.
            times: gets the stages ``NAME.load`` and ``NAME.move``.
        """
        self.efficient_memory = efficient_memory
        self.times = StageTimes() if times is None else times
        self.loads: Counter[str] = Counter()
        self.moves: Counter[str] = Counter()
        self._components: dict[str, _Component] = {}

    def add(
        self,
        name: str,
        load: Callable[["torch.device"], Any],
        device: "torch.device",
        size: Size | None = None,
    ) -> None:
        """Register a component; nothing is read yet.

        Args:
            name: unique in the run; ``PART.WHAT`` names its stages too, e.g. ``sr.transformer``.
            load: reads the checkpoint and returns the module on the device it is given, in eval mode and in
                its final dtype. Called again where the module had to be dropped. What is no `nn.Module` (an
                ONNX session) is never moved, only dropped.
            device: where the component computes.
            size: for the plan.
        """
        if name in self._components:
            raise ValueError(f"component {name} was added twice")
        self._components[name] = _Component(load, device, size)

    @contextmanager
    def use(self, name: str) -> Iterator[Any]:
        """Give the component on its device for the length of a with block.

        The body must not keep the module: under ``efficient_memory`` the next component takes its place.
        Do not open a stage of `StageTimes` around this call; loading and moving have their own.
        """
        component = self._components[name]
        if not component.on_device:
            if self.efficient_memory:
                self._make_room(name)
            try:
                self._place(name, component)
            except Exception as error:
                if not out_of_memory(error):
                    raise
                way_out = "--device cpu or --quantize" if self.efficient_memory else "--efficient_memory"
                raise InputError(f"{name} does not fit on {component.device}: try {way_out}") from None
        component.users += 1
        try:
            yield component.module
        finally:
            component.users -= 1

    def plan(self, batch_size: int = 1, side: int = 512) -> MemoryPlan:
        """Return the plan of this run, without loading anything; arguments as for `plan_memory`."""
        components = {
            name: (component.size, str(component.device)) for name, component in self._components.items()
        }
        return plan_memory(components, self.efficient_memory, batch_size, side)

    def shortages(self, batch_size: int = 1, side: int = 512) -> list[str]:
        """Say which devices have less free memory than the plan needs; arguments as for `plan_memory`."""
        import psutil
        import torch

        found = []
        for name, peak in self.plan(batch_size, side).peaks.items():
            device = torch.device(name)
            if device.type == "cuda":
                free = torch.cuda.mem_get_info(device)[0]
            elif device.type == "cpu":
                free = psutil.virtual_memory().available
            else:
                continue
            if peak > free:
                way_out = "smaller batches or --quantize" if self.efficient_memory else "--efficient_memory"
                found.append(
                    f"{name} has {free / 1e9:.1f} GB free of about {peak / 1e9:.1f} GB needed: try {way_out}"
                )
        return found

    def _place(self, name: str, component: _Component) -> None:
        """Bring one component to its device, from CPU memory or from its file."""
        if component.module is not None:
            with self.times.stage(f"{name}.move"):
                component.module.to(component.device)
                self.moves[name] += 1
        else:
            logger.info("loading %s to %s", name, component.device)
            with self.times.stage(f"{name}.load"):
                component.module = component.load(component.device)
                self.loads[name] += 1
        component.on_device = True

    def _make_room(self, name: str) -> None:
        """Take the other idle components off the device that ``name`` is about to use."""
        device = self._components[name].device
        for other, component in self._components.items():
            if other == name or component.device != device or not component.on_device or component.users:
                continue
            with self.times.stage(f"{other}.move"):
                # An Apple GPU shares its memory with the CPU: waiting there would free nothing.
                if device.type == "cuda" and _fits_host(component.module):
                    component.module.to("cpu")
                    self.moves[other] += 1
                    logger.debug("%s leaves %s for CPU memory", other, device)
                else:
                    component.module = None
                    logger.debug("%s leaves %s", other, device)
                component.on_device = False
                _return_memory()


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


def _fits_host(module: Any) -> bool:
    """Whether a module can wait in CPU memory and leave `HOST_RESERVE` free there."""
    import psutil
    import torch

    if not isinstance(module, torch.nn.Module):
        return False
    needed = sum(tensor.nbytes for tensor in [*module.parameters(), *module.buffers()])
    return needed + HOST_RESERVE < psutil.virtual_memory().available


def _return_memory() -> None:
    """Give freed memory back: modules hold reference cycles, and CUDA keeps what was freed."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()

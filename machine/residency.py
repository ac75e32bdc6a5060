"""Which model is where, and when it moves: one GPU, two GPUs, a 24 GB GPU, or no GPU at all.

Every big network of a run is a *component* with a name, a device and a function that reads it from its
checkpoint. Whoever needs one asks for it::

    residency = Residency(efficient_memory=True, times=times)
    residency.add("text_enc_3", load_t5, devices.text)
    with residency.use("text_enc_3") as t5:      # on its device, ready to run
        hidden = t5(input_ids)

Four plans follow from the devices (`machine.devices.choose_devices`):

* one device: each component is loaded at its first use and stays;
* two CUDA devices: text encoders and VLM on the first, transformer and VAE on the second, all stay;
* ``--efficient_memory`` on a GPU: one component on it at a time. The one that leaves waits in CPU memory
  where there is room, else it is dropped and read again from its file when its turn comes;
* ``--efficient_memory`` on the CPU: one component in memory at a time, read again at each turn. The weights
  of a safetensors file are memory-mapped, so reading again costs what the page cache no longer holds.

Because the chain works scale by scale over a whole group of pictures, a turn comes once a scale. While one
component computes on a CUDA device, the files of the next ones are read ahead (`machine.read_ahead`).
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from errors import InputError
from machine.host_copy import HostCopy
from machine.memory import (
    HOST_RESERVE,
    MemoryPlan,
    Size,
    fits_host,
    out_of_memory,
    plan_memory,
    return_memory,
    room_on,
)
from machine.read_ahead import ReadAhead
from machine.stage_times import StageTimes

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


@dataclass
class Component:
    """One network, or what stands in for it; the arguments of `Residency.add`, and where it is now."""

    load: Callable[["torch.device"], Any]
    device: "torch.device"
    size: Size | None = None
    files: Sequence[Path] = ()
    module: Any = None
    in_cpu_memory: HostCopy | None = None
    on_device: bool = False
    users: int = 0


class Residency:
    """Keeps the components of a run where they belong, and counts how often they come and go.

    Attributes:
        components: by name.
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
        self.components: dict[str, Component] = {}
        self._read_ahead = ReadAhead()
        self._latest = ""
        self._after: dict[str, str] = {}  # what was placed after each, the last time

    def add(
        self,
        name: str,
        load: Callable[["torch.device"], Any],
        device: "torch.device",
        size: Size | None = None,
        files: Sequence[Path] = (),
    ) -> None:
        """Register a component; nothing is read yet.

        Args:
            name: unique in the run; names its stages too: ``transformer.load``.
            load: reads the checkpoint and returns the module on the device it is given, in eval mode and in
                its final dtype. Called again where the module had to be dropped. What is no `nn.Module` (an
                ONNX session) is never moved, only dropped.
            device: where the component computes.
            size: for the plan.
            files: that `load` reads, and that may be read ahead.
        """
        if name in self.components:
            raise ValueError(f"component {name} was added twice")
        self.components[name] = Component(load, device, size, files)

    @contextmanager
    def use(self, name: str) -> Iterator[Any]:
        """Give the component on its device for the length of a with block.

        The body must not keep the module: under ``efficient_memory`` the next component takes its place.
        Do not open a stage of `StageTimes` around this call; loading and moving have their own.
        """
        component = self.components[name]
        if not component.on_device:
            if self.efficient_memory:
                self._make_room(name)
            try:
                self._place(name, component)
            except Exception as error:
                if not out_of_memory(error):
                    raise
                way_out = (
                    "--device cpu, or --quantize for SD3's parts"
                    if self.efficient_memory
                    else "--efficient_memory"
                )
                raise InputError(f"{name} does not fit on {component.device}: try {way_out}") from None
        component.users += 1
        try:
            yield component.module
        finally:
            component.users -= 1

    def plan(self, batch_size: int = 1, side: float = 512, pictures: int = 0) -> MemoryPlan:
        """Return the plan of this run, without loading anything; arguments as for `plan_memory`."""
        components = {
            name: (component.size, str(component.device)) for name, component in self.components.items()
        }
        return plan_memory(components, self.efficient_memory, batch_size, side, pictures)

    def _place(self, name: str, component: Component) -> None:
        """Bring one component to its device, from CPU memory or from its file."""
        self._read_ahead.end(component.files)
        if component.in_cpu_memory is not None:
            with self.times.stage(f"{name}.move"):
                component.in_cpu_memory.come(component.device)
                self.moves[name] += 1
        else:
            logger.info("loading %s to %s", name, component.device)
            with self.times.stage(f"{name}.load"):
                component.module = component.load(component.device)
                self.loads[name] += 1
        component.on_device = True
        self._after[self._latest], self._latest = name, name
        if component.device.type == "cuda":
            self._read_ahead.begin(self._files_to_come(name), room_on("cpu").free - HOST_RESERVE)

    def _files_to_come(self, name: str) -> list[Path]:
        """Return the files of components that come after ``name`` and are in no memory, the next ones first.

        In the order of the last time; the first time in that in which they were added.
        """
        added = list(self.components)
        following = dict(pairwise(added)) | self._after
        files: dict[Path, None] = {}
        passed = {name}
        while (name := following.get(name, name)) not in passed:
            passed.add(name)
            if self.components[name].module is None:
                files |= dict.fromkeys(self.components[name].files)
        return list(files)

    def _make_room(self, name: str) -> None:
        """Take the other idle components off the device that ``name`` is about to use."""
        device = self.components[name].device
        for other, component in self.components.items():
            if other == name or component.device != device or not component.on_device or component.users:
                continue
            with self.times.stage(f"{other}.move"):
                # An Apple GPU shares its memory with the CPU: waiting there would free nothing.
                if component.in_cpu_memory is None and device.type == "cuda" and fits_host(component.module):
                    component.in_cpu_memory = HostCopy(component.module)
                if component.in_cpu_memory is not None:
                    component.in_cpu_memory.leave()
                    self.moves[other] += 1
                    logger.debug("%s leaves %s for CPU memory", other, device)
                else:
                    component.module = None
                    logger.debug("%s leaves %s", other, device)
                component.on_device = False
                return_memory()

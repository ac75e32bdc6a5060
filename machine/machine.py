"""Everything that a run's networks must know of the machine, in one object."""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from machine.batches import Batches
from machine.devices import Devices, choose_devices, choose_dtype, emulates_bf16
from machine.heap import keep_freed_memory
from machine.residency import Residency
from machine.stage_times import StageTimes

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Machine:
    """What all networks of a run share.

    Attributes:
        devices: which network computes where.
        precision: ``--mixed_precision``.
        residency: holds the networks.
        batches: runs them over pictures.
        times: seconds by stage.
    """

    devices: Devices
    precision: str
    residency: Residency
    batches: Batches
    times: StageTimes

    @classmethod
    def choose(
        cls,
        device: str = "auto",
        precision: str = "auto",
        efficient_memory: bool = False,
        batch_size: int = 1,
        times: StageTimes | None = None,
        gpus: range | None = None,
    ) -> "Machine":
        """Choose devices for a run.

        Args:
            device: ``--device``, see `machine.devices.choose_device`.
            precision: ``--mixed_precision``, see `machine.devices.choose_dtype`.
            efficient_memory: one network at a time on each device.
            batch_size: pictures a forward pass; halved where memory ends.
            times: to add the seconds to; None takes new ones.
            gpus: see `machine.devices.choose_devices`.

        Raises:
            InputError: no such device here, or a precision that does not go with it.
        """
        import torch

        times = StageTimes() if times is None else times
        devices = choose_devices(device, efficient_memory, gpus)
        if precision == "bf16" and emulates_bf16(devices.sr):
            logger.warning(
                "--mixed_precision bf16: this CPU has no bf16 arithmetic (avx512_bf16, amx), and takes ten"
                " times as long as in fp32"
            )
        # cuDNN's convolutions in fp32 round to TF32's 10 bits unless they are told not to: fine for a VAE
        # beside networks in 16 bits, and not what somebody wants who asks for fp32
        torch.backends.cudnn.allow_tf32 = precision != "fp32"
        if devices.sr.type == "cpu":
            keep_freed_memory()
        return cls(devices, precision, Residency(efficient_memory, times), Batches(batch_size), times)

    @property
    def efficient_memory(self) -> bool:
        """Whether there is one network at a time on each device."""
        return self.residency.efficient_memory

    def dtype(
        self, device: "torch.device", stored: str | None = None, keeps_fp16: bool = False
    ) -> "torch.dtype":
        """Return the dtype of weights and arithmetic on a device; see `machine.devices.choose_dtype`."""
        return choose_dtype(self.precision, device, stored, keeps_fp16)

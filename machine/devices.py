"""Which devices a run uses, and in which precision."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from errors import InputError

if TYPE_CHECKING:
    import torch

SECOND_GPU = 6 * 10**9  # free bytes that make a second GPU worth using: SD3's transformer and VAE in 16 bits


def choose_device(name: str, option: str = "--device") -> "torch.device":
    """Return the device that ``--device`` names, checked to be there.

    Args:
        name: ``auto`` (cuda, else mps, else cpu), ``cuda``, ``cuda:N``, ``mps`` or ``cpu``.
        option: what the command calls it.

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
        raise InputError(f"{option} {name}: not a device; use auto, cuda, cuda:N, mps or cpu")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if count == 0:
            raise InputError(f"{option} {name}: PyTorch sees no CUDA device here; use {option} cpu or auto")
        if (device.index or 0) >= count:
            raise InputError(f"{option} {name}: there are {count} CUDA devices, cuda:0 to cuda:{count - 1}")
        return torch.device("cuda", device.index or 0)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError(f"{option} mps: PyTorch finds no Apple GPU here; use {option} cpu or auto")
    return device


def choose_dtype(
    name: str, device: "torch.device", stored: str | None = None, keeps_fp16: bool = False
) -> "torch.dtype":
    """Return the dtype of weights and arithmetic that ``--mixed_precision`` names.

    Args:
        name: ``fp32``, ``fp16``, ``bf16``, or ``auto``: bf16 on CUDA devices that compute in it (Ampere and
            newer) unless the model keeps fp16, fp16 on older CUDA devices and Apple GPUs, fp32 on the CPU.
        device: where the model will run.
        stored: dtype of its file in safetensors' words, for a model that keeps bf16 where it is stored so:
            the VLM runs in bf16 as published, leaves fp16's range, and would take 15 GB in fp32.
        keeps_fp16: of a model whose file is in fp16, and which stays within fp16's range or is looked after
            where it does not. bf16 would round its weights, and all that it computes, 8 times as coarsely.

    Raises:
        InputError: unknown name, or fp16 on the CPU, where its narrow range gains no speed.
    """
    import torch

    if name == "auto":
        if device.type == "cpu":
            dtype = torch.bfloat16 if stored == "BF16" else torch.float32
        elif device.type == "cuda" and not keeps_fp16 and torch.cuda.get_device_capability(device)[0] >= 8:
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


def emulates_bf16(device: "torch.device") -> bool:
    """Tell whether a device is a CPU that has no bf16 arithmetic, where PyTorch does it step by step.

    Only x86 CPUs are known to tell; versions of PyTorch whose CPUs do not are believed to have it.
    """
    import torch

    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    able = torch.cpu.get_capabilities()
    return able.get("architecture") == "x86_64" and not (able.get("avx512_bf16") or able.get("amx_bf16"))


@dataclass(frozen=True)
class Devices:
    """Where the components of a run live.

    Attributes:
        text: device of SD3's three text encoders.
        vlm: device of the VLM, and of the RAM tagger.
        sr: device of the SR networks.
    """

    text: "torch.device"
    vlm: "torch.device"
    sr: "torch.device"


def choose_devices(name: str, efficient_memory: bool = False, gpus: range | None = None) -> Devices:
    """Spread a run over the devices here: ``auto`` uses a second CUDA device where one has room.

    Args:
        name: as for `choose_device`; a named device gets everything.
        efficient_memory: everything on one device, one component at a time.
        gpus: the CUDA devices that ``auto`` may take, one or two: the others are other processes'. None: any.

    Raises:
        InputError: as `choose_device`, or there are fewer devices.
    """
    import torch

    first = second = choose_device(name)
    if name == "auto" and first.type == "cuda" and gpus is not None:
        return _share(gpus, efficient_memory)
    if name == "auto" and first.type == "cuda" and not efficient_memory:
        free = {number: torch.cuda.mem_get_info(number)[0] for number in range(1, torch.cuda.device_count())}
        roomiest = max(free, key=lambda number: free[number], default=0)
        if free.get(roomiest, 0) >= SECOND_GPU:
            second = torch.device("cuda", roomiest)
    return Devices(text=first, vlm=first, sr=second)


def _share(gpus: range, efficient_memory: bool) -> Devices:
    import torch

    count = torch.cuda.device_count()
    if gpus.stop > count:
        raise InputError(
            f"this process would take GPU {gpus.stop - 1}, and there are {count}; start fewer processes "
            "(torchrun --nproc_per_node), or give --device"
        )
    first = torch.device("cuda", gpus[0])
    second = first if efficient_memory else torch.device("cuda", gpus[-1])
    return Devices(text=first, vlm=first, sr=second)

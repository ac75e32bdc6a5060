"""What can run, from what is here; and for what cannot, the one command that brings it.

Imports nothing but Python's own, and looks at nothing: `command.check_up` does.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from checkpoints import catalogue
from checkpoints.catalogue import Checkpoint
from machine.nvidia import Gpu, newest_cuda, why_driver_is_too_old

INSTALL, INSTALL_GPU = "pip install -r requirements.txt", "pip install -r requirements-gpu.txt"
QUANTIZE = (
    "python quantize_model.py --model_component all --pretrained_model_name_or_path "
    + catalogue.SD3.repository
)
TORCH_INDEX = "https://download.pytorch.org/whl/cu126"  # builds for drivers that CUDA 13 is too new for
# What each part imports beside what the embedded network needs, as pip knows it
_OF_SD3 = ("diffusers", "transformers", "tokenizers", "huggingface_hub", "accelerate", "safetensors")
PACKAGES = {"null": _OF_SD3, "dape": _OF_SD3, "vlm": (*_OF_SD3, "peft")}
ONNX = ("onnxruntime", "onnxruntime-gpu")  # one of the two


@dataclass
class Torch:
    """What torch says of itself.

    Attributes:
        problem: why it does not import; empty where it does.
        cuda: version of CUDA that it is built for; None for builds for the CPU or another maker's GPU.
        devices: GPUs that it computes on, in words.
        embedded: why the embedded network cannot run; empty where it can.
    """

    problem: str = ""
    cuda: str | None = None
    devices: Sequence[str] = ()
    embedded: str = ""


@dataclass
class Found:
    """What is here.

    Attributes:
        missing: names of pinned packages that are not installed.
        absent: checkpoints that are not here, or not whole.
        wrong: why a checkpoint that is here cannot be used.
        unknown: why nobody can tell what checkpoints are in the hub's cache; empty where that is known.
        quantized: how many int8 parts are whole.
        broken_parts: why other int8 parts cannot be used.
        onnx: those of `ONNX` that are installed.
        gpus: NVIDIA's, as their driver says.
        torch: see there.
        torch_versions: that were tested, in pip's words; empty for any.
    """

    missing: Sequence[str] = ()
    absent: Sequence[Checkpoint] = ()
    wrong: dict[Checkpoint, str] = field(default_factory=dict)
    unknown: str = ""
    quantized: int = 0
    broken_parts: Sequence[str] = ()
    onnx: Sequence[str] = ()
    gpus: Sequence[Gpu] = ()
    torch: Torch = field(default_factory=Torch)
    torch_versions: str = ""


@dataclass(frozen=True)
class Verdict:
    """Whether something can run.

    Attributes:
        name: what.
        why_not: empty where it can.
        command: that brings what lacks; empty where no command does.
        broken: something is here, and does not work.
    """

    name: str
    why_not: str = ""
    command: str = ""
    broken: bool = False


def install_command(gpus: Sequence[Gpu], onnx: Sequence[str]) -> str:
    """Return the command that installs what lacks, and never one onnxruntime beside the other.

    Args:
        gpus: NVIDIA's.
        onnx: those of `ONNX` that are installed.
    """
    for_gpu = "onnxruntime-gpu" in onnx or (gpus and "onnxruntime" not in onnx)
    return INSTALL_GPU if for_gpu else INSTALL


def verdicts(found: Found) -> list[Verdict]:
    """Say what can run, the embedded network first."""
    install = install_command(found.gpus, found.onnx)
    embedded = found.torch.problem or found.torch.embedded
    networks = [_of_networks(purpose, found, embedded, install) for purpose in catalogue.PURPOSES]
    return [
        _of_embedded(embedded, install),
        *networks,
        _of_quantized(found, networks[0], install),
        _of_gpu(found, install),
    ]


def _of_embedded(problem: str, install: str) -> Verdict:
    names_command = not problem or "pip install" in problem
    return Verdict("embedded", problem, "" if names_command else install, broken=bool(problem))


def _of_networks(purpose: str, found: Found, embedded: str, install: str) -> Verdict:
    missing = [package for package in PACKAGES[purpose] if package in found.missing]
    needed = [one for one in catalogue.of_purpose(purpose) if not one.optional]
    absent = [one for one in needed if one in found.absent]
    wrong = [one for one in needed if one in found.wrong]
    if missing:
        return Verdict(purpose, f"{', '.join(missing)} not installed", install)
    if embedded:
        return Verdict(purpose, "what the embedded network needs is needed here, too", install)
    if found.unknown:
        return Verdict(purpose, found.unknown, install)
    in_the_way = [one for one in wrong if one.in_ckpt]
    others = [one for one in wrong if not one.in_ckpt]  # the hub's client fetches these over what is there
    problems = [
        f"{', '.join(one.name for one in ones)} {what}"
        for ones, what in (
            (in_the_way, "wrong (move it away first)"),
            (others, "wrong"),
            (absent, "not here"),
        )
        if ones
    ]
    if problems:
        return Verdict(purpose, "; ".join(problems), catalogue.how_to_get(needed), broken=bool(wrong))
    return Verdict(purpose)


def _of_quantized(found: Found, sd3: Verdict, install: str) -> Verdict:
    name = "quantize"
    if len(found.onnx) > 1:
        way_out = f"pip uninstall onnxruntime onnxruntime-gpu, then {install_command(found.gpus, ())}"
        return Verdict(name, "onnxruntime and onnxruntime-gpu break each other", way_out, True)
    if not found.onnx:
        return Verdict(name, "onnxruntime not installed", install)
    if sd3.why_not:
        return Verdict(name, sd3.why_not, sd3.command)
    if not found.quantized:
        return Verdict(name, "no int8 part is made yet", QUANTIZE)
    return Verdict(name)


def _of_gpu(found: Found, install: str) -> Verdict:
    name = "GPU"
    if found.torch.problem:
        return Verdict(name, "torch does not import", install)
    if found.torch.devices:
        return Verdict(name)
    if not found.gpus:
        return Verdict(name, "none is found; the embedded network needs none")
    runs = newest_cuda(found.gpus)
    another = f'pip install --force-reinstall "torch{found.torch_versions}"'
    older = f"{another} --index-url {TORCH_INDEX}"
    if found.torch.cuda is None:
        command = another if runs == 13 and sys.platform == "linux" else older
        return Verdict(name, f"{found.gpus[0].name} is here, and this torch is not built for it", command)
    too_old = why_driver_is_too_old(found.gpus[0].driver, found.torch.cuda)
    if too_old:
        return Verdict(name, f"{too_old}; a newer driver, or", older, broken=True)
    return Verdict(
        name, f"torch does not see {found.gpus[0].name}; is CUDA_VISIBLE_DEVICES set?", broken=True
    )

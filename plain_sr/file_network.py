"""SR backbone: a PyTorch network out of one file, of any architecture that spandrel knows.

spandrel (requirements-extra.txt) tells the architecture from the names and shapes of the weights and builds
the network; this project reads the file, so that no code in it ever runs.
"""

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.gate import blaming
from checkpoints.hashing import checkpoint_sha256
from checkpoints.headers import TYPES, TensorInfo, safetensors_info, torch_file_info
from errors import InputError
from machine.machine import Machine
from machine.memory import Size
from plain_sr.plain_backbone import PlainBackbone

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

FILE_ENDINGS = (".safetensors", ".pth", ".pt", ".ckpt")
MAX_BYTES = 8 * 2**30  # of a file; AuraSR, the largest that spandrel knows, has 2.5 GB
# spandrel builds as many blocks as the largest number in the weights' names says; HAT-L, a long one, has 12
# groups of 6, and SRVGGNet 67 layers in a row
MAX_NUMBER = 999
LICENCE_KEYS = ("license", "licence", "modelspec.license")  # of a file's metadata
NOT_STATED = "not stated"
COMPONENT = "sr.file"


@dataclass(frozen=True)
class CheckedFile:
    """A file of weights whose header adds up; which network it holds is not known yet.

    Attributes:
        path: the file.
        sha256: of its content.
        licence: as the file states it, or `NOT_STATED`.
    """

    path: Path
    sha256: str
    licence: str


def check_file_network(path: Path) -> CheckedFile:
    """See that a file holds tensors and nothing else; imports neither torch nor spandrel.

    Raises:
        InputError: missing, half-downloaded, damaged, with code in it, or not of weights.
    """
    size = size_of(path, MAX_BYTES)
    metadata: dict[str, Any]
    if path.suffix.lower() == ".safetensors":
        tensors: dict[str, TensorInfo] = safetensors_info(path)
        metadata = _safetensors_metadata(path)
    else:
        content = torch_file_info(path)
        if not isinstance(content, dict):
            raise InputError(f"{path}: holds a {type(content).__name__}, not a network's weights by name")
        tensors = dict(_named_tensors(content))
        metadata = content
    if not tensors:
        raise InputError(f"{path}: without a tensor; get the file from its publisher")
    for name, tensor in tensors.items():
        if any(int(number) > MAX_NUMBER for number in re.findall(r"\d{1,9}", name)):
            raise InputError(f"{path}: {name[:60]!r} names more layers than any SR network has")
        if tensor.elements * TYPES[tensor.dtype] > size:  # strides of 0 repeat what little there is
            raise InputError(f"{path}: {name[:60]!r} is larger than the file")
    return CheckedFile(path, sha256_in(path), licence_in(metadata))


def size_of(path: Path, most: int) -> int:
    """Return a file's bytes.

    Raises:
        InputError: it is no file that can be read, or has more than `most`.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if not path.is_file():
        raise InputError(f"{path}: not a file; --backbone wants an SR network's own file")
    if size > most:
        raise InputError(f"{path}: {size:,} bytes; no SR network has more than {most:,}")
    return size


def sha256_in(path: Path) -> str:
    """Return the SHA-256 of a file's content.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return checkpoint_sha256(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def licence_in(metadata: dict[str, Any]) -> str:
    """Return the licence that a file states of itself, in one short line."""
    for key in LICENCE_KEYS:
        if isinstance(text := metadata.get(key), str) and (line := one_line(text)):
            return line
    return NOT_STATED


def one_line(text: str) -> str:
    """Return what somebody else wrote as one short line that a terminal can show."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:100]).strip()


def _safetensors_metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with blaming(path), safe_open(path, "np") as file:
        return file.metadata() or {}


def _named_tensors(content: dict[Any, Any]) -> Iterator[tuple[str, TensorInfo]]:
    """Yield the tensors of what `torch_file_info` returned, which may hold itself."""
    seen = {id(content)}
    waiting: list[tuple[str, Any]] = [("", content)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, TensorInfo):
            yield name, value
        entries: Iterable[tuple[Any, Any]] = ()
        if isinstance(value, dict):
            entries = value.items()
        elif isinstance(value, list | tuple):
            entries = ((name, one) for one in value)
        for key, one in entries:
            if isinstance(one, TensorInfo) or (isinstance(one, dict | list | tuple) and id(one) not in seen):
                seen.add(id(one))
                waiting.append((str(key), one))


class FileNetwork(PlainBackbone):
    """Enlarge crops with the network of a file."""

    component = COMPONENT

    def __init__(self, checked: CheckedFile, machine: Machine) -> None:
        """Build the network once, to know what it is, and register it; it is loaded when its step comes.

        Args:
            checked: the file.
            machine: whose SR device, residency, precision and batches are used.

        Raises:
            InputError: spandrel is not installed, does not know the network, or it is none that makes one RGB
                picture of another.
        """
        from plain_sr.enlarging import TILE, Network

        self.checked = checked
        self.machine = machine
        self.device = machine.devices.sr
        described = read_described(checked.path)
        self.architecture = described.architecture.name
        needs = described.size_requirements
        self._multiple, self._square = needs.multiple_of, needs.square
        self._minimum = max(needs.minimum, 1)
        self.dtype = self._dtype(described)
        tile = max(TILE // self._multiple * self._multiple, self._fitting(1))
        self.network = Network(described.scale, self._forward, tile, self._multiple)
        parameters = sum(tensor.numel() for tensor in described.model.parameters())
        size = Size(parameters, parameters * self.dtype.itemsize, largest=tile * described.scale)
        machine.residency.add(COMPONENT, self._load, self.device, size)

    def _dtype(self, described: Any) -> "torch.dtype":
        """Return the machine's dtype, or fp32 where the architecture cannot; `described` changes.

        Tried out, because not all that spandrel says to support a dtype does (0.4.2: SwinIR in bf16).
        """
        import torch

        dtype = self.machine.dtype(self.device)
        if dtype != torch.float32:
            says = described.supports_half if dtype == torch.float16 else described.supports_bfloat16
            try:
                if says:
                    self._try(described, dtype)
                    return dtype
            except Exception as error:  # torch's have no common base but this
                logger.debug("%s in %s: %s", self.architecture, dtype, error)
            logger.warning(
                "%s: %s cannot compute in %s: fp32", self.checked.path, self.architecture, str(dtype)[6:]
            )
        with blaming(self.checked.path, "get it from its publisher"):
            self._try(described, torch.float32)
        return torch.float32

    def _try(self, described: Any, dtype: "torch.dtype") -> None:
        """Run the network over a few pixels, on the CPU.

        Raises:
            ValueError: its output is of another size than it should be.
            Exception: whatever the network raises.
        """
        import torch

        sides = [self._fitting(40 if self._square else 24), self._fitting(40)]
        with torch.inference_mode():
            made = described.to(torch.device("cpu"), dtype)(torch.full((1, 3, *sides), 0.5, dtype=dtype))
        if made.shape != (1, 3, *(described.scale * side for side in sides)):
            raise ValueError(f"makes {tuple(made.shape)} of {sides[1]}x{sides[0]} pixels")

    def _load(self, device: "torch.device") -> Any:
        described = read_described(self.checked.path)
        described.model.eval().requires_grad_(False)
        return described.to(device, self.dtype)

    def _fitting(self, side: int) -> int:
        """Return the least side, from `side`, that the network takes."""
        return -(-max(side, self._minimum) // self._multiple) * self._multiple

    def _forward(self, x: "torch.Tensor") -> "torch.Tensor":
        """Run the network over (B, 3, H, W) in [0, 1], one by one, as spandrel wants it; fp32 on the CPU."""
        import torch

        from plain_sr.enlarging import padded

        height, width = x.shape[2:]
        sides = [self._fitting(height), self._fitting(width)]
        if self._square:
            sides = [max(sides)] * 2
        x = padded(x, *sides)
        with (
            self.machine.residency.use(COMPONENT) as described,
            self.machine.times.stage(f"{COMPONENT}.forward"),
            torch.inference_mode(),
        ):
            made = [described(one[None].to(self.device, self.dtype)).float().cpu() for one in x]
        return torch.cat(made)[..., : self.network.scale * height, : self.network.scale * width]

    def describe(self) -> dict[str, object]:
        """Say what it is, for run.json."""
        return {
            "backbone": "file",
            "file": self.checked.path.name,
            "architecture": self.architecture,
            "scale": self.network.scale,
            "sha256": self.checked.sha256,
            "dtype": str(self.dtype).removeprefix("torch."),
            "licence": self.checked.licence,
        }


def read_described(path: Path) -> Any:
    """Read a file that `check_file_network` accepted, and let spandrel build its network.

    Returns:
        spandrel's ImageModelDescriptor, on the CPU.

    Raises:
        InputError: see `FileNetwork`.
    """
    spandrel = _import_spandrel(path)
    with blaming(path, "get it from its publisher"):
        state = spandrel.canonicalize_state_dict(_read_tensors(path))
        try:
            described = spandrel.ModelLoader().load_from_state_dict(state)
        except spandrel.UnsupportedModelError:
            raise InputError(
                f"{path}: not a network that spandrel {spandrel.__version__} knows; where there is an ONNX"
                " file of it, --backbone takes that"
            ) from None
        channels = described.input_channels, described.output_channels
        fits = isinstance(described, spandrel.ImageModelDescriptor) and described.purpose in (
            "SR",
            "Restoration",
        )
        if not fits or channels != (3, 3) or described.scale not in range(1, 9):
            raise InputError(
                f"{path}: {described.architecture.name} for {described.purpose}, {channels[0]} channels to"
                f" {channels[1]}, {described.scale}x; --backbone takes networks for SR or Restoration, of 3"
                " channels, 1x to 8x"
            )
    return described


def _read_tensors(path: Path) -> Any:
    if path.suffix.lower() == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


def _import_spandrel(path: Path) -> Any:
    try:
        import spandrel
    except Exception as error:  # a torchvision of another torch's raises a RuntimeError
        reason = "is not installed here"
        if not (isinstance(error, ModuleNotFoundError) and error.name == "spandrel"):
            reason = f"does not import here ({type(error).__name__}: {one_line(str(error))})"
        raise InputError(
            f"{path}: read with the package spandrel, which {reason}: pip install -r requirements-extra.txt,"
            " or take an ONNX file"
        ) from None
    return spandrel

"""SR backbone: a network out of an ONNX file, in onnxruntime."""

import logging
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from checkpoints.gate import blaming
from errors import InputError
from machine.machine import Machine
from machine.memory import Size, out_of_memory
from machine.onnx_session import providers_of
from plain_sr.file_network import licence_in, one_line, sha256_in, size_of
from plain_sr.plain_backbone import PlainBackbone

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

ONNX_ENDING = ".onnx"
MAX_BYTES = 2**31  # of one protobuf message
MIN_SIDE, MAX_SIDE = 16, 4096  # of a fixed size
# Sides that are tried until a network takes them, and what it then gets its sides as multiples of: most take
# any, those with windows or with a U's levels want multiples.
PROBES = ((17, 23, 1), (16, 24, 8), (64, 128, 64))  # height, width, multiple
PROBE_SECONDS = 60
DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16"}
WAY_OUT = "export it again, with one NCHW input of 3 channels, or get it from its publisher"
COMPONENT = "sr.onnx"


@dataclass(frozen=True)
class CheckedOnnx:
    """A file that begins as ONNX files do; what its graph is, is not known yet.

    Attributes:
        path: the file.
        bytes: its size.
        sha256: of its content.
    """

    path: Path
    bytes: int
    sha256: str


@dataclass(frozen=True)
class _Graph:
    """What a graph says of itself, and which files beside it hold its weights."""

    name: str
    licence: str
    data: list[Path]


@dataclass(frozen=True)
class _Signature:
    """What a session takes: 3 channels, in batches of one or any; a side, or None where any is taken."""

    dtype: str
    height: int | None
    width: int | None
    one_by_one: bool


def check_onnx_network(path: Path) -> CheckedOnnx:
    """See that a file can be an ONNX graph; imports neither onnx nor onnxruntime.

    Raises:
        InputError: missing, too large, or something else.
    """
    size = size_of(path, MAX_BYTES)
    with path.open("rb") as file:
        if file.read(1) != b"\x08":  # the version of the format, field 1 of a ModelProto
            raise InputError(f"{path}: not an ONNX file; get it from its publisher")
    return CheckedOnnx(path, size, sha256_in(path))


class OnnxNetwork(PlainBackbone):
    """Enlarge crops with an ONNX graph."""

    component = COMPONENT

    def __init__(self, checked: CheckedOnnx, machine: Machine) -> None:
        """Look through the graph, try it on a few pixels, and register it; it is loaded when its step comes.

        Args:
            checked: the file.
            machine: whose SR device, residency and batches are used. The graph's own dtype is its precision.

        Raises:
            InputError: weights lie outside of the file's folder, onnxruntime has something against the graph,
                or it does not make RGB pictures 1 to 8 times as large.
        """
        from plain_sr.enlarging import TILE, Network

        self.checked = checked
        self.machine = machine
        self.device = machine.devices.sr
        self.graph = _look_through(checked.path)
        with blaming(checked.path, WAY_OUT):
            session = _open(checked.path, optimized=False)
            self.signature = _signature(session, checked.path)
            scale, self._least, self._multiple = _probe(session, self.signature, checked.path)
        fixed = [side for side in (self.signature.height, self.signature.width) if side]
        self.network = Network(scale, self._forward, min(fixed, default=TILE), self._multiple)
        weights = checked.bytes + sum(file.stat().st_size for file in self.graph.data)
        size = Size(0, weights, largest=self.network.tile * scale)
        machine.residency.add(COMPONENT, self._load, self.device, size)

    def _load(self, device: "torch.device") -> Any:
        with blaming(self.checked.path, WAY_OUT):
            return _open(self.checked.path, optimized=True, device=device)

    def _forward(self, x: "torch.Tensor") -> "torch.Tensor":
        """Run the graph over (B, 3, H, W) in [0, 1]; fp32 on the CPU."""
        import torch

        from plain_sr.enlarging import padded

        height, width = x.shape[2:]
        pixels = padded(
            x,
            self.signature.height or self._fitting(height),
            self.signature.width or self._fitting(width),
        ).numpy()
        parts = [pixels[n : n + 1] for n in range(len(pixels))] if self.signature.one_by_one else [pixels]
        with (
            self.machine.residency.use(COMPONENT) as session,
            self.machine.times.stage(f"{COMPONENT}.forward"),
        ):
            made = [_run(session, part.astype(self.signature.dtype)) for part in parts]
        scale = self.network.scale
        return torch.from_numpy(np.concatenate(made))[..., : scale * height, : scale * width]

    def _fitting(self, side: int) -> int:
        """Return the least side, from `side`, that the graph is known to take."""
        return -(-max(side, self._least) // self._multiple) * self._multiple

    def describe(self) -> dict[str, object]:
        """Say what it is, for run.json."""
        data = {file.name: sha256_in(file) for file in self.graph.data}
        return {
            "backbone": "file",
            "file": self.checked.path.name,
            "architecture": f"ONNX graph {self.graph.name}",
            "scale": self.network.scale,
            "sha256": self.checked.sha256,
            "dtype": self.signature.dtype,
            "licence": self.graph.licence,
            **({"data": data} if data else {}),
        }


def _look_through(path: Path) -> _Graph:
    """Read the graph, but none of its weights from elsewhere.

    Raises:
        InputError: not a graph, or weights lie in a file that is not beside it.
    """
    import onnx

    with blaming(path, WAY_OUT):
        model = onnx.load(path, load_external_data=False)
        data = sorted({_beside(path, location) for location in _locations(model)})
        metadata = {entry.key: entry.value for entry in model.metadata_props[:100]}
        return _Graph(one_line(model.graph.name), licence_in(metadata), data)


def _locations(message: Any) -> Iterator[str]:
    """Yield the files that tensors name anywhere in a model: in subgraphs, functions and attributes too."""
    import onnx

    if isinstance(message, onnx.TensorProto):
        if message.data_location == onnx.TensorProto.EXTERNAL or message.external_data:
            yield next((entry.value for entry in message.external_data if entry.key == "location"), "")
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            parts = value if hasattr(value, "__len__") and not hasattr(value, "ListFields") else [value]
            for part in parts:
                yield from _locations(part)


def _beside(path: Path, location: str) -> Path:
    """Return the file that a tensor names.

    Raises:
        InputError: it does not lie beside the graph, also where it is a link.
    """
    file = path.parent / location
    inside = location and location == Path(location).name and location != ".." and "\\" not in location
    # in the hub's cache both are links into one folder
    homes = (path.parent.resolve(), path.resolve().parent)
    if not inside or file.resolve().parent not in homes:
        raise InputError(f"{path}: has weights at {one_line(location)!r}, outside of its folder; refused")
    if not file.is_file():
        raise InputError(f"{path}: its weights are in {location!r}, which is not beside it; fetch that too")
    return file


def _open(path: Path, optimized: bool, device: "torch.device | None" = None) -> Any:
    """Open a session: on a CUDA device where onnxruntime has its provider, else on the CPU.

    Args:
        path: the graph.
        optimized: let onnxruntime change the graph, which takes its time.
        device: where it shall compute; None is the CPU.
    """
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong with a file is raised too, and becomes our own line
    options.intra_op_num_threads = torch.get_num_threads()
    options.enable_cpu_mem_arena = False  # it keeps the memory of the largest picture so far
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    providers = ["CPUExecutionProvider"] if device is None else providers_of(device)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions have no common base but this
        if out_of_memory(error):
            raise
        raise ValueError(_reason(error)) from None


def _reason(error: Exception) -> str:
    """Return what onnxruntime has against something, less its codes and the path that come first."""
    said = " ".join(str(error).split())
    said = said.rpartition(" failed:")[2].removeprefix("[ONNXRuntimeError] : ")
    return one_line(re.sub("^[0-9]+ : [A-Z_]+ : ", "", said))


def _signature(session: Any, path: Path) -> _Signature:
    """Say what a session takes.

    Raises:
        InputError: anything but one NCHW input of 3 channels and one output.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise InputError(
            f"{path}: a graph of {len(inputs)} inputs and {len(outputs)} outputs; an SR network has one of"
            " each"
        )
    shape, kind = list(inputs[0].shape), inputs[0].type
    fixed = [side if isinstance(side, int) else None for side in shape]
    fits = len(fixed) == 4 and fixed[1] in (3, None)
    if kind not in DTYPES or not fits or not all(_is_side(side) for side in fixed[2:]):
        said = ", ".join(one_line(str(side)) for side in shape[:6])
        raise InputError(
            f"{path}: takes a {one_line(kind)} of ({said}); an SR network takes fp32 or fp16 of (batch, 3,"
            f" height, width), fixed sides of {MIN_SIDE} to {MAX_SIDE}"
        )
    batch, _, height, width = fixed
    if batch not in (1, None):
        raise InputError(f"{path}: takes {batch} pictures at once; export it for one, or for any number")
    return _Signature(DTYPES[kind], height, width, batch == 1)


def _is_side(side: int | None) -> bool:
    return side is None or MIN_SIDE <= side <= MAX_SIDE


def _probe(session: Any, signature: _Signature, path: Path) -> tuple[int, int, int]:
    """Find by trying what a session makes of a few pixels.

    Returns:
        Its scale; the least side that it is known to take; what sides must be multiples of.

    Raises:
        InputError: it takes none of the sizes, or what it makes is no picture 1 to 8 times as large.
    """
    said = ""
    for height, width, multiple in PROBES:
        height, width = signature.height or height, signature.width or width
        x = np.full((1, 3, height, width), 0.5, signature.dtype)
        start = time.monotonic()
        try:
            made = _run(session, x, PROBE_SECONDS)
        except InputError:
            raise
        except Exception as error:  # onnxruntime's exceptions have no common base but this
            if time.monotonic() - start > PROBE_SECONDS:
                raise InputError(f"{path}: took over {PROBE_SECONDS} s for {width}x{height} pixels") from None
            said = said or f"fails on {width}x{height} pixels: {_reason(error)}"
            continue
        scale = made.shape[-1] // width
        if made.shape == (1, 3, scale * height, scale * width) and 1 <= scale <= 8:
            return scale, min(height, width), multiple
        said = f"makes {made.shape} of {x.shape}, which is not 1 to 8 times as large in both directions"
    raise InputError(f"{path}: {said}; {WAY_OUT}")


def _run(session: Any, x: np.ndarray, seconds: float | None = None) -> np.ndarray:
    """Run a session over (B, 3, H, W); its output in fp32.

    Args:
        session: whose signature `_signature` has seen.
        x: of the session's dtype.
        seconds: after which it is stopped, and raises.
    """
    import onnxruntime

    options = onnxruntime.RunOptions()
    timer = threading.Timer(seconds, lambda: setattr(options, "terminate", True)) if seconds else None
    if timer:
        timer.daemon = True
        timer.start()
    try:
        (made,) = session.run(None, {session.get_inputs()[0].name: x}, options)
    finally:
        if timer:
            timer.cancel()
    if not isinstance(made, np.ndarray) or made.dtype.kind != "f":
        raise ValueError("its output is no tensor of floating-point numbers")
    return made.astype(np.float32, copy=False)

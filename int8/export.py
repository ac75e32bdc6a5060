"""An SD3 part as an ONNX graph whose large weights are int8, written weight by weight.

The graph is traced on a *hollow* copy of the network: parameters of the right shape that take no memory.
Weights come afterwards, one at a time, straight from the checkpoint into the external data file. So the
export needs no more memory than one layer, whatever the model's size (T5-XXL: 19 GB in fp32), and a part can
be written again with other layers in int8 without being traced again.

How a layer's weight is stored (`LayerMode`):

* ``static``: weight int8 with a scale for each output channel, input 8 bits unsigned with one scale and zero
  point found in calibration: QuantizeLinear and DequantizeLinear pairs around MatMul, which ONNX Runtime's
  CPU provider runs as one integer product (MatMulIntegerToFloat). Unsigned inputs and signed weights, because
  that pair is what its VNNI kernels are made for. A layer's input may be divided by a vector first, and the
  weight's columns multiplied by it (SmoothQuant, arXiv 2211.10438).
* ``blocks``: weight 8 bits with a scale for each block of 128 inputs; the input is rounded to 8 bits block by
  block while it runs, each token by itself: ONNX Runtime's MatMulNBits. Outliers spoil only their own block.
* ``weights``: weight int8 with a scale for each output channel, input and arithmetic fp32. The int8 weight is
  multiplied out by Cast and Mul, which ONNX Runtime does once, when the session opens: a quarter of the disk,
  memory and speed of fp32. (DequantizeLinear in their place would be turned into ``blocks``.)
* ``float``: the weight as it is, in fp32.

Convolutions know ``weights`` (a scale for each output channel) and ``float``; so do embedding tables (a scale
for each row, applied after the lookup).
"""

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from onnx.external_data_helper import set_external_data

from int8.find_parts import DATA, MODEL

OPSET = 17  # the first with LayerNormalization
CONTRIB = "com.microsoft"  # ONNX Runtime's own operators
BLOCK = 128  # inputs that share a scale in MatMulNBits
SMALL_BLOCK = 32  # the same for layers narrower than BLOCK
INT8_ARITHMETIC = 4  # MatMulNBits' accuracy_level: the input is rounded to int8 too, block by block
MIN_TABLE_ROWS = 128  # embedding tables smaller than that stay fp32: positions, relative distances
INLINE_BYTES = 1024  # tensors up to that size are kept in model.onnx itself
ALIGNMENT = 4096  # of tensors in the external data file, so that they can be memory-mapped

LayerMode = Literal["static", "blocks", "weights", "float"]
ReadTensor = Callable[[str], torch.Tensor]


@dataclass(frozen=True)
class Activation:
    """How a ``static`` layer's input becomes 8 bits: round(x / smoothing / scale) + zero_point, 0 to 255.

    Attributes:
        scale: step of the 8-bit numbers.
        zero_point: the number that stands for 0.0.
        smoothing: (inputs,) divisor of each input channel, or None.
    """

    scale: float
    zero_point: int
    smoothing: torch.Tensor | None = None


@dataclass(frozen=True)
class LayerPlan:
    """How one layer is stored; ``activation`` belongs to ``static``."""

    mode: LayerMode
    activation: Activation | None = None


@dataclass(frozen=True)
class Graph:
    """A traced part without weights.

    Attributes:
        model: its nodes; parameters are graph inputs under their own names.
        inputs: names of the inputs proper.
        linears: for each `nn.Linear`, by module name, the graph's name of its input: layers that share their
            input have the same one.
        others: names of the other modules that can be stored in 8 bits: convolutions, embedding tables.
    """

    model: onnx.ModelProto
    inputs: tuple[str, ...]
    linears: dict[str, str]
    others: tuple[str, ...]

    def groups(self) -> list[list[str]]:
        """Return the names of `linears`, those that share their input together, in the graph's order."""
        by_input: dict[str, list[str]] = {}
        for name, source in self.linears.items():
            by_input.setdefault(source, []).append(name)
        return list(by_input.values())


def trace(
    part: torch.nn.Module,
    inputs: Mapping[str, torch.Tensor],
    outputs: Sequence[str],
    free_axes: Mapping[str, Mapping[int, str]],
) -> Graph:
    """Trace a part into an ONNX graph whose weights are still to be filled in.

    Args:
        part: the network, its parameters on the meta device; they are views of a single zero afterwards.
        inputs: an example of each input on the CPU, by name, in the order of the call.
        outputs: names of what the call returns, in order.
        free_axes: for inputs and outputs the axes of free length, each with a name.
    """
    hollow(part, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing notes shape checks, and its deprecation
        path = Path(folder) / MODEL
        # TorchScript's exporter: it keeps module names, and the newer one needs a further package.
        torch.onnx.export(
            part,
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: dict(axes) for name, axes in free_axes.items()},
            opset_version=OPSET,
            dynamo=False,
            export_params=False,
            do_constant_folding=False,
            keep_initializers_as_inputs=True,
        )
        model = onnx.load(str(path))
    nodes, linears, others = [], {}, []
    transposed = {
        node.output[0]: node.input[0]
        for node in model.graph.node
        if node.op_type == "Transpose" and node.input[0].endswith(".weight")
    }
    shapes = {value.name: _shape(value) for value in model.graph.input}
    for node in model.graph.node:
        nodes.append(node)
        second = node.input[1] if len(node.input) > 1 else ""
        if node.op_type == "MatMul" and second in transposed:
            node.input[1] = transposed[second]
            linears[_module(transposed[second])] = node.input[0]
        elif node.op_type == "Gemm" and second in shapes:
            linears[_module(second)] = node.input[0]
        elif node.op_type == "Conv" and second in shapes:
            others.append(_module(second))
        elif node.op_type == "Gather" and shapes.get(node.input[0], (0,))[0] >= MIN_TABLE_ROWS:
            others.append(_module(node.input[0]))
    kept = [node for node in nodes if node.op_type != "Transpose" or node.output[0] not in transposed]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return Graph(model, tuple(inputs), linears, tuple(dict.fromkeys(others)))


def hollow(module: torch.nn.Module, device: torch.device) -> None:
    """Put views of a single zero, which take no memory, in the place of tensors on the meta device."""
    for child in module.modules():
        for name, parameter in child.named_parameters(recurse=False):
            if parameter.is_meta:
                empty = torch.zeros((), dtype=parameter.dtype, device=device).expand(parameter.shape)
                child._parameters[name] = torch.nn.Parameter(empty, requires_grad=False)
        for name, buffer in child.named_buffers(recurse=False):
            if buffer.is_meta:
                empty = torch.zeros((), dtype=buffer.dtype, device=device)
                child._buffers[name] = empty.expand(buffer.shape)


def write(graph: Graph, plan: Mapping[str, LayerPlan], read: ReadTensor, folder: Path) -> None:
    """Write ``model.onnx`` and ``model.onnx.data`` with the weights stored as planned.

    Args:
        graph: from `trace`.
        plan: for each module of ``graph.linears`` and ``graph.others``; what is left out stays fp32.
        read: gives a parameter or buffer by name; called once for each, in the graph's order.
        folder: an existing folder.
    """
    with (folder / DATA).open("wb") as data:
        model = _Writer(graph, plan, read, data).model()
    onnx.save(model, str(folder / MODEL))


class _Writer:
    """Turns a traced graph into the model, node by node."""

    def __init__(self, graph: Graph, plan: Mapping[str, LayerPlan], read: ReadTensor, data: BinaryIO) -> None:
        self.graph, self.plan, self.read, self.data = graph, plan, read, data
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.quantized: dict[tuple[Any, ...], str] = {}  # 8-bit copies of layer inputs
        self.parameters = {value.name for value in graph.model.graph.input} - set(graph.inputs)

    def model(self) -> onnx.ModelProto:
        """Return the whole model; weights are in the data file already."""
        source = self.graph.model
        for node in source.graph.node:
            self.add(node)
        graph = helper.make_graph(
            self.nodes,
            "part",
            [value for value in source.graph.input if value.name in self.graph.inputs],
            list(source.graph.output),
            list(self.initializers.values()),
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=source.ir_version, producer_name="chain-of-zoom"
        )

    def add(self, node: onnx.NodeProto) -> None:
        """Add a traced node, or what takes its place."""
        second = node.input[1] if len(node.input) > 1 else ""
        if node.op_type in ("MatMul", "Gemm") and second in self.parameters:
            self.linear(node, _module(second))
        elif node.op_type == "Conv" and self.mode(second) == "weights":
            self.convolution(node, _module(second))
        elif node.op_type == "Gather" and self.mode(node.input[0]) == "weights":
            self.table(node, _module(node.input[0]))
        else:
            for name in node.input:
                if name in self.parameters and name not in self.initializers:
                    self.store(name, self.read(name))
            self.nodes.append(node)

    def mode(self, parameter: str) -> LayerMode:
        """Return how the module that owns a parameter is stored."""
        planned = self.plan.get(_module(parameter))
        return planned.mode if planned else "float"

    def linear(self, node: onnx.NodeProto, name: str) -> None:
        """Add the product with an `nn.Linear`'s weight (outputs, inputs), and its bias if Gemm has one."""
        planned = self.plan.get(name, LayerPlan("float"))
        weight = self.read(f"{name}.weight")
        gemm = node.op_type == "Gemm" and len(node.input) > 2
        product = f"{node.output[0]}_product" if gemm else node.output[0]
        source = node.input[0]
        if planned.mode == "static" and planned.activation is not None:
            source = self.eight_bits(source, planned.activation)
            if planned.activation.smoothing is not None:
                weight = weight * planned.activation.smoothing
        if planned.mode == "static":
            values, scale = quantize_rows(weight)
            self.store(f"{name}.weight_int8", values.t())
            self.store(f"{name}.weight_scale", scale)
            matrix = self.call(
                "DequantizeLinear", f"{name}.weight_int8", f"{name}.weight_scale",
                output=f"{name}.weight", axis=1,
            )  # fmt: skip
            self.call("MatMul", source, matrix, output=product, name=name)
        elif planned.mode == "weights":
            values, scale = quantize_rows(weight)
            matrix = self.multiplied_out(f"{name}.weight", values.t(), scale)
            self.call("MatMul", source, matrix, output=product, name=name)
        elif planned.mode == "blocks":
            values, scale, block = quantize_blocks(weight)
            self.store(f"{name}.weight_uint8", values)
            self.store(f"{name}.weight_scale", scale)
            self.call(
                "MatMulNBits", source, f"{name}.weight_uint8", f"{name}.weight_scale",
                output=product, name=name, domain=CONTRIB, K=weight.shape[1], N=weight.shape[0], bits=8,
                block_size=block, accuracy_level=INT8_ARITHMETIC,
            )  # fmt: skip
        else:
            self.store(f"{name}.weight", weight.t())
            self.call("MatMul", source, f"{name}.weight", output=product, name=name)
        if gemm:
            self.store(node.input[2], self.read(node.input[2]))
            self.call("Add", product, node.input[2], output=node.output[0])

    def eight_bits(self, source: str, activation: Activation) -> str:
        """Return the name of a layer's input once through 8 bits; layers that share it share that."""
        smoothing = activation.smoothing
        vector = None if smoothing is None else smoothing.numpy().tobytes()
        key = (source, activation.scale, activation.zero_point, vector)
        if key not in self.quantized:
            stem = f"{source}_{len(self.quantized)}"
            if smoothing is not None:
                self.store(f"{stem}_smoothing", 1 / smoothing)
                source = self.call("Mul", source, f"{stem}_smoothing", output=f"{stem}_smooth")
            self.store(f"{stem}_scale", torch.tensor(activation.scale, dtype=torch.float32))
            self.store(f"{stem}_zero", torch.tensor(activation.zero_point, dtype=torch.uint8))
            pair = (f"{stem}_scale", f"{stem}_zero")
            rounded = self.call("QuantizeLinear", source, *pair, output=f"{stem}_uint8")
            self.quantized[key] = self.call("DequantizeLinear", rounded, *pair, output=f"{stem}_rounded")
        return self.quantized[key]

    def convolution(self, node: onnx.NodeProto, name: str) -> None:
        """Add a convolution whose weight, (outputs, inputs, ...), is int8 on disk."""
        weight = self.read(f"{name}.weight")
        values, scale = quantize_rows(weight.flatten(1))
        self.multiplied_out(
            f"{name}.weight", values.view(weight.shape), scale.view(-1, *(1 for _ in weight.shape[1:]))
        )
        for parameter in node.input[2:]:
            self.store(parameter, self.read(parameter))
        self.nodes.append(node)

    def table(self, node: onnx.NodeProto, name: str) -> None:
        """Add a lookup in an int8 table, (rows, width): rows are scaled after they are looked up."""
        values, scale = quantize_rows(self.read(f"{name}.weight"))
        self.store(f"{name}.weight_int8", values)
        self.store(f"{name}.weight_scale", scale[:, None])
        stem, rows = node.output[0], node.input[1]
        found = self.call("Gather", f"{name}.weight_int8", rows, output=f"{stem}_int8")
        scales = self.call("Gather", f"{name}.weight_scale", rows, output=f"{stem}_scale")
        widened = self.call("Cast", found, output=f"{stem}_wide", to=TensorProto.FLOAT)
        self.call("Mul", widened, scales, output=stem)

    def multiplied_out(self, name: str, values: torch.Tensor, scale: torch.Tensor) -> str:
        """Store an int8 tensor with its scales, and return the name of the fp32 tensor that it makes."""
        self.store(f"{name}_int8", values)
        self.store(f"{name}_scale", scale)
        widened = self.call("Cast", f"{name}_int8", output=f"{name}_wide", to=TensorProto.FLOAT)
        return self.call("Mul", widened, f"{name}_scale", output=name)

    def call(
        self, operator: str, *inputs: str, output: str, name: str = "", domain: str = "", **attributes: int
    ) -> str:
        """Add a node of one output and return the output's name."""
        self.nodes.append(
            helper.make_node(operator, inputs, [output], name=name or output, domain=domain, **attributes)
        )
        return output

    def store(self, name: str, tensor: torch.Tensor) -> None:
        """Add an initializer, its bytes in the data file unless they are few."""
        array = np.ascontiguousarray(tensor.detach().numpy())
        proto = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype))
        proto.dims.extend(tensor.shape)
        proto.raw_data = b"" if array.nbytes > INLINE_BYTES else array.tobytes()
        if array.nbytes > INLINE_BYTES:
            offset = -(-self.data.tell() // ALIGNMENT) * ALIGNMENT
            self.data.seek(offset)
            self.data.write(array.data)
            set_external_data(proto, DATA, offset=offset, length=array.nbytes)
            proto.data_location = TensorProto.EXTERNAL
            proto.ClearField("raw_data")
        self.initializers[name] = proto


def quantize_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round (rows, columns) to int8, symmetric, with one scale a row.

    Returns:
        Values of the same shape in -127 to 127; scales (rows,), fp32: weight is about values * scale.
    """
    scale = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
    return (weight / scale[:, None]).round_().to(torch.int8), scale


def quantize_blocks(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Round (outputs, inputs) to 8 bits with a scale for each block of inputs, as MatMulNBits wants it.

    Returns:
        Values (outputs, blocks, block), uint8, 128 standing for 0 and padding; scales (outputs, blocks),
        fp32; the block's length.
    """
    outputs, inputs = weight.shape
    block = BLOCK if inputs >= BLOCK else SMALL_BLOCK
    padded = torch.nn.functional.pad(weight, (0, -inputs % block))
    values, scale = quantize_rows(padded.reshape(-1, block))
    blocks = padded.shape[1] // block
    unsigned = values.to(torch.int16).add_(128).to(torch.uint8)
    return unsigned.view(outputs, blocks, block), scale.view(outputs, blocks), block


def _module(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)

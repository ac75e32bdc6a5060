"""`--backbone FILE.onnx`: the same pictures as PyTorch's network, and what is not let in."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import ROOT
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

from errors import InputError
from machine.machine import Machine
from plain_sr import onnx_network, rrdbnet
from plain_sr.any_file import build_network, check_network
from plain_sr.embedded import EmbeddedBackbone
from plain_sr.onnx_network import OnnxNetwork
from plain_sr.rrdbnet import REALSR, RRDBNet, read_network
from zoom.protocols import StepInput


def export(network: nn.Module, path: Path, axes=("batch", "height", "width"), size=(1, 24, 32)) -> Path:
    """Export a network; the axes that are named in `axes` are free, the others of `size`."""
    free = {axis: name for axis, name in zip((0, 2, 3), axes, strict=True) if name}
    strip, rrdbnet.STRIP = rrdbnet.STRIP, 10**6  # a loop over strips would be traced for one height
    try:
        torch.onnx.export(
            network.eval(), (torch.rand(size[0], 3, *size[1:]),), str(path), input_names=["x"],
            output_names=["y"], dynamic_axes={"x": free, "y": free}, dynamo=False,
        )  # fmt: skip
    finally:
        rrdbnet.STRIP = strip
    return path


class Scaled(nn.Module):
    """A convolution and a pixel shuffle: a network of any scale."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        torch.manual_seed(scale)
        self.body = nn.Sequential(
            nn.Conv2d(3, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale), nn.Sigmoid()
        )

    def forward(self, x):
        return self.body(x)


class Windowed(Scaled):
    """One that takes its input apart into windows of 8 pixels."""

    def forward(self, x):
        batch, channels, height, width = x.shape
        x = x.reshape(batch, channels, height // 8, 8, width // 8, 8)
        return super().forward(x.reshape(batch, channels, height, width))


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> tuple[RRDBNet, Path]:
    """A network of one RRDB, and its ONNX file."""
    torch.manual_seed(0)
    network = RRDBNet(features=8, blocks=1, growth=4).eval().requires_grad_(False)
    return network, export(network, tmp_path_factory.mktemp("onnx") / "small.onnx")


def build(path: Path, batch_size: int = 1) -> OnnxNetwork:
    network = build_network(check_network(path), Machine.choose("cpu", batch_size=batch_size))
    assert isinstance(network, OnnxNetwork)
    return network


def crop(width: int, height: int) -> Image.Image:
    with Image.open(ROOT / "samples" / "chelsea.png") as sample:
        return sample.convert("RGB").crop((100, 50, 100 + width, 50 + height))


def step_input(picture: Image.Image, scale: int) -> StepInput:
    size = picture.width * scale, picture.height * scale
    return StepInput(picture, picture.resize(size, Image.Resampling.BICUBIC))


def enlarge(network: OnnxNetwork, *pictures: Image.Image) -> list[np.ndarray]:
    inputs = [step_input(picture, network.network.scale) for picture in pictures]
    return [np.asarray(one, int) for one in network(inputs, [[""]] * len(inputs), [0] * len(inputs))]


def by_torch(network: nn.Module, picture: Image.Image) -> np.ndarray:
    x = torch.from_numpy(np.asarray(picture, np.float32) / 255).permute(2, 0, 1)[None]
    with torch.inference_mode():
        made = network(x)[0]
    return (made.clamp(0, 1) * 255).round().permute(1, 2, 0).int().numpy()


def levels_apart(one: np.ndarray, other: np.ndarray) -> int:
    assert one.shape == other.shape
    return int(np.abs(one - other).max())


# The same pictures


@pytest.mark.parametrize("size", [(40, 24), (61, 33), (128, 96)])
def test_a_small_rrdbnet_makes_pytorchs_pictures(small, size):
    network, path = small
    (made,) = enlarge(build(path), crop(*size))
    assert levels_apart(made, by_torch(network, crop(*size))) <= 1


def test_the_embedded_network_makes_its_own_pictures_out_of_an_onnx_file_too(tmp_path):
    path = export(read_network(REALSR), tmp_path / "realsr.onnx")
    one = step_input(crop(40, 30), 4)
    (ours,) = EmbeddedBackbone(Machine.choose("cpu"))([one], [[""]], [0])
    (made,) = build(path)([one], [[""]], [0])
    assert levels_apart(np.asarray(made, int), np.asarray(ours, int)) <= 1


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_the_scale_is_found_by_trying(tmp_path, scale):
    network = Scaled(scale).eval()
    backbone = build(export(network, tmp_path / "net.onnx"))
    assert backbone.describe()["scale"] == scale
    (made,) = enlarge(backbone, crop(30, 20))
    assert levels_apart(made, by_torch(network, crop(30, 20))) <= 1


def test_batches_change_nothing(small):
    pictures = [crop(40, 24).rotate(180 * turn) for turn in range(4)]
    for one, other in zip(
        enlarge(build(small[1]), *pictures), enlarge(build(small[1], 3), *pictures), strict=True
    ):
        assert levels_apart(one, other) <= 1


def test_a_graph_for_one_picture_gets_them_one_by_one(tmp_path):
    network = Scaled(2).eval()
    path = export(network, tmp_path / "net.onnx", (None, "height", "width"))
    for made in enlarge(build(path, batch_size=3), *[crop(30, 20)] * 3):
        assert levels_apart(made, by_torch(network, crop(30, 20))) <= 1


@pytest.mark.parametrize("size", [(48, 48), (48, 64)], ids=["square", "wider"])
@pytest.mark.parametrize("side", [(30, 20), (48, 48), (100, 70)])
def test_a_graph_of_a_fixed_size_gets_tiles_of_exactly_that_size(tmp_path, size, side):
    network = Scaled(2).eval()
    path = export(network, tmp_path / "net.onnx", (None, None, None), (1, *size))
    backbone = build(path)
    assert backbone.network.tile == 48
    (made,) = enlarge(backbone, crop(*side))
    inner = np.s_[2:-4, 2:-4]  # a convolution sees zeros beyond the picture, and reflections in the padding
    assert levels_apart(made[inner], by_torch(network, crop(*side))[inner]) <= 2


def test_a_network_of_windows_gets_whole_windows(tmp_path):
    network = Windowed(2).eval()
    backbone = build(export(network, tmp_path / "net.onnx"))
    (made,) = enlarge(backbone, crop(30, 20))
    assert made.shape == (40, 60, 3)
    assert levels_apart(made[:-2, :-2], by_torch(Scaled(2).eval(), crop(30, 20))[:-2, :-2]) <= 1


def test_a_graph_in_fp16_computes_in_fp16(tmp_path):
    backbone = build(saved(doubling(kind=TensorProto.FLOAT16), tmp_path))
    assert backbone.describe()["dtype"] == "float16"
    (made,) = enlarge(backbone, crop(30, 20))
    expected = np.asarray(crop(30, 20).resize((60, 40), Image.Resampling.NEAREST), int)
    assert levels_apart(made, expected) <= 1


# What is said of it


def test_the_plan_knows_the_graph_before_any_step(small):
    backbone = build(small[1])
    said = backbone.describe()
    assert (said["backbone"], said["file"], said["scale"], said["dtype"]) == (
        "file",
        "small.onnx",
        4,
        "float32",
    )
    assert said["licence"] == "not stated"
    (row,) = backbone.machine.residency.plan().rows
    assert (row.component, row.size.bytes) == ("sr.onnx", small[1].stat().st_size)
    assert backbone.machine.residency.loads == {}
    enlarge(backbone, crop(20, 20))
    assert backbone.machine.residency.loads == {"sr.onnx": 1}


def test_the_licence_of_the_files_metadata_is_said(tmp_path):
    model = doubling()
    helper.set_model_props(model, {"license": "Apache-2.0"})
    onnx.save(model, tmp_path / "net.onnx")
    assert build(tmp_path / "net.onnx").describe()["licence"] == "Apache-2.0"


# Graphs by hand


def graph(nodes, shape=("b", 3, "h", "w"), kind=TensorProto.FLOAT, initializers=(), inputs=1, out="y"):
    values = [helper.make_tensor_value_info(f"x{k or ''}", kind, shape) for k in range(inputs)]
    result = helper.make_tensor_value_info(out, kind, None)
    return helper.make_model(
        helper.make_graph(nodes, "by hand", values, [result], list(initializers)),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )


def resize(factors, source="x", out="y"):
    scales = numpy_helper.from_array(np.array(factors, np.float32), "scales")
    return helper.make_node("Resize", [source, "", "scales"], [out], mode="nearest"), scales


def doubling(**kwargs):
    node, scales = resize([1, 1, 2, 2])
    return graph([node], initializers=[scales], **kwargs)


def refused(path: Path) -> str:
    with pytest.raises(InputError) as error:
        build_network(check_network(path), Machine.choose("cpu"))
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) - len(str(path)) < 400
    return message


def saved(model, tmp_path: Path) -> Path:
    onnx.save(model, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


# What is refused


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (doubling(shape=("b", 1, "h", "w")), "of (b, 1, h, w)"),
        (doubling(shape=("b", "h", "w", 3)), "of (b, h, w, 3)"),
        (doubling(shape=("b", 4, "h", "w")), "of (b, 4, h, w)"),
        (doubling(shape=(4, 3, "h", "w")), "takes 4 pictures at once"),
        (doubling(shape=(1, 3, 10**6, 10**6)), "fixed sides of"),
        (doubling(shape=(1, 3, 0, "w")), "fixed sides of"),
        (doubling(kind=TensorProto.UINT8), "tensor(uint8)"),
        (doubling(inputs=2), "2 inputs"),
    ],
)
def test_graphs_that_take_something_else_are_refused_by_what_they_take(tmp_path, model, reason):
    assert reason in refused(saved(model, tmp_path))


@pytest.mark.parametrize(
    "factors", [(1, 1, 1.5, 1.5), (1, 1, 2, 3), (1, 1, 9, 9), (1, 1, 0.5, 0.5), (1, 2, 2, 2)]
)
def test_graphs_that_make_no_picture_1_to_8_times_as_large_are_refused(tmp_path, factors):
    node, scales = resize(factors)
    assert "not 1 to 8 times as large" in refused(saved(graph([node], initializers=[scales]), tmp_path))


def test_a_graph_that_makes_whole_numbers_is_refused(tmp_path):
    model = graph([helper.make_node("Shape", ["x"], ["y"])])
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    refused(saved(model, tmp_path))


def test_a_damaged_graph_is_refused(tmp_path, small):
    content = small[1].read_bytes()
    for at in (1, len(content) // 2, len(content) - 1):
        (tmp_path / "net.onnx").write_bytes(content[:at])
        refused(tmp_path / "net.onnx")


def test_an_operator_that_onnxruntime_does_not_have_is_refused(tmp_path):
    refused(saved(graph([helper.make_node("Enlarge", ["x"], ["y"])]), tmp_path))


def test_a_graph_that_makes_a_tensor_larger_than_any_memory_is_refused(tmp_path):
    huge = numpy_helper.from_array(np.array([2**42], np.int64), "huge")
    nodes = [
        helper.make_node("ConstantOfShape", ["huge"], ["ones"]),
        helper.make_node("ReduceSum", ["ones"], ["one"], keepdims=0),
        helper.make_node("Add", ["x", "one"], ["y"]),
    ]
    refused(saved(graph(nodes, initializers=[huge]), tmp_path))


def test_a_graph_that_never_ends_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_network, "PROBE_SECONDS", 0.5)
    yes = numpy_helper.from_array(np.array(True), "yes")
    most = numpy_helper.from_array(np.array(2**62, np.int64), "most")
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Neg", ["v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("n", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, None),
        ],
    )
    loop = helper.make_node("Loop", ["most", "yes", "x"], ["y"], body=body)
    assert "took over 0.5 s" in refused(saved(graph([loop], initializers=[yes, most]), tmp_path))


# Weights in other files


ONES = np.ones((1, 3, 1, 1), np.float32)


def with_external_data(path: Path, location: str) -> Path:
    """Write a graph of scale 2 that multiplies by weights in another file."""
    node, scales = resize([1, 1, 2, 2], out="large")
    weights = numpy_helper.from_array(ONES, "weights")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(ONES.nbytes))):
        weights.external_data.add(key=key, value=value)
    multiply = helper.make_node("Mul", ["large", "weights"], ["y"])
    path.write_bytes(graph([node, multiply], initializers=[scales, weights]).SerializeToString())
    return path


def test_weights_in_a_file_beside_the_graph_are_read_and_identified(tmp_path):
    (tmp_path / "net.onnx.data").write_bytes(ONES.tobytes())
    backbone = build(with_external_data(tmp_path / "net.onnx", "net.onnx.data"))
    assert backbone.describe()["scale"] == 2
    assert list(backbone.describe()["data"]) == ["net.onnx.data"]


@pytest.mark.parametrize(
    "location", ["../secret", "/etc/hostname", "sub/../../secret", "", ".", "..", "a\\..\\b"]
)
def test_weights_outside_of_the_graphs_folder_are_refused(tmp_path, location):
    (tmp_path / "secret").write_bytes(ONES.tobytes())
    (tmp_path / "folder").mkdir()
    assert "refused" in refused(with_external_data(tmp_path / "folder" / "net.onnx", location))


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "secret").write_bytes(ONES.tobytes())
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "data").symlink_to(tmp_path / "secret")
    assert "refused" in refused(with_external_data(tmp_path / "folder" / "net.onnx", "data"))


def test_links_of_the_hubs_cache_into_one_folder_are_followed(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    (blobs / "one").write_bytes(ONES.tobytes())
    with_external_data(blobs / "two", "net.data")
    (snapshot / "net.data").symlink_to(blobs / "one")
    (snapshot / "net.onnx").symlink_to(blobs / "two")
    assert build(snapshot / "net.onnx").describe()["scale"] == 2


def test_missing_and_short_weights_are_named(tmp_path):
    path = with_external_data(tmp_path / "net.onnx", "net.data")
    assert "net.data" in refused(path)
    (tmp_path / "net.data").write_bytes(bytes(5))
    refused(path)


def test_the_check_before_the_run_imports_neither_torch_nor_onnx(small):
    code = (
        "import sys, pathlib; from plain_sr.any_file import check_network;"
        f"check_network(pathlib.Path({str(small[1])!r}));"
        "print({'torch', 'onnx', 'onnxruntime', 'spandrel'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

"""Where tiles meet, a picture is as smooth as elsewhere.

The statistic: the mean difference of neighbouring rows or columns at the borders of tiles and in the middle
of what two of them share, over the same of all others, or over one grey level where that is more: nobody sees
a smaller step. It is compared with that of the picture made at once.
"""

import dataclasses
import itertools
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from safetensors.torch import save_file
from spandrel_stand_in import Spandrel

from machine.machine import Machine
from plain_sr import rrdbnet
from plain_sr.any_file import build_network, check_network
from plain_sr.embedded import EmbeddedBackbone
from plain_sr.enlarging import SHARED
from plain_sr.rrdbnet import RRDBNet
from zoom.protocols import SRBackbone, StepInput
from zoom.tiler import good_size, tile_starts


def borders(length: int, size: int, overlap: int) -> list[int]:
    """Where a tile begins or ends, or where two have the same weight; none where there is one tile."""
    pairs = itertools.pairwise(tile_starts(length, size, overlap))
    return [place for a, b in pairs for place in (b, a + size, (b + a + size) // 2)]


def roughness(picture: Image.Image, axis: int, places: list[int]) -> float:
    """The statistic, for places along one axis."""
    pixels = np.moveaxis(np.asarray(picture, np.float64), axis, 0)
    steps = np.abs(np.diff(pixels, axis=0)).mean(axis=(1, 2))  # steps[k - 1] lies between k - 1 and k
    here = np.zeros(len(steps), bool)
    here[np.array(places) - 1] = True
    return float(steps[here].mean() / max(steps[~here].mean(), 1))


def photograph(size: tuple[int, int]) -> Image.Image:
    with Image.open(ROOT / "samples" / "flower.jpg") as sample:
        small = sample.convert("RGB").resize((480, 320), Image.Resampling.LANCZOS)
    top = (small.height - size[1]) // 2
    return small.crop((80, top, 80 + size[0], top + size[1]))


def gradient(size: tuple[int, int]) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    return Image.fromarray(np.stack([255 * x, 127 * (x + y), 255 * y], -1).round().astype(np.uint8))


def check_seams(backbone: SRBackbone, names: list[str], crop: Image.Image, first: bool = False) -> None:
    """Compare tiled and at once; ``names``: the attributes of the backbone that are its networks."""
    networks = {name: getattr(backbone, name) for name in names}
    scale = networks[names[0]].scale
    one = StepInput(crop, crop.resize([scale * side for side in crop.size]), first=first)
    (tiled,) = backbone([one], [[""]], [0])
    for name, network in networks.items():
        setattr(backbone, name, dataclasses.replace(network, tile=10**6))
    (at_once,) = backbone([one], [[""]], [0])
    assert np.abs(np.asarray(tiled, int) - np.asarray(at_once, int)).max() <= 1  # grey level
    network = networks[names[0]]
    overlap = int(SHARED * network.tile)
    size = good_size(crop.height, crop.width, network.tile, overlap, network.multiple)
    for axis, length in enumerate((crop.height, crop.width)):
        if places := [scale * place for place in borders(length, size, overlap)]:
            assert roughness(tiled, axis, places) <= roughness(at_once, axis, places) + 0.1


pictures = pytest.mark.parametrize("picture", [gradient, photograph])
sizes = pytest.mark.parametrize(
    "size", [(300, 280), (257, 258)], ids=str
)  # the second: a pixel more than a tile


@pictures
@pytest.mark.parametrize("first", [True, False], ids=["x4plus", "realsr"])
def test_the_embedded_networks_have_no_seams(picture, first):
    crop = picture((264, 16))
    backbone = EmbeddedBackbone(Machine.choose("cpu"))
    check_seams(
        backbone,
        ["_cleaning", "network"],
        crop if first else crop.transpose(Image.Transpose.ROTATE_90),
        first,
    )


@pictures
@sizes
def test_a_network_of_an_onnx_file_has_no_seams(picture, size, tmp_path, monkeypatch):
    monkeypatch.setattr(rrdbnet, "STRIP", 10**6)  # a loop over strips would be traced for one height
    torch.manual_seed(0)
    network, path = RRDBNet(features=4, blocks=1, growth=2).eval(), tmp_path / "small.onnx"
    free = {name: {2: "height", 3: "width"} for name in ("x", "y")}
    torch.onnx.export(
        network, (torch.rand(1, 3, 24, 32),), str(path), input_names=["x"], output_names=["y"],
        dynamic_axes=free, dynamo=False,
    )  # fmt: skip
    backbone = build_network(check_network(path), Machine.choose("cpu"))
    check_seams(backbone, ["network"], picture(size))


@pictures
@sizes
def test_a_network_of_a_pytorch_file_has_no_seams(picture, size, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "spandrel", Spandrel())
    save_file({"weight": torch.ones(1)}, tmp_path / "net.safetensors")
    backbone = build_network(check_network(tmp_path / "net.safetensors"), Machine.choose("cpu"))
    check_seams(backbone, ["network"], picture(size))

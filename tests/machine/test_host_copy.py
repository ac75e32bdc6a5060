"""A network's weights in CPU memory, for one that comes to a device and leaves it again and again."""

import pytest
import torch

from machine import host_copy
from machine.host_copy import HostCopy, in_cpu_memory


@pytest.fixture
def pinned(monkeypatch):
    """The sizes of all memory that was pinned, by a system that pins."""
    sizes = []

    def give(size):
        sizes.append(size)
        return torch.zeros(size, dtype=torch.uint8)

    monkeypatch.setattr(host_copy, "_pinned", give)
    return sizes


@pytest.fixture
def mixed():
    """Tensors of several types, shapes and layouts."""
    torch.manual_seed(0)
    return [
        torch.randn(3, 5),
        torch.randn(7).to(torch.bfloat16),
        torch.arange(11),
        torch.tensor(2.5),
        torch.randn(2, 8, 3, 3).to(memory_format=torch.channels_last),
        torch.empty(0),
        torch.tensor([True, False]),
    ]


def test_copies_are_equal_and_of_the_same_layout_and_share_no_memory(mixed, pinned):
    for tensor, copy in zip(mixed, in_cpu_memory(mixed), strict=True):
        assert copy.dtype == tensor.dtype
        assert copy.stride() == tensor.stride()
        assert torch.equal(copy, tensor)
        tensor.zero_()
        assert tensor.numel() == 0 or not torch.equal(copy, tensor)
    assert pinned


def test_where_the_system_pins_nothing_the_copies_are_in_ordinary_memory(mixed):
    """As on a machine without a GPU."""
    for tensor, copy in zip(mixed, in_cpu_memory(mixed), strict=True):
        assert torch.equal(copy, tensor)


def test_where_it_pins_no_more_the_rest_is_in_ordinary_memory(monkeypatch):
    monkeypatch.setattr(host_copy, "BLOCK", 1024)
    given = []

    def once(size):
        given.append(size)
        return torch.zeros(size, dtype=torch.uint8) if len(given) == 1 else None

    monkeypatch.setattr(host_copy, "_pinned", once)
    tensors = [torch.full((256,), number) for number in (1.0, 2.0, 3.0)]
    assert [copy[0].item() for copy in in_cpu_memory(tensors)] == [1, 2, 3]
    assert given == [1024, 1024, 1024]


def test_small_tensors_fill_the_gaps_of_large_ones_and_the_largest_are_not_pinned(pinned, monkeypatch):
    monkeypatch.setattr(host_copy, "BLOCK", 4096)
    sizes = [256, 3072, 1024, 5000, 2048, 768, 2048]  # bytes; 4096 three times, but for what is too large
    tensors = [torch.full((size,), number, dtype=torch.uint8) for number, size in enumerate(sizes)]
    copies = in_cpu_memory(tensors)
    assert all(torch.equal(copy, tensor) for copy, tensor in zip(copies, tensors, strict=True))
    assert pinned == [4096, 4096, 1024]


def test_weights_that_modules_share_are_copied_once_and_stay_shared(monkeypatch):
    monkeypatch.setattr(host_copy, "on_device", lambda tensors, device: [one.clone() for one in tensors])
    model = torch.nn.ModuleDict({"embed": torch.nn.Linear(4, 4), "head": torch.nn.Linear(4, 4)})
    model["head"].weight = model["embed"].weight
    expected = model["embed"].weight.clone()
    copy = HostCopy(model)
    copy.leave()
    copy.come(torch.device("cuda:0"))
    assert model["head"].weight is model["embed"].weight
    assert torch.equal(model["head"].weight, expected)
    copy.leave()
    model["embed"].weight.data.zero_()
    assert not model["head"].weight.any()

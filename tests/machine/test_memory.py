"""What a run takes of each device's memory, computed beforehand; and how memory says that it is full."""

import psutil
import pytest
import torch

from machine import memory
from machine.memory import Size, fits_host, out_of_memory, plan_memory

GB = 10**9


# the plan


def test_the_plan_adds_up_what_is_on_a_device_together():
    sizes = {
        "t5": (Size(4, 8), "cuda:0"),
        "transformer": (Size(2, 5), "cuda:0"),
        "vae": (Size(1, 1), "cuda:1"),
    }
    working = memory.FIXED_WORKING + memory.PICTURE_WORKING
    assert plan_memory(sizes, False).peaks == {"cuda:0": 13 + working, "cuda:1": 1 + working}
    efficient = plan_memory(sizes, True)
    assert efficient.peaks["cuda:0"] == 8 + working
    assert efficient.waiting == 13
    assert plan_memory(sizes, False, batch_size=4, side=1024).peaks["cuda:1"] > 16 * (working - 2**29)


@pytest.mark.parametrize("efficient_memory", [False, True])
def test_one_network_works_at_a_time_so_the_plan_counts_the_hungriest_ones_working_memory(efficient_memory):
    sizes = {
        "frugal": (Size(1, 1 * GB, working=1 * GB), "cpu"),
        "hungry": (Size(1, 1 * GB, working=3 * GB), "cpu"),
        "elsewhere": (Size(1, 1 * GB, working=9 * GB), "cuda:0"),
    }
    weights = 1 * GB if efficient_memory else 2 * GB
    peaks = plan_memory(sizes, efficient_memory).peaks
    assert peaks["cpu"] == weights + 3 * GB + memory.FIXED_WORKING
    peaks = plan_memory(sizes, efficient_memory, batch_size=2, side=1024).peaks
    assert peaks["cpu"] == weights + 2 * 4 * 3 * GB + memory.FIXED_WORKING


def test_the_plan_names_every_component_also_those_of_unknown_size():
    text = str(plan_memory({"t5": (Size(4_762_310_656, 9_524_621_312), "cpu"), "x": (None, "cpu")}, True))
    assert "4,762 M" in text
    assert "9.52 GB" in text
    assert "x" in text
    assert "peak of cpu" in text


# memory that is full


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("CUDA"), True),
        (MemoryError(), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 18 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_every_backends_way_to_be_out_of_memory_is_known(error, is_memory):
    assert out_of_memory(error) == is_memory


def test_a_module_waits_in_cpu_memory_only_where_that_leaves_room_for_everything_else(monkeypatch):
    module = torch.nn.Linear(1000, 1000, bias=False)  # 4 MB
    for free, fits in ((memory.HOST_RESERVE + 5_000_000, True), (memory.HOST_RESERVE + 3_000_000, False)):
        monkeypatch.setattr(
            psutil, "virtual_memory", lambda available=free: type("Memory", (), {"available": available})()
        )
        assert fits_host(module) == fits
    assert not fits_host("an ONNX session, which has no weights to move")

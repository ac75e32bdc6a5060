"""What a run takes of each device's memory, computed beforehand; and how memory says that it is full."""

import psutil
import pytest
import torch

from machine import memory
from machine.memory import Room, Size, fits_host, out_of_memory, plan_memory
from machine.memory import _Allowed as Allowed

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
    assert efficient.waiting == 14
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
        monkeypatch.setattr(memory, "room_on", {"cpu": Room(64 * GB, free)}.get)
        assert fits_host(module) == fits
    assert not fits_host("an ONNX session, which has no weights to move")


def test_larger_pictures_than_a_network_takes_at_once_take_no_more_of_it():
    tiled = Size(1, 0, working=GB, largest=1024)
    assert tiled.working_at(1, 512) == GB
    assert tiled.working_at(2, 1024) == 2 * 4 * GB
    assert tiled.working_at(1, 8192) == tiled.working_at(1, float("inf")) == 4 * GB
    alone = Size(1, 0, working=GB, at_once=1)
    assert alone.working_at(8, 512) == alone.working_at(1, 512) == GB
    text = Size(1, 0, working=GB, largest=memory.NO_PICTURE)
    assert text.working_at(1, 8192) == GB


def test_under_efficient_memory_the_largest_model_and_the_hungriest_need_not_meet():
    sizes = {"t5": (Size(1, 10 * GB, GB), "cuda:0"), "vae": (Size(1, GB, 6 * GB), "cuda:0")}
    assert plan_memory(sizes, True).peaks["cuda:0"] == 11 * GB + memory.FIXED_WORKING
    assert plan_memory(sizes, False).peaks["cuda:0"] == 17 * GB + memory.FIXED_WORKING


def test_the_pictures_at_work_are_in_cpu_memory():
    on_gpu = {"t5": (Size(1, GB), "cuda:0")}
    assert plan_memory(on_gpu, False, pictures=GB).peaks["cpu"] == GB + memory.FIXED_WORKING
    on_cpu = {"t5": (Size(1, GB), "cpu")}
    less = plan_memory(on_cpu, False).peaks["cpu"]
    assert plan_memory(on_cpu, False, pictures=GB).peaks == {"cpu": less + GB}


def test_what_an_apple_gpu_and_the_cpu_take_is_taken_of_one_memory():
    plan = plan_memory({"vae": (Size(1, GB), "mps")}, False, pictures=GB)
    assert plan.taken == {"mps": plan.peaks["mps"] + plan.peaks["cpu"]}
    plan = plan_memory({"vae": (Size(1, GB), "cuda:0")}, False, pictures=GB)
    assert plan.taken == plan.peaks


# what there is


@pytest.fixture
def cgroups(tmp_path):
    """A process in /job/step of the first kind of control groups for memory, and of the second."""
    own = tmp_path / "cgroup"
    own.write_text("4:memory:/job/step\n3:cpu,cpuacct:/job\n0::/job/step\nodd\n")
    (tmp_path / "job/step").mkdir(parents=True)
    (tmp_path / "memory/job/step").mkdir(parents=True)
    return tmp_path, own


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, Allowed()),
        ({"job/step/memory.max": "max\n"}, Allowed()),
        ({"job/step/memory.max": "8000\n", "job/memory.max": "4000\n"}, Allowed(4000, 4000)),
        (
            {"memory/job/memory.limit_in_bytes": "3000\n", "job/step/memory.max": "8000"},
            Allowed(3000, 3000),
        ),
        ({"memory/job/memory.memsw.limit_in_bytes": "5000\n"}, Allowed(both=5000)),
        ({"job/memory.max": "4000", "job/memory.swap.max": "0\n"}, Allowed(4000, 4000, swap=0)),
        ({"job/memory.max": "what?"}, Allowed()),
    ],
)
def test_the_least_of_what_control_groups_allow_counts(cgroups, limits, expected):
    folder, own = cgroups
    for file, text in limits.items():
        (folder / file).write_text(text)
    assert memory._allowed(folder, own) == expected


@pytest.mark.parametrize(
    ("group", "limit", "used", "given_back"),
    [
        ("job", "memory.max", "memory.current", "inactive_file"),
        ("memory/job", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ],
)
def test_what_a_control_group_has_in_use_is_not_free_but_copies_of_files_are(
    cgroups, group, limit, used, given_back
):
    folder, own = cgroups
    (folder / group / limit).write_text("8000\n")
    (folder / group / used).write_text("6000\n")
    assert memory._allowed(folder, own) == Allowed(8000, 2000)
    (folder / group / "memory.stat").write_text(f"anon 4500\n{given_back} 1500\nodd\n")
    assert memory._allowed(folder, own) == Allowed(8000, 3500)


def test_without_control_groups_nothing_is_limited(tmp_path):
    assert memory._allowed(tmp_path, tmp_path / "nowhere") == Allowed()


def test_a_containers_memory_is_less_than_the_machines(monkeypatch):
    monkeypatch.setattr(psutil, "swap_memory", lambda: type("Swap", (), {"total": GB})())
    host = type("Memory", (), {"total": 64 * GB, "available": 60 * GB})()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: host)
    monkeypatch.setattr(memory, "_allowed", lambda: Allowed(4 * GB, 3 * GB))
    assert memory.room_on("cpu") == memory.room_on("mps") == memory.Room(5 * GB, 3 * GB)
    assert not fits_host(torch.nn.Linear(2, 2)), "the machine would have the room"
    monkeypatch.setattr(memory, "_allowed", lambda: Allowed(4 * GB, 3 * GB, swap=0))
    assert memory.room_on("cpu") == memory.Room(4 * GB, 3 * GB), "swap that it may not use"
    monkeypatch.setattr(memory, "_allowed", lambda: Allowed(4 * GB, 3 * GB, both=4 * GB))
    assert memory.room_on("cpu") == memory.Room(4 * GB, 3 * GB), "swap is among what it may use"
    monkeypatch.setattr(memory, "_allowed", Allowed)
    assert memory.room_on("cpu") == memory.Room(65 * GB, 60 * GB)


def test_a_gpus_memory_is_what_its_driver_says(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * GB, 24 * GB))
    assert memory.room_on("cuda:0") == memory.Room(24 * GB, 10 * GB)

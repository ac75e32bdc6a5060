"""Which network is where, and when it moves: all that fit, or one at a time on each device."""

import weakref

import pytest
import torch

from errors import InputError
from machine import memory
from machine.memory import Size
from machine.residency import Residency
from machine.stage_times import StageTimes

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


class Model(torch.nn.Module):
    """Stands for a network on a device that is not here: remembers where it was moved."""

    def __init__(self, device):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(4))
        self.where = str(device)

    def to(self, device):
        self.where = str(device)
        return self


def three(efficient_memory, device=CPU):
    residency = Residency(efficient_memory, StageTimes())
    for name in "abc":
        residency.add(name, Model, device)
    return residency


def resident(residency):
    return {name for name, component in residency.components.items() if component.on_device}


# coming and going


def test_a_component_is_read_at_its_first_use_and_stays():
    residency = three(efficient_memory=False)
    assert not residency.loads
    for _ in range(2):
        for name in "abc":
            with residency.use(name):
                pass
    assert residency.loads == {"a": 1, "b": 1, "c": 1}
    assert resident(residency) == {"a", "b", "c"}


def test_efficient_memory_keeps_one_component_and_reads_each_once_a_turn():
    residency = three(efficient_memory=True)
    for _ in range(2):
        for name in "abc":
            for _ in range(5):
                with residency.use(name):
                    assert resident(residency) == {name}
    assert residency.loads == {"a": 2, "b": 2, "c": 2}


def test_efficient_memory_frees_the_one_before_it_reads_the_next():
    residency = Residency(efficient_memory=True)
    alive = []

    def load(device):
        assert not any(reference() for reference in alive), "two components in memory"
        model = Model(device)
        alive.append(weakref.ref(model))
        return model

    for name in "abc":
        residency.add(name, load, CPU)
    for name in "abca":
        with residency.use(name):
            pass


def test_a_component_in_use_is_not_taken_away():
    residency = three(efficient_memory=True)
    with residency.use("a"), residency.use("b"):
        assert resident(residency) == {"a", "b"}
    with residency.use("c"):
        assert resident(residency) == {"c"}


def test_a_component_leaves_a_gpu_for_cpu_memory_and_comes_back_without_being_read_again(monkeypatch):
    monkeypatch.setattr(memory, "HOST_RESERVE", 0)
    residency = three(efficient_memory=True, device=CUDA)
    with residency.use("a") as a:
        assert a.where == "cuda:0"
    with residency.use("b"):
        assert a.where == "cpu"
    with residency.use("a") as again:
        assert again is a
        assert a.where == "cuda:0"
    assert residency.loads == {"a": 1, "b": 1}
    assert residency.moves == {"a": 2, "b": 1}


def test_where_cpu_memory_is_short_a_component_is_read_again(monkeypatch):
    monkeypatch.setattr(memory, "HOST_RESERVE", 2**60)
    residency = three(efficient_memory=True, device=CUDA)
    for name in "aba":
        with residency.use(name):
            pass
    assert residency.loads == {"a": 2, "b": 1}
    assert not residency.moves


def test_efficient_memory_counts_each_device_by_itself():
    residency = Residency(efficient_memory=True)
    residency.add("a", Model, CPU)
    residency.add("b", Model, CUDA)
    with residency.use("a"):
        pass
    with residency.use("b"):
        assert resident(residency) == {"a", "b"}


def test_a_component_that_does_not_fit_is_reported_in_one_line_with_the_way_out():
    def load(device):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate ...")

    residency = Residency()
    residency.add("text_enc_3", load, CUDA)
    one_line = r"text_enc_3 does not fit on cuda:0.*--efficient_memory"
    with pytest.raises(InputError, match=one_line), residency.use("text_enc_3"):
        pass


def test_loading_and_moving_have_stages_of_their_own(monkeypatch):
    monkeypatch.setattr(memory, "HOST_RESERVE", 0)
    residency = three(efficient_memory=True, device=CUDA)
    for name in "aba":
        with residency.use(name):
            pass
    assert set(residency.times) == {"a.load", "b.load", "a.move", "b.move"}


def test_what_is_no_module_leaves_a_gpu_by_being_dropped(monkeypatch):
    monkeypatch.setattr(memory, "HOST_RESERVE", 0)
    residency = Residency(efficient_memory=True)
    residency.add("session", lambda device: "an ONNX session", CUDA)
    residency.add("network", Model, CUDA)
    for name in ("session", "network", "session"):
        with residency.use(name):
            assert resident(residency) == {name}
    assert residency.loads == {"session": 2, "network": 1}
    assert residency.moves == {"network": 1}


def test_one_name_is_one_component():
    residency = three(efficient_memory=False)
    with pytest.raises(ValueError, match="component a was added twice"):
        residency.add("a", Model, CPU)


# the plan


def test_the_plan_of_a_run_is_that_of_its_components_and_loads_nothing():
    residency = Residency(efficient_memory=True)
    residency.add("t5", Model, CUDA, Size(4, 8))
    residency.add("vae", Model, CPU, Size(1, 1))
    plan = residency.plan()
    assert [(row.component, row.size, row.device) for row in plan.rows] == [
        ("t5", Size(4, 8), "cuda:0"),
        ("vae", Size(1, 1), "cpu"),
    ]
    assert plan.peaks.keys() == {"cuda:0", "cpu"}
    assert not residency.loads

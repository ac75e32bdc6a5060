"""Which network is where, and when it moves: all that fit, or one at a time on each device."""

import weakref
from pathlib import Path

import pytest
import torch

from errors import InputError
from machine import host_copy, memory
from machine import residency as residency_module
from machine.memory import Size
from machine.residency import Residency
from machine.stage_times import StageTimes

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


class Model(torch.nn.Module):
    """Stands for a network."""

    def __init__(self, device):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4))


@pytest.fixture
def gpu(monkeypatch):
    """Stands for a GPU that is not here, with a host of much memory: what was copied to it."""
    copied = []

    def on_device(tensors, device):
        copied.extend((tensor.nbytes, str(device)) for tensor in tensors)
        return [tensor.clone() for tensor in tensors]

    monkeypatch.setattr(host_copy, "on_device", on_device)
    monkeypatch.setattr(memory, "HOST_RESERVE", 0)
    return copied


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


def test_a_component_leaves_a_gpu_for_cpu_memory_and_comes_back_without_being_read_again(gpu):
    residency = three(efficient_memory=True, device=CUDA)
    with residency.use("a") as a:
        pass
    with residency.use("b"):
        assert gpu == []
    with residency.use("a") as again:
        assert again is a
    assert gpu == [(16, "cuda:0")]
    assert residency.loads == {"a": 1, "b": 1}
    assert residency.moves == {"a": 2, "b": 1}


def test_a_component_is_copied_to_cpu_memory_once_and_leaves_for_nothing_ever_after(gpu):
    residency = three(efficient_memory=True, device=CUDA)
    for name in "ab":
        with residency.use(name):
            pass
    with residency.use("a") as a:
        a.weight.data.fill_(7)  # weights do not change: it is seen whether they were copied again
    with residency.use("b"):
        pass
    with residency.use("a") as a:
        assert a.weight.tolist() == [1, 1, 1, 1]


def test_a_component_that_finds_no_room_on_its_return_is_whole_in_cpu_memory(gpu, monkeypatch):
    residency = three(efficient_memory=True, device=CUDA)
    for name in "ab":
        with residency.use(name):
            pass

    def full(tensors, device):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as short:
        short.setattr(host_copy, "on_device", full)
        with pytest.raises(InputError, match="a does not fit on cuda:0"), residency.use("a"):
            pass
    with residency.use("a") as a:
        assert a.weight.tolist() == [1, 1, 1, 1]


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


def test_loading_and_moving_have_stages_of_their_own(gpu):
    residency = three(efficient_memory=True, device=CUDA)
    for name in "aba":
        with residency.use(name):
            pass
    assert set(residency.times) == {"a.load", "b.load", "a.move", "b.move"}


def test_what_is_no_module_leaves_a_gpu_by_being_dropped(gpu):
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


# what is read ahead


@pytest.fixture
def ahead(monkeypatch):
    """What is read ahead while each component computes, with a host of much memory: files by component."""

    class Noted:
        def end(self, wanted=()):
            self.wanted = [path.name for path in wanted]

        def begin(self, files, room):
            begun[self.wanted[0] if self.wanted else ""] = [path.name for path in files]

    begun = {}
    monkeypatch.setattr(residency_module, "ReadAhead", Noted)
    monkeypatch.setattr(memory, "HOST_RESERVE", 2**60)  # what leaves the device is dropped
    return begun


def with_files(names, device=CUDA, efficient_memory=True):
    residency = Residency(efficient_memory, StageTimes())
    for name in names:
        residency.add(name, Model, device, files=[Path(name)])
    return residency


def turns(residency, names):
    for name in names:
        with residency.use(name):
            pass


def test_while_a_component_computes_the_files_of_the_next_ones_are_read_the_nearest_first(ahead):
    turns(with_files("abc"), "ab")
    assert ahead == {"a": ["b", "c"], "b": ["c"]}


def test_what_was_not_needed_the_last_time_is_not_read_ahead(ahead):
    turns(with_files("abcd"), "abcd" + "cdcd")
    assert ahead["d"] == ["c"], "a prompt that was encoded once is not encoded again"
    assert ahead["c"] == ["d"]


def test_what_is_in_memory_is_not_read_ahead(ahead, gpu):
    turns(with_files("ab"), "aba")
    assert ahead["a"] == []
    turns(with_files("abc", efficient_memory=False), "abc")
    assert ahead["c"] == []


def test_on_the_cpu_nothing_is_read_ahead(ahead):
    turns(with_files("abc", CPU), "abc")
    assert ahead == {}


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

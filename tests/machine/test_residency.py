"""Where models live and when they move: devices, dtypes, one model at a time, weights kept as stored."""

import weakref

import pytest
import torch

from errors import InputError
from machine import residency as residency_module
from machine.residency import (
    Residency,
    Size,
    choose_device,
    choose_dtype,
    out_of_memory,
    plan_devices,
    plan_memory,
    upcast_by_block,
)
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
    return {name for name, component in residency._components.items() if component.on_device}


# devices and dtypes


def test_auto_is_the_cpu_where_there_is_nothing_else(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == CPU


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps", "gpu", "meta", ""])
def test_a_device_that_is_not_here_is_refused_in_one_line(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match="--device") as caught:
        choose_device(name)
    assert "\n" not in str(caught.value)


def test_a_number_beyond_the_last_cuda_device_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(InputError, match="there are 2 CUDA devices"):
        choose_device("cuda:2")


def test_auto_precision_follows_the_device(monkeypatch):
    assert choose_dtype("auto", CPU) == torch.float32
    assert choose_dtype("auto", torch.device("mps")) == torch.float16
    for capability, dtype in (((7, 5), torch.float16), ((8, 6), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        assert choose_dtype("auto", CUDA) == dtype


def test_auto_leaves_a_vlm_in_its_own_bf16_on_the_cpu():
    assert choose_dtype("auto", CPU, stored="BF16") == torch.bfloat16
    assert choose_dtype("auto", CPU, stored="F32") == torch.float32
    assert choose_dtype("fp32", CPU, stored="BF16") == torch.float32


@pytest.mark.parametrize("name", ["fp16", "int8"])
def test_a_precision_that_does_not_work_on_the_cpu_is_refused(name):
    with pytest.raises(InputError, match="--mixed_precision"):
        choose_dtype(name, CPU)


def test_two_cuda_devices_share_the_work_unless_one_is_named_or_memory_is_short(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (24 * 10**9, 24 * 10**9))
    plan = plan_devices("auto")
    assert (str(plan.text), str(plan.vlm), str(plan.sr)) == ("cuda:0", "cuda:0", "cuda:1")
    assert str(plan_devices("cuda:1").sr) == str(plan_devices("cuda:1").text) == "cuda:1"
    assert plan_devices("auto", efficient_memory=True).sr == CUDA


def test_the_second_cuda_device_is_the_one_with_room_for_the_sr_networks(monkeypatch):
    free = [24, 2, 16]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (free[number] * 10**9, 0))
    assert str(plan_devices("auto").sr) == "cuda:2"
    free.pop()
    assert str(plan_devices("auto").sr) == "cuda:0"


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
    monkeypatch.setattr(residency_module, "HOST_RESERVE", 0)
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
    monkeypatch.setattr(residency_module, "HOST_RESERVE", 2**60)
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
    monkeypatch.setattr(residency_module, "HOST_RESERVE", 0)
    residency = three(efficient_memory=True, device=CUDA)
    for name in "aba":
        with residency.use(name):
            pass
    assert set(residency.times) == {"a.load", "b.load", "a.move", "b.move"}


# weights that stay as they are stored


def blocks():
    torch.manual_seed(0)
    model = torch.nn.Module()
    model.first = torch.nn.Linear(8, 8)
    model.blocks = torch.nn.ModuleList(
        torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU()) for _ in range(3)
    )

    def forward(x):
        x = model.first(x)
        for block in model.blocks:
            x = block(x)
        return x

    model.forward = forward
    return model.bfloat16().requires_grad_(False)


def test_weights_cast_a_block_at_a_time_give_the_numbers_of_fp32_exactly():
    model, x = blocks(), torch.randn(2, 8)
    expected = blocks().float()(x)
    upcast_by_block(model, torch.float32)
    with torch.no_grad():
        assert torch.equal(model(x), expected)
    assert {p.dtype for p in model.blocks.parameters()} == {torch.bfloat16}


def test_only_the_running_block_is_in_fp32():
    model, seen = blocks(), []
    upcast_by_block(model, torch.float32)
    for block in model.blocks:
        block[1].register_forward_hook(lambda *_: seen.append([b[0].weight.dtype for b in model.blocks]))
    with torch.no_grad():
        model(torch.randn(2, 8))
    assert [row.count(torch.float32) for row in seen] == [1, 1, 1]


def test_a_block_that_fails_gets_its_stored_weights_back_and_undoing_restores_all():
    model = blocks()
    undo = upcast_by_block(model, torch.float32)
    with torch.no_grad(), pytest.raises(RuntimeError):
        model.blocks[0](torch.randn(2, 5))
    assert model.blocks[0][0].weight.dtype == torch.bfloat16
    undo()
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        assert model(torch.randn(2, 8).bfloat16()).dtype == torch.bfloat16


# the plan


def test_the_plan_adds_up_what_is_on_a_device_together():
    sizes = {
        "t5": (Size(4, 8), "cuda:0"),
        "transformer": (Size(2, 5), "cuda:0"),
        "vae": (Size(1, 1), "cuda:1"),
    }
    working = residency_module.FIXED_WORKING + residency_module.PICTURE_WORKING
    assert plan_memory(sizes, False).peaks == {"cuda:0": 13 + working, "cuda:1": 1 + working}
    efficient = plan_memory(sizes, True)
    assert efficient.peaks["cuda:0"] == 8 + working
    assert efficient.waiting == 13
    assert plan_memory(sizes, False, batch_size=4, side=1024).peaks["cuda:1"] > 16 * (working - 2**29)


def test_a_device_with_less_free_memory_than_needed_is_named_with_the_way_out(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (105 * 10**8, 24 * 10**9))
    residency = Residency()
    residency.add("t5", Model, CUDA, Size(4_762_310_656, 9_524_621_312))
    (line,) = residency.shortages()
    assert line == "cuda:0 has 10.5 GB free of about 11.1 GB needed: try --efficient_memory"
    assert not residency.shortages(side=64)


def test_the_plan_names_every_component_also_those_of_unknown_size():
    text = str(plan_memory({"t5": (Size(4_762_310_656, 9_524_621_312), "cpu"), "x": (None, "cpu")}, True))
    assert "4,762 M" in text
    assert "9.52 GB" in text
    assert "x" in text
    assert "peak of cpu" in text


def test_a_model_stored_in_bf16_never_runs_in_fp16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert choose_dtype("auto", CUDA) == torch.float16
    assert choose_dtype("auto", CUDA, "BF16") == torch.bfloat16
    assert choose_dtype("fp16", CUDA, "BF16") == torch.bfloat16


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

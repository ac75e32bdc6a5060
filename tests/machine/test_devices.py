"""Which devices a run uses, and in which precision."""

import pytest
import torch

from errors import InputError
from machine.devices import choose_device, choose_devices, choose_dtype
from machine.machine import Machine
from machine.stage_times import StageTimes

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


# devices


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


def test_two_cuda_devices_share_the_work_unless_one_is_named_or_memory_is_short(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (24 * 10**9, 24 * 10**9))
    devices = choose_devices("auto")
    assert (str(devices.text), str(devices.vlm), str(devices.sr)) == ("cuda:0", "cuda:0", "cuda:1")
    assert str(choose_devices("cuda:1").sr) == str(choose_devices("cuda:1").text) == "cuda:1"
    assert choose_devices("auto", efficient_memory=True).sr == CUDA


def test_the_second_cuda_device_is_the_one_with_room_for_the_sr_networks(monkeypatch):
    free = [24, 2, 16]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (free[number] * 10**9, 0))
    assert str(choose_devices("auto").sr) == "cuda:2"
    free.pop()
    assert str(choose_devices("auto").sr) == "cuda:0"


# precision


def test_auto_precision_follows_the_device(monkeypatch):
    assert choose_dtype("auto", CPU) == torch.float32
    assert choose_dtype("auto", CPU, keeps_fp16=True) == torch.float32
    assert choose_dtype("auto", torch.device("mps")) == torch.float16
    for capability, dtype in (((7, 5), torch.float16), ((8, 6), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        assert choose_dtype("auto", CUDA) == dtype
        assert choose_dtype("auto", CUDA, keeps_fp16=True) == torch.float16


def test_auto_leaves_a_vlm_in_its_own_bf16_on_the_cpu():
    assert choose_dtype("auto", CPU, stored="BF16") == torch.bfloat16
    assert choose_dtype("auto", CPU, stored="F32") == torch.float32
    assert choose_dtype("fp32", CPU, stored="BF16") == torch.float32


@pytest.mark.parametrize("name", ["fp16", "int8"])
def test_a_precision_that_does_not_work_on_the_cpu_is_refused(name):
    with pytest.raises(InputError, match="--mixed_precision"):
        choose_dtype(name, CPU)


def test_a_model_stored_in_bf16_never_runs_in_fp16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert choose_dtype("auto", CUDA) == torch.float16
    assert choose_dtype("auto", CUDA, "BF16") == torch.bfloat16
    assert choose_dtype("fp16", CUDA, "BF16") == torch.bfloat16


# the machine


def test_a_machine_holds_all_that_the_networks_of_a_run_share():
    times = StageTimes()
    machine = Machine.choose("cpu", "bf16", efficient_memory=True, batch_size=3, times=times)
    assert set(vars(machine.devices).values()) == {CPU}
    assert machine.dtype(CPU) == torch.bfloat16
    assert machine.efficient_memory
    assert machine.batches.size == 3
    assert machine.residency.times is machine.times is times


@pytest.mark.parametrize(
    ("able", "warned"),
    [
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}, True),
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}, False),
        ({"architecture": "aarch64"}, False),
    ],
)
def test_bf16_on_a_cpu_that_has_none_is_warned_of(monkeypatch, caplog, able, warned):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    Machine.choose("cpu", "bf16")
    assert ("has no bf16 arithmetic" in caplog.text) == warned


def test_fp32_on_a_cpu_without_bf16_is_no_reason_to_warn(monkeypatch, caplog):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64"})
    Machine.choose("cpu", "fp32")
    assert not caplog.text

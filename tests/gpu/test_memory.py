"""What is on a device when, and what happens where its memory ends: really on a GPU, pretended on a CPU."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from on_devices import repaint, skip_without_gpus, tiny_sd3

from errors import InputError, PictureError
from machine.batches import Batches
from machine.machine import Machine
from machine.memory import room_on
from machine.residency import Residency
from sd3.spec import PARTS, TEXT_PARTS

MIB = 2**20
BIG = 256 * MIB  # what each model of these tests takes, and each item of a batch


def big_model(device: torch.device) -> torch.nn.Module:
    """A layer of `BIG` bytes; on the CPU nothing is really taken."""
    side = 8192 if device.type == "cuda" else 1
    return torch.nn.Linear(side, side, bias=False, device=device).requires_grad_(False)


def limit(device: torch.device, room: int) -> None:
    """Leave a GPU `room` bytes beside what this process has of it."""
    torch.cuda.empty_cache()
    allowed = torch.cuda.memory_reserved(device) + room
    torch.cuda.set_per_process_memory_fraction(allowed / room_on(str(device)).total, device)


def take(device: torch.device, items: int, room: int) -> None:
    """Take `BIG` bytes for each item, which `room` may be too little for."""
    if device.type == "cuda":
        torch.empty(items * BIG, dtype=torch.uint8, device=device)
    elif items * BIG > room:
        raise torch.OutOfMemoryError("out of memory, as a GPU would say")


# one model at a time


def held(residency: Residency, device: torch.device, before: int) -> int:
    """Return how many big models are on the device: counted in its memory where it is a GPU."""
    if device.type == "cuda":
        return round((torch.cuda.memory_allocated(device) - before) / BIG)
    return sum(component.on_device for component in residency.components.values())


@pytest.mark.parametrize(("efficient_memory", "most"), [(True, 1), (False, 3)])
def test_efficient_memory_has_one_big_model_on_the_device_at_most(device, efficient_memory, most):
    residency = Residency(efficient_memory)
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    for name in "abc":
        residency.add(name, big_model, device)
    seen = []
    for name in "abcab":
        with residency.use(name) as model:
            assert next(model.parameters()).device == device
            seen.append(held(residency, device, before))
    assert max(seen) == most


def test_sd3_under_efficient_memory_has_one_part_on_the_device_at_most(device, inputs):
    network = tiny_sd3(device, efficient_memory=True)
    residency, use, seen = network.machine.residency, network.machine.residency.use, []

    def looking(name):
        seen.append({other for other, one in residency.components.items() if one.on_device} - {name})
        return use(name)

    residency.use = looking  # type: ignore[method-assign]
    repaint(network, inputs[:1])
    on_device = {
        name
        for name, one in residency.components.items()
        if one.module is not None and any(p.device == device for p in one.module.parameters())
    }
    assert all(len(others) <= 1 for others in seen)  # the one that makes room
    assert on_device == {"vae_decoder"}
    assert set(residency.loads) == set(PARTS)


# where memory ends


def small(network, part: str, device: torch.device, room: int) -> list[int]:
    """Let each picture that a part is called with take `BIG` bytes; return the batches that went through."""
    component, went = network.machine.residency.components[part], []
    load = component.load

    def loaded(place: torch.device) -> Callable:
        inner = load(place)

        def call(first, *rest):
            take(device, len(first), room)
            went.append(len(first))
            return inner(first, *rest)

        return call

    component.load = loaded
    return went


@pytest.mark.parametrize(
    ("device", "part"),
    [("cpu", "transformer"), *(pytest.param("cuda:0", part, marks=pytest.mark.gpu) for part in PARTS)],
    indirect=["device"],
)
def test_where_memory_ends_batches_are_halved_and_the_pictures_are_the_same(device, inputs, part):
    expected = repaint(tiny_sd3(device, batch_size=1), inputs)
    network, room = tiny_sd3(device, batch_size=4), int(2.5 * BIG)
    went = small(network, part, device, room)
    if device.type == "cuda":
        limit(device, room)
    assert np.abs(repaint(network, inputs) - expected).max() <= 1
    assert 1 <= max(went) <= 2


def test_an_item_that_does_not_fit_alone_fails_by_itself(device):
    room = BIG // 2
    if device.type == "cuda":
        limit(device, room)

    def run(batch):
        take(device, len(batch), room)
        return batch

    results = list(Batches(4)("the network", [1, 2, 3], run))
    assert all(isinstance(one, PictureError) and "out of device memory" in str(one) for one in results)


def test_a_model_that_does_not_fit_is_named_with_the_way_out(device):
    room = BIG // 2
    if device.type == "cuda":
        limit(device, room)

    def load(place):
        take(place, 1, room)
        return big_model(place)

    residency = Residency()
    residency.add("the VLM", load, device)
    with (
        pytest.raises(InputError, match=r"the VLM does not fit on .*: try --efficient_memory"),
        residency.use("the VLM"),
    ):
        pass


def test_what_memory_a_device_has_is_known(device):
    room = room_on(str(device))
    assert 0 < room.free <= room.total
    if device.type == "cuda":
        taken = torch.empty(256 * MIB, dtype=torch.uint8, device=device)
        assert room.free - room_on(str(device)).free >= 200 * MIB
        del taken


# two GPUs


@pytest.mark.gpu
def test_two_gpus_share_the_models_and_give_the_pixels_of_one(inputs):
    skip_without_gpus(2)
    both = tiny_sd3("auto")
    assert both.machine.devices.text.index == 0
    assert both.machine.devices.sr.index != 0
    assert np.abs(repaint(both, inputs) - repaint(tiny_sd3("cuda:0"), inputs)).max() <= 1
    for name, component in both.machine.residency.components.items():
        wanted = both.machine.devices.text if name in TEXT_PARTS else both.machine.devices.sr
        assert next(component.module.parameters()).device == wanted


# where everything is found out


@pytest.mark.gpu
def test_auto_is_the_gpu_in_16_bits():
    skip_without_gpus()
    machine = Machine.choose()
    assert machine.devices.sr.type == "cuda"
    newer = torch.cuda.get_device_capability(machine.devices.sr)[0] >= 8
    assert machine.dtype(machine.devices.sr) == (torch.bfloat16 if newer else torch.float16)
    assert machine.dtype(machine.devices.sr, keeps_fp16=True) == torch.float16

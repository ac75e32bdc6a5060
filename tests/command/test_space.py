"""Which memory is too little, and the way out of it."""

import logging
from types import SimpleNamespace

import pytest
import torch
from conftest import PARITY

from command import space
from command.decide import parse
from command.on_ray import needs
from command.parts import Parts
from command.space import WHOLE_BYTES, decide_batch_size, refuse_too_little_memory
from errors import InputError
from machine.batches import Batches
from machine.memory import Room, Size
from machine.residency import Residency
from results.pictures import Source

GB = 10**9
SD3 = ("--pretrained_model_name_or_path", str(PARITY / "sd3"), "--no_sr_lora")


def check(monkeypatch, arguments, weights, total, free=None, device="cuda:0", sources=()):
    """Check a run with one network against the memory of a device that is not here."""
    options = parse(["-i", str(PARITY / "input"), "--batch_size", "1", *map(str, arguments)])
    residency = Residency(options.efficient_memory)
    residency.add("t5", lambda device: None, torch.device(device), Size(1, weights))
    plenty = Room(10**15, 10**15)
    rooms = {device: Room(total, total if free is None else free)}
    monkeypatch.setattr(space, "room_on", lambda name: rooms.get(name, plenty))
    refuse_too_little_memory(options, Parts(machine=SimpleNamespace(residency=residency)), sources)


@pytest.mark.parametrize(
    ("device", "free", "more", "size"),
    [
        ("cuda:0", 80 * GB, (), 16),
        ("cuda:0", 15 * GB, (), 4),  # 10 GB of weights, 0.5 for CUDA itself, 1.07 a picture
        ("cuda:0", 11 * GB, (), 1),
        ("cuda:0", 15 * GB, ("--process_size", 256), 16),
        ("cuda:0", 15 * GB, ("--batch_size", 2), 2),
        ("cuda:0", 80 * GB, ("--full_image",), 1),
        ("cuda:0", 80 * GB, ("--full_image", "--prompt_type", "dape"), 16),  # questions about tiles
        ("cpu", 80 * GB, (), 1),
    ],
)
def test_a_gpu_gets_batches_that_are_sure_to_fit(monkeypatch, device, free, more, size):
    options = parse(["-i", str(PARITY / "input"), *SD3, *map(str, more)])
    residency = Residency()
    residency.add("t5", lambda device: None, torch.device(device), Size(1, 10 * GB))
    devices, batches = SimpleNamespace(sr=torch.device(device)), Batches()
    machine = SimpleNamespace(residency=residency, devices=devices, batches=batches)
    monkeypatch.setattr(space, "room_on", lambda name: Room(free, free))
    decide_batch_size(options, Parts(machine=machine), [])
    assert options.batch_size == size
    if "--batch_size" not in more:  # else the machine was made with it
        assert batches.size == size


@pytest.mark.parametrize(
    ("arguments", "way_out"),
    [
        (SD3, "take --efficient_memory"),
        ((*SD3, "--efficient_memory"), "take --quantize"),
        ((*SD3, "--efficient_memory", "--quantize", "--full_image"), "take smaller tiles"),
        ((*SD3, "--efficient_memory", "--quantize"), "take --device cpu"),
        ((), "take --device cpu"),
    ],
)
def test_a_gpu_without_the_memory_is_refused_with_what_the_options_leave(monkeypatch, arguments, way_out):
    with pytest.raises(
        InputError, match=r"cuda:0 has 24\.0 GB of memory, and this takes about [34]"
    ) as caught:
        check(monkeypatch, arguments, 30 * GB, 24 * GB)
    assert way_out in str(caught.value)


def test_a_gpus_batches_are_halved_by_themselves_so_they_are_no_reason_to_refuse(monkeypatch, caplog):
    check(monkeypatch, (*SD3, "--batch_size", 32), 10 * GB, 24 * GB)
    assert "take a smaller --batch_size" in caplog.text
    with pytest.raises(InputError):
        check(monkeypatch, (*SD3, "--batch_size", 32), 30 * GB, 24 * GB)


def test_a_cpus_batches_are_not(monkeypatch):
    with pytest.raises(InputError, match="take a smaller --batch_size"):
        check(monkeypatch, (*SD3, "--batch_size", 32), 10 * GB, 24 * GB, device="cpu")


def test_memory_that_others_have_now_is_a_warning(monkeypatch, caplog):
    with caplog.at_level(logging.WARNING):
        check(monkeypatch, SD3, 10 * GB, 24 * GB, free=9 * GB)
    assert "cuda:0 has 9.0 GB free of about 11.6 GB needed: take --efficient_memory" in caplog.text


def test_enough_is_not_spoken_of(monkeypatch, caplog):
    check(monkeypatch, SD3, 10 * GB, 24 * GB)
    assert caplog.text == ""


WHOLE = Source(PARITY, "", size=(4000, 3000))  # 4x as large, it takes 4.6 GB of CPU memory


def test_an_apple_gpu_shares_the_memory_that_the_pictures_take(monkeypatch):
    """14.8 GB of the network at work, and 5.1 of the picture."""
    arguments = ("--full_image", "--rec_num", 1)
    with pytest.raises(InputError, match=r"mps has 18\.0 GB of memory, and this takes about 20\."):
        check(monkeypatch, arguments, 10 * GB, 18 * GB, device="mps", sources=[WHOLE])
    check(monkeypatch, arguments, 10 * GB, 21 * GB, device="mps", sources=[WHOLE])
    check(monkeypatch, arguments, 10 * GB, 18 * GB, device="cuda:0", sources=[WHOLE])


def test_an_apple_gpu_that_large_pictures_fill_wants_smaller_ones(monkeypatch):
    with pytest.raises(InputError, match="take a smaller --rec_num, or --box"):
        check(monkeypatch, ("--full_image", "--rec_num", 1), GB, 4 * GB, device="mps", sources=[WHOLE])


def test_an_actor_of_ray_needs_the_memory_of_the_largest_whole_picture(monkeypatch):
    options = parse(["-i", str(PARITY / "input"), "--batch_size", "1", "--full_image", "--rec_num", "1"])
    residency = Residency()
    residency.add("network", lambda device: None, torch.device("cpu"), Size(1, GB))
    parts = Parts(machine=SimpleNamespace(residency=residency))
    gpus, none = needs(options, parts, [])
    assert needs(options, parts, [WHOLE]) == (gpus, none + WHOLE_BYTES * 16 * 4000 * 3000)

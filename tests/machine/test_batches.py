"""Batches that fit: the one rule by which every network's batches are halved where memory ends."""

import logging
import weakref

import pytest
import torch

from errors import InputError, PictureError
from machine.batches import Batches


class Network:
    """Doubles numbers, as many at a time as fit; remembers the sizes of its batches."""

    def __init__(self, room: int = 100):
        self.room = room
        self.batches: list[int] = []

    def __call__(self, numbers):
        self.batches.append(len(numbers))
        if len(numbers) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [2 * number for number in numbers]


def test_items_are_run_in_batches_and_their_results_come_in_order():
    network = Network()
    assert list(Batches(3)("net", range(8), network)) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert network.batches == [3, 3, 2]


def test_no_items_are_no_batch():
    network = Network()
    assert list(Batches(3)("net", [], network)) == []
    assert network.batches == []


def test_results_come_before_the_next_batch_runs():
    network = Network()
    results = Batches(2)("net", range(4), network)
    assert next(results) == 0
    assert network.batches == [2]


def test_a_batch_that_does_not_fit_is_halved_until_it_does_and_later_ones_stay_small(caplog):
    network = Network(room=3)
    batches = Batches(8)
    with caplog.at_level(logging.WARNING):
        assert list(batches("net", range(10), network)) == list(range(0, 20, 2))
    assert network.batches == [8, 4, 2, 2, 2, 2, 2]
    assert caplog.messages == [
        "net: out of device memory; batches of 4 from here",
        "net: out of device memory; batches of 2 from here",
    ]
    list(batches("net", range(4), network))  # the next scale does not try again in vain
    assert network.batches[-2:] == [2, 2]


def test_a_network_that_gains_nothing_from_batches_has_fewer_items_at_once():
    network = Network()
    assert list(Batches(8)("vae", range(3), network, at_once=1)) == [0, 2, 4]
    assert network.batches == [1, 1, 1]


def test_each_network_has_a_size_of_its_own():
    large, small = Network(room=1), Network()
    batches = Batches(4)
    list(batches("large", range(4), large))
    list(batches("small", range(4), small))
    assert large.batches == [4, 2, 1, 1, 1, 1]
    assert small.batches == [4]


def test_what_does_not_fit_alone_fails_alone_with_a_way_out():
    def run(numbers):
        if 2 in numbers:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return numbers

    zero, one, two, three = Batches(1)("net", [0, 1, 2, 3], run)
    assert [zero, one, three] == [0, 1, 3]
    assert isinstance(two, PictureError)
    assert str(two) == "net: out of device memory; try --efficient_memory or --device cpu"


def test_a_networks_own_picture_errors_are_results():
    bad = PictureError("not finite")
    assert list(Batches(2)("net", [1, 2], lambda _: [1, bad])) == [1, bad]


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), InputError("t5 does not fit")])
def test_other_errors_are_the_callers(error):
    def run(_):
        raise error

    with pytest.raises(type(error), match=str(error)):
        list(Batches(4)("net", range(4), run))


def test_what_a_failed_batch_held_is_free_before_a_smaller_one_runs():
    held: list[weakref.ref] = []

    def run(numbers):
        assert not any(reference() is not None for reference in held)
        tensor = torch.zeros(4)
        held.append(weakref.ref(tensor))
        if len(numbers) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return numbers

    assert list(Batches(4)("net", range(4), run)) == [0, 1, 2, 3]

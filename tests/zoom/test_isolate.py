"""One bad item fails alone, and many bad ones cost little."""

import math

import pytest

from errors import InputError, OutputError, PictureError
from zoom.isolate import isolating_failures


class Call:
    """Doubles numbers; raises in a batch where one of the bad ones is in it."""

    def __init__(self, bad=(), at_once=True, error=RuntimeError):
        self.bad, self.at_once, self.error = set(bad), at_once, error
        self.passes = 0

    def __call__(self, batch):
        self.passes += len(batch)
        if self.at_once and self.bad & set(batch):
            raise self.error("no\nand more")
        for number in batch:
            if number in self.bad:
                raise self.error("no\nand more")
            yield 2 * number


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("bad", [[], [0], [7], [3, 4], [0, 7], range(8)])
def test_only_the_ones_at_fault_fail_and_all_keep_their_order(bad, at_once):
    results = list(isolating_failures(Call(bad, at_once), range(8)))
    assert [item for item, _ in results] == list(range(8))
    for item, result in results:
        if item in bad:
            assert str(result) == "failed unexpectedly: RuntimeError: no"
        else:
            assert result == 2 * item


@pytest.mark.parametrize("at_once", [True, False])
def test_four_hundred_failures_cost_a_few_passes_each(at_once):
    call = Call(range(400), at_once)
    assert len(list(isolating_failures(call, range(400)))) == 400
    assert call.passes <= 400 * (math.log2(400) + 2)


def test_one_failure_among_many_costs_a_few_passes_each_at_most():
    call = Call([123])
    list(isolating_failures(call, range(400)))
    assert call.passes <= 4 * 400


def test_a_picture_error_keeps_its_words():
    ((_, result),) = isolating_failures(Call([1], error=PictureError), [1])
    assert isinstance(result, PictureError)
    assert str(result).startswith("no")


@pytest.mark.parametrize("error", [InputError, OutputError])
def test_what_no_item_is_at_fault_for_is_raised(error):
    with pytest.raises(error):
        list(isolating_failures(Call([1], error=error), range(4)))


def test_a_call_that_gives_too_few_results_fails_the_rest():
    results = dict(isolating_failures(lambda batch: [0] if 0 in batch else [], [0, 1]))
    assert results[0] == 0
    assert isinstance(results[1], PictureError)

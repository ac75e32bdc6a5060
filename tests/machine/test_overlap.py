"""Work behind the caller's back and ahead of it: in order, bounded, and no failure is lost."""

import threading
import time

import pytest

from machine.overlap import LEAST, Overlap

MB = 2**20


def test_jobs_of_one_key_are_done_in_their_order():
    done: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    with Overlap(3) as overlap:
        for number in range(50):
            for key in done:
                overlap.later(key, 0, lambda key=key, number=number: done[key].append(number))
    assert all(numbers == list(range(50)) for numbers in done.values())


def test_a_job_is_done_in_another_thread_and_without_threads_at_once():
    threads = []
    with Overlap(1) as overlap:
        overlap.later("a", 0, lambda: threads.append(threading.current_thread()))
    Overlap().later("a", 0, lambda: threads.append(threading.current_thread()))
    assert threads[0] is not threading.current_thread()
    assert threads[1] is threading.current_thread()


def test_who_comes_waits_where_too_much_is_waiting():
    go_on, most = threading.Event(), []
    waiting = 0

    def job():
        nonlocal waiting
        go_on.wait(10)
        waiting -= 1

    with Overlap(1, most=3 * MB) as overlap:
        threading.Timer(0.2, go_on.set).start()
        for _ in range(10):
            overlap.later("a", MB, job)
            waiting += 1
            most.append(waiting)
    assert max(most) <= 4, "three, and one that was done in between"


def test_small_jobs_count_as_well():
    go_on, come = threading.Event(), []
    with Overlap(1, most=2 * LEAST) as overlap:
        threading.Timer(0.2, go_on.set).start()
        for number in range(3):
            overlap.later("a", 1, lambda: go_on.wait(10))
            come.append((number, go_on.is_set()))
    assert come == [(0, False), (1, False), (2, True)]


def test_what_is_larger_than_all_room_finds_room_alone():
    done = []
    with Overlap(1, most=MB) as overlap:
        for number in range(3):
            overlap.later("a", 100 * MB, lambda number=number: done.append(number))
    assert done == [0, 1, 2]


def fail():
    raise OSError("the disk is full")


def test_what_a_job_raises_is_raised_where_the_next_one_comes_from_and_no_other_is_done():
    done, go_on = [], threading.Event()

    def run():
        with Overlap(1) as overlap:
            overlap.later("a", 0, lambda: go_on.wait(10))
            overlap.later("a", 0, fail)
            overlap.later("a", 0, lambda: done.append("waited meanwhile"))
            go_on.set()
            time.sleep(0.1)
            overlap.later("a", 0, lambda: done.append("came later"))
            done.append("went on")

    with pytest.raises(OSError, match="full"):
        run()
    assert done == []


@pytest.mark.parametrize("waits", [True, False])
def test_what_the_last_job_raises_is_raised_at_the_end(waits):
    def run():
        with Overlap(1) as overlap:
            overlap.later("a", 0, fail)
            if waits:
                overlap.wait()

    with pytest.raises(OSError, match="full"):
        run()


def test_what_was_begun_is_done_also_where_the_body_raises():
    done = []

    def run():
        with Overlap(2) as overlap:
            for number in range(20):
                overlap.later(str(number), 0, lambda number=number: (time.sleep(0.01), done.append(number)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert sorted(done) == list(range(20))


def test_what_is_made_ahead_comes_in_order_and_is_bounded():
    made = []

    def make(number):
        made.append(number)
        return number

    with Overlap(1, most=2 * MB) as overlap, overlap.ahead(make, range(20), lambda _: MB) as taken:
        time.sleep(0.2)
        assert made == [0, 1, 2], "two wait, and one waits for room"
        assert list(taken) == list(range(20))


def test_what_making_raises_comes_after_what_was_made():
    def make(number):
        if number == 2:
            raise ValueError("no picture")
        return number

    taken = []

    def take_all():
        with Overlap(1) as overlap, overlap.ahead(make, range(5), lambda _: 0) as all_made:
            for one in all_made:
                taken.append(one)

    with pytest.raises(ValueError, match="no picture"):
        take_all()
    assert taken == [0, 1]


def test_who_leaves_early_ends_the_thread_that_runs_ahead():
    before = threading.active_count()

    def leave():
        with Overlap(1, most=MB) as overlap, overlap.ahead(int, range(10**9), lambda _: MB) as taken:
            assert next(taken) == 0
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave()
    assert threading.active_count() == before

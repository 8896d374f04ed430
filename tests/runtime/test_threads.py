"""Work that threads do ahead: in order, bounded, and with the errors of its items."""

import threading
import time

import pytest

from agd.runtime import threads


@pytest.mark.parametrize("said", ["1", "3"])
def test_results_come_in_the_items_order(said, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", said)

    def work(i):
        time.sleep(0.002 * (i % 3))
        return i * i

    assert list(threads.ahead(work, range(40))) == [i * i for i in range(40)]


def test_several_threads_work_a_bounded_number_of_items_ahead(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    taken, both = [], threading.Barrier(2)

    def work(i):
        if i < 2:
            both.wait(timeout=60)  # the first two are at work at the same time, or this fails
        return i

    results = threads.ahead(work, (taken.append(i) or i for i in range(1000)))
    assert next(results) == 0
    assert 2 < len(taken) < 20
    results.close()
    assert len(taken) < 20


def test_the_first_error_in_order_is_raised(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")

    def work(i):
        if i in (3, 4):
            time.sleep(0.01 * (4 - i))
            raise ValueError(i)
        return i

    results = threads.ahead(work, range(100))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="3"):
        next(results)


@pytest.mark.parametrize("said", ["", "0", "no"])
def test_without_a_number_all_of_the_machine(said, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert threads.number() >= 1

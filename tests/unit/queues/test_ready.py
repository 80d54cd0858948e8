"""Which messages wait, and in which order."""

import random

import pytest

from amqpbroker.queues.ready import Line, Priorities, Ready
from amqpbroker.storage.log import MemoryLog
from amqpbroker.testing.fakes import fake_origin


def all_of(ready: Ready, readable: int, limit: int = 1024) -> list[range]:
    """All runs, as they are taken."""
    runs = []
    while ready.count(readable):
        runs.append(ready.take(readable, limit)[0])
    return runs


@pytest.mark.parametrize("order", [1, -1])
def test_neighbours_that_come_back_one_by_one_are_taken_as_one_run(order: int) -> None:
    ready = Line(1000)
    for index in range(1000)[::order]:
        ready.give_back(range(index, index + 1))

    assert all_of(ready, 1000, 600) == [range(600), range(600, 1000)]


def test_neighbours_that_come_back_in_any_order_are_taken_as_one_run() -> None:
    ready = Line(1000)
    for index in random.Random(1).sample(range(1000), 1000):
        ready.give_back(range(index, index + 1))

    runs = all_of(ready, 1000)

    assert [index for run in runs for index in run] == list(range(1000))
    assert len(runs) < 100


def test_what_consumers_had_shared_comes_in_few_runs_again() -> None:
    ready = Line(3000)
    for first in range(3):
        for index in range(first, 3000, 3):
            ready.give_back(range(index, index + 1))

    runs = all_of(ready, 3000)

    assert [index for run in runs for index in run] == list(range(3000))
    assert len(runs) <= 5


def test_runs_that_interleave_are_taken_in_order_whatever_they_are() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        ready = Line(500)
        left = set(range(500))
        given = set()
        while left and rng.random() < 0.98:
            start, step = rng.choice(sorted(left)), rng.randint(1, 5)
            stop = start
            while stop in left and stop < start + 50:
                left.discard(stop)
                stop += step
            ready.give_back(range(start, stop, step))
            given.update(range(start, stop, step))

        runs = all_of(ready, 500, rng.choice((1, 3, 1024)))

        assert [index for run in runs for index in run] == sorted(given)


def test_priorities_that_alternate_are_taken_in_runs_too() -> None:
    log = MemoryLog()
    ready = Priorities(log, 9)
    for index in range(100):
        log.append(fake_origin(priority=index % 2), [b""])
        ready.add(index, index + 1, index % 2)

    assert all_of(ready, 100) == [range(1, 100, 2), range(0, 99, 2)]


def test_what_was_taken_too_much_is_put_back_at_the_head() -> None:
    log = MemoryLog()
    ready = Priorities(log, 9)
    for start, priority in ((0, 1), (5, 1), (10, 2)):
        log.append(fake_origin(priority=priority), [b""] * 5)
        ready.add(start, start + 5, priority)
    ready.take(15, 100)
    run, redelivered = ready.take(15, 100)

    ready.put_back(run[4:], redelivered)

    assert ready.first(15) == 4
    assert ready.take(15, 100) == (range(4, 10), False)
    assert ready.first(15) is None


def test_clear_gives_all_that_waited() -> None:
    log = MemoryLog()
    ready = Priorities(log, 9)
    for start, priority in ((0, 1), (5, 2)):
        log.append(fake_origin(priority=priority), [b""] * 5)
        ready.add(start, start + 5, priority)
    ready.take(10, 3)
    ready.give_back(range(6, 7))

    runs = ready.clear(10)

    assert sorted(index for run in runs for index in run) == [0, 1, 2, 3, 4, 6, 8, 9]
    assert ready.count(10) == 0

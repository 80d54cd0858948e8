"""Which messages wait, and in which order."""

import random

import pytest

from amqpbroker.queues.ready import Line, Priorities, Ready
from amqpbroker.storage.log import MemoryLog
from amqpbroker.storage.runs import runs_of
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


def test_a_line_goes_on_across_the_jumps_of_its_log() -> None:
    for seed in range(300):
        rng = random.Random(seed)
        fresh_from = rng.choice((0, 10))
        readable = end = rng.choice((0, fresh_from))
        line = Line(fresh_from, readable)
        waiting, fresh, taken = set[int](), set[int](), set[int]()
        if readable < fresh_from:  # The log jumps from the readable mark to where messages begin.
            end = fresh_from
        for _ in range(100):
            there = {index for index in waiting | fresh if index < readable}
            assert line.count(readable) == len(there)
            first = None
            if there:
                first = min(waiting or there)
            assert line.first(readable) == first, seed
            match rng.randrange(6):
                case 0:
                    count = rng.randint(1, 20)
                    fresh.update(range(end, end + count))
                    end += count
                case 1:
                    gap = range(end, end + rng.choice((1, 10, 1 << 44)))
                    line.skip(gap)
                    if readable == end:
                        readable = gap.stop
                    end = gap.stop
                case 2:
                    readable = rng.choice((end, rng.randint(readable, end)))
                case 3 if there:
                    run, redelivered = line.take(readable, rng.randint(1, 30))
                    assert redelivered is (run[0] in waiting)
                    (waiting if redelivered else fresh).difference_update(run)
                    assert run[0] == first
                    assert there.issuperset(run)
                    taken.update(run)
                    if not redelivered and rng.random() < 0.5:
                        rest = run[rng.randint(0, len(run) - 1) :]
                        line.put_back(rest, redelivered)
                        fresh.update(rest)
                        taken.difference_update(rest)
                case 4 if taken:
                    run = rng.choice(runs_of(sorted(taken)))
                    line.give_back(run)
                    taken.difference_update(run)
                    waiting.update(run)
                case 5 if rng.random() < 0.1:
                    runs = line.clear(readable)
                    assert {index for run in runs for index in run} == there
                    waiting.clear()
                    fresh -= there


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

"""Deliveries by tag."""

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from amqpbroker.broker.unsettled import Delivered, Unsettled
from amqpbroker.definitions import QueueDefinition
from amqpbroker.queues.classic import ClassicQueue
from amqpbroker.storage.log import MemoryLog
from amqpbroker.testing.fakes import FakeKeeper

QUEUE = ClassicQueue(QueueDefinition("/", "q"), MemoryLog(), FakeKeeper())


def unsettled(*runs: range) -> Unsettled:
    """Runs of indexes, delivered one after another with tags from 1 on."""
    unsettled = Unsettled()
    tag = 1
    for run in runs:
        unsettled.add(Delivered(tag, run, QUEUE, None))
        tag += len(run)
    return unsettled


def indexes(taken: list[Delivered]) -> list[int]:
    return [index for run in taken for index in run.indexes]


def test_one_tag_is_taken_out_of_the_middle_of_a_run() -> None:
    there = unsettled(range(10, 20))

    taken, unknown = there.take(3, 3)

    assert (indexes(taken), unknown) == ([12], None)
    assert indexes(there.take_up_to(0)[0]) == [10, 11, *range(13, 20)]


def test_a_tag_is_taken_once() -> None:
    there = unsettled(range(10, 20))
    there.take(3, 3)

    assert there.take(3, 3) == ([], 3)
    assert there.take_up_to(3) == ([], 3)
    assert there.count == 9


def test_what_precedes_an_unknown_tag_is_taken() -> None:
    there = unsettled(range(10, 12))

    taken, unknown = there.take(1, 5)

    assert (indexes(taken), unknown) == ([10, 11], 3)


def test_tags_run_on_across_deliveries() -> None:
    there = unsettled(range(0, 9, 3), range(100, 102), range(7, 8))

    taken, unknown = there.take(2, 6)

    assert (indexes(taken), unknown) == ([3, 6, 100, 101, 7], None)
    assert there.count == 1


def test_up_to_a_tag_means_all_before_it_too() -> None:
    there = unsettled(range(3), range(10, 13))

    taken, unknown = there.take_up_to(4)

    assert (indexes(taken), unknown) == ([0, 1, 2, 10], None)
    assert indexes(there.take_up_to(0)[0]) == [11, 12]


def test_up_to_nought_means_all_even_if_there_are_none() -> None:
    there = unsettled()

    assert there.take_up_to(0) == ([], None)
    assert there.take(0, 0) == ([], 0)


def test_what_was_taken_can_be_put_back_in_its_place() -> None:
    there = unsettled(range(10), range(100, 110))
    taken = there.take(3, 14)[0] + there.take(1, 1)[0]

    there.restore(taken)

    assert there.count == 20
    assert indexes(there.take_up_to(0)[0]) == [*range(10), *range(100, 110)]


def test_deliveries_over_many_blocks_are_taken_in_one_go() -> None:
    there = unsettled(range(5000), range(10_000, 15_000))

    assert indexes(there.take(100, 9000)[0]) == [*range(99, 5000), *range(10_000, 14_000)]
    assert indexes(there.take_up_to(9500)[0]) == [*range(99), *range(14_000, 14_500)]
    assert there.count == 500


def test_settling_in_any_order_moves_little() -> None:
    count = 200_000
    there = unsettled(range(count))
    tags = list(range(1, count + 1))
    random.Random(7).shuffle(tags)
    longest = 0

    for tag in tags[: count // 2]:
        there.take(tag, tag)
        longest = max(longest, len(there._blocks[tag // 1024]))

    assert there.count == count - count // 2
    assert longest <= 512


class UnsettledMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.unsettled = Unsettled()
        self.model: dict[int, int] = {}
        self.next_tag = 1

    @rule(
        start=st.integers(0, 1000),
        step=st.integers(1, 3),
        count=st.one_of(st.integers(1, 20), st.integers(1000, 2100)),
    )
    def add(self, start: int, step: int, count: int) -> None:
        run = range(start, start + step * count, step)
        self.unsettled.add(Delivered(self.next_tag, run, QUEUE, None))
        self.model.update(enumerate(run, self.next_tag))
        self.next_tag += count

    @rule(data=st.data(), count=st.integers(1, 10))
    def take(self, data: st.DataObject, count: int) -> None:
        first = data.draw(st.integers(0, self.next_tag))
        taken, unknown = self.unsettled.take(first, first + count - 1)
        expected = []
        stopped = None
        for tag in range(first, first + count):
            if tag not in self.model:
                stopped = tag
                break
            expected.append(self.model.pop(tag))
        assert (indexes(taken), unknown) == (expected, stopped)

    @rule(data=st.data())
    def take_up_to(self, data: st.DataObject) -> None:
        last = data.draw(st.integers(0, self.next_tag))
        taken, unknown = self.unsettled.take_up_to(last)
        if last and last not in self.model:
            assert (taken, unknown) == ([], last)
            return
        tags = [tag for tag in self.model if not last or tag <= last]
        assert (indexes(taken), unknown) == ([self.model.pop(tag) for tag in tags], None)

    @rule(data=st.data(), count=st.integers(1, 3000))
    def take_and_restore(self, data: st.DataObject, count: int) -> None:
        first = data.draw(st.integers(0, self.next_tag))
        taken, _ = self.unsettled.take(first, first + count - 1)
        self.unsettled.restore(taken)

    @invariant()
    def it_knows_how_many_there_are(self) -> None:
        assert self.unsettled.count == len(self.model)


TestUnsettledAgainstTheModel = pytest.mark.slow(UnsettledMachine.TestCase)
TestUnsettledAgainstTheModel.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None
)

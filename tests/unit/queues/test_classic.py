"""The classic queue."""

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from amqpbroker.definitions import Arguments, QueueDefinition
from amqpbroker.queues.classic import ClassicQueue, ClassicQueues
from amqpbroker.queues.queue import Keeper, Outcome, Queue
from amqpbroker.storage.log import Log, MemoryLog
from amqpbroker.storage.runs import runs_of
from amqpbroker.testing.fakes import (
    CreditPool,
    FakeConsumer,
    FakeKeeper,
    HeldLog,
    fake_origin,
    numbered,
)
from amqpbroker.testing.queue_contract import QueueContract
from amqpbroker.testing.queue_time_contract import QueueTimeContract


class TestClassicQueue(QueueContract, QueueTimeContract):
    def open(self, definition: QueueDefinition, log: Log, keeper: Keeper) -> Queue:
        return ClassicQueue(definition, log, keeper)

    @pytest.mark.parametrize("arguments", [{}, {"x-max-priority": 5}])
    def test_messages_of_another_life_wait_and_may_have_been_delivered(
        self, arguments: Arguments
    ) -> None:
        log = MemoryLog()
        log.append(fake_origin(), numbered(10))
        log.settle(range(2, 4))
        log.recovered, log.fresh_from = [range(2), range(4, 10)], 6

        queue = ClassicQueue(QueueDefinition("/", "q", arguments=arguments), log, FakeKeeper())

        assert queue.stat().ready == 8
        assert queue.publish(fake_origin(), [b"later"]) == 11
        consumer = FakeConsumer(credit=100)
        queue.consume(consumer)
        queue.dispatch(100)
        assert [taken.index for taken in consumer.taken] == [0, 1, *range(4, 11)]
        fresh = [taken.index for taken in consumer.taken if not taken.redelivered]
        assert fresh == ([10] if arguments else [6, 7, 8, 9, 10])

    def test_messages_of_another_life_expire_when_they_would_have(self) -> None:
        log, keeper = MemoryLog(), FakeKeeper()
        for expires_ms in (1_000_010, 1_000_090):
            log.append(attrs.evolve(fake_origin(), expires_ms=expires_ms), numbered(1))
        log.recovered, log.fresh_from = [range(2)], 2

        queue = ClassicQueue(QueueDefinition("/", "q"), log, keeper)

        assert queue.stat().ready == 2
        keeper.advance(50)
        assert queue.stat().ready == 1
        keeper.advance(50)
        assert queue.stat().ready == 0

    def test_messages_that_come_within_a_millisecond_expire_under_one_origin(self) -> None:
        log, keeper, origin = MemoryLog(), FakeKeeper(), fake_origin(ttl_ms=50)
        queue = ClassicQueue(QueueDefinition("/", "q"), log, keeper)
        for _ in range(2):
            queue.publish(origin, numbered(1))
        keeper.advance(1)
        queue.publish(origin, numbered(1))

        first, second, third = log.origins(range(3))

        assert first is second
        assert (first.expires_ms, third.expires_ms) == (1_000_050, 1_000_051)
        assert origin.expires_ms is None

    def test_an_auto_delete_queue_goes_with_its_last_consumer(self) -> None:
        keeper = FakeKeeper()
        queue = ClassicQueue(QueueDefinition("/", "q", auto_delete=True), MemoryLog(), keeper)
        consumers = [FakeConsumer(), FakeConsumer()]
        for consumer in consumers:
            queue.consume(consumer)

        queue.cancel(consumers[0])
        before = list(keeper.found_unused)
        queue.cancel(consumers[1])

        assert (before, keeper.found_unused) == ([], [queue])

    def test_nobody_is_woken_for_messages_without_a_taker(self) -> None:
        woken: list[Queue] = []
        keeper = FakeKeeper()
        keeper.wake = woken.append
        queue = ClassicQueue(QueueDefinition("/", "q"), MemoryLog(), keeper)
        consumer = FakeConsumer(credit=0)
        queue.consume(consumer)
        queue.publish(fake_origin(), numbered(1))
        queue.dispatch(10)
        woken.clear()

        queue.publish(fake_origin(), numbered(1))

        assert consumer.parked
        assert not woken


def test_queues_of_the_type_live_in_memory() -> None:
    kind = ClassicQueues()
    definition = QueueDefinition("/", "q", arguments={"x-anything": 1})
    kind.check(definition)

    queue = kind.open(definition, FakeKeeper())

    assert queue.definition is definition
    assert queue.publish(fake_origin(), numbered(2)) == queue.committed == 2

    @pytest.mark.parametrize("arguments", [{}, {"x-max-priority": 5}])
    def test_messages_of_another_life_wait_until_they_are_readable(
        self, arguments: Arguments
    ) -> None:
        log = HeldLog()
        log.append(fake_origin(), numbered(10))
        log.advance(3, 3)
        log.recovered, log.fresh_from = [range(10)], 10
        definition, keeper = QueueDefinition("/", "q", arguments=arguments), FakeKeeper()
        queue = ClassicQueue(definition, log, keeper)
        log.skip_to(1 << 44)
        queue.publish(fake_origin(), numbered(2, 10))

        assert queue.stat().ready == 3
        log.advance(7, 7)
        assert queue.stat().ready == 7
        log.advance(log.end, log.end)
        assert queue.stat().ready == 12
        consumer = FakeConsumer()
        queue.consume(consumer)
        keeper.hand_out()

        assert consumer.raws == numbered(12)
        assert [taken.redelivered for taken in consumer.taken] == [True] * 10 + [False] * 2

    def test_what_a_log_leaves_out_was_not_published(self) -> None:
        log = MemoryLog()
        queue = ClassicQueue(QueueDefinition("/", "q"), log, FakeKeeper())
        queue.publish(fake_origin(), numbered(3))
        log.skip_to(1 << 44)
        queue.publish(fake_origin(), numbered(2))

        assert queue.counts.published == 5


class ClassicQueueMachine(RuleBasedStateMachine):
    ttl_ms: int | None = None
    highest = 0

    def __init__(self) -> None:
        super().__init__()
        self.model = TestClassicQueue().modelled(self.ttl_ms, self.highest)
        self.pool = CreditPool(3)

    @rule(count=st.integers(1, 10))
    def publish(self, count: int) -> None:
        self.model.publish(count)

    @rule(
        count=st.integers(1, 10),
        priority=st.integers(0, 5),
        ttl_ms=st.one_of(st.none(), st.integers(0, 20)),
    )
    def publish_with_properties(self, count: int, priority: int, ttl_ms: int | None) -> None:
        self.model.publish(count, priority, ttl_ms)

    @rule(ms=st.integers(0, 20))
    def advance(self, ms: int) -> None:
        self.model.advance(ms)

    @precondition(lambda self: len(self.model.consumers) < 5)
    @rule(credit=st.integers(0, 10), no_ack=st.booleans(), priority=st.integers(0, 2))
    def consume(self, credit: int, no_ack: bool, priority: int) -> None:
        self.model.consume(FakeConsumer(credit, no_ack, priority=priority))

    @precondition(lambda self: len(self.model.consumers) < 5)
    @rule()
    def consume_from_a_pool(self) -> None:
        self.model.consume(FakeConsumer(pool=self.pool))

    @precondition(lambda self: self.model.consumers)
    @rule(data=st.data(), credit=st.integers(1, 10))
    def give(self, data: st.DataObject, credit: int) -> None:
        self.model.give(data.draw(st.sampled_from(self.model.consumers)), credit)

    @precondition(lambda self: self.model.consumers)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.model.cancel(data.draw(st.sampled_from(self.model.consumers)))

    @rule(limit=st.integers(1, 20))
    def dispatch(self, limit: int) -> None:
        self.model.dispatch(limit)

    @rule(no_ack=st.booleans())
    def get(self, no_ack: bool) -> None:
        self.model.get(no_ack)

    @rule(data=st.data(), outcome=st.sampled_from(Outcome))
    def settle(self, data: st.DataObject, outcome: Outcome) -> None:
        holders = [held for held in (*self.model.held.values(), self.model.got) if held]
        if holders:
            holder = data.draw(st.sampled_from(holders))
            chosen = data.draw(st.lists(st.sampled_from(holder), unique=True, min_size=1))
            for run in runs_of(sorted(chosen)):
                if outcome in self.model.outcomes(run):
                    self.model.settle(holder, run, outcome)

    @rule(data=st.data())
    def requeue_a_stride(self, data: st.DataObject) -> None:
        holders = [held for held in self.model.held.values() if len(held) > 2]
        if holders:
            holder = data.draw(st.sampled_from(holders))
            step = holder[1] - holder[0]
            if step > 0 and holder[2] == holder[1] + step:
                self.model.settle(holder, range(*holder[:3:2], step), Outcome.REQUEUE)

    @rule()
    def purge(self) -> None:
        self.model.purge()

    @invariant()
    def the_queue_says_where_it_stands(self) -> None:
        self.model.check()


class ExpiringPriorityQueueMachine(ClassicQueueMachine):
    ttl_ms = 15
    highest = 3


TestClassicQueueAgainstTheModel = pytest.mark.slow(ClassicQueueMachine.TestCase)
TestExpiringPriorityQueueAgainstTheModel = pytest.mark.slow(ExpiringPriorityQueueMachine.TestCase)
for machine in (TestClassicQueueAgainstTheModel, TestExpiringPriorityQueueAgainstTheModel):
    machine.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)

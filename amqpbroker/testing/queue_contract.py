"""What every `Queue` keeps, as tests that any of them can run.

Two classes of tests: how messages go in and out, and what time and priorities do to them.
"""

import random
import weakref
from abc import ABC, abstractmethod

import pytest

from amqpbroker.definitions import Arguments, QueueDefinition
from amqpbroker.errors import AccessRefused, PreconditionFailed
from amqpbroker.queues.queue import Consumer, Got, Keeper, Outcome, Queue, QueueStat
from amqpbroker.storage.log import Log, MemoryLog
from amqpbroker.storage.runs import runs_of
from amqpbroker.testing.fakes import (
    CreditPool,
    FakeConsumer,
    FakeKeeper,
    HeldLog,
    Taken,
    fake_origin,
    numbered,
)
from amqpbroker.testing.queue_model import QueueModel

_WALKS = 20
_STEPS = 60


def stat_of(queue: Queue) -> QueueStat:
    """The numbers of a queue that answers at once."""
    stat = queue.stat()
    assert isinstance(stat, QueueStat)
    return stat


class QueueSetUp(ABC):
    """What the tests of a queue begin with; who runs them says how one is opened."""

    @abstractmethod
    def open(self, definition: QueueDefinition, log: Log, keeper: Keeper) -> Queue:
        """An empty queue over ``log``, which is empty too."""

    def set_up(
        self, arguments: Arguments | None = None, log: Log | None = None
    ) -> tuple[Queue, FakeKeeper]:
        """A queue over ``log``, by default one in memory, and its keeper."""
        keeper = FakeKeeper()
        definition = QueueDefinition("/", "q", arguments=arguments or {})
        return self.open(definition, MemoryLog() if log is None else log, keeper), keeper

    def modelled(self, ttl_ms: int | None, highest: int) -> QueueModel:
        """A queue with its model."""
        arguments: Arguments = {}
        if ttl_ms is not None:
            arguments["x-message-ttl"] = ttl_ms
        if highest:
            arguments["x-max-priority"] = highest
        return QueueModel(*self.set_up(arguments), ttl_ms, highest)


class QueueContract(QueueSetUp):
    """The promises of `Queue`, for queues that answer at once and keep what is published."""

    # -- in and out ----------------------------------------------------------------------------

    def test_messages_wait_for_a_consumer(self) -> None:
        queue, keeper = self.set_up()
        queue.publish(fake_origin(), numbered(3))
        keeper.hand_out()

        consumer = FakeConsumer()
        queue.consume(consumer)
        keeper.hand_out()

        assert consumer.raws == numbered(3)
        assert queue.stat() == QueueStat(ready=0, unsettled=3, consumers=1)

    def test_a_consumer_is_given_what_is_published_later(self) -> None:
        queue, keeper = self.set_up()
        consumer = FakeConsumer()
        queue.consume(consumer)
        keeper.hand_out()

        end = queue.publish(fake_origin(), numbered(2))
        keeper.hand_out()

        assert consumer.raws == numbered(2)
        assert end == 2

    def test_a_consumer_without_acks_leaves_nothing_unsettled(self) -> None:
        queue, keeper = self.set_up()
        queue.consume(FakeConsumer(no_ack=True))

        queue.publish(fake_origin(), numbered(3))
        keeper.hand_out()

        assert queue.stat() == QueueStat(ready=0, unsettled=0, consumers=1)

    def test_what_is_acked_or_rejected_is_gone(self) -> None:
        queue, keeper = self.set_up()
        consumer = FakeConsumer()
        queue.consume(consumer)
        queue.publish(fake_origin(), numbered(3))
        keeper.hand_out()

        queue.settle(range(2), Outcome.ACK)
        queue.settle(range(2, 3), Outcome.REJECT)
        keeper.hand_out()

        assert queue.stat() == QueueStat(ready=0, unsettled=0, consumers=1)
        assert len(consumer.taken) == 3

    def test_a_dispatch_hands_out_its_limit_at_most(self) -> None:
        queue, _ = self.set_up()
        consumers = [FakeConsumer() for _ in range(3)]
        for consumer in consumers:
            queue.consume(consumer)
        queue.publish(fake_origin(), numbered(20))

        assert [queue.dispatch(limit) for limit in (1, 2, 4, 5, 8, 100)] == [1, 2, 4, 5, 8, 0]

    def test_messages_in_bites_that_differ_in_size_come_whole_and_in_order(self) -> None:
        raws = [bytes([i]) * (i % 3 * 100_000 + 1) for i in range(30)]
        queue, keeper = self.set_up()
        consumers = [FakeConsumer(), FakeConsumer()]
        for consumer in consumers:
            queue.consume(consumer)

        queue.publish(fake_origin(), raws)
        keeper.hand_out()

        assert [consumer.raws for consumer in consumers] == [raws[0::2], raws[1::2]]

    # -- turns ---------------------------------------------------------------------------------

    def test_consumers_are_served_message_by_message_in_turn(self) -> None:
        queue, keeper = self.set_up()
        consumers = [FakeConsumer() for _ in range(3)]
        for consumer in consumers:
            queue.consume(consumer)

        for count in (4, 1, 4, 2, 100):
            queue.publish(fake_origin(), numbered(count))
            keeper.hand_out()

        for place, consumer in enumerate(consumers):
            assert consumer.indexes == list(range(place, 111, 3))

    def test_more_consumers_than_share_a_round_are_served_in_turn_too(self) -> None:
        queue, keeper = self.set_up()
        consumers = [FakeConsumer() for _ in range(100)]
        for consumer in consumers:
            queue.consume(consumer)

        queue.publish(fake_origin(), numbered(1000))
        keeper.hand_out()

        for place, consumer in enumerate(consumers):
            assert consumer.indexes == list(range(place, 1000, 100))

    def test_a_consumer_is_passed_over_while_it_has_no_credit(self) -> None:
        queue, keeper = self.set_up()
        rich, poor = FakeConsumer(), FakeConsumer(credit=1)
        queue.consume(poor)
        queue.consume(rich)

        queue.publish(fake_origin(), numbered(4))
        keeper.hand_out()

        assert poor.indexes == [0]
        assert poor.parked
        assert rich.indexes == [1, 2, 3]

    def test_a_parked_consumer_goes_on_when_it_has_credit_again(self) -> None:
        queue, keeper = self.set_up()
        consumer = FakeConsumer(credit=1)
        queue.consume(consumer)
        queue.publish(fake_origin(), numbered(4))
        keeper.hand_out()

        consumer.give(queue, 2)
        keeper.hand_out()

        assert consumer.indexes == [0, 1, 2]
        assert stat_of(queue).ready == 1

    def test_consumers_that_share_credit_do_not_overdraw_it(self) -> None:
        queue, keeper = self.set_up()
        pool = CreditPool(5)
        consumers = [FakeConsumer(pool=pool) for _ in range(2)]
        for consumer in consumers:
            queue.consume(consumer)

        queue.publish(fake_origin(), numbered(10))
        keeper.hand_out()

        assert [consumer.indexes for consumer in consumers] == [[0, 2, 4], [1, 3]]
        assert stat_of(queue).ready == 5

    def test_consumers_that_share_credit_have_their_turn_beside_others(self) -> None:
        queue, keeper = self.set_up()
        pool = CreditPool(100)
        consumers = [FakeConsumer(), FakeConsumer(pool=pool), FakeConsumer(pool=pool)]
        for consumer in consumers:
            queue.consume(consumer)

        queue.publish(fake_origin(), numbered(9))
        keeper.hand_out()

        assert [consumer.indexes for consumer in consumers] == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]

    # -- back again ----------------------------------------------------------------------------

    def test_a_requeued_message_comes_again_and_says_so(self) -> None:
        queue, keeper = self.set_up()
        consumer = FakeConsumer()
        queue.consume(consumer)
        queue.publish(fake_origin(), numbered(1))
        keeper.hand_out()

        queue.settle(range(1), Outcome.REQUEUE)
        keeper.hand_out()

        assert consumer.taken == [Taken(0, b"message 0", False), Taken(0, b"message 0", True)]

    def test_requeued_messages_return_to_their_places(self) -> None:
        queue, keeper = self.set_up()
        first = FakeConsumer(credit=6)
        queue.consume(first)
        queue.publish(fake_origin(), numbered(8))
        keeper.hand_out()
        queue.cancel(first)
        queue.settle(range(1, 6, 2), Outcome.REQUEUE)
        queue.settle(range(4, 5), Outcome.REQUEUE)
        queue.settle(range(1), Outcome.REQUEUE)

        second = FakeConsumer()
        queue.consume(second)
        keeper.hand_out()

        assert [(taken.index, taken.redelivered) for taken in second.taken] == [
            (0, True), (1, True), (3, True), (4, True), (5, True), (6, False), (7, False),
        ]  # fmt: skip

    def test_what_returns_unseen_is_as_it_was_unless_later_ones_were_seen(self) -> None:
        queue, keeper = self.set_up()
        first = FakeConsumer(credit=8)
        queue.consume(first)
        queue.publish(fake_origin(), numbered(10))
        keeper.hand_out()
        queue.cancel(first)
        queue.settle(range(2, 4), Outcome.RETURN)
        queue.settle(range(1), Outcome.REQUEUE)
        queue.settle(range(4, 5), Outcome.REQUEUE)
        queue.settle(range(6, 8), Outcome.RETURN)

        second = FakeConsumer()
        queue.consume(second)
        keeper.hand_out()

        assert [(taken.index, taken.redelivered) for taken in second.taken] == [
            (0, True), (2, True), (3, True), (4, True),
            (6, False), (7, False), (8, False), (9, False),
        ]  # fmt: skip

    def test_cancel_leaves_with_the_consumer_what_it_has(self) -> None:
        queue, keeper = self.set_up()
        consumer = FakeConsumer()
        queue.consume(consumer)
        queue.publish(fake_origin(), numbered(2))
        keeper.hand_out()

        queue.cancel(consumer)
        queue.publish(fake_origin(), numbered(1))
        keeper.hand_out()

        assert queue.stat() == QueueStat(ready=1, unsettled=2, consumers=0)
        assert len(consumer.taken) == 2

    def test_a_cancelled_consumer_does_not_resume(self) -> None:
        queue, keeper = self.set_up()
        consumer = FakeConsumer(credit=0)
        queue.consume(consumer)
        queue.publish(fake_origin(), numbered(1))
        keeper.hand_out()
        queue.cancel(consumer)

        consumer.give(queue, 1)
        keeper.hand_out()

        assert consumer.taken == []

    # -- one by one ----------------------------------------------------------------------------

    def test_get_gives_the_first_and_counts_the_rest(self) -> None:
        queue, _ = self.set_up()
        queue.publish(fake_origin(), numbered(3))

        got = queue.get(no_ack=False)

        assert isinstance(got, Got)
        assert (got.index, got.raw, got.redelivered, got.ready) == (0, b"message 0", False, 2)
        assert queue.stat() == QueueStat(ready=2, unsettled=1, consumers=0)

    def test_get_without_ack_settles_at_once(self) -> None:
        queue, _ = self.set_up()
        queue.publish(fake_origin(), numbered(1))

        queue.get(no_ack=True)

        assert queue.stat() == QueueStat(ready=0, unsettled=0, consumers=0)

    def test_get_from_an_empty_queue_gives_nothing(self) -> None:
        queue, _ = self.set_up()

        assert queue.get(no_ack=True) is None

    def test_what_was_got_and_requeued_is_got_again(self) -> None:
        queue, _ = self.set_up()
        queue.publish(fake_origin(), numbered(2))
        queue.get(no_ack=False)
        queue.settle(range(1), Outcome.REQUEUE)

        got = queue.get(no_ack=False)

        assert isinstance(got, Got)
        assert (got.index, got.redelivered) == (0, True)

    # -- exclusive use -------------------------------------------------------------------------

    def test_an_exclusive_consumer_keeps_others_out(self) -> None:
        queue, _ = self.set_up()
        queue.consume(FakeConsumer(exclusive=True))

        assert _is_refused(queue, FakeConsumer()) == "queue 'q' in vhost '/' in exclusive use"

    def test_an_exclusive_consumer_must_be_the_only_one(self) -> None:
        queue, _ = self.set_up()
        queue.consume(FakeConsumer())

        refused = _is_refused(queue, FakeConsumer(exclusive=True))

        assert refused == "queue 'q' in vhost '/' in exclusive use"
        assert stat_of(queue).consumers == 1

    def test_exclusive_use_ends_with_its_consumer(self) -> None:
        queue, _ = self.set_up()
        consumer = FakeConsumer(exclusive=True)
        queue.consume(consumer)

        queue.cancel(consumer)

        assert _is_refused(queue, FakeConsumer(exclusive=True)) is None

    # -- the end -------------------------------------------------------------------------------

    def test_a_queue_may_be_deleted_unless_it_is_in_use_or_not_empty(self) -> None:
        queue, _ = self.set_up()
        queue.publish(fake_origin(), numbered(2))
        queue.consume(FakeConsumer(credit=0))

        assert queue.may_delete(if_unused=False, if_empty=False) == 2
        with pytest.raises(PreconditionFailed, match=r"^queue 'q' in vhost '/' in use$"):
            queue.may_delete(if_unused=True, if_empty=False)
        with pytest.raises(PreconditionFailed, match=r"^queue 'q' in vhost '/' not empty$"):
            queue.may_delete(if_unused=True, if_empty=True)

    def test_purge_drops_what_waits_and_nothing_else(self) -> None:
        queue, keeper = self.set_up()
        consumer = FakeConsumer(credit=2)
        queue.consume(consumer)
        queue.publish(fake_origin(), numbered(5))
        keeper.hand_out()
        queue.settle(range(1), Outcome.REQUEUE)

        assert queue.purge() == 4
        assert queue.stat() == QueueStat(ready=0, unsettled=1, consumers=1)

    def test_a_message_requeued_after_a_purge_comes_again(self) -> None:
        queue, keeper = self.set_up()
        consumer = FakeConsumer(credit=1)
        queue.consume(consumer)
        queue.publish(fake_origin(), numbered(2))
        keeper.hand_out()
        queue.purge()

        queue.settle(range(1), Outcome.REQUEUE)
        consumer.give(queue, 5)
        keeper.hand_out()

        assert consumer.indexes == [0, 0]

    def test_delete_counts_what_waited_and_tells_the_consumers(self) -> None:
        queue, keeper = self.set_up()
        consumers = [FakeConsumer(credit=1), FakeConsumer(credit=0)]
        for consumer in consumers:
            queue.consume(consumer)
        queue.publish(fake_origin(), numbered(3))
        keeper.hand_out()

        assert queue.delete() == 2
        assert all(consumer.is_cancelled for consumer in consumers)
        assert queue.version == 1

    def test_nothing_is_kept_of_what_a_consumer_of_a_deleted_queue_has(self) -> None:
        queue, keeper = self.set_up()
        consumer = FakeConsumer(credit=5)
        queue.consume(consumer)
        origin = fake_origin()
        queue.publish(origin, numbered(5))
        keeper.hand_out()
        kept = weakref.ref(origin)
        taken = consumer.indexes
        consumer.taken.clear()
        del origin

        queue.delete()
        queue.settle(range(taken[0], taken[-1] + 1), Outcome.ACK)

        assert kept() is None

    def test_delete_drops_what_nobody_could_read_yet_too(self) -> None:
        log = HeldLog()
        queue, _ = self.set_up(log=log)
        origin = fake_origin()
        queue.publish(origin, numbered(5))
        log.advance(readable=2)
        kept = weakref.ref(origin)

        count = queue.delete()
        queue.publish(origin, numbered(2))
        del origin, log

        assert count == 2
        assert kept() is None
        assert queue.committed == 7

    def test_settling_what_came_from_a_deleted_queue_is_no_fault(self) -> None:
        queue, keeper = self.set_up()
        queue.consume(FakeConsumer())
        queue.publish(fake_origin(), numbered(3))
        keeper.hand_out()
        queue.delete()

        for place, outcome in enumerate(Outcome):
            queue.settle(range(place, place + 1), outcome)
        keeper.hand_out()

        assert stat_of(queue).ready == 0

    # -- marks ---------------------------------------------------------------------------------

    def test_only_what_is_readable_is_delivered(self) -> None:
        log = HeldLog()
        queue, keeper = self.set_up(log=log)
        consumer = FakeConsumer()
        queue.consume(consumer)
        queue.publish(fake_origin(), numbered(3))
        keeper.hand_out()
        assert consumer.taken == []

        log.advance(readable=2)
        keeper.hand_out()

        assert consumer.indexes == [0, 1]

    def test_only_what_is_readable_is_got_counted_and_purged(self) -> None:
        log = HeldLog()
        queue, _ = self.set_up(log=log)
        queue.publish(fake_origin(), numbered(5))
        assert queue.get(no_ack=True) is None

        log.advance(readable=3)
        got = queue.get(no_ack=True)

        assert isinstance(got, Got)
        assert got.ready == 2
        assert stat_of(queue).ready == 2
        assert queue.purge() == 2

    @pytest.mark.parametrize("arguments", [{}, {"x-max-priority": 5}, {"x-message-ttl": 1000}])
    def test_a_queue_goes_on_across_the_jumps_of_its_log(self, arguments: Arguments) -> None:
        log = HeldLog()
        log.skip_to((5 << 44) + 7)
        queue, keeper = self.set_up(arguments, log)
        consumer = FakeConsumer()
        raws = numbered(12)
        queue.publish(fake_origin(), raws[:3])
        log.skip_to(6 << 44)
        end = queue.publish(fake_origin(), raws[3:9])
        log.advance((6 << 44) - 1, (6 << 44) - 1)
        assert stat_of(queue).ready == 3
        log.advance(log.end, log.end)
        assert queue.committed == end
        assert stat_of(queue).ready == 9
        log.skip_to(log.end + 10)
        queue.publish(fake_origin(), raws[9:])
        log.advance(log.end, log.end)
        assert stat_of(queue).ready == 12

        queue.consume(consumer)
        keeper.hand_out()
        assert consumer.raws == raws
        for index in consumer.indexes[1::2]:
            queue.settle(range(index, index + 1), Outcome.REQUEUE)
        for index in consumer.indexes[::2]:
            queue.settle(range(index, index + 1), Outcome.ACK)
        keeper.hand_out()

        assert consumer.raws == raws + raws[1::2]
        assert [taken.redelivered for taken in consumer.taken] == [False] * 12 + [True] * 6
        log.skip_to(7 << 44)
        queue.cancel(consumer)
        queue.publish(fake_origin(), numbered(2))
        log.advance(log.end, log.end)
        assert queue.purge() == 2

    def test_committed_follows_the_log(self) -> None:
        log = HeldLog()
        queue, _ = self.set_up(log=log)
        queue.publish(fake_origin(), numbered(3))
        assert queue.committed == 0

        log.advance(committed=2)

        assert queue.committed == 2

    def test_who_waits_for_the_commit_is_called_once(self) -> None:
        log = HeldLog()
        queue, _ = self.set_up(log=log)
        queue.publish(fake_origin(), numbered(3))
        calls: list[int] = []

        def committed() -> None:
            calls.append(queue.committed)

        queue.when_committed(committed)
        queue.when_committed(committed)
        log.advance(committed=1)
        log.advance(committed=3)

        assert calls == [1]

    def test_nobody_waits_for_the_commit_of_a_deleted_queue(self) -> None:
        log = HeldLog()
        queue, _ = self.set_up(log=log)
        end = queue.publish(fake_origin(), numbered(3))
        calls: list[int] = []
        queue.when_committed(lambda: calls.append(queue.committed))

        queue.delete()

        assert calls == [end]

    # -- all together --------------------------------------------------------------------------

    @pytest.mark.parametrize("highest", [0, 3])
    @pytest.mark.parametrize("ttl_ms", [None, 20])
    def test_a_queue_agrees_with_the_model_on_random_walks(
        self, ttl_ms: int | None, highest: int
    ) -> None:
        for seed in range(_WALKS):
            rng = random.Random(seed)
            model = self.modelled(ttl_ms, highest)
            pool = CreditPool(0)
            for pooled in (None, None, pool, pool):
                priority = rng.randint(0, 1)
                model.consume(FakeConsumer(rng.randint(0, 9), pool=pooled, priority=priority))
            for _ in range(_STEPS):
                self._step(model, rng)
                model.check()

    def _step(self, model: QueueModel, rng: random.Random) -> None:
        holder = model.held[rng.choice(model.consumers)]
        if rng.randrange(10) == 0:
            model.purge()
        elif holder and rng.random() < 0.5:
            for run in runs_of(sorted(rng.sample(holder, rng.randint(1, len(holder))))):
                model.settle(holder, run, rng.choice(model.outcomes(run)))
        elif rng.random() < 0.5:
            model.publish(rng.randint(1, 20), rng.randint(0, 4), rng.choice((None, None, 0, 9)))
            model.advance(rng.randint(0, 9))
            model.give(rng.choice(model.consumers), rng.randint(0, 9))
        model.dispatch(rng.randint(1, 30))


def _is_refused(queue: Queue, consumer: Consumer) -> str | None:
    try:
        queue.consume(consumer)
    except AccessRefused as error:
        return error.text
    return None

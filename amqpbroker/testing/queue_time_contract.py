"""What time and priorities do to the messages of every `Queue`, and time to the queue itself."""

from collections.abc import Callable

import pytest

from amqpbroker.queues.queue import Got, Outcome, Queue, QueueStat
from amqpbroker.storage.chunks import CHUNK_MAX
from amqpbroker.storage.log import MemoryLog
from amqpbroker.testing.fakes import FakeConsumer, FakeKeeper, HeldLog, fake_origin, numbered
from amqpbroker.testing.queue_contract import QueueSetUp, stat_of


class _SpyLog(MemoryLog):
    """Counts what is settled."""

    settled_count = 0

    def settle(self, indexes: range) -> None:
        self.settled_count += len(indexes)
        super().settle(indexes)


class QueueTimeContract(QueueSetUp):
    """Time to live, lease, priorities of messages and of consumers."""

    # -- time to live --------------------------------------------------------------------------

    def test_a_message_that_nobody_takes_in_time_is_gone(self) -> None:
        queue, keeper = self.set_up({"x-message-ttl": 100})
        queue.publish(fake_origin(), numbered(2))

        keeper.advance(99)
        before = stat_of(queue).ready
        keeper.advance(1)

        assert before == 2
        assert stat_of(queue).ready == 0
        assert queue.get(no_ack=True) is None

    def test_a_message_may_have_a_time_of_its_own_and_the_shorter_counts(self) -> None:
        queue, keeper = self.set_up({"x-message-ttl": 100})
        for ttl_ms in (20, 500, None):
            queue.publish(fake_origin(ttl_ms=ttl_ms), numbered(1))

        keeper.advance(20)
        after_20 = stat_of(queue).ready
        keeper.advance(80)

        assert after_20 == 2
        assert stat_of(queue).ready == 0

    def test_the_time_counts_from_publish(self) -> None:
        queue, keeper = self.set_up({"x-message-ttl": 100})
        queue.publish(fake_origin(), numbered(1))
        keeper.advance(60)
        queue.publish(fake_origin(), numbered(1))

        keeper.advance(60)

        assert stat_of(queue).ready == 1

    def test_a_message_expires_when_it_is_first(self) -> None:
        queue, keeper = self.set_up()
        queue.publish(fake_origin(), [b"first"])
        queue.publish(fake_origin(ttl_ms=10), [b"second", b"third"])
        queue.publish(fake_origin(), [b"last"])

        keeper.advance(50)
        before = stat_of(queue).ready
        got = queue.get(no_ack=True)

        assert before == 4
        assert isinstance(got, Got)
        assert (got.raw, got.ready) == (b"first", 1)
        assert stat_of(queue).ready == 1

    def test_an_expired_message_is_not_delivered_behind_another(self) -> None:
        queue, keeper = self.set_up()
        for ttl_ms in (None, 10, None, 10, 90):
            queue.publish(fake_origin(ttl_ms=ttl_ms), numbered(1))
        keeper.advance(50)

        consumer = FakeConsumer()
        queue.consume(consumer)
        keeper.hand_out()

        assert consumer.indexes == [0, 2, 4]

    @pytest.mark.parametrize("priority", [0, 1])
    def test_who_waits_has_a_message_however_short_its_time_is(self, priority: int) -> None:
        queue, keeper = self.set_up({"x-message-ttl": 0})
        consumers = [FakeConsumer(credit=2), FakeConsumer(credit=9, priority=priority)]
        for consumer in consumers:
            queue.consume(consumer)
        keeper.hand_out()

        queue.publish(fake_origin(), numbered(6))
        keeper.hand_out()

        assert sorted(consumers[0].indexes + consumers[1].indexes) == list(range(6))

    def test_what_came_just_before_takes_nobodys_time(self) -> None:
        queue, keeper = self.set_up()
        consumer = FakeConsumer(credit=3)
        queue.consume(consumer)

        queue.publish(fake_origin(), numbered(2))
        queue.publish(fake_origin(ttl_ms=0), numbered(2))
        keeper.hand_out()

        assert consumer.indexes == [0, 1, 2]

    def test_without_a_taker_a_message_without_time_is_gone_at_once(self) -> None:
        queue, keeper = self.set_up()
        consumer = FakeConsumer(credit=1)
        queue.consume(consumer)

        queue.publish(fake_origin(ttl_ms=0), numbered(3))
        ready = stat_of(queue).ready
        consumer.give(queue, 5)
        keeper.hand_out()

        assert ready == 0
        assert consumer.indexes == [0]

    def test_what_a_consumer_has_does_not_expire(self) -> None:
        queue, keeper = self.set_up({"x-message-ttl": 10})
        queue.consume(FakeConsumer())
        queue.publish(fake_origin(), numbered(2))
        keeper.hand_out()

        keeper.advance(50)

        assert queue.stat() == QueueStat(ready=0, unsettled=2, consumers=1)

    def test_a_requeued_message_keeps_its_time(self) -> None:
        queue, keeper = self.set_up({"x-message-ttl": 100})
        queue.publish(fake_origin(), numbered(2))
        for _ in range(2):
            queue.get(no_ack=False)

        keeper.advance(60)
        queue.settle(range(1), Outcome.REQUEUE)
        after_60 = stat_of(queue).ready
        keeper.advance(40)
        after_100 = stat_of(queue).ready
        queue.settle(range(1, 2), Outcome.REQUEUE)

        assert (after_60, after_100) == (1, 0)
        assert queue.stat() == QueueStat(ready=0, unsettled=0, consumers=0)

    def test_an_expired_message_comes_back_to_nobody(self) -> None:
        queue, keeper = self.set_up({"x-message-ttl": 0})
        consumer = FakeConsumer()
        queue.consume(consumer)
        queue.publish(fake_origin(), numbered(1))
        keeper.hand_out()

        queue.settle(range(1), Outcome.REQUEUE)
        keeper.hand_out()

        assert consumer.indexes == [0]

    def test_what_has_expired_is_not_counted_by_purge_and_delete(self) -> None:
        queues = []
        for _ in range(2):
            queue, keeper = self.set_up()
            queue.publish(fake_origin(ttl_ms=10), numbered(1))
            queue.publish(fake_origin(), numbered(1))
            keeper.clock.advance(0.5)  # No timer has told anybody.
            queues.append(queue)

        assert (queues[0].purge(), queues[1].delete()) == (1, 1)

    def test_nobody_has_to_ask_for_an_expired_message_to_be_dropped(self) -> None:
        log = _SpyLog()
        queue, keeper = self.set_up(log=log)
        queue.publish(fake_origin(ttl_ms=20), numbered(3))
        queue.publish(fake_origin(ttl_ms=10), numbered(3))
        queue.publish(fake_origin(ttl_ms=30), numbered(3))
        settled = []

        for _ in range(3):
            keeper.advance(10)
            settled.append(log.settled_count)

        assert settled == [0, 6, 9]

    def test_a_message_is_dropped_in_time_though_those_before_it_were_not_to_expire(self) -> None:
        log = _SpyLog()
        queue, keeper = self.set_up(log=log)
        queue.publish(fake_origin(), numbered(1))
        queue.publish(fake_origin(ttl_ms=20), numbered(1))
        keeper.advance(10)
        queue.get(no_ack=True)

        keeper.advance(10)

        assert log.settled_count == 2

    def test_one_timer_is_enough_for_a_queue(self) -> None:
        queue, keeper = self.set_up({"x-message-ttl": 100})
        consumer = FakeConsumer(credit=50)
        queue.consume(consumer)

        for _ in range(100):
            queue.publish(fake_origin(), numbered(1))
            keeper.advance(1)
            keeper.hand_out()

        assert len(keeper.deadlines) <= 2

    def test_a_backlog_of_many_expires_whole(self) -> None:
        queue, keeper = self.set_up()
        for ttl_ms in (10, 20):
            queue.publish(fake_origin(ttl_ms=ttl_ms), numbered(3 * CHUNK_MAX))

        keeper.advance(10)
        after_10 = stat_of(queue).ready
        keeper.advance(10)

        assert (after_10, stat_of(queue).ready) == (3 * CHUNK_MAX, 0)

    def test_when_the_calendar_is_set_back_messages_wait_for_it(self) -> None:
        queue, keeper = self.set_up({"x-message-ttl": 100})
        queue.publish(fake_origin(), numbered(1))

        keeper.clock.wall_ahead_ms -= 1000
        keeper.advance(500)
        after_500 = stat_of(queue).ready
        keeper.advance(600)

        assert (after_500, stat_of(queue).ready) == (1, 0)

    def test_what_became_readable_too_late_is_not_delivered(self) -> None:
        log = HeldLog()
        queue, keeper = self.set_up({"x-message-ttl": 10}, log)
        consumer = FakeConsumer()
        queue.consume(consumer)
        queue.publish(fake_origin(), numbered(2))
        keeper.hand_out()
        log.advance(readable=1)
        keeper.hand_out()

        keeper.advance(20)
        log.advance(readable=2)
        keeper.hand_out()

        assert consumer.indexes == [0]

    # -- a lease -------------------------------------------------------------------------------

    def leased(self) -> tuple[Queue, FakeKeeper]:
        """A queue that goes when it is not used for 100 ms."""
        return self.set_up({"x-expires": 100})

    def test_a_queue_that_nobody_uses_is_found_out(self) -> None:
        queue, keeper = self.leased()

        keeper.advance(99)
        before = list(keeper.found_unused)
        keeper.advance(1)

        assert before == []
        assert keeper.found_unused == [queue]

    @pytest.mark.parametrize("use", [lambda queue: queue.get(True), lambda queue: queue.touch()])
    def test_get_and_declare_are_use(self, use: Callable[[Queue], object]) -> None:
        queue, keeper = self.leased()

        for _ in range(3):
            keeper.advance(60)
            use(queue)
        keeper.advance(99)
        before = list(keeper.found_unused)
        keeper.advance(1)

        assert before == []
        assert keeper.found_unused == [queue]

    def test_publish_is_no_use(self) -> None:
        queue, keeper = self.leased()

        keeper.advance(60)
        queue.publish(fake_origin(), numbered(1))
        keeper.advance(40)

        assert keeper.found_unused == [queue]

    def test_a_queue_is_used_while_it_has_a_consumer_and_for_a_time_after(self) -> None:
        queue, keeper = self.leased()
        consumers = [FakeConsumer(), FakeConsumer()]
        for consumer in consumers:
            queue.consume(consumer)

        keeper.advance(500)
        queue.cancel(consumers[0])
        keeper.advance(500)
        queue.cancel(consumers[1])
        keeper.advance(99)
        before = list(keeper.found_unused)
        keeper.advance(1)

        assert before == []
        assert keeper.found_unused == [queue]

    def test_use_again_and_again_sets_no_new_timers(self) -> None:
        queue, keeper = self.leased()

        for _ in range(50):
            queue.get(no_ack=True)

        assert len(keeper.deadlines) == 1

    def test_nothing_is_due_when_a_queue_is_deleted(self) -> None:
        queue, keeper = self.set_up({"x-expires": 100, "x-message-ttl": 50})
        queue.publish(fake_origin(), numbered(1))

        queue.delete()
        queue.publish(fake_origin(ttl_ms=10), numbered(1))

        assert keeper.deadlines.next_s() is None

    # -- priorities of messages ----------------------------------------------------------------

    def test_messages_come_by_priority_and_then_in_order(self) -> None:
        queue, keeper = self.set_up({"x-max-priority": 5})
        for priority in (0, 5, 3, 0, 9, 255, 1, 5):
            queue.publish(fake_origin(priority=priority), numbered(1))

        consumer = FakeConsumer()
        queue.consume(consumer)
        keeper.hand_out()

        assert consumer.indexes == [1, 4, 5, 7, 2, 6, 0, 3]

    def test_a_queue_without_priorities_takes_no_notice_of_them(self) -> None:
        queue, keeper = self.set_up()
        for priority in (0, 5, 3):
            queue.publish(fake_origin(priority=priority), numbered(1))

        consumer = FakeConsumer()
        queue.consume(consumer)
        keeper.hand_out()

        assert consumer.indexes == [0, 1, 2]

    def test_a_maximum_of_zero_is_one(self) -> None:
        queue, _ = self.set_up({"x-max-priority": 0})
        for priority in (0, 1):
            queue.publish(fake_origin(priority=priority), numbered(1))

        got = queue.get(no_ack=True)

        assert isinstance(got, Got)
        assert got.index == 1

    def test_who_waits_has_the_first_whatever_comes_right_after_it(self) -> None:
        queue, keeper = self.set_up({"x-max-priority": 5})
        consumer = FakeConsumer(credit=2)
        queue.consume(consumer)

        for priority in (1, 2, 3, 4):
            queue.publish(fake_origin(priority=priority), numbered(1))
        consumer.give(queue, 9)
        keeper.hand_out()

        assert consumer.indexes == [0, 1, 3, 2]

    def test_what_comes_later_with_a_higher_priority_comes_first(self) -> None:
        queue, keeper = self.set_up({"x-max-priority": 5})
        consumer = FakeConsumer(credit=2)
        queue.consume(consumer)
        queue.publish(fake_origin(priority=1), numbered(3))
        keeper.hand_out()

        queue.publish(fake_origin(priority=2), numbered(2))
        consumer.give(queue, 9)
        keeper.hand_out()

        assert consumer.indexes == [0, 1, 3, 4, 2]

    def test_requeued_messages_return_to_their_places_within_their_priority(self) -> None:
        queue, _ = self.set_up({"x-max-priority": 5})
        for priority in (1, 2, 1, 2, 1):
            queue.publish(fake_origin(priority=priority), numbered(1))
        for _ in range(4):
            queue.get(no_ack=False)

        queue.settle(range(4), Outcome.REQUEUE)
        indexes = []
        while isinstance(got := queue.get(no_ack=True), Got):
            indexes.append((got.index, got.redelivered))

        assert indexes == [(1, True), (3, True), (0, True), (2, True), (4, False)]

    def test_only_what_is_readable_has_a_priority(self) -> None:
        log = HeldLog()
        queue, keeper = self.set_up({"x-max-priority": 5}, log)
        queue.publish(fake_origin(priority=1), numbered(3))
        queue.publish(fake_origin(priority=5), numbered(2))
        consumer = FakeConsumer()
        queue.consume(consumer)

        ready = []
        for readable in (2, 4, 5):
            log.advance(readable=readable)
            ready.append(stat_of(queue).ready)
            keeper.hand_out()

        assert ready == [2, 2, 1]
        assert consumer.indexes == [0, 1, 3, 2, 4]

    def test_what_expires_behind_a_higher_priority_waits(self) -> None:
        queue, keeper = self.set_up({"x-max-priority": 5})
        queue.publish(fake_origin(priority=1, ttl_ms=10), [b"low"])
        queue.publish(fake_origin(priority=2), [b"high"])

        keeper.advance(50)
        before = stat_of(queue).ready
        queue.get(no_ack=True)

        assert (before, stat_of(queue).ready) == (2, 0)

    # -- priorities of consumers ---------------------------------------------------------------

    def test_consumers_of_a_higher_priority_are_served_until_they_have_no_credit(self) -> None:
        queue, keeper = self.set_up()
        low, high, other = (FakeConsumer(2, priority=priority) for priority in (-1, 10, 10))
        middle = FakeConsumer(1)
        for consumer in (low, high, middle, other):
            queue.consume(consumer)

        queue.publish(fake_origin(), numbered(8))
        keeper.hand_out()

        assert (high.indexes, other.indexes) == ([0, 2], [1, 3])
        assert (middle.indexes, low.indexes) == ([4], [5, 6])
        assert stat_of(queue).ready == 1

    def test_a_consumer_that_has_credit_again_goes_before_lower_ones(self) -> None:
        queue, keeper = self.set_up()
        low, high = FakeConsumer(), FakeConsumer(1, priority=1)
        queue.consume(low)
        queue.consume(high)
        queue.publish(fake_origin(), numbered(3))
        keeper.hand_out()

        high.give(queue, 2)
        queue.publish(fake_origin(), numbered(3))
        keeper.hand_out()

        assert high.indexes == [0, 3, 4]
        assert low.indexes == [1, 2, 5]

    def test_consumers_come_and_go_at_every_priority(self) -> None:
        queue, keeper = self.set_up()
        consumers = [FakeConsumer(priority=priority) for priority in (2, 0, 1, 1)]
        for consumer in consumers:
            queue.consume(consumer)

        for gone in (2, 0, 3, 1):
            queue.publish(fake_origin(), numbered(2))
            keeper.hand_out()
            queue.cancel(consumers[gone])

        assert [consumer.indexes for consumer in consumers] == [[0, 1, 2, 3], [6, 7], [], [4, 5]]
        assert stat_of(queue).consumers == 0

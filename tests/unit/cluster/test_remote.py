"""A queue as seen from another node, and what its holder does: what seldom happens."""

import random

import pytest

from amqpbroker.cluster import queue_frames as frames
from amqpbroker.cluster.wire import OUTBOX_BYTES_HIGH
from amqpbroker.definitions import QueueDefinition
from amqpbroker.errors import InternalError, NotFound
from amqpbroker.queues.queue import Outcome, Pending, QueueStat
from amqpbroker.testing.fakes import CreditPool, FakeConsumer, HeldLog, fake_origin, numbered
from amqpbroker.testing.remote_queues import Asker, Holder

DEFINITION = QueueDefinition("/", "q", durable=True, log_id=7)
OTHER = QueueDefinition("/", "other", log_id=8)


@pytest.fixture
def holder() -> Holder:
    holder = Holder()
    holder.open(DEFINITION)
    holder.open(OTHER)
    return holder


@pytest.fixture
def asker(holder: Holder) -> Asker:
    return holder.dial()


def failed(pending: Pending[object]) -> list[Exception]:
    """The error that comes of a question, once it has come."""
    errors: list[Exception] = []
    pending.otherwise = errors.append
    return errors


# -- a holder that has not heard of a queue yet --------------------------------------------------


@pytest.fixture
def news(holder: Holder) -> list[Pending[None]]:
    """What the holder waits for until it knows all; it has not heard of queue ``q``."""
    waiting: list[Pending[None]] = []

    def catch_up() -> Pending[None]:
        waiting.append(Pending())
        return waiting[-1]

    holder.serving.catch_up = catch_up
    del holder.queues[DEFINITION.log_id]
    return waiting


def test_what_is_asked_of_a_queue_waits_until_its_holder_has_heard_of_it(
    holder: Holder, news: list[Pending[None]]
) -> None:
    asker = holder.dial()
    queue, other = asker.open(DEFINITION), asker.open(OTHER)
    queue.publish(fake_origin(), numbered(3))
    holder.settle()
    consumer = FakeConsumer(credit=2)
    queue.consume(consumer)
    queue.publish(fake_origin(), numbered(5)[3:])
    stats: list[QueueStat] = []
    queue.stat().then = stats.append
    other.publish(fake_origin(), numbered(1))
    holder.settle()
    assert (queue.committed, other.committed, len(news)) == (0, 1, 1)

    held = holder.open(DEFINITION)
    holder.settle()
    assert queue.committed == 0, "what comes later stays behind what waits"
    news[0].resolve(None)
    holder.settle()

    assert (queue.committed, queue.refused) == (5, [])
    assert stats == [QueueStat(ready=5, unsettled=0, consumers=1)]
    assert consumer.raws == numbered(2)
    queue.publish(fake_origin(), numbered(1))
    holder.settle()
    assert (queue.committed, held.stat().ready, len(news)) == (6, 4, 1)


@pytest.mark.parametrize("knows", [True, False])
def test_when_the_holder_knows_all_and_has_no_such_queue_there_is_none(
    holder: Holder, news: list[Pending[None]], knows: bool
) -> None:
    queue = holder.dial().open(DEFINITION)
    queue.publish(fake_origin(), numbered(3))
    errors = failed(queue.get(no_ack=True))
    holder.settle()
    assert errors == []

    if knows:
        news[0].resolve(None)
    else:
        news[0].fail(InternalError("etcd is away"))
    holder.settle()

    assert [type(error) for error in errors] == [NotFound]
    assert (queue.committed, queue.refused) == (3, [range(3)])


def test_much_that_waits_is_done_in_several_turns(
    holder: Holder, news: list[Pending[None]]
) -> None:
    asker = holder.dial()
    queue = asker.open(DEFINITION)
    for number in range(100):
        queue.publish(fake_origin(ttl_ms=number), numbered(1))
    holder.settle()
    holder.open(DEFINITION)
    news[0].resolve(None)

    before = holder.keeper.turn.number
    holder.settle()

    assert queue.committed == 100
    assert holder.keeper.turn.number > before + 3


def test_nothing_of_what_waits_is_done_when_the_stream_has_broken(
    holder: Holder, news: list[Pending[None]]
) -> None:
    asker = holder.dial()
    queue = asker.open(DEFINITION)
    queue.publish(fake_origin(), numbered(3))
    holder.settle()
    asker.stream.cut()
    held = holder.open(DEFINITION)

    news[0].resolve(None)
    holder.settle()

    assert held.stat().ready == 0


def test_what_makes_no_sense_breaks_the_stream_though_it_had_to_wait(
    holder: Holder, news: list[Pending[None]]
) -> None:
    asker = holder.dial()
    asker.open(DEFINITION)
    serving = asker.stream.serving
    payload = b"".join(frames.encode_publish([(7, 1)], None, [fake_origin()], [b"second"]))
    holder.serving.frame(serving, frames.PUBLISH, payload)

    news[0].resolve(None)
    holder.settle()

    assert not serving.is_up


# -- streams come and go -------------------------------------------------------------------------


def test_what_was_not_sent_when_the_stream_breaks_is_refused(holder: Holder, asker: Asker) -> None:
    queue = asker.open(DEFINITION)
    end = queue.publish(fake_origin(), numbered(3))
    calls: list[int] = []
    queue.when_committed(lambda: calls.append(queue.committed))

    asker.stream.cut()
    asker.keeper.hand_out()

    assert calls == [end] == [queue.committed]
    assert queue.refused == [range(3)]


def test_what_is_published_while_there_is_no_stream_is_refused_though_one_comes_at_once(
    holder: Holder, asker: Asker
) -> None:
    queue = asker.open(DEFINITION)
    asker.stream.cut()
    queue.publish(fake_origin(), numbered(2))
    asker.stream.connect()

    end = queue.publish(fake_origin(), numbered(3))
    holder.settle()

    assert queue.committed == end == 5
    assert queue.refused == [range(2)]
    assert holder.queues[7].stat() == QueueStat(3, 0, 0)


def test_what_was_lost_is_refused_though_what_came_later_is_committed_first(
    holder: Holder, asker: Asker
) -> None:
    queue = asker.open(DEFINITION)
    queue.publish(fake_origin(), numbered(2))
    queue.dispatch(1)
    asker.stream.cut()
    asker.stream.connect()
    asking = asker.stream.asking
    queue.publish(fake_origin(), numbered(3))
    queue.send_waiting()  # type: ignore[attr-defined]  # Its turn has not come yet.

    asking.user.frame(asking, frames.COMMITTED, frames.encode_committed(7, 3, []))

    assert queue.committed == 5
    assert queue.refused == [range(2)]


def test_what_was_asked_on_a_broken_stream_is_not_asked_on_the_next(
    holder: Holder, asker: Asker
) -> None:
    queue = asker.open(DEFINITION)
    errors = failed(queue.consume(FakeConsumer())) + failed(queue.stat())
    errors = failed(queue.get(no_ack=True))

    asker.stream.cut()
    asker.stream.connect()
    holder.settle()

    assert [str(error) for error in errors] == [
        "home node 'rabbit@a' of durable queue 'q' in vhost '/' is down or inaccessible"
    ]
    assert holder.queues[7].stat() == QueueStat(0, 0, 0)


def test_refused_runs_are_joined_and_only_the_newest_are_kept(holder: Holder, asker: Asker) -> None:
    queue = asker.open(DEFINITION)
    for _ in range(40):
        queue.publish(fake_origin(), numbered(1))
        holder.settle()
        asker.stream.cut()
        for _ in range(2):
            queue.publish(fake_origin(), numbered(1))
            holder.settle()
        asker.stream.connect()

    assert len(queue.refused) <= 16
    assert queue.refused[-1] == range(118, 120)


def test_much_that_another_node_had_waits_again_some_at_a_time(
    holder: Holder, asker: Asker
) -> None:
    queue, consumer = asker.open(DEFINITION), FakeConsumer()
    queue.consume(consumer)
    for _ in range(30):
        queue.publish(fake_origin(), numbered(1000))
        holder.settle()
    gone = random.Random(1).sample(range(30_000), 15_000)
    for index in gone:
        queue.settle(range(index, index + 1), Outcome.ACK)
    holder.settle()

    asker.stream.cut()
    holder.keeper.turn.run()
    at_once = holder.queues[7].stat().ready
    holder.settle()

    assert 1000 < at_once < 15_000
    assert holder.queues[7].stat() == QueueStat(15_000, 0, 0)


# -- confirms ------------------------------------------------------------------------------------


def test_each_publisher_is_told_of_its_own_messages(holder: Holder) -> None:
    log = HeldLog()
    holder.open(DEFINITION, log)
    queues = [holder.dial().open(DEFINITION) for _ in range(2)]
    for count in (2, 3):
        for queue in queues:
            queue.publish(fake_origin(), numbered(count))
            holder.settle()

    told = []
    for committed in range(0, 11, 2):
        log.advance(committed=committed)
        holder.settle()
        told.append(tuple(queue.committed for queue in queues))

    assert told == [(0, 0), (2, 0), (2, 2), (4, 2), (5, 3), (5, 5)]


def test_a_queue_that_its_holder_does_not_have_takes_nothing(holder: Holder, asker: Asker) -> None:
    queue = asker.open(QueueDefinition("/", "new", log_id=9))
    errors = failed(queue.purge())

    queue.publish(fake_origin(), numbered(2))
    holder.settle()
    held = holder.open(queue.definition)
    end = queue.publish(fake_origin(), numbered(3))
    holder.settle()

    assert [str(error) for error in errors] == ["no queue 'new' in vhost '/'"]
    assert isinstance(errors[0], NotFound)
    assert queue.refused == [range(2)]
    assert queue.committed == end
    assert held.stat().ready == 3


# -- credit --------------------------------------------------------------------------------------


def test_credit_that_others_leave_behind_is_for_those_who_share_it(
    holder: Holder, asker: Asker
) -> None:
    queues = [asker.open(DEFINITION), asker.open(OTHER)]
    pool = CreditPool(2)
    consumers = [FakeConsumer(pool=pool) for _ in queues]
    for queue, consumer in zip(queues, consumers, strict=True):
        queue.consume(consumer)
    holder.settle()
    queues[0].publish(fake_origin(), numbered(2))
    holder.settle()
    queues[0].cancel(consumers[0])

    pool.credit = 2
    consumers[1].give(queues[1], 0)
    queues[1].publish(fake_origin(), numbered(2))
    holder.settle()

    assert consumers[1].indexes == [0, 1]


def test_what_is_too_much_for_shared_credit_goes_back_unseen(holder: Holder, asker: Asker) -> None:
    pool = CreditPool(4)
    queue, consumer = asker.open(DEFINITION), FakeConsumer(pool=pool)
    queue.consume(consumer)
    holder.settle()

    pool.credit = 1  # A consumer of another queue has had the rest.
    holder.queues[7].publish(fake_origin(), numbered(10))
    holder.settle()

    assert consumer.indexes == [0]
    assert holder.queues[7].stat() == QueueStat(9, 1, 1)
    drain = FakeConsumer()
    holder.queues[7].consume(drain)
    holder.settle()
    assert drain.indexes == [*range(1, 10)]
    assert not any(taken.redelivered for taken in drain.taken)


def test_what_lies_behind_what_went_back_goes_back_too(holder: Holder, asker: Asker) -> None:
    pool = CreditPool(4)
    queue, consumer = asker.open(DEFINITION), FakeConsumer(pool=pool)
    queue.consume(consumer)
    holder.settle()
    asker.stream.serving.is_held = True
    for _ in range(2):
        holder.queues[7].publish(fake_origin(), numbered(2))
        holder.settle()

    pool.credit = 1  # A consumer of another queue has had the rest, and gives it back too late.
    consumer.park = lambda: consumer.give(queue, 3)  # type: ignore[method-assign]
    consumer.parked = True
    asker.stream.serving.is_held = False
    holder.settle()

    assert consumer.indexes == [0, 1, 2, 3]


def test_what_goes_back_unseen_is_flagged_if_another_has_later_ones(holder: Holder) -> None:
    pool = CreditPool(3)
    consumers = [FakeConsumer(pool=pool) for _ in range(2)]
    askers = [holder.dial() for _ in range(2)]
    queues = [asker.open(DEFINITION) for asker in askers]
    for queue, consumer in zip(queues, consumers, strict=True):
        queue.consume(consumer)
    holder.settle()

    holder.queues[7].publish(fake_origin(), numbered(10))
    holder.settle()

    assert sum(len(consumer.taken) for consumer in consumers) == 3
    assert holder.queues[7].stat() == QueueStat(7, 3, 2)
    drain = FakeConsumer()
    holder.queues[7].consume(drain)
    holder.settle()
    assert [(taken.index, taken.redelivered) for taken in drain.taken] == [
        (1, True), (3, True), (5, False), (6, False), (7, False), (8, False), (9, False),
    ]  # fmt: skip


def test_what_a_slow_client_has_not_taken_comes_before_its_consumer_has_gone(
    holder: Holder, asker: Asker
) -> None:
    queue, consumer = asker.open(DEFINITION), FakeConsumer(no_ack=True)
    queue.consume(consumer)
    holder.settle()
    consumer._purse.credit = 2
    holder.queues[7].publish(fake_origin(), numbered(5))
    holder.settle()
    assert (consumer.indexes, consumer.parked) == ([0, 1], True)

    consumer._purse.credit = 100  # The queue is not told.
    gone = queue.cancel(consumer)
    assert gone is not None
    seen: list[int] = []
    gone.then = lambda _: seen.extend(consumer.indexes)
    holder.settle()

    assert seen == [0, 1, 2, 3, 4]


def test_what_a_slow_client_has_not_taken_comes_when_it_takes_again(
    holder: Holder, asker: Asker
) -> None:
    queue, consumer = asker.open(DEFINITION), FakeConsumer()
    queue.consume(consumer)
    holder.settle()
    consumer._purse.credit = 2
    for _ in range(3):
        holder.queues[7].publish(fake_origin(), numbered(3))
        holder.settle()

    taken = [len(consumer.taken)]
    for credit in (1, 4, 100):
        consumer.give(queue, credit)
        holder.settle()
        taken.append(len(consumer.taken))

    assert taken == [2, 3, 7, 9]
    assert consumer.indexes == list(range(9))


def test_a_consumer_goes_on_when_there_is_room_though_it_was_allowed_more_before(
    holder: Holder, asker: Asker
) -> None:
    queue, consumer = asker.open(DEFINITION), FakeConsumer(credit=1)
    other = asker.open(OTHER)
    for each, taker in ((queue, consumer), (other, FakeConsumer())):
        each.consume(taker)
    holder.queues[7].publish(fake_origin(), numbered(3))
    holder.settle()
    serving = asker.stream.serving
    serving.is_stuck = True
    holder.queues[8].publish(fake_origin(), [bytes(2 * OUTBOX_BYTES_HIGH)])
    holder.settle()

    consumer.give(queue, 2)
    holder.settle()
    assert consumer.indexes == [0]
    serving.is_stuck = False
    holder.settle()

    assert consumer.indexes == [0, 1, 2]


def test_a_consumer_is_not_sent_more_octets_than_a_window(holder: Holder, asker: Asker) -> None:
    queue, consumer = asker.open(DEFINITION), FakeConsumer()
    queue.consume(consumer)
    holder.settle()
    asker.stream.serving.is_held = True

    holder.queues[7].publish(fake_origin(), [bytes(10_000)] * 500)
    holder.settle()

    assert 50 <= holder.queues[7].stat().unsettled <= 80
    asker.stream.serving.is_held = False
    holder.settle()
    assert len(consumer.taken) == 500


# -- the end -------------------------------------------------------------------------------------


def test_a_question_that_was_not_sent_when_the_queue_is_deleted_has_an_answer(
    holder: Holder, asker: Asker
) -> None:
    queue = asker.open(DEFINITION)
    errors = failed(queue.stat())

    queue.delete()
    holder.settle()

    assert [str(error) for error in errors] == ["no queue 'q' in vhost '/'"]


def test_a_node_that_hears_first_of_a_deletion_leaves_the_queue(
    holder: Holder, asker: Asker
) -> None:
    queue, consumer = asker.open(DEFINITION), FakeConsumer(credit=2)
    queue.consume(consumer)
    end = queue.publish(fake_origin(), numbered(5))
    holder.settle()

    queue.delete()
    queue.settle(range(2), Outcome.ACK)
    holder.settle()

    assert consumer.is_cancelled
    assert queue.committed == end
    assert holder.queues[7].stat() == QueueStat(5, 0, 0)


def test_a_node_that_hears_last_of_a_deletion_is_told_that_the_queue_is_gone(
    holder: Holder, asker: Asker
) -> None:
    queue, consumer = asker.open(DEFINITION), FakeConsumer()
    queue.consume(consumer)
    queue.publish(fake_origin(), numbered(2))
    holder.settle()
    holder.delete(DEFINITION, if_unused=False, if_empty=False)

    errors = failed(queue.get(no_ack=True))
    queue.settle(range(2), Outcome.ACK)
    end = queue.publish(fake_origin(), numbered(2))
    holder.settle()

    assert [str(error) for error in errors] == ["no queue 'q' in vhost '/'"]
    assert (queue.committed, queue.refused) == (end, [])
    queue.delete()
    assert consumer.is_cancelled

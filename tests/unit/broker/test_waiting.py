"""Methods whose answer is not there yet: what waits behind them, and what goes on."""

import logging
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from pamqp import commands
from pamqp.base import Frame

from amqpbroker.broker.broker import Broker
from amqpbroker.definitions import QueueDefinition
from amqpbroker.errors import NotFound, PreconditionFailed
from amqpbroker.protocol.content import encode_content
from amqpbroker.protocol.frames import BODY, CONTENT_HEADER, HEADER, encode_method, frame
from amqpbroker.queues.classic import ClassicQueue
from amqpbroker.queues.queue import Consumer, Keeper, Queue
from amqpbroker.testing.fakes import FakeClock, SlowQueue, SlowQueues
from amqpbroker.testing.peer import Peer

Connect = Callable[..., Peer]
basic, queue = commands.Basic, commands.Queue


@pytest.fixture
def waiting(connect: Connect) -> Peer:
    """A peer with two channels and the queues "slow", whose answers come late, and "q"."""
    peer = connect(1, 2)
    peer.declare("q")
    peer.declare("slow", arguments={"x-queue-type": "slow"})
    return peer


@pytest.fixture
def slow_queue(waiting: Peer, slow: SlowQueues) -> SlowQueue:
    return slow.opened["slow"]


def names(peer: Peer) -> list[tuple[int, str]]:
    """Channel and name of each method that came."""
    return [(channel, item.name) for channel, item in peer.received() if isinstance(item, Frame)]


def test_the_answer_comes_when_it_is_there(waiting: Peer, slow_queue: SlowQueue) -> None:
    waiting.publish("slow", b"1", b"2")
    waiting.send(queue.Purge(queue="slow"))
    assert waiting.received() == []

    slow_queue.answer()
    waiting.settle_down()

    [(channel, answer)] = waiting.received()
    assert channel == 1
    assert isinstance(answer, queue.PurgeOk)
    assert answer.message_count == 2


def test_what_follows_waits_in_order(waiting: Peer, slow_queue: SlowQueue, broker: Broker) -> None:
    waiting.call(commands.Confirm.Select())
    waiting.send(queue.Purge(queue="slow"))
    waiting.publish("q", b"1", b"2")
    waiting.send(basic.Get(queue="q", no_ack=True), queue.Delete(queue="q"))
    assert waiting.received() == []
    assert broker.vhosts["/"].queues["q"].stat().ready == 0

    slow_queue.answer()
    waiting.settle_down()

    assert names(waiting) == [
        (1, "Queue.PurgeOk"),
        (1, "Basic.GetOk"),
        (1, "Queue.DeleteOk"),
        (1, "Basic.Ack"),
    ]


def test_what_follows_may_wait_in_its_turn(waiting: Peer, slow_queue: SlowQueue) -> None:
    waiting.send(*[queue.Purge(queue="slow")] * 3, basic.Get(queue="q"))

    for left in (2, 1, 0):
        assert slow_queue.asked == 1
        slow_queue.answer()
        waiting.settle_down()
        expected = [(1, "Queue.PurgeOk")] + [(1, "Basic.GetEmpty")] * (not left)
        assert names(waiting) == expected


def test_other_channels_go_on(waiting: Peer, slow_queue: SlowQueue) -> None:
    waiting.send(queue.Purge(queue="slow"))

    assert waiting.declare("other", channel=2) == "other"
    waiting.publish("slow", b"body", channel=2)
    assert slow_queue.stat().ready == 1


def test_heartbeats_go_on(connect: Connect, slow: SlowQueues, clock: FakeClock) -> None:
    peer = connect(1, heartbeat_s=10)
    peer.declare("slow", arguments={"x-queue-type": "slow"})
    peer.send(queue.Purge(queue="slow"))

    clock.advance(5)
    peer.broker.deadlines.run(clock.now_s)
    peer.settle_down()

    assert len(peer.read_bytes()) == 8


def test_an_error_for_an_answer_closes_the_channel(waiting: Peer, slow_queue: SlowQueue) -> None:
    waiting.send(queue.Purge(queue="slow"), basic.Get(queue="q"))

    slow_queue.refuse(NotFound("the node of queue 'slow' is down"))
    waiting.settle_down()

    [(channel, close)] = waiting.received()
    assert channel == 1
    assert isinstance(close, commands.Channel.Close)
    assert close.reply_text == "NOT_FOUND - the node of queue 'slow' is down"
    assert close.class_id << 16 | close.method_id == queue.Purge.index
    assert waiting.session.parked_bytes == 0


def test_an_answer_that_does_not_come_in_time_closes_the_connection(
    waiting: Peer, slow_queue: SlowQueue, broker: Broker, clock: FakeClock
) -> None:
    waiting.send(queue.Purge(queue="slow"), basic.Get(queue="q"))
    clock.advance(broker.limits.pending_s_max - 1)
    broker.deadlines.run(clock.now_s)
    waiting.settle_down()
    assert waiting.received() == []

    clock.advance(1)
    broker.deadlines.run(clock.now_s)
    waiting.settle_down()

    [(channel, close)] = waiting.received()
    assert (channel, close.reply_code) == (0, 541)
    assert close.class_id << 16 | close.method_id == queue.Purge.index
    slow_queue.answer()
    waiting.settle_down()
    assert waiting.received() == []


def test_connection_close_overtakes(waiting: Peer, slow_queue: SlowQueue, broker: Broker) -> None:
    waiting.send(queue.Purge(queue="slow"))
    waiting.publish("q", b"parked")

    answer = waiting.call(commands.Connection.Close(200, "", 0, 0), channel=0)

    assert isinstance(answer, commands.Connection.CloseOk)
    assert not broker.sessions
    assert broker.vhosts["/"].queues["q"].stat().ready == 0


def test_channel_close_waits_its_turn(waiting: Peer, slow_queue: SlowQueue) -> None:
    waiting.send(queue.Purge(queue="slow"), commands.Channel.Close(200, "", 0, 0))
    assert waiting.received() == []

    slow_queue.answer()
    waiting.settle_down()

    assert names(waiting) == [(1, "Queue.PurgeOk"), (1, "Channel.CloseOk")]
    assert isinstance(waiting.call(commands.Channel.Open()), commands.Channel.OpenOk)


def test_a_peer_is_held_that_has_too_much_parked(
    waiting: Peer, slow_queue: SlowQueue, broker: Broker
) -> None:
    waiting.send(queue.Purge(queue="slow"))
    while not waiting.session.held:
        waiting.publish("q", bytes(100_000))
        assert waiting.session.parked_bytes < 2 * broker.limits.parked_bytes_max
    assert waiting.session.parked_bytes > broker.limits.parked_bytes_max
    waiting.publish("q", b"the last")

    slow_queue.answer()
    waiting.settle_down()

    assert not waiting.session.held
    assert waiting.session.parked_bytes == 0
    waiting.consume("q", "c", no_ack=True)
    assert waiting.deliveries()[-1][1] == b"the last"


def test_deliveries_go_on_while_a_channel_waits(waiting: Peer, slow_queue: SlowQueue) -> None:
    waiting.consume("q", "c")
    waiting.received()
    waiting.send(queue.Purge(queue="slow"))

    waiting.publish("q", b"body", channel=2)

    assert [body for _, body in waiting.deliveries()] == [b"body"]


# -- consume and get ---------------------------------------------------------------------------


def test_a_consumer_is_told_before_its_first_delivery(waiting: Peer, slow_queue: SlowQueue) -> None:
    waiting.publish("slow", b"body")
    waiting.consume("slow", "c")
    assert waiting.received() == []

    slow_queue.answer()
    waiting.settle_down()

    assert names(waiting) == [(1, "Basic.ConsumeOk"), (1, "Basic.Deliver")]


def test_an_exclusive_consumer_may_be_refused_late(waiting: Peer, slow_queue: SlowQueue) -> None:
    waiting.consume("slow", "a", channel=1)
    waiting.consume("slow", "b", channel=2, exclusive=True)
    slow_queue.answer()
    slow_queue.answer()
    waiting.settle_down()

    (_, first), (channel, close) = waiting.received()
    assert isinstance(first, basic.ConsumeOk)
    assert (channel, close.reply_code) == (2, 403)


@pytest.mark.parametrize("how", ["close", "abandon", "deadline"])
def test_a_consumer_whose_answer_comes_too_late_is_taken_away(
    waiting: Peer, slow_queue: SlowQueue, broker: Broker, clock: FakeClock, how: str
) -> None:
    waiting.consume("slow", "c")
    end(waiting, how, broker, clock)

    slow_queue.answer()
    waiting.publish("slow", b"body")
    waiting._run_turns()

    assert slow_queue.stat().consumers == 0


@pytest.mark.parametrize("how", ["close", "abandon", "deadline"])
def test_a_message_whose_answer_comes_too_late_goes_back(
    waiting: Peer, slow_queue: SlowQueue, broker: Broker, clock: FakeClock, how: str
) -> None:
    waiting.publish("slow", b"body")
    waiting.send(basic.Get(queue="slow"))
    end(waiting, how, broker, clock)

    slow_queue.answer()
    waiting.settle_down()

    stat = slow_queue.stat()
    assert (stat.ready, stat.unsettled) == (1, 0)


# -- queues that are far away ------------------------------------------------------------------


class FarQueue(SlowQueue):
    """A queue that has to ask for everything."""

    def __init__(self, definition: QueueDefinition, keeper: Keeper) -> None:
        super().__init__(definition, keeper)
        self.abandoned: list[Consumer] = []

    def stat(self) -> Any:
        return self._later(lambda: ClassicQueue.stat(self))

    def cancel(self, consumer: Consumer) -> Any:
        return self._later(lambda: ClassicQueue.cancel(self, consumer))

    def abandon(self, consumer: Consumer) -> None:
        self.abandoned.append(consumer)
        ClassicQueue.cancel(self, consumer)

    def may_delete(self, if_unused: bool, if_empty: bool) -> Any:
        return self._later(lambda: 0)


class FarQueues(SlowQueues):
    def open(self, definition: QueueDefinition, keeper: Keeper) -> Queue:
        far = self.opened[definition.name] = FarQueue(definition, keeper)
        return far


@pytest.fixture
def far_queue(waiting: Peer, broker: Broker) -> FarQueue:
    """A queue "far", with a consumer "c" of the peer."""
    far_queues = FarQueues()
    broker._queue_types["far"] = far_queues  # type: ignore[index]
    waiting.declare("far", arguments={"x-queue-type": "far"})
    far = far_queues.opened["far"]
    assert isinstance(far, FarQueue)
    waiting.consume("far", "c", no_ack=True)
    answer(waiting, far)
    waiting.received()
    return far


def answer(peer: Peer, far: SlowQueue) -> None:
    far.answer()
    peer.settle_down()


@pytest.mark.parametrize("passive", [False, True])
def test_a_queue_that_is_declared_again_is_asked_what_it_has(
    waiting: Peer, far_queue: FarQueue, passive: bool
) -> None:
    arguments = {"x-queue-type": "far"}
    waiting.send(queue.Declare(queue="far", passive=passive, arguments=arguments))
    assert waiting.received() == []

    answer(waiting, far_queue)

    [(_, ok)] = waiting.received()
    assert (ok.queue, ok.message_count, ok.consumer_count) == ("far", 0, 1)


def test_a_queue_is_not_asked_for_one_who_wants_no_answer(
    waiting: Peer, far_queue: FarQueue
) -> None:
    waiting.send(
        queue.Declare(queue="far", passive=True, nowait=True),
        queue.Bind(queue="", exchange="amq.fanout"),
    )

    assert names(waiting) == [(1, "Queue.BindOk")]
    assert far_queue.asked == 0


def test_what_is_on_its_way_comes_before_cancel_ok(waiting: Peer, far_queue: FarQueue) -> None:
    waiting.send(basic.Cancel("c"), basic.Get(queue="q"))

    waiting.publish("far", b"body", channel=2)
    assert names(waiting) == [(1, "Basic.Deliver")]
    answer(waiting, far_queue)

    assert names(waiting) == [(1, "Basic.CancelOk"), (1, "Basic.GetEmpty")]
    assert far_queue.abandoned == []


def test_a_channel_that_closes_waits_for_no_consumer(
    waiting: Peer, far_queue: FarQueue, broker: Broker
) -> None:
    waiting.consume("far", "other", channel=2)
    answer(waiting, far_queue)
    waiting.send(basic.Cancel("c"))
    waiting.received()

    waiting.session.abandon()
    answer(waiting, far_queue)

    assert [consumer.tag for consumer in far_queue.abandoned] == ["c", "other"]


def test_a_queue_that_is_to_be_deleted_decides_itself(waiting: Peer, far_queue: FarQueue) -> None:
    waiting.send(queue.Delete(queue="far", if_unused=True))
    assert waiting.received() == []

    far_queue.refuse(PreconditionFailed("queue 'far' in vhost '/' in use"))
    waiting.settle_down()

    [(_, close)] = waiting.received()
    assert close.reply_text == "PRECONDITION_FAILED - queue 'far' in vhost '/' in use"


def test_an_answer_does_not_take_the_rest_of_another_channels_run(
    waiting: Peer, slow_queue: SlowQueue, broker: Broker
) -> None:
    waiting.call(commands.Exchange.Declare(exchange="f", exchange_type="fanout"))
    for name in ("a", "b", "c", "d"):
        waiting.declare(name)
        waiting.call(queue.Bind(queue=name, exchange="f"))
    waiting.send(queue.Purge(queue="slow"))
    waiting.publish("", *[b""] * 700, exchange="f")  # Parked behind the purge.
    method = encode_method(2, basic.Publish(exchange="f"))
    content = encode_content(2, b"\0\0", b"", 131072)
    waiting.connection.receive((method + content) * 1000, 0.0)
    assert waiting.session.take(1), "a part of the run is left for the next turn"

    slow_queue.answer()
    waiting.settle_down()

    queues = broker.vhosts["/"].queues
    assert [queues[name].stat().ready for name in ("a", "b", "c", "d")] == [1700] * 4


def test_a_message_that_is_too_large_closes_its_channel_after_what_waits_before_it(
    waiting: Peer, slow_queue: SlowQueue, broker: Broker
) -> None:
    size = broker.limits.wire.message_bytes_max + 1
    header = CONTENT_HEADER.pack(60, 0, size) + b"\0\0"
    waiting.send(queue.Purge(queue="slow"), basic.Publish(routing_key="q"))
    waiting.send_bytes(frame(HEADER, 1, header) + frame(BODY, 1, b"the first of many"))

    slow_queue.answer()
    waiting.settle_down()

    assert names(waiting) == [(1, "Queue.PurgeOk"), (1, "Channel.Close")]


def test_what_was_got_and_given_back_by_a_close_behind_it_is_given_back_once(
    waiting: Peer, slow_queue: SlowQueue
) -> None:
    waiting.publish("slow", b"body")
    waiting.send(basic.Get(queue="slow"), commands.Channel.Close(200, "", 0, 0))

    slow_queue.answer()
    waiting.settle_down()

    stat = slow_queue.stat()
    assert (stat.ready, stat.unsettled) == (1, 0)


def end(peer: Peer, how: str, broker: Broker, clock: FakeClock) -> None:
    """End the peer's connection."""
    if how == "close":
        peer.call(commands.Connection.Close(200, "", 0, 0), channel=0)
    elif how == "abandon":
        peer.session.abandon()
    else:
        clock.advance(broker.limits.pending_s_max)
        broker.deadlines.run(clock.now_s)


# -- bugs --------------------------------------------------------------------------------------


class Bug(SlowQueue):
    """A queue that breaks."""

    def publish(self, origin: object, raws: object) -> int:
        raise KeyError("a bug")


def test_a_bug_closes_one_connection_and_the_log_says_where(
    waiting: Peer,
    broker: Broker,
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
    slow_queue: SlowQueue,
) -> None:
    neighbour = connect(1)
    neighbour.declare("fine")
    slow_queue.__class__ = Bug

    waiting.publish("slow", b"body")

    [(channel, close)] = waiting.received()
    assert channel == 0
    assert isinstance(close, commands.Connection.Close)
    assert close.reply_code == 541
    assert close.reply_text.startswith("INTERNAL_ERROR - ")
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)
    neighbour.publish("fine", b"body")
    assert broker.vhosts["/"].queues["fine"].stat().ready == 1
    assert len(broker.sessions) == 1


def test_a_bug_in_a_late_answer_closes_one_connection_too(
    waiting: Peer, slow_queue: SlowQueue, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    neighbour = connect(1)
    waiting.send(queue.Purge(queue="slow"))

    slow_queue.refuse(KeyError("a bug"))
    waiting.settle_down()

    [(_, close)] = waiting.received()
    assert close.reply_code == 541
    assert any(record.exc_info for record in caplog.records)
    assert neighbour.declare("fine") == "fine"


def test_a_connection_that_has_waited_in_vain_is_freed_at_once(
    connect: Connect, slow: SlowQueues, broker: Broker, clock: FakeClock
) -> None:
    peer = connect(1)
    peer.declare("slow", arguments={"x-queue-type": "slow"})
    peer.send(queue.Purge(queue="slow"))
    session = weakref.ref(peer.session)
    clock.advance(31)
    broker.deadlines.run(clock.now_s)
    peer.settle_down()
    assert names(peer) == [(0, "Connection.Close")]

    peer.session.let_go()
    slow.opened["slow"].answer()
    del peer

    assert session() is None

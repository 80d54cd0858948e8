"""What consumers have, how they settle it, and how it comes back."""

from collections.abc import Callable

import pytest
from pamqp import commands
from pamqp.base import Frame

from amqpbroker.broker.broker import Broker
from amqpbroker.definitions import QueueDefinition
from amqpbroker.queues.classic import ClassicQueues
from amqpbroker.storage.log import Log, MemoryLog
from amqpbroker.testing.fakes import fake_world
from amqpbroker.testing.peer import Peer

Connect = Callable[..., Peer]
basic, queue = commands.Basic, commands.Queue

Seen = list[tuple[int, bytes, bool]]


def seen(peer: Peer) -> Seen:
    """Deliveries: tag, body, redelivered."""
    return [
        (deliver.delivery_tag, body, deliver.redelivered) for deliver, body in peer.deliveries()
    ]


def stat(broker: Broker, name: str = "q") -> tuple[int, int]:
    """Messages ready and unsettled."""
    stat = broker.vhosts["/"].queues[name].stat()
    return stat.ready, stat.unsettled


def get(peer: Peer, name: str = "q", no_ack: bool = False) -> tuple[basic.GetOk, bytes] | None:
    """One message, if there is one."""
    peer.send(basic.Get(queue=name, no_ack=no_ack))
    received = [item for _, item in peer.received()]
    if isinstance(received[0], basic.GetEmpty):
        return None
    return received[0], b"".join(received[2:])


@pytest.fixture
def consumer(connect: Connect) -> Peer:
    """A peer that has five messages of the queue q."""
    peer = connect(1)
    peer.declare("q")
    peer.publish("q", b"1", b"2", b"3", b"4", b"5")
    peer.consume("q", "c")
    assert len(seen(peer)) == 5
    return peer


# -- ack, nack, reject -------------------------------------------------------------------------


def test_consume_ok_precedes_the_first_delivery(peer: Peer) -> None:
    peer.declare("q")
    peer.publish("q", b"message")

    peer.consume("q", "c")

    first, second, *_ = [item for _, item in peer.received()]
    assert isinstance(first, basic.ConsumeOk)
    assert isinstance(second, basic.Deliver)
    assert second.consumer_tag == first.consumer_tag == "c"


def test_the_broker_names_a_consumer_that_has_no_name(peer: Peer) -> None:
    peer.declare("q")

    tags = {peer.call(basic.Consume(queue="q")).consumer_tag for _ in range(5)}

    assert len(tags) == 5
    assert all(tag.startswith("amq.ctag-") for tag in tags)


def test_acks_settle_one_by_one_in_any_order(broker: Broker, consumer: Peer) -> None:
    consumer.send(basic.Ack(4), basic.Ack(1), basic.Ack(3))

    assert consumer.received() == []
    assert stat(broker) == (0, 2)


def test_acks_that_count_on_are_a_range(broker: Broker, consumer: Peer) -> None:
    consumer.send(*(basic.Ack(tag) for tag in range(1, 6)))

    assert consumer.received() == []
    assert stat(broker) == (0, 0)


@pytest.mark.parametrize(("tag", "left"), [(3, 2), (5, 0), (0, 0)])
def test_multiple_settles_all_up_to_a_tag_and_nought_all_there_are(
    broker: Broker, consumer: Peer, tag: int, left: int
) -> None:
    consumer.send(basic.Ack(tag, multiple=True))

    assert consumer.received() == []
    assert stat(broker) == (0, left)


def test_multiple_passes_over_what_is_settled(broker: Broker, consumer: Peer) -> None:
    consumer.send(basic.Ack(2), basic.Ack(4, multiple=True))

    assert consumer.received() == []
    assert stat(broker) == (0, 1)


def test_nought_is_all_even_if_there_are_none(consumer: Peer) -> None:
    consumer.send(basic.Ack(0, multiple=True), basic.Ack(0, multiple=True))

    assert consumer.received() == []


@pytest.mark.parametrize(
    "again", [basic.Ack(2), basic.Nack(2), basic.Reject(2), basic.Ack(2, multiple=True)]
)
def test_settling_twice_closes_the_channel_and_puts_the_rest_back(
    broker: Broker, consumer: Peer, again: Frame
) -> None:
    consumer.send(basic.Ack(2))

    close = consumer.call(again)

    assert isinstance(close, commands.Channel.Close)
    assert (close.reply_code, close.reply_text) == (
        406,
        "PRECONDITION_FAILED - unknown delivery tag 2",
    )
    assert stat(broker) == (4, 0)


def test_a_run_of_acks_with_a_bad_one_settles_what_precedes_it(
    broker: Broker, consumer: Peer
) -> None:
    consumer.send(*(basic.Ack(tag) for tag in range(3, 8)))

    [(_, close)] = consumer.received()
    assert close.reply_text == "PRECONDITION_FAILED - unknown delivery tag 6"
    assert stat(broker) == (2, 0)


@pytest.mark.parametrize("method", [basic.Nack(2, requeue=False), basic.Reject(2, requeue=False)])
def test_what_is_refused_without_requeue_is_gone(
    broker: Broker, consumer: Peer, method: Frame
) -> None:
    consumer.send(method)

    assert consumer.received() == []
    assert stat(broker) == (0, 4)


@pytest.mark.parametrize("method", [basic.Nack(2, requeue=True), basic.Reject(2, requeue=True)])
def test_what_is_requeued_comes_again_and_says_so(consumer: Peer, method: Frame) -> None:
    consumer.send(method)

    assert seen(consumer) == [(6, b"2", True)]


@pytest.mark.parametrize("tag", [0, 5])
def test_all_are_requeued_in_order(consumer: Peer, tag: int) -> None:
    consumer.send(basic.Nack(tag, multiple=True, requeue=True))

    assert seen(consumer) == [(5 + i, b"%d" % i, True) for i in range(1, 6)]


def test_tags_count_per_channel_and_not_per_queue(connect: Connect) -> None:
    peer = connect(1, 2)
    for name in ("a", "b"):
        peer.declare(name)
        peer.consume(name, name)
        peer.received()
    peer.consume("b", "elsewhere", channel=2)
    peer.received()

    peer.publish("a", b"1")
    peer.publish("b", b"2")
    peer.publish("b", b"3")

    assert [tag for tag, _, _ in seen(peer)] == [1, 2, 1]


def test_a_tag_of_another_channel_is_unknown(connect: Connect) -> None:
    peer = connect(1, 2)
    peer.declare("q")
    peer.publish("q", b"1")
    peer.consume("q", "c", channel=1)
    peer.received()

    close = peer.call(basic.Ack(1), channel=2)

    assert isinstance(close, commands.Channel.Close)


def test_deliveries_that_need_no_ack_cannot_be_acked(peer: Peer) -> None:
    peer.declare("q")
    peer.publish("q", b"1")
    peer.consume("q", "c", no_ack=True)
    peer.received()

    assert isinstance(peer.call(basic.Ack(1)), commands.Channel.Close)


# -- back to the queue -------------------------------------------------------------------------


@pytest.mark.parametrize("channel", [0, 1])
def test_what_is_unsettled_goes_back_in_order_when_its_channel_or_connection_closes(
    broker: Broker, consumer: Peer, connect: Connect, channel: int
) -> None:
    consumer.send(basic.Ack(2))
    close = (commands.Connection if channel == 0 else commands.Channel).Close(200, "", 0, 0)

    consumer.send(close, channel=channel)
    other = connect(1)
    other.publish("q", b"6")
    other.consume("q", "c")

    assert [(body, again) for _, body, again in seen(other)] == [
        (b"1", True),
        (b"3", True),
        (b"4", True),
        (b"5", True),
        (b"6", False),
    ]


def test_what_is_unsettled_goes_back_when_the_peer_is_lost(broker: Broker, consumer: Peer) -> None:
    consumer.session.abandon()

    assert stat(broker) == (5, 0)
    assert not broker.sessions


def test_what_is_unsettled_goes_back_when_an_error_closes_the_channel(
    broker: Broker, consumer: Peer
) -> None:
    consumer.call(basic.Get(queue="none"))

    assert stat(broker) == (5, 0)


def test_cancel_keeps_what_is_unsettled_to_be_settled(broker: Broker, consumer: Peer) -> None:
    answer = consumer.call(basic.Cancel(consumer_tag="c"))
    consumer.publish("q", b"6")

    assert isinstance(answer, basic.CancelOk)
    assert answer.consumer_tag == "c"
    assert stat(broker) == (1, 5)
    consumer.send(basic.Ack(5, multiple=True))
    assert consumer.received() == []
    assert stat(broker) == (1, 0)


def test_cancelling_what_is_not_there_is_no_fault(peer: Peer) -> None:
    assert isinstance(peer.call(basic.Cancel(consumer_tag="none")), basic.CancelOk)


def test_recover_gives_all_back_to_be_delivered_again(consumer: Peer) -> None:
    consumer.send(basic.Ack(1))

    consumer.send(basic.Recover(requeue=True))

    received = [item for _, item in consumer.received()]
    assert isinstance(received[0], basic.RecoverOk)
    again = [item for item in received if isinstance(item, basic.Deliver)]
    assert [(deliver.delivery_tag, deliver.redelivered) for deliver in again] == [
        (tag, True) for tag in range(6, 10)
    ]


# -- get ---------------------------------------------------------------------------------------


def test_get_says_what_is_left(peer: Peer) -> None:
    peer.declare("q")
    peer.publish("q", b"1", b"2", b"3")

    gots = [get(peer) for _ in range(4)]

    assert [(got[0].delivery_tag, got[0].message_count, got[1]) for got in gots if got] == [
        (1, 2, b"1"),
        (2, 1, b"2"),
        (3, 0, b"3"),
    ]
    assert gots[3] is None


def test_get_says_where_a_message_was_published(peer: Peer) -> None:
    peer.declare("q")
    peer.call(queue.Bind(queue="q", exchange="amq.topic", routing_key="a.*"))
    peer.publish("a.b", b"", exchange="amq.topic")

    got = get(peer)

    assert got is not None
    assert (got[0].exchange, got[0].routing_key, got[0].redelivered) == ("amq.topic", "a.b", False)


def test_what_was_got_is_settled_as_what_was_delivered(broker: Broker, peer: Peer) -> None:
    peer.declare("q")
    peer.publish("q", b"1", b"2", b"3")
    for _ in range(3):
        get(peer)

    peer.send(basic.Ack(1), basic.Nack(2, requeue=True))
    again = get(peer)

    assert again is not None
    assert (again[0].delivery_tag, again[0].redelivered, again[1]) == (4, True, b"2")
    assert stat(broker) == (0, 2)


def test_what_is_got_without_ack_is_gone(broker: Broker, peer: Peer) -> None:
    peer.declare("q")
    peer.publish("q", b"1")

    get(peer, no_ack=True)

    assert stat(broker) == (0, 0)


def test_a_channel_with_very_many_deliveries_gives_them_back_turn_by_turn(
    connect: Connect, broker: Broker
) -> None:
    peer, other = connect(1), connect(1)
    peer.declare("q")
    peer.publish("q", *[b"body"] * 20_000)
    peer.consume("q", "t")
    peer.received()
    peer.send(*[basic.Ack(tag) for tag in range(2, 20_001, 2)])
    before = broker.turn.number

    peer.call(commands.Channel.Close(200, "", 0, 0))

    assert broker.turn.number - before > 3
    other.consume("q", "t")
    bodies = other.deliveries()
    assert len(bodies) == 10_000
    assert all(deliver.redelivered for deliver, _ in bodies)


def test_messages_whose_indexes_are_high_are_settled_like_others() -> None:
    def open_log(definition: QueueDefinition) -> Log:
        log = MemoryLog()
        log.skip_to((5 << 44) + 7)
        return log

    broker = Broker(fake_world(), queue_types={"classic": ClassicQueues(open_log)})
    broker.boot("guest", "guest")
    peer = Peer(broker).open(1)
    peer.declare("q")
    peer.send(commands.Confirm.Select())
    peer.publish("q", b"1", b"2", b"3", b"4")
    peer.consume("q", "c")
    assert seen(peer) == [(tag, b"%d" % tag, False) for tag in range(1, 5)]

    peer.send(basic.Ack(delivery_tag=1))
    peer.send(basic.Nack(delivery_tag=3, multiple=True, requeue=True))
    assert seen(peer) == [(5, b"2", True), (6, b"3", True)]
    peer.send(basic.Ack(delivery_tag=0, multiple=True))

    assert stat(broker) == (0, 0)
    assert broker.vhosts["/"].queues["q"].committed == (5 << 44) + 11

"""Queues and exchanges as peers declare, use and delete them."""

from collections.abc import Callable

import pytest
from pamqp import commands
from pamqp.base import Frame

from amqpbroker.broker.broker import Broker, BrokerLimits
from amqpbroker.definitions import VHostDefinition, delete
from amqpbroker.testing.fakes import fake_world
from amqpbroker.testing.peer import Peer

Connect = Callable[..., Peer]
basic, exchange, queue = commands.Basic, commands.Exchange, commands.Queue


def counts(peer: Peer, name: str) -> tuple[int, int]:
    """Messages and consumers, by a passive declare."""
    answer = peer.call(queue.Declare(queue=name, passive=True))
    assert isinstance(answer, queue.DeclareOk), answer
    return answer.message_count, answer.consumer_count


# -- declare -----------------------------------------------------------------------------------


def test_declare_counts_messages_and_consumers(peer: Peer) -> None:
    peer.declare("q")
    peer.publish("q", b"1", b"2", b"3")
    assert counts(peer, "q") == (3, 0)

    peer.call(basic.Qos(prefetch_count=1))
    peer.consume("q", "c")
    peer.received()

    assert counts(peer, "q") == (2, 1)


def test_declaring_the_same_again_changes_nothing(peer: Peer) -> None:
    arguments = {"x-max-length": 10, "x-mine": 1}
    peer.declare("q", durable=True, arguments=arguments)
    peer.publish("q", b"message")

    answer = peer.call(queue.Declare(queue="q", durable=True, arguments=arguments))

    assert answer.message_count == 1


def test_arguments_that_the_broker_does_not_know_may_differ(peer: Peer) -> None:
    peer.declare("q", arguments={"x-mine": 1})
    peer.call(exchange.Declare(exchange="x", arguments={"x-mine": 1}))

    assert peer.declare("q", arguments={"x-mine": 2, "nonsense": 3}) == "q"
    answer = peer.call(exchange.Declare(exchange="x", arguments={"x-mine": 2}))
    assert isinstance(answer, exchange.DeclareOk)


def test_a_queue_without_a_type_is_a_classic_one(peer: Peer) -> None:
    peer.declare("q")
    peer.declare("typed", arguments={"x-queue-type": "classic"})

    assert peer.declare("q", arguments={"x-queue-type": "classic"}) == "q"
    assert peer.declare("typed") == "typed"


def test_an_exclusive_queue_is_never_durable(peer: Peer) -> None:
    peer.declare("q", exclusive=True, durable=True)

    assert peer.declare("q", exclusive=True) == "q"


@pytest.mark.parametrize("passive", [False, True])
def test_line_ends_in_names_are_ignored(peer: Peer, passive: bool) -> None:
    peer.declare("queue")
    method = queue.Declare(passive=passive)
    method.queue = "qu\r\neue\n"

    assert peer.call(method).queue == "queue"


def test_the_broker_names_a_queue_that_has_no_name(peer: Peer) -> None:
    names = {peer.declare("") for _ in range(10)}

    assert len(names) == 10
    assert all(name.startswith("amq.gen-") and len(name) == 30 for name in names)


@pytest.mark.parametrize("passive", [False, True])
def test_an_empty_name_means_the_queue_declared_last(peer: Peer, passive: bool) -> None:
    peer.declare("first")
    peer.publish("first", b"message")
    peer.declare("second")
    if passive:
        peer.declare("first", passive=True)

    answer = peer.call(queue.Purge(queue=""))

    assert answer.message_count == (1 if passive else 0)


def test_the_queue_declared_last_is_the_channels_own(connect: Connect) -> None:
    peer = connect(1, 2)
    peer.declare("q", channel=1)

    assert isinstance(peer.call(queue.Purge(queue=""), channel=2), commands.Channel.Close)


def test_bind_without_queue_and_key_takes_the_name_for_both(peer: Peer) -> None:
    peer.declare("q")
    peer.call(queue.Bind(queue="", exchange="amq.direct"))

    peer.publish("q", b"message", exchange="amq.direct")

    assert counts(peer, "q") == (1, 0)


def test_nowait_is_not_answered(peer: Peer) -> None:
    methods: list[Frame] = [
        queue.Declare(queue="q", nowait=True),
        exchange.Declare(exchange="x", nowait=True),
        queue.Bind(queue="q", exchange="x", nowait=True),
        basic.Consume(queue="q", consumer_tag="c", nowait=True),
        basic.Cancel(consumer_tag="c", nowait=True),
        queue.Purge(queue="q", nowait=True),
        exchange.Delete(exchange="x", nowait=True),
        queue.Delete(queue="q", nowait=True),
        commands.Confirm.Select(nowait=True),
    ]

    peer.send(*methods)

    assert peer.received() == []
    assert isinstance(peer.call(basic.Get(queue="q")), commands.Channel.Close), "q is gone"


def test_queues_over_the_limit_are_refused() -> None:
    broker = Broker(fake_world(), BrokerLimits(queues_per_vhost_max=1))
    broker.boot("guest", "guest")
    peer = Peer(broker).open(1)
    peer.declare("q")
    peer.declare("q")

    close = peer.call(queue.Declare(queue="r"))

    assert close.reply_text == (
        "PRECONDITION_FAILED - cannot declare queue 'r': queue limit in vhost '/' (1) is reached"
    )


# -- purge, delete -----------------------------------------------------------------------------


def test_purge_drops_what_waits_and_not_what_is_unsettled(peer: Peer) -> None:
    peer.declare("q")
    peer.publish("q", b"1", b"2", b"3")
    peer.call(basic.Qos(prefetch_count=1))
    peer.consume("q", "c")
    peer.received()

    assert peer.call(queue.Purge(queue="q")).message_count == 2
    peer.send(basic.Nack(1))
    assert [body for _, body in peer.deliveries()] == [b"1"]


def test_delete_counts_the_messages_that_wait(peer: Peer) -> None:
    peer.declare("q")
    peer.publish("q", b"1", b"2")

    assert peer.call(queue.Delete(queue="q")).message_count == 2


def test_deleting_what_is_not_there_is_no_fault(peer: Peer) -> None:
    assert peer.call(queue.Delete(queue="none")).message_count == 0
    assert isinstance(peer.call(exchange.Delete(exchange="none")), exchange.DeleteOk)


def test_unbinding_what_is_not_bound_is_no_fault(peer: Peer) -> None:
    peer.declare("q")

    for name in ("q", "none"):
        answer = peer.call(queue.Unbind(queue=name, exchange="amq.direct"))
        assert isinstance(answer, queue.UnbindOk)


def test_consumers_of_a_deleted_queue_are_told_if_they_can_bear_it(connect: Connect) -> None:
    able = connect(1)
    unable = connect(1, capabilities={})
    able.declare("q")
    for peer in (able, unable):
        peer.consume("q", "c")
        peer.received()

    unable.call(queue.Delete(queue="q"))

    [(_, cancel)] = able.received()
    assert isinstance(cancel, basic.Cancel)
    assert (cancel.consumer_tag, cancel.nowait) == ("c", True)
    assert unable.received() == []


def test_who_deletes_a_queue_hears_of_its_own_consumers_after_the_answer(peer: Peer) -> None:
    peer.declare("q")
    for tag in "ab":
        peer.consume("q", tag)
    peer.received()

    peer.send(queue.Delete(queue="q"))

    answer, *notices = (frame for _, frame in peer.received())
    assert isinstance(answer, queue.DeleteOk)
    assert [notice.consumer_tag for notice in notices] == ["a", "b"]


def test_a_consumer_tag_is_free_again_when_its_queue_is_gone(peer: Peer) -> None:
    peer.declare("q")
    peer.consume("q", "c")
    peer.send(queue.Delete(queue="q"))
    peer.received()

    peer.declare("q")

    assert isinstance(peer.call(basic.Consume(queue="q", consumer_tag="c")), basic.ConsumeOk)


def test_settling_what_came_from_a_deleted_queue_is_no_fault(peer: Peer) -> None:
    peer.declare("q")
    peer.publish("q", b"1", b"2", b"3")
    peer.consume("q", "c")
    peer.send(queue.Delete(queue="q"))
    peer.received()

    peer.send(basic.Ack(1), basic.Nack(2), basic.Reject(3, requeue=False))

    assert peer.received() == []


# -- exclusive, auto-delete --------------------------------------------------------------------


def test_an_exclusive_queue_serves_all_channels_of_its_connection(connect: Connect) -> None:
    peer = connect(1, 2)
    peer.declare("q", channel=1, exclusive=True)

    assert peer.declare("q", channel=2, exclusive=True) == "q"


def test_anybody_may_publish_to_an_exclusive_queue(connect: Connect) -> None:
    owner, other = connect(1), connect(1)
    owner.declare("q", exclusive=True)

    other.publish("q", b"message")

    assert counts(owner, "q") == (1, 0)


def test_exclusive_queues_end_with_their_connection(broker: Broker, connect: Connect) -> None:
    owner, other = connect(1), connect(1)
    owner.declare("q", exclusive=True)
    owner.call(queue.Bind(queue="q", exchange="amq.direct", routing_key="k"))

    owner.call(commands.Connection.Close(200, "", 0, 0), channel=0)

    assert "q" not in broker.vhosts["/"].queues
    assert other.declare("q", exclusive=True) == "q"


def test_an_exclusive_queue_outlives_the_channel_that_declared_it(connect: Connect) -> None:
    peer = connect(1, 2)
    peer.declare("q", channel=2, exclusive=True)

    peer.call(commands.Channel.Close(200, "", 0, 0), channel=2)

    assert counts(peer, "q") == (0, 0)


def test_an_auto_delete_queue_goes_with_its_last_consumer(broker: Broker, connect: Connect) -> None:
    peer = connect(1)
    peer.declare("q", auto_delete=True)
    peer.consume("q", "a")
    peer.consume("q", "b")
    peer.received()
    peer.call(basic.Cancel(consumer_tag="a"))
    assert "q" in broker.vhosts["/"].queues

    peer.call(basic.Cancel(consumer_tag="b"))

    assert "q" not in broker.vhosts["/"].queues


@pytest.mark.parametrize("channel", [0, 1])
def test_an_auto_delete_queue_goes_when_its_last_consumer_is_closed(
    broker: Broker, connect: Connect, channel: int
) -> None:
    peer = connect(1)
    peer.declare("q", auto_delete=True)
    peer.consume("q", "c")
    close = (commands.Connection if channel == 0 else commands.Channel).Close(200, "", 0, 0)

    peer.send(close, channel=channel)

    assert "q" not in broker.vhosts["/"].queues


def test_an_auto_delete_queue_that_was_never_consumed_stays(
    broker: Broker, connect: Connect
) -> None:
    peer = connect(1)
    peer.declare("q", auto_delete=True)

    peer.call(commands.Connection.Close(200, "", 0, 0), channel=0)

    assert "q" in broker.vhosts["/"].queues


def test_an_auto_delete_exchange_goes_with_its_last_binding(peer: Peer) -> None:
    peer.declare("q")
    peer.call(exchange.Declare(exchange="x", auto_delete=True))
    for key in ("a", "b"):
        peer.call(queue.Bind(queue="q", exchange="x", routing_key=key))
    peer.call(queue.Unbind(queue="q", exchange="x", routing_key="a"))
    answer = peer.call(exchange.Declare(exchange="x", passive=True))
    assert isinstance(answer, exchange.DeclareOk)

    peer.call(queue.Delete(queue="q"))

    answer = peer.call(exchange.Declare(exchange="x", passive=True))
    assert isinstance(answer, commands.Channel.Close)


# -- virtual hosts -----------------------------------------------------------------------------


def test_a_deleted_virtual_host_closes_its_connections(broker: Broker, peer: Peer) -> None:
    peer.declare("q")

    broker.apply(delete(VHostDefinition("/")))
    peer.settle_down()

    [(_, close)] = peer.received()
    assert (close.reply_code, close.reply_text) == (
        320,
        "CONNECTION_FORCED - vhost '/' is deleted",
    )

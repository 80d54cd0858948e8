"""Direct reply-to: answers without a queue."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest
from pamqp import commands

from amqpbroker.broker.broker import Broker, BrokerLimits
from amqpbroker.definitions import PermissionDefinition, VHostDefinition, put
from amqpbroker.testing.fakes import fake_world
from amqpbroker.testing.peer import Peer

Connect = Callable[..., Peer]
basic, queue = commands.Basic, commands.Queue
REPLY_TO = "amq.rabbitmq.reply-to"


@pytest.fixture
def client(connect: Connect) -> Peer:
    """A peer that waits for replies on channel 1; a queue ``rpc`` is there."""
    client = connect(1, 2)
    client.declare("rpc")
    client.consume(REPLY_TO, "replies", no_ack=True)
    assert isinstance(client.received()[0][1], basic.ConsumeOk)
    return client


@pytest.fixture
def server(connect: Connect) -> Peer:
    return connect(1)


def ask(client: Peer, body: bytes = b"question") -> None:
    client.publish("rpc", body, properties=basic.Properties(reply_to=REPLY_TO, message_id="m"))


def address(server: Peer) -> str:
    """Where the next request wants its reply."""
    server.send(basic.Get(queue="rpc", no_ack=True))
    [_, (_, header), (_, body)] = server.received()
    assert header.properties.message_id == "m"
    assert body == b"question"
    reply_to: str = header.properties.reply_to
    return reply_to


def test_a_reply_goes_to_the_channel_that_asked(client: Peer, server: Peer) -> None:
    ask(client)
    reply_to = address(server)
    assert reply_to.startswith(REPLY_TO + ".")

    for body in (b"1", b"2", b"3"):
        server.publish(reply_to, body)

    client.settle_down()
    deliveries = client.deliveries()
    assert [body for _, body in deliveries] == [b"1", b"2", b"3"]
    assert [deliver.delivery_tag for deliver, _ in deliveries] == [1, 1, 1]  # As RabbitMQ's.
    assert {deliver.consumer_tag for deliver, _ in deliveries} == {"replies"}
    assert {deliver.routing_key for deliver, _ in deliveries} == {reply_to}


def test_a_reply_is_confirmed(client: Peer, server: Peer) -> None:
    server.call(commands.Confirm.Select())
    ask(client)

    server.publish(address(server), b"reply")

    assert [type(item) for _, item in server.received()] == [basic.Ack]


def test_a_mandatory_reply_comes_back_though_it_arrives(client: Peer, server: Peer) -> None:
    ask(client)

    server.publish(address(server), b"reply", mandatory=True)

    assert isinstance(server.received()[0][1], basic.Return)  # No queue has it (RabbitMQ).
    client.settle_down()
    assert [body for _, body in client.deliveries()] == [b"reply"]


def test_replies_use_no_delivery_tag_up(client: Peer, server: Peer) -> None:
    ask(client)
    server.publish(address(server), b"1", b"2")
    ask(client)
    client.received()

    client.send(basic.Get(queue="rpc"))

    assert client.received()[0][1].delivery_tag == 1


def test_a_reply_does_not_wait_for_commit(client: Peer, server: Peer) -> None:
    ask(client)
    reply_to = address(server)
    server.call(commands.Tx.Select())

    server.publish(reply_to, b"reply", mandatory=True)

    client.settle_down()
    assert [body for _, body in client.deliveries()] == [b"reply"]
    assert server.received() == []
    server.send(commands.Tx.Commit())
    came = [type(item) for _, item in server.received()]
    assert (came[0], came[-1]) == (basic.Return, commands.Tx.CommitOk)
    client.settle_down()
    assert client.deliveries() == []


def test_a_reply_may_come_from_another_virtual_host(
    client: Peer, server: Peer, connect: Connect, broker: Broker
) -> None:
    broker.apply(put(VHostDefinition("v")))
    broker.apply(put(PermissionDefinition("v", "guest", ".*", ".*", ".*")))
    ask(client)

    connect(1, vhost="v").publish(address(server), b"reply")

    client.settle_down()
    assert [body for _, body in client.deliveries()] == [b"reply"]


def test_a_reply_that_is_too_late_goes_nowhere(client: Peer, server: Peer) -> None:
    ask(client)
    reply_to = address(server)
    for _ in range(3):
        server.publish(reply_to, b"in time")
    client.settle_down()
    assert len(client.deliveries()) == 3
    client.call(basic.Cancel("replies"))

    server.publish(reply_to, b"too late", mandatory=True)

    assert isinstance(server.received()[0][1], basic.Return)
    client.settle_down()
    assert client.received() == []


def test_replies_end_with_the_channel(client: Peer, server: Peer, broker: Broker) -> None:
    ask(client)
    reply_to = address(server)

    client.call(commands.Channel.Close(200, "", 0, 0))

    server.publish(reply_to, b"too late")
    assert broker.replies.here == {}
    assert server.received() == []


def test_who_remembers_an_address_does_not_keep_the_connection_that_asked(
    client: Peer, server: Peer, connect: Connect
) -> None:
    asking = connect(1)
    asking.consume(REPLY_TO, "replies", no_ack=True)
    ask(asking)
    reply_to = address(server)
    for _ in range(3):
        server.publish(reply_to, b"reply")
    session = weakref.ref(asking.session)

    asking.session.abandon()
    asking.session.let_go()
    server.settle_down()
    del asking

    assert session() is None


def test_addresses_cannot_be_guessed(client: Peer, connect: Connect, server: Peer) -> None:
    other = connect(1)
    other.consume(REPLY_TO, "replies", no_ack=True)
    addresses = set()
    for peer in (client, other):
        ask(peer)
        addresses.add(address(server))

    assert len(addresses) == 2
    assert all(len(each) > len(REPLY_TO) + 20 for each in addresses)


def test_a_forged_address_goes_nowhere(client: Peer, server: Peer) -> None:
    for forged in (REPLY_TO, REPLY_TO + ".", REPLY_TO + ".forged"):
        server.publish(forged, b"body")

    client.settle_down()
    assert client.received() == []
    assert server.received() == []


def test_the_pseudo_queue_can_be_declared_and_so_can_an_address(client: Peer, server: Peer) -> None:
    ask(client)
    reply_to = address(server)

    for name in (REPLY_TO, reply_to):
        for passive in (True, False):
            answer = server.call(queue.Declare(queue=name, passive=passive))
            assert (answer.queue, answer.message_count, answer.consumer_count) == (name, 0, 1)

    close = server.call(queue.Declare(queue=REPLY_TO + ".forged"))
    assert close.reply_text == f"NOT_FOUND - no queue '{REPLY_TO}.forged' in vhost '/'"


@pytest.mark.parametrize(
    ("method", "code", "text"),
    [
        (
            basic.Consume(queue=REPLY_TO, consumer_tag="a", no_ack=True),
            406,
            "PRECONDITION_FAILED - reply consumer already set",
        ),
        (
            basic.Consume(queue=REPLY_TO, consumer_tag="a"),
            406,
            "PRECONDITION_FAILED - reply consumer cannot acknowledge",
        ),
        (
            basic.Consume(queue=REPLY_TO, consumer_tag="replies", no_ack=True),
            530,
            "NOT_ALLOWED - attempt to reuse consumer tag 'replies'",
        ),
        (
            basic.Consume(queue="rpc", consumer_tag="replies"),
            530,
            "NOT_ALLOWED - attempt to reuse consumer tag 'replies'",
        ),
        (basic.Get(queue=REPLY_TO), 404, f"NOT_FOUND - no queue '{REPLY_TO}' in vhost '/'"),
    ],
)
def test_what_is_refused(client: Peer, method: Any, code: int, text: str) -> None:
    client.send(method)

    [(_, close)] = client.received()
    assert (close.reply_code, close.reply_text) == (code, text)


def test_a_request_needs_a_consumer_of_replies_on_its_channel(client: Peer) -> None:
    client.publish("rpc", b"?", channel=2, properties=basic.Properties(reply_to=REPLY_TO))

    [(channel, close)] = client.received()
    assert channel == 2
    assert close.reply_code == 406
    assert close.reply_text == "PRECONDITION_FAILED - fast reply consumer does not exist"


def test_a_consumer_of_replies_can_be_cancelled_and_another_take_its_place(client: Peer) -> None:
    assert client.call(basic.Cancel("replies")).consumer_tag == "replies"

    client.consume(REPLY_TO, "", no_ack=True)

    assert client.received()[0][1].consumer_tag.startswith("amq.ctag-")


def test_no_answer_is_sent_where_none_is_wanted(connect: Connect) -> None:
    peer = connect(1)

    peer.send(basic.Consume(queue=REPLY_TO, no_ack=True, nowait=True))
    peer.send(queue.Declare(queue=REPLY_TO, nowait=True))

    assert peer.received() == []


def test_who_takes_no_replies_loses_them_and_holds_nobody_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = Broker(fake_world(), BrokerLimits(direct_replies_bytes_max=10_000))
    broker.boot("guest", "guest")
    client, server = Peer(broker).open(1), Peer(broker).open(1)
    server.declare("rpc")
    client.consume(REPLY_TO, "replies", no_ack=True)
    client.received()
    ask(client)
    reply_to = address(server)
    client.takes_bytes = 0

    for _ in range(20):
        server.publish(reply_to, bytes(1000))

    client.takes_bytes = None
    client.session.flush()
    assert 8 < len(client.deliveries()) < 12
    assert "are lost" in caplog.text

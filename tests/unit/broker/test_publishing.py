"""The way of a publish: routes, returns, confirms, and the octets that arrive."""

from collections.abc import Callable
from typing import Any

import pytest
from pamqp import commands
from pamqp.base import Frame
from pamqp.header import ContentHeader

from amqpbroker.broker.broker import Broker, BrokerLimits
from amqpbroker.protocol.content import encode_content
from amqpbroker.protocol.frames import encode_method
from amqpbroker.testing.fakes import fake_world
from amqpbroker.testing.peer import Peer

Connect = Callable[..., Peer]
basic, exchange, queue = commands.Basic, commands.Exchange, commands.Queue


def bodies(peer: Peer, name: str = "q") -> list[bytes]:
    """All messages of a queue; it is empty afterwards."""
    found = []
    while True:
        peer.send(basic.Get(queue=name, no_ack=True))
        received = [item for _, item in peer.received()]
        if isinstance(received[0], basic.GetEmpty):
            return found
        found.append(b"".join(received[2:]))


def names(peer: Peer) -> list[str]:
    """The names of the methods that came."""
    return [item.name for _, item in peer.received() if isinstance(item, Frame)]


# -- returns and confirms ----------------------------------------------------------------------


def test_a_mandatory_message_that_nobody_wants_comes_back(peer: Peer) -> None:
    properties = basic.Properties(message_id="7")

    peer.publish("none", b"body", mandatory=True, properties=properties)

    [(_, returned), (_, header), (_, body)] = peer.received()
    assert isinstance(returned, basic.Return)
    assert (returned.reply_code, returned.reply_text) == (312, "NO_ROUTE")
    assert (returned.exchange, returned.routing_key) == ("", "none")
    assert header.properties.message_id == "7"
    assert body == b"body"


def test_a_message_that_nobody_wants_is_dropped_if_it_is_not_mandatory(peer: Peer) -> None:
    peer.publish("none", b"body")
    peer.publish("none", b"body", exchange="amq.fanout")

    assert peer.received() == []


def test_a_mandatory_message_that_somebody_wants_stays(peer: Peer) -> None:
    peer.declare("q")

    peer.publish("q", b"body", mandatory=True)

    assert peer.received() == []
    assert bodies(peer) == [b"body"]


def test_a_message_comes_back_before_it_is_confirmed(peer: Peer) -> None:
    assert isinstance(peer.call(commands.Confirm.Select()), commands.Confirm.SelectOk)

    peer.publish("none", b"body", mandatory=True)

    assert names(peer) == ["Basic.Return", "Basic.Ack"]


@pytest.mark.parametrize("where", ["q", "none"])
@pytest.mark.parametrize("persistent", [False, True])
def test_what_is_published_is_confirmed_wherever_it_goes(
    peer: Peer, where: str, persistent: bool
) -> None:
    peer.declare("q", durable=True)
    peer.call(commands.Confirm.Select())
    properties = basic.Properties(delivery_mode=2 if persistent else 1)

    peer.publish(where, b"1", b"2", properties=properties)
    peer.publish(where, b"3", properties=properties)

    acks = [item for _, item in peer.received()]
    assert [(ack.delivery_tag, ack.multiple) for ack in acks] == [(2, True), (3, False)]


def test_sequence_numbers_begin_with_confirm_select(peer: Peer) -> None:
    peer.declare("q")
    peer.publish("q", b"before")
    peer.call(commands.Confirm.Select())

    peer.publish("q", b"after")

    [(_, ack)] = peer.received()
    assert (ack.delivery_tag, ack.multiple) == (1, False)


def test_selecting_confirms_again_changes_nothing(peer: Peer) -> None:
    peer.declare("q")
    peer.call(commands.Confirm.Select())
    peer.publish("q", b"1")
    peer.received()

    peer.call(commands.Confirm.Select())
    peer.publish("q", b"2")

    [(_, ack)] = peer.received()
    assert ack.delivery_tag == 2


def test_each_channel_counts_its_own(connect: Connect) -> None:
    peer = connect(1, 2)
    peer.declare("q")
    for channel in (1, 2):
        peer.call(commands.Confirm.Select(), channel)

    peer.publish("q", b"1", b"2", channel=1)
    peer.publish("q", b"1", channel=2)

    acks = [(channel, item.delivery_tag) for channel, item in peer.received()]
    assert acks == [(1, 2), (2, 1)]


def test_a_message_in_several_queues_is_confirmed_once(peer: Peer) -> None:
    for name in ("a", "b", "c"):
        peer.declare(name)
        peer.call(queue.Bind(queue=name, exchange="amq.fanout"))
    peer.call(commands.Confirm.Select())

    peer.publish("", b"body", exchange="amq.fanout")

    assert [item.name for _, item in peer.received()] == ["Basic.Ack"]
    assert [bodies(peer, name) for name in ("a", "b", "c")] == [[b"body"]] * 3


# -- routes ------------------------------------------------------------------------------------


def test_a_message_comes_once_however_often_its_queue_is_bound(peer: Peer) -> None:
    peer.declare("q")
    for key in ("a.*", "a.#", "#"):
        peer.call(queue.Bind(queue="q", exchange="amq.topic", routing_key=key))

    peer.publish("a.b", b"body", exchange="amq.topic")

    assert bodies(peer) == [b"body"]


def test_a_known_route_follows_bindings_as_they_come_and_go(peer: Peer) -> None:
    for name in ("a", "b"):
        peer.declare(name)
    peer.call(queue.Bind(queue="a", exchange="amq.topic", routing_key="k"))

    def publish(body: bytes) -> None:
        for _ in range(3):
            peer.publish("k", body, exchange="amq.topic")

    publish(b"1")
    peer.call(queue.Bind(queue="b", exchange="amq.topic", routing_key="#"))
    publish(b"2")
    peer.call(queue.Unbind(queue="a", exchange="amq.topic", routing_key="k"))
    publish(b"3")

    assert bodies(peer, "a") == [b"1"] * 3 + [b"2"] * 3
    assert bodies(peer, "b") == [b"2"] * 3 + [b"3"] * 3


def test_a_known_route_ends_with_its_queue_and_begins_with_the_next(peer: Peer) -> None:
    for bound in ("", "amq.direct"):
        for round_number in range(3):
            peer.declare("q")
            if bound:
                peer.call(queue.Bind(queue="q", exchange=bound, routing_key="q"))
            for i in range(3):
                peer.publish("q", b"%d" % i, exchange=bound)
            assert bodies(peer) == [b"0", b"1", b"2"], round_number

            peer.call(queue.Delete(queue="q"))
            peer.publish("q", b"lost", exchange=bound, mandatory=True)
            assert peer.received()[0][1].name == "Basic.Return"


def test_a_known_route_ends_with_its_exchange(peer: Peer) -> None:
    peer.declare("q")
    for kind in ("direct", "fanout"):
        peer.call(exchange.Declare(exchange="x", exchange_type=kind))
        peer.call(queue.Bind(queue="q", exchange="x", routing_key="k"))
        for _ in range(3):
            peer.publish("other", kind.encode(), exchange="x")
        peer.call(exchange.Delete(exchange="x"))

    peer.publish("other", b"lost", exchange="x")

    [(_, close)] = peer.received()
    assert close.reply_text == "NOT_FOUND - no exchange 'x' in vhost '/'"
    peer.send(commands.Channel.CloseOk(), commands.Channel.Open())
    peer.received()
    assert bodies(peer) == [b"fanout"] * 3


def test_headers_decide_anew_for_every_message(peer: Peer) -> None:
    peer.declare("q")
    peer.call(queue.Bind(queue="q", exchange="amq.headers", arguments={"k": 1}))

    for value in (1, 2, 1, 2, 1):
        properties = basic.Properties(headers={"k": value})
        peer.publish("", b"%d" % value, exchange="amq.headers", properties=properties)

    assert bodies(peer) == [b"1", b"1", b"1"]


def test_routes_to_ever_new_addresses_do_not_gather() -> None:
    broker = Broker(fake_world(), BrokerLimits(routes_per_channel_max=10))
    broker.boot("guest", "guest")
    peer = Peer(broker).open(1)
    for i in range(100):
        for _ in range(3):
            peer.publish(f"k{i}", b"body", exchange="amq.direct")

    publisher = peer.session.channels[1].publisher

    assert len(publisher._routes) <= 10
    assert len(publisher._seen) <= 10


# -- octets ------------------------------------------------------------------------------------

SIZES = (0, 1, 4087, 4088, 4089, 8176, 8177, 20_000, 131_064, 131_065, 300_000)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("mine", "theirs"), [(131072, 131072), (131072, 4096), (4096, 131072)])
@pytest.mark.parametrize("channel", [1, 7])
def test_a_body_arrives_octet_for_octet_in_frames_that_fit(
    connect: Connect, size: int, mine: int, theirs: int, channel: int
) -> None:
    publisher = connect(1, frame_max=mine)
    consumer = connect(channel, frame_max=theirs)
    consumer.declare("q", channel=channel)
    consumer.consume("q", "c", channel=channel, no_ack=True)
    consumer.received()
    body = bytes(i % 251 for i in range(size))
    properties = basic.Properties(
        content_type="text/plain", headers={"k": [1, "two"]}, message_id="7", priority=3
    )

    publisher.publish("q", body, properties=properties)

    received = consumer.received()
    assert {number for number, _ in received} == {channel}
    (_, deliver), (_, header), *frames = received
    assert (deliver.delivery_tag, deliver.exchange, deliver.routing_key) == (1, "", "q")
    assert header.body_size == size
    assert dict(header.properties) == dict(properties)
    assert all(0 < len(frame) <= theirs - 8 for _, frame in frames)
    assert b"".join(frame for _, frame in frames) == body


def test_content_that_fits_goes_out_as_it_came_in(connect: Connect) -> None:
    publisher, consumer = connect(1), connect(1)
    publisher.declare("q")
    consumer.consume("q", "c", no_ack=True)
    consumer.received()
    content = encode_content(1, b"\x80\x00\x0atext/plain", b"x" * 5000, 4096)

    publisher.send_bytes(encode_method(1, basic.Publish(routing_key="q")) + content)

    assert consumer.read_bytes().endswith(content)


def test_properties_that_differ_from_message_to_message_arrive_with_their_own(peer: Peer) -> None:
    peer.declare("q")
    peer.consume("q", "c", no_ack=True)
    peer.received()
    for i in range(5):
        properties = basic.Properties(headers={"i": i}, delivery_mode=1 + i % 2)
        peer.publish("q", b"%d" % i, properties=properties)

    headers = [item for _, item in peer.received() if isinstance(item, ContentHeader)]

    found: list[Any] = [(h.properties.headers["i"], h.properties.delivery_mode) for h in headers]
    assert found == [(0, 1), (1, 2), (2, 1), (3, 2), (4, 1)]

"""What the broker refuses, with rank, code and words of RabbitMQ 3.13: clients match on them."""

from collections.abc import Callable
from typing import Any

import pytest
from pamqp import commands
from pamqp.base import Frame

from amqpbroker.protocol.content import encode_content
from amqpbroker.protocol.frames import encode_method
from amqpbroker.testing.peer import Peer

Connect = Callable[..., Peer]
basic, exchange, queue = commands.Basic, commands.Exchange, commands.Queue

LOCKED = (
    "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{}' in vhost '/'. It could"
    " be originally declared on another connection or the exclusive property value does not match"
    " that of the original declaration."
)
NO_QUEUE = "NOT_FOUND - no queue 'none' in vhost '/'"
NO_EXCHANGE = "NOT_FOUND - no exchange 'none' in vhost '/'"
NO_LAST_QUEUE = "NOT_FOUND - no previously declared queue"
DEFAULT = "ACCESS_REFUSED - operation not permitted on the default exchange"
IN_USE = "ACCESS_REFUSED - queue 'sole' in vhost '/' in exclusive use"
SYSTEM = "ACCESS_REFUSED - deletion of system exchange '{}' in vhost '/' not allowed"
RESERVED = "ACCESS_REFUSED - {} name 'amq.mine' contains reserved prefix 'amq.*'"
INEQUIVALENT = (
    "PRECONDITION_FAILED - inequivalent arg '{}' for {} in vhost '/': received {} but current is {}"
)


def differs(name: str, what: str, received: str, current: str) -> str:
    return INEQUIVALENT.format(name, what, received, current)


CHANNEL_ERRORS: list[tuple[Frame, int, str]] = [
    # Not there.
    (queue.Declare(queue="none", passive=True), 404, NO_QUEUE),
    (queue.Declare(queue="", passive=True), 404, "NOT_FOUND - no queue '' in vhost '/'"),
    (queue.Bind(queue="none", exchange="amq.direct"), 404, NO_QUEUE),
    (queue.Bind(queue="q", exchange="none"), 404, NO_EXCHANGE),
    (queue.Bind(queue="none", exchange="none"), 404, NO_EXCHANGE),
    (queue.Purge(queue="none"), 404, NO_QUEUE),
    (basic.Consume(queue="none"), 404, NO_QUEUE),
    (basic.Get(queue="none"), 404, NO_QUEUE),
    (exchange.Declare(exchange="none", passive=True), 404, NO_EXCHANGE),
    (queue.Bind(queue="", exchange="amq.direct"), 404, NO_LAST_QUEUE),
    (queue.Unbind(queue="", exchange="amq.direct"), 404, NO_LAST_QUEUE),
    (queue.Purge(queue=""), 404, NO_LAST_QUEUE),
    (queue.Delete(queue=""), 404, NO_LAST_QUEUE),
    (basic.Consume(queue=""), 404, NO_LAST_QUEUE),
    (basic.Get(queue=""), 404, NO_LAST_QUEUE),
    # Not allowed.
    (queue.Declare(queue="amq.mine"), 403, RESERVED.format("queue")),
    (exchange.Declare(exchange="amq.mine"), 403, RESERVED.format("exchange")),
    (exchange.Delete(exchange="amq.direct"), 403, SYSTEM.format("amq.direct")),
    (exchange.Delete(exchange="amq.mine"), 403, SYSTEM.format("amq.mine")),
    (exchange.Delete(exchange=""), 403, DEFAULT),
    (exchange.Declare(exchange=""), 403, DEFAULT),
    (exchange.Declare(exchange="", passive=True), 403, DEFAULT),
    (queue.Bind(queue="q", exchange=""), 403, DEFAULT),
    (queue.Unbind(queue="q", exchange=""), 403, DEFAULT),
    (basic.Consume(queue="sole"), 403, IN_USE),
    (basic.Consume(queue="sole", exclusive=True), 403, IN_USE),
    # Another connection's own.
    (queue.Declare(queue="locked", passive=True), 405, LOCKED.format("locked")),
    (queue.Declare(queue="locked", exclusive=True), 405, LOCKED.format("locked")),
    (queue.Declare(queue="locked", durable=True), 405, LOCKED.format("locked")),
    (queue.Declare(queue="q", exclusive=True, durable=True), 405, LOCKED.format("q")),
    (queue.Bind(queue="locked", exchange="amq.direct"), 405, LOCKED.format("locked")),
    (queue.Unbind(queue="locked", exchange="amq.direct"), 405, LOCKED.format("locked")),
    (queue.Purge(queue="locked"), 405, LOCKED.format("locked")),
    (queue.Delete(queue="locked"), 405, LOCKED.format("locked")),
    (basic.Consume(queue="locked"), 405, LOCKED.format("locked")),
    (basic.Get(queue="locked"), 405, LOCKED.format("locked")),
    # Otherwise than it is.
    (
        queue.Declare(queue="q", durable=True),
        406,
        differs("durable", "queue 'q'", "'true'", "'false'"),
    ),
    (
        queue.Declare(queue="q", auto_delete=True),
        406,
        differs("auto_delete", "queue 'q'", "'true'", "'false'"),
    ),
    (
        queue.Declare(queue="q", arguments={"x-expires": 1000}),
        406,
        differs("x-expires", "queue 'q'", "the value '1000' of type 'signedint'", "none"),
    ),
    (
        queue.Declare(queue="q", arguments={"x-overflow": "reject-publish"}),
        406,
        differs("x-overflow", "queue 'q'", "the value 'reject-publish' of type 'longstr'", "none"),
    ),
    (
        queue.Declare(queue="q", arguments={"x-single-active-consumer": True}),
        406,
        differs("x-single-active-consumer", "queue 'q'", "the value 'true' of type 'bool'", "none"),
    ),
    (
        queue.Declare(queue="short"),
        406,
        differs("x-max-length", "queue 'short'", "none", "the value '10' of type 'signedint'"),
    ),
    (
        queue.Declare(queue="short", arguments={"x-max-length": 9}),
        406,
        differs("x-max-length", "queue 'short'", "'9'", "'10'"),
    ),
    (
        exchange.Declare(exchange="x", exchange_type="fanout"),
        406,
        differs("type", "exchange 'x'", "'fanout'", "'topic'"),
    ),
    (
        exchange.Declare(exchange="x", exchange_type="topic", durable=True),
        406,
        differs("durable", "exchange 'x'", "'true'", "'false'"),
    ),
    (
        exchange.Declare(exchange="x", exchange_type="topic", auto_delete=True),
        406,
        differs("auto_delete", "exchange 'x'", "'true'", "'false'"),
    ),
    (
        exchange.Declare(exchange="x", exchange_type="topic", internal=True),
        406,
        differs("internal", "exchange 'x'", "'true'", "'false'"),
    ),
    (
        exchange.Declare(
            exchange="x", exchange_type="topic", arguments={"alternate-exchange": "y"}
        ),
        406,
        differs("alternate-exchange", "exchange 'x'", "the value 'y' of type 'longstr'", "none"),
    ),
    (
        exchange.Declare(exchange="y", exchange_type="odd"),
        406,
        "PRECONDITION_FAILED - unknown exchange type 'odd'",
    ),
    (
        queue.Delete(queue="sole", if_unused=True),
        406,
        "PRECONDITION_FAILED - queue 'sole' in vhost '/' in use",
    ),
    (
        queue.Delete(queue="full", if_empty=True),
        406,
        "PRECONDITION_FAILED - queue 'full' in vhost '/' not empty",
    ),
    (
        exchange.Delete(exchange="x", if_unused=True),
        406,
        "PRECONDITION_FAILED - exchange 'x' in vhost '/' in use",
    ),
    # Unknown deliveries.
    (basic.Ack(1), 406, "PRECONDITION_FAILED - unknown delivery tag 1"),
    (basic.Ack(0), 406, "PRECONDITION_FAILED - unknown delivery tag 0"),
    (basic.Ack(7, multiple=True), 406, "PRECONDITION_FAILED - unknown delivery tag 7"),
    (basic.Nack(1), 406, "PRECONDITION_FAILED - unknown delivery tag 1"),
    (basic.Nack(7, multiple=True), 406, "PRECONDITION_FAILED - unknown delivery tag 7"),
    (basic.Reject(1), 406, "PRECONDITION_FAILED - unknown delivery tag 1"),
]

CONNECTION_ERRORS: list[tuple[Frame, int, str]] = [
    (
        basic.Consume(queue="q", consumer_tag="mine"),
        530,
        "NOT_ALLOWED - attempt to reuse consumer tag 'mine'",
    ),
    (basic.Qos(prefetch_size=10), 540, "NOT_IMPLEMENTED - prefetch_size!=0 (10)"),
    (basic.Recover(requeue=False), 540, "NOT_IMPLEMENTED - requeue=false"),
    (commands.Channel.Flow(active=False), 540, "NOT_IMPLEMENTED - active=false"),
    (commands.Channel.Open(), 504, "CHANNEL_ERROR - second 'channel.open' seen"),
    (commands.Channel.FlowOk(True), 503, "COMMAND_INVALID - unimplemented method"),
    (commands.Connection.Open(), 503, "COMMAND_INVALID - unimplemented method"),
]


def named(case: tuple[Frame, int, str]) -> str:
    return f"{case[0].name}-{case[1]}-{case[2].partition(' - ')[2][:40]}"


@pytest.fixture
def crowd(connect: Connect) -> Peer:
    """A peer of others' making: what the errors below stumble over."""
    other = connect(1)
    other.declare("q")
    other.declare("locked", exclusive=True)
    other.call(queue.Bind(queue="locked", exchange="amq.direct"))
    other.declare("short", arguments={"x-max-length": 10})
    other.declare("sole")
    other.consume("sole", "c", exclusive=True)
    other.received()
    other.declare("full")
    other.publish("full", b"message")
    other.call(exchange.Declare(exchange="x", exchange_type="topic"))
    other.call(exchange.Declare(exchange="inner", internal=True))
    other.received()
    other.call(queue.Bind(queue="q", exchange="x", routing_key="#"))
    return other


@pytest.mark.parametrize(("method", "code", "text"), CHANNEL_ERRORS, ids=map(named, CHANNEL_ERRORS))
def test_a_soft_error_closes_the_channel_and_says_why(
    crowd: Peer, connect: Connect, method: Frame, code: int, text: str
) -> None:
    peer = connect(1, 2)

    close = peer.call(method, channel=2)

    assert isinstance(close, commands.Channel.Close)
    assert (close.reply_code, close.reply_text) == (code, text[:252] + "..." * (len(text) > 255))
    assert close.class_id << 16 | close.method_id == method.index
    assert peer.declare("q", channel=1) == "q"


@pytest.mark.parametrize(
    ("method", "code", "text"), CONNECTION_ERRORS, ids=map(named, CONNECTION_ERRORS)
)
def test_a_hard_error_closes_the_connection_and_says_why(
    crowd: Peer, connect: Connect, method: Frame, code: int, text: str
) -> None:
    peer = connect(1)
    peer.consume("q", "mine")
    peer.received()

    peer.send(method)

    [(channel, close)] = peer.received()
    assert channel == 0
    assert isinstance(close, commands.Connection.Close)
    assert (close.reply_code, close.reply_text) == (code, text)
    assert crowd.declare("q") == "q", "others go on"


def test_publishing_to_an_exchange_that_is_not_there_closes_the_channel(peer: Peer) -> None:
    peer.publish("q", b"message", exchange="none")

    [(_, close)] = peer.received()

    assert isinstance(close, commands.Channel.Close)
    assert (close.reply_code, close.reply_text) == (404, NO_EXCHANGE)
    assert (close.class_id, close.method_id) == (60, 40)


def test_publishing_to_an_internal_exchange_closes_the_channel(crowd: Peer, peer: Peer) -> None:
    peer.publish("q", b"message", exchange="inner")

    [(_, close)] = peer.received()

    assert isinstance(close, commands.Channel.Close)
    assert close.reply_text == (
        "ACCESS_REFUSED - cannot publish to internal exchange 'inner' in vhost '/'"
    )


def test_immediate_closes_the_connection(peer: Peer) -> None:
    method = encode_method(1, basic.Publish(routing_key="q", immediate=True))

    peer.send_bytes(method + encode_content(1, b"\0\0", b"message", 4096))

    [(_, close)] = peer.received()
    assert isinstance(close, commands.Connection.Close)
    assert (close.reply_code, close.reply_text) == (540, "NOT_IMPLEMENTED - immediate=true")


def test_the_binding_of_a_headers_exchange_must_make_sense(peer: Peer) -> None:
    peer.declare("q")

    close = peer.call(queue.Bind(queue="q", exchange="amq.headers", arguments={"x-match": "some"}))

    assert isinstance(close, commands.Channel.Close)
    assert close.reply_code == 406
    assert close.reply_text.startswith("PRECONDITION_FAILED - Invalid x-match field value")


def test_what_was_sent_behind_an_error_is_void(peer: Peer) -> None:
    peer.declare("q")
    peer.send(basic.Get(queue="none"), queue.Delete(queue="q"), basic.Ack(99))

    assert [type(item) for _, item in peer.received()] == [commands.Channel.Close]
    peer.send(commands.Channel.CloseOk(), commands.Channel.Open())
    peer.received()
    assert peer.declare("q", passive=True) == "q"


def test_a_channel_that_was_closed_may_be_opened_again(peer: Peer) -> None:
    peer.call(basic.Get(queue="none"))
    peer.send(commands.Channel.CloseOk())

    answer = peer.call(commands.Channel.Open())

    assert isinstance(answer, commands.Channel.OpenOk)
    assert peer.declare("q") == "q"


def test_a_channel_begins_anew_when_it_is_opened_again(peer: Peer) -> None:
    peer.declare("q")
    peer.call(basic.Qos(prefetch_count=1))
    peer.consume("q", "c")
    peer.received()
    peer.call(commands.Channel.Close(200, "", 0, 0))
    peer.call(commands.Channel.Open())

    assert isinstance(peer.call(basic.Ack(0)), commands.Channel.Close)
    peer.send(commands.Channel.CloseOk(), commands.Channel.Open())
    peer.received()
    peer.consume("q", "c")
    peer.publish("q", b"1", b"2")
    assert [deliver.delivery_tag for deliver, _ in peer.deliveries()] == [1, 2]


def test_a_method_that_only_brokers_send_closes_the_connection(peer: Peer) -> None:
    peer.send(commands.Basic.GetEmpty())

    [(_, close)] = peer.received()

    assert isinstance(close, commands.Connection.Close)
    assert close.reply_code == 503
    assert close.reply_text == "COMMAND_INVALID - unimplemented method"
    assert (close.class_id, close.method_id) == (60, 72)


def test_too_many_consumers_on_a_channel_are_refused(connect: Connect, broker: Any) -> None:
    peer = connect(1)
    peer.declare("q")
    limit = broker.limits.consumers_per_channel_max
    consume = [basic.Consume(queue="q", consumer_tag=f"{i}", nowait=True) for i in range(limit)]
    peer.send(*consume)

    peer.send(basic.Consume(queue="q"))

    [(_, close)] = peer.received()
    assert (close.reply_code, close.reply_text) == (
        530,
        f"NOT_ALLOWED - reached maximum ({limit}) of consumers per channel",
    )

"""What peers see of time to live, leases and priorities."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from pamqp import commands

from amqpbroker.broker.broker import Broker
from amqpbroker.testing.fakes import FakeClock
from amqpbroker.testing.peer import Peer

Connect = Callable[..., Peer]
basic, exchange, queue = commands.Basic, commands.Exchange, commands.Queue


@pytest.fixture
def wait(broker: Broker, peer: Peer, clock: FakeClock) -> Callable[[float], None]:
    """Let so many seconds pass."""

    def wait(seconds: float) -> None:
        clock.advance(seconds)
        broker.deadlines.run(clock.now_s)
        peer.settle_down()

    return wait


Wait = Callable[[float], None]


def ready(peer: Peer, name: str) -> int:
    """Messages that wait, by a passive declare."""
    answer = peer.call(queue.Declare(queue=name, passive=True))
    assert isinstance(answer, queue.DeclareOk), answer
    return int(answer.message_count)


# -- time to live ------------------------------------------------------------------------------


def test_a_message_is_there_until_its_time_is_over(peer: Peer, wait: Wait) -> None:
    peer.declare("q", arguments={"x-message-ttl": 1000})
    peer.publish("q", b"a", b"b")
    peer.publish("q", b"c", properties=basic.Properties(expiration="250"))

    counts = [ready(peer, "q")]
    for _ in range(2):
        wait(0.5)
        counts.append(ready(peer, "q"))

    assert counts == [3, 3, 0], "the third expires behind the others"
    assert isinstance(peer.call(basic.Get(queue="q")), basic.GetEmpty)


def test_a_message_without_time_reaches_who_waits_and_nobody_else(peer: Peer) -> None:
    peer.declare("q")
    at_once = basic.Properties(expiration="0")
    peer.publish("q", b"lost", properties=at_once)
    got = peer.call(basic.Get(queue="q"))
    peer.consume("q", "c")

    peer.publish("q", b"taken", properties=at_once)

    assert isinstance(got, basic.GetEmpty)
    assert [body for _, body in peer.deliveries()] == [b"taken"]


def test_an_expired_message_is_confirmed_all_the_same(peer: Peer) -> None:
    peer.declare("q", arguments={"x-message-ttl": 0})
    peer.call(commands.Confirm.Select())

    peer.publish("q", b"lost")

    [(_, ack)] = peer.received()
    assert (ack.name, ack.delivery_tag) == ("Basic.Ack", 1)


def test_a_message_expires_alone_in_each_of_its_queues(peer: Peer, wait: Wait) -> None:
    for name, arguments in (("short", {"x-message-ttl": 100}), ("long", {})):
        peer.declare(name, arguments=arguments)
        peer.call(queue.Bind(queue=name, exchange="amq.fanout"))
    peer.publish("", b"message", exchange="amq.fanout")

    wait(0.125)

    assert (ready(peer, "short"), ready(peer, "long")) == (0, 1)


# -- leases ------------------------------------------------------------------------------------


def test_an_unused_queue_goes_with_its_bindings(broker: Broker, peer: Peer, wait: Wait) -> None:
    peer.declare("q", arguments={"x-expires": 1000})
    peer.call(queue.Bind(queue="q", exchange="amq.direct", routing_key="k"))
    peer.call(exchange.Declare(exchange="x", auto_delete=True))
    peer.call(queue.Bind(queue="q", exchange="x"))

    wait(0.5)
    there = "q" in broker.vhosts["/"].queues
    wait(0.5)

    assert there
    vhost = broker.vhosts["/"]
    assert "q" not in vhost.queues
    assert not vhost.router.exchanges["amq.direct"].bindings
    assert "x" not in vhost.router.exchanges
    peer.publish("k", b"nobody's", exchange="amq.direct", mandatory=True)
    assert peer.received()[0][1].reply_text == "NO_ROUTE"


@pytest.mark.parametrize(
    ("use", "is_there"),
    [
        (queue.Declare(queue="q", arguments={"x-expires": 1000}), True),
        (queue.Declare(queue="q", passive=True), True),
        (queue.Declare(queue="q", passive=True, nowait=True), False),
        (basic.Get(queue="q"), True),
        (queue.Purge(queue="q"), False),
        (queue.Bind(queue="q", exchange="amq.direct"), False),
    ],
    ids=lambda value: value.name if hasattr(value, "name") else str(value),
)
def test_what_is_use_of_a_queue(
    broker: Broker, peer: Peer, wait: Wait, use: Any, is_there: bool
) -> None:
    peer.declare("q", arguments={"x-expires": 1000})

    wait(0.75)
    peer.send(use)
    wait(0.75)

    assert ("q" in broker.vhosts["/"].queues) == is_there


@pytest.mark.parametrize("end", [basic.Cancel("c"), commands.Channel.Close(200, "", 0, 0)])
def test_consumers_keep_a_queue_for_as_long_as_they_are_there(
    broker: Broker, peer: Peer, wait: Wait, end: Any
) -> None:
    queues = broker.vhosts["/"].queues
    peer.declare("q", arguments={"x-expires": 1000})
    peer.consume("q", "c")

    there = []
    wait(5)
    peer.send(end)
    for seconds in (0.75, 0.5):
        there.append("q" in queues)
        wait(seconds)

    assert there == [True, True]
    assert "q" not in queues


def test_an_exclusive_queue_that_expired_is_forgotten(
    broker: Broker, peer: Peer, wait: Wait
) -> None:
    peer.declare("q", exclusive=True, arguments={"x-expires": 1000})
    peer.publish("q", b"message", properties=basic.Properties(expiration="5000"))
    kept = weakref.ref(broker.vhosts["/"].queues["q"])
    gc.collect()
    gc.disable()

    wait(1)
    peer.publish("other", b"a route to somewhere else")
    peer.declare("other")
    gone = kept() is None
    gc.enable()

    assert gone
    assert not [name for name in broker.vhosts["/"].queues if name == "q"]


# -- priorities --------------------------------------------------------------------------------


def test_messages_of_higher_priority_come_first(peer: Peer) -> None:
    peer.declare("q", arguments={"x-max-priority": 5})
    for priority in (None, 1, 5, 200, 1):
        peer.publish("q", b"%d" % (priority or 0), properties=basic.Properties(priority=priority))

    peer.consume("q", "c", no_ack=True)

    assert [body for _, body in peer.deliveries()] == [b"5", b"200", b"1", b"1", b"0"]


def test_consumers_of_higher_priority_come_first(peer: Peer) -> None:
    peer.declare("q")
    peer.call(basic.Qos(prefetch_count=2))
    for tag, priority in (("low", -1), ("none", None), ("high", 1 << 40)):
        arguments = {} if priority is None else {"x-priority": priority}
        peer.consume("q", tag, arguments=arguments)

    for _ in range(6):
        peer.publish("q", b"message")

    tags = [deliver.consumer_tag for deliver, _ in peer.deliveries()]
    assert tags == ["high", "high", "none", "none", "low", "low"]


def test_a_consumer_priority_is_a_number(peer: Peer) -> None:
    peer.declare("q")

    peer.consume("q", "c", arguments={"x-priority": "1"})

    [(_, close)] = peer.received()
    assert (close.reply_code, close.reply_text) == (
        406,
        "PRECONDITION_FAILED - invalid arg 'x-priority' for queue 'q' in vhost '/':"
        ' "expected integer, got longstr"',
    )


def test_arguments_are_looked_at_before_exclusive_use(peer: Peer) -> None:
    peer.declare("q")
    peer.consume("q", "c", exclusive=True)
    peer.received()

    peer.consume("q", "d", arguments={"x-stream-offset": 1})

    [(_, close)] = peer.received()
    assert close.reply_text == (
        "PRECONDITION_FAILED - invalid arg 'x-stream-offset' for queue 'q' in vhost '/'"
        " of queue type rabbit_classic_queue"
    )

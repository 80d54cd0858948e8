"""How connections and virtual hosts end, with everything that hangs on them."""

import weakref
from collections.abc import Callable

import pytest
from pamqp import commands

from amqpbroker.broker.broker import Broker
from amqpbroker.definitions import PermissionDefinition, VHostDefinition, delete, put
from amqpbroker.testing.peer import Peer

Connect = Callable[..., Peer]
VHOST = VHostDefinition("t")


def drop(broker: Broker) -> None:
    broker.apply(delete(VHOST))
    while broker.turn.run():
        pass


@pytest.fixture
def guest_of_t(broker: Broker, connect: Connect) -> Peer:
    """A peer in a virtual host that will be dropped."""
    broker.apply(put(VHOST))
    broker.apply(put(PermissionDefinition("t", "guest", ".*", ".*", ".*")))
    return connect(1, vhost="t")


def test_a_dropped_vhost_takes_exclusive_queues_along(guest_of_t: Peer, broker: Broker) -> None:
    guest_of_t.declare("q", exclusive=True)

    drop(broker)

    [(_, close)] = guest_of_t.received()
    assert (close.reply_code, "t" in broker.vhosts, broker.sessions) == (320, False, {})


def test_a_dropped_vhost_takes_auto_delete_queues_along(guest_of_t: Peer, broker: Broker) -> None:
    guest_of_t.declare("q", auto_delete=True)
    guest_of_t.consume("q", "c")

    drop(broker)

    assert "t" not in broker.vhosts


def test_a_dropped_vhost_takes_auto_delete_exchanges_along(
    guest_of_t: Peer, broker: Broker
) -> None:
    exchange = commands.Exchange.Declare(exchange="x", exchange_type="fanout", auto_delete=True)
    guest_of_t.call(exchange)
    guest_of_t.declare("q")
    guest_of_t.call(commands.Queue.Bind(queue="q", exchange="x"))

    drop(broker)

    assert "t" not in broker.vhosts


def test_who_remembers_the_way_to_an_exclusive_queue_does_not_keep_its_owner(
    peer: Peer, connect: Connect
) -> None:
    owner = connect(1)
    owner.declare("q", exclusive=True)
    for _ in range(3):
        peer.publish("q", b"reply")
    session = weakref.ref(owner.session)

    owner.session.abandon()
    owner.session.let_go()
    peer.settle_down()
    del owner

    assert session() is None


def test_a_session_that_ends_while_it_is_held_is_forgotten(peer: Peer, broker: Broker) -> None:
    peer.declare("q")
    broker.check_memory(2, 1)
    peer.publish("q", b"under the alarm")
    assert peer.session in broker.held_sessions

    peer.session.close()

    assert not broker.held_sessions


def test_a_bug_in_reading_closes_one_connection_and_no_other(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    broken, sound = connect(1), connect(1)

    def fail() -> None:
        raise KeyError("a bug")

    broken.connection.next_event = fail  # type: ignore[method-assign]
    broken.send(commands.Basic.Qos())

    [(_, close)] = broken.received()
    assert close.reply_code == 541
    assert "KeyError" in caplog.text
    assert sound.declare("q") == "q"

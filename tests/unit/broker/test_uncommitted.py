"""Messages that are accepted but not committed: confirms wait for them, and so do publishers."""

import attrs
import pytest
from pamqp import commands

from amqpbroker.broker.broker import Broker, BrokerLimits
from amqpbroker.queues.classic import ClassicQueues
from amqpbroker.testing.fakes import HeldQueues, fake_world
from amqpbroker.testing.peer import Peer

basic, queue = commands.Basic, commands.Queue

LIMITS = BrokerLimits(
    uncommitted_connection_bytes_max=100_000, uncommitted_node_bytes_max=1_000_000
)


@pytest.fixture
def held() -> HeldQueues:
    """The queues of the default type: they commit when the test says so."""
    return HeldQueues()


def open_broker(held: HeldQueues, limits: BrokerLimits = LIMITS) -> Broker:
    types = {"classic": held, "quick": ClassicQueues()}
    broker = Broker(fake_world(), limits, queue_types=types)
    broker.boot("guest", "guest")
    return broker


@pytest.fixture
def peer(held: HeldQueues) -> Peer:
    peer = Peer(open_broker(held)).open(1)
    peer.declare("q")
    return peer


def commit(held: HeldQueues, peer: Peer, end: int | None = None, name: str = "q") -> None:
    log = held.logs[name]
    log.advance(committed=log.end if end is None else end)
    peer.settle_down()


def test_a_confirm_waits_for_the_commit(held: HeldQueues, peer: Peer) -> None:
    peer.call(commands.Confirm.Select())
    peer.publish("q", b"1", b"2", b"3")
    assert peer.received() == []

    commit(held, peer, 2)
    commit(held, peer, 3)

    acks = [(item.delivery_tag, item.multiple) for _, item in peer.received()]
    assert acks == [(2, True), (3, False)]


def test_a_confirm_overtakes_those_that_wait(held: HeldQueues, peer: Peer) -> None:
    peer.declare("quick", arguments={"x-queue-type": "quick"})
    peer.call(commands.Confirm.Select())

    peer.publish("q", b"1")
    peer.publish("quick", b"2")
    commit(held, peer)

    acks = [(item.delivery_tag, item.multiple) for _, item in peer.received()]
    assert acks == [(2, False), (1, False)]


def test_a_deleted_queue_keeps_no_confirm_waiting(held: HeldQueues, peer: Peer) -> None:
    peer.call(commands.Confirm.Select())
    peer.publish("q", b"1")

    peer.send(queue.Delete(queue="q"))

    assert sorted(item.name for _, item in peer.received()) == ["Basic.Ack", "Queue.DeleteOk"]


def test_a_peer_with_too_much_uncommitted_is_held_until_the_commit(
    held: HeldQueues, peer: Peer
) -> None:
    peer.publish("q", bytes(60_000), bytes(60_000))
    assert peer.session.held
    peer.publish("q", b"later")
    assert held.logs["q"].end == 2

    commit(held, peer)

    assert held.logs["q"].end == 3
    assert not peer.session.held


def test_the_node_holds_those_who_have_something_uncommitted(held: HeldQueues) -> None:
    broker = open_broker(held, attrs.evolve(LIMITS, uncommitted_node_bytes_max=100_000))
    peers = [Peer(broker).open(1) for _ in range(3)]
    peers[0].declare("q")
    for peer in peers[:2]:
        peer.publish("q", bytes(60_000))

    for peer in peers:
        peer.send(basic.Get(queue="q"))

    assert [peer.session.held for peer in peers] == [True, True, False]
    commit(held, peers[0])
    assert not any(peer.session.held for peer in peers)
    assert broker.uncommitted_bytes == 0


def test_nothing_stays_accounted_for_when_a_connection_ends(held: HeldQueues, peer: Peer) -> None:
    peer.publish("q", bytes(60_000))

    peer.call(commands.Connection.Close(200, "", 0, 0), channel=0)
    commit(held, peer)

    assert peer.broker.uncommitted_bytes == 0
    assert peer.session.uncommitted_bytes == 0

"""Before a message is said to have no way, the node comes to know what others know."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from pamqp import commands
from pamqp.base import Frame

from amqpbroker.broker.inner import InnerPublisher
from amqpbroker.broker.session import Ends
from amqpbroker.errors import NotFound
from amqpbroker.queues.queue import Pending
from amqpbroker.testing.peer import Peer
from amqpbroker.testing.sim_etcd import SimEtcd
from amqpbroker.testing.world import SimClock
from tests.unit.cluster.members import Member, cluster, names, settle

basic, confirm, exchange, queue, tx = (
    commands.Basic,
    commands.Confirm,
    commands.Exchange,
    commands.Queue,
    commands.Tx,
)


@pytest.fixture
def etcd(autojump_clock: trio.testing.MockClock) -> SimEtcd:
    return SimEtcd(SimClock(), random.Random(1))


@asynccontextmanager
async def slow_cluster(etcd: SimEtcd) -> AsyncIterator[list[Member]]:
    """Two nodes; what one does, the other hears of later, up to two seconds."""
    async with cluster(etcd) as members:
        etcd.watch_lag_s_max = 2
        yield members


def bodies(member: Member, name: str) -> list[bytes]:
    """What is in a queue, as a node has it for itself."""
    peer = member.peer()
    found = []
    while True:
        peer.send(basic.Get(queue=name, no_ack=True))
        answer = peer.received()
        if len(answer) == 1:
            return found
        found.append(answer[-1][1])


async def answered(peer: Peer, *methods: Frame) -> None:
    """Send methods, and wait for no longer than until they are answered."""
    peer.send(*methods)
    count = 0
    while count < len(methods):
        await settle(peer, s=0.01)
        count += len(names(peer))


async def unheard_of(peer: Peer, other: Member) -> str:
    """The name of an exchange, and of a queue bound to it, of which another node has not heard."""
    name = ""
    while not name or name in other.broker.vhosts["/"].queues:
        name += "q"
        await answered(
            peer,
            queue.Declare(queue=name),
            exchange.Declare(exchange=name),
            queue.Bind(queue=name, exchange=name),
        )
    return name


async def test_a_queue_that_another_node_has_just_bound_gets_the_message(etcd: SimEtcd) -> None:
    async with slow_cluster(etcd) as members:
        peer, other = (member.peer() for member in members)
        other.send(confirm.Select())
        for number in range(10):
            name = f"q{number}"
            await answered(
                peer,
                queue.Declare(queue=name),
                queue.Bind(queue=name, exchange="amq.direct", routing_key=name),
            )
            other.publish(name, b"1", mandatory=True)
            other.publish(name, b"2", b"3", exchange="amq.direct", mandatory=True)
            other.publish(name, b"4")
            await settle(other, s=5)
            assert "Basic.Return" not in names(other)
            assert bodies(members[1], name) == [b"1", b"2", b"3", b"4"]


async def test_so_does_one_that_is_named_in_a_header(etcd: SimEtcd) -> None:
    async with slow_cluster(etcd) as members:
        peer, other = (member.peer() for member in members)
        name = await unheard_of(peer, members[1])
        copied = basic.Properties(headers={"CC": [name]})
        other.publish("nobody", b"1", mandatory=True, properties=copied)
        await settle(other, s=5)
        assert names(other) == []
        assert bodies(members[1], name) == [b"1"]


async def test_an_exchange_that_another_node_has_just_declared_is_there(etcd: SimEtcd) -> None:
    async with slow_cluster(etcd) as members:
        peer, other = (member.peer() for member in members)
        name = await unheard_of(peer, members[1])
        other.publish("", b"1", b"2", exchange=name)
        await settle(other, s=5)
        assert names(other) == []
        assert bodies(members[1], name) == [b"1", b"2"]


async def test_who_has_no_way_is_told_when_the_node_knows_all(etcd: SimEtcd) -> None:
    async with slow_cluster(etcd) as members:
        peer = members[1].peer()
        peer.send(confirm.Select())
        assert names(peer) == ["Confirm.SelectOk"]
        before = etcd.requests
        peer.publish("nobody", *[b"%d" % number for number in range(100)], mandatory=True)
        peer.publish("nobody", b"unwanted")
        assert peer.received() == []
        await settle(peer, s=5)
        assert names(peer) == ["Basic.Return"] * 100 + ["Basic.Ack"]
        assert etcd.requests == before + 1
        peer.publish("", b"1", exchange="none")
        await settle(peer, s=5)
        [(_, close)] = peer.received()
        assert close.reply_text == "NOT_FOUND - no exchange 'none' in vhost '/'"


async def test_what_is_not_mandatory_costs_the_store_nothing(etcd: SimEtcd) -> None:
    async with slow_cluster(etcd) as members:
        peer = members[1].peer()
        peer.send(confirm.Select())
        before = etcd.requests
        peer.publish("nobody", b"1")
        peer.settle_down()
        assert names(peer) == ["Confirm.SelectOk", "Basic.Ack"]
        assert etcd.requests == before


async def test_in_a_transaction_the_way_is_looked_for_when_a_message_is_published(
    etcd: SimEtcd,
) -> None:
    async with slow_cluster(etcd) as members:
        peer, other = (member.peer() for member in members)
        other.send(tx.Select())
        name = await unheard_of(peer, members[1])
        other.publish(name, b"1", mandatory=True)
        other.publish("nobody", b"2", mandatory=True)
        other.send(tx.Commit())
        await settle(other, s=5)
        assert names(other) == ["Tx.SelectOk", "Basic.Return", "Tx.CommitOk"]
        assert bodies(members[1], name) == [b"1"]


async def test_a_channel_that_ends_meanwhile_publishes_nothing(etcd: SimEtcd) -> None:
    async with slow_cluster(etcd) as members:
        peer, other = (member.peer() for member in members)
        name = await unheard_of(peer, members[1])
        other.publish(name, b"1", mandatory=True)
        assert other.session.parked_bytes == 0
        other.send(basic.Qos())
        assert other.session.parked_bytes > 0
        other.session.abandon()
        await settle(peer, s=5)
        assert bodies(members[1], name) == []
        assert other.session.parked_bytes == 0


async def test_without_the_store_what_is_known_here_has_to_do(etcd: SimEtcd) -> None:
    async with slow_cluster(etcd) as members:
        peer = members[1].peer()
        etcd.stall()
        peer.publish("nobody", b"1", mandatory=True)
        await settle(peer, s=10)
        assert names(peer) == ["Basic.Return"]
        peer.publish("nobody", b"2", mandatory=True)
        peer.publish("", b"3", exchange="none")
        assert names(peer) == ["Basic.Return", "Channel.Close"]
        etcd.resume()
        await settle(peer, s=10)
        assert not members[1].coordinator.is_away


async def test_who_publishes_over_http_waits_too(etcd: SimEtcd) -> None:
    async with slow_cluster(etcd) as members:
        broker = members[1].broker
        name = await unheard_of(members[0].peer(), members[1])
        user, vhost = broker.users["guest"], broker.vhosts["/"]

        async def publish(exchange: str, routing_key: str) -> tuple[object, bool]:
            """What it was answered, and whether some queue has the message."""
            access = broker.access(user, "/")
            publisher = InnerPublisher(broker, vhost, user, access, Ends(("here", 0), ("", 0)))
            answers: list[object] = []
            safe = publisher.publish(exchange, routing_key, basic.Properties(), b"1")
            assert isinstance(safe, Pending)
            safe.then, safe.otherwise = answers.append, answers.append
            await trio.sleep(5)
            is_routed = not answers or publisher.is_routed
            publisher.close()
            return answers[0], is_routed

        assert await publish("", name) == (True, True)
        assert await publish("", "nobody") == (True, False)
        answer, _ = await publish("none", name)
        assert isinstance(answer, NotFound)
        assert bodies(members[1], name) == [b"1"]

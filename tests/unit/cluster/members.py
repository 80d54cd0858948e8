"""Brokers that share a simulated store, for tests."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from pamqp.base import Frame

from amqpbroker.broker.broker import Broker
from amqpbroker.cluster.feed import Feed
from amqpbroker.cluster.schema import Schema
from amqpbroker.cluster.shared import SharedCoordinator
from amqpbroker.testing.fakes import fake_world
from amqpbroker.testing.peer import Peer
from amqpbroker.testing.sim_etcd import SimEtcd
from amqpbroker.testing.world import SimClock


class Member:
    """A broker and its coordinator."""

    def __init__(self, etcd: SimEtcd, name: str) -> None:
        self.broker = Broker(fake_world(clock=SimClock()), name=name)
        self.feed = Feed(Schema("c"), self.broker.apply)
        self.coordinator = SharedCoordinator(
            etcd.client(), self.feed, name, 1, SimClock(), random.Random(name)
        )
        self.broker.coordinator = self.coordinator
        self.coordinator.after = self.broker.turn.end_batch

    def peer(self, *channels: int) -> Peer:
        return Peer(self.broker).open(*(channels or (1,)))

    def picture(self) -> object:
        """What it believes."""
        return (
            sorted(self.broker.users),
            {
                name: (
                    {each: (q.definition, q.definition.leader) for each, q in vhost.queues.items()},
                    {
                        each: (x.definition, set(x.bindings))
                        for each, x in vhost.router.exchanges.items()
                    },
                )
                for name, vhost in self.broker.vhosts.items()
            },
        )


@asynccontextmanager
async def cluster(etcd: SimEtcd, count: int = 2) -> AsyncIterator[list[Member]]:
    members = [Member(etcd, f"rabbit@{number}") for number in range(count)]
    async with trio.open_nursery() as nursery:
        for member in members:
            nursery.start_soon(member.coordinator.run)
            nursery.start_soon(_tick, member.broker)
        for member in members:
            await member.coordinator.loaded.wait()
        members[0].broker.boot("guest", "guest")
        await trio.sleep(1)
        yield members
        nursery.cancel_scope.cancel()


async def _tick(broker: Broker) -> None:
    while True:
        broker.deadlines.run(trio.current_time())
        await trio.sleep(0.05)


async def settle(*peers: Peer, s: float = 1.0) -> None:
    for _ in range(10):
        await trio.sleep(s / 10)
        for peer in peers:
            peer.settle_down()


def names(peer: Peer) -> list[str]:
    return [item.name for _, item in peer.received() if isinstance(item, Frame)]

"""Brokers that clients' own tests are run against: a node alone, and one that has no queues."""

import random
from abc import abstractmethod
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Self

import attrs
import trio

from amqpbroker.cluster.etcd.client import EtcdClient
from amqpbroker.cluster.schema import Schema
from amqpbroker.definitions import QueueDefinition
from amqpbroker.testing.cluster import ClusterForTest
from amqpbroker.testing.process import BrokerProcess
from amqpbroker.world import real_world

CLUSTER = "amqpbroker"
"""What clusters are called by default."""
HOLDER = "rabbit1@localhost"


class Place(AbstractContextManager["Place"]):
    """A fresh broker at ``host``, ``port``, as a context."""

    host = "127.0.0.1"
    port: int

    def __init__(self) -> None:
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        self._open(self._undo)
        return self

    def __exit__(self, *exception: object) -> None:
        self._undo.close()

    @abstractmethod
    def _open(self, undo: ExitStack) -> None:
        """Start it."""

    def others_queues(self) -> int:
        """How many queues another node has had; fails if one was not where it should be."""
        return 0


class Alone(Place):
    """A node that is no member of anything."""

    def _open(self, undo: ExitStack) -> None:
        self.port = undo.enter_context(BrokerProcess()).port


class Elsewhere(Place):
    """A node of two: the other has all queues, but for those that are a connection's own."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._config = folder / f"elsewhere{random.getrandbits(32)}.toml"
        self._config.write_text(f'queue_master_locator = "node:{HOLDER}"\n')

    def _open(self, undo: ExitStack) -> None:
        flags = [f"--config={self._config}"]
        self._cluster = undo.enter_context(ClusterForTest(2, flags=flags))
        assert self._cluster.nodes[0].name == HOLDER
        self.port = self._cluster.nodes[1].ports.amqp

    def others_queues(self) -> int:
        queues = trio.run(queues_ever, self._cluster.cluster.etcd.urls)
        own = [queue for queue in queues if queue.exclusive]
        others = [queue for queue in queues if not queue.exclusive]
        print(f"{len(others)} queues on {HOLDER}, {len(own)} of connections' own")
        assert all(queue.leader == HOLDER for queue in others)
        assert all(queue.leader != HOLDER for queue in own)
        return len(others)


async def queues_ever(etcd_urls: list[str]) -> list[QueueDefinition]:
    """All queues that were ever declared, with their leaders, as etcd remembers it.

    It forgets nothing for an hour.
    """
    world = real_world()
    client = EtcdClient(world.network, world.random, etcd_urls)
    schema = Schema(CLUSTER)
    newest = (await client.get_prefix(schema.prefix)).revision
    queues: list[QueueDefinition] = []
    leaders: dict[int, str] = {}
    with client.watch(schema.prefix, 1) as watch:
        async for batch in watch:
            for event in batch.events:
                kind, *names = schema.parts(event.key)
                if event.value is None:
                    continue
                if kind == "ql":
                    leaders[int(names[0])] = schema.leadership(event.key, event.value).node
                elif kind == "q":
                    queue = schema.definition(event.key, event.value)
                    assert isinstance(queue, QueueDefinition)
                    queues.append(queue)
            if batch.revision >= newest:
                break
    client.close()
    return [attrs.evolve(queue, leader=leaders[queue.log_id]) for queue in queues]

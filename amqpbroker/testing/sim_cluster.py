"""A whole cluster in the simulated world: nodes that die, streams that break, an etcd that stalls.

    async def scenario(sim: Simulation) -> None:
        async with SimCluster(sim, 3) as cluster:
            client = await cluster.client(0)
            …
            cluster.kill(1)
            await cluster.start(1)

Each node has a machine of its own: a disk, which keeps what was synced when its node is killed, a
host on the network (``node1`` …), and a way to etcd.
"""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import trio

from amqpbroker.errors import ConfigError, DataError, DiskFailure
from amqpbroker.server.config import Config
from amqpbroker.server.node import Node
from amqpbroker.server.running import Running
from amqpbroker.testing.client import Client
from amqpbroker.testing.sim_disk import SimCrash, SimDisk
from amqpbroker.testing.sim_etcd import SimEtcd, SimEtcdClient
from amqpbroker.testing.world import SimMemory, Simulation
from amqpbroker.world import World

CLIENTS = "127.0.0.1"
"""The host that all clients are on; guest may come from there."""
_PORT = 5672
_LINK_PORT = 25672


class SimMachine:
    """The machine of one node, and the node while it runs."""

    def __init__(self, cluster: "SimCluster", number: int) -> None:
        sim = cluster.sim
        self.host = f"node{number + 1}"
        self.name = f"rabbit@{self.host}"
        self.disk = SimDisk(random.Random(f"disk {sim.seed} {self.host}"), sim.trace)
        self.memory = SimMemory()
        self.settings: dict[str, Any] = {
            "name": self.name,
            "listen": f"{self.host}:{_PORT}",
            "link": f"{self.host}:{_LINK_PORT}",
            "data_dir": "/data",
            "cluster_name": "simulated",
        }
        """What the node is told when it is started."""
        self.node: Node | None = None
        """While it runs."""
        self.store: SimEtcdClient | None = None
        """Its way to etcd, while it runs or starts."""
        self._sim = sim
        self._etcd = cluster.etcd
        self._scope = trio.CancelScope()
        self._stopping = trio.Event()
        self._ended = trio.Event()
        self._ended.set()
        self.is_killed = False
        """Whether it was killed since it last began."""
        self._lives = 0

    @property
    def address(self) -> tuple[str, int]:
        """Where AMQP is served."""
        return self.host, _PORT

    def is_up(self) -> bool:
        """Whether it serves clients."""
        return self.node is not None and not self._stopping.is_set()

    @property
    def is_ended(self) -> bool:
        """Whether it neither runs nor starts."""
        return self._ended.is_set()

    def begin(self) -> None:
        """Be about to run."""
        self.disk.restart()
        self._lives += 1
        self.store = self._etcd.client()
        self._scope, self.is_killed = trio.CancelScope(), False
        self._stopping, self._ended = trio.Event(), trio.Event()

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Run the node until `stop` or `kill`; to `begin` comes first."""
        sim = self._sim
        seed = f"world {sim.seed} {self.host} {self._lives}"
        network = sim.network.at(self.host)
        world = World(sim.world.clock, network, self.disk, self.memory, random.Random(seed))
        try:
            with self._scope:
                async with Node(Config(**self.settings), world, self.store) as self.node:
                    task_status.started()
                    await self._stopping.wait()
        except* (SimCrash, DiskFailure):
            if not self.is_killed:
                raise
        except* (ConfigError, DataError) as group:
            raise _first(group) from None
        finally:
            self.node = None
            self._ended.set()

    async def stop(self) -> None:
        """Stop the node in good order."""
        self._stopping.set()
        await self._ended.wait()

    def kill(self, others: list[str]) -> None:
        """Kill the node: what was not synced is lost."""
        self.is_killed = True
        if self.store is not None:
            self.store.cut()
        for host in others:
            self._sim.network.cut(self.host, host)
        self.disk.crash()
        self._scope.cancel()

    async def ended(self) -> None:
        """Wait until the node does not run any more."""
        await self._ended.wait()


@attrs.define
class SimCluster(Running):
    """``count`` nodes over one simulated etcd, as a context in which they run.

    They are all started, unless ``started`` says how many of them.
    """

    sim: Simulation
    count: int = 3
    started: int | None = None
    etcd: SimEtcd = attrs.field(init=False)
    machines: list[SimMachine] = attrs.field(init=False)
    _nursery: trio.Nursery = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.etcd = SimEtcd(self.sim.world.clock, random.Random(f"etcd {self.sim.seed}"))
        self.machines = [SimMachine(self, number) for number in range(self.count)]
        for number, machine in enumerate(self.machines):
            machine.disk.on_crash = partial(self.kill, number)

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as self._nursery:
            try:
                async with trio.open_nursery() as nursery:
                    for number in range(self.count if self.started is None else self.started):
                        nursery.start_soon(self.start, number)
                yield
            finally:
                for number, machine in enumerate(self.machines):
                    if not machine.is_ended:
                        self.kill(number)
                self._nursery.cancel_scope.cancel()

    async def start(self, number: int) -> None:
        """Start a node that does not run; done when it serves clients.

        Raises `ConfigError` and `DataError` if it refuses to.
        """
        machine = self.machines[number]
        machine.begin()
        try:
            await self._nursery.start(machine.run)
        except (ConfigError, DataError):
            raise
        except RuntimeError:
            if machine.is_up() or not machine.is_killed:
                raise  # Else it was killed before it was up.

    async def stop(self, number: int) -> None:
        """Stop a node in good order."""
        await self.machines[number].stop()

    def kill(self, number: int) -> None:
        """Kill a node, up or not: what was not synced is lost.

        That happens, too, when its disk loses power (`SimDisk.crash_at`).
        """
        machine = self.machines[number]
        machine.kill([CLIENTS, *(each.host for each in self.machines)])

    async def client(self, number: int, *channels: int) -> Client:
        """A client of a node, with ``channels`` (or channel 1). Raises `OSError`."""
        address = self.machines[number].address
        return await Client.connect(self.sim.network.at(CLIENTS), address, *(channels or (1,)))

    def isolate(self, number: int) -> None:
        """A node reaches neither the others nor etcd, nor do they reach it, until `heal`."""
        machine = self.machines[number]
        for other in range(self.count):
            if other != number:
                self.sever(number, other)
                self.sever(other, number)
        if machine.store is not None:
            machine.store.cut()

    def sever(self, source: int, target: int) -> None:
        """Nothing that the one node sends arrives at the other, until `heal`."""
        self.sim.network.sever(self.machines[source].host, self.machines[target].host)

    def heal(self) -> None:
        """All ways are free again, those to etcd too."""
        self.sim.network.heal()
        self.etcd.resume()
        for machine in self.machines:
            if machine.store is not None and not machine.is_killed:
                machine.store.heal()


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

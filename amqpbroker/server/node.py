"""A running node: a broker with its listeners and its ticker."""

import errno
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from amqpbroker.broker.broker import Broker, BrokerLimits
from amqpbroker.cluster.cluster_queues import ClusterQueues
from amqpbroker.cluster.etcd.contract import KeyValueStore
from amqpbroker.cluster.members import ClusterStatus
from amqpbroker.cluster.reports import Inquiry, Reporter
from amqpbroker.definitions import QueueDefinition
from amqpbroker.errors import ConfigError, ConnectionForced
from amqpbroker.protocol.intake import WireLimits
from amqpbroker.queues.classic import ClassicQueues
from amqpbroker.queues.queue import QueueType
from amqpbroker.server.amqp import AmqpConnection
from amqpbroker.server.clustering import Clustering
from amqpbroker.server.config import Config
from amqpbroker.server.joining import Joining, link_network, open_store
from amqpbroker.server.keeping import Keeping
from amqpbroker.server.running import Running
from amqpbroker.storage.log import Log
from amqpbroker.world import Listener, Network, World, real_world

log = logging.getLogger(__name__)

_WATCH_S = 0.5
_ACCEPT_RETRY_S = 0.1

CHANGEABLE = {"disk_free_limit", "log_level", "vm_memory_high_watermark"}
"""The settings that may change while a node runs."""


class Node(Running):
    """One node, as a context: ``async with Node(config) as node`` serves until the block is left.

    Leaving tells every client why, and gives it ``shutdown_timeout_s`` to close. A ``store`` takes
    the place of the etcd that the configuration names.
    """

    def __init__(
        self,
        config: Config | None = None,
        world: World | None = None,
        store: KeyValueStore | None = None,
    ) -> None:
        self.config = config or Config()
        self.world = world or real_world()
        self.clustering: Clustering | None = None
        """Its part in a cluster, if it is in one, from the start on."""
        self._store = store
        self._cluster_queues = ClusterQueues(self.config.name, ClassicQueues(self._open_log))
        self.broker = Broker(
            self.world, _limits(self.config), self.config.name, self._queue_types()
        )
        self._keeping: Keeping | None = None
        self.alarms: tuple[str, ...] = ()
        """What runs low here; publishers wait for what does elsewhere, too."""
        self.is_drained = False
        """Whether it is in maintenance mode."""
        self._listener: Listener | None = None
        self._is_listening = True
        self._nursery: trio.Nursery
        self._tick_lot = trio.lowlevel.ParkingLot()
        self._behind_lot = trio.lowlevel.ParkingLot()
        self.broker.deadlines.on_earlier = lambda: _wake(self._tick_lot)
        self.broker.turn.on_behind = lambda: _wake(self._behind_lot)
        self._served = 0
        self._idle_lot = trio.lowlevel.ParkingLot()

    @property
    def address(self) -> tuple[str, int]:
        """Where AMQP is served."""
        assert self._listener is not None
        return self._listener.address

    @property
    def data_dir(self) -> str | None:
        """Where everything is kept; None: in memory only."""
        config = self.config
        return None if config.memory else config.data_dir or f"amqpbroker-data/{config.name}"

    def cluster_status(self) -> ClusterStatus | None:
        """The cluster as this node sees it, if it is in one."""
        return None if self.clustering is None else self.clustering.status()

    def refresh(self) -> None:
        """Ask the other nodes for the numbers of their queues."""
        self._cluster_queues.remote.refresh()

    def is_refreshing(self) -> bool:
        """Whether some have yet to answer."""
        return self._cluster_queues.remote.is_refreshing

    def inquire(self, what: str, about: Mapping[str, str]) -> list[Inquiry]:
        """Ask the other nodes for a report."""
        return self._cluster_queues.remote.inquire(what, about)

    def answer_by(self, report: Reporter) -> None:
        """Answer the reports that other nodes ask for with what ``report`` makes."""
        if self.clustering is not None:
            self.clustering.answer_by(report)

    @property
    def url(self) -> str:
        """Where AMQP is served, as a URL."""
        host, port = self.address
        return f"amqp://[{host}]:{port}" if ":" in host else f"amqp://{host}:{port}"

    @property
    def memory_limit_bytes(self) -> int:
        """What the process may occupy without the memory alarm."""
        total = self.world.memory.total_bytes()
        return min(self.config.vm_memory_high_watermark.octets_of(total), total)

    @property
    def disk_free_limit_bytes(self) -> int:
        """What must be free on the disk without the disk alarm."""
        return self.config.disk_free_limit.octets_of(self.world.memory.total_bytes())

    def disk_free_bytes(self) -> int:
        """What can still be written; of a node without a disk 0."""
        return 0 if self._keeping is None else self._keeping.free_bytes()

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Change settings of the running node, those in `CHANGEABLE`. Raises `ConfigError`."""
        fixed = settings.keys() - CHANGEABLE
        if fixed:
            raise ConfigError(f"{', '.join(sorted(fixed))} cannot be changed while the node runs")
        try:
            self.config = attrs.evolve(self.config, **settings)
        except ValueError as error:
            raise ConfigError(str(error.args[0])) from error
        logging.getLogger().setLevel(self.config.log_level.upper())
        self._check_resources()

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        link_listener: Listener | None = None
        try:
            await self._open_data()
            self._listener = await self._listen("listen", *self.config.listen)
            if self.clustering is not None:
                link_listener = await self._listen(
                    "link", *self.config.link, self.clustering.network
                )
            async with trio.open_nursery() as self._nursery:
                try:
                    self._nursery.start_soon(self._tick)
                    self._nursery.start_soon(self._catch_up)
                    if self.clustering is not None:
                        await self.clustering.begin(self._nursery)
                    if self._keeping is not None:  # By now all logs are open.
                        self._nursery.start_soon(self._keeping.run, self.broker)
                    if self.clustering is not None and link_listener is not None:
                        await self.clustering.announce(
                            self._nursery, link_listener, self.address[1]
                        )
                    self._nursery.start_soon(self._accept, self._listener)
                    self._watch(self.world.clock.monotonic_s())
                    yield
                    self._listener.close()
                    await self._close_connections()
                    if self.clustering is not None:
                        await self.clustering.leave()
                    if self._keeping is not None:
                        await self._keeping.stop()
                finally:
                    self._nursery.cancel_scope.cancel()
        finally:
            if self._listener is not None:
                self._listener.close()
            if link_listener is not None:
                link_listener.close()
            if self._keeping is not None:
                self._keeping.close()

    async def _open_data(self) -> None:
        """Begin with what was kept, or with what a new node has."""
        config = self.config
        folder = self.data_dir
        if config.cluster or self._store is not None:
            await self._join(str(folder))
            return
        if folder is not None:
            self._keeping = await Keeping.open(self.world, folder, config.name)
            self._keeping.begin(self.broker)
        if self._keeping is None or self._keeping.is_new:
            self.broker.boot(config.default_user, config.default_pass)

    async def _join(self, folder: str) -> None:
        """Be a member of a cluster, which knows what there is."""
        config, world = self.config, self.world
        network = link_network(config, world.network)
        store = self._store or open_store(config, world)
        self._keeping, membership = await Joining(config, world, store, folder).join()
        self.clustering = Clustering(
            config,
            world,
            store,
            membership,
            self._keeping,
            self.broker,
            self._cluster_queues,
            network,
        )

    def _queue_types(self) -> dict[str, QueueType]:
        """Classic queues; and, where nothing outlives the node anyway, quorum queues that are such.

        What a quorum queue promises beyond a classic one is that it survives; in memory neither
        does.
        """
        if self.config.memory:
            classic = ClassicQueues()
            return {"classic": classic, "quorum": classic}
        if self.config.cluster or self._store is not None:
            return {"classic": self._cluster_queues}
        return {"classic": ClassicQueues(self._open_log)}

    def _open_log(self, definition: QueueDefinition) -> Log:
        assert self._keeping is not None
        return self._keeping.open_log(definition)

    async def _listen(
        self, setting: str, host: str, port: int, network: Network | None = None
    ) -> Listener:
        try:
            return await (network or self.world.network).listen(host, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ConfigError(
                    f"cannot listen on {host}:{port}: another program uses that port; stop it,"
                    f" or choose another with --{setting} {host}:PORT (0 takes a free one)"
                ) from error
            raise ConfigError(
                f"cannot listen on {host}:{port}: {error.strerror or error};"
                f" choose an address of this machine with --{setting} HOST:PORT"
            ) from error

    async def _close_connections(self) -> None:
        """Tell all clients that the node stops, and wait for them to close."""
        self.broker.close_all(ConnectionForced("broker forced connection closure"))
        self.broker.turn.end_batch()
        with trio.move_on_after(self.config.shutdown_timeout_s):
            while self._served:
                await self._idle_lot.park()

    # -- maintenance ---------------------------------------------------------------------------

    def drain(self) -> None:
        """Serve no clients any more, until `revive`: they are closed, and no others are taken.

        New queues come to other nodes; those that are here can be used through other nodes.
        """
        log.warning("no clients are served any more: the node is put into maintenance mode")
        self._mark_drained(True)
        self.suspend()
        self.broker.close_all(ConnectionForced("Node was put into maintenance mode"))
        self.broker.turn.end_batch()

    async def revive(self) -> None:
        """Serve clients again. Raises `ConfigError` when the port is another program's by now."""
        await self.resume()
        self._mark_drained(False)

    def _mark_drained(self, is_drained: bool) -> None:
        self.is_drained = is_drained
        if self.clustering is not None:
            self.clustering.membership.change(maintenance=is_drained)

    def suspend(self) -> None:
        """Take no more clients, until `resume`; those that are there stay."""
        assert self._listener is not None
        self._is_listening = False
        self._listener.close()

    async def resume(self) -> None:
        """Take clients again. Raises `ConfigError` when the port is another program's by now."""
        if not self._is_listening:
            self._listener = await self._listen("listen", self.config.listen[0], self.address[1])
            self._is_listening = True
            self._nursery.start_soon(self._accept, self._listener)

    # -- tasks ---------------------------------------------------------------------------------

    async def _accept(self, listener: Listener) -> None:
        properties = self.broker.server_properties()
        while True:
            try:
                stream = await listener.accept()
            except trio.ClosedResourceError:
                return
            except OSError as error:
                log.warning("cannot accept connections: %s", error)
                await trio.sleep(_ACCEPT_RETRY_S)
                continue
            self._nursery.start_soon(self._serve, AmqpConnection(self.broker, stream, properties))

    async def _serve(self, connection: AmqpConnection) -> None:
        self._served += 1
        try:
            await connection.serve()
        finally:
            self._served -= 1
            self._idle_lot.unpark_all()

    async def _tick(self) -> None:
        """Make calls when they are due, and finish what they set in motion."""
        deadlines, clock = self.broker.deadlines, self.world.clock
        while True:
            due_s = deadlines.next_s()
            if due_s is None:
                await self._tick_lot.park()
            elif (wait_s := due_s - clock.monotonic_s()) > 0:
                with trio.move_on_after(wait_s):
                    await self._tick_lot.park()
            deadlines.run(clock.monotonic_s())
            self.broker.turn.end_batch()

    async def _catch_up(self) -> None:
        """Work off what is more than a turn's work, letting others in between."""
        while True:
            while self.broker.turn.run():
                await trio.lowlevel.checkpoint()
            await self._behind_lot.park()

    def _watch(self, now_s: float) -> None:
        """Look whether memory or disk run low, and come back."""
        self._check_resources()
        self.broker.deadlines.at(now_s + _WATCH_S, self._watch)

    def _check_resources(self) -> None:
        """Raise or clear the alarms: what runs low anywhere holds back publishers everywhere."""
        broker, memory = self.broker, self.world.memory
        if "memory" in broker.alarms:
            memory.give_back()
        low = {"memory": memory.used_bytes() > self.memory_limit_bytes}
        if self._keeping is not None:
            is_low = self._keeping.free_bytes() < self.disk_free_limit_bytes
            low["disk"] = is_low or self._keeping.is_full
        elsewhere: set[str] = set()
        self.alarms = tuple(name for name, is_low in low.items() if is_low)
        if self.clustering is not None:
            self.clustering.tell_alarms(self.alarms)
            elsewhere = self.clustering.alarms
        for name, is_low in low.items():
            broker.set_alarm(name, is_low or name in elsewhere)


def _wake(lot: trio.lowlevel.ParkingLot) -> None:
    lot.unpark_all()


def _limits(config: Config) -> BrokerLimits:
    wire = WireLimits(
        frame_max=config.frame_max,
        channel_max=config.channel_max,
        heartbeat_s=config.heartbeat_s,
        message_bytes_max=config.message_bytes_max,
    )
    return BrokerLimits(wire=wire, connections_max=config.connections_max)

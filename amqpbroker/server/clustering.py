"""A node's part in its cluster: what it knows, whom it is linked with, what it tells of itself.

Everything here is put together from the room `cluster`, and tied to the node's broker: the feed
has the broker carry out what the store says, the broker asks the coordinator for changes, and other
nodes are served with the broker's queues. Little is decided here: what is waited for when the node
begins and ends, and what is cleared up while it runs.
"""

import logging
from collections import deque
from collections.abc import Iterable

import attrs
import trio

from amqpbroker import __version__
from amqpbroker.broker.broker import Broker
from amqpbroker.cluster.cluster_queues import ClusterQueues
from amqpbroker.cluster.deaths import Deaths
from amqpbroker.cluster.etcd.contract import KeyValueStore
from amqpbroker.cluster.feed import Feed
from amqpbroker.cluster.hello import Identity
from amqpbroker.cluster.leavings import Leavings
from amqpbroker.cluster.links import Links
from amqpbroker.cluster.members import ClusterStatus, Member
from amqpbroker.cluster.membership import Membership
from amqpbroker.cluster.placement import choose_locator, place
from amqpbroker.cluster.records import encode_change
from amqpbroker.cluster.reports import Reporter
from amqpbroker.cluster.roster import Roster
from amqpbroker.cluster.schema import Schema
from amqpbroker.cluster.serving import Serving
from amqpbroker.cluster.shared import SharedCoordinator
from amqpbroker.definitions import (
    Change,
    QueueDefinition,
    VHostDefinition,
    delete,
    put,
)
from amqpbroker.errors import DataError, InternalError, StoreError
from amqpbroker.queues.queue import Pending, when_all
from amqpbroker.server.config import Config
from amqpbroker.server.keeping import Keeping
from amqpbroker.world import Listener, Network, World

log = logging.getLogger(__name__)

_LINKED_S_MAX = 3.0
"""How long a node waits for its links before it serves clients."""
_LOOK_S = 0.02
_COLLECT_S = 1.0
_COUNTED_S_MAX = 1.0
"""How long nodes that do not answer are waited for by who counts."""
_STOP_S_MAX = 2.0
_UNCLAIMED_S_MAX = 5.0
"""An exclusive queue belongs to its connection at once, or never."""


class Clustering:
    """The part of the node ``config.name``; `begin`, `announce` and `leave` in this order.

    ``queues`` are those of the broker, ``network`` is that by which nodes reach each other.
    """

    def __init__(
        self,
        config: Config,
        world: World,
        store: KeyValueStore,
        membership: Membership,
        keeping: Keeping,
        broker: Broker,
        queues: ClusterQueues,
        network: Network,
    ) -> None:
        self.membership = membership
        self.network = network
        self._config = config
        self._world = world
        self._keeping = keeping
        self._broker = broker
        self._queues = queues
        self._unclaimed: deque[tuple[float, QueueDefinition]] = deque()
        self._feed = Feed(Schema(config.cluster_name), self._apply)
        self._feed.cluster_id = membership.cluster_id
        incarnation = membership.incarnation
        self._coordinator = SharedCoordinator(
            store, self._feed, config.name, incarnation, world.clock, world.random
        )
        self._coordinator.place = self._place
        self._coordinator.incarnation_of = self._incarnation_of
        self._coordinator.others_revision = self._others_revision
        self._coordinator.after = self._tell_revision
        identity = Identity(membership.cluster_id, config.name, incarnation, membership.secret)
        self._serving = Serving(broker.turn, queues.find, self._delete_queue)
        self._serving.reply_address = broker.replies.here.get
        self._serving.catch_up = self._coordinator.catch_up
        self._serving.count = broker.quotas.count
        broker.replies.elsewhere = queues.remote.find_reply
        broker.quotas.elsewhere = self._count_elsewhere
        linked = attrs.evolve(world, network=network)
        self._links = Links(linked, broker.turn, identity, queues.remote, self._serving)
        self._links.on_revision = lambda node, revision: self._coordinator.look()
        self._leavings = Leavings(self._feed, config.name, incarnation, broker.see_to)
        self.deaths = Deaths(store, self._feed.schema)
        """Knows of nodes that have ended before their leases do, and tells who listens."""
        self.deaths.listeners.append(self._leavings.over)
        self._roster = Roster(
            config.name,
            self._feed,
            world.clock,
            self._links,
            self.deaths,
            self._leavings,
            membership,
        )
        if config.link_refused_means_dead:
            self._links.on_refused = self._roster.see_refusal
        self._links.on_later_life = self._roster.see_life
        self._tasks = trio.CancelScope()

    # -- beginning and ending ------------------------------------------------------------------

    async def begin(self, nursery: trio.Nursery) -> None:
        """Know what there is, and have nothing of earlier lives."""
        broker = self._broker
        broker.coordinator = self._coordinator
        self._keeping.attend(self._own_definitions)
        nursery.start_soon(self._coordinator.run)
        await self._coordinator.loaded.wait()
        self._check_kept()
        self._keeping.clear_up(self._own_queues())
        await _answered(self._leavings.of_earlier_lives())
        if self._leavings.has_transient_exchanges and not self._roster.running:
            # Perhaps all leases have ended, and the others are about to register again.
            await trio.sleep(self._leavings.settle_s)
            if not self._roster.running:
                await _answered(self._leavings.of_all())

    def _check_kept(self) -> None:
        """See that no messages are given up because a definition cannot be read.

        Raises `DataError`.
        """
        unread, schema = self._feed.unread, self._feed.schema
        for each in self._keeping.definitions if unread else ():
            if isinstance(each, QueueDefinition):
                for key in unread & {schema.key(each), schema.leadership_key(each)}:
                    raise DataError(
                        f"this node has the messages of {each.title}, and what the cluster's store"
                        f" says of it at {key.decode()} makes no sense: write it anew, or delete"
                        " the key to give them up"
                    )

    async def announce(self, nursery: trio.Nursery, listener: Listener, amqp_port: int) -> None:
        """Be there for the others at ``listener``, and for them to find; wait for the links."""
        config = self._config
        nursery.start_soon(self._run, listener)
        await self.membership.announce(
            Member(
                0,
                link=_address(*config.link_address(listener.address[1])),
                amqp=_address(config.host, amqp_port),
                v=__version__,
                started=self._world.clock.wall_ms(),
            )
        )
        with trio.move_on_after(_LINKED_S_MAX):
            while not self._roster.is_linked_with_all:  # noqa: ASYNC110 - for a moment, at the start
                await trio.sleep(_LOOK_S)

    async def _run(self, listener: Listener) -> None:
        with self._tasks:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._links.run, listener)
                    nursery.start_soon(self.membership.run)
                    nursery.start_soon(self.deaths.run)
                    nursery.start_soon(self._collect)
            finally:
                listener.close()

    async def leave(self) -> None:
        """Have nothing left that ends with this node, and tell everybody that it goes.

        Links are accepted until that is told: refusing them means to be gone.
        """
        if not self.membership.is_store_away:
            with trio.move_on_after(_STOP_S_MAX):
                await _answered(self._leavings.of_this_life())
        await self.membership.leave()
        self._tasks.cancel()

    async def _collect(self) -> None:
        """Delete what nodes have left that ended without a word."""
        while True:
            await trio.sleep(_COLLECT_S)
            is_first = self._roster.is_first
            if self.membership.is_store_away:
                self._leavings.settle(self._world.clock.monotonic_s())
                continue
            self._drop_unclaimed()
            if is_first:
                now_s = self._world.clock.monotonic_s()
                self._leavings.collect(now_s, self._roster.running, self._roster.linked)

    def answer_by(self, report: Reporter) -> None:
        """Answer the reports that other nodes ask for with what ``report`` makes."""
        self._serving.report = report

    async def forget(self, node: str) -> None:
        """Strike a node off that is down for ever, with its queues.

        Raises `NotFound` when there is no such node, `PreconditionFailed` when it is up, and
        `InternalError` when the store does not answer.
        """
        try:
            await self.membership.forget(node)
        except StoreError as error:
            raise InternalError(f"the cluster's store (etcd) does not answer: {error}") from error
        queues = [each for each in self._feed.catalog.all(QueueDefinition) if each.leader == node]
        log.warning("node %s is forgotten, and %d queues with it", node, len(queues))
        await _answered(when_all([self._broker.see_to(delete(each)) for each in queues]))

    # -- what changes --------------------------------------------------------------------------

    def _apply(self, change: Change) -> None:
        definition = change.definition
        if change.act == "delete":
            if isinstance(definition, QueueDefinition):
                self._queues.forget(definition)
            elif isinstance(definition, VHostDefinition):
                for queue in self._broker.vhosts[definition.name].queues.values():
                    self._queues.forget(queue.definition)
        elif isinstance(definition, QueueDefinition) and definition.exclusive:
            self._unclaimed.append((self._world.clock.monotonic_s(), definition))
        self._broker.apply(change)

    def _drop_unclaimed(self) -> None:
        """Delete the exclusive queues here that were made after who wanted them had given up."""
        unclaimed = self._unclaimed
        before_s = self._world.clock.monotonic_s() - _UNCLAIMED_S_MAX
        while unclaimed and unclaimed[0][0] < before_s:
            _, definition = unclaimed.popleft()
            queue = self._queues.find(definition.log_id)
            if queue is not None and queue.owner is None:
                self._broker.see_to(delete(definition))

    def _own_queues(self) -> list[QueueDefinition]:
        """The queues whose messages are kept here."""
        own = self._config.name
        return [
            queue
            for queue in self._feed.catalog.all(QueueDefinition)
            if queue.leader == own and not queue.owner
        ]

    def _own_definitions(self) -> bytes:
        return b"".join(encode_change(put(queue)) for queue in self._own_queues())

    def _place(self, queue: QueueDefinition) -> str:
        """The node on which a new queue comes to be."""
        config = self._config
        policy = self._broker.vhosts[queue.vhost].policies.of_queue(queue).definition
        settings = (config.queue_master_locator, config.queue_leader_locator)
        locator = choose_locator(queue.arguments, policy, settings)
        running = [node for node, member in self._roster.running.items() if not member.maintenance]
        return place(locator, config.name, running, self._queues.leaders, self._world.random)

    def _incarnation_of(self, node: str) -> int:
        """In which of its lives a node is; this one may not be announced yet."""
        own = node == self._config.name
        return self.membership.incarnation if own else self._roster.running[node].inc

    def _delete_queue(
        self, queue: QueueDefinition, if_unused: bool, if_empty: bool
    ) -> int | Pending[int]:
        """Delete a queue of this node for another one, which has seen to the rights."""
        vhost = self._broker.vhosts[queue.vhost]
        owner = vhost.queues[queue.name].owner
        return vhost.delete_queue(queue.name, owner, if_unused, if_empty)

    def _count_elsewhere(self, what: str, name: str) -> Pending[int] | None:
        """How many connections or channels somebody has on other nodes."""
        tally = self._queues.remote.count(what, name)
        if tally is not None:
            now_s = self._world.clock.monotonic_s()
            self._broker.deadlines.at(now_s + _COUNTED_S_MAX, lambda _: tally.end())
        return tally

    # -- what is told --------------------------------------------------------------------------

    def _others_revision(self) -> int | None:
        return min(self._links.revisions.values(), default=None)

    def _tell_revision(self) -> None:
        self._links.report_revision(self._feed.revision)
        self._broker.turn.end_batch()

    @property
    def alarms(self) -> set[str]:
        """What runs low on other nodes."""
        return self._roster.alarms

    def tell_alarms(self, alarms: Iterable[str]) -> None:
        """Tell the others what runs low here."""
        self.membership.change(alarms=tuple(sorted(alarms)))

    def status(self) -> ClusterStatus:
        """The cluster as this node sees it."""
        return ClusterStatus(
            self._config.cluster_name,
            self.membership.cluster_id,
            tuple(sorted(self._roster.nodes)),
            dict(sorted(self._roster.running.items())),
            tuple(sorted(self._roster.linked)),
            # It asks all the time, the coordinator when it must.
            self.membership.is_store_away or self._coordinator.has_lost_cluster,
        )


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _answered(pending: Pending[None] | None) -> None:
    """Wait for an answer, which never fails."""
    if pending is not None:
        event = trio.Event()
        pending.then = lambda _: event.set()
        await event.wait()

"""How a node joins a cluster, stays in it, and leaves.

A node is its disk and the count of its starts: ``node@incarnation`` is one life of one process.
That count, in the store under the node's name, is the right to the name. Whoever has raised it
last may register under it; a process that finds it raised by another has to end. So no lease and no
clock decides who a node is. The lease says only that it is up.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import msgspec
import trio

from amqpbroker.cluster.etcd.contract import Get, KeyValue, KeyValueStore, Put, absent, unchanged
from amqpbroker.cluster.members import (
    INCARNATION,
    MEMBER,
    META,
    SCHEMA,
    SECRET,
    Incarnation,
    Member,
    Meta,
    decode,
    encode,
    new_id,
)
from amqpbroker.cluster.schema import Schema
from amqpbroker.errors import (
    ConfigError,
    DataError,
    LeaseNotFound,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from amqpbroker.world import World

Result = TypeVar("Result")

log = logging.getLogger(__name__)

LEASE_S = 10
KEEP_ALIVE_S = LEASE_S / 5
"""How often the lease is kept alive."""
KEEP_ALIVE_S_MAX = 1.0
"""How long one attempt to do so may take."""
_RETRY_S = 0.5
_WAIT_S = 1.0
SAID_AGAIN_S = 10.0
"""How often a node says that it still waits for the store."""
_LEAVE_S_MAX = 2.0
_SECRET_BYTES = 32
_RESOURCE_EXHAUSTED = 8  # gRPC's; what etcd says when its quota is used up.


class Membership:
    """The membership of ``node``, whose disk is ``disk_id``, in the cluster ``cluster``.

    In this order: `find`, `begin`, `announce`, `run`, `leave`.
    """

    def __init__(
        self, world: World, store: KeyValueStore, cluster: str, node: str, disk_id: str
    ) -> None:
        self.cluster_id = ""
        """After `find`: what tells this cluster from all others, whatever their names."""
        self.secret = b""
        """After `find`: what only the nodes of the cluster have."""
        self.uploads = False
        """After `find`: the cluster waits for this node's definitions, and then for `uploaded`."""
        self.incarnation = 0
        """After `begin`: which life of the node this is."""
        self.lease_deadline_s = 0.0
        """Until then, by this node's clock, its lease has certainly not ended."""
        self.is_store_away = False
        """Whether the store did not answer when it was last asked."""
        self._away_said_s = 0.0
        self._world = world
        self._store = store
        self._cluster = cluster
        self._schema = Schema(cluster)
        self._node = node
        self._disk_id = disk_id
        self._meta: KeyValue
        self._remembered = 0
        self._is_drawn = False
        self._remember: Callable[[int], Awaitable[None]]
        self._inc_revision = 0
        self._member = Member(0)
        self._lease = 0
        self._is_told = True
        self._lot = trio.lowlevel.ParkingLot()
        self._staying = trio.CancelScope()

    # -- joining -------------------------------------------------------------------------------

    async def find(
        self, known: str = "", first: Sequence[Put] = (), *, brings: bool = False
    ) -> None:
        """Find the cluster; one that is not there yet begins with this node.

        ``known`` is the id of the cluster that the node's disk belongs to, if it does to any. A new
        cluster begins with what is ``first`` in it, or with definitions that the node ``brings``.
        Waits for the store as long as that is away, and for another node that brings some. Raises
        `ConfigError` or `DataError` when this is not where it belongs.
        """
        waits = False
        while True:
            item = await self.insist(lambda: self._find_meta(known, first, brings))
            meta = self._read_meta(item)
            if meta.uploader in ("", self._disk_id):
                break
            if not waits:
                log.warning(
                    "node %s brings its definitions to cluster '%s', and has not come to the end:"
                    " waiting for it (if it is lost, choose another --cluster-name)",
                    meta.uploading,
                    self._cluster,
                )
            waits = True
            await trio.sleep(_WAIT_S)
        if known and meta.cluster_id != known:
            raise DataError(
                f"the data directory belongs to another cluster ({known}) than the one that is"
                f" named '{self._cluster}' here ({meta.cluster_id}): start the node with the"
                " --cluster and --cluster-name it had, or with an empty --data-dir"
            )
        self.cluster_id, self._meta = meta.cluster_id, item
        self.uploads = bool(meta.uploader)
        self.secret = await self.insist(self._find_secret)

    async def _find_meta(self, known: str, first: Sequence[Put], brings: bool) -> KeyValue:
        """What there is of the cluster; made new where there is nothing."""
        key = self._schema.path(META)
        while (item := (await self._store.get(key)).item) is None:
            if known:
                raise DataError(
                    f"the data directory belongs to a cluster ({known}), and this store has none"
                    f" that is named '{self._cluster}': start the node with the --cluster and"
                    " --cluster-name it had; if the store has lost its data, restore it from a"
                    " backup"
                )
            meta = Meta(new_id(self._world.random))
            if brings:
                meta = Meta(meta.cluster_id, uploader=self._disk_id, uploading=self._node)
            await self._store.txn([absent(key)], [Put(key, encode(meta)), *first])
        return item

    def _read_meta(self, item: KeyValue) -> Meta:
        meta = decode(item.key, item.value, Meta)
        if meta.schema > SCHEMA:
            raise ConfigError(
                f"cluster '{self._cluster}' is kept in version {meta.schema}, and this release"
                f" reads {SCHEMA}: start the node with the release that the others have"
            )
        return meta

    async def _find_secret(self) -> bytes:
        key = self._schema.path(SECRET)
        while (item := (await self._store.get(key)).item) is None:
            secret = self._world.random.randbytes(_SECRET_BYTES)
            await self._store.txn([absent(key)], [Put(key, secret)])
        return item.value

    async def uploaded(self) -> None:
        """The definitions that this node brings are there: others may begin."""

        async def say() -> None:
            meta = msgspec.structs.replace(self._read_meta(self._meta), uploader="", uploading="")
            conditions = [unchanged(self._schema.path(META), self._meta.mod_revision)]
            # Refused, it has been said before, unheard: nobody else does.
            await self._store.txn(conditions, [Put(self._schema.path(META), encode(meta))])

        await self.insist(say)
        self.uploads = False

    async def begin(
        self, *, is_known: bool, remembered: int, remember: Callable[[int], Awaitable[None]]
    ) -> None:
        """Begin a new incarnation of the node.

        ``is_known``: its disk has belonged to this cluster before. ``remembered`` is the highest
        number that the disk has for its starts, and ``remember`` writes a higher one there, for
        good. As that comes before anything is asked of the store, a disk that knows less than the
        store is an old copy.

        Raises `ConfigError` when it is, or when another disk has the node's name, `DataError` when
        the cluster has forgotten the node, and what ``remember`` does.
        """
        self._remembered, self._remember = remembered, remember
        await self.insist(lambda: self._begin(is_known))

    async def _begin(self, is_known: bool) -> None:
        key = self._schema.path(INCARNATION, self._node)
        while True:
            item = (await self._store.get(key)).item
            before = Incarnation("", 0) if item is None else decode(key, item.value, Incarnation)
            if before.uuid not in ("", self._disk_id):
                raise ConfigError(
                    f"another disk than this has the name {self._node} in cluster"
                    f" '{self._cluster}': choose another --name, or start the node with the"
                    " --data-dir it had; if that is lost, first have the node forgotten"
                    f" (amqpbrokerctl forget_cluster_node {self._node})"
                )
            if item is not None and not before.uuid and is_known:
                raise DataError(self._forgotten())
            if before.uuid and self._remembered < before.inc:
                raise ConfigError(self._old_copy(before.inc))
            await self._draw_number(before.inc)
            mine = Incarnation(self._disk_id, self._remembered)
            seen = 0 if item is None else item.mod_revision
            result = await self._store.txn([unchanged(key, seen)], [Put(key, encode(mine))])
            if result.succeeded:
                self.incarnation, self._inc_revision = mine.inc, result.revision
                return

    async def _draw_number(self, stored: int) -> None:
        """Have a number that no start has had: it is on the disk before anybody hears of it.

        One that was drawn already, and not used, will do. That of an earlier start that has not
        come to its end will not: nobody knows what became of it.
        """
        if self._is_drawn and self._remembered > stored:
            return
        if not self._is_drawn and self._remembered > stored + 1:
            log.warning(
                "this is incarnation %d of %s at least, and the cluster's store has heard of %d:"
                " unless several starts have failed since, the store was set back to what it was"
                " before; what was declared since then is unknown to it, and is deleted here",
                self._remembered + 1,
                self._node,
                stored,
            )
        number = max(self._remembered, stored) + 1
        await self._remember(number)
        self._remembered, self._is_drawn = number, True

    def _old_copy(self, stored: int) -> str:
        return (
            f"the data directory is an old copy: it knows {self._node} up to incarnation"
            f" {self._remembered}, and cluster '{self._cluster}' up to {stored}; what the node has"
            " kept since then is not here: start it with the --data-dir that it ran on last; if"
            " that is lost, have the node forgotten (amqpbrokerctl forget_cluster_node"
            f" {self._node}), and start it with an empty --data-dir"
        )

    def _forgotten(self) -> str:
        return (
            f"cluster '{self._cluster}' has forgotten the node {self._node}, and its queues:"
            " start it with an empty --data-dir to join anew"
        )

    # -- staying -------------------------------------------------------------------------------

    async def announce(self, member: Member) -> None:
        """Tell everybody that the node is up; its incarnation is filled in.

        Waits for the store as long as that is away. Raises `DataError` when another process has
        the name by now.
        """
        self._member = msgspec.structs.replace(member, inc=self.incarnation)
        await self.insist(self._register)

    def change(self, **fields: Any) -> None:
        """Tell everybody something else of the node, as soon as `run` gets to it."""
        changed = msgspec.structs.replace(self._member, **fields)
        if changed != self._member:
            self._member = changed
            self._tell_again()

    @property
    def member(self) -> Member:
        """What was last told of the node."""
        return self._member

    def see(self, member: Member | None) -> None:
        """Learn what the store says of this node: what is not there (any more) is told again."""
        if self._member.inc and member != self._member:
            self._tell_again()

    def _tell_again(self) -> None:
        self._is_told = False
        self._lot.unpark_all()

    async def run(self) -> None:
        """Keep the node registered, whatever happens to the store or to the lease.

        Raises `DataError` when another process has the name by now. Returns when the node leaves.
        """
        with self._staying:
            await self._stay()

    async def _stay(self) -> None:
        while True:
            pause_s = _RETRY_S if self.is_store_away else KEEP_ALIVE_S
            if self._is_told or self.is_store_away:
                with trio.move_on_after(pause_s):
                    await self._lot.park()
            try:
                await self._keep_alive()
                self._is_back()
            except StoreError as error:
                self._is_away(error)

    async def _keep_alive(self) -> None:
        """Keep the lease; get another if it has gone; put right what is told of the node."""
        if self._lease:
            sent_s = self._world.clock.monotonic_s()
            try:
                ttl_s = await self._store.keep_alive(self._lease, timeout_s=KEEP_ALIVE_S_MAX)
                self._rely_on(sent_s, ttl_s)
            except LeaseNotFound:
                log.warning("the lease of %s has ended: registering it again", self._node)
                self._lease = 0
        if not self._lease or not self._is_told:
            await self._register()

    async def _register(self) -> None:
        """Put the node in the store, with a lease."""
        if not self._lease:
            sent_s = self._world.clock.monotonic_s()
            lease = await self._store.grant_lease(LEASE_S)
            self._lease, self._is_told = lease.id, False
            self._rely_on(sent_s, lease.ttl_s)
        key = self._schema.path(INCARNATION, self._node)
        put = Put(self._schema.path(MEMBER, self._node), encode(self._member), lease=self._lease)
        told = self._member
        try:
            result = await self._store.txn([unchanged(key, self._inc_revision)], [put], [Get(key)])
        except LeaseNotFound as error:
            self._lease = 0
            raise StoreUnavailable("a new lease has ended at once") from error
        if not result.succeeded:
            self._give_up(result.results[0].items)
        self._is_told = self._member == told

    def _rely_on(self, sent_s: float, ttl_s: int) -> None:
        """The lease was alive at ``sent_s``, when that was not yet answered."""
        self.lease_deadline_s = sent_s + ttl_s * 0.98 - 0.5

    def _give_up(self, items: tuple[KeyValue, ...]) -> None:
        for item in items:
            now = decode(item.key, item.value, Incarnation)
            if now.uuid and now.inc <= self.incarnation:
                raise DataError(
                    f"the cluster's store was set back to what it was before: it has heard of"
                    f" incarnation {now.inc} of {self._node}, and this one is {self.incarnation}:"
                    " this one ends; start it again to go on with what the store knows"
                )
            if now.uuid:
                raise DataError(
                    f"another process was started as node {self._node} (incarnation {now.inc},"
                    f" this one is {self.incarnation}), on a copy of this data directory: this one"
                    " ends; give each node a name and a directory of its own"
                )
        if not items:
            raise StoreUnavailable(f"it knows nothing of node {self._node} any more")
        raise DataError(self._forgotten())

    async def leave(self) -> None:
        """Tell everybody that the node goes; `run` ends. It never fails."""
        self._staying.cancel()
        self._member = Member(0)
        with trio.move_on_after(_LEAVE_S_MAX):
            try:
                if self._lease:
                    await self._store.revoke_lease(self._lease)
                return
            except StoreError as error:
                log.info("cannot tell the cluster that the node stops: %s", error)

    # -- other nodes ---------------------------------------------------------------------------

    async def forget(self, node: str) -> None:
        """Strike a node off that is down: only with an empty disk may it come again.

        Raises `NotFound` when there is no such node, `PreconditionFailed` when it is up, and
        `StoreError`.
        """
        key = self._schema.path(INCARNATION, node)
        item = (await self._store.get(key)).item
        there = Incarnation("", 0) if item is None else decode(key, item.value, Incarnation)
        if item is None or not there.uuid:
            raise NotFound("The node selected is not in the cluster.")
        conditions = [unchanged(key, item.mod_revision), absent(self._schema.path(MEMBER, node))]
        forgotten = Put(key, encode(Incarnation("", there.inc)))
        if not (await self._store.txn(conditions, [forgotten])).succeeded:
            raise PreconditionFailed(f"node {node} is up, or has been until a moment ago: stop it")

    # -- the store -----------------------------------------------------------------------------

    async def insist(self, call: Callable[[], Awaitable[Result]]) -> Result:
        """Do what may be done twice, until the store has answered.

        Raises `ConfigError` when it refuses.
        """
        while True:
            try:
                result = await call()
            except (StoreUnavailable, OutcomeUnknown) as error:
                self._is_away(error)
                await trio.sleep(_RETRY_S)
            except StoreRefused as error:
                remedy = "see to its user and rights"
                if error.code == _RESOURCE_EXHAUSTED:
                    remedy = "give etcd room (compact and defragment it, and disarm its alarm)"
                raise ConfigError(
                    f"the cluster's store refuses the node: {error}; {remedy}"
                ) from error
            else:
                self._is_back()
                return result

    def _is_away(self, error: StoreError) -> None:
        now_s = self._world.clock.monotonic_s()
        if not self.is_store_away or now_s - self._away_said_s >= SAID_AGAIN_S:
            log.warning("the cluster's store does not serve this node, trying on: %s", error)
            self._away_said_s = now_s
        self.is_store_away = True

    def _is_back(self) -> None:
        if self.is_store_away:
            log.info("the cluster's store serves this node again")
        self.is_store_away = False

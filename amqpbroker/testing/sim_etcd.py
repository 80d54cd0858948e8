"""A simulated etcd: an in-process store of revisions, with the faults that tests switch on.

`SimEtcd` is what the members are together; every node of a simulated cluster has a `SimEtcdClient`
of its own, which can be cut off alone. Time is the world's, delays and fates are the seed's.

    etcd = SimEtcd(simulation.world.clock, simulation.random)
    store = etcd.client()
"""

import random
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar

import attrs
import trio

from amqpbroker.cluster.etcd.contract import (
    Compare,
    Delete,
    Event,
    EventBatch,
    Get,
    KeyValue,
    KeyValueStore,
    Lease,
    Operation,
    OperationResult,
    Put,
    RangeReading,
    Reading,
    TxnResult,
    Watch,
    check_txn,
)
from amqpbroker.errors import (
    Compacted,
    LeaseExists,
    LeaseNotFound,
    OutcomeUnknown,
    StoreRefused,
    StoreUnavailable,
)
from amqpbroker.world import Clock

Result = TypeVar("Result")
Fate = Literal["answered", "done", "not done", "done later", "held"]
"""What becomes of a change: only one that is ``answered`` tells its caller."""

_TTL_S_MIN = 2
"""etcd's, with its usual election timeout of a second."""


@attrs.define
class _SimLease:
    ttl_s: int
    ends_s: float
    revoked_s: float
    """etcd takes up to half a second to see that a lease has ended."""
    keys: dict[bytes, None] = attrs.Factory(dict)


class SimEtcd:
    """The store itself. Tests change its attributes and call its faults at any time."""

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self.revision = 1
        self.compact_revision = 0
        self.delay_s_max = 0.002
        """How long requests and answers travel, each."""
        self.watch_lag_s_max = 0.002
        """How long events travel."""
        self.expiry_delay_s_max = 0.5
        """How long after its end a lease is still there."""
        self.unknown_outcomes = 0.0
        """The share of changes whose answer is lost."""
        self.stale_revisions_max = 0
        """How far serializable reads may lie behind."""
        self.requests = 0
        """How many requests have arrived."""
        self.stalled = False
        self.random = rng
        self._clock = clock
        self._keys: list[bytes] = []
        self._versions: dict[bytes, list[tuple[int, KeyValue | None]]] = {}
        self._history: list[Event] = []
        self._leases: dict[int, _SimLease] = {}
        self._fates: deque[Fate] = deque()
        self._late: list[Callable[[], object]] = []
        self._held: list[Callable[[], object]] = []
        self._changed = trio.lowlevel.ParkingLot()

    def client(self, timeout_s: float = 5.0) -> "SimEtcdClient":
        """A client of its own for a node; its calls end within ``timeout_s``."""
        return SimEtcdClient(self, timeout_s)

    # -- faults --------------------------------------------------------------------------------

    def lose_answer(self, fate: Fate) -> None:
        """Decide on the next change, behind those decided already: its caller hears nothing."""
        self._fates.append(fate)

    def release(self) -> None:
        """Do what was held, as a member does that stood still and goes on: long after, perhaps."""
        held, self._held = self._held, []
        self._late += held
        self.settle()
        self.wake()

    def stall(self) -> None:
        """Do nothing until `resume`, as without a quorum. Leases run on."""
        self.stalled = True

    def resume(self) -> None:
        """Go on. Leases that have ended meanwhile are gone at once."""
        self.stalled = False
        self.settle()
        self.wake()

    def compact(self, revision: int | None = None) -> None:
        """Forget what was before ``revision``, or before the newest."""
        self.compact_revision = self.revision if revision is None else revision
        del self._history[: bisect_left(self._history, self.compact_revision, key=_revision)]
        for versions in self._versions.values():
            kept = bisect_right(versions, self.compact_revision, key=_first) - 1
            del versions[: max(0, kept)]

    def expire_lease(self, lease: int) -> None:
        """End a lease before its time; nothing if it is not there."""
        if lease in self._leases:
            self._revoke(lease)

    # -- what clients ask ----------------------------------------------------------------------

    def wake(self) -> None:
        """Let all who wait look again."""
        self._changed.unpark_all()

    async def change(self) -> None:
        """Wait until something may have changed; the end of a lease is a change."""
        ends = [lease.revoked_s for lease in self._leases.values()]
        wait_s = min(ends, default=float("inf")) - self._clock.monotonic_s()
        with trio.move_on_after(float("inf") if self.stalled else max(0.0, wait_s)):
            await self._changed.park()
        self.settle()

    async def travel(self) -> None:
        """Be on the way, from a client or to it."""
        await trio.sleep(self.random.random() * self.delay_s_max)

    def fate(self) -> Fate:
        """What becomes of the change that arrives now."""
        if self._fates:
            return self._fates.popleft()
        if self.random.random() < self.unknown_outcomes:
            return self.random.choice(("done", "not done", "done later"))
        return "answered"

    def do_late(self, work: Callable[[], object]) -> None:
        """Carry out a change with the next thing that happens; nobody hears how it went."""
        self._late.append(work)

    def hold(self, work: Callable[[], object]) -> None:
        """Carry out a change when it is released; nobody hears how it went."""
        self._held.append(work)

    def settle(self) -> None:
        """Do what is due: late changes, and the ends of leases."""
        if self.stalled:
            return
        now = self._clock.monotonic_s()
        for number, lease in list(self._leases.items()):
            if lease.revoked_s <= now:
                self._revoke(number)
        late, self._late = self._late, []
        for work in late:
            try:
                work()
            except StoreRefused:
                pass  # Whoever wanted it has gone.

    def events(self, prefix: bytes, from_revision: int) -> list[Event]:
        """What happened under a prefix from a revision on."""
        if from_revision < self.compact_revision:
            raise Compacted(self.compact_revision)
        first = bisect_left(self._history, from_revision, key=_revision)
        return [event for event in self._history[first:] if event.key.startswith(prefix)]

    def read(self, key: bytes, prefix: bool, serializable: bool) -> RangeReading:
        """A key, or all that begin with it."""
        if not key and not prefix:
            raise StoreRefused(3, "etcdserver: key is not provided")
        revision = self.revision
        if serializable and self.stale_revisions_max:
            behind = self.random.randint(0, self.stale_revisions_max)
            revision = max(1, self.compact_revision, revision - behind)
        return RangeReading(revision, tuple(self._items(key, prefix, revision)))

    def txn(
        self, compare: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation]
    ) -> TxnResult:
        """One change of the store, or a refusal of it."""
        check_txn(compare, then, otherwise)
        for operations in (then, otherwise):
            _check_keys(operations)
        succeeded = all(self._holds(each) for each in compare)
        branch = then if succeeded else otherwise
        for operation in branch:
            if isinstance(operation, Put) and operation.lease:
                self._lease(operation.lease)
        before = len(self._history)
        revision = self.revision + 1
        results = tuple(self._operate(operation, revision) for operation in branch)
        if len(self._history) > before:
            self.revision = revision
            self.wake()
        return TxnResult(succeeded, self.revision, results)

    def grant(self, ttl_s: int, number: int) -> Lease:
        """A new lease."""
        if number in self._leases:
            raise LeaseExists(9, "etcdserver: lease already exists")
        number = number or self.random.getrandbits(62) + 1
        self._leases[number] = lease = _SimLease(max(ttl_s, _TTL_S_MIN), 0.0, 0.0)
        self._begin_anew(lease)
        self.wake()
        return Lease(number, lease.ttl_s)

    def keep_alive(self, number: int) -> int:
        """A lease's time begins anew."""
        lease = self._lease(number)
        self._begin_anew(lease)
        return lease.ttl_s

    def time_to_live(self, number: int) -> int:
        """What is left of a lease."""
        return int(self._lease(number).ends_s - self._clock.monotonic_s())

    def revoke(self, number: int) -> None:
        """A lease ends, and its keys go."""
        self._lease(number)
        self._revoke(number)

    # -- how it is kept ------------------------------------------------------------------------

    def _items(self, key: bytes, prefix: bool, revision: int) -> Iterator[KeyValue]:
        keys = self._keys_from(key) if prefix else [key]
        for each in keys:
            versions = self._versions.get(each, [])
            place = bisect_right(versions, revision, key=_first)
            item = versions[place - 1][1] if place else None
            if item is not None:
                yield item

    def _keys_from(self, prefix: bytes) -> list[bytes]:
        first = bisect_left(self._keys, prefix)
        size = len(prefix)
        stop = bisect_right(self._keys, prefix, first, key=lambda key: key[:size])
        return self._keys[first:stop]

    def _item(self, key: bytes) -> KeyValue | None:
        versions = self._versions.get(key)
        return versions[-1][1] if versions else None

    def _holds(self, compare: Compare) -> bool:
        item = self._item(compare.key)
        there: int | bytes
        if compare.target == "VALUE":
            if item is None:
                return False
            there = item.value
        else:
            numbers = item or KeyValue(compare.key, b"", 0, 0, 0)
            there = {
                "CREATE": numbers.create_revision,
                "MOD": numbers.mod_revision,
                "VERSION": numbers.version,
                "LEASE": numbers.lease,
            }[compare.target]
        wanted = compare.operand
        match compare.relation:
            case "=":
                return there == wanted
            case "!=":
                return there != wanted
            case "<":
                return there < wanted  # type: ignore[operator]
            case ">":
                return there > wanted  # type: ignore[operator]

    def _operate(self, operation: Operation, revision: int) -> OperationResult:
        match operation:
            case Get(key, prefix):
                return OperationResult(tuple(self._items(key, prefix, revision)))
            case Delete(key, prefix):
                items = tuple(self._items(key, prefix, revision))
                for item in items:
                    self._write(item, None, revision)
                return OperationResult(deleted=len(items))
            case Put(key, value, lease):
                old = self._item(key)
                if old is None:
                    new = KeyValue(key, value, revision, revision, 1, lease)
                else:
                    version = old.version + 1
                    new = KeyValue(key, value, old.create_revision, revision, version, lease)
                self._write(old, new, revision)
                return OperationResult()

    def _write(self, old: KeyValue | None, new: KeyValue | None, revision: int) -> None:
        """One key becomes another, or comes, or goes."""
        if old is not None and old.lease:
            self._leases[old.lease].keys.pop(old.key, None)
        if new is None:
            assert old is not None
            key = old.key
            event = Event(key, None, revision, 0)
        else:
            key = new.key
            event = Event(key, new.value, revision, new.create_revision, new.lease)
            if new.lease:
                self._leases[new.lease].keys[key] = None
        if key not in self._versions:
            insort(self._keys, key)
        self._versions.setdefault(key, []).append((revision, new))
        self._history.append(event)

    def _lease(self, number: int) -> _SimLease:
        lease = self._leases.get(number)
        if lease is not None and lease.ends_s <= self._clock.monotonic_s():
            self._revoke(number)
            lease = None
        if lease is None:
            raise LeaseNotFound(5, "etcdserver: requested lease not found")
        return lease

    def _begin_anew(self, lease: _SimLease) -> None:
        lease.ends_s = self._clock.monotonic_s() + lease.ttl_s
        lease.revoked_s = lease.ends_s + self.random.random() * self.expiry_delay_s_max

    def _revoke(self, number: int) -> None:
        keys = sorted(self._leases[number].keys)
        revision = self.revision + 1
        for key in keys:
            self._operate(Delete(key), revision)
        del self._leases[number]
        if keys:
            self.revision = revision
            self.wake()


class SimEtcdClient(KeyValueStore):
    """A node's way to the store."""

    def __init__(self, etcd: SimEtcd, timeout_s: float) -> None:
        self.reachable = True
        self.etcd = etcd
        self._timeout_s = timeout_s

    def cut(self) -> None:
        """Cut this client off until `heal`; what is under way may arrive all the same."""
        self.reachable = False

    def heal(self) -> None:
        """Let it reach the store again."""
        self.reachable = True
        self.etcd.wake()

    async def get(self, key: bytes, *, serializable: bool = False) -> Reading:
        reading = await self._read(lambda: self.etcd.read(key, False, serializable), serializable)
        return Reading(reading.revision, reading.items[0] if reading.items else None)

    async def get_prefix(self, prefix: bytes, *, serializable: bool = False) -> RangeReading:
        return await self._read(lambda: self.etcd.read(prefix, True, serializable), serializable)

    async def put(self, key: bytes, value: bytes, *, lease: int = 0) -> int:
        return (await self.txn((), (Put(key, value, lease),))).revision

    async def delete(self, key: bytes) -> bool:
        return bool((await self.txn((), (Delete(key),))).results[0].deleted)

    async def delete_prefix(self, prefix: bytes) -> int:
        return (await self.txn((), (Delete(prefix, prefix=True),))).results[0].deleted

    async def txn(
        self,
        compare: Sequence[Compare],
        then: Sequence[Operation],
        otherwise: Sequence[Operation] = (),
    ) -> TxnResult:
        lists = tuple(compare), tuple(then), tuple(otherwise)
        if any(isinstance(each, Put | Delete) for each in lists[1] + lists[2]):
            return await self._change(lambda: self.etcd.txn(*lists))
        return await self._read(lambda: self.etcd.txn(*lists))

    async def grant_lease(self, ttl_s: int, lease: int = 0) -> Lease:
        return await self._change(lambda: self.etcd.grant(ttl_s, lease))

    async def keep_alive(self, lease: int, *, timeout_s: float = 1.0) -> int:
        return await self._read(lambda: self.etcd.keep_alive(lease), timeout_s=timeout_s)

    async def revoke_lease(self, lease: int) -> None:
        await self._change(lambda: self.etcd.revoke(lease))

    async def lease_time_to_live(self, lease: int) -> int:
        return await self._read(lambda: self.etcd.time_to_live(lease))

    def watch(self, prefix: bytes, from_revision: int) -> Watch:
        return _SimWatch(self, self.etcd, prefix, from_revision)

    async def _arrive(self, serializable: bool = False) -> None:
        """Reach the store, once it does anything."""
        await self.etcd.travel()
        while self.etcd.stalled and not serializable:
            await self.etcd.change()
        if not self.reachable:
            await trio.sleep_forever()
        self.etcd.requests += 1
        self.etcd.settle()

    async def _read(
        self,
        work: Callable[[], Result],
        serializable: bool = False,
        timeout_s: float | None = None,
    ) -> Result:
        """Do what may as well be done twice: it is tried again until its time is over."""
        await trio.lowlevel.checkpoint()
        self._check_reachable()
        with trio.move_on_after(self._timeout_s if timeout_s is None else timeout_s):
            await self._arrive(serializable)
            try:
                return work()
            finally:
                await self.etcd.travel()
        raise StoreUnavailable("the simulated etcd gave no answer in time")

    async def _change(self, work: Callable[[], Result]) -> Result:
        await trio.lowlevel.checkpoint()
        self._check_reachable()
        arrived = False
        try:
            with trio.move_on_after(self._timeout_s):
                await self._arrive()
                arrived = True
                fate = self.etcd.fate()
                if fate == "held":
                    self.etcd.hold(work)
                elif fate == "done later":
                    self.etcd.do_late(work)
                elif fate != "not done":
                    try:
                        result = work()
                    except StoreRefused:
                        if fate == "answered":
                            raise
                    await self.etcd.travel()
                    if fate == "answered" and self.reachable:
                        return result
        finally:
            if not arrived and self.etcd.random.random() < 0.5:
                self.etcd.do_late(work)
        raise OutcomeUnknown("the simulated etcd gave no answer")

    def _check_reachable(self) -> None:
        if not self.reachable:
            raise StoreUnavailable("the simulated etcd cannot be reached")


class _SimWatch(Watch):
    """A watch that lags by as much as the store says; events of a revision stay together."""

    def __init__(
        self, client: SimEtcdClient, etcd: SimEtcd, prefix: bytes, from_revision: int
    ) -> None:
        self._client = client
        self.etcd = etcd
        self._prefix = prefix
        self._next = from_revision
        self._closed = False

    async def __anext__(self) -> EventBatch:
        await trio.lowlevel.checkpoint()
        etcd = self.etcd
        while not self._closed:
            etcd.settle()
            events = self._events()
            if not events:
                await etcd.change()
                continue
            await trio.sleep(etcd.random.random() * etcd.watch_lag_s_max)
            if not self._client.reachable:
                continue
            last = etcd.random.choice(events).revision
            batch = tuple(event for event in events if event.revision <= last)
            self._next = last + 1
            return EventBatch(last, batch)
        raise StopAsyncIteration

    def _events(self) -> list[Event]:
        if not self._client.reachable:
            return []
        try:
            return self.etcd.events(self._prefix, self._next)
        except Compacted:
            self._closed = True
            raise

    def close(self) -> None:
        self._closed = True
        self.etcd.wake()


def _check_keys(operations: Sequence[Operation]) -> None:
    """Raise `StoreRefused` for an empty key, or for one that is written twice."""
    for operation in operations:
        prefix = not isinstance(operation, Put) and operation.prefix
        if not operation.key and not prefix:
            raise StoreRefused(3, "etcdserver: key is not provided")
    puts = [operation.key for operation in operations if isinstance(operation, Put)]
    deletes = [operation for operation in operations if isinstance(operation, Delete)]
    twice = len(set(puts)) < len(puts) or any(
        key == delete.key or (delete.prefix and key.startswith(delete.key))
        for key in puts
        for delete in deletes
    )
    if twice:
        raise StoreRefused(3, "etcdserver: duplicate key given in txn request")


def _revision(event: Event) -> int:
    return event.revision


def _first(version: tuple[int, KeyValue | None]) -> int:
    return version[0]

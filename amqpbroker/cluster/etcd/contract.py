"""What a cluster asks of the store that its nodes share: keys with revisions, leases, watches.

The words are etcd's. All keys have one history: every change of the store makes the next revision,
and a txn is one change, whatever it writes. Keys and values are octets.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, Self

import attrs

from amqpbroker.errors import StoreRefused

OPERATIONS_MAX = 128
"""etcd's limit (``--max-txn-ops``) for each of the three lists of a txn."""


@attrs.frozen
class KeyValue:
    """A key that is there."""

    key: bytes
    value: bytes
    create_revision: int
    """When it came to be; a key that is deleted and put again has a new one."""
    mod_revision: int
    """When it was last put."""
    version: int
    """How often it was put since it came to be."""
    lease: int = 0
    """The lease whose end deletes it; 0 for none."""


@attrs.frozen
class Event:
    """A key was put or deleted."""

    key: bytes
    value: bytes | None
    """None: it is gone, by hand or with its lease."""
    revision: int
    create_revision: int
    """0 when it is gone."""
    lease: int = 0


@attrs.frozen
class EventBatch:
    """What happened under the prefix up to ``revision``: whole revisions, in their order."""

    revision: int
    """The newest of the events; nothing up to it will be told again."""
    events: tuple[Event, ...]


@attrs.frozen
class Reading:
    """A key as it was at ``revision``, the newest that the store knew of."""

    revision: int
    item: KeyValue | None


@attrs.frozen
class RangeReading:
    """All keys of a prefix as they were at ``revision``, by key."""

    revision: int
    items: tuple[KeyValue, ...]


@attrs.frozen
class Compare:
    """A condition on a key.

    One that is not there has 0 for every number; no comparison of its value holds.
    """

    key: bytes
    target: Literal["CREATE", "MOD", "VERSION", "VALUE", "LEASE"]
    relation: Literal["=", "!=", "<", ">"]
    operand: int | bytes


def absent(key: bytes) -> Compare:
    """The key is not there."""
    return Compare(key, "CREATE", "=", 0)


def present(key: bytes) -> Compare:
    """The key is there."""
    return Compare(key, "CREATE", ">", 0)


def unchanged(key: bytes, mod_revision: int) -> Compare:
    """The key was last put at ``mod_revision``; 0: it is not there."""
    return Compare(key, "MOD", "=", mod_revision)


@attrs.frozen
class Put:
    """Write a key. With a ``lease`` it goes when that ends; one it had before is forgotten."""

    key: bytes
    value: bytes
    lease: int = 0


@attrs.frozen
class Delete:
    """Delete a key, or with ``prefix`` all that begin with it."""

    key: bytes
    prefix: bool = False


@attrs.frozen
class Get:
    """Read a key, or with ``prefix`` all that begin with it."""

    key: bytes
    prefix: bool = False


Operation = Put | Delete | Get


@attrs.frozen
class OperationResult:
    """What one operation of a txn found or did."""

    items: tuple[KeyValue, ...] = ()
    """What a `Get` found, by key."""
    deleted: int = 0
    """How many keys a `Delete` deleted."""


@attrs.frozen
class TxnResult:
    """Which branch of a txn was taken, and what it did."""

    succeeded: bool
    """Whether all comparisons held."""
    revision: int
    """The revision that it made; when it wrote nothing, the newest before it."""
    results: tuple[OperationResult, ...]
    """One for each operation of the branch that was taken."""


@attrs.frozen
class Lease:
    """A lease as it was granted."""

    id: int
    ttl_s: int
    """Perhaps more than was asked for: the store has a minimum."""


class Watch(ABC):
    """Everything that happens under a prefix from a revision on, as an iterator of batches.

    It goes on by itself when the store was away, from where it was: no event comes twice, none out
    of order, none is left out. To be closed, or used as a context. A cancelled wait loses nothing.
    """

    @abstractmethod
    async def __anext__(self) -> EventBatch:
        """Wait for the next batch.

        Raises `Compacted` when the store has not kept the history up to here (or has lost it,
        being restored from a backup): read everything anew, and watch from there. Raises
        `StoreRefused` when it may not watch here. The watch has ended then.
        """

    @abstractmethod
    def close(self) -> None:
        """End the watch. Twice is harmless."""

    def __aiter__(self) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class KeyValueStore(ABC):
    """The store that the nodes of a cluster share.

    Every call ends within the store's deadline, and raises a `StoreError` when it is not done:

    - `StoreUnavailable`: it was certainly not carried out;
    - `OutcomeUnknown`: a change that was sent, and never answered: it was carried out, or was not,
      or will be in a moment. A read raises `StoreUnavailable` instead;
    - `StoreRefused`: the store will not do it, and says why.

    A call that is cancelled may have been carried out too.
    """

    @abstractmethod
    async def get(self, key: bytes, *, serializable: bool = False) -> Reading:
        """Read a key.

        It sees all changes that were answered before it was called, unless it is ``serializable``:
        then one member answers from what it has, which may be old, but also without a quorum.
        """

    @abstractmethod
    async def get_prefix(self, prefix: bytes, *, serializable: bool = False) -> RangeReading:
        """Read all keys that begin with ``prefix``, of one revision, however many they are."""

    @abstractmethod
    async def put(self, key: bytes, value: bytes, *, lease: int = 0) -> int:
        """Write a key; the revision that this made. Raises `LeaseNotFound`."""

    @abstractmethod
    async def delete(self, key: bytes) -> bool:
        """Delete a key; whether it was there."""

    @abstractmethod
    async def delete_prefix(self, prefix: bytes) -> int:
        """Delete all keys that begin with ``prefix``; how many there were."""

    @abstractmethod
    async def txn(
        self,
        compare: Sequence[Compare],
        then: Sequence[Operation],
        otherwise: Sequence[Operation] = (),
    ) -> TxnResult:
        """Carry out ``then`` if every condition holds, else ``otherwise``, as one change.

        Operations see what those before them did. No key may be written twice. Raises
        `LeaseNotFound`; `StoreRefused` for more than `OPERATIONS_MAX` entries in one list.
        """

    @abstractmethod
    async def grant_lease(self, ttl_s: int, lease: int = 0) -> Lease:
        """Make a lease that ends ``ttl_s`` after it was last kept alive.

        With the given id (positive, 63 bits), or one of the store's own choice for 0. Raises
        `LeaseExists`.
        """

    @abstractmethod
    async def keep_alive(self, lease: int, *, timeout_s: float = 1.0) -> int:
        """Begin the lease's time anew; how many seconds it has. Raises `LeaseNotFound`.

        It has its own deadline: a lease that lasts seconds must not wait for one answer for long.
        """

    @abstractmethod
    async def revoke_lease(self, lease: int) -> None:
        """End a lease, and delete its keys. Raises `LeaseNotFound`."""

    @abstractmethod
    async def lease_time_to_live(self, lease: int) -> int:
        """How many seconds a lease still has. Raises `LeaseNotFound`."""

    @abstractmethod
    def watch(self, prefix: bytes, from_revision: int) -> Watch:
        """Hear of all that happens to keys that begin with ``prefix``, from a revision on.

        It is at most the one after the newest.
        """


def check_txn(*lists: Sequence[object]) -> None:
    """Raise `StoreRefused` when one of the lists is too long for the store."""
    for each in lists:
        if len(each) > OPERATIONS_MAX:
            raise StoreRefused(
                3, f"a txn takes {OPERATIONS_MAX} entries in a list, and has {len(each)}: divide it"
            )


def prefix_end(prefix: bytes) -> bytes:
    r"""The first key behind all that begin with ``prefix``; ``\0`` stands for the end of all."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else b"\0"

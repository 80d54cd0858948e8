"""What a node knows of its cluster's store: everything, as of one revision.

The store's events are the only order in which definitions are carried out: the node's own changes
take effect when they come back here. An event may be of something that hangs on what is gone
already (a queue takes its bindings along, a virtual host all), or that was made for something that
has come anew since; such events change nothing. Nor does what makes no sense: people and
programs of theirs can write to the store too. It is logged, and all the rest goes on.

A store that does not know the cluster any more has not deleted everything: it has lost it, or is
another. Then nothing is believed of it.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from sys import intern

import attrs

from amqpbroker.cluster.catalog import Catalog
from amqpbroker.cluster.etcd.contract import EventBatch, KeyValue
from amqpbroker.cluster.members import META
from amqpbroker.cluster.schema import BoundTo, Schema
from amqpbroker.definitions import (
    BindingDefinition,
    Change,
    Definition,
    ExchangeDefinition,
    ParameterDefinition,
    PolicyDefinition,
    QueueDefinition,
    UserDefinition,
    VHostDefinition,
    delete,
    put,
)
from amqpbroker.errors import DataError, DefinitionError, DiskFailure, StoreLost
from amqpbroker.replication.leadership import Leadership

log = logging.getLogger(__name__)

_ORDER = ("vh", "user", "perm", "tperm", "pol", "oppol", "param", "gparam", "x", "ql", "q", "b")
"""Kinds of keys, so that whatever one names comes before it."""

Listener = Callable[[list[str], bytes | None], None]


@attrs.frozen
class _Known:
    create_revision: int
    mod_revision: int
    definition: Definition | None


class Feed:
    """Follows the store and has ``apply`` carry out what changes in it.

    ``revision`` is the one up to which everything is carried out. ``listeners`` hear of keys of
    other kinds, by kind: what the key names (one name), and its value (None: it is gone); they
    raise `DataError` for one that makes no sense. ``cluster_id`` is that of the cluster that the
    store has to know (empty: any).
    """

    cluster_id = ""

    def __init__(self, schema: Schema, apply: Callable[[Change], None]) -> None:
        self.schema = schema
        self.catalog = Catalog()
        self.revision = 0
        self.listeners: dict[str, Listener] = {}
        self._apply = apply
        self._known: dict[bytes, _Known] = {}
        self._leaderships: dict[int, Leadership] = {}
        self.unread: set[bytes] = set()
        """Keys of definitions that make no sense."""
        self._queues: dict[int, bytes] = {}
        """The keys of queues, by their ids."""

    # -- what is known -------------------------------------------------------------------------

    def created(self, key: bytes) -> int:
        """The revision at which what lies at ``key`` came to be; 0: nothing does."""
        known = self._known.get(key)
        return 0 if known is None else known.create_revision

    def modified(self, key: bytes) -> int:
        """The revision at which what lies at ``key`` was last written; 0: nothing lies there."""
        known = self._known.get(key)
        return 0 if known is None else known.mod_revision

    def definition(self, key: bytes) -> Definition | None:
        """The definition that lies at ``key``, and is in force."""
        known = self._known.get(key)
        if known is None or known.definition is None or known.definition not in self.catalog:
            return None
        return known.definition

    def void_bindings(self) -> Iterator[bytes]:
        """Keys of bindings that are in force no more: what they led to has gone without them."""
        for key in self._known:
            if self._kind(key) == "b" and key not in self.unread and self.definition(key) is None:
                yield key

    # -- what comes ----------------------------------------------------------------------------

    def load(self, items: Iterable[KeyValue], revision: int) -> None:
        """Believe what a whole reading of the store says, whatever was believed before.

        Raises `StoreLost`.
        """
        there = {item.key: item for item in items}
        meta = there.get(self._meta)
        self._check_cluster(None if meta is None else meta.value)
        for key, known in list(self._known.items()):
            item = there.get(key)
            if item is None or not (
                item.create_revision == known.create_revision or self._is_the_same(item, known)
            ):
                self._delete(key)
        for item in sorted(there.values(), key=self._rank):
            known_already = self._known.get(item.key)
            if known_already is None or known_already.mod_revision != item.mod_revision:
                self._put(item.key, item.value, item.create_revision, item.mod_revision)
        self.revision = revision

    def _is_the_same(self, item: KeyValue, known: _Known) -> bool:
        """Whether it has only been written anew, and all that hangs on it tells of itself.

        A queue has its messages as long as it has its id: that is given once.
        """
        before = known.definition
        if isinstance(before, VHostDefinition | UserDefinition):
            return True
        try:
            found = self.schema.definition(item.key, item.value)
        except DefinitionError:
            return False
        return (
            isinstance(found, QueueDefinition)
            and isinstance(before, QueueDefinition)
            and found.log_id == before.log_id
        )

    @property
    def _meta(self) -> bytes:
        return self.schema.path(META)

    def _check_cluster(self, value: bytes | None) -> None:
        """See that this is what the store says of the cluster. Raises `StoreLost`."""
        if self.cluster_id and (value is None or self.cluster_id.encode() not in value):
            raise StoreLost(
                f"it knows nothing of the cluster {self.cluster_id} any more: restore etcd from a"
                " snapshot; until then this node goes on with what it knows"
            )

    def _rank(self, item: KeyValue) -> tuple[int, int]:
        kind = self._kind(item.key)
        rank = _ORDER.index(kind) if kind in _ORDER else len(_ORDER)
        return rank, item.create_revision

    def _kind(self, key: bytes) -> str:
        return key[len(self.schema.prefix) :].partition(b"/")[0].decode(errors="replace")

    def take(self, batch: EventBatch) -> None:
        """Carry out what has happened. Raises `StoreLost`."""
        for event in batch.events:
            if event.key == self._meta:
                self._check_cluster(event.value)
        for event in batch.events:
            if event.value is None:
                self._delete(event.key)
            else:
                self._put(event.key, event.value, event.create_revision, event.revision)
        self.revision = batch.revision

    def _put(self, key: bytes, value: bytes, create_revision: int, mod_revision: int) -> None:
        kind = self._kind(key)
        before = self._known.get(key)
        in_force = None if before is None else before.definition
        # Whoever acts on a change finds its key known already.
        known = self._known[key] = _Known(create_revision, mod_revision, in_force)
        definition = None
        try:
            if kind == "ql":
                self._leaderships[int(self._name(key))] = self.schema.leadership(key, value)
            elif kind in _ORDER:
                definition = self._definition(key, value)
            else:
                self._tell(kind, key, value)
        except (DefinitionError, DataError, ValueError) as error:
            log.error("the cluster's store: %s", error)  # noqa: TRY400 - it is all in the text
            self.unread.add(key)
        else:
            self.unread.discard(key)
        if definition is not None:
            self._known[key] = _Known(create_revision, mod_revision, definition)
            if not self._carry_out(key, definition):
                self._known[key] = known

    def _carry_out(self, key: bytes, definition: Definition) -> bool:
        """Put the definition that lies at ``key`` in place; whether that can be done."""
        change = put(definition)
        try:
            self._apply(change)
        except DiskFailure:
            raise
        except Exception as error:
            # What a node itself has others write was checked: this is another's work.
            log.error("the cluster's store: %r cannot be: %r", definition, error)  # noqa: TRY400
            self.unread.add(key)
            return False
        self.catalog.apply(change)
        if isinstance(definition, QueueDefinition):
            self._queues[definition.log_id] = key
        return True

    def _tell(self, kind: str, key: bytes, value: bytes | None) -> None:
        """Tell who listens of a key. Raises `DataError` and `DefinitionError`."""
        listener = self.listeners.get(kind)
        if listener is not None:
            listener([self._name(key)], value)

    def _name(self, key: bytes) -> str:
        """The one thing that a key names. Raises `DefinitionError`."""
        try:
            _, name = self.schema.parts(key)
        except ValueError as error:
            raise DefinitionError(f"{key!r} is no name of anything: {error}") from error
        return name

    def _definition(self, key: bytes, value: bytes) -> Definition | None:
        """The definition that is to be carried out, if there is any need."""
        found = self.schema.definition(key, value)
        match found:
            case BoundTo(binding, did):
                is_valid = self.catalog.has_ends(binding) and did == self.came_to_be(binding)
                return binding if is_valid and binding not in self.catalog else None
            case QueueDefinition():
                leadership = self._leaderships.get(found.log_id)
                node = "" if leadership is None else intern(leadership.node)
                found = attrs.evolve(found, leader=node)
                if found in self.catalog:
                    return None
                self._check_vhost(key, found.vhost)
                if self._queues.get(found.log_id, key) != key:
                    raise DefinitionError(f"{key!r} has the id of {self._queues[found.log_id]!r}")
                return found
            case ExchangeDefinition():
                self._check_vhost(key, found.vhost)
                return None if found in self.catalog else found
            case PolicyDefinition() | ParameterDefinition():
                self._check_vhost(key, found.vhost)
                return found
            case _:
                return found

    def _check_vhost(self, key: bytes, vhost: str) -> None:
        if VHostDefinition(vhost) not in self.catalog:
            raise DefinitionError(f"{key!r} lies in a virtual host that is not there")

    def came_to_be(self, binding: BindingDefinition) -> int:
        """When the destination of a binding came to be; 0 for what every virtual host has."""
        vhost, name = binding.vhost, binding.destination
        kind = "q" if binding.destination_type == "queue" else "x"
        return self.created(self.schema.path(kind, vhost, name))

    def _delete(self, key: bytes) -> None:
        known = self._known.pop(key, None)
        self.unread.discard(key)
        kind = self._kind(key)
        if known is not None and known.definition is not None:
            if isinstance(known.definition, QueueDefinition):
                self._queues.pop(known.definition.log_id, None)
            if known.definition in self.catalog:
                change = delete(known.definition)
                self.catalog.apply(change)
                self._apply(change)
        elif known is not None:
            with suppress(
                DataError, DefinitionError, ValueError
            ):  # It made no sense when it came either.
                if kind == "ql":
                    self._leaderships.pop(int(self._name(key)), None)
                else:
                    self._tell(kind, key, None)

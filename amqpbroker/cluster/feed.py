"""What a node knows of its cluster's store: everything, as of one revision.

The store's events are the only order in which definitions are carried out: the node's own changes
take effect when they come back here. An event may be of something that hangs on what is gone
already (a queue takes its bindings along, a virtual host all), or that was made for something that
has come anew since; such events change nothing.
"""

import logging
from collections.abc import Callable, Iterable

import attrs

from amqpbroker.cluster.catalog import Catalog
from amqpbroker.cluster.etcd.contract import EventBatch, KeyValue
from amqpbroker.cluster.schema import BoundTo, Leadership, Schema
from amqpbroker.definitions import (
    BindingDefinition,
    Change,
    Definition,
    ExchangeDefinition,
    QueueDefinition,
    delete,
    put,
)
from amqpbroker.errors import DefinitionError

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
    other kinds, by kind: what the key names, and its value (None: it is gone).
    """

    def __init__(self, schema: Schema, apply: Callable[[Change], None]) -> None:
        self.schema = schema
        self.catalog = Catalog()
        self.revision = 0
        self.listeners: dict[str, Listener] = {}
        self._apply = apply
        self._known: dict[bytes, _Known] = {}
        self._leaderships: dict[int, Leadership] = {}

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
        return None if known is None else known.definition

    # -- what comes ----------------------------------------------------------------------------

    def load(self, items: Iterable[KeyValue], revision: int) -> None:
        """Believe what a whole reading of the store says, whatever was believed before."""
        there = {item.key: item for item in items}
        for key, known in list(self._known.items()):
            item = there.get(key)
            if item is None or item.create_revision != known.create_revision:
                self._delete(key)
        for item in sorted(there.values(), key=self._rank):
            known_already = self._known.get(item.key)
            if known_already is None or known_already.mod_revision != item.mod_revision:
                self._put(item.key, item.value, item.create_revision, item.mod_revision)
        self.revision = revision

    def _rank(self, item: KeyValue) -> int:
        kind = self._kind(item.key)
        return _ORDER.index(kind) if kind in _ORDER else len(_ORDER)

    def _kind(self, key: bytes) -> str:
        return key[len(self.schema.prefix) :].partition(b"/")[0].decode()

    def take(self, batch: EventBatch) -> None:
        """Carry out what has happened."""
        for event in batch.events:
            if event.value is None:
                self._delete(event.key)
            else:
                self._put(event.key, event.value, event.create_revision, event.revision)
        self.revision = batch.revision

    def _put(self, key: bytes, value: bytes, create_revision: int, mod_revision: int) -> None:
        kind = self._kind(key)
        definition = None
        try:
            if kind == "ql":
                _, queue_id = self.schema.parts(key)
                self._leaderships[int(queue_id)] = self.schema.leadership(key, value)
            elif kind in _ORDER:
                definition = self._definition(key, value)
        except (DefinitionError, ValueError) as error:
            log.error("the cluster's store: %s", error)  # noqa: TRY400 - it is all in the text
        before = self._known.get(key)
        in_force = before.definition if definition is None and before is not None else definition
        self._known[key] = _Known(create_revision, mod_revision, in_force)
        if definition is not None:
            self.catalog.apply(put(definition))
            self._apply(put(definition))
        elif kind in self.listeners:
            self.listeners[kind](self.schema.parts(key)[1:], value)

    def _definition(self, key: bytes, value: bytes) -> Definition | None:
        """The definition that is to be carried out, if there is any need."""
        found = self.schema.definition(key, value)
        match found:
            case BoundTo(binding, did):
                is_valid = self.catalog.has_ends(binding) and did == self.came_to_be(binding)
                return binding if is_valid and binding not in self.catalog else None
            case QueueDefinition():
                leadership = self._leaderships.get(found.log_id)
                node = "" if leadership is None else leadership.node
                found = attrs.evolve(found, leader=node)
                return None if found in self.catalog else found
            case ExchangeDefinition():
                return None if found in self.catalog else found
            case _:
                return found

    def came_to_be(self, binding: BindingDefinition) -> int:
        """When the destination of a binding came to be; 0 for what every virtual host has."""
        vhost, name = binding.vhost, binding.destination
        kind = "q" if binding.destination_type == "queue" else "x"
        return self.created(self.schema.path(kind, vhost, name))

    def _delete(self, key: bytes) -> None:
        known = self._known.pop(key, None)
        kind = self._kind(key)
        if known is not None and known.definition is not None:
            if known.definition in self.catalog:
                change = delete(known.definition)
                self.catalog.apply(change)
                self._apply(change)
        elif kind == "ql":
            self._leaderships.pop(int(self.schema.parts(key)[1]), None)
        elif known is not None and kind in self.listeners:
            self.listeners[kind](self.schema.parts(key)[1:], None)

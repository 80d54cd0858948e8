"""All definitions that outlive a node, as one thing that changes are made to."""

from collections.abc import Hashable, Iterator
from typing import TypeVar, cast

import attrs

from amqpbroker.definitions import (
    BindingDefinition,
    Change,
    Definition,
    ExchangeDefinition,
    GlobalParameterDefinition,
    ParameterDefinition,
    PermissionDefinition,
    PolicyDefinition,
    QueueDefinition,
    TopicPermissionDefinition,
    UserDefinition,
    VHostDefinition,
    put,
)

Key = tuple[Hashable, ...]
Kind = TypeVar("Kind", bound=Definition)

_ORDER: tuple[type[Definition], ...] = (
    VHostDefinition,
    UserDefinition,
    PermissionDefinition,
    TopicPermissionDefinition,
    PolicyDefinition,
    ParameterDefinition,
    GlobalParameterDefinition,
    ExchangeDefinition,
    QueueDefinition,
    BindingDefinition,
)
"""Whatever a definition names comes before it."""


def key_of(definition: Definition) -> Key:
    """What tells a definition from all others of its type."""
    match definition:
        case VHostDefinition() | UserDefinition() | GlobalParameterDefinition():
            return (definition.name,)
        case ExchangeDefinition() | QueueDefinition():
            return definition.vhost, definition.name
        case BindingDefinition():
            return definition.vhost, definition.source, definition.identity
        case PermissionDefinition():
            return definition.vhost, definition.user
        case TopicPermissionDefinition():
            return definition.vhost, definition.user, definition.exchange
        case PolicyDefinition():
            return definition.vhost, definition.is_operator, definition.name
        case ParameterDefinition():
            return definition.vhost, definition.component, definition.name


class Catalog:
    """Definitions by type and key, each with the line that says it, if that matters."""

    def __init__(self) -> None:
        self.newest_log_id = 0
        self._kept: dict[type[Definition], dict[Key, tuple[Definition, bytes]]] = {
            kind: {} for kind in _ORDER
        }
        self._bound: dict[Key, dict[Key, None]] = {}  # Bindings, by each of their ends.

    def __contains__(self, definition: Definition) -> bool:
        return key_of(definition) in self._kept[type(definition)]

    def outlives(self, definition: Definition) -> bool:
        """Whether a definition is to be kept: what is durable, and bound between durable things."""
        match definition:
            case ExchangeDefinition():
                return definition.durable
            case QueueDefinition():
                return definition.durable and not definition.exclusive
            case BindingDefinition():
                return self.has_ends(definition)
            case _:
                return True

    def has_ends(self, binding: BindingDefinition) -> bool:
        """Whether there is what a binding leads from, and to."""
        return all(
            end[1:] in self._kept[kind] or end[2].startswith("amq.") for kind, end in _ends(binding)
        )

    def all(self, kind: type[Kind]) -> Iterator[Kind]:
        """All definitions of a type."""
        there = self._kept[cast("type[Definition]", kind)]
        return (cast("Kind", definition) for definition, _ in there.values())

    def bindings_to(self, end: ExchangeDefinition | QueueDefinition) -> Iterator[BindingDefinition]:
        """The bindings that lead to an exchange or a queue."""
        kind = "queue" if isinstance(end, QueueDefinition) else "exchange"
        for key in self._bound.get((kind, *key_of(end)), ()):
            binding, _ = self._kept[BindingDefinition][key]
            assert isinstance(binding, BindingDefinition)
            if (binding.destination_type, binding.destination) == (kind, end.name):
                yield binding

    def apply(self, change: Change, line: bytes = b"") -> None:
        """Make a change, which ``line`` says. What hangs on a thing that is deleted goes too."""
        definition = change.definition
        if change.act == "delete":
            self._drop(definition)
            return
        if isinstance(definition, QueueDefinition):
            self.newest_log_id = max(self.newest_log_id, definition.log_id)
        key = key_of(definition)
        self._kept[type(definition)][key] = definition, line
        if isinstance(definition, BindingDefinition):
            for _, end in _ends(definition):
                self._bound.setdefault(end, {})[key] = None

    def _drop(self, definition: Definition) -> None:
        key = key_of(definition)
        self._kept[type(definition)].pop(key, None)
        match definition:
            case BindingDefinition():
                for _, end in _ends(definition):
                    self._bound.get(end, {}).pop(key, None)
            case ExchangeDefinition():
                self._drop_bindings(("exchange", *key))
            case QueueDefinition():
                self._drop_bindings(("queue", *key))
            case VHostDefinition():
                self._drop_where("vhost", definition.name)
            case UserDefinition():
                self._drop_where("user", definition.name)

    def _drop_bindings(self, end: Key) -> None:
        bindings = self._kept[BindingDefinition]
        for key in list(self._bound.pop(end, {})):
            self._drop(bindings[key][0])

    def _drop_where(self, field: str, name: str) -> None:
        """Drop all definitions that name a virtual host or a user."""
        for there in self._kept.values():
            for definition, _ in list(there.values()):
                if getattr(definition, field, None) == name:
                    self._drop(definition)

    def changes(self) -> Iterator[Change]:
        """The changes that make all definitions, each after those that it names."""
        for there in self._kept.values():
            for definition, _ in there.values():
                yield put(definition)

    def text(self) -> bytes:
        """The lines that say all definitions, in the same order."""
        return b"".join(line for there in self._kept.values() for _, line in there.values())

    def numbered(self, definition: Definition) -> Definition:
        """A definition that is to be put in place; a queue's with the name of a new log."""
        if isinstance(definition, QueueDefinition):
            return attrs.evolve(definition, log_id=self.newest_log_id + 1)
        return definition


def _ends(binding: BindingDefinition) -> list[tuple[type[Definition], tuple[str, str, str]]]:
    """What a binding leads from, and to."""
    destination: type[Definition] = QueueDefinition
    if binding.destination_type == "exchange":
        destination = ExchangeDefinition
    return [
        (ExchangeDefinition, ("exchange", binding.vhost, binding.source)),
        (destination, (binding.destination_type, binding.vhost, binding.destination)),
    ]

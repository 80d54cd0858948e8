"""What a change of definitions asks of the store: on which conditions, and what is then written.

The conditions are what the node believes and the change rests on. If one of them does not hold,
somebody else was first, nothing is written, and the rule behind the change is asked again.
"""

from collections.abc import Iterator

import attrs

from amqpbroker.cluster.etcd.contract import (
    OPERATIONS_MAX,
    Compare,
    Delete,
    Operation,
    Put,
    absent,
    present,
    unchanged,
)
from amqpbroker.cluster.feed import Feed
from amqpbroker.cluster.schema import leadership_value
from amqpbroker.definitions import (
    BindingDefinition,
    Change,
    Definition,
    ExchangeDefinition,
    GlobalParameterDefinition,
    PermissionDefinition,
    QueueDefinition,
    TopicPermissionDefinition,
    UserDefinition,
    VHostDefinition,
)
from amqpbroker.errors import Overtaken
from amqpbroker.replication.leadership import Leadership

_INSIDE_VHOST = ("b", "q", "x", "pol", "oppol", "param", "perm", "tperm")


@attrs.frozen
class Deed:
    """``operations``, all or none, on ``conditions``; ``void`` are keys that are void then."""

    conditions: tuple[Compare, ...]
    operations: tuple[Operation, ...]
    void: tuple[bytes, ...] = ()

    def reads(self) -> Iterator[bytes]:
        """The keys that it rests on."""
        return (condition.key for condition in self.conditions)

    def writes(self) -> Iterator[bytes]:
        """The keys that it puts or deletes; what lies within a thing goes by the thing's own."""
        return (
            operation.key
            for operation in self.operations
            if not (isinstance(operation, Delete) and operation.prefix)
        )


class Deeds:
    """Makes deeds of changes, from what ``feed`` knows."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._schema = feed.schema

    def of(self, change: Change, leadership: Leadership | None = None) -> Deed:
        """What ``change`` asks; of a new queue, with where it is led.

        Raises `Overtaken` if it is known already that it cannot be.
        """
        definition = change.definition
        if change.act == "delete":
            return self._delete(definition)
        key = self._schema.key(definition)
        match definition:
            case VHostDefinition():
                as_known = unchanged(key, self._feed.modified(key))
                return Deed((as_known,), (Put(key, self._schema.value(definition)),))
            case QueueDefinition():
                assert leadership is not None
                return self._put_queue(key, definition, leadership)
            case BindingDefinition():
                return self._bind(key, definition)
        conditions = [present(each) for each in self._named(definition)]
        if isinstance(definition, ExchangeDefinition):
            conditions.append(self._vacant(key))
        return Deed(tuple(conditions), (Put(key, self._schema.value(definition)),))

    def _named(self, definition: Definition) -> Iterator[bytes]:
        """The keys of what a definition names and does not last without."""
        if not isinstance(definition, VHostDefinition | UserDefinition | GlobalParameterDefinition):
            yield self._schema.path("vh", definition.vhost)
        if isinstance(definition, PermissionDefinition | TopicPermissionDefinition):
            yield self._schema.path("user", definition.user)

    def _put_queue(self, key: bytes, queue: QueueDefinition, leadership: Leadership) -> Deed:
        at = self._schema.leadership_key(queue)
        conditions = [self._vacant(key), absent(at), present(self._schema.path("vh", queue.vhost))]
        if queue.owner:  # Else the leader may have begun another life, and nothing ends the queue.
            life = self._schema.path("inc", queue.leader)
            conditions.append(unchanged(life, self._feed.modified(life)))
        return Deed(
            tuple(conditions),
            (Put(at, leadership_value(leadership)), Put(key, self._schema.value(queue))),
        )

    def _bind(self, key: bytes, binding: BindingDefinition) -> Deed:
        vhost = binding.vhost
        ends = [self._schema.path("x", vhost, binding.source)]
        if binding.destination_type == "queue":
            ends.append(self._schema.path("q", vhost, binding.destination))
        else:
            ends.append(self._schema.path("x", vhost, binding.destination))
        conditions = [self._vacant(key), present(self._schema.path("vh", vhost))]
        for name, end in zip((binding.source, binding.destination), ends, strict=True):
            created = self._feed.created(end)
            if created:
                conditions.append(Compare(end, "CREATE", "=", created))
            elif not name.startswith("amq."):
                raise Overtaken
        value = self._schema.value(binding, self._feed.created(ends[1]))
        return Deed(tuple(conditions), (Put(key, value),))

    def _vacant(self, key: bytes) -> Compare:
        """Nothing lies at a key, or what is known to be in force no more, or to make no sense."""
        is_void = self._feed.definition(key) is None
        return unchanged(key, self._feed.modified(key)) if is_void else absent(key)

    def _delete(self, definition: Definition) -> Deed:
        schema, feed = self._schema, self._feed
        key = schema.key(definition)
        revision = feed.modified(key)
        if not revision:
            raise Overtaken
        conditions = (unchanged(key, revision),)
        operations: list[Operation] = [Delete(key)]
        void: list[bytes] = []
        match definition:
            case VHostDefinition(name):
                operations += [
                    Delete(schema.inside(kind, name), prefix=True) for kind in _INSIDE_VHOST
                ]
                void = [
                    schema.leadership_key(each)
                    for each in feed.catalog.all(QueueDefinition)
                    if each.vhost == name
                ]
            case UserDefinition(name):
                catalog = feed.catalog
                void = [
                    *(schema.key(p) for p in catalog.all(PermissionDefinition) if p.user == name),
                    *(
                        schema.key(p)
                        for p in catalog.all(TopicPermissionDefinition)
                        if p.user == name
                    ),
                ]
            case ExchangeDefinition(vhost, name):
                operations.append(Delete(schema.inside("b", vhost, name), prefix=True))
                void = [schema.key(each) for each in feed.catalog.bindings_to(definition)]
            case QueueDefinition():
                there = feed.definition(key)
                if not isinstance(there, QueueDefinition):
                    raise Overtaken
                operations.append(Delete(schema.leadership_key(there)))
                void = [schema.key(each) for each in feed.catalog.bindings_to(definition)]
        # As much as fits goes with it; what is left is void, and goes when there is time.
        room = OPERATIONS_MAX // 2 - len(operations)
        operations += [Delete(each) for each in void[:room]]
        return Deed(conditions, tuple(operations), tuple(void[room:]))

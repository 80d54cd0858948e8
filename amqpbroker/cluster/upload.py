"""The definitions that a node brings to the cluster that it begins."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import attrs

from amqpbroker.cluster.etcd.contract import OPERATIONS_MAX, KeyValueStore, Put
from amqpbroker.cluster.schema import Schema, leadership_value
from amqpbroker.definitions import BindingDefinition, Definition, QueueDefinition
from amqpbroker.replication.leadership import only_on

Item = TypeVar("Item")


async def upload(
    store: KeyValueStore, schema: Schema, definitions: Sequence[Definition], node: str
) -> None:
    """Put ``definitions`` in the store; queues are led by ``node``.

    To be called until it has gone well: what is there already is written again. Nobody else may be
    at work there. Raises `StoreError`.
    """
    things = [each for each in definitions if not isinstance(each, BindingDefinition)]
    await _put(store, (put for each in things for put in _puts(schema, each, node)))
    reading = await store.get_prefix(schema.prefix)
    created = {item.key: item.create_revision for item in reading.items}

    def bind(binding: BindingDefinition) -> Put:
        kind = "q" if binding.destination_type == "queue" else "x"
        did = created.get(schema.path(kind, binding.vhost, binding.destination), 0)
        return Put(schema.key(binding), schema.value(binding, did))

    await _put(store, (bind(each) for each in definitions if isinstance(each, BindingDefinition)))


def _puts(schema: Schema, definition: Definition, node: str) -> Iterator[Put]:
    if isinstance(definition, QueueDefinition):
        definition = attrs.evolve(definition, leader=node)
        yield Put(schema.leadership_key(definition), leadership_value(only_on(node)))
    yield Put(schema.key(definition), schema.value(definition))


async def _put(store: KeyValueStore, puts: Iterator[Put]) -> None:
    for some in _divided(puts, OPERATIONS_MAX):
        await store.txn((), some)


def _divided(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some

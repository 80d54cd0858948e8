"""A virtual host: its exchanges and queues, and the rules for making and deleting them.

The rules come first, and touch nothing: they compare what is asked with what there is, and end in
an error of RabbitMQ's words or in a `Change`. Changes go through ``Broker.apply``, which calls the
methods ``put_…`` and ``drop_…`` here; those have no opinion.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from amqpbroker.definitions import (
    Arguments,
    BindingDefinition,
    Change,
    ExchangeDefinition,
    QueueDefinition,
    delete,
    field_type,
    put,
)
from amqpbroker.errors import (
    AccessRefused,
    NotFound,
    PreconditionFailed,
    ResourceLocked,
    Unimplemented,
)
from amqpbroker.queues.arguments import check_queue_type, compared_arguments
from amqpbroker.queues.queue import Queue, QueueType
from amqpbroker.routing.exchange import Headers
from amqpbroker.routing.router import EXCHANGE_TYPES, Router

_LATER_QUEUE_TYPES = ("quorum", "stream")
_EXCHANGE_ARGUMENTS = ("alternate-exchange",)


class VHost:
    """The exchanges, queues and bindings under one name; ``queue_types`` by `x-queue-type`."""

    def __init__(
        self,
        name: str,
        queue_types: Mapping[str, QueueType],
        submit: Callable[[Change], None],
        wake: Callable[[Queue], Any],
    ) -> None:
        self.name = name
        self.router = Router()
        self.queues: dict[str, Queue] = {}
        self._queue_types = queue_types
        self._submit = submit
        self._wake = wake

    # -- rules: queues -------------------------------------------------------------------------

    def queue(self, name: str, asker: object | None = None) -> Queue:
        """The queue ``name``.

        Raises `NotFound`, or `ResourceLocked` if it is another connection's own.
        """
        queue = self.queues.get(name)
        if queue is None:
            raise NotFound(f"no queue '{name}' in vhost '{self.name}'")
        if queue.owner is not None and queue.owner is not asker:
            raise self._locked(name)
        return queue

    def _locked(self, name: str) -> ResourceLocked:
        return ResourceLocked(
            f"cannot obtain exclusive access to locked queue '{name}' in vhost '{self.name}'."
            " It could be originally declared on another connection or the exclusive property"
            " value does not match that of the original declaration."
        )

    def declare_queue(
        self, wanted: QueueDefinition, asker: object, generated: bool = False
    ) -> Queue:
        """The queue as ``wanted``, made if there is none; ``generated``: the broker chose the name.

        Raises `PreconditionFailed` if there is another.
        """
        if not generated:
            _check_name("queue", wanted.name)
        queue = self.queues.get(wanted.name)
        if queue is None:
            return self._create_queue(wanted, asker)
        if queue.owner is not (asker if wanted.exclusive else None):
            raise self._locked(wanted.name)
        what = f"queue '{wanted.name}' in vhost '{self.name}'"
        there = queue.definition
        _check_same(what, "durable", wanted.durable, there.durable)
        _check_same(what, "auto_delete", wanted.auto_delete, there.auto_delete)
        _check_same_arguments(what, compared_arguments(there), wanted.arguments, there.arguments)
        return queue

    def _create_queue(self, wanted: QueueDefinition, asker: object) -> Queue:
        check_queue_type(wanted, (*self._queue_types, *_LATER_QUEUE_TYPES))
        if wanted.type not in self._queue_types:
            raise Unimplemented(
                f"queues of type '{wanted.type}' are not there yet: declare the type 'classic'"
            )
        self._queue_types[wanted.type].check(wanted)
        self._submit(put(wanted))
        queue = self.queues[wanted.name]
        if wanted.exclusive:
            queue.owner = asker
        return queue

    def delete_queue(
        self, name: str, asker: object, if_unused: bool = False, if_empty: bool = False
    ) -> int:
        """Delete a queue.

        How many messages were ready. One that is not there has none (RabbitMQ).
        """
        if name not in self.queues:
            return 0
        stat = self.queue(name, asker).stat()
        what = f"queue '{name}' in vhost '{self.name}'"
        if if_unused and stat.consumers:
            raise PreconditionFailed(f"{what} in use")
        if if_empty and stat.ready:
            raise PreconditionFailed(f"{what} not empty")
        self._submit(delete(self.queues[name].definition))
        return stat.ready

    # -- rules: exchanges ----------------------------------------------------------------------

    def check_exchange(self, name: str) -> ExchangeDefinition:
        """The exchange ``name``. Raises `NotFound`."""
        exchange = self.router.exchanges.get(name)
        if exchange is None:
            raise NotFound(f"no exchange '{name}' in vhost '{self.name}'")
        return exchange.definition

    def check_named_exchange(self, name: str) -> None:
        """See that there is an exchange ``name``, which is not the default one."""
        _check_not_default(name)
        self.check_exchange(name)

    def declare_exchange(self, wanted: ExchangeDefinition) -> None:
        """See to an exchange as ``wanted``. Raises `PreconditionFailed` if there is another."""
        _check_not_default(wanted.name)
        if wanted.type not in EXCHANGE_TYPES:
            raise PreconditionFailed(f"unknown exchange type '{wanted.type}'")
        exchange = self.router.exchanges.get(wanted.name)
        if exchange is None:
            _check_name("exchange", wanted.name)
            self._submit(put(wanted))
            return
        what = f"exchange '{wanted.name}' in vhost '{self.name}'"
        there = exchange.definition
        _check_same(what, "type", wanted.type, there.type)
        _check_same(what, "durable", wanted.durable, there.durable)
        _check_same(what, "auto_delete", wanted.auto_delete, there.auto_delete)
        _check_same(what, "internal", wanted.internal, there.internal)
        _check_same_arguments(what, _EXCHANGE_ARGUMENTS, wanted.arguments, there.arguments)

    def delete_exchange(self, name: str, if_unused: bool) -> None:
        """Delete an exchange; one that is not there is no fault (RabbitMQ)."""
        _check_not_default(name)
        if name.startswith("amq."):
            raise AccessRefused(
                f"deletion of system exchange '{name}' in vhost '{self.name}' not allowed"
            )
        exchange = self.router.exchanges.get(name)
        if exchange is None:
            return
        if if_unused and exchange.bindings:
            raise PreconditionFailed(f"exchange '{name}' in vhost '{self.name}' in use")
        self._submit(delete(exchange.definition))

    # -- rules: bindings -----------------------------------------------------------------------

    def bind(self, binding: BindingDefinition, asker: object) -> None:
        """Bind a queue. Raises `NotFound`, or what the exchange's type has to say."""
        self.check_named_exchange(binding.source)
        self.queue(binding.destination, asker)
        self.router.exchanges[binding.source].type.check(binding)
        self._submit(put(binding))

    def unbind(self, binding: BindingDefinition, asker: object) -> None:
        """Unbind a queue; a binding, or an end of it, that is not there is no fault (RabbitMQ)."""
        _check_not_default(binding.source)
        exchange = self.router.exchanges.get(binding.source)
        if exchange is not None and binding.identity in exchange.bindings:
            self.queue(binding.destination, asker)
            self._submit(delete(binding))

    # -- routing -------------------------------------------------------------------------------

    def route(self, exchange: str, routing_key: str, headers: Headers) -> tuple[Queue, ...]:
        """The queues that a message goes to; the exchange is there."""
        queues = self.queues
        if not exchange:
            queue = queues.get(routing_key)
            return () if queue is None else (queue,)
        names = self.router.exchanges[exchange].route(routing_key, headers)
        return tuple([queues[name] for name in names])

    # -- changes -------------------------------------------------------------------------------

    def put_exchange(self, definition: ExchangeDefinition) -> None:
        """Carry out a change."""
        self.router.add_exchange(definition)

    def drop_exchange(self, definition: ExchangeDefinition) -> None:
        """Carry out a change."""
        self.router.remove_exchange(definition.name)

    def put_queue(self, definition: QueueDefinition) -> None:
        """Carry out a change."""
        kind = self._queue_types[definition.type]
        self.queues[definition.name] = kind.open(definition, self._wake)

    def drop_queue(self, definition: QueueDefinition) -> None:
        """Carry out a change.

        The bindings go with the queue, and auto-delete exchanges with their last binding.
        """
        queue = self.queues.pop(definition.name)
        for binding in self.router.bindings_to(definition.name):
            self.drop_binding(binding)
        queue.delete()

    def put_binding(self, definition: BindingDefinition) -> None:
        """Carry out a change."""
        self.router.bind(definition)

    def drop_binding(self, definition: BindingDefinition) -> None:
        """Carry out a change."""
        exchange = self.router.exchanges[definition.source]
        gone = self.router.unbind(definition)
        if gone and exchange.definition.auto_delete and not exchange.bindings:
            self._submit(delete(exchange.definition))

    def close(self) -> None:
        """Drop everything."""
        for queue in list(self.queues.values()):
            self.drop_queue(queue.definition)


def _check_name(kind: str, name: str) -> None:
    if name.startswith("amq."):
        raise AccessRefused(f"{kind} name '{name}' contains reserved prefix 'amq.*'")


def _check_not_default(exchange: str) -> None:
    if not exchange:
        raise AccessRefused("operation not permitted on the default exchange")


def _check_same(what: str, name: str, wanted: object, there: object) -> None:
    if wanted != there or isinstance(wanted, bool) != isinstance(there, bool):
        raise PreconditionFailed(
            f"inequivalent arg '{name}' for {what}:"
            f" received {_shown(wanted)} but current is {_shown(there)}"
        )


def _shown(value: object) -> str:
    return f"'{str(value).lower() if isinstance(value, bool) else value}'"


def _check_same_arguments(
    what: str, names: Iterable[str], wanted: Arguments, there: Arguments
) -> None:
    """Compare the arguments that the broker knows, and nobody else's."""
    for name in names:
        if name in wanted and name in there:
            _check_same(what, name, wanted[name], there[name])
        elif name in wanted or name in there:
            if name == "x-queue-type" and {**wanted, **there}[name] == "classic":
                continue
            received = _typed(wanted[name]) if name in wanted else "none"
            current = _typed(there[name]) if name in there else "none"
            raise PreconditionFailed(
                f"inequivalent arg '{name}' for {what}:"
                f" received {received} but current is {current}"
            )


def _typed(value: object) -> str:
    """An argument that stands against none, as RabbitMQ writes it in its errors."""
    return f"the value {_shown(value)} of type '{field_type(value)}'"

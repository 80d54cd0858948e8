"""A virtual host: its exchanges and queues, and the rules for making and deleting them.

The rules come first, and touch nothing: they compare what is asked with what there is, and end in
an answer, in an error of RabbitMQ's words or in a `Wish`. Changes go through ``Broker.apply``,
which calls the methods ``put_…`` and ``drop_…`` here; those have no opinion.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs

from amqpbroker.broker.counts import VHostCounts
from amqpbroker.broker.decisions import Decisions, Wish
from amqpbroker.broker.direct_reply import Replies
from amqpbroker.broker.policy import Policies
from amqpbroker.definitions import (
    VHOST_LIMITS,
    Arguments,
    BindingDefinition,
    Change,
    ExchangeDefinition,
    ParameterDefinition,
    PolicyDefinition,
    QueueDefinition,
    VHostDefinition,
    delete,
    field_type,
    put,
)
from amqpbroker.errors import (
    AccessRefused,
    NotKnown,
    Overtaken,
    PreconditionFailed,
    ResourceLocked,
    Unimplemented,
)
from amqpbroker.queues.arguments import check_queue_type, compared_arguments
from amqpbroker.queues.queue import Destination, Keeper, Owner, Pending, Queue, QueueType, when_all
from amqpbroker.routing.exchange import Headers
from amqpbroker.routing.router import EXCHANGE_TYPES, Exchange, Router

_LATER_QUEUE_TYPES = ("quorum", "stream")
_EXCHANGE_ARGUMENTS = ("alternate-exchange",)


@attrs.frozen
class Declared:
    """A queue as it was wanted; ``is_new``: it was made for whoever asked."""

    queue: Queue
    is_new: bool


class VHost:
    """The exchanges, queues and bindings under one name; ``queue_types`` by `x-queue-type`."""

    def __init__(
        self,
        definition: VHostDefinition,
        queue_types: Mapping[str, QueueType],
        submit: Callable[[Change], Pending[None] | None],
        see_to: Callable[[Change], Pending[None] | None],
        keeper: Keeper,
        replies: Replies,
    ) -> None:
        self.definition = definition
        self.name = definition.name
        self.policies = Policies()
        self.parameters: dict[tuple[str, str], ParameterDefinition] = {}
        """By component and name."""
        self.counts = VHostCounts()
        self.router = Router()
        self.queues: dict[str, Queue] = {}
        self.replies = replies
        self._queue_types = queue_types
        self._unbound: dict[str, Exchange] = {}
        self._deleting_unused = False
        self._see_to = see_to
        self._decisions = Decisions(submit)
        self._keeper = keeper

    # -- rules: queues -------------------------------------------------------------------------

    def queue(self, name: str, asker: Owner | None = None) -> Queue:
        """The queue ``name``.

        Raises `NotKnown`, or `ResourceLocked` if it is another connection's own.
        """
        queue = self.queues.get(name)
        if queue is None:
            raise NotKnown(f"no queue '{name}' in vhost '{self.name}'")
        if queue.definition.exclusive and queue.owner is not asker:
            raise self._locked(name)
        return queue

    def _locked(self, name: str) -> ResourceLocked:
        return ResourceLocked(
            f"cannot obtain exclusive access to locked queue '{name}' in vhost '{self.name}'."
            " It could be originally declared on another connection or the exclusive property"
            " value does not match that of the original declaration."
        )

    def declare_queue(self, wanted: QueueDefinition, asker: Owner) -> Declared | Pending[Declared]:
        """The queue as ``wanted``, made if there is none.

        Raises `PreconditionFailed` if there is another.
        """
        return self._decisions.decide(
            ("queue", wanted.name), lambda: self._look_for_queue(wanted, asker)
        )

    def _look_for_queue(self, wanted: QueueDefinition, asker: Owner) -> Declared | Wish[Declared]:
        queue = self.queues.get(wanted.name)
        if queue is None:
            self._check_new_queue(wanted)
            return Wish(put(wanted), lambda: self._made_queue(wanted, asker))
        there = queue.definition
        if wanted.exclusive != there.exclusive or (there.exclusive and queue.owner is not asker):
            raise self._locked(wanted.name)
        what = f"queue '{wanted.name}' in vhost '{self.name}'"
        _check_same(what, "durable", wanted.durable, there.durable)
        _check_same(what, "auto_delete", wanted.auto_delete, there.auto_delete)
        _check_same_arguments(what, compared_arguments(there), wanted.arguments, there.arguments)
        return Declared(queue, is_new=False)

    def _check_new_queue(self, wanted: QueueDefinition) -> None:
        check_queue_type(wanted, (*self._queue_types, *_LATER_QUEUE_TYPES))
        if wanted.type not in self._queue_types:
            raise Unimplemented(
                f"queues of type '{wanted.type}' are not there yet: declare the type 'classic'"
            )
        self._queue_types[wanted.type].check(wanted)

    def _made_queue(self, wanted: QueueDefinition, asker: Owner) -> Declared:
        """The queue that was made as ``wanted``; until now an exclusive one was nobody's."""
        queue = self.queues.get(wanted.name)
        if queue is None:
            raise Overtaken
        if wanted.exclusive:
            queue.owner = asker
            asker.own(queue)
        return Declared(queue, is_new=True)

    def delete_queue(
        self, name: str, asker: Owner | None, if_unused: bool = False, if_empty: bool = False
    ) -> int | Pending[int]:
        """Delete a queue.

        How many messages were ready. One that is not there has none (RabbitMQ).
        """

        def rule() -> int | Pending[int] | Wish[int]:
            if name not in self.queues:
                return 0
            queue = self.queue(name, asker)
            count = queue.may_delete(if_unused, if_empty)
            if isinstance(count, Pending):
                return count
            return Wish(delete(queue.definition), lambda: count)

        return self._decisions.decide(("queue", name), rule)

    # -- rules: exchanges ----------------------------------------------------------------------

    def exchange(self, name: str) -> Exchange:
        """The exchange ``name``. Raises `NotKnown`."""
        exchange = self.router.exchanges.get(name)
        if exchange is None:
            raise NotKnown(f"no exchange '{name}' in vhost '{self.name}'")
        return exchange

    def named_exchange(self, name: str) -> Exchange:
        """The exchange ``name``, which is not the default one."""
        check_not_default(name)
        return self.exchange(name)

    def declare_exchange(self, wanted: ExchangeDefinition) -> Pending[None] | None:
        """See to an exchange as ``wanted``. Raises `PreconditionFailed` if there is another."""
        return self._decisions.decide(
            ("exchange", wanted.name), lambda: self._look_for_exchange(wanted)
        )

    def _look_for_exchange(self, wanted: ExchangeDefinition) -> Wish[None] | None:
        exchange = self.router.exchanges.get(wanted.name)
        if exchange is None:
            return Wish(put(wanted), _done)
        what = f"exchange '{wanted.name}' in vhost '{self.name}'"
        there = exchange.definition
        _check_same(what, "type", wanted.type, there.type)
        _check_same(what, "durable", wanted.durable, there.durable)
        _check_same(what, "auto_delete", wanted.auto_delete, there.auto_delete)
        _check_same(what, "internal", wanted.internal, there.internal)
        _check_same_arguments(what, _EXCHANGE_ARGUMENTS, wanted.arguments, there.arguments)
        return None

    def check_deletable(self, exchange: str) -> None:
        """Raise `AccessRefused` for the exchanges that every virtual host has."""
        check_not_default(exchange)
        if exchange.startswith("amq."):
            raise AccessRefused(
                f"deletion of system exchange '{exchange}' in vhost '{self.name}' not allowed"
            )

    def delete_exchange(self, name: str, if_unused: bool) -> Pending[None] | None:
        """Delete an exchange; one that is not there is no fault (RabbitMQ)."""

        def rule() -> Wish[None] | None:
            exchange = self.router.exchanges.get(name)
            if exchange is None:
                return None
            if if_unused and exchange.bindings:
                raise PreconditionFailed(f"exchange '{name}' in vhost '{self.name}' in use")
            return Wish(delete(exchange.definition), _done)

        return self._decisions.decide(("exchange", name), rule)

    # -- rules: bindings -----------------------------------------------------------------------

    def bind(self, binding: BindingDefinition, asker: Owner | None) -> Pending[None] | None:
        """Bind a queue or exchange. Raises `NotFound`, or what the source's type has to say."""

        def rule() -> Wish[None] | None:
            source = self.exchange(binding.source)
            self._check_destination(binding, asker)
            source.type.check(binding)
            return None if binding.identity in source.bindings else Wish(put(binding), _done)

        return self._decisions.decide(("binding", binding.source, binding.identity), rule)

    def unbind(self, binding: BindingDefinition, asker: Owner | None) -> Pending[None] | None:
        """Unbind; a binding, or an end of it, that is not there is no fault (RabbitMQ)."""

        def rule() -> Wish[None] | None:
            source = self.router.exchanges.get(binding.source)
            if source is None or binding.identity not in source.bindings:
                return None
            self._check_destination(binding, asker)
            return Wish(delete(binding), _done)

        return self._decisions.decide(("binding", binding.source, binding.identity), rule)

    def _check_destination(self, binding: BindingDefinition, asker: Owner | None) -> None:
        if binding.destination_type == "queue":
            self.queue(binding.destination, asker)
        else:
            self.exchange(binding.destination)

    # -- routing -------------------------------------------------------------------------------

    def route(
        self, exchange: str, routing_keys: Sequence[str], headers: Headers
    ) -> tuple[tuple[Destination, ...], bool]:
        """Where a message goes, each destination once; the exchange is there.

        And whether messages with the same keys go there too, until the version of the exchange is
        raised (or, at the default exchange, that of the destination).
        """
        queues = self.queues
        if exchange:
            names, cacheable = self.router.route(exchange, routing_keys, headers)
            return tuple([queues[name] for name in names]), cacheable
        found: dict[Destination, None] = {}
        for key in routing_keys:
            destination = queues.get(key) or self.replies.find(key)
            if destination is not None:
                found[destination] = None
        return tuple(found), True

    # -- changes -------------------------------------------------------------------------------

    def put_policy(self, definition: PolicyDefinition) -> None:
        """Carry out a change; queues act on it at once."""
        were_heeded = self.policies.are_heeded
        self.policies.put(definition)
        if were_heeded or self.policies.are_heeded:
            self._have_heeded(self.queues.values())

    def drop_policy(self, definition: PolicyDefinition) -> None:
        """Carry out a change; queues act on it at once."""
        were_heeded = self.policies.are_heeded
        self.policies.drop(definition)
        if were_heeded:
            self._have_heeded(self.queues.values())

    def _have_heeded(self, queues: Iterable[Queue]) -> None:
        for queue in queues:
            queue.heed(self.policies.of_queue(queue.definition).definition)

    def put_parameter(self, definition: ParameterDefinition) -> None:
        """Carry out a change."""
        self.parameters[definition.component, definition.name] = definition

    def drop_parameter(self, definition: ParameterDefinition) -> None:
        """Carry out a change."""
        del self.parameters[definition.component, definition.name]

    def limit(self, name: str) -> int | None:
        """A limit that was set for it (``max-connections``, ``max-queues``), if one was."""
        said = self.parameters.get(VHOST_LIMITS)
        return None if said is None else said.limit(name)

    def put_exchange(self, definition: ExchangeDefinition) -> None:
        """Carry out a change."""
        self.router.add_exchange(definition)

    def drop_exchange(self, definition: ExchangeDefinition) -> None:
        """Carry out a change; the bindings go with the exchange."""
        for binding in self.router.bindings_to_exchange(definition.name):
            self._unbind(binding)
        self.counts.exchange_gone(self.router.exchanges[definition.name])
        self.router.remove_exchange(definition.name)
        self._unbound.pop(definition.name, None)

    def put_queue(self, definition: QueueDefinition) -> None:
        """Carry out a change."""
        kind = self._queue_types[definition.type]
        queue = self.queues[definition.name] = kind.open(definition, self._keeper)
        if self.policies.are_heeded:
            self._have_heeded([queue])
        self.counts.queue_made(queue)

    def drop_queue(self, definition: QueueDefinition) -> None:
        """Carry out a change; the bindings go with the queue."""
        queue = self.queues.pop(definition.name)
        self.counts.queue_gone(queue)
        for binding in self.router.bindings_to_queue(definition.name):
            self._unbind(binding)
        queue.delete()
        if queue.owner is not None:
            queue.owner.disown(queue)
            queue.owner = None  # A remembered way to the queue must not keep who owned it.

    def put_binding(self, definition: BindingDefinition) -> None:
        """Carry out a change."""
        self.router.bind(definition)

    def drop_binding(self, definition: BindingDefinition) -> None:
        """Carry out a change."""
        self._unbind(definition)

    def _unbind(self, binding: BindingDefinition) -> None:
        exchange = self.router.exchanges[binding.source]
        gone = self.router.unbind(binding)
        if gone and exchange.definition.auto_delete and not exchange.bindings:
            self._unbound[exchange.definition.name] = exchange

    def delete_unused(self) -> Pending[None] | None:
        """Delete the auto-delete exchanges that have lost their last binding in a change.

        And those that do so thereby, one after the other: they may lead in circles, and chains of
        them may be longer than any stack.
        """
        if self._deleting_unused:
            return None  # Whoever does it already comes to these too.
        self._deleting_unused = True
        decided = []
        while self._unbound:
            name, exchange = self._unbound.popitem()
            if self.router.exchanges.get(name) is exchange and not exchange.bindings:
                decided.append(self._see_to(delete(exchange.definition)))
        self._deleting_unused = False
        return when_all(decided)

    def close(self) -> None:
        """Drop everything."""
        for queue in list(self.queues.values()):
            self.drop_queue(queue.definition)


def _done() -> None:
    """The answer to what has none."""


def check_name(kind: str, name: str) -> None:
    """Raise `AccessRefused` for a new name that is the broker's to give."""
    if name.startswith("amq."):
        raise AccessRefused(f"{kind} name '{name}' contains reserved prefix 'amq.*'")


def check_not_default(exchange: str) -> None:
    """Raise `AccessRefused` for the default exchange, which nobody changes."""
    if not exchange:
        raise AccessRefused("operation not permitted on the default exchange")


def check_exchange_type(name: str) -> None:
    """Raise `PreconditionFailed` if there is no such type of exchange."""
    if name not in EXCHANGE_TYPES:
        wrong = "unknown" if name else "invalid"  # RabbitMQ happens to know the empty word.
        raise PreconditionFailed(f"{wrong} exchange type '{name}'")


def exchange_argument(arguments: Arguments, name: str, what: str) -> str | None:
    """The exchange that an argument names; None if there is none.

    Raises `PreconditionFailed` if it is no name.
    """
    value = arguments.get(name, "")
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if not isinstance(value, str):
        raise PreconditionFailed(f"invalid type '{field_type(value)}' for arg '{name}' in {what}")
    return value if name in arguments else None


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

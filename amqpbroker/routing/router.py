"""Exchanges, bindings, and the way from an address to queue names.

An exchange leads to queues, to other exchanges by bindings, and to its alternate exchange when its
own bindings have nothing for a message (RabbitMQ: Exchange to Exchange Bindings, Alternate
Exchanges). Such ways may form circles: each exchange is visited once for a message, and each queue
is named once.

Every exchange has a version that any change to what it reaches raises, however far away. Who
remembers a route compares the version of the exchange where it began; so a new binding elsewhere,
or a new queue, empties nobody's memory.
"""

from collections.abc import Iterator, Sequence

from amqpbroker.definitions import BindingDefinition, ExchangeDefinition
from amqpbroker.routing.exchange import (
    DirectExchange,
    ExchangeType,
    FanoutExchange,
    Headers,
    HeadersExchange,
)
from amqpbroker.routing.topic import TopicExchange

EXCHANGE_TYPES: dict[str, type[ExchangeType]] = {
    "direct": DirectExchange,
    "fanout": FanoutExchange,
    "topic": TopicExchange,
    "headers": HeadersExchange,
}

_PREDECLARED = (
    ("", "direct", False),
    ("amq.direct", "direct", False),
    ("amq.fanout", "fanout", False),
    ("amq.topic", "topic", False),
    ("amq.headers", "headers", False),
    ("amq.match", "headers", False),
    ("amq.rabbitmq.trace", "topic", True),
)


def predeclared(vhost: str) -> list[ExchangeDefinition]:
    """The exchanges that every virtual host has from the start (AMQP 3.1.3, and RabbitMQ's own)."""
    return [
        ExchangeDefinition(vhost, name, kind, durable=True, internal=internal)
        for name, kind, internal in _PREDECLARED
    ]


_Destination = tuple[str, str]
"""Type (queue, exchange) and name."""


class Exchange:
    """An exchange with its bindings."""

    def __init__(self, definition: ExchangeDefinition) -> None:
        self.definition = definition
        self.version = 0
        """Raised by any change to what is reached from here."""
        self.bindings: dict[object, BindingDefinition] = {}
        self.published_in = 0
        """Messages that were published to it."""
        self.published_out = 0
        """How often they were given to a queue."""
        self.type = EXCHANGE_TYPES[definition.type]()
        alternate = definition.arguments.get("alternate-exchange")
        self.alternate: str | None = alternate if isinstance(alternate, str) else None
        """The exchange to which messages go that no binding takes."""


class Router:
    """The exchanges of one virtual host and all that is bound to them.

    The default exchange has no bindings of its own: its routing key *is* the queue's name.
    """

    def __init__(self) -> None:
        self.exchanges: dict[str, Exchange] = {}
        self._bound_to: dict[_Destination, dict[str, dict[object, BindingDefinition]]] = {}
        """The bindings to each destination, by their source: many may come from the same one."""
        self._alternate_of: dict[str, dict[Exchange, None]] = {}
        """The exchanges that have an alternate, by its name, whether that exists or not."""

    # -- exchanges -----------------------------------------------------------------------------

    def add_exchange(self, definition: ExchangeDefinition) -> None:
        """Add an exchange that is not there yet."""
        exchange = self.exchanges[definition.name] = Exchange(definition)
        if exchange.alternate is not None:
            self._alternate_of.setdefault(exchange.alternate, {})[exchange] = None
        self._raise_version(exchange)

    def remove_exchange(self, name: str) -> None:
        """Remove an exchange and the bindings from it; those to it are gone already."""
        exchange = self.exchanges[name]
        for binding in list(exchange.bindings.values()):
            self.unbind(binding)
        self._raise_version(exchange)
        if exchange.alternate is not None:
            users = self._alternate_of[exchange.alternate]
            del users[exchange]
            if not users:
                del self._alternate_of[exchange.alternate]
        del self.exchanges[name]

    # -- bindings ------------------------------------------------------------------------------

    def bind(self, binding: BindingDefinition) -> None:
        """Add a binding; one that is there already changes nothing."""
        exchange = self.exchanges[binding.source]
        if binding.identity in exchange.bindings:
            return
        exchange.type.bind(binding)
        exchange.bindings[binding.identity] = binding
        self._raise_version(exchange)
        sources = self._bound_to.setdefault((binding.destination_type, binding.destination), {})
        sources.setdefault(binding.source, {})[binding.identity] = binding

    def unbind(self, binding: BindingDefinition) -> bool:
        """Remove a binding; False if there was none (which is no fault: RabbitMQ)."""
        exchange = self.exchanges[binding.source]
        if exchange.bindings.pop(binding.identity, None) is None:
            return False
        exchange.type.unbind(binding)
        self._raise_version(exchange)
        destination = binding.destination_type, binding.destination
        sources = self._bound_to[destination]
        bound = sources[binding.source]
        del bound[binding.identity]
        if not bound:
            del sources[binding.source]
            if not sources:
                del self._bound_to[destination]
        return True

    def bindings_to_queue(self, name: str) -> list[BindingDefinition]:
        """All bindings to a queue, but the one that the default exchange implies."""
        return self._bindings_to(("queue", name))

    def bindings_to_exchange(self, name: str) -> list[BindingDefinition]:
        """All bindings to an exchange."""
        return self._bindings_to(("exchange", name))

    def _bindings_to(self, destination: _Destination) -> list[BindingDefinition]:
        sources = self._bound_to.get(destination, {})
        return [binding for bound in sources.values() for binding in bound.values()]

    def _raise_version(self, changed: Exchange) -> None:
        """Raise the version of ``changed``, and of every exchange from which it can be reached."""
        reached = {changed: None}
        pending = [changed]
        while pending:
            exchange = pending.pop()
            exchange.version += 1
            for source in self._leading_to(exchange.definition.name):
                if source not in reached:
                    reached[source] = None
                    pending.append(source)

    def _leading_to(self, name: str) -> Iterator[Exchange]:
        """The exchanges from which messages come to exchange ``name`` directly."""
        for source in self._bound_to.get(("exchange", name), {}):
            yield self.exchanges[source]
        yield from self._alternate_of.get(name, {})

    # -- routes --------------------------------------------------------------------------------

    def route(
        self, start: str, routing_keys: Sequence[str], headers: Headers
    ) -> tuple[tuple[str, ...], bool]:
        """The names of the queues that a message goes to, each once, and whether that can be kept.

        If so, all messages with the same keys go there until the version of ``start`` is raised.
        The keys are the message's own and those of its CC and BCC headers.
        """
        queues: dict[str, None] = {}
        cacheable = True
        seen = {start}
        pending = [self.exchanges[start]]
        while pending:
            exchange = pending.pop()
            cacheable &= exchange.type.cacheable
            matched = False
            for key in routing_keys if exchange.type.uses_key else routing_keys[:1]:
                for binding in exchange.type.route(key, headers):
                    matched = True
                    name = binding.destination
                    if binding.destination_type == "queue":
                        queues[name] = None
                    elif name not in seen:
                        seen.add(name)
                        pending.append(self.exchanges[name])
            alternate = exchange.alternate
            if not matched and alternate in self.exchanges and alternate not in seen:
                seen.add(alternate)
                pending.append(self.exchanges[alternate])
        return tuple(queues), cacheable

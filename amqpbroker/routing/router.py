"""Exchanges, bindings, and the way from an address to queue names.

Every exchange has a version that any change to what it reaches raises. Who remembers a route
compares the version on use; so a new binding elsewhere, or a new queue, empties nobody's memory.
"""

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


class Exchange:
    """An exchange with its bindings."""

    def __init__(self, definition: ExchangeDefinition) -> None:
        self.definition = definition
        self.version = 0
        self.bindings: dict[object, BindingDefinition] = {}
        self.type = EXCHANGE_TYPES[definition.type]()

    def route(self, routing_key: str, headers: Headers) -> tuple[str, ...]:
        """The names of the queues that a message goes to, each once."""
        return tuple(dict.fromkeys(self.type.route(routing_key, headers)))


class Router:
    """The exchanges of one virtual host and all that is bound to them.

    The default exchange has no bindings of its own: its routing key *is* the queue's name.
    """

    def __init__(self) -> None:
        self.exchanges: dict[str, Exchange] = {}
        self._bound_to: dict[str, dict[object, BindingDefinition]] = {}

    def add_exchange(self, definition: ExchangeDefinition) -> None:
        """Add an exchange that is not there yet."""
        self.exchanges[definition.name] = Exchange(definition)

    def remove_exchange(self, name: str) -> None:
        """Remove an exchange and its bindings."""
        exchange = self.exchanges[name]
        for binding in list(exchange.bindings.values()):
            self.unbind(binding)
        exchange.version += 1
        del self.exchanges[name]

    def bind(self, binding: BindingDefinition) -> None:
        """Add a binding; one that is there already changes nothing."""
        exchange = self.exchanges[binding.source]
        if binding.identity in exchange.bindings:
            return
        exchange.type.bind(binding)
        exchange.bindings[binding.identity] = binding
        exchange.version += 1
        bound = self._bound_to.setdefault(binding.destination, {})
        bound[binding.source, binding.identity] = binding

    def unbind(self, binding: BindingDefinition) -> bool:
        """Remove a binding; False if there was none (which is no fault: RabbitMQ)."""
        exchange = self.exchanges[binding.source]
        if exchange.bindings.pop(binding.identity, None) is None:
            return False
        exchange.type.unbind(binding)
        exchange.version += 1
        bound = self._bound_to[binding.destination]
        del bound[binding.source, binding.identity]
        if not bound:
            del self._bound_to[binding.destination]
        return True

    def bindings_to(self, queue: str) -> list[BindingDefinition]:
        """All bindings of a queue, but the one that the default exchange implies."""
        return list(self._bound_to.get(queue, {}).values())

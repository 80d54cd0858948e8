"""Definitions: what a broker consists of, apart from messages and connections.

A definition is a frozen record; a `Change` puts one in place or takes one away. However a change
arrives (client, command line, another node), it ends in ``Broker.apply``: there is no second way
in.
"""

from collections.abc import Hashable
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from typing import Any, Literal

import attrs

from amqpbroker.patterns import check_pattern

Arguments = dict[str, Any]


def field_type(value: object) -> str:
    """The type of an argument's value, in the word that RabbitMQ's errors have for it.

    How wide a number was on the wire is not known any more: it is said as the clients of our
    language send it.
    """
    match value:
        case None:
            return "void"
        case bool():
            return "bool"
        case int():
            return "signedint" if -(1 << 31) <= value < 1 << 31 else "long"
        case float():
            return "double"
        case str() | bytes():
            return "longstr"
        case bytearray():
            return "binary"
        case list():
            return "array"
        case dict():
            return "table"
        case Decimal():
            return "decimal"
        case datetime():
            return "timestamp"
    raise TypeError(f"no field of AMQP holds a {type(value).__name__}")


def erlang_term(value: Any) -> str:
    """A table field's value as RabbitMQ prints it, an Erlang term, in some of its errors."""
    match value:
        case None:
            return "undefined"
        case bool():
            return str(value).lower()
        case str():
            return f'<<"{value}">>' if value else "<<>>"
        case bytes() | bytearray():
            return f"<<{','.join(map(str, value))}>>"
        case list():
            return f"[{','.join(f'{{{field_type(each)},{erlang_term(each)}}}' for each in value)}]"
        case dict():
            fields = (
                f'{{<<"{name}">>,{field_type(each)},{erlang_term(each)}}}'
                for name, each in value.items()
            )
            return f"[{','.join(fields)}]"
        case datetime():
            return str(int(value.timestamp()))
        case _:
            return str(value)


@attrs.frozen
class VHostDefinition:
    """A virtual host: a namespace of exchanges and queues.

    What is said of it beside its name is for people to read.
    """

    name: str
    description: str = ""
    tags: tuple[str, ...] = ()
    default_queue_type: str = ""


@attrs.frozen
class ExchangeDefinition:
    """An exchange; ``type`` is the name of an exchange type."""

    vhost: str
    name: str
    type: str
    durable: bool = False
    auto_delete: bool = False
    internal: bool = False
    arguments: Arguments = attrs.Factory(dict)


@attrs.frozen
class QueueDefinition:
    """A queue; an exclusive one lives and dies with the connection that declared it."""

    vhost: str
    name: str
    durable: bool = False
    exclusive: bool = False
    auto_delete: bool = False
    arguments: Arguments = attrs.Factory(dict)
    log_id: int = attrs.field(default=0, eq=False)
    """Names the log of a durable queue; whoever decides on the change that makes it gives it.

    In a cluster it tells the queue from all others that have ever had its name.
    """
    leader: str = attrs.field(default="", eq=False)
    """The node that has its messages; empty where there is only one."""
    owner: str = attrs.field(default="", eq=False)
    """In a cluster: the life of a node (name@incarnation) with which it ends; empty: with none."""

    @property
    def type(self) -> Any:
        """The type of queue, as it was asked for; who asks for none wants a classic one."""
        wanted = self.arguments.get("x-queue-type", "undefined")
        return "classic" if wanted == "undefined" else wanted

    @property
    def title(self) -> str:
        """What errors call it."""
        return f"queue '{self.name}' in vhost '{self.vhost}'"


@attrs.frozen
class BindingDefinition:
    """The way from an exchange to a queue or another exchange.

    It is for messages that match ``routing_key`` and ``arguments``.
    """

    vhost: str
    source: str
    destination: str
    routing_key: str = ""
    arguments: Arguments = attrs.Factory(dict)
    destination_type: Literal["queue", "exchange"] = "queue"

    @cached_property
    def identity(self) -> Hashable:
        """What tells it from the other bindings of its exchange."""
        return (
            self.destination_type,
            self.destination,
            self.routing_key,
            repr(sorted(self.arguments.items())),
        )


@attrs.frozen
class UserDefinition:
    """Who may log in.

    ``password_hash`` is RabbitMQ's: base64 of a salt and, unless ``hashing_algorithm`` says another
    one, the SHA-256 over salt and password. The empty one is nobody's.
    """

    name: str
    password_hash: str
    tags: tuple[str, ...] = ()
    hashing_algorithm: str = "rabbit_password_hashing_sha256"
    limits: dict[str, int] = attrs.field(factory=dict, hash=False)
    """How many connections and channels it may have (``max-connections``, ``max-channels``)."""

    def limit(self, name: str) -> int | None:
        """One of them; None: there is none."""
        return _limit(self.limits.get(name))


def _pattern(_: Any, field: "attrs.Attribute[str]", value: str) -> None:
    check_pattern(value, field.name)


@attrs.frozen
class PermissionDefinition:
    """What a user may do in a virtual host.

    A regular expression must be found in the name of a queue or exchange for the user to make or
    delete it (``configure``), to give it messages or bindings (``write``), to read from it
    (``read``). The empty one matches no name (RabbitMQ: Access Control). Raises `DefinitionError`
    for what is no regular expression.
    """

    vhost: str
    user: str
    configure: str = attrs.field(validator=_pattern)
    write: str = attrs.field(validator=_pattern)
    read: str = attrs.field(validator=_pattern)


@attrs.frozen
class TopicPermissionDefinition:
    """Which routing keys a user may use with a topic exchange, on top of its permissions.

    Patterns as in `PermissionDefinition`, in which ``{username}`` and ``{vhost}`` stand for the
    user's own.
    """

    vhost: str
    user: str
    exchange: str
    write: str = attrs.field(validator=_pattern)
    read: str = attrs.field(validator=_pattern)


@attrs.frozen
class PolicyDefinition:
    """What holds for the queues and exchanges whose names hold ``pattern``, without their doing.

    Of those that match a thing, the one with the highest ``priority`` holds, alone; ``apply_to``
    says which kinds of things it is for. One that ``is_operator`` stands above those of users:
    what it says is merged into what theirs say.
    """

    vhost: str
    name: str
    pattern: str
    definition: dict[str, Any]
    priority: int = 0
    apply_to: str = "all"
    is_operator: bool = False


@attrs.frozen
class ParameterDefinition:
    """What a component of the broker is told of a virtual host; RabbitMQ's runtime parameters."""

    vhost: str
    component: str
    name: str
    value: Any

    def limit(self, name: str) -> int | None:
        """One of the limits that it sets to its virtual host; None: there is none."""
        return _limit(self.value.get(name))


VHOST_LIMITS = "vhost-limits", "limits"
"""Component and name of the parameter by which virtual hosts are limited."""


def _limit(value: int | None) -> int | None:
    """A limit as it was set: a negative one is none (RabbitMQ)."""
    return None if value is None or value < 0 else value


@attrs.frozen
class GlobalParameterDefinition:
    """What is said of the whole broker, by name; any value of JSON."""

    name: str
    value: Any


CLUSTER_NAME = "cluster_name"
"""The global parameter that says what clients and operators are told."""

Definition = (
    VHostDefinition
    | ExchangeDefinition
    | QueueDefinition
    | BindingDefinition
    | UserDefinition
    | PermissionDefinition
    | TopicPermissionDefinition
    | PolicyDefinition
    | ParameterDefinition
    | GlobalParameterDefinition
)


@attrs.frozen
class Change:
    """Put a definition in place, or delete it."""

    act: Literal["put", "delete"]
    definition: Definition


def put(definition: Definition) -> Change:
    """The change that puts ``definition`` in place."""
    return Change("put", definition)


def delete(definition: Definition) -> Change:
    """The change that takes ``definition`` away."""
    return Change("delete", definition)

"""What may be asked of a virtual host: rights first, then its rules.

Whoever asks, over AMQP or HTTP, comes through here. Rights come before existence, as in RabbitMQ:
who may not touch a thing is not told whether it is there.
"""

from typing import Literal

import attrs

from amqpbroker.broker.access import Access, Right
from amqpbroker.broker.vhost import (
    Declared,
    VHost,
    check_exchange_type,
    check_name,
    check_not_default,
    exchange_argument,
)
from amqpbroker.definitions import BindingDefinition, ExchangeDefinition, QueueDefinition
from amqpbroker.errors import PreconditionFailed
from amqpbroker.queues.queue import Owner, Pending, Queue


class _Nobody(Owner):
    """An owner without a connection."""

    @property
    def title(self) -> tuple[str, str, int]:
        raise AssertionError("who has no connection has no exclusive queues")

    def own(self, queue: Queue) -> None:
        raise AssertionError("who has no connection has no exclusive queues")

    def disown(self, queue: Queue) -> None:
        raise AssertionError("who has no connection has no exclusive queues")


NOBODY = _Nobody()
"""As whom one asks who has no connection: every exclusive queue is somebody else's."""


@attrs.frozen
class Asker:
    """Who asks: with which rights, in which virtual host.

    ``owner`` is what exclusive queues belong to, ``queues_max`` how many a virtual host may have.
    """

    vhost: VHost
    access: Access
    owner: Owner
    queues_max: int

    def check(self, right: Right, kind: Literal["queue", "exchange"], name: str) -> None:
        """Raise `AccessRefused` unless there is a ``right`` on a queue or exchange."""
        self.access.check(right, kind, name, self.vhost.name)


# -- exchanges -----------------------------------------------------------------------------------


def declare_exchange(asker: Asker, wanted: ExchangeDefinition) -> Pending[None] | None:
    """See to an exchange as ``wanted``. Raises what RabbitMQ has against it."""
    name, vhost = wanted.name, asker.vhost
    check_exchange_type(wanted.type)
    check_not_default(name)
    asker.check("configure", "exchange", name)
    if name not in vhost.router.exchanges:
        check_name("exchange", name)
        alternate = exchange_argument(
            wanted.arguments, "alternate-exchange", f"exchange '{name}' in vhost '{vhost.name}'"
        )
        if alternate is not None:
            asker.check("read", "exchange", name)
            asker.check("write", "exchange", alternate)
    return vhost.declare_exchange(wanted)


def delete_exchange(asker: Asker, name: str, if_unused: bool) -> Pending[None] | None:
    """Delete an exchange; one that is not there is no fault."""
    asker.vhost.check_deletable(name)
    asker.check("configure", "exchange", name)
    return asker.vhost.delete_exchange(name, if_unused)


# -- queues --------------------------------------------------------------------------------------


def declare_queue(asker: Asker, wanted: QueueDefinition) -> Declared | Pending[Declared]:
    """The queue as ``wanted``, made if there is none. Raises what RabbitMQ has against it."""
    asker.check("configure", "queue", wanted.name)
    if wanted.name not in asker.vhost.queues:
        _check_new_queue(asker, wanted)
    asker.vhost.counts.queues_declared += 1
    return asker.vhost.declare_queue(wanted, asker.owner)


def _check_new_queue(asker: Asker, wanted: QueueDefinition) -> None:
    """Whether there is room for one more, and its dead letters may go where it says."""
    vhost, limit = asker.vhost, asker.queues_max
    said = asker.vhost.limit("max-queues")
    if said is not None:
        limit = min(limit, said)
    if len(vhost.queues) >= limit:
        raise PreconditionFailed(
            f"cannot declare queue '{wanted.name}': "
            f"queue limit in vhost '{vhost.name}' ({limit}) is reached"
        )
    dead_letters = exchange_argument(wanted.arguments, "x-dead-letter-exchange", wanted.title)
    if dead_letters is not None:
        asker.check("read", "queue", wanted.name)
        asker.check("write", "exchange", dead_letters)


def queue_to_read(asker: Asker, name: str) -> Queue:
    """The queue, if it may be read from."""
    asker.check("read", "queue", name)
    return asker.vhost.queue(name, asker.owner)


# -- bindings ------------------------------------------------------------------------------------


def bind(asker: Asker, binding: BindingDefinition) -> Pending[None] | None:
    """Bind a queue or exchange. Raises what RabbitMQ has against it."""
    _check_binding(asker, binding)
    return asker.vhost.bind(binding, asker.owner)


def unbind(asker: Asker, binding: BindingDefinition) -> Pending[None] | None:
    """Unbind; a binding that is not there is no fault."""
    _check_binding(asker, binding)
    return asker.vhost.unbind(binding, asker.owner)


def _check_binding(asker: Asker, binding: BindingDefinition) -> None:
    """Whether the one end may be written to, and the other read from."""
    vhost = asker.vhost
    asker.check("write", binding.destination_type, binding.destination)
    if binding.destination_type == "exchange":
        check_not_default(binding.destination)
    check_not_default(binding.source)
    asker.check("read", "exchange", binding.source)
    exchange = vhost.router.exchanges.get(binding.source)
    if exchange is not None and exchange.definition.type == "topic":
        asker.access.check_topic("read", binding.source, binding.routing_key, vhost.name)

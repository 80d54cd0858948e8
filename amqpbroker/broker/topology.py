"""The methods that make, change and end exchanges, queues and bindings (section 1.6 and 1.7).

Each is a function of the channel it came on: it has the wish judged by `declaring`, and answers.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pamqp import commands
from pamqp.base import Frame

from amqpbroker.broker import declaring
from amqpbroker.broker.vhost import Declared, check_name
from amqpbroker.cluster.remote_reply import REPLY_TO
from amqpbroker.definitions import BindingDefinition, ExchangeDefinition, QueueDefinition
from amqpbroker.errors import NotFound, SoftError
from amqpbroker.queues.queue import Pending

if TYPE_CHECKING:
    from amqpbroker.broker.channel import Channel

Bind = commands.Queue.Bind | commands.Exchange.Bind
Unbind = commands.Queue.Unbind | commands.Exchange.Unbind


def _answer(channel: "Channel", method: Frame, done: Pending[None] | None, ok: Frame) -> None:
    """Say ``ok`` when it is done, if the peer wants to know."""

    def reply(_: None) -> None:
        if not getattr(method, "nowait", False):
            channel.send(ok)

    channel.answer(done, method.index, reply)


def _one_line(name: str) -> str:
    """A name without line ends, which get into some by accident (RabbitMQ)."""
    return name.replace("\r", "").replace("\n", "")


# -- exchanges -----------------------------------------------------------------------------------


def _declare_exchange(channel: "Channel", method: commands.Exchange.Declare) -> None:
    name = _one_line(method.exchange)
    vhost = channel.vhost
    made = None
    if method.passive:
        vhost.named_exchange(name)
    else:
        wanted = ExchangeDefinition(
            vhost.name,
            name,
            method.exchange_type,
            method.durable,
            method.auto_delete,
            method.internal,
            method.arguments or {},
        )
        made = declaring.declare_exchange(channel.asker, wanted)
    _answer(channel, method, made, commands.Exchange.DeclareOk())


def _delete_exchange(channel: "Channel", method: commands.Exchange.Delete) -> None:
    name = _one_line(method.exchange)

    def act() -> None:
        gone = declaring.delete_exchange(channel.asker, name, method.if_unused)
        _answer(channel, method, gone, commands.Exchange.DeleteOk())

    is_known = name in channel.vhost.router.exchanges
    channel.with_all_known(method.index, act, is_known=is_known)


# -- queues --------------------------------------------------------------------------------------


def _declare_queue(channel: "Channel", method: commands.Queue.Declare) -> None:
    name = _one_line(method.queue)
    if name.startswith(REPLY_TO):
        _declare_reply_queue(channel, method, name)
        return
    session, vhost = channel.session, channel.vhost
    made: Declared | Pending[Declared]
    if method.passive:
        made = Declared(vhost.queue(name, session), is_new=False)
    else:
        if name:
            check_name("queue", name)
        wanted = QueueDefinition(
            vhost.name,
            name or channel.generate_name("amq.gen-"),
            method.durable and not method.exclusive,
            method.exclusive,
            method.auto_delete,
            method.arguments or {},
        )
        made = declaring.declare_queue(channel.asker, wanted)

    def reply(declared: Declared) -> None:
        queue = declared.queue
        name = queue.definition.name
        channel.last_queue = name
        if method.nowait:
            return  # Who wants no answer does not ask the queue (RabbitMQ).
        if declared.is_new:
            _declare_ok(channel, name, 0, 0)
            return
        queue.touch()
        channel.answer(
            queue.stat(),
            method.index,
            lambda stat: _declare_ok(channel, name, stat.ready, stat.consumers),
        )

    channel.answer(made, method.index, reply)


def _declare_reply_queue(channel: "Channel", method: commands.Queue.Declare, name: str) -> None:
    """The pseudo-queue of direct replies is always there, an address as long as its consumer is."""
    vhost = channel.vhost
    address = vhost.replies.find(name)

    def reply(is_there: bool) -> None:
        if not is_there:
            raise NotFound(f"no queue '{name}' in vhost '{vhost.name}'")
        channel.last_queue = name
        if not method.nowait:
            _declare_ok(channel, name, 0, 1)

    is_there = name == REPLY_TO if address is None else address.is_there()
    channel.answer(is_there, method.index, reply)


def _declare_ok(channel: "Channel", name: str, ready: int, consumers: int) -> None:
    answer = commands.Queue.DeclareOk(None, ready, consumers)
    answer.queue = name  # pamqp's constructor refuses some names.
    channel.send(answer)


def _delete_queue(channel: "Channel", method: commands.Queue.Delete) -> None:
    name = _one_line(channel.queue_name(method.queue))
    channel.asker.check("configure", "queue", name)
    is_known = name in channel.vhost.queues
    channel.with_all_known(
        method.index, lambda: _delete_named_queue(channel, method, name), is_known=is_known
    )


def _delete_named_queue(channel: "Channel", method: commands.Queue.Delete, name: str) -> None:
    def reply(count: int) -> None:
        if not method.nowait:
            channel.send(commands.Queue.DeleteOk(count))
        channel.release_notices()

    channel.hold_notices()
    try:
        gone = channel.vhost.delete_queue(name, channel.session, method.if_unused, method.if_empty)
    except SoftError:
        channel.release_notices()
        raise
    channel.answer(gone, method.index, reply)


def _purge(channel: "Channel", method: commands.Queue.Purge) -> None:
    def reply(count: int) -> None:
        if not method.nowait:
            channel.send(commands.Queue.PurgeOk(count))

    channel.answer(channel.queue_to_read(method.queue).purge(), method.index, reply)


# -- bindings ------------------------------------------------------------------------------------


def _bind(channel: "Channel", method: Bind) -> None:
    binding = _binding(channel, method)
    bound = declaring.bind(channel.asker, binding)
    is_queue = isinstance(method, commands.Queue.Bind)
    ok = commands.Queue.BindOk() if is_queue else commands.Exchange.BindOk()
    _answer(channel, method, bound, ok)


def _unbind(channel: "Channel", method: Unbind) -> None:
    binding = _binding(channel, method)
    is_queue = isinstance(method, commands.Queue.Unbind)
    ok = commands.Queue.UnbindOk() if is_queue else commands.Exchange.UnbindOk()

    def act() -> None:
        _answer(channel, method, declaring.unbind(channel.asker, binding), ok)

    source = channel.vhost.router.exchanges.get(binding.source)
    is_known = source is not None and binding.identity in source.bindings
    channel.with_all_known(method.index, act, is_known=is_known)


def _binding(channel: "Channel", method: Bind | Unbind) -> BindingDefinition:
    """What is to be bound or unbound.

    Without queue and routing key, both are the last queue's name (section 1.7.2.3).
    """
    vhost, key, arguments = channel.vhost.name, method.routing_key, method.arguments or {}
    if isinstance(method, commands.Exchange.Bind | commands.Exchange.Unbind):
        source, destination = _one_line(method.source), _one_line(method.destination)
        return BindingDefinition(vhost, source, destination, key, arguments, "exchange")
    queue = _one_line(channel.queue_name(method.queue))
    if not method.queue and not key:
        key = queue
    return BindingDefinition(vhost, _one_line(method.exchange), queue, key, arguments)


METHODS: dict[type[Frame], Callable[["Channel", Any], None]] = {
    commands.Exchange.Declare: _declare_exchange,
    commands.Exchange.Delete: _delete_exchange,
    commands.Exchange.Bind: _bind,
    commands.Exchange.Unbind: _unbind,
    commands.Queue.Declare: _declare_queue,
    commands.Queue.Delete: _delete_queue,
    commands.Queue.Purge: _purge,
    commands.Queue.Bind: _bind,
    commands.Queue.Unbind: _unbind,
}
"""What each method does."""

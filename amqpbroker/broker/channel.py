"""A channel: where a peer's methods become acts of the broker (AMQP 0-9-1, sections 1.5 to 1.9).

The way of a publish: the method's own octets find a `Route`, remembered from the time before, which
has everything that publishing there needs: the origin of such messages and the queues they go to.
It holds as long as the version of what it went through is the same. A route is remembered at second
sight, so that a peer with a new address in every message fills no memory.
"""

import string
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
from pamqp import commands
from pamqp.base import Frame

from amqpbroker.broker.confirms import ConfirmWindow
from amqpbroker.broker.turn import WORK_MAX
from amqpbroker.broker.unsettled import Delivered, Unsettled
from amqpbroker.broker.vhost import VHost
from amqpbroker.definitions import BindingDefinition, ExchangeDefinition, QueueDefinition
from amqpbroker.errors import (
    AccessRefused,
    CommandInvalid,
    InternalError,
    NotAllowed,
    NotFound,
    PreconditionFailed,
    Unimplemented,
)
from amqpbroker.message import Batch, Origin
from amqpbroker.protocol.content import (
    delivery_prefix,
    delivery_suffix,
    encode_deliveries,
    encode_get_ok,
    encode_reframed_deliveries,
    encode_return,
    reframe,
)
from amqpbroker.protocol.events import (
    ChannelEvent,
    ChannelFault,
    Method,
    Publish,
    PublishMethod,
    Settle,
)
from amqpbroker.protocol.fields import write_shortstr
from amqpbroker.queues.queue import NO_LIMIT, Consumer, Got, Outcome, Pending, Queue
from amqpbroker.routing.router import Exchange

if TYPE_CHECKING:
    from amqpbroker.broker.session import Session

Answer = TypeVar("Answer")


_NO_ROUTE = 312
_BASE64URL = string.ascii_letters + string.digits + "-_"
_GENERATED_NAME_LETTERS = 22
_TEMPLATES_MAX = 256
_METHOD_WORK = 16
"""What a method other than publish and ack costs, in messages: so it counts in a turn."""


@attrs.define(eq=False)
class Route:
    """Where messages of one method, on one channel, with the same traits, go.

    It holds while ``source`` has ``version``.
    """

    source: Exchange | Queue
    version: int
    origin: Origin
    queues: tuple[Queue, ...]
    cacheable: bool


class ChannelConsumer(Consumer):
    """A basic.consume: a consumer on a channel."""

    def __init__(
        self, channel: "Channel", queue: Queue, tag: str, no_ack: bool, exclusive: bool
    ) -> None:
        self.queue = queue
        self.tag = tag
        self.no_ack = no_ack
        self.exclusive = exclusive
        self.prefetch = channel.prefetch_for_new
        self.unsettled = 0
        self._channel = channel
        self._tag_octets = write_shortstr(tag)
        self._templates: tuple[dict[bytes, tuple[bytes, bytes]], ...] = ({}, {})

    @property
    def shares_credit(self) -> bool:
        return bool(self._channel.prefetch) and not self.no_ack

    @property
    def credit(self) -> int:
        channel = self._channel
        if not channel.may_deliver:
            return 0
        room = channel.prefetch - channel.unsettled.count if channel.prefetch else NO_LIMIT
        if self.no_ack:
            return NO_LIMIT if room > 0 else 0  # It takes no room, but asks for some (RabbitMQ).
        credit = self.prefetch - self.unsettled if self.prefetch else NO_LIMIT
        return min(credit, room)

    def deliver(self, queue: Queue, indexes: range, batch: Batch, redelivered: bool) -> None:
        self._channel.deliver(self, indexes, batch, redelivered)

    def template(self, address: bytes, redelivered: bool) -> tuple[bytes, bytes]:
        """What deliveries of messages with ``address`` have in common, before the tag and after."""
        templates = self._templates[redelivered]
        template = templates.get(address)
        if template is None:
            if len(templates) >= _TEMPLATES_MAX:
                templates.clear()
            template = templates[address] = (
                delivery_prefix(self._channel.number, self._tag_octets, address),
                delivery_suffix(address, redelivered),
            )
        return template

    def park(self) -> None:
        self._channel.parked_consumers[self] = None
        if self._channel.congested:
            self._channel.session.congested[self._channel] = None

    def cancelled(self) -> None:
        self._channel.consumer_cancelled(self)


class Channel:
    """One channel of a session; its protocol side is open for as long as it lives."""

    def __init__(self, session: "Session", number: int) -> None:
        assert session.vhost is not None
        self.session = session
        self.number = number
        self.vhost: VHost = session.vhost
        self.waiting = False
        """Whether a method waits for its answer: later events are parked."""
        self.parked: deque[tuple[ChannelEvent, int]] = deque()
        self.unsettled = Unsettled()
        self.prefetch = 0
        """Unsettled deliveries that the channel as a whole may have; 0: any number."""
        self.prefetch_for_new = 0
        self.parked_consumers: dict[ChannelConsumer, None] = {}
        self._consumers: dict[str, ChannelConsumer] = {}
        self._next_tag = 1
        self._last_queue: str | None = None
        self._routes: dict[bytes, Route] = {}
        self._seen: set[bytes] = set()
        broker = session.broker
        self._turn = broker.turn
        self._outbox_bytes_max = broker.limits.outbox_bytes_max
        self._window = ConfirmWindow(broker.turn.confirm, session.account, self._confirm)

    # -- events --------------------------------------------------------------------------------

    def handle(self, event: ChannelEvent) -> int:
        """Do what the peer asks; the work it was."""
        if isinstance(event, Publish):
            return self._publish(event)
        if isinstance(event, Settle):
            return self._settle(event)
        if isinstance(event, Method):
            act = _methods.get(type(event.method))
            if isinstance(event.method, _LATER):
                raise Unimplemented(f"{event.method.name.lower()} is not there yet")
            if act is None:
                raise CommandInvalid(f"unimplemented method {event.method.name.lower()}")
            act(self, event.method)
            return _METHOD_WORK
        assert isinstance(event, ChannelFault), event
        raise event.error

    def park_event(self, event: ChannelEvent) -> int:
        """Keep an event behind the method that waits; its size in octets, about."""
        size = sum(map(len, event.raws)) if isinstance(event, Publish) else 256
        self.parked.append((event, size))
        return size

    def _answer(
        self,
        answer: Answer | Pending[Answer],
        index: int,
        reply: Callable[[Answer], None],
        undo: Callable[[Answer], None] | None = None,
    ) -> None:
        """Reply now, or when the answer is there; meanwhile the channel waits, and not for ever.

        ``undo`` takes back what comes when nobody waits any more.
        """
        if not isinstance(answer, Pending):
            reply(answer)
            return
        self.waiting = True
        broker = self.session.broker

        def finish(act: Callable[[], None]) -> None:
            deadline.cancel()
            answer.then, answer.otherwise = undo, None
            if self.session.channels.get(self.number) is self:
                self.waiting = False
                self.session.guard(self, index, act)
                self.session.replay(self)

        def refuse(error: Exception) -> None:
            raise error

        def expire(now_s: float) -> None:
            refuse_late = InternalError("the answer took too long; try again")
            finish(lambda: refuse(refuse_late))

        def resolve(value: Answer) -> None:
            late = self.session.channels.get(self.number) is not self
            finish(lambda: reply(value))
            if late and undo is not None:
                undo(value)

        answer.then = resolve
        answer.otherwise = lambda error: finish(lambda: refuse(error))
        now_s = broker.world.clock.monotonic_s()
        deadline = broker.deadlines.at(now_s + broker.limits.pending_s_max, expire)

    def _send(self, method: Frame) -> None:
        self.session.connection.send_method(self.number, method)

    def close(self) -> int:
        """End: consumers go, what is unsettled goes back to its queues; octets that were parked."""
        for consumer in list(self._consumers.values()):
            self._remove_consumer(consumer)
        taken, _ = self.unsettled.take_up_to(0)
        for run in taken:
            run.queue.settle(run.indexes, Outcome.REQUEUE)
        self._window.advance()  # What is committed by now is told before close-ok.
        self._window.close()
        size = sum(size for _, size in self.parked)
        self.parked.clear()
        return size

    def _close(self, method: commands.Channel.Close) -> None:
        self.session.close_channel(self)
        self.session.connection.channel_close_ok(self.number)

    def _flow(self, method: commands.Channel.Flow) -> None:
        if not method.active:
            raise Unimplemented("active=false")
        self._send(commands.Channel.FlowOk(active=True))

    # -- publish -------------------------------------------------------------------------------

    def _publish(self, event: Publish) -> int:
        method, raws = event.method, event.raws
        route = self._routes.get(method.payload)
        found = 0
        if route is None or route.source.version != route.version:
            route = self._find_route(event)
            if not route.cacheable:
                found = len(self.vhost.router.exchanges[method.exchange].bindings)
        origin = route.origin
        if origin.traits is not event.traits:
            origin = self._origin(event)
        work = len(raws) * len(route.queues)
        if work > WORK_MAX and len(raws) > 1:
            part = max(1, WORK_MAX // len(route.queues))
            self.session.put_back(Publish(self.number, method, event.traits, raws[part:]))
            raws = raws[:part]
            work = part * len(route.queues)
        targets = []
        for queue in route.queues:
            targets.append((queue, queue.publish(origin, raws)))
        if not targets and method.mandatory:
            self._return(origin, raws)
        self._window.published(raws, targets)
        return found + (work or len(raws))

    def _find_route(self, event: Publish) -> Route:
        """Work out a route.

        Access, exchange, destinations; and remember it if it is one to come back to.
        """
        method = event.method
        if method.immediate:
            raise Unimplemented("immediate=true")
        source: Exchange | Queue
        exchange = self._exchange_to_publish(method.exchange)
        queues = self.vhost.route(method.exchange, method.routing_key, event.traits.headers)
        if method.exchange or not queues:
            source = exchange
        else:
            source = queues[0]
        origin = self._origin(event)
        route = Route(source, source.version, origin, queues, exchange.type.cacheable)
        if exchange.type.cacheable and (method.exchange or queues):
            self._remember(method, route)
        return route

    def _origin(self, event: Publish) -> Origin:
        """What the messages of ``event`` share."""
        method = event.method
        return Origin(
            method.exchange,
            method.routing_key,
            method.address,
            self.number,
            self.session.connection.frame_max,
            event.traits,
        )

    def _exchange_to_publish(self, name: str) -> Exchange:
        """The exchange, if it is there and peers may publish to it."""
        if self.vhost.check_exchange(name).internal:
            raise AccessRefused(
                f"cannot publish to internal exchange '{name}' in vhost '{self.vhost.name}'"
            )
        return self.vhost.router.exchanges[name]

    def _remember(self, method: PublishMethod, route: Route) -> None:
        payload = method.payload
        if payload not in self._routes and payload not in self._seen:
            if len(self._seen) >= self.session.broker.limits.routes_per_channel_max:
                self._seen.clear()
            self._seen.add(payload)
            return
        if len(self._routes) >= self.session.broker.limits.routes_per_channel_max:
            self._routes.clear()
        self._routes[payload] = route
        self._seen.discard(payload)

    def _return(self, origin: Origin, raws: list[bytes]) -> None:
        """Nobody wants a mandatory message: the publisher has it back (section 1.8.3.3)."""
        head = encode_return(self.number, _NO_ROUTE, "NO_ROUTE", origin.address)
        for raw in raws:
            self.session.connection.send(head + raw)

    # -- confirms ------------------------------------------------------------------------------

    def _select(self, method: commands.Confirm.Select) -> None:
        self._window.confirming = True
        if not method.nowait:
            self._send(commands.Confirm.SelectOk())

    def _confirm(self, sequence: int, multiple: bool) -> None:
        self._send(commands.Basic.Ack(sequence, multiple))
        self._turn.speak(self.session)

    # -- deliver -------------------------------------------------------------------------------

    @property
    def congested(self) -> bool:
        """Whether the peer has too much to take already."""
        session = self.session
        return session.connection.outbox_bytes + session.unsent_bytes > self._outbox_bytes_max

    @property
    def may_deliver(self) -> bool:
        """Whether consumers may have anything at all."""
        return not self.congested

    def deliver(
        self, consumer: ChannelConsumer, indexes: range, batch: Batch, redelivered: bool
    ) -> None:
        """Send messages to the peer, and note them as unsettled unless nobody will settle them."""
        tag = self._next_tag
        origins, raws = batch.origins, batch.raws
        origin = origins[0]
        if len(origins) == 1 or origins.count(origin) == len(origins):
            self._send_deliveries(consumer, tag, origin, raws, redelivered)
        else:
            start = 0
            for stop in range(1, len(origins) + 1):
                if stop == len(origins) or origins[stop] is not origins[start]:
                    part = raws[start:stop]
                    self._send_deliveries(consumer, tag + start, origins[start], part, redelivered)
                    start = stop
        self._next_tag = tag + len(raws)
        if not consumer.no_ack:
            self.unsettled.add(Delivered(tag, indexes, consumer.queue, consumer))
            consumer.unsettled += len(raws)
        self._turn.speak(self.session)

    def _send_deliveries(
        self,
        consumer: ChannelConsumer,
        tag: int,
        origin: Origin,
        raws: list[bytes],
        redelivered: bool,
    ) -> None:
        prefix, suffix = consumer.template(origin.address, redelivered)
        connection = self.session.connection
        frame_max = connection.frame_max
        if origin.channel == self.number and origin.frame_max <= frame_max:
            connection.send(encode_deliveries(prefix, tag, suffix, raws))
        else:
            connection.send(
                encode_reframed_deliveries(prefix, tag, suffix, raws, self.number, frame_max)
            )

    def resume_consumers(self) -> None:
        """Credit may have come back: who has some takes its turn again."""
        if self.prefetch and self.unsettled.count >= self.prefetch:
            return  # Nobody has: the next settle asks again.
        parked, self.parked_consumers = self.parked_consumers, {}
        for consumer in parked:
            if consumer.credit > 0:
                consumer.queue.resume(consumer)
            else:
                consumer.park()

    # -- settle --------------------------------------------------------------------------------

    def _settle(self, event: Settle) -> int:
        if event.multiple:
            taken, unknown = self.unsettled.take_up_to(event.last)
        else:
            taken, unknown = self.unsettled.take(event.first, event.last)
        if event.requeue:
            outcome = Outcome.REQUEUE
        elif event.index == _ACK_INDEX:
            outcome = Outcome.ACK
        else:
            outcome = Outcome.REJECT
        self._settle_runs(taken, outcome)
        if unknown is not None:
            raise PreconditionFailed(f"unknown delivery tag {unknown}")
        return len(taken)

    def _settle_runs(self, taken: list[Delivered], outcome: Outcome) -> None:
        for run in taken:
            run.queue.settle(run.indexes, outcome)
            consumer = run.consumer
            if isinstance(consumer, ChannelConsumer):
                consumer.unsettled -= len(run.indexes)
                if consumer in self.parked_consumers:
                    if consumer.credit > 0:
                        del self.parked_consumers[consumer]
                        consumer.queue.resume(consumer)
                    else:
                        consumer.park()  # Perhaps for another reason than before.
        if self.prefetch and self.parked_consumers:
            self.resume_consumers()

    # -- consume -------------------------------------------------------------------------------

    def _qos(self, method: commands.Basic.Qos) -> None:
        if method.prefetch_size:
            raise Unimplemented(f"prefetch_size!=0 ({method.prefetch_size})")
        if method.global_:
            self.prefetch = method.prefetch_count
            self.resume_consumers()
        else:
            self.prefetch_for_new = method.prefetch_count
            if self.prefetch:
                self.prefetch = 0  # The one replaces the other (RabbitMQ).
                self.resume_consumers()
        self._send(commands.Basic.QosOk())

    def _consume(self, method: commands.Basic.Consume) -> None:
        limit = self.session.broker.limits.consumers_per_channel_max
        tag = method.consumer_tag or self._generate_name("amq.ctag-")
        if tag in self._consumers:
            raise NotAllowed(f"attempt to reuse consumer tag '{tag}'")
        if len(self._consumers) >= limit:
            raise NotAllowed(f"reached maximum ({limit}) of consumers per channel")
        queue = self._queue(method.queue)
        consumer = ChannelConsumer(self, queue, tag, method.no_ack, method.exclusive)

        def reply(_: None) -> None:
            self._consumers[tag] = consumer
            if not method.nowait:
                self._send(commands.Basic.ConsumeOk(tag))

        self._answer(queue.consume(consumer), method.index, reply, lambda _: self._leave(consumer))

    def _cancel(self, method: commands.Basic.Cancel) -> None:
        consumer = self._consumers.get(method.consumer_tag or "")
        if consumer is not None:
            self._remove_consumer(consumer)
        if not method.nowait:
            self._send(commands.Basic.CancelOk(method.consumer_tag))

    def _remove_consumer(self, consumer: ChannelConsumer) -> None:
        """Take a consumer away; an auto-delete queue goes with its last."""
        del self._consumers[consumer.tag]
        self._leave(consumer)

    def _leave(self, consumer: ChannelConsumer) -> None:
        self.parked_consumers.pop(consumer, None)
        queue = consumer.queue
        queue.cancel(consumer)
        if queue.definition.auto_delete and not queue.version and not queue.stat().consumers:
            self._delete(queue.definition.name)

    def consumer_cancelled(self, consumer: ChannelConsumer) -> None:
        """The queue is gone; a peer that can bear it is told so (consumer_cancel_notify)."""
        if self._consumers.pop(consumer.tag, None) is None:
            return
        self.parked_consumers.pop(consumer, None)
        if self.session.connection.capabilities.get("consumer_cancel_notify") is True:
            self._send(commands.Basic.Cancel(consumer.tag, nowait=True))
            self._turn.speak(self.session)

    def _get(self, method: commands.Basic.Get) -> None:
        queue = self._queue(method.queue)

        def undo(got: Got | None) -> None:
            if got is not None and not method.no_ack:
                queue.settle(range(got.index, got.index + 1), Outcome.REQUEUE)

        def reply(got: Got | None) -> None:
            if got is None:
                self._send(commands.Basic.GetEmpty())
                return
            tag = self._next_tag
            self._next_tag += 1
            address = got.origin.address
            head = encode_get_ok(self.number, tag, got.redelivered, address, got.ready)
            connection = self.session.connection
            connection.send(head + reframe(got.raw, self.number, connection.frame_max))
            if not method.no_ack:
                indexes = range(got.index, got.index + 1)
                self.unsettled.add(Delivered(tag, indexes, queue, None))

        self._answer(queue.get(method.no_ack), method.index, reply, undo)

    def _recover(self, method: commands.Basic.Recover | commands.Basic.RecoverAsync) -> None:
        if not method.requeue:
            raise Unimplemented("requeue=false")
        taken, _ = self.unsettled.take_up_to(0)
        self._settle_runs(taken, Outcome.REQUEUE)
        if isinstance(method, commands.Basic.Recover):
            self._send(commands.Basic.RecoverOk())

    # -- queues --------------------------------------------------------------------------------

    def _name(self, name: str) -> str:
        """A queue's name.

        The empty one stands for the queue last declared on this channel (section 1.7.2).
        """
        if name:
            return name
        if self._last_queue is None:
            raise NotFound("no previously declared queue")
        return self._last_queue

    def _queue(self, name: str) -> Queue:
        return self.vhost.queue(self._name(name), self.session)

    def _generate_name(self, prefix: str) -> str:
        rng = self.session.broker.world.random
        return prefix + "".join(rng.choices(_BASE64URL, k=_GENERATED_NAME_LETTERS))

    def _declare_queue(self, method: commands.Queue.Declare) -> None:
        session = self.session
        name = _one_line(method.queue)
        if method.passive:
            queue = self.vhost.queue(name, session)
        else:
            generated = not name
            definition = QueueDefinition(
                self.vhost.name,
                name or self._generate_name("amq.gen-"),
                method.durable and not method.exclusive,
                method.exclusive,
                method.auto_delete,
                method.arguments or {},
            )
            limit = session.broker.limits.queues_per_vhost_max
            if len(self.vhost.queues) >= limit and definition.name not in self.vhost.queues:
                raise PreconditionFailed(
                    f"cannot declare queue '{definition.name}': "
                    f"queue limit in vhost '{self.vhost.name}' ({limit}) is reached"
                )
            queue = self.vhost.declare_queue(definition, session, generated)
            if definition.exclusive:
                session.own_queues[queue] = None
        self._last_queue = queue.definition.name
        if not method.nowait:
            stat = queue.stat()
            answer = commands.Queue.DeclareOk(None, stat.ready, stat.consumers)
            answer.queue = self._last_queue  # pamqp's constructor refuses some names.
            self._send(answer)

    def _delete_queue(self, method: commands.Queue.Delete) -> None:
        name = _one_line(self._name(method.queue))
        count = self._delete(name, method.if_unused, method.if_empty)
        if not method.nowait:
            self._send(commands.Queue.DeleteOk(count))

    def _delete(self, name: str, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete a queue, and forget it if it was the session's own."""
        queue = self.vhost.queues.get(name)
        count = self.vhost.delete_queue(name, self.session, if_unused, if_empty)
        if queue is not None:
            self.session.own_queues.pop(queue, None)
        return count

    def _purge(self, method: commands.Queue.Purge) -> None:
        def reply(count: int) -> None:
            if not method.nowait:
                self._send(commands.Queue.PurgeOk(count))

        self._answer(self._queue(method.queue).purge(), method.index, reply)

    def _bind_queue(self, method: commands.Queue.Bind) -> None:
        self.vhost.bind(self._binding(method), self.session)
        if not method.nowait:
            self._send(commands.Queue.BindOk())

    def _unbind_queue(self, method: commands.Queue.Unbind) -> None:
        self.vhost.unbind(self._binding(method), self.session)
        self._send(commands.Queue.UnbindOk())

    def _binding(self, method: commands.Queue.Bind | commands.Queue.Unbind) -> BindingDefinition:
        """What is to be bound.

        Without queue and routing key, both are the last queue's name (section 1.7.2.3).
        """
        queue = _one_line(self._name(method.queue))
        key = method.routing_key
        if not method.queue and not key:
            key = queue
        return BindingDefinition(
            self.vhost.name, _one_line(method.exchange), queue, key, method.arguments or {}
        )

    # -- exchanges -----------------------------------------------------------------------------

    def _declare_exchange(self, method: commands.Exchange.Declare) -> None:
        name = _one_line(method.exchange)
        if method.passive:
            self.vhost.check_named_exchange(name)
        else:
            self.vhost.declare_exchange(
                ExchangeDefinition(
                    self.vhost.name,
                    name,
                    method.exchange_type,
                    method.durable,
                    method.auto_delete,
                    method.internal,
                    method.arguments or {},
                )
            )
        if not method.nowait:
            self._send(commands.Exchange.DeclareOk())

    def _delete_exchange(self, method: commands.Exchange.Delete) -> None:
        self.vhost.delete_exchange(_one_line(method.exchange), method.if_unused)
        if not method.nowait:
            self._send(commands.Exchange.DeleteOk())


def _one_line(name: str) -> str:
    """A name without line ends, which get into some by accident (RabbitMQ)."""
    return name.replace("\r", "").replace("\n", "")


_ACK_INDEX = commands.Basic.Ack.index
_LATER = (
    commands.Exchange.Bind,
    commands.Exchange.Unbind,
    commands.Tx.Select,
    commands.Tx.Commit,
    commands.Tx.Rollback,
)
"""What RabbitMQ has and this version has not."""

_methods: dict[type[Frame], Callable[[Channel, Any], None]] = {
    commands.Channel.Close: Channel._close,
    commands.Channel.Flow: Channel._flow,
    commands.Confirm.Select: Channel._select,
    commands.Exchange.Declare: Channel._declare_exchange,
    commands.Exchange.Delete: Channel._delete_exchange,
    commands.Queue.Declare: Channel._declare_queue,
    commands.Queue.Delete: Channel._delete_queue,
    commands.Queue.Purge: Channel._purge,
    commands.Queue.Bind: Channel._bind_queue,
    commands.Queue.Unbind: Channel._unbind_queue,
    commands.Basic.Qos: Channel._qos,
    commands.Basic.Consume: Channel._consume,
    commands.Basic.Cancel: Channel._cancel,
    commands.Basic.Get: Channel._get,
    commands.Basic.Recover: Channel._recover,
    commands.Basic.RecoverAsync: Channel._recover,
}
"""What each method of a channel does."""

"""The publishing side of a channel (AMQP 0-9-1, section 1.8.3.7).

The way of a publish: the method's own octets find a `Route`, remembered from the time before, which
has everything that publishing there needs: the origin of such messages and the queues they go to.
It holds as long as the version of what it went through is the same, and the user's permissions are.
A route is remembered at second sight, so that a peer with a new address in every message fills no
memory.

Messages whose properties ask for something special (more routing keys, an expiration, a user-id, a
direct reply) go a longer way, `_publish_special`.

Other nodes may know of a queue or an exchange that this one has not heard of yet. Before a message
is returned, or its exchange is said not to be there, the node comes to know all that they do.
"""

import re
from typing import TYPE_CHECKING, Any

import attrs

from amqpbroker.broker.confirms import ConfirmWindow
from amqpbroker.broker.transaction import Outgoing
from amqpbroker.broker.turn import WORK_MAX
from amqpbroker.definitions import field_type
from amqpbroker.errors import (
    AccessRefused,
    NotKnown,
    PreconditionFailed,
    Unimplemented,
)
from amqpbroker.message import Origin, Traits
from amqpbroker.protocol.content import encode_return
from amqpbroker.protocol.events import Publish, PublishMethod
from amqpbroker.protocol.splice import with_reply_to, without_header
from amqpbroker.queues.queue import Destination, Pending, ReplyAddress
from amqpbroker.routing.router import Exchange

if TYPE_CHECKING:
    from amqpbroker.broker.channel import Channel

_NO_ROUTE = 312
_ROUTING_HEADERS = ("CC", "BCC")
TTL_MS_MAX = 315_360_000_000
"""Ten years (rabbit_misc:check_expiry)."""
_INTEGER = re.compile("[+-]?[0-9]+")


@attrs.define(eq=False)
class Route:
    """Where messages of one method, on one channel, with the same traits, go.

    It holds while ``source`` has ``version``.
    """

    exchange: Exchange
    source: Exchange | Destination
    version: int
    origin: Origin
    queues: tuple[Destination, ...]
    work: int
    """What finding it costs each time, in messages: 0 if it is remembered."""


class _LookedUp(Publish):
    """A run that has come again."""


@attrs.define(eq=False)
class PublisherCounts:
    """Messages that nobody wanted: they went back, or were dropped."""

    returned: int = 0
    dropped: int = 0


class Publisher:
    """Takes what the peer of ``channel`` publishes."""

    def __init__(self, channel: "Channel") -> None:
        self._channel = channel
        self._session = channel.session
        self._vhost = channel.vhost
        self._routes_max = channel.session.broker.limits.routes_per_channel_max
        self._routes: dict[bytes, Route] = {}
        self._seen: set[bytes] = set()
        self.counts = PublisherCounts()
        self.window = ConfirmWindow(
            channel.turn.confirm, self._session.account, channel.confirm, channel.refuse
        )

    def publish(self, event: Publish) -> int:
        """Take a run of messages; the work it was."""
        method, traits = event.method, event.traits
        route = self._routes.get(method.payload)
        if route is None or route.source.version != route.version:
            try:
                route = self._find_route(event)
            except NotKnown:
                if self._look_up(event):
                    return 1
                raise
        if traits.special:
            return route.work + self._publish_special(event, route)
        if method.mandatory and not route.queues and self._look_up(event):
            return 1
        origin = route.origin
        if origin.traits is not traits.kept:
            origin = self._origin(method, traits)
        raws = self._a_turn_of(event, len(route.queues))
        outgoing = Outgoing(origin, raws, route.queues, method.mandatory)
        return route.work + self._hand_over(outgoing, route.exchange)

    def _look_up(self, event: Publish) -> bool:
        """Have the messages come again when this node knows all that others do, before all else.

        False: it does, or nobody can be asked.
        """
        channel = self._channel
        coordinator = self._session.broker.coordinator
        if isinstance(event, _LookedUp):
            return False
        caught_up = coordinator.catch_up()
        if caught_up is None or coordinator.is_away:
            return False
        known: Pending[None] = Pending()
        caught_up.then = known.resolve
        caught_up.otherwise = lambda _: known.resolve(None)

        def come_again(_: None) -> None:
            again = _LookedUp(event.channel, event.method, event.traits, event.raws)
            channel.put_first(again)

        channel.answer(known, event.index, come_again)
        return True

    def _a_turn_of(self, event: Publish, queue_count: int) -> list[bytes]:
        """As many of the messages as a turn takes; the rest comes back before all else."""
        raws = event.raws
        if len(raws) * queue_count > WORK_MAX and len(raws) > 1:
            part = max(1, WORK_MAX // queue_count)
            self._session.put_back(Publish(event.channel, event.method, event.traits, raws[part:]))
            raws = raws[:part]
        return raws

    def _hand_over(self, outgoing: Outgoing, exchange: Exchange) -> int:
        count = len(outgoing.raws)
        exchange.published_in += count
        exchange.published_out += count * len(outgoing.queues)
        transaction = self._channel.transaction
        if transaction is not None:
            transaction.publish(outgoing)
        else:
            self.send(outgoing)
        return outgoing.work

    def send(self, outgoing: Outgoing) -> None:
        """Give messages to their queues; what no queue wants goes back if it is mandatory."""
        origin, raws = outgoing.origin, outgoing.raws
        targets = []
        for queue in outgoing.queues:
            targets.append((queue, queue.publish(origin, raws)))
        if outgoing.mandatory and all(isinstance(to, ReplyAddress) for to in outgoing.queues):
            self.counts.returned += len(raws)
            self._return(origin, raws)
        elif not targets:
            self.counts.dropped += len(raws)
        self.window.published(raws, targets)

    def _return(self, origin: Origin, raws: list[bytes]) -> None:
        """The publisher has its messages back (section 1.8.3.3)."""
        head = encode_return(self._channel.number, _NO_ROUTE, "NO_ROUTE", origin.address)
        for raw in raws:
            self._session.connection.send(head + raw)

    def close(self) -> None:
        """The channel ends: what is committed by now is told before close-ok."""
        self.window.advance()
        self.window.close()

    # -- routes --------------------------------------------------------------------------------

    def forget_routes(self) -> None:
        """The user's rights have changed: every way is looked for anew."""
        self._routes.clear()

    def _find_route(self, event: Publish) -> Route:
        """Work out a route: access, exchange, destinations; remember it if it is to be used again.

        Raises `AccessRefused`, `NotFound` and what else RabbitMQ has against it.
        """
        method, traits = event.method, event.traits
        if method.immediate:
            raise Unimplemented("immediate=true")
        exchange = self._exchange(method)
        queues, cacheable = self._vhost.route(
            method.exchange, (method.routing_key,), traits.headers
        )
        source: Exchange | Destination = exchange
        work = 0
        if not method.exchange:
            if queues:
                source = queues[0]
            else:
                cacheable = False  # Nothing would tell that such a queue is there now.
        elif not cacheable:
            work = len(exchange.bindings)
        origin = self._origin(method, traits)
        route = Route(exchange, source, source.version, origin, queues, work)
        if cacheable:
            self._remember(method.payload, route)
        return route

    def _exchange(self, method: PublishMethod) -> Exchange:
        """The exchange, if it is there and the user may publish to it with this routing key."""
        name, vhost, access = method.exchange, self._vhost, self._session.access
        access.check("write", "exchange", name, vhost.name)
        exchange = vhost.exchange(name)
        if exchange.definition.internal:
            raise AccessRefused(
                f"cannot publish to internal exchange '{name}' in vhost '{vhost.name}'"
            )
        if exchange.definition.type == "topic":
            access.check_topic("write", name, method.routing_key, vhost.name)
        return exchange

    def _remember(self, payload: bytes, route: Route) -> None:
        if payload not in self._routes and payload not in self._seen:
            if len(self._seen) >= self._routes_max:
                self._seen.clear()
            self._seen.add(payload)
            return
        if len(self._routes) >= self._routes_max:
            self._routes.clear()
        self._routes[payload] = route
        self._seen.discard(payload)

    def _origin(self, method: PublishMethod, traits: Traits, ttl_ms: int | None = None) -> Origin:
        """What messages of ``method`` with ``traits`` share."""
        return Origin(
            method.exchange,
            method.routing_key,
            method.address,
            self._channel.number,
            self._session.connection.frame_max,
            traits.kept,
            ttl_ms,
        )

    # -- special messages ----------------------------------------------------------------------

    def _publish_special(self, event: Publish, route: Route) -> int:
        """Take messages whose properties ask for more than to be routed by their address."""
        method, traits = event.method, event.traits
        reply_to = self._reply_address() if traits.direct_reply else None
        self._check_user_id(traits.user_id)
        ttl_ms = None if traits.expiration is None else parse_expiration(traits.expiration)
        more_keys = _routing_keys(traits.headers)
        queues = route.queues
        if more_keys:
            keys = tuple(dict.fromkeys((method.routing_key, *more_keys)))
            queues, _ = self._vhost.route(method.exchange, keys, traits.headers)
        if method.mandatory and not queues and self._look_up(event):
            return 1
        raws = self._a_turn_of(event, len(queues))
        if reply_to is not None:
            raws = [with_reply_to(raw, reply_to) for raw in raws]
        if traits.headers and "BCC" in traits.headers:
            raws = [without_header(raw, "BCC") for raw in raws]
        origin = self._origin(method, traits, ttl_ms)
        return len(more_keys) + self._hand_over(
            Outgoing(origin, raws, queues, method.mandatory), route.exchange
        )

    def _check_user_id(self, claimed: str | None) -> None:
        user = self._session.access.user
        if claimed not in (None, user.name) and "impersonator" not in user.tags:
            raise PreconditionFailed(
                f"user_id property set to '{claimed}' but authenticated user was '{user.name}'"
            )

    def _reply_address(self) -> str:
        consumer = self._channel.reply_consumer
        if consumer is None:
            raise PreconditionFailed("fast reply consumer does not exist")
        return consumer.address


def parse_expiration(text: str) -> int:
    """The property expiration, in milliseconds. Raises `PreconditionFailed` if it is none."""
    match = _INTEGER.match(text)
    ttl_ms = int(match[0]) if match else 0
    if match is None:
        reason = "no_integer"
    elif match.end() < len(text):
        reason = f'{{leftover_string,"{text[match.end() :]}"}}'
    elif ttl_ms < 0:
        reason = f"{{value_negative,{ttl_ms}}}"
    elif ttl_ms > TTL_MS_MAX:
        reason = f"{{value_too_large,{ttl_ms}}}"
    else:
        return ttl_ms
    raise PreconditionFailed(f"invalid expiration '{text}': {reason}")


def _routing_keys(headers: dict[str, Any] | None) -> list[str]:
    """The routing keys that the headers CC and BCC add (RabbitMQ: Sender-selected Distribution).

    Raises `PreconditionFailed` if one of them is no array; what is no text in an array is skipped.
    """
    keys: list[str] = []
    for name in _ROUTING_HEADERS:
        if headers is None or name not in headers:
            continue
        value = headers[name]
        if not isinstance(value, list):
            reason = f'{{unacceptable_type_in_header,"{name}",{field_type(value)}}}'
            raise PreconditionFailed(f"invalid message: {reason}")
        keys += [
            key if isinstance(key, str) else key.decode("utf-8", "surrogateescape")
            for key in value
            if isinstance(key, str | bytes)
        ]
    return keys

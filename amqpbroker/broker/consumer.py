"""Consumers on a channel: basic.consume, and what goes out to the peer."""

from typing import TYPE_CHECKING

from amqpbroker.broker.unsettled import Delivered
from amqpbroker.definitions import Arguments
from amqpbroker.message import Batch, Origin
from amqpbroker.protocol.content import (
    delivery_prefix,
    delivery_suffix,
    encode_deliveries,
    encode_reframed_deliveries,
)
from amqpbroker.protocol.fields import write_shortstr
from amqpbroker.queues.queue import NO_LIMIT, Consumer, Queue

if TYPE_CHECKING:
    from amqpbroker.broker.channel import Channel

_TEMPLATES_MAX = 256


class Deliverer:
    """Sends messages to the peer on ``channel``, under the consumer tag ``tag``."""

    def __init__(self, channel: "Channel", tag: str) -> None:
        self.channel = channel
        self.tag = tag
        self._tag_octets = write_shortstr(tag)
        self._templates: tuple[dict[bytes, tuple[bytes, bytes]], ...] = ({}, {})

    def send(self, batch: Batch, redelivered: bool) -> int:
        """Send the messages; the delivery tag of the first."""
        channel = self.channel
        origins, raws = batch.origins, batch.raws
        tag = channel.next_tag
        channel.next_tag = tag + len(raws)
        origin = origins[0]
        if len(origins) == 1 or origins.count(origin) == len(origins):
            self._send_run(tag, origin, raws, redelivered)
        else:
            start = 0
            for stop in range(1, len(origins) + 1):
                if stop == len(origins) or origins[stop] is not origins[start]:
                    self._send_run(tag + start, origins[start], raws[start:stop], redelivered)
                    start = stop
        channel.turn.speak(channel.session)
        return tag

    def _send_run(self, tag: int, origin: Origin, raws: list[bytes], redelivered: bool) -> None:
        prefix, suffix = self._template(origin.address, redelivered)
        channel = self.channel
        connection = channel.session.connection
        frame_max = connection.frame_max
        if origin.channel == channel.number and origin.frame_max <= frame_max:
            connection.send(encode_deliveries(prefix, tag, suffix, raws))
        else:
            connection.send(
                encode_reframed_deliveries(prefix, tag, suffix, raws, channel.number, frame_max)
            )

    def _template(self, address: bytes, redelivered: bool) -> tuple[bytes, bytes]:
        """What deliveries of messages with ``address`` have in common, before the tag and after."""
        templates = self._templates[redelivered]
        template = templates.get(address)
        if template is None:
            if len(templates) >= _TEMPLATES_MAX:
                templates.clear()
            template = templates[address] = (
                delivery_prefix(self.channel.number, self._tag_octets, address),
                delivery_suffix(address, redelivered),
            )
        return template


class ChannelConsumer(Consumer):
    """A basic.consume: a consumer on a channel."""

    def __init__(
        self,
        channel: "Channel",
        queue: Queue,
        tag: str,
        no_ack: bool,
        exclusive: bool,
        arguments: Arguments,
    ) -> None:
        self.queue = queue
        self.tag = tag
        self.no_ack = no_ack
        self.exclusive = exclusive
        self.arguments = arguments
        self.priority: int = arguments.get("x-priority", 0)
        self.prefetch = channel.prefetch_for_new
        self.unsettled = 0
        self.channel = channel
        self._deliverer = Deliverer(channel, tag)

    @property
    def purse(self) -> object | None:
        return self.channel if self.channel.prefetch and not self.no_ack else None

    @property
    def credit(self) -> int:
        channel = self.channel
        if channel.congested:
            return 0
        room = channel.prefetch - channel.unsettled_count if channel.prefetch else NO_LIMIT
        if self.no_ack:
            return NO_LIMIT if room > 0 else 0  # It takes no room, but asks for some (RabbitMQ).
        credit = self.prefetch - self.unsettled if self.prefetch else NO_LIMIT
        return min(credit, room)

    def deliver(self, queue: Queue, indexes: range, batch: Batch, redelivered: bool) -> None:
        tag = self._deliverer.send(batch, redelivered)
        if not self.no_ack:
            self.channel.unsettled.add(Delivered(tag, indexes, queue, self))
            self.unsettled += len(indexes)
            self.channel.unsettled_count += len(indexes)
            self.channel.last_served = self

    def park(self) -> None:
        self.channel.parked_consumers[self] = None
        if self.channel.congested:
            self.channel.session.congested[self.channel] = None

    def cancelled(self) -> None:
        self.channel.consumer_cancelled(self)

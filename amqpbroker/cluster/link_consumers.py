"""Consumers of other nodes, as the queues here have them.

For its queue such a consumer is one like all others. Its credit is what its node allows: limits of
messages and octets that count from the beginning (`Subscription` there), and room on the stream.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs

from amqpbroker.cluster import queue_frames as frames
from amqpbroker.cluster.wire import OUTBOX_BYTES_HIGH
from amqpbroker.message import Batch
from amqpbroker.queues.queue import Consumer, Queue

if TYPE_CHECKING:
    from amqpbroker.cluster.attachment import Attachment

_FRAME_BYTES_MAX = 1 << 20
"""Messages of more octets are sent as several deliveries."""


@attrs.define(eq=False)
class Purse:
    """What several consumers of another node may be sent together."""

    number: int
    limit: int = 0
    sent: int = 0
    consumers: dict["LinkConsumer", None] = attrs.Factory(dict)


class LinkConsumer(Consumer):
    """A consumer on another node: it is sent as many messages and octets as that allows."""

    def __init__(self, attachment: "Attachment", asked: frames.Consume) -> None:
        self.no_ack = asked.no_ack
        self.exclusive = asked.exclusive
        self.priority = asked.priority
        self.number = asked.consumer
        self.attachment = attachment
        self._purse: Purse | None = None
        self._limit = frames.Limit(0, 0, 0, 0)
        self._sent = 0
        self._sent_bytes = 0
        self._is_parked = False
        self.allow(frames.Limit(*asked.limit))

    @property
    def purse(self) -> Purse | None:
        return self._purse

    @property
    def credit(self) -> int:
        limit, purse = self._limit, self._purse
        credit = limit.messages - self._sent
        if purse is not None:
            credit = min(credit, purse.limit - purse.sent)
        if (
            credit <= 0
            or self._sent_bytes >= limit.octets
            or self.attachment.stream.link.outbox_bytes > OUTBOX_BYTES_HIGH
        ):
            return 0
        return credit

    def allow(self, limit: frames.Limit) -> None:
        """So much it, and all who share its purse, may be sent in all."""
        self._limit = limit
        if limit.purse != (0 if self._purse is None else self._purse.number):
            self.drop_purse()
            if limit.purse:
                self._purse = self.attachment.stream.purse(limit.purse)
                self._purse.consumers[self] = None
        if self._purse is None:
            self.resume()
        else:
            self._purse.limit = limit.purse_messages
            for consumer in list(self._purse.consumers):
                consumer.resume()

    def drop_purse(self) -> None:
        """Share credit with nobody any more."""
        purse, self._purse = self._purse, None
        if purse is not None:
            del purse.consumers[self]
            if not purse.consumers:
                del self.attachment.stream.purses[purse.number]

    def resume(self) -> None:
        """Go on if there is credit, and the queue has passed it over."""
        if not self._is_parked:
            return
        queue = self.attachment.queue
        if queue is not None and self.credit > 0:
            self._is_parked = False
            queue.resume(self)
        else:
            self.park()  # Perhaps for another reason than before.

    def deliver(self, queue: Queue, indexes: range, batch: Batch, redelivered: bool) -> None:
        self._sent += len(indexes)
        size = sum(map(len, batch.raws))
        self._sent_bytes += size
        if not self.no_ack:
            self.attachment.held.add(indexes)
        if self._purse is not None:
            self._purse.sent += len(indexes)
            del self._purse.consumers[self]  # Next time, the others come first.
            self._purse.consumers[self] = None
        if size <= _FRAME_BYTES_MAX:
            self._send(indexes, batch, redelivered)
        else:
            for part in _parts(batch.raws):
                some = Batch(batch.origins[part], batch.raws[part])
                self._send(indexes[part], some, redelivered)

    def _send(self, indexes: range, batch: Batch, redelivered: bool) -> None:
        account = 0 if self._purse is None else self._purse.number
        self.attachment.stream.send(
            frames.DELIVER,
            frames.encode_deliver(self.number, account, indexes, batch, redelivered),
        )

    def park(self) -> None:
        self._is_parked = True
        attachment = self.attachment
        if attachment.stream.link.outbox_bytes > OUTBOX_BYTES_HIGH:
            attachment.stream.congested[self] = None

    def cancelled(self) -> None:
        self.attachment.consumers.pop(self, None)
        self.attachment.stream.forget(self)


def _parts(raws: list[bytes]) -> Iterator[slice]:
    """Where to cut messages, so that the parts, of at least one, are not too big for a frame."""
    start = size = 0
    for place, raw in enumerate(raws):
        size += len(raw)
        if size > _FRAME_BYTES_MAX and place > start:
            yield slice(start, place)
            start, size = place, len(raw)
    yield slice(start, len(raws))

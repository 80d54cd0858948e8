"""Direct reply-to: answers that go to the channel that asks, past all queues.

A peer consumes from the pseudo-queue ``amq.rabbitmq.reply-to`` and names it as reply-to of its
requests. The broker puts an address in its place that nobody can guess; what is published there, by
the default exchange, goes straight to the channel, and to nowhere once that is gone (RabbitMQ:
Direct Reply-to). For what waits for commit, and what goes back because no queue took it, a reply
is not routed at all: it is on its way already, and in no queue (RabbitMQ).
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from amqpbroker.broker.consumer import Deliverer
from amqpbroker.message import Batch, Origin
from amqpbroker.queues.queue import Destination

if TYPE_CHECKING:
    from amqpbroker.broker.channel import Channel

log = logging.getLogger(__name__)

REPLY_TO = "amq.rabbitmq.reply-to"
_ADDRESS_PREFIX = REPLY_TO + "."


class ReplyConsumer(Destination):
    """The consumer of replies of one channel; published messages are delivered at once.

    ``token`` makes its address. A peer that does not take its replies loses those over
    ``backlog_bytes_max``.
    """

    def __init__(self, channel: "Channel", tag: str, token: str, backlog_bytes_max: int) -> None:
        self.tag = tag
        self.version = 0
        self.address = _ADDRESS_PREFIX + token
        self._channel = channel
        self._deliverer = Deliverer(channel, tag)
        self._backlog_bytes_max = backlog_bytes_max
        self._published = 0
        channel.vhost.replies[self.address] = self

    @property
    def committed(self) -> int:
        return self._published

    def publish(self, origin: Origin, raws: list[bytes]) -> int:
        self._published += len(raws)
        session = self._channel.session
        if session.backlog_bytes > self._backlog_bytes_max:
            log.warning("%d replies to %s are lost: it takes none", len(raws), session.host)
        else:
            for raw in raws:
                tag = self._deliverer.send(Batch([origin], [raw]), redelivered=False)
                self._channel.next_tag = tag  # Replies use no delivery tag up (RabbitMQ).
        return self._published

    def when_committed(self, call: Callable[[], None]) -> None:
        """Nothing is ever waited for here."""

    def close(self) -> None:
        """No more replies: who remembers the way here must look again."""
        self.version += 1
        del self._channel.vhost.replies[self.address]
        del self._channel, self._deliverer  # Whoever remembers the way does not keep the channel.

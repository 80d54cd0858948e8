"""Direct reply-to: answers that go to the channel that asks, past all queues.

A peer consumes from the pseudo-queue ``amq.rabbitmq.reply-to`` and names it as reply-to of its
requests. The broker puts an address in its place that nobody can guess; what is published there, by
the default exchange, goes straight to the channel, and to nowhere once that is gone (RabbitMQ:
Direct Reply-to). For what waits for commit, and what goes back because no queue took it, a reply
is not routed at all: it is on its way already, and in no queue (RabbitMQ).

An address names the node on which the channel is, so that a reply finds its way from any other.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from amqpbroker.broker.consumer import Deliverer
from amqpbroker.cluster.remote_reply import REPLY_TO, address_prefix
from amqpbroker.message import Batch, Origin
from amqpbroker.queues.queue import ReplyAddress

if TYPE_CHECKING:
    from amqpbroker.broker.channel import Channel

log = logging.getLogger(__name__)


class Replies:
    """The addresses for direct replies that are known at the node ``node``.

    All virtual hosts share them: who knows an address may answer from anywhere (RabbitMQ).
    ``elsewhere`` finds those of other nodes; such a node may know nothing of it by now.
    """

    def __init__(self, node: str) -> None:
        self.here: dict[str, ReplyConsumer] = {}
        """Consumers of direct replies, by the address that the broker gave them."""
        self.elsewhere: Callable[[str], ReplyAddress | None] = lambda address: None
        self._prefix = address_prefix(node)

    def new_address(self, token: str) -> str:
        """The address that nobody else has, if nobody else has the ``token``."""
        return self._prefix + token

    def find(self, address: str) -> ReplyAddress | None:
        """Where replies to ``address`` go; None: to nobody."""
        here = self.here.get(address)
        if here is not None or not address.startswith(REPLY_TO):
            return here
        return self.elsewhere(address)


class ReplyConsumer(ReplyAddress):
    """The consumer of replies of one channel; published messages are delivered at once.

    ``token`` makes its address. A peer that does not take its replies loses those over
    ``backlog_bytes_max``.
    """

    def __init__(self, channel: "Channel", tag: str, token: str, backlog_bytes_max: int) -> None:
        self.tag = tag
        self.version = 0
        self.address = channel.vhost.replies.new_address(token)
        self._channel = channel
        self._deliverer = Deliverer(channel, tag)
        self._backlog_bytes_max = backlog_bytes_max
        self._published = 0
        channel.vhost.replies.here[self.address] = self

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

    def is_there(self) -> bool:
        return True

    def close(self) -> None:
        """No more replies: who remembers the way here must look again."""
        self.version += 1
        del self._channel.vhost.replies.here[self.address]
        del self._channel, self._deliverer  # Whoever remembers the way does not keep the channel.

"""What is counted beside queues and exchanges: who came and went, and what they had counted."""

from typing import TYPE_CHECKING

import attrs

from amqpbroker.queues.queue import Queue, QueueCounts
from amqpbroker.routing.router import Exchange

if TYPE_CHECKING:
    from amqpbroker.broker.publisher import Publisher


@attrs.define(eq=False)
class Churn:
    """Connections and channels that came and went."""

    connections_created: int = 0
    connections_closed: int = 0
    channels_created: int = 0
    channels_closed: int = 0


@attrs.define(eq=False)
class VHostCounts:
    """What was counted in a virtual host by what is gone, so that no sum ever falls.

    Of queues, by those that were on this node.
    """

    queues: QueueCounts = attrs.Factory(QueueCounts)
    published: int = 0
    """Messages, to exchanges that are gone; the others by channels that are."""
    confirmed: int = 0
    returned: int = 0
    dropped: int = 0
    queues_declared: int = 0
    queues_created: int = 0
    queues_deleted: int = 0

    def queue_made(self, queue: Queue) -> None:
        """A queue is there."""
        self.queues_created += queue.is_here

    def queue_gone(self, queue: Queue) -> None:
        """A queue is about to be deleted."""
        if queue.is_here:
            self.queues_deleted += 1
            self.queues.add(queue.counts)

    def exchange_gone(self, exchange: Exchange) -> None:
        """An exchange is about to be deleted."""
        self.published += exchange.published_in

    def publisher_gone(self, publisher: "Publisher") -> None:
        """A channel is about to be closed."""
        self.confirmed += publisher.window.confirmed_count
        self.returned += publisher.counts.returned
        self.dropped += publisher.counts.dropped

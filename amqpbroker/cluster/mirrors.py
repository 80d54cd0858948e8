"""The mirrors that a node has, and the leaders of their queues, by the streams that lead there.

A mirror says hello as soon as there is a stream to its leader, and again when it is told something
that does not follow from what it was told before: then it is compared anew, and all else that goes
over the stream is not disturbed.
"""

import logging
from collections.abc import Callable
from functools import partial

from amqpbroker.cluster import replica_frames as frames
from amqpbroker.cluster.wire import Link, LinkUser
from amqpbroker.errors import LinkFault
from amqpbroker.message import Origin
from amqpbroker.replication.entries import Append, Entry, Fill
from amqpbroker.replication.mirror import Mirror

log = logging.getLogger(__name__)


class FollowedQueue:
    """One queue of which this node has a mirror; ``speak`` has `flush` called at the turn's end."""

    def __init__(
        self,
        queue_id: int,
        mirror: Mirror,
        node: str,
        epoch: int,
        speak: Callable[["FollowedQueue"], None],
    ) -> None:
        self.queue_id = queue_id
        self.mirror = mirror
        self.node = node
        """Who leads it, in ``epoch``."""
        self.epoch = epoch
        self.link: Link | None = None
        """The stream on which it has said hello."""
        mirror.on_kept = partial(speak, self)
        self._speak = speak

    def say_hello(self, link: Link) -> None:
        """Begin to follow, on a stream to the leader."""
        hello = self.mirror.hello(self.epoch)
        self.link = link
        link.send(frames.HELLO, frames.encode_hello(self.queue_id, self.epoch, hello))

    def take(self, link: Link, entry: Entry) -> None:
        """The leader has told something."""
        try:
            self.mirror.take(self.epoch, [entry])
        except LinkFault as fault:
            log.warning("mirror of queue %d: %s: it begins anew", self.queue_id, fault)
            self.say_hello(link)
        self._speak(self)

    def flush(self) -> None:
        """Say what is kept by now."""
        if self.link is not None and (ack := self.mirror.ack()) is not None:
            self.link.send(frames.ACK, frames.encode_ack(self.queue_id, self.epoch, ack))


class Mirrors(LinkUser):
    """All mirrors that a node has, for the streams that it has dialled."""

    def __init__(self, speak: Callable[[FollowedQueue], None]) -> None:
        self.queues: dict[int, FollowedQueue] = {}
        """By their ids."""
        self._speak = speak
        self._links: dict[str, Link] = {}
        self._known: dict[Link, dict[bytes, Origin]] = {}

    def follow(self, queue_id: int, mirror: Mirror, node: str, epoch: int) -> None:
        """Have a mirror follow the node that leads its queue in an epoch."""
        queue = FollowedQueue(queue_id, mirror, node, epoch, self._speak)
        self.queues[queue_id] = queue
        link = self._links.get(node)
        if link is not None:
            queue.say_hello(link)

    def give_up(self, queue_id: int) -> Mirror:
        """Follow nobody any more; the mirror is left as it is."""
        return self.queues.pop(queue_id).mirror

    def up(self, link: Link) -> None:
        self._links[link.node] = link
        self._known[link] = {}
        for queue in self.queues.values():
            if queue.node == link.node:
                queue.say_hello(link)

    def down(self, link: Link) -> None:
        del self._links[link.node], self._known[link]
        for queue in self.queues.values():
            if queue.link is link:
                queue.link = None

    def drained(self, link: Link) -> None:
        """What mirrors say is little."""

    def frame(self, link: Link, kind: int, payload: bytes) -> int:
        queue_id, epoch, said = frames.decode_head(payload)
        queue = self.queues.get(queue_id)
        if kind == frames.REFUSED:
            return 1  # The record will say who leads.
        entry = frames.decode_entry(kind, said, self._known[link])
        if queue is not None and queue.link is link and epoch == queue.epoch:
            queue.take(link, entry)
        return _work(entry)


def _work(entry: Entry) -> int:
    """The messages in it, or one."""
    if isinstance(entry, Append):
        return len(entry.batch.raws)
    return len(entry.image.raws) if isinstance(entry, Fill) else 1

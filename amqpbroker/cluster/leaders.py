"""The queues that a node leads, and their mirrors on other nodes, by the streams that lead there.

A mirror says hello on the stream that its node has dialled; from then on it is told what happens to
the queue, in one go at the end of each turn. What it lacks of older messages it is sent beside
that, as long as there is room on the stream and not too much is on its way to it.
"""

from collections.abc import Callable
from functools import partial

from amqpbroker.cluster import replica_frames as frames
from amqpbroker.cluster.wire import OUTBOX_BYTES_HIGH, Link, LinkUser
from amqpbroker.errors import LinkFault
from amqpbroker.replication.entries import Entry
from amqpbroker.replication.leader import Follower, Leader
from amqpbroker.world import Clock

_CONTROL_WORK = 16
PAGES_UNKEPT_MAX = 4
"""Pages that a mirror is sent before it says that it keeps the first."""


class LedQueue:
    """One queue that is led here; ``speak`` has `flush` called at the end of the turn."""

    def __init__(
        self,
        queue_id: int,
        leader: Leader,
        clock: Clock,
        speak: Callable[["LedQueue"], None],
    ) -> None:
        self.queue_id = queue_id
        self.leader = leader
        self.streams: dict[Link, Follower] = {}
        self._clock = clock
        self._speak = speak
        self._encoded: tuple[list[Entry], list[tuple[int, list[bytes]]]] = [], []
        leader.on_news = partial(speak, self)

    @property
    def epoch(self) -> int:
        """The one in which it is led here."""
        return self.leader.record.epoch

    def join(self, link: Link, said: bytes) -> None:
        """A mirror says hello. Raises `LinkFault`."""
        hello = frames.decode_hello(said)
        tell = partial(self._tell, link)
        self.streams[link] = self.leader.join(hello, tell, self._clock.monotonic_s())
        self._speak(self)

    def leave(self, link: Link) -> None:
        """The stream of a mirror is broken."""
        follower = self.streams.pop(link, None)
        if follower is not None:
            self.leader.leave(follower)
            self._speak(self)

    def acknowledge(self, link: Link, said: bytes) -> None:
        """A mirror keeps something. Raises `LinkFault`."""
        follower = self.streams.get(link)
        if follower is not None:
            ack = frames.decode_ack(said)
            self.leader.acknowledge(follower, ack, self._clock.monotonic_s())
            self._speak(self)

    def _tell(self, link: Link, entries: list[Entry]) -> None:
        """Send what a mirror is to be told; what all are told is said in octets once."""
        if self._encoded[0] is not entries:
            encoded = [frames.encode_entry(self.queue_id, self.epoch, each) for each in entries]
            self._encoded = entries, encoded
        for kind, pieces in self._encoded[1]:
            link.send(kind, pieces)

    def flush(self) -> None:
        """Tell the mirrors what is new, and some of what they lack."""
        self.leader.flush(self._clock.monotonic_s())
        self._encoded = [], []
        for link, follower in self.streams.items():
            self.feed(link, follower)

    def feed(self, link: Link, follower: Follower) -> None:
        """Send a mirror some of what it lacks."""
        while (
            not follower.is_told
            and follower.pages - follower.pages_kept < PAGES_UNKEPT_MAX
            and link.outbox_bytes <= OUTBOX_BYTES_HIGH
        ):
            self.leader.feed(follower)


class Leaders(LinkUser):
    """All queues that a node leads, for the streams on which it was dialled."""

    def __init__(self, clock: Clock, speak: Callable[[LedQueue], None]) -> None:
        self.queues: dict[int, LedQueue] = {}
        """By their ids."""
        self._clock = clock
        self._speak = speak
        self._on_link: dict[Link, dict[LedQueue, None]] = {}

    def lead(self, queue_id: int, leader: Leader) -> LedQueue:
        """Lead a queue from now on."""
        queue = LedQueue(queue_id, leader, self._clock, self._speak)
        self.queues[queue_id] = queue
        queue.flush()
        return queue

    def give_up(self, queue_id: int) -> None:
        """Lead a queue no longer; its mirrors are told when they ask."""
        queue = self.queues.pop(queue_id)
        for link in queue.streams:
            self._on_link[link].pop(queue, None)

    def up(self, link: Link) -> None:
        self._on_link[link] = {}

    def down(self, link: Link) -> None:
        for queue in self._on_link.pop(link):
            queue.leave(link)

    def drained(self, link: Link) -> None:
        for queue in self._on_link[link]:
            self._speak(queue)

    def frame(self, link: Link, kind: int, payload: bytes) -> int:
        queue_id, epoch, said = frames.decode_head(payload)
        queue = self.queues.get(queue_id)
        if kind == frames.HELLO:
            self._join(link, queue_id, epoch, said)
        elif kind != frames.ACK:
            raise LinkFault(f"a frame of kind {kind} is nothing that a mirror says")
        elif queue is not None and epoch == queue.epoch:
            queue.acknowledge(link, said)
            return 1
        return _CONTROL_WORK

    def _join(self, link: Link, queue_id: int, epoch: int, said: bytes) -> None:
        queue = self.queues.get(queue_id)
        if queue is not None and epoch == queue.epoch:
            queue.join(link, said)
            self._on_link[link][queue] = None
        else:
            own = 0 if queue is None else queue.epoch
            link.send(frames.REFUSED, frames.encode_refused(queue_id, own))

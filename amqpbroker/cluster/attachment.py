"""What a stream from another node has to do with the queues here.

A `ServedStream` has an `Attachment` for each queue that the other node speaks of: what it has
published, and has to be told of; what it was given, and has not settled. Its consumers are
`LinkConsumer`s.
"""

from collections import deque
from collections.abc import Callable
from itertools import groupby
from typing import Any, Protocol

import attrs

from amqpbroker.cluster import queue_frames as frames
from amqpbroker.cluster.link_consumers import LinkConsumer, Purse
from amqpbroker.cluster.wire import Link
from amqpbroker.errors import LinkFault
from amqpbroker.message import Batch
from amqpbroker.queues.queue import Outcome, Pending, Queue
from amqpbroker.storage.index_set import IndexSet

_RETURNED_AT_ONCE = 1024
"""Messages of another node that is gone which go back to their queue before anything else does."""


class Turns(Protocol):
    """What serving asks of the turns of its node."""

    def confirm(self, window: Any) -> None:
        """Call ``window.advance()`` at the end of the turn."""

    def resume(self, worker: Any) -> None:
        """Call ``worker.work_off(work_max)`` when there is time."""


class Resuming(Protocol):
    """What goes on when there is room on a stream."""

    def resume(self) -> None:
        """There is."""


class Attachment:
    """What one stream has to do with one queue: ``queue`` is None if it is not here (yet)."""

    def __init__(self, stream: "ServedStream", queue_id: int) -> None:
        self.stream = stream
        self.queue_id = queue_id
        self.queue: Queue | None = None
        self.parked: deque[Callable[[], int]] | None = None
        """What is to be done once this node knows all that the other may know."""
        self.held = IndexSet()
        """What was delivered, and is not settled."""
        self.consumers: dict[LinkConsumer, None] = {}
        self._received = 0
        self._told = 0
        self._uncommitted: list[tuple[int, int]] = []
        """Runs of messages: how many had been received with them, and the index behind them."""
        self._refused: list[range] = []

    def publish(self, ttl_ms: int | None, first: int, batch: Batch) -> None:
        """Messages have come. Raises `LinkFault` if some before them have not."""
        if first != self._received:
            raise LinkFault(f"queue {self.queue_id}: messages are missing before the {first}th")
        queue = self.queue
        origins, raws = batch.origins, batch.raws
        if queue is None:
            self._received += len(raws)
            self._refused.append(range(first, self._received))
        elif origins.count(origins[0]) == len(origins) and ttl_ms is None:
            self._received += len(raws)
            self._uncommitted.append((self._received, queue.publish(origins[0], raws)))
        else:
            start = 0
            for same, run in groupby(origins):
                origin = same
                stop = start + len(list(run))
                self._received += stop - start
                if ttl_ms is not None:
                    origin = attrs.evolve(origin, ttl_ms=ttl_ms)
                end = queue.publish(origin, raws[start:stop])
                self._uncommitted.append((self._received, end))
                start = stop
        self.stream.confirm(self)

    def _committed(self) -> None:
        self.stream.confirm(self)

    def news(self) -> bytes:
        """How many messages are committed by now, for a frame that tells it; empty: no more."""
        queue, uncommitted = self.queue, self._uncommitted
        count = self._received
        if queue is not None and uncommitted:
            committed = queue.committed
            done = 0
            while done < len(uncommitted) and uncommitted[done][1] <= committed:
                done += 1
            if done < len(uncommitted):
                queue.when_committed(self._committed)
                received, end = uncommitted[done]
                before = uncommitted[done - 1][0] if done else self._told
                count = max(before, received - (end - committed))
            del uncommitted[:done]
        if count <= self._told:
            return b""
        refused, self._refused = self._refused, []
        self._told = count
        return frames.encode_committed(self.queue_id, count, refused)

    def settle(self, run: range, outcome: Outcome) -> None:
        """Note what became of messages. Raises `LinkFault` if the other node does not have them."""
        if not self.held.remove(run):
            raise LinkFault(f"queue {self.queue_id}: what was settled was not delivered")
        if self.queue is not None:
            self.queue.settle(run, outcome)

    def end(self) -> None:
        """The other node is gone: its consumers leave, and what it had waits again."""
        consumers, self.consumers = self.consumers, {}
        for consumer in consumers:
            self.stream.forget(consumer)
            if self.queue is not None:
                self.queue.cancel(consumer)
        self.stream.turns.resume(self)

    def work_off(self, work_max: int) -> int:
        """Have some of what the other node had wait again; the work it was."""
        work = 0
        while work < work_max and (runs := self.held.take_up_to(_RETURNED_AT_ONCE)):
            for run in runs:
                if self.queue is not None:
                    self.queue.settle(run, Outcome.REQUEUE)
            work += len(runs)
        if work >= work_max:
            self.stream.turns.resume(self)
        return work


class ServedStream:
    """What another node has to do with queues here, on one stream.

    ``catch_up`` has this node come to know all that was decided: the other node may have heard of a
    queue first. What it asks of such a queue waits until then, in order; no other queue is kept.
    """

    def __init__(
        self,
        link: Link,
        turns: Turns,
        find: Callable[[int], Queue | None],
        catch_up: Callable[[], Pending[None] | None],
    ) -> None:
        self.link = link
        self.turns = turns
        self.attachments: dict[int, Attachment] = {}
        self.consumers: dict[int, LinkConsumer] = {}
        self.congested: dict[Resuming, None] = {}
        """Who waits for room on the stream."""
        self.purses: dict[int, Purse] = {}
        self.known: frames.Origins = {}
        self._confirming: dict[Attachment, None] = {}
        self._find = find
        self.is_over = False
        """Whether the stream is broken."""
        self._catch_up = catch_up
        self._late: deque[Attachment] = deque()

    def send(self, kind: int, pieces: list[bytes]) -> None:
        """Send a frame, unless the stream is broken."""
        if not self.is_over:
            self.link.send(kind, pieces)

    def confirm(self, attachment: "Attachment") -> None:
        """Perhaps more of what was published to a queue is committed."""
        self._confirming[attachment] = None
        self.turns.confirm(self)

    def advance(self) -> None:
        """Tell what is committed by now of all queues."""
        confirming, self._confirming = self._confirming, {}
        news = [told for attachment in confirming if (told := attachment.news())]
        if news:
            self.send(frames.COMMITTED, news)

    def end(self) -> None:
        """The stream is broken."""
        self.is_over = True
        self._late.clear()
        for attachment in self.attachments.values():
            attachment.parked = None
            attachment.end()

    def attachment(self, queue_id: int) -> Attachment:
        """What it has to do with a queue, which is looked for if it was not here."""
        attachment = self.attachments.get(queue_id)
        if attachment is None:
            attachment = self.attachments[queue_id] = Attachment(self, queue_id)
        if attachment.queue is None:
            attachment.queue = self._find(queue_id)
        return attachment

    def is_late(self, attachment: Attachment, act: Callable[[], int]) -> bool:
        """Whether what is asked of a queue has to wait, as this node may hear of the queue soon.

        Then ``act``, which returns the work it was, is called when the node knows all: if the queue
        is not here then, there is none.
        """
        if attachment.parked is None:
            if attachment.queue is not None:
                return False
            caught_up = self._catch_up()
            if caught_up is None:
                return False
            attachment.parked = deque()
            caught_up.then = lambda _: self._go_on(attachment)
            caught_up.otherwise = lambda _: self._go_on(attachment)
        attachment.parked.append(act)
        return True

    def _go_on(self, attachment: Attachment) -> None:
        if not self.is_over:
            attachment.queue = self._find(attachment.queue_id)
            self._late.append(attachment)
            self.turns.resume(self)

    def work_off(self, work_max: int) -> int:
        """Do some of what has waited for this node to know of queues; the work it was."""
        work = 0
        while self._late and work < work_max:
            attachment = self._late[0]
            if attachment.parked:
                try:
                    work += attachment.parked.popleft()()
                except LinkFault as fault:
                    self.link.break_off(str(fault))
                    return work
            else:
                attachment.parked = None
                self._late.popleft()
        if self._late:
            self.turns.resume(self)
        return work

    def queue(self, queue_id: int) -> Queue | None:
        """A queue, if it is here, and not deleted."""
        queue = self.attachment(queue_id).queue
        return None if queue is None or queue.version else queue

    def purse(self, number: int) -> Purse:
        """What consumers share, who say that it has this number."""
        purse = self.purses.get(number)
        if purse is None:
            purse = self.purses[number] = Purse(number)
        return purse

    def forget(self, consumer: LinkConsumer) -> None:
        """A consumer is gone."""
        consumer.drop_purse()
        self.consumers.pop(consumer.number, None)
        self.congested.pop(consumer, None)

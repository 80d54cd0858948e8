"""What other nodes do with the queues of this one.

On each stream that another node has dialled, `Serving` does what that asks: it publishes, settles
and adds consumers to the queues here, in the order in which it was asked, and tells what comes of
it. For a queue, the consumers of another node are consumers like all others (`LinkConsumer`): their
credit is what the other node allows. When a stream breaks, they leave, and what they had not
settled waits again.
"""

import logging
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any, Protocol

import attrs

from amqpbroker.cluster import queue_frames as frames
from amqpbroker.cluster.wire import OUTBOX_BYTES_HIGH, Link, LinkUser
from amqpbroker.definitions import QueueDefinition
from amqpbroker.errors import AmqpError, InternalError, LinkFault
from amqpbroker.message import Batch
from amqpbroker.queues.queue import Consumer, Got, Outcome, Pending, Queue, QueueStat
from amqpbroker.queues.ready import runs_of

log = logging.getLogger(__name__)

_BLOCK_INDEXES = 1024
_CONTROL_WORK = 16


class Turns(Protocol):
    """What serving asks of the turns of its node."""

    def confirm(self, window: Any) -> None:
        """Call ``window.advance()`` at the end of the turn."""

    def resume(self, worker: Any) -> None:
        """Call ``worker.work_off(work_max)`` when there is time."""


class IndexSet:
    """Indexes of a log: those that another node has and has not settled.

    A bit for each, in blocks: runs come and go in a few operations, however they interleave.
    """

    def __init__(self) -> None:
        self._blocks: dict[int, int] = {}

    def add(self, run: range) -> None:
        """Take in indexes that are not in it; at least one."""
        blocks = self._blocks
        for number, mask in _masks(run):
            blocks[number] = blocks.get(number, 0) | mask

    def remove(self, run: range) -> bool:
        """Take out indexes, at least one; False if one of them is not in it."""
        blocks = self._blocks
        for number, mask in _masks(run):
            left = blocks.get(number, 0)
            if left & mask != mask:
                return False
            left ^= mask
            if left:
                blocks[number] = left
            else:
                del blocks[number]
        return True

    def take(self) -> list[range]:
        """Take out some, in order, as runs; none if it is empty."""
        if not self._blocks:
            return []
        number = min(self._blocks)
        mask = self._blocks.pop(number)
        base = number * _BLOCK_INDEXES
        return runs_of([base + bit for bit in range(mask.bit_length()) if mask >> bit & 1])


def _masks(run: range) -> Iterator[tuple[int, int]]:
    """The blocks that a run lies in, and its bits there."""
    step = run.step
    while run:
        number, start = divmod(run.start, _BLOCK_INDEXES)
        count = min(len(run), (_BLOCK_INDEXES - start + step - 1) // step)
        if step == 1 or count == 1:
            mask = (1 << count) - 1
        else:
            mask = ((1 << count * step) - 1) // ((1 << step) - 1)
        yield number, mask << start
        run = run[count:]


@attrs.define(eq=False)
class _Purse:
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
        self._purse: _Purse | None = None
        self._limit = frames.Limit(0, 0, 0, 0)
        self._sent = 0
        self._sent_bytes = 0
        self._is_parked = False
        self.allow(frames.Limit(*asked.limit))

    @property
    def purse(self) -> "_Purse | None":
        return self._purse

    @property
    def credit(self) -> int:
        limit = self._limit
        if (
            self._sent_bytes >= limit.octets
            or self.attachment.stream.link.outbox_bytes > OUTBOX_BYTES_HIGH
        ):
            return 0
        credit = limit.messages - self._sent
        purse = self._purse
        return credit if purse is None else min(credit, purse.limit - purse.sent)

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
        attachment = self.attachment
        self._sent += len(indexes)
        self._sent_bytes += sum(map(len, batch.raws))
        if not self.no_ack:
            attachment.held.add(indexes)
        account = 0
        if self._purse is not None:
            account = self._purse.number
            self._purse.sent += len(indexes)
            del self._purse.consumers[self]  # Next time, the others come first.
            self._purse.consumers[self] = None
        attachment.stream.send(
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


class Attachment:
    """What one stream has to do with one queue: ``queue`` is None if it is not here (yet)."""

    def __init__(self, stream: "_Stream", queue_id: int) -> None:
        self.stream = stream
        self.queue_id = queue_id
        self.queue: Queue | None = None
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
        self.stream.turns.confirm(self)

    def _committed(self) -> None:
        self.stream.turns.confirm(self)

    def advance(self) -> None:
        """Tell how many messages are committed by now."""
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
        if count > self._told:
            refused, self._refused = self._refused, []
            self._told = count
            self.stream.send(
                frames.COMMITTED, frames.encode_committed(self.queue_id, count, refused)
            )

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
        while work < work_max and (runs := self.held.take()):
            for run in runs:
                if self.queue is not None:
                    self.queue.settle(run, Outcome.REQUEUE)
            work += len(runs)
        if work >= work_max:
            self.stream.turns.resume(self)
        return work


class _Stream:
    """What another node has to do with queues here, on one stream."""

    def __init__(self, link: Link, turns: Turns, find: Callable[[int], Queue | None]) -> None:
        self.link = link
        self.turns = turns
        self.attachments: dict[int, Attachment] = {}
        self.consumers: dict[int, LinkConsumer] = {}
        self.congested: dict[LinkConsumer, None] = {}
        """Consumers that wait for room on the stream."""
        self.purses: dict[int, _Purse] = {}
        self.known: frames.Origins = {}
        self._find = find
        self._is_over = False

    def send(self, kind: int, pieces: list[bytes]) -> None:
        """Send a frame, unless the stream is broken."""
        if not self._is_over:
            self.link.send(kind, pieces)

    def end(self) -> None:
        """The stream is broken."""
        self._is_over = True
        for attachment in self.attachments.values():
            attachment.end()

    def attachment(self, queue_id: int) -> Attachment:
        """What it has to do with a queue, which is looked for if it was not here."""
        attachment = self.attachments.get(queue_id)
        if attachment is None:
            attachment = self.attachments[queue_id] = Attachment(self, queue_id)
        if attachment.queue is None:
            attachment.queue = self._find(queue_id)
        return attachment

    def queue(self, queue_id: int) -> Queue | None:
        """A queue, if it is here, and not deleted."""
        queue = self.attachment(queue_id).queue
        return None if queue is None or queue.version else queue

    def purse(self, number: int) -> _Purse:
        """What consumers share, who say that it has this number."""
        purse = self.purses.get(number)
        if purse is None:
            purse = self.purses[number] = _Purse(number)
        return purse

    def forget(self, consumer: LinkConsumer) -> None:
        """A consumer is gone."""
        consumer.drop_purse()
        self.consumers.pop(consumer.number, None)
        self.congested.pop(consumer, None)


class _NotHere(Exception):
    """A queue is not held by this node, or not any more."""


class Serving(LinkUser):
    """Serves other nodes; the user of the streams that this node was dialled on.

    ``find`` has the queues here by their ids. ``delete`` deletes a queue, if it may (unless it is
    in use, or not empty), and returns the number of its ready messages.
    """

    def __init__(
        self,
        turns: Turns,
        find: Callable[[int], Queue | None],
        delete: Callable[[QueueDefinition, bool, bool], int | Pending[int]],
    ) -> None:
        self._turns = turns
        self._find = find
        self._delete = delete
        self._streams: dict[Link, _Stream] = {}

    def up(self, link: Link) -> None:
        self._streams[link] = _Stream(link, self._turns, self._find)

    def down(self, link: Link) -> None:
        self._streams.pop(link).end()

    def drained(self, link: Link) -> None:
        stream = self._streams[link]
        congested, stream.congested = stream.congested, {}
        for consumer in congested:
            consumer.resume()

    def frame(self, link: Link, kind: int, payload: bytes) -> int:
        stream = self._streams[link]
        if kind == frames.PUBLISH:
            queue_id, ttl_ms, first, batch = frames.decode_publish(payload, stream.known)
            stream.attachment(queue_id).publish(ttl_ms, first, batch)
            return len(batch.raws)
        if kind == frames.SETTLE:
            queue_id, settled = frames.decode_settle(payload)
            attachment = stream.attachment(queue_id)
            for run, outcome in settled:
                attachment.settle(run, outcome)
            return len(settled)
        if kind == frames.LIMITS:
            for number, limit in frames.decode_limits(payload):
                consumer = stream.consumers.get(number)
                if consumer is not None:  # Else its queue has been deleted.
                    consumer.allow(limit)
            return 1
        if kind == frames.QUESTION:
            question = frames.decode_question(payload)
            _ACTS[type(question)](self, stream, question)
            return _CONTROL_WORK
        raise LinkFault(f"a frame of kind {kind} is no question")

    # -- questions -----------------------------------------------------------------------------

    def _answer(
        self, stream: _Stream, number: int, ask: Callable[[], Any], say: Callable[[Any], None]
    ) -> None:
        """Say what comes of ``ask``, now or later, or that it fails."""

        def fail(error: Exception) -> None:
            failed = frames.Failed(number, "", "")
            if isinstance(error, AmqpError):
                failed = frames.Failed(number, type(error).__name__, error.text)
            elif not isinstance(error, _NotHere):
                log.error("a bug: node %s has no answer", stream.link.node, exc_info=error)
                failed = frames.Failed(number, InternalError.__name__, "the broker's log says more")
            stream.send(frames.ANSWER, frames.encode_control(failed))

        answer: Pending[Any] = Pending()
        answer.then, answer.otherwise = say, fail
        answer.follow(ask)

    def _count(
        self, stream: _Stream, queue_id: int, number: int, ask: Callable[[Queue], Any]
    ) -> None:
        """Answer a question about a queue that is here; the answer is a count, or nothing."""

        def asked() -> Any:
            queue = stream.queue(queue_id)
            if queue is None:
                raise _NotHere
            return ask(queue)

        def say(count: int | None) -> None:
            done = frames.Done(number, count)
            stream.send(frames.ANSWER, frames.encode_control(done))

        self._answer(stream, number, asked, say)

    def _consume(self, stream: _Stream, asked: frames.Consume) -> None:
        attachment = stream.attachment(asked.queue)

        def consume(queue: Queue) -> Pending[None] | None:
            consumer = LinkConsumer(attachment, asked)
            try:
                added = queue.consume(consumer)
            except AmqpError:
                consumer.drop_purse()
                raise
            attachment.consumers[consumer] = None
            stream.consumers[consumer.number] = consumer
            return added

        self._count(stream, asked.queue, asked.number, consume)

    def _cancel(self, stream: _Stream, asked: frames.Cancel) -> None:
        consumer = stream.consumers.get(asked.consumer)

        def cancel(queue: Queue) -> Pending[None] | None:
            if consumer is None:
                return None
            stream.forget(consumer)
            del consumer.attachment.consumers[consumer]
            return queue.cancel(consumer)

        self._count(stream, asked.queue, asked.number, cancel)

    def _get(self, stream: _Stream, asked: frames.Get) -> None:
        attachment = stream.attachment(asked.queue)

        def get() -> Got | Pending[Got | None] | None:
            queue = stream.queue(asked.queue)
            if queue is None:
                raise _NotHere
            return queue.get(asked.no_ack)

        def say(got: Got | None) -> None:
            if got is None:
                done = frames.Done(asked.number, None)
                stream.send(frames.ANSWER, frames.encode_control(done))
                return
            if not asked.no_ack:
                attachment.held.add(range(got.index, got.index + 1))
            stream.send(frames.GOT, frames.encode_got(asked.number, got))

        self._answer(stream, asked.number, get, say)

    def _purge(self, stream: _Stream, asked: frames.Purge) -> None:
        self._count(stream, asked.queue, asked.number, lambda queue: queue.purge())

    def _delete_queue(self, stream: _Stream, asked: frames.Delete) -> None:
        def delete(queue: Queue) -> int | Pending[int]:
            return self._delete(queue.definition, asked.if_unused, asked.if_empty)

        self._count(stream, asked.queue, asked.number, delete)

    def _stat(self, stream: _Stream, asked: frames.Stat) -> None:
        numbers: list[tuple[int, int, int] | None] = []
        for queue_id in asked.queues:
            queue = self._find(queue_id)
            stat = None if queue is None else queue.stat()
            if isinstance(stat, QueueStat):
                numbers.append((stat.ready, stat.unsettled, stat.consumers))
            else:
                numbers.append(None)
        answer = frames.Numbers(asked.number, numbers)
        stream.send(frames.ANSWER, frames.encode_control(answer))

    def _touch(self, stream: _Stream, note: frames.Touch) -> None:
        queue = stream.queue(note.queue)
        if queue is not None:
            queue.touch()

    def _leave(self, stream: _Stream, note: frames.Leave) -> None:
        attachment = stream.attachments.pop(note.queue, None)
        if attachment is not None:
            attachment.end()


_ACTS: dict[type, Callable[[Serving, _Stream, Any], None]] = {
    frames.Consume: Serving._consume,
    frames.Cancel: Serving._cancel,
    frames.Get: Serving._get,
    frames.Purge: Serving._purge,
    frames.Delete: Serving._delete_queue,
    frames.Stat: Serving._stat,
    frames.Touch: Serving._touch,
    frames.Leave: Serving._leave,
}
"""What each question does."""

"""What other nodes do with the queues of this one.

On each stream that another node has dialled, `Serving` does what that asks: it publishes, settles
and adds consumers to the queues here, in the order in which it was asked, and tells what comes of
it. For a queue, the consumers of another node are consumers like all others (`LinkConsumer`): their
credit is what the other node allows. When a stream breaks, they leave, and what they had not
settled waits again.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from amqpbroker.cluster import queue_frames as frames
from amqpbroker.cluster.attachment import Attachment, ServedStream, Turns
from amqpbroker.cluster.link_consumers import LinkConsumer
from amqpbroker.cluster.reports import ROWS_AT_ONCE, Reporter, Telling, answers_of
from amqpbroker.cluster.wire import Link, LinkUser
from amqpbroker.definitions import QueueDefinition
from amqpbroker.errors import AmqpError, InternalError, LinkFault, NotFound
from amqpbroker.message import Batch, Origin
from amqpbroker.queues.queue import Destination, Got, Pending, Queue

log = logging.getLogger(__name__)

_CONTROL_WORK = 16


def _nothing_to_report(what: str, about: Mapping[str, str]) -> Iterator[bytes]:
    """What a node answers that has just begun."""
    raise NotFound(f"there is no report on {what}")
    yield b""


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
        self.reply_address: Callable[[str], Destination | None] = lambda address: None
        """Who waits here for direct replies."""
        self.catch_up: Callable[[], Pending[None] | None] = lambda: None
        """Come to know all that was decided (`Coordinator.catch_up`)."""
        self.count: Callable[[str, str], int] = lambda what, name: 0
        """How many connections or channels somebody has here; whoever knows sets it."""
        self.report: Reporter = _nothing_to_report
        """Tells of what is not a queue; whoever can tell of it sets it."""
        self._turns = turns
        self._find = find
        self._delete = delete
        self._streams: dict[Link, ServedStream] = {}

    def up(self, link: Link) -> None:
        self._streams[link] = ServedStream(link, self._turns, self._find, self.catch_up)

    def down(self, link: Link) -> None:
        self._streams.pop(link).end()

    def drained(self, link: Link) -> None:
        stream = self._streams[link]
        congested, stream.congested = stream.congested, {}
        for waiting in congested:
            waiting.resume()

    def frame(self, link: Link, kind: int, payload: bytes) -> int:
        stream = self._streams[link]
        if kind == frames.PUBLISH:
            addressees, ttl_ms, batch = frames.decode_publish(payload, stream.known)
            work = 0
            for queue_id, first in addressees:
                work += self._publish(stream.attachment(queue_id), ttl_ms, first, batch)
            return work
        if kind == frames.SETTLE:
            queue_id, settled = frames.decode_settle(payload)
            attachment = stream.attachment(queue_id)
            for run, outcome in settled:
                attachment.settle(run, outcome)
            return len(settled)
        if kind == frames.LIMITS:
            count = 0
            for number, limit in frames.decode_limits(payload):
                count += 1
                consumer = stream.consumers.get(number)
                if consumer is not None:  # Else its queue has been deleted.
                    consumer.allow(limit)
            return count
        if kind == frames.REPLY:
            return self._reply(*frames.decode_reply(payload, stream.known))
        if kind == frames.QUESTION:
            return self._take_question(stream, frames.decode_question(payload))
        raise LinkFault(f"a frame of kind {kind} is no question")

    def _publish(self, attachment: Attachment, ttl_ms: int | None, first: int, batch: Batch) -> int:
        def publish() -> int:
            attachment.publish(ttl_ms, first, batch)
            return len(batch.raws)

        return _CONTROL_WORK if attachment.stream.is_late(attachment, publish) else publish()

    def _reply(self, address: str, origin: Origin, raws: list[bytes]) -> int:
        """Hand direct replies over, if there is still somebody who waits for them."""
        destination = self.reply_address(address)
        if destination is not None:
            destination.publish(origin, raws)
        return len(raws)

    # -- questions -----------------------------------------------------------------------------

    def _take_question(self, stream: ServedStream, question: frames.Question) -> int:
        def act() -> int:
            _ACTS[type(question)](self, stream, question)
            return _CONTROL_WORK

        queue_id = frames.queue_of(question)
        if queue_id is not None and stream.is_late(stream.attachment(queue_id), act):
            return _CONTROL_WORK
        return act()

    def _answer(
        self, stream: ServedStream, number: int, ask: Callable[[], Any], say: Callable[[Any], None]
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

    def _ask_queue(
        self, stream: ServedStream, queue_id: int, number: int, ask: Callable[[Queue], Any]
    ) -> None:
        """Ask a queue that is here, and say its answer, which is a count, or nothing."""

        def asked() -> Any:
            queue = stream.queue(queue_id)
            if queue is None:
                raise _NotHere
            return ask(queue)

        def say(count: int | None) -> None:
            done = frames.Done(number, count)
            stream.send(frames.ANSWER, frames.encode_control(done))

        self._answer(stream, number, asked, say)

    def _consume(self, stream: ServedStream, asked: frames.Consume) -> None:
        attachment = stream.attachment(asked.queue)
        if asked.consumer in stream.consumers:
            raise LinkFault(f"there is a consumer {asked.consumer} already")

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

        self._ask_queue(stream, asked.queue, asked.number, consume)

    def _cancel(self, stream: ServedStream, asked: frames.Cancel) -> None:
        consumer = stream.consumers.get(asked.consumer)
        if consumer is not None and consumer.attachment.queue_id != asked.queue:
            raise LinkFault(f"consumer {asked.consumer} is not one of queue {asked.queue}")

        def cancel(queue: Queue) -> Pending[None] | None:
            if consumer is None:
                return None
            stream.forget(consumer)
            del consumer.attachment.consumers[consumer]
            return queue.cancel(consumer)

        self._ask_queue(stream, asked.queue, asked.number, cancel)

    def _get(self, stream: ServedStream, asked: frames.Get) -> None:
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

    def _purge(self, stream: ServedStream, asked: frames.Purge) -> None:
        self._ask_queue(stream, asked.queue, asked.number, lambda queue: queue.purge())

    def _delete_queue(self, stream: ServedStream, asked: frames.Delete) -> None:
        def delete(queue: Queue) -> int | Pending[int]:
            return self._delete(queue.definition, asked.if_unused, asked.if_empty)

        self._ask_queue(stream, asked.queue, asked.number, delete)

    def _stat(self, stream: ServedStream, asked: frames.Stat) -> None:
        if asked.in_full:
            self._turns.resume(Telling(stream, self._turns, self._numbers_in_full(asked)))
            return
        queues = map(self._find, asked.queues)
        numbers = [None if queue is None else _numbers(queue) for queue in queues]
        answer = frames.Numbers(asked.number, numbers)
        stream.send(frames.ANSWER, frames.encode_control(answer))

    def _numbers_in_full(self, asked: frames.Stat) -> Iterator[frames.Answer | None]:
        part: list[frames.QueueNumbers | None] = []
        for queue_id in asked.queues:
            queue = self._find(queue_id)
            part.append(None if queue is None else _in_full(queue))
            if len(part) < ROWS_AT_ONCE:
                yield None
            else:
                yield frames.Numbers(asked.number, part, is_last=False)
                part = []
        yield frames.Numbers(asked.number, part)

    def _find_reply(self, stream: ServedStream, asked: frames.FindReply) -> None:
        done = frames.Done(asked.number, int(self.reply_address(asked.address) is not None))
        stream.send(frames.ANSWER, frames.encode_control(done))

    def _count_clients(self, stream: ServedStream, asked: frames.Count) -> None:
        done = frames.Done(asked.number, self.count(asked.what, asked.name))
        stream.send(frames.ANSWER, frames.encode_control(done))

    def _report(self, stream: ServedStream, asked: frames.Report) -> None:
        rows = self.report(asked.what, asked.about)
        answers = answers_of(asked.number, rows, stream.link.node)
        self._turns.resume(Telling(stream, self._turns, answers))

    def _touch(self, stream: ServedStream, note: frames.Touch) -> None:
        queue = stream.queue(note.queue)
        if queue is not None:
            queue.touch()

    def _leave(self, stream: ServedStream, note: frames.Leave) -> None:
        attachment = stream.attachments.pop(note.queue, None)
        if attachment is not None:
            attachment.end()


def _numbers(queue: Queue) -> frames.QueueNumbers:
    stat = queue.glance()
    return frames.QueueNumbers(stat.ready, stat.unsettled, stat.consumers)


def _in_full(queue: Queue) -> frames.QueueNumbers:
    stat = queue.glance()
    counts, sizes = attrs.astuple(queue.counts), attrs.astuple(queue.sizes())
    return frames.QueueNumbers(
        stat.ready, stat.unsettled, stat.consumers, list(counts), list(sizes), queue.owner_title
    )


_ACTS: dict[type, Callable[[Serving, ServedStream, Any], None]] = {
    frames.Consume: Serving._consume,
    frames.Cancel: Serving._cancel,
    frames.Get: Serving._get,
    frames.Purge: Serving._purge,
    frames.Delete: Serving._delete_queue,
    frames.Stat: Serving._stat,
    frames.FindReply: Serving._find_reply,
    frames.Count: Serving._count_clients,
    frames.Touch: Serving._touch,
    frames.Leave: Serving._leave,
    frames.Report: Serving._report,
}
"""What each question does."""

"""One queue as seen from a node that does not lead it."""

from collections.abc import Callable
from typing import Any

import attrs

from amqpbroker.cluster import queue_frames as frames
from amqpbroker.cluster.queue_frames import Asked, QueueNumbers
from amqpbroker.cluster.remote_consumers import Subscription
from amqpbroker.cluster.remote_node import Published, RemoteNode
from amqpbroker.definitions import QueueDefinition
from amqpbroker.errors import LinkFault, NotFound, PreconditionFailed
from amqpbroker.message import Batch, Origin
from amqpbroker.queues.queue import (
    Consumer,
    Got,
    Keeper,
    Outcome,
    Owner,
    Pending,
    Queue,
    QueueCounts,
    QueueSizes,
    QueueStat,
)

_FRAME_MESSAGES_MAX = 1024
_FRAME_BYTES_MAX = 256 * 1024
_STREAM_INDEXES = 1 << 64
"""No index of a log is as high."""
_REFUSALS_MAX = 16
_NOTHING = QueueNumbers(0, 0, 0)


@attrs.define
class _Settled:
    """What became of messages, waiting to be sent."""

    runs: list[tuple[range, Outcome]]

    def add(self, run: range, outcome: Outcome) -> None:
        last, what = self.runs[-1]
        if what is outcome and run.start == last.stop and run.step == last.step == 1:
            self.runs[-1] = range(last.start, run.stop), outcome
        else:
            self.runs.append((run, outcome))

    def encode(self, queue_id: int) -> tuple[int, list[bytes]]:
        return frames.SETTLE, frames.encode_settle(queue_id, self.runs)


@attrs.define
class _Control:
    """A question that waits to be sent."""

    question: frames.Question

    def encode(self, queue_id: int) -> tuple[int, list[bytes]]:
        return frames.QUESTION, frames.encode_control(self.question)


def _stat(numbers: QueueNumbers) -> QueueStat:
    return QueueStat(numbers.ready, numbers.unsettled, numbers.consumers)


class RemoteQueue(Queue):
    """A queue that ``node`` leads."""

    is_here = False

    def __init__(self, definition: QueueDefinition, keeper: Keeper, node: RemoteNode) -> None:
        self.definition = definition
        self.owner: Owner | None = None
        self.version = 0
        self.refused: list[range] = []
        self.numbers = _NOTHING
        """What the leader said of it last (`RemoteQueues.refresh`)."""
        self._wake = keeper.wake
        self._node = node
        self._sent = 0
        self._committed = 0
        self._base = 0
        """How much was published before the stream; what of it is not committed is lost."""
        self._offset = 0
        """What makes a log's index of this stream different from those of streams before."""
        self._waiting: list[Published | _Settled | _Control] = []
        self._awaiting_commit: dict[Callable[[], None], None] = {}
        self._subscriptions: dict[Consumer, Subscription] = {}
        self._leaving: dict[Consumer, Subscription] = {}
        self._stirred: dict[Subscription, None] = {}

    # -- in ------------------------------------------------------------------------------------

    @property
    def committed(self) -> int:
        return self._sent if self.version else self._committed

    def publish(self, origin: Origin, raws: list[bytes]) -> int:
        first = self._sent
        self._sent = first + len(raws)
        if self.version:
            return self._sent
        if not self._node.is_up:
            self._lose()
            return self._sent
        size = sum(map(len, raws))
        origins = [origin] * len(raws)
        last = self._last_waiting()
        if (
            isinstance(last, Published)
            and last.ttl_ms == origin.ttl_ms
            and last.size < _FRAME_BYTES_MAX
            and len(last.raws) < _FRAME_MESSAGES_MAX
        ):
            last.origins += origins
            last.raws += raws
            last.size += size
        else:
            first -= self._base
            self._waiting.append(Published(first, origin.ttl_ms, origins, list(raws), size))
        return self._sent

    def _lose(self) -> None:
        """Nobody is there to take what was published: it is refused when the turn comes to it."""
        self._base = self._sent
        self._waiting.clear()
        self._wake(self)

    def _note_lost(self) -> None:
        """What was published before the stream, and was not committed, is not taken."""
        if self._committed < self._base:
            self._note_refused(range(self._committed, self._base))
            self._committed = self._base

    def _last_waiting(self) -> Published | _Settled | _Control | None:
        """What is last in line to be sent: if something is, the queue's turn will come."""
        if self._waiting:
            return self._waiting[-1]
        self._node.speaking[self] = None
        self._wake(self)
        return None

    def when_committed(self, call: Callable[[], None]) -> None:
        self._awaiting_commit[call] = None

    def note_committed(self, count: int, refused: list[range]) -> None:
        """The leader has said that ``count`` messages of this stream are settled.

        Of these the ``refused`` were not taken.
        """
        committed = self._base + count
        if committed > self._sent:
            raise LinkFault(f"{self.definition.title}: more is committed than was published")
        self._note_lost()
        if committed < self._committed:
            raise LinkFault(f"{self.definition.title}: less is committed than before")
        for run in refused:
            self._note_refused(range(self._base + run.start, self._base + run.stop))
        self._committed = committed
        self._tell_committed()

    def _note_refused(self, run: range) -> None:
        refused = self.refused
        if refused and refused[-1].stop == run.start:
            refused[-1] = range(refused[-1].start, run.stop)
        else:
            refused.append(run)
            del refused[:-_REFUSALS_MAX]

    def _tell_committed(self) -> None:
        calls, self._awaiting_commit = self._awaiting_commit, {}
        for call in calls:
            call()

    # -- out -----------------------------------------------------------------------------------

    def dispatch(self, limit: int) -> int:
        if self._waiting and not self._node.is_up:
            self._lose()
        if self._committed < self._base and not self.version:
            self._note_lost()
            self._tell_committed()
        if self._waiting:
            self._node.speak()  # Before there is credit again: a commit publishes first, say.
        handed = 0
        if self._stirred:
            handed = self._stir(limit)
        if self._waiting:
            self._node.speak()
            if self._waiting and self._node.has_room:
                self._wake(self)
        return handed

    def send_waiting(self) -> None:
        """Send what has gathered, as far as there is room on the stream.

        `RemoteNode.speak` calls it, and posts the last of it.
        """
        node, waiting = self._node, self._waiting
        sent = 0
        while sent < len(waiting) and node.has_room:
            entry = waiting[sent]
            if isinstance(entry, Published):
                node.publish(self.definition.log_id, entry)
            else:
                node.send(*entry.encode(self.definition.log_id))
            sent += 1
        if sent:
            node.spoken_of[self] = None
            del waiting[:sent]
        if not waiting:
            node.speaking.pop(self, None)

    def drained(self) -> None:
        """There is room on the stream again."""
        self._wake(self)

    def settle(self, indexes: range, outcome: Outcome) -> None:
        offset = self._offset
        if self.version or indexes.start < offset or not self._node.is_up:
            return
        if offset:
            indexes = range(indexes.start - offset, indexes.stop - offset, indexes.step)
        last = self._last_waiting()
        if isinstance(last, _Settled):
            last.add(indexes, outcome)
        else:
            self._waiting.append(_Settled([(indexes, outcome)]))

    def take(
        self,
        subscription: Subscription,
        account: int,
        indexes: range,
        batch: Batch,
        redelivered: bool,
    ) -> None:
        """Messages have come for a consumer, on account of a purse."""
        subscription.taken += len(indexes)
        subscription.taken_bytes += sum(map(len, batch.raws))
        offset = self._offset
        if offset:
            indexes = range(indexes.start + offset, indexes.stop + offset, indexes.step)
        consumer = subscription.consumer
        if consumer is None:
            self._give_back(subscription, indexes)
            return
        self.stir(subscription)
        if account <= subscription.closed_account and subscription.closed_account:
            self._give_back(subscription, indexes, is_seen=redelivered)
        elif subscription.held:
            subscription.held.append((indexes, batch, redelivered))
        else:
            self._hand_over(subscription, consumer, indexes, batch, redelivered)

    def _hand_over(
        self,
        subscription: Subscription,
        consumer: Consumer,
        indexes: range,
        batch: Batch,
        redelivered: bool,
    ) -> int:
        """Give a consumer what it has credit for; returns the number.

        The rest goes back, if another's credit has run out with its own: there may be others who
        have some; and so does all that was sent before the leader can know, for it lies behind.
        Else it waits here, for a peer that is slow, or since nobody can have it back.
        """
        credit = consumer.credit
        count = len(indexes)
        if credit >= count:
            consumer.deliver(self, indexes, batch, redelivered)
            return count
        given = max(credit, 0)
        if given:
            part = Batch(batch.origins[:given], batch.raws[:given])
            consumer.deliver(self, indexes[:given], part, redelivered)
        if consumer.purse is not None and not subscription.no_ack:
            self._give_back(subscription, indexes[given:], is_seen=redelivered)
            self._node.purses.close_account(subscription)
            consumer.park()  # At once: who had to give something back is the first to be served.
        else:
            rest = Batch(batch.origins[given:], batch.raws[given:])
            subscription.held.insert(0, (indexes[given:], rest, redelivered))
        return given

    def _give_back(
        self, subscription: Subscription, indexes: range, *, is_seen: bool = True
    ) -> None:
        """Messages go back to their place; ``is_seen``: flagged redelivered.

        What was on its way to a channel that has ended is, though nobody has seen it (RabbitMQ):
        others may have later ones by now.
        """
        if not subscription.no_ack:
            self.settle(indexes, Outcome.REQUEUE if is_seen else Outcome.RETURN)

    def _give_back_held(self, subscription: Subscription, *, is_seen: bool = False) -> None:
        while subscription.held:
            indexes, _, redelivered = subscription.held.pop(0)
            self._give_back(subscription, indexes, is_seen=is_seen or redelivered)

    def _stir(self, limit: int) -> int:
        """See to consumers who have taken something, or have credit again."""
        handed = 0
        limits: list[bytes] = []
        stirred, self._stirred = self._stirred, {}
        for subscription in stirred:
            consumer = subscription.consumer
            if consumer is None or subscription.leaving is not None or not subscription.is_added:
                continue
            while subscription.held and consumer.credit > 0 and handed < limit:
                handed += self._hand_over(subscription, consumer, *subscription.held.pop(0))
            credit = consumer.credit
            if credit > 0 and subscription.held:
                self._stirred[subscription] = None  # Another turn's work.
                self._wake(self)
                continue
            is_news = self._node.purses.settle(subscription, consumer.purse)
            if credit <= 0:
                consumer.park()
            else:
                is_news = subscription.raise_limit(credit) or is_news
            if is_news:
                limits.append(frames.encode_limit(subscription.number, subscription.told_limit()))
        if limits and self._node.link is not None:
            self._node.link.send(frames.LIMITS, limits)
        return handed

    # -- consumers -----------------------------------------------------------------------------

    def consume(self, consumer: Consumer) -> Pending[None]:
        node = self._node
        if not node.is_up:
            raise self.absent()
        subscription = Subscription(node.next_number(), self, consumer, consumer.no_ack)
        node.purses.settle(subscription, consumer.purse)
        if consumer.credit > 0:
            subscription.raise_limit(consumer.credit)
        limit = subscription.told_limit()

        def question(number: int) -> Asked:
            return frames.Consume(
                number,
                self.definition.log_id,
                subscription.number,
                consumer.no_ack,
                consumer.exclusive,
                consumer.priority,
                limit,
            )

        asked = self._ask(question)
        node.subscriptions[subscription.number] = subscription
        self._subscriptions[consumer] = subscription
        added: Pending[None] = Pending()

        def then(_: Any) -> None:
            subscription.is_added = True
            self.resume(consumer)
            added.resolve(None)

        def otherwise(error: Exception) -> None:
            self._subscriptions.pop(consumer, None)
            node.subscriptions.pop(subscription.number, None)
            node.purses.settle(subscription, None)
            added.fail(error)

        asked.then, asked.otherwise = then, otherwise
        return added

    def resume(self, consumer: Consumer) -> None:
        subscription = self._subscriptions.get(consumer)
        if subscription is not None:
            self.stir(subscription)

    def stir(self, subscription: Subscription) -> None:
        """Have a look at the credit of a consumer when the queue's turn comes."""
        if not self._stirred:
            self._wake(self)
        self._stirred[subscription] = None

    def cancel(self, consumer: Consumer) -> Pending[None] | None:
        subscription = self._subscriptions.pop(consumer, None)
        if subscription is None or not self._node.is_up:
            return None
        subscription.leaving = Pending()
        self._leaving[consumer] = subscription
        self._node.purses.settle(subscription, None)
        asked = self._ask(
            lambda number: frames.Cancel(number, self.definition.log_id, subscription.number)
        )
        asked.then = lambda _: self._left(subscription)
        asked.otherwise = lambda _: self._left(subscription)
        return subscription.leaving

    def _left(self, subscription: Subscription) -> None:
        """Nothing comes for a consumer any more."""
        consumer, leaving = subscription.consumer, subscription.leaving
        assert leaving is not None
        self._node.subscriptions.pop(subscription.number, None)
        if consumer is not None:
            self._leaving.pop(consumer, None)
            while subscription.held and subscription.no_ack:
                consumer.deliver(self, *subscription.held.pop(0))
        self._give_back_held(subscription)
        leaving.resolve(None)

    def abandon(self, consumer: Consumer) -> None:
        self.cancel(consumer)
        subscription = self._leaving.pop(consumer, None)
        if subscription is not None:
            subscription.consumer = None
            self._give_back_held(subscription, is_seen=True)

    # -- questions -----------------------------------------------------------------------------

    def _ask(self, question: Callable[[int], Asked]) -> Pending[Any]:
        """Have a question sent behind what waits. Raises `NotFound` if nobody is there."""
        node = self._node
        if not node.is_up:
            raise self.absent()
        number = node.next_number()
        asked: Pending[Any] = Pending()
        node.questions[number] = self, asked
        self._say(question(number))
        return asked

    def _say(self, question: frames.Question) -> None:
        self._last_waiting()
        self._waiting.append(_Control(question))

    def absent(self) -> NotFound:
        """What is answered while the leader cannot be reached (rabbit_amqqueue:absent)."""
        durable = "durable " if self.definition.durable else ""
        return NotFound(
            f"home node '{self._node.name}' of {durable}{self.definition.title}"
            " is down or inaccessible"
        )

    def get(self, no_ack: bool) -> Pending[Got | None]:
        asked = self._ask(lambda number: frames.Get(number, self.definition.log_id, no_ack))

        def got(answer: Got | int | None) -> Got | None:
            if not isinstance(answer, Got):
                return None
            return attrs.evolve(answer, index=answer.index + self._offset)

        return asked.chain(got)

    def purge(self) -> Pending[int]:
        return self._ask(lambda number: frames.Purge(number, self.definition.log_id))

    def touch(self) -> None:
        if "x-expires" in self.definition.arguments and self._node.is_up:
            self._say(frames.Touch(self.definition.log_id))

    def may_delete(self, if_unused: bool, if_empty: bool) -> int | Pending[int]:
        """As promised; while the leader cannot be reached, it may if its being empty is no matter.

        It is dropped by its leader when that is there again (rabbit_classic_queue:delete).
        """
        if self._node.is_up:
            return self._ask(
                lambda number: frames.Delete(number, self.definition.log_id, if_unused, if_empty)
            )
        if if_empty:
            raise PreconditionFailed(f"{self.definition.title} not empty")
        return 0

    def stat(self) -> Pending[QueueStat]:
        asked = self._ask(lambda number: frames.Stat(number, [self.definition.log_id]))

        def stat(answer: list[QueueNumbers | None]) -> QueueStat:
            [numbers] = answer
            if numbers is None:
                raise self.unknown()
            return _stat(numbers)

        return asked.chain(stat)

    def glance(self) -> QueueStat:
        return _stat(self.numbers)

    @property
    def counts(self) -> QueueCounts:
        return QueueCounts(*self.numbers.counts)

    def sizes(self) -> QueueSizes:
        return QueueSizes(*self.numbers.sizes)

    @property
    def owner_title(self) -> tuple[str, str, int] | None:
        return self.numbers.owner

    def unknown(self) -> NotFound:
        """What is answered when the leader has no such queue."""
        return NotFound(f"no {self.definition.title}")

    # -- the end -------------------------------------------------------------------------------

    def delete(self) -> int:
        self.version += 1
        node = self._node
        self._withdraw()
        if node.link is not None and self in node.spoken_of:
            question = frames.Leave(self.definition.log_id)
            node.link.send(frames.QUESTION, frames.encode_control(question))
        node.forget(self)
        self._end_consumers()
        self._tell_committed()  # Nobody waits for the commit of a message that is gone.
        return 0

    def _withdraw(self) -> None:
        """Nothing of what waits is sent any more, and no question of it answered."""
        waiting, self._waiting = self._waiting, []
        for entry in waiting:
            number = (
                getattr(entry.question, "number", None) if isinstance(entry, _Control) else None
            )
            if number is not None:
                _, asked = self._node.questions.pop(number)
                asked.fail(self.unknown())

    def node_down(self) -> None:
        """The stream is broken."""
        self._lose()
        self._offset += _STREAM_INDEXES
        self._end_consumers()

    def _end_consumers(self) -> None:
        """Nothing comes any more: consumers are cancelled, and those who leave have left."""
        subscriptions, self._subscriptions = self._subscriptions, {}
        leaving, self._leaving = self._leaving, {}
        self._stirred.clear()
        for subscription in (*subscriptions.values(), *leaving.values()):
            self._node.subscriptions.pop(subscription.number, None)
            self._node.purses.settle(subscription, None)
            subscription.held.clear()
        for subscription in leaving.values():
            assert subscription.leaving is not None
            subscription.leaving.resolve(None)
        for subscription in subscriptions.values():
            if subscription.is_added and subscription.consumer is not None:
                subscription.consumer.cancelled()

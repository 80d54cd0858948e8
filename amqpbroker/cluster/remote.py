"""Queues as seen from a node that does not hold them.

A `RemoteQueue` counts what is published to it, gathers that and everything else that is to be told,
and sends it once a turn, in order, on the stream to the node that holds the queue, its *holder*.
What the holder delivers goes straight to the consumers here. Each says how much it may be sent
(a limit of messages and octets in all), so that no more is ever on its way than it takes, or a
window full.

Nothing is sent twice. When the stream breaks, what was published and not told to be committed is
refused (the holder may have it or not), consumers are cancelled, questions end in an error, and the
holder has what was not settled wait again: a settle that comes later is void. So RabbitMQ does it
when the node of a queue goes down.
"""

from collections.abc import Callable
from typing import Any

import attrs

from amqpbroker.cluster import queue_frames as frames
from amqpbroker.cluster.queue_frames import Asked, Numbers
from amqpbroker.cluster.wire import OUTBOX_BYTES_HIGH, Link, LinkUser
from amqpbroker.definitions import QueueDefinition
from amqpbroker.errors import LinkFault, NotFound, PreconditionFailed
from amqpbroker.message import Batch, Origin
from amqpbroker.queues.arguments import check_declare
from amqpbroker.queues.queue import (
    Consumer,
    Got,
    Keeper,
    Outcome,
    Owner,
    Pending,
    Queue,
    QueueStat,
    QueueType,
)

WINDOW_MESSAGES = 8192
"""What may be on its way to a consumer that has no limit of its own."""
WINDOW_BYTES = 512 * 1024
_FRAME_MESSAGES_MAX = 1024
_FRAME_BYTES_MAX = 256 * 1024
_STREAM_INDEXES = 1 << 48
"""Indexes of a log that a stream has room for."""
_REFUSALS_MAX = 16
_STATS_AT_ONCE = 1000
_CONTROL_WORK = 16
_NOTHING = QueueStat(0, 0, 0)


# -- what waits to be sent -----------------------------------------------------------------------


@attrs.define
class _Published:
    """Messages that wait to be sent, neighbours; ``first`` is the number of the first."""

    first: int
    ttl_ms: int | None
    origins: list[Origin]
    raws: list[bytes]
    size: int

    def encode(self, queue_id: int) -> tuple[int, list[bytes]]:
        return frames.PUBLISH, frames.encode_publish(
            queue_id, self.first, self.ttl_ms, self.origins, self.raws
        )


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


# -- consumers -----------------------------------------------------------------------------------


@attrs.define(eq=False)
class _Purse:
    """What consumers have their credit from who share it, and what has come on account of it."""

    key: object
    number: int
    taken: int = 0
    limit: int = 0
    members: dict["_Member", None] = attrs.Factory(dict)


@attrs.define(eq=False)
class _Member:
    """A consumer as its queue's holder knows it, by number.

    ``taken`` messages and octets have come for it; ``limit`` is what the holder may send in all.
    """

    number: int
    queue: "RemoteQueue"
    consumer: Consumer | None
    """None: it takes nothing any more."""
    no_ack: bool
    is_added: bool = False
    leaving: Pending[None] | None = None
    taken: int = 0
    taken_bytes: int = 0
    limit: int = 0
    limit_bytes: int = 0
    purse: _Purse | None = None
    held: list[tuple[range, Batch, bool]] = attrs.Factory(list)
    """What has come, and waits for credit: the peer of a channel is slow in taking."""

    def raise_limit(self, credit: int) -> bool:
        """Allow the holder to send as much as there is ``credit`` for; whether that is news.

        As long as there is room for half of it, it is none.
        """
        window = min(credit, WINDOW_MESSAGES)
        room = self.limit - self.taken
        room_bytes = self.limit_bytes - self.taken_bytes
        purse = self.purse
        if (
            window < 2 * room <= 2 * window
            and 2 * room_bytes > WINDOW_BYTES
            and (purse is None or 2 * (purse.limit - purse.taken) > window)
        ):
            return False
        self.limit = self.taken + window
        self.limit_bytes = self.taken_bytes + WINDOW_BYTES
        if purse is not None:
            purse.limit = max(purse.limit, purse.taken + window)
        return True

    def told_limit(self) -> frames.Limit:
        """The limit, as the holder is told."""
        purse = self.purse
        number, messages = (0, 0) if purse is None else (purse.number, purse.limit)
        return frames.Limit(self.limit, self.limit_bytes, number, messages)


class RemoteQueue(Queue):
    """A queue that ``node`` holds."""

    def __init__(self, definition: QueueDefinition, keeper: Keeper, node: "RemoteNode") -> None:
        self.definition = definition
        self.owner: Owner | None = None
        self.version = 0
        self.refused: list[range] = []
        self.numbers = _NOTHING
        """What the holder said of it last (`RemoteQueues.refresh`)."""
        self._wake = keeper.wake
        self._node = node
        self._sent = 0
        self._committed = 0
        self._base = 0
        """How much was published before the stream; what of it is not committed is lost."""
        self._offset = 0
        """What makes a log's index of this stream different from those of streams before."""
        self._waiting: list[_Published | _Settled | _Control] = []
        self._awaiting_commit: dict[Callable[[], None], None] = {}
        self._members: dict[Consumer, _Member] = {}
        self._leaving: dict[Consumer, _Member] = {}
        self._stirred: dict[_Member, None] = {}

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
            isinstance(last, _Published)
            and last.ttl_ms == origin.ttl_ms
            and last.size < _FRAME_BYTES_MAX
            and len(last.raws) < _FRAME_MESSAGES_MAX
        ):
            last.origins += origins
            last.raws += raws
            last.size += size
        else:
            first -= self._base
            self._waiting.append(_Published(first, origin.ttl_ms, origins, list(raws), size))
        return self._sent

    def _lose(self) -> None:
        """Nobody is there to take what was published: it is refused when the turn comes to it."""
        self._base = self._sent
        self._waiting.clear()
        self._wake(self)

    def _last_waiting(self) -> _Published | _Settled | _Control | None:
        """What is last in line to be sent: if something is, the queue's turn will come."""
        if self._waiting:
            return self._waiting[-1]
        self._wake(self)
        return None

    def when_committed(self, call: Callable[[], None]) -> None:
        self._awaiting_commit[call] = None

    def note_committed(self, count: int, refused: list[range]) -> None:
        """The holder has said that ``count`` messages of this stream are settled.

        Of these the ``refused`` were not taken.
        """
        committed = self._base + count
        if committed > self._sent:
            raise LinkFault(f"{self.definition.title}: more is committed than was published")
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
            self._note_refused(range(self._committed, self._base))
            self._committed = self._base
            self._tell_committed()
        handed = 0
        if self._stirred:
            handed = self._stir(limit)
        if self._waiting:
            self._send_waiting()
        return handed

    def _send_waiting(self) -> None:
        """Send what has gathered, as far as there is room on the stream."""
        node, waiting = self._node, self._waiting
        link = node.link
        if link is None:
            return
        sent = 0
        while sent < len(waiting) and link.outbox_bytes <= OUTBOX_BYTES_HIGH:
            link.send(*waiting[sent].encode(self.definition.log_id))
            sent += 1
        node.spoken_of[self] = None
        del waiting[:sent]
        if waiting:
            node.crowded[self] = None

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

    def take(self, member: _Member, indexes: range, batch: Batch, redelivered: bool) -> None:
        """Messages have come for a consumer."""
        member.taken += len(indexes)
        member.taken_bytes += sum(map(len, batch.raws))
        offset = self._offset
        if offset:
            indexes = range(indexes.start + offset, indexes.stop + offset, indexes.step)
        consumer = member.consumer
        if consumer is None:
            self._give_back(member, indexes, redelivered)
            return
        self.stir(member)
        if member.held:
            member.held.append((indexes, batch, redelivered))
        else:
            self._hand_over(member, consumer, indexes, batch, redelivered)

    def _hand_over(
        self, member: _Member, consumer: Consumer, indexes: range, batch: Batch, redelivered: bool
    ) -> int:
        """Give a consumer what it has credit for; returns the number.

        The rest goes back, if another's credit has run out with its own: there may be others who
        have some. Else it waits here, for a peer that is slow, or since nobody can have it back.
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
        if consumer.purse is not None and not member.no_ack:
            self._give_back(member, indexes[given:], redelivered)
            consumer.park()  # At once: who had to give something back is the first to be served.
        else:
            rest = Batch(batch.origins[given:], batch.raws[given:])
            member.held.insert(0, (indexes[given:], rest, redelivered))
        return given

    def _give_back(self, member: _Member, indexes: range, redelivered: bool) -> None:
        """Nobody here has seen the messages."""
        if not member.no_ack:
            self.settle(indexes, Outcome.REQUEUE if redelivered else Outcome.RETURN)

    def _give_back_held(self, member: _Member) -> None:
        while member.held:
            indexes, _, redelivered = member.held.pop(0)
            self._give_back(member, indexes, redelivered)

    def _stir(self, limit: int) -> int:
        """See to consumers who have taken something, or have credit again."""
        handed = 0
        limits: list[bytes] = []
        stirred, self._stirred = self._stirred, {}
        for member in stirred:
            consumer = member.consumer
            if consumer is None or member.leaving is not None or not member.is_added:
                continue
            while member.held and consumer.credit > 0 and handed < limit:
                handed += self._hand_over(member, consumer, *member.held.pop(0))
            credit = consumer.credit
            is_news = self._node.settle_purse(member, consumer.purse)
            if credit <= 0:
                consumer.park()
            elif member.held:
                self._stirred[member] = None
                self._wake(self)
                continue
            else:
                is_news = member.raise_limit(credit) or is_news
            if is_news:
                limits.append(frames.encode_limit(member.number, member.told_limit()))
        if limits and self._node.link is not None:
            self._node.link.send(frames.LIMITS, limits)
        return handed

    # -- consumers -----------------------------------------------------------------------------

    def consume(self, consumer: Consumer) -> Pending[None]:
        node = self._node
        if not node.is_up:
            raise self.absent()
        member = _Member(node.next_number(), self, consumer, consumer.no_ack)
        node.settle_purse(member, consumer.purse)
        if consumer.credit > 0:
            member.raise_limit(consumer.credit)
        limit = attrs.astuple(member.told_limit())

        def question(number: int) -> Asked:
            return frames.Consume(
                number,
                self.definition.log_id,
                member.number,
                consumer.no_ack,
                consumer.exclusive,
                consumer.priority,
                limit,
            )

        asked = self._ask(question)
        node.members[member.number] = member
        self._members[consumer] = member
        added: Pending[None] = Pending()

        def then(_: Any) -> None:
            member.is_added = True
            self.resume(consumer)
            added.resolve(None)

        def otherwise(error: Exception) -> None:
            self._members.pop(consumer, None)
            node.members.pop(member.number, None)
            node.settle_purse(member, None)
            added.fail(error)

        asked.then, asked.otherwise = then, otherwise
        return added

    def resume(self, consumer: Consumer) -> None:
        member = self._members.get(consumer)
        if member is not None:
            self.stir(member)

    def stir(self, member: _Member) -> None:
        """Have a look at the credit of a consumer when the queue's turn comes."""
        if not self._stirred:
            self._wake(self)
        self._stirred[member] = None

    def cancel(self, consumer: Consumer) -> Pending[None] | None:
        member = self._members.pop(consumer, None)
        if member is None or not self._node.is_up:
            return None
        member.leaving = Pending()
        self._leaving[consumer] = member
        self._node.settle_purse(member, None)
        asked = self._ask(
            lambda number: frames.Cancel(number, self.definition.log_id, member.number)
        )
        asked.then = lambda _: self._left(member)
        asked.otherwise = lambda _: self._left(member)
        return member.leaving

    def _left(self, member: _Member) -> None:
        """Nothing comes for a consumer any more."""
        consumer, leaving = member.consumer, member.leaving
        assert leaving is not None
        self._node.members.pop(member.number, None)
        if consumer is not None:
            self._leaving.pop(consumer, None)
            while member.held and member.no_ack:
                consumer.deliver(self, *member.held.pop(0))
        self._give_back_held(member)
        leaving.resolve(None)

    def abandon(self, consumer: Consumer) -> None:
        self.cancel(consumer)
        member = self._leaving.pop(consumer, None)
        if member is not None:
            member.consumer = None
            self._give_back_held(member)

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
        """What is answered while the holder cannot be reached (rabbit_amqqueue:absent)."""
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
        """As promised; while the holder cannot be reached, it may if its being empty is no matter.

        It is dropped by its holder when that is there again (rabbit_classic_queue:delete).
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

        def stat(answer: list[tuple[int, int, int] | None]) -> QueueStat:
            [numbers] = answer
            if numbers is None:
                raise self.unknown()
            return QueueStat(*numbers)

        return asked.chain(stat)

    def glance(self) -> QueueStat:
        return self.numbers

    def unknown(self) -> NotFound:
        """What is answered when the holder has no such queue."""
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
        members, self._members = self._members, {}
        leaving, self._leaving = self._leaving, {}
        self._stirred.clear()
        for member in (*members.values(), *leaving.values()):
            self._node.members.pop(member.number, None)
            self._node.settle_purse(member, None)
            member.held.clear()
        for member in leaving.values():
            assert member.leaving is not None
            member.leaving.resolve(None)
        for member in members.values():
            if member.is_added and member.consumer is not None:
                member.consumer.cancelled()


class RemoteNode:
    """Another node, as the holder of queues."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.link: Link | None = None
        """The stream to it, while it is up."""
        self.queues: dict[int, RemoteQueue] = {}
        """Those that it holds, by id."""
        self.spoken_of: dict[RemoteQueue, None] = {}
        """Those that were spoken of on the stream."""
        self.crowded: dict[RemoteQueue, None] = {}
        """Those that have something to say, and wait for room on the stream."""
        self.members: dict[int, _Member] = {}
        self.questions: dict[int, tuple[RemoteQueue | None, Pending[Any]]] = {}
        self._purses: dict[object, _Purse] = {}
        self._purse_numbers: dict[int, _Purse] = {}
        self._number = 0
        self._known: frames.Origins = {}
        self._is_refreshing = False

    @property
    def is_up(self) -> bool:
        """Whether there is a stream."""
        return self.link is not None

    def next_number(self) -> int:
        """A number that nothing else on the stream has."""
        self._number += 1
        return self._number

    def settle_purse(self, member: _Member, key: object | None) -> bool:
        """See that a consumer has its credit from the purse that ``key`` is; whether it is news."""
        purse = member.purse
        if key is (None if purse is None else purse.key):
            return False
        if purse is not None:
            del purse.members[member]
            if not purse.members:
                del self._purses[purse.key], self._purse_numbers[purse.number]
        member.purse = None
        if key is not None:
            purse = self._purses.get(key)
            if purse is None:
                purse = self._purses[key] = _Purse(key, self.next_number())
                self._purse_numbers[purse.number] = purse
            purse.members[member] = None
            member.purse = purse
        return True

    def forget(self, queue: RemoteQueue) -> None:
        """A queue is deleted."""
        self.queues.pop(queue.definition.log_id, None)
        self.spoken_of.pop(queue, None)
        self.crowded.pop(queue, None)

    def down(self) -> None:
        """The stream is broken."""
        self.link = None
        self._known.clear()
        self._is_refreshing = False
        spoken_of, self.spoken_of = self.spoken_of, {}
        questions, self.questions = self.questions, {}
        for queue, _ in questions.values():
            if queue is not None:
                spoken_of[queue] = None  # Perhaps what it asked was not sent yet.
        self.crowded.clear()
        for queue in spoken_of:
            queue.node_down()
        for queue, asked in questions.values():
            if queue is not None:
                asked.fail(queue.absent())

    def drained(self) -> None:
        """There is room on the stream again."""
        crowded, self.crowded = self.crowded, {}
        for queue in crowded:
            queue.drained()

    # -- frames --------------------------------------------------------------------------------

    def frame(self, kind: int, payload: bytes) -> int:
        """A frame has come; the work it was. Raises `LinkFault`."""
        if kind == frames.DELIVER:
            return self._deliver(payload)
        if kind == frames.COMMITTED:
            queue_id, count, refused = frames.decode_committed(payload)
            queue = self.queues.get(queue_id)
            if queue is not None:
                queue.note_committed(count, refused)
            return 1
        if kind == frames.GOT:
            number, got = frames.decode_got(payload, self._known)
            self._asked(number)[1].resolve(got)
        elif kind == frames.ANSWER:
            self._answer(frames.decode_answer(payload))
        else:
            raise LinkFault(f"a frame of kind {kind} is no answer")
        return _CONTROL_WORK

    def _deliver(self, payload: bytes) -> int:
        number, account, indexes, batch, redelivered = frames.decode_deliver(payload, self._known)
        purse = self._purse_numbers.get(account)
        if purse is not None:
            purse.taken += len(indexes)
            if purse.taken >= purse.limit:
                for each in purse.members:
                    each.queue.stir(each)
        member = self.members.get(number)
        if member is not None:  # Else the queue is deleted, and the holder does not know it yet.
            member.queue.take(member, indexes, batch, redelivered)
        return len(indexes)

    def _asked(self, number: int) -> tuple[RemoteQueue | None, Pending[Any]]:
        try:
            return self.questions.pop(number)
        except KeyError:
            raise LinkFault("an answer that nobody has asked for") from None

    def _answer(self, answer: frames.Answer) -> None:
        queue, asked = self._asked(answer.number)
        if isinstance(answer, frames.Failed):
            if not answer.error and queue is not None:
                asked.fail(queue.unknown())
            else:
                asked.fail(answer.to_error())
        elif isinstance(answer, Numbers):
            asked.resolve(answer.queues)
        else:
            asked.resolve(answer.count)

    # -- numbers -------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Ask for the numbers of all queues, some after the other."""
        if self.is_up and not self._is_refreshing:
            self._is_refreshing = True
            self._refresh(list(self.queues.values()))

    def _refresh(self, queues: list[RemoteQueue]) -> None:
        if not queues or self.link is None:
            self._is_refreshing = False
            return
        some, rest = queues[:_STATS_AT_ONCE], queues[_STATS_AT_ONCE:]

        def note(answer: list[tuple[int, int, int] | None]) -> None:
            for queue, numbers in zip(some, answer, strict=False):
                if numbers is not None:
                    queue.numbers = QueueStat(*numbers)
            self._refresh(rest)

        number = self.next_number()
        asked: Pending[list[tuple[int, int, int] | None]] = Pending()
        asked.then = note
        self.questions[number] = None, asked
        question = frames.Stat(number, [queue.definition.log_id for queue in some])
        self.link.send(frames.QUESTION, frames.encode_control(question))


class RemoteQueues(QueueType, LinkUser):
    """Opens the queues that other nodes hold; the user of the streams that this node has dialled.

    ``holder_of`` says which node holds a queue.
    """

    def __init__(self, holder_of: Callable[[QueueDefinition], str]) -> None:
        self.nodes: dict[str, RemoteNode] = {}
        self._holder_of = holder_of

    def _node(self, name: str) -> RemoteNode:
        node = self.nodes.get(name)
        if node is None:
            node = self.nodes[name] = RemoteNode(name)
        return node

    def check(self, definition: QueueDefinition) -> None:
        check_declare(definition)

    def open(self, definition: QueueDefinition, keeper: Keeper) -> RemoteQueue:
        node = self._node(self._holder_of(definition))
        queue = node.queues[definition.log_id] = RemoteQueue(definition, keeper, node)
        return queue

    def refresh(self) -> None:
        """Ask all nodes for the numbers of their queues, for those who only glance at them."""
        for node in self.nodes.values():
            node.refresh()

    def up(self, link: Link) -> None:
        self._node(link.node).link = link

    def down(self, link: Link) -> None:
        self._node(link.node).down()

    def frame(self, link: Link, kind: int, payload: bytes) -> int:
        return self._node(link.node).frame(kind, payload)

    def drained(self, link: Link) -> None:
        self._node(link.node).drained()

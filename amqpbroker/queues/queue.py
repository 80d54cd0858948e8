"""The contracts of queues: what the broker asks of them, and what they ask of consumers.

Messages go through a queue in runs: a `range` of log indexes, and the messages at them. The step of
the range is the number of consumers who share the messages in turn.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar

import attrs

from amqpbroker.definitions import QueueDefinition
from amqpbroker.errors import DiskFailure
from amqpbroker.message import Batch, Origin
from amqpbroker.world import Clock

Answer = TypeVar("Answer")
Value = TypeVar("Value")

NO_LIMIT = 1 << 30
"""A credit that never ends."""


class Pending(Generic[Answer]):
    """An answer that is not there yet: another node, or the disk, has to speak first.

    Whoever asked sets ``then``; whoever knows calls `resolve` or `fail`, once.
    """

    def __init__(self) -> None:
        self.then: Callable[[Answer], None] | None = None
        self.otherwise: Callable[[Exception], None] | None = None

    def resolve(self, answer: Answer) -> None:
        """Here is the answer; nothing happens if nobody waits any more."""
        if self.then is not None:
            self.then(answer)

    def fail(self, error: Exception) -> None:
        """There will be no answer, but an error."""
        if self.otherwise is not None:
            self.otherwise(error)

    def giving(self, value: Value) -> "Pending[Value]":
        """The same, but for the answer, which is ``value``."""
        return self.chain(lambda _: value)

    def chain(self, ask: Callable[[Answer], "Value | Pending[Value]"]) -> "Pending[Value]":
        """What ``ask`` makes of the answer, once it is there."""
        other: Pending[Value] = Pending()
        self.then = lambda answer: other.follow(lambda: ask(answer))
        self.otherwise = other.fail
        return other

    def follow(self, ask: Callable[[], "Answer | Pending[Answer]"]) -> None:
        """Answer as ``ask`` does, now or later."""
        try:
            answer = ask()
        except DiskFailure:
            raise
        except Exception as error:
            self.fail(error)
            return
        if isinstance(answer, Pending):
            answer.then, answer.otherwise = self.resolve, self.fail
        else:
            self.resolve(answer)


def when_all(pendings: "Iterable[Pending[None] | None]") -> Pending[None] | None:
    """The answer comes when all of ``pendings`` have theirs, none of which fails; None: they do."""
    waiting = [pending for pending in pendings if pending is not None]
    if not waiting:
        return None
    last: Pending[None] = Pending()
    left = len(waiting)

    def count(_: None) -> None:
        nonlocal left
        left -= 1
        if not left:
            last.resolve(None)

    for pending in waiting:
        pending.then = count
    return last


class Outcome(Enum):
    """What becomes of a delivered message."""

    ACK = "ack"
    REJECT = "reject"
    REQUEUE = "requeue"
    RETURN = "return"
    """It goes back unseen: to its place, as if it had not been delivered, if no later one was."""


@attrs.frozen
class QueueStat:
    """A queue in numbers."""

    ready: int
    """Messages that wait for a consumer."""
    unsettled: int
    """Messages that were delivered, or got, and are not settled."""
    consumers: int


@attrs.frozen
class QueueSizes:
    """What the messages of a queue come to, in octets of their bodies."""

    ready_bytes: int = 0
    unsettled_bytes: int = 0
    persistent: int = 0
    """Messages, ready or not settled, that outlive the node."""
    persistent_bytes: int = 0
    paged_out: int = 0
    """Messages that are on disk only."""
    paged_out_bytes: int = 0


@attrs.define(eq=False)
class QueueCounts:
    """How many messages went through a queue, since it was opened."""

    published: int = 0
    delivered: int = 0
    delivered_no_ack: int = 0
    redelivered: int = 0
    """Of those that were delivered or got, the ones that had been before."""
    got: int = 0
    got_no_ack: int = 0
    got_empty: int = 0
    """How often somebody asked, and there was none."""
    acked: int = 0

    def add(self, other: "QueueCounts") -> None:
        """Count what another queue has counted."""
        for field in attrs.fields(QueueCounts):
            name = field.name
            setattr(self, name, getattr(self, name) + getattr(other, name))


@attrs.frozen
class Got:
    """A message that was asked for (basic.get)."""

    index: int
    origin: Origin
    raw: bytes
    redelivered: bool
    ready: int
    """Messages that still wait behind it."""


class Consumer(ABC):
    """Whoever takes messages from a queue: an AMQP channel, or anything else.

    A consumer without ``credit`` is told so by `park`, and calls ``Queue.resume`` when it has some
    again.
    """

    no_ack: bool
    exclusive: bool
    priority: int
    """Whoever has a higher one is served first, as long as it has credit."""

    @property
    @abstractmethod
    def purse(self) -> object | None:
        """What it has its credit from, if it shares that with others: the same object for all.

        None: what it takes lessens nobody else's credit.
        """

    @property
    @abstractmethod
    def credit(self) -> int:
        """How many messages it takes now."""

    @abstractmethod
    def deliver(self, queue: "Queue", indexes: range, batch: Batch, redelivered: bool) -> None:
        """Take messages; unless ``no_ack``, each is settled later by ``Queue.settle``."""

    @abstractmethod
    def park(self) -> None:
        """The queue passes it over until it resumes."""

    @abstractmethod
    def cancelled(self) -> None:
        """The queue is gone."""


class Destination(ABC):
    """Where messages end up: a queue, or what takes its place."""

    version: int
    """Raised once, when it is deleted: who remembers a route to it looks here."""
    refused: Sequence[range] = ()
    """Indexes below `committed` whose messages were not taken, or may be lost.

    Those of late, in order; the range is there before `committed` moves past it.
    """

    @property
    @abstractmethod
    def committed(self) -> int:
        """Messages whose index lies below this may be confirmed."""

    @abstractmethod
    def publish(self, origin: Origin, raws: list[bytes]) -> int:
        """Take a run of messages; returns the index behind the last.

        They may be confirmed once `committed` reaches it. A deleted queue takes messages too, and
        forgets them.
        """

    @abstractmethod
    def when_committed(self, call: Callable[[], None]) -> None:
        """Make ``call``, once, when `committed` has moved next."""


class ReplyAddress(Destination):
    """Where direct replies go: to a channel, past all queues, and to nowhere once that is gone.

    They wait for nothing: no commit, and nobody's credit.
    """

    @abstractmethod
    def is_there(self) -> "bool | Pending[bool]":
        """Whether somebody waits for replies there."""

    def when_committed(self, call: Callable[[], None]) -> None:
        """Nothing is ever waited for here."""


class Owner(Protocol):
    """A connection, as its exclusive queues see it."""

    @property
    def title(self) -> tuple[str, str, int]:
        """What it is called, and where its peer is: host and port."""

    def own(self, queue: "Queue") -> None:
        """The queue is its own; if it has ended by now, the queue is not needed."""

    def disown(self, queue: "Queue") -> None:
        """The queue is gone."""


class Queue(Destination):
    """Messages on their way to consumers.

    Publish and settle never wait. Whatever else may have to wait answers with a `Pending`.
    """

    definition: QueueDefinition
    is_here = True
    """Whether its messages are on this node."""
    owner: Owner | None
    """The connection whose own it is (exclusive), if that is here; else None."""

    @property
    def counts(self) -> QueueCounts:
        """What went through it, as far as that is known here."""
        return QueueCounts()

    @abstractmethod
    def settle(self, indexes: range, outcome: Outcome) -> None:
        """Note what becomes of delivered messages. A deleted queue takes no notice."""

    @abstractmethod
    def dispatch(self, limit: int) -> int:
        """Hand up to ``limit`` ready messages to consumers with credit; returns their number."""

    @abstractmethod
    def consume(self, consumer: Consumer) -> Pending[None] | None:
        """Add a consumer. Raises `AccessRefused` if an exclusive one stands in the way."""

    @abstractmethod
    def resume(self, consumer: Consumer) -> None:
        """A parked consumer has credit again."""

    @abstractmethod
    def cancel(self, consumer: Consumer) -> Pending[None] | None:
        """Remove a consumer; what it has not settled stays with it.

        Until the answer is there, it is given what is on its way to it. With its last consumer an
        auto-delete queue goes (`Keeper.unused`).
        """

    def abandon(self, consumer: Consumer) -> None:
        """Remove a consumer that takes nothing any more; it may be about to be cancelled."""
        self.cancel(consumer)

    def heed(self, policy: Mapping[str, Any]) -> None:
        """Act on what policies say from now on, unless its own arguments say otherwise."""

    @abstractmethod
    def touch(self) -> None:
        """Note that it was declared again, and so is in use."""

    @abstractmethod
    def get(self, no_ack: bool) -> Got | Pending[Got | None] | None:
        """Take the first ready message; None if there is none."""

    @abstractmethod
    def purge(self) -> int | Pending[int]:
        """Drop all ready messages; returns their number."""

    @abstractmethod
    def may_delete(self, if_unused: bool, if_empty: bool) -> int | Pending[int]:
        """Whether it may be deleted; the number of ready messages.

        A number: whoever asked submits the change. A `Pending`: whoever holds the queue does, and
        this is the answer. Raises `PreconditionFailed` if the queue is in use, or not empty.
        """

    @abstractmethod
    def delete(self) -> int:
        """It is deleted: cancel the consumers and drop all messages.

        Returns the number of the ready ones, as far as they were kept here.
        """

    @abstractmethod
    def stat(self) -> QueueStat | Pending[QueueStat]:
        """The queue in numbers."""

    def glance(self) -> QueueStat:
        """The queue in numbers, as far as they are known here, and perhaps of a while ago."""
        stat = self.stat()
        assert isinstance(stat, QueueStat), stat
        return stat

    def sizes(self) -> QueueSizes:
        """What its messages come to, as far as that is known here."""
        return QueueSizes()

    @property
    def owner_title(self) -> tuple[str, str, int] | None:
        """The title of the connection whose own it is, wherever that is."""
        return None if self.owner is None else self.owner.title


class Timer(Protocol):
    """A call that is going to be made."""

    def cancel(self) -> None:
        """See that it is not made any more."""


class Keeper(ABC):
    """What queues may ask of whoever keeps them."""

    wake: Callable[[Queue], Any]
    """To be called when there may be something to dispatch."""
    clock: Clock

    @abstractmethod
    def call_at(self, when_s: float, call: Callable[[float], None]) -> Timer:
        """Make ``call``, with the time, once the monotonic clock shows ``when_s``."""

    @abstractmethod
    def unused(self, queue: Queue) -> None:
        """Delete ``queue``: its last consumer has left, or it was unused for too long."""


class QueueType(ABC):
    """Makes queues of one kind."""

    @abstractmethod
    def check(self, definition: QueueDefinition) -> None:
        """Raise `PreconditionFailed` if a queue of this type cannot have its arguments."""

    @abstractmethod
    def open(self, definition: QueueDefinition, keeper: Keeper) -> Queue:
        """The queue that ``definition`` describes, with the messages that its log has of it."""

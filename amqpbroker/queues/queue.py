"""The contracts of queues: what the broker asks of them, and what they ask of consumers.

Everything that goes through a queue goes in runs: a `range` of log indexes (its step counts how
many consumers share the messages in turn) with the messages at them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar

import attrs

from amqpbroker.definitions import QueueDefinition
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
        other: Pending[Value] = Pending()
        self.then, self.otherwise = lambda _: other.resolve(value), other.fail
        return other


class Outcome(Enum):
    """What becomes of a delivered message."""

    ACK = "ack"
    REJECT = "reject"
    REQUEUE = "requeue"


@attrs.frozen
class QueueStat:
    """A queue in numbers."""

    ready: int
    """Messages that wait for a consumer."""
    unsettled: int
    """Messages that a consumer has and did not settle."""
    consumers: int


@attrs.frozen
class Got:
    """A message that was asked for (basic.get)."""

    index: int
    origin: Origin
    raw: bytes
    redelivered: bool
    ready: int
    """Messages left behind it."""


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
    def shares_credit(self) -> bool:
        """Whether what it takes lessens the credit of other consumers too."""

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

    @property
    @abstractmethod
    def committed(self) -> int:
        """Messages whose index lies below this may be confirmed."""

    @abstractmethod
    def publish(self, origin: Origin, raws: list[bytes]) -> int:
        """Take a run of messages.

        The index behind the last. Confirmed when `committed` reaches it. What is deleted takes
        them too, and forgets them.
        """

    @abstractmethod
    def when_committed(self, call: Callable[[], None]) -> None:
        """Call once, when `committed` has moved."""


class Queue(Destination):
    """Messages on their way to consumers.

    Publish and settle never wait. Whatever else may have to answers with a `Pending`.
    """

    definition: QueueDefinition
    owner: object | None
    """The connection whose own it is (exclusive), else None."""

    @abstractmethod
    def settle(self, indexes: range, outcome: Outcome) -> None:
        """What became of delivered messages; nothing, if the queue is gone."""

    @abstractmethod
    def dispatch(self, limit: int) -> int:
        """Hand out ready messages to consumers with credit, ``limit`` at most; how many it were."""

    @abstractmethod
    def consume(self, consumer: Consumer) -> Pending[None] | None:
        """Add a consumer. Raises `AccessRefused` if an exclusive one stands in the way."""

    @abstractmethod
    def resume(self, consumer: Consumer) -> None:
        """A parked consumer has credit again."""

    @abstractmethod
    def cancel(self, consumer: Consumer) -> None:
        """Remove a consumer; what it has not settled stays with it."""

    @abstractmethod
    def touch(self) -> None:
        """It was declared again: it is in use."""

    @abstractmethod
    def get(self, no_ack: bool) -> Got | Pending[Got | None] | None:
        """The next message, None if there is none."""

    @abstractmethod
    def purge(self) -> int | Pending[int]:
        """Drop all ready messages; their count."""

    @abstractmethod
    def delete(self) -> int | Pending[int]:
        """End: consumers are cancelled, messages dropped; the count of the ready ones."""

    @abstractmethod
    def stat(self) -> QueueStat:
        """Where it stands."""


class Timer(Protocol):
    """A call that will be made."""

    def cancel(self) -> None:
        """It need not be made any more."""


class Keeper(ABC):
    """Whoever keeps queues: what they may ask for.

    They call ``wake`` when there may be something to dispatch.
    """

    wake: Callable[[Queue], Any]
    clock: Clock

    @abstractmethod
    def call_at(self, when_s: float, call: Callable[[float], None]) -> Timer:
        """Make ``call``, with the time, once the monotonic clock shows ``when_s``."""

    @abstractmethod
    def unused(self, queue: Queue) -> None:
        """``queue`` was not used for as long as it may be: delete it."""


class QueueType(ABC):
    """Makes queues of one kind."""

    @abstractmethod
    def check(self, definition: QueueDefinition) -> None:
        """Raise `PreconditionFailed` if a queue of this type cannot have its arguments."""

    @abstractmethod
    def open(self, definition: QueueDefinition, keeper: Keeper) -> Queue:
        """A queue as defined."""

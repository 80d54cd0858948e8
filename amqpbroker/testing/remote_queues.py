"""A queue on another node, in the same process, that answers at once.

What is asked of a `NearQueue` goes through a `RemoteQueue`, over a `Loopback`, through `Serving`,
to the queue that it stands for, and the answer all the way back, before the call returns. So
whatever tests a queue tests these too.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from amqpbroker.broker.turn import Turn
from amqpbroker.cluster.remote import RemoteQueues
from amqpbroker.cluster.remote_queue import RemoteQueue
from amqpbroker.cluster.serving import Serving
from amqpbroker.definitions import QueueDefinition
from amqpbroker.message import Origin
from amqpbroker.queues.classic import ClassicQueue
from amqpbroker.queues.queue import (
    Consumer,
    Got,
    Keeper,
    Outcome,
    Owner,
    Pending,
    Queue,
    QueueStat,
    Timer,
)
from amqpbroker.storage.log import Log, MemoryLog
from amqpbroker.testing.fakes import FakeKeeper
from amqpbroker.testing.links import Loopback

Answer = TypeVar("Answer")


class _Turn(Turn):
    """The turns of both ends; what the queue itself sets in motion is carried over at once."""

    carry: Callable[[], None] | None = None

    def confirm(self, window: Any) -> None:
        super().confirm(window)
        if self.carry is not None:
            self.carry()


class _HolderKeeper(Keeper):
    """Keeps the queue for which a `NearQueue` stands, and speaks of that one."""

    def __init__(self, keeper: Keeper) -> None:
        self.near: Queue
        self.wake = lambda _: keeper.wake(self.near)
        self.clock = keeper.clock
        self._keeper = keeper

    def call_at(self, when_s: float, call: Callable[[float], None]) -> Timer:
        return self._keeper.call_at(when_s, call)

    def unused(self, queue: Queue) -> None:
        self._keeper.unused(self.near)


class _AskerKeeper(_HolderKeeper):
    """Keeps a `RemoteQueue`."""

    def __init__(self, keeper: Keeper, turn: Turn) -> None:
        super().__init__(keeper)
        self.wake = turn.wake


class NearQueue(Queue):
    """Stands for the queue that ``open_held`` opens on another node."""

    def __init__(
        self,
        definition: QueueDefinition,
        keeper: Keeper,
        open_held: Callable[[QueueDefinition, Keeper], Queue],
    ) -> None:
        self.definition = definition
        self.owner: Owner | None = None
        self._keeper = keeper
        holder_keeper = _HolderKeeper(keeper)
        holder_keeper.near = self
        self.held = open_held(definition, holder_keeper)
        self._turn = _Turn()
        self._queues = RemoteQueues(lambda _: "rabbit@a")
        self._serving = Serving(self._turn, self._find, self._delete)
        self._loopback = Loopback.between(self._queues, self._turn, self._serving, self._turn)
        self.remote = self._queues.open(definition, _AskerKeeper(keeper, self._turn))
        self._turn.carry = self._carry

    def _find(self, queue_id: int) -> Queue | None:
        return self.held

    def _delete(self, definition: QueueDefinition, if_unused: bool, if_empty: bool) -> Any:
        return self.held.may_delete(if_unused, if_empty)

    def _carry(self) -> None:
        """Have everything arrive that is on its way."""
        self._turn.carry = None
        self._loopback.settle()
        self._turn.carry = self._carry

    def _allow(self) -> None:
        """Have consumers say exactly what they take now."""
        for consumer, subscription in self.remote._subscriptions.items():
            subscription.limit = subscription.taken
            if subscription.purse is not None:
                subscription.purse.limit = subscription.purse.taken
            self.remote.resume(consumer)
        self._carry()

    def _now(self, answer: Pending[Answer]) -> Answer:
        """An answer, or the error that comes instead of it."""
        answers: list[Answer] = []
        errors: list[Exception] = []
        answer.then, answer.otherwise = answers.append, errors.append
        self._carry()
        if errors:
            raise errors[0]
        return answers[0]

    # -- the queue -----------------------------------------------------------------------------

    @property
    def version(self) -> int:  # type: ignore[override]
        return self.remote.version

    @property
    def committed(self) -> int:
        self._carry()
        return self.remote.committed

    def publish(self, origin: Origin, raws: list[bytes]) -> int:
        self._allow()
        end = self.remote.publish(origin, raws)
        self._carry()
        return end

    def when_committed(self, call: Callable[[], None]) -> None:
        self.remote.when_committed(call)

    def settle(self, indexes: range, outcome: Outcome) -> None:
        self.remote.settle(indexes, outcome)
        self._carry()

    def dispatch(self, limit: int) -> int:
        self._allow()
        handed = self.held.dispatch(limit)
        self._carry()
        return handed

    def consume(self, consumer: Consumer) -> None:
        self._now(self.remote.consume(consumer))

    def resume(self, consumer: Consumer) -> None:
        self.remote.resume(consumer)
        self._keeper.wake(self)

    def cancel(self, consumer: Consumer) -> None:
        cancelled = self.remote.cancel(consumer)
        if cancelled is not None:
            self._now(cancelled)

    def touch(self) -> None:
        self.remote.touch()
        self._carry()

    def get(self, no_ack: bool) -> Got | None:
        return self._now(self.remote.get(no_ack))

    def purge(self) -> int:
        return self._now(self.remote.purge())

    def may_delete(self, if_unused: bool, if_empty: bool) -> int:
        answer = self.remote.may_delete(if_unused, if_empty)
        return self._now(answer) if isinstance(answer, Pending) else answer

    def delete(self) -> int:
        self._carry()
        count = self.held.delete()
        self.remote.delete()
        self._carry()
        return count

    def stat(self) -> QueueStat | Pending[QueueStat]:
        if self.version:
            return self.held.stat()
        return self._now(self.remote.stat())


class Holder:
    """A node that holds queues, and nodes that `dial` it."""

    def __init__(self) -> None:
        self.keeper = FakeKeeper()
        self.queues: dict[int, Queue] = {}
        self.serving = Serving(self.keeper.turn, self.queues.get, self.delete)
        self.askers: list[Asker] = []

    def open(self, definition: QueueDefinition, log: Log | None = None) -> ClassicQueue:
        """Hold a queue."""
        queue = ClassicQueue(definition, MemoryLog() if log is None else log, self.keeper)
        self.queues[definition.log_id] = queue
        return queue

    def delete(self, definition: QueueDefinition, if_unused: bool, if_empty: bool) -> int:
        """Delete a queue, if it may be; nobody else is told."""
        queue = self.queues[definition.log_id]
        count = queue.may_delete(if_unused, if_empty)
        assert isinstance(count, int)
        del self.queues[definition.log_id]
        queue.delete()
        return count

    def dial(self) -> "Asker":
        """Another node, with a stream to this one."""
        asker = Asker(self)
        self.askers.append(asker)
        return asker

    def settle(self) -> None:
        """Let everything happen on all nodes that can."""
        moved = True
        while moved:
            moved = False
            for asker in self.askers:
                moved = asker.move() or moved


class Asker:
    """A node that has dialled ``holder``."""

    def __init__(self, holder: Holder) -> None:
        self.keeper = FakeKeeper()
        self.queues = RemoteQueues(lambda _: "rabbit@a")
        self._holder = holder
        self.stream = Loopback.between(
            self.queues, self.keeper.turn, holder.serving, holder.keeper.turn
        )

    def open(self, definition: QueueDefinition) -> RemoteQueue:
        """A queue of the holder, as seen from here."""
        return self.queues.open(definition, self.keeper)

    def move(self) -> bool:
        """Run turns, and carry what was sent, once in each direction; whether there was any."""
        asking, serving = self.stream.asking, self.stream.serving
        moved = False
        for end, other in ((asking, serving), (serving, asking)):
            while end.turn.run():
                pass
            end.flush()
            moved = end.carry_to(other) or moved
        for end in (asking, serving):
            while end.turn.run():
                pass
        return moved

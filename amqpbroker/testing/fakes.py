"""Stand-ins that do what the test says: a clock, consumers, logs that lag, queues that answer late.

For what is tested without tasks. Where time passes and octets travel, take `simulate`.
"""

import random
from collections import deque
from collections.abc import Callable
from typing import Any

import attrs

from amqpbroker.broker.deadlines import Deadline, Deadlines
from amqpbroker.broker.turn import Turn
from amqpbroker.definitions import QueueDefinition
from amqpbroker.message import Batch, Origin, Traits
from amqpbroker.protocol.content import encode_address
from amqpbroker.queues.classic import ClassicQueue
from amqpbroker.queues.queue import NO_LIMIT, Consumer, Keeper, Pending, Queue, QueueType
from amqpbroker.storage.log import MemoryLog
from amqpbroker.testing.sim_disk import SimDisk
from amqpbroker.testing.sim_time import SimTime
from amqpbroker.testing.trace import Trace
from amqpbroker.testing.world import SimMemory, SimNetwork
from amqpbroker.world import Clock, World


@attrs.define(eq=False)
class FakeClock(Clock):
    """Time that stands still until the test moves it on."""

    now_s: float = 1000.0
    wall_ahead_ms: int = 0
    """The calendar's difference; a test that sets the clock of the machine changes it."""

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_ms(self) -> int:
        return round(self.now_s * 1000) + self.wall_ahead_ms

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        assert seconds >= 0, seconds
        self.now_s += seconds


def fake_world(seed: int = 0, clock: Clock | None = None) -> World:
    """A world for what needs no tasks: its clock stands, its memory is fixed, it has one seed."""
    trace = Trace()
    return World(
        clock or FakeClock(),
        SimNetwork(random.Random(f"network {seed}"), trace, SimTime()),
        SimDisk(random.Random(f"disk {seed}"), trace),
        SimMemory(),
        random.Random(f"world {seed}"),
    )


def fake_origin(
    exchange: str = "",
    routing_key: str = "q",
    persistent: bool = False,
    priority: int = 0,
    ttl_ms: int | None = None,
) -> Origin:
    """An origin as a publisher on channel 1 has it."""
    address = encode_address(exchange, routing_key)
    traits = Traits(persistent, priority=priority)
    return Origin(exchange, routing_key, address, 1, 131072, traits, ttl_ms)


def numbered(count: int, start: int = 0) -> list[bytes]:
    """Messages that can be told apart."""
    return [b"message %d" % number for number in range(start, start + count)]


class FakeKeeper(Keeper):
    """Keeps queues: their time is a `FakeClock`'s, their turns are run by the test."""

    def __init__(self) -> None:
        self.clock: FakeClock = FakeClock()
        self.turn = Turn()
        self.deadlines = Deadlines()
        self.wake = self.turn.wake
        self.found_unused: list[Queue] = []

    def call_at(self, when_s: float, call: Callable[[float], None]) -> Deadline:
        return self.deadlines.at(when_s, call)

    def unused(self, queue: Queue) -> None:
        self.found_unused.append(queue)

    def hand_out(self) -> None:
        """Let the queues hand out all that they can."""
        while self.turn.run():
            pass

    def advance(self, ms: int) -> None:
        """Let time pass, and make the calls that are due meanwhile, each at its time."""
        end_s = round(self.clock.now_s + ms / 1000, 6)
        while (due_s := self.deadlines.next_s()) is not None and due_s <= end_s:
            self.clock.now_s = max(self.clock.now_s, due_s)
            self.deadlines.run(self.clock.now_s)
        self.clock.now_s = end_s


@attrs.define(eq=False)
class CreditPool:
    """Credit that several consumers share."""

    credit: int


@attrs.frozen
class Taken:
    """A message that a consumer was given."""

    index: int
    raw: bytes
    redelivered: bool


class FakeConsumer(Consumer):
    """Takes messages as long as it has credit; `give` gives it more.

    With a ``pool`` it lives on that credit alone.
    """

    def __init__(
        self,
        credit: int = NO_LIMIT,
        no_ack: bool = False,
        exclusive: bool = False,
        pool: CreditPool | None = None,
        priority: int = 0,
    ) -> None:
        self.no_ack = no_ack
        self.exclusive = exclusive
        self.priority = priority
        self.taken: list[Taken] = []
        self.parked = False
        self.is_cancelled = False
        self._pool = pool
        self._own = CreditPool(credit)

    @property
    def _purse(self) -> CreditPool:
        return self._own if self._pool is None else self._pool

    @property
    def purse(self) -> object | None:
        return self._pool

    @property
    def credit(self) -> int:
        return self._purse.credit

    def give(self, queue: Queue, credit: int) -> None:
        """Have ``credit`` more, and say so to ``queue`` if it passed this consumer over."""
        self._purse.credit += credit
        if self.parked and self.credit > 0:
            self.parked = False
            queue.resume(self)

    def deliver(self, queue: Queue, indexes: range, batch: Batch, redelivered: bool) -> None:
        assert len(indexes) == len(batch.origins) == len(batch.raws), (indexes, batch)
        assert len(indexes) <= self.credit, (indexes, self.credit)
        assert not self.is_cancelled
        self._purse.credit -= len(indexes)
        self.taken += (Taken(i, r, redelivered) for i, r in zip(indexes, batch.raws, strict=True))

    @property
    def indexes(self) -> list[int]:
        """Which messages it was given, in order."""
        return [taken.index for taken in self.taken]

    @property
    def raws(self) -> list[bytes]:
        """What it was given, in order."""
        return [taken.raw for taken in self.taken]

    def park(self) -> None:
        self.parked = True

    def cancelled(self) -> None:
        self.is_cancelled = True


class HeldLog(MemoryLog):
    """A log whose marks move when the test says so, as a disk or mirrors would move them."""

    def append(self, origin: Origin, raws: list[bytes]) -> int:
        marks = self.readable, self.committed
        end = super().append(origin, raws)
        self.readable, self.committed = marks
        return end

    def advance(self, readable: int | None = None, committed: int | None = None) -> None:
        """Move the marks, and tell whoever listens."""
        self.readable = self.readable if readable is None else readable
        self.committed = self.committed if committed is None else committed
        assert max(self.readable, self.committed) <= self.end
        if self.on_advance is not None:
            self.on_advance()


class SlowQueue(ClassicQueue):
    """A queue whose answers come when the test says so; publish and settle do not wait.

    What is asked has a `Pending` for an answer; it is done at `answer`, and not at all after
    `refuse`.
    """

    def __init__(self, definition: QueueDefinition, keeper: Keeper) -> None:
        super().__init__(definition, MemoryLog(), keeper)
        self._asked: deque[tuple[Pending[Any], Callable[[], Any]]] = deque()

    @property
    def asked(self) -> int:
        """Questions without an answer."""
        return len(self._asked)

    def answer(self) -> None:
        """Answer the oldest question."""
        pending, act = self._asked.popleft()
        try:
            answer = act()
        except Exception as error:
            pending.fail(error)
        else:
            pending.resolve(answer)

    def refuse(self, error: Exception) -> None:
        """Answer the oldest question with an error."""
        self._asked.popleft()[0].fail(error)

    def _later(self, act: Callable[[], Any]) -> Pending[Any]:
        pending: Pending[Any] = Pending()
        self._asked.append((pending, act))
        return pending

    def consume(self, consumer: Consumer) -> Any:
        return self._later(lambda: ClassicQueue.consume(self, consumer))

    def get(self, no_ack: bool) -> Any:
        return self._later(lambda: ClassicQueue.get(self, no_ack))

    def purge(self) -> Any:
        return self._later(lambda: ClassicQueue.purge(self))


class SlowQueues(QueueType):
    """Makes `SlowQueue`; ``opened`` has them by name."""

    def __init__(self) -> None:
        self.opened: dict[str, SlowQueue] = {}

    def check(self, definition: QueueDefinition) -> None:
        """Accept whatever arguments there are."""

    def open(self, definition: QueueDefinition, keeper: Keeper) -> Queue:
        queue = self.opened[definition.name] = SlowQueue(definition, keeper)
        return queue


class HeldQueues(QueueType):
    """Makes classic queues over `HeldLog`; ``logs`` has those by the queue's name."""

    def __init__(self) -> None:
        self.logs: dict[str, HeldLog] = {}

    def check(self, definition: QueueDefinition) -> None:
        """Accept whatever arguments there are."""

    def open(self, definition: QueueDefinition, keeper: Keeper) -> Queue:
        log = self.logs[definition.name] = HeldLog()
        return ClassicQueue(definition, log, keeper)

"""The classic queue: first in, first out, over a log.

The queue's state is small: which indexes wait (`Ready`), who wants them, how many are out. The log
has the messages. Dispatch shares waiting messages out in turn, one each, as RabbitMQ does, but in
strides: three consumers get the indexes 0, 3, 6 …, 1, 4, 7 … and 2, 5, 8 …, each as one run.
"""

from collections.abc import Callable
from typing import Any
from zlib import crc32

from amqpbroker.definitions import QueueDefinition
from amqpbroker.errors import AccessRefused
from amqpbroker.message import Batch, Origin
from amqpbroker.queues.arguments import check_declare
from amqpbroker.queues.queue import (
    NO_LIMIT,
    Consumer,
    Got,
    Outcome,
    Queue,
    QueueStat,
    QueueType,
)
from amqpbroker.queues.ready import Ready
from amqpbroker.storage.log import Log, MemoryLog

_SHARED_OUT_MAX = 64
"""Consumers among whom one round of messages is shared."""


class ClassicQueue(Queue):
    """A queue over ``log``; ``wake`` is called when there may be something to dispatch."""

    def __init__(self, definition: QueueDefinition, log: Log, wake: Callable[[Queue], Any]) -> None:
        self.definition = definition
        self.owner: object | None = None
        self.version = 0
        self._log = log
        self._wake = wake
        self._ready = Ready(log.end)
        self._unsettled = 0
        self._consumers: dict[Consumer, None] = {}
        self._active: dict[Consumer, None] = {}
        self._awaiting_commit: dict[Callable[[], None], None] = {}
        log.on_advance = self._log_advanced

    # -- in ------------------------------------------------------------------------------------

    @property
    def committed(self) -> int:
        return self._log.end if self.version else self._log.committed

    def publish(self, origin: Origin, raws: list[bytes]) -> int:
        if self._active:
            self._wake(self)
        return self._log.append(origin, raws)

    def when_committed(self, call: Callable[[], None]) -> None:
        self._awaiting_commit[call] = None

    def _log_advanced(self) -> None:
        calls, self._awaiting_commit = self._awaiting_commit, {}
        for call in calls:
            call()
        self._wake(self)

    # -- out -----------------------------------------------------------------------------------

    def dispatch(self, limit: int) -> int:
        handed = 0
        while self._active and handed < limit:
            waiting = self._ready.count(self._log.readable)
            if not waiting:
                break
            left = min(waiting, limit - handed)
            handed += self._serve_one(left) if len(self._active) == 1 else self._serve_all(left)
        return handed

    def _serve_one(self, left: int) -> int:
        """Give the one consumer that has a turn what it takes, up to ``left``; how many."""
        (consumer,) = self._active
        credit = consumer.credit
        if credit <= 0:
            del self._active[consumer]
            consumer.park()
            return 0
        indexes, batch, redelivered = self._take(min(left, credit))
        self._deliver(consumer, indexes, batch, redelivered)
        return len(indexes)

    def _serve_all(self, left: int) -> int:
        """Give all consumers whose turn it is the same share of up to ``left``; how many in all."""
        takers, rounds = self._next_takers(min(left, _SHARED_OUT_MAX))
        if not takers:
            return 0
        share = min(rounds, left // len(takers)) * len(takers)
        indexes, batch, redelivered = self._take(share)
        self._share_out(takers, indexes, batch, redelivered)
        return len(indexes)

    def _take(self, limit: int) -> tuple[range, Batch, bool]:
        """Up to ``limit`` of the messages that wait, as many as lie together."""
        indexes, redelivered = self._ready.take(self._log.readable, limit)
        batch = self._log.read(indexes)
        count = len(batch.raws)
        if count < len(indexes):
            self._ready.put_back(indexes[count:], redelivered)
            indexes = indexes[:count]
        return indexes, batch, redelivered

    def _deliver(self, consumer: Consumer, indexes: range, batch: Batch, redelivered: bool) -> None:
        if consumer.no_ack:
            self._log.settle(indexes)
        else:
            self._unsettled += len(indexes)
        consumer.deliver(self, indexes, batch, redelivered)

    def _next_takers(self, limit: int) -> tuple[list[Consumer], int]:
        """Those whose turn it is, at most ``limit``, and how many messages each may get.

        Who has no credit is parked.
        """
        takers: list[Consumer] = []
        idle: list[Consumer] = []
        rounds = NO_LIMIT
        for consumer in self._active:
            if len(takers) == limit:
                rounds = 1  # There are others, whose turn it is before the first takes again.
                break
            credit = consumer.credit
            if credit <= 0:
                idle.append(consumer)
                continue
            if consumer.shares_credit and len(self._active) > 1:
                # What it takes lessens another's credit: it is served alone, message by message.
                rounds = 1
                if not takers:
                    takers.append(consumer)
                break
            takers.append(consumer)
            rounds = min(rounds, credit)
        for consumer in idle:
            del self._active[consumer]
            consumer.park()
        return takers, rounds

    def _share_out(
        self, takers: list[Consumer], indexes: range, batch: Batch, redelivered: bool
    ) -> None:
        """Message by message to each taker in turn; who was served goes to the end of the line."""
        turn = len(takers)
        served = takers[: len(indexes)]
        last = len(indexes) % len(served)  # So many were served once more than the others.
        for consumer in served[last:] + served[:last]:
            del self._active[consumer]
            self._active[consumer] = None
        for place, consumer in enumerate(served):
            part = Batch(batch.origins[place::turn], batch.raws[place::turn])
            self._deliver(consumer, indexes[place::turn], part, redelivered)

    def settle(self, indexes: range, outcome: Outcome) -> None:
        if self.version:
            return
        self._unsettled -= len(indexes)
        if outcome is Outcome.REQUEUE:
            self._ready.give_back(indexes)
            self._wake(self)
        else:
            self._log.settle(indexes)

    def get(self, no_ack: bool) -> Got | None:
        log = self._log
        if not self._ready.count(log.readable):
            return None
        indexes, redelivered = self._ready.take(log.readable, 1)
        batch = log.read(indexes)
        if no_ack:
            log.settle(indexes)
        else:
            self._unsettled += 1
        return Got(
            indexes[0],
            batch.origins[0],
            batch.raws[0],
            redelivered,
            self._ready.count(log.readable),
        )

    # -- consumers -----------------------------------------------------------------------------

    def consume(self, consumer: Consumer) -> None:
        if self._consumers and (consumer.exclusive or next(iter(self._consumers)).exclusive):
            definition = self.definition
            raise AccessRefused(
                f"queue '{definition.name}' in vhost '{definition.vhost}' in exclusive use"
            )
        self._consumers[consumer] = None
        self.resume(consumer)

    def resume(self, consumer: Consumer) -> None:
        if consumer in self._consumers:
            self._active[consumer] = None
            self._wake(self)

    def cancel(self, consumer: Consumer) -> None:
        self._consumers.pop(consumer, None)
        self._active.pop(consumer, None)

    # -- the whole -----------------------------------------------------------------------------

    def purge(self) -> int:
        runs = self._ready.clear(self._log.readable)
        for run in runs:
            self._log.settle(run)
        return sum(map(len, runs))

    def delete(self) -> int:
        self.version += 1
        count = self.purge()
        consumers, self._consumers, self._active = list(self._consumers), {}, {}
        for consumer in consumers:
            consumer.cancelled()
        self._log_advanced()  # Nobody waits for the commit of a message that is gone.
        self._log.on_advance = None  # Nothing leads in a circle: the queue is freed at once.
        return count

    def stat(self) -> QueueStat:
        return QueueStat(
            self._ready.count(self._log.readable), self._unsettled, len(self._consumers)
        )


class ClassicQueues(QueueType):
    """Classic queues whose logs live in memory."""

    def check(self, definition: QueueDefinition) -> None:
        check_declare(definition)

    def open(self, definition: QueueDefinition, wake: Callable[[Queue], Any]) -> Queue:
        shift = crc32(definition.name.encode("utf-8", "surrogateescape"))
        return ClassicQueue(definition, MemoryLog(shift), wake)

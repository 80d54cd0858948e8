"""The classic queue: first in, first out, over a log.

The queue's state is small: which indexes wait (`Ready`), who wants them (`Rota`), how many are not
settled, and what ends by itself (`Expiry`, `Lease`), if anything does. The log has the messages.
Dispatch shares waiting messages out in turn, one each, as RabbitMQ does, but in strides: three
consumers get the indexes 0, 3, 6 …, 1, 4, 7 … and 2, 5, 8 …, each as one run.
"""

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any
from zlib import crc32

from amqpbroker.definitions import QueueDefinition
from amqpbroker.errors import AccessRefused, PreconditionFailed
from amqpbroker.message import Batch, Origin
from amqpbroker.queues.arguments import check_declare
from amqpbroker.queues.expiry import Expiry, Lease
from amqpbroker.queues.queue import (
    Consumer,
    Got,
    Keeper,
    Outcome,
    Owner,
    Queue,
    QueueCounts,
    QueueSizes,
    QueueStat,
    QueueType,
)
from amqpbroker.queues.ready import Line, Priorities, Ready
from amqpbroker.queues.rota import Rota
from amqpbroker.storage.log import DeletedLog, Log, MemoryLog

_SHARED_OUT_MAX = 64
"""Consumers among whom one round of messages is shared."""
_RUNS_WEIGHED_MAX = 64
_AT_ONCE_MAX = 1024
"""Messages that are handed out before others are taken: with more, these are not the next."""


class ClassicQueue(Queue):
    """A queue over ``log``."""

    def __init__(self, definition: QueueDefinition, log: Log, keeper: Keeper) -> None:
        arguments = definition.arguments
        self.definition = definition
        self.owner: Owner | None = None
        self.version = 0
        self._log = log
        self._counts = QueueCounts()
        self._end_at_first = log.end
        self._keeper = keeper
        self._wake = keeper.wake
        self._unsettled = 0
        self._consumers: dict[Consumer, None] = {}
        self._rota = Rota()
        self._awaiting_commit: dict[Callable[[], None], None] = {}
        highest: int | None = arguments.get("x-max-priority")
        self._ready: Ready = (
            Line(log.fresh_from, log.readable)
            if highest is None
            else Priorities(log, max(1, highest))
        )
        self._ttl_ms: int | None = arguments.get("x-message-ttl")
        self._is_plain = highest is None and self._ttl_ms is None
        """Whether a message without a time to live of its own can go straight into the log."""
        self._expiry: Expiry | None = None
        """There once a message came that may not wait for ever."""
        self._lease: Lease | None = None
        if "x-expires" in arguments:
            self._lease = Lease(arguments["x-expires"], keeper, self._is_used, self._report_unused)
        self._recovering = list(log.recovered)
        """What was there when the log was opened, and is not readable yet."""
        log.on_advance = self._log_advanced
        log.on_skip = self._log_skipped
        if log.recovered:
            self._recover()
            self._expiry = Expiry(self._ready, log, keeper)
            self._drop_expired()

    # -- in ------------------------------------------------------------------------------------

    @property
    def committed(self) -> int:
        return self._log.end if self.version else self._log.committed

    def publish(self, origin: Origin, raws: list[bytes]) -> int:
        if self._rota.active:
            self._wake(self)
        if self._is_plain and origin.ttl_ms is None:
            return self._log.append(origin, raws)
        return self._publish_special(origin, raws)

    def _publish_special(self, origin: Origin, raws: list[bytes]) -> int:
        """Take messages whose priority counts here, or that may not wait for ever.

        Whoever waits for messages has them at once (RabbitMQ): however short their time is, and
        whatever comes right after them with a higher priority.
        """
        log, ready, rota = self._log, self._ready, self._rota
        if self.version:
            return log.append(origin, raws)
        ttl_ms = _least(self._ttl_ms, origin.ttl_ms)
        if ttl_ms is not None and self._expiry is None:
            self._expiry = Expiry(ready, log, self._keeper)
        expiry = self._expiry
        if expiry is not None:
            expiry.read_clock()
            if ttl_ms is not None:
                origin = expiry.stamped(origin, ttl_ms)
        if rota.active:
            self._hand_out(_AT_ONCE_MAX)  # What came before goes before.
        first = not ready.count(log.readable)
        end = log.append(origin, raws)
        ready.add(end - len(raws), end, origin.traits.priority)
        if first and rota.active:
            if expiry is not None:
                expiry.now_ms -= 1  # As of a moment before they came, they have time.
            self._hand_out(len(raws))
        self._drop_expired()
        return end

    @property
    def counts(self) -> QueueCounts:
        self._counts.published = self._log.end - self._end_at_first
        return self._counts

    def when_committed(self, call: Callable[[], None]) -> None:
        self._awaiting_commit[call] = None

    def _recover(self) -> None:
        """Have wait what is readable of that which was there when the log was opened."""
        recovering, readable = self._recovering, self._log.readable
        while recovering and recovering[0].start < readable:
            run = recovering.pop(0)
            if run.stop > readable:
                recovering.insert(0, range(readable, run.stop))
                run = range(run.start, readable)
            self._ready.recover(run)

    def _log_skipped(self, gap: range) -> None:
        self._end_at_first += len(gap)
        self._ready.skip(gap)

    def _log_advanced(self) -> None:
        if self._recovering:
            self._recover()
        calls, self._awaiting_commit = self._awaiting_commit, {}
        for call in calls:
            call()
        self._wake(self)

    # -- out -----------------------------------------------------------------------------------

    def _drop_expired(self) -> None:
        """See that what is first has not expired: so begins whatever asks for it."""
        if self._expiry is not None:
            self._expiry.read_clock()
            self._expiry.drop()

    def dispatch(self, limit: int) -> int:
        if self._expiry is not None:
            self._expiry.read_clock()
        return self._hand_out(limit)

    def _hand_out(self, limit: int) -> int:
        """Give consumers up to ``limit`` messages, as of the time that was read last.

        Returns the number given, as `_serve_one` and `_serve_all` do.
        """
        rota, expiry = self._rota, self._expiry
        handed = 0
        while rota.active and handed < limit:
            if expiry is not None:
                expiry.drop()
            waiting = self._ready.count(self._log.readable)
            if not waiting:
                break
            left = min(waiting, limit - handed)
            handed += self._serve_one(left) if len(rota.active) == 1 else self._serve_all(left)
        if expiry is not None:
            expiry.drop()
        return handed

    def _serve_one(self, left: int) -> int:
        """Give the one consumer that has a turn what it takes, up to ``left``."""
        (consumer,) = self._rota.active
        credit = consumer.credit
        if credit <= 0:
            self._rota.pass_over(consumer)
            return 0
        indexes, batch, redelivered = self._take(min(left, credit))
        if indexes:
            self._deliver(consumer, indexes, batch, redelivered)
        return len(indexes)

    def _serve_all(self, left: int) -> int:
        """Give all consumers whose turn it is the same share, up to ``left`` in all."""
        takers, rounds = self._rota.next(min(left, _SHARED_OUT_MAX))
        if not takers:
            return 0
        share = min(rounds, left // len(takers)) * len(takers)
        indexes, batch, redelivered = self._take(share)
        if indexes:
            self._share_out(takers, indexes, batch, redelivered)
        return len(indexes)

    def _take(self, limit: int) -> tuple[range, Batch, bool]:
        """Up to ``limit`` of the messages that wait, as many as lie together.

        None, if the first are damaged: they are gone then.
        """
        indexes, redelivered = self._ready.take(self._log.readable, limit)
        batch = self._log.read(indexes)
        count = len(batch.raws)
        if not count:
            lost = len(batch.origins)
            self._log.settle(indexes[:lost])
            if lost < len(indexes):
                self._ready.put_back(indexes[lost:], redelivered)
            return range(0), batch, redelivered
        if self._expiry is not None:
            count = self._expiry.deliverable(batch.origins)
            del batch.origins[count:], batch.raws[count:]
        if count < len(indexes):
            self._ready.put_back(indexes[count:], redelivered)
            indexes = indexes[:count]
        return indexes, batch, redelivered

    def _deliver(self, consumer: Consumer, indexes: range, batch: Batch, redelivered: bool) -> None:
        count = len(indexes)
        if redelivered:
            self._counts.redelivered += count
        if consumer.no_ack:
            self._counts.delivered_no_ack += count
            self._log.settle(indexes)
        else:
            self._counts.delivered += count
            self._unsettled += count
        consumer.deliver(self, indexes, batch, redelivered)

    def _share_out(
        self, takers: list[Consumer], indexes: range, batch: Batch, redelivered: bool
    ) -> None:
        """Message by message to each taker in turn; who was served goes to the end of the line."""
        stride = len(takers)
        served = takers[: len(indexes)]
        last = len(indexes) % len(served)  # So many were served once more than the others.
        self._rota.to_the_end(served[last:] + served[:last])
        for place, consumer in enumerate(served):
            part = Batch(batch.origins[place::stride], batch.raws[place::stride])
            self._deliver(consumer, indexes[place::stride], part, redelivered)

    def settle(self, indexes: range, outcome: Outcome) -> None:
        if self.version:
            return
        count = len(indexes)
        self._unsettled -= count
        if outcome is Outcome.ACK:
            self._counts.acked += count
            self._log.settle(indexes)
        elif outcome is Outcome.REJECT:
            self._log.settle(indexes)
        else:
            self._ready.give_back(indexes, seen=outcome is Outcome.REQUEUE)
            self._drop_expired()
            self._wake(self)

    def heed(self, policy: Mapping[str, Any]) -> None:
        flush = self.definition.arguments.get("x-flush", policy.get("flush"))
        self._log.flush_async(flush == "async")

    def touch(self) -> None:
        if self._lease is not None:
            self._lease.renew()

    def get(self, no_ack: bool) -> Got | None:
        self.touch()
        log = self._log
        indexes = range(0)
        while not indexes:
            self._drop_expired()
            if not self._ready.count(log.readable):
                self._counts.got_empty += 1
                return None
            indexes, batch, redelivered = self._take(1)
        self._counts.redelivered += redelivered
        if no_ack:
            self._counts.got_no_ack += 1
            log.settle(indexes)
        else:
            self._counts.got += 1
            self._unsettled += 1
        if self._expiry is not None:
            self._expiry.drop()
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
            raise AccessRefused(f"{self.definition.title} in exclusive use")
        self._consumers[consumer] = None
        self.resume(consumer)

    def resume(self, consumer: Consumer) -> None:
        if consumer in self._consumers:
            self._rota.add(consumer)
            self._wake(self)

    def cancel(self, consumer: Consumer) -> None:
        if consumer in self._consumers:
            del self._consumers[consumer]
            self._rota.remove(consumer)
            self.touch()
            if self.definition.auto_delete and not self._consumers:
                self._keeper.unused(self)

    def _is_used(self) -> bool:
        return bool(self._consumers)

    def _report_unused(self) -> None:
        self._keeper.unused(self)

    # -- the whole -----------------------------------------------------------------------------

    def purge(self) -> int:
        self._drop_expired()
        runs = self._ready.clear(self._log.readable)
        for run in runs:
            self._log.settle(run)
        return sum(map(len, runs))

    def may_delete(self, if_unused: bool, if_empty: bool) -> int:
        stat = self.stat()
        if if_empty and stat.ready:
            raise PreconditionFailed(f"{self.definition.title} not empty")
        if if_unused and stat.consumers:
            raise PreconditionFailed(f"{self.definition.title} in use")
        return stat.ready

    def delete(self) -> int:
        self.version += 1
        self._is_plain = False
        self._drop_expired()
        log = self._log
        count = self._ready.count(log.readable)
        # Whoever remembers a way to the queue keeps it, but none of its messages.
        self._log, self._ready = DeletedLog(log.end), Line(log.end)
        self._recovering.clear()
        consumers, self._consumers, self._rota = list(self._consumers), {}, Rota()
        for consumer in consumers:
            consumer.cancelled()
        self._log_advanced()  # Nobody waits for the commit of a message that is gone.
        log.on_advance = log.on_skip = (
            None  # Nothing leads in a circle: the queue is freed at once.
        )
        log.delete()
        self._end_timers()
        return count

    def _end_timers(self) -> None:
        if self._expiry is not None:
            self._expiry.end()
        if self._lease is not None:
            self._lease.end()
        self._expiry = self._lease = None

    def stat(self) -> QueueStat:
        self._drop_expired()
        return QueueStat(
            self._ready.count(self._log.readable), self._unsettled, len(self._consumers)
        )

    def sizes(self) -> QueueSizes:
        """As promised: of what waits in many pieces the mean sizes count."""
        bodies, stat = self._log.bodies(), self.stat()
        ready_bytes = bodies.octets
        if stat.unsettled:
            runs = list(islice(self._ready.runs(self._log.readable), _RUNS_WEIGHED_MAX + 1))
            if len(runs) > _RUNS_WEIGHED_MAX:
                ready_bytes = ready_bytes * stat.ready // (stat.ready + stat.unsettled)
            else:
                ready_bytes = min(sum(map(self._log.body_octets, runs)), ready_bytes)
        unsettled_bytes = bodies.octets - ready_bytes
        is_durable = self.definition.durable
        return QueueSizes(
            ready_bytes,
            unsettled_bytes,
            bodies.persistent if is_durable else 0,
            bodies.persistent_octets if is_durable else 0,
            bodies.paged_out,
            bodies.paged_out_octets,
        )


def _least(one: int | None, other: int | None) -> int | None:
    """The lower of two limits; None is no limit."""
    if one is None or other is None:
        return one if other is None else other
    return min(one, other)


def _memory_log(definition: QueueDefinition) -> Log:
    return MemoryLog(crc32(definition.name.encode("utf-8", "surrogateescape")))


class ClassicQueues(QueueType):
    """Makes classic queues over the logs that ``open_log`` opens; in memory, if it is not given."""

    def __init__(self, open_log: Callable[[QueueDefinition], Log] = _memory_log) -> None:
        self._open_log = open_log

    def check(self, definition: QueueDefinition) -> None:
        check_declare(definition)

    def open(self, definition: QueueDefinition, keeper: Keeper) -> Queue:
        return ClassicQueue(definition, self._open_log(definition), keeper)

"""A queue together with the plainest code that says what it must do.

Whoever drives it (a seeded walk in the contract, hypothesis in our own tests) needs no assertion of
his own.
"""

from collections.abc import Iterable

from amqpbroker.queues.queue import Got, Outcome, Queue, QueueStat
from amqpbroker.testing.fakes import FakeConsumer, FakeKeeper, Taken, fake_origin, numbered


class QueueModel:
    """A queue with consumers, and the lists that say what must become of its messages.

    Waiting messages lie in the order of their priorities, then of their indexes, whatever became of
    them before. What was seen says so when it comes again; what returned unseen may, and must if a
    later one was seen. What is first and has expired is gone. A consumer may be given any of the
    first that wait, as many as all credit together reaches for. The queue has the arguments
    ``x-message-ttl`` and ``x-max-priority`` as ``ttl_ms`` and ``highest`` say.
    """

    def __init__(
        self, queue: Queue, keeper: FakeKeeper, ttl_ms: int | None = None, highest: int = 0
    ) -> None:
        self.queue = queue
        self.consumers: list[FakeConsumer] = []
        self.waiting: list[int] = []
        self.held: dict[FakeConsumer, list[int]] = {}
        self.got: list[int] = []
        """Messages that were asked for, and not settled."""
        self._keeper = keeper
        self._ttl_ms = ttl_ms
        self._highest = highest
        self._raws: dict[int, bytes] = {}
        self._ranks: dict[int, tuple[int, int]] = {}
        self._ends_ms: dict[int, int] = {}
        self._seen: set[int] = set()
        self._seen_twice: set[int] = set()
        self._returned: set[int] = set()
        self._end = 0

    def publish(self, count: int, priority: int = 0, ttl_ms: int | None = None) -> None:
        """Publish messages."""
        self._expire()
        before = self._taken()
        raws = numbered(count, self._end)
        end = self.queue.publish(fake_origin(priority=priority, ttl_ms=ttl_ms), raws)
        assert end == self._end + count
        new = range(self._end, end)
        self._end = end
        self._raws.update(zip(new, raws, strict=True))
        self._ranks.update((index, (-min(priority, self._highest), index)) for index in new)
        times_ms = [ms for ms in (ttl_ms, self._ttl_ms) if ms is not None]
        due: list[int] = []
        if times_ms or self._highest:  # Whoever waits has them before anything else matters.
            credit = self._credit(before)
            due += self._due(credit)
            if not self.waiting:
                due += new[: credit - len(due)]
        self._check_handed(before, due)
        self._wait(index for index in new if index not in due)
        if times_ms:
            ends_ms = self._keeper.clock.wall_ms() + min(times_ms)
            self._ends_ms.update((index, ends_ms) for index in new)
        self._expire()

    def _wait(self, indexes: Iterable[int]) -> None:
        self.waiting = sorted([*self.waiting, *indexes], key=self._ranks.__getitem__)

    def _expire(self) -> None:
        """What is first and has expired is gone."""
        now_ms = self._keeper.clock.wall_ms()
        while self.waiting and self._ends_ms.get(self.waiting[0], now_ms + 1) <= now_ms:
            self.waiting.pop(0)

    def consume(self, consumer: FakeConsumer) -> None:
        """Add a consumer."""
        self.consumers.append(consumer)
        self.held[consumer] = []
        self.queue.consume(consumer)

    def cancel(self, consumer: FakeConsumer) -> None:
        """Remove a consumer; it may go on settling what it has."""
        self.consumers.remove(consumer)
        self.queue.cancel(consumer)

    def give(self, consumer: FakeConsumer, credit: int) -> None:
        """Let a consumer have more; those who share its credit are told too."""
        consumer.give(self.queue, credit)
        for other in self.consumers:
            other.give(self.queue, 0)

    def advance(self, ms: int) -> None:
        """Let time pass."""
        self._keeper.advance(ms)
        self._expire()

    def _taken(self) -> dict[FakeConsumer, int]:
        return {consumer: len(consumer.taken) for consumer in self.consumers}

    def _credit(self, before: dict[FakeConsumer, int]) -> int:
        """The credit that there was when consumers had taken as many as they had ``before``."""
        purses: dict[int, int] = {}
        for consumer in self.consumers:
            purse = id(consumer._purse)
            taken = len(consumer.taken) - before[consumer]
            purses[purse] = purses.get(purse, consumer.credit) + taken
        return sum(purses.values())

    def dispatch(self, limit: int) -> None:
        """Hand out: the first that wait, as many as there is credit for, each to one consumer."""
        before = self._taken()
        handed = self.queue.dispatch(limit)
        due = self._due(min(limit, self._credit(before)))
        self._check_handed(before, due)
        assert handed == len(due)

    def _due(self, count: int) -> list[int]:
        """The next ``count`` messages; they do not wait any more."""
        due: list[int] = []
        self._expire()
        while self.waiting and len(due) < count:
            due.append(self.waiting.pop(0))
            self._expire()
        return due

    def _check_handed(self, before: dict[FakeConsumer, int], due: list[int]) -> None:
        """See that the consumers were given what is due since ``before``, each in order."""
        handed: list[Taken] = []
        for consumer in self.consumers:
            new = consumer.taken[before[consumer] :]
            places = [due.index(taken.index) for taken in new]
            assert places == sorted(places), (places, due)
            if not consumer.no_ack:
                self.held[consumer] += (taken.index for taken in new)
            handed += new
        handed.sort(key=lambda taken: due.index(taken.index))
        assert [taken.index for taken in handed] == due, (handed, due)
        for taken in handed:
            self._check(taken)

    def _check(self, taken: Taken | Got) -> None:
        assert taken.raw == self._raws[taken.index]
        if taken.redelivered:
            assert taken.index in self._seen or taken.index in self._returned, taken
            self._seen_twice.add(taken.index)
        else:
            assert taken.index not in self._seen, taken
            assert not self._is_overtaken(taken.index), taken
        self._returned.discard(taken.index)
        self._seen.add(taken.index)

    def _is_overtaken(self, index: int) -> bool:
        """Whether somebody has seen a later one of the same priority."""
        priority, _ = self._ranks[index]
        return any(each > index and self._ranks[each][0] == priority for each in self._seen)

    def get(self, no_ack: bool) -> None:
        """Ask for one: it is the first."""
        self._expire()
        got = self.queue.get(no_ack)
        assert (got is None) == (not self.waiting)
        if got is not None:
            assert isinstance(got, Got)
            assert got.index == self.waiting.pop(0)
            self._expire()
            assert got.ready == len(self.waiting)
            self._check(got)
            if not no_ack:
                self.got.append(got.index)

    def outcomes(self, indexes: range) -> list[Outcome]:
        """What may become of messages that somebody has: none is unseen that came a second time."""
        outcomes = list(Outcome)
        if not self._seen_twice.isdisjoint(indexes):
            outcomes.remove(Outcome.RETURN)
        return outcomes

    def settle(self, holder: list[int], indexes: range, outcome: Outcome) -> None:
        """Settle what a consumer holds, or what was asked for."""
        self.queue.settle(indexes, outcome)
        for index in indexes:
            holder.remove(index)
        if outcome is Outcome.RETURN:
            self._seen.difference_update(indexes)
            self._returned.update(indexes)
        if outcome in (Outcome.REQUEUE, Outcome.RETURN):
            self._wait(indexes)
            self._expire()

    def purge(self) -> None:
        """Drop what waits, and nothing else."""
        self._expire()
        assert self.queue.purge() == len(self.waiting)
        self.waiting = []

    def check(self) -> None:
        """What the queue says of itself."""
        self._expire()
        unsettled = len(self.got) + sum(map(len, self.held.values()))
        assert self.queue.stat() == QueueStat(len(self.waiting), unsettled, len(self.consumers))

"""What every `Log` and every `Queue` keeps, as tests that any of them can run.

A contract is a class of tests; a subclass says how the thing is opened, and pytest does the rest.
The models stand beside: a thing together with the plainest code that says what it must do. Whoever
drives one (a seeded walk here, hypothesis in our own tests) needs no assertion of his own.
"""

import random
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable

from amqpbroker.broker.turn import Turn
from amqpbroker.definitions import Arguments, QueueDefinition
from amqpbroker.errors import AccessRefused
from amqpbroker.message import Origin
from amqpbroker.queues.queue import Consumer, Got, Keeper, Outcome, Queue, QueueStat
from amqpbroker.storage.log import CHUNK_MAX, READ_BYTES_MAX, Log, MemoryLog
from amqpbroker.testing.fakes import (
    CreditPool,
    FakeConsumer,
    FakeKeeper,
    HeldLog,
    Taken,
    fake_origin,
)

_WALKS = 20
_STEPS = 60


def numbered(count: int, start: int = 0) -> list[bytes]:
    """Messages that can be told apart."""
    return [b"message %d" % number for number in range(start, start + count)]


# -- logs --------------------------------------------------------------------------------------


class LogModel:
    """A log, and a dict of the messages that it must hold."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.messages: dict[int, tuple[Origin, bytes]] = {}

    def append(self, origin: Origin, raws: list[bytes]) -> None:
        """Append, and see that the end moved by as much."""
        end = self.log.end
        assert self.log.append(origin, raws) == self.log.end == end + len(raws)
        self.messages.update((end + i, (origin, raw)) for i, raw in enumerate(raws))

    def run_from(self, place: int, step: int, count: int) -> range:
        """A run of readable messages: it begins at the ``place``-th, and has ``count`` at most."""
        there = [index for index in self.messages if index < self.log.readable]
        if not there:
            return range(0)
        first = there[place % len(there)]
        stop = first + step
        while stop in self.messages and stop < self.log.readable and stop < first + step * count:
            stop += step
        return range(first, stop, step)

    def read(self, indexes: range) -> None:
        """Read to the end of ``indexes``, in as many bites as the log makes of it."""
        while indexes:
            batch = self.log.read(indexes)
            count = len(batch.raws)
            assert 1 <= count <= min(len(indexes), CHUNK_MAX), (count, indexes)
            assert sum(map(len, batch.raws[:-1])) <= READ_BYTES_MAX
            got = list(zip(batch.origins, batch.raws, strict=True))
            assert got == [self.messages[index] for index in indexes[:count]], indexes
            indexes = indexes[count:]

    def settle(self, indexes: range) -> None:
        """Settle a run that is there."""
        self.log.settle(indexes)
        for index in indexes:
            del self.messages[index]


class LogContract(ABC):
    """The promises of `Log`."""

    @abstractmethod
    def open(self) -> Log:
        """An empty log."""

    def catch_up(self, log: Log) -> None:  # noqa: B027 - nothing to do for a log in memory
        """Have the log do what its marks need to come to its end."""

    def filled(self, raws: list[bytes]) -> Log:
        """A log with ``raws``, all readable."""
        log = self.open()
        log.append(fake_origin(), raws)
        self.catch_up(log)
        return log

    def test_a_new_log_is_empty(self) -> None:
        log = self.open()

        assert log.end == log.readable == log.committed == 0

    def test_append_gives_the_new_end(self) -> None:
        log = self.open()

        assert log.append(fake_origin(), numbered(3)) == 3
        assert log.append(fake_origin(), numbered(1)) == 4
        assert log.end == 4

    def test_the_marks_come_to_the_end(self) -> None:
        log = self.filled(numbered(3))

        assert log.readable == log.committed == 3

    def test_a_message_keeps_its_origin_and_its_octets(self) -> None:
        log = self.open()
        origins = [fake_origin(routing_key=key) for key in ("a", "b")]
        log.append(origins[0], [b"one"])
        log.append(origins[1], [b"", b"three"])
        self.catch_up(log)

        batch = log.read(range(3))

        assert batch.raws == [b"one", b"", b"three"]
        assert [origin.routing_key for origin in batch.origins] == ["a", "b", "b"]

    def test_a_run_with_a_step_is_read_as_such(self) -> None:
        raws = numbered(10)
        log = self.filled(raws)

        assert log.read(range(1, 10, 4)).raws == raws[1::4]

    def test_reading_changes_nothing(self) -> None:
        raws = numbered(10)
        log = self.filled(raws)

        assert log.read(range(3, 6)).raws == log.read(range(3, 6)).raws == raws[3:6]

    def test_what_lies_far_back_is_read_as_it_was(self) -> None:
        raws = numbered(5 * CHUNK_MAX + 7)
        model = LogModel(self.open())
        model.append(fake_origin(), raws)
        self.catch_up(model.log)

        model.read(range(len(raws)))
        model.read(range(2, len(raws), 3))

    def test_runs_appended_around_a_border_lie_in_order(self) -> None:
        for before in (CHUNK_MAX - 2, CHUNK_MAX - 1, CHUNK_MAX, CHUNK_MAX + 1):
            for count in (1, 2, CHUNK_MAX, CHUNK_MAX + 1, 2 * CHUNK_MAX):
                model = LogModel(self.open())
                model.append(fake_origin(), numbered(before))
                model.append(fake_origin(), numbered(count, before))
                model.append(fake_origin(), [b"the last"])
                self.catch_up(model.log)

                model.read(range(before + count + 1))

    def test_a_read_ends_where_it_has_its_fill(self) -> None:
        log = self.filled([b"x" * (READ_BYTES_MAX // 4)] * 10)

        raws = log.read(range(10)).raws

        assert 1 <= len(raws) <= 5

    def test_a_message_larger_than_a_read_is_read_alone(self) -> None:
        log = self.filled([b"x" * (READ_BYTES_MAX + 1), b"small"])

        assert [len(raw) for raw in log.read(range(2)).raws] == [READ_BYTES_MAX + 1]

    def test_what_is_left_between_settled_messages_is_read(self) -> None:
        raws = numbered(3 * CHUNK_MAX)
        log = self.filled(raws)
        for step in (range(0, len(raws), 3), range(1, len(raws), 3)):
            log.settle(step)

        indexes = range(2, len(raws), 3)
        read: list[bytes] = []
        while indexes:
            bite = log.read(indexes).raws
            read += bite
            indexes = indexes[len(bite) :]

        assert read == raws[2::3]

    def test_indexes_go_on_when_all_is_settled(self) -> None:
        log = self.filled(numbered(10))
        log.settle(range(10))

        assert log.append(fake_origin(), [b"later"]) == 11
        self.catch_up(log)
        assert log.read(range(10, 11)).raws == [b"later"]

    def test_nothing_is_kept_of_messages_that_are_settled(self) -> None:
        log = self.open()
        origin = fake_origin()
        log.append(origin, numbered(3 * CHUNK_MAX + 10))
        self.catch_up(log)
        log.read(range(10))
        kept = weakref.ref(origin)
        del origin

        log.settle(range(0, log.end, 2))
        log.settle(range(1, log.end, 2))

        assert kept() is None

    def test_a_log_agrees_with_the_model_on_random_walks(self) -> None:
        for seed in range(_WALKS):
            rng = random.Random(seed)
            model = LogModel(self.open())
            for _ in range(_STEPS):
                run = model.run_from(rng.randrange(1 << 16), rng.randint(1, 3), rng.randint(1, 999))
                match rng.randrange(3):
                    case 0:
                        model.append(fake_origin(), numbered(rng.choice((1, 2, 700))))
                        self.catch_up(model.log)
                    case 1:
                        model.read(run)
                    case _:
                        model.settle(run)


# -- queues ------------------------------------------------------------------------------------


class QueueModel:
    """A queue with consumers, and the lists that say what must become of its messages.

    Waiting messages lie in the order of their indexes, whatever became of them before. A consumer
    may be given any of the first that wait, as many as all credit together reaches for.
    """

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.consumers: list[FakeConsumer] = []
        self.waiting: list[int] = []
        self.held: dict[FakeConsumer, list[int]] = {}
        self.got: list[int] = []
        """Messages that were asked for, and not settled."""
        self._raws: dict[int, bytes] = {}
        self._seen: set[int] = set()
        self._end = 0

    def publish(self, count: int) -> None:
        """Publish messages."""
        raws = numbered(count, self._end)
        end = self.queue.publish(fake_origin(), raws)
        assert end == self._end + count
        new = range(self._end, end)
        self.waiting += new
        self._raws.update(zip(new, raws, strict=True))
        self._end = end

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

    def _credit(self) -> int:
        purses = {id(consumer._purse): consumer.credit for consumer in self.consumers}
        return sum(purses.values())

    def dispatch(self, limit: int) -> None:
        """Hand out: the first that wait, as many as there is credit for, each to one consumer."""
        due = self.waiting[: min(self._credit(), limit)]
        before = {consumer: len(consumer.taken) for consumer in self.consumers}
        assert self.queue.dispatch(limit) == len(due)
        handed: list[int] = []
        for consumer in self.consumers:
            new = consumer.taken[before[consumer] :]
            indexes = [taken.index for taken in new]
            assert indexes == sorted(indexes), indexes
            for taken in new:
                self._check(taken)
            handed += indexes
            if not consumer.no_ack:
                self.held[consumer] += indexes
        assert sorted(handed) == due, (handed, due)
        del self.waiting[: len(due)]

    def _check(self, taken: Taken | Got) -> None:
        assert taken.raw == self._raws[taken.index]
        assert taken.redelivered == (taken.index in self._seen), taken
        self._seen.add(taken.index)

    def get(self, no_ack: bool) -> None:
        """Ask for one: it is the first."""
        got = self.queue.get(no_ack)
        assert (got is None) == (not self.waiting)
        if got is not None:
            assert isinstance(got, Got)
            assert got.index == self.waiting.pop(0)
            assert got.ready == len(self.waiting)
            self._check(got)
            if not no_ack:
                self.got.append(got.index)

    def settle(self, holder: list[int], indexes: range, outcome: Outcome) -> None:
        """Settle what a consumer holds, or what was asked for."""
        self.queue.settle(indexes, outcome)
        for index in indexes:
            holder.remove(index)
        if outcome is Outcome.REQUEUE:
            self.waiting = sorted([*self.waiting, *indexes])

    def purge(self) -> None:
        """Drop what waits, and nothing else."""
        assert self.queue.purge() == len(self.waiting)
        self.waiting = []

    def check(self) -> None:
        """What the queue says of itself."""
        unsettled = len(self.got) + sum(map(len, self.held.values()))
        assert self.queue.stat() == QueueStat(len(self.waiting), unsettled, len(self.consumers))


def runs_of(indexes: Iterable[int]) -> list[range]:
    """Indexes as runs of neighbours."""
    runs: list[range] = []
    for index in sorted(indexes):
        if runs and runs[-1].stop == index:
            runs[-1] = range(runs[-1].start, index + 1)
        else:
            runs.append(range(index, index + 1))
    return runs


def _is_refused(queue: Queue, consumer: Consumer) -> str | None:
    try:
        queue.consume(consumer)
    except AccessRefused as error:
        return error.text
    return None


class QueueContract(ABC):
    """The promises of `Queue`, for queues that answer at once and keep what is published."""

    @abstractmethod
    def open(self, definition: QueueDefinition, log: Log, keeper: Keeper) -> Queue:
        """An empty queue over ``log``, which is empty too."""

    def set_up(
        self,
        log: Log | None = None,
        keeper: FakeKeeper | None = None,
        arguments: Arguments | None = None,
    ) -> tuple[Queue, Turn]:
        """A queue, and the turn that hands its messages out."""
        keeper = keeper or FakeKeeper()
        log = MemoryLog() if log is None else log
        return self.open(
            QueueDefinition("/", "q", arguments=arguments or {}), log, keeper
        ), keeper.turn

    def hand_out(self, turn: Turn) -> None:
        """Hand out all that can be."""
        while turn.run():
            pass

    # -- in and out ----------------------------------------------------------------------------

    def test_messages_wait_for_a_consumer(self) -> None:
        queue, turn = self.set_up()
        queue.publish(fake_origin(), numbered(3))
        self.hand_out(turn)

        consumer = FakeConsumer()
        queue.consume(consumer)
        self.hand_out(turn)

        assert consumer.raws == numbered(3)
        assert queue.stat() == QueueStat(ready=0, unsettled=3, consumers=1)

    def test_a_consumer_is_given_what_is_published_later(self) -> None:
        queue, turn = self.set_up()
        consumer = FakeConsumer()
        queue.consume(consumer)
        self.hand_out(turn)

        end = queue.publish(fake_origin(), numbered(2))
        self.hand_out(turn)

        assert consumer.raws == numbered(2)
        assert end == 2

    def test_a_consumer_without_acks_leaves_nothing_unsettled(self) -> None:
        queue, turn = self.set_up()
        queue.consume(FakeConsumer(no_ack=True))

        queue.publish(fake_origin(), numbered(3))
        self.hand_out(turn)

        assert queue.stat() == QueueStat(ready=0, unsettled=0, consumers=1)

    def test_what_is_acked_or_rejected_is_gone(self) -> None:
        queue, turn = self.set_up()
        consumer = FakeConsumer()
        queue.consume(consumer)
        queue.publish(fake_origin(), numbered(3))
        self.hand_out(turn)

        queue.settle(range(2), Outcome.ACK)
        queue.settle(range(2, 3), Outcome.REJECT)
        self.hand_out(turn)

        assert queue.stat() == QueueStat(ready=0, unsettled=0, consumers=1)
        assert len(consumer.taken) == 3

    def test_a_dispatch_hands_out_its_limit_at_most(self) -> None:
        queue, _ = self.set_up()
        consumers = [FakeConsumer() for _ in range(3)]
        for consumer in consumers:
            queue.consume(consumer)
        queue.publish(fake_origin(), numbered(20))

        assert [queue.dispatch(limit) for limit in (1, 2, 4, 5, 8, 100)] == [1, 2, 4, 5, 8, 0]

    def test_messages_in_bites_that_differ_in_size_come_whole_and_in_order(self) -> None:
        raws = [bytes([i]) * (i % 3 * 100_000 + 1) for i in range(30)]
        queue, turn = self.set_up()
        consumers = [FakeConsumer(), FakeConsumer()]
        for consumer in consumers:
            queue.consume(consumer)

        queue.publish(fake_origin(), raws)
        self.hand_out(turn)

        assert [consumer.raws for consumer in consumers] == [raws[0::2], raws[1::2]]

    # -- turns ---------------------------------------------------------------------------------

    def test_consumers_are_served_message_by_message_in_turn(self) -> None:
        queue, turn = self.set_up()
        consumers = [FakeConsumer() for _ in range(3)]
        for consumer in consumers:
            queue.consume(consumer)

        for count in (4, 1, 4, 2, 100):
            queue.publish(fake_origin(), numbered(count))
            self.hand_out(turn)

        for place, consumer in enumerate(consumers):
            assert consumer.indexes == list(range(place, 111, 3))

    def test_more_consumers_than_share_a_round_are_served_in_turn_too(self) -> None:
        queue, turn = self.set_up()
        consumers = [FakeConsumer() for _ in range(100)]
        for consumer in consumers:
            queue.consume(consumer)

        queue.publish(fake_origin(), numbered(1000))
        self.hand_out(turn)

        for place, consumer in enumerate(consumers):
            assert consumer.indexes == list(range(place, 1000, 100))

    def test_a_consumer_is_passed_over_while_it_has_no_credit(self) -> None:
        queue, turn = self.set_up()
        rich, poor = FakeConsumer(), FakeConsumer(credit=1)
        queue.consume(poor)
        queue.consume(rich)

        queue.publish(fake_origin(), numbered(4))
        self.hand_out(turn)

        assert poor.indexes == [0]
        assert poor.parked
        assert rich.indexes == [1, 2, 3]

    def test_a_parked_consumer_goes_on_when_it_has_credit_again(self) -> None:
        queue, turn = self.set_up()
        consumer = FakeConsumer(credit=1)
        queue.consume(consumer)
        queue.publish(fake_origin(), numbered(4))
        self.hand_out(turn)

        consumer.give(queue, 2)
        self.hand_out(turn)

        assert consumer.indexes == [0, 1, 2]
        assert queue.stat().ready == 1

    def test_consumers_that_share_credit_do_not_overdraw_it(self) -> None:
        queue, turn = self.set_up()
        pool = CreditPool(5)
        consumers = [FakeConsumer(pool=pool) for _ in range(2)]
        for consumer in consumers:
            queue.consume(consumer)

        queue.publish(fake_origin(), numbered(10))
        self.hand_out(turn)

        assert [consumer.indexes for consumer in consumers] == [[0, 2, 4], [1, 3]]
        assert queue.stat().ready == 5

    def test_consumers_that_share_credit_have_their_turn_beside_others(self) -> None:
        queue, turn = self.set_up()
        pool = CreditPool(100)
        consumers = [FakeConsumer(), FakeConsumer(pool=pool), FakeConsumer(pool=pool)]
        for consumer in consumers:
            queue.consume(consumer)

        queue.publish(fake_origin(), numbered(9))
        self.hand_out(turn)

        assert [consumer.indexes for consumer in consumers] == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]

    # -- back again ----------------------------------------------------------------------------

    def test_a_requeued_message_comes_again_and_says_so(self) -> None:
        queue, turn = self.set_up()
        consumer = FakeConsumer()
        queue.consume(consumer)
        queue.publish(fake_origin(), numbered(1))
        self.hand_out(turn)

        queue.settle(range(1), Outcome.REQUEUE)
        self.hand_out(turn)

        assert consumer.taken == [Taken(0, b"message 0", False), Taken(0, b"message 0", True)]

    def test_requeued_messages_return_to_their_places(self) -> None:
        queue, turn = self.set_up()
        first = FakeConsumer(credit=6)
        queue.consume(first)
        queue.publish(fake_origin(), numbered(8))
        self.hand_out(turn)
        queue.cancel(first)
        queue.settle(range(1, 6, 2), Outcome.REQUEUE)
        queue.settle(range(4, 5), Outcome.REQUEUE)
        queue.settle(range(1), Outcome.REQUEUE)

        second = FakeConsumer()
        queue.consume(second)
        self.hand_out(turn)

        assert [(taken.index, taken.redelivered) for taken in second.taken] == [
            (0, True), (1, True), (3, True), (4, True), (5, True), (6, False), (7, False),
        ]  # fmt: skip

    def test_cancel_leaves_with_the_consumer_what_it_has(self) -> None:
        queue, turn = self.set_up()
        consumer = FakeConsumer()
        queue.consume(consumer)
        queue.publish(fake_origin(), numbered(2))
        self.hand_out(turn)

        queue.cancel(consumer)
        queue.publish(fake_origin(), numbered(1))
        self.hand_out(turn)

        assert queue.stat() == QueueStat(ready=1, unsettled=2, consumers=0)
        assert len(consumer.taken) == 2

    def test_a_cancelled_consumer_does_not_resume(self) -> None:
        queue, turn = self.set_up()
        consumer = FakeConsumer(credit=0)
        queue.consume(consumer)
        queue.publish(fake_origin(), numbered(1))
        self.hand_out(turn)
        queue.cancel(consumer)

        consumer.give(queue, 1)
        self.hand_out(turn)

        assert consumer.taken == []

    # -- one by one ----------------------------------------------------------------------------

    def test_get_gives_the_first_and_counts_the_rest(self) -> None:
        queue, _ = self.set_up()
        queue.publish(fake_origin(), numbered(3))

        got = queue.get(no_ack=False)

        assert isinstance(got, Got)
        assert (got.index, got.raw, got.redelivered, got.ready) == (0, b"message 0", False, 2)
        assert queue.stat() == QueueStat(ready=2, unsettled=1, consumers=0)

    def test_get_without_ack_settles_at_once(self) -> None:
        queue, _ = self.set_up()
        queue.publish(fake_origin(), numbered(1))

        queue.get(no_ack=True)

        assert queue.stat() == QueueStat(ready=0, unsettled=0, consumers=0)

    def test_get_from_an_empty_queue_gives_nothing(self) -> None:
        queue, _ = self.set_up()

        assert queue.get(no_ack=True) is None

    def test_what_was_got_and_requeued_is_got_again(self) -> None:
        queue, _ = self.set_up()
        queue.publish(fake_origin(), numbered(2))
        queue.get(no_ack=False)
        queue.settle(range(1), Outcome.REQUEUE)

        got = queue.get(no_ack=False)

        assert isinstance(got, Got)
        assert (got.index, got.redelivered) == (0, True)

    # -- exclusive use -------------------------------------------------------------------------

    def test_an_exclusive_consumer_keeps_others_out(self) -> None:
        queue, _ = self.set_up()
        queue.consume(FakeConsumer(exclusive=True))

        assert _is_refused(queue, FakeConsumer()) == "queue 'q' in vhost '/' in exclusive use"

    def test_an_exclusive_consumer_must_be_the_only_one(self) -> None:
        queue, _ = self.set_up()
        queue.consume(FakeConsumer())

        refused = _is_refused(queue, FakeConsumer(exclusive=True))

        assert refused == "queue 'q' in vhost '/' in exclusive use"
        assert queue.stat().consumers == 1

    def test_exclusive_use_ends_with_its_consumer(self) -> None:
        queue, _ = self.set_up()
        consumer = FakeConsumer(exclusive=True)
        queue.consume(consumer)

        queue.cancel(consumer)

        assert _is_refused(queue, FakeConsumer(exclusive=True)) is None

    # -- the end -------------------------------------------------------------------------------

    def test_purge_drops_what_waits_and_nothing_else(self) -> None:
        queue, turn = self.set_up()
        consumer = FakeConsumer(credit=2)
        queue.consume(consumer)
        queue.publish(fake_origin(), numbered(5))
        self.hand_out(turn)
        queue.settle(range(1), Outcome.REQUEUE)

        assert queue.purge() == 4
        assert queue.stat() == QueueStat(ready=0, unsettled=1, consumers=1)

    def test_a_message_requeued_after_a_purge_comes_again(self) -> None:
        queue, turn = self.set_up()
        consumer = FakeConsumer(credit=1)
        queue.consume(consumer)
        queue.publish(fake_origin(), numbered(2))
        self.hand_out(turn)
        queue.purge()

        queue.settle(range(1), Outcome.REQUEUE)
        consumer.give(queue, 5)
        self.hand_out(turn)

        assert consumer.indexes == [0, 0]

    def test_delete_counts_what_waited_and_tells_the_consumers(self) -> None:
        queue, turn = self.set_up()
        consumers = [FakeConsumer(credit=1), FakeConsumer(credit=0)]
        for consumer in consumers:
            queue.consume(consumer)
        queue.publish(fake_origin(), numbered(3))
        self.hand_out(turn)

        assert queue.delete() == 2
        assert all(consumer.is_cancelled for consumer in consumers)
        assert queue.version == 1

    def test_settling_what_came_from_a_deleted_queue_is_no_fault(self) -> None:
        queue, turn = self.set_up()
        queue.consume(FakeConsumer())
        queue.publish(fake_origin(), numbered(3))
        self.hand_out(turn)
        queue.delete()

        for place, outcome in enumerate(Outcome):
            queue.settle(range(place, place + 1), outcome)
        self.hand_out(turn)

        assert queue.stat().ready == 0

    # -- marks ---------------------------------------------------------------------------------

    def test_only_what_is_readable_is_delivered(self) -> None:
        log = HeldLog()
        queue, turn = self.set_up(log)
        consumer = FakeConsumer()
        queue.consume(consumer)
        queue.publish(fake_origin(), numbered(3))
        self.hand_out(turn)
        assert consumer.taken == []

        log.advance(readable=2)
        self.hand_out(turn)

        assert consumer.indexes == [0, 1]

    def test_only_what_is_readable_is_got_counted_and_purged(self) -> None:
        log = HeldLog()
        queue, _ = self.set_up(log)
        queue.publish(fake_origin(), numbered(5))
        assert queue.get(no_ack=True) is None

        log.advance(readable=3)
        got = queue.get(no_ack=True)

        assert isinstance(got, Got)
        assert got.ready == 2
        assert queue.stat().ready == 2
        assert queue.purge() == 2

    def test_committed_follows_the_log(self) -> None:
        log = HeldLog()
        queue, _ = self.set_up(log)
        queue.publish(fake_origin(), numbered(3))
        assert queue.committed == 0

        log.advance(committed=2)

        assert queue.committed == 2

    def test_who_waits_for_the_commit_is_called_once(self) -> None:
        log = HeldLog()
        queue, _ = self.set_up(log)
        queue.publish(fake_origin(), numbered(3))
        calls: list[int] = []

        def committed() -> None:
            calls.append(queue.committed)

        queue.when_committed(committed)
        queue.when_committed(committed)
        log.advance(committed=1)
        log.advance(committed=3)

        assert calls == [1]

    def test_nobody_waits_for_the_commit_of_a_deleted_queue(self) -> None:
        log = HeldLog()
        queue, _ = self.set_up(log)
        end = queue.publish(fake_origin(), numbered(3))
        calls: list[int] = []
        queue.when_committed(lambda: calls.append(queue.committed))

        queue.delete()

        assert calls == [end]

    # -- all together --------------------------------------------------------------------------

    def test_a_queue_agrees_with_the_model_on_random_walks(self) -> None:
        for seed in range(_WALKS):
            rng = random.Random(seed)
            model = QueueModel(self.set_up()[0])
            pool = CreditPool(0)
            for pooled in (None, None, pool, pool):
                model.consume(FakeConsumer(credit=rng.randint(0, 9), pool=pooled))
            for _ in range(_STEPS):
                self._step(model, rng)
                model.check()

    def _step(self, model: QueueModel, rng: random.Random) -> None:
        holder = model.held[rng.choice(model.consumers)]
        if rng.randrange(10) == 0:
            model.purge()
        elif holder and rng.random() < 0.5:
            for run in runs_of(rng.sample(holder, rng.randint(1, len(holder)))):
                model.settle(holder, run, rng.choice(list(Outcome)))
        elif rng.random() < 0.5:
            model.publish(rng.randint(1, 20))
            model.give(rng.choice(model.consumers), rng.randint(0, 9))
        model.dispatch(rng.randint(1, 30))

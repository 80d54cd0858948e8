"""Random walks over a queue that several nodes use, on streams that lag and break."""

import random
from collections.abc import Sequence

import attrs
import pytest

from amqpbroker.definitions import QueueDefinition
from amqpbroker.errors import NotFound
from amqpbroker.message import Batch
from amqpbroker.queues.queue import NO_LIMIT, Got, Outcome, Pending, Queue, QueueStat
from amqpbroker.storage.log import MemoryLog
from amqpbroker.storage.runs import runs_of
from amqpbroker.testing.fakes import CreditPool, FakeConsumer, HeldLog, fake_origin
from amqpbroker.testing.remote_queues import Asker, Holder

DEFINITION = QueueDefinition("/", "q", durable=True, log_id=7)


class Taker(FakeConsumer):
    """A consumer that may go on settling what it has when it is cancelled."""

    def __init__(self, walk: "Walk", place: int, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.walk = walk
        self.place = place
        self.held: list[int] = []
        self.is_added = False

    def deliver(self, queue: Queue, indexes: range, batch: Batch, redelivered: bool) -> None:
        assert self.is_added, "a consumer is told before its first delivery"
        super().deliver(queue, indexes, batch, redelivered)
        for index, raw in zip(indexes, batch.raws, strict=True):
            self.walk.delivered(raw, redelivered, self.no_ack)
            if not self.no_ack:
                self.held.append(index)
                self.walk.raws[self.place][index] = raw

    def cancelled(self) -> None:
        super().cancelled()
        self.walk.takers.remove(self)
        self.walk.gone.append(self)


@attrs.define
class Told:
    """What a publisher knows of a message."""

    end: int
    is_confirmed: bool = False
    is_refused: bool = False


class Walk:
    """A holder, askers, their publishers and consumers; place 0 is at the holder itself."""

    def __init__(self, seed: int, askers: int, breaks: bool, no_acks: bool) -> None:
        self.rng = random.Random(seed)
        self.breaks = breaks
        self.no_acks = no_acks
        self.holder = Holder()
        self.log = HeldLog() if self.rng.random() < 0.5 else MemoryLog()
        if self.rng.random() < 0.5:
            self.log.skip_to((5 << 44) + 7)
        self.held = self.holder.open(DEFINITION, self.log)
        self.askers: list[Asker] = [self.holder.dial() for _ in range(askers)]
        self.queues: list[Queue] = [self.held, *[asker.open(DEFINITION) for asker in self.askers]]
        self.published: list[dict[bytes, Told]] = [{} for _ in self.queues]
        self.raws: list[dict[int, bytes]] = [{} for _ in self.queues]
        self.takers: list[Taker] = []
        self.gone: list[Taker] = []
        self.pools = [CreditPool(self.rng.randint(1, 5)) for _ in self.queues]
        self.seen: set[bytes] = set()
        self.settled: set[bytes] = set()
        self.got: list[tuple[int, int]] = []

    # -- what happens --------------------------------------------------------------------------

    def delivered(self, raw: bytes, redelivered: bool, no_ack: bool) -> None:
        if not redelivered:
            # One that comes again may be faster than the first, on a stream that is broken already.
            assert raw not in self.seen, (raw, "came before, and says it did not")
            self.seen.add(raw)
        if no_ack:
            self.settled.add(raw)

    def publish(self, place: int) -> None:
        mine = self.published[place]
        raws = [b"%d.%d" % (place, len(mine) + i) for i in range(self.rng.randint(1, 9))]
        end = self.queues[place].publish(fake_origin(persistent=True), raws)
        for i, raw in enumerate(raws):
            mine[raw] = Told(end - len(raws) + i + 1)

    def consume(self, place: int) -> None:
        if len(self.takers) >= 8:
            return
        rng = self.rng
        pool = self.pools[place] if rng.random() < 0.3 else None
        credit = rng.choice((1, 2, 5, 50, NO_LIMIT))
        no_ack = self.no_acks and pool is None and rng.random() < 0.3
        priority = rng.choice((0, 0, 1))
        taker = Taker(self, place, credit=credit, no_ack=no_ack, pool=pool, priority=priority)
        try:
            added = self.queues[place].consume(taker)
        except NotFound:
            return

        def then(_: None) -> None:
            taker.is_added = True
            self.takers.append(taker)

        if added is None:
            then(None)
        else:
            added.then = then

    def cancel(self, taker: Taker) -> None:
        self.takers.remove(taker)
        self.gone.append(taker)
        gone = self.queues[taker.place].cancel(taker)
        if gone is not None:
            gone.then = lambda _: setattr(taker, "is_added", False)

    def abandon(self, taker: Taker) -> None:
        """As a channel closes: it goes, and what it has goes back."""
        if taker in self.takers:
            self.takers.remove(taker)
        else:
            self.gone.remove(taker)
        self.queues[taker.place].abandon(taker)
        taker.is_added = False
        self.settle(taker, len(taker.held), Outcome.REQUEUE)

    def settle(self, taker: Taker, count: int, outcome: Outcome) -> None:
        chosen = self.rng.sample(taker.held, count)
        for index in chosen:
            taker.held.remove(index)
            if outcome is not Outcome.REQUEUE:
                self.settled.add(self.raws[taker.place][index])
        queue = self.queues[taker.place]
        for run in runs_of(sorted(chosen)) if chosen else ():
            queue.settle(run, outcome)
        taker._purse.credit += count
        for other in (*self.takers, taker):
            if other.place == taker.place:
                other.give(queue, 0)

    def get(self, place: int) -> None:
        try:
            answer = self.queues[place].get(no_ack=False)
        except NotFound:
            return

        def got(got: Got | None) -> None:
            if got is not None:
                self.delivered(got.raw, got.redelivered, no_ack=False)
                self.raws[place][got.index] = got.raw
                self.got.append((place, got.index))

        if isinstance(answer, Pending):
            answer.then = got
        else:
            got(answer)

    def settle_got(self) -> None:
        place, index = self.got.pop(self.rng.randrange(len(self.got)))
        outcome = self.rng.choice((Outcome.ACK, Outcome.REQUEUE))
        if outcome is Outcome.ACK:
            self.settled.add(self.raws[place][index])
        self.queues[place].settle(range(index, index + 1), outcome)

    def commit(self) -> None:
        if isinstance(self.log, HeldLog):
            readable = self.rng.randint(self.log.readable, self.log.end)
            self.log.advance(readable, self.rng.randint(self.log.committed, readable))

    def break_stream(self, asker: Asker) -> None:
        stream = asker.stream
        if not stream.asking.is_up and not stream.serving.is_up:
            stream.connect()
        elif self.rng.random() < 0.5:
            stream.cut()
        else:
            self.rng.choice((stream.asking, stream.serving)).break_off()
        if stream.asking.is_up != stream.serving.is_up and self.rng.random() < 0.5:
            stream.cut()

    # -- a walk --------------------------------------------------------------------------------

    def step(self) -> None:
        rng = self.rng
        place = rng.randrange(len(self.queues))
        dice = rng.random()
        if dice < 0.3:
            self.publish(place)
        elif dice < 0.4:
            self.consume(place)
        elif dice < 0.6 and self.takers + self.gone:
            taker = rng.choice(self.takers + self.gone)
            outcome = rng.choice((Outcome.ACK, Outcome.ACK, Outcome.REJECT, Outcome.REQUEUE))
            self.settle(taker, rng.randint(0, len(taker.held)), outcome)
        elif dice < 0.65:
            self.get(place)
        elif dice < 0.7 and self.got:
            self.settle_got()
        elif dice < 0.74 and self.takers:
            self.cancel(rng.choice(self.takers))
        elif dice < 0.78 and (
            lost := [taker for taker in self.takers + self.gone if not taker.no_ack]
        ):
            self.abandon(rng.choice(lost))  # Who needs no acks loses what is on its way.
        elif dice < 0.82:
            self.commit()
        elif dice < 0.83:
            self.log.skip_to(self.log.end + rng.choice((0, 1, 3000, 1 << 44)))
        elif dice < 0.86 and self.breaks:
            self.break_stream(rng.choice(self.askers))
        else:
            for asker in rng.sample(self.askers, rng.randint(1, len(self.askers))):
                for end in (asker.stream.asking, asker.stream.serving):
                    end.is_held = rng.random() < 0.3
                    end.is_stuck = rng.random() < 0.1
                asker.move()
        self.note_confirms()

    def note_confirms(self) -> None:
        for queue, mine in zip(self.queues, self.published, strict=True):
            for told in mine.values():
                if not told.is_confirmed and not told.is_refused and told.end <= queue.committed:
                    told.is_refused = any(told.end - 1 in run for run in queue.refused)
                    told.is_confirmed = not told.is_refused

    def calm_down(self) -> None:
        """All streams are up, nothing is on its way, everything is committed."""
        for asker in self.askers:
            for end in (asker.stream.asking, asker.stream.serving):
                end.is_held = end.is_stuck = False
            asker.stream.asking.is_up or asker.stream.cut()
            asker.stream.serving.is_up or asker.stream.cut()
            if not asker.stream.asking.is_up:
                asker.stream.connect()
        self.holder.settle()
        if isinstance(self.log, HeldLog):
            self.log.advance(self.log.end, self.log.end)
        self.holder.settle()
        self.note_confirms()

    def work_off(self) -> None:
        """Consumers go on taking and acking until nothing is left for them."""
        while any(taker.held for taker in (*self.takers, *self.gone)):
            for taker in (*self.takers, *self.gone):
                self.settle(taker, len(taker.held), Outcome.ACK)
            self.holder.settle()

    def check(self) -> None:
        """Nothing that was confirmed is lost; the holder knows who has what."""
        stat = self.held.stat()
        assert stat.consumers == len(self.takers)
        if self.rng.random() < 0.5:
            self.work_off()
            assert not self.held.stat().ready or all(taker.no_ack for taker in self.takers)
        drain = Taker(self, 0)
        drain.is_added = True
        for taker in [taker for taker in self.takers if taker.no_ack]:
            self.cancel(taker)
        self.calm_down()
        for taker in list(self.takers):
            self.abandon(taker)
        for taker in list(self.gone):
            self.settle(taker, len(taker.held), Outcome.REQUEUE)
        while self.got:
            place, index = self.got.pop()
            self.queues[place].settle(range(index, index + 1), Outcome.REQUEUE)
        self.calm_down()
        assert self.held.stat() == QueueStat(self.held.stat().ready, 0, 0)
        self.held.consume(drain)
        self.holder.settle()
        drained = {self.raws[0][index] for index in drain.held}
        for place, mine in enumerate(self.published):
            for raw, told in mine.items():
                assert told.is_confirmed or told.is_refused, (place, raw)
                if told.is_confirmed:
                    assert raw in drained or raw in self.settled, (place, raw, "is lost")
        if not self.breaks:
            assert not any(told.is_refused for mine in self.published for told in mine.values())
            assert drained.isdisjoint(self.settled)


def walk(seed: int, askers: int, breaks: bool, no_acks: bool, steps: int) -> None:
    print("seed", seed)
    walk = Walk(seed, askers, breaks, no_acks)
    for _ in range(steps):
        walk.step()
    walk.calm_down()
    walk.check()


SEEDS: Sequence[range] = [range(start, start + 25) for start in range(0, 200, 25)]


@pytest.mark.parametrize("seeds", SEEDS, ids=str)
@pytest.mark.parametrize("askers", [1, 3])
def test_nothing_is_lost_and_nothing_comes_twice_unsaid_over_streams_that_break(
    seeds: range, askers: int
) -> None:
    for seed in seeds:
        walk(seed, askers, breaks=True, no_acks=False, steps=120)


@pytest.mark.parametrize("seeds", SEEDS, ids=str)
def test_each_message_comes_once_over_streams_that_lag(seeds: range) -> None:
    for seed in seeds:
        walk(seed, 2, breaks=False, no_acks=True, steps=120)


def pool_walk(seed: int) -> None:
    """Consumers of queues on two nodes, and here, live on one credit."""
    print("seed", seed)
    rng = random.Random(seed)
    pool = CreditPool(rng.choice((1, 2, 5, 20)))
    credit = pool.credit
    holders = [Holder() for _ in range(3)]
    askers = [holder.dial() for holder in holders[1:]]
    definitions = [QueueDefinition("/", f"q{queue_id}", log_id=queue_id) for queue_id in (7, 8)]
    held = [holder.open(definition) for holder in holders for definition in definitions]
    remote = [asker.open(definition) for asker in askers for definition in definitions]
    queues = [*held[:2], *remote]
    consumers = [FakeConsumer(pool=pool) for _ in queues]
    settled = [0] * len(queues)

    def settle(place: int, count: int) -> None:
        indexes = sorted(consumers[place].indexes[settled[place] : settled[place] + count])
        for run in runs_of(indexes) if indexes else ():
            queues[place].settle(run, Outcome.ACK)
        settled[place] += len(indexes)
        pool.credit += len(indexes)
        for queue, consumer in zip(queues, consumers, strict=True):
            consumer.give(queue, 0)

    def move() -> None:
        for holder in holders:
            holder.keeper.hand_out()
            holder.settle()

    for queue, consumer in zip(queues, consumers, strict=True):
        queue.consume(consumer)
    move()
    for _ in range(60):
        dice = rng.random()
        if dice < 0.3:
            rng.choice(held).publish(fake_origin(), [b"body"] * rng.randint(1, 30))
        elif dice < 0.6:
            settle(rng.randrange(len(queues)), rng.randint(1, 5))
        else:
            for asker in askers:
                for end in (asker.stream.asking, asker.stream.serving):
                    end.is_held = rng.random() < 0.4
            move()
        assert 0 <= pool.credit <= credit
    for asker in askers:
        asker.stream.asking.is_held = asker.stream.serving.is_held = False
    move()
    while pool.credit < credit:
        for place in range(len(queues)):
            settle(place, credit)
        move()
    assert [queue.stat() for queue in held] == [QueueStat(0, 0, 1)] * len(held)
    for consumer in consumers:
        assert consumer.indexes == sorted(consumer.indexes), "it has them alone, and in order"


@pytest.mark.parametrize("seeds", SEEDS[:4], ids=str)
def test_credit_that_queues_of_several_nodes_share_is_never_overdrawn_nor_lost(
    seeds: range,
) -> None:
    for seed in seeds:
        pool_walk(seed)

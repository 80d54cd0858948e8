"""Replicas of one queue in a world of their own: streams that break, crashes, records that change.

Nothing here knows of links, disks or trio: leaders and mirrors are driven by hand, in any order
that a cluster could bring about, and most that it would not. There are no clocks and no leases:
whoever the record allows to lead tries it at any time. After every step `ReplicaWorld.check` says
whether the rules of mirroring hold. By their names there, they are:

S1 one leader in an epoch; S2 whoever may lead has all that was confirmed, and is not settled;
S3 one index, one message; S9 what is settled for good never comes again; S10 in the end all have
the same.
"""

import random
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import attrs

from amqpbroker.errors import LinkFault
from amqpbroker.replication.entries import Ack, Entry
from amqpbroker.replication.leader import PATIENCE_S, Follower, Leader
from amqpbroker.replication.leadership import Leadership, life_of, node_of
from amqpbroker.replication.mirror import Mirror
from amqpbroker.testing.fake_replica_log import PERSISTENT, TRANSIENT, FakeReplicaLog

Thing = TypeVar("Thing")


@attrs.define
class Stream:
    """Between a mirror and its leader: what is on its way, both ways."""

    mirror: "Replica"
    leader: "Replica"
    epoch: int
    follower: Follower = attrs.field(init=False)
    down: deque[list[Entry]] = attrs.Factory(deque)
    up: deque[Ack] = attrs.Factory(deque)
    is_broken: bool = False
    """Whether the mirror has left it, and the leader does not know yet."""


@attrs.define
class Asked:
    """A change of the record that a leader waits for, or the promotion of somebody."""

    replica: "Replica"
    life: str
    wished: Leadership
    revision: int
    is_promotion: bool
    has_happened: bool | None = None
    """None: not yet, and perhaps never."""


@attrs.define(eq=False)
class Replica:
    """One node, and what it has of the queue."""

    name: str
    incarnation: int = 1
    is_up: bool = True
    log: FakeReplicaLog = attrs.Factory(FakeReplicaLog)
    leader: Leader | None = None
    mirror: Mirror | None = None
    asked: Asked | None = None

    @property
    def led(self) -> Leader:
        """It as the leader, which it must be."""
        assert self.leader is not None
        return self.leader

    @property
    def mirrored(self) -> Mirror:
        """It as a mirror, which it must be."""
        assert self.mirror is not None
        return self.mirror

    @property
    def life(self) -> str:
        """The life that it has now."""
        return life_of(self.name, self.incarnation)


class ReplicaWorld:
    """``count`` replicas of one queue, of which the first leads; ``seed`` says what happens.

    ``make_leader`` and ``make_mirror`` may be given to see that faults in them are found.
    """

    def __init__(
        self,
        seed: int,
        count: int = 3,
        make_leader: Callable[..., Leader] = Leader,
        make_mirror: Callable[..., Mirror] = Mirror,
        transient: float = 0.2,
    ) -> None:
        self.rng = random.Random(seed)
        self.now_s = 0.0
        self.make_leader = make_leader
        self.make_mirror = make_mirror
        self.replicas = [Replica(f"n{number}") for number in range(count)]
        self.names = tuple(each.name for each in self.replicas)
        lives = tuple(each.life for each in self.replicas)
        self.record = Leadership(1, lives[0], lives, self.names)
        self.revision = 1
        self.streams: list[Stream] = []
        self.values = 0
        self.transient = transient
        self.bodies: dict[int, bytes] = {}
        """Of each message that a leader took, by its index."""
        self.is_persistent: dict[int, bool] = {}
        self.confirmed: set[int] = set()
        self.settled: set[int] = set()
        """Messages whose settle was given to a leader."""
        self.settle_committed: set[int] = set()
        self.never_again: set[int] = set()
        """Of these, the ones whose settle outlives what has happened since."""
        self.leaders_of: dict[int, str] = {}
        self.restarts = 0
        self.is_wild = True
        first = self.replicas[0]
        first.leader = self.make_leader(first.log, self.record)
        for each in self.replicas[1:]:
            each.mirror = self.make_mirror(each.log, each.life)

    # -- steps ---------------------------------------------------------------------------------

    def step(self) -> None:
        """Have one thing happen."""
        steps: list[tuple[int, Callable[[], None]]] = [
            (100, self.publish),
            (60, self.settle),
            (80, self.keep),
            (80, self.connect),
            (200, self.carry_down),
            (200, self.carry_up),
            (80, self.feed),
            (60, self.wish),
            (80, self.decide),
            (30, self.promote),
            (30, self.pass_time),
            (60, self.speak),
            (20, self.notice),
        ]
        if self.is_wild:
            steps += [
                (10, self.crash),
                (1, self.power_cut),
                (20, self.break_off),
                (10, self.purge),
            ]
        steps += [(30 if self.is_wild else 100, self.restart)]
        weights = [weight for weight, _ in steps]
        act = self.rng.choices(steps, weights)[0][1]
        act()
        self.see()
        self.check()

    def _pick(self, of: list[Thing]) -> Thing | None:
        return self.rng.choice(of) if of else None

    def _leaders(self) -> list[Replica]:
        return [
            each
            for each in self.replicas
            if each.is_up and each.leader is not None and not each.leader.is_fenced
        ]

    def publish(self) -> None:
        replica = self._pick(self._leaders())
        if replica is None or not self.is_wild:
            return
        for _ in range(self.rng.randint(1, 4)):
            value = self.values
            self.values += 1
            origin = TRANSIENT if self.rng.random() < self.transient else PERSISTENT
            index = replica.log.end
            replica.log.append(origin, [b"%d" % value])
            assert index not in self.bodies, "an index is given twice"
            self.bodies[index] = b"%d" % value
            self.is_persistent[index] = origin is PERSISTENT
        if self.rng.random() < 0.8:
            replica.led.flush(self.now_s)

    def settle(self) -> None:
        replica = self._pick(self._leaders())
        if replica is None or not replica.led.is_ready:
            return
        there = [
            index
            for index in replica.log.messages
            if index < replica.log.readable and index not in self._settled_here(replica)
        ]
        for index in self.rng.sample(there, min(len(there), self.rng.randint(1, 3))):
            # One whose epoch is over, and who does not know, may deliver again: only clocks help.
            if replica.led.record.epoch == self.record.epoch:
                assert index not in self.never_again, f"{index} comes again (S9)"
            self.settled.add(index)
            replica.log.settle(range(index, index + 1))
        if self.rng.random() < 0.8:
            replica.led.flush(self.now_s)

    def purge(self) -> None:
        replica = self._pick(self._leaders())
        if replica is None or not replica.led.is_ready or self.rng.random() < 0.7:
            return
        for index in list(replica.log.messages):
            if index < replica.log.readable and index not in self._settled_here(replica):
                self.settled.add(index)
                replica.log.settle(range(index, index + 1))
        replica.led.flush(self.now_s)

    def _settled_here(self, replica: Replica) -> set[int]:
        leader = replica.led
        runs = [run for _, runs in leader._undecided for run in runs] + leader._settled
        return {index for run in runs for index in run}

    def keep(self) -> None:
        replica = self._pick([each for each in self.replicas if each.is_up])
        if replica is not None and replica.log.unkept_count:
            replica.log.keep(self.rng.randint(1, replica.log.unkept_count))
            self._speak(replica)

    def speak(self) -> None:
        replica = self._pick([each for each in self.replicas if each.is_up])
        if replica is not None:
            self._speak(replica)

    def _speak(self, replica: Replica) -> None:
        """The end of a turn of a node."""
        if replica.leader is not None:
            replica.led.flush(self.now_s)
        elif replica.mirror is not None:
            ack = replica.mirror.ack()
            for stream in self.streams:
                if stream.mirror is replica and not stream.is_broken and ack is not None:
                    stream.up.append(ack)

    def connect(self) -> None:
        """A mirror begins to follow whoever it takes for the leader."""
        mirror = self._pick(
            [each for each in self.replicas if each.is_up and each.mirror is not None]
        )
        leader = self._pick(self._leaders())
        if mirror is None or leader is None or mirror is leader:
            return
        before = [each for each in self.streams if each.mirror is mirror and not each.is_broken]
        if before:
            if not self.is_wild or self.rng.random() < 0.8:
                return
            self._break(before)
        epoch = leader.led.record.epoch
        try:
            hello = mirror.mirrored.hello(epoch)
        except LinkFault:
            leader.led.fence()
            return
        stream = Stream(mirror, leader, epoch)
        self.streams.append(stream)
        stream.follower = leader.led.join(hello, stream.down.append, self.now_s)

    def carry_down(self) -> None:
        stream = self._pick([s for s in self.streams if s.down and not s.is_broken])
        if stream is not None:
            stream.mirror.mirrored.take(stream.epoch, stream.down.popleft())
            if self.rng.random() < 0.7:
                self._speak(stream.mirror)

    def carry_up(self) -> None:
        stream = self._pick([each for each in self.streams if each.up])
        if stream is not None:
            leader = stream.leader.led
            leader.acknowledge(stream.follower, stream.up.popleft(), self.now_s)
            leader.flush(self.now_s)

    def feed(self) -> None:
        stream = self._pick([each for each in self.streams if not each.is_broken])
        if stream is not None:
            stream.leader.led.feed(stream.follower, self.rng.randint(1, 5))

    def break_off(self) -> None:
        stream = self._pick(self.streams)
        if stream is not None:
            self._break([stream])

    def notice(self) -> None:
        """A leader comes to know that a stream is broken; the last acks are lost with it."""
        stream = self._pick([each for each in self.streams if each.is_broken])
        if stream is not None:
            self._end([stream])

    def _break(self, streams: list[Stream]) -> None:
        for stream in streams:
            stream.is_broken = True
            stream.down.clear()

    def _end(self, streams: list[Stream]) -> None:
        for stream in streams:
            self.streams.remove(stream)
            if stream.leader.leader is not None:
                stream.leader.led.leave(stream.follower)

    def pass_time(self) -> None:
        self.now_s += self.rng.choice((0.1, 1, PATIENCE_S + 1))

    # -- the record ----------------------------------------------------------------------------

    def is_there(self, life: str) -> bool:
        """Whether it is registered."""
        return any(each.is_up and each.life == life for each in self.replicas)

    def wish(self) -> None:
        replica = self._pick([each for each in self._leaders() if each.asked is None])
        if replica is None:
            return
        wished = replica.led.wish(self.now_s, self.names, self.is_there)
        if wished is not None:
            self.ask_for(replica, wished)

    def ask_for(self, replica: Replica, wished: Leadership) -> None:
        """A leader has the record changed."""
        replica.led.alter(wished)
        revision = self.revision_known(replica)
        replica.asked = Asked(replica, replica.life, wished, revision, is_promotion=False)

    def revision_known(self, replica: Replica) -> int:
        """The revision at which the record is what a leader believes."""
        return self.revision if self.record == replica.led.record else -1

    def decide(self) -> None:
        """A change of the record happens, or its answer comes; either may be late."""
        replica = self._pick([each for each in self.replicas if each.asked is not None])
        if replica is None:
            return
        asked = replica.asked
        assert asked is not None
        if asked.has_happened is None:
            asked.has_happened = self.compare_and_swap(asked)
            if self.rng.random() < 0.5:
                return
        replica.asked = None
        if asked.life != replica.life or not replica.is_up:
            return
        if asked.is_promotion:
            if asked.has_happened and asked.wished.epoch > replica.mirrored.epoch:
                self._become(replica, asked.wished)
        elif asked.has_happened:
            replica.led.altered()
        else:
            replica.led.fence()

    def compare_and_swap(self, asked: Asked) -> bool:
        """Whether the record was as believed, and is now as wished."""
        if asked.revision != self.revision:
            return False
        if asked.is_promotion and asked.life not in self.record.in_sync:
            # All who were in sync have ended, and transient messages with them.
            self.confirmed = {each for each in self.confirmed if self.is_persistent[each]}
            self.never_again.clear()
        self.record = asked.wished
        self.revision += 1
        return True

    def promote(self) -> None:
        """Somebody who may lead tries to."""
        replica = self._pick(
            [
                each
                for each in self.replicas
                if each.is_up and each.mirror is not None and each.asked is None
            ]
        )
        if replica is None or not self.may_lead(replica):
            return
        if not self.is_wild and self.is_alive(self.record.leader):
            return
        record = self.record
        lost = {node_of(record.leader), replica.name}
        in_sync = (replica.life, *(each for each in record.in_sync if node_of(each) not in lost))
        wished = attrs.evolve(record, epoch=record.epoch + 1, leader=replica.life, in_sync=in_sync)
        replica.asked = Asked(replica, replica.life, wished, self.revision, is_promotion=True)

    def may_lead(self, replica: Replica) -> bool:
        """Whether it is in sync, in this life; or all lives that are have ended, and it was one."""
        in_sync = self.record.in_sync
        if replica.life in in_sync:
            return replica.life != self.record.leader
        return replica.name in map(node_of, in_sync) and not any(map(self.is_alive, in_sync))

    def is_alive(self, life: str) -> bool:
        """Whether a life has not ended."""
        return any(each.life == life and each.is_up for each in self.replicas)

    def _become(self, replica: Replica, record: Leadership) -> None:
        self._break([each for each in self.streams if each.mirror is replica])
        replica.leader = replica.mirrored.promote(record, self.make_leader)
        replica.mirror = None
        epoch = record.epoch
        assert self.leaders_of.setdefault(epoch, replica.life) == replica.life, "two leaders (S1)"

    def see(self) -> None:
        """Leaders who hear that somebody else leads are mirrors from now on; some hear late."""
        for replica in self.replicas:
            leader = replica.leader
            if leader is None or not replica.is_up:
                continue
            deposed = self.record.epoch > leader.record.epoch and self.rng.random() < 0.05
            if leader.is_fenced or deposed:
                self._end([each for each in self.streams if each.leader is replica])
                replica.leader, replica.asked = None, None
                replica.mirror = self.make_mirror(replica.log, replica.life, leader.record.epoch)

    # -- crashes -------------------------------------------------------------------------------

    def crash(self) -> None:
        up = [each for each in self.replicas if each.is_up]
        replica = self._pick(up)
        if replica is not None and self.rng.random() < 0.5:
            self._crash(replica)

    def power_cut(self) -> None:
        """All nodes end at once."""
        for replica in self.replicas:
            if replica.is_up:
                self._crash(replica)

    def _crash(self, replica: Replica) -> None:
        self._end([each for each in self.streams if each.leader is replica])
        self._break([each for each in self.streams if each.mirror is replica])
        replica.is_up = False
        replica.leader = replica.mirror = None
        asked, replica.asked = replica.asked, None
        if asked is not None and asked.has_happened is None and self.rng.random() < 0.5:
            self.compare_and_swap(asked)  # It was on its way.
        replica.log.crash(self.rng)

    def restart(self) -> None:
        replica = self._pick([each for each in self.replicas if not each.is_up])
        if replica is not None:
            replica.incarnation += 1
            replica.is_up = True
            self.restarts += 1
            replica.mirror = self.make_mirror(replica.log, replica.life)

    # -- what must hold ------------------------------------------------------------------------

    def check(self) -> None:
        """Raise `AssertionError` if a rule is broken."""
        for replica in self._leaders():
            leader, log = replica.led, replica.log
            here = {index for index in log.messages if index < log.committed}
            if leader.is_ready:
                self.confirmed |= here
            applied = {i for i in self.settled if i < log.end and i not in log.messages}
            self.never_again |= (applied & self.confirmed) - self.settle_committed
            self.settle_committed |= applied & self.confirmed
        for replica in self.replicas:
            for index, (_, raw) in replica.log.messages.items():
                assert self.bodies[index] == raw, "one index, two messages (S3)"
            if replica.is_up and self.may_be_promoted(replica):
                self._check_member(replica)

    def may_be_promoted(self, replica: Replica) -> bool:
        """Whether the record allows it to lead, now or because it leads."""
        return replica.life in self.record.in_sync or self.may_lead(replica)

    def _check_member(self, replica: Replica) -> None:
        is_same_life = replica.life in self.record.in_sync
        lacking = {
            index
            for index in self.confirmed - self.settle_committed
            if index not in replica.log.messages and (is_same_life or self.is_persistent[index])
        }
        assert not lacking, f"{replica.life} may lead, and lacks {sorted(lacking)[:5]} (S2)"

    # -- the end -------------------------------------------------------------------------------

    def heal(self, steps: int = 3000) -> None:
        """No more faults: all replicas come to be in sync, and have the same (S10, L1, L2)."""
        self.is_wild = False
        for _ in range(steps):
            self.step()
            if self.is_at_rest():
                break
        assert self.is_at_rest(), f"there is no rest: {self.record}"
        [leader] = self._leaders()
        for replica in self.replicas:
            assert replica.log.messages.keys() == leader.log.messages.keys(), "not alike (S10)"
        lost = {
            index
            for index in self.confirmed - self.settled
            if self.is_persistent[index] and index not in leader.log.messages
        }
        assert not lost, f"{sorted(lost)[:5]} were confirmed, and are lost"

    def is_at_rest(self) -> bool:
        """Whether nothing is left to do."""
        leaders = self._leaders()
        return (
            len(leaders) == 1
            and all(each.is_up for each in self.replicas)
            and {node_of(each) for each in self.record.in_sync} == set(self.names)
            and all(map(self.is_alive, self.record.in_sync))
            and leaders[0].led.record == self.record
            and not leaders[0].led.is_outstanding
            and leaders[0].led.is_ready
            and not any(each.down or each.up or each.is_broken for each in self.streams)
            and all(each.is_whole for each in leaders[0].led.followers.values())
            and len(leaders[0].led.followers) == len(self.replicas) - 1
        )


def walk(seed: int, steps: int = 400, **options: Any) -> ReplicaWorld:
    """A world in which many things have happened, and all is well again."""
    world = ReplicaWorld(seed, **options)
    for _ in range(steps):
        world.step()
    world.heal()
    return world

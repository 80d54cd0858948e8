"""Leaders and mirrors in every order of things: what may lead has what was confirmed.

`ReplicaWorld` has no clocks: whoever the record allows to lead tries it at any time, and every
message between nodes may come late or never. And the same for faults that are planted, one by one:
each is one that a protocol of this kind has had somewhere; a walk that does not find it would find
nothing else.
"""

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from amqpbroker.replication.entries import Ack, Entry, Settle
from amqpbroker.replication.leader import Follower, Leader
from amqpbroker.replication.leadership import Leadership, node_of
from amqpbroker.replication.mirror import Mirror
from amqpbroker.testing.replica_world import Asked, Replica, ReplicaWorld, walk

WALKS = 300
FOUND_WITHIN = 500


@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
def test_whatever_happens_nothing_that_was_confirmed_is_lost(part: int) -> None:
    confirmed = epochs = settled = 0
    for seed in range(part * WALKS // 6, (part + 1) * WALKS // 6):
        world = _walk(seed, count=2 + seed % 4, transient=0.3 * (seed % 2))
        confirmed += len(world.confirmed)
        settled += len(world.settle_committed)
        epochs += world.record.epoch
    assert confirmed > 20 * WALKS // 6
    assert settled > 5 * WALKS // 6
    assert epochs > 2 * WALKS // 6


def _walk(seed: int, **options: Any) -> ReplicaWorld:
    try:
        return walk(seed, **options)
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from error


# -- planted faults ------------------------------------------------------------------------------


class ShrinksEarly(Leader):
    """Does not wait for a member any more that it has asked to be struck off."""

    def _reckoned(self) -> set[str]:
        members = super()._reckoned()
        return members & {*self.pending.in_sync} if self.pending is not None else members


class ExpandsLate(Leader):
    """Does not wait for a new member before it knows that it is one."""

    def _reckoned(self) -> set[str]:
        return {*self.record.in_sync} - {self.life}


class TakesWhoIsBehind(Leader):
    """Takes a mirror for in sync that lacks messages."""

    def _has_caught_up(self, follower: Follower) -> bool:
        return True


class TakesWhoWasSent(Leader):
    """Takes a mirror for in sync that was sent everything, and does not keep it yet."""

    def acknowledge(self, follower: Follower, ack: Ack, now_s: float) -> None:
        super().acknowledge(follower, attrs.evolve(ack, pages=follower.pages), now_s)

    def _has_caught_up(self, follower: Follower) -> bool:
        return follower.is_told and follower.end >= self.log.committed


class CountsTheTail(Leader):
    """Counts what a member keeps of what is new, though it may lack what is old."""

    def acknowledge(self, follower: Follower, ack: Ack, now_s: float) -> None:
        super().acknowledge(follower, ack, now_s)
        self._kept[follower.life] = follower.end, follower.settles


class TrustsItsOwnDisk(Leader):
    """Counts what it has itself as kept before it is."""

    def _own_end(self) -> int:
        return self.log.end


class ForgetsAtOnce(Leader):
    """Forgets what is settled before everybody in sync knows of it."""

    def settled(self, indexes: range) -> None:
        super().settled(indexes)
        self.log.settle_live(indexes)


class ForgetsWhatIsUndecided(Mirror):
    """Does not decide, as a leader, what the one before has left undecided."""

    def promote(self, record: Leadership, make: Callable[..., Leader] = Leader) -> Leader:
        self._undecided.clear()
        self._undecided_before.clear()
        return super().promote(record, make)


class FillsWhatIsGone(Leader):
    """Sends a mirror what was settled since it came."""

    def advance(self) -> None:
        kept = {life: each.missing for life, each in self.followers.items()}
        for each in self.followers.values():
            each.missing = type(each.missing)()
        super().advance()
        for life, missing in kept.items():
            self.followers[life].missing = missing

    def _fill(self, follower: Follower, count_max: int) -> int:
        return super()._fill(follower, count_max)


class HearsOldLeaders(Mirror):
    """Does as a leader says whose epoch is over."""

    def hello(self, epoch: int) -> Any:
        self.epoch = min(epoch, self.epoch)
        return super().hello(epoch)

    def take(self, epoch: int, entries: list[Entry]) -> None:  # type: ignore[override]
        super().take(self.epoch, entries)


class AcksEarly(Mirror):
    """Acknowledges what it does not keep yet."""

    def ack(self) -> Ack | None:
        return Ack(self.log.end, self._settles, self._pages) if self._is_joined else None


class SettlesAtOnce(Mirror):
    """Forgets messages before it is committed that it should."""

    def take(self, epoch: int, entries: list[Entry]) -> None:  # type: ignore[override]
        super().take(epoch, entries)
        if epoch == self.epoch:
            for entry in entries:
                for run in entry.runs if isinstance(entry, Settle) else ():
                    self.log.settle_live(run)


class DropsAtOnce(Mirror):
    """Drops what it has too much before it has everything else: all that it has."""

    def _join(self, joined: Any) -> None:
        for run in self.log.live().runs():
            self.log.settle_live(run)
        super()._join(joined)


class BelievesAnything(ReplicaWorld):
    """The record changes, whatever it was before."""

    def compare_and_swap(self, asked: Asked) -> bool:
        asked.revision = self.revision
        return super().compare_and_swap(asked)


class PromotesAnybody(ReplicaWorld):
    """Who is not in sync may lead."""

    def may_lead(self, replica: Replica) -> bool:
        return self.promotes_all and replica.life != self.record.leader

    promotes_all = True

    def may_be_promoted(self, replica: Replica) -> bool:
        return replica.life in self.record.in_sync


class ForgetsItsLives(ReplicaWorld):
    """A node that was restarted counts as what it was before."""

    def restart(self) -> None:
        lives = {each.name: each.incarnation for each in self.replicas}
        super().restart()
        for each in self.replicas:
            each.incarnation = lives[each.name]
            if each.mirror is not None:
                each.mirror.life = each.life

    def may_lead(self, replica: Replica) -> bool:
        return replica.life in self.record.in_sync and replica.life != self.record.leader


class LooksUpLives(ReplicaWorld):
    """Who is in sync is written down in the life that the node has by then."""

    def ask_for(self, replica: Replica, wished: Leadership) -> None:
        lives = {each.name: each.life for each in self.replicas}
        in_sync = tuple(lives[node_of(each)] for each in wished.in_sync)
        super().ask_for(replica, attrs.evolve(wished, in_sync=in_sync))

    def is_there(self, life: str) -> bool:
        return any(each.is_up and each.name == node_of(life) for each in self.replicas)

    def crash(self) -> None:  # Nodes are soon there again: so it matters more often.
        super().crash()
        self.restart()

    def notice(self) -> None:
        if self.rng.random() < (0.1 if self.is_wild else 1):
            super().notice()


LEADERS = [
    ShrinksEarly,
    ExpandsLate,
    TakesWhoIsBehind,
    TakesWhoWasSent,
    CountsTheTail,
    TrustsItsOwnDisk,
    ForgetsAtOnce,
    FillsWhatIsGone,
]
MIRRORS = [HearsOldLeaders, AcksEarly, SettlesAtOnce, DropsAtOnce, ForgetsWhatIsUndecided]
WORLDS = [BelievesAnything, PromotesAnybody, ForgetsItsLives, LooksUpLives]


def _finds(make: Callable[[int, int], ReplicaWorld]) -> int:
    """How many walks it takes to find the fault."""
    for seed in range(FOUND_WITHIN):
        world = make(seed, 2 + seed % 2)
        try:
            for _ in range(400):
                world.step()
            world.heal()
        except Exception:
            return seed + 1
    pytest.fail(f"not found in {FOUND_WITHIN} walks")


@pytest.mark.slow
@pytest.mark.parametrize("fault", LEADERS)
def test_a_leader_with_a_fault_is_found_out(fault: type[Leader]) -> None:
    print(_finds(lambda seed, count: ReplicaWorld(seed, count, make_leader=fault)))


@pytest.mark.slow
@pytest.mark.parametrize("fault", MIRRORS)
def test_a_mirror_with_a_fault_is_found_out(fault: type[Mirror]) -> None:
    print(_finds(lambda seed, count: ReplicaWorld(seed, count, make_mirror=fault)))


@pytest.mark.slow
@pytest.mark.parametrize("fault", WORLDS)
def test_a_record_with_a_fault_is_found_out(fault: type[ReplicaWorld]) -> None:
    print(_finds(fault))

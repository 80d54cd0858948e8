"""The leader of a mirrored queue.

It follows the queue's log, and tells its mirrors what that is told: messages, and that messages are
to be forgotten. A message is committed when it is kept here and by every member that is in sync; so
is a settle, and only then the message is forgotten, here as there: what one member has lost, every
other still has.

**Who is in sync** is written in a record that all nodes share, which changes only by compare and
swap. The leader asks for a change (`wish`), and until it knows what became of it, it reckons with
both: a member that may be in sync by now is waited for, one that may not be any more as well. So
there is never a moment at which the record names somebody who lacks a confirmed message. If the
record has changed without it, somebody else leads: it is fenced, and may not confirm anything.

**Joining.** A mirror that comes says which messages it has. From that moment it is told all that is
new. What it lacks of the rest it is sent beside that, page by page, in the order of the indexes,
and what it has too much is dropped when it lacks nothing any more. Nothing waits for this: neither
the queue nor those who are in sync. A message that is settled before its page is sent is not sent
at all. What it acknowledges counts once it is whole.
"""

from collections import deque
from collections.abc import Callable, Iterable

import attrs

from amqpbroker.message import Batch, Origin
from amqpbroker.replication.entries import (
    Ack,
    Append,
    Commit,
    Entry,
    Fill,
    Hello,
    Joined,
    Mark,
    Settle,
    Whole,
)
from amqpbroker.replication.leadership import Leadership, first_index, node_of
from amqpbroker.replication.replica_log import ReplicaLog
from amqpbroker.storage.format import Image
from amqpbroker.storage.index_set import IndexSet
from amqpbroker.storage.log import Followers

PATIENCE_S = 3.0
"""A member that acknowledges nothing for so long, though it should, is not waited for any more."""
PAGE_MAX = 1024
"""Messages in a page."""
PAGE_INDEXES_MAX = 4096
"""Indexes between the first of them and the last."""
_NOTHING = (0, 0)


@attrs.define(eq=False)
class Follower:
    """A mirror, as long as it is on one stream."""

    life: str
    tell: Callable[[list[Entry]], None]
    missing: IndexSet
    """Live messages that it has not, and was not sent yet."""
    extra: IndexSet
    """Messages that it has, and should not."""
    since_s: float
    """When it came, or last acknowledged something."""
    end: int = 0
    settles: int = 0
    pages: int = 0
    """Pages that it was sent."""
    pages_kept: int = 0
    is_told: bool = False
    """Whether the last page was sent."""

    @property
    def is_whole(self) -> bool:
        """Whether it keeps all that there was when it came, and nothing else."""
        return self.is_told and self.pages == self.pages_kept


@attrs.define
class _Run:
    first: int
    origins: list[Origin]
    raws: list[bytes]


class Leader(Followers):
    """Leads the queue of ``log`` as ``record`` says, of which its own life is the leader.

    ``undecided`` are settles that the epoch before has left undecided: they are the first of
    this one. The driver calls `flush` at the end of each turn in which something happened.
    """

    def __init__(
        self,
        log: ReplicaLog,
        record: Leadership,
        publishers: dict[int, int] | None = None,
        undecided: Iterable[range] = (),
    ) -> None:
        self.record = record
        self.pending: Leadership | None = None
        """What the record is asked to become; it may have happened."""
        self.followers: dict[str, Follower] = {}
        self.publishers: dict[int, int] = dict(publishers or {})
        """How many messages each publisher has sent in all."""
        self.is_fenced = False
        """Whether somebody else leads."""
        self.log = log
        self.on_news: Callable[[], None] = _nothing
        """Called when there comes to be something to `flush`."""
        self.committed_settles = 0
        self._kept: dict[str, tuple[int, int]] = {}
        self._settles = 0
        self._undecided: deque[tuple[int, list[range]]] = deque()
        self._runs: list[_Run] = []
        self._marks: list[Mark] = []
        self._settled: list[range] = list(undecided)
        self._told = Commit(0, 0)
        self._gone: set[str] = set()  # Members whose stream has ended.
        self._outstanding_since_s: float | None = None
        self._has_kept_all = False
        log.follow(self)
        log.when_kept(self._keep_all)

    @property
    def life(self) -> str:
        """Its own."""
        return self.record.leader

    # -- what the log tells --------------------------------------------------------------------

    def appended(self, first: int, origin: Origin, raws: list[bytes]) -> None:
        self.on_news()
        if not self.followers:
            return
        runs = self._runs
        if runs and runs[-1].first + len(runs[-1].raws) == first:
            runs[-1].origins += [origin] * len(raws)
            runs[-1].raws += raws
        else:
            runs.append(_Run(first, [origin] * len(raws), list(raws)))

    def settled(self, indexes: range) -> None:
        self.on_news()
        settled = self._settled
        if settled and settled[-1].stop == indexes.start and settled[-1].step == indexes.step == 1:
            settled[-1] = range(settled[-1].start, indexes.stop)
        else:
            settled.append(indexes)

    def kept(self, end: int) -> None:
        self.on_news()

    def published(self, publisher: int, count: int) -> None:
        """A publisher has sent ``count`` messages in all, the last one just now."""
        self.publishers[publisher] = count
        if self.followers:
            self._marks.append(Mark(self.log.end, publisher, count))

    # -- telling -------------------------------------------------------------------------------

    def flush(self, now_s: float) -> None:
        """Tell the mirrors what is new, and see what is committed by it."""
        entries = self._take_entries()
        if entries:
            for follower in self.followers.values():
                follower.tell(entries)
        self.advance()
        self._look_at_the_time(now_s)

    def _look_at_the_time(self, now_s: float) -> None:
        """Note since when something waits to be committed."""
        if not self.is_outstanding:
            self._outstanding_since_s = None
        elif self._outstanding_since_s is None:
            self._outstanding_since_s = now_s

    def _take_entries(self) -> list[Entry]:
        runs, self._runs = self._runs, []
        marks, self._marks = self._marks, []
        entries: list[Entry] = []
        for run in runs:
            end = run.first + len(run.raws)
            here = tuple(mark for mark in marks if run.first < mark.end <= end)
            entries.append(Append(run.first, Batch(run.origins, run.raws), here))
        if self._settled:
            self._settles += 1
            settle = Settle(self._settles, self._settled)
            self._undecided.append((settle.number, settle.runs))
            self._settled = []
            entries.append(settle)
        return entries

    def feed(self, follower: Follower, count_max: int = PAGE_MAX) -> int:
        """Send a page of what a mirror lacks, at last with what it has too much.

        Returns the octets of the messages; 0: there is nothing more to send.
        """
        if follower.missing:
            return self._fill(follower, count_max)
        if not follower.is_told:
            follower.is_told = True
            follower.pages += 1
            committed = Commit(self.log.committed, self.committed_settles)
            follower.tell([Whole(follower.pages, follower.extra.runs()), committed])
            follower.extra = IndexSet()
        return 0

    def _fill(self, follower: Follower, count_max: int) -> int:
        log = self.log
        images: list[Image] = []
        for run in follower.missing.take_up_to(count_max):
            rest = run
            while rest:
                part = log.copy(rest)
                count = len(part.raws)
                if count:
                    _add(images, rest[:count], part)
                rest = rest[max(count, len(part.origins)) :]  # Damaged ones cannot be sent.
        for image in images:
            follower.pages += 1
            follower.tell([Fill(follower.pages, image)])
        return sum(len(raw) for image in images for raw in image.raws)

    # -- mirrors -------------------------------------------------------------------------------

    def join(self, hello: Hello, tell: Callable[[list[Entry]], None], now_s: float) -> Follower:
        """A mirror has come, on a stream by which it is told things."""
        self.flush(now_s)
        log, settles = self.log, self.committed_settles
        live = log.live()
        missing = live.difference(hello.live)
        extra = hello.live.difference(live)
        follower = Follower(hello.life, tell, missing, extra, now_s)
        self.followers[hello.life] = follower
        self._gone.discard(hello.life)
        entries: list[Entry] = [Joined(log.end, settles, dict(self.publishers))]
        entries += (Settle(number, runs) for number, runs in self._undecided)
        entries.append(Commit(log.committed, settles))
        tell(entries)
        return follower

    def leave(self, follower: Follower) -> None:
        """A stream has ended; what was acknowledged on it still counts."""
        if self.followers.get(follower.life) is follower:
            del self.followers[follower.life]
            self._gone.add(follower.life)

    def acknowledge(self, follower: Follower, ack: Ack, now_s: float) -> None:
        """A mirror keeps what it was told."""
        follower.end = max(follower.end, ack.end)
        follower.settles = max(follower.settles, ack.settles)
        follower.pages_kept = max(follower.pages_kept, ack.pages)
        follower.since_s = now_s
        if follower.is_whole:
            self._kept[follower.life] = follower.end, follower.settles

    # -- what is committed ---------------------------------------------------------------------

    @property
    def is_outstanding(self) -> bool:
        """Whether something is not committed yet."""
        return self.log.committed < self.log.end or self.committed_settles < self._settles

    @property
    def is_ready(self) -> bool:
        """Whether all that came before this epoch is committed: messages may be delivered."""
        return self.log.committed >= first_index(self.record.epoch)

    def _reckoned(self) -> set[str]:
        """Other members that are in sync, or may be."""
        members = {*self.record.in_sync}
        if self.pending is not None:
            members.update(self.pending.in_sync)
        members.discard(self.life)
        return members

    def _keep_all(self) -> None:
        """All that there was when this epoch began is kept here."""
        self._has_kept_all = True
        self.on_news()

    def _own_end(self) -> int:
        return self.log.kept_end if self._has_kept_all else 0

    def advance(self) -> None:
        """See what is committed by now, carry it out, and tell the mirrors."""
        if self.is_fenced:
            return
        log = self.log
        end, settles = self._own_end(), self._settles
        for member in self._reckoned():
            kept_end, kept_settles = self._kept.get(member, _NOTHING)
            end, settles = min(end, kept_end), min(settles, kept_settles)
        undecided = self._undecided
        while undecided and undecided[0][0] <= settles:
            self.committed_settles, runs = undecided.popleft()
            for run in runs:
                log.settle_live(run)
                for follower in self.followers.values():
                    if follower.missing:
                        follower.missing.discard(run)
        if end > log.committed:
            log.advance(end)
        told = Commit(log.committed, self.committed_settles)
        if told != self._told:
            self._told = told
            for follower in self.followers.values():
                follower.tell([told])

    # -- who is in sync ------------------------------------------------------------------------

    def wish(
        self, now_s: float, replicas: tuple[str, ...], is_there: Callable[[str], bool]
    ) -> Leadership | None:
        """What the record should become; None: it is as it should be, or is being changed.

        ``replicas`` are the nodes that are to have copies; others are let go of as soon as there
        are as many in sync as there should be. ``is_there`` says whether a life is registered.
        """
        if self.pending is not None or self.is_fenced:
            return None
        self._look_at_the_time(now_s)
        in_sync = [each for each in self.record.in_sync if not self._is_lost(each, now_s)]
        there = {node_of(each) for each in in_sync}
        for follower in self.followers.values():
            node = node_of(follower.life)
            if follower.life in in_sync or not self._has_caught_up(follower):
                continue
            if node in replicas and is_there(follower.life):
                in_sync = [each for each in in_sync if node_of(each) != node]
                in_sync.append(follower.life)
                there.add(node)
        kept = tuple(replicas)
        if not there.issuperset(replicas):  # Until the new ones are in sync the old ones stay.
            kept += tuple(each for each in self.record.replicas if each not in replicas)
        in_sync = [each for each in in_sync if node_of(each) in kept or each == self.life]
        wished = attrs.evolve(self.record, in_sync=tuple(in_sync), replicas=kept)
        return wished if wished != self.record else None

    def _is_lost(self, member: str, now_s: float) -> bool:
        """Whether a member that is in sync is not to be waited for any longer.

        One that has all there is may be away as long as nothing new comes.
        """
        if member == self.life or not self.is_outstanding:
            return False
        end, settles = self._kept.get(member, _NOTHING)
        if end >= self.log.end and settles >= self._settles:
            return False
        if member in self._gone:
            return True
        follower = self.followers.get(member)
        since_s = self._outstanding_since_s
        assert since_s is not None
        if follower is not None:
            since_s = max(since_s, follower.since_s)
        return now_s - since_s > PATIENCE_S

    def _has_caught_up(self, follower: Follower) -> bool:
        """Whether it may be in sync: it has all that is committed, and has heard of this epoch."""
        return (
            follower.is_whole
            and follower.end >= max(self.log.committed, first_index(self.record.epoch))
            and follower.settles >= self.committed_settles
        )

    def alter(self, wished: Leadership) -> None:
        """The record is asked to become ``wished``: from now on both are reckoned with."""
        assert self.pending is None
        self.pending = wished

    def altered(self) -> None:
        """The record has become what was wished."""
        assert self.pending is not None
        self.record, self.pending = self.pending, None
        for member in self._kept.keys() - {*self.record.in_sync} - self.followers.keys():
            del self._kept[member]
        self.advance()

    def fence(self) -> None:
        """Somebody else leads: nothing is committed here any more."""
        self.is_fenced = True


def _add(images: list[Image], indexes: range, batch: Batch) -> None:
    """Add messages to the last page, or to another if they lie too far behind the first."""
    if not images or indexes[-1] - images[-1].first >= PAGE_INDEXES_MAX:
        images.append(Image(indexes[0], 0, [], [], []))
    image = images[-1]
    image.indexes += indexes
    image.origins += batch.origins[: len(indexes)]
    image.raws += batch.raws
    image.end = indexes[-1] + 1


def _nothing() -> None:
    """Nobody wants to know."""

"""A mirror of a queue: it has what its leader has told it, and can become the leader.

Messages are kept as they come; that they are to be forgotten is noted, and done when the leader
says that it is committed. So a mirror that becomes the leader lacks nothing: what it notes of
settles is then decided in its own epoch.
"""

from collections import deque
from collections.abc import Callable, Iterable
from itertools import groupby

from amqpbroker.errors import LinkFault
from amqpbroker.message import Origin
from amqpbroker.replication.entries import (
    Ack,
    Append,
    Commit,
    Entry,
    Fill,
    Hello,
    Joined,
    Settle,
    Whole,
)
from amqpbroker.replication.leader import Leader
from amqpbroker.replication.leadership import Leadership, epoch_of, first_index
from amqpbroker.replication.replica_log import ReplicaLog
from amqpbroker.storage.log import Followers


class Mirror(Followers):
    """The mirror on ``log`` in its node's ``life``, which may have led up to ``epoch`` itself."""

    def __init__(self, log: ReplicaLog, life: str, epoch: int = 0) -> None:
        self.log = log
        self.life = life
        self.on_kept: Callable[[], None] = _nothing
        """Called when there may be something to `ack`."""
        self.publishers: dict[int, int] = {}
        self.epoch = max(epoch, epoch_of(log.end - 1)) if log.end else epoch
        """That of the leader that it follows, or has followed last."""
        self._is_joined = self._is_whole = False
        self._undecided: deque[tuple[int, list[range]]] = deque()
        self._undecided_before: list[range] = []  # Of streams before this one.
        self._settles = 0
        self._pages = self._pages_kept = 0
        self._streams = 0
        self._acked: Ack | None = None
        log.follow(self)

    # -- what the log tells --------------------------------------------------------------------

    def appended(self, first: int, origin: Origin, raws: list[bytes]) -> None:
        """Nobody follows a mirror."""

    def settled(self, indexes: range) -> None:
        raise AssertionError("only a leader settles")

    def kept(self, end: int) -> None:
        self.on_kept()

    # -- the stream ----------------------------------------------------------------------------

    def hello(self, epoch: int) -> Hello:
        """Begin to follow the leader of an epoch; whoever led before is not heard any more.

        Raises `LinkFault` if that was over already.
        """
        if epoch < self.epoch:
            raise LinkFault(f"epoch {epoch} is over: it is {self.epoch} by now")
        self.epoch = epoch
        self._leave()
        return Hello(self.life, self.log.live())

    def _leave(self) -> None:
        self._is_joined = self._is_whole = False
        self._acked = None
        self._pages = self._pages_kept = 0
        self._streams += 1
        for _, runs in self._undecided:
            self._undecided_before += runs
        self._undecided.clear()

    def take(self, epoch: int, entries: Iterable[Entry]) -> None:
        """Do what the leader of an epoch says; of one that is over nothing is taken.

        Raises `LinkFault` for what does not follow from what came before.
        """
        if epoch != self.epoch:
            return
        for entry in entries:
            if not self._is_joined and not isinstance(entry, Joined):
                raise LinkFault("a mirror is told things before it has joined")
            match entry:
                case Append():
                    self._append(entry)
                case Settle(number, runs):
                    if number != self._settles + 1:
                        raise LinkFault(f"settles are missing before the {number}th")
                    self._settles = number
                    self._undecided.append((number, runs))
                case Commit(end, settles):
                    self._commit(end, settles)
                case Fill():
                    self._fill(entry)
                case Whole(number, extra):
                    for run in extra:
                        self.log.settle_live(run)
                    self._undecided_before.clear()
                    self._is_whole = True
                    self._note_page(number)
                case Joined():
                    self._join(entry)

    def _join(self, joined: Joined) -> None:
        if joined.end < self.log.end:
            raise LinkFault(f"the leader is at {joined.end}, and its mirror at {self.log.end}")
        self.log.skip_to(joined.end)
        self.publishers = dict(joined.publishers)
        self._settles = joined.settles
        self._is_joined = True

    def _append(self, entry: Append) -> None:
        log = self.log
        if entry.first != log.end:
            raise LinkFault(f"messages are missing between {log.end} and {entry.first}")
        start = 0
        for origin, run in groupby(entry.batch.origins):
            stop = start + len(list(run))
            log.append(origin, entry.batch.raws[start:stop])
            start = stop
        for mark in entry.marks:
            self.publishers[mark.publisher] = mark.count

    def _fill(self, fill: Fill) -> None:
        if fill.image.end > self.log.end:
            raise LinkFault(f"{fill.image.end} is behind the end")
        self.log.fill(fill.image)
        self._note_page(fill.number)

    def _note_page(self, number: int) -> None:
        if number != self._pages + 1:
            raise LinkFault(f"pages are missing before the {number}th")
        self._pages = number
        stream = self._streams

        def kept() -> None:
            if stream == self._streams:
                self._pages_kept = number
                self.on_kept()

        self.log.when_kept(kept)

    def _commit(self, end: int, settles: int) -> None:
        undecided = self._undecided
        while undecided and undecided[0][0] <= settles:
            for run in undecided.popleft()[1]:
                self.log.settle_live(run)
        if self._is_whole:  # Else it may have messages here that the leader never had.
            self.log.advance(min(end, self.log.end))

    def ack(self) -> Ack | None:
        """What is to be acknowledged by now; None: nothing new."""
        if not self._is_joined:
            return None
        ack = Ack(self.log.kept_end, self._settles, self._pages_kept)
        if ack == self._acked:
            return None
        self._acked = ack
        return ack

    # -- becoming the leader -------------------------------------------------------------------

    def promote(self, record: Leadership, make: Callable[..., Leader] = Leader) -> Leader:
        """Lead from now on, as ``record`` says: another epoch begins."""
        assert record.epoch > self.epoch
        assert record.leader == self.life
        self._leave()
        log = self.log
        is_all_committed = log.committed == log.end
        log.skip_to(first_index(record.epoch))
        if is_all_committed:
            log.advance(log.end)
        return make(self.log, record, self.publishers, self._undecided_before)


def _nothing() -> None:
    """Nobody wants to know."""

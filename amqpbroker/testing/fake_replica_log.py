"""A log of a replica in memory, of which a crash takes what was not kept."""

import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from amqpbroker.message import Batch, Origin, Traits
from amqpbroker.storage.format import Image
from amqpbroker.storage.index_set import IndexSet
from amqpbroker.storage.log import Followers

PERSISTENT = Origin("", "q", b"\0\1q", 1, 4096, Traits(persistent=True))
TRANSIENT = Origin("", "q", b"\0\1q", 1, 4096, Traits(persistent=False))

_Op = tuple[str, Any]


class FakeReplicaLog:
    """Does as a `ReplicaLog` should; what it was told is kept, in order, when `keep` says so.

    Transient messages end with the node.
    """

    def __init__(self) -> None:
        self.messages: dict[int, tuple[Origin, bytes]] = {}
        self.end = self.readable = self.committed = 0
        self.followers: Followers | None = None
        self._unkept: deque[_Op] = deque()
        self._disk: dict[int, bytes] = {}
        self._disk_end = 0

    # -- as leaders and mirrors see it; see there ----------------------------------------------

    @property
    def kept_end(self) -> int:
        ends: Iterator[int] = (first for what, first in self._unkept if what == "append")
        return next(ends, self.end)

    def follow(self, followers: Followers | None) -> None:
        self.followers = followers

    def live(self) -> IndexSet:
        found = IndexSet()
        for index in self.messages:
            found.add(range(index, index + 1))
        return found

    def copy(self, indexes: range) -> Batch:
        found = [self.messages[index] for index in indexes]
        return Batch([origin for origin, _ in found], [raw for _, raw in found])

    def append(self, origin: Origin, raws: list[bytes]) -> int:
        first = self.end
        for raw in raws:
            self.messages[self.end] = origin, raw
            if origin is PERSISTENT or self._unkept:
                self._unkept.append(("append", self.end))
            self.end += 1
        assert self.followers is not None
        self.followers.appended(first, origin, raws)
        return self.end

    def fill(self, image: Image) -> int:
        assert image.end <= self.end
        for index, origin, raw in zip(image.indexes, image.origins, image.raws, strict=True):
            if index not in self.messages:
                self.messages[index] = origin, raw
                if origin is PERSISTENT:
                    self._unkept.append(("fill", index))
        return len(image.indexes)

    def when_kept(self, call: Callable[[], None]) -> None:
        if self._unkept:
            self._unkept.append(("call", call))
        else:
            call()

    def settle(self, run: range) -> None:
        assert self.followers is not None
        self.followers.settled(run)

    def settle_live(self, indexes: range) -> int:
        count = 0
        for index in indexes:
            found = self.messages.pop(index, None)
            if found is not None:
                self._unkept.append(("settle", index))
                count += 1
        return count

    def advance(self, end: int) -> None:
        assert end <= self.end
        self.committed = max(self.committed, end)
        self.readable = max(self.readable, self.committed)

    def skip_to(self, index: int) -> None:
        assert index >= self.end
        self.end = index

    # -- the disk ------------------------------------------------------------------------------

    def keep(self, count: int) -> None:
        """Keep the next ``count`` things that it was told."""
        for _ in range(count):
            what, index = self._unkept.popleft()
            if what == "call":
                index()
            elif what == "settle":
                self._disk.pop(index, None)
            elif index in self.messages and self.messages[index][0] is PERSISTENT:
                self._disk[index] = self.messages[index][1]
            elif what == "append" and index not in self.messages:
                self._disk_end = max(self._disk_end, index + 1)
            if what == "append":
                self._disk_end = max(self._disk_end, index + 1)

    @property
    def unkept_count(self) -> int:
        """How much of what it was told is not kept."""
        return len(self._unkept)

    def crash(self, rng: random.Random) -> None:
        """The node ends: some of what was not kept may be there all the same."""
        self._unkept = deque(op for op in self._unkept if op[0] != "call")
        self.keep(rng.randint(0, len(self._unkept)))
        self._unkept.clear()
        self.messages = {index: (PERSISTENT, raw) for index, raw in self._disk.items()}
        self.end = max(self._disk_end, max(self._disk, default=-1) + 1)
        self.readable = self.committed = 0
        self.followers = None

"""Which messages of a log wait for a consumer, and in which order.

Fresh messages lie in the order in which they came. Requeued ones come back to their original
position (RabbitMQ, Negative Acknowledgements): before all fresh ones, in the order of their
indexes. With priorities, each priority is such a line of its own, and the highest comes first.

Everything is kept in runs, `range` objects, since that is how it is handed out. Neighbours that
come back one by one are joined to a run again; runs that interleave, because several consumers had
shared the messages in turn, are merged as far as is about to be taken.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from heapq import heappop, heappush

from amqpbroker.message import Origin
from amqpbroker.storage.log import Log
from amqpbroker.storage.runs import join, runs_of


class Ready(ABC):
    """The waiting messages of one log, by index."""

    @abstractmethod
    def add(self, start: int, stop: int, priority: int) -> None:
        """Note that messages of one priority were appended to the log."""

    @abstractmethod
    def skip(self, gap: range) -> None:
        """Note that the log has jumped: nothing lies in ``gap``, behind all that was added."""

    @abstractmethod
    def count(self, readable: int) -> int:
        """How many wait, of those below ``readable``."""

    @abstractmethod
    def first(self, readable: int) -> int | None:
        """The one that `take` would begin with; None if none waits."""

    @abstractmethod
    def take(self, readable: int, limit: int) -> tuple[range, bool]:
        """Take up to ``limit`` (≥ 1) of the first as one run; at least one must wait.

        Says, too, whether they were delivered before.
        """

    @abstractmethod
    def put_back(self, run: range, redelivered: bool) -> None:
        """Put back the rest of what was just taken, which nobody has seen."""

    @abstractmethod
    def give_back(self, run: range, seen: bool = True) -> None:
        """Have ``run``, which was delivered, wait again.

        Not ``seen``: as if it had not been; unless others may have later ones, for then it comes
        out of order, and has to say so.
        """

    @abstractmethod
    def recover(self, run: range) -> None:
        """Have neighbours of the node's life before wait; they may have been delivered then."""

    @abstractmethod
    def runs(self, readable: int) -> Iterator[range]:
        """The runs that wait, of what lies below ``readable``, in any order."""

    @abstractmethod
    def clear(self, readable: int) -> list[range]:
        """Have nothing below ``readable`` wait any more; returns the runs that did."""


class Returned:
    """Messages that were delivered and wait again: runs in a heap, by first index."""

    def __init__(self) -> None:
        self.returned = 0
        self._heap: list[tuple[int, range]] = []
        self._newest = range(0)  # Still growing, and not in the heap.

    def take_back(self, run: range) -> None:
        """Have ``run``, which was delivered, wait again."""
        self.returned += len(run)
        if self._newest:
            joined = join(self._newest, run)
            if joined is not None:
                self._newest = joined
                return
            self._push(self._newest)
        self._newest = run

    def _push(self, run: range) -> None:
        heappush(self._heap, (run.start, run))

    def _lay_down(self) -> None:
        """Give the newest run its place among the others."""
        if self._newest:
            self._push(self._newest)
            self._newest = range(0)

    def first_returned(self) -> int:
        """The first index; there must be one."""
        self._lay_down()
        return self._heap[0][0]

    def take_returned(self, limit: int) -> range:
        """Take up to ``limit`` of the first, as many as lie in one run; there must be one."""
        self._lay_down()
        heap = self._heap
        run = heappop(heap)[1]
        while len(run) < limit and heap and (joined := join(run, heap[0][1])) is not None:
            heappop(heap)
            run = joined
        part = run[:limit]
        if heap and heap[0][0] < part[-1]:
            return self._take_interleaved(run, limit)
        if len(part) < len(run):
            self._push(run[limit:])
        self.returned -= len(part)
        return part

    def _take_interleaved(self, run: range, limit: int) -> range:
        """Merge what lies between the first ``limit`` of ``run``, and take the first run of it."""
        indexes = list(run[:limit])
        rests = [run[limit:]]
        last = indexes[-1]
        heap = self._heap
        while heap and heap[0][0] < last:
            other = heappop(heap)[1]
            before = (last - other.start) // other.step + 1
            indexes += other[:before]
            rests.append(other[before:])
        indexes.sort()
        first, *others = runs_of(indexes)
        for rest in (first[limit:], *others, *rests):
            if rest:
                self._push(rest)
        first = first[:limit]
        self.returned -= len(first)
        return first

    def returned_runs(self) -> Iterator[range]:
        """The runs that wait, in any order."""
        yield from (run for _, run in self._heap)
        if self._newest:
            yield self._newest

    def clear_returned(self) -> list[range]:
        """Have nothing wait any more; returns the runs that did, in order."""
        self._lay_down()
        runs = [run for _, run in sorted(self._heap, key=lambda item: item[0])]
        self._heap.clear()
        self.returned = 0
        return runs


class Line(Returned, Ready):
    """All messages in one line: fresh ones lie between a cursor and the log's readable mark.

    Those below ``fresh_from`` are not; they come by `recover`, if the log has them. ``readable`` is
    its mark, if that is lower.
    """

    def __init__(self, fresh_from: int = 0, readable: int | None = None) -> None:
        super().__init__()
        self._fresh_from = self._cursor = fresh_from
        self._gaps: list[range] = []  # At the cursor, or behind it.
        if readable is not None and readable < fresh_from:
            self._cursor = readable
            self._gaps.append(range(readable, fresh_from))

    def add(self, start: int, stop: int, priority: int) -> None:
        """Nothing to note: they lie behind the cursor."""

    def skip(self, gap: range) -> None:
        self._gaps.append(gap)

    def _fresh_stop(self, readable: int) -> int:
        """Where the fresh ones end that lie together at the cursor, which passes gaps before."""
        gaps = self._gaps
        while gaps and gaps[0].start == self._cursor and gaps[0].stop <= readable:
            self._cursor = gaps.pop(0).stop
        return min(readable, gaps[0].start) if gaps else readable

    def count(self, readable: int) -> int:
        count = self.returned + readable - self._cursor
        for gap in self._gaps:
            count -= len(range(gap.start, min(gap.stop, readable)))
        return count

    def first(self, readable: int) -> int | None:
        if self.returned:
            return self.first_returned()
        if self._gaps:
            readable = self._fresh_stop(readable)
        return self._cursor if self._cursor < readable else None

    def take(self, readable: int, limit: int) -> tuple[range, bool]:
        if self.returned:
            return self.take_returned(limit), True
        if self._gaps:
            readable = self._fresh_stop(readable)
        start = self._cursor
        self._cursor = min(readable, start + limit)
        return range(start, self._cursor), False

    def put_back(self, run: range, redelivered: bool) -> None:
        self.give_back(run, redelivered)

    def give_back(self, run: range, seen: bool = True) -> None:
        if seen or not _are_last(run, self._cursor):
            self.take_back(run)
        else:
            self._cursor = run.start

    def recover(self, run: range) -> None:
        delivered = range(run.start, min(run.stop, self._fresh_from))
        if delivered:
            self.give_back(delivered)

    def runs(self, readable: int) -> Iterator[range]:
        yield from self.returned_runs()
        if self._cursor < readable:
            yield range(self._cursor, readable)

    def clear(self, readable: int) -> list[range]:
        runs = self.clear_returned()
        while (stop := self._fresh_stop(readable)) > self._cursor:
            runs.append(range(self._cursor, stop))
            self._cursor = stop
        return runs


class _Level(Returned):
    """The messages of one priority."""

    def __init__(self) -> None:
        super().__init__()
        self.fresh: deque[range] = deque()
        self.fresh_taken = 0
        """The index behind the last that was taken of them."""


class Priorities(Ready):
    """A line for each priority up to ``highest``; higher ones count as that (RabbitMQ)."""

    def __init__(self, log: Log, highest: int) -> None:
        self._log = log
        self._highest = highest
        self._levels: dict[int, _Level] = {}
        self._busy = 0
        """A bit for each priority of which messages wait."""
        self._count = 0
        self._unreadable: deque[tuple[range, int]] = deque()

    def add(self, start: int, stop: int, priority: int) -> None:
        self._unreadable.append((range(start, stop), min(priority, self._highest)))

    def skip(self, gap: range) -> None:
        """Nothing to note: what lies behind it is added as such."""

    def _admit(self, readable: int) -> None:
        """Line up what has become readable."""
        unreadable = self._unreadable
        while unreadable and unreadable[0][0].start < readable:
            run, priority = unreadable.popleft()
            if run.stop > readable:
                unreadable.appendleft((range(readable, run.stop), priority))
                run = range(run.start, readable)
            fresh = self._level(priority, len(run)).fresh
            joined = join(fresh[-1], run) if fresh else None
            if joined is None:
                fresh.append(run)
            else:
                fresh[-1] = joined

    def _level(self, priority: int, more: int) -> _Level:
        """The line of ``priority``, to which the caller adds ``more`` messages."""
        self._busy |= 1 << priority
        self._count += more
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = _Level()
        return level

    def count(self, readable: int) -> int:
        self._admit(readable)
        return self._count

    def first(self, readable: int) -> int | None:
        self._admit(readable)
        if not self._count:
            return None
        level = self._levels[self._busy.bit_length() - 1]
        return level.first_returned() if level.returned else level.fresh[0].start

    def take(self, readable: int, limit: int) -> tuple[range, bool]:
        self._admit(readable)
        priority = self._busy.bit_length() - 1
        level = self._levels[priority]
        if level.returned:
            run, redelivered = level.take_returned(limit), True
        else:
            whole = level.fresh.popleft()
            run, redelivered = whole[:limit], False
            level.fresh_taken = run[-1] + 1
            if len(run) < len(whole):
                level.fresh.appendleft(whole[limit:])
        self._count -= len(run)
        if not level.returned and not level.fresh:
            self._busy &= ~(1 << priority)
        return run, redelivered

    def put_back(self, run: range, redelivered: bool) -> None:
        self.give_back(run, redelivered)

    def give_back(self, run: range, seen: bool = True) -> None:
        while run:
            origins = self._log.origins(run)
            priority = self._priority(origins[0])
            count = 1
            while count < len(origins) and self._priority(origins[count]) == priority:
                count += 1
            part, run = run[:count], run[count:]
            level = self._level(priority, count)
            if seen or not _are_last(part, level.fresh_taken):
                level.take_back(part)
            else:
                level.fresh.appendleft(part)
                level.fresh_taken = part.start

    def recover(self, run: range) -> None:
        self.give_back(run)

    def runs(self, readable: int) -> Iterator[range]:
        self._admit(readable)
        for level in self._levels.values():
            yield from level.returned_runs()
            yield from level.fresh

    def _priority(self, origin: Origin) -> int:
        return min(origin.traits.priority, self._highest)

    def clear(self, readable: int) -> list[range]:
        self._admit(readable)
        runs: list[range] = []
        for level in self._levels.values():
            runs += level.clear_returned()
            runs += level.fresh
        self._levels.clear()
        self._busy = self._count = 0
        return runs


def _are_last(run: range, stop: int) -> bool:
    """Whether ``run`` is all that lies between its first and ``stop``."""
    return len(run) == stop - run.start

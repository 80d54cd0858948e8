"""What a channel has delivered and its peer has not settled yet.

Deliveries are kept as runs of consecutive delivery tags, in order. Settling the oldest first, as
most peers do, only shortens the first run; settling in the middle splits one.
"""

from bisect import bisect_right
from operator import attrgetter

import attrs

from amqpbroker.queues.queue import Consumer, Queue


@attrs.define(eq=False)
class Delivered:
    """Deliveries with tags from ``first`` on.

    The messages at ``indexes`` of ``queue``. No ``consumer``: basic.get.
    """

    first: int
    indexes: range
    queue: Queue
    consumer: Consumer | None

    @property
    def last(self) -> int:
        """The last delivery tag."""
        return self.first + len(self.indexes) - 1


_first = attrgetter("first")


class Unsettled:
    """Deliveries by tag."""

    def __init__(self) -> None:
        self.count = 0
        self._runs: list[Delivered] = []
        self._head = 0  # Runs before it are settled; they go when they are the greater part.

    def add(self, run: Delivered) -> None:
        """Note a run; its tags are higher than all before."""
        self._runs.append(run)
        self.count += len(run.indexes)

    def restore(self, runs: list[Delivered]) -> None:
        """Note runs again that were taken."""
        self._runs = sorted(self._runs[self._head :] + runs, key=_first)
        self._head = 0
        self.count += sum(len(run.indexes) for run in runs)

    def take(self, first: int, last: int) -> tuple[list[Delivered], int | None]:
        """Settle the tags ``first`` … ``last`` one by one.

        What they were, and the first one that is unknown.
        """
        taken: list[Delivered] = []
        runs = self._runs
        at = self._head
        if at < len(runs) and first > runs[at].last:
            at = bisect_right(runs, first, lo=at, key=_first) - 1
        unknown = None
        while first <= last:
            if at >= len(runs) or not runs[at].first <= first <= runs[at].last:
                unknown = first
                break
            run = runs[at]
            start = first - run.first
            stop = min(last, run.last) - run.first + 1
            taken.append(Delivered(first, run.indexes[start:stop], run.queue, run.consumer))
            first = run.first + stop
            at = self._cut(at, start, stop)
        self._trim()
        return taken, unknown

    def take_up_to(self, last: int) -> tuple[list[Delivered], int | None]:
        """Settle all tags up to ``last`` (0: all there are); if it is unknown, nothing is taken."""
        runs, head = self._runs, self._head
        if not last:
            taken = runs[head:]
            self._runs, self._head, self.count = [], 0, 0
            return taken, None
        at = bisect_right(runs, last, lo=head, key=_first) - 1
        if at < head or last > runs[at].last:
            return [], last
        taken = runs[head:at]
        self.count -= sum(len(run.indexes) for run in taken)
        self._head = at
        run = runs[at]
        stop = last - run.first + 1
        taken.append(Delivered(run.first, run.indexes[:stop], run.queue, run.consumer))
        self._cut(at, 0, stop)
        self._trim()
        return taken, None

    def _cut(self, at: int, start: int, stop: int) -> int:
        """Take the deliveries ``start`` … ``stop`` out of the run at ``at``.

        Where the next run stands.
        """
        runs = self._runs
        run = runs[at]
        rest = run.indexes[stop:]
        self.count -= stop - start
        if start:
            if rest:
                runs.insert(at + 1, Delivered(run.first + stop, rest, run.queue, run.consumer))
            run.indexes = run.indexes[:start]
            return at + 1
        if rest:
            run.first += stop
            run.indexes = rest
            return at
        if at == self._head:
            self._head += 1
            return at + 1
        del runs[at]
        return at

    def _trim(self) -> None:
        """Let go of what is settled, once it is worth moving the rest."""
        if self._head == len(self._runs) or (self._head > 32 and self._head * 2 > len(self._runs)):
            del self._runs[: self._head]
            self._head = 0

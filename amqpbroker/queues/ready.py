"""Which messages of a log wait for a consumer, and in which order.

Fresh messages lie between a cursor and the log's readable mark. Requeued ones come back to their
original position (RabbitMQ, Negative Acknowledgements): before all fresh ones, in the order of
their indexes. They are kept as the runs in which they came back, in a heap by first index; where
runs interleave, only as much of one is taken as lies before the next.
"""

from heapq import heappop, heappush


class Ready:
    """The waiting messages of one log, by index."""

    def __init__(self, start: int = 0) -> None:
        self.cursor = start
        self._returned: list[tuple[int, range]] = []
        self._returned_count = 0

    def count(self, readable: int) -> int:
        """How many wait."""
        return self._returned_count + readable - self.cursor

    def take(self, readable: int, limit: int) -> tuple[range, bool]:
        """Up to ``limit`` (≥ 1) of the first, as one run.

        And whether they were delivered before.
        """
        if not self._returned:
            start = self.cursor
            self.cursor = min(readable, start + limit)
            return range(start, self.cursor), False
        _, run = heappop(self._returned)
        take = min(limit, len(run))
        if self._returned:
            before = self._returned[0][0]
            take = min(take, -((run.start - before) // run.step))
        if take < len(run):
            self._push(run[take:])
        self._returned_count -= take
        return run[:take], True

    def put_back(self, run: range, redelivered: bool) -> None:
        """``run`` is the rest of what was just taken: nobody has seen it."""
        if redelivered:
            self.give_back(run)
        else:
            self.cursor = run.start

    def give_back(self, run: range) -> None:
        """``run`` was delivered, and waits again."""
        self._push(run)
        self._returned_count += len(run)

    def _push(self, run: range) -> None:
        heappush(self._returned, (run.start, run))

    def clear(self, readable: int) -> list[range]:
        """Nothing waits any more; the runs that did."""
        runs = [run for _, run in sorted(self._returned, key=lambda item: item[0])]
        if self.cursor < readable:
            runs.append(range(self.cursor, readable))
        self.cursor = readable
        self._returned.clear()
        self._returned_count = 0
        return runs

"""What a channel has delivered and its peer has not settled yet.

Deliveries are kept as runs of consecutive delivery tags, in blocks of `_BLOCK_TAGS` tags; no run
crosses a border between blocks. Settling the oldest first, as most peers do, only shortens the
first run of the first block; settling in the middle splits one run, and moves no more than its
block, however many deliveries there are and in whatever order they are settled.
"""

from bisect import bisect_right
from collections import deque
from operator import attrgetter

import attrs

from amqpbroker.broker.turn import Turn
from amqpbroker.queues.queue import Consumer, Outcome, Queue


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


_BLOCK_TAGS = 1024
_RETURNED_AT_ONCE = 2048
"""Runs that go back to their queues before anything else happens."""
_first = attrgetter("first")


class Unsettled:
    """Deliveries by tag."""

    def __init__(self) -> None:
        self.count = 0
        self._blocks: dict[int, list[Delivered]] = {}  # In the order of their tags; none is empty.

    def add(self, run: Delivered) -> None:
        """Note a run; its tags are higher than all before."""
        self.count += len(run.indexes)
        number = run.first // _BLOCK_TAGS
        while run.last // _BLOCK_TAGS > number:
            number += 1
            here = number * _BLOCK_TAGS - run.first
            rest = Delivered(run.first + here, run.indexes[here:], run.queue, run.consumer)
            run.indexes = run.indexes[:here]
            self._blocks.setdefault(number - 1, []).append(run)
            run = rest
        self._blocks.setdefault(number, []).append(run)

    def restore(self, runs: list[Delivered]) -> None:
        """Note runs again that were taken."""
        for run in runs:
            self.add(run)
        self._blocks = {
            number: sorted(block, key=_first) for number, block in sorted(self._blocks.items())
        }

    def take(self, first: int, last: int) -> tuple[list[Delivered], int | None]:
        """Settle the tags ``first`` … ``last`` one by one.

        What they were, and the first one that is unknown.
        """
        taken: list[Delivered] = []
        while first <= last:
            number = first // _BLOCK_TAGS
            block = self._blocks.get(number)
            at = -1 if block is None else bisect_right(block, first, key=_first) - 1
            if block is None or at < 0 or first > block[at].last:
                return taken, first
            run = block[at]
            start = first - run.first
            stop = min(last, run.last) - run.first + 1
            taken.append(Delivered(first, run.indexes[start:stop], run.queue, run.consumer))
            first = run.first + stop
            self._cut(number, block, at, start, stop)
        return taken, None

    def take_up_to(self, last: int) -> tuple[list[Delivered], int | None]:
        """Settle all tags up to ``last`` (0: all there are); if it is unknown, nothing is taken."""
        if not last:
            taken = [run for block in self._blocks.values() for run in block]
            self._blocks, self.count = {}, 0
            return taken, None
        number = last // _BLOCK_TAGS
        block = self._blocks.get(number, [])
        at = bisect_right(block, last, key=_first) - 1
        if at < 0 or last > block[at].last:
            return [], last
        before = []
        for earlier in self._blocks:
            if earlier == number:
                break
            before.append(earlier)
        taken = [run for earlier in before for run in self._blocks.pop(earlier)]
        taken += block[:at]
        self.count -= sum(len(run.indexes) for run in taken)
        run = block[at]
        del block[:at]
        stop = last - run.first + 1
        taken.append(Delivered(run.first, run.indexes[:stop], run.queue, run.consumer))
        self._cut(number, block, 0, 0, stop)
        return taken, None

    def _cut(self, number: int, block: list[Delivered], at: int, start: int, stop: int) -> None:
        """Take the deliveries ``start`` … ``stop`` out of the run at ``at`` of a block."""
        run = block[at]
        rest = run.indexes[stop:]
        self.count -= stop - start
        if start:
            if rest:
                block.insert(at + 1, Delivered(run.first + stop, rest, run.queue, run.consumer))
            run.indexes = run.indexes[:start]
        elif rest:
            run.first += stop
            run.indexes = rest
        else:
            del block[at]
            if not block:
                del self._blocks[number]


class Returning:
    """Deliveries of a channel that is closed, on their way back to their queues.

    Few go back at once, so that whoever asks next finds them; many are the turns' work.
    """

    def __init__(self, runs: list[Delivered], turn: Turn) -> None:
        self._runs = deque(runs)
        self._turn = turn
        self.work_off(_RETURNED_AT_ONCE)

    def work_off(self, work_max: int) -> int:
        """Give back some of them; returns the work that it was."""
        work = 0
        while self._runs and work < work_max:
            run = self._runs.popleft()
            run.queue.settle(run.indexes, Outcome.REQUEUE)
            work += 1
        if self._runs:
            self._turn.resume(self)
        return work

"""One heap for everything that is due at some time."""

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

import attrs


@attrs.define(eq=False)
class Deadline:
    """A call that is due; ``call`` is None once it was made or cancelled."""

    when_s: float
    call: Callable[[float], None] | None

    def cancel(self) -> None:
        """It need not be made any more."""
        self.call = None


class Deadlines:
    """Calls to be made at times of the monotonic clock, in seconds.

    ``on_earlier`` is called when the next one has come nearer.
    """

    def __init__(self) -> None:
        self.on_earlier: Callable[[], None] | None = None
        self._heap: list[tuple[float, int, Deadline]] = []
        self._number = count()

    def at(self, when_s: float, call: Callable[[float], None]) -> Deadline:
        """Make ``call``, with the time, once ``when_s`` has come."""
        deadline = Deadline(when_s, call)
        earlier = not self._heap or when_s < self._heap[0][0]
        heappush(self._heap, (when_s, next(self._number), deadline))
        if earlier and self.on_earlier is not None:
            self.on_earlier()
        return deadline

    def next_s(self) -> float | None:
        """When the next call is due."""
        while self._heap and self._heap[0][2].call is None:
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def run(self, now_s: float) -> None:
        """Make the calls that are due."""
        while (when_s := self.next_s()) is not None and when_s <= now_s:
            deadline = heappop(self._heap)[2]
            call, deadline.call = deadline.call, None
            assert call is not None
            call(now_s)

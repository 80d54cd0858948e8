"""One heap for everything that is due at some time."""

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count

import attrs

_SWEEP_AT_LEAST = 256


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
        self._sweep_at = _SWEEP_AT_LEAST

    def __len__(self) -> int:
        """How many are kept, perhaps some of the cancelled ones too."""
        return len(self._heap)

    def at(self, when_s: float, call: Callable[[float], None]) -> Deadline:
        """Make ``call``, with the time, once ``when_s`` has come."""
        if len(self._heap) >= self._sweep_at:
            self._sweep()
        deadline = Deadline(when_s, call)
        earlier = not self._heap or when_s < self._heap[0][0]
        heappush(self._heap, (when_s, next(self._number), deadline))
        if earlier and self.on_earlier is not None:
            self.on_earlier()
        return deadline

    def _sweep(self) -> None:
        """Let go of what was cancelled long before its time."""
        self._heap = [item for item in self._heap if item[2].call is not None]
        heapify(self._heap)
        self._sweep_at = max(_SWEEP_AT_LEAST, 2 * len(self._heap))

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

"""Simulated time: it stands while anybody has anything to do, and then jumps to what comes next."""

import math
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

import trio


class SimTime(trio.abc.Clock):
    """A clock for trio on which a simulated minute takes as long as its events.

    Beside trio's deadlines it knows events that need no task, as the arrival of octets. trio asks
    it how long to sleep whenever no task can run: it goes to the next deadline or event at once.
    (So `trio.testing.wait_all_tasks_blocked` is of no use here: time passes first.)
    """

    def __init__(self) -> None:
        self._now_s = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def at(self, when_s: float, happen: Callable[[], None]) -> None:
        """Call ``happen`` when nobody has anything to do before that time.

        What is to happen at the same time does so in the order of these calls. It may wake tasks,
        which then run before anything else happens.
        """
        heappush(self._events, (when_s, next(self._numbers), happen))

    def start_clock(self) -> None:
        """Nothing is to be set up."""

    def current_time(self) -> float:
        return self._now_s

    def deadline_to_sleep_time(self, deadline: float) -> float:
        if self._events and self._events[0][0] <= deadline:
            when_s, _, happen = heappop(self._events)
            self._now_s = max(self._now_s, when_s)
            happen()
            return 0
        if deadline == math.inf:
            return deadline
        self._now_s = max(self._now_s, deadline)
        return 0

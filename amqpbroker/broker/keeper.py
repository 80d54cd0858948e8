"""The broker as a keeper of queues."""

from collections.abc import Callable
from typing import Any

from amqpbroker.broker.deadlines import Deadline, Deadlines
from amqpbroker.definitions import Change, delete
from amqpbroker.queues.queue import Keeper, Queue
from amqpbroker.world import Clock


class QueueKeeper(Keeper):
    """Gives queues time and turns; one that is not used any more goes the way of all changes."""

    def __init__(
        self,
        wake: Callable[[Queue], Any],
        clock: Clock,
        deadlines: Deadlines,
        see_to: Callable[[Change], object],
    ) -> None:
        self.wake = wake
        self.clock = clock
        self._deadlines = deadlines
        self._see_to = see_to

    def call_at(self, when_s: float, call: Callable[[float], None]) -> Deadline:
        return self._deadlines.at(when_s, call)

    def unused(self, queue: Queue) -> None:
        self._see_to(delete(queue.definition))

"""The broker as a keeper of queues."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from amqpbroker.broker.deadlines import Deadline, Deadlines
from amqpbroker.definitions import Change, delete
from amqpbroker.queues.queue import Keeper, Queue
from amqpbroker.world import Clock

if TYPE_CHECKING:
    from amqpbroker.broker.session import Session


class QueueKeeper(Keeper):
    """Gives queues time and turns; one that is not used any more goes the way of all changes."""

    def __init__(
        self,
        wake: Callable[[Queue], Any],
        clock: Clock,
        deadlines: Deadlines,
        submit: Callable[[Change], object],
    ) -> None:
        self.wake = wake
        self.clock = clock
        self._deadlines = deadlines
        self._submit = submit

    def call_at(self, when_s: float, call: Callable[[float], None]) -> Deadline:
        return self._deadlines.at(when_s, call)

    def unused(self, queue: Queue) -> None:
        owner = queue.owner
        self._submit(delete(queue.definition))
        if owner is not None:
            cast("Session", owner).own_queues.pop(queue, None)

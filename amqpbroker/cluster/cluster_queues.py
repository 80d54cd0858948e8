"""The queues of a cluster, as one of its nodes opens them: its own, and those of others."""

from collections import Counter

from amqpbroker.cluster.remote import RemoteQueues
from amqpbroker.definitions import QueueDefinition
from amqpbroker.queues.queue import Keeper, Queue, QueueType


class ClusterQueues(QueueType):
    """Queues led by ``node`` are ``held`` here; others are asked for where they are.

    ``find`` has those that are held, by their ids. ``leaders`` is how many each node leads.
    """

    def __init__(self, node: str, held: QueueType) -> None:
        self.remote = RemoteQueues(lambda definition: definition.leader)
        self.leaders: Counter[str] = Counter()
        self._node = node
        self._kind = held
        self._held: dict[int, Queue] = {}

    def check(self, definition: QueueDefinition) -> None:
        self._kind.check(definition)

    def open(self, definition: QueueDefinition, keeper: Keeper) -> Queue:
        self.check(definition)  # Perhaps somebody has written it to the store by hand.
        self.leaders[definition.leader] += 1
        if definition.leader != self._node:
            return self.remote.open(definition, keeper)
        queue = self._held[definition.log_id] = self._kind.open(definition, keeper)
        return queue

    def find(self, queue_id: int) -> Queue | None:
        """The queue with that id, if it is held here."""
        return self._held.get(queue_id)

    def forget(self, definition: QueueDefinition) -> None:
        """A queue is about to be deleted."""
        self.leaders[definition.leader] -= 1
        self._held.pop(definition.log_id, None)

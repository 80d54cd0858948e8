"""What nodes leave behind that ends with them: their exclusive and transient queues.

Such a queue names the life of the node that it ends with. That life is over when the node has begun
another, or is not registered any more; but a store that was away ends all registrations at once,
and a node that is linked all the same lives on. So nobody is in a hurry, unless the node is known
to have ended (`Deaths`).
"""

from collections.abc import Callable, Mapping

from amqpbroker.cluster.deaths import Death
from amqpbroker.cluster.feed import Feed
from amqpbroker.cluster.members import Member
from amqpbroker.cluster.membership import KEEP_ALIVE_S, LEASE_S
from amqpbroker.definitions import Change, ExchangeDefinition, QueueDefinition, delete
from amqpbroker.queues.queue import Pending, when_all
from amqpbroker.replication.leadership import life_of, node_of

SETTLE_S = 2 * KEEP_ALIVE_S + 1
"""After an outage of the store the nodes that live have registered again by then."""
UNREACHABLE_S = LEASE_S + 30
"""A node that cannot reach the store, and is linked, has this long to find it again."""

SeeTo = Callable[[Change], Pending[None] | None]


class Leavings:
    """Deletes what is left behind, for the node ``node`` in its life ``incarnation``.

    What ``feed`` knows of is deleted by ``see_to``.
    """

    settle_s = SETTLE_S

    def __init__(self, feed: Feed, node: str, incarnation: int, see_to: SeeTo) -> None:
        self._feed = feed
        self._node = node
        self._life = life_of(node, incarnation)
        self._see_to = see_to
        self._gone: dict[str, float] = {}

    # -- by those who begin and end ------------------------------------------------------------

    def of_earlier_lives(self) -> Pending[None] | None:
        """Delete what earlier lives of this node have left."""
        return self._delete_of(self._node, self._life)

    def of_this_life(self) -> Pending[None] | None:
        """Delete what ends with this life of this node."""
        return self._delete(lambda owner: owner == self._life)

    @property
    def has_transient_exchanges(self) -> bool:
        """Whether there are any: they end when no node is up."""
        return any(True for _ in self._transient_exchanges())

    def of_all(self) -> Pending[None] | None:
        """Delete what all nodes have left: there was none, until this one has come up."""
        exchanges = [self._see_to(delete(each)) for each in list(self._transient_exchanges())]
        return when_all([self._delete(lambda owner: owner != self._life), *exchanges])

    def _transient_exchanges(self) -> "filter[ExchangeDefinition]":
        exchanges = self._feed.catalog.all(ExchangeDefinition)
        return filter(lambda exchange: not exchange.durable, exchanges)

    # -- by those who stay ---------------------------------------------------------------------

    def over(self, death: Death) -> None:
        """Lives of a node are over, which is known: what they have left goes at once.

        What they had asked for, and comes to be only now, goes with what is collected later.
        """
        if death.is_ours:
            node, last = death.node, death.incarnation
            self._delete(lambda owner: node_of(owner) == node and _incarnation(owner) <= last)

    def gone(self, node: str, now_s: float) -> None:
        """A life of a node may be over."""
        self._gone[node] = now_s

    def settle(self, now_s: float) -> None:
        """The store is away: who has gone is not known."""
        for node in self._gone:
            self._gone[node] = now_s

    def collect(self, now_s: float, running: Mapping[str, Member], linked: set[str]) -> None:
        """Delete what nodes have left whose time is over."""
        for node, since_s in list(self._gone.items()):
            is_running = node in running
            wait_s = SETTLE_S if is_running or node not in linked else UNREACHABLE_S
            if now_s - since_s < wait_s:
                continue
            del self._gone[node]
            self._delete_of(node, life_of(node, running[node].inc) if is_running else "")

    def _delete_of(self, node: str, but: str) -> Pending[None] | None:
        """Delete what the lives of a node have left, all ``but`` one."""
        return self._delete(lambda owner: node_of(owner) == node and owner != but)

    def _delete(self, is_left: Callable[[str], bool]) -> Pending[None] | None:
        left = [
            queue
            for queue in self._feed.catalog.all(QueueDefinition)
            if queue.owner and is_left(queue.owner)
        ]
        return when_all([self._see_to(delete(queue)) for queue in left])


def _incarnation(life: str) -> int:
    return int(life.rpartition("@")[2])

"""Decisions that take time, as in a cluster, in one process and at the caller's pace.

A `Council` decides on the changes that its brokers submit, one after the other, and in the end all
of them have carried out the same ones in the same order. Until then each of them believes what it
has seen so far.
"""

from collections import deque

import attrs

from amqpbroker.broker.broker import Broker
from amqpbroker.cluster.catalog import Catalog
from amqpbroker.cluster.coordinator import Coordinator
from amqpbroker.definitions import (
    BindingDefinition,
    Change,
    ExchangeDefinition,
    QueueDefinition,
    put,
)
from amqpbroker.errors import Overtaken
from amqpbroker.queues.queue import Pending


@attrs.frozen
class _News:
    """A change that was decided on; ``submitted`` is for the broker that has asked for it."""

    change: Change | None
    submitted: Pending[None] | None


class _Member(Coordinator):
    """What one broker sees of the council."""

    def __init__(self, council: "Council", broker: Broker) -> None:
        self.broker = broker
        self.news: deque[_News] = deque()
        self._council = council

    def submit(self, change: Change) -> Pending[None]:
        submitted: Pending[None] = Pending()
        self._council.submitted.append((self, change, submitted))
        return submitted


class Council:
    """Decides for all brokers that `join`."""

    def __init__(self) -> None:
        self.leader = ""
        """The node that leads new queues, unless they are exclusive; empty: the one that asks."""
        self._newest_id = 0
        self.submitted: deque[tuple[_Member, Change, Pending[None]]] = deque()
        self._members: dict[Broker, _Member] = {}
        self._decided = Catalog()

    def join(self, broker: Broker) -> None:
        """Decide for ``broker``, which knows nothing so far, or nothing that it does not."""
        self._members[broker] = member = _Member(self, broker)
        broker.coordinator = member
        for change in self._decided.changes():
            broker.apply(change)

    def decide(self) -> bool:
        """Decide on the change that was submitted first; whether there was any."""
        if not self.submitted:
            return False
        asker, change, submitted = self.submitted.popleft()
        change = self._placed(change, asker.broker.name)
        if self._is_possible(change):
            self._decided.apply(change)
            for member in self._members.values():
                mine = member is asker
                member.news.append(_News(change, submitted if mine else None))
        else:
            asker.news.append(_News(None, submitted))
        return True

    def catch_up(self, broker: Broker) -> bool:
        """Have ``broker`` carry out one more change; whether there was any."""
        member = self._members[broker]
        if not member.news:
            return False
        news = member.news.popleft()
        if news.change is not None:
            broker.apply(news.change)
        if news.submitted is not None:
            if news.change is None:
                news.submitted.fail(Overtaken())
            else:
                news.submitted.resolve(None)
        return True

    def work(self) -> bool:
        """Decide one thing, and have all brokers carry out all there is; whether it was any."""
        worked = self.decide()
        for broker in self._members:
            while self.catch_up(broker):
                worked = True
        return worked

    def settle_down(self) -> None:
        """Decide on everything, and have it carried out everywhere."""
        while self.work():
            pass

    def _placed(self, change: Change, asker: str) -> Change:
        queue = change.definition
        if change.act == "delete" or not isinstance(queue, QueueDefinition):
            return change
        self._newest_id += 1
        leader = asker if queue.exclusive or not self.leader else self.leader
        return put(attrs.evolve(queue, log_id=self._newest_id, leader=leader))

    def _is_possible(self, change: Change) -> bool:
        definition = change.definition
        if change.act == "delete":
            return definition in self._decided
        match definition:
            case QueueDefinition() | ExchangeDefinition():
                return definition not in self._decided
            case BindingDefinition():
                return definition not in self._decided and self._decided.has_ends(definition)
            case _:
                return True

"""Consumers of queues on other nodes: how much each may be sent.

A queue's leader is told of limits that count from the beginning: so many messages and octets in
all. So a limit may be told twice, or late, and never allows too much.
"""

from typing import TYPE_CHECKING

import attrs

from amqpbroker.cluster.queue_frames import Limit
from amqpbroker.message import Batch
from amqpbroker.queues.queue import Consumer, Pending

if TYPE_CHECKING:
    from amqpbroker.cluster.remote_queue import RemoteQueue

WINDOW_MESSAGES = 8192
"""What may be on its way to a consumer that has no limit of its own."""
WINDOW_BYTES = 512 * 1024


@attrs.define(eq=False)
class Purse:
    """What consumers have their credit from who share it, and what has come on account of it."""

    key: object
    number: int
    taken: int = 0
    limit: int = 0
    subscriptions: dict["Subscription", None] = attrs.Factory(dict)


@attrs.define(eq=False)
class Subscription:
    """A consumer of a queue elsewhere, which knows it by number (its `LinkConsumer` there).

    ``taken`` messages and octets have come for it; ``limit`` is what the leader may send in all.
    """

    number: int
    queue: "RemoteQueue"
    consumer: Consumer | None
    """None: it takes nothing any more."""
    no_ack: bool
    is_added: bool = False
    leaving: Pending[None] | None = None
    taken: int = 0
    taken_bytes: int = 0
    limit: int = 0
    limit_bytes: int = 0
    purse: Purse | None = None
    account: int = 0
    """The number of its purse, as the leader knows it."""
    closed_account: int = 0
    """What comes on account of this purse, or of one before, goes back; 0: nothing does."""
    held: list[tuple[range, Batch, bool]] = attrs.Factory(list)
    """What has come, and waits for credit: the peer of a channel is slow in taking."""

    def raise_limit(self, credit: int) -> bool:
        """Allow the leader to send as much as there is ``credit`` for; whether that is news.

        As long as there is room for half of it, it is none.
        """
        window = min(credit, WINDOW_MESSAGES)
        room = self.limit - self.taken
        room_bytes = self.limit_bytes - self.taken_bytes
        purse = self.purse
        if (
            window < 2 * room <= 2 * window
            and 2 * room_bytes > WINDOW_BYTES
            and (purse is None or self._has_room_in(purse, window))
        ):
            return False
        self.limit = self.taken + window
        self.limit_bytes = self.taken_bytes + WINDOW_BYTES
        if purse is not None:
            purse.limit = max(purse.limit, purse.taken + window)
            self.account = purse.number
        return True

    def _has_room_in(self, purse: Purse, window: int) -> bool:
        return purse.number == self.account and 2 * (purse.limit - purse.taken) > window

    def told_limit(self) -> Limit:
        """The limit, as the leader is told."""
        purse = self.purse
        number, messages = (0, 0) if purse is None else (purse.number, purse.limit)
        return Limit(self.limit, self.limit_bytes, number, messages)


class Purses:
    """What consumers on one stream share their credit in."""

    def __init__(self) -> None:
        self._by_key: dict[object, Purse] = {}
        self._by_number: dict[int, Purse] = {}
        self._number = 0

    def settle(self, subscription: Subscription, key: object | None) -> bool:
        """See that a consumer has its credit from the purse that ``key`` is; whether it is news."""
        purse = subscription.purse
        if key is (None if purse is None else purse.key):
            return False
        if purse is not None:
            del purse.subscriptions[subscription]
            if not purse.subscriptions:
                del self._by_key[purse.key], self._by_number[purse.number]
        subscription.purse, subscription.closed_account = None, 0
        if key is not None:
            purse = self._by_key.get(key)
            if purse is None:
                self._number += 1
                purse = self._by_key[key] = Purse(key, self._number)
                self._by_number[purse.number] = purse
            purse.subscriptions[subscription] = None
            subscription.purse = purse
        return True

    def close_account(self, subscription: Subscription) -> None:
        """Tell what the leader sends to a consumer from now on from what it has sent before.

        The purse has another number then, of which the leader hears with the next limit.
        """
        purse = subscription.purse
        if purse is None:
            return
        subscription.closed_account = purse.number
        del self._by_number[purse.number]
        self._number += 1
        purse.number, purse.taken, purse.limit = self._number, 0, 0
        self._by_number[purse.number] = purse
        for each in purse.subscriptions:
            each.queue.stir(each)

    def take(self, number: int, count: int) -> None:
        """Messages have come on account of a purse; one that nobody uses any more is none."""
        purse = self._by_number.get(number)
        if purse is not None:
            purse.taken += count
            if purse.taken >= purse.limit:
                for subscription in purse.subscriptions:
                    subscription.queue.stir(subscription)

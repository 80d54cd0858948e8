"""Transactions: what a channel publishes and settles takes place at commit (AMQP 0-9-1, 1.9).

As in RabbitMQ a message is routed when it is published, and errors come at once; only the queues
hear of it at commit. Settled deliveries leave the channel's unsettled ones at once too, so that
none can be settled twice, but keep their room in the prefetch until commit; a rollback puts them
back, as unsettled as they were. A commit is worked off within the budget of turns, and answered
when all it has published is committed.
"""

from collections import deque
from typing import TYPE_CHECKING

import attrs

from amqpbroker.broker.unsettled import Delivered
from amqpbroker.errors import PreconditionFailed
from amqpbroker.message import Origin
from amqpbroker.queues.queue import Destination, Outcome, Pending, ReplyAddress

if TYPE_CHECKING:
    from amqpbroker.broker.channel import Channel


@attrs.define(eq=False)
class Outgoing:
    """Messages of one run, on their way from the channel to their queues."""

    origin: Origin
    raws: list[bytes]
    queues: tuple[Destination, ...]
    mandatory: bool

    @property
    def work(self) -> int:
        """Messages times destinations."""
        return len(self.raws) * max(1, len(self.queues))


class Transaction:
    """What a channel has published and settled since the last commit."""

    def __init__(self, channel: "Channel", bytes_max: int) -> None:
        self._channel = channel
        self._bytes_max = bytes_max
        self._bytes = 0
        self._published: deque[Outgoing] = deque()
        self._settled: deque[tuple[Delivered, Outcome]] = deque()
        self._commit: Pending[None] | None = None

    def publish(self, outgoing: Outgoing) -> None:
        """Keep messages until commit; direct replies wait for none (RabbitMQ).

        Raises `PreconditionFailed` if they become too many.
        """
        self._bytes += sum(map(len, outgoing.raws))
        if self._bytes > self._bytes_max:
            raise PreconditionFailed(
                f"transaction is larger than configured max size {self._bytes_max}: commit earlier"
            )
        replies = [to for to in outgoing.queues if isinstance(to, ReplyAddress)]
        if replies:
            for address in replies:
                address.publish(outgoing.origin, outgoing.raws)
            outgoing.queues = tuple(to for to in outgoing.queues if to not in replies)
        self._published.append(outgoing)

    @property
    def published_count(self) -> int:
        """Messages that wait for the commit."""
        return sum(len(outgoing.raws) for outgoing in self._published)

    @property
    def settled_count(self) -> int:
        """Settled deliveries that wait for the commit."""
        return sum(len(run.indexes) for run, _ in self._settled)

    def settle(self, taken: list[Delivered], outcome: Outcome) -> None:
        """Keep what becomes of deliveries until commit."""
        self._settled += [(run, outcome) for run in taken]

    def commit(self) -> Pending[None]:
        """Begin to carry all out; the answer comes when it is committed everywhere.

        It is `PreconditionFailed` if some message was refused (RabbitMQ).
        """
        self._commit = Pending()
        self._channel.publisher.window.has_lost = False
        self._channel.turn.resume(self)
        return self._commit

    def work_off(self, work_max: int) -> int:
        """Carry out some of what was kept; publishes come first (RabbitMQ)."""
        if self._commit is None:
            return 0  # The channel was closed meanwhile.
        work = 0
        channel = self._channel
        while self._published and work < work_max:
            outgoing = self._published.popleft()
            channel.publisher.send(outgoing)
            work += outgoing.work
        while self._settled and work < work_max:
            run, outcome = self._settled.popleft()
            channel.settle_runs([run], outcome)
            work += len(run.indexes)
        if self._published or self._settled:
            channel.turn.resume(self)
        else:
            self._bytes = 0
            channel.publisher.window.when_clear(self._committed)
        return work

    def _committed(self) -> None:
        commit, self._commit = self._commit, None
        if commit is None:
            return
        if self._channel.publisher.window.has_lost:
            commit.fail(PreconditionFailed("partial tx completion"))
        else:
            commit.resolve(None)

    def rollback(self) -> None:
        """Forget the messages; the deliveries are unsettled again."""
        self._commit = None
        self._published.clear()
        self._bytes = 0
        self._channel.unsettled.restore([run for run, _ in self._settled])
        self._settled.clear()

"""Backlogs: messages that pile up while nobody takes them, and are drained later.

Another connection may ask for an answer all the while, to see for how long the broker stops.
"""

import select
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise

from . import wire
from .checks import Confirms, OrderedDeliveries
from .client import BrokerError, Client, Url
from .load import PATIENCE_S, Inbox, Publisher, consume
from .workload import Workload

LOOK_S = 0.001
"""At least so often the prober is looked at, whether anything has arrived or not."""
TENTHS = 10
_PROBE = "bench.probe"


class Patience:
    """Ends a wait for something that no longer goes on."""

    def __init__(self) -> None:
        self._count = -1
        self._since = 0.0

    def check(self, count: int) -> None:
        """Raise `BrokerError` if ``count`` is the same for `PATIENCE_S`."""
        now = time.perf_counter()
        if count != self._count:
            self._count, self._since = count, now
        elif now > self._since + PATIENCE_S:
            raise BrokerError(f"nothing moved for {PATIENCE_S:.0f} s after {count} messages")


class Prober:
    """Asks for its own queue again and again, and notes the longest wait for an answer.

    With ``pause_s`` between an answer and the next question, so that the questions themselves cost
    the broker little; a stop may then seem shorter by that.
    """

    def __init__(self, client: Client, pause_s: float = 0.0) -> None:
        client.declare_queue(_PROBE)
        client.socket.setblocking(False)
        self.socket = client.socket
        self._pause_s = pause_s
        self._inbox = Inbox(client.socket)
        arguments = bytes(2) + wire.shortstr(_PROBE) + b"\x01" + wire.table()
        self._question = wire.method(1, wire.QUEUE_DECLARE, arguments)
        self._asked_at: float | None = None
        self._ask_at = 0.0
        self._longest = 0.0

    def look(self) -> None:
        """Take the answer, if it is there; ask, if it is time to."""
        if self._asked_at is not None:
            self._take_answer(self._asked_at)
        if self._asked_at is None and time.perf_counter() >= self._ask_at:
            self._asked_at = time.perf_counter()
            self.socket.send(self._question)

    def _take_answer(self, asked_at: float) -> None:
        whole = wire.read_frame(self._inbox.receive())
        now = time.perf_counter()
        if whole:
            if wire.which_method(whole[2]) != (50, 11):
                raise BrokerError(f"the prober received {whole[2]!r}")
            self._longest = max(self._longest, now - asked_at)
            self._inbox.used(whole[3])
            self._asked_at, self._ask_at = None, now + self._pause_s
        elif now - asked_at > PATIENCE_S:
            raise BrokerError(f"the prober waited over {PATIENCE_S:.0f} s")

    def longest(self) -> float:
        """The longest wait since the last call, in milliseconds; no question is left open."""
        while self._asked_at is not None:
            select.select([self.socket], [], [], LOOK_S)
            self._take_answer(self._asked_at)
        longest, self._longest = self._longest, 0.0
        return 1000 * longest


@contextmanager
def probing(url: Url, pause_s: float = 0.0) -> Iterator[Prober]:
    """A prober with a connection of its own, whose queue is deleted in the end."""
    try:
        with Client(url) as client:
            client.open_channel()
            yield Prober(client, pause_s)
    finally:
        with suppress(BrokerError), Client(url) as cleaner:
            cleaner.open_channel()
            cleaner.delete_queue(_PROBE)


def fill(
    sender: Client, workload: Workload, count: int, window: int, prober: Prober | None = None
) -> float:
    """Publish until ``count`` messages are confirmed, ``window`` in flight; return the rate."""
    sender.socket.setblocking(False)
    publisher, inbox = Publisher(sender.socket, workload), Inbox(sender.socket)
    confirms, patience = Confirms(), Patience()
    start = time.perf_counter()
    while confirms.confirmed < count:
        room = min(count, confirms.confirmed + window) - publisher.published
        # Not a few messages at a time, except at the end.
        portion = max(1, min(window // 20, count - publisher.published))
        sending = room >= portion or not publisher.between_messages
        if _wait(sender, prober, sending):
            try:
                publisher.send(max(0, room))
            except BrokerError:
                confirms.feed(inbox.receive(), publisher.published + 1)  # It may have the reason.
                raise
        inbox.used(confirms.feed(inbox.receive(), publisher.published + 1))
        patience.check(confirms.confirmed)
    return count / (time.perf_counter() - start)


def drain(
    receiver: Client, workload: Workload, count: int, prober: Prober | None = None
) -> tuple[float, float]:
    """Receive ``count`` messages in order; return the rate, and that of the slowest tenth."""
    deliveries, inbox, patience = OrderedDeliveries(workload), Inbox(receiver.socket), Patience()
    marks = [time.perf_counter()]
    consume(receiver, workload)
    deliveries.feed(memoryview(receiver.unread()))
    receiver.socket.setblocking(False)
    while deliveries.delivered < count:
        _wait(receiver, prober, sending=False)
        inbox.used(deliveries.feed(inbox.receive()))
        patience.check(deliveries.delivered)
        while TENTHS * deliveries.delivered >= count * len(marks):
            marks.append(time.perf_counter())
    slowest_s = max(b - a for a, b in pairwise(marks))
    return count / (marks[-1] - marks[0]), count / TENTHS / slowest_s


def _wait(client: Client, prober: Prober | None, sending: bool) -> bool:
    """Wait until there is something to do; look at the prober; return whether to send."""
    readers = [client.socket] if prober is None else [client.socket, prober.socket]
    writers = [client.socket] if sending else []
    _, writable, _ = select.select(readers, writers, [], LOOK_S)
    if prober is not None:
        prober.look()
    return bool(writable)

"""Whether a broker has kept its promises: what clients saw, judged without a word from the broker.

Clients tell a `History` what they published, what was confirmed, what they received and settled,
and when the broker ended. `History.check` finds what must not be:

- a message that was confirmed, and that nobody could settle for good: it is lost;
- one that comes again, and does not say so (`redelivered`);
- two messages of a publisher that come to a consumer in another order than they were published;
- a message that nobody has published to that queue, or with another content;
- one that comes again although it was acked before the broker stopped in good order;
- a confirm for what was not published, or a second one.

A message that nobody has heard of again (neither ack nor nack) may come or not.
"""

from collections.abc import Hashable, Iterable
from enum import Enum

import attrs


class Verdict(Enum):
    """What a publisher knows about a message."""

    UNKNOWN = "unknown"
    CONFIRMED = "confirmed"
    NACKED = "nacked"


class What(Enum):
    """A promise that was broken."""

    LOST = "confirmed and lost"
    UNFLAGGED = "came again and was not flagged redelivered"
    INVERTED = "came before one that was published earlier"
    UNSENT = "was never published to that queue"
    CHANGED = "came with another content"
    RETURNED = "came again though acked before an orderly stop"
    STRAY_CONFIRM = "confirmed without reason"


@attrs.frozen
class Fault:
    """One broken promise, and about which message."""

    what: What
    message: Hashable
    queue: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.message!r} in {self.queue}: {self.what.value} {self.detail}".rstrip()


@attrs.define(eq=False)
class _Message:
    """A message in one queue."""

    name: Hashable
    stream: tuple[Hashable, str, int]
    """Publisher, queue, priority: within it, order is promised."""
    number: int
    """Place among the messages of its publisher."""
    content: Hashable
    must_stay: bool
    verdict: Verdict = Verdict.UNKNOWN
    deliveries: int = 0
    is_known_fresh: bool = False
    """Whether a delivery has come without the flag."""
    last_life: int = 0
    settled_in: int = 0
    """The last life in which it was; 0: it was not."""


class History:
    """What clients saw, in the order in which each of them saw it.

    Messages bear any names; a name is published once. A *life* of the broker is from its start to
    its end.
    """

    def __init__(self) -> None:
        self.life = 1
        self._published = 0
        self._messages: dict[tuple[Hashable, str], _Message] = {}
        self._by_name: dict[Hashable, list[_Message]] = {}
        self._faults: list[Fault] = []
        self._last_fresh: dict[Hashable, int] = {}
        self._last_flagged: dict[Hashable, int] = {}
        self._stopped: set[int] = set()

    # -- what publishers tell ------------------------------------------------------------------

    def published(
        self,
        message: Hashable,
        publisher: Hashable,
        queues: Iterable[str],
        content: Hashable = None,
        *,
        must_stay: bool = True,
        priority: int = 0,
    ) -> None:
        """A message is about to be sent, and is to reach ``queues``.

        ``must_stay``: it is persistent, and they are durable. Order is by these calls.
        """
        assert message not in self._by_name, message
        self._published += 1
        copies = self._by_name[message] = []
        for queue in queues:
            copy = _Message(
                message, (publisher, queue, priority), self._published, content, must_stay
            )
            self._messages[message, queue] = copy
            copies.append(copy)

    def confirmed(self, message: Hashable) -> None:
        """The broker has taken responsibility for a message."""
        self._judge(message, Verdict.CONFIRMED)

    def nacked(self, message: Hashable) -> None:
        """The broker has refused it: nothing is promised."""
        self._judge(message, Verdict.NACKED)

    def stray_confirm(self, publisher: Hashable, detail: str) -> None:
        """A confirm has come that fits nothing that was published."""
        self._faults.append(Fault(What.STRAY_CONFIRM, publisher, "", detail))

    def _judge(self, message: Hashable, verdict: Verdict) -> None:
        copies = self._by_name.get(message)
        if copies is None or any(copy.verdict is not Verdict.UNKNOWN for copy in copies):
            self._faults.append(Fault(What.STRAY_CONFIRM, message, ""))
            return
        for copy in copies:
            copy.verdict = verdict

    # -- what consumers tell -------------------------------------------------------------------

    def received(
        self,
        message: Hashable,
        queue: str,
        consumer: Hashable,
        content: Hashable = None,
        *,
        redelivered: bool,
    ) -> None:
        """A delivery has come to ``consumer``: one name for one who reads its deliveries in order.

        A consumer that connects again keeps its name.
        """
        copy = self._messages.get((message, queue))
        if copy is None:
            self._faults.append(Fault(What.UNSENT, message, queue))
            return
        if content != copy.content:
            self._faults.append(Fault(What.CHANGED, message, queue, f"{content!r}"))
        if copy.settled_in in self._stopped:
            self._faults.append(Fault(What.RETURNED, message, queue))
        # Of two consumers, the one that has it again may be the first to hear of it.
        if copy.is_known_fresh and not redelivered:
            detail = f"(in life {self.life}, before that in life {copy.last_life})"
            self._faults.append(Fault(What.UNFLAGGED, message, queue, detail))
        if not redelivered:
            self._in_order(copy, self._last_fresh, (consumer, *copy.stream))
        elif copy.last_life != self.life:
            # What was there before the broker ended comes in the old order. What comes again
            # within one life may be out of it: it was put back meanwhile.
            self._in_order(copy, self._last_flagged, (self.life, consumer, *copy.stream))
        copy.is_known_fresh = copy.is_known_fresh or not redelivered
        copy.deliveries += 1
        copy.last_life = self.life

    def _in_order(self, copy: _Message, last: dict[Hashable, int], key: Hashable) -> None:
        if copy.number < last.get(key, 0):
            name, queue = copy.name, copy.stream[1]
            self._faults.append(Fault(What.INVERTED, name, queue, f"(in life {self.life})"))
        last[key] = max(copy.number, last.get(key, 0))

    def settled(self, message: Hashable, queue: str) -> None:
        """A consumer has sent an ack, or a reject without requeue: the message may be gone."""
        copy = self._messages.get((message, queue))
        if copy is not None:
            copy.settled_in = self.life

    # -- what befell the broker ----------------------------------------------------------------

    def ended(self, *, in_order: bool) -> None:
        """The broker has ended: ``in_order``, with all settles received that were sent, or not."""
        if in_order:
            self._stopped.add(self.life)
        self.life += 1

    # -- the judgement -------------------------------------------------------------------------

    def check(self) -> list[Fault]:
        """All faults; to be called when the queues were drained, each message settled."""
        lost = [
            Fault(What.LOST, copy.name, copy.stream[1], f"(delivered {copy.deliveries} times)")
            for copy in self._messages.values()
            if copy.must_stay and copy.verdict is Verdict.CONFIRMED and not copy.settled_in
        ]
        return [*self._faults, *lost]

    def count(self, verdict: Verdict, *, must_stay: bool = True) -> int:
        """How many messages there are of which publishers know that, one for each queue."""
        return sum(
            copy.verdict is verdict and copy.must_stay is must_stay
            for copy in self._messages.values()
        )

    @property
    def deliveries(self) -> int:
        """How many deliveries have come."""
        return sum(copy.deliveries for copy in self._messages.values())

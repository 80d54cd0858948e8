"""Whose turn it is: the consumers that take messages now, by priority."""

from amqpbroker.queues.queue import NO_LIMIT, Consumer


class Rota:
    """The consumers of a queue that have credit, as far as is known.

    Those of the highest priority are served, in turn; the others only when none of these has credit
    (RabbitMQ, Consumer Priorities). ``active`` has those to serve, in order: it is empty only if
    nobody is there at all.
    """

    def __init__(self) -> None:
        self.active: dict[Consumer, None] = {}
        self._priority = 0
        self._below: dict[int, dict[Consumer, None]] = {}

    def add(self, consumer: Consumer) -> None:
        """Put a consumer that takes messages at the end of its line."""
        priority = consumer.priority
        if not self.active:
            self._priority = priority
        elif priority > self._priority:
            self._below[self._priority] = self.active
            self.active = {}
            self._priority = priority
        elif priority < self._priority:
            self._below.setdefault(priority, {})[consumer] = None
            return
        self.active[consumer] = None

    def remove(self, consumer: Consumer) -> None:
        """Take out a consumer that takes no more, if it is here."""
        if consumer in self.active:
            del self.active[consumer]
            if not self.active and self._below:
                self._priority = max(self._below)
                self.active = self._below.pop(self._priority)
        elif consumer in (line := self._below.get(consumer.priority, {})):
            del line[consumer]
            if not line:
                del self._below[consumer.priority]

    def pass_over(self, consumer: Consumer) -> None:
        """Park a consumer that has no credit."""
        self.remove(consumer)
        consumer.park()

    def next(self, limit: int) -> tuple[list[Consumer], int]:
        """Those whose turn it is, ``limit`` at most, and how many messages each may have.

        Whoever has no credit is passed over.
        """
        takers: list[Consumer] = []
        idle: list[Consumer] = []
        rounds = NO_LIMIT
        for consumer in self.active:
            if len(takers) == limit:
                rounds = 1  # There are others, whose turn it is before the first takes again.
                break
            credit = consumer.credit
            if credit <= 0:
                idle.append(consumer)
                continue
            if consumer.purse is not None and len(self.active) > 1:
                # What it takes lessens another's credit: it is served alone, message by message.
                rounds = 1
                if not takers:
                    takers.append(consumer)
                break
            takers.append(consumer)
            rounds = min(rounds, credit)
        for consumer in idle:
            self.pass_over(consumer)
        return takers, rounds

    def to_the_end(self, consumers: list[Consumer]) -> None:
        """Put those who were served behind the others."""
        for consumer in consumers:
            del self.active[consumer]
            self.active[consumer] = None

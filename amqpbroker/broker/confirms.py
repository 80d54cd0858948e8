"""Publisher confirms: which messages of a channel the broker has yet to answer for.

A publish becomes a run: so many messages, and for each queue they went to the index that its
committed mark must reach. A run is confirmed as far as the slowest of its queues has committed;
several runs may be, in any order. What is confirmed without a gap is told by one basic.ack with
``multiple``, the rest singly (AMQP 0-9-1, RabbitMQ: Consumer Acknowledgements and Publisher
Confirms). What one of its queues has refused is told by basic.nack.

The window counts for channels without confirms too: the octets that are accepted but not committed
are bounded, per connection and per node.
"""

from collections.abc import Callable

import attrs

from amqpbroker.queues.queue import Destination


@attrs.define(eq=False)
class _Run:
    """Messages ``first`` … ``first + count - 1`` and where they went.

    (queue, index behind the last). ``first`` is 0 if nobody is told of them: they were published
    before confirms were asked for.
    """

    first: int
    count: int
    size: int
    targets: list[tuple[Destination, int]]

    def committed(self) -> int:
        """How many of them are committed in all their queues."""
        lag = max(end - queue.committed for queue, end in self.targets)
        return self.count - min(max(lag, 0), self.count)

    def refused(self, done: int) -> set[int]:
        """Which of the first ``done``, counted from 0, were not taken by all their queues."""
        places: set[int] = set()
        for queue, end in self.targets:
            start = end - self.count
            for run in queue.refused:
                places.update(range(max(run.start - start, 0), min(run.stop - start, done)))
        return places


class ConfirmWindow:
    """The unconfirmed messages of one channel.

    ``wake`` asks for `advance` to be called soon; ``account`` is told how many uncommitted octets
    came (or, negative, went); ``ack`` and ``nack`` say (sequence number, multiple) to the peer.
    """

    def __init__(
        self,
        wake: Callable[["ConfirmWindow"], None],
        account: Callable[[int], None],
        ack: Callable[[int, bool], None],
        nack: Callable[[int, bool], None],
    ) -> None:
        self.confirming = False
        self.published_count = 0
        """Messages that were published, confirmed or not."""
        self.has_lost = False
        """Whether some message was refused; who wants to know of new ones sets it back."""
        self._wake = wake
        self._account = account
        self._ack = ack
        self._nack = nack
        self._next = 1
        self._told = 0  # All up to here are confirmed to the peer.
        self._open: list[_Run] = []
        self._early: list[tuple[int, int]] = []  # Confirmed, but not told yet: (first, last).
        self._refused: list[int] = []  # Not told yet either.
        self._on_clear: Callable[[], None] = _ignore

    def published(self, raws: list[bytes], targets: list[tuple[Destination, int]]) -> None:
        """Messages went to ``targets`` (none, if they were unroutable)."""
        first = 0
        count = len(raws)
        self.published_count += count
        if self.confirming:
            first = self._next
            self._next += count
        lagging = None
        for queue, end in targets:
            if queue.committed < end:
                lagging = queue
                break
        if lagging is None:
            if self.confirming:
                self._early.append((first, self._next - 1))
                self._wake(self)
            return
        size = sum(map(len, raws))
        self._account(size)
        self._open.append(_Run(first, count, size, targets))
        lagging.when_committed(self._committed)

    @property
    def unconfirmed_count(self) -> int:
        """Messages for which a confirm is due."""
        waiting = sum(run.count for run in self._open if run.first)
        return waiting + sum(last - first + 1 for first, last in self._early)

    @property
    def confirmed_count(self) -> int:
        """Messages that were confirmed, or refused."""
        return self._next - 1 - self.unconfirmed_count

    def when_clear(self, call: Callable[[], None]) -> None:
        """Call once, when everything published is committed; at once, if it is."""
        if self._open:
            self._on_clear = call
        else:
            call()

    def _committed(self) -> None:
        self._wake(self)

    def advance(self) -> None:
        """Tell the peer what is committed by now."""
        waiting: list[_Run] = []
        committed_bytes = 0
        for run in self._open:
            done = run.committed()
            if done:
                if any(queue.refused for queue, _ in run.targets):
                    self._note(run, done)
                elif run.first:
                    self._early.append((run.first, run.first + done - 1))
                run.count -= done
                if run.first:
                    run.first += done
            if run.count:
                waiting.append(run)
                slowest = max(run.targets, key=lambda target: target[1] - target[0].committed)
                slowest[0].when_committed(self._committed)
            else:
                committed_bytes += run.size
        self._open = waiting
        if committed_bytes:
            self._account(-committed_bytes)
        if self.confirming:
            self._tell(next((run.first for run in waiting if run.first), self._next) - 1)
        self._early = []
        if not waiting:
            clear, self._on_clear = self._on_clear, _ignore
            clear()

    def _note(self, run: _Run, done: int) -> None:
        """The first ``done`` of a run are committed, but perhaps some were refused."""
        refused = run.refused(done)
        if refused:
            self.has_lost = True
        if run.first:
            start = 0
            for place in (*sorted(refused), done):
                if place > start:
                    self._early.append((run.first + start, run.first + place - 1))
                start = place + 1
            self._refused += [run.first + place for place in refused]

    def _tell(self, without_gap: int) -> None:
        """Confirm and refuse everything up to ``without_gap``, and what lies beyond one by one.

        Confirms come first; what comes without a gap is told at once (RabbitMQ).
        """
        if not self._refused:
            self._confirm(without_gap)
            return
        refused, self._refused = sorted(self._refused), []
        self._confirm(min(without_gap, refused[0] - 1))
        border = min([without_gap + 1, *[first for first, _ in self._early]])
        together = [sequence for sequence in refused if sequence < border]
        if together:
            self._nack(together[-1], True)
        for sequence in refused[len(together) :]:
            self._nack(sequence, False)
        self._told = max(self._told, without_gap)

    def _confirm(self, without_gap: int) -> None:
        """Confirm everything up to ``without_gap`` at once, what lies beyond one by one."""
        newest = 0  # What was told alone before its time is not named again.
        for first, last in self._early:
            if first <= without_gap:
                newest = max(newest, min(last, without_gap))
        if newest:
            self._ack(newest, newest > self._told + 1)
        self._told = max(self._told, without_gap)
        for first, last in self._early:
            for sequence in range(max(first, without_gap + 1), last + 1):
                self._ack(sequence, False)

    def close(self) -> None:
        """The channel is gone: nobody waits for its confirms."""
        self._account(-sum(run.size for run in self._open))
        self._open = []
        self.confirming = False
        # Nothing leads in a circle: the channel is freed at once.
        self._account = self._ack = self._nack = self._on_clear = _ignore


def _ignore(*_: object) -> None:
    """What a closed window has to say."""

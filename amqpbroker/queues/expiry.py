"""What ends by itself: messages that have waited too long, and queues that nobody uses.

A message is dropped once it has expired and is first in line, as RabbitMQ's classic queues do it
(Time-to-Live and Expiration): one that expires behind another waits until that is gone. So one
timer is enough for a whole queue, the one for its first message.
"""

from collections.abc import Callable

import attrs

from amqpbroker.message import Origin
from amqpbroker.queues.queue import Keeper, Timer
from amqpbroker.queues.ready import Ready
from amqpbroker.storage.chunks import CHUNK_MAX
from amqpbroker.storage.log import Log


class Expiry:
    """Drops messages of one queue that have expired and are first in line.

    They are judged as of ``now_ms``, wall-clock time, which moves with `read_clock` only: what the
    queue does at once, it does as of one moment.
    """

    def __init__(self, ready: Ready, log: Log, keeper: Keeper) -> None:
        self.now_ms = 0
        self._ready = ready
        self._log = log
        self._keeper = keeper
        self._timer: Timer | None = None
        self._timer_ms = 0
        self._latest: tuple[Origin, Origin] | None = None

    def read_clock(self) -> None:
        """From here on, judge as of now."""
        self.now_ms = self._keeper.clock.wall_ms()

    def stamped(self, origin: Origin, ttl_ms: int) -> Origin:
        """The origin of messages that may wait for ``ttl_ms`` from now.

        Those that come within a millisecond have the same.
        """
        expires_ms = self.now_ms + ttl_ms
        if self._latest is not None:
            unstamped, stamped = self._latest
            if unstamped is origin and stamped.expires_ms == expires_ms:
                return stamped
        stamped = attrs.evolve(origin, expires_ms=expires_ms)
        self._latest = origin, stamped
        return stamped

    def drop(self) -> None:
        """Drop what has expired and is first, and see that the next is dropped in its time."""
        ready, log = self._ready, self._log
        while (first := ready.first(log.readable)) is not None:
            expires_ms = log.origins(range(first, first + 1))[0].expires_ms
            if expires_ms is None:
                return
            if expires_ms > self.now_ms:
                self._set_timer(expires_ms)
                return
            indexes, redelivered = ready.take(log.readable, CHUNK_MAX)
            origins = log.origins(indexes)
            count = self._leading(origins, expired=True)
            if count < len(indexes):
                ready.put_back(indexes[count:], redelivered)
            log.settle(indexes[:count])

    def deliverable(self, origins: list[Origin]) -> int:
        """How many may be handed out together: those before the first that has expired.

        That one is dropped when it comes first.
        """
        return self._leading(origins, expired=False)

    def _leading(self, origins: list[Origin], expired: bool) -> int:
        """How many of the first have all expired, or not."""
        same = None
        for place, origin in enumerate(origins):
            if origin is not same:
                if self._has_expired(origin) is not expired:
                    return place
                same = origin
        return len(origins)

    def _has_expired(self, origin: Origin) -> bool:
        return origin.expires_ms is not None and origin.expires_ms <= self.now_ms

    def _set_timer(self, when_ms: int) -> None:
        """Come back at ``when_ms``, or before: then the timer is set anew."""
        if self._timer is not None:
            if self._timer_ms <= when_ms:
                return
            self._timer.cancel()
        self._timer_ms = when_ms
        clock = self._keeper.clock
        wait_s = (when_ms - clock.wall_ms()) / 1000
        self._timer = self._keeper.call_at(clock.monotonic_s() + wait_s, self._come_back)

    def _come_back(self, now_s: float) -> None:
        self._timer = None
        self.read_clock()
        self.drop()

    def end(self) -> None:
        """Forget the timer: the queue is gone."""
        if self._timer is not None:
            self._timer.cancel()


class Lease:
    """How long a queue may be unused (x-expires): without consumer, basic.get or declare.

    Asks ``is_used`` when the time is over, and calls ``expired`` if it is not. The timer is not
    moved at each use.
    """

    def __init__(
        self,
        length_ms: int,
        keeper: Keeper,
        is_used: Callable[[], bool],
        expired: Callable[[], None],
    ) -> None:
        self._length_s = length_ms / 1000
        self._keeper = keeper
        self._is_used = is_used
        self._expired = expired
        self._ends_s = 0.0
        self._timer: Timer | None = None
        self.renew()

    def renew(self) -> None:
        """Begin the time again: the queue is used."""
        self._ends_s = self._keeper.clock.monotonic_s() + self._length_s
        if self._timer is None:
            self._timer = self._keeper.call_at(self._ends_s, self._come_back)

    def _come_back(self, now_s: float) -> None:
        self._timer = None
        if self._is_used():
            return  # Whoever uses it renews the lease on leaving.
        if now_s < self._ends_s:
            self._timer = self._keeper.call_at(self._ends_s, self._come_back)
        else:
            self._expired()

    def end(self) -> None:
        """Forget the timer: the queue is gone."""
        if self._timer is not None:
            self._timer.cancel()

"""How fast things are counted: differences between what was read before and now.

Nobody counts per second; whoever asks again learns what has come since. Two readings are kept of
each thing that was ever asked about, the older at least `_APART_S` old once time has passed, so
that several observers do not shorten each other's look back.
"""

from typing import Any
from weakref import WeakKeyDictionary

import attrs

from amqpbroker.world import Clock

_APART_S = 5.0


@attrs.define
class _Readings:
    """Counts as they were read: at least `_APART_S` ago, and last."""

    base_s: float
    base: tuple[int, ...]
    next_s: float
    next: tuple[int, ...]
    last: tuple[int, ...]
    changed_ms: int


class Rates:
    """What was read of each thing. A thing that is gone is forgotten."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._readings: WeakKeyDictionary[Any, _Readings] = WeakKeyDictionary()

    def details(self, thing: object, counts: dict[str, int]) -> dict[str, Any]:
        """The counts of a thing, each with its rate, a second: ``n`` and ``n_details``.

        The keys must be the same each time.
        """
        values = tuple(counts.values())
        now_s = self._clock.monotonic_s()
        there = self._readings.get(thing)
        if there is None:
            now_ms = self._clock.wall_ms()
            there = _Readings(now_s, values, now_s, values, values, now_ms)
            self._readings[thing] = there
        elif now_s - there.next_s >= _APART_S:
            there.base_s, there.base = there.next_s, there.next
            there.next_s, there.next = now_s, values
        if values != there.last:
            there.last, there.changed_ms = values, self._clock.wall_ms()
        past_s = now_s - there.base_s
        out: dict[str, Any] = {}
        for (name, count), before in zip(counts.items(), there.base, strict=True):
            out[name] = count
            rate = max(0.0, (count - before) / past_s) if past_s > 0 else 0.0
            out[f"{name}_details"] = {"rate": rate}
        return out

    def changed_ms(self, thing: object) -> int:
        """When the counts of a thing were first read as they are, on the calendar."""
        there = self._readings.get(thing)
        return self._clock.wall_ms() if there is None else there.changed_ms

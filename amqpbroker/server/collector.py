"""When Python's garbage collector may look at everything.

A full collection walks every record of the process and stops the node meanwhile. What the broker is
done with it frees at once, by counting references, so there is next to nothing for the collector to
find; it is kept from full collections while there is work, and does them when there is none.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from amqpbroker.broker.turn import Turn
from amqpbroker.world import Memory

_IDLE_S = 5.0
_IDLE_TURNS_MAX = 50
_NEVER = 1 << 30


@contextmanager
def no_collections() -> Iterator[None]:
    """Keep the collector off meanwhile, and from what there is then.

    A start makes much, and nearly all of it stays.
    """
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


async def collect_when_idle(turn: Turn, memory: Memory) -> None:
    """Keep the collector quiet; every few seconds, if hardly a turn was run in them, collect."""
    gc.collect()
    gc.freeze()  # What is there from the start stays: modules, classes, caches.
    young, middle, full = gc.get_threshold()
    gc.set_threshold(young * 10, middle, _NEVER)
    try:
        collected = -1
        while True:
            before = turn.number
            await trio.sleep(_IDLE_S)
            if turn.number - before <= _IDLE_TURNS_MAX and turn.number != collected:
                gc.collect()
                memory.give_back()
                collected = turn.number
    finally:
        gc.set_threshold(young, middle, full)
        gc.unfreeze()

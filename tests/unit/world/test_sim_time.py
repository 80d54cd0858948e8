"""Simulated time passes while nobody has anything to do, and no sooner."""

import time
from functools import partial

import trio

from amqpbroker.testing.sim_time import SimTime


def test_a_day_takes_no_time() -> None:
    began = time.perf_counter()
    trio.run(trio.sleep, 86_400, clock=SimTime())
    assert time.perf_counter() - began < 10


def test_events_and_deadlines_come_in_their_order() -> None:
    clock = SimTime()
    seen: list[tuple[str, float]] = []

    async def sleep(seconds: float) -> None:
        await trio.sleep(seconds)
        note("slept")

    def note(what: str) -> None:
        seen.append((what, clock.current_time()))

    async def run() -> None:
        for name, when_s in (("d", 5), ("a", 1), ("b", 3), ("c", 3)):
            clock.at(when_s, partial(note, name))
        async with trio.open_nursery() as nursery:
            for seconds in (2, 4, 6):
                nursery.start_soon(sleep, seconds)

    trio.run(run, clock=clock)
    assert seen == [
        ("a", 1),
        ("slept", 2),
        ("b", 3),
        ("c", 3),
        ("slept", 4),
        ("d", 5),
        ("slept", 6),
    ]


def test_who_is_woken_by_an_event_goes_on_before_time_does() -> None:
    clock = SimTime()

    async def run() -> float:
        lot = trio.lowlevel.ParkingLot()
        clock.at(1, lot.unpark_all)
        clock.at(1, partial(clock.at, 2, lot.unpark_all))
        await lot.park()
        for _ in range(100):
            await trio.lowlevel.checkpoint()
        return clock.current_time()

    assert trio.run(run, clock=clock) == 1


def test_an_event_of_the_past_happens_now() -> None:
    clock = SimTime()

    async def run() -> float:
        await trio.sleep(2)
        lot = trio.lowlevel.ParkingLot()
        clock.at(1, lot.unpark_all)
        await lot.park()
        return clock.current_time()

    assert trio.run(run, clock=clock) == 2

"""A broker under load is killed, or its disk fails or is full; then all is drained and judged."""

import random
import time
from collections import Counter
from collections.abc import Callable

import attrs
import trio

from amqpbroker.testing.confirm_order import ConfirmOrder, check_confirm_order
from amqpbroker.testing.disk_shim import DiskShim, Lost
from amqpbroker.testing.history import Fault, Verdict
from tests.crash.broker import Broker, DidNotStart
from tests.crash.load import QUEUES, Load

PUBLISHERS = 4
PATIENCE_S = 300
MOMENT_S = 30
LITTLE_ROOM_BYTES = 3_000_000


@attrs.define
class Report:
    """What a run has come to."""

    kills: int = 0
    """With unconfirmed persistent messages in flight."""
    in_flight: int = 0
    in_flight_min: int = 0
    confirmed: int = 0
    """Confirmed persistent messages, one for each durable queue that they reached."""
    unknown: int = 0
    nacked: int = 0
    transient: int = 0
    received: int = 0
    redelivered: int = 0
    start_s_max: float = 0
    stop_status: int = 0
    seconds: float = 0
    lost_on_disk: Lost = attrs.Factory(Lost)
    kills_with_loss: int = 0
    """After which something had to be undone on disk."""
    queues_left: dict[str, int] = attrs.Factory(dict)
    faults: list[Fault] = attrs.Factory(list)
    queues_made: int = 0
    broken: list[str] = attrs.Factory(list)
    """Queues that are not there, or still there, against what their clients were told."""

    @property
    def is_sound(self) -> bool:
        """Whether nothing was found."""
        return (
            not self.stop_status
            and not self.faults
            and not self.broken
            and not any(self.queues_left.values())
        )

    def __str__(self) -> str:
        kinds = Counter(fault.what.value for fault in self.faults)
        lines = [
            f"{self.kills} kills, {self.in_flight / max(1, self.kills):.0f} unconfirmed messages"
            f" in flight at each (at least {self.in_flight_min})",
            f"{self.confirmed} confirmed persistent messages, {self.unknown} of unknown fate,"
            f" {self.nacked} nacked, {self.transient} transient ones mixed in",
            f"{self.received} deliveries, {self.redelivered} of them flagged redelivered",
            f"undone on disk: {self.lost_on_disk.changes} writes, {self.lost_on_disk.names} names,"
            f" after {self.kills_with_loss} kills",
            f"longest start {self.start_s_max:.2f} s; the run took {self.seconds:.0f} s",
            f"left after an orderly stop (status {self.stop_status}):"
            f" {sum(self.queues_left.values())}",
            f"{self.queues_made} queues came and went; wrong ones: {self.broken or 'none'}",
            f"faults: {dict(kinds) or 'none'}",
            *(f"  {fault}" for fault in self.faults[:20]),
        ]
        return "\n".join(lines)


async def run_kills(
    broker: Broker,
    kills: int,
    messages: int,
    seed: int,
    shim: DiskShim | None = None,
    torn: bool = False,
    large: float = 0.01,
) -> Report:
    """Kill ``broker`` until both counts are reached: of kills and of confirmed messages.

    With a ``shim``, it is as if the power failed: what was not synced is undone after each kill,
    with ``torn`` a part of it.
    ``large`` is the share of bodies of up to 200 kB.
    """
    rng = random.Random(seed)
    load = Load(random.Random(seed + 1), large=large)
    report = Report(in_flight_min=1 << 30)
    began_s = time.monotonic()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load.run, PUBLISHERS)
        while report.kills < kills or load.confirmed < messages:
            await _start(broker, load, report)
            share = messages // max(1, kills)
            await _let_run(load, rng.randint(share // 2, share * 3 // 2))
            await trio.sleep(rng.random() * 0.05)
            await _let_run(load, 0)
            counts = load.in_flight > 0
            report.kills += counts
            report.in_flight += load.in_flight
            if counts:
                report.in_flight_min = min(report.in_flight_min, load.in_flight)
            broker.kill(with_helpers=shim is not None)
            await _end(broker, load)
            if shim is not None:
                lost = shim.crash(rng if torn else None)
                report.lost_on_disk.changes += lost.changes
                report.lost_on_disk.names += lost.names
                report.kills_with_loss += bool(lost)
            load.history.ended(in_order=False)
        await _drain(broker, load, report)
        nursery.cancel_scope.cancel()
    _sum_up(load, report)
    report.seconds = time.monotonic() - began_s
    return report


async def _let_run(load: Load, confirms: int) -> None:
    """Until there are that many more confirms, and something is in flight; not for ever."""
    until = load.confirmed + confirms
    with trio.move_on_after(MOMENT_S):
        while load.confirmed < until or not load.in_flight:  # noqa: ASYNC110
            await trio.sleep(0.001)


async def _start(broker: Broker, load: Load, report: Report) -> None:
    began_s = time.monotonic()
    await trio.to_thread.run_sync(broker.start)
    report.start_s_max = max(report.start_s_max, time.monotonic() - began_s)
    load.address = broker.address
    await load.check_queues()
    await load.declare()
    load.gate.open()


async def _end(broker: Broker, load: Load) -> int:
    """Wait until the broker has ended, and all clients know; its exit status."""
    load.gate.close()
    status = await trio.to_thread.run_sync(broker.end)
    await load.gate.all_left()
    return status


async def _drain(broker: Broker, load: Load, report: Report) -> None:
    """Consume all that is left, stop in good order, and see what is there then."""
    load.publishing, load.slow, load.consuming = False, False, tuple(QUEUES)
    await _start(broker, load, report)
    await _stands_still(lambda: load.received)
    broker.terminate()
    report.stop_status = await _end(broker, load)
    load.history.ended(in_order=True)
    await _start(broker, load, report)
    report.queues_left = await load.declare()
    await trio.sleep(0.2)  # Whatever is there would come to a consumer now.
    broker.terminate()
    await _end(broker, load)


def _sum_up(load: Load, report: Report) -> None:
    history = load.history
    report.confirmed = history.count(Verdict.CONFIRMED)
    report.unknown = history.count(Verdict.UNKNOWN)
    report.nacked = history.count(Verdict.NACKED)
    report.transient = history.count(Verdict.CONFIRMED, must_stay=False)
    report.received, report.redelivered = load.received, load.redelivered
    report.faults = history.check()
    report.queues_made, report.broken = load.queues_made, load.broken


async def run_recorded(broker: Broker, shim: DiskShim, messages: int) -> ConfirmOrder:
    """Have messages confirmed, end the broker, and look when each of them was."""
    load = Load(random.Random(1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load.run, PUBLISHERS)
        await _start(broker, load, Report())
        await _let_run(load, messages)
        broker.kill()
        await _end(broker, load)
        nursery.cancel_scope.cancel()
    shim.wait_for_end()
    return check_confirm_order(shim, lambda port, tag: load.by_port.get((port, tag)))


@attrs.define
class Failure:
    """How a node has ended whose disk has failed, and what it did before."""

    status: int
    last_line: str
    order: ConfirmOrder
    report: Report


async def run_failing_disk(
    broker: Broker, shim: DiskShim, fail: Callable[[], None], mend: Callable[[], None]
) -> Failure:
    """Under load, have the disk ``fail``; the broker is to end by itself. Then go on with it."""
    load, report = Load(random.Random(1)), Report()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load.run, PUBLISHERS)
        await _start(broker, load, report)
        await _let_run(load, 1000)
        fail()
        status = await trio.to_thread.run_sync(broker.end)
        load.gate.close()
        await load.gate.all_left()
        shim.wait_for_end()
        last_line = broker.last_words().splitlines()[-1]
        order = check_confirm_order(shim, lambda port, tag: load.by_port.get((port, tag)))
        mend()
        shim.crash()
        load.history.ended(in_order=False)
        await _drain(broker, load, report)
        nursery.cancel_scope.cancel()
    _sum_up(load, report)
    return Failure(status, last_line, order, report)


@attrs.define
class FullDisk:
    """What happened while a disk was full."""

    confirmed: int
    blocked: int
    consumed: int
    report: Report
    refusal: tuple[int, str] = (0, "")
    """How a node ends that is started without any room: its status, and what it says."""
    drained: int = 0
    """What is consumed from one that is started with a little room, below the limit."""


async def run_full_disk(
    broker: Broker, shim: DiskShim, room_bytes: int, *, killed: bool
) -> FullDisk:
    """Under load, leave only so much room; then consume what is there; then give room again.

    ``killed``: the broker dies while the disk is full, and is started with no room, then a little.
    """
    load, report = Load(random.Random(1)), Report()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load.run, PUBLISHERS)
        await _start(broker, load, report)
        await _let_run(load, 3000)
        shim.room_bytes = room_bytes
        confirmed = load.confirmed
        await _stands_still(lambda: load.confirmed)
        confirmed = load.confirmed - confirmed
        consumed = load.received
        load.consuming = tuple(QUEUES)
        await _stands_still(lambda: load.received)
        full = FullDisk(confirmed, load.blocked, load.received - consumed, report)
        if killed:
            broker.kill(with_helpers=True)
            await _end(broker, load)
            shim.crash()
            load.history.ended(in_order=False)
            shim.room_bytes = 0
            try:
                await trio.to_thread.run_sync(broker.start)
            except DidNotStart as refused:
                full.refusal = refused.args
            shim.room_bytes = LITTLE_ROOM_BYTES
            broker.environment["AMQPBROKER_DISK_FREE_LIMIT"] = "50MB"
            received = load.received
            await _start(broker, load, report)
            await _stands_still(lambda: load.received)
            full.drained = load.received - received
        shim.room_bytes = -1
        await _let_run(load, 3000)
        broker.kill(with_helpers=True)
        await _end(broker, load)
        shim.crash()
        load.history.ended(in_order=False)
        await _drain(broker, load, report)
        nursery.cancel_scope.cancel()
    _sum_up(load, report)
    return full


async def _stands_still(count: Callable[[], int]) -> None:
    """Until a count has not changed for a second."""
    seen = -1
    with trio.fail_after(PATIENCE_S):
        while seen != count():
            seen = count()
            await trio.sleep(1)

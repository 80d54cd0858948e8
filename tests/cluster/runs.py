"""A cluster under load with faults; then all is mended and drained, and judged."""

import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs
import trio

from amqpbroker.cli.etcd_servers import EtcdServers
from amqpbroker.testing.history import Fault, Verdict
from tests.cluster.faults import Faults
from tests.cluster.load import CALL_S_MAX, HOMES, Load, Refused
from tests.cluster.rig import NODES, Rig, open_rig

PUBLISHERS = 6
COLLECTED_S_MAX = 40
"""The lease of a node that died, and 30 s."""
RECOVERY_S_MAX = 30
PATIENCE_S = 300


@attrs.define
class Report:
    """What a run has come to."""

    seed: int
    faults: Counter[str] = attrs.Factory(Counter)
    """What befell the cluster."""
    log: list[str] = attrs.Factory(list)
    counts: Counter[str] = attrs.Factory(Counter)
    confirmed: int = 0
    """Confirmed persistent messages, one for each queue that they reached."""
    unknown: int = 0
    nacked: int = 0
    broken: list[Fault] = attrs.Factory(list)
    """Promises that were broken."""
    wrong: list[str] = attrs.Factory(list)
    """What must not happen besides."""
    seconds: float = 0

    @property
    def is_sound(self) -> bool:
        """Whether nothing was found."""
        return not self.broken and not self.wrong

    def __str__(self) -> str:
        kinds = Counter(fault.what.value for fault in self.broken)
        lines = [
            f"seed {self.seed}, {self.seconds:.0f} s, {self.faults.total()} faults:"
            f" {dict(sorted(self.faults.items()))}",
            f"{self.confirmed} confirmed persistent messages, {self.unknown} of unknown fate,"
            f" {self.nacked} nacked",
            f"{dict(sorted(self.counts.items()))}",
            f"broken promises: {dict(kinds) or 'none'}",
            *(f"  {fault}" for fault in self.broken[:20]),
            f"wrong: {len(self.wrong) or 'none'}",
            *(f"  {each}" for each in self.wrong[:20]),
        ]
        return "\n".join(lines)


async def run_faults(
    etcd: EtcdServers,
    folder: Path,
    seconds: float,
    seed: int,
    plant: Callable[[Rig], Awaitable[None]] | None = None,
) -> Report:
    """Have faults for so long, mend them, and judge.

    ``plant`` does, after the faults, what must be found.
    """
    report = Report(seed)
    begun_s = time.monotonic()
    async with open_rig(etcd, folder, NODES) as rig:
        for machine in rig.machines.values():
            await machine.start()
        load = Load(random.Random(seed + 1), rig.machines)
        faults = Faults(rig, random.Random(seed), report.faults, report.log)
        await load.declare()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.run, PUBLISHERS)
            nursery.start_soon(_watch_exclusive, load, faults)
            async with trio.open_nursery() as harm:
                harm.start_soon(faults.run)
                await trio.sleep(seconds)
                faults.going_on = False
            if plant is not None:
                await plant(rig)
            await _settle_down(load, faults)
            await _drain(rig, load)
            nursery.cancel_scope.cancel()
        await _check_stopped(rig, load)
        report.counts, report.wrong = load.counts, load.wrong
        _check_logs(rig, report)
    history = load.history
    report.confirmed = history.count(Verdict.CONFIRMED)
    report.unknown = history.count(Verdict.UNKNOWN)
    report.nacked = history.count(Verdict.NACKED)
    report.broken = history.check()
    report.seconds = time.monotonic() - begun_s
    return report


async def _until(condition: Callable[[], bool], seconds: float) -> bool:
    with trio.move_on_after(seconds):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.1)
        return True
    return False


async def _settle_down(load: Load, faults: Faults) -> None:
    """All is mended: everybody is served again soon, and knows the same."""
    wanted = {home.queue for home in HOMES if home.is_consumed}
    if not await _until(lambda: wanted <= load.attached, RECOVERY_S_MAX):
        load.wrong.append(f"{sorted(wanted - load.attached)} cannot be consumed though all is well")
    confirmed = load.counts["confirmed"]
    if not await _until(lambda: load.counts["confirmed"] > confirmed, RECOVERY_S_MAX):
        load.wrong.append("nothing is confirmed though all is well")
    load.publishing = False
    await trio.sleep(CALL_S_MAX / 2)
    for name in load.machines:
        for queue in sorted(load.made | load.gone):
            if await _finds(load, queue, lambda: name) != (queue in load.made):  # noqa: B023
                there = "still" if queue in load.gone else "not"
                load.wrong.append(f"{queue} is {there} there for {name}")


async def _finds(load: Load, queue: str, node: Callable[[], str]) -> bool:
    """Whether a node knows a queue; it, or another, is asked until it can say."""
    with trio.fail_after(PATIENCE_S):
        while True:
            try:
                async with load.connect(node()) as client:
                    return await load.finds(client, queue)
            except (OSError, Refused, trio.TooSlowError):
                await trio.sleep(0.5)


async def _drain(rig: Rig, load: Load) -> None:
    """Consume all that is left."""
    load.consuming = False
    await _until(lambda: not load.attached, 10)
    load.history.ended(in_order=False)
    load.draining = True
    seen, quiet = -1, 0
    with trio.fail_after(PATIENCE_S):
        while quiet < 3:
            count = load.history.deliveries
            quiet = quiet + 1 if count == seen and len(load.attached) == len(HOMES) else 0
            seen = count
            await trio.sleep(1)


async def _check_stopped(rig: Rig, load: Load) -> None:
    """Stop in good order, start again: what was acked does not come back."""
    for name, machine in rig.machines.items():
        status = await machine.stop()
        if status:
            load.wrong.append(f"{name} stopped with status {status}")
    for machine in rig.machines.values():
        await machine.start()
    for name in rig.machines:
        async with load.connect(name) as client:
            for home in HOMES:
                try:
                    left = await load.ready(client, home.queue)
                except Refused:
                    continue  # It is written down.
                if left:
                    load.wrong.append(f"{name} says that {left} messages are left in {home.queue}")


async def _watch_exclusive(load: Load, faults: Faults) -> None:
    """Exclusive queues of a node that died are gone in time, wherever one asks."""
    async with trio.open_nursery() as nursery:
        seen = 0
        while True:
            await trio.sleep(0.5)
            for name, life, ended_s in faults.killed[seen:]:
                seen += 1
                for queue, where in load.exclusive.items():
                    if where == (name, life):
                        nursery.start_soon(_is_collected, load, queue, name, ended_s)


async def _is_collected(load: Load, queue: str, name: str, ended_s: float) -> None:
    await trio.sleep_until(ended_s + 1)
    is_gone = not await _finds(load, queue, lambda: load.elsewhere(name))
    load.counts["exclusive queues of dead nodes that have gone within a second"] += is_gone
    await trio.sleep_until(ended_s + COLLECTED_S_MAX)
    found = await _finds(load, queue, lambda: load.elsewhere(name))
    load.counts["exclusive queues of dead nodes looked for"] += 1
    if found:
        load.wrong.append(f"{queue} of a dead {name} is still there")


def _check_logs(rig: Rig, report: Report) -> None:
    """A node does not fail without its fault."""
    for name, machine in rig.machines.items():
        for line in machine.broker.log.read_text(errors="replace").splitlines():
            if "[ERROR]" in line or line.startswith("Traceback"):
                report.wrong.append(f"{name} has logged: {line}")

"""What befalls a cluster: faults that are drawn from a seed, one after the other, each mended."""

import random
from collections import Counter
from collections.abc import Awaitable, Callable

import attrs
import trio

from tests.cluster.load import HOMES
from tests.cluster.rig import Machine, Rig

PAUSE_S = (1.0, 8.0)
LEADERS = sorted({home.node for home in HOMES})


@attrs.define(eq=False)
class Faults:
    """Faults of nodes and of links, and beside them faults of etcd.

    ``killed`` are the lives of nodes that were: the node, its life, and when it ended.
    """

    rig: Rig
    rng: random.Random
    counts: Counter[str] = attrs.Factory(Counter)
    log: list[str] = attrs.Factory(list)
    killed: list[tuple[str, int, float]] = attrs.Factory(list)
    going_on: bool = True
    _began_s: float = attrs.Factory(trio.current_time)

    async def run(self) -> None:
        """Do harm until `going_on` is false; when this returns, all is mended."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._one_by_one, self._kinds_of_nodes(), 2.0)
            nursery.start_soon(self._one_by_one, self._kinds_of_etcd(), 10.0)

    def _kinds_of_nodes(self) -> list[Callable[[], Awaitable[str]]]:
        return [
            self._kill_leader,
            self._kill_leader,
            self._kill_proxy,
            self._pause_leader,
            self._pause_proxy,
            self._end_links,
            self._silence_links,
            self._hide_etcd,
        ]

    def _kinds_of_etcd(self) -> list[Callable[[], Awaitable[str]]]:
        return [self._kill_etcd_leader, self._pause_etcd_leader, self._pause_quorum]

    async def _one_by_one(self, kinds: list[Callable[[], Awaitable[str]]], rest_s: float) -> None:
        """All kinds in a random order, again and again; after each a rest of ``rest_s`` or so."""
        waiting: list[Callable[[], Awaitable[str]]] = []
        while True:
            until_s = trio.current_time() + rest_s * (0.5 + self.rng.random())
            while trio.current_time() < until_s and self.going_on:  # noqa: ASYNC110
                await trio.sleep(0.1)
            if not self.going_on:
                return
            if not waiting:
                waiting = self.rng.sample(kinds, len(kinds))
            began_s = trio.current_time() - self._began_s
            kind = waiting.pop()
            name = kind.__name__.strip("_").replace("_", " ")
            self.counts[name] += 1
            detail = await kind()
            ended_s = trio.current_time() - self._began_s
            self.log.append(f"{began_s:.1f} to {ended_s:.1f} s: {name} {detail}")

    # -- nodes ---------------------------------------------------------------------------------

    def _leader(self) -> Machine:
        return self.rig.machines[self.rng.choice(LEADERS)]

    def _proxy(self) -> Machine:
        return self.rig.machines[
            self.rng.choice([name for name in self.rig.machines if name not in LEADERS])
        ]

    def _seconds(self) -> float:
        return self.rng.uniform(*PAUSE_S)

    async def _kill(self, machine: Machine) -> str:
        life = machine.lives
        await machine.kill()
        self.killed.append((machine.name, life, trio.current_time()))
        await trio.sleep(self.rng.choice((0.0, 1.0, 6.0)))
        await machine.start()
        return f"{machine.name}, life {life}"

    async def _kill_leader(self) -> str:
        return await self._kill(self._leader())

    async def _kill_proxy(self) -> str:
        return await self._kill(self._proxy())

    async def _pause(self, machine: Machine) -> str:
        seconds = self._seconds()
        machine.pause()
        await trio.sleep(seconds)
        machine.resume()
        return f"{machine.name} for {seconds:.1f} s"

    async def _pause_leader(self) -> str:
        return await self._pause(self._leader())

    async def _pause_proxy(self) -> str:
        return await self._pause(self._proxy())

    async def _cut(self, *, silent: bool) -> str:
        one, other = self.rng.sample(list(self.rig.machines), 2)
        seconds = self._seconds()
        self.rig.cut(one, other, silent=silent)
        await trio.sleep(seconds)
        self.rig.mend(one, other)
        return f"{one} and {other} for {seconds:.1f} s"

    async def _end_links(self) -> str:
        return await self._cut(silent=False)

    async def _silence_links(self) -> str:
        return await self._cut(silent=True)

    async def _hide_etcd(self) -> str:
        """Etcd cannot be reached by one node: it is refused, or nothing is answered."""
        machine = self.rng.choice(list(self.rig.machines.values()))
        silent, seconds = self.rng.random() < 0.5, self._seconds() * 2
        for relay in machine.etcd:
            relay.hold() if silent else relay.shut()
        await trio.sleep(seconds)
        for relay in machine.etcd:
            relay.open()
        return f"from {machine.name} for {seconds:.1f} s{', silently' if silent else ''}"

    # -- etcd ----------------------------------------------------------------------------------

    async def _etcd_leader(self) -> int:
        while True:
            try:
                return await trio.to_thread.run_sync(self.rig.etcd.leader)
            except LookupError:
                await trio.sleep(0.2)

    async def _kill_etcd_leader(self) -> str:
        number = await self._etcd_leader()
        await trio.to_thread.run_sync(self.rig.etcd.kill, number)
        await trio.sleep(self.rng.choice((0.0, 3.0)))
        await trio.to_thread.run_sync(self.rig.etcd.start)
        return str(number)

    async def _pause_members(self, numbers: list[int], seconds: float) -> str:
        for number in numbers:
            self.rig.etcd.pause(number)
        await trio.sleep(seconds)
        for number in numbers:
            self.rig.etcd.resume(number)
        return f"{numbers} for {seconds:.1f} s"

    async def _pause_etcd_leader(self) -> str:
        return await self._pause_members([await self._etcd_leader()], self._seconds())

    async def _pause_quorum(self) -> str:
        return await self._pause_members(self.rng.sample(range(3), 2), self._seconds() * 1.5)

"""The simulated world: a whole broker and its clients in one process, from one seed.

Time jumps as soon as nobody has anything to do (`SimTime`). The network carries octets between
tasks; how long they travel, and into which pieces they are cut, the seed decides, as it decides the
order in which trio runs tasks that are ready together, and what a crash leaves of a disk. The same
seed gives the same run, octet for octet: `Trace` says so.

trio offers no public way to seed its scheduler. The two names used here are those that its own
tests and pytest-trio rely on; a test of ours fails when they go.
"""

import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from typing import Any, TypeVar

import attrs
import trio
from trio._core import _run

from amqpbroker.testing.sim_disk import SimDisk
from amqpbroker.testing.sim_time import SimTime
from amqpbroker.testing.trace import Trace
from amqpbroker.world import Clock, Listener, Memory, Network, Stream, World

Result = TypeVar("Result")

_WALL_START_MS = 1_700_000_000_000
_PIPE_BYTES_MAX = 64 * 1024
_WRITABLE_BYTES = _PIPE_BYTES_MAX // 4
"""The room from which on a pipe that was full is worth writing to, as systems have it."""


class SimClock(Clock):
    """trio's clock, for both kinds of time."""

    def monotonic_s(self) -> float:
        return trio.current_time()

    def wall_ms(self) -> int:
        return _WALL_START_MS + int(trio.current_time() * 1000)


@attrs.define
class SimMemory(Memory):
    """Memory of which the test says how much is used."""

    total: int = 8 << 30
    used: int = 100 << 20

    def total_bytes(self) -> int:
        return self.total

    def used_bytes(self) -> int:
        return self.used

    def give_back(self) -> None:
        """Nothing is kept here."""


class _Pipe:
    """One direction of a connection: octets on their way, and octets that have arrived."""

    def __init__(self, number: int, source: str, target: str) -> None:
        self.number = number
        self.hosts = source, target
        self.held: list[bytes | None] = []
        self.refused = False
        self.arrived = bytearray()
        self.travelling_bytes = 0
        self.last_arrival_s = 0.0
        self.ended = False
        self.broken = False
        self.changed = trio.lowlevel.ParkingLot()

    def cut(self) -> None:
        """Break it; what was on its way is lost."""
        self.broken = True
        self.arrived.clear()
        self.changed.unpark_all()

    @property
    def room_bytes(self) -> int:
        return max(0, _PIPE_BYTES_MAX - self.travelling_bytes - len(self.arrived))


class SimStream(Stream):
    """One end of a simulated connection."""

    def __init__(
        self,
        network: "SimNetwork",
        incoming: _Pipe,
        outgoing: _Pipe,
        local: tuple[str, int],
        peer: tuple[str, int],
    ) -> None:
        self.local = local
        self.peer = peer
        self._network = network
        self._in = incoming
        self._out = outgoing
        self._is_closed = False

    async def receive_some(self, bytes_max: int) -> bytes:
        pipe = self._in
        if not self.is_quiet() or self._is_closed:
            await trio.lowlevel.checkpoint()
        while not pipe.arrived:
            if pipe.broken or self._is_closed:
                raise ConnectionResetError("the simulated connection is cut")
            if pipe.ended:
                return b""
            await pipe.changed.park()
        data = bytes(pipe.arrived[:bytes_max])
        del pipe.arrived[:bytes_max]
        pipe.changed.unpark_all()
        return data

    def is_quiet(self) -> bool:
        return not (self._in.arrived or self._in.ended or self._in.broken)

    def send_nowait(self, data: bytes | memoryview) -> int:
        pipe = self._out
        if pipe.broken or pipe.ended or self._is_closed:
            raise BrokenPipeError("the simulated connection is cut")
        taken = bytes(data[: pipe.room_bytes])
        self._network.carry(pipe, taken)
        return len(taken)

    async def wait_writable(self) -> None:
        pipe = self._out
        await trio.lowlevel.checkpoint()
        while pipe.room_bytes < _WRITABLE_BYTES and not pipe.broken and not self._is_closed:
            await pipe.changed.park()

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._network.end(self._out)
        if not self._in.ended:
            self._network.refuse(self._in)
        for pipe in (self._in, self._out):
            pipe.changed.unpark_all()

    def cut(self) -> None:
        """Break the connection for both ends; what was on its way is lost."""
        for pipe in (self._in, self._out):
            pipe.cut()


class _SimListener(Listener):
    """A simulated listening address."""

    def __init__(self, network: "SimNetwork", address: tuple[str, int]) -> None:
        self.address = address
        self._network = network
        self._send, self._receive = trio.open_memory_channel[SimStream](100)

    def connect(self, stream: SimStream) -> None:
        self._send.send_nowait(stream)

    async def accept(self) -> Stream:
        return await self._receive.receive()

    def close(self) -> None:
        self._network.forget(self.address)
        with suppress(trio.WouldBlock, trio.ClosedResourceError):
            while True:
                self._receive.receive_nowait().cut()  # Nobody will accept it any more.
        self._receive.close()


class _SimHost(Network):
    """The network as it looks from one host."""

    def __init__(self, network: "SimNetwork", host: str) -> None:
        self._network = network
        self._host = host

    async def listen(self, host: str, port: int) -> Listener:
        return await self._network.listen(host, port)

    async def connect(self, host: str, port: int) -> Stream:
        return await self._network.connect_from(self._host, host, port)


class SimNetwork(Network):
    """Connections within one process; time carries the octets.

    Whoever connects is at the host that it connects to, unless it does so by the network that `at`
    gives to a host.
    """

    def __init__(self, rng: random.Random, trace: Trace, time: SimTime) -> None:
        self.delay_s_max = 0.005
        self.delays_s_max: dict[tuple[str, str], float] = {}
        """Longer ways, from one host to another."""
        self._random = rng
        self._trace = trace
        self._time = time
        self._listeners: dict[tuple[str, int], _SimListener] = {}
        self._number = count()
        self._ports = count(40_000)
        self._severed: dict[tuple[str, str], None] = {}
        self._healed = trio.lowlevel.ParkingLot()
        self._pipes: dict[_Pipe, None] = {}

    def at(self, host: str) -> Network:
        """The network as it looks from ``host``."""
        return _SimHost(self, host)

    def sever(self, source: str, target: str) -> None:
        """From now on nothing that is sent from a host arrives at another; nobody is told.

        Octets wait until the way is healed, as TCP sends them again and again; so do those who
        connect, in either direction.
        """
        self._severed[source, target] = None

    def heal(self) -> None:
        """All ways are free again: what waited is sent."""
        self._severed.clear()
        self._healed.unpark_all()
        for pipe in self._pipes:
            held, pipe.held = pipe.held, []
            for data in held:
                self._launch(pipe, data)
            if pipe.refused:
                self.refuse(pipe)

    def cut(self, one: str, other: str) -> None:
        """Break every connection between two hosts; new ones are welcome."""
        for pipe in self._pipes:
            if pipe.hosts in ((one, other), (other, one)):
                pipe.cut()

    async def listen(self, host: str, port: int) -> Listener:
        await trio.lowlevel.checkpoint()
        address = host, port or next(self._ports)
        if address in self._listeners:
            raise OSError(98, "the simulated address is in use")
        self._listeners[address] = listener = _SimListener(self, address)
        return listener

    async def connect(self, host: str, port: int) -> SimStream:
        return await self.connect_from(host, host, port)

    async def connect_from(self, source: str, host: str, port: int) -> SimStream:
        """Connect from the host ``source``.

        Where nobody listens that is refused at once; as long as the way there or back is severed,
        nothing is heard at all.
        """
        await trio.lowlevel.checkpoint()
        while (source, host) in self._severed or (host, source) in self._severed:
            await self._healed.park()
        listener = self._listeners.get((host, port))
        if listener is None:
            raise ConnectionRefusedError(f"nobody listens at {host}:{port} in this world")
        here = (source, next(self._ports))
        there = _Pipe(next(self._number), source, host)
        back = _Pipe(next(self._number), host, source)
        self._pipes |= {there: None, back: None}
        listener.connect(SimStream(self, there, back, (host, port), here))
        return SimStream(self, back, there, here, (host, port))

    def forget(self, address: tuple[str, int]) -> None:
        """A listener closed."""
        self._listeners.pop(address, None)

    def carry(self, pipe: _Pipe, data: bytes) -> None:
        """Send octets on their way, in pieces that arrive in order."""
        pipe.travelling_bytes += len(data)
        while data:
            size = self._random.randint(1, len(data)) if self._random.random() < 0.3 else len(data)
            self._launch(pipe, data[:size])
            data = data[size:]

    def end(self, pipe: _Pipe) -> None:
        """The end of the stream travels behind the octets."""
        self._launch(pipe, None)

    def refuse(self, pipe: _Pipe) -> None:
        """Nobody reads any more what a pipe carries; its sender hears of it when it can."""
        source, target = pipe.hosts
        pipe.refused = True
        if (target, source) not in self._severed:
            pipe.broken = True
            pipe.changed.unpark_all()

    def _launch(self, pipe: _Pipe, data: bytes | None) -> None:
        if pipe.hosts in self._severed:
            pipe.held.append(data)
            return
        earliest = max(self._time.current_time(), pipe.last_arrival_s)
        delay_s_max = self.delays_s_max.get(pipe.hosts, self.delay_s_max)
        pipe.last_arrival_s = earliest + self._random.random() * delay_s_max
        self._time.at(pipe.last_arrival_s, partial(self._arrive, pipe, data))

    def _arrive(self, pipe: _Pipe, data: bytes | None) -> None:
        self._trace.note(self._time.current_time(), pipe.number, data)
        if data is None:
            pipe.ended = True
            self._pipes.pop(pipe, None)
        else:
            pipe.travelling_bytes -= len(data)
            if not pipe.broken:
                pipe.arrived += data
        pipe.changed.unpark_all()


@attrs.frozen
class Simulation:
    """A simulated world and what a test may do to it."""

    seed: int
    world: World
    network: SimNetwork
    disk: SimDisk
    memory: SimMemory
    trace: Trace
    random: random.Random
    """For the test's own choices."""


def simulate(
    seed: int, scenario: Callable[[Simulation], Awaitable[Result]], seconds_max: float = 3600
) -> Result:
    """Run ``scenario`` in a simulated world; what it returns.

    Raises `trio.TooSlowError` after ``seconds_max`` simulated seconds. Whatever is raised carries a
    note with the seed.
    """

    async def run() -> Result:
        trace = Trace()
        network = SimNetwork(random.Random(f"network {seed}"), trace, time)
        memory = SimMemory()
        disk = SimDisk(random.Random(f"disk {seed}"), trace)
        world = World(SimClock(), network, disk, memory, random.Random(f"world {seed}"))
        own = random.Random(f"scenario {seed}")
        with trio.fail_after(seconds_max):
            return await scenario(Simulation(seed, world, network, disk, memory, trace, own))

    time = SimTime()
    try:
        with seeded_scheduler(seed):
            return trio.run(run, clock=time)
    except BaseException as error:
        error.add_note(f"simulation seed {seed}")
        raise


@contextmanager
def seeded_scheduler(seed: int) -> Iterator[None]:
    """Let the seed decide in which order trio runs tasks that are ready together."""
    scheduler: Any = _run
    before = scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r.getstate()
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    scheduler._r.seed(seed)
    try:
        yield
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = before[0]
        scheduler._r.setstate(before[1])

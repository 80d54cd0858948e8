"""The only door to what cannot be replayed: clock, network, disk, random.

A node is handed a `World` and asks nothing else. The real one stands here; its simulated twin, in
which a whole cluster runs in one process from one seed, stands in `amqpbroker.testing`.
"""

import errno
import os
import random
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable

import attrs
import trio


class Stream(ABC):
    """An ordered stream of bytes to a peer."""

    peer: tuple[str, int]
    local: tuple[str, int]

    @abstractmethod
    async def receive_some(self, bytes_max: int) -> bytes:
        """Wait for bytes, at most ``bytes_max``.

        Empty when the peer has ended. Raises `OSError` when the connection is lost.
        """

    @abstractmethod
    def send_nowait(self, data: bytes | memoryview) -> int:
        """Give the peer as much as it takes without waiting.

        The count of bytes taken, perhaps 0. Raises `OSError` when the connection is lost.
        """

    @abstractmethod
    async def wait_writable(self) -> None:
        """Wait until `send_nowait` may take something."""

    @abstractmethod
    def close(self) -> None:
        """End the stream; waiting calls raise `OSError`. Closing twice is harmless."""


class Listener(ABC):
    """A bound address that accepts streams."""

    address: tuple[str, int]

    @abstractmethod
    async def accept(self) -> Stream:
        """Wait for the next peer.

        Raises `OSError` when a peer could not be taken (too many open files): the listener goes on.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop listening."""


class Clock(ABC):
    """Time, twice: for durations and for the calendar."""

    @abstractmethod
    def monotonic_s(self) -> float:
        """Seconds since some start; never goes back."""

    @abstractmethod
    def wall_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC, as the machine believes."""


class Network(ABC):
    """Listeners and connections."""

    @abstractmethod
    async def listen(self, host: str, port: int) -> Listener:
        """Listen at ``host``.

        Port 0 takes a free one. Raises `OSError` when the address cannot be had.
        """

    @abstractmethod
    async def connect(self, host: str, port: int) -> Stream:
        """Connect to a listener. Raises `OSError` when nobody listens."""


class Memory(ABC):
    """The machine's memory, as far as the node must watch it."""

    @abstractmethod
    def total_bytes(self) -> int:
        """What this process may use: the machine's memory, or less where it is confined."""

    @abstractmethod
    def used_bytes(self) -> int:
        """What this process occupies (resident)."""


@attrs.frozen
class World:
    """Everything outside the node, as it sees it."""

    clock: Clock
    network: Network
    memory: Memory
    random: random.Random


class _SocketStream(Stream):
    """A TCP connection; non-blocking, without Nagle's delay."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        self.peer = sock.getpeername()[:2]
        self.local = sock.getsockname()[:2]

    async def receive_some(self, bytes_max: int) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            try:
                return self._socket.recv(bytes_max)
            except BlockingIOError:
                await self._wait(trio.lowlevel.wait_readable)

    def send_nowait(self, data: bytes | memoryview) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    async def wait_writable(self) -> None:
        await self._wait(trio.lowlevel.wait_writable)

    async def _wait(self, wait: Callable[[socket.socket], Awaitable[None]]) -> None:
        """Wait on the socket; closing it meanwhile is a lost connection like any other."""
        try:
            await wait(self._socket)
        except trio.ClosedResourceError as error:
            raise OSError(errno.ECONNRESET, "the connection was closed") from error

    def close(self) -> None:
        if self._socket.fileno() != -1:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


class _SocketListener(Listener):
    """A listening TCP socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.address = sock.getsockname()[:2]

    async def accept(self) -> Stream:
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                sock, _ = self._socket.accept()
                return _SocketStream(sock)
            except BlockingIOError:
                continue  # Another process, or nobody, took it meanwhile.

    def close(self) -> None:
        if self._socket.fileno() != -1:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


class _SocketNetwork(Network):
    """TCP."""

    async def listen(self, host: str, port: int) -> Listener:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
            sock.listen(1024)
        except BaseException:
            sock.close()
            raise
        return _SocketListener(sock)

    async def connect(self, host: str, port: int) -> Stream:
        stream = await trio.open_tcp_stream(host, port)
        return _SocketStream(socket.socket(fileno=stream.socket.detach()))


class _SystemClock(Clock):
    """The machine's clocks."""

    def monotonic_s(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


class _SystemMemory(Memory):
    """Memory as Linux and macOS tell it, cgroup limits included."""

    _page_bytes = os.sysconf("SC_PAGE_SIZE")

    def total_bytes(self) -> int:
        total = self._page_bytes * os.sysconf("SC_PHYS_PAGES")
        for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
            try:
                with open(path) as file:
                    total = min(total, int(file.read()))
            except (OSError, ValueError):
                continue  # No such control group, or one without a limit ("max").
        return total

    def used_bytes(self) -> int:
        try:
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * self._page_bytes
        except OSError:
            import resource  # Where there is no /proc: the peak stands in for the present.

            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def real_world() -> World:
    """The world as it is."""
    return World(
        clock=_SystemClock(),
        network=_SocketNetwork(),
        memory=_SystemMemory(),
        random=random.SystemRandom(),
    )

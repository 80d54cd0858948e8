"""What stands between a conversation and a broker: octets there and back, time, and an operator.

`InProcess` has a broker of its own in a world that stands still: whatever follows from what was
sent has happened before `send` returns. `Socket` speaks to a broker elsewhere, and has to wait.
"""

import shlex
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from urllib.parse import urlsplit

from amqpbroker.broker.broker import Broker
from amqpbroker.protocol.connection import State
from amqpbroker.testing.council import Council
from amqpbroker.testing.fakes import FakeClock, fake_world
from amqpbroker.testing.peer import Peer
from kit.operator import Operator

_PATIENCE_S = 3.0
_PAUSE_S = 0.04
_READ_BYTES = 65536


class Skipped(Exception):
    """A script asks for what a driver cannot do; the text says what."""


class Stream(ABC):
    """The client's end of one connection."""

    @abstractmethod
    def send(self, data: bytes) -> None:
        """Send octets; a peer that is gone is no fault."""

    @abstractmethod
    def receive(self, patience_s: float) -> bytes:
        """What has come, or comes within ``patience_s``; empty if nothing does."""

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether the broker has closed the connection."""

    @abstractmethod
    def drop(self) -> None:
        """Go away without a word."""


class Driver(ABC):
    """A broker to speak with."""

    patience_s: float
    """How long to wait for what must come."""
    pause_s: float
    """How long to wait for what must not come."""

    @abstractmethod
    def connect(self, host: str) -> Stream:
        """A new connection from the address ``host``."""

    @abstractmethod
    def wait(self, seconds: float) -> None:
        """Let time pass."""

    @abstractmethod
    def idle(self, seconds: float) -> None:
        """Let time pass, unless it has passed already while nothing came."""

    @abstractmethod
    def operate(self, command: str) -> None:
        """Have an operator's ``command`` carried out. Raises `Skipped` if there is no operator."""


class InProcess(Driver):
    """A fresh broker, without sockets or tasks, whose clock moves when it is told to.

    ``decides_later``: what is declared, bound or deleted is decided on elsewhere, as in a cluster.
    """

    patience_s = pause_s = 0.0

    def __init__(self, decides_later: bool = False) -> None:
        self.clock = FakeClock()
        self.broker = Broker(fake_world(clock=self.clock))
        self._council = Council()
        if decides_later:
            self._council.join(self.broker)
        self.broker.boot("guest", "guest")
        self._council.settle_down()
        self._operator = Operator(self.broker)
        self._streams: list[_PeerStream] = []

    def connect(self, host: str) -> Stream:
        stream = _PeerStream(Peer(self.broker, host), self._settle_down)
        self._streams.append(stream)
        return stream

    def wait(self, seconds: float) -> None:
        """Time goes from one deadline to the next."""
        end_s = self.clock.now_s + seconds
        deadlines = self.broker.deadlines
        while (due_s := deadlines.next_s()) is not None and due_s <= end_s:
            self.clock.advance(max(0.0, due_s - self.clock.now_s))
            deadlines.run(self.clock.now_s)
            self._settle_down()
        self.clock.advance(end_s - self.clock.now_s)
        self._settle_down()

    def idle(self, seconds: float) -> None:
        self.wait(seconds)

    def operate(self, command: str) -> None:
        self._operator.do(command)
        self._settle_down()

    def _settle_down(self) -> None:
        while True:
            while self.broker.turn.run():
                pass
            for stream in self._streams:
                if not stream.ended:
                    stream.peer.settle_down()
            if not self._council.work():
                return


class _PeerStream(Stream):
    def __init__(self, peer: Peer, settle_down: Callable[[], None]) -> None:
        self.peer = peer
        self._settle_down = settle_down
        self._dropped = False

    def send(self, data: bytes) -> None:
        if not self._dropped:
            self.peer.send_bytes(data)
            self._settle_down()

    def receive(self, patience_s: float) -> bytes:
        return self.peer.read_bytes()

    @property
    def ended(self) -> bool:
        return self._dropped or self.peer.connection.state is State.CLOSED

    def drop(self) -> None:
        if not self.ended:
            self._dropped = True
            self.peer.session.abandon()
            self._settle_down()


class Socket(Driver):
    """A broker behind a TCP address; ``ctl`` is the command line of its rabbitmqctl, if any."""

    patience_s = _PATIENCE_S
    pause_s = _PAUSE_S

    def __init__(self, url: str, ctl: str | None) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname or "127.0.0.1", parts.port or 5672
        self._ctl = ctl
        self._undo: list[list[str]] = []

    def connect(self, host: str) -> Stream:
        if host != "127.0.0.1":
            raise Skipped("a socket on this machine cannot come from elsewhere")
        return _SocketStream(self._address)

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def idle(self, seconds: float) -> None:
        """`Stream.receive` has waited."""

    def operate(self, command: str) -> None:
        words = shlex.split(command)
        self._run(words)
        undo = {
            "add_user": ["delete_user", *words[1:2]],
            "add_vhost": ["delete_vhost", *words[1:2]],
            "set_vm_memory_high_watermark": ["set_vm_memory_high_watermark", "0.4"],
        }.get(words[0])
        if undo:
            self._undo.append(undo)

    def clean_up(self) -> None:
        """Take away what operators have made; what is gone already is no fault."""
        while self._undo:
            self._run(self._undo.pop(), check=False)

    def _run(self, words: list[str], check: bool = True) -> None:
        if self._ctl is None:
            raise Skipped("an operator is needed: give --ctl")
        command = [*shlex.split(self._ctl), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise RuntimeError(f"{shlex.join(command)}: {done.stderr or done.stdout}")


class _SocketStream(Stream):
    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address, timeout=_PATIENCE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._ended = False

    def send(self, data: bytes) -> None:
        try:
            self._socket.settimeout(_PATIENCE_S)
            self._socket.sendall(data)
        except OSError:
            pass  # Whether the broker has ended the connection, `receive` will find out.

    def receive(self, patience_s: float) -> bytes:
        if self._ended:
            return b""
        try:
            self._socket.settimeout(max(patience_s, 0.001))
            data = self._socket.recv(_READ_BYTES)
        except TimeoutError:
            return b""
        except OSError:
            data = b""
        self._ended = not data
        return data

    @property
    def ended(self) -> bool:
        return self._ended

    def drop(self) -> None:
        self._ended = True
        self._socket.close()

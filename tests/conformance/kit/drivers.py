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
from math import inf
from typing import Literal
from urllib.parse import urlsplit

from amqpbroker.broker.broker import Broker
from amqpbroker.cluster.remote import RemoteQueues
from amqpbroker.cluster.serving import Serving
from amqpbroker.definitions import QueueDefinition
from amqpbroker.protocol.connection import State
from amqpbroker.queues.classic import ClassicQueues
from amqpbroker.queues.queue import Keeper, Pending, Queue, QueueType
from amqpbroker.testing.council import Council
from amqpbroker.testing.fakes import FakeClock, fake_world
from amqpbroker.testing.links import Loopback
from amqpbroker.testing.peer import Peer
from kit.operator import Operator

Setting = Literal["here", "later", "elsewhere"]
HOLDER, ASKER = "rabbit@a", "rabbit@b"

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

    ``setting`` "here": it is all there is; "later": what is declared, bound or deleted is decided
    on elsewhere, as in a cluster; "elsewhere": besides, another node has all queues that are not a
    connection's own.
    """

    patience_s = pause_s = 0.0

    def __init__(self, setting: Setting = "here") -> None:
        self.clock = FakeClock()
        self._council = Council()
        self._loopback: Loopback | None = None
        self._streams: list[_PeerStream] = []
        if setting == "elsewhere":
            self.brokers = self._two()
        else:
            self.brokers = [Broker(fake_world(clock=self.clock))]
        self.broker = self.brokers[-1]
        if setting != "here":
            for broker in self.brokers:
                self._council.join(broker)
        self.broker.boot("guest", "guest")
        self._operator = Operator(self.broker)
        self._settle_down()

    def _two(self) -> list[Broker]:
        """The node that has the queues, and the one that clients are connected to."""
        asking = RemoteQueues(lambda queue: queue.leader)
        types = ClassicQueues(), _Split(ASKER, asking)
        holder, asker = (
            Broker(fake_world(clock=self.clock), name=name, queue_types={"classic": kind})
            for name, kind in zip((HOLDER, ASKER), types, strict=True)
        )
        self._council.leader = HOLDER

        def find(queue_id: int) -> Queue | None:
            queues = (queue for vhost in holder.vhosts.values() for queue in vhost.queues.values())
            return next((queue for queue in queues if queue.definition.log_id == queue_id), None)

        def delete(queue: QueueDefinition, *conditions: bool) -> int | Pending[int]:
            return holder.vhosts[queue.vhost].delete_queue(queue.name, None, *conditions)

        serving = Serving(holder.turn, find, delete)
        self._loopback = Loopback.between(asking, asker.turn, serving, holder.turn)
        return [holder, asker]

    def connect(self, host: str) -> Stream:
        stream = _PeerStream(Peer(self.broker, host), self._settle_down)
        self._streams.append(stream)
        return stream

    def wait(self, seconds: float) -> None:
        """Time goes from one deadline to the next."""
        end_s = self.clock.now_s + seconds
        while (due_s := self._next_s()) <= end_s:
            self.clock.advance(max(0.0, due_s - self.clock.now_s))
            for broker in self.brokers:
                broker.deadlines.run(self.clock.now_s)
            self._settle_down()
        self.clock.advance(end_s - self.clock.now_s)
        self._settle_down()

    def _next_s(self) -> float:
        due = [broker.deadlines.next_s() for broker in self.brokers]
        return min((due_s for due_s in due if due_s is not None), default=inf)

    def idle(self, seconds: float) -> None:
        self.wait(seconds)

    def operate(self, command: str) -> None:
        self._operator.do(command)
        self._settle_down()

    def _settle_down(self) -> None:
        again = True
        while again:
            self._run_turns()
            for stream in self._streams:
                if not stream.ended:
                    stream.peer.settle_down()
            again = self._run_turns()
            again = self._council.work() or again

    def _run_turns(self) -> bool:
        """Have everything happen that needs no peer; whether the nodes had something to say."""
        for broker in self.brokers:
            while broker.turn.run():
                pass
        return self._loopback is not None and self._loopback.settle()


class _Split(QueueType):
    """Queues of the node ``name`` here, others where they are."""

    def __init__(self, name: str, others: RemoteQueues) -> None:
        self._name = name
        self._here = ClassicQueues()
        self._others = others

    def check(self, definition: QueueDefinition) -> None:
        self._here.check(definition)

    def open(self, definition: QueueDefinition, keeper: Keeper) -> Queue:
        assert definition.exclusive or definition.leader == HOLDER, definition
        kind = self._here if definition.leader == self._name else self._others
        return kind.open(definition, keeper)


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

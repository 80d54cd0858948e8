"""The other end of nothing: what the generator can reach against a peer that does no work.

The sink accepts the same set-up as a broker, counts publishes by their size, and answers with
deliveries and confirms that were made beforehand. It looks at no message, keeps none, and ignores
acks. It runs as a process of its own, as a broker does::

    python -m bench.sink WORKLOAD
"""

import selectors
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from . import wire
from .client import CLOSE_FRAME, BrokerError, Url
from .scenarios import workload_named
from .wire import Method, longstr, shortstr, table
from .workload import Workload, delivery_block, publish_block

RECEIVE_BYTES = 512 * 1024
_FLOODS = (wire.PUBLISH, wire.ACK)


class Peer:
    """One connection to the sink: first methods, answered one by one, then a flood."""

    def __init__(self, accepted: socket.socket) -> None:
        self.socket = accepted
        self.flooded = False
        self.received = 0
        self.outbox = bytearray()
        self._buffer = b""

    def set_up(self, octets: bytes) -> bool:
        """Answer methods up to the first publish or ack; return whether one starts a consumer."""
        consumes = False
        self._buffer += octets
        if self._buffer.startswith(wire.PROTOCOL_HEADER):
            self._buffer = self._buffer[len(wire.PROTOCOL_HEADER) :]
            offer = table(product="sink", version="0") + longstr(b"PLAIN") + longstr(b"en_US")
            self.outbox += wire.method(0, wire.START, b"\0\x09" + offer)
        while whole := wire.read_frame(self._buffer):
            _, channel, payload, end = whole
            which = wire.which_method(payload)
            if which in _FLOODS:
                self.flooded = True
                self.received = len(self._buffer)
                break
            self._buffer = self._buffer[end:]
            consumes = consumes or which == wire.CONSUME
            self._answer(channel, which, payload)
        return consumes

    def _answer(self, channel: int, which: Method, payload: bytes) -> None:
        """Accept whatever is asked."""
        arguments = b""
        if which == wire.QUEUE_DECLARE:
            arguments = payload[6 : 7 + payload[6]] + bytes(8)
        elif which == wire.CONSUME:
            arguments = shortstr("bench")
        elif which in (wire.QUEUE_PURGE, wire.QUEUE_DELETE, wire.CHANNEL_OPEN):
            arguments = bytes(4)
        elif which == wire.OPEN:
            arguments = shortstr("")
        if which == (10, 11):
            self.outbox += wire.method(0, wire.TUNE, struct.pack(">HIH", 2047, 131072, 0))
        elif which != (10, 31):
            self.outbox += wire.method(channel, (which[0], which[1] + 1), arguments)

    def flush(self) -> None:
        """Send what the socket takes; the rest waits for the next octets from the peer."""
        try:
            while self.outbox:
                del self.outbox[: self.socket.send(self.outbox)]
        except BlockingIOError:
            pass


class Sink:
    """All connections of one run."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._scratch = bytearray(RECEIVE_BYTES)
        self._publishes = publish_block(workload)
        self._published = 0
        self._block = delivery_block(workload)
        self._view = memoryview(self._block.octets)
        self._position = 0
        self._consumer: Peer | None = None
        self._blocked = False

    def serve(self) -> None:
        """Serve until the process is ended."""
        while True:
            for key, events in self._selector.select():
                if key.data is None:
                    self._accept()
                elif events & selectors.EVENT_READ:
                    self._receive(key.data)
            self._deliver()

    def _accept(self) -> None:
        accepted, _ = self._listener.accept()
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        accepted.setblocking(False)
        self._selector.register(accepted, selectors.EVENT_READ, Peer(accepted))

    def _receive(self, peer: Peer) -> None:
        try:
            count = peer.socket.recv_into(self._scratch)
        except ConnectionError:
            count = 0
        if count == 0:
            self._leave(peer)
            return
        if not peer.flooded:
            if peer.set_up(bytes(self._scratch[:count])):
                self._consumer = peer
        elif self._scratch.startswith(CLOSE_FRAME, count - len(CLOSE_FRAME)):
            peer.outbox += wire.method(0, (10, 51))
        else:
            peer.received += count
        if peer.flooded and peer is not self._consumer:
            self._count(peer)
        peer.flush()

    def _leave(self, peer: Peer) -> None:
        self._selector.unregister(peer.socket)
        peer.socket.close()
        if peer is self._consumer:
            self._consumer = None

    def _count(self, publisher: Peer) -> None:
        """Count publishes by their size, and confirm them."""
        published = self._publishes.whole(publisher.received)
        if self._workload.confirms and published > self._published:
            publisher.outbox += wire.method(1, wire.ACK, published.to_bytes(8, "big") + b"\x01")
        self._published = published

    def _deliver(self) -> None:
        """Send the deliveries of what was published, as many as the socket takes."""
        block, consumer = self._block, self._consumer
        if consumer is None:
            return
        copies, blocked = self._workload.copies, False
        while not blocked:
            messages = min(block.messages, self._published + 1 - block.first)
            end = block.offset(messages * copies)
            if end == self._position:
                break
            try:
                self._position += consumer.socket.send(self._view[self._position : end])
            except BlockingIOError:
                blocked = True
            if self._position == len(self._view):
                block.advance()
                self._position = 0
        if blocked != self._blocked:
            self._blocked = blocked
            writing = selectors.EVENT_WRITE if blocked else 0
            self._selector.modify(consumer.socket, selectors.EVENT_READ | writing, consumer)


@contextmanager
def running_sink(workload: Workload) -> Iterator[Url]:
    """A sink in a process of its own, while the context lasts."""
    command = [sys.executable, "-m", __spec__.name, workload.name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise BrokerError("the sink did not start")
            yield Url("127.0.0.1", int(line))
        finally:
            process.terminate()


def main() -> None:
    """Serve the workload that is named on the command line; print the port."""
    sink = Sink(workload_named(sys.argv[1]))
    print(sink.port, flush=True)
    try:
        sink.serve()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()

"""The load: one publisher connection, one consumer connection, one loop over both.

The publisher sends as fast as the broker takes it, with a bounded number of messages in flight; the
consumer reads in large pieces. Nothing is done for a single message: frames are made a block at a
time, and what comes back is checked a piece at a time.
"""

import selectors
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from .checks import Confirms, Mismatch, deliveries_of
from .client import BrokerError, Client, Url
from .wire import ACK, method
from .workload import ACK_EVERY, Block, Workload, publish_block

RECEIVE_BYTES = 512 * 1024
"""The most that one read takes."""
IN_FLIGHT_BYTES = 16 * 1024 * 1024
"""Bound of the bodies in flight, whatever the window."""
PATIENCE_S = 30.0
"""After so long without a message moving, a run has failed."""
_ACK_AT = 11
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


@dataclass(frozen=True, slots=True)
class Throughput:
    """What one run moved, all of it checked."""

    rate: float
    """Deliveries per second of the measured time; with confirms, of what was also confirmed."""
    deliveries: int
    """Deliveries of the whole run, with warm-up and rest."""


class Acknowledger:
    """Makes the acks for what was delivered."""

    def __init__(self, workload: Workload) -> None:
        self._every = {"none": 0, "multiple": ACK_EVERY, "single": 1}[workload.acks]
        self._channel = workload.consumer_channel
        self._acked = 0
        self._block = Block([self._ack(False)] * 4096, numbers_at=[_ACK_AT])

    def _ack(self, multiple: bool) -> bytes:
        return method(self._channel, ACK, bytes(8) + bytes([multiple]))

    def acks(self, delivered: int, last: bool) -> bytes:
        """The frames due after ``delivered`` deliveries; all, if these were the ``last``."""
        if self._every == 1:
            return self._singles(delivered)
        if self._every == 0 or delivered == self._acked:
            return b""
        due = range(self._acked + self._every, delivered + 1, self._every)
        tags = list(due)
        if last and self._acked + self._every * len(tags) < delivered:
            tags.append(delivered)
        if not tags:
            return b""
        self._acked = tags[-1]
        head, tail = self._ack(True)[:_ACK_AT], self._ack(True)[_ACK_AT + 8 :]
        return b"".join(head + tag.to_bytes(8, "big") + tail for tag in tags)

    def _singles(self, delivered: int) -> bytes:
        pieces, block = [], self._block
        while self._acked < delivered:
            start = self._acked + 1 - block.first
            if start == block.messages:
                block.advance()
                continue
            end = min(block.messages, delivered + 1 - block.first)
            pieces.append(block.octets[block.offset(start) : block.offset(end)])
            self._acked = block.first + end - 1
        return b"".join(pieces)


class Publisher:
    """Sends messages from number 1 on."""

    def __init__(self, taken_over: socket.socket, workload: Workload) -> None:
        self.socket = taken_over
        self.published = 0
        """Messages of which every octet is sent."""
        self._block = publish_block(workload)
        self._view = memoryview(self._block.octets)
        self._position = 0

    def send(self, room: int) -> bool:
        """Send up to ``room`` messages more; return whether the socket took anything.

        With no room, the rest of a message that was begun.
        """
        block = self._block
        whole = block.whole(self._position)
        begun = self._position > block.offset(whole)
        end = block.offset(min(block.messages, whole + begun + room))
        try:
            sent = self.socket.send(self._view[self._position : end])
        except BlockingIOError:
            return False
        except OSError as error:
            raise BrokerError(f"the broker dropped the publisher: {error}") from error
        self._position += sent
        self.published = block.first - 1 + block.whole(self._position)
        if self._position == len(self._view):
            block.advance()
            self._position = 0
        return sent > 0

    @property
    def between_messages(self) -> bool:
        """Whether no message is sent in part."""
        return self._block.offset(self._block.whole(self._position)) == self._position


class Inbox:
    """Octets of one socket, offered to a check until it has used them."""

    def __init__(self, taken_over: socket.socket) -> None:
        self.socket = taken_over
        self._buffer = bytearray(RECEIVE_BYTES)
        self._view = memoryview(self._buffer)
        self._kept = 0

    def receive(self) -> memoryview:
        """All octets that are there and not used yet. Raises `BrokerError` at the end."""
        try:
            count = self.socket.recv_into(self._view[self._kept :])
        except BlockingIOError:
            return self._view[: self._kept]
        except OSError as error:
            raise BrokerError(f"the broker dropped the connection: {error}") from error
        if count == 0:
            raise BrokerError("the broker closed a connection in the middle of the run")
        self._kept += count
        return self._view[: self._kept]

    def used(self, count: int) -> None:
        """Forget the first ``count`` octets."""
        if count:
            self._buffer[: self._kept - count] = self._buffer[count : self._kept]
            self._kept -= count


class Load:
    """One run of a workload against a broker."""

    def __init__(
        self, publisher: Client, consumer: Client, workload: Workload, window: int
    ) -> None:
        self._workload = workload
        self._window = max(1, min(window, IN_FLIGHT_BYTES // max(workload.body_bytes)))
        # Room is given in portions, so that a fast broker does not reduce sends to a few messages.
        self._portion = max(1, self._window // 20)
        self._publisher = Publisher(publisher.socket, workload)
        self._confirms = Confirms()
        self._deliveries = deliveries_of(workload)
        self._acknowledger = Acknowledger(workload)
        self._confirm_inbox = Inbox(publisher.socket)
        self._delivery_inbox = Inbox(consumer.socket)
        self._ack_outbox = bytearray()
        self._selector = selectors.DefaultSelector()
        self._interest: dict[socket.socket, int] = {}
        for taken_over in (publisher.socket, consumer.socket):
            taken_over.setblocking(False)
            self._selector.register(taken_over, _READ)
            self._interest[taken_over] = _READ

    def run(self, warm_up_s: float, seconds: float) -> Throughput:
        """Load the broker, measure for ``seconds`` after ``warm_up_s``, then wait for the rest.

        Raises `Mismatch` if anything that comes back is wrong, `BrokerError` if nothing does.
        """
        clock = time.perf_counter
        start = moved_at = clock()
        begun_at, begun, rate, done = 0.0, 0, 0.0, 0
        while rate == 0.0 or not self._finished():
            self._turn(publishing=rate == 0.0)
            now, before, done = clock(), done, self._done()
            if done != before:
                moved_at = now
            elif now > moved_at + PATIENCE_S:
                raise BrokerError(f"nothing moved for {PATIENCE_S:.0f} s: {self._state()}")
            if begun_at == 0.0 and now >= start + warm_up_s and done:
                begun_at, begun = now, done
            elif begun_at and rate == 0.0 and now >= begun_at + seconds and done > begun:
                rate = (done - begun) / (now - begun_at)
        self._selector.close()
        return Throughput(rate, self._deliveries.delivered)

    def _done(self) -> int:
        """Deliveries that count: of messages that are confirmed, too, if they must be."""
        delivered = self._deliveries.delivered
        if self._workload.confirms:
            return min(delivered, self._confirms.confirmed * self._workload.copies)
        return delivered

    def _in_flight(self) -> int:
        return self._publisher.published - self._done() // self._workload.copies

    def _finished(self) -> bool:
        published, copies = self._publisher.published, self._workload.copies
        return (
            self._publisher.between_messages
            and self._deliveries.delivered == published * copies
            and (not self._workload.confirms or self._confirms.confirmed == published)
            and not self._ack_outbox
        )

    def _turn(self, publishing: bool) -> None:
        """Do what the sockets are ready for."""
        room = self._window - self._in_flight() if publishing else 0
        sending = room >= self._portion or not self._publisher.between_messages
        self._watch(self._publisher.socket, sending)
        self._watch(self._delivery_inbox.socket, bool(self._ack_outbox))
        for key, events in self._selector.select(0.2):
            if key.fileobj is self._delivery_inbox.socket:
                if events & _READ:
                    self._receive_deliveries(last=not publishing)
                self._send_acks()
            else:
                if events & _READ:
                    self._receive_confirms()
                if events & _WRITE:
                    self._publish(max(0, room))

    def _watch(self, watched: socket.socket, writing: bool) -> None:
        interest = _READ | _WRITE if writing else _READ
        if self._interest[watched] != interest:
            self._interest[watched] = interest
            self._selector.modify(watched, interest)

    def _publish(self, room: int) -> None:
        try:
            self._publisher.send(room)
        except BrokerError:
            self._receive_confirms()  # The reason may have arrived.
            raise

    def _receive_deliveries(self, last: bool) -> None:
        self._delivery_inbox.used(self._deliveries.feed(self._delivery_inbox.receive()))
        delivered = self._deliveries.delivered
        last = last and delivered == self._publisher.published * self._workload.copies
        self._ack_outbox += self._acknowledger.acks(delivered, last)

    def _send_acks(self) -> None:
        if self._ack_outbox:
            try:
                sent = self._delivery_inbox.socket.send(self._ack_outbox)
            except BlockingIOError:
                return
            except OSError as error:
                raise BrokerError(f"the broker dropped the consumer: {error}") from error
            del self._ack_outbox[:sent]

    def _receive_confirms(self) -> None:
        octets = self._confirm_inbox.receive()
        self._confirm_inbox.used(self._confirms.feed(octets, self._publisher.published + 1))

    def _state(self) -> str:
        return (
            f"{self._publisher.published} published, {self._deliveries.delivered} delivered, "
            f"{self._confirms.confirmed} confirmed"
        )


@contextmanager
def stage(
    url: Url, workload: Workload, holder: Url | None = None
) -> Iterator[tuple[Client, Client, Client]]:
    """Director, publisher and consumer, with all that ``workload`` declares; cleans up after.

    The director is connected to ``holder``, if there is one. Nothing is consumed yet.
    """
    with Client(holder or url) as director:
        director.open_channel()
        clear(director, workload)
        prepare(director, workload)
        try:
            with Client(url) as publisher, Client(url, workload.consumer_frame_max) as consumer:
                publisher.open_channel()
                if workload.confirms:
                    publisher.select_confirms()
                consumer.open_channel(workload.consumer_channel)
                yield director, publisher, consumer
        finally:
            with suppress(BrokerError), Client(url) as cleaner:
                cleaner.open_channel()
                clear(cleaner, workload)


def consume(consumer: Client, workload: Workload) -> None:
    """Start a consumer on each queue."""
    for queue in range(workload.queues):
        automatic = workload.acks == "none"
        consumer.consume(workload.queue(queue), automatic, workload.consumer_channel)


def measure(
    url: Url,
    workload: Workload,
    warm_up_s: float,
    seconds: float,
    window: int,
    holder: Url | None = None,
) -> Throughput:
    """Set the stage for ``workload``, run it once, clean up.

    What is declared comes to be on ``holder``, if it is given. Raises `BrokerError` and `Mismatch`.
    """
    with stage(url, workload, holder) as (director, publisher, consumer):
        consume(consumer, workload)
        result = Load(publisher, consumer, workload, window).run(warm_up_s, seconds)
        _nothing_left(director, consumer, workload)
    return result


def prepare(director: Client, workload: Workload) -> None:
    """Declare what the workload needs."""
    for queue in range(workload.queues):
        director.declare_queue(workload.queue(queue), durable=workload.durable)
    if workload.exchange:
        director.declare_exchange(workload.exchange, workload.exchange_type)
    if workload.exchange_type == "fanout":
        for queue in range(workload.queues):
            director.bind(workload.queue(queue), workload.exchange, "")
    for slot in range(workload.bindings):
        director.bind(workload.queue(0), workload.exchange, f"{workload.word(slot)}.*")


def clear(director: Client, workload: Workload) -> None:
    """Delete what the workload declares."""
    if workload.exchange:
        director.delete_exchange(workload.exchange)
    for queue in range(workload.queues):
        director.delete_queue(workload.queue(queue))


def _nothing_left(director: Client, consumer: Client, workload: Workload) -> None:
    """Raise `Mismatch` if a queue still holds or sends anything after the last message."""
    for queue in range(workload.queues):
        name = workload.queue(queue)
        if ready := director.declare_queue(name, passive=True):
            raise Mismatch(f"after the last message, {ready} are left in {name}")
    try:
        extra = consumer.socket.recv(4096)
    except BlockingIOError:
        return
    raise Mismatch(f"after the last message, the consumer received {extra[:64].hex(' ')}")

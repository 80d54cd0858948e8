"""Every message must come back, once, in order and whole.

The checks are part of the measured loop, so that a broker that loses, repeats, reorders or alters
anything fails its row. They cost nanoseconds per message: what comes back is compared, octet for
octet, with a block that was made beforehand.
"""

import struct
from typing import Protocol

from .wire import ACK, METHOD, NACK, closing, read_frame, which_method
from .workload import Workload, delivery, delivery_block, delivery_layout


class Mismatch(Exception):
    """The broker did not send what it had to; the text says where."""


class Deliveries(Protocol):
    """Looks at everything that the consumer receives."""

    delivered: int
    """Deliveries that were received whole."""

    def feed(self, octets: memoryview) -> int:
        """Check ``octets`` and return how many were used; the rest must come again, with more.

        Raises `Mismatch`.
        """


class OrderedDeliveries:
    """Deliveries in the order of publishing: the stream must be equal to what was foreseen."""

    def __init__(self, workload: Workload) -> None:
        self.delivered = 0
        self._block = delivery_block(workload)
        self._position = 0

    def feed(self, octets: memoryview) -> int:
        """Check ``octets``, all of them."""
        used, total = 0, len(octets)
        block = self._block
        while used < total:
            piece = octets[used : used + len(block.octets) - self._position]
            # startswith is memcmp: 1 ns for the 110 octets of a small delivery.
            if not block.octets.startswith(piece, self._position):
                raise Mismatch(self._explain(bytes(piece)))
            used += len(piece)
            self._position += len(piece)
            self.delivered = block.first - 1 + block.whole(self._position)
            if self._position == len(block.octets):
                block.advance()
                self._position = 0
        return used

    def _explain(self, octets: bytes) -> str:
        foreseen = bytes(self._block.octets[self._position : self._position + len(octets)])
        at = next(i for i, (a, b) in enumerate(zip(octets, foreseen, strict=True)) if a != b)
        slot = self._block.whole(self._position + at)
        start = self._block.offset(slot) - self._position
        if start >= 0 and (reason := _closed(octets[start:])):
            return f"the broker closes the consumer: {reason}"
        offset = at - start
        return (
            f"delivery {self._block.first + slot} is wrong at octet {offset}: "
            f"received {octets[at : at + 16].hex(' ')}, expected {foreseen[at : at + 16].hex(' ')}"
        )


class InterleavedDeliveries:
    """Deliveries from several queues: in order within each queue, tags consecutive over all."""

    def __init__(self, workload: Workload) -> None:
        layout = delivery_layout(workload)
        self.delivered = 0
        self._step = 1 if workload.copies > 1 else workload.queues
        self._numbers: dict[bytes, int] = {}
        self._middles: dict[bytes, bytes] = {}
        for queue in range(workload.queues):
            consumer = workload.queue(queue).encode()
            sample = delivery(workload, queue, queue)
            self._numbers[consumer] = 1 if workload.copies > 1 else 1 + queue
            self._middles[consumer] = sample[layout.tag_at + 8 : layout.number_at]
        self._prefix = sample[: layout.consumer_at]
        self._suffix = sample[layout.number_at + 8 :]
        self._stride = layout.stride
        self._fields = struct.Struct(
            f">{len(self._prefix)}s{len(consumer)}sQ{len(self._middles[consumer])}s"
            f"Q{len(self._suffix)}s"
        )

    def feed(self, octets: memoryview) -> int:
        """Check the deliveries that are whole."""
        count = len(octets) // self._stride
        used = count * self._stride
        numbers, middles, step = self._numbers, self._middles, self._step
        expected_prefix, expected_suffix = self._prefix, self._suffix
        tag = self.delivered
        whole = octets[:used]
        for prefix, consumer, given, middle, number, suffix in self._fields.iter_unpack(whole):
            tag += 1
            if (
                prefix != expected_prefix
                or given != tag
                or number != numbers.get(consumer)
                or middle != middles[consumer]
                or suffix != expected_suffix
            ):
                start = (tag - 1 - self.delivered) * self._stride
                raise Mismatch(self._explain(tag, octets[start:], consumer, given, number))
            numbers[consumer] = number + step
        self.delivered = tag
        if used < len(octets) and (reason := _closed(bytes(octets[used:]))):
            raise Mismatch(f"the broker closes the consumer: {reason}")
        return used

    def _explain(
        self, tag: int, octets: memoryview, consumer: bytes, given: int, number: int
    ) -> str:
        if reason := _closed(bytes(octets)):
            return f"the broker closes the consumer: {reason}"
        return (
            f"delivery {tag} is wrong: consumer {consumer!r} received tag {given} and message "
            f"{number}, expected tag {tag} and message {self._numbers.get(consumer)}"
        )


def deliveries_of(workload: Workload) -> Deliveries:
    """The strictest check that fits the workload."""
    if workload.queues > 1:
        return InterleavedDeliveries(workload)
    return OrderedDeliveries(workload)


class Confirms:
    """Every published message must be confirmed exactly once."""

    def __init__(self) -> None:
        self.confirmed = 0
        """Messages that are confirmed."""
        self._lowest = 1
        self._early: set[int] = set()

    def feed(self, octets: memoryview, published: int) -> int:
        """Take in confirms of the messages 1 to ``published``; return the octets that were used.

        Raises `Mismatch` for a confirm that does not confirm anything, for a nack and for any
        other method.
        """
        used = 0
        try:
            while whole := read_frame(octets, used):
                kind, _, payload, used = whole
                if kind != 8:
                    self._take(kind, payload, published)
        except ValueError as error:
            raise Mismatch(f"the publisher received garbage: {error}") from error
        return used

    def _take(self, kind: int, payload: bytes, published: int) -> None:
        which = which_method(payload) if kind == METHOD else None
        if which == ACK:
            _, _, tag, multiple = struct.unpack(">HHQB", payload)
            self._confirm(tag, multiple == 1, published)
        elif which == NACK:
            raise Mismatch("the broker refused a message (basic.nack)")
        else:
            reason = which and closing(which, payload)
            raise Mismatch(f"the publisher received {reason or f'{which} instead of a confirm'}")

    def _confirm(self, tag: int, multiple: bool, published: int) -> None:
        if tag > published:
            raise Mismatch(f"message {tag} was confirmed, but only {published} were published")
        if tag < self._lowest or tag in self._early:
            raise Mismatch(f"message {tag} was confirmed twice")
        if multiple:
            self.confirmed += tag + 1 - self._lowest
            early = {n for n in self._early if n <= tag}
            self.confirmed -= len(early)
            self._early -= early
            self._lowest = tag + 1
        else:
            self.confirmed += 1
            self._early.add(tag)
        while self._lowest in self._early:
            self._early.remove(self._lowest)
            self._lowest += 1


def _closed(octets: bytes) -> str | None:
    """The reason, if ``octets`` start with a method that ends a connection or a channel."""
    try:
        whole = read_frame(octets)
    except ValueError:
        return None
    if whole is None or whole[0] != METHOD:
        return None
    return closing(which_method(whole[2]), whole[2])

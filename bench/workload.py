"""What a throughput row sends, and the octets that must come back for it.

Messages are numbered from 1. A body starts with the number in eight octets, the rest is filler.
Both directions are made once, as a block of some thousand messages that is renumbered in place:
the generator sends one and compares what it receives with the other.
"""

import struct
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import lcm

from .wire import (
    DELIVER,
    PUBLISH,
    content,
    content_header,
    method,
    octets_of,
    shortstr,
    write_column,
)

ACK_EVERY = 100
"""Messages that one ack settles in the rows with multiple acks."""
BLOCK_BYTES = 512 * 1024
"""Size that a block of messages is kept near, so that it stays in the processor's cache."""
HEX_DIGITS = 16
_NO_NUMBER = "0" * HEX_DIGITS


@dataclass(frozen=True, slots=True)
class Workload:
    """One publisher connection, one consumer connection, and what goes between them."""

    name: str
    title: str
    body_bytes: tuple[int, ...] = (16,)
    """Sizes of the bodies, in turn."""
    queues: int = 1
    exchange_type: str = ""
    """Empty for the default exchange; messages then go to each queue in turn."""
    bindings: int = 0
    """Bindings of a topic exchange, all to one queue; each message matches one."""
    acks: str = "none"
    """``none``: automatic; ``multiple``: every `ACK_EVERY` messages; ``single``: each message."""
    confirms: bool = False
    message_ids: bool = False
    durable: bool = False
    """Durable queues and persistent messages."""
    redelivered: bool = False
    """What deliveries must say: after a crash, that the message may have been delivered before."""
    consumer_channel: int = 1
    consumer_frame_max: int = 131072

    @property
    def exchange(self) -> str:
        """The exchange that messages are published to."""
        return "bench" if self.exchange_type else ""

    @property
    def copies(self) -> int:
        """Deliveries for each message."""
        return self.queues if self.exchange_type == "fanout" else 1

    @property
    def block_messages(self) -> int:
        """Messages in a block: whole turns of all queues or bindings."""
        turn = lcm(self.queues, max(1, self.bindings), len(self.body_bytes))
        return turn * max(1, BLOCK_BYTES // (max(self.body_bytes) + 128) // turn)

    def queue(self, slot: int) -> str:
        """The name of the queue that message ``slot`` of a block goes to, also its consumer tag."""
        return f"bench.{slot % self.queues:04}"

    def word(self, slot: int) -> str:
        """The word by which a binding of a topic exchange is found."""
        return f"w{slot % self.bindings:05}"

    def routing_key(self, slot: int) -> str:
        """The routing key; for a topic exchange it ends with the message's number."""
        if self.exchange_type == "topic":
            return f"{self.word(slot)}.{_NO_NUMBER}"
        return "" if self.exchange_type else self.queue(slot)

    def header(self, slot: int) -> bytes:
        """The content header's payload."""
        size = self.body_bytes[slot % len(self.body_bytes)]
        return content_header(size, _NO_NUMBER if self.message_ids else "", self.durable)

    def body(self, slot: int) -> bytes:
        """A body with the number 0."""
        return bytes(8) + b"." * (self.body_bytes[slot % len(self.body_bytes)] - 8)


class Block:
    """Frames of consecutive messages, side by side, renumbered in place.

    Each of ``frames`` is one message's, or one of the ``copies`` of a message, which stand in a
    row; the sizes repeat every ``period``. ``numbers_at`` and ``texts_at`` are the offsets of the
    message's number within them, as eight octets and as hexadecimal digits; ``tags_at`` is the
    offset of a number that goes up with every copy.
    """

    def __init__(
        self,
        frames: Sequence[bytes],
        numbers_at: Sequence[int] = (),
        texts_at: Sequence[int] = (),
        tags_at: int | None = None,
        copies: int = 1,
        period: int = 1,
    ) -> None:
        self.octets = bytearray().join(frames)
        self.first = 1
        self.messages = len(frames) // copies
        self._copies = copies
        self._period = period = max(period, copies)
        self._starts = [0, *accumulate(map(len, frames[: period - 1]))]
        self._span = sum(map(len, frames[:period]))
        assert len(self.octets) * period == self._span * len(frames), "sizes do not repeat"
        self._numbers_at = numbers_at
        self._texts_at = texts_at
        self._tags_at = tags_at
        self.renumber(1)

    def renumber(self, first: int) -> None:
        """Make the first message of the block bear the number ``first``."""
        self.first = first
        copies, span, each = self._copies, self._span, self._period // self._copies
        numbers = octets_of(first, self.messages)
        tags = numbers
        if copies > 1 and self._tags_at is not None:
            tags = octets_of((first - 1) * copies + 1, self.messages * copies)
        digits = numbers.hex().encode() if self._texts_at else b""
        for i, start in enumerate(self._starts):
            mine = i // copies
            for at in self._numbers_at:
                write_column(self.octets, start + at, span, numbers[8 * mine :], 8, 8 * each)
            for at in self._texts_at:
                text = digits[HEX_DIGITS * mine :]
                write_column(self.octets, start + at, span, text, HEX_DIGITS, HEX_DIGITS * each)
            if self._tags_at is not None:
                tag = tags[8 * i :]
                write_column(self.octets, start + self._tags_at, span, tag, 8, 8 * self._period)

    def advance(self) -> None:
        """Go on to the messages that follow."""
        self.renumber(self.first + self.messages)

    def whole(self, position: int) -> int:
        """How many of the frames end within the first ``position`` octets."""
        periods, rest = divmod(position, self._span)
        return periods * self._period + bisect_right(self._starts, rest) - 1

    def offset(self, count: int) -> int:
        """Octets of the first ``count`` of the frames."""
        periods, rest = divmod(count, self._period)
        return periods * self._span + self._starts[rest]


@dataclass(frozen=True, slots=True)
class DeliveryLayout:
    """Offsets within the frames of one delivery."""

    consumer_at: int
    tag_at: int
    number_at: int
    stride: int


def publish(workload: Workload, slot: int, frame_max: int = 131072) -> bytes:
    """The frames that publish message ``slot`` of a block."""
    names = shortstr(workload.exchange) + shortstr(workload.routing_key(slot))
    command = method(1, PUBLISH, bytes(2) + names + bytes(1))
    return command + content(1, workload.header(slot), workload.body(slot), frame_max)


def delivery(workload: Workload, slot: int, queue: int) -> bytes:
    """The frames that deliver message ``slot`` of a block from ``queue``; the tag is 0."""
    channel = workload.consumer_channel
    names = shortstr(workload.exchange) + shortstr(workload.routing_key(slot))
    flag = bytes([workload.redelivered])
    arguments = shortstr(workload.queue(queue)) + bytes(8) + flag + names
    body = content(channel, workload.header(slot), workload.body(slot), workload.consumer_frame_max)
    return method(channel, DELIVER, arguments) + body


def _content_at(workload: Workload, command: bytes) -> tuple[int, list[int]]:
    """Offsets of the number in the body and of its digits in key and message-id.

    ``command`` is the method frame before the content, whose last argument is the routing key
    followed by at most one octet of flags.
    """
    texts = []
    if workload.exchange_type == "topic":
        texts.append(command.rindex(_NO_NUMBER.encode()))
    header = workload.header(0)
    if workload.message_ids:
        texts.append(len(command) + 7 + header.rindex(_NO_NUMBER.encode()))
    return len(command) + len(header) + 8 + 7, texts


def publish_block(workload: Workload) -> Block:
    """What the publisher sends: from message 1 on."""
    frames = [publish(workload, slot) for slot in range(workload.block_messages)]
    number_at, texts_at = _content_at(workload, first_frame(frames[0]))
    return Block(frames, [number_at], texts_at, period=len(workload.body_bytes))


def delivery_block(workload: Workload) -> Block:
    """What the consumer receives if queues take turns, a message's copies in order of queues."""
    queues = range(workload.queues) if workload.copies > 1 else [None]
    frames = [
        delivery(workload, slot, slot if queue is None else queue)
        for slot in range(workload.block_messages)
        for queue in queues
    ]
    layout = delivery_layout(workload)
    texts_at = _content_at(workload, first_frame(frames[0]))[1]
    return Block(
        frames,
        [layout.number_at],
        texts_at,
        layout.tag_at,
        copies=workload.copies,
        period=len(workload.body_bytes),
    )


def delivery_layout(workload: Workload) -> DeliveryLayout:
    """Where things are in a delivery."""
    octets = delivery(workload, 0, 0)
    number_at, _ = _content_at(workload, first_frame(octets))
    tag_at = 12 + len(workload.queue(0))
    return DeliveryLayout(12, tag_at, number_at, len(octets))


def first_frame(octets: bytes) -> bytes:
    """The first frame of several."""
    (size,) = struct.unpack_from(">I", octets, 3)
    return octets[: size + 8]

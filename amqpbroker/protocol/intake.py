"""What a peer sends on channels at work: messages and acks, out of the receive buffer.

Work is mostly publishes and acks, and mostly like the one before. A publish that lies whole in the
buffer is taken in one go, its octets all checked; then the next is *predicted* to begin with the
same octets up to its body (method, properties, sizes), which one comparison proves or refutes. Such
messages leave as one event: a run.
"""

import struct

import attrs

from amqpbroker.errors import (
    FrameError,
    HardError,
    NotAllowed,
    PreconditionFailed,
    UnexpectedFrame,
)
from amqpbroker.message import Traits
from amqpbroker.protocol.assembly import Assembly
from amqpbroker.protocol.events import ChannelEvent, ChannelFault, Publish, PublishMethod, Settle
from amqpbroker.protocol.faults import cannot_decode
from amqpbroker.protocol.fields import read_shortstr
from amqpbroker.protocol.frames import (
    ACK_INDEX,
    BASIC,
    BODY,
    CONTENT_HEADER,
    FRAME_END,
    FRAME_HEAD_BYTES,
    FRAME_HEADER,
    FRAME_OVERHEAD_BYTES,
    HEADER,
    PROPERTIES_AT,
    PUBLISH_INDEX,
)
from amqpbroker.protocol.properties import PLAIN, read_properties

RUN_MAX = 1024
"""Messages in one event: bounds the work between two looks at the budget."""
SPENT_MAX = 256
"""Work after which the session is told of it."""
_BYTES_PER_WORK = 4
"""Octets of a table that count as one: a field has hardly less."""
_BYTES_SPENT_MIN = 1024
"""A table with fewer octets does not count."""
_METHODS_KEPT_MAX = 1024
_WHOLE_BODY_FRAMES_MAX = 64
"""A body in more frames is taken frame by frame, and joined."""

ACK_BYTES = 21
"""A whole frame of basic.ack."""
_TAG_AND_BITS = struct.Struct(">QB")
_TAG_BITS_END = struct.Struct(">QBB")
_HEADER_PAYLOAD_BYTES_MIN = 14
_EXCHANGE_AT = 6
"""Where the arguments of basic.publish begin: behind its index and the reserved ticket."""
_CONTENT_HEAD = struct.Struct(">BHIIQ")
_CONTENT_BYTES_MIN = FRAME_HEAD_BYTES + _HEADER_PAYLOAD_BYTES_MIN + 1
_CLASS_AND_WEIGHT = BASIC << 16
_NO_CONTENT = (0, 0, 0, 0, PLAIN)
"""Channel, start, start of the body, end and traits of a content in the buffer: none yet."""


@attrs.frozen
class WireLimits:
    """What the broker offers a peer, and the most that it takes from it."""

    frame_max: int = 131072
    channel_max: int = 2047
    heartbeat_s: int = 60
    frame_max_before_tune: int = 4096
    message_bytes_max: int = 128 * 1024 * 1024


@attrs.define(eq=False)
class OpenChannel:
    """What the protocol must know of an open channel."""

    closing: bool = False
    content: Assembly | None = None


class Intake:
    """The receive buffer and the open channels: reads messages and acks.

    It is the lower half of a `Connection`, which knows what may come when.
    """

    def __init__(self, limits: WireLimits) -> None:
        self.limits = limits
        self.frame_max = limits.frame_max_before_tune
        self.channel_max = limits.channel_max
        self._payload_bytes_max = self.frame_max - FRAME_OVERHEAD_BYTES
        self._data = b""
        self._position = 0
        self._channels: dict[int, OpenChannel] = {}
        self._methods: dict[bytes, PublishMethod] = {}
        self._last_content = _NO_CONTENT
        self._spent = 0
        """Work that no event has told of yet."""

    def _append(self, data: bytes) -> None:
        self._data = self._data[self._position :] + data if self._data else data
        self._position = 0
        self._last_content = _NO_CONTENT

    @property
    def content_pending(self) -> bool:
        """Whether a message has come in part."""
        return any(channel.content is not None for channel in self._channels.values())

    def _check_channel_max(self) -> None:
        """Whether one more channel may be opened (RabbitMQ counts them, whatever their numbers)."""
        count = len(self._channels)
        if self.channel_max and count >= self.channel_max:
            raise NotAllowed(
                f"number of channels opened ({count}) has reached the"
                f" negotiated channel_max ({self.channel_max})"
            )

    # -- settling ------------------------------------------------------------------------------

    def _take_acks(self, number: int, start: int, end: int) -> Settle:
        """One basic.ack, and those behind it that count on by one."""
        data = self._data
        first, bits = _TAG_AND_BITS.unpack_from(data, start + 11)
        last = first
        if not bits & 1:
            prefix = data[start : start + 11]
            unpack = _TAG_BITS_END.unpack_from
            stop = len(data) - ACK_BYTES
            while end <= stop and data.startswith(prefix, end):
                tag, more, mark = unpack(data, end + 11)
                if tag != last + 1 or more & 1 or mark != FRAME_END:
                    break
                last = tag
                end += ACK_BYTES
            self._position = end
        return Settle(number, ACK_INDEX, first, last, bool(bits & 1), False)

    # -- content -------------------------------------------------------------------------------

    def _take_publish(
        self, number: int, channel: OpenChannel, start: int, end: int
    ) -> ChannelEvent | None:
        """A basic.publish, and all that follow it with the same method and traits, as one run."""
        data = self._data
        payload = data[start + 7 : end - 1]
        method = self._methods.get(payload) or self._learn_method(payload)
        whole = self._whole_content(number, end)
        if whole is None:
            channel.content = Assembly(method, self._payload_bytes_max)
            return None
        position, traits, body_start = whole
        raws = [data[end:position]]
        command = data[start:end]
        skip = end - start
        run_max = RUN_MAX if self._spent < SPENT_MAX else 1  # One large table at a time.
        while True:
            prefix = data[start:body_start]
            if prefix and data.startswith(prefix, position):
                # The next message differs from this one in its body alone, and so may others.
                stride = position - start
                stop = min(len(data), position + (RUN_MAX - len(raws)) * stride) - stride
                while (
                    position <= stop
                    and data.startswith(prefix, position)
                    and data[position + stride - 1] == FRAME_END
                ):
                    raws.append(data[position + skip : position + stride])
                    position += stride
            start = position
            if len(raws) >= run_max or not data.startswith(command, start):
                break
            try:
                whole = self._whole_content(number, start + skip)
            except HardError:
                break  # It is raised again when its turn comes: what precedes it counts.
            if whole is None or whole[1] is not traits:
                break
            position, _, body_start = whole
            raws.append(data[start + skip : position])
        self._position = start
        return Publish(number, method, traits, raws)

    def _learn_method(self, payload: bytes) -> PublishMethod:
        try:
            exchange, position = read_shortstr(payload, _EXCHANGE_AT)
            routing_key, position = read_shortstr(payload, position)
        except FrameError:
            position = -1
        if position + 1 != len(payload):
            raise cannot_decode(PUBLISH_INDEX, payload)
        bits = payload[position]
        address = payload[_EXCHANGE_AT:position]
        method = PublishMethod(
            payload, address, exchange, routing_key, bool(bits & 1), bool(bits & 2)
        )
        if len(self._methods) >= _METHODS_KEPT_MAX:
            self._methods.clear()
        self._methods[payload] = method
        return method

    def _whole_content(self, number: int, start: int) -> tuple[int, Traits, int] | None:
        """The content at ``start`` if it lies whole and sound in the buffer.

        Returns its end, its traits, and where its body begins if that is one frame (or none), else
        0. None leaves the judgement to `_take_content`, which looks at single frames.
        """
        data = self._data
        limit = len(data)
        likely_number, head, body, end, traits = self._last_content
        if number == likely_number and data.startswith(data[head:body], start):
            # All but the body is as it was the last time.
            end += start - head
            if end <= limit and data[end - 1] == FRAME_END:
                return end, traits, start + body - head
        if start + _CONTENT_BYTES_MIN > limit:
            return None
        kind, channel, size, class_and_weight, remaining = _CONTENT_HEAD.unpack_from(data, start)
        end = start + size + FRAME_OVERHEAD_BYTES
        if (
            kind != HEADER
            or channel != number
            or not _HEADER_PAYLOAD_BYTES_MIN <= size <= self._payload_bytes_max
            or end > limit
            or data[end - 1] != FRAME_END
            or class_and_weight != _CLASS_AND_WEIGHT
            or remaining > self.limits.message_bytes_max
        ):
            return None
        traits = read_properties(data[start + PROPERTIES_AT : end - 1])
        if size >= _BYTES_SPENT_MIN:  # As `_spend`, without a call for each message.
            self._spent += size // _BYTES_PER_WORK
        if not remaining:
            return end, traits, end
        stop, frames = self._whole_body(number, end, remaining)
        if not stop:
            return None
        if frames > 1:
            self._spent += frames
            return stop, traits, 0
        body_start = end + FRAME_HEAD_BYTES
        self._last_content = number, start, body_start, stop, traits
        return stop, traits, body_start

    def _whole_body(self, number: int, end: int, remaining: int) -> tuple[int, int]:
        """Where the body that begins at ``end`` ends, and the number of its frames.

        Both are 0 if it is not whole and sound, or has too many frames.
        """
        data = self._data
        limit = len(data)
        frames = 0
        while remaining:
            if end + FRAME_OVERHEAD_BYTES > limit or frames == _WHOLE_BODY_FRAMES_MAX:
                return 0, 0
            kind, channel, size = FRAME_HEADER.unpack_from(data, end)
            end += size + FRAME_OVERHEAD_BYTES
            if (
                kind != BODY
                or channel != number
                or size > self._payload_bytes_max
                or size > remaining
                or end > limit
                or data[end - 1] != FRAME_END
            ):
                return 0, 0
            remaining -= size
            frames += 1
        return end, frames

    def _take_content(self, kind: int, number: int, start: int, end: int) -> ChannelEvent | None:
        """A header or body frame by itself: a message that arrives in pieces."""
        channel = self._channels.get(number)
        if channel is None:
            self._check_channel_max()
        elif channel.closing:
            return None
        if channel is None or channel.content is None:
            raise UnexpectedFrame("expected method frame, got non method frame instead")
        content = channel.content
        if content.remaining < 0:
            fault = self._take_content_header(content, kind, number, start, end)
            if fault is not None:
                # The channel is as good as closed, whenever the close goes out.
                channel.closing = True
                channel.content = None
                return fault
        elif kind != BODY:
            raise content.unexpected()
        else:
            if end - start == FRAME_OVERHEAD_BYTES:
                return None  # Empty frames would gather without end.
            content.add_body(self._data, start, end)
            if content.remaining < 0:
                raise FrameError("the body is longer than its header announced", PUBLISH_INDEX)
        if content.remaining:
            return None
        channel.content = None
        assert content.traits is not None
        return Publish(number, content.method, content.traits, [bytes(content.raw)])

    def _take_content_header(
        self, content: Assembly, kind: int, number: int, start: int, end: int
    ) -> ChannelFault | None:
        data = self._data
        if kind != HEADER:
            raise content.unexpected()
        class_id, weight, size = CONTENT_HEADER.unpack_from(data, start + 7)
        if weight:
            raise content.unexpected()
        if class_id != BASIC:
            raise UnexpectedFrame(
                f"expected content header for class {BASIC}, got one for class {class_id} instead",
                PUBLISH_INDEX,
            )
        size_max = self.limits.message_bytes_max
        if size > size_max:
            return ChannelFault(
                number,
                PreconditionFailed(
                    f"message size {size} is larger than configured max size {size_max}"
                ),
                PUBLISH_INDEX,
            )
        traits = read_properties(data[start + PROPERTIES_AT : end - 1])
        self._spend(end - start)
        content.add_header(data[start:end], traits, size)
        return None

    def _spend(self, size: int) -> None:
        """Count octets that were decoded, if they may have been many fields."""
        if size >= _BYTES_SPENT_MIN:
            self._spent += size // _BYTES_PER_WORK

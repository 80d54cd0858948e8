"""One connection as a machine without I/O.

Bytes go in by `Connection.receive`; what the peer did comes out of `Connection.next_event`, one
event a call, so that whoever acts on the events can stop between any two (a channel that waits, a
turn that has used up its budget, a publisher that must be held back) and go on later. Bytes to be
sent gather in an outbox that is taken whole.

The life of a connection is a line: protocol header, start, tune, open, then work, then close (AMQP
0-9-1, section 2.2.4). `_due` says which method is due in which state; anything else is an error
there. A peer that errs before it has agreed on limits is not told so: its connection just
ends, as RabbitMQ's does. Once a hard error was sent, nothing of the peer counts but its close-ok;
after a fault in the framing itself not even that can be found, and only the end of the stream is
left.

Work is mostly publishes and acks, and mostly like the one before. A publish that lies whole in the
buffer is taken in one go, its octets all checked; then the next is *predicted* to begin with the
same octets up to its body (method, properties, sizes), which one comparison proves or refutes. Such
messages leave as one event: a run.
"""

import struct
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

import attrs
from pamqp import commands
from pamqp.base import Frame

from amqpbroker.errors import (
    AmqpError,
    ChannelError,
    FrameError,
    HardError,
    LoginRefused,
    NotAllowed,
    PreconditionFailed,
    UnexpectedFrame,
)
from amqpbroker.message import Traits
from amqpbroker.protocol.assembly import Assembly
from amqpbroker.protocol.content import PLAIN, read_properties
from amqpbroker.protocol.events import (
    ChannelEvent,
    ChannelFault,
    ChannelOpened,
    Closed,
    Event,
    Login,
    Method,
    Open,
    Publish,
    PublishMethod,
    SecretUpdated,
    Settle,
    Worked,
)
from amqpbroker.protocol.faults import cannot_decode, frame_error, unexpected_frame
from amqpbroker.protocol.fields import read_shortstr
from amqpbroker.protocol.frames import (
    ACK_INDEX,
    BODY,
    CHANNEL_CLOSE_INDEX,
    CHANNEL_CLOSE_OK_INDEX,
    CHANNEL_OPEN_INDEX,
    CONTENT_HEADER,
    FRAME_BYTES_MIN,
    FRAME_END,
    FRAME_HEADER,
    FRAME_OVERHEAD_BYTES,
    HEADER,
    HEARTBEAT,
    HEARTBEAT_FRAME,
    METHOD,
    METHOD_INDEX,
    PROTOCOL_HEADER,
    PUBLISH_INDEX,
    decode_method,
    encode_method,
)
from amqpbroker.protocol.sasl import MECHANISMS, credentials

RUN_MAX = 1024
"""Messages in one event: bounds the work between two looks at the budget."""
_METHODS_KEPT_MAX = 1024
_METHOD_BYTES_MIN = 12
_HEADER_PAYLOAD_BYTES_MIN = 14
_HEADER_BYTES_MIN = 20
"""A header frame that RabbitMQ takes for one: it may lack the property flags."""
_TAG_AND_BITS = struct.Struct(">QB")
_TAG_BITS_END = struct.Struct(">QBB")
_ACK_BYTES = 21
_WHOLE_BODY_FRAMES_MAX = 64
"""A body in more frames is taken frame by frame, and joined."""
_SPENT_MAX = 256
_FRAME_WORK = 2
_BYTES_SPENT_MIN = 1024
_BYTES_PER_WORK = 4
"""Tables are counted by their octets, from so many on: a field has four at least, about."""
_FRAME_HEAD_BYTES = 7
_EXCHANGE_AT = 6
"""Where the arguments of basic.publish begin: behind its index and the reserved ticket."""
_PROPERTIES_AT = 19
"""Where a header frame's property block begins."""
_CONTENT_HEAD = struct.Struct(">BHIIQ")
_CONTENT_BYTES_MIN = _FRAME_HEAD_BYTES + _HEADER_PAYLOAD_BYTES_MIN + 1
_CLASS_BASIC = 60 << 16
_NO_CONTENT = (0, 0, 0, 0, PLAIN)
"""Channel, start, start of the body, end and traits of a content in the buffer: none yet."""


@attrs.frozen
class WireLimits:
    """What the broker offers a peer, and what it takes from it at most."""

    frame_max: int = 131072
    channel_max: int = 2047
    heartbeat_s: int = 60
    frame_max_before_tune: int = 4096
    message_bytes_max: int = 128 * 1024 * 1024


class State(Enum):
    """Where a connection is in its life."""

    HEADER = auto()
    STARTING = auto()
    LOGGING_IN = auto()
    TUNING = auto()
    OPENING = auto()
    GRANTING = auto()
    RUNNING = auto()
    CLOSING = auto()
    CLOSED = auto()


@attrs.define(eq=False)
class _Channel:
    """What the protocol must know of an open channel."""

    closing: bool = False
    content: Assembly | None = None


class Connection:
    """The server's end of one AMQP connection.

    ``server_properties`` are told to the peer. ``now_s`` is the time of the start, in seconds of a
    monotonic clock, as everywhere here.
    """

    def __init__(self, limits: WireLimits, server_properties: dict[str, Any], now_s: float) -> None:
        self.limits = limits
        self.state = State.HEADER
        self.frame_max = limits.frame_max_before_tune
        self._payload_bytes_max = self.frame_max - FRAME_OVERHEAD_BYTES
        self.channel_max = limits.channel_max
        self.heartbeat_s = 0
        self.capabilities: dict[str, Any] = {}
        self.outbox_bytes = 0
        self._outbox: list[bytes] = []
        self._server_properties = server_properties
        self._data = b""
        self._position = 0
        self._heard_s = self._spoke_s = now_s
        self._lost = False
        self._channels: dict[int, _Channel] = {}
        self._methods: dict[bytes, PublishMethod] = {}
        self._last_content = _NO_CONTENT
        self._spent = 0
        """Work that no event has told of yet."""

    # -- bytes in ------------------------------------------------------------------------------

    def receive(self, data: bytes, now_s: float) -> None:
        """Take bytes from the peer; `next_event` tells what they mean."""
        self._heard_s = now_s
        self._data = self._data[self._position :] + data if self._data else data
        self._position = 0
        self._last_content = _NO_CONTENT

    @property
    def content_pending(self) -> bool:
        """Whether a message has come in part."""
        return any(channel.content is not None for channel in self._channels.values())

    def next_event(self) -> Event | None:
        """What the peer did next; None when that needs more bytes.

        The work between two events is bounded, but for what a single frame takes.

        Raises `HardError` for what ends the connection: pass it to `fail`.
        """
        if self.state is State.HEADER:
            self._read_protocol_header()
            if self.state is State.HEADER:
                return None
        while self.state is not State.CLOSED and not self._lost:
            if self._spent >= _SPENT_MAX:
                work, self._spent = self._spent, 0
                return Worked(work)
            data, start = self._data, self._position
            left = len(data) - start
            if left < _FRAME_HEAD_BYTES:
                break
            kind, number, size = FRAME_HEADER.unpack_from(data, start)
            if size > self.frame_max:  # By the overhead more than agreed: some peers miscount.
                self._lose(kind, b"", f"{{frame_too_large,{size},{self._payload_bytes_max}}}")
            end = start + size + FRAME_OVERHEAD_BYTES
            if end > len(data):
                return None
            if data[end - 1] != FRAME_END:
                marker = f"{{invalid_frame_end_marker,{data[end - 1]}}}"
                self._lose(kind, data[start + 7 : end - 1], marker)
            self._position = end
            if kind == METHOD and number and self.state is State.RUNNING:
                event: Event | None = self._take_method(number, start, end)
            else:
                event = self._take_frame(kind, number, start, end)
            if event is not None:
                return event
            self._spent += _FRAME_WORK
        if self._position == len(self._data) or self.state is State.CLOSED or self._lost:
            self._data = b""  # Not a byte is kept for an idle connection.
            self._position = 0
        return None

    def _read_protocol_header(self) -> None:
        """Section 4.2.2: a header that is not ours is answered with ours, and the end."""
        header = self._data[:8]
        if header[:4] != b"AMQP"[: len(header)] or (
            len(header) == 8 and header not in (PROTOCOL_HEADER, b"AMQP\x01\x01\x00\x09")
        ):
            self.send(PROTOCOL_HEADER)
            self.state = State.CLOSED
        elif len(header) == 8:
            self._position = 8
            self.state = State.STARTING
            self._send_method(
                0,
                commands.Connection.Start(0, 9, self._server_properties, MECHANISMS, "en_US"),
            )

    def _lose(self, kind: int, payload: bytes, why: str) -> None:
        """The framing is lost: no byte that follows can be trusted."""
        self._lost = True
        raise frame_error(kind, payload, why)

    def _take_frame(self, kind: int, number: int, start: int, end: int) -> Event | None:
        """Any frame but a method on a channel at work."""
        if self.state is State.CLOSING:
            return self._take_last_words(kind, number, start, end)
        size = end - start
        if number and self.state is State.RUNNING:
            if kind == BODY or (kind == HEADER and size >= _HEADER_BYTES_MIN):
                return self._take_content(kind, number, start, end)
        elif not number:
            if kind == HEARTBEAT and size == FRAME_OVERHEAD_BYTES:
                return None
            if kind == METHOD and size >= _METHOD_BYTES_MIN:
                return self._take_connection_method(self._data[start + 7 : end - 1])
        raise self._misplaced(kind, number, self._data[start + 7 : end - 1])

    def _misplaced(self, kind: int, number: int, payload: bytes) -> HardError:
        """What is wrong with a frame that is not taken."""
        waits = not number or self.state is State.RUNNING
        if waits and (
            kind not in (HEADER, BODY, HEARTBEAT)
            or (kind == HEADER and len(payload) < _HEADER_BYTES_MIN - FRAME_OVERHEAD_BYTES)
            or (kind == HEARTBEAT and payload)
        ):
            return frame_error(kind, payload)
        return unexpected_frame(kind, payload)

    # -- the connection's own methods ----------------------------------------------------------

    def _take_connection_method(self, payload: bytes) -> Event | None:
        index = int.from_bytes(payload[:4], "big")
        try:
            method = decode_method(payload)
            act = _due.get((self.state, type(method)))
            if act is None:
                state = _STATE_NAMES[self.state]
                raise ChannelError(f"unexpected method in connection state {state}")
            return act(self, method)
        except HardError as error:
            error.index = error.index or index
            raise

    def _take_start_ok(self, method: commands.Connection.StartOk) -> Event:
        response = method.response
        assert isinstance(response, bytes), response
        user, password = credentials(method.mechanism, response)
        properties: dict[str, Any] = method.client_properties
        capabilities = properties.get("capabilities")
        self.capabilities = capabilities if isinstance(capabilities, dict) else {}
        self.state = State.LOGGING_IN
        return Login(method.mechanism, user, password, properties)

    def accept_login(self) -> None:
        """The user may come in: agree on limits."""
        limits = self.limits
        self.state = State.TUNING
        self._send_method(
            0,
            commands.Connection.Tune(limits.channel_max, limits.frame_max, limits.heartbeat_s),
        )

    def refuse_login(self, mechanism: str) -> None:
        """The user may not come in.

        A peer that can bear it is told so (authentication_failure_close).
        """
        if self.capabilities.get("authentication_failure_close") is True:
            self.fail(
                LoginRefused(
                    f"Login was refused using authentication mechanism {mechanism}."
                    " For details see the broker logfile."
                )
            )
        else:
            self.state = State.CLOSED

    def _take_tune_ok(self, method: commands.Connection.TuneOk) -> None:
        _check_agreed("frame_max", method.frame_max, FRAME_BYTES_MIN, self.limits.frame_max)
        _check_agreed("channel_max", method.channel_max, 1, self.limits.channel_max)
        self.frame_max = method.frame_max
        self._payload_bytes_max = self.frame_max - FRAME_OVERHEAD_BYTES
        self.channel_max = method.channel_max
        self.heartbeat_s = method.heartbeat
        self.state = State.OPENING

    def _take_close(self, method: commands.Connection.Close) -> Event:
        self.state = State.CLOSING
        return Closed(True, method.reply_code or 0, method.reply_text)

    def _take_secret(self, method: commands.Connection.UpdateSecret) -> Event:
        secret: Any = method.new_secret
        return SecretUpdated(secret, method.reason or "")

    def _take_open(self, method: commands.Connection.Open) -> Event:
        self.state = State.GRANTING
        return Open(method.virtual_host)

    def open_ok(self) -> None:
        """The virtual host is the peer's to use."""
        self.state = State.RUNNING
        self._send_method(0, commands.Connection.OpenOk())

    def _take_last_words(self, kind: int, number: int, start: int, end: int) -> Event | None:
        """While closing, all is ignored but close and close-ok."""
        if kind != METHOD or number:
            return None
        index = self._data[start + 7 : start + 11]
        if index == METHOD_INDEX.pack(commands.Connection.CloseOk.index):
            self.state = State.CLOSED
            return Closed(False)
        if index == METHOD_INDEX.pack(commands.Connection.Close.index):
            self.close_ok()
        return None

    def close_ok(self) -> None:
        """Answer the peer's close; this is the last that is sent."""
        self._send_method(0, commands.Connection.CloseOk())
        self.state = State.CLOSED

    def fail(self, error: HardError, index: int = 0) -> None:
        """Close the connection with ``error``.

        ``index`` is the method at fault, 0 if none, or if the error says it. Until limits are
        agreed nothing is said but that a login was refused.
        """
        if self.state in (State.CLOSING, State.CLOSED):
            return
        if self.state in _SPEECHLESS and not isinstance(error, LoginRefused):
            self.state = State.CLOSED
            return
        self.state = State.CLOSING
        self._channels.clear()
        index = index or error.index
        self._send_method(
            0,
            commands.Connection.Close(
                error.code, _short(error.reply_text), index >> 16, index & 0xFFFF
            ),
        )

    # -- channels ------------------------------------------------------------------------------

    def _take_method(self, number: int, start: int, end: int) -> ChannelEvent | None:
        """A method on a channel: the hot ones by hand."""
        data = self._data
        channel = self._channels.get(number)
        if channel is None or channel.closing or channel.content is not None:
            return self._take_odd_method(number, channel, data[start + 7 : end - 1])
        index = int.from_bytes(data[start + 7 : start + 11], "big")
        if index == PUBLISH_INDEX:
            return self._take_publish(number, channel, start, end)
        if index == ACK_INDEX:
            if end - start != _ACK_BYTES:
                raise cannot_decode(index, data[start + 7 : end - 1])
            return self._take_acks(number, start, end)
        method = decode_method(data[start + 7 : end - 1])
        self._spend(end - start)
        match method:
            case commands.Basic.Nack(delivery_tag=int(tag)):
                return Settle(number, index, tag, tag, method.multiple, method.requeue)
            case commands.Basic.Reject(delivery_tag=int(tag)):
                return Settle(number, index, tag, tag, False, method.requeue)
            case commands.Channel.Open():
                raise ChannelError("second 'channel.open' seen", index)
        return Method(number, method)

    def _take_odd_method(
        self, number: int, channel: _Channel | None, payload: bytes
    ) -> ChannelEvent | None:
        """A method on a channel that is not open, or not ready for one."""
        if channel is None:
            self._check_channel_max()
            method = decode_method(payload)
            if not isinstance(method, commands.Channel.Open):
                raise ChannelError("expected 'channel.open'", method.index)
            self._channels[number] = _Channel()
            self._send_method(number, commands.Channel.OpenOk())
            return ChannelOpened(number)
        if channel.closing:
            # The peer may not know yet that its channel is closed: whatever it sent is void.
            index = int.from_bytes(payload[:4], "big")
            if index == CHANNEL_CLOSE_INDEX:
                self._send_method(number, commands.Channel.CloseOk())
            elif index == CHANNEL_CLOSE_OK_INDEX:
                del self._channels[number]
            elif index == CHANNEL_OPEN_INDEX:
                raise ChannelError("second 'channel.open' seen", index)
            return None
        assert channel.content is not None
        raise _not_the_content_due(channel.content)

    def _check_channel_max(self) -> None:
        """Whether one more channel may be opened (RabbitMQ counts them, whatever their numbers)."""
        count = len(self._channels)
        if self.channel_max and count >= self.channel_max:
            raise NotAllowed(
                f"number of channels opened ({count}) has reached the"
                f" negotiated channel_max ({self.channel_max})"
            )

    def close_channel(self, number: int, error: AmqpError, index: int) -> None:
        """Close a channel with ``error``, whatever the peer still sends on it."""
        channel = self._channels[number]
        channel.closing = True
        channel.content = None
        self._send_method(
            number,
            commands.Channel.Close(
                error.code, _short(error.reply_text), index >> 16, index & 0xFFFF
            ),
        )

    def channel_close_ok(self, number: int) -> None:
        """Answer the peer's channel.close; the number is free again."""
        del self._channels[number]
        self._send_method(number, commands.Channel.CloseOk())

    # -- settling ------------------------------------------------------------------------------

    def _take_acks(self, number: int, start: int, end: int) -> Settle:
        """One basic.ack, and those behind it that count on by one."""
        data = self._data
        first, bits = _TAG_AND_BITS.unpack_from(data, start + 11)
        last = first
        if not bits & 1:
            prefix = data[start : start + 11]
            unpack = _TAG_BITS_END.unpack_from
            stop = len(data) - _ACK_BYTES
            while end <= stop and data.startswith(prefix, end):
                tag, more, mark = unpack(data, end + 11)
                if tag != last + 1 or more & 1 or mark != FRAME_END:
                    break
                last = tag
                end += _ACK_BYTES
            self._position = end
        return Settle(number, ACK_INDEX, first, last, bool(bits & 1), False)

    # -- content -------------------------------------------------------------------------------

    def _take_publish(
        self, number: int, channel: _Channel, start: int, end: int
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
        run_max = RUN_MAX if self._spent < _SPENT_MAX else 1  # One large table at a time.
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

        Its end, its traits, and where its body begins if that is one frame (or none), else 0. None
        leaves the judgement to the way of single frames, `_take_content`.
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
            or class_and_weight != _CLASS_BASIC
            or remaining > self.limits.message_bytes_max
        ):
            return None
        traits = read_properties(data[start + _PROPERTIES_AT : end - 1])
        if size >= _BYTES_SPENT_MIN:
            self._spent += size // _BYTES_PER_WORK
        if not remaining:
            return end, traits, end
        stop, frames = self._whole_body(number, end, remaining)
        if not stop:
            return None
        if frames > 1:
            self._spent += frames
            return stop, traits, 0
        body_start = end + _FRAME_HEAD_BYTES
        self._last_content = number, start, body_start, stop, traits
        return stop, traits, body_start

    def _whole_body(self, number: int, end: int, remaining: int) -> tuple[int, int]:
        """Where the body at ``end`` itself ends, and its frames.

        0 if it is not whole, or in too many frames.
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
            raise _not_the_content_due(content)
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
            raise _not_the_content_due(content)
        class_id, weight, size = CONTENT_HEADER.unpack_from(data, start + 7)
        if weight:
            raise _not_the_content_due(content)
        if class_id != 60:
            raise UnexpectedFrame(
                f"expected content header for class 60, got one for class {class_id} instead",
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
        traits = read_properties(data[start + _PROPERTIES_AT : end - 1])
        self._spend(end - start)
        content.add_header(data[start:end], traits, size)
        return None

    def _spend(self, size: int) -> None:
        """Count octets that were decoded, if they may have been many fields."""
        if size >= _BYTES_SPENT_MIN:
            self._spent += size // _BYTES_PER_WORK

    # -- bytes out -----------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Append ready-made frames to the outbox."""
        self._outbox.append(data)
        self.outbox_bytes += len(data)

    def send_method(self, channel: int, method: Frame) -> None:
        """Send a method; after close only the closing ones count, so this one is dropped."""
        if self.state is State.RUNNING:
            self._send_method(channel, method)

    def _send_method(self, channel: int, method: Frame) -> None:
        self.send(encode_method(channel, method))

    def take_outbox(self) -> bytes:
        """Everything to be sent; the outbox is empty afterwards."""
        pieces = self._outbox
        self._outbox = []
        self.outbox_bytes = 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    # -- heartbeats ----------------------------------------------------------------------------

    def spoke(self, now_s: float) -> None:
        """Bytes went out: no heartbeat is due for a while."""
        self._spoke_s = now_s

    def tick(self, now_s: float, listening: bool = True) -> bool:
        """Send a heartbeat if one is due; False once the peer has missed two of its own.

        (AMQP 0-9-1, section 4.2.7.) A broker that is not ``listening``, because it holds the
        peer back, cannot hear it either.
        """
        interval_s = self.heartbeat_s
        if not interval_s or self.state is not State.RUNNING:
            return True
        if now_s - self._spoke_s >= interval_s / 2:
            self.send(HEARTBEAT_FRAME)
            self._spoke_s = now_s
        if not listening:
            self._heard_s = now_s
        return now_s - self._heard_s <= interval_s * 2


_due: dict[tuple[State, type[Frame]], Callable[[Connection, Any], Event | None]] = {
    (State.STARTING, commands.Connection.StartOk): Connection._take_start_ok,
    (State.TUNING, commands.Connection.TuneOk): Connection._take_tune_ok,
    (State.OPENING, commands.Connection.Open): Connection._take_open,
    (State.RUNNING, commands.Connection.UpdateSecret): Connection._take_secret,
    (State.RUNNING, commands.Connection.Close): Connection._take_close,
}
"""Which method is due in which state, and what takes it; anything else is an error."""
_SPEECHLESS = (State.HEADER, State.STARTING, State.LOGGING_IN, State.TUNING)
_STATE_NAMES = {
    State.STARTING: "starting",
    State.LOGGING_IN: "securing",
    State.TUNING: "tuning",
    State.OPENING: "opening",
    State.GRANTING: "opening",
    State.RUNNING: "running",
}
"""What RabbitMQ calls them."""


def _check_agreed(name: str, value: int, least: int, most: int) -> None:
    """A value of tune-ok must lie within what was offered; 0 means no limit."""
    if value and value < least:
        raise NotAllowed(
            f"negotiated {name} = {value} is lower than the minimum allowed value ({least})"
        )
    if most and (not value or value > most):
        shown = f"{value} (no limit)" if name == "channel_max" and not value else f"{value}"
        raise NotAllowed(
            f"negotiated {name} = {shown} is higher than the maximum allowed value ({most})"
        )


def _not_the_content_due(content: Assembly) -> UnexpectedFrame:
    """A frame that came where another part of a message is due."""
    due = "header for class 60" if content.remaining < 0 else "body"
    part = "header" if content.remaining < 0 else "body"
    return UnexpectedFrame(
        f"expected content {due}, got non content {part} frame instead", PUBLISH_INDEX
    )


def _short(text: str) -> str:
    """``text`` cut to what fits a short string."""
    octets = text.encode("utf-8", "surrogateescape")
    return text if len(octets) <= 255 else octets[:252].decode("utf-8", "ignore") + "..."

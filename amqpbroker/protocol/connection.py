"""One connection as a machine without I/O.

Bytes go in by `Connection.receive`; what the peer did comes out of `Connection.next_event`, one
event a call, so that whoever acts on the events can stop between any two (a channel that waits, a
turn that has used up its budget, a publisher that must be held back) and go on later. Bytes to be
sent gather in an outbox that is taken whole.

The life of a connection is a line: protocol header, start, tune, open, then work, then close (AMQP
0-9-1, section 2.2.4). `_DUE` says which method is due in which state; anything else is an error
there. A peer that errs before it has agreed on limits is not told so: its connection just ends,
as RabbitMQ's does. Once a hard error was sent, nothing of the peer counts but its close-ok;
after a fault in the framing itself not even that can be found, and only the end of the stream is
left. What comes on channels at work is read by `Intake`.
"""

from collections.abc import Callable
from enum import Enum, auto
from typing import Any

from pamqp import commands
from pamqp.base import Frame

from amqpbroker.errors import (
    AmqpError,
    ChannelError,
    HardError,
    LoginRefused,
    NotAllowed,
)
from amqpbroker.protocol.events import (
    ChannelEvent,
    ChannelOpened,
    Closed,
    Event,
    Login,
    Method,
    Open,
    SecretUpdated,
    Settle,
    Worked,
)
from amqpbroker.protocol.faults import cannot_decode, frame_error, unexpected_frame
from amqpbroker.protocol.frames import (
    ACK_INDEX,
    BODY,
    CHANNEL_CLOSE_INDEX,
    CHANNEL_CLOSE_OK_INDEX,
    CHANNEL_OPEN_INDEX,
    FRAME_BYTES_MIN,
    FRAME_END,
    FRAME_HEAD_BYTES,
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
from amqpbroker.protocol.intake import (
    ACK_BYTES,
    SPENT_MAX,
    Intake,
    OpenChannel,
    WireLimits,
)
from amqpbroker.protocol.sasl import MECHANISMS, credentials

_OLD_PROTOCOL_HEADER = b"AMQP\x01\x01\x00\x09"
"""That of AMQP 0-9, which RabbitMQ takes for ours."""
_METHOD_BYTES_MIN = 12
_HEADER_BYTES_MIN = 20
"""The smallest method and header frame that RabbitMQ takes for one: the latter without flags."""
_FRAME_WORK = 2
"""What a frame without an event costs, in messages."""


class State(Enum):
    """Where a connection is in its life: what is due next, and from whom."""

    HEADER = auto()
    """The peer's protocol header."""
    STARTING = auto()
    """Its start-ok."""
    LOGGING_IN = auto()
    """The broker's word on the login."""
    TUNING = auto()
    """The peer's tune-ok."""
    OPENING = auto()
    """Its open."""
    GRANTING = auto()
    """The broker's word on the virtual host."""
    RUNNING = auto()
    """Whatever the peer wants."""
    CLOSING = auto()
    """Its close-ok, or the broker's."""
    CLOSED = auto()


class Connection(Intake):
    """The server's end of one AMQP connection.

    ``server_properties`` are told to the peer. ``now_s`` is the time of the start, in seconds of a
    monotonic clock, as everywhere here.
    """

    def __init__(self, limits: WireLimits, server_properties: dict[str, Any], now_s: float) -> None:
        super().__init__(limits)
        self.state = State.HEADER
        self.heartbeat_s = 0
        self.capabilities: dict[str, Any] = {}
        self.lingers = False
        """Whether the peer asked for the end: it goes first, and what it still sends is dropped."""
        self.before_channel: Callable[[], None] | None = None
        """Called before a channel is opened; raises what is against it."""
        self.outbox_bytes = 0
        self.received_bytes = self.received_count = 0
        """Octets that came, and in how many pieces; the same of those that were taken."""
        self.sent_bytes = self.sent_count = 0
        self._outbox: list[bytes] = []
        self._server_properties = server_properties
        self._heard_s = self._spoke_s = now_s
        self._lost = False
        """Whether the framing is lost: no byte of the peer can be trusted any more."""

    # -- bytes in ------------------------------------------------------------------------------

    def receive(self, data: bytes, now_s: float) -> None:
        """Take bytes from the peer; `next_event` tells what they mean."""
        self._heard_s = now_s
        self.received_bytes += len(data)
        self.received_count += 1
        self._append(data)

    def next_event(self) -> Event | None:
        """What the peer did next; None when that needs more bytes.

        The work between two events is bounded, but for what a single frame takes. Raises
        `HardError` for what ends the connection: pass it to `fail`.
        """
        if self.state is State.HEADER:
            self._read_protocol_header()
            if self.state is State.HEADER:
                return None
        while self.state is not State.CLOSED and not self._lost:
            if self._spent >= SPENT_MAX:
                work, self._spent = self._spent, 0
                return Worked(work)
            data, start = self._data, self._position
            left = len(data) - start
            if left < FRAME_HEAD_BYTES:
                break
            kind, number, size = FRAME_HEADER.unpack_from(data, start)
            if size > self.frame_max:  # More than agreed by the overhead: some peers miscount.
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
            len(header) == 8 and header not in (PROTOCOL_HEADER, _OLD_PROTOCOL_HEADER)
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
        """Give up the framing, because of a frame that is none."""
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
            act = _DUE.get((self.state, type(method)))
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
        self.lingers = True

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
                error.code, _short(error.reply_text), *divmod(index, 1 << 16)
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
            if end - start != ACK_BYTES:
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
        self, number: int, channel: OpenChannel | None, payload: bytes
    ) -> ChannelEvent | None:
        """A method on a channel that is not open, or not ready for one."""
        if channel is None:
            self._check_channel_max()
            method = decode_method(payload)
            if not isinstance(method, commands.Channel.Open):
                raise ChannelError("expected 'channel.open'", method.index)
            if self.before_channel is not None:
                self.before_channel()
            self._channels[number] = OpenChannel()
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
        raise channel.content.unexpected()

    def close_channel(self, number: int, error: AmqpError, index: int) -> None:
        """Close a channel with ``error``, whatever the peer still sends on it."""
        channel = self._channels[number]
        channel.closing = True
        channel.content = None
        self._send_method(
            number,
            commands.Channel.Close(error.code, _short(error.reply_text), *divmod(index, 1 << 16)),
        )

    def channel_close_ok(self, number: int) -> None:
        """Answer the peer's channel.close; the number is free again."""
        del self._channels[number]
        self._send_method(number, commands.Channel.CloseOk())

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
        self.sent_bytes += self.outbox_bytes
        self.sent_count += 1
        self.outbox_bytes = 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    # -- heartbeats ----------------------------------------------------------------------------

    def spoke(self, now_s: float) -> None:
        """Bytes went out: no heartbeat is due for a while."""
        self._spoke_s = now_s

    def tick(self, now_s: float, listening: bool = True) -> bool:
        """Send a heartbeat if one is due (section 4.2.7); False once the peer has missed two.

        A broker that is not ``listening``, because it holds the peer back, cannot hear it either.
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


_DUE: dict[tuple[State, type[Frame]], Callable[[Connection, Any], Event | None]] = {
    (State.STARTING, commands.Connection.StartOk): Connection._take_start_ok,
    (State.TUNING, commands.Connection.TuneOk): Connection._take_tune_ok,
    (State.OPENING, commands.Connection.Open): Connection._take_open,
    (State.RUNNING, commands.Connection.UpdateSecret): Connection._take_secret,
    (State.RUNNING, commands.Connection.Close): Connection._take_close,
}
"""Which method is due in which state, and what takes it; anything else is an error there."""
_SPEECHLESS = (State.HEADER, State.STARTING, State.LOGGING_IN, State.TUNING)
_STATE_NAMES = {
    State.STARTING: "starting",
    State.LOGGING_IN: "securing",
    State.TUNING: "tuning",
    State.OPENING: "opening",
    State.GRANTING: "opening",
    State.RUNNING: "running",
}
"""What RabbitMQ calls them; in the others no method gets as far as to be out of place."""


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


def _short(text: str) -> str:
    """``text`` cut to what fits a short string."""
    octets = text.encode("utf-8", "surrogateescape")
    return text if len(octets) <= 255 else octets[:252].decode("utf-8", "ignore") + "..."

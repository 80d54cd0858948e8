"""A small blocking AMQP client: what it takes to set the stage before the hot phase."""

import socket
import struct
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from . import wire
from .wire import Method, longstr, shortstr, table

TIMEOUT_S = 60.0
"""How long a broker may take to answer one method."""
DEFAULT_PORT = 5672


CLOSE_FRAME = wire.method(
    0, wire.CONNECTION_CLOSE, struct.pack(">H", 200) + shortstr("") + bytes(4)
)
"""What ends a connection politely."""


class BrokerError(Exception):
    """The broker cannot be reached, refuses, or does not speak as it must."""


@dataclass(frozen=True, slots=True)
class Url:
    """Where a broker is and as whom to log in."""

    host: str
    port: int = DEFAULT_PORT
    user: str = "guest"
    password: str = "guest"
    vhost: str = "/"

    @classmethod
    def parse(cls, text: str) -> "Url":
        """Read ``amqp://user:password@host:port/vhost``; all but the host may be missing.

        Raises `ValueError`.
        """
        parts = urlsplit(text)
        if parts.scheme != "amqp":
            raise ValueError(f"{text!r} is not an amqp:// URL")
        if not parts.hostname:
            raise ValueError(f"{text!r} names no host")
        vhost = unquote(parts.path[1:])
        if "/" in parts.path[1:] or parts.query or parts.fragment:
            raise ValueError(f"the virtual host in {text!r} must be percent-encoded")
        try:
            port = parts.port
        except ValueError:
            raise ValueError(f"{text!r} has an impossible port") from None
        return cls(
            parts.hostname,
            DEFAULT_PORT if port is None else port,
            unquote(parts.username) if parts.username else "guest",
            unquote(parts.password) if parts.password is not None else "guest",
            vhost or "/",
        )

    def __str__(self) -> str:
        return f"amqp://{self.host}:{self.port}/{'' if self.vhost == '/' else self.vhost}"


class Client:
    """One connection; channels are opened by number.

    Every method waits for its answer, up to `TIMEOUT_S`, and raises `BrokerError` if there is none
    or another than that. After set-up, `socket` may be taken over for the hot phase.
    """

    def __init__(self, url: Url, frame_max: int = 131072) -> None:
        self._buffer = b""
        try:
            self.socket = socket.create_connection((url.host, url.port), TIMEOUT_S)
        except OSError as error:
            raise BrokerError(f"cannot reach {url}: {error}") from error
        try:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.server_properties = self._shake_hands(url, frame_max)
        except BaseException:
            self.socket.close()
            raise

    def _shake_hands(self, url: Url, frame_max: int) -> dict[str, object]:
        self._send(wire.PROTOCOL_HEADER)
        octets, _ = wire.read_longstr(self._receive(wire.START), 6)
        capabilities = shortstr("authentication_failure_close") + b"t\x01"
        properties = table(product="amqpbroker bench")[4:]
        properties += shortstr("capabilities") + b"F" + longstr(capabilities)
        response = f"\0{url.user}\0{url.password}".encode()
        self._send(
            wire.method(
                0,
                (10, 11),
                longstr(properties) + shortstr("PLAIN") + longstr(response) + shortstr("en_US"),
            )
        )
        channel_max, offered, _ = struct.unpack_from(">HIH", self._receive(wire.TUNE), 4)
        tuned = min(frame_max, offered or frame_max)
        if tuned < frame_max:
            raise BrokerError(f"{url} allows frames of {offered} octets only")
        # No heartbeats: nothing but the messages shall travel while they are counted.
        self._send(wire.method(0, (10, 31), struct.pack(">HIH", channel_max, tuned, 0)))
        self.call(0, wire.OPEN, shortstr(url.vhost) + shortstr("") + b"\0")
        return wire.read_table(octets)

    def _send(self, octets: bytes) -> None:
        try:
            self.socket.sendall(octets)
        except OSError as error:
            raise BrokerError(f"the broker dropped the connection: {error}") from error

    def _receive(self, expected: Method) -> bytes:
        """The payload of the next method, which must be ``expected``."""
        while True:
            try:
                whole = wire.read_frame(self._buffer)
                if whole is None:
                    self._fill()
                    continue
            except (OSError, ValueError) as error:
                raise BrokerError(f"no answer: {error}") from error
            kind, channel, payload, end = whole
            self._buffer = self._buffer[end:]
            if kind != wire.METHOD:
                continue
            which = wire.which_method(payload)
            if which == expected:
                return payload
            if reason := wire.closing(which, payload):
                if which != wire.CONNECTION_BLOCKED:
                    self._send(wire.method(channel, (which[0], which[1] + 1)))
                raise BrokerError(f"the broker refuses: {reason}")
            raise BrokerError(f"the broker answers with method {which} instead of {expected}")

    def _fill(self) -> None:
        octets = self.socket.recv(65536)
        if not octets:
            raise OSError("the broker closed the connection")
        self._buffer += octets

    def call(self, channel: int, which: Method, arguments: bytes = b"") -> bytes:
        """Send a method and return the payload of its answer."""
        self._send(wire.method(channel, which, arguments))
        return self._receive((which[0], which[1] + 1))

    def open_channel(self, channel: int = 1) -> None:
        """Open a channel."""
        self.call(channel, wire.CHANNEL_OPEN, shortstr(""))

    def declare_queue(self, name: str, passive: bool = False, durable: bool = False) -> int:
        """Declare a queue, or look one up; return how many messages are ready."""
        arguments = bytes(2) + shortstr(name) + bytes([passive | durable << 1]) + table()
        payload = self.call(1, wire.QUEUE_DECLARE, arguments)
        _, at = wire.read_shortstr(payload, 4)
        (ready,) = struct.unpack_from(">I", payload, at)
        return int(ready)

    def delete_queue(self, name: str) -> None:
        """Delete a queue; it need not exist."""
        self.call(1, wire.QUEUE_DELETE, bytes(2) + shortstr(name) + b"\0")

    def declare_exchange(self, name: str, kind: str) -> None:
        """Declare a transient exchange."""
        arguments = bytes(2) + shortstr(name) + shortstr(kind) + b"\0" + table()
        self.call(1, wire.EXCHANGE_DECLARE, arguments)

    def delete_exchange(self, name: str) -> None:
        """Delete an exchange; it need not exist."""
        self.call(1, wire.EXCHANGE_DELETE, bytes(2) + shortstr(name) + b"\0")

    def bind(self, queue: str, exchange: str, routing_key: str) -> None:
        """Bind a queue to an exchange."""
        names = shortstr(queue) + shortstr(exchange) + shortstr(routing_key)
        self.call(1, wire.QUEUE_BIND, bytes(2) + names + b"\0" + table())

    def select_confirms(self) -> None:
        """Have everything that is published on channel 1 confirmed."""
        self.call(1, wire.CONFIRM_SELECT, b"\0")

    def consume(self, queue: str, automatic: bool, channel: int = 1) -> None:
        """Start a consumer that bears the queue's name; no limit on what is unacknowledged."""
        names = shortstr(queue) * 2
        arguments = bytes(2) + names + bytes([automatic << 1]) + table()
        self.call(channel, wire.CONSUME, arguments)

    def unread(self) -> bytes:
        """What has arrived after the last answer; it is not kept."""
        octets, self._buffer = self._buffer, b""
        return octets

    def close(self) -> None:
        """Close the connection, politely if the broker still answers."""
        try:
            self.socket.settimeout(TIMEOUT_S)
            self._send(CLOSE_FRAME)
            self._receive((10, 51))
        except BrokerError:
            pass
        self.socket.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

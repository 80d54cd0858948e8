"""One connection of a conversation: frames there, items back, in order on each channel."""

from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

from kit.drivers import Stream
from kit.values import ABSENT
from kit.wire import (
    CONTENT_METHODS,
    HEARTBEAT,
    METHOD,
    PROPERTIES,
    PROTOCOL_HEADER,
    Item,
    Reader,
    encode_bodies,
    encode_fields,
    encode_header,
    encode_method,
    frame,
    octets,
)

CAPABILITIES = {
    "authentication_failure_close": True,
    "basic.nack": True,
    "connection.blocked": True,
    "consumer_cancel_notify": True,
    "publisher_confirms": True,
}
_PROPERTY_NAMES = {name for name, _ in PROPERTIES}
_STAGES = ("protocol-header", "start-ok", "tune-ok", "open")


class HandshakeError(Exception):
    """The broker did not let the kit in; the text says what it did instead."""


class Link:
    """A connection, named ``name``; ``note`` is told of everything that comes."""

    def __init__(self, name: str, stream: Stream, note: Callable[[str], None]) -> None:
        self.stream = stream
        self.inbox: dict[int, deque[Item]] = defaultdict(deque)
        self.heartbeats = 0
        self.open_channels: set[int] | None = None
        """Channels that the kit has opened; None if the script sees to its channels."""
        self.frame_max = 131072
        self.pieces = 0
        """Octets that are sent at once; 0, all there are."""
        self._reader = Reader()
        self._name = name
        self._note = note
        self._due = ""

    # -- out -----------------------------------------------------------------------------------

    def send_bytes(self, data: bytes) -> None:
        """Send octets as they are."""
        step = self.pieces or len(data) or 1
        for start in range(0, len(data), step):
            self.stream.send(data[start : start + step])

    def send(self, channel: int, name: str, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Send what a line of a script says."""
        self.send_bytes(self._encode(channel, name, args, named))

    def _encode(
        self, channel: int, name: str, args: tuple[Any, ...], named: dict[str, Any]
    ) -> bytes:
        if name == "protocol-header":
            return args[0] if args else PROTOCOL_HEADER
        if name == "heartbeat":
            return frame(HEARTBEAT, channel, b"")
        if name == "body":
            return encode_bodies(channel, octets(args[0]), self.frame_max)
        if name == "method":
            return frame(METHOD, channel, args[0])
        if name == "header":
            head = {key: named.pop(key) for key in ("class_id", "weight") if key in named}
            return encode_header(channel, named, named.pop("body_size"), **head)
        if args:
            raise ValueError(f"the arguments of {name} have names")
        if name not in CONTENT_METHODS:
            return encode_method(channel, name, named)
        body = named.pop("body", "")
        properties = {key: named.pop(key) for key in _PROPERTY_NAMES & named.keys()}
        method = encode_method(channel, name, named)
        if body is ABSENT:
            return method
        data = octets(body)
        header = encode_header(channel, properties, len(data))
        return method + header + encode_bodies(channel, data, self.frame_max)

    # -- in ------------------------------------------------------------------------------------

    def pull(self, patience_s: float) -> bool:
        """Take what has come, or comes in time; whether that was anything."""
        data = self.stream.receive(patience_s)
        for item in self._reader.feed(data):
            if item.name == "heartbeat":
                self.heartbeats += 1
                continue
            if item.name != self._due:
                self._note(f"{self._name}{item.channel} < {item}")
            self.inbox[item.channel].append(item)
        return bool(data)

    def next(self, channel: int, patience_s: float) -> Item | None:
        """The next item on ``channel``; None if none comes in time."""
        while not self.inbox[channel]:
            if not self.pull(patience_s):
                return None
        return self.inbox[channel].popleft()

    def wait_for_end(self, patience_s: float) -> bool:
        """Whether the broker ends the connection in time."""
        while not self.stream.ended and self.pull(patience_s):
            pass
        return self.stream.ended

    @property
    def leftover(self) -> list[Item]:
        """What came and nobody has asked for."""
        return [item for items in self.inbox.values() for item in items]

    # -- handshake -----------------------------------------------------------------------------

    def shake_hands(
        self,
        patience_s: float,
        *,
        user: str = "guest",
        password: str = "guest",
        vhost: str = "/",
        mechanism: str = "PLAIN",
        frame_max: int = 0,
        channel_max: int = 0,
        heartbeat: int = 0,
        capabilities: dict[str, Any] | None = None,
        channels: tuple[int, ...] | None = None,
        until: str = "open",
    ) -> None:
        """Come in, as far as ``until``; zeros take what the broker offers.

        With ``channels``, these are opened and no others. Raises `HandshakeError`.
        """
        stages = _STAGES[: _STAGES.index(until) + 1]
        self.send_bytes(PROTOCOL_HEADER)
        self._await("connection.start", patience_s)
        if "start-ok" in stages:
            properties = {"capabilities": CAPABILITIES if capabilities is None else capabilities}
            response = f"\0{user}\0{password}".encode()
            if mechanism == "AMQPLAIN":
                response = encode_fields({"LOGIN": user, "PASSWORD": password})
            start_ok = {
                "client_properties": properties,
                "mechanism": mechanism,
                "response": response,
                "locale": "en_US",
            }
            self.send(0, "connection.start-ok", (), start_ok)
            tune = self._await("connection.tune", patience_s).fields
        if "tune-ok" in stages:
            self.frame_max = frame_max or tune["frame_max"]
            tune_ok = {
                "channel_max": channel_max or tune["channel_max"],
                "frame_max": self.frame_max,
                "heartbeat": heartbeat,
            }
            self.send(0, "connection.tune-ok", (), tune_ok)
        if "open" in stages:
            self.send(0, "connection.open", (), {"virtual_host": vhost})
            self._await("connection.open-ok", patience_s)
        if channels is None and "open" in stages:
            self.open_channels = set()
        for channel in channels or ():
            self.open_channel(channel, patience_s)

    def open_channel(self, channel: int, patience_s: float) -> None:
        """Open a channel. Raises `HandshakeError`."""
        self.send(channel, "channel.open", (), {})
        self._await("channel.open-ok", patience_s, channel)

    def _await(self, name: str, patience_s: float, channel: int = 0) -> Item:
        self._due = name  # What the kit does by itself is no part of the conversation.
        item = self.next(channel, patience_s)
        self._due = ""
        if item is None or item.name != name:
            raise HandshakeError(f"{name} was due, and {item or 'nothing'} came")
        return item

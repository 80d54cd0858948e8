"""What a client may send, as octets from a seed: valid streams, and broken ones.

A stream is a list of frames behind a handshake that never changes. `Streams.racing` draws it from a
grammar of all methods and content with names so few that they meet: queues are declared twice,
bound, deleted under their consumers. `Streams.mutated` breaks it: bits, sizes, types, channels,
order. `Streams.orderly` draws one whose answers do not depend on when the broker reads it.
"""

import random
import re
import struct
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from pamqp import commands
from pamqp.base import Frame

from amqpbroker.protocol.content import encode_content
from amqpbroker.protocol.fields import write_shortstr
from amqpbroker.protocol.frames import (
    BODY,
    FRAME_HEADER,
    HEADER,
    METHOD,
    METHOD_INDEX,
    PROTOCOL_HEADER,
    AccessRequest,
    encode_method,
    frame,
)

_CLIENT: dict[str, Any] = {
    "capabilities": {
        "authentication_failure_close": True,
        "connection.blocked": True,
        "consumer_cancel_notify": True,
    }
}


def _handshake(
    mechanism: str = "PLAIN",
    response: str = "\0guest\0guest",
    frame_max: int = 131072,
    heartbeat_s: int = 0,
    vhost: str = "/",
) -> tuple[bytes, ...]:
    """From the protocol header to connection.open."""
    methods = (
        commands.Connection.StartOk(_CLIENT, mechanism, response, "en_US"),
        commands.Connection.TuneOk(2047, frame_max, heartbeat_s),
        commands.Connection.Open(vhost),
    )
    return (PROTOCOL_HEADER, *(encode_method(0, each) for each in methods))


HANDSHAKE = _handshake()
"""As user guest in the virtual host ``/``."""
_HANDSHAKES = (
    *(HANDSHAKE,) * 40,
    _handshake("AMQPLAIN", "\5LOGINS\0\0\0\5guest\x08PASSWORDS\0\0\0\5guest"),
    _handshake("AMQPLAIN", "\5LOGINS\0\0\0\5guest"),
    _handshake(response="\0guest\0wrong"),
    _handshake(frame_max=4096, heartbeat_s=60),
    _handshake(heartbeat_s=65535),
    _handshake(vhost="nowhere"),
)

CHANNELS = (1, 2, 3)
_POOL = 400
"""Items that are drawn in advance for each channel: drawing them each time would cost too much."""

_REPLY_TO = "amq.rabbitmq.reply-to"
_QUEUES = (
    *("", "q0", "q0", "q0", "q1", "q1", "q2", "neighbour", "amq.no", "ü" * 127, "n" * 255),
    *(_REPLY_TO, _REPLY_TO, f"{_REPLY_TO}.nobody"),
)
_EXCHANGES = (
    *("", "x0", "x0", "x1", "amq.direct", "amq.fanout", "amq.topic", "amq.headers"),
    *("amq.rabbitmq.trace", "missing", "x" * 255),
)
_KEYS = ("", "q0", "q0", "q1", "q2", "a.b", "a.*", "#", "#.b.#", "*.*.*", "." * 255, "k" * 255)
_TAGS = ("", "c0", "c1", "c1", "t" * 255)
_TYPES = ("direct", "fanout", "topic", "headers", "x-none", "")
_ARGUMENTS = (
    *("x-match", "x-queue-type", "x-expires", "x-max-length", "x-priority", "a", ""),
    *("x-message-ttl", "x-max-priority", "alternate-exchange", "CC", "BCC", "x-death"),
)
_TEXTS = (b"all", b"any", b"classic", b"quorum", b"1", b"", b"\xff\xfe", "ü".encode(), b"s" * 300)
_TABLES = (
    b"\7x-matchS\0\0\0\3any\1aS\0\0\0\3any",
    b"\7x-matchS\0\0\0\3all\1aS\0\0\0\3any\1bV",
    b"\x0cx-queue-typeS\0\0\0\7classic",
    b"\x12alternate-exchangeS\0\0\0\2x0",
    b"\x12alternate-exchangeS\0\0\0\2x1",
    b"\x0ex-max-priorityb\5",
    b"\x0ax-priorityb\1",
    b"\x0dx-message-ttlI\0\0\1\0",
)
_MORE_KEYS = (
    b"\2CCA\0\0\0\x0eS\0\0\0\2q0S\0\0\0\2q1",
    b"\3BCCA\0\0\0\7S\0\0\0\2q1",
    b"\1at\1\3BCCA\0\0\0\7S\0\0\0\2q2\2CCA\0\0\0\7S\0\0\0\2q0",
    b"\3BCCA\0\0\0\2t\1",
    b"\2CCS\0\0\0\2q0",
    b"\2CCA\0\0\0\0",
)
"""Headers with routing keys for the copies of a message, well made and not."""
_NUMBERS = (0, 0, 1, 1, 2, 3, 4, 9, 127, 255)
_EXTREMES = (0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 63, (1 << 64) - 1)

_LIKELY: tuple[type[Frame], ...] = (
    *(commands.Queue.Declare,) * 6,
    *(commands.Queue.Bind,) * 4,
    *(commands.Basic.Consume,) * 5,
    *(commands.Basic.Ack,) * 5,
    *(commands.Basic.Get,) * 3,
    *(commands.Basic.Nack, commands.Basic.Reject, commands.Basic.Qos) * 2,
    *(commands.Exchange.Declare, commands.Queue.Delete, commands.Confirm.Select) * 2,
    *(commands.Basic.Cancel, commands.Basic.Recover, commands.Basic.RecoverAsync),
    *(commands.Queue.Purge, commands.Queue.Unbind, commands.Exchange.Delete),
    *(commands.Exchange.Bind, commands.Exchange.Bind, commands.Exchange.Unbind),
    *(commands.Tx.Select, commands.Tx.Commit, commands.Tx.Commit, commands.Tx.Rollback),
    *(commands.Channel.Close, commands.Channel.Open, commands.Channel.CloseOk, AccessRequest),
)
_ALL: tuple[type[Frame], ...] = (*commands.INDEX_MAPPING.values(), AccessRequest)

_BIT_CHANCE = {"nowait": 0.1, "passive": 0.2, "immediate": 0.02, "internal": 0.1, "active": 0.9}
_WORDS = {
    "queue": _QUEUES,
    "exchange": _EXCHANGES,
    "source": _EXCHANGES,
    "destination": _EXCHANGES,
    "routing_key": _KEYS,
    "consumer_tag": _TAGS,
    "exchange_type": _TYPES,
}
_ANY_PROPERTY = ("", "1", "1000", "text", "s" * 255)
_PROPERTIES = {
    6: (_REPLY_TO, _REPLY_TO, f"{_REPLY_TO}.nobody", "q0", ""),
    7: ("0", "1", "1000", "1000000", "", "-1", "1x", "9" * 30),
    11: ("guest", "guest", "guest", "nobody", ""),
}
"""Reply-to, expiration and user-id, by their place in the property list."""
_FORMS = {"octet": "B", "short": "H", "long": "I", "longlong": "Q"}

_FIXED_FIELDS = {
    b"t": 1, b"b": 1, b"B": 1, b"s": 2, b"u": 2, b"I": 4, b"i": 4, b"l": 8, b"L": 8, b"f": 4,
    b"d": 8, b"T": 8, b"D": 5, b"V": 0,
}  # fmt: skip
_FIELD_TYPES = (*_FIXED_FIELDS, *(b"S",) * 6, b"x", b"F", b"A")


def _properties(**properties: Any) -> bytes:
    return commands.Basic.Properties(**properties).marshal()


_ORDERLY_BLOCKS = (
    _properties(headers={"CC": ["pulled"], "BCC": ["pushed"], "a": 1}, priority=4),
    _properties(headers={"BCC": ["a.c"]}, delivery_mode=2),
    _properties(expiration="1000000", user_id="guest"),
)


# -- fields ------------------------------------------------------------------------------------


def _long(octets: bytes) -> bytes:
    return struct.pack(">I", len(octets)) + octets


def _field(rng: random.Random, depth: int) -> bytes:
    """A type octet and a value of that type, seldom one that does not exist."""
    kind = rng.choice(_FIELD_TYPES)
    size = _FIXED_FIELDS.get(kind)
    if size is not None:
        return kind + rng.choice((rng.randbytes(size), bytes(size), b"\xff" * size))
    if kind in b"FA":
        if depth > 3:
            return b"V"
        if kind == b"F":
            return kind + _table(rng, depth + 1)
        return kind + _long(b"".join(_field(rng, depth + 1) for _ in range(rng.randrange(3))))
    if rng.random() < 0.02:
        return bytes((rng.randrange(256),)) + rng.randbytes(4)
    return kind + _long(rng.choice(_TEXTS))


def _table(rng: random.Random, depth: int = 0) -> bytes:
    pieces: list[bytes] = []
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 4))):
        pieces += (write_shortstr(rng.choice(_ARGUMENTS)), _field(rng, depth))
    return _long(b"".join(pieces))


def _deep_table(depth: int) -> bytes:
    """Tables within tables, ``depth`` of them."""
    table = _long(b"")
    for _ in range(depth):
        table = _long(b"\1tF" + table)
    return table


def _argument(rng: random.Random, name: str, wire: str) -> bytes:
    if wire == "shortstr":
        return write_shortstr(rng.choice(_WORDS.get(name, ("", "", "text", "s" * 255))))
    if wire == "longstr":
        return _long(rng.choice(_TEXTS))
    if wire == "table":
        if rng.random() < 0.02:
            return _deep_table(rng.choice((30, 31, 32, 33, 34, 200)))
        if rng.random() < 0.2:
            return _long(rng.choice(_TABLES))
        return _table(rng) if rng.random() < 0.3 else _long(b"")
    form = _FORMS[wire]
    most = (1 << 8 * struct.calcsize(form)) - 1
    value = rng.choice(_EXTREMES if rng.random() < 0.05 else _NUMBERS)
    if name == "prefetch_size" and rng.random() < 0.9:
        value = 0
    return struct.pack(">" + form, value & most)


def method(rng: random.Random, kind: type[Frame]) -> bytes:
    """The payload of a method of ``kind`` with arguments as they come."""
    pieces = [METHOD_INDEX.pack(kind.index)]
    bits = ""
    for name in kind.attributes():
        wire = kind.amqp_type(name)
        if wire == "bit":
            bits = str(int(rng.random() < _BIT_CHANCE.get(name, 0.3))) + bits
            continue
        if bits:
            pieces.append(bytes((int(bits, 2),)))
            bits = ""
        pieces.append(_argument(rng, name, wire))
    if bits:
        pieces.append(bytes((int(bits, 2),)))
    return b"".join(pieces)


def _block(rng: random.Random) -> bytes:
    """A property block (section 1.8)."""
    flags, pieces = 0, []
    for i in range(14):
        if rng.random() > 0.15:
            continue
        flags |= 0x8000 >> i
        if i == 2:
            more = rng.random() < 0.5
            pieces.append(
                _long(rng.choice(_MORE_KEYS)) if more else _argument(rng, "headers", "table")
            )
        elif i in (3, 4):
            pieces.append(bytes((rng.choice(_NUMBERS),)))
        elif i == 9:
            pieces.append(rng.randbytes(8))
        else:
            pieces.append(write_shortstr(rng.choice(_PROPERTIES.get(i, _ANY_PROPERTY))))
    return struct.pack(">H", flags) + b"".join(pieces)


def _publish(
    rng: random.Random, channel: int, address: tuple[str, str] | None = None
) -> list[bytes]:
    """A message: method, header, and a body in some frames."""
    body = rng.randbytes(rng.choice((0, 1, 5, 5, 5, 300, 5000)))
    head = METHOD_INDEX.pack(commands.Basic.Publish.index) + b"\0\0"
    exchange = rng.choice(_EXCHANGES) if rng.random() < 0.5 else ""
    exchange, key = address or (exchange, rng.choice(_KEYS))
    bits = bytes((rng.choice((0, 0, 1)),))
    header = struct.pack(">HHQ", 60, 0, len(body))
    block = _block(rng) if rng.random() < 0.5 else b"\0\0"
    cuts = sorted({0, len(body), *(rng.randrange(len(body) + 1) for _ in range(rng.randrange(3)))})
    return [
        frame(METHOD, channel, head + write_shortstr(exchange) + write_shortstr(key) + bits),
        frame(HEADER, channel, header + block),
        *(frame(BODY, channel, body[start:stop]) for start, stop in pairwise(cuts)),
    ]


# -- mutations ---------------------------------------------------------------------------------

Frames = list[bytes]
Mutation = Callable[[random.Random, Frames, int], None]
"""Breaks the frame at a place, or what is around it."""


def _again(octets: bytes, payload: bytes) -> bytes:
    """The frame ``octets`` with another payload, sound by itself."""
    return octets[:3] + _long(payload) + octets[-1:]


def _flip(rng: random.Random, frames: Frames, at: int) -> None:
    octets = bytearray(frames[at])
    for _ in range(rng.choice((1, 1, 2, 8))):
        octets[rng.randrange(len(octets))] ^= 1 << rng.randrange(8)
    frames[at] = bytes(octets)


def _flip_payload(rng: random.Random, frames: Frames, at: int) -> None:
    payload = bytearray(frames[at][7:-1])
    if payload:
        payload[rng.randrange(len(payload))] = rng.choice((0, 1, 2, 60, 127, 128, 255))
        frames[at] = _again(frames[at], bytes(payload))


def _cut_payload(rng: random.Random, frames: Frames, at: int) -> None:
    payload = frames[at][7:-1]
    frames[at] = _again(frames[at], payload[: rng.randrange(len(payload) + 1)])


def _cut_frame(rng: random.Random, frames: Frames, at: int) -> None:
    frames[at] = frames[at][: rng.randrange(len(frames[at]) + 1)]


def _extend_payload(rng: random.Random, frames: Frames, at: int) -> None:
    frames[at] = _again(frames[at], frames[at][7:-1] + rng.randbytes(rng.choice((1, 4, 50, 5000))))


def _graft(rng: random.Random, frames: Frames, at: int) -> None:
    """The head of one payload on the tail of another."""
    head, tail = frames[at][7:-1], rng.choice(frames)[7:-1]
    cut = rng.randrange(len(head) + 1)
    frames[at] = _again(frames[at], head[:cut] + tail[rng.randrange(len(tail) + 1) :])


def _extreme(rng: random.Random, frames: Frames, at: int) -> None:
    """A number somewhere in the payload, a length perhaps, becomes huge."""
    payload = frames[at][7:-1]
    number = struct.pack(">" + rng.choice("BHIQ"), 0)
    number = rng.choice((b"\xff", b"\x7f", b"\x80", b"\0")) * len(number)
    place = rng.randrange(max(1, len(payload) - len(number) + 1))
    payload = payload[:place] + number + payload[place + len(number) :]
    frames[at] = _again(frames[at], payload)


def _wrong_size(rng: random.Random, frames: Frames, at: int) -> None:
    octets = frames[at]
    size = rng.choice((0, 1, len(octets), 4096, 131064, 131065, 0x7FFFFFFF, 0xFFFFFFFF))
    frames[at] = octets[:3] + struct.pack(">I", size) + octets[7:]


def _wrong_end(rng: random.Random, frames: Frames, at: int) -> None:
    frames[at] = frames[at][:-1] + rng.randbytes(1)


def _wrong_channel(rng: random.Random, frames: Frames, at: int) -> None:
    channel = rng.choice((0, 1, 2, 3, 4, 2047, 2048, 65535))
    frames[at] = frames[at][:1] + struct.pack(">H", channel) + frames[at][3:]


def _wrong_type(rng: random.Random, frames: Frames, at: int) -> None:
    frames[at] = bytes((rng.choice((0, 1, 2, 3, 4, 8, 255)),)) + frames[at][1:]


def _duplicate(rng: random.Random, frames: Frames, at: int) -> None:
    frames[at:at] = [frames[at]] * rng.choice((1, 1, 2, 20))


def _drop(rng: random.Random, frames: Frames, at: int) -> None:
    del frames[at]


def _swap(rng: random.Random, frames: Frames, at: int) -> None:
    other = rng.randrange(len(frames))
    frames[at], frames[other] = frames[other], frames[at]


def _garbage(rng: random.Random, frames: Frames, at: int) -> None:
    frames.insert(at, rng.randbytes(rng.choice((1, 7, 8, 100))))


def _heartbeat(rng: random.Random, frames: Frames, at: int) -> None:
    frames.insert(at, frame(8, rng.choice((0, 0, 1)), rng.choice((b"", b"", b"beat"))))


def _any_method(rng: random.Random, frames: Frames, at: int) -> None:
    """A method that may belong to the server, to the handshake, or to nobody."""
    channel = rng.choice((0, *CHANNELS))
    payload = method(rng, rng.choice(_ALL))
    if rng.random() < 0.2:
        payload = struct.pack(">HH", rng.randrange(100), rng.randrange(130)) + payload[4:]
    frames.insert(at, frame(METHOD, channel, payload))


_MUTATIONS: tuple[Mutation, ...] = (
    *(_flip, _flip_payload, _flip_payload, _cut_payload, _cut_frame, _extend_payload),
    *(_graft, _extreme, _extreme, _wrong_size, _wrong_end, _wrong_channel, _wrong_type),
    *(_duplicate, _drop, _swap, _garbage, _heartbeat, _any_method, _any_method),
)


# -- streams -----------------------------------------------------------------------------------


class Streams:
    """Streams from a ``seed``; each of them comes from a random of its own."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(f"streams {seed}")
        self._burst = [b"".join(_publish(rng, 1, ("", "q0"))) for _ in range(6)]
        self._pools = {channel: self._pool(rng, channel) for channel in CHANNELS}

    def _pool(self, rng: random.Random, channel: int) -> list[Frames]:
        pool = [_publish(rng, channel) for _ in range(_POOL // 3)]
        while len(pool) < _POOL:
            kind = rng.choice(_LIKELY if rng.random() < 0.98 else _ALL)
            pool.append([frame(METHOD, channel, method(rng, kind))])
        return pool

    def racing(self, rng: random.Random) -> Frames:
        """Sound frames, without the handshake; what they ask for may be against the rules."""
        frames: Frames = []
        channels = rng.sample(CHANNELS, rng.choice((1, 1, 2, 3)))
        for channel in channels:
            frames.append(encode_method(channel, commands.Channel.Open()))
            for queue in ("q0", "q1"):
                if rng.random() < 0.7:
                    frames.append(encode_method(channel, commands.Queue.Declare(queue=queue)))
                if rng.random() < 0.3:
                    consume = commands.Basic.Consume(queue=queue, no_ack=rng.random() < 0.3)
                    frames.append(encode_method(channel, consume))
        if 1 in channels and rng.random() < 0.7:
            frames += self._burst[: rng.randrange(6)]
        for _ in range(rng.randrange(2, 40)):
            channel = rng.choice(channels)
            frames += rng.choice(self._pools[channel])
            if rng.random() < 0.01:
                secret = commands.Connection.UpdateSecret("new", "the old one expires")
                frames.append(encode_method(0, secret))
            if rng.random() < 0.06:
                # The channel may have been closed by now: this gives its number a new life.
                frames.append(encode_method(channel, commands.Channel.CloseOk()))
                frames.append(encode_method(channel, commands.Channel.Open()))
        if rng.random() < 0.2:
            frames.append(encode_method(0, commands.Connection.Close(200, "bye", 0, 0)))
        return frames

    def mutated(self, rng: random.Random) -> bytes:
        """A stream, handshake included, with up to four faults; the handshake is seldom hit."""
        frames = [*rng.choice(_HANDSHAKES), *self.racing(rng)]
        first = 0 if rng.random() < 0.1 else len(HANDSHAKE)
        for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 4))):
            at = rng.randrange(min(first, len(frames) - 1), len(frames))
            if frames[at]:
                rng.choice(_MUTATIONS)(rng, frames, at)
            if not frames:
                break
        data = b"".join(frames)
        return data[: rng.randrange(len(data))] if data and rng.random() < 0.1 else data

    def orderly(self, rng: random.Random) -> bytes:
        """A stream, handshake included, whose answers are the same however it is read.

        One channel publishes, one consumes without acks from queues of its own, one gets and
        settles. Where a rule is broken, the channel is closed and opened again.
        """
        frames = list(HANDSHAKE)
        publishing, consuming, getting = CHANNELS

        def say(channel: int, *methods: Frame) -> None:
            frames.extend(encode_method(channel, each) for each in methods)

        for channel in CHANNELS:
            say(channel, commands.Channel.Open())
        for queue in ("pushed", "pulled"):
            say(getting, commands.Queue.Declare(queue=queue))
            say(getting, commands.Queue.Bind(queue=queue, exchange="amq.topic", routing_key="a.#"))
        say(consuming, commands.Basic.Consume(queue="pushed", consumer_tag="c", no_ack=True))
        if rng.random() < 0.5:
            say(publishing, commands.Confirm.Select())
        for _ in range(rng.randrange(1, 25)):
            act = rng.randrange(8)
            if act < 4:
                exchange, key = rng.choice(
                    (("", "pushed"), ("", "pulled"), ("amq.topic", "a.b"), ("", "nowhere"))
                )
                publish = commands.Basic.Publish(0, exchange, key, mandatory=rng.random() < 0.5)
                body = rng.randbytes(rng.choice((0, 3, 3, 5000)))
                block = rng.choice((b"\0\0", b"\0\0", *_ORDERLY_BLOCKS))
                content = encode_content(publishing, block, body, rng.choice((4096, 131072)))
                frames += [encode_method(publishing, publish) + content] * rng.choice((1, 1, 3))
            elif act < 6:
                say(getting, commands.Basic.Get(queue="pulled", no_ack=True))
            elif act == 6:
                name = f"other{rng.randrange(3)}"
                say(getting, commands.Queue.Declare(queue=name), commands.Queue.Purge(queue=name))
            else:
                say(getting, commands.Basic.Ack(1 << 40))
                say(getting, commands.Channel.CloseOk(), commands.Channel.Open())
        return b"".join(frames)


_METHOD_START = re.compile(rb"(?<=\xce)(?=\x01\x00)")


def chop(rng: random.Random, data: bytes) -> list[bytes]:
    """``data`` in pieces: one, or one a frame, or cut somewhere; seldom single octets."""
    choice = rng.random()
    if choice < 0.3:
        return [data]
    if choice < 0.6:
        return _METHOD_START.split(data)
    if len(data) < 1500 and rng.random() < 0.05:
        return [data[i : i + 1] for i in range(len(data))]
    count = rng.choice((1, 1, 2, 5))
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(count))
    return [data[start:stop] for start, stop in pairwise((0, *cuts, len(data)))]


def split_frames(data: bytes) -> list[tuple[int, int, bytes]]:
    """Frames as type, channel and payload. Raises `ValueError` if ``data`` is anything else."""
    frames = []
    start = 0
    while start < len(data):
        if len(data) - start < 8:
            raise ValueError(f"a frame is cut off at octet {start}")
        kind, channel, size = FRAME_HEADER.unpack_from(data, start)
        end = start + 8 + size
        if data[end - 1 : end] != b"\xce":
            raise ValueError(f"a frame at octet {start} does not end at {end}")
        frames.append((kind, channel, data[start + 7 : end - 1]))
        start = end
    return frames

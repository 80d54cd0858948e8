"""The grammar of what a client may send: methods and messages, drawn from a random.

The names are so few that they meet: queues are declared twice, bound, deleted under their
consumers. Most values are likely ones; some are extreme, and some of no use.
"""

import random
import struct
from itertools import pairwise

from pamqp import commands
from pamqp.base import Frame

from amqpbroker.protocol.fields import write_longstr, write_shortstr
from amqpbroker.protocol.frames import BODY, HEADER, METHOD, METHOD_INDEX, AccessRequest, frame

CHANNELS = (1, 2, 3)
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

LIKELY: tuple[type[Frame], ...] = (
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
ALL: tuple[type[Frame], ...] = (*commands.INDEX_MAPPING.values(), AccessRequest)

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


# -- fields ------------------------------------------------------------------------------------


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
        items = [_field(rng, depth + 1) for _ in range(rng.randrange(3))]
        return kind + write_longstr(b"".join(items))
    if rng.random() < 0.02:
        return bytes((rng.randrange(256),)) + rng.randbytes(4)
    return kind + write_longstr(rng.choice(_TEXTS))


def _table(rng: random.Random, depth: int = 0) -> bytes:
    pieces: list[bytes] = []
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 4))):
        pieces += (write_shortstr(rng.choice(_ARGUMENTS)), _field(rng, depth))
    return write_longstr(b"".join(pieces))


def _deep_table(depth: int) -> bytes:
    """Tables within tables, ``depth`` of them."""
    table = write_longstr(b"")
    for _ in range(depth):
        table = write_longstr(b"\1tF" + table)
    return table


def _argument(rng: random.Random, name: str, wire: str) -> bytes:
    if wire == "shortstr":
        return write_shortstr(rng.choice(_WORDS.get(name, ("", "", "text", "s" * 255))))
    if wire == "longstr":
        return write_longstr(rng.choice(_TEXTS))
    if wire == "table":
        if rng.random() < 0.02:
            return _deep_table(rng.choice((30, 31, 32, 33, 34, 200)))
        if rng.random() < 0.2:
            return write_longstr(rng.choice(_TABLES))
        return _table(rng) if rng.random() < 0.3 else write_longstr(b"")
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
            if rng.random() < 0.5:
                pieces.append(write_longstr(rng.choice(_MORE_KEYS)))
            else:
                pieces.append(_argument(rng, "headers", "table"))
        elif i in (3, 4):
            pieces.append(bytes((rng.choice(_NUMBERS),)))
        elif i == 9:
            pieces.append(rng.randbytes(8))
        else:
            pieces.append(write_shortstr(rng.choice(_PROPERTIES.get(i, _ANY_PROPERTY))))
    return struct.pack(">H", flags) + b"".join(pieces)


def publish(
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

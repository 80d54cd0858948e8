"""What the broker reads in a message's properties (AMQP 0-9-1, section 1.8).

A property block is two octets of flags, and the values of those that are set, in the order of their
flags. It is walked once, and only what the broker acts on is read. Most messages say nothing of the
kind, and most others say what one before them said: these share one `Traits`.
"""

from functools import lru_cache
from typing import Any

from amqpbroker.errors import FrameError, MalformedSyntax
from amqpbroker.message import Traits
from amqpbroker.protocol.fields import read_shortstr, read_table
from amqpbroker.protocol.frames import PUBLISH_INDEX

HEADERS = 0x2000
DELIVERY_MODE = 0x1000
PRIORITY = 0x0800
CORRELATION_ID = 0x0400
REPLY_TO = 0x0200
EXPIRATION = 0x0100
MESSAGE_ID = 0x0080
TIMESTAMP = 0x0040
USER_ID = 0x0010
"""Flags of the properties that are told apart; there are 14, from the highest bit down."""
FIXED_SIZES = {DELIVERY_MODE: 1, PRIORITY: 1, TIMESTAMP: 8}
"""Octets of those that have a fixed size; all others but the headers are short strings."""
DIRECT_REPLY_TO = b"amq.rabbitmq.reply-to"
"""The reply-to that asks for replies without a queue."""

_TEXT = 0
"""In a plan: a short string that is stepped over."""
_NOT_PASSED = {HEADERS, DELIVERY_MODE, PRIORITY, REPLY_TO, EXPIRATION, TIMESTAMP, USER_ID}
_UNIQUE_HIGH, _UNIQUE_LOW = divmod(CORRELATION_ID | MESSAGE_ID | TIMESTAMP, 1 << 8)
"""A block with one of these will not come again."""
_REMEMBERED_BYTES_MAX = 256
_DIRECT_REPLY_TO = bytes((len(DIRECT_REPLY_TO),)) + DIRECT_REPLY_TO


def read_properties(block: bytes) -> Traits:
    """What the broker may act on in a property block.

    Raises `MalformedSyntax` if the block is malformed.
    """
    if block == b"\0\0":
        return PLAIN
    if len(block) < 2 or block[1] & _UNIQUE_LOW or block[0] & _UNIQUE_HIGH:
        return _walk(block)
    return _walk_again(block) if len(block) <= _REMEMBERED_BYTES_MAX else _walk(block)


def _walk(block: bytes) -> Traits:
    headers: dict[str, Any] | None = None
    persistent = direct_reply = False
    priority = 0
    expiration = user_id = None
    position = 2
    try:
        for kind in _plan(block[0] << 8 | block[1]):
            if kind == _TEXT:
                position += 1 + block[position]
            elif kind == DELIVERY_MODE:
                persistent = block[position] == 2
                position += 1
            elif kind == TIMESTAMP:
                position += 8
            elif kind == HEADERS:
                headers, position = read_table(block, position)
            elif kind == REPLY_TO:
                direct_reply = block.startswith(_DIRECT_REPLY_TO, position)
                position += 1 + block[position]
            elif kind == PRIORITY:
                priority = block[position]
                position += 1
            elif kind == EXPIRATION:
                expiration, position = read_shortstr(block, position)
            else:
                user_id, position = read_shortstr(block, position)
    except (IndexError, FrameError):
        position = -1
    except MalformedSyntax as error:
        error.index = PUBLISH_INDEX
        raise
    if position != len(block):
        raise _malformed("a property list does not end where it should")
    kept = _KEPT[persistent][priority]
    special = direct_reply or expiration is not None or user_id is not None
    if headers is None:
        if not special:
            return kept
    elif "CC" in headers or "BCC" in headers:
        special = True
    return Traits(persistent, headers, priority, expiration, user_id, direct_reply, special, kept)


_walk_again = lru_cache(maxsize=1024)(_walk)


@lru_cache(maxsize=1024)
def _plan(flags: int) -> tuple[int, ...]:
    """How to walk a block with ``flags``: for each property its flag, or `_TEXT`."""
    if flags & 3:
        raise _malformed("property flags beyond those of class basic")
    present = [bit for bit in (0x8000 >> i for i in range(14)) if flags & bit]
    return tuple(bit if bit in _NOT_PASSED else _TEXT for bit in present)


_KEPT = tuple(
    tuple(Traits(persistent, priority=priority) for priority in range(256))
    for persistent in (False, True)
)
"""What messages keep of their traits while they wait."""
PLAIN, PERSISTENT = _KEPT[False][0], _KEPT[True][0]


def _malformed(what: str) -> MalformedSyntax:
    return MalformedSyntax(f"cannot decode: {what}", PUBLISH_INDEX)

"""Content: property blocks, and the frames that carry messages to clients.

This module is the hot half of the codec. A delivery is made of pieces that are prepared once per
consumer and address, a delivery tag, and the publisher's own content frames; making a run of them
is one pass in C. Only a consumer with another channel number, or with smaller frames, makes the
content be framed anew.
"""

import struct
from functools import cache, lru_cache
from itertools import chain, repeat
from typing import Any

from amqpbroker.errors import FrameError, MalformedSyntax
from amqpbroker.message import Traits
from amqpbroker.protocol.fields import read_shortstr, read_table, write_shortstr
from amqpbroker.protocol.frames import (
    BODY,
    CONTENT_HEADER,
    END,
    FRAME_HEADER,
    FRAME_OVERHEAD_BYTES,
    HEADER,
    METHOD,
    PUBLISH_INDEX,
    frame,
)

_DELIVER = b"\x00\x3c\x00\x3c"
_GET_OK = b"\x00\x3c\x00\x47"
_RETURN = b"\x00\x3c\x00\x32"
_HEADER_MARK, _BODY_MARK = bytes((HEADER,)), bytes((BODY,))
_SIZE = struct.Struct(">I")
_CHANNEL = struct.Struct(">H")
_REPLY_CODE = struct.Struct(">H")
_TAG = struct.Struct(">Q")
_pack_tag = _TAG.pack
_flatten = chain.from_iterable

_TEXT, _DELIVERY_MODE, _TIMESTAMP, _HEADERS, _PRIORITY, _REPLY_TO, _EXPIRATION, _USER_ID = range(8)
_PROPERTIES = (
    _TEXT,  # content-type
    _TEXT,  # content-encoding
    _HEADERS,
    _DELIVERY_MODE,
    _PRIORITY,
    _TEXT,  # correlation-id
    _REPLY_TO,
    _EXPIRATION,
    _TEXT,  # message-id
    _TIMESTAMP,
    _TEXT,  # type
    _USER_ID,
    _TEXT,  # app-id
    _TEXT,  # cluster-id
)
"""The properties of class basic, in the order of their flag bits from bit 15 down (section 1.8)."""

DIRECT_REPLY_TO = b"amq.rabbitmq.reply-to"
"""The reply-to that asks for replies without a queue."""
_DIRECT_REPLY_TO = bytes((len(DIRECT_REPLY_TO),)) + DIRECT_REPLY_TO
_CACHED_BLOCK_BYTES_MAX = 256

PLAIN = Traits(persistent=False)
PERSISTENT = Traits(persistent=True)


@lru_cache(maxsize=1024)
def _plan(flags: int) -> tuple[int, ...]:
    """The properties that ``flags`` announce."""
    if flags & 3:
        raise _malformed("property flags beyond those of class basic")
    return tuple(_PROPERTIES[i] for i in range(14) if flags & (0x8000 >> i))


def read_properties(block: bytes) -> Traits:
    """Walk a property block (flags and list) once, and keep what the broker may act on.

    Messages whose block says nothing of the kind share `PLAIN` or `PERSISTENT`. Raises
    `MalformedSyntax` if the block is malformed.
    """
    if len(block) <= 2:
        if block == b"\0\0":
            return PLAIN
        return _walk(block)
    # A correlation-id (0x0400), message-id (0x0080) or timestamp (0x0040) will not come again.
    if len(block) <= _CACHED_BLOCK_BYTES_MAX and not (block[1] & 0xC0 or block[0] & 0x04):
        return _walk_again(block)
    return _walk(block)


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
            elif kind == _DELIVERY_MODE:
                persistent = block[position] == 2
                position += 1
            elif kind == _TIMESTAMP:
                position += 8
            elif kind == _HEADERS:
                headers, position = read_table(block, position)
            elif kind == _REPLY_TO:
                direct_reply = block.startswith(_DIRECT_REPLY_TO, position)
                position += 1 + block[position]
            elif kind == _PRIORITY:
                priority = block[position]
                position += 1
            elif kind == _EXPIRATION:
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
    special = direct_reply or expiration is not None or user_id is not None
    if headers is not None:
        special = special or "CC" in headers or "BCC" in headers
    elif not special and not priority:
        return PERSISTENT if persistent else PLAIN
    elif not special:
        return _kept(persistent, priority)
    kept = _kept(persistent, priority)
    return Traits(persistent, headers, priority, expiration, user_id, direct_reply, special, kept)


@cache  # Two times 256.
def _kept(persistent: bool, priority: int) -> Traits:
    """What messages keep of their traits while they wait."""
    if priority:
        return Traits(persistent, priority=priority)
    return PERSISTENT if persistent else PLAIN


def _malformed(what: str) -> MalformedSyntax:
    return MalformedSyntax(f"cannot decode: {what}", PUBLISH_INDEX)


_walk_again = lru_cache(maxsize=1024)(_walk)


def encode_address(exchange: str, routing_key: str) -> bytes:
    """Exchange and routing key as deliveries carry them."""
    return write_shortstr(exchange) + write_shortstr(routing_key)


def delivery_prefix(channel: int, consumer_tag: bytes, address: bytes) -> bytes:
    """A basic.deliver frame up to its delivery tag; constant for a consumer and an address.

    ``consumer_tag`` is a short string already.
    """
    size = len(_DELIVER) + len(consumer_tag) + 8 + 1 + len(address)
    return FRAME_HEADER.pack(METHOD, channel, size) + _DELIVER + consumer_tag


def delivery_suffix(address: bytes, redelivered: bool) -> bytes:
    """A basic.deliver frame from behind its delivery tag."""
    return (b"\1" if redelivered else b"\0") + address + END


def encode_deliveries(prefix: bytes, tag_first: int, suffix: bytes, raws: list[bytes]) -> bytes:
    """A run of deliveries with consecutive tags: method frame and content frames of each."""
    if len(raws) == 1:
        return prefix + _pack_tag(tag_first) + suffix + raws[0]
    tags = range(tag_first, tag_first + len(raws))
    return b"".join(_flatten(zip(repeat(prefix), map(_pack_tag, tags), repeat(suffix), raws)))


def encode_get_ok(
    channel: int, tag: int, redelivered: bool, address: bytes, message_count: int
) -> bytes:
    """A basic.get-ok frame; the content frames follow it."""
    flag = b"\1" if redelivered else b"\0"
    payload = _GET_OK + _pack_tag(tag) + flag + address + _SIZE.pack(message_count)
    return frame(METHOD, channel, payload)


def encode_return(channel: int, code: int, text: str, address: bytes) -> bytes:
    """A basic.return frame; the content frames follow it."""
    payload = _RETURN + _REPLY_CODE.pack(code) + write_shortstr(text) + address
    return frame(METHOD, channel, payload)


def encode_reframed_deliveries(
    prefix: bytes, tag_first: int, suffix: bytes, raws: list[bytes], channel: int, frame_max: int
) -> bytes:
    """As `encode_deliveries`, for a consumer whom the publisher's frames do not fit."""
    number = _CHANNEL.pack(channel)
    payload_max = frame_max - FRAME_OVERHEAD_BYTES
    pieces: list[bytes | memoryview] = []
    for tag, raw in enumerate(raws, tag_first):
        pieces += (prefix, _pack_tag(tag), suffix)
        pieces += _reframed(raw, number, payload_max)
    return b"".join(pieces)


def reframe(raw: bytes, channel: int, frame_max: int) -> bytes:
    """The content frames of ``raw`` for another ``channel``, none larger than ``frame_max`` octets.

    A header frame cannot be split: it stays as large as it is.
    """
    return b"".join(_reframed(raw, _CHANNEL.pack(channel), frame_max - FRAME_OVERHEAD_BYTES))


def _reframed(raw: bytes, number: bytes, payload_max: int) -> list[bytes | memoryview]:
    """Pieces that together are ``raw`` on channel ``number``, its body in frames that fit."""
    start = _SIZE.unpack_from(raw, 3)[0] + FRAME_OVERHEAD_BYTES
    pieces: list[bytes | memoryview] = [_HEADER_MARK, number, raw[3:start]]
    while start < len(raw):
        size = _SIZE.unpack_from(raw, start + 3)[0]
        end = start + size + FRAME_OVERHEAD_BYTES
        if size <= payload_max:
            pieces += (_BODY_MARK, number, raw[start + 3 : end])
        else:
            view = memoryview(raw)
            for cut in range(start + 7, end - 1, payload_max):
                part = view[cut : min(cut + payload_max, end - 1)]
                pieces += (_BODY_MARK, number, _SIZE.pack(len(part)), part, END)
        start = end
    return pieces


def encode_content(channel: int, block: bytes, body: bytes, frame_max: int) -> bytes:
    """Content frames for ``body`` with the property ``block``.

    How the broker's own messages, and tests, are made.
    """
    header = CONTENT_HEADER.pack(60, 0, len(body)) + block
    return frame(HEADER, channel, header) + encode_body(channel, body, frame_max)


def encode_body(channel: int, body: bytes | bytearray, frame_max: int) -> bytes:
    """The body frames for ``body``: as few as there can be."""
    payload_max = frame_max - FRAME_OVERHEAD_BYTES
    starts = range(0, len(body), payload_max)
    return b"".join(frame(BODY, channel, bytes(body[at : at + payload_max])) for at in starts)

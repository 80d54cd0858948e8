"""The frames that carry messages to clients.

This module is the hot half of the codec. A delivery is made of pieces that are prepared once per
consumer and address, a delivery tag, and the publisher's own content frames; making a run of them
is one pass in C. Only for a consumer with another channel number, or with smaller frames, is the
content framed anew.
"""

import struct
from itertools import chain, repeat

from pamqp import commands

from amqpbroker.protocol.fields import write_shortstr
from amqpbroker.protocol.frames import (
    BASIC,
    BODY,
    CONTENT_HEADER,
    END,
    FRAME_HEADER,
    FRAME_OVERHEAD_BYTES,
    HEADER,
    METHOD,
    METHOD_INDEX,
    PAYLOAD_SIZE,
    frame,
)

_DELIVER = METHOD_INDEX.pack(commands.Basic.Deliver.index)
_GET_OK = METHOD_INDEX.pack(commands.Basic.GetOk.index)
_RETURN = METHOD_INDEX.pack(commands.Basic.Return.index)
_HEADER_MARK, _BODY_MARK = bytes((HEADER,)), bytes((BODY,))
_COUNT = struct.Struct(">I")
_CHANNEL = struct.Struct(">H")
_REPLY_CODE = struct.Struct(">H")
_TAG = struct.Struct(">Q")
_pack_tag = _TAG.pack
_flatten = chain.from_iterable


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
    payload = _GET_OK + _pack_tag(tag) + flag + address + _COUNT.pack(message_count)
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
    start = PAYLOAD_SIZE.unpack_from(raw, 3)[0] + FRAME_OVERHEAD_BYTES
    pieces: list[bytes | memoryview] = [_HEADER_MARK, number, raw[3:start]]
    while start < len(raw):
        size = PAYLOAD_SIZE.unpack_from(raw, start + 3)[0]
        end = start + size + FRAME_OVERHEAD_BYTES
        if size <= payload_max:
            pieces += (_BODY_MARK, number, raw[start + 3 : end])
        else:
            view = memoryview(raw)
            for cut in range(start + 7, end - 1, payload_max):
                part = view[cut : min(cut + payload_max, end - 1)]
                pieces += (_BODY_MARK, number, PAYLOAD_SIZE.pack(len(part)), part, END)
        start = end
    return pieces


def encode_content(channel: int, block: bytes, body: bytes, frame_max: int) -> bytes:
    """Content frames for ``body`` with the property ``block``.

    How the broker's own messages, and tests, are made.
    """
    header = CONTENT_HEADER.pack(BASIC, 0, len(body)) + block
    return frame(HEADER, channel, header) + encode_body(channel, body, frame_max)


def encode_body(channel: int, body: bytes | bytearray, frame_max: int) -> bytes:
    """The body frames for ``body``: as few as there can be."""
    payload_max = frame_max - FRAME_OVERHEAD_BYTES
    starts = range(0, len(body), payload_max)
    return b"".join(frame(BODY, channel, bytes(body[at : at + payload_max])) for at in starts)

"""Messages with other properties: the header frame is cut and joined, all else stays as it came.

Nothing is decoded and encoded again: what is kept is kept to the octet, whatever a client has put
there. A message here is its raw content frames, and was found sound before (`read_properties`).
"""

import struct
from collections.abc import Collection
from typing import Any

from amqpbroker.protocol.fields import split_fields, write_fields, write_longstr, write_shortstr
from amqpbroker.protocol.frames import FRAME_HEAD_BYTES, FRAME_HEADER, HEADER, PROPERTIES_AT
from amqpbroker.protocol.properties import FIXED_SIZES, HEADERS, REPLY_TO

_FLAGS = struct.Struct(">H")
_LENGTH = struct.Struct(">I")
_VALUES_AT = PROPERTIES_AT + _FLAGS.size


def with_reply_to(raw: bytes, reply_to: str) -> bytes:
    """``raw`` with this reply-to. Raises `ValueError` over 255 octets."""
    return with_property(raw, REPLY_TO, write_shortstr(reply_to))


def without_header(raw: bytes, name: str) -> bytes:
    """``raw`` without the header ``name``, if it has it. Other headers, even none, stay a table."""
    return with_headers(raw, removed=(name,))


def with_property(raw: bytes, flag: int, octets: bytes | None) -> bytes:
    """``raw`` with the property of ``flag`` as ``octets``, or without it (None).

    The header frame may become larger than the agreed frame size: it cannot be split.
    """
    flags, start, stop = _find(raw, flag)
    if octets is None and start == stop:
        return raw
    _, channel, size = FRAME_HEADER.unpack_from(raw)
    end = FRAME_HEAD_BYTES + size
    flags = flags & ~flag if octets is None else flags | flag
    head, before, behind = raw[7:PROPERTIES_AT], raw[_VALUES_AT:start], raw[stop:end]
    payload = b"".join((head, _FLAGS.pack(flags), before, octets or b"", behind))
    return FRAME_HEADER.pack(HEADER, channel, len(payload)) + payload + raw[end:]


def with_headers(
    raw: bytes,
    removed: Collection[str] = (),
    first: dict[str, Any] | None = None,
    last: dict[str, Any] | None = None,
) -> bytes:
    """``raw`` with its headers changed.

    Those ``removed`` are gone, ``first`` stand before and ``last`` behind the others. Raises
    `ValueError` for a value that no field can hold.
    """
    _, start, stop = _find(raw, HEADERS)
    fields = raw[start + _LENGTH.size : stop]
    gone = {name.encode("utf-8", "surrogateescape") for name in removed}
    kept = b"".join([octets for name, octets in split_fields(fields) if name not in gone])
    if len(kept) == len(fields) and not first and not last:
        return raw
    table = write_fields(first or {}) + kept + write_fields(last or {})
    return with_property(raw, HEADERS, write_longstr(table))


def _find(raw: bytes, flag: int) -> tuple[int, int, int]:
    """The flags, and where the property of ``flag`` begins and ends, or would."""
    flags: int = _FLAGS.unpack_from(raw, PROPERTIES_AT)[0]
    position, bit = _VALUES_AT, 0x8000
    while True:
        start = position
        if flags & bit:
            if bit == HEADERS:
                position += _LENGTH.size + _LENGTH.unpack_from(raw, position)[0]
            else:
                position += FIXED_SIZES.get(bit) or 1 + raw[position]
        if bit == flag:
            return flags, start, position
        bit >>= 1

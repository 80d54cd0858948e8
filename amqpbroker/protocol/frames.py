"""Frames and methods (AMQP 0-9-1, sections 2.3 and 4.2).

pamqp describes the methods: their names, arguments and wire types are its classes. The octets are
read and written here, because pamqp refuses names that RabbitMQ accepts (other than ASCII, or over
127 characters) and reads tables in quadratic time. A property test holds both codecs equal.
"""

import struct
from typing import Any

import pamqp.commands
from pamqp.base import Frame

from amqpbroker.errors import CommandInvalid, FrameError
from amqpbroker.protocol.fields import (
    read_longstr,
    read_shortstr,
    read_table,
    write_longstr,
    write_shortstr,
    write_table,
)

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
FRAME_END = 0xCE
END = b"\xce"
FRAME_OVERHEAD_BYTES = 8
"""What a frame adds to its payload: type, channel, size and the end octet."""
FRAME_BYTES_MIN = 4096
"""The frame size that every peer must accept."""

FRAME_HEADER = struct.Struct(">BHI")
CONTENT_HEADER = struct.Struct(">HHQ")
METHOD_INDEX = struct.Struct(">I")

PROTOCOL_HEADER = b"AMQP\0\0\x09\x01"
HEARTBEAT_FRAME = FRAME_HEADER.pack(HEARTBEAT, 0, 0) + END

_INTEGERS = {
    "octet": struct.Struct(">B"),
    "short": struct.Struct(">H"),
    "long": struct.Struct(">I"),
    "longlong": struct.Struct(">Q"),
}


_KINDS: dict[int, type[Frame]] = pamqp.commands.INDEX_MAPPING
_SHAPES: dict[int, tuple[tuple[str, str], ...]] = {
    index: tuple((name, kind.amqp_type(name)) for name in kind.attributes())
    for index, kind in _KINDS.items()
}
"""The arguments of every method: (name, wire type) in order."""


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    """One frame around ``payload``."""
    return FRAME_HEADER.pack(kind, channel, len(payload)) + payload + END


def encode_method(channel: int, method: Frame) -> bytes:
    """``method`` as a frame.

    Raises `ValueError` for a short string over 255 octets, or a value that no field can hold.
    """
    pieces = [METHOD_INDEX.pack(method.index)]
    bits = bit = 0
    for name, kind in _SHAPES[method.index]:
        value: Any = getattr(method, name)
        if kind == "bit":
            bits |= bool(value) << bit
            bit += 1
            continue
        if bit:
            pieces.append(bytes((bits,)))
            bits = bit = 0
        if kind == "shortstr":
            pieces.append(write_shortstr(value))
        elif kind == "table":
            pieces.append(write_table(value or {}))
        elif kind == "longstr":
            pieces.append(write_longstr(value.encode() if isinstance(value, str) else value))
        else:
            pieces.append(_INTEGERS[kind].pack(value))
    if bit:
        pieces.append(bytes((bits,)))
    return frame(METHOD, channel, b"".join(pieces))


def decode_method(payload: bytes) -> Frame:
    """The method in a method frame's ``payload``.

    Long strings stay bytes. Raises `CommandInvalid` if the method is unknown, `FrameError` if an
    argument is malformed or missing, or if octets follow the last one: RabbitMQ takes none, and a
    payload that is kept as a key must not grow by what nobody reads.
    """
    if len(payload) < 4:
        raise FrameError("cannot decode: a method frame without a method")
    index = METHOD_INDEX.unpack_from(payload)[0]
    kind = _KINDS.get(index)
    if kind is None:
        raise CommandInvalid(f"unknown method {index >> 16}.{index & 0xFFFF}")
    # Not by its constructor: one of them warns that its method is deprecated.
    method: Frame = kind.__new__(kind)
    position, bit = 4, 0
    value: Any
    for name, wire in _SHAPES[index]:
        if wire == "bit":
            if position >= len(payload):
                raise FrameError(f"cannot decode: {method.name} ends too early")
            setattr(method, name, bool(payload[position] >> bit & 1))
            bit += 1
            continue
        if bit:
            position, bit = position + 1, 0
        if wire == "shortstr":
            value, position = read_shortstr(payload, position)
        elif wire == "table":
            value, position = read_table(payload, position)
        elif wire == "longstr":
            value, position = read_longstr(payload, position, len(payload))
        else:
            form = _INTEGERS[wire]
            if position + form.size > len(payload):
                raise FrameError(f"cannot decode: {method.name} ends too early")
            value = form.unpack_from(payload, position)[0]
            position += form.size
        setattr(method, name, value)
    if position + (bit > 0) != len(payload):
        raise FrameError(f"cannot decode: {method.name} does not end where it should")
    return method

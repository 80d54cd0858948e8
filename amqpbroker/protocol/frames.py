"""Frames and methods (AMQP 0-9-1, sections 2.3 and 4.2).

pamqp describes the methods: their names, arguments and wire types are its classes. The octets are
read and written here, because pamqp refuses names that RabbitMQ accepts (other than ASCII, or over
127 characters) and reads tables in quadratic time. A property test holds both codecs equal.
"""

import struct
from typing import Any, ClassVar

import pamqp.commands
from pamqp.base import Frame

from amqpbroker.errors import CommandInvalid, FrameError, MalformedSyntax
from amqpbroker.protocol.faults import cannot_decode, frame_error, malformed_utf8
from amqpbroker.protocol.fields import (
    read_longstr,
    read_table,
    write_longstr,
    write_shortstr,
    write_table,
)

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
"""The types of frames."""
FRAME_END = 0xCE
END = bytes((FRAME_END,))
FRAME_HEAD_BYTES = 7
"""Type, channel and size: what stands before a payload. (In a slice it is written as a 7.)"""
FRAME_OVERHEAD_BYTES = 8
"""What a frame adds to its payload: its head and the end octet."""
FRAME_BYTES_MIN = 4096
"""The frame size that every peer must accept."""
BASIC = 60
"""The class of all that carries messages."""
PROPERTIES_AT = 19
"""Where a header frame's property block begins: behind its head, class, weight and body size."""

FRAME_HEADER = struct.Struct(">BHI")
PAYLOAD_SIZE = struct.Struct(">I")
"""The last field of a frame's head: it stands at 3."""
CONTENT_HEADER = struct.Struct(">HHQ")
METHOD_INDEX = struct.Struct(">I")

PUBLISH_INDEX = pamqp.commands.Basic.Publish.index
ACK_INDEX = pamqp.commands.Basic.Ack.index
CHANNEL_OPEN_INDEX = pamqp.commands.Channel.Open.index
CHANNEL_CLOSE_INDEX = pamqp.commands.Channel.Close.index
CHANNEL_CLOSE_OK_INDEX = pamqp.commands.Channel.CloseOk.index
"""Class and method numbers of what is told without decoding."""

PROTOCOL_HEADER = b"AMQP\0\0\x09\x01"
HEARTBEAT_FRAME = FRAME_HEADER.pack(HEARTBEAT, 0, 0) + END

_INTEGERS = {
    "octet": struct.Struct(">B"),
    "short": struct.Struct(">H"),
    "long": struct.Struct(">I"),
    "longlong": struct.Struct(">Q"),
}


class AccessRequest(Frame):
    """What old clients ask before they use a realm, of which AMQP 0-9-1 has none."""

    __slots__: ClassVar[list[str]] = [  # noqa: RUF023 - the order on the wire
        "realm",
        "exclusive",
        "passive",
        "active",
        "write",
        "read",
    ]
    frame_id, index, name = 30, 0x001E000A, "Access.Request"
    synchronous, valid_responses = True, ["Access.RequestOk"]
    _realm = "shortstr"
    _exclusive = _passive = _active = _write = _read = "bit"


class AccessRequestOk(Frame):
    """The answer to it, as RabbitMQ's: whatever was asked is granted."""

    __slots__: ClassVar[list[str]] = ["ticket"]
    frame_id, index, name = 30, 0x001E000B, "Access.RequestOk"
    _ticket = "short"

    def __init__(self) -> None:
        self.ticket = 1


_KINDS: dict[int, type[Frame]] = pamqp.commands.INDEX_MAPPING | {
    kind.index: kind for kind in (AccessRequest, AccessRequestOk)
}
"""Every method by its class and method number."""
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

    Long strings stay bytes. Raises `CommandInvalid` if the method is unknown, `FrameError` if there
    is none, if an argument is cut off or missing, if octets follow the last one, or if a name is no
    UTF-8 (but for those of basic.publish), `MalformedSyntax` if a table is malformed.
    """
    if len(payload) < 4:
        raise frame_error(METHOD, payload)
    index = METHOD_INDEX.unpack_from(payload)[0]
    kind = _KINDS.get(index)
    if kind is None:
        raise CommandInvalid("unimplemented method", index)
    # Not by its constructor: one of them warns that its method is deprecated.
    method: Frame = kind.__new__(kind)
    try:
        position = _read_arguments(method, index, payload)
    except (FrameError, IndexError, struct.error):
        position = -1
    except MalformedSyntax as error:
        error.index = index
        raise
    except UnicodeDecodeError:
        raise malformed_utf8() from None
    if position != len(payload):
        raise cannot_decode(index, payload)
    return method


def _read_arguments(method: Frame, index: int, payload: bytes) -> int:
    """Read the arguments; where they end, -1 if a name is cut off."""
    position, bit = 4, 0
    value: Any
    errors = "surrogateescape" if index == PUBLISH_INDEX else "strict"  # As RabbitMQ.
    for name, wire in _SHAPES[index]:
        if wire == "bit":
            setattr(method, name, bool(payload[position] >> bit & 1))
            bit += 1
            continue
        if bit:
            position, bit = position + 1, 0
        if wire == "shortstr":
            start = position + 1
            position = start + payload[position]
            if position > len(payload):
                return -1
            value = payload[start:position].decode("utf-8", errors)
        elif wire == "table":
            value, position = read_table(payload, position)
        elif wire == "longstr":
            value, position = read_longstr(payload, position, len(payload))
        else:
            form = _INTEGERS[wire]
            value = form.unpack_from(payload, position)[0]
            position += form.size
        setattr(method, name, value)
    return position + (bit > 0)

"""The octets of AMQP 0-9-1: frames, the few methods that a load needs, tables.

Everything is big-endian. A frame is type, channel, size, payload and the end octet 0xCE (AMQP
0-9-1, section 2.3.5).
"""

import struct
import sys
from array import array

METHOD, HEADER, BODY = 1, 2, 3
END = b"\xce"
FRAME_OVERHEAD = 8
"""Octets that a frame adds to its payload."""
PROTOCOL_HEADER = b"AMQP\0\0\x09\x01"

Method = tuple[int, int]
"""Class and method number."""

START, TUNE, OPEN = (10, 10), (10, 30), (10, 40)
CONNECTION_CLOSE, CHANNEL_CLOSE = (10, 50), (20, 40)
CONNECTION_BLOCKED = (10, 60)
CHANNEL_OPEN = (20, 10)
EXCHANGE_DECLARE, EXCHANGE_DELETE = (40, 10), (40, 20)
QUEUE_DECLARE, QUEUE_BIND, QUEUE_PURGE, QUEUE_DELETE = (50, 10), (50, 20), (50, 30), (50, 40)
QOS, CONSUME, PUBLISH, DELIVER, ACK, NACK = (
    (60, 10),
    (60, 20),
    (60, 40),
    (60, 60),
    (60, 80),
    (60, 120),
)
CONFIRM_SELECT = (85, 10)

DELIVERY_MODE_FLAG, MESSAGE_ID_FLAG = 1 << 12, 1 << 7
"""The property flags of delivery-mode and message-id."""
PERSISTENT = b"\x02"
"""The delivery mode of a message that outlives its broker."""

_FRAME = struct.Struct(">BHI")
_METHOD = struct.Struct(">HH")
_CONTENT = struct.Struct(">HHQH")
_SCALARS = {
    "t": ">?", "b": ">b", "B": ">B", "s": ">h", "u": ">H", "I": ">i", "i": ">I", "l": ">q",
    "L": ">Q", "f": ">f", "d": ">d", "T": ">Q", "D": ">Bi", "V": ">",
}  # fmt: skip


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    """One frame around ``payload``."""
    return _FRAME.pack(kind, channel, len(payload)) + payload + END


def read_frame(buffer: bytes | memoryview, at: int = 0) -> tuple[int, int, bytes, int] | None:
    """The frame that starts at ``at``: kind, channel, payload, offset after it.

    None if it is not whole yet. Raises `ValueError` if its end octet is wrong.
    """
    if len(buffer) - at < FRAME_OVERHEAD:
        return None
    kind, channel, size = _FRAME.unpack_from(buffer, at)
    end = at + FRAME_OVERHEAD + size
    if kind not in (METHOD, HEADER, BODY, 8):
        raise ValueError(f"what should be a frame starts with {bytes(buffer[at : at + 8])!r}")
    if len(buffer) < end:
        return None
    if buffer[end - 1] != END[0]:
        raise ValueError(f"a frame of {size} octets ends with {buffer[end - 1]:#x}, not 0xce")
    return kind, channel, bytes(buffer[at + 7 : end - 1]), end


def shortstr(text: str) -> bytes:
    """A string of up to 255 octets."""
    octets = text.encode()
    return bytes([len(octets)]) + octets


def longstr(octets: bytes) -> bytes:
    """A string of up to 4 GiB."""
    return struct.pack(">I", len(octets)) + octets


def table(**fields: str) -> bytes:
    """A field table of strings."""
    return longstr(b"".join(shortstr(k) + b"S" + longstr(v.encode()) for k, v in fields.items()))


def method(channel: int, which: Method, arguments: bytes = b"") -> bytes:
    """A method frame."""
    return frame(METHOD, channel, _METHOD.pack(*which) + arguments)


def which_method(payload: bytes) -> Method:
    """Class and method number of a method frame's payload."""
    class_id, method_id = _METHOD.unpack_from(payload)
    return class_id, method_id


def content_header(body_bytes: int, message_id: str = "", persistent: bool = False) -> bytes:
    """A header payload: no property but delivery mode and message-id, and these only if given."""
    flags, properties = 0, b""
    if persistent:
        flags, properties = DELIVERY_MODE_FLAG, PERSISTENT
    if message_id:
        flags, properties = flags | MESSAGE_ID_FLAG, properties + shortstr(message_id)
    return _CONTENT.pack(60, 0, body_bytes, flags) + properties


def content(channel: int, header: bytes, body: bytes, frame_max: int) -> bytes:
    """Header frame and body frames, none over ``frame_max`` octets."""
    step = frame_max - FRAME_OVERHEAD
    bodies = (frame(BODY, channel, body[i : i + step]) for i in range(0, len(body), step))
    return frame(HEADER, channel, header) + b"".join(bodies)


def read_shortstr(payload: bytes, at: int) -> tuple[str, int]:
    """A short string, and the offset after it."""
    end = at + 1 + payload[at]
    return payload[at + 1 : end].decode(), end


def read_longstr(payload: bytes, at: int) -> tuple[bytes, int]:
    """A long string, and the offset after it."""
    (size,) = struct.unpack_from(">I", payload, at)
    return payload[at + 4 : at + 4 + size], at + 4 + size


def read_table(octets: bytes) -> dict[str, object]:
    """The fields of a table without its length."""
    fields: dict[str, object] = {}
    at = 0
    while at < len(octets):
        name, at = read_shortstr(octets, at)
        fields[name], at = _read_value(octets, at)
    return fields


def _read_value(octets: bytes, at: int) -> tuple[object, int]:
    """A field value with its type, and the offset after it."""
    kind, at = chr(octets[at]), at + 1
    if kind in _SCALARS:
        values = struct.unpack_from(_SCALARS[kind], octets, at)
        return (values[0] if values else None), at + struct.calcsize(_SCALARS[kind])
    if kind not in "SxFA":
        raise ValueError(f"a table holds a field of the unknown type {kind!r}")
    inner, end = read_longstr(octets, at)
    if kind == "F":
        return read_table(inner), end
    if kind == "A":
        items, at = [], 0
        while at < len(inner):
            item, at = _read_value(inner, at)
            items.append(item)
        return items, end
    return (inner.decode(errors="replace") if kind == "S" else inner), end


def closing(which: Method, payload: bytes) -> str | None:
    """The reason, if the method takes a connection or channel down or blocks it; else None."""
    if which in (CONNECTION_CLOSE, CHANNEL_CLOSE):
        (code,) = struct.unpack_from(">H", payload, 4)
        return f"{code} {read_shortstr(payload, 6)[0]}"
    if which == CONNECTION_BLOCKED:
        return f"publishers are blocked: {read_shortstr(payload, 4)[0]}"
    return None


def octets_of(first: int, count: int) -> bytes:
    """``count`` consecutive numbers from ``first`` on, eight octets each."""
    numbers = array("Q", range(first, first + count))
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers.tobytes()


def write_column(
    block: bytearray, at: int, stride: int, octets: bytes, width: int, step: int
) -> None:
    """Write the first ``width`` of each ``step`` octets at ``at`` and every ``stride`` from there.

    A strided assignment per octet of the width costs 1 ns per message; a loop would cost 100.
    """
    for i in range(width):
        block[at + i :: stride] = octets[i::step]

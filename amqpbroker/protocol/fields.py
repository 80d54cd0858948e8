"""Field values and tables (AMQP 0-9-1, section 4.2.5, with RabbitMQ's errata).

pamqp can read these too, but copies what is left of the table at every field, which lets one frame
of tiny fields stop a node for a tenth of a second. Reading here is linear, and bounded in depth.
Values come out as pamqp's: timestamps as aware datetimes, long strings as text where they are
UTF-8. Short strings that are not keep their bytes as surrogates, so that names echo unchanged.
"""

import struct
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from amqpbroker.errors import FrameError

DEPTH_MAX = 32
"""Tables and arrays within one another; deeper ones are refused."""

_LENGTH = struct.Struct(">I")


def _timestamp(seconds: int) -> datetime | int:
    """A point in time.

    Values over 32 bits are milliseconds by habit, those beyond the calendar stay numbers.
    """
    try:
        return datetime.fromtimestamp(seconds if seconds < 1 << 32 else seconds / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return seconds


_FIXED: dict[int, tuple[struct.Struct, Callable[[Any], Any] | None]] = {
    ord("t"): (struct.Struct(">?"), None),
    ord("b"): (struct.Struct(">b"), None),
    ord("B"): (struct.Struct(">B"), None),
    ord("s"): (struct.Struct(">h"), None),
    ord("u"): (struct.Struct(">H"), None),
    ord("I"): (struct.Struct(">i"), None),
    ord("i"): (struct.Struct(">I"), None),
    ord("l"): (struct.Struct(">q"), None),
    ord("L"): (struct.Struct(">q"), None),
    ord("f"): (struct.Struct(">f"), None),
    ord("d"): (struct.Struct(">d"), None),
    ord("T"): (struct.Struct(">Q"), _timestamp),
}
_SCALE_AND_NUMBER = struct.Struct(">Bi")


def read_shortstr(data: bytes, position: int) -> tuple[str, int]:
    """The short string at ``position``, and where it ends. Raises `FrameError` if it is cut off."""
    if position >= len(data):
        raise FrameError("cannot decode: a short string is missing")
    end = position + 1 + data[position]
    if end > len(data):
        raise FrameError("cannot decode: a short string is cut off")
    return data[position + 1 : end].decode("utf-8", "surrogateescape"), end


def write_shortstr(text: str) -> bytes:
    """``text`` as a short string. Raises `ValueError` over 255 octets."""
    octets = text.encode("utf-8", "surrogateescape")
    if len(octets) > 255:
        raise ValueError(f"a short string holds at most 255 octets, this one has {len(octets)}")
    return bytes((len(octets),)) + octets


def read_longstr(data: bytes, position: int, end: int) -> tuple[bytes, int]:
    """The long string at ``position``, and where it ends.

    Raises `FrameError` if it does not end before ``end``.
    """
    start = position + 4
    if start > end:
        raise FrameError("cannot decode: a length is cut off")
    stop = start + _LENGTH.unpack_from(data, position)[0]
    if stop > end:
        raise FrameError("cannot decode: a long string, table or array is cut off")
    return data[start:stop], stop


def read_table(data: bytes, position: int, depth: int = 0) -> tuple[dict[str, Any], int]:
    """The table at ``position``, and where it ends.

    Raises `FrameError` if it is malformed or too deep.
    """
    content, stop = read_longstr(data, position, len(data))
    return read_fields(content, depth), stop


def read_fields(content: bytes, depth: int = 0) -> dict[str, Any]:
    """The names and values of a table without its length."""
    _check_depth(depth)
    table: dict[str, Any] = {}
    position = 0
    while position < len(content):
        name, position = read_shortstr(content, position)
        table[name], position = _read_value(content, position, depth)
    return table


def _read_array(content: bytes, depth: int) -> list[Any]:
    _check_depth(depth)
    array: list[Any] = []
    position = 0
    while position < len(content):
        value, position = _read_value(content, position, depth)
        array.append(value)
    return array


def _check_depth(depth: int) -> None:
    if depth > DEPTH_MAX:
        raise FrameError(f"cannot decode: tables are nested more than {DEPTH_MAX} deep")


def _read_value(data: bytes, position: int, depth: int) -> tuple[Any, int]:
    """A type octet and the value behind it."""
    if position >= len(data):
        raise FrameError("cannot decode: a field has no value")
    kind = data[position]
    position += 1
    fixed = _FIXED.get(kind)
    if fixed is not None:
        form, convert = fixed
        stop = position + form.size
        if stop > len(data):
            raise FrameError("cannot decode: a field's value is cut off")
        value = form.unpack_from(data, position)[0]
        return (value if convert is None else convert(value)), stop
    if kind in b"SxFA":
        content, stop = read_longstr(data, position, len(data))
        if kind == ord("F"):
            return read_fields(content, depth + 1), stop
        if kind == ord("A"):
            return _read_array(content, depth + 1), stop
        if kind == ord("x"):
            return bytearray(content), stop
        return _text_or_bytes(content), stop
    if kind == ord("D"):
        stop = position + 5
        if stop > len(data):
            raise FrameError("cannot decode: a decimal is cut off")
        scale, number = _SCALE_AND_NUMBER.unpack_from(data, position)
        return Decimal(number).scaleb(-scale), stop
    if kind in b"V\0":
        return None, position
    raise FrameError(f"cannot decode: unknown field type {kind}")


def _text_or_bytes(octets: bytes) -> str | bytes:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return octets

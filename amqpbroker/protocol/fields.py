"""Field values and tables (AMQP 0-9-1, section 4.2.5, with RabbitMQ's errata).

pamqp can read these too, but copies what is left of the table at every field, which lets one frame
of tiny fields stop a node for a tenth of a second, and it refuses to write some of what clients may
send. Reading here is linear, and bounded in depth. Values come out as pamqp's: timestamps as aware
datetimes, long strings as text where they are UTF-8. Short strings that are not keep their bytes as
surrogates, so that names echo unchanged. What is written is read as the same values again.
"""

import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from amqpbroker.errors import FrameError, MalformedSyntax

DEPTH_MAX = 32
"""Tables and arrays within one another; deeper ones are refused."""

_LENGTH = struct.Struct(">I")


def _timestamp(seconds: int) -> datetime | int:
    """A point in time; a number over 32 bits counts milliseconds, by the habit of some clients.

    One that is beyond the calendar stays a number.
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
"""Fields of a fixed size by their type: their form, and what makes a value of the number."""
_VOID = ord("V")
_LONG = b"SxFA"
"""Long strings, octets, tables and arrays: all have a length before them."""
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


def read_table(data: bytes, position: int) -> tuple[dict[str, Any], int]:
    """The table at ``position``, and where it ends.

    Raises `FrameError` if it is cut off, and as `read_fields`.
    """
    content, stop = read_longstr(data, position, len(data))
    return read_fields(content), stop


def read_fields(content: bytes) -> dict[str, Any]:
    """The names and values of a table without its length.

    Raises `MalformedSyntax` if it is malformed or too deep.
    """
    try:
        return _read_fields(content, 0)
    except FrameError as error:
        raise MalformedSyntax(error.text) from error


def _read_fields(content: bytes, depth: int) -> dict[str, Any]:
    _check_depth(depth)
    table: dict[str, Any] = {}
    position, end = 0, len(content)
    fixed_types = _FIXED
    while position < end:
        start = position + 1
        position = start + content[position]
        if position >= end:
            raise FrameError("cannot decode: a field has no value")
        name = content[start:position].decode("utf-8", "surrogateescape")
        kind = content[position]
        if kind == _VOID:
            table[name] = None
            position += 1
            continue
        fixed = fixed_types.get(kind)
        if fixed is None:
            table[name], position = _read_value(content, position, depth)
            continue
        # As in `_read_value`, without the call: most fields of large tables are small.
        form, convert = fixed
        stop = position + 1 + form.size
        if stop > end:
            raise FrameError("cannot decode: a field's value is cut off")
        value = form.unpack_from(content, position + 1)[0]
        table[name] = value if convert is None else convert(value)
        position = stop
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
    """The type octet at ``position``, which is there, and the value behind it."""
    kind = data[position]
    position += 1
    if kind == _VOID:
        return None, position
    fixed = _FIXED.get(kind)
    if fixed is not None:
        form, convert = fixed
        stop = position + form.size
        if stop > len(data):
            raise FrameError("cannot decode: a field's value is cut off")
        value = form.unpack_from(data, position)[0]
        return (value if convert is None else convert(value)), stop
    if kind in _LONG:
        content, stop = read_longstr(data, position, len(data))
        if kind == ord("F"):
            return _read_fields(content, depth + 1), stop
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
    raise FrameError(f"cannot decode: unknown field type {kind}")


def _text_or_bytes(octets: bytes) -> str | bytes:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return octets


# -- writing ---------------------------------------------------------------------------------------

_INTEGERS = (
    (-(1 << 7), (1 << 7) - 1, struct.Struct(">cb"), b"b"),
    (-(1 << 15), (1 << 15) - 1, struct.Struct(">ch"), b"s"),
    (0, (1 << 16) - 1, struct.Struct(">cH"), b"u"),
    (-(1 << 31), (1 << 31) - 1, struct.Struct(">ci"), b"I"),
    (0, (1 << 32) - 1, struct.Struct(">cI"), b"i"),
    (-(1 << 63), (1 << 63) - 1, struct.Struct(">cq"), b"l"),
    (0, (1 << 64) - 1, struct.Struct(">cQ"), b"T"),  # A timestamp beyond the calendar.
)
"""Least, most, form and type of integers: the first that fits is taken."""
_FLOAT, _DOUBLE = struct.Struct(">f"), struct.Struct(">d")
_TIMESTAMP = struct.Struct(">Q")


def write_longstr(octets: bytes | bytearray) -> bytes:
    """``octets`` as a long string."""
    return _LENGTH.pack(len(octets)) + octets


def write_table(table: dict[str, Any]) -> bytes:
    """``table`` with its length, its fields in their order.

    Raises `ValueError` for a value that no field can hold, or a name over 255 octets.
    """
    return write_longstr(write_fields(table))


def write_fields(table: dict[str, Any]) -> bytes:
    """``table`` without its length. Raises as `write_table`."""
    return b"".join([write_shortstr(name) + write_value(table[name]) for name in table])


def write_value(value: Any) -> bytes:
    """A type octet and ``value`` behind it: the smallest type that loses nothing.

    Raises `ValueError` if there is none.
    """
    write = _WRITERS.get(type(value))
    if write is None:
        raise ValueError(f"no field holds a {type(value).__name__}")
    try:
        return write(value)
    except struct.error as error:
        raise ValueError(f"no field holds {value!r}") from error


def _write_integer(value: int) -> bytes:
    for least, most, form, kind in _INTEGERS:
        if least <= value <= most:
            return form.pack(kind, value)
    raise ValueError(f"no field holds {value}")


def _write_float(value: float) -> bytes:
    try:
        octets = _FLOAT.pack(value)
    except OverflowError:
        octets = b""
    if octets and _FLOAT.unpack(octets)[0] == value:
        return b"f" + octets
    return b"d" + _DOUBLE.pack(value)


def _write_decimal(value: Decimal) -> bytes:
    if not value.is_finite():
        raise ValueError(f"no field holds {value}")
    scale = max(0, -int(value.as_tuple().exponent))
    return b"D" + _SCALE_AND_NUMBER.pack(scale, int(value.scaleb(scale)))


def _write_timestamp(value: datetime) -> bytes:
    """As milliseconds if they are needed, and will be read as such; else as seconds."""
    if value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    milliseconds = round(value.timestamp() * 1000)
    seconds, rest = divmod(milliseconds, 1000)
    needed = rest or seconds >= 1 << 32
    return b"T" + _TIMESTAMP.pack(milliseconds if needed and milliseconds >= 1 << 32 else seconds)


_WRITERS: dict[type, Callable[[Any], bytes]] = {
    bool: lambda value: b"t\1" if value else b"t\0",
    int: _write_integer,
    float: _write_float,
    Decimal: _write_decimal,
    str: lambda value: b"S" + write_longstr(value.encode("utf-8", "surrogateescape")),
    bytes: lambda value: b"S" + write_longstr(value),
    bytearray: lambda value: b"x" + write_longstr(value),
    datetime: _write_timestamp,
    dict: lambda value: b"F" + write_table(value),
    list: lambda value: b"A" + write_longstr(b"".join([write_value(item) for item in value])),
    type(None): lambda value: b"V",
}


# -- without decoding ------------------------------------------------------------------------------


def split_fields(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Each field of a table that was read before: its name, and all its octets.

    ``content`` is the table without its length. The octets put together are ``content`` again.
    """
    position = 0
    while position < len(content):
        start = position
        position += 1 + content[position]
        name = content[start + 1 : position]
        kind = content[position]
        position += 1
        fixed = _FIXED.get(kind)
        if fixed is not None:
            position += fixed[0].size
        elif kind in _LONG:
            position += 4 + _LENGTH.unpack_from(content, position)[0]
        elif kind == ord("D"):
            position += _SCALE_AND_NUMBER.size
        yield name, content[start:position]

"""Frames of AMQP 0-9-1 as the kit reads and writes them.

Methods are pamqp's descriptions; the octets are the kit's own work, so that it does not lean on the
code it examines. Tables keep their exact wire types, names and texts may hold anything.
"""

import re
import struct
from collections.abc import Iterator
from typing import Any

import attrs
from pamqp import commands

from kit.values import ABSENT, Typed

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
FRAME_END = 0xCE
OVERHEAD_BYTES = 8
PROTOCOL_HEADER = b"AMQP\0\0\x09\x01"

_FIXED = {
    "octet": ">B",
    "short": ">H",
    "long": ">I",
    "longlong": ">Q",
    "timestamp": ">Q",
}
_FIELD_FORMS = dict(zip("tbBsuIilfdT", (">" + form for form in "?bBhHiIqfdQ"), strict=True))
_ARGUMENT_NAMES = {"exchange_type": "type", "message_type": "type"}


@attrs.frozen
class MethodForm:
    """A method: its number, and its arguments with their wire types."""

    name: str
    index: int
    arguments: tuple[tuple[str, str], ...]


def _spelled(name: str) -> str:
    """AMQP's spelling of one of pamqp's names: ``Queue.DeclareOk`` is ``queue.declare-ok``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


def _arguments(kind: Any) -> tuple[tuple[str, str], ...]:
    return tuple((_ARGUMENT_NAMES.get(n, n), kind.amqp_type(n)) for n in kind.attributes())


_FORMS = [
    MethodForm(_spelled(kind.name), index, _arguments(kind))
    for index, kind in commands.INDEX_MAPPING.items()
]
_FORMS.append(
    MethodForm(
        "access.request",
        0x1E000A,
        (
            ("realm", "shortstr"),
            *((name, "bit") for name in ("exclusive", "passive", "active", "write", "read")),
        ),
    )
)
_FORMS.append(MethodForm("access.request-ok", 0x1E000B, (("ticket", "short"),)))
METHODS = {form.name: form for form in _FORMS}
_BY_INDEX = {form.index: form for form in _FORMS}
PROPERTIES = _arguments(commands.Basic.Properties)
CONTENT_METHODS = {"basic.publish", "basic.deliver", "basic.get-ok", "basic.return"}


@attrs.frozen
class Item:
    """What came: a method with its content if it has one, a heartbeat, or a protocol header."""

    channel: int
    name: str
    fields: dict[str, Any]

    def __str__(self) -> str:
        shown = ", ".join(f"{name}={_shown(value)}" for name, value in self.fields.items())
        return f"{self.name}({shown})" if shown else self.name


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:290]}… ({len(text)} characters)"


# -- out ---------------------------------------------------------------------------------------


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    """One frame around ``payload``."""
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + bytes((FRAME_END,))


def encode_method(channel: int, name: str, arguments: dict[str, Any]) -> bytes:
    """A method frame; arguments that are not given are zero, empty or false."""
    form = METHODS[name]
    unknown = arguments.keys() - {argument for argument, _ in form.arguments}
    if unknown:
        raise ValueError(f"{name} has no {', '.join(sorted(unknown))}")
    pieces, bits = [struct.pack(">I", form.index)], ""
    for argument, wire in form.arguments:
        if wire == "bit":
            bits = str(int(bool(arguments.get(argument)))) + bits
            continue
        if bits:
            pieces.append(bytes((int(bits, 2),)))
            bits = ""
        pieces.append(_encode(wire, arguments.get(argument)))
    if bits:
        pieces.append(bytes((int(bits, 2),)))
    return frame(METHOD, channel, b"".join(pieces))


def encode_header(
    channel: int, properties: dict[str, Any], body_size: int, class_id: int = 60, weight: int = 0
) -> bytes:
    """A content header frame."""
    flags, pieces = 0, []
    for place, (name, wire) in enumerate(PROPERTIES):
        if name in properties and properties[name] is not ABSENT:
            flags |= 0x8000 >> place
            pieces.append(_encode(wire, properties[name]))
    head = struct.pack(">HHQH", class_id, weight, body_size, flags)
    return frame(HEADER, channel, head + b"".join(pieces))


def encode_bodies(channel: int, body: bytes, frame_max: int) -> bytes:
    """Body frames, none of them over ``frame_max``."""
    step = frame_max - OVERHEAD_BYTES
    parts = (body[start : start + step] for start in range(0, len(body), step))
    return b"".join(frame(BODY, channel, part) for part in parts)


def octets(text: str | bytes) -> bytes:
    """Text as it travels."""
    return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text


def _encode(wire: str, value: Any) -> bytes:
    if wire == "shortstr":
        data = octets(value or "")
        return bytes((len(data),)) + data
    if wire == "longstr":
        data = encode_fields(value) if isinstance(value, dict) else octets(value or "")
        return struct.pack(">I", len(data)) + data
    if wire == "table":
        data = value if isinstance(value, bytes) else encode_fields(value or {})
        return struct.pack(">I", len(data)) + data
    return struct.pack(_FIXED[wire], value or 0)


def encode_fields(table: dict[str, Any]) -> bytes:
    """A table without its length."""
    return b"".join(_encode("shortstr", name) + _field(value) for name, value in table.items())


def _field(value: Any) -> bytes:
    kind, value = (value.kind, value.value) if isinstance(value, Typed) else _usual(value)
    if kind in _FIELD_FORMS:
        data = struct.pack(_FIELD_FORMS[kind], value)
    elif kind == "D":
        data = struct.pack(">Bi", *value)
    elif kind == "V":
        data = b""
    else:
        data = {
            "S": lambda: octets(value),
            "x": lambda: octets(value),
            "A": lambda: b"".join(map(_field, value)),
            "F": lambda: encode_fields(value),
        }[kind]()
        data = struct.pack(">I", len(data)) + data
    return kind.encode() + data


def _usual(value: Any) -> tuple[str, Any]:
    match value:
        case bool():
            return "t", value
        case int():
            return ("I" if -(1 << 31) <= value < 1 << 31 else "l"), value
        case float():
            return "d", value
        case str():
            return "S", value
        case bytes():
            return "x", value
        case list():
            return "A", value
        case dict():
            return "F", value
        case None:
            return "V", None
    raise ValueError(f"{value!r} is no field value")


# -- in ----------------------------------------------------------------------------------------


class _Cursor:
    """Reads values one behind the other."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        piece = self.data[self.at : self.at + size]
        if len(piece) < size:
            raise ValueError("what came is cut off")
        self.at += size
        return piece

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def value(self, wire: str) -> Any:
        if wire == "shortstr":
            return self.take(self.number(">B")).decode("utf-8", "surrogateescape")
        if wire == "longstr":
            return self.take(self.number(">I")).decode("utf-8", "surrogateescape")
        if wire == "table":
            return _table(self.take(self.number(">I")))
        return self.number(_FIXED[wire])


def _table(data: bytes) -> dict[str, Any]:
    cursor, table = _Cursor(data), {}
    while cursor.at < len(data):
        name = cursor.value("shortstr")
        table[name] = _read_field(cursor)
    return table


def _read_field(cursor: _Cursor) -> Any:
    kind = cursor.take(1).decode("latin-1")
    if kind in _FIELD_FORMS:
        value = cursor.number(_FIELD_FORMS[kind])
    elif kind == "D":
        value = struct.unpack(">Bi", cursor.take(5))
    elif kind == "V":
        value = None
    elif kind == "S":
        value = cursor.value("longstr")
    elif kind == "x":
        value = cursor.take(cursor.number(">I"))
    elif kind == "F":
        value = cursor.value("table")
    elif kind == "A":
        inner, value = _Cursor(cursor.take(cursor.number(">I"))), []
        while inner.at < len(inner.data):
            value.append(_read_field(inner))
    else:
        raise ValueError(f"a field of the unknown type {kind!r} came")
    usual = kind != "D" and _usual(value)[0] == kind
    return value if usual else Typed(kind, value)


def _read_method(channel: int, payload: bytes) -> Item:
    cursor = _Cursor(payload)
    form = _BY_INDEX[cursor.number(">I")]
    fields: dict[str, Any] = {}
    bit = 0
    for name, wire in form.arguments:
        if wire == "bit":
            if bit == 0:
                bits = cursor.number(">B")
            fields[name] = bool(bits >> bit & 1)
            bit += 1
        else:
            bit = 0
            fields[name] = cursor.value(wire)
    return Item(channel, form.name, fields)


def _read_header(payload: bytes) -> tuple[int, dict[str, Any]]:
    """Size of the body, and the properties."""
    cursor = _Cursor(payload)
    cursor.take(4)
    size, flags = cursor.number(">Q"), cursor.number(">H")
    named = enumerate(PROPERTIES)
    return size, {n: cursor.value(wire) for i, (n, wire) in named if flags & 0x8000 >> i}


@attrs.define
class _Content:
    item: Item
    size: int = -1
    body: bytes = b""
    frames: int = 0


class Reader:
    """Octets to items."""

    def __init__(self) -> None:
        self._data = b""
        self._contents: dict[int, _Content] = {}

    def feed(self, data: bytes) -> Iterator[Item]:
        """The items that are whole now."""
        self._data += data
        if self._data[:4] == b"AMQP" and len(self._data) >= 8:
            header, self._data = self._data[:8], self._data[8:]
            yield Item(0, "protocol-header", {"octets": header})
        while len(self._data) >= OVERHEAD_BYTES:
            kind, channel, size = struct.unpack_from(">BHI", self._data)
            end = size + OVERHEAD_BYTES
            if end > len(self._data):
                return
            payload, self._data = self._data[7 : end - 1], self._data[end:]
            item = self._take(kind, channel, payload)
            if item is not None:
                yield item

    def _take(self, kind: int, channel: int, payload: bytes) -> Item | None:
        if kind == HEARTBEAT:
            return Item(channel, "heartbeat", {})
        if kind == METHOD:
            if channel in self._contents:
                raise ValueError("a method came in the middle of a content")
            item = _read_method(channel, payload)
            if item.name not in CONTENT_METHODS:
                return item
            self._contents[channel] = _Content(item)
            return None
        content = self._contents[channel]
        if kind == HEADER:
            content.size, properties = _read_header(payload)
            content.item.fields.update(properties)
        else:
            content.body += payload
            content.frames += 1
        if len(content.body) < content.size:
            return None
        del self._contents[channel]
        body = content.body.decode("utf-8", "surrogateescape")
        content.item.fields.update(body=body, body_frames=content.frames)
        return content.item

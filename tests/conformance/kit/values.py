"""Values of scripts: field values with an exact wire type, and what an expected value may be.

A plain value has the wire type that a client would choose: text S, bytes x, bool t, int I (or l
over 32 bits), float d, None V, list A, dict F. Where a script cares for another type, it says so:
``short(5)``, ``longlong(5)``.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs


@attrs.frozen
class Typed:
    """A field value with a wire type other than the usual one for it."""

    kind: str
    value: Any

    def __repr__(self) -> str:
        return f"{_NAMES[self.kind]}({self.value!r})"


FIELD_TYPES: dict[str, str] = {
    "octet": "B",
    "signed_octet": "b",
    "short": "s",
    "unsigned_short": "u",
    "long": "I",
    "unsigned_long": "i",
    "longlong": "l",
    "float32": "f",
    "double": "d",
    "decimal": "D",
    "timestamp": "T",
    "boolean": "t",
    "octets": "x",
    "longstr": "S",
}
"""The functions with which a script names a wire type."""

_NAMES = {kind: name for name, kind in FIELD_TYPES.items()}


class _Absent:
    def __repr__(self) -> str:
        return "absent"


ABSENT = _Absent()
"""A property that is not there; as ``body``: no content follows the method."""


@attrs.frozen
class Like:
    """Text that matches a pattern as a whole, where RabbitMQ's own texts vary."""

    pattern: str

    def __repr__(self) -> str:
        return f"like({self.pattern!r})"


@attrs.frozen
class Having:
    """A table that has these fields, and may have others."""

    fields: dict[str, Any]

    def __repr__(self) -> str:
        return f"having({self.fields!r})"


@attrs.frozen
class Capture:
    """A name without a value yet: whatever comes becomes its value."""

    name: str

    def __repr__(self) -> str:
        return self.name


def _typed(kind: str) -> Callable[[Any], Typed]:
    return lambda value: Typed(kind, value)


class Names(dict[str, Any]):
    """What an expression of a script can speak of; an unknown name is a `Capture`."""

    def __init__(self, variables: Mapping[str, Any]) -> None:
        super().__init__({name: _typed(kind) for name, kind in FIELD_TYPES.items()})
        self.update(absent=ABSENT, like=Like, having=Having, raw_frame=raw_frame, **variables)

    def __missing__(self, name: str) -> Any:
        return Capture(name)


def raw_frame(kind: int, channel: int, payload: bytes, end: int = 0xCE, extra: int = 0) -> bytes:
    """A frame, sound or not: ``end`` is its last octet, ``extra`` makes its size a lie."""
    size = len(payload) + extra
    head = bytes((kind,)) + channel.to_bytes(2, "big") + size.to_bytes(4, "big")
    return head + payload + bytes((end,))


def matches(expected: Any, actual: Any, variables: dict[str, Any]) -> bool:
    """Whether ``actual`` is what was expected; captures become ``variables``."""
    if isinstance(expected, Capture):
        variables[expected.name] = actual
        return True
    if isinstance(expected, Like):
        return isinstance(actual, str) and bool(re.fullmatch(expected.pattern, actual, re.DOTALL))
    if isinstance(expected, Having):
        return isinstance(actual, dict) and all(
            name in actual and matches(value, actual[name], variables)
            for name, value in expected.fields.items()
        )
    if isinstance(expected, dict) and isinstance(actual, dict):
        return expected.keys() == actual.keys() and all(
            matches(value, actual[key], variables) for key, value in expected.items()
        )
    if isinstance(expected, list) and isinstance(actual, list):
        return len(expected) == len(actual) and all(
            matches(one, other, variables) for one, other in zip(expected, actual, strict=True)
        )
    return type(expected) is type(actual) and bool(expected == actual)

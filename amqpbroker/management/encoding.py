"""JSON as RabbitMQ writes it."""

from collections.abc import AsyncGenerator
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec

Pieces = AsyncGenerator[bytes, None]
"""Octets of an answer, as they are made."""


def encode(value: Any) -> bytes:
    """A value as JSON. What is no text in UTF-8 has its strange octets replaced."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_clean(value))


def _clean(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        case dict():
            return {_clean(name): _clean(each) for name, each in value.items()}
        case list() | tuple():
            return [_clean(each) for each in value]
    return value


def table(arguments: dict[str, Any]) -> dict[str, Any]:
    """A table of AMQP as JSON can hold it (rabbit_misc:amqp_table)."""
    return {name: _field(value) for name, value in arguments.items()}


def _field(value: Any) -> Any:
    match value:
        case dict():
            return table(value)
        case list():
            return [_field(each) for each in value]
        case bytes() | bytearray():
            return value.decode("utf-8", "replace")
        case datetime():
            return int(value.timestamp())
        case Decimal():
            return float(value)
    return value

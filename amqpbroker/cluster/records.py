"""Changes of definitions as lines of JSON: how they are kept, and can be read by people.

    {"put": {"queue": {"vhost": "/", "name": "q", "durable": true, …}}}

What JSON has no word for (arguments may hold octets, points in time, decimals) is an object with
one key that begins with ``$``.
"""

import base64
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import attrs

from amqpbroker.definitions import (
    BindingDefinition,
    Change,
    Definition,
    ExchangeDefinition,
    GlobalParameterDefinition,
    ParameterDefinition,
    PermissionDefinition,
    PolicyDefinition,
    QueueDefinition,
    TopicPermissionDefinition,
    UserDefinition,
    VHostDefinition,
)
from amqpbroker.errors import DefinitionError

_KINDS: dict[str, type[Definition]] = {
    "vhost": VHostDefinition,
    "user": UserDefinition,
    "permission": PermissionDefinition,
    "topic_permission": TopicPermissionDefinition,
    "policy": PolicyDefinition,
    "parameter": ParameterDefinition,
    "global_parameter": GlobalParameterDefinition,
    "exchange": ExchangeDefinition,
    "queue": QueueDefinition,
    "binding": BindingDefinition,
}
_NAMES = {
    kind: (name, tuple(field.name for field in attrs.fields(kind))) for name, kind in _KINDS.items()
}
"""Of each type the name, and those of its fields."""


def encode_change(change: Change) -> bytes:
    """A change as a line."""
    definition = change.definition
    name, names = _NAMES[type(definition)]
    fields = {each: getattr(definition, each) for each in names}
    return _encoder.encode({change.act: {name: fields}}).encode() + b"\n"


def decode_change(line: bytes) -> Change:
    """The change in a line. Raises `DefinitionError`."""
    try:
        [(act, what)] = json.loads(line, object_hook=restored).items()
        [(name, fields)] = what.items()
        if "tags" in fields:
            fields["tags"] = tuple(fields["tags"])
        if act not in ("put", "delete"):
            raise ValueError(act)
        return Change(act, _KINDS[name](**fields))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DefinitionError(f"this is no change of a definition: {line!r} ({error})") from error


def plain(value: Any) -> Any:
    """A value of an argument as JSON has it."""
    match value:
        case dict():
            return {name: plain(each) for name, each in value.items()}
        case list() | tuple():
            return [plain(each) for each in value]
        case bytearray():
            return {"$binary": base64.b64encode(value).decode()}
        case bytes():
            return {"$bytes": base64.b64encode(value).decode()}
        case datetime():
            return {"$timestamp": value.timestamp()}
        case Decimal():
            return {"$decimal": str(value)}
        case _:
            return value


_encoder = json.JSONEncoder(separators=(",", ":"), default=plain)


def restored(there: dict[str, Any]) -> Any:
    """A value as it was before `plain`."""
    if len(there) != 1:
        return there
    [(mark, value)] = there.items()
    match mark:
        case "$binary":
            return bytearray(base64.b64decode(value))
        case "$bytes":
            return base64.b64decode(value)
        case "$timestamp":
            return datetime.fromtimestamp(value, UTC)
        case "$decimal":
            return Decimal(value)
        case _:
            return there

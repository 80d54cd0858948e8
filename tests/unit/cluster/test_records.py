"""Definitions as lines: what is written is read again, and nothing else is."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, get_args

import pytest

from amqpbroker.cluster.records import decode_change, encode_change
from amqpbroker.definitions import (
    BindingDefinition,
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
    delete,
    put,
)
from amqpbroker.errors import DefinitionError
from amqpbroker.server.checkup import KINDS

ARGUMENTS: dict[str, Any] = {
    "number": 1 << 40,
    "float": 1.5,
    "text": "päper\n\udc80",
    "octets": b"\xff\x00",
    "binary": bytearray(b"\x01"),
    "when": datetime(2026, 11, 21, 12, 0, 0, 500_000, tzinfo=UTC),
    "decimal": Decimal("-1.50"),
    "nothing": None,
    "truth": True,
    "array": [1, b"\xfe", {"deep": [None]}],
    "table": {"$bytes": "no, text", "more": 1},
}

DEFINITIONS: list[Definition] = [
    VHostDefinition("a vhost", "what for", ("a", "b")),
    PolicyDefinition("/", "p", "^q", {"ha-mode": "nodes", "ha-params": ["a"]}, 1, "queues", True),
    UserDefinition("ann", "hash", ("administrator", "management")),
    UserDefinition("bob", "hash", limits={"max-channels": 3}),
    ParameterDefinition("/", "vhost-limits", "limits", {"max-queues": 3}),
    GlobalParameterDefinition("cluster_name", {"any": ["thing", None]}),
    PermissionDefinition("/", "ann", ".*", "", "^a"),
    TopicPermissionDefinition("/", "ann", "x", "^{username}", ".*"),
    ExchangeDefinition("/", "x", "topic", True, True, True, ARGUMENTS),
    QueueDefinition("/", "q\r\n", True, False, True, ARGUMENTS, log_id=1 << 50),
    BindingDefinition("/", "x", "q", "key", ARGUMENTS),
    BindingDefinition("/", "x", "y", "key", {}, "exchange"),
]


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("change", [put, delete])
def test_a_change_comes_back_from_its_line(definition: Definition, change: Any) -> None:
    line = encode_change(change(definition))

    assert line.count(b"\n") == 1
    assert len(line.splitlines()) == 1
    again = decode_change(line)
    assert again == change(definition)
    if isinstance(definition, QueueDefinition):
        assert isinstance(again.definition, QueueDefinition)
        assert again.definition.log_id == definition.log_id


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b'{"put": {}}',
        b'{"put": {"queue": {"name": "q"}}}',
        b'{"put": {"planet": {"name": "q"}}}',
        b'{"burn": {"vhost": {"name": "q"}}}',
        b'{"put": {"vhost": {"name": "q", "more": 1}}}',
        b'{"put": {"permission": {"vhost": "/", "user": "a", "configure": "(",'
        b' "write": "", "read":""}}}',
    ],
)
def test_other_lines_are_refused(line: bytes) -> None:
    with pytest.raises(DefinitionError):
        decode_change(line)


@pytest.mark.parametrize("kind", get_args(Definition), ids=lambda kind: kind.__name__)
def test_every_kind_of_definition_is_known_everywhere(kind: type[Definition]) -> None:
    assert kind in KINDS
    assert kind in {type(each) for each in DEFINITIONS}

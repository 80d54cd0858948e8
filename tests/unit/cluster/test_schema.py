"""How definitions lie in a cluster's store."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqpbroker.cluster.schema import BoundTo, Schema, leadership_value
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
)
from amqpbroker.errors import DefinitionError
from amqpbroker.replication.leadership import only_on

schema = Schema("a cluster/of mine")
ODD = {"a": b"\xff", "b": [1, {"c": Decimal("1.5")}], "d": datetime(2020, 1, 1, tzinfo=UTC)}

EVERY_KIND: list[Definition] = [
    VHostDefinition("/"),
    VHostDefinition("v", "for tests", ("a", "b"), "classic"),
    UserDefinition("ann", "hash", ("administrator",), "rabbit_password_hashing_md5"),
    UserDefinition("bob", "hash", limits={"max-channels": 3}),
    ParameterDefinition("/", "vhost-limits", "limits", {"max-queues": 3}),
    GlobalParameterDefinition("cluster_name", {"any": ["thing", None]}),
    PermissionDefinition("/", "ann", ".*", "", "^x"),
    TopicPermissionDefinition("/", "ann", "x/y", ".*", ""),
    PolicyDefinition("/", "p", "^ha", {"ha-mode": "all"}, 3, "queues"),
    PolicyDefinition("/", "p", "", {"max-length": 3}, is_operator=True),
    ExchangeDefinition("/", "x", "topic", durable=True, internal=True, arguments=ODD),
    QueueDefinition("/", "q\udcff", durable=True, arguments=ODD, log_id=7, owner="n@1"),
    BindingDefinition("/", "x", "q", "k.#", ODD),
    BindingDefinition("/", "x", "y", destination_type="exchange"),
]


@pytest.mark.parametrize("definition", EVERY_KIND, ids=lambda each: type(each).__name__)
def test_what_is_written_is_read(definition: Definition) -> None:
    key = schema.key(definition)
    assert key.startswith(schema.prefix)
    found = schema.definition(key, schema.value(definition, did=5))
    if isinstance(definition, BindingDefinition):
        assert found == BoundTo(definition, 5)
    else:
        assert found == definition
    if isinstance(found, QueueDefinition):
        assert (found.log_id, found.owner) == (7, "n@1")


@given(st.lists(st.text(max_size=6), min_size=2, max_size=2, unique=True))
def test_no_two_names_share_a_key(names: list[str]) -> None:
    one, other = (
        {schema.path("x", name, name), schema.path("x", name, ""), schema.inside("b", name, "x")}
        for name in names
    )
    assert one.isdisjoint(other)


@given(st.text(), st.text())
def test_a_key_says_what_it_names(vhost: str, name: str) -> None:
    assert schema.parts(schema.path("q", vhost, name)) == ["q", vhost, name]


def test_bindings_between_the_same_two_have_keys_of_their_own() -> None:
    bindings = [
        BindingDefinition("/", "x", "q", "k"),
        BindingDefinition("/", "x", "q", "l"),
        BindingDefinition("/", "x", "q", "k", {"a": 1}),
        BindingDefinition("/", "x", "q", "k", {"a": True}),
        BindingDefinition("/", "x", "q", "k", destination_type="exchange"),
    ]
    assert len({schema.key(binding) for binding in bindings}) == len(bindings)


def test_where_a_queue_is_led_is_read_again() -> None:
    key = schema.leadership_key(QueueDefinition("/", "q", log_id=7))
    leadership = schema.leadership(key, leadership_value(only_on("rabbit@a")))
    assert leadership == only_on("rabbit@a")
    assert leadership.node == "rabbit@a"


def test_what_is_no_definition_is_none() -> None:
    assert schema.definition(schema.path("n", "rabbit@a"), b"{}") is None


@pytest.mark.parametrize("value", [b"", b"[]", b"{}", b'{"type": 1}', b"\xff"])
def test_a_value_that_makes_no_sense_is_refused(value: bytes) -> None:
    with pytest.raises(DefinitionError, match="says"):
        schema.definition(schema.path("x", "/", "x"), value)
    with pytest.raises(DefinitionError, match="says"):
        schema.leadership(schema.path("ql", "7"), value)


def test_names_are_encoded_in_keys() -> None:
    schema = Schema("my/cluster")
    assert schema.prefix == b"/my%2Fcluster/v1/"
    key = schema.path("n", "rabbit@ö/a")
    assert key == b"/my%2Fcluster/v1/n/rabbit%40%C3%B6%2Fa"
    assert schema.parts(key) == ["n", "rabbit@ö/a"]


def test_where_many_queues_are_led_is_one_object_as_long_as_it_is_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("amqpbroker.cluster.schema._LEADERSHIPS_MAX", 2)
    own = Schema("c")
    one, other, third = (leadership_value(only_on(node)) for node in ("a@h", "b@h", "c@h"))

    first = own.leadership(b"/c/v1/ql/1", one)
    assert own.leadership(b"/c/v1/ql/2", one) is first
    assert own.leadership(b"/c/v1/ql/3", other) == only_on("b@h")
    assert own.leadership(b"/c/v1/ql/4", third) == only_on("c@h")

    assert own.leadership(b"/c/v1/ql/5", one) == first == only_on("a@h")

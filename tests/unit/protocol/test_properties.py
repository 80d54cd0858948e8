"""Property blocks: what is read in them, and what their messages share."""

import struct
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import commands

from amqpbroker.errors import MalformedSyntax
from amqpbroker.protocol.properties import PERSISTENT, PLAIN, read_properties

property_test = settings(max_examples=200, derandomize=True, deadline=None)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
PROPERTIES: dict[str, st.SearchStrategy[Any]] = {
    "content_type": TEXTS,
    "content_encoding": TEXTS,
    "headers": st.dictionaries(
        st.text("abc-", max_size=5), st.integers(-9, 9) | st.booleans() | TEXTS, max_size=3
    ).map(lambda headers: dict(sorted(headers.items()))),  # As pamqp writes them.
    "delivery_mode": st.sampled_from([1, 2]),
    "priority": st.integers(0, 255),
    "correlation_id": TEXTS,
    "reply_to": TEXTS | st.just("amq.rabbitmq.reply-to"),
    "expiration": TEXTS,
    "message_id": TEXTS,
    "timestamp": st.datetimes(
        datetime(1971, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)
    ).map(lambda moment: moment.replace(microsecond=0)),
    "message_type": TEXTS,
    "user_id": TEXTS,
    "app_id": TEXTS,
}


def block(**properties: Any) -> bytes:
    return commands.Basic.Properties(**properties).marshal()


@property_test
@given(st.fixed_dictionaries({}, optional=PROPERTIES))
def test_properties_are_read_as_pamqp_writes_them(properties: dict[str, Any]) -> None:
    octets = block(**properties)

    traits = read_properties(octets)

    assert traits.persistent == (properties.get("delivery_mode") == 2)
    assert repr(traits.headers) == repr(properties.get("headers"))
    assert traits.priority == properties.get("priority", 0)
    assert traits.expiration == properties.get("expiration")
    assert traits.user_id == properties.get("user_id")
    assert traits.direct_reply == (properties.get("reply_to") == "amq.rabbitmq.reply-to")
    assert traits.special == (
        traits.direct_reply or "expiration" in properties or "user_id" in properties
    )


@property_test
@given(st.fixed_dictionaries({}, optional=PROPERTIES), st.data())
def test_a_block_that_is_cut_off_or_too_long_is_refused(
    properties: dict[str, Any], data: st.DataObject
) -> None:
    octets = block(**properties)

    with pytest.raises(MalformedSyntax, match="cannot decode"):
        read_properties(octets + b"\0")
    if len(octets) > 2:
        with pytest.raises(MalformedSyntax, match="cannot decode"):
            read_properties(octets[: data.draw(st.integers(2, len(octets) - 1))])


def test_the_cluster_id_is_walked_over() -> None:
    assert read_properties(b"\0\4\2id") is PLAIN


@pytest.mark.parametrize("flags", [1, 2, 3, 0x1001])
def test_flags_beyond_those_of_basic_are_refused(flags: int) -> None:
    with pytest.raises(MalformedSyntax, match="property flags"):
        read_properties(struct.pack(">HB", flags, 2))


@pytest.mark.parametrize("mode", [0, 1, 3, 255])
def test_only_delivery_mode_2_is_persistent(mode: int) -> None:
    assert read_properties(b"\x10\0" + bytes((mode,))) is PLAIN
    assert read_properties(b"\x10\0\2") is PERSISTENT


def test_messages_that_say_nothing_of_interest_share_their_traits() -> None:
    assert read_properties(block()) is PLAIN
    assert read_properties(block(message_id="a", content_type="text/plain")) is PLAIN
    assert read_properties(block(message_id="b", delivery_mode=2)) is PERSISTENT
    assert read_properties(block(reply_to="amq.rabbitmq.reply-tome", priority=0)) is PLAIN


@pytest.mark.parametrize(
    "properties",
    [
        {"expiration": "1000"},
        {"user_id": "guest"},
        {"reply_to": "amq.rabbitmq.reply-to"},
        {"headers": {"CC": ["a"]}},
        {"headers": {"a": 1, "BCC": "not even an array"}},
    ],
)
def test_a_message_is_special_if_it_must_go_the_longer_way(properties: dict[str, Any]) -> None:
    assert read_properties(block(**properties)).special
    assert read_properties(b"\1\0\0").special  # An expiration that says nothing.


@pytest.mark.parametrize("properties", [{"priority": 1}, {"headers": {"cc": "bcc"}}])
def test_what_needs_no_look_at_each_message_is_not_special(properties: dict[str, Any]) -> None:
    assert not read_properties(block(**properties)).special


@pytest.mark.parametrize(
    "properties",
    [{}, {"priority": 3}, {"priority": 255, "delivery_mode": 2}, {"delivery_mode": 2}],
)
def test_messages_that_wait_share_what_is_kept_of_their_traits(properties: dict[str, Any]) -> None:
    plain = read_properties(block(**properties))
    special = read_properties(
        block(headers={"CC": ["a"], "b": 1}, user_id="guest", expiration="1", **properties)
    )

    assert special.kept is plain.kept is plain
    assert special.kept.headers is None


def test_a_small_block_that_repeats_is_walked_once() -> None:
    octets = block(headers={"a": 1}, priority=3)

    assert read_properties(octets) is read_properties(bytes(bytearray(octets)))


@pytest.mark.parametrize(
    "properties",
    [
        {"correlation_id": "1"},
        {"message_id": "1"},
        {"timestamp": datetime(2020, 1, 1, tzinfo=UTC)},
        {"app_id": "x" * 255},
    ],
)
def test_a_block_that_will_not_come_again_or_is_large_is_not_remembered(
    properties: dict[str, Any],
) -> None:
    octets = block(expiration="1000", **properties)

    assert read_properties(octets) is not read_properties(octets)
    assert read_properties(octets).expiration == "1000"

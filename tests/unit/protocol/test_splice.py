"""Messages with other properties: what was not meant stays to the octet."""

import struct
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import commands

from amqpbroker.protocol.content import encode_content
from amqpbroker.protocol.fields import read_fields, write_longstr, write_shortstr
from amqpbroker.protocol.properties import EXPIRATION, HEADERS, REPLY_TO, read_properties
from amqpbroker.protocol.splice import (
    with_headers,
    with_property,
    with_reply_to,
    without_header,
)

property_test = settings(max_examples=150, derandomize=True, deadline=None)

SHORT = st.binary(max_size=20).map(lambda octets: bytes((len(octets),)) + octets)
NAMES = st.sampled_from(["BCC", "CC", "bcc", "a", "", "x" * 200, "\udcff"])
FIELDS = st.lists(
    st.tuples(NAMES, st.sampled_from([b"t\1", b"V", b"S\0\0\0\2\xff\xfe", b"A\0\0\0\2t\1"])),
    max_size=5,
)
TABLES = FIELDS.map(
    lambda fields: write_longstr(b"".join(write_shortstr(name) + octets for name, octets in fields))
)
LISTS = st.tuples(
    *(
        st.none() | values
        for values in (
            SHORT,
            SHORT,
            TABLES,
            st.binary(min_size=1, max_size=1),
            st.binary(min_size=1, max_size=1),
            SHORT,
            SHORT,
            SHORT,
            SHORT,
            st.binary(min_size=8, max_size=8),
            SHORT,
            SHORT,
            SHORT,
            SHORT,
        )
    )
)
"""The octets of every property that basic has, or None."""
BODIES = st.sampled_from([b"", b"x", b"y" * 5000])
Properties = tuple[bytes | None, ...]


def block_of(properties: Properties) -> bytes:
    flags = sum(0x8000 >> i for i, octets in enumerate(properties) if octets is not None)
    return struct.pack(">H", flags) + b"".join(filter(None, properties))


def place(flag: int) -> int:
    return 16 - flag.bit_length()


def message(block: bytes, body: bytes = b"x") -> bytes:
    return encode_content(7, block, body, 4096)


@property_test
@given(LISTS, BODIES, st.sampled_from([1 << bit for bit in range(2, 16) if bit != 13]), SHORT)
def test_a_property_is_set_or_taken_away_and_all_else_is_as_it_was(
    properties: Properties, body: bytes, flag: int, octets: bytes
) -> None:
    raw = message(block_of(properties), body)
    others = list(properties)

    others[place(flag)] = octets
    assert with_property(raw, flag, octets) == message(block_of(tuple(others)), body)
    others[place(flag)] = None
    assert with_property(raw, flag, None) == message(block_of(tuple(others)), body)


@property_test
@given(LISTS, BODIES, NAMES)
def test_a_header_is_taken_away_and_the_others_are_as_they_were(
    properties: Properties, body: bytes, name: str
) -> None:
    table = properties[place(HEADERS)]
    raw = message(block_of(properties), body)

    spliced = without_header(raw, name)

    if table is None or name not in read_fields(table[4:]):
        assert spliced is raw
        return
    headers = read_properties(spliced[19 : 7 + struct.unpack_from(">I", spliced, 3)[0]]).headers
    assert headers == {key: v for key, v in read_fields(table[4:]).items() if key != name}
    assert spliced[-len(body) - 1 :] == raw[-len(body) - 1 :]


def test_a_reply_to_is_replaced() -> None:
    properties = {"reply_to": "amq.rabbitmq.reply-to", "priority": 3, "app_id": "me"}
    before = commands.Basic.Properties(**properties).marshal()
    after = commands.Basic.Properties(**properties | {"reply_to": "other"}).marshal()

    assert with_reply_to(message(before), "other") == message(after)


def test_a_reply_to_over_255_octets_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 255 octets"):
        with_reply_to(message(b"\0\0"), "x" * 256)


def test_headers_are_put_before_and_behind_those_there_are() -> None:
    moment = datetime(2020, 1, 1, tzinfo=UTC)

    def block(**headers: Any) -> bytes:
        fields = b"".join(write_shortstr(name) + octets for name, octets in headers.items())
        return struct.pack(">H", HEADERS | EXPIRATION) + write_longstr(fields) + b"\0011"

    time = b"T" + struct.pack(">Q", int(moment.timestamp()))
    spliced = with_headers(
        message(block(a=b"t\1", b=b"V", c=b"f\0\0\0\0")), ("b",), {"z": moment}, {"y": 1}
    )

    assert spliced == message(block(z=time, a=b"t\1", c=b"f\0\0\0\0", y=b"b\1"))


def test_a_message_without_headers_gets_some() -> None:
    spliced = with_headers(message(struct.pack(">H", REPLY_TO) + b"\1r"), last={"a": True})

    assert spliced == message(struct.pack(">H", HEADERS | REPLY_TO) + b"\0\0\0\4\1at\1" + b"\1r")


def test_what_needs_no_change_is_the_very_same() -> None:
    raw = message(struct.pack(">H", HEADERS) + b"\0\0\0\4\1at\1")

    assert without_header(raw, "b") is raw
    assert with_property(raw, REPLY_TO, None) is raw
    assert with_headers(raw) is raw


def test_the_last_header_leaves_an_empty_table() -> None:
    raw = message(struct.pack(">H", HEADERS) + b"\0\0\0\5\3BCCV")

    assert without_header(raw, "BCC") == message(struct.pack(">H", HEADERS) + b"\0\0\0\0")

"""The frames that carry messages to clients."""

import struct
from typing import Any

import pamqp.header
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import commands

from amqpbroker.protocol.content import (
    delivery_prefix,
    delivery_suffix,
    encode_address,
    encode_content,
    encode_deliveries,
    encode_get_ok,
    encode_reframed_deliveries,
    encode_return,
    reframe,
)
from amqpbroker.protocol.fields import write_shortstr
from amqpbroker.protocol.frames import BODY, HEADER, frame
from amqpbroker.testing.wire import read_frames, whole_frames

property_test = settings(max_examples=200, derandomize=True, deadline=None)

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def block(**properties: Any) -> bytes:
    return commands.Basic.Properties(**properties).marshal()


# -- to clients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("redelivered", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_deliveries_octet_by_octet(count: int, redelivered: bool) -> None:
    address = encode_address("x", "key")
    prefix, suffix = delivery_prefix(3, b"\1c", address), delivery_suffix(address, redelivered)

    octets = encode_deliveries(prefix, 7, suffix, [b"raw"] * count)

    before = b"\1\0\3\0\0\0\x15\0\x3c\0\x3c\1c"
    behind = bytes((redelivered,)) + b"\1x\3key\xceraw"
    assert octets == b"".join(before + struct.pack(">Q", 7 + i) + behind for i in range(count))


def test_get_ok_octet_by_octet() -> None:
    octets = encode_get_ok(3, 7, True, encode_address("x", "key"), 70_000)

    tag, count = b"\0\0\0\0\0\0\0\7", b"\0\1\x11\x70"
    assert octets == b"\1\0\3\0\0\0\x17\0\x3c\0\x47" + tag + b"\1\1x\3key" + count + b"\xce"


def test_return_octet_by_octet() -> None:
    octets = encode_return(3, 312, "NO_ROUTE", encode_address("x", "key"))

    assert octets == b"\1\0\3\0\0\0\x15\0\x3c\0\x32\1\x38\x08NO_ROUTE\1x\3key\xce"


def test_deliveries_that_are_framed_anew_have_their_tags_and_smaller_frames() -> None:
    raw = encode_content(9, block(), b"x" * 5000, 131072)

    octets = encode_reframed_deliveries(b"<", 1, b">", [raw, raw], 3, 4096)

    anew = encode_content(3, block(), b"x" * 5000, 4096)
    assert octets == b"<\0\0\0\0\0\0\0\1>" + anew + b"<\0\0\0\0\0\0\0\2>" + anew


@property_test
@given(
    st.integers(1, 65535),
    NAMES,
    NAMES,
    NAMES,
    st.integers(1, (1 << 63) - 10),
    st.booleans(),
    st.lists(st.binary(max_size=30), max_size=5),
)
def test_a_run_of_deliveries_is_what_was_meant(
    channel: int,
    consumer_tag: str,
    exchange: str,
    routing_key: str,
    tag_first: int,
    redelivered: bool,
    bodies: list[bytes],
) -> None:
    address = encode_address(exchange, routing_key)
    octets = encode_deliveries(
        delivery_prefix(channel, write_shortstr(consumer_tag), address),
        tag_first,
        delivery_suffix(address, redelivered),
        [encode_content(channel, block(priority=1), body, 4096) for body in bodies],
    )

    items, _ = read_frames(octets)

    assert {number for number, _ in items} <= {channel}
    delivered = [item for _, item in items if isinstance(item, commands.Basic.Deliver)]
    assert [dict(method) for method in delivered] == [
        {
            "consumer_tag": consumer_tag,
            "delivery_tag": tag_first + i,
            "redelivered": redelivered,
            "exchange": exchange,
            "routing_key": routing_key,
        }
        for i in range(len(bodies))
    ]
    contents = [item for _, item in items if isinstance(item, pamqp.header.ContentHeader)]
    assert [content.body_size for content in contents] == [len(body) for body in bodies]
    assert [content.properties.priority for content in contents] == [1] * len(bodies)
    assert [item for _, item in items if isinstance(item, bytes)] == [*filter(None, bodies)]


@property_test
@given(
    st.integers(1, 65535),
    st.integers(4096, 10_000),
    st.lists(st.binary(max_size=20_000), max_size=3),
)
def test_deliveries_that_are_framed_anew_are_those_of_each_message_framed_anew(
    channel: int, frame_max: int, bodies: list[bytes]
) -> None:
    raws = [encode_content(9, b"\0\0", body, 131072) for body in bodies]

    octets = encode_reframed_deliveries(b"prefix", 5, b"suffix", raws, channel, frame_max)

    anew = [reframe(raw, channel, frame_max) for raw in raws]
    assert octets == encode_deliveries(b"prefix", 5, b"suffix", anew)


@property_test
@given(st.integers(1, 65535), st.integers(1, 1 << 40), st.booleans(), NAMES, NAMES)
def test_get_ok_is_what_was_meant(
    channel: int, tag: int, redelivered: bool, exchange: str, routing_key: str
) -> None:
    address = encode_address(exchange, routing_key)

    ((number, method),) = read_frames(encode_get_ok(channel, tag, redelivered, address, 70_000))[0]

    assert number == channel
    assert isinstance(method, commands.Basic.GetOk)
    assert dict(method) == {
        "delivery_tag": tag,
        "redelivered": redelivered,
        "exchange": exchange,
        "routing_key": routing_key,
        "message_count": 70_000,
    }


@property_test
@given(st.integers(1, 65535), NAMES, NAMES)
def test_return_is_what_was_meant(channel: int, exchange: str, routing_key: str) -> None:
    address = encode_address(exchange, routing_key)

    ((number, method),) = read_frames(encode_return(channel, 312, "NO_ROUTE", address))[0]

    assert number == channel
    assert isinstance(method, commands.Basic.Return)
    assert dict(method) == {
        "reply_code": 312,
        "reply_text": "NO_ROUTE",
        "exchange": exchange,
        "routing_key": routing_key,
    }


# -- framing -------------------------------------------------------------------------------------


@property_test
@given(
    st.binary(max_size=300),
    st.lists(st.integers(1, 40), max_size=20),
    st.integers(9, 400),
    st.data(),
)
def test_reframing_keeps_header_and_body(
    body: bytes, sizes: list[int], frame_max: int, data: st.DataObject
) -> None:
    old, new = data.draw(st.tuples(st.integers(1, 65535), st.integers(1, 65535)))
    header = struct.pack(">HHQ", 60, 0, len(body)) + block(app_id="app")
    raw = frame(HEADER, old, header)
    rest = body
    for size in [*sizes, len(body)]:
        if rest:
            raw += frame(BODY, old, rest[:size])
            rest = rest[size:]

    frames = whole_frames(reframe(raw, new, frame_max))

    assert frames[0] == (HEADER, new, header)
    assert {(kind, channel) for kind, channel, _ in frames[1:]} <= {(BODY, new)}
    assert b"".join(payload for _, _, payload in frames[1:]) == body
    assert all(0 < len(payload) <= frame_max - 8 for _, _, payload in frames[1:])


def test_frames_that_fit_stay_as_they_are() -> None:
    raw = encode_content(3, block(), b"x" * 10_000, 4096)

    assert reframe(raw, 3, 131072) == raw


def test_a_message_without_body_has_no_body_frame() -> None:
    assert [kind for kind, _, _ in whole_frames(encode_content(1, block(), b"", 4096))] == [HEADER]


def test_a_large_body_is_cut_into_the_largest_frames() -> None:
    frames = whole_frames(encode_content(1, block(), b"x" * 10_000, 4096))

    assert [len(payload) for _, _, payload in frames[1:]] == [4088, 4088, 1824]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_body_that_fills_its_frames_is_not_followed_by_an_empty_one(count: int) -> None:
    body = b"x" * 4088 * count

    cut = whole_frames(reframe(encode_content(1, block(), body, 131072), 1, 4096))

    assert [len(payload) for _, _, payload in cut[1:]] == [4088] * count
    assert cut == whole_frames(encode_content(1, block(), body, 4096))


def test_a_header_frame_is_never_whole_frames() -> None:
    large = block(headers={"large": "x" * 5000})

    frames = whole_frames(encode_content(1, large, b"", 4096))

    assert [len(payload) for _, _, payload in frames] == [12 + len(large)]

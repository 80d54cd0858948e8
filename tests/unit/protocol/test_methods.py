"""Methods as octets: our codec is pamqp's, but for the names that pamqp refuses."""

import struct
import warnings
from typing import Any

import pamqp.encode
import pamqp.frame
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import commands
from pamqp.base import Frame

from amqpbroker.errors import CommandInvalid, FrameError
from amqpbroker.protocol.fields import write_shortstr
from amqpbroker.protocol.frames import (
    END,
    AccessRequest,
    AccessRequestOk,
    decode_method,
    encode_method,
    frame,
)

property_test = settings(max_examples=12, derandomize=True, deadline=None)
many_examples = settings(property_test, max_examples=150)

KINDS = sorted(commands.INDEX_MAPPING.values(), key=lambda kind: kind.index)

FIXED_BY_PAMQP = {
    "ticket": 0,
    "out_of_band": "0",
    "channel_id": "0",
    "capabilities": "",
    "insist": False,
    "known_hosts": "",
    "cluster_id": "",
}


def tables(
    names: st.SearchStrategy[str], values: st.SearchStrategy[Any], max_size: int
) -> st.SearchStrategy[dict[str, Any]]:
    """Tables in the order in which pamqp writes them."""
    dictionaries = st.dictionaries(names, values, max_size=max_size)
    return dictionaries.map(lambda table: dict(sorted(table.items())))


NAMES_OF_PAMQP = st.text("abcXYZ019-_.:@#,/+ ", max_size=127)
FIELD_VALUES = st.recursive(
    st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.none(),
    lambda inner: st.lists(inner, max_size=3) | tables(st.text("abc"), inner, max_size=3),
    max_leaves=6,
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bit": st.booleans(),
    "octet": st.integers(0, 0xFF),
    "short": st.integers(0, 0xFFFF),
    "long": st.integers(0, 0xFFFFFFFF),
    "longlong": st.integers(0, (1 << 63) - 1),
    "shortstr": NAMES_OF_PAMQP,
    "longstr": st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
    "table": tables(st.text("abcdef-", max_size=20), FIELD_VALUES, max_size=4),
}


def make(kind: type[Frame], arguments: dict[str, Any]) -> Frame:
    """A method without its constructor, which checks more than we do and may warn."""
    method = kind.__new__(kind)
    for name, value in arguments.items():
        setattr(method, name, value)
    return method


def arguments_of(method: Frame) -> dict[str, Any]:
    """All arguments by name, long strings as text."""
    return {
        name: value.decode() if isinstance(value, bytes) else value
        for name, value in ((name, getattr(method, name)) for name in method.attributes())
    }


def arguments_for(kind: type[Frame]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            name: st.just(FIXED_BY_PAMQP[name])
            if name in FIXED_BY_PAMQP
            else VALUES[kind.amqp_type(name)]
            for name in kind.attributes()
        }
    )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_method_is_encoded_as_pamqp_does(kind: type[Frame]) -> None:
    @property_test
    @given(st.integers(0, 0xFFFF), arguments_for(kind))
    def check(channel: int, arguments: dict[str, Any]) -> None:
        method = make(kind, arguments)
        assert encode_method(channel, method) == pamqp.frame.marshal(method, channel)

    check()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_method_is_decoded_as_pamqp_does(kind: type[Frame]) -> None:
    @property_test
    @given(arguments_for(kind))
    def check(arguments: dict[str, Any]) -> None:
        octets = pamqp.frame.marshal(make(kind, arguments), 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            expected = pamqp.frame.unmarshal(octets)[2]
        decoded = decode_method(octets[7:-1])
        assert type(decoded) is kind
        assert repr(arguments_of(decoded)) == repr(arguments_of(expected))

    check()


OCTETS = st.binary(max_size=255)

NAMES_WE_TAKE = st.text(st.characters(exclude_categories=["Cs"]), max_size=255).filter(
    lambda text: len(text.encode()) <= 255
).filter(lambda text: not text.isascii()) | st.text("xyz", min_size=128, max_size=255)


@many_examples
@given(NAMES_WE_TAKE, NAMES_WE_TAKE)
def test_names_that_pamqp_refuses_come_back_as_they_went(exchange: str, routing_key: str) -> None:
    method = make(
        commands.Basic.Return,
        {"reply_code": 312, "reply_text": "", "exchange": exchange, "routing_key": routing_key},
    )

    decoded = decode_method(encode_method(1, method)[7:-1])

    assert (decoded.exchange, decoded.routing_key) == (exchange, routing_key)


@many_examples
@given(OCTETS)
def test_the_octets_of_a_routing_key_are_echoed_unchanged(octets: bytes) -> None:
    payload = struct.pack(">HHHBB", 60, 40, 0, 0, len(octets)) + octets + b"\0"

    assert encode_method(5, decode_method(payload)) == frame(1, 5, payload)


def test_a_name_of_255_octets_is_encoded_and_one_more_refused() -> None:
    assert write_shortstr("é" * 127 + "x") == b"\xff" + ("é" * 127 + "x").encode()
    with pytest.raises(ValueError, match="at most 255 octets, this one has 256"):
        write_shortstr("é" * 128)


def test_a_missing_table_is_sent_empty() -> None:
    method = commands.Connection.Start(0, 9, None, "PLAIN", "en_US")

    assert decode_method(encode_method(0, method)[7:-1]).server_properties == {}


def test_long_strings_may_be_given_as_octets() -> None:
    octets = encode_method(0, make(commands.Connection.SecureOk, {"response": b"\xff\0"}))

    assert octets == frame(1, 0, b"\0\x0a\0\x15\0\0\0\2\xff\0")


def test_long_strings_are_decoded_as_octets() -> None:
    assert decode_method(b"\0\x0a\0\x15\0\0\0\2\xff\0").response == b"\xff\0"


def test_delivery_tags_use_all_64_bits() -> None:
    ack = make(commands.Basic.Ack, {"delivery_tag": (1 << 64) - 1, "multiple": True})

    assert decode_method(encode_method(1, ack)[7:-1]).delivery_tag == (1 << 64) - 1


@pytest.mark.parametrize("payload", [b"", b"\0", b"\0\x3c\0"])
def test_a_method_frame_without_a_method_is_refused(payload: bytes) -> None:
    with pytest.raises(FrameError, match=r"type 1, all octets = .*: unknown_frame"):
        decode_method(payload)


@pytest.mark.parametrize(("class_id", "method_id"), [(60, 999), (30, 12), (0, 0), (65535, 65535)])
def test_the_number_of_an_unknown_method_is_told(class_id: int, method_id: int) -> None:
    with pytest.raises(CommandInvalid, match="unimplemented method") as caught:
        decode_method(struct.pack(">HH", class_id, method_id))

    assert divmod(caught.value.index, 1 << 16) == (class_id, method_id)


def sample(kind: type[Frame]) -> bytes:
    """The payload of a method that has something in every argument."""
    values = {"bit": True, "shortstr": "name", "longstr": "text", "table": {"a": 1}}
    arguments = {name: values.get(kind.amqp_type(name), 1) for name in kind.attributes()}
    return encode_method(1, make(kind, arguments))[7:-1]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_method_that_ends_too_early_is_refused_wherever_it_ends(kind: type[Frame]) -> None:
    payload = sample(kind)

    for stop in range(4, len(payload)):
        with pytest.raises(FrameError, match="cannot decode"):
            decode_method(payload[:stop])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_octets_behind_the_last_argument_are_refused(kind: type[Frame]) -> None:
    with pytest.raises(FrameError, match="cannot decode <<"):
        decode_method(sample(kind) + b"\0")


def test_a_frame_says_its_type_channel_and_size() -> None:
    assert frame(3, 0x0102, b"body") == b"\3\1\2\0\0\0\4body" + END


def test_realms_of_old_clients_are_granted_as_rabbitmq_grants_them() -> None:
    request = decode_method(b"\0\x1e\0\x0a\5/data\x16")

    assert isinstance(request, AccessRequest)
    assert arguments_of(request) == {
        "realm": "/data",
        "exclusive": False,
        "passive": True,
        "active": True,
        "write": False,
        "read": True,
    }
    assert encode_method(5, AccessRequestOk()) == frame(1, 5, b"\0\x1e\0\x0b\0\1")

"""Tables and their fields: read as pamqp reads them, and every fault of theirs told."""

import contextlib
import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pamqp.decode
import pamqp.encode
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amqpbroker.errors import FrameError, MalformedSyntax
from amqpbroker.protocol.fields import (
    DEPTH_MAX,
    read_fields,
    read_longstr,
    read_shortstr,
    read_table,
    split_fields,
    write_fields,
    write_shortstr,
    write_table,
    write_value,
)

property_test = settings(max_examples=150, derandomize=True, deadline=None)

FIXED_SIZES = {b"t": 1, b"b": 1, b"B": 1, b"s": 2, b"u": 2, b"I": 4, b"i": 4, b"l": 8, b"L": 8}
FLOATS_AND_DECIMALS = {b"f": 4, b"d": 8, b"D": 5}
SECONDS_MAX = 0xFFFFFFFF
MILLISECONDS_MAX = 253402300799000
"""The end of the calendar, in the year 9999."""


def long(octets: bytes) -> bytes:
    return struct.pack(">I", len(octets)) + octets


def field(kind: bytes, size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size).map(kind.__add__)


def table_of(values: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    names = st.text(st.characters(exclude_categories=["Cs"]), max_size=60).map(write_shortstr)
    pairs = st.tuples(names, values).map(b"".join)
    return st.lists(pairs, max_size=4).map(b"".join).map(long)


FIELDS = st.recursive(
    st.one_of(field(kind, size) for kind, size in (FIXED_SIZES | FLOATS_AND_DECIMALS).items())
    | st.just(b"V")
    | st.binary(max_size=12).map(lambda octets: b"S" + long(octets))
    | st.binary(max_size=12).map(lambda octets: b"x" + long(octets))
    | (st.integers(0, SECONDS_MAX) | st.integers(SECONDS_MAX + 1, MILLISECONDS_MAX)).map(
        lambda moment: b"T" + struct.pack(">Q", moment)
    ),
    lambda inner: (
        table_of(inner).map(b"F".__add__)
        | st.lists(inner, max_size=4).map(lambda fields: b"A" + long(b"".join(fields)))
    ),
    max_leaves=12,
)


def value(octets: bytes) -> Any:
    """The value of a field given as type and octets."""
    return read_fields(b"\1n" + octets)["n"]


@property_test
@given(table_of(FIELDS), st.binary(max_size=3), st.binary(max_size=3))
def test_tables_are_read_as_pamqp_reads_them(table: bytes, before: bytes, behind: bytes) -> None:
    fields, end = read_table(before + table + behind, len(before))

    assert end == len(before) + len(table)
    # Their texts are compared, for NaN equals nothing and True equals 1.
    assert repr(fields) == repr(pamqp.decode.field_table(table)[1])


@property_test
@given(table_of(FIELDS), st.data())
def test_a_table_that_is_cut_off_is_refused_wherever_it_ends(
    table: bytes, data: st.DataObject
) -> None:
    stop = data.draw(st.integers(0, len(table) - 1))

    with pytest.raises(FrameError, match="cannot decode"):
        read_table(table[:stop], 0)


@property_test
@given(st.binary(max_size=40))
def test_any_octets_are_fields_or_a_syntax_error(octets: bytes) -> None:
    with contextlib.suppress(MalformedSyntax):
        assert isinstance(read_fields(octets), dict)


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (b"t\1", True),
        (b"t\0", False),
        (b"b\xff", -1),
        (b"B\xff", 255),
        (b"s\xff\xfe", -2),
        (b"u\xff\xfe", 65534),
        (b"I\xff\xff\xff\xff", -1),
        (b"i\xff\xff\xff\xff", 4294967295),
        (b"l" + b"\xff" * 8, -1),
        (b"L" + b"\xff" * 8, -1),
        (b"f\x3f\x80\0\0", 1.0),
        (b"d\x3f\xf0\0\0\0\0\0\0", 1.0),
        (b"D\2\0\0\1\x3a", Decimal("3.14")),
        (b"D\1\xff\xff\xff\xff", Decimal("-0.1")),
        (b"S\0\0\0\2\xc3\xa9", "é"),
        (b"S\0\0\0\2\xff\xfe", b"\xff\xfe"),
        (b"x\0\0\0\1\0", bytearray(b"\0")),
        (b"T\0\0\0\0\0\0\0\1", datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)),
        (b"A\0\0\0\3t\1V", [True, None]),
        (b"F\0\0\0\4\1at\0", {"a": False}),
        (b"V", None),
    ],
)
def test_every_type_of_field_has_its_value(octets: bytes, expected: object) -> None:
    assert repr(value(octets)) == repr(expected)


def test_a_timestamp_over_32_bits_counts_milliseconds() -> None:
    milliseconds = 1_700_000_000_123

    moment = value(b"T" + struct.pack(">Q", milliseconds))

    assert moment == datetime.fromtimestamp(milliseconds / 1000, UTC)


@pytest.mark.parametrize("number", [1 << 62, (1 << 64) - 1])
def test_a_timestamp_beyond_the_calendar_stays_a_number(number: int) -> None:
    assert value(b"T" + struct.pack(">Q", number)) == number


@pytest.mark.parametrize("kind", [b"t", b"s", b"I", b"l", b"d", b"T", b"D", b"S", b"x", b"F", b"A"])
def test_a_field_without_its_value_is_refused(kind: bytes) -> None:
    with pytest.raises(MalformedSyntax, match="cut off"):
        read_fields(b"\1n" + kind)


def test_an_item_without_its_value_is_refused() -> None:
    with pytest.raises(MalformedSyntax, match="cut off"):
        read_fields(b"\1nA\0\0\0\2I\0")


def test_a_name_without_a_type_is_refused() -> None:
    with pytest.raises(MalformedSyntax, match="a field has no value"):
        read_fields(b"\1n")


def test_a_field_of_no_known_type_is_refused() -> None:
    with pytest.raises(MalformedSyntax, match="unknown field type 90"):
        read_fields(b"\1nZ\0\0\0\0")
    with pytest.raises(MalformedSyntax, match="unknown field type 0"):
        read_fields(b"\1n\0")  # pamqp reads it as nothing, RabbitMQ does not.


def nested(kind: bytes, depth: int) -> bytes:
    """Fields with ``depth`` tables or arrays in one another."""
    fields = b""
    for level in range(depth, 0, -1):
        name = b"\1n" if kind == b"F" or level == 1 else b""
        fields = name + kind + long(fields)
    return fields


@pytest.mark.parametrize("kind", [b"F", b"A"])
def test_nesting_is_bounded(kind: bytes) -> None:
    assert list(read_fields(nested(kind, DEPTH_MAX))) == ["n"]
    with pytest.raises(MalformedSyntax, match=f"nested more than {DEPTH_MAX} deep"):
        read_fields(nested(kind, DEPTH_MAX + 1))


def test_the_last_of_two_fields_with_one_name_counts() -> None:
    assert read_fields(b"\1nb\1" + b"\1nb\2") == {"n": 2}


def test_names_that_are_not_utf_8_are_kept_in_surrogates() -> None:
    (name,) = read_fields(b"\2\xff\xfeV")

    assert write_shortstr(name) == b"\2\xff\xfe"


def test_a_short_string_must_be_there_whole() -> None:
    assert read_shortstr(b"..\3abc.", 2) == ("abc", 6)
    with pytest.raises(FrameError, match="a short string is missing"):
        read_shortstr(b"..", 2)
    with pytest.raises(FrameError, match="a short string is cut off"):
        read_shortstr(b"\3ab", 0)


def test_a_long_string_must_end_where_its_frame_ends() -> None:
    octets = b"." + long(b"abc") + b".."

    assert read_longstr(octets, 1, 8) == (b"abc", 8)
    with pytest.raises(FrameError, match="a length is cut off"):
        read_longstr(octets, 1, 4)
    with pytest.raises(FrameError, match="a long string, table or array is cut off"):
        read_longstr(octets, 1, 7)


# -- writing ---------------------------------------------------------------------------------------


@property_test
@given(table_of(FIELDS))
def test_what_is_written_is_read_as_the_same_values(table: bytes) -> None:
    fields, _ = read_table(table, 0)

    again, _ = read_table(write_table(fields), 0)

    assert repr(again) == repr(fields)


def tables(values: st.SearchStrategy[Any], max_size: int) -> st.SearchStrategy[dict[str, Any]]:
    """Tables in the order in which pamqp writes them."""
    dictionaries = st.dictionaries(TEXTS, values, max_size=max_size)
    return dictionaries.map(lambda table: dict(sorted(table.items())))


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(width=32, allow_nan=False)
    | st.decimals(places=3, min_value=-2000000, max_value=2000000)
    | st.datetimes(
        datetime(1970, 1, 2), datetime(2106, 2, 7), timezones=st.none() | st.just(UTC)
    ).map(lambda moment: moment.replace(microsecond=0))
    | TEXTS
    | st.binary(max_size=9).map(bytearray)
    | st.none(),
    lambda inner: st.lists(inner, max_size=3) | tables(inner, max_size=3),
    max_leaves=6,
)


@property_test
@given(tables(VALUES, max_size=4))
def test_tables_are_written_as_pamqp_writes_them(table: dict[str, Any]) -> None:
    assert write_table(table) == pamqp.encode.field_table(table)


@pytest.mark.parametrize(
    ("given_value", "octets"),
    [
        (1e300, b"d" + struct.pack(">d", 1e300)),
        (0.1, b"d" + struct.pack(">d", 0.1)),
        (0.5, b"f" + struct.pack(">f", 0.5)),
        (b"\xff", b"S\0\0\0\1\xff"),
        ((1 << 64) - 1, b"T" + b"\xff" * 8),
        (datetime(2106, 2, 7, 6, 28, 16, tzinfo=UTC), b"T" + struct.pack(">Q", 1000 << 32)),
        (datetime(2020, 1, 1, 0, 0, 0, 500000, UTC), b"T" + struct.pack(">Q", 1577836800500)),
        (datetime(1970, 1, 1, 0, 0, 1, 500000, UTC), b"T" + struct.pack(">Q", 1)),
    ],
)
def test_what_pamqp_cannot_write_or_cuts_is_written_whole(given_value: Any, octets: bytes) -> None:
    assert write_value(given_value) == octets


def test_a_moment_without_a_time_zone_is_one_of_utc() -> None:
    assert write_value(datetime(2020, 1, 1)) == write_value(datetime(2020, 1, 1, tzinfo=UTC))


def test_a_table_keeps_its_order_and_its_names_to_the_octet() -> None:
    octets = b"\2\xff\xfet\1\1bV\1aV" + bytes((200,)) + b"n" * 200 + b"t\0"

    assert write_fields(read_fields(octets)) == octets


@pytest.mark.parametrize(
    "nothing_holds",
    [
        1 << 64,
        -(1 << 63) - 1,
        object,
        (1, 2),
        Decimal("NaN"),
        Decimal(1 << 31),
        datetime(1969, 1, 1, tzinfo=UTC),
    ],
    ids=repr,
)
def test_what_no_field_can_hold_is_refused(nothing_holds: Any) -> None:
    with pytest.raises(ValueError, match="no field holds"):
        write_table({"a": [nothing_holds]})


@property_test
@given(table_of(FIELDS))
def test_fields_are_split_without_a_loss(table: bytes) -> None:
    pieces = list(split_fields(table[4:]))

    assert b"".join(octets for _, octets in pieces) == table[4:]
    assert {
        name.decode("utf-8", "surrogateescape"): repr(read_fields(octets))
        for name, octets in pieces
    } == {name: repr({name: value}) for name, value in read_table(table, 0)[0].items()}


def test_a_field_of_every_shape_is_split_off() -> None:
    fields = [b"\1aD\2\0\0\1\x3a", b"\1bV", b"\1ct\1", b"\1dS\0\0\0\1x"]

    assert [octets for _, octets in split_fields(b"".join(fields))] == fields

"""What storage writes comes back as it was, and what was changed on the way is found out."""

import random

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amqpbroker.message import Origin, Traits
from amqpbroker.storage.format import (
    FORMAT_VERSION,
    DirectoryEntry,
    FileHead,
    FormatError,
    Kind,
    Record,
    decode_batch_head,
    decode_file_head,
    decode_image,
    decode_ranges,
    decode_record,
    encode_batch,
    encode_file_head,
    encode_image,
    encode_ranges,
    encode_record,
    find_batch,
    mend_batch_head,
    mend_record,
)
from amqpbroker.testing.fakes import fake_origin
from amqpbroker.testing.log_contract import said

property_test = settings(max_examples=200, derandomize=True, deadline=None)


@st.composite
def origins(draw: st.DrawFn) -> Origin:
    origin = fake_origin(
        draw(st.text(max_size=5)), draw(st.text(max_size=5)), persistent=draw(st.booleans())
    )
    traits = Traits(origin.traits.persistent, priority=draw(st.integers(0, 255)))
    return attrs.evolve(
        origin,
        channel=draw(st.integers(0, 65535)),
        frame_max=draw(st.sampled_from([4096, 131072])),
        traits=traits,
        expires_ms=draw(st.none() | st.integers(0, 1 << 50)),
    )


MESSAGES = st.lists(
    st.tuples(origins(), st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=4)),
    min_size=1,
    max_size=5,
)
Run = tuple[Origin, list[bytes]]


def spread(runs: list[Run]) -> tuple[list[Origin], list[bytes]]:
    """Runs as one origin for each message."""
    origins = [origin for origin, raws in runs for _ in raws]
    return origins, [raw for _, raws in runs for raw in raws]


@given(runs=MESSAGES, first=st.integers(0, 1 << 60))
@property_test
def test_an_image_holds_its_messages(runs: list[Run], first: int) -> None:
    sent, raws = spread(runs)

    image = decode_image(b"".join(encode_image(first, sent, raws)))

    assert (image.first, image.end) == (first, first + len(raws))
    assert image.indexes == list(range(first, image.end))
    assert image.raws == raws
    assert list(map(said, image.origins)) == list(map(said, sent))


@given(runs=MESSAGES, seed=st.integers(0, 1000))
@property_test
def test_an_image_may_have_gaps(runs: list[Run], seed: int) -> None:
    sent, raws = spread(runs)
    gone = bytearray(len(raws)) + b"\1\1"
    random.Random(seed).shuffle(gone)

    image = decode_image(b"".join(encode_image(7, sent, raws, gone)))

    assert image.indexes == [7 + place for place, mark in enumerate(gone) if not mark]
    assert image.raws == raws
    assert (image.first, image.end) == (7, 7 + len(gone))


@given(runs=MESSAGES, data=st.data())
@property_test
def test_an_image_that_is_cut_off_is_refused(runs: list[Run], data: st.DataObject) -> None:
    octets = b"".join(encode_image(0, *spread(runs)))

    for cut in (octets[: data.draw(st.integers(0, len(octets) - 1))], octets + b"x"):
        with pytest.raises(FormatError):
            decode_image(cut)


def test_ranges_come_back() -> None:
    ranges = [range(5), range(7, 8), range(10, 1 << 40, 3)]

    assert decode_ranges(b"".join(encode_ranges(ranges))) == ranges
    with pytest.raises(FormatError):
        decode_ranges(b"".join(encode_ranges(ranges))[:-1])


def test_a_record_comes_back() -> None:
    octets = encode_record(Kind.SETTLED, 1 << 40, 3, [b"pay", b"load"])

    record, end = decode_record(b"before" + octets + b"behind", 6, 6 + len(octets))

    assert record == Record(Kind.SETTLED, 1 << 40, 3, b"payload")
    assert end == 6 + len(octets)


def test_any_bit_of_a_record_that_is_flipped_is_found() -> None:
    octets = encode_record(Kind.MESSAGES, 5, 1, [b"payload"])

    for bit in range(len(octets) * 8):
        damaged = bytearray(octets)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            record, _ = decode_record(bytes(damaged), 0, len(damaged))
        except FormatError:
            continue
        assert record is None, bit


def batch(*payloads: bytes) -> bytes:
    records = [encode_record(Kind.MESSAGES, 1, 1, [payload]) for payload in payloads]
    return encode_batch(9, 8, [DirectoryEntry(1, 1, 100, 3)], records)


def test_a_batch_tells_where_its_records_are() -> None:
    octets = batch(b"one", b"two")

    head = decode_batch_head(b"xx" + octets, 2)

    assert head is not None
    assert (head.number, head.synced_to, head.end) == (9, 8, len(octets))
    assert head.directory == [DirectoryEntry(1, 1, 100, 3)]
    record, position = decode_record(octets, head.records_at, head.end)
    assert record is not None
    assert record.payload == b"one"
    assert decode_record(octets, position, head.end)[1] == head.end


def test_any_bit_of_a_batchs_head_that_is_flipped_is_found() -> None:
    octets = batch(b"one")
    head = decode_batch_head(octets, 0)
    assert head is not None

    for bit in range(head.records_at * 8):
        damaged = bytearray(octets)
        damaged[bit // 8] ^= 1 << bit % 8
        found = decode_batch_head(bytes(damaged), 0)
        assert found is None or found.directory is None, bit


def test_a_bit_of_a_batchs_header_that_is_flipped_is_flipped_back() -> None:
    octets = batch(b"one")
    head = decode_batch_head(octets, 0)
    assert head is not None

    for bit in range((head.records_at - 24) * 8):
        damaged = bytearray(octets)
        damaged[bit // 8] ^= 1 << bit % 8
        mended = mend_batch_head(bytes(damaged), 0)
        assert mended == attrs.evolve(head, is_mended=True), bit


def test_a_batch_of_another_file_is_none() -> None:
    octets = encode_batch(9, 8, [], [encode_record(Kind.CHANGES, 0, 0, [b"forged"])], salt=3)

    assert decode_batch_head(octets, 0, salt=3) is not None
    assert decode_batch_head(octets, 0, salt=5) is None
    assert mend_batch_head(octets, 0, salt=5) is None
    assert find_batch(octets, 0, salt=5) == -1


@pytest.mark.parametrize("bit", range(32))
def test_a_bit_of_a_records_size_that_is_flipped_is_flipped_back(bit: int) -> None:
    octets, other = (encode_record(Kind.MESSAGES, 5, 1, [bytes(count)]) for count in (100, 7))
    damaged = bytearray(octets + other)
    damaged[bit // 8] ^= 1 << bit % 8

    assert mend_record(bytes(damaged), 0, len(damaged)) == decode_record(octets, 0, len(octets))


def test_a_files_head_comes_back() -> None:
    octets = encode_file_head(b"MARK", 7)

    assert decode_file_head(octets + b"more", b"MARK") == FileHead(FORMAT_VERSION, 7, False)
    assert decode_file_head(octets, b"KRAM") is None
    assert decode_file_head(octets[:-1], b"MARK") is None
    for bit in range(len(octets) * 8):
        damaged = bytearray(octets)
        damaged[bit // 8] ^= 1 << bit % 8
        assert decode_file_head(bytes(damaged), b"MARK") == FileHead(FORMAT_VERSION, 7, True)


def test_the_next_batch_is_found_behind_what_is_damaged() -> None:
    first, second = batch(b"one"), batch(b"two")
    damaged = b"\xb2WAL" + first[4:]
    damaged = damaged[:10] + b"?" + damaged[11:]

    assert find_batch(first + second, 0) == 0
    assert find_batch(damaged + second, 0) == len(first)
    assert find_batch(damaged, 0) == -1

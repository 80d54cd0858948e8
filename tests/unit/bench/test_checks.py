"""A broker that loses, repeats, alters or reorders anything is caught."""

from collections.abc import Iterator

import pytest

from bench.checks import Confirms, Deliveries, Mismatch, deliveries_of
from bench.scenarios import workload_named
from bench.wire import ACK, CHANNEL_CLOSE, NACK, method, shortstr
from bench.workload import Workload, delivery, delivery_block, delivery_layout

COUNT = 2500
ORDERED = workload_named("auto-ack")
QUEUES = workload_named("1000-queues")
FAN_OUT = workload_named("fan-out")
MIXED = workload_named("mixed-sizes")
ALL = pytest.mark.parametrize("workload", [ORDERED, MIXED, QUEUES, FAN_OUT], ids=lambda w: w.name)


def stream(workload: Workload, count: int = COUNT) -> list[bytearray]:
    """The first deliveries that a good broker sends, one by one."""
    block = delivery_block(workload)
    pieces: list[bytearray] = []
    while len(pieces) < count:
        frames = block.messages * workload.copies
        pieces += (block.octets[block.offset(i) : block.offset(i + 1)] for i in range(frames))
        block.advance()
    return pieces[:count]


def retagged(pieces: list[bytearray], workload: Workload) -> list[bytearray]:
    """The deliveries with tags that are consecutive again: what a broker with a fault sends."""
    at = delivery_layout(workload).tag_at
    return [
        piece[:at] + tag.to_bytes(8, "big") + piece[at + 8 :] for tag, piece in enumerate(pieces, 1)
    ]


def feed(check: Deliveries, octets: bytes, step: int = 1 << 20) -> None:
    """Feed ``octets`` as a socket would: in pieces, and what was not used again."""
    kept = b""
    for start in range(0, len(octets), step):
        kept += octets[start : start + step]
        kept = kept[check.feed(memoryview(kept)) :]


def joined(pieces: list[bytearray]) -> bytes:
    return b"".join(pieces)


@ALL
@pytest.mark.parametrize("step", [7, 1000, 1 << 20])
def test_a_whole_stream_is_accepted_however_it_is_cut(workload: Workload, step: int):
    check = deliveries_of(workload)
    feed(check, joined(stream(workload)), step)
    assert check.delivered == COUNT


@ALL
def test_a_delivery_in_part_does_not_count(workload: Workload):
    check = deliveries_of(workload)
    feed(check, joined(stream(workload, 10))[:-1])
    assert check.delivered == 9


def test_queues_need_not_take_turns_as_long_as_each_keeps_its_order():
    pieces = stream(QUEUES)
    turned = pieces[500:1000] + pieces[:500] + pieces[1000:]
    check = deliveries_of(QUEUES)
    feed(check, joined(retagged(turned, QUEUES)))
    assert check.delivered == COUNT


def faults(pieces: list[bytearray], queues: int) -> Iterator[tuple[str, list[bytearray]]]:
    """Streams with one fault each, 2000 deliveries from the start."""
    later = 1000 + queues
    yield "loss", pieces[:1000] + pieces[1001:]
    yield "repetition", pieces[:1001] + pieces[1000:]
    swapped = [*pieces[:1000], pieces[later], *pieces[1001:later], pieces[1000]]
    yield "reordering", swapped + pieces[later + 1 :]


@ALL
@pytest.mark.parametrize("fault", ["loss", "repetition", "reordering"])
@pytest.mark.parametrize("tags_are_made_good", [False, True])
def test_a_planted_fault_is_caught(workload: Workload, fault: str, tags_are_made_good: bool):
    bad = dict(faults(stream(workload), workload.queues))[fault]
    if tags_are_made_good:
        bad = retagged(bad, workload)
    with pytest.raises(Mismatch, match=r"delivery \d+ is wrong"):
        feed(deliveries_of(workload), joined(bad))


@ALL
def test_no_octet_of_a_delivery_can_be_altered(workload: Workload):
    *good, last = stream(workload, 4)
    check = deliveries_of(workload)
    feed(check, joined(good))
    for at in range(len(last)):
        bad = bytearray(last)
        bad[at] ^= 0x10
        with pytest.raises(Mismatch):
            feed(check, bad)
    feed(check, last)
    assert check.delivered == 4


def test_a_fault_is_found_behind_the_first_block():
    count = delivery_block(ORDERED).messages + 10
    pieces = stream(ORDERED, count)
    pieces[-1][-1] = 0
    with pytest.raises(Mismatch, match=f"delivery {count} is wrong at octet"):
        feed(deliveries_of(ORDERED), joined(pieces))


def test_a_message_of_another_queue_is_caught():
    pieces = stream(QUEUES)
    pieces[1] = bytearray(delivery(QUEUES, 1, 2))
    with pytest.raises(Mismatch):
        feed(deliveries_of(QUEUES), joined(retagged(pieces, QUEUES)))


@ALL
def test_a_close_from_the_broker_is_named_with_its_reason(workload: Workload):
    arguments = (406).to_bytes(2, "big") + shortstr("PRECONDITION_FAILED - no") + bytes(4)
    octets = joined(stream(workload, 3)) + method(1, CHANNEL_CLOSE, arguments)
    with pytest.raises(Mismatch, match="406 PRECONDITION_FAILED - no"):
        feed(deliveries_of(workload), octets)


def ack(tag: int, multiple: bool = False) -> bytes:
    return method(1, ACK, tag.to_bytes(8, "big") + bytes([multiple]))


def confirmed(*acks: bytes, published: int = 10) -> int:
    confirms = Confirms()
    octets = b"".join(acks)
    assert confirms.feed(memoryview(octets), published) == len(octets)
    return confirms.confirmed


def test_single_confirms_count_in_any_order():
    assert confirmed(ack(2), ack(3), ack(1), ack(4)) == 4


def test_a_multiple_confirm_counts_all_that_are_left_up_to_its_tag():
    assert confirmed(ack(2), ack(4), ack(5, multiple=True), ack(6)) == 6


def test_a_confirm_in_part_waits_for_the_rest():
    confirms = Confirms()
    octets = memoryview(ack(1) + ack(2))
    assert confirms.feed(octets[:-1], 10) == len(octets) // 2
    assert confirms.confirmed == 1


@pytest.mark.parametrize(
    "acks",
    [
        (ack(1), ack(1)),
        (ack(2), ack(2)),
        (ack(3, multiple=True), ack(2)),
        (ack(3, multiple=True), ack(3, multiple=True)),
        (ack(1), ack(2), ack(2, multiple=True)),
        (ack(0, multiple=True),),
    ],
)
def test_a_message_that_is_confirmed_twice_is_caught(acks: tuple[bytes, ...]):
    with pytest.raises(Mismatch, match="twice"):
        confirmed(*acks)


def test_a_confirm_of_what_was_not_published_is_caught():
    with pytest.raises(Mismatch, match="only 10 were published"):
        confirmed(ack(11))


def test_a_refused_message_is_caught():
    with pytest.raises(Mismatch, match=r"basic\.nack"):
        confirmed(method(1, NACK, (1).to_bytes(8, "big") + b"\0"))


def test_anything_else_than_a_confirm_is_caught():
    with pytest.raises(Mismatch, match="garbage"):
        confirmed(b"HTTP/1.1 400 Bad Request")
    with pytest.raises(Mismatch, match="instead of a confirm"):
        confirmed(method(1, (20, 20), b"\0"))

"""Acks, sends and the whole loop."""

import socket

import pytest

from bench.checks import Confirms
from bench.load import Acknowledger, Inbox, Publisher, measure
from bench.scenarios import workload_named
from bench.sink import running_sink
from bench.wire import read_frame
from bench.workload import publish_block


def acked(acks: bytes) -> list[tuple[int, bool]]:
    """(tag, multiple) of ack frames."""
    found, at = [], 0
    while whole := read_frame(acks, at):
        _, _, payload, at = whole
        found.append((int.from_bytes(payload[4:12], "big"), payload[12] == 1))
    return found


def test_automatic_acks_are_no_frames():
    assert Acknowledger(workload_named("auto-ack")).acks(1000, last=True) == b""


def test_multiple_acks_go_every_hundred_and_the_rest_at_the_end():
    acknowledger = Acknowledger(workload_named("multiple-ack"))
    assert acked(acknowledger.acks(99, last=False)) == []
    assert acked(acknowledger.acks(250, last=False)) == [(100, True), (200, True)]
    assert acked(acknowledger.acks(310, last=True)) == [(300, True), (310, True)]
    assert acked(acknowledger.acks(310, last=True)) == []


def test_the_last_delivery_is_acked_once_if_it_ends_a_hundred():
    acknowledger = Acknowledger(workload_named("multiple-ack"))
    assert acked(acknowledger.acks(200, last=True)) == [(100, True), (200, True)]
    assert acked(acknowledger.acks(201, last=True)) == [(201, True)]


def test_single_acks_name_each_delivery_once_over_many_blocks():
    acknowledger = Acknowledger(workload_named("single-ack"))
    acks = acknowledger.acks(3, last=False) + acknowledger.acks(10_000, last=True)
    assert acked(acks) == [(tag, False) for tag in range(1, 10_001)]


def test_singles_and_multiples_settle_the_same():
    confirms = Confirms()
    acks = Acknowledger(workload_named("multiple-ack")).acks(123, last=True)
    assert confirms.feed(memoryview(acks), 123) == len(acks)
    assert confirms.confirmed == 123


@pytest.fixture
def pair():
    """Two ends of a connection; the first does not block."""
    here, there = socket.socketpair()
    here.setblocking(False)
    with here, there:
        yield here, there


def test_a_publisher_with_no_room_only_ends_the_message_that_it_began(pair):
    here, there = pair
    publisher = Publisher(here, workload_named("split-frames"))
    while publisher.send(1000):
        pass
    received = bytearray()
    while not publisher.between_messages:
        received += there.recv(1 << 20)
        publisher.send(0)
    there.setblocking(False)
    block = publish_block(workload_named("split-frames"))
    try:
        while True:
            received += there.recv(1 << 20)
    except BlockingIOError:
        pass
    assert len(received) == block.offset(publisher.published)


def test_an_inbox_offers_what_was_not_used_again(pair):
    here, there = pair
    inbox = Inbox(here)
    there.sendall(b"abcdef")
    assert bytes(inbox.receive()) == b"abcdef"
    inbox.used(4)
    there.sendall(b"gh")
    assert bytes(inbox.receive()) == b"efgh"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["single-ack", "confirms", "mixed-sizes", "fan-out", "1000-queues"]
)
def test_a_run_against_the_sink_ends_with_every_message_back(name: str):
    with running_sink(workload_named(name)) as url:
        result = measure(url, workload_named(name), warm_up_s=0.0, seconds=0.01, window=2000)
    assert result.rate > 0
    assert result.deliveries > 0

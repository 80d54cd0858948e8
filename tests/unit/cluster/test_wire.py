"""Frames between nodes, and the boxes that they wait in."""

import random

import pytest

from amqpbroker.cluster import wire
from amqpbroker.cluster.wire import (
    FIRST_USER_KIND,
    HEAD_BYTES,
    HEARTBEAT,
    OUTBOX_BYTES_MAX,
    SEND_BYTES_MAX,
    Inbox,
    Outbox,
    encode_frame,
)
from amqpbroker.errors import LinkFault

KIND = FIRST_USER_KIND
MIB = bytes(1 << 20)


def frames_of(data: bytes, frame_bytes_max: int = 1 << 20) -> list[tuple[int, bytes]]:
    inbox = Inbox(frame_bytes_max)
    inbox.receive(data)
    return taken(inbox)


def taken(inbox: Inbox) -> list[tuple[int, bytes]]:
    frames = []
    while (frame := inbox.next_frame()) is not None:
        frames.append(frame)
    return frames


def sent(outbox: Outbox, room_bytes: int | None = None) -> bytes:
    """What the outbox gives to a system that has so much room."""
    data = bytearray()

    def take(octets: memoryview) -> int:
        taken = len(octets) if room_bytes is None else min(len(octets), room_bytes - len(data))
        data.extend(octets[:taken])
        return taken

    while outbox.size_bytes and (room_bytes is None or len(data) < room_bytes):
        outbox.send(take)
    return bytes(data)


def test_a_frame_is_a_size_a_kind_and_a_payload() -> None:
    assert encode_frame(17, b"abc") == b"\0\0\0\3\x11abc"
    assert encode_frame(HEARTBEAT) == b"\0\0\0\0\5"


def test_frames_come_out_however_the_octets_are_cut() -> None:
    frames = [(16, b""), (255, b"abc"), (17, bytes(300)), (0, b"x")]
    data = b"".join(encode_frame(*frame) for frame in frames)
    for first in range(len(data) + 1):
        inbox = Inbox(300)
        inbox.receive(data[:first])
        got = taken(inbox)
        inbox.receive(data[first:])
        assert got + taken(inbox) == frames, first
    inbox, got = Inbox(300), []
    for octet in data:
        inbox.receive(bytes((octet,)))
        got += taken(inbox)
    assert got == frames


def test_a_frame_over_the_limit_is_a_fault_as_soon_as_it_is_announced() -> None:
    assert frames_of(encode_frame(KIND, bytes(10)), 10) == [(KIND, bytes(10))]
    with pytest.raises(LinkFault, match="11 octets, more than 10"):
        frames_of(encode_frame(KIND, bytes(11))[:HEAD_BYTES], 10)


def test_garbage_is_frames_or_a_fault_and_no_more_than_a_frame_is_kept() -> None:
    for seed in range(2000):
        rng = random.Random(seed)
        inbox = Inbox(1000)
        try:
            for _ in range(50):
                size = b"\0\0" + rng.randbytes(2) if rng.random() < 0.5 else b""
                inbox.receive(size + rng.randbytes(rng.randrange(20)))
                taken(inbox)
                assert inbox.held_bytes <= 1000 + HEAD_BYTES
        except LinkFault:
            pass


def test_a_broken_octet_never_makes_more_of_a_stream_than_frames() -> None:
    data = b"".join(encode_frame(16 + i, bytes(i * 7)) for i in range(20))
    for at in range(len(data)):
        for bit in range(8):
            broken = bytearray(data)
            broken[at] ^= 1 << bit
            try:
                frames = frames_of(bytes(broken), 1000)
            except LinkFault:
                continue
            assert sum(HEAD_BYTES + len(payload) for _, payload in frames) <= len(data)


def test_frames_go_out_in_order_and_the_links_own_before_them() -> None:
    outbox = Outbox()
    outbox.add(KIND, [b"a", b"b"])
    outbox.add(KIND, [])
    outbox.add_own(HEARTBEAT)
    assert outbox.size_bytes == 2 + 3 * HEAD_BYTES

    assert frames_of(sent(outbox)) == [(HEARTBEAT, b""), (KIND, b"ab"), (KIND, b"")]
    assert outbox.size_bytes == 0


def test_a_frame_that_is_partly_sent_is_not_broken_by_the_links_own() -> None:
    outbox = Outbox()
    outbox.add(KIND, [bytes(SEND_BYTES_MAX)])
    outbox.add(KIND, [b"next"])
    data = sent(outbox, 100)
    outbox.add_own(HEARTBEAT)
    data += sent(outbox)

    kinds = [kind for kind, _ in frames_of(data)]
    assert kinds == [KIND, HEARTBEAT, KIND]


def test_the_system_is_given_a_bounded_piece_at_a_time() -> None:
    outbox, sizes = Outbox(), []

    def take(octets: memoryview) -> int:
        sizes.append(len(octets))
        return len(octets)

    outbox.add(KIND, [MIB])
    for _ in range(1000):
        outbox.add(KIND, [bytes(1000)])
    while outbox.size_bytes:
        outbox.send(take)

    assert sum(sizes) == (1 << 20) + 1000 * 1000 + 1001 * HEAD_BYTES
    assert max(sizes) == SEND_BYTES_MAX


def test_an_outbox_to_which_is_added_although_too_much_waits_is_full_some_time() -> None:
    outbox = Outbox()
    for _ in range(100):
        outbox.add(KIND, [MIB])  # All in one turn: nobody could know.
    outbox.end_turn()
    for _ in range(OUTBOX_BYTES_MAX // len(MIB) - 1):
        outbox.add(KIND, [MIB])
    with pytest.raises(LinkFault, match="over 64 MiB wait for it to read"):
        outbox.add(KIND, [MIB])  # The heads count too.

    sent(outbox)
    outbox.end_turn()
    outbox.add(KIND, [MIB])


def test_what_drains_in_between_is_not_counted() -> None:
    outbox = Outbox()
    for _ in range(200):
        for _ in range(10):
            outbox.add(KIND, [MIB])
            outbox.end_turn()
        sent(outbox)
        outbox.end_turn()


def test_a_few_big_messages_have_room_although_much_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "OUTBOX_BYTES_HIGH", 1000)
    outbox = Outbox()
    outbox.add(KIND, [bytes(2000)])
    outbox.end_turn()
    for _ in range(3):
        outbox.add(KIND, [bytes(OUTBOX_BYTES_MAX)])


def test_a_frame_that_nobody_would_take_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "FRAME_BYTES_MAX", 1000)
    outbox = Outbox()
    outbox.add(KIND, [bytes(1000)])
    with pytest.raises(LinkFault, match="a frame of 1001 octets would be sent, more than 1000"):
        outbox.add(KIND, [bytes(1000), b"1"])
    assert outbox.size_bytes == 1000 + HEAD_BYTES

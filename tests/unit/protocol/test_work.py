"""Work without an event is counted, and a message in pieces is joined as it comes."""

import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import commands

from amqpbroker.broker.broker import Broker
from amqpbroker.broker.turn import WORK_MAX
from amqpbroker.protocol.connection import Connection
from amqpbroker.protocol.content import encode_content
from amqpbroker.protocol.events import Event, Method, Publish, Worked
from amqpbroker.protocol.fields import write_longstr
from amqpbroker.protocol.frames import BODY, HEADER, HEARTBEAT_FRAME, METHOD, encode_method, frame
from amqpbroker.testing.fakes import fake_world
from amqpbroker.testing.peer import Peer

Running = Callable[..., Connection]

FRAME_MAX = 4096
PAYLOAD_MAX = FRAME_MAX - 8
PUBLISH = encode_method(1, commands.Basic.Publish(0, "", "q"))
FIELDS = write_longstr(b"\1at\1" * 5000)
LARGE_TABLE = b"\x20\0" + FIELDS


def header(body_bytes: int, block: bytes = b"\0\0") -> bytes:
    return frame(HEADER, 1, struct.pack(">HHQ", 60, 0, body_bytes) + block)


def with_large_table(i: int) -> bytes:
    """A message of its own: another might be known from the one before."""
    return PUBLISH + header(1, LARGE_TABLE[:-1] + bytes((i,))) + frame(BODY, 1, b"x")


def take(connection: Connection, data: bytes) -> list[Event]:
    connection.receive(data, 0.0)
    return list(iter(connection.next_event, None))


def work_of(events: list[Event]) -> list[int]:
    return [event.work for event in events if isinstance(event, Worked)]


# -- what is counted -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "octets", [HEARTBEAT_FRAME, frame(BODY, 1, b"x"), frame(BODY, 1, b"")], ids=repr
)
def test_frames_that_mean_nothing_by_themselves_are_counted(
    running: Running, octets: bytes
) -> None:
    connection = running(1)
    take(connection, PUBLISH + header(100_000))

    work = work_of(take(connection, octets * 10_000))

    assert 10_000 <= sum(work) <= 20_000
    assert max(work) < WORK_MAX / 4


def test_a_few_frames_are_not_worth_a_word(running: Running) -> None:
    assert take(running(1), HEARTBEAT_FRAME * 100) == []


@pytest.mark.parametrize("in_one_piece", [True, False])
def test_a_large_table_is_counted_by_its_octets(running: Running, in_one_piece: bool) -> None:
    connection = running(1)
    message = PUBLISH + header(1, LARGE_TABLE) + frame(BODY, 1, b"x")
    if not in_one_piece:
        assert take(connection, PUBLISH) == []
        message = message[len(PUBLISH) :]

    events = take(connection, message + HEARTBEAT_FRAME)

    assert {type(event) for event in events} == {Publish, Worked}
    assert len(LARGE_TABLE) // 4 <= sum(work_of(events)) <= len(LARGE_TABLE) // 2


def test_one_large_table_is_read_at_a_time(running: Running) -> None:
    octets = b"".join(with_large_table(i) for i in range(3))

    events = take(running(1), octets + HEARTBEAT_FRAME)

    assert [type(event) for event in events] == [Publish, Worked] * 3


def test_a_method_with_a_large_table_is_counted(running: Running) -> None:
    declare = frame(METHOD, 1, b"\0\x32\0\x0a\0\0\1q\0" + FIELDS)

    events = take(running(1), declare + HEARTBEAT_FRAME)

    assert [type(event) for event in events] == [Method, Worked]


def test_whole_bodies_in_several_frames_are_counted_by_their_frames(running: Running) -> None:
    message = PUBLISH + header(50) + frame(BODY, 1, b"x") * 50

    events = take(running(1), message * 100 + HEARTBEAT_FRAME)

    assert sum(len(event.raws) for event in events if isinstance(event, Publish)) == 100
    assert sum(work_of(events)) >= 4000


@pytest.mark.parametrize(
    "octets",
    [
        HEARTBEAT_FRAME * 30_000,
        PUBLISH + header(100_000) + frame(BODY, 1, b"x") * 30_000,
        b"".join(with_large_table(i) for i in range(3)),
    ],
    ids=["heartbeats", "octets", "tables"],
)
def test_a_session_stops_when_its_turn_is_used_up(octets: bytes) -> None:
    broker = Broker(fake_world())
    broker.boot("guest", "guest")
    peer = Peer(broker).open(1)
    peer.connection.receive(octets, 0.0)

    turns = 1
    while peer.session.take(WORK_MAX):
        turns += 1

    assert turns >= 3


# -- what is joined --------------------------------------------------------------------------------


@settings(max_examples=150, derandomize=True, deadline=None)
@given(
    st.lists(
        st.integers(1, 12) | st.integers(PAYLOAD_MAX - 2, PAYLOAD_MAX + 8) | st.just(2000),
        min_size=1,
        max_size=12,
    ),
    st.booleans(),
)
def test_the_frames_of_a_message_in_pieces_are_joined(
    running: Running, sizes: list[int], in_one_piece: bool
) -> None:
    connection = running(1, frame_max=FRAME_MAX)
    body = bytes(i % 251 for i in range(sum(sizes)))
    octets, start = [PUBLISH, header(len(body))], 0
    for size in sizes:
        octets.append(frame(BODY, 1, body[start : start + size]))
        start += size

    pieces = [b"".join(octets)] if in_one_piece else octets
    events = [event for piece in pieces for event in take(connection, piece)]

    (event,) = events
    assert isinstance(event, Publish)
    expected = encode_content(1, b"\0\0", body, FRAME_MAX)
    whole = in_one_piece and max(sizes) <= PAYLOAD_MAX
    assert event.raws == [b"".join(octets[1:]) if whole else expected]


def test_a_whole_body_in_very_many_frames_is_joined_too(running: Running) -> None:
    octets = PUBLISH + header(65) + frame(BODY, 1, b"x") * 65

    (event,) = (event for event in take(running(1), octets) if isinstance(event, Publish))

    assert event.raws == [header(65) + frame(BODY, 1, b"x" * 65)]

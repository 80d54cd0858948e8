"""The stream without sockets on which the rooms above the links are tested."""

import pytest

from amqpbroker.broker.turn import Turn
from amqpbroker.cluster.wire import FIRST_USER_KIND, OUTBOX_BYTES_HIGH
from amqpbroker.errors import LinkFault
from amqpbroker.testing.links import Loopback, NotingUser

PING, PONG = FIRST_USER_KIND, FIRST_USER_KIND + 1


@pytest.fixture
def asker() -> NotingUser:
    return NotingUser()


@pytest.fixture
def server() -> NotingUser:
    return NotingUser(answer=lambda link, _, payload: link.send(PONG, [payload]))


@pytest.fixture
def loopback(asker: NotingUser, server: NotingUser) -> Loopback:
    return Loopback.between(asker, Turn(), server, Turn())


def test_frames_go_there_and_back(
    loopback: Loopback, asker: NotingUser, server: NotingUser
) -> None:
    loopback.asking.send(PING, [b"a", b"b"])
    loopback.asking.send(PING, [])
    assert server.frames == []

    loopback.settle()

    assert server.frames == [(PING, b"ab"), (PING, b"")]
    assert asker.frames == [(PONG, b"ab"), (PONG, b"")]


def test_what_is_held_does_not_arrive_and_the_other_direction_goes_on(
    loopback: Loopback, asker: NotingUser, server: NotingUser
) -> None:
    loopback.serving.is_held = True
    loopback.asking.send(PING, [b"1"])
    loopback.settle()
    assert (server.frames, asker.frames) == ([(PING, b"1")], [])

    loopback.serving.is_held = False
    loopback.settle()
    assert asker.frames == [(PONG, b"1")]


def test_what_is_stuck_fills_the_outbox_until_it_is_drained(
    loopback: Loopback, asker: NotingUser
) -> None:
    loopback.asking.is_stuck = True
    loopback.asking.send(PING, [bytes(OUTBOX_BYTES_HIGH)])
    loopback.settle()
    assert loopback.asking.outbox_bytes > OUTBOX_BYTES_HIGH
    assert asker.drains == 0

    loopback.asking.is_stuck = False
    loopback.settle()
    assert loopback.asking.outbox_bytes == 0
    assert asker.drains == 1
    assert asker.frames == [(PONG, bytes(OUTBOX_BYTES_HIGH))]


def test_a_cut_is_heard_at_both_ends_and_loses_what_was_on_its_way(
    loopback: Loopback, asker: NotingUser, server: NotingUser
) -> None:
    loopback.asking.is_held = True
    loopback.asking.send(PING, [b"1"])
    loopback.settle()

    loopback.cut()
    loopback.cut()
    loopback.asking.is_held = False
    loopback.asking.send(PING, [b"2"])
    loopback.connect()
    loopback.asking.send(PING, [b"3"])
    loopback.settle()

    assert asker.states == server.states == ["up", "down", "up"]
    assert server.frames == [(PING, b"3")]


def test_an_end_that_knows_of_the_break_hears_nothing_more(
    loopback: Loopback, asker: NotingUser, server: NotingUser
) -> None:
    loopback.asking.send(PING, [b"1"])
    loopback.asking.turn.end_batch()
    loopback.serving.break_off()
    loopback.settle()

    assert (server.frames, server.states) == ([], ["up", "down"])
    assert asker.states == ["up"]


def test_a_frame_without_sense_breaks_the_stream(loopback: Loopback, server: NotingUser) -> None:
    def refuse(*_: object) -> None:
        raise LinkFault("no")

    server.answer = refuse
    loopback.asking.send(PING, [])

    with pytest.raises(LinkFault, match="no"):
        loopback.settle()
    assert server.states == ["up", "down"]

"""A connection at work: frames, channels, closing, heartbeats."""

import struct
import sys
from collections.abc import Callable
from typing import Any

import pytest
from pamqp import commands
from pamqp.base import Frame

from amqpbroker.errors import (
    ChannelError,
    FrameError,
    InternalError,
    MalformedSyntax,
    NotAllowed,
    NotFound,
    UnexpectedFrame,
)
from amqpbroker.protocol.connection import Connection, State
from amqpbroker.protocol.content import encode_content
from amqpbroker.protocol.events import (
    ChannelFault,
    ChannelOpened,
    Closed,
    Event,
    Method,
    Publish,
    Settle,
    Worked,
)
from amqpbroker.protocol.frames import (
    BODY,
    HEADER,
    HEARTBEAT_FRAME,
    METHOD,
    encode_method,
    frame,
)
from amqpbroker.protocol.intake import WireLimits
from amqpbroker.testing.wire import read_frames

Running = Callable[..., Connection]

PUBLISH = encode_method(1, commands.Basic.Publish(0, "", "q"))
PUBLISH_INDEX = commands.Basic.Publish.index


def take(connection: Connection, data: bytes, now_s: float = 0.0) -> list[Event]:
    """The events that ``data`` brings."""
    connection.receive(data, now_s)
    events = iter(connection.next_event, None)
    return [event for event in events if not isinstance(event, Worked)]


def say(connection: Connection, method: Frame, channel: int = 1) -> list[Event]:
    return take(connection, encode_method(channel, method))


def sent(connection: Connection) -> list[tuple[int, Any]]:
    """What the connection says: channel and frame, as pamqp understands it."""
    return read_frames(connection.take_outbox())[0]


def names_sent(connection: Connection) -> list[tuple[int, str]]:
    return [(channel, item.name) for channel, item in sent(connection)]


def header(body_bytes: int, class_id: int = 60, weight: int = 0) -> bytes:
    return frame(HEADER, 1, struct.pack(">HHQ", class_id, weight, body_bytes) + b"\0\0")


# -- frames --------------------------------------------------------------------------------------


def test_a_frame_that_is_not_whole_waits_for_the_rest(running: Running) -> None:
    connection = running(1)
    octets = encode_method(1, commands.Queue.Declare(queue="q"))

    for octet in octets[:-1]:
        assert take(connection, bytes((octet,))) == []

    (event,) = take(connection, octets[-1:])
    assert isinstance(event, Method)
    assert event.method.queue == "q"
    assert event.index == commands.Queue.Declare.index


def test_a_wrong_end_octet_loses_the_framing(running: Running) -> None:
    connection = running(1)

    with pytest.raises(FrameError, match=r"type 8, .* \{invalid_frame_end_marker,205\}$"):
        take(connection, HEARTBEAT_FRAME[:-1] + b"\xcd")


def test_a_frame_over_the_agreed_size_loses_the_framing_at_once(running: Running) -> None:
    connection = running(1, frame_max=4096)

    with pytest.raises(FrameError, match="frame_too_large,4097,4088"):
        take(connection, struct.pack(">BHI", BODY, 1, 4097))


@pytest.mark.parametrize(
    "octets", [HEARTBEAT_FRAME[:-1] + b"\0", struct.pack(">BHIB", 1, 1, 1 << 20, 0)]
)
def test_nothing_counts_once_the_framing_is_lost(running: Running, octets: bytes) -> None:
    connection = running(1)
    sound = encode_method(1, commands.Tx.Select())
    with pytest.raises(FrameError) as caught:
        take(connection, octets + sound)
    connection.fail(caught.value)

    assert connection.next_event() is None
    assert take(connection, sound) == []
    assert say(connection, commands.Connection.CloseOk(), 0) == []


def test_what_is_read_before_a_fault_is_handed_out_first(running: Running) -> None:
    connection = running(1)
    connection.receive(encode_method(1, commands.Tx.Select()) + frame(9, 0, b""), 0.0)

    assert isinstance(connection.next_event(), Method)
    with pytest.raises(FrameError):
        connection.next_event()


def test_an_idle_connection_keeps_no_bytes(running: Running) -> None:
    connection = running(1)
    data = bytes(bytearray(HEARTBEAT_FRAME * 3 + encode_method(1, commands.Tx.Select())))
    before = sys.getrefcount(data)

    take(connection, data)

    assert sys.getrefcount(data) == before


def test_a_closed_connection_keeps_no_bytes(running: Running) -> None:
    connection = running(1)
    connection.fail(InternalError("a fault"))
    data = bytes(bytearray(encode_method(0, commands.Connection.CloseOk()) + b"more"))
    before = sys.getrefcount(data)

    take(connection, data)

    assert connection.state is State.CLOSED
    assert sys.getrefcount(data) == before


# -- methods -------------------------------------------------------------------------------------


def test_nack_and_reject_are_settlements(running: Running) -> None:
    connection = running(1)

    nack, reject = take(
        connection,
        encode_method(1, commands.Basic.Nack(7, True, False))
        + encode_method(1, commands.Basic.Reject(8, True)),
    )

    assert isinstance(nack, Settle)
    assert isinstance(reject, Settle)
    assert (nack.index, nack.channel) == (commands.Basic.Nack.index, 1)
    assert (nack.first, nack.last, nack.multiple, nack.requeue) == (7, 7, True, False)
    assert reject.index == commands.Basic.Reject.index
    assert (reject.first, reject.last, reject.multiple, reject.requeue) == (8, 8, False, True)


# -- channels ------------------------------------------------------------------------------------


def test_a_channel_is_opened(running: Running) -> None:
    connection = running()

    (event,) = say(connection, commands.Channel.Open(), 5)

    assert isinstance(event, ChannelOpened)
    assert event.channel == 5
    assert names_sent(connection) == [(5, "Channel.OpenOk")]


def test_a_channel_that_the_peer_closes_is_free_after_close_ok(running: Running) -> None:
    connection = running(1, channel_max=1)
    (event,) = say(connection, commands.Channel.Close(200, "bye", 0, 0))
    assert isinstance(event, Method)

    connection.channel_close_ok(1)

    assert names_sent(connection) == [(1, "Channel.CloseOk")]
    assert isinstance(say(connection, commands.Channel.Open())[0], ChannelOpened)


def test_a_soft_error_closes_the_channel_with_its_code_and_text(running: Running) -> None:
    connection = running(1)

    connection.close_channel(1, NotFound("no queue 'q' in vhost '/'"), 0x0032000A)

    ((channel, close),) = sent(connection)
    assert isinstance(close, commands.Channel.Close)
    assert channel == 1
    assert (close.reply_code, close.reply_text) == (404, "NOT_FOUND - no queue 'q' in vhost '/'")
    assert (close.class_id, close.method_id) == (50, 10)


def test_whatever_comes_on_a_closing_channel_is_ignored_until_close_ok(running: Running) -> None:
    connection = running(1, 2)
    connection.close_channel(1, NotFound("gone"), 0)
    connection.take_outbox()

    events = take(
        connection,
        PUBLISH
        + encode_content(1, b"\0\0", b"body", 4096)
        + encode_method(1, commands.Basic.Ack(1))
        + encode_method(2, commands.Tx.Select()),
    )

    assert [event.channel for event in events if isinstance(event, Method)] == [2]
    assert len(events) == 1
    assert names_sent(connection) == []
    with pytest.raises(ChannelError, match=r"expected 'channel\.open'"):
        take(connection, encode_method(1, commands.Channel.CloseOk()) + PUBLISH)


def test_whoever_counts_channels_is_asked_before_one_is_opened(running: Running) -> None:
    connection = running()

    def refuse() -> None:
        raise NotAllowed("no more channels")

    connection.before_channel = refuse
    with pytest.raises(NotAllowed, match="no more"):
        say(connection, commands.Channel.Open())
    assert connection.outbox_bytes == 0
    connection.before_channel = lambda: None
    (event,) = say(connection, commands.Channel.Open(), 2)
    assert isinstance(event, ChannelOpened)


def test_a_channel_may_be_opened_again_after_close_ok(running: Running) -> None:
    connection = running(1)
    connection.close_channel(1, NotFound("gone"), 0)

    (event,) = take(
        connection,
        encode_method(1, commands.Channel.CloseOk()) + encode_method(1, commands.Channel.Open()),
    )

    assert isinstance(event, ChannelOpened)


def test_closes_of_a_channel_that_cross_are_both_answered(running: Running) -> None:
    connection = running(1)
    connection.close_channel(1, NotFound("gone"), 0)

    events = say(connection, commands.Channel.Close(200, "bye", 0, 0))

    assert events == []
    assert names_sent(connection) == [(1, "Channel.Close"), (1, "Channel.CloseOk")]


def test_a_channel_that_is_closed_forgets_its_half_message(running: Running) -> None:
    connection = running(1)
    take(connection, PUBLISH + header(10))
    assert connection.content_pending

    connection.close_channel(1, NotFound("gone"), 0)

    assert not connection.content_pending


# -- content -------------------------------------------------------------------------------------


def test_content_pending_says_whether_a_message_has_come_in_part(running: Running) -> None:
    connection = running(1, 2)
    assert not connection.content_pending
    take(connection, PUBLISH)
    assert connection.content_pending
    take(connection, header(4))
    assert connection.content_pending

    take(connection, frame(BODY, 1, b"body"))

    assert not connection.content_pending


@pytest.mark.parametrize(
    ("before", "octets"),
    [
        (b"", header(4)),
        (b"", frame(BODY, 1, b"body")),
        (PUBLISH, frame(BODY, 1, b"body")),
        (PUBLISH, PUBLISH),
        (PUBLISH, encode_method(1, commands.Channel.Close(200, "", 0, 0))),
        (PUBLISH, header(4, class_id=50)),
        (PUBLISH, header(4, weight=1)),
        (PUBLISH + header(4), header(4)),
        (PUBLISH + header(4), PUBLISH),
        (PUBLISH + header(4) + frame(BODY, 1, b"bo"), header(4)),
        (PUBLISH + header(4) + frame(BODY, 1, b"body"), frame(BODY, 1, b"")),
    ],
)
@pytest.mark.parametrize("in_one_piece", [True, False])
def test_frames_of_a_message_in_any_other_order_are_unexpected(
    running: Running, before: bytes, octets: bytes, in_one_piece: bool
) -> None:
    connection = running(1)
    pieces = [before + octets] if in_one_piece else [before, octets]

    def take_all() -> None:
        for piece in pieces:
            take(connection, piece)

    with pytest.raises(UnexpectedFrame) as caught:
        take_all()

    assert caught.value.code == 505


@pytest.mark.parametrize("in_one_piece", [True, False])
def test_a_body_longer_than_announced_is_a_frame_error(
    running: Running, in_one_piece: bool
) -> None:
    connection = running(1)
    start = PUBLISH + header(3)
    if not in_one_piece:
        take(connection, start)
        start = b""

    with pytest.raises(FrameError, match="longer than its header announced"):
        take(connection, start + frame(BODY, 1, b"body"))


@pytest.mark.parametrize("in_one_piece", [True, False])
@pytest.mark.parametrize(
    "payload",
    [
        b"\0\x3c\0\0" + b"\0" * 8,
        b"\0\x3c\0\0" + b"\0" * 8 + b"\0",
        b"\0\x3c\0\0" + b"\0" * 8 + b"\x80\0\5a",
    ],
)
def test_a_broken_content_header_is_a_syntax_error(
    running: Running, payload: bytes, in_one_piece: bool
) -> None:
    connection = running(1)
    start = PUBLISH
    if not in_one_piece:
        take(connection, start)
        start = b""

    with pytest.raises(MalformedSyntax, match="cannot decode"):
        take(connection, start + frame(HEADER, 1, payload))


@pytest.mark.parametrize("in_one_piece", [True, False])
def test_a_message_over_the_limit_is_a_fault_of_its_channel(
    running: Running, in_one_piece: bool
) -> None:
    connection = running(1, limits=WireLimits(message_bytes_max=100))
    octets = PUBLISH + encode_content(1, b"\0\0", b"x" * 101, 4096)
    connection.receive(octets if in_one_piece else octets[:-150], 0.0)

    event = connection.next_event()
    if event is None:
        connection.receive(octets[-150:], 0.0)
        event = connection.next_event()

    assert isinstance(event, ChannelFault)
    assert (event.channel, event.index) == (1, PUBLISH_INDEX)
    assert event.error.code == 406
    assert event.error.text == "message size 101 is larger than configured max size 100"
    connection.close_channel(1, event.error, event.index)
    assert connection.next_event() is None


@pytest.mark.parametrize("in_one_piece", [True, False])
def test_a_message_at_the_limit_is_taken(running: Running, in_one_piece: bool) -> None:
    connection = running(1, limits=WireLimits(message_bytes_max=100))
    start = PUBLISH
    if not in_one_piece:
        take(connection, start)
        start = b""

    (event,) = take(connection, start + encode_content(1, b"\0\0", b"x" * 100, 4096))

    assert isinstance(event, Publish)


@pytest.mark.parametrize(
    "content",
    [
        header(5000) + frame(BODY, 1, b"x" * 4097) + frame(BODY, 1, b"x" * 903),
        encode_content(
            1, commands.Basic.Properties(headers={"a": "x" * 5000}).marshal(), b"", 4096
        ),
    ],
)
def test_content_frames_over_the_agreed_size_are_refused_where_a_message_is_whole(
    running: Running, content: bytes
) -> None:
    connection = running(1, frame_max=4096)

    with pytest.raises(FrameError, match="frame_too_large"):
        take(connection, PUBLISH + content)


# -- closing -------------------------------------------------------------------------------------


def test_a_hard_error_closes_the_connection_with_its_code_and_text(running: Running) -> None:
    connection = running(1)

    connection.fail(NotAllowed("vhost x not found"), 0x000A0028)

    ((channel, close),) = sent(connection)
    assert isinstance(close, commands.Connection.Close)
    assert channel == 0
    assert (close.reply_code, close.reply_text) == (530, "NOT_ALLOWED - vhost x not found")
    assert (close.class_id, close.method_id) == (10, 40)
    assert connection.state is State.CLOSING


def test_nothing_but_close_ok_counts_after_a_hard_error(running: Running) -> None:
    connection = running(1)
    connection.fail(InternalError("a fault"))
    connection.take_outbox()

    events = take(
        connection,
        encode_method(1, commands.Tx.Select())
        + PUBLISH
        + header(3)
        + frame(9, 9, b"")
        + encode_method(0, commands.Connection.UpdateSecret("", ""))
        + frame(METHOD, 0, b"")
        + HEARTBEAT_FRAME
        + encode_method(0, commands.Connection.CloseOk())
        + encode_method(1, commands.Tx.Select()),
    )

    (closed,) = events
    assert isinstance(closed, Closed)
    assert not closed.by_peer
    assert connection.state is State.CLOSED
    assert connection.take_outbox() == b""


def test_closes_of_a_connection_that_cross_end_it(running: Running) -> None:
    connection = running(1)
    connection.fail(InternalError("a fault"))
    connection.take_outbox()

    events = say(connection, commands.Connection.Close(200, "bye", 0, 0), 0)

    assert events == []
    assert names_sent(connection) == [(0, "Connection.CloseOk")]
    assert connection.state is State.CLOSED


def test_a_peer_that_closes_gets_close_ok_when_the_broker_is_ready(running: Running) -> None:
    connection = running(1)
    (closed,) = say(connection, commands.Connection.Close(320, "shutdown", 0, 0), 0)
    assert isinstance(closed, Closed)
    assert (closed.by_peer, closed.code, closed.text) == (True, 320, "shutdown")
    assert connection.take_outbox() == b""

    connection.close_ok()

    assert names_sent(connection) == [(0, "Connection.CloseOk")]
    assert connection.state is State.CLOSED


def test_a_connection_fails_only_once(running: Running) -> None:
    connection = running(1)
    connection.fail(InternalError("the first"))

    connection.fail(InternalError("the second"))

    assert [close.reply_text for _, close in sent(connection)] == ["INTERNAL_ERROR - the first"]


def test_a_connection_that_is_over_does_not_fail(running: Running) -> None:
    connection = running(1)
    connection.close_ok()
    connection.take_outbox()

    connection.fail(InternalError("too late"))

    assert connection.take_outbox() == b""


def test_a_failed_connection_forgets_its_half_messages(running: Running) -> None:
    connection = running(1)
    take(connection, PUBLISH)

    connection.fail(InternalError("a fault"))

    assert not connection.content_pending


def test_methods_are_dropped_once_the_connection_closes(running: Running) -> None:
    connection = running(1)
    connection.send_method(1, commands.Tx.SelectOk())
    connection.fail(InternalError("a fault"))

    connection.send_method(1, commands.Tx.SelectOk())

    assert names_sent(connection) == [(1, "Tx.SelectOk"), (0, "Connection.Close")]


@pytest.mark.parametrize("letter", ["x", "é", "€", "😀", "\udcff"])
@pytest.mark.parametrize("shift", range(4))
def test_a_reply_text_that_is_too_long_is_cut(running: Running, letter: str, shift: int) -> None:
    connection = running(1)
    text = "y" * shift + letter * 300

    connection.close_channel(1, NotFound(text), 0)
    connection.fail(InternalError(text))

    (_, channel_close), (_, connection_close) = sent(connection)
    for close, name in ((channel_close, "NOT_FOUND"), (connection_close, "INTERNAL_ERROR")):
        cut = close.reply_text.removesuffix("...")
        assert cut != close.reply_text
        assert f"{name} - {text}".startswith(cut)
        assert len(close.reply_text.encode()) <= 255


def test_a_reply_text_of_255_octets_is_not_cut(running: Running) -> None:
    connection = running(1)
    text = "x" * (255 - len("NOT_FOUND - "))

    connection.close_channel(1, NotFound(text), 0)

    ((_, close),) = sent(connection)
    assert close.reply_text == f"NOT_FOUND - {text}"


# -- bytes out -----------------------------------------------------------------------------------


def test_the_outbox_is_taken_whole_and_in_order(running: Running) -> None:
    connection = running(1)
    connection.send(b"one ")
    connection.send(b"two")
    assert connection.outbox_bytes == 7

    assert connection.take_outbox() == b"one two"
    assert connection.outbox_bytes == 0
    assert connection.take_outbox() == b""


# -- heartbeats ----------------------------------------------------------------------------------


def test_no_heartbeats_are_due_if_none_were_agreed(running: Running) -> None:
    connection = running(1, heartbeat_s=0)

    assert connection.tick(1e6)
    assert connection.take_outbox() == b""


def test_a_heartbeat_is_sent_after_half_an_interval_of_silence(running: Running) -> None:
    connection = running(1, heartbeat_s=10)
    connection.tick(4.9)
    assert connection.take_outbox() == b""

    connection.tick(5.0)
    assert connection.take_outbox() == b"\x08\0\0\0\0\0\0\xce"

    connection.tick(9.9)
    assert connection.take_outbox() == b""


def test_who_spoke_owes_no_heartbeat(running: Running) -> None:
    connection = running(1, heartbeat_s=10)
    connection.spoke(4.0)

    connection.tick(8.9)

    assert connection.take_outbox() == b""


def test_a_peer_that_misses_two_heartbeats_is_gone(running: Running) -> None:
    connection = running(1, heartbeat_s=10)

    assert connection.tick(20.0)
    assert not connection.tick(20.1)


def test_any_bytes_are_a_sign_of_life(running: Running) -> None:
    connection = running(1, heartbeat_s=10)
    take(connection, HEARTBEAT_FRAME[:1], now_s=15.0)

    assert connection.tick(35.0)
    assert not connection.tick(35.1)


def test_a_peer_that_is_held_back_cannot_be_missed(running: Running) -> None:
    connection = running(1, heartbeat_s=10)

    assert connection.tick(1000.0, listening=False)
    assert connection.tick(1020.0)
    assert not connection.tick(1020.1)


def test_a_closing_connection_has_no_heartbeats(running: Running) -> None:
    connection = running(1, heartbeat_s=10)
    connection.fail(InternalError("a fault"))
    connection.take_outbox()

    assert connection.tick(1000.0)
    assert connection.take_outbox() == b""

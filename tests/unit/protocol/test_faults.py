"""Every fault of a peer's octets, with the code, text and method that RabbitMQ 3.13 answers."""

import struct
from collections.abc import Callable
from typing import Any

import pamqp.frame
import pytest
from pamqp import commands
from pamqp.base import Frame

from amqpbroker.errors import HardError, NotFound
from amqpbroker.protocol.connection import Connection, State
from amqpbroker.protocol.events import Login, Open
from amqpbroker.protocol.fields import write_longstr
from amqpbroker.protocol.frames import (
    BODY,
    HEADER,
    HEARTBEAT,
    HEARTBEAT_FRAME,
    METHOD,
    PROTOCOL_HEADER,
    encode_method,
    frame,
)
from amqpbroker.protocol.intake import WireLimits

START_OK = encode_method(0, commands.Connection.StartOk({}, "PLAIN", "\0guest\0guest", "en_US"))
TUNE_OK = encode_method(0, commands.Connection.TuneOk(2, 131072, 0))
OPEN = encode_method(0, commands.Connection.Open("/"))
CLOSE = encode_method(0, commands.Connection.Close(200, "bye", 0, 0))
CLOSE_OK = encode_method(0, commands.Connection.CloseOk())
UPDATE_SECRET = encode_method(0, commands.Connection.UpdateSecret("new", "old one expires"))
CHANNEL_OPEN = encode_method(1, commands.Channel.Open())
DECLARE = encode_method(1, commands.Queue.Declare(queue="q"))
PUBLISH = encode_method(1, commands.Basic.Publish(0, "", "q"))

BEFORE = {
    State.STARTING: PROTOCOL_HEADER,
    State.TUNING: PROTOCOL_HEADER + START_OK,
    State.OPENING: PROTOCOL_HEADER + START_OK + TUNE_OK,
    State.RUNNING: PROTOCOL_HEADER + START_OK + TUNE_OK + OPEN + CHANNEL_OPEN,
}
"""What a peer has said when it comes to a state."""

Close = tuple[int, str, tuple[int, int]]


def answer(octets: bytes, state: State = State.RUNNING) -> Close | None:
    """How the connection is closed for ``octets``: code, text, method. None: without a word."""
    connection = Connection(WireLimits(), {}, 0.0)
    connection.receive(BEFORE[state], 0.0)
    _take(connection)
    assert connection.state is state
    connection.take_outbox()
    connection.receive(octets, 0.0)
    with pytest.raises(HardError) as caught:
        _take(connection)
    connection.take_outbox()
    connection.fail(caught.value)
    close = connection.take_outbox()
    if not close:
        assert connection.state is State.CLOSED
        return None
    method: Any = pamqp.frame.unmarshal(close)[2]
    return method.reply_code, method.reply_text, (method.class_id, method.method_id)


def _take(connection: Connection) -> None:
    while (event := connection.next_event()) is not None:
        if isinstance(event, Login):
            connection.accept_login()
        elif isinstance(event, Open):
            connection.open_ok()


def on_0(method: Frame) -> bytes:
    return encode_method(0, method)


def method(index: tuple[int, int], arguments: bytes = b"", channel: int = 1) -> bytes:
    return frame(METHOD, channel, struct.pack(">HH", *index) + arguments)


def header(
    body_bytes: int, block: bytes = b"\0\0", class_id: int = 60, weight: int = 0, channel: int = 1
) -> bytes:
    payload = struct.pack(">HHQ", class_id, weight, body_bytes) + block
    return frame(HEADER, channel, payload)


def declare_with(table: bytes) -> bytes:
    return method((50, 10), b"\0\0\1q\0" + write_longstr(table))


def check(octets: bytes, state: State, expected: Close | None) -> None:
    assert answer(octets, state) == expected


NO_CHANNEL = "CHANNEL_ERROR - expected 'channel.open'"
NOT_DUE = "CHANNEL_ERROR - unexpected method in connection state {}"
NO_METHOD = "UNEXPECTED_FRAME - expected method frame, got non method frame instead"
NO_HEADER = (
    "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead"
)
NO_BODY = "UNEXPECTED_FRAME - expected content body, got non content body frame instead"

CHANNELS: list[tuple[bytes, int, str, tuple[int, int]]] = [
    (encode_method(7, commands.Queue.Declare(queue="q")), 504, NO_CHANNEL, (50, 10)),
    (encode_method(7, commands.Basic.Publish()), 504, NO_CHANNEL, (60, 40)),
    (encode_method(7, commands.Basic.Ack(1)), 504, NO_CHANNEL, (60, 80)),
    (encode_method(7, commands.Channel.Close(200, "", 0, 0)), 504, NO_CHANNEL, (20, 40)),
    (encode_method(7, commands.Channel.CloseOk()), 504, NO_CHANNEL, (20, 41)),
    (CHANNEL_OPEN, 504, "CHANNEL_ERROR - second 'channel.open' seen", (20, 10)),
    (header(0, channel=7), 505, NO_METHOD, (0, 0)),
    (frame(BODY, 7, b"abc"), 505, NO_METHOD, (0, 0)),
    (method((60, 10), b"\0", 7), 501, "FRAME_ERROR - cannot decode <<0>>", (60, 10)),
]
TOO_MANY = "NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (2)"


@pytest.mark.parametrize(("octets", "code", "text", "at"), CHANNELS)
def test_channels_must_be_open_once(
    octets: bytes, code: int, text: str, at: tuple[int, int]
) -> None:
    check(octets, State.RUNNING, (code, text, at))


@pytest.mark.parametrize(
    "octets",
    [
        encode_method(9, commands.Channel.Open()),
        DECLARE[:2] + b"\x09" + DECLARE[3:],
        frame(BODY, 9, b""),
    ],
)
def test_a_channel_more_than_agreed_is_refused_whatever_comes_on_it(octets: bytes) -> None:
    second = encode_method(60000, commands.Channel.Open())  # Channels count, not their numbers.

    check(second + octets, State.RUNNING, (530, TOO_MANY, (0, 0)))


CHANNEL_0: list[tuple[bytes, int, str, tuple[int, int]]] = [
    (on_0(commands.Channel.Open()), 504, NOT_DUE.format("running"), (20, 10)),
    (on_0(commands.Queue.Declare()), 504, NOT_DUE.format("running"), (50, 10)),
    (on_0(commands.Connection.Start()), 504, NOT_DUE.format("running"), (10, 10)),
    (START_OK, 504, NOT_DUE.format("running"), (10, 11)),
    (TUNE_OK, 504, NOT_DUE.format("running"), (10, 31)),
    (OPEN, 504, NOT_DUE.format("running"), (10, 40)),
    (CLOSE_OK, 504, NOT_DUE.format("running"), (10, 51)),
    (
        frame(HEADER, 0, struct.pack(">HHQ", 60, 0, 0) + b"\0\0"),
        505,
        "UNEXPECTED_FRAME - type 2, all octets = <<0,60,0,0,0,0,0,0,0,0,0,0,0,0>>",
        (0, 0),
    ),
    (frame(BODY, 0, b"abc"), 505, 'UNEXPECTED_FRAME - type 3, all octets = <<"abc">>', (0, 0)),
]


@pytest.mark.parametrize(("octets", "code", "text", "at"), CHANNEL_0)
def test_channel_0_is_for_the_connection_alone(
    octets: bytes, code: int, text: str, at: tuple[int, int]
) -> None:
    check(octets, State.RUNNING, (code, text, at))


SPEECHLESS = [
    START_OK,
    TUNE_OK,
    OPEN,
    CLOSE,
    UPDATE_SECRET,
    CHANNEL_OPEN,
    method((10, 99), channel=0),
    frame(HEARTBEAT, 0, b"abc"),
    frame(BODY, 0, b""),
    HEARTBEAT_FRAME[:-1] + b"\0",
    struct.pack(">BHI", METHOD, 0, 4097),
    on_0(commands.Connection.TuneOk(2, 4095, 0)),
    on_0(commands.Connection.TuneOk(2, 131073, 0)),
    on_0(commands.Connection.TuneOk(0, 131072, 0)),
    on_0(commands.Connection.TuneOk(2048, 131072, 0)),
    on_0(commands.Connection.StartOk({}, "EXTERNAL", "", "en_US")),
    on_0(commands.Connection.StartOk({}, "PLAIN", "guest", "en_US")),
]


@pytest.mark.parametrize("state", [State.STARTING, State.TUNING], ids=lambda state: state.name)
@pytest.mark.parametrize("octets", SPEECHLESS)
def test_before_limits_are_agreed_a_fault_is_the_end_without_a_word(
    octets: bytes, state: State
) -> None:
    if (octets, state) not in ((START_OK, State.STARTING), (TUNE_OK, State.TUNING)):
        check(octets, state, None)


OPENING: list[tuple[bytes, int, str, tuple[int, int]]] = [
    (START_OK, 504, NOT_DUE.format("opening"), (10, 11)),
    (TUNE_OK, 504, NOT_DUE.format("opening"), (10, 31)),
    (CLOSE, 504, NOT_DUE.format("opening"), (10, 50)),
    (UPDATE_SECRET, 504, NOT_DUE.format("opening"), (10, 70)),
    (
        CHANNEL_OPEN,
        505,
        "UNEXPECTED_FRAME - type 1, all octets = <<0,20,0,10,1,48>>",
        (0, 0),
    ),
    (frame(65, 1, b""), 505, "UNEXPECTED_FRAME - type 65, all octets = <<>>", (0, 0)),
    (
        frame(HEARTBEAT, 0, b"abc"),
        501,
        'FRAME_ERROR - type 8, all octets = <<"abc">>: unknown_frame',
        (0, 0),
    ),
    (
        struct.pack(">BHI", METHOD, 1, 131073),
        501,
        "FRAME_ERROR - type 1, all octets = <<>>: {frame_too_large,131073,131064}",
        (0, 0),
    ),
    (
        frame(METHOD, 0, b"abc")[:-1] + b"\0",
        501,
        'FRAME_ERROR - type 1, all octets = <<"abc">>: {invalid_frame_end_marker,0}',
        (0, 0),
    ),
    (
        method((10, 40), b"\2\xff\xfe\0\0", channel=0),
        501,
        "FRAME_ERROR - Malformed UTF-8 in shortstr",
        (10, 40),
    ),
]


@pytest.mark.parametrize(("octets", "code", "text", "at"), OPENING)
def test_once_limits_are_agreed_the_fault_is_told(
    octets: bytes, code: int, text: str, at: tuple[int, int]
) -> None:
    check(octets, State.OPENING, (code, text, at))


FRAMES: list[tuple[bytes, int, str]] = [
    (frame(65, 0, b""), 501, "FRAME_ERROR - type 65, all octets = <<>>: unknown_frame"),
    (frame(65, 1, b"hello"), 501, 'FRAME_ERROR - type 65, all octets = <<"hello">>: unknown_frame'),
    (
        frame(65, 1, b"hello world this is long"),
        501,
        'FRAME_ERROR - type 65, first 16 octets = <<"hello world this">>: unknown_frame',
    ),
    (
        frame(4, 1, "häλ€".encode()),
        501,
        "FRAME_ERROR - type 4, all octets = <<104,195,164,206,187,226,130,172>>: unknown_frame",
    ),
    (
        frame(0, 9, b'a"b\n\\c\t\x1b'),
        501,
        'FRAME_ERROR - type 0, all octets = <<"a\\"b\\n\\\\c\\t\\e">>: unknown_frame',
    ),
    (frame(0, 1, b"a\0"), 501, "FRAME_ERROR - type 0, all octets = <<97,0>>: unknown_frame"),
    (
        frame(HEARTBEAT, 0, b"abc"),
        501,
        'FRAME_ERROR - type 8, all octets = <<"abc">>: unknown_frame',
    ),
    (
        frame(HEARTBEAT, 1, b"abc"),
        501,
        'FRAME_ERROR - type 8, all octets = <<"abc">>: unknown_frame',
    ),
    (frame(HEARTBEAT, 1, b""), 505, "UNEXPECTED_FRAME - type 8, all octets = <<>>"),
    (frame(HEARTBEAT, 9, b""), 505, "UNEXPECTED_FRAME - type 8, all octets = <<>>"),
    (frame(METHOD, 0, b"ab"), 501, 'FRAME_ERROR - type 1, all octets = <<"ab">>: unknown_frame'),
    (frame(METHOD, 1, b"ab"), 501, 'FRAME_ERROR - type 1, all octets = <<"ab">>: unknown_frame'),
    (frame(METHOD, 7, b""), 501, "FRAME_ERROR - type 1, all octets = <<>>: unknown_frame"),
    (frame(HEADER, 0, b"abc"), 501, 'FRAME_ERROR - type 2, all octets = <<"abc">>: unknown_frame'),
    (frame(HEADER, 7, b"abc"), 501, 'FRAME_ERROR - type 2, all octets = <<"abc">>: unknown_frame'),
    (
        PUBLISH + frame(HEADER, 1, b"abc"),
        501,
        'FRAME_ERROR - type 2, all octets = <<"abc">>: unknown_frame',
    ),
    (
        struct.pack(">BHI", BODY, 1, 131073),
        501,
        "FRAME_ERROR - type 3, all octets = <<>>: {frame_too_large,131073,131064}",
    ),
    (
        frame(BODY, 1, b"abcdefghijklmnopqrs")[:-1] + b"\xcd",
        501,
        'FRAME_ERROR - type 3, first 16 octets = <<"abcdefghijklmnop">>:'
        " {invalid_frame_end_marker,205}",
    ),
]


@pytest.mark.parametrize(("octets", "code", "text"), FRAMES)
def test_a_frame_that_is_none_is_shown_by_its_first_octets(
    octets: bytes, code: int, text: str
) -> None:
    check(octets, State.RUNNING, (code, text, (0, 0)))


CONTENT: list[tuple[bytes, int, str, tuple[int, int]]] = [
    (header(0), 505, NO_METHOD, (0, 0)),
    (frame(BODY, 1, b"abc"), 505, NO_METHOD, (0, 0)),
    (PUBLISH + header(0) + frame(BODY, 1, b""), 505, NO_METHOD, (0, 0)),
    (PUBLISH + frame(BODY, 1, b"abc"), 505, NO_HEADER, (60, 40)),
    (PUBLISH + PUBLISH, 505, NO_HEADER, (60, 40)),
    (PUBLISH + method((255, 1)), 505, NO_HEADER, (60, 40)),
    (PUBLISH + header(3, weight=1), 505, NO_HEADER, (60, 40)),
    (
        PUBLISH + header(3, class_id=10),
        505,
        "UNEXPECTED_FRAME - expected content header for class 60, got one for class 10 instead",
        (60, 40),
    ),
    (PUBLISH + header(3) + header(3), 505, NO_BODY, (60, 40)),
    (PUBLISH + header(3) + PUBLISH, 505, NO_BODY, (60, 40)),
    (
        PUBLISH + header(3) + frame(BODY, 1, b"abcd"),
        501,
        "FRAME_ERROR - the body is longer than its header announced",
        (60, 40),
    ),
]


@pytest.mark.parametrize(("octets", "code", "text", "at"), CONTENT)
def test_a_message_is_a_method_a_header_and_a_body(
    octets: bytes, code: int, text: str, at: tuple[int, int]
) -> None:
    check(octets, State.RUNNING, (code, text, at))


@pytest.mark.parametrize(
    "block",
    [b"", b"\0", b"\0\1", b"\x80\0\5ab", b"\0\0\0", b"\x20\0\0\0\0\3\1aZ", b"\x20\0\0\0\0\2\5a"],
)
def test_malformed_properties_are_a_syntax_error(block: bytes) -> None:
    close = answer(PUBLISH + header(0, block))

    assert close is not None
    assert (close[0], close[1][:29], close[2]) == (502, "SYNTAX_ERROR - cannot decode:", (60, 40))


ARGUMENTS: list[tuple[bytes, str, tuple[int, int]]] = [
    (method((50, 10), b"\0\0\5ab"), "<<0,0,5,97,98>>", (50, 10)),
    (method((60, 10), b"\0" * 9), "<<0,0,0,0,0,0,0,0,0>>", (60, 10)),
    (method((60, 80), b"\0\0"), "<<0,0>>", (60, 80)),
    (method((60, 80), b"\0" * 10), "<<0,0,0,0,0,0,0,0,0,0>>", (60, 80)),
    (method((60, 40), b"\0\0\1"), "<<0,0,1>>", (60, 40)),
    (method((60, 40), b"\0\0\0\1q\0\0"), "<<0,0,0,1,113,0,0>>", (60, 40)),
    (
        method((50, 10), b"\0\0\1q\x08" + struct.pack(">I", 9) + b"\1at\1"),
        "<<0,0,1,113,8,0,0,0,9,1,97,116,1>>",
        (50, 10),
    ),
    (method((10, 50), b"\0\0\5ab", channel=0), "<<0,0,5,97,98>>", (10, 50)),
]


@pytest.mark.parametrize(("octets", "shown", "at"), ARGUMENTS)
def test_arguments_that_do_not_fit_are_shown(
    octets: bytes, shown: str, at: tuple[int, int]
) -> None:
    check(octets, State.RUNNING, (501, f"FRAME_ERROR - cannot decode {shown}", at))


def test_arguments_that_are_too_long_to_be_shown_are_cut() -> None:
    close = answer(method((60, 10), bytes(range(250))))

    assert close is not None
    assert close[1].startswith("FRAME_ERROR - cannot decode <<0,1,2,3")
    assert close[1].endswith("...")
    assert len(close[1]) == 255


@pytest.mark.parametrize(
    "table",
    [
        b"\1aZ",
        b"\1aI\0",
        b"\5a",
        b"\1a",
        b"\1aS\0\0\0\2x",
        b"\1aD\0",
        b"\1aF\0\0\0\3\1aZ",
        b"".join(b"\1aF" + struct.pack(">I", 7 * left) for left in range(40, -1, -1)),
    ],
)
def test_a_malformed_table_is_a_syntax_error_of_its_method(table: bytes) -> None:
    close = answer(declare_with(table))

    assert close is not None
    assert (close[0], close[1][:29], close[2]) == (502, "SYNTAX_ERROR - cannot decode:", (50, 10))


@pytest.mark.parametrize("name", [b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80"])
def test_a_name_that_is_no_utf_8_is_a_frame_error(name: bytes) -> None:
    octets = method((50, 10), b"\0\0" + bytes((len(name),)) + name + b"\0\0\0\0\0")

    check(octets, State.RUNNING, (501, "FRAME_ERROR - Malformed UTF-8 in shortstr", (0, 0)))


@pytest.mark.parametrize("channel", [0, 1])
@pytest.mark.parametrize(("class_id", "method_id"), [(255, 1), (60, 255), (60, 200)])
def test_an_unknown_method_is_invalid(class_id: int, method_id: int, channel: int) -> None:
    text = "COMMAND_INVALID - unimplemented method"

    check(
        method((class_id, method_id), channel=channel),
        State.RUNNING,
        (503, text, (class_id, method_id)),
    )


# -- on a closing channel --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "octets",
    [
        DECLARE,
        method((255, 1)),
        method((60, 10), b"\0"),
        PUBLISH + header(3) + frame(BODY, 1, b"abc"),
        header(3, class_id=10),
        PUBLISH + frame(HEADER, 1, struct.pack(">HHQ", 60, 0, 0) + b"\xff\xff"),
    ],
)
def test_what_comes_on_a_closing_channel_is_neither_done_nor_judged(
    running: Callable[..., Connection], octets: bytes
) -> None:
    connection = running(1)
    connection.close_channel(1, NotFound("gone"), 0)
    connection.take_outbox()

    connection.receive(octets + encode_method(1, commands.Channel.CloseOk()) + CHANNEL_OPEN, 0.0)

    assert connection.next_event() is not None
    assert connection.take_outbox() == encode_method(1, commands.Channel.OpenOk())


@pytest.mark.parametrize(
    ("octets", "close"),
    [
        (CHANNEL_OPEN, (504, "CHANNEL_ERROR - second 'channel.open' seen", (20, 10))),
        (frame(HEARTBEAT, 1, b""), (505, "UNEXPECTED_FRAME - type 8, all octets = <<>>", (0, 0))),
        (frame(7, 1, b""), (501, "FRAME_ERROR - type 7, all octets = <<>>: unknown_frame", (0, 0))),
    ],
)
def test_a_hard_error_is_one_on_a_closing_channel_too(
    running: Callable[..., Connection], octets: bytes, close: Close
) -> None:
    connection = running(1)
    connection.close_channel(1, NotFound("gone"), 0)
    connection.receive(octets, 0.0)

    with pytest.raises(HardError) as caught:
        connection.next_event()

    error = caught.value
    assert (error.code, error.reply_text, divmod(error.index, 1 << 16)) == close

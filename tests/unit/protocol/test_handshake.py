"""From the protocol header to open-ok: what is due when, and what happens to everything else."""

import struct
from collections.abc import Callable
from typing import Any

import pytest
from pamqp import commands
from pamqp.base import Frame

from amqpbroker.errors import (
    ChannelError,
    CommandInvalid,
    FrameError,
    MalformedSyntax,
    NotAllowed,
)
from amqpbroker.protocol.connection import Connection, State
from amqpbroker.protocol.events import Closed, Event, Login, Open, SecretUpdated
from amqpbroker.protocol.fields import write_longstr
from amqpbroker.protocol.frames import (
    HEARTBEAT_FRAME,
    METHOD,
    PROTOCOL_HEADER,
    encode_method,
    frame,
)
from amqpbroker.protocol.intake import WireLimits
from amqpbroker.testing.wire import read_frames

LIMITS = WireLimits(frame_max=8192, channel_max=16, heartbeat_s=30)
START_OK = commands.Connection.StartOk({}, "PLAIN", "\0guest\0secret", "en_US")
TUNE_OK = commands.Connection.TuneOk(16, 8192, 30)
OPEN = commands.Connection.Open("/")
DUE = {State.STARTING: START_OK, State.TUNING: TUNE_OK, State.OPENING: OPEN}
NAMES = {
    State.STARTING: "starting",
    State.LOGGING_IN: "securing",
    State.TUNING: "tuning",
    State.OPENING: "opening",
    State.GRANTING: "opening",
    State.RUNNING: "running",
}
BEFORE_WORK = [
    State.STARTING,
    State.LOGGING_IN,
    State.TUNING,
    State.OPENING,
    State.GRANTING,
]


def connect(limits: WireLimits = LIMITS) -> Connection:
    return Connection(limits, {"product": "a broker"}, 0.0)


def take(connection: Connection, data: bytes) -> list[Event]:
    """The events that ``data`` brings."""
    connection.receive(data, 0.0)
    return list(iter(connection.next_event, None))


def say(connection: Connection, method: Frame, channel: int = 0) -> list[Event]:
    return take(connection, encode_method(channel, method))


def sent(connection: Connection) -> list[Any]:
    """What the connection says, as pamqp understands it."""
    return [item for _, item in read_frames(connection.take_outbox())[0]]


def connection_in(state: State, limits: WireLimits = LIMITS) -> Connection:
    """A connection on the good way, as far as ``state``."""
    connection = connect(limits)
    steps: list[tuple[State, Callable[[], object]]] = [
        (State.STARTING, lambda: take(connection, PROTOCOL_HEADER)),
        (State.LOGGING_IN, lambda: say(connection, START_OK)),
        (State.TUNING, connection.accept_login),
        (State.OPENING, lambda: say(connection, TUNE_OK)),
        (State.GRANTING, lambda: say(connection, OPEN)),
        (State.RUNNING, connection.open_ok),
    ]
    for reached, step in steps:
        if connection.state is state:
            break
        step()
        assert connection.state is reached
    connection.take_outbox()
    return connection


# -- the protocol header -------------------------------------------------------------------------


def test_the_protocol_header_is_answered_with_start() -> None:
    connection = connect()

    events = take(connection, PROTOCOL_HEADER)

    (start,) = sent(connection)
    assert isinstance(start, commands.Connection.Start)
    assert (start.version_major, start.version_minor) == (0, 9)
    assert start.server_properties == {"product": "a broker"}
    assert set(start.mechanisms.split()) == {"PLAIN", "AMQPLAIN"}
    assert start.locales == "en_US"
    assert not events


def test_the_protocol_header_may_come_octet_by_octet() -> None:
    connection = connect()

    for i in range(8):
        assert connection.state is State.HEADER
        take(connection, PROTOCOL_HEADER[i : i + 1])

    assert connection.state is State.STARTING


def test_the_header_of_amqp_0_9_is_taken_too() -> None:
    connection = connect()

    take(connection, b"AMQP\1\1\0\x09")

    assert connection.state is State.STARTING


@pytest.mark.parametrize(
    "header",
    [
        b"AMQP\0\1\0\0",
        b"AMQP\3\1\0\0",
        b"AMQP\0\0\x09\0",
        b"AMQP\1\1\x08\0",
        b"GET / HTTP/1.1\r\n",
        b"\x16\3\1\2\0\1\0\1",
        b"X",
        b"AMQX",
    ],
)
def test_another_protocol_is_answered_with_ours_and_the_end(header: bytes) -> None:
    connection = connect()

    events = take(connection, header)

    assert connection.take_outbox() == b"AMQP\0\0\x09\x01"
    assert connection.state is State.CLOSED
    assert not events


def test_nothing_counts_after_a_wrong_header() -> None:
    connection = connect()
    take(connection, b"AMQP\0\1\0\0")
    connection.take_outbox()

    events = take(connection, PROTOCOL_HEADER + encode_method(0, START_OK))

    assert not events
    assert connection.take_outbox() == b""


def test_the_whole_handshake_may_come_in_one_piece() -> None:
    connection = connect()
    methods = b"".join(encode_method(0, method) for method in (START_OK, TUNE_OK, OPEN))

    connection.receive(PROTOCOL_HEADER + methods, 0.0)
    login = connection.next_event()
    connection.accept_login()
    opened = connection.next_event()
    connection.open_ok()

    assert isinstance(login, Login)
    assert isinstance(opened, Open)
    assert [item.name for item in sent(connection)] == [
        "Connection.Start",
        "Connection.Tune",
        "Connection.OpenOk",
    ]
    assert connection.state is State.RUNNING


# -- what is due ---------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [*BEFORE_WORK, State.RUNNING], ids=lambda state: state.name)
@pytest.mark.parametrize(
    "method",
    [
        START_OK,
        TUNE_OK,
        OPEN,
        commands.Connection.SecureOk("x"),
        commands.Connection.CloseOk(),
        commands.Connection.Start(),
        commands.Channel.Open(),
        commands.Basic.Publish(),
    ],
    ids=lambda method: method.name,
)
def test_a_method_that_is_not_due_is_a_channel_error(state: State, method: Frame) -> None:
    connection = connection_in(state)

    if DUE.get(state) is method:
        say(connection, method)
        assert connection.state is not state
    else:
        with pytest.raises(ChannelError) as caught:
            say(connection, method)
        assert caught.value.code == 504
        assert caught.value.text == f"unexpected method in connection state {NAMES[state]}"


def test_the_peer_may_close_once_it_is_at_work() -> None:
    connection = connection_in(State.RUNNING)

    (closed,) = say(connection, commands.Connection.Close(200, "bye", 0, 0))

    assert isinstance(closed, Closed)
    assert (closed.by_peer, closed.code, closed.text) == (True, 200, "bye")


def test_a_secret_is_updated_when_the_peer_is_at_work() -> None:
    connection = connection_in(State.RUNNING)

    (updated,) = say(connection, commands.Connection.UpdateSecret("new", "the old one expires"))

    assert isinstance(updated, SecretUpdated)
    assert (updated.secret, updated.reason) == (b"new", "the old one expires")


@pytest.mark.parametrize("state", BEFORE_WORK, ids=lambda state: state.name)
def test_heartbeats_may_come_at_any_time(state: State) -> None:
    connection = connection_in(state)

    assert take(connection, HEARTBEAT_FRAME) == []
    assert connection.state is state


@pytest.mark.parametrize("state", [*BEFORE_WORK, State.RUNNING], ids=lambda state: state.name)
def test_an_unknown_method_is_invalid_in_every_state(state: State) -> None:
    connection = connection_in(state)

    with pytest.raises(CommandInvalid) as caught:
        take(connection, frame(METHOD, 0, struct.pack(">HH", 10, 99)))

    assert caught.value.code == 503


# -- logging in ----------------------------------------------------------------------------------


def start_ok(mechanism: str, response: bytes, **properties: Any) -> commands.Connection.StartOk:
    method = commands.Connection.StartOk(properties, mechanism, "", "en_US")
    method.response = response  # type: ignore[assignment]
    return method


def field(name: bytes, kind: bytes, octets: bytes) -> bytes:
    return bytes((len(name),)) + name + kind + octets


AMQPLAIN = field(b"LOGIN", b"S", write_longstr(b"guest")) + field(
    b"PASSWORD", b"S", write_longstr(b"secret")
)


@pytest.mark.parametrize(
    ("mechanism", "response"),
    [
        ("PLAIN", b"\0guest\0secret"),
        ("AMQPLAIN", AMQPLAIN),
        ("AMQPLAIN", AMQPLAIN.replace(b"LOGINS", b"LOGINx").replace(b"PASSWORDS", b"PASSWORDx")),
    ],
)
def test_either_mechanism_says_user_and_password(mechanism: str, response: bytes) -> None:
    connection = connection_in(State.STARTING)

    (login,) = say(connection, start_ok(mechanism, response, product="a client"))

    assert isinstance(login, Login)
    assert (login.mechanism, login.user, login.password) == (mechanism, "guest", "secret")
    assert login.client_properties == {"product": "a client"}
    assert connection.state is State.LOGGING_IN


@pytest.mark.parametrize(
    ("mechanism", "response"),
    [("PLAIN", b"\0guest\0\xff"), ("AMQPLAIN", AMQPLAIN[:-10] + write_longstr(b"\xff"))],
)
def test_a_password_need_not_be_utf_8(mechanism: str, response: bytes) -> None:
    connection = connection_in(State.STARTING)

    (login,) = say(connection, start_ok(mechanism, response))

    assert isinstance(login, Login)
    assert login.password.encode("utf-8", "surrogateescape") == b"\xff"


@pytest.mark.parametrize(
    "response", [b"", b"guest", b"\0guest", b"\0guest\0secret\0more", b"guest\0guest\0secret"]
)
def test_a_bad_response_to_plain_is_a_syntax_error(response: bytes) -> None:
    connection = connection_in(State.STARTING)

    with pytest.raises(MalformedSyntax, match="PLAIN") as caught:
        say(connection, start_ok("PLAIN", response))

    assert caught.value.code == 502


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"\0guest\0secret",
        field(b"LOGIN", b"S", write_longstr(b"guest")),
        field(b"PASSWORD", b"S", write_longstr(b"secret")),
        AMQPLAIN[:-1],
        AMQPLAIN + b"\0",
        field(b"LOGIN", b"t", b"\1") + field(b"PASSWORD", b"S", write_longstr(b"secret")),
        field(b"LOGIN", b"S", write_longstr(b"guest")) + field(b"PASSWORD", b"V", b""),
    ],
)
def test_a_bad_response_to_amqplain_is_a_syntax_error(response: bytes) -> None:
    connection = connection_in(State.STARTING)

    with pytest.raises(MalformedSyntax) as caught:
        say(connection, start_ok("AMQPLAIN", response))

    assert caught.value.code == 502


def test_a_mechanism_that_was_not_offered_is_invalid() -> None:
    connection = connection_in(State.STARTING)

    with pytest.raises(CommandInvalid) as caught:
        say(connection, start_ok("EXTERNAL", b""))

    assert caught.value.reply_text == (
        "COMMAND_INVALID - unknown authentication mechanism 'EXTERNAL'"
    )


def test_a_refused_login_is_told_to_a_peer_that_can_bear_it() -> None:
    connection = connection_in(State.STARTING)
    say(
        connection,
        start_ok("PLAIN", b"\0a\0b", capabilities={"authentication_failure_close": True}),
    )

    connection.refuse_login("PLAIN")

    (close,) = sent(connection)
    assert (close.reply_code, close.reply_text) == (
        403,
        "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN."
        " For details see the broker logfile.",
    )
    assert connection.state is State.CLOSING


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"capabilities": {}},
        {"capabilities": {"authentication_failure_close": False}},
        {"capabilities": "authentication_failure_close"},
    ],
)
def test_a_refused_login_is_the_end_for_any_other_peer(properties: dict[str, Any]) -> None:
    connection = connection_in(State.STARTING)
    say(connection, start_ok("PLAIN", b"\0a\0b", **properties))

    connection.refuse_login("PLAIN")

    assert connection.take_outbox() == b""
    assert connection.state is State.CLOSED


def test_capabilities_are_kept_for_the_broker() -> None:
    connection = connection_in(State.STARTING)

    say(connection, start_ok("PLAIN", b"\0a\0b", capabilities={"basic.nack": True}))

    assert connection.capabilities == {"basic.nack": True}


# -- limits --------------------------------------------------------------------------------------


def test_tune_offers_the_limits() -> None:
    connection = connection_in(State.LOGGING_IN)

    connection.accept_login()

    (tune,) = sent(connection)
    assert (tune.channel_max, tune.frame_max, tune.heartbeat) == (16, 8192, 30)


@pytest.mark.parametrize("channel_max", [1, 15, 16])
@pytest.mark.parametrize("frame_max", [4096, 8192])
@pytest.mark.parametrize("heartbeat_s", [0, 1, 65535])
def test_what_lies_within_the_offer_is_agreed(
    channel_max: int, frame_max: int, heartbeat_s: int
) -> None:
    connection = connection_in(State.TUNING)

    say(connection, commands.Connection.TuneOk(channel_max, frame_max, heartbeat_s))

    assert (connection.channel_max, connection.frame_max, connection.heartbeat_s) == (
        channel_max,
        frame_max,
        heartbeat_s,
    )


@pytest.mark.parametrize(
    ("channel_max", "frame_max", "text"),
    [
        (
            17,
            8192,
            "negotiated channel_max = 17 is higher than the maximum allowed value (16)",
        ),
        (
            0,
            8192,
            "negotiated channel_max = 0 (no limit) is higher than the maximum allowed value (16)",
        ),
        (
            16,
            8193,
            "negotiated frame_max = 8193 is higher than the maximum allowed value (8192)",
        ),
        (16, 0, "negotiated frame_max = 0 is higher than the maximum allowed value (8192)"),
        (
            16,
            4095,
            "negotiated frame_max = 4095 is lower than the minimum allowed value (4096)",
        ),
    ],
)
def test_what_lies_outside_the_offer_is_not_allowed(
    channel_max: int, frame_max: int, text: str
) -> None:
    connection = connection_in(State.TUNING)

    with pytest.raises(NotAllowed) as caught:
        say(connection, commands.Connection.TuneOk(channel_max, frame_max, 0))

    assert caught.value.code == 530
    assert caught.value.text == text


def test_channels_without_limit_may_be_agreed_if_they_were_offered() -> None:
    connection = connection_in(State.TUNING, WireLimits(channel_max=0))
    say(connection, commands.Connection.TuneOk(0, 131072, 0))
    say(connection, OPEN)
    connection.open_ok()

    events = [say(connection, commands.Channel.Open(), channel) for channel in range(1, 100)]

    assert all(len(each) == 1 for each in events)


@pytest.mark.parametrize("frame_max", [4096, 8192])
def test_frames_may_be_as_large_as_agreed(frame_max: int) -> None:
    connection = connection_in(State.TUNING)
    say(connection, commands.Connection.TuneOk(16, frame_max, 0))

    assert take(connection, frame(METHOD, 0, b"\0" * frame_max)[:-1]) == []
    with pytest.raises(FrameError):
        take(connection, b"\xff")


def test_open_names_the_virtual_host() -> None:
    connection = connection_in(State.OPENING)

    (opened,) = say(connection, commands.Connection.Open("my vhost"))

    assert isinstance(opened, Open)
    assert opened.vhost == "my vhost"


def test_open_ok_begins_the_work() -> None:
    connection = connection_in(State.GRANTING)

    connection.open_ok()

    assert [item.name for item in sent(connection)] == ["Connection.OpenOk"]
    assert connection.state is State.RUNNING

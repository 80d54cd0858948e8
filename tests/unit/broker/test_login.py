"""Who comes in, and where to."""

from collections.abc import Callable

import pytest
from pamqp import commands

from amqpbroker.broker.broker import Broker, BrokerLimits
from amqpbroker.protocol.connection import State
from amqpbroker.protocol.frames import METHOD, PROTOCOL_HEADER, frame
from amqpbroker.testing.fakes import fake_world
from amqpbroker.testing.peer import CAPABILITIES, Peer

Connect = Callable[..., Peer]


def knock(broker: Broker, password: str, host: str = "127.0.0.1", **capabilities: bool) -> Peer:
    """A peer that has said who it is."""
    peer = Peer(broker, host)
    peer.send_bytes(PROTOCOL_HEADER)
    peer.received()
    properties = {"capabilities": capabilities}
    response = f"\0guest\0{password}"
    peer.send(commands.Connection.StartOk(properties, "PLAIN", response, "en_US"), channel=0)
    return peer


def test_a_peer_that_can_bear_it_is_told_that_its_login_is_refused(broker: Broker) -> None:
    peer = knock(broker, "wrong", authentication_failure_close=True)

    [(channel, close)] = peer.received()

    assert channel == 0
    assert isinstance(close, commands.Connection.Close)
    assert (close.reply_code, close.class_id, close.method_id) == (403, 0, 0)
    assert close.reply_text == (
        "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN."
        " For details see the broker logfile."
    )


def test_a_peer_that_cannot_bear_it_is_left_without_a_word(broker: Broker) -> None:
    peer = knock(broker, "wrong")

    assert peer.received() == []
    assert peer.connection.state is State.CLOSED


@pytest.mark.parametrize(("user", "password"), [("nobody", "guest"), ("guest", "")])
def test_unknown_users_and_empty_passwords_are_refused(
    broker: Broker, user: str, password: str
) -> None:
    assert broker.login(user, password, "127.0.0.1") is None


def test_guest_comes_from_loopback_only(broker: Broker) -> None:
    far = knock(broker, "guest", host="10.0.0.1", authentication_failure_close=True)
    near = knock(broker, "guest", host="127.0.0.1")

    assert isinstance(far.received()[0][1], commands.Connection.Close)
    assert isinstance(near.received()[0][1], commands.Connection.Tune)


def test_a_virtual_host_that_is_not_there_closes_the_connection(broker: Broker) -> None:
    peer = knock(broker, "guest")
    peer.received()

    peer.send(commands.Connection.TuneOk(10, 4096, 0), commands.Connection.Open("none"), channel=0)

    [(_, close)] = peer.received()
    assert (close.reply_code, close.reply_text) == (530, "NOT_ALLOWED - vhost none not found")
    assert (close.class_id, close.method_id) == (10, 40)


def test_connections_over_the_limit_are_refused() -> None:
    broker = Broker(fake_world(), BrokerLimits(connections_max=1))
    broker.boot("guest", "guest")
    Peer(broker).open(1)
    peer = knock(broker, "guest")
    peer.received()

    peer.send(commands.Connection.TuneOk(10, 4096, 0), commands.Connection.Open("/"), channel=0)

    [(_, close)] = peer.received()
    assert close.reply_text == (
        "NOT_ALLOWED - connection refused: node connection limit (1) is reached"
    )


def test_close_is_answered_and_the_session_forgotten(broker: Broker, connect: Connect) -> None:
    peer = connect(1, 2, capabilities=CAPABILITIES)
    assert len(broker.sessions) == 1

    answer = peer.call(commands.Connection.Close(200, "", 0, 0), channel=0)

    assert isinstance(answer, commands.Connection.CloseOk)
    assert not broker.sessions


def test_an_updated_secret_is_acknowledged(broker: Broker, connect: Connect) -> None:
    peer = connect(1)

    answer = peer.call(commands.Connection.UpdateSecret("new", "the old one expires"), channel=0)

    assert isinstance(answer, commands.Connection.UpdateSecretOk)


def test_an_old_client_is_granted_its_realm(broker: Broker, connect: Connect) -> None:
    peer = connect(1)

    peer.send_bytes(frame(METHOD, 1, b"\0\x1e\0\x0a\5/data\x1f"))

    assert peer.read_bytes() == frame(METHOD, 1, b"\0\x1e\0\x0b\0\1")

"""Messages whose properties the broker acts on: CC, BCC, user-id, expiration."""

from collections.abc import Callable
from typing import Any

import attrs
import pytest
from pamqp import commands

from amqpbroker.broker.broker import Broker
from amqpbroker.broker.publisher import parse_expiration
from amqpbroker.definitions import put
from amqpbroker.errors import PreconditionFailed
from amqpbroker.testing.peer import Peer

Connect = Callable[..., Peer]
basic, queue = commands.Basic, commands.Queue


@pytest.fixture
def queues(peer: Peer) -> Peer:
    """The queues ``a``, ``b`` and ``c``, each bound to ``amq.topic`` by its name."""
    for name in "abc":
        peer.declare(name)
        peer.call(queue.Bind(0, name, "amq.topic", name))
    return peer


def publish(peer: Peer, key: str, headers: Any, exchange: str = "", **options: Any) -> None:
    properties = basic.Properties(headers=headers, message_id="m", app_id="app")
    peer.publish(key, b"body", exchange=exchange, properties=properties, **options)


def headers_in(peer: Peer, name: str) -> list[Any]:
    """The headers of the messages in a queue."""
    found = []
    while True:
        peer.send(basic.Get(queue=name, no_ack=True))
        received = peer.received()
        if isinstance(received[0][1], basic.GetEmpty):
            return found
        properties = received[1][1].properties
        assert (properties.message_id, properties.app_id) == ("m", "app")
        assert received[2][1] == b"body"
        assert received[0][1].routing_key == "a"
        found.append(properties.headers)


@pytest.mark.parametrize("exchange", ["", "amq.topic"])
def test_copies_go_to_the_keys_in_the_headers(queues: Peer, exchange: str) -> None:
    for _ in range(3):
        publish(queues, "a", {"CC": ["b"], "BCC": ["c", "a"], "kind": 1}, exchange)

    seen = {"CC": ["b"], "kind": 1}
    assert [headers_in(queues, name) for name in "abc"] == [[seen] * 3] * 3


def test_the_blind_ones_are_not_told(queues: Peer) -> None:
    publish(queues, "a", {"BCC": ["b"]})

    assert headers_in(queues, "b") == [{}]


def test_keys_that_lead_nowhere_do_no_harm(queues: Peer) -> None:
    publish(queues, "a", {"CC": ["none", 5, "a"]}, mandatory=True)
    assert headers_in(queues, "a") == [{"CC": ["none", 5, "a"]}]

    publish(queues, "none", {"CC": ["nowhere"]}, mandatory=True)

    assert isinstance(queues.received()[0][1], basic.Return)


def test_a_copy_suffices_for_a_mandatory_message(queues: Peer) -> None:
    publish(queues, "none", {"BCC": ["b"]}, mandatory=True)

    assert queues.received() == []


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [("CC", "b", "longstr"), ("BCC", 1, "signedint"), ("CC", {}, "table")],
)
def test_the_keys_must_be_an_array(queues: Peer, name: str, value: Any, kind: str) -> None:
    publish(queues, "a", {name: value})

    [(_, close)] = queues.received()
    assert close.reply_code == 406
    assert close.reply_text == (
        f'PRECONDITION_FAILED - invalid message: {{unacceptable_type_in_header,"{name}",{kind}}}'
    )


def test_copies_take_part_in_transactions_and_confirms(queues: Peer) -> None:
    queues.call(commands.Confirm.Select())

    publish(queues, "a", {"CC": ["b"]})

    assert isinstance(queues.received()[0][1], basic.Ack)


# -- user-id -------------------------------------------------------------------------------------


def claim(peer: Peer, user: str) -> None:
    peer.publish("q", b"body", properties=basic.Properties(user_id=user))


def test_a_user_may_say_who_it_is(peer: Peer) -> None:
    for _ in range(3):
        claim(peer, "guest")

    assert peer.received() == []


def test_a_user_may_not_say_that_it_is_somebody_else(peer: Peer) -> None:
    claim(peer, "guest")
    claim(peer, "ann")

    [(_, close)] = peer.received()
    assert close.reply_code == 406
    assert close.reply_text == (
        "PRECONDITION_FAILED - user_id property set to 'ann' but authenticated user was 'guest'"
    )


def test_an_impersonator_may(broker: Broker, connect: Connect) -> None:
    peer = connect(1)
    user = attrs.evolve(broker.users["guest"], tags=("impersonator",))
    broker.apply(put(user))

    claim(peer, "ann")

    assert peer.received() == []


# -- expiration ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "ttl_ms"), [("0", 0), ("60000", 60_000), ("+5", 5), ("-0", 0)])
def test_an_expiration_is_a_number_of_milliseconds(text: str, ttl_ms: int) -> None:
    assert parse_expiration(text) == ttl_ms


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("soon", "no_integer"),
        ("٣", "no_integer"),
        ("10s", '{leftover_string,"s"}'),
        ("1.5", '{leftover_string,".5"}'),
        ("-1", "{value_negative,-1}"),
        ("315360000001", "{value_too_large,315360000001}"),
    ],
)
def test_other_expirations_are_refused(peer: Peer, text: str, reason: str) -> None:
    with pytest.raises(PreconditionFailed):
        parse_expiration(text)

    peer.publish("q", b"body", properties=basic.Properties(expiration=text))

    [(_, close)] = peer.received()
    assert close.reply_text == f"PRECONDITION_FAILED - invalid expiration '{text}': {reason}"


def test_an_empty_expiration_is_none() -> None:
    with pytest.raises(PreconditionFailed, match="invalid expiration '': no_integer"):
        parse_expiration("")


def test_an_expiration_goes_along_to_the_queue(peer: Peer, broker: Broker) -> None:
    peer.declare("q")
    peer.publish("q", b"body", properties=basic.Properties(expiration="60000"))

    peer.send(basic.Get(queue="q"))

    assert peer.received()[1][1].properties.expiration == "60000"

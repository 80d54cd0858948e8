"""What mutated streams have brought to light, one by one."""

import pytest
from pamqp import commands

from amqpbroker.broker.broker import Broker
from amqpbroker.testing.peer import Peer
from amqpbroker.world import real_world


@pytest.fixture
def peer() -> Peer:
    broker = Broker(real_world())
    broker.boot("guest", "guest")
    return Peer(broker).open(1)


def declare(queue: str, kind: object = "classic", **options: bool) -> commands.Queue.Declare:
    """A declaration with a name that pamqp refuses to be constructed with, but can carry."""
    method = commands.Queue.Declare(arguments={"x-queue-type": kind}, **options)
    method.queue = queue
    return method


@pytest.mark.parametrize("name", ["größe", "mit|strich", "ü" * 127])
def test_a_queue_with_any_name_is_declared(peer: Peer, name: str) -> None:
    peer.send(declare(name))

    assert name.encode() in peer.read_bytes()
    assert name in peer.broker.vhosts["/"].queues


@pytest.mark.parametrize("kind", [{"a": 1}, ["classic"], 1, None])
def test_a_queue_type_that_is_no_text_is_refused(peer: Peer, kind: object) -> None:
    close = peer.call(declare("q", kind))

    assert close.reply_code == 406
    assert "x-queue-type" in close.reply_text


@pytest.mark.parametrize("kind", [{"a": 1}, ["classic"]])
def test_a_queue_type_that_is_no_text_does_not_fit_a_queue_that_is_there(
    peer: Peer, kind: object
) -> None:
    peer.declare("q")

    close = peer.call(declare("q", kind))

    assert close.reply_code == 406
    assert "x-queue-type" in close.reply_text


def test_a_deprecated_method_is_obeyed_without_a_word(peer: Peer) -> None:
    # basic.recover-async: pamqp warns when it is constructed, and warnings are errors here.
    peer.send_bytes(b"\1\0\1\0\0\0\5\0\x3c\0\x64\1\xce")
    peer.publish("nowhere", b"")

    assert peer.received() == []
    assert list(peer.session.channels) == [1]

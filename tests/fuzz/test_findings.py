"""What mutated streams have brought to light, one by one."""

import gc
import weakref

import pytest
from pamqp import commands

from amqpbroker.broker.broker import Broker
from amqpbroker.broker.deadlines import Deadlines
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


def test_a_connection_that_is_gone_is_forgotten_before_its_next_heartbeat() -> None:
    broker = Broker(real_world())
    broker.boot("guest", "guest")
    peer = Peer(broker).open(1, heartbeat_s=60_000)
    session = weakref.ref(peer.session)

    peer.session.close()
    del peer
    gc.collect()

    assert session() is None


def test_deadlines_that_were_cancelled_do_not_gather() -> None:
    deadlines = Deadlines()

    for _ in range(10_000):
        deadlines.at(1e9, lambda now_s: None).cancel()

    assert len(deadlines) < 1000


@pytest.mark.parametrize("auto_delete", [True, False])
def test_exclusive_queues_that_were_deleted_are_forgotten(peer: Peer, auto_delete: bool) -> None:
    name = peer.declare("", exclusive=True, auto_delete=auto_delete)
    if auto_delete:
        peer.consume(name, "c")
        peer.send(commands.Basic.Cancel("c"))
    else:
        peer.send(commands.Queue.Delete(queue=name))

    assert not peer.session.own_queues

"""What mutated streams have brought to light in the protocol."""

import tracemalloc

import pytest
from pamqp import commands

from amqpbroker.broker.broker import Broker
from amqpbroker.protocol.content import encode_content
from amqpbroker.protocol.frames import BODY, encode_method, frame
from amqpbroker.testing.fakes import fake_world
from amqpbroker.testing.peer import Peer


@pytest.fixture
def peer() -> Peer:
    broker = Broker(fake_world())
    broker.boot("guest", "guest")
    return Peer(broker).open(1)


def test_what_precedes_a_broken_message_in_the_same_bytes_is_published(peer: Peer) -> None:
    peer.declare("q")
    command = encode_method(1, commands.Basic.Publish(routing_key="q"))
    sound = command + encode_content(1, b"\0\0", b"sound", 4096)
    broken = command + encode_content(1, b"\x80\0\xff", b"broken", 4096)

    peer.send_bytes(sound * 3 + broken + sound)

    assert peer.received()[-1][1].reply_code == 502
    assert peer.broker.vhosts["/"].queue("q").stat().ready == 3


def test_empty_body_frames_cost_nothing_while_a_message_is_incomplete(peer: Peer) -> None:
    peer.declare("q")
    content = encode_content(1, b"\0\0", b"body", 4096)
    start = encode_method(1, commands.Basic.Publish(routing_key="q")) + content[:22]
    empty = frame(BODY, 1, b"") * 10_000
    peer.send_bytes(start)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]

    for _ in range(10):
        peer.send_bytes(empty)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    peer.send_bytes(content[22:])

    assert grown < len(empty)
    peer.send(commands.Basic.Get(queue="q"))
    assert peer.received()[-1] == (1, b"body")

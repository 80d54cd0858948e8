"""Streams that no client would send, by the thousand, beside a client that works on."""

import ctypes
import gc
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from pamqp import commands

from amqpbroker.broker.broker import Broker, BrokerLimits
from amqpbroker.definitions import delete
from amqpbroker.protocol.frames import PROTOCOL_HEADER
from amqpbroker.protocol.intake import WireLimits
from amqpbroker.routing.router import predeclared
from amqpbroker.testing.peer import Peer
from amqpbroker.testing.streams import Streams, chop
from amqpbroker.testing.wire import whole_frames
from amqpbroker.world import real_world

SEED = int(os.environ.get("AMQPBROKER_FUZZ_SEED", random.SystemRandom().randrange(1 << 32)))
STREAMS = int(os.environ.get("AMQPBROKER_FUZZ_STREAMS", 100_000))
PARTS = 10
WARM_UP = 2000
GROWTH_BYTES_MAX = 5 << 20

OPEN_OK = b"\1\0\0\0\0\0\5\0\x0a\0\x29\0\xce"
CLOSE, CLOSE_OK, INTERNAL_ERROR = b"\0\x0a\0\x32", b"\0\x0a\0\x33", b"\0\x0a\0\x32\2\x1d"
PREDECLARED = {exchange.name for exchange in predeclared("/")}


def resident_bytes() -> int:
    """The memory of this process, with nothing in it that could be given back."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:
        pytest.skip("only the C library of GNU gives memory back on demand")
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Neighbour:
    """A client that publishes the next number, confirmed, and has it delivered.

    It has another queue besides, whose name the streams know and must not get anything out of.
    """

    def __init__(self, broker: Broker) -> None:
        self.peer = Peer(broker).open(1)
        self.peer.declare("neighbour", exclusive=True)
        self.queue = self.peer.declare("", exclusive=True)
        self.peer.consume(self.queue, "c")
        self.peer.send(commands.Confirm.Select())
        self.peer.received()
        self.number = 0

    def go_on(self) -> None:
        self.number += 1
        body = b"%d" % self.number
        self.peer.publish(self.queue, body)
        deliver, _, content, ack = (item for _, item in self.peer.received())
        assert isinstance(deliver, commands.Basic.Deliver)
        assert isinstance(ack, commands.Basic.Ack)
        assert (deliver.delivery_tag, content, ack.delivery_tag) == (self.number, body, self.number)
        self.peer.send(commands.Basic.Ack(self.number))


class Arena:
    """One broker for all streams: what a stream leaves behind would meet the next."""

    def __init__(self, faults: list[str]) -> None:
        limits = BrokerLimits(wire=WireLimits(message_bytes_max=100_000), outbox_bytes_max=4096)
        world = attrs.evolve(real_world(), random=random.Random(f"world {SEED}"))
        self.broker = Broker(world, limits)
        self.broker.boot("guest", "guest")
        self.neighbour = Neighbour(self.broker)
        self.faults = faults
        self.streams = Streams(SEED)
        self.past_handshake = 0
        self.done = 0
        for number in range(WARM_UP):
            self.run(-1 - number)
        self.done = self.past_handshake = 0
        self.growth_bytes = 0

    def run(self, number: int) -> None:
        rng = random.Random(f"{SEED} {number}")
        data = self.streams.mutated(rng)
        try:
            self.feed(rng, data)
            self.neighbour.go_on()
            self.look_for_remains()
        except BaseException as error:
            error.add_note(f"AMQPBROKER_FUZZ_SEED={SEED}, stream {number}: {data.hex()}")
            raise
        self.done += 1

    def feed(self, rng: random.Random, data: bytes) -> None:
        peer = Peer(self.broker)
        if rng.random() < 0.05:
            peer.takes_bytes = rng.choice((0, 100))
        pieces = chop(rng, data)
        alarm_at = rng.randrange(len(pieces) or 1) if rng.random() < 0.03 else -1
        for place, piece in enumerate(pieces):
            if place == alarm_at:
                self.broker.check_memory(2, 1)
            peer.send_bytes(piece)
        if self.broker.alarms:
            self.broker.check_memory(0, 1)
            peer.settle_down()
        assert not self.faults, "\n".join(self.faults)
        answers = peer.read_bytes()
        self.past_handshake += OPEN_OK in answers
        if peer.takes_bytes is None:
            check_answers(answers)
        peer.session.close()
        while self.broker.turn.run():
            pass
        assert not self.faults, "\n".join(self.faults)

    def look_for_remains(self) -> None:
        """Only what may outlive its connection is there, and is deleted."""
        broker, neighbour = self.broker, self.neighbour
        vhost = broker.vhosts["/"]
        assert list(broker.sessions) == [neighbour.peer.session]
        assert broker.uncommitted_bytes == 0
        for queue in list(vhost.queues.values()):
            if queue.owner is neighbour.peer.session:
                continue
            stat = queue.stat()
            assert not queue.definition.exclusive, queue.definition
            assert (stat.unsettled, stat.consumers) == (0, 0), queue.definition
            broker.apply(delete(queue.definition))
        for name, exchange in list(vhost.router.exchanges.items()):
            if name not in PREDECLARED:
                broker.apply(delete(exchange.definition))
            for binding in list(exchange.bindings.values()):
                assert binding.destination_type == "exchange", binding
                broker.apply(delete(binding))
            assert not exchange.bindings, exchange.definition
        assert vhost.queues.keys() == {"neighbour", neighbour.queue}
        assert vhost.router.exchanges.keys() == PREDECLARED
        while broker.turn.run():
            pass


def check_answers(data: bytes) -> None:
    """Answers are sound frames, none is an internal error, and connection.close is the last."""
    if data.endswith(PROTOCOL_HEADER):
        data = data.removesuffix(PROTOCOL_HEADER)
    closed = False
    for _, channel, payload in whole_frames(data):
        assert not closed or (channel == 0 and payload == CLOSE_OK), payload
        if channel == 0 and payload.startswith((CLOSE, CLOSE_OK)):
            assert not payload.startswith(INTERNAL_ERROR), payload
            closed = True


@pytest.fixture(scope="module")
def arena(broker_log: Any) -> Iterator[Arena]:
    with broker_log:
        arena = Arena(broker_log.faults)
    yield arena
    arena.neighbour.peer.session.close()


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_no_stream_of_octets_harms_the_broker_or_a_neighbour(
    arena: Arena, broker_log: Any, part: int
) -> None:
    share = STREAMS // PARTS
    before = arena.past_handshake

    with broker_log:
        resident_before_bytes = resident_bytes()  # Other tests may have run since the last part.
        for number in range(part * share, (part + 1) * share):
            arena.run(number)
        arena.growth_bytes += resident_bytes() - resident_before_bytes
    print(f"seed {SEED}: {arena.done} streams, {arena.past_handshake} past the handshake,")
    print(f"{arena.growth_bytes / 1024:.0f} KiB more memory")

    assert arena.past_handshake - before >= 0.8 * share
    assert arena.neighbour.number == arena.done + WARM_UP
    assert arena.growth_bytes < GROWTH_BYTES_MAX

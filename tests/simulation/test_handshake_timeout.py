"""Peers that never get through the handshake, and one beside them that does."""

from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio
from pamqp import commands

from amqpbroker.protocol.frames import PROTOCOL_HEADER, encode_method
from amqpbroker.server.config import Config
from amqpbroker.server.node import Node
from amqpbroker.testing.client import Client
from amqpbroker.testing.streams import HANDSHAKE
from amqpbroker.testing.world import Simulation, simulate
from amqpbroker.world import Stream

HANDSHAKE_S = 10
TRAVEL_S = 0.1
"""More than anything takes to travel through the simulated network."""

START_OK = encode_method(
    0, commands.Connection.StartOk({}, "PLAIN", "\0guest\0guest", locale="en_US")
)

Pieces = Callable[[], Iterator[bytes]]


def nothing() -> Iterator[bytes]:
    yield b""


def an_octet_every_three_seconds() -> Iterator[bytes]:
    yield from (bytes((octet,)) for octet in b"".join(HANDSHAKE))


def half_a_protocol_header() -> Iterator[bytes]:
    yield PROTOCOL_HEADER[:4]


def no_more_than_start_ok() -> Iterator[bytes]:
    yield PROTOCOL_HEADER + START_OK


def everything_but_the_last_octet() -> Iterator[bytes]:
    yield b"".join(HANDSHAKE)[:-1]


def heartbeats_instead_of_open() -> Iterator[bytes]:
    yield b"".join(HANDSHAKE[:-1])
    while True:
        yield b"\x08\0\0\0\0\0\0\xce"


async def end_of(stream: Stream) -> float:
    """When the broker ends the connection, whatever it says before."""
    try:
        while await stream.receive_some(65536):
            pass
    except OSError:
        pass  # Octets were on their way to a broker that did not want them any more.
    return trio.current_time()


async def dawdle(stream: Stream, pieces: Iterator[bytes]) -> None:
    try:
        for piece in pieces:
            stream.send_nowait(piece)
            await trio.sleep(3)
    except OSError:
        pass  # The broker has had enough.


def in_a_node(
    scenario: Callable[[Simulation, Node], Awaitable[None]],
) -> Callable[[Simulation], Awaitable[None]]:
    async def run(sim: Simulation) -> None:
        async with Node(Config(listen="127.0.0.1:0", memory=True), sim.world) as node:
            await scenario(sim, node)

    return run


@pytest.mark.parametrize(
    "pieces",
    [
        nothing,
        an_octet_every_three_seconds,
        half_a_protocol_header,
        no_more_than_start_ok,
        everything_but_the_last_octet,
        heartbeats_instead_of_open,
    ],
)
def test_a_handshake_that_is_not_through_after_ten_seconds_is_ended(pieces: Pieces) -> None:
    async def scenario(sim: Simulation, node: Node) -> None:
        start_s = trio.current_time()
        stream = await sim.network.connect(*node.address)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dawdle, stream, pieces())
            lasted_s = await end_of(stream) - start_s
            nursery.cancel_scope.cancel()
        assert HANDSHAKE_S <= lasted_s <= HANDSHAKE_S + TRAVEL_S, lasted_s
        assert not node.broker.sessions

    for seed in range(3):
        simulate(seed, in_a_node(scenario))


def test_a_proper_client_is_served_beside_those_who_dawdle() -> None:
    async def scenario(sim: Simulation, node: Node) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                for pieces in (nothing, an_octet_every_three_seconds, no_more_than_start_ok):
                    stream = await sim.network.connect(*node.address)
                    nursery.start_soon(dawdle, stream, pieces())
            client = await Client.connect(sim.network, node.address, 1)
            await client.call(commands.Queue.Declare(queue="q"), commands.Queue.DeclareOk)
            await client.call(commands.Basic.Consume(queue="q"), commands.Basic.ConsumeOk)
            for number in range(100):
                asked_s = trio.current_time()
                await client.publish("q", b"%d" % number)
                await client.receive()
                assert client.inbox.pop()[1].body == b"%d" % number
                assert trio.current_time() - asked_s < TRAVEL_S
                await trio.sleep(0.3)
            assert len(node.broker.sessions) == 1
            client.stream.close()
            nursery.cancel_scope.cancel()

    simulate(1, in_a_node(scenario))


def test_a_handshake_may_take_nine_seconds() -> None:
    async def scenario(sim: Simulation, node: Node) -> None:
        client = Client(await sim.network.connect(*node.address))
        for frame in HANDSHAKE:
            await client.send_bytes(frame)
            await trio.sleep(9 / len(HANDSHAKE))
        await client.wait_for(commands.Connection.OpenOk)
        await trio.sleep(2 * HANDSHAKE_S)

        await client.call(commands.Channel.Open(), commands.Channel.OpenOk)

        client.stream.close()

    simulate(1, in_a_node(scenario))

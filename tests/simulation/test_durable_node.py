"""A node with a data directory: what was said to be done is done in its next life too."""

import pytest
import trio
from pamqp import commands

from amqpbroker.server import keeping
from amqpbroker.server.config import Config
from amqpbroker.server.node import Node
from amqpbroker.storage.chunks import CHUNK_MAX
from amqpbroker.testing.client import Client, Content
from amqpbroker.testing.world import Simulation, simulate

CONFIG = Config(listen="127.0.0.1:5672", data_dir="/data", name="rabbit@here")
basic, exchange, queue = commands.Basic, commands.Exchange, commands.Queue


async def ready(client: Client, name: str) -> int:
    declare_ok = await client.call(queue.Declare(queue=name, passive=True), queue.DeclareOk)
    count: int = declare_ok.message_count
    return count


def test_what_is_durable_is_there_after_a_stop() -> None:
    async def scenario(sim: Simulation) -> None:
        async with Node(CONFIG, sim.world) as node:
            client = await Client.connect(sim.network, node.address, 1)
            await client.call(queue.Declare(queue="kept", durable=True), queue.DeclareOk)
            await client.call(queue.Declare(queue="gone"), queue.DeclareOk)
            declare = exchange.Declare(exchange="x", durable=True)
            await client.call(declare, exchange.DeclareOk)
            bind = queue.Bind(queue="kept", exchange="x", routing_key="k")
            await client.call(bind, queue.BindOk)
            await client.publish("kept", b"transient")
            await client.publish("k", b"persistent", exchange="x", persistent=True)
            assert await ready(client, "kept") == 2

        async with Node(CONFIG, sim.world) as node:
            client = await Client.connect(sim.network, node.address, 1)
            assert await ready(client, "kept") == 1
            await client.publish("k", b"another", exchange="x")
            assert await ready(client, "kept") == 2
            await client.send(basic.Get(queue="kept", no_ack=True))
            content = await client.wait_for(Content)
            assert (content.body, content.method.redelivered) == (b"persistent", False)
            await client.send(queue.Declare(queue="gone", passive=True))
            close = await client.wait_for(commands.Channel.Close)
            assert close.reply_code == 404

    simulate(1, scenario)


def test_a_confirm_is_a_promise_that_a_crash_does_not_break() -> None:
    async def scenario(sim: Simulation) -> None:
        confirmed = 0
        for life in range(3):
            with trio.CancelScope() as scope:
                async with Node(CONFIG, sim.world) as node:
                    client = await Client.connect(sim.network, node.address, 1)
                    await client.call(queue.Declare(queue="q", durable=True), queue.DeclareOk)
                    assert await ready(client, "q") >= confirmed
                    await client.call(commands.Confirm.Select(), commands.Confirm.SelectOk)
                    for _ in range(20 + life):
                        await client.publish("q", b"body", persistent=True)
                        await client.wait_for(basic.Ack)
                        confirmed += 1
                    sim.disk.crash()
                    scope.cancel()
            sim.disk.restart()
        async with Node(CONFIG, sim.world) as node:
            client = await Client.connect(sim.network, node.address, 1)
            assert await ready(client, "q") == confirmed

    simulate(2, scenario)


@pytest.mark.parametrize("arguments", [{}, {"x-max-priority": 3}, {"x-message-ttl": 3_600_000}])
def test_a_damaged_chunk_is_given_up_and_the_queue_goes_on(
    arguments: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "WAITING_BYTES_MAX", 0)
    count = 4 * CHUNK_MAX

    async def scenario(sim: Simulation) -> None:
        async with Node(CONFIG, sim.world) as node:
            client = await Client.connect(sim.network, node.address, 1)
            declare = queue.Declare(queue="q", durable=True, arguments=arguments)
            await client.call(declare, queue.DeclareOk)
            for number in range(count):
                await client.publish("q", b"message %d" % number, persistent=True)
            assert await ready(client, "q") == count
            damage(sim, "/data/queues/1/00000001.seg", b"message 1500")
            damage(sim, "/data/queues/1/00000001.seg", b"message 3500")

            await client.send(basic.Get(queue="q"))
            first = await client.wait_for(Content)
            await client.call(basic.Consume(queue="q", consumer_tag="c"), basic.ConsumeOk)
            there = [first.body]
            with trio.move_on_after(5):
                while True:
                    there.append((await client.wait_for(Content)).body)

            numbers = [int(body.split()[1]) for body in there]
            lost = set(range(count)) - set(numbers)
            assert numbers == sorted(numbers)
            assert {1500, 3500} <= lost
            assert len(lost) == 2 * CHUNK_MAX
            assert await ready(client, "q") == 0

    simulate(3, scenario)


def damage(sim: Simulation, path: str, octets: bytes) -> None:
    """Change ``octets`` in a file on the disk."""
    file = sim.disk.open(path)
    data = file.read(0, file.size_bytes)
    file.truncate(0)
    file.append(data.replace(octets, octets[::-1]))
    file.close()

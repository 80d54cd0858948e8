"""Clients and a node in the simulated world."""

import subprocess
import sys

import pytest
import trio
from pamqp import commands

from amqpbroker.server.config import Config
from amqpbroker.server.node import Node
from amqpbroker.testing.client import Client, Content
from amqpbroker.testing.world import Simulation, simulate

PUBLISHERS = 3
CONSUMERS = 4
MESSAGES = 60


async def busy_minute(sim: Simulation) -> str:
    """Publishers, and consumers that die and return, all on one queue; the digest of it all."""
    published: set[bytes] = set()
    settled: list[bytes] = []
    seen: set[bytes] = set()
    done = trio.Event()

    async def publish(number: int) -> None:
        client = await Client.connect(sim.network, node.address, 1)
        await client.call(commands.Confirm.Select(), commands.Confirm.SelectOk)
        for i in range(MESSAGES):
            body = b"%d:%d" % (number, i)
            published.add(body)
            await client.publish("work", body)
            if sim.random.random() < 0.2:
                await trio.sleep(sim.random.random())
        confirmed = 0
        while confirmed < MESSAGES:
            ack = await client.wait_for(commands.Basic.Ack)
            assert ack.delivery_tag > confirmed
            confirmed = ack.delivery_tag if ack.multiple else confirmed + 1

    async def consume() -> None:
        while not done.is_set():
            newest: dict[int, int] = {}
            client = await Client.connect(sim.network, node.address, 1)
            await client.call(commands.Basic.Qos(prefetch_count=5), commands.Basic.QosOk)
            await client.send(commands.Basic.Consume(queue="work", consumer_tag="c"))
            for _ in range(sim.random.randint(1, 40)):
                content = None
                with trio.move_on_after(1):
                    content = await client.wait_for(Content)
                if content is None:
                    break  # Nothing comes any more: perhaps too much is unsettled.
                body = content.body
                assert body not in seen or content.method.redelivered, body
                seen.add(body)
                if not content.method.redelivered:
                    publisher, number = map(int, body.split(b":"))
                    assert number > newest.get(publisher, -1), body
                    newest[publisher] = number
                if sim.random.random() < 0.1:
                    tag = content.method.delivery_tag
                    await client.send(commands.Basic.Nack(tag, requeue=True))
                elif sim.random.random() < 0.9:
                    await client.send(commands.Basic.Ack(content.method.delivery_tag))
                    # The ack has been obeyed once the broker answers what was said after it.
                    await client.call(commands.Basic.Qos(prefetch_count=5), commands.Basic.QosOk)
                    settled.append(body)
                    if len(settled) == PUBLISHERS * MESSAGES:
                        done.set()
            client.stream.close()

    async with Node(Config(listen="127.0.0.1:0"), sim.world) as node:
        client = await Client.connect(sim.network, node.address, 1)
        await client.call(commands.Queue.Declare(queue="work"), commands.Queue.DeclareOk)
        async with trio.open_nursery() as nursery:
            for number in range(PUBLISHERS):
                nursery.start_soon(publish, number)
            for _ in range(CONSUMERS):
                nursery.start_soon(consume)
            await done.wait()
            nursery.cancel_scope.cancel()
        state = await client.call(
            commands.Queue.Declare(queue="work", passive=True), commands.Queue.DeclareOk
        )
        client.stream.close()
    assert sorted(settled) == sorted(published)
    assert state.message_count == 0
    return sim.trace.digest


@pytest.mark.slow
def test_nothing_is_lost_doubled_or_reordered_while_consumers_come_and_go() -> None:
    for seed in range(20):
        simulate(seed, busy_minute)


def test_a_seed_replays_octet_for_octet() -> None:
    assert simulate(7, busy_minute) == simulate(7, busy_minute)
    assert simulate(7, busy_minute) != simulate(8, busy_minute)


@pytest.mark.slow
def test_a_seed_replays_in_another_process_with_other_hashes() -> None:
    script = (
        "import importlib.util as u;"
        f"s=u.spec_from_file_location('one_node',{__file__!r});"
        "m=u.module_from_spec(s);s.loader.exec_module(m);"
        "print(m.simulate(7,m.busy_minute))"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert digests == {simulate(7, busy_minute) + "\n"}

"""A node in the simulated world: it starts, serves, and stops in bounded time."""

import gc

import pytest
import trio
from pamqp import commands

from amqpbroker.broker.channel import Channel
from amqpbroker.broker.session import Session
from amqpbroker.errors import ConfigError
from amqpbroker.queues.classic import ClassicQueue
from amqpbroker.server.config import Config
from amqpbroker.server.node import Node
from amqpbroker.storage.log import MemoryLog
from amqpbroker.testing.client import Client, Content
from amqpbroker.testing.world import Simulation, simulate


def living() -> int:
    """What the collector could find of connections and queues."""
    kinds = (Session, Channel, ClassicQueue, MemoryLog)
    return sum(isinstance(thing, kinds) for thing in gc.get_objects())


CONFIG = Config(memory=True, listen="127.0.0.1:5672", shutdown_timeout_s=5)


def test_a_port_in_use_is_said_with_what_to_do() -> None:
    async def scenario(sim: Simulation) -> str:
        async with Node(CONFIG, sim.world):
            try:
                async with Node(CONFIG, sim.world):
                    raise AssertionError("two nodes cannot have one port")
            except ConfigError as error:
                return str(error)

    text = simulate(1, scenario)

    assert "127.0.0.1:5672" in text
    assert "--listen 127.0.0.1:PORT" in text


def test_stopping_tells_clients_why_and_does_not_wait_for_the_deaf() -> None:
    async def scenario(sim: Simulation) -> tuple[int, float]:
        async with Node(CONFIG, sim.world) as node:
            polite = await Client.connect(sim.network, node.address, 1)
            await Client.connect(sim.network, node.address, 1)  # It will not answer.
            stopped_s = trio.current_time()
        close = await polite.wait_for(commands.Connection.Close)
        return close.reply_code, trio.current_time() - stopped_s

    code, took_s = simulate(2, scenario)

    assert code == 320
    assert took_s < 5.1


def test_a_peer_may_send_more_behind_its_close_and_leaves_first() -> None:
    async def scenario(sim: Simulation) -> None:
        async with Node(CONFIG, sim.world) as node:
            client = await Client.connect(sim.network, node.address, 1)
            await client.send(commands.Connection.Close(200, "bye", 0, 0), 0)
            await client.wait_for(commands.Connection.CloseOk)
            for _ in range(10):
                await client.publish("q", b"too late")
                await trio.sleep(0.1)
            client.stream.close()

    simulate(3, scenario)


def test_a_peer_that_does_not_leave_after_its_close_is_shown_out() -> None:
    async def scenario(sim: Simulation) -> float:
        async with Node(CONFIG, sim.world) as node:
            client = await Client.connect(sim.network, node.address, 1)
            await client.send(commands.Connection.Close(200, "bye", 0, 0), 0)
            await client.wait_for(commands.Connection.CloseOk)
            start_s = trio.current_time()
            assert await client.stream.receive_some(1) == b""
            return trio.current_time() - start_s

    assert 2 < simulate(3, scenario) < 4


def test_a_peer_that_goes_silent_is_dropped_after_two_heartbeats() -> None:
    async def scenario(sim: Simulation) -> float:
        async with Node(CONFIG, sim.world) as node:
            client = await Client.connect(sim.network, node.address, 1, heartbeat_s=10)
            start_s = trio.current_time()
            with pytest.raises(ConnectionError):
                await client.wait_for(commands.Connection.Close)
            return trio.current_time() - start_s

    assert 20 <= simulate(3, scenario) <= 26


def test_a_cut_connection_gives_its_messages_back_at_once() -> None:
    async def scenario(sim: Simulation) -> bool:
        async with Node(CONFIG, sim.world) as node:
            lost = await Client.connect(sim.network, node.address, 1)
            await lost.call(commands.Queue.Declare(queue="q"), commands.Queue.DeclareOk)
            await lost.publish("q", b"once more")
            await lost.send(commands.Basic.Consume(queue="q", consumer_tag="lost"))
            await lost.wait_for(Content)
            other = await Client.connect(sim.network, node.address, 1)
            await other.send(commands.Basic.Consume(queue="q", consumer_tag="other"))
            lost.stream.cut()
            return bool((await other.wait_for(Content)).method.redelivered)

    assert simulate(4, scenario)


def test_a_connection_that_ends_leaves_nothing_for_the_collector() -> None:
    async def scenario(sim: Simulation) -> int:
        async with Node(CONFIG, sim.world) as node:
            gc.collect()
            gc.disable()
            there = living()
            try:
                for number in range(3):
                    client = await Client.connect(sim.network, node.address, 1)
                    queue = f"q{number}"
                    await client.send(commands.Queue.Declare(queue=queue, exclusive=True))
                    await client.publish(queue, b"left behind")
                    await client.send(commands.Basic.Consume(queue=queue, consumer_tag="c"))
                    await client.wait_for(Content)
                    client.stream.close()
                await trio.sleep(1)
                return living() - there
            finally:
                gc.enable()

    assert simulate(7, scenario) == 0


def test_under_the_memory_alarm_a_publisher_is_blocked_and_a_consumer_served() -> None:
    async def scenario(sim: Simulation) -> list[str]:
        seen = []
        async with Node(CONFIG, sim.world) as node:
            publisher = await Client.connect(sim.network, node.address, 1)
            consumer = await Client.connect(sim.network, node.address, 1)
            await consumer.call(commands.Queue.Declare(queue="q"), commands.Queue.DeclareOk)
            await consumer.send(commands.Basic.Consume(queue="q", consumer_tag="c", no_ack=True))
            sim.memory.used = sim.memory.total
            await trio.sleep(1)
            await publisher.publish("q", b"the last before the alarm bites")
            blocked = await publisher.wait_for(commands.Connection.Blocked)
            seen.append(blocked.reason)
            await publisher.publish("q", b"held back")
            seen.append((await consumer.wait_for(Content)).body.decode())
            sim.memory.used = 0
            await publisher.wait_for(commands.Connection.Unblocked)
            seen.append((await consumer.wait_for(Content)).body.decode())
        return seen

    assert simulate(5, scenario) == [
        "low on memory",
        "the last before the alarm bites",
        "held back",
    ]


def test_the_limits_of_memory_and_disk_follow_the_machine() -> None:
    async def scenario(sim: Simulation) -> list[int]:
        seen = []
        for watermark, free in ((0.4, "50MB"), ("100GiB", {"relative": 1.5})):
            config = Config(memory=True, vm_memory_high_watermark=watermark, disk_free_limit=free)
            node = Node(config, sim.world)
            seen += [node.memory_limit_bytes, node.disk_free_limit_bytes]
        return seen

    memory = 8 << 30
    assert simulate(10, scenario) == [memory * 2 // 5, 50_000_000, memory, memory * 3 // 2]


def test_a_peer_that_is_lost_while_it_is_held_does_not_live_on() -> None:
    async def scenario(sim: Simulation) -> int:
        async with Node(CONFIG, sim.world) as node:
            client = await Client.connect(sim.network, node.address, 1, heartbeat_s=10)
            sim.memory.used = sim.memory.total
            await trio.sleep(1)
            await client.publish("q", b"under the alarm")
            await client.wait_for(commands.Connection.Blocked)
            client.stream.cut()
            await trio.sleep(30)
            return len(node.broker.sessions)

    assert simulate(8, scenario) == 0


def test_a_node_may_be_cancelled_while_it_stops() -> None:
    async def scenario(sim: Simulation) -> float:
        with trio.move_on_after(1):
            async with Node(CONFIG, sim.world) as node:
                await Client.connect(sim.network, node.address, 1)  # It will not answer.
        return trio.current_time()

    assert simulate(9, scenario) < 1.1


def test_a_node_in_memory_takes_quorum_queues_as_classic_ones() -> None:
    async def scenario(sim: Simulation) -> str:
        async with Node(CONFIG, sim.world) as node:
            client = await Client.connect(sim.network, node.address, 1)
            declare = commands.Queue.Declare(
                queue="q", durable=True, arguments={"x-queue-type": "quorum"}
            )
            answer = await client.call(declare, commands.Queue.DeclareOk)
            return str(answer.queue)

    assert simulate(6, scenario) == "q"


def test_limits_change_while_the_node_runs() -> None:
    async def scenario(sim: Simulation) -> list[object]:
        async with Node(CONFIG, sim.world) as node:
            seen: list[object] = [node.broker.alarms]
            node.configure({"vm_memory_high_watermark": "absolute 1"})
            seen += [node.broker.alarms, node.memory_limit_bytes]
            node.configure({"vm_memory_high_watermark": "0.4", "disk_free_limit": "2GB"})
            seen += [node.broker.alarms, node.disk_free_limit_bytes]
            for wrong in ({"listen": "127.0.0.1:1"}, {"disk_free_limit": "x"}, {"log_level": "x"}):
                with pytest.raises(ConfigError):
                    node.configure(wrong)
            return seen

    assert simulate(1, scenario) == [(), ("memory",), 1, (), 2_000_000_000]

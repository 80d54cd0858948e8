"""Several nodes of a cluster: what one does, all see; what befalls one, all heed."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import attrs
import pytest
import trio
from pamqp import commands

from amqpbroker.cluster.members import MEMBER
from amqpbroker.cluster.schema import Schema
from amqpbroker.definitions import QueueDefinition
from amqpbroker.errors import (
    ConfigError,
    DataError,
    InternalError,
    NotFound,
    PreconditionFailed,
)
from amqpbroker.routing.router import Exchange
from amqpbroker.server.config import Config
from amqpbroker.server.node import Node
from amqpbroker.testing.certificates import make_certificate
from amqpbroker.testing.client import Client, Content
from amqpbroker.testing.sim_cluster import SimCluster
from amqpbroker.testing.world import Simulation, simulate

basic, exchange, queue = commands.Basic, commands.Exchange, commands.Queue


async def declare(client: Client, name: str, **options: object) -> int:
    declare_ok = await client.call(queue.Declare(queue=name, **options), queue.DeclareOk)
    count: int = declare_ok.message_count
    return count


async def refusal(client: Client, method: object) -> str:
    """What a channel is closed with."""
    await client.send(method)  # type: ignore[arg-type]
    close = await client.wait_for(commands.Channel.Close)
    await client.send(commands.Channel.CloseOk())
    await client.call(commands.Channel.Open(), commands.Channel.OpenOk)
    text: str = close.reply_text
    return text


async def passive(client: Client, name: str) -> str:
    return await refusal(client, queue.Declare(queue=name, passive=True))


async def confirming(cluster: SimCluster, number: int) -> Client:
    client = await cluster.client(number)
    await client.call(commands.Confirm.Select(), commands.Confirm.SelectOk)
    return client


async def publish(client: Client, name: str, body: bytes) -> bool:
    """Publish a message; whether it was confirmed."""
    await client.publish(name, body, persistent=True)
    while True:
        for place, (_, item) in enumerate(client.inbox):
            if isinstance(item, basic.Ack | basic.Nack):
                del client.inbox[place]
                return isinstance(item, basic.Ack)
        await client.receive()


def test_a_queue_can_be_used_from_any_node() -> None:
    async def scenario(sim: Simulation) -> None:
        async with SimCluster(sim) as cluster:
            a, b, c = [await confirming(cluster, number) for number in range(3)]
            await declare(a, "q", durable=True)
            for number in range(10):
                assert await publish((a, b, c)[number % 3], "q", b"%d" % number)
            assert await declare(c, "q", passive=True) == 10
            await b.call(basic.Consume(queue="q", consumer_tag="t", no_ack=True), basic.ConsumeOk)
            assert [(await b.wait_for(Content)).body for _ in range(10)] == [
                b"%d" % number for number in range(10)
            ]
            await c.call(queue.Delete(queue="q"), queue.DeleteOk)
            await b.wait_for(basic.Cancel)
            assert "no queue 'q'" in await passive(a, "q")

    simulate(1, scenario)


def test_who_asks_at_one_node_is_answered_directly_from_another() -> None:
    async def scenario(sim: Simulation) -> None:
        async with SimCluster(sim) as cluster:
            reply_to = "amq.rabbitmq.reply-to"
            a, b = await cluster.client(0), await cluster.client(1)
            await declare(a, "rpc")
            await a.call(basic.Consume(queue="rpc", no_ack=True), basic.ConsumeOk)
            await b.call(basic.Consume(queue=reply_to, no_ack=True), basic.ConsumeOk)
            asking = basic.Properties(reply_to=reply_to)
            await b.publish("rpc", b"question", properties=asking)
            question = await a.wait_for(Content)
            await a.publish(question.properties.reply_to, b"answer")
            assert (await b.wait_for(Content)).body == b"answer"

    simulate(1, scenario)


def leaders(cluster: SimCluster, number: int) -> dict[str, str]:
    """Which node leads each queue, as a node believes."""
    node = cluster.machines[number].node
    assert node is not None
    queues = node.broker.vhosts["/"].queues.items()
    return {name: queue.definition.leader for name, queue in queues}


def exchanges(cluster: SimCluster, number: int) -> dict[str, Exchange]:
    """The exchanges, as a node believes."""
    node = cluster.machines[number].node
    assert node is not None
    return node.broker.vhosts["/"].router.exchanges


def cut_off(cluster: SimCluster, number: int) -> Callable[[], None]:
    """Have a node hear nothing of what the others decide; until what is returned is called."""
    store = cluster.machines[number].store
    assert store is not None
    store.cut()
    return store.heal


def test_a_message_that_must_arrive_waits_for_a_node_to_hear_of_its_queue() -> None:
    async def scenario(sim: Simulation) -> None:
        async with SimCluster(sim) as cluster:
            a, b = await cluster.client(0), await confirming(cluster, 1)
            heal = cut_off(cluster, 1)
            await declare(a, "q", durable=True)
            await a.call(queue.Bind(queue="q", exchange="amq.fanout"), queue.BindOk)
            await b.publish("q", b"1", mandatory=True)
            await b.publish("", b"2", exchange="amq.fanout", mandatory=True)
            await trio.sleep(1)
            heal()
            await b.wait_for(basic.Ack)
            await trio.sleep(1)
            assert await declare(a, "q", passive=True) == 2
            assert not [item for _, item in b.inbox if isinstance(item, Content)]

    simulate(1, scenario)


def test_what_is_asked_of_a_queue_waits_until_the_node_that_leads_it_has_heard_of_it() -> None:
    async def scenario(sim: Simulation) -> None:
        async with SimCluster(sim) as cluster:
            b = await confirming(cluster, 1)
            heal = cut_off(cluster, 0)
            await declare(
                b, "q", durable=True, arguments={"x-queue-master-locator": "node:rabbit@node1"}
            )
            await b.publish("q", b"1")
            await b.send(basic.Get(queue="q"))
            await trio.sleep(1)
            assert b.inbox == []
            heal()
            assert (await b.wait_for(Content)).body == b"1"
            await b.wait_for(basic.Ack)

    simulate(1, scenario)


def test_what_is_durable_comes_back_with_its_node() -> None:
    async def scenario(sim: Simulation) -> None:
        async with SimCluster(sim) as cluster:
            a, b = await confirming(cluster, 0), await confirming(cluster, 1)
            await declare(a, "q", durable=True)
            await declare(b, "other", durable=True)
            for number in range(20):
                assert await publish(b, "q", b"%d" % number)
            await b.call(basic.Consume(queue="q", consumer_tag="t"), basic.ConsumeOk)
            cluster.kill(0)
            cancel = await b.wait_for(basic.Cancel)
            assert cancel.consumer_tag == "t"
            home = "home node 'rabbit@node1' of durable queue 'q' in vhost '/' is down"
            assert home in await passive(await cluster.client(1), "q")
            assert not await publish(b, "q", b"lost")
            assert await publish(b, "other", b"kept")

            await cluster.start(0)
            assert await declare(b, "q", passive=True) == 20
            assert await publish(b, "q", b"again")
            c = await cluster.client(2)
            await c.send(basic.Get(queue="q"))
            first = await c.wait_for(Content)
            assert (first.body, first.method.redelivered) == (b"0", True)

    simulate(2, scenario)


def test_everything_comes_back_when_all_were_stopped_or_killed() -> None:
    async def scenario(sim: Simulation) -> None:
        async with SimCluster(sim) as cluster:
            for end in ("stop", "kill"):
                for number in range(3):
                    client = await confirming(cluster, number)
                    await declare(client, f"{end} {number}", durable=True)
                    assert await publish(client, f"{end} {number}", b"kept")
                for number in range(3):
                    if end == "stop":
                        await cluster.stop(number)
                    else:
                        cluster.kill(number)
                await trio.sleep(30)
                async with trio.open_nursery() as nursery:
                    for number in range(3):
                        nursery.start_soon(cluster.start, number)
                client = await cluster.client(0)
                for number in range(3):
                    assert await declare(client, f"{end} {number}", passive=True) == 1

    simulate(3, scenario)


def test_what_is_transient_ends_with_its_node() -> None:
    async def scenario(sim: Simulation) -> None:
        async with SimCluster(sim) as cluster:
            a, b, c = [await cluster.client(number) for number in range(3)]
            for client, name in ((a, "a"), (b, "b")):
                await declare(client, name)
                await declare(client, f"{name} exclusive", exclusive=True)
                await declare(client, f"{name} durable", durable=True)
            await cluster.stop(0)
            for name in ("a", "a exclusive"):
                assert f"no queue '{name}'" in await passive(c, name)
            cluster.kill(1)
            assert "home node 'rabbit@node2' of queue 'b'" in await passive(c, "b")
            await trio.sleep(20)
            for name in ("b", "b exclusive"):
                assert f"no queue '{name}'" in await passive(c, name)
            await cluster.start(0)
            await cluster.start(1)
            for name in ("a durable", "b durable"):
                assert await declare(c, name, passive=True) == 0

    simulate(4, scenario)


def test_what_hangs_on_the_clients_of_a_node_ends_when_it_is_killed() -> None:
    async def scenario(sim: Simulation) -> None:
        async with SimCluster(sim) as cluster:
            a, b, c = [await cluster.client(number) for number in range(3)]
            await a.call(exchange.Declare(exchange="x"), exchange.DeclareOk)
            await a.call(exchange.Declare(exchange="auto", auto_delete=True), exchange.DeclareOk)
            for name, options in (
                ("auto", {"auto_delete": True, "durable": True}),
                ("kept", {"durable": True}),
            ):
                await declare(a, name, **options)
                assert await publish(await confirming(cluster, 0), name, b"message")
                await b.call(basic.Consume(queue=name), basic.ConsumeOk)
                await b.wait_for(Content)
            await declare(b, "own", exclusive=True)
            for name in ("x", "auto"):
                await b.call(queue.Bind(queue="own", exchange=name), queue.BindOk)
            bindings = exchanges(cluster, 2)["x"].bindings
            assert len(bindings) == 1

            cluster.kill(1)
            await trio.sleep(1)
            assert "no queue 'auto'" in await passive(c, "auto")
            assert await declare(c, "kept", passive=True) == 1
            await c.send(basic.Get(queue="kept"))
            assert (await c.wait_for(Content)).method.redelivered
            await trio.sleep(20)
            assert "no queue 'own'" in await passive(c, "own")
            assert not bindings
            assert "auto" not in exchanges(cluster, 2)

    simulate(4, scenario)


def test_a_transient_queue_is_led_where_it_should_be_and_ends_with_that_node() -> None:
    async def scenario(sim: Simulation) -> None:
        async with SimCluster(sim) as cluster:
            b, c = await cluster.client(1), await cluster.client(2)
            placed = {"x-queue-master-locator": "node:rabbit@node1"}
            await declare(b, "q", arguments=placed)
            await declare(b, "own", exclusive=True, arguments=placed)
            assert leaders(cluster, 2) == {"q": "rabbit@node1", "own": "rabbit@node2"}
            cluster.kill(1)
            await trio.sleep(60)
            assert await declare(c, "q", arguments=placed) == 0
            assert list(leaders(cluster, 2)) == ["q"]
            cluster.kill(0)
            assert "home node 'rabbit@node1' of queue 'q'" in await passive(c, "q")
            await trio.sleep(20)
            assert await declare(c, "q", arguments=placed) == 0
            assert leaders(cluster, 2) == {"q": "rabbit@node3"}

    simulate(4, scenario)


def deaths_heard(cluster: SimCluster, number: int) -> list[tuple[str, int]]:
    """What a node hears of the deaths of others."""
    heard: list[tuple[str, int]] = []
    node = cluster.machines[number].node
    assert node is not None
    assert node.clustering is not None
    listeners = node.clustering.deaths.listeners
    listeners.append(lambda death: heard.append((death.node, death.incarnation)))
    return heard


def test_what_a_killed_node_has_left_goes_at_once_for_its_death_is_known() -> None:
    async def scenario(sim: Simulation) -> None:
        async with SimCluster(sim) as cluster:
            a, b, c = [await confirming(cluster, number) for number in range(3)]
            await declare(a, "exclusive", exclusive=True)
            await declare(a, "transient")
            await declare(a, "durable", durable=True)
            assert await publish(a, "durable", b"kept")
            heard = [deaths_heard(cluster, number) for number in (1, 2)]
            cluster.kill(0)
            await trio.sleep(0.2)
            assert heard == [[("rabbit@node1", 1)]] * 2
            for client in (b, c):
                assert "home node 'rabbit@node1' of durable queue 'durable'" in await passive(
                    client, "durable"
                )
                for name in ("exclusive", "transient"):
                    assert f"no queue '{name}'" in await passive(client, name)
            assert not await publish(await confirming(cluster, 1), "durable", b"refused")
            await declare(c, "new", durable=True, arguments={"x-queue-master-locator": "random"})
            await cluster.start(0)
            await trio.sleep(1)
            assert await declare(b, "durable", passive=True) == 1
            assert heard == [[("rabbit@node1", 1)]] * 2

    simulate(21, scenario)


def test_nobody_is_taken_for_gone_by_refusals_where_that_is_switched_off() -> None:
    async def scenario(sim: Simulation) -> None:
        cluster = SimCluster(sim)
        for machine in cluster.machines:
            machine.settings["link_refused_means_dead"] = False
        async with cluster:
            b = await cluster.client(1)
            await declare(await cluster.client(0), "transient")
            heard = deaths_heard(cluster, 1)
            cluster.kill(0)
            await trio.sleep(8)
            assert "home node 'rabbit@node1' of queue 'transient'" in await passive(b, "transient")
            assert not heard
            await trio.sleep(12)
            assert "no queue 'transient'" in await passive(b, "transient")

    simulate(22, scenario)


def test_a_node_that_cannot_be_reached_is_not_taken_for_gone() -> None:
    async def scenario(sim: Simulation) -> None:
        async with SimCluster(sim) as cluster:
            a, b = await cluster.client(0), await cluster.client(1)
            await declare(a, "transient")
            heard = [deaths_heard(cluster, number) for number in range(3)]
            for ways in (((0, 1), (0, 2)), ((1, 0), (2, 0)), ((0, 1), (1, 0), (0, 2), (2, 0))):
                for way in ways:
                    cluster.sever(*way)
                await trio.sleep(20)
                cluster.heal()
                await trio.sleep(3)
            for one, other in (("node1", "node2"), ("node3", "node1")):
                sim.network.cut(one, other)
            await trio.sleep(3)
            assert not any(heard)
            assert await declare(b, "transient", passive=True) == 0

    simulate(23, scenario)


def test_a_node_that_lives_though_it_seems_to_refuse_is_back_in_the_same_life(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(sim: Simulation) -> None:
        async with SimCluster(sim) as cluster:
            a, b = await confirming(cluster, 0), await confirming(cluster, 1)
            await declare(a, "durable", durable=True)
            heard = deaths_heard(cluster, 1)
            address = ("node1", 25672)
            listener = sim.network._listeners.pop(address)
            sim.network.cut("node1", "node2")
            sim.network.cut("node1", "node3")
            await trio.sleep(0.5)
            assert ("rabbit@node1", 1) in heard
            sim.network._listeners[address] = listener
            await trio.sleep(5)
            for number in range(3):
                node = cluster.machines[number].node
                assert node is not None
                assert node.clustering is not None
                assert node.clustering.status().running["rabbit@node1"].inc == 1
            assert "rabbit@node1 lives on, although it was taken for gone" in caplog.messages
            assert await publish(b, "durable", b"1")
            assert await publish(a, "durable", b"2")

            del heard[:]
            cluster.kill(0)
            await trio.sleep(0.2)
            assert heard == [("rabbit@node1", 1)]

    simulate(24, scenario)


@pytest.mark.parametrize("seed", range(5))
def test_a_node_that_stops_has_said_so_before_it_refuses_anybody(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(sim: Simulation) -> None:
        async with SimCluster(sim) as cluster:
            refused: list[bool] = []

            def forget(address: tuple[str, int]) -> None:
                if address == ("node1", 25672):
                    key = Schema("simulated").path(MEMBER, "rabbit@node1")
                    refused.append(bool(cluster.etcd.read(key, False, False).items))
                forget_now(address)

            forget_now = sim.network.forget
            monkeypatch.setattr(sim.network, "forget", forget)
            await declare(await cluster.client(0), "q", durable=True)
            await cluster.stop(0)
            assert refused
            assert not any(refused)

    simulate(30 + seed, scenario)


def test_a_node_that_begins_another_life_has_ended_the_one_before() -> None:
    async def scenario(sim: Simulation) -> None:
        cluster = SimCluster(sim)
        for machine in cluster.machines:
            machine.settings["link_refused_means_dead"] = False
        async with cluster:
            heard = deaths_heard(cluster, 1)
            cluster.kill(0)
            await trio.sleep(1)
            assert not heard
            await cluster.start(0)
            assert heard == [("rabbit@node1", 1)]

    simulate(25, scenario)


def test_a_node_that_is_restarted_at_once_deletes_what_it_has_left() -> None:
    async def scenario(sim: Simulation) -> None:
        async with SimCluster(sim) as cluster:
            await declare(await cluster.client(0), "transient")
            c = await cluster.client(2)
            cluster.kill(0)
            await cluster.start(0)
            assert "no queue 'transient'" in await passive(c, "transient")
            await declare(c, "transient")
            await trio.sleep(60)
            assert await declare(c, "transient", passive=True) == 0

    simulate(5, scenario)


def test_transient_exchanges_live_as_long_as_any_node() -> None:
    async def scenario(sim: Simulation) -> None:
        async with SimCluster(sim) as cluster:
            a = await cluster.client(0)
            await a.call(exchange.Declare(exchange="x"), exchange.DeclareOk)
            await a.call(exchange.Declare(exchange="kept", durable=True), exchange.DeclareOk)
            cluster.kill(0)
            await cluster.start(0)
            a = await cluster.client(0)
            await a.call(exchange.Declare(exchange="x", passive=True), exchange.DeclareOk)
            for number in range(3):
                cluster.kill(number)
            await trio.sleep(30)
            await cluster.start(1)
            b = await cluster.client(1)
            assert "no exchange 'x'" in await refusal(
                b, exchange.Declare(exchange="x", passive=True)
            )
            await b.call(exchange.Declare(exchange="kept", passive=True), exchange.DeclareOk)

    simulate(6, scenario)


def test_an_etcd_that_stalls_stops_decisions_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(sim: Simulation) -> None:
        async with SimCluster(sim) as cluster:
            a, b = await confirming(cluster, 0), await confirming(cluster, 1)
            await declare(a, "q", durable=True)
            await declare(a, "transient")
            await b.call(basic.Consume(queue="q", consumer_tag="t", no_ack=True), basic.ConsumeOk)
            cluster.etcd.stall()
            for number in range(60):
                assert await publish(b, "q", b"%d" % number)
                assert (await b.wait_for(Content)).body == b"%d" % number
                await trio.sleep(1)
            assert await declare(b, "q", durable=True) == 0
            node = cluster.machines[1].node
            assert node is not None
            assert node.clustering is not None
            assert node.clustering.status().is_store_away
            c = await cluster.client(2)
            began_s = trio.current_time()
            await c.send(queue.Declare(queue="new"))
            close = await c.wait_for(commands.Connection.Close)
            assert close.reply_code == 541
            assert trio.current_time() - began_s < 6
            assert not any(isinstance(item, basic.Cancel) for _, item in b.inbox)

            cluster.etcd.resume()
            await trio.sleep(60)
            assert await declare(b, "transient") == 0
            assert await publish(b, "q", b"last")
            assert (await b.wait_for(Content)).body == b"last"
            await declare(b, "new", durable=True)
            status = node.clustering.status()
            assert not status.is_store_away
            assert list(status.running) == list(status.nodes)
            assert len(status.nodes) == 3
            assert status.linked == ("rabbit@node1", "rabbit@node3")
            assert "is down" not in caplog.text

    simulate(7, scenario)


def test_a_way_that_is_severed_counts_as_a_node_that_is_down() -> None:
    async def scenario(sim: Simulation) -> None:
        async with SimCluster(sim) as cluster:
            a, b = await confirming(cluster, 0), await confirming(cluster, 1)
            await declare(a, "q", durable=True)
            assert await publish(b, "q", b"1")
            cluster.sever(0, 1)
            await b.publish("q", b"2", persistent=True)
            nack = await b.wait_for(basic.Nack)
            assert nack.delivery_tag == 2
            assert "is down" in await passive(await cluster.client(1), "q")
            assert await publish(a, "q", b"3")
            cluster.heal()
            await trio.sleep(10)
            assert await declare(b, "q", passive=True) >= 2

    simulate(8, scenario)


def test_alarms_of_a_node_hold_publishers_back_everywhere() -> None:
    async def scenario(sim: Simulation) -> None:
        async with SimCluster(sim) as cluster:
            await trio.sleep(1)
            b = await confirming(cluster, 1)
            await declare(b, "q")
            memory = cluster.machines[0].memory
            memory.used = memory.total
            await trio.sleep(2)
            await b.publish("q", b"1")
            blocked = await b.wait_for(commands.Connection.Blocked)
            assert blocked.reason == "low on memory"
            memory.used = 0
            await b.wait_for(commands.Connection.Unblocked)
            await b.wait_for(basic.Ack)

    simulate(9, scenario)


def test_queues_come_to_be_where_the_locator_says() -> None:
    async def scenario(sim: Simulation) -> None:
        async with SimCluster(sim) as cluster:
            a = await cluster.client(0)
            for number in range(9):
                arguments = {"x-queue-master-locator": "min-masters"}
                await declare(a, f"q{number}", durable=True, arguments=arguments)
            await declare(a, "here", durable=True)
            node = cluster.machines[1].node
            assert node is not None
            queues = [each.definition for each in node.broker.vhosts["/"].queues.values()]
            leaders = [each.leader for each in queues if each.name != "here"]
            assert sorted(leaders) == sorted(3 * [machine.name for machine in cluster.machines])
            assert leader_of(queues, "here") == "rabbit@node1"

    simulate(10, scenario)


def leader_of(queues: list[QueueDefinition], name: str) -> str:
    [leader] = [each.leader for each in queues if each.name == name]
    return leader


def test_a_node_that_is_drained_serves_others_and_no_clients() -> None:
    async def scenario(sim: Simulation) -> None:
        async with SimCluster(sim, 2) as cluster:
            a, b = await cluster.client(0), await confirming(cluster, 1)
            await declare(a, "q", durable=True)
            node = cluster.machines[0].node
            assert node is not None
            node.drain()
            close = await a.wait_for(commands.Connection.Close)
            assert close.reply_text == "CONNECTION_FORCED - Node was put into maintenance mode"
            with pytest.raises(OSError, match="nobody listens"):
                await cluster.client(0)
            await trio.sleep(1)
            assert await publish(b, "q", b"1")
            await declare(b, "new", durable=True, arguments={"x-queue-master-locator": "random"})
            other = cluster.machines[1].node
            assert other is not None
            assert other.broker.vhosts["/"].queues["new"].definition.leader == "rabbit@node2"
            assert other.clustering is not None
            assert other.clustering.status().running["rabbit@node1"].maintenance

            await node.revive()
            await trio.sleep(1)
            assert await declare(await cluster.client(0), "q", passive=True) == 1
            assert not other.clustering.status().running["rabbit@node1"].maintenance

    simulate(16, scenario)


def test_a_node_may_take_no_new_clients_and_keep_those_that_it_has() -> None:
    async def scenario(sim: Simulation) -> None:
        async with SimCluster(sim, 1) as cluster:
            client = await cluster.client(0)
            node = cluster.machines[0].node
            assert node is not None
            await node.resume()  # It does anyway.
            node.suspend()
            node.suspend()
            with pytest.raises(OSError, match="nobody listens"):
                await cluster.client(0)
            await declare(client, "q")
            await node.resume()
            assert await declare(await cluster.client(0), "q", passive=True) == 0
            await node.revive()
            assert not node.is_drained

    simulate(16, scenario)


def test_a_node_that_is_forgotten_takes_its_queues_along() -> None:
    async def scenario(sim: Simulation) -> None:
        async with SimCluster(sim, 2) as cluster:
            a, b = await cluster.client(0), await cluster.client(1)
            await declare(a, "gone", durable=True)
            await declare(b, "stays", durable=True)
            node = cluster.machines[1].node
            assert node is not None
            assert node.clustering is not None
            forget = node.clustering.forget
            with pytest.raises(PreconditionFailed, match="rabbit@node1 is up"):
                await forget("rabbit@node1")
            with pytest.raises(NotFound, match="The node selected is not in the cluster"):
                await forget("rabbit@nobody")
            cluster.kill(0)
            await trio.sleep(20)
            await forget("rabbit@node1")
            assert node.clustering.status().nodes == ("rabbit@node2",)
            assert "no queue 'gone'" in await passive(b, "gone")
            assert await declare(b, "stays", passive=True) == 0
            with pytest.raises(NotFound):
                await forget("rabbit@node1")
            with pytest.raises(DataError, match="has forgotten the node rabbit@node1"):
                await cluster.start(0)
            cluster.machines[0].settings["data_dir"] = "/empty"
            await cluster.start(0)
            assert node.clustering.status().nodes == ("rabbit@node1", "rabbit@node2")
            cluster.etcd.stall()
            with pytest.raises(InternalError, match="does not answer"):
                await forget("rabbit@node1")

    simulate(17, scenario)


def test_streams_between_nodes_may_be_under_tls(tmp_path: Path) -> None:
    certificates = [
        make_certificate(tmp_path / name, "node1", "node2", "node3") for name in ("ours", "other")
    ]

    async def scenario(sim: Simulation) -> None:
        cluster = SimCluster(sim)
        for machine, of in zip(cluster.machines, (0, 0, 1), strict=True):
            files = attrs.asdict(certificates[of])
            machine.settings |= {f"link_{name}": path for name, path in files.items()}
        async with cluster:
            a, b, c = [await cluster.client(number) for number in range(3)]
            await declare(a, "q", durable=True)
            assert await declare(b, "q", passive=True) == 0
            assert "is down or inaccessible" in await passive(c, "q")

    simulate(18, scenario)


@pytest.mark.parametrize("seed", range(20))
def test_what_a_node_has_can_be_used_from_everywhere_as_soon_as_it_is_up(seed: int) -> None:
    async def scenario(sim: Simulation) -> None:
        sim.network.delay_s_max = 0.05
        async with SimCluster(sim, 2) as cluster:
            a, b = [await cluster.client(number) for number in range(2)]
            await declare(a, "q", durable=True)
            await cluster.stop(0)
            await cluster.start(0)
            assert await declare(b, "q", passive=True) == 0

    simulate(seed, scenario)


# -- joining -----------------------------------------------------------------------------------


async def alone(sim: Simulation, cluster: SimCluster, number: int) -> None:
    """Run a node without a cluster for a while, with a durable queue and a message in it."""
    machine = cluster.machines[number]
    settings = Config(name=machine.name, listen="127.0.0.1:5672", data_dir="/data")
    world = sim.world.__class__(
        sim.world.clock, sim.network, machine.disk, machine.memory, sim.world.random
    )
    async with Node(settings, world) as node:
        client = await Client.connect(sim.network, node.address, 1)
        await declare(client, "local", durable=True)
        await client.call(exchange.Declare(exchange="x", durable=True), exchange.DeclareOk)
        bind = queue.Bind(queue="local", exchange="x", routing_key="key")
        await client.call(bind, queue.BindOk)
        await client.call(commands.Confirm.Select(), commands.Confirm.SelectOk)
        assert await publish(client, "local", b"local")


def test_a_node_brings_its_definitions_and_messages_to_a_new_cluster() -> None:
    async def scenario(sim: Simulation) -> None:
        cluster = SimCluster(sim, 2, 0)
        await alone(sim, cluster, 0)
        async with cluster:
            await cluster.start(0)
            await cluster.start(1)
            b = await cluster.client(1)
            assert await declare(b, "local", durable=True) == 1
            await b.publish("key", b"more", exchange="x", persistent=True)
            await b.call(basic.Consume(queue="local", consumer_tag="t"), basic.ConsumeOk)
            assert (await b.wait_for(Content)).body == b"local"
            assert (await b.wait_for(Content)).body == b"more"
            await cluster.stop(0)
            with pytest.raises(DataError, match="belongs to a node of a cluster"):
                await alone(sim, cluster, 0)
            await cluster.start(0)
            assert await declare(b, "local", passive=True) == 2

    simulate(15, scenario)


def test_a_node_with_definitions_joins_a_cluster_in_use_only_without_them() -> None:
    async def scenario(sim: Simulation) -> None:
        async with SimCluster(sim, 2, 1) as cluster:
            machine = cluster.machines[1]
            await alone(sim, cluster, 1)
            await declare(await cluster.client(0), "shared", durable=True)
            with pytest.raises(ConfigError, match="join-discarding-definitions"):
                await cluster.start(1)
            machine.settings["join_discarding_definitions"] = True
            await cluster.start(1)
            client = await cluster.client(1)
            assert await declare(client, "shared", passive=True) == 0
            assert "no queue 'local'" in await passive(client, "local")
            assert "node.json" in machine.disk.names("/data.discarded-1")

    simulate(11, scenario)


def test_a_node_from_another_disk_is_refused() -> None:
    async def scenario(sim: Simulation) -> None:
        async with SimCluster(sim, 2) as cluster:
            await cluster.stop(1)
            cluster.machines[1].settings["data_dir"] = "/empty"
            with pytest.raises(ConfigError, match="another disk than this has the name"):
                await cluster.start(1)

    simulate(12, scenario)


def test_an_old_copy_of_a_disk_does_not_start_and_its_newer_twin_goes_on() -> None:
    async def scenario(sim: Simulation) -> None:
        async with SimCluster(sim, 2) as cluster:
            machine = cluster.machines[0]
            a, b = await confirming(cluster, 0), await confirming(cluster, 1)
            await declare(a, "q", durable=True)
            assert await publish(b, "q", b"1")
            cluster.kill(0)
            newer = machine.disk
            kept = sim.trace, newer.on_crash
            old = deepcopy(newer, {id(each): each for each in kept})
            await cluster.start(0)
            assert await publish(b, "q", b"2")
            cluster.kill(0)
            for _ in range(2):
                machine.disk = old
                with pytest.raises(
                    ConfigError, match="is an old copy: it knows rabbit@node1 up to"
                ):
                    await cluster.start(0)
            machine.disk = newer
            await cluster.start(0)
            assert await declare(b, "q", passive=True) == 2

    simulate(19, scenario)


def test_a_node_that_dies_at_any_moment_of_its_start_can_be_started_again() -> None:
    async def scenario(sim: Simulation) -> None:
        async with SimCluster(sim, 2) as cluster:
            a = await confirming(cluster, 0)
            await declare(a, "q", durable=True)
            assert await publish(a, "q", b"1")
            cluster.kill(0)
            for number in range(60):
                with trio.move_on_after(number / 1000):
                    await cluster.start(0)
                cluster.kill(0)
                await cluster.machines[0].ended()
            await cluster.start(0)
            assert await declare(await cluster.client(1), "q", passive=True) == 1

    simulate(20, scenario)


def test_a_seed_replays_octet_for_octet() -> None:
    async def scenario(sim: Simulation) -> str:
        async with SimCluster(sim) as cluster:
            a = await confirming(cluster, 0)
            await declare(a, "q", durable=True)
            for number in range(5):
                await publish(a, "q", b"%d" % number)
            cluster.kill(0)
            await cluster.start(0)
        return sim.trace.digest

    assert simulate(13, scenario) == simulate(13, scenario)
    assert simulate(13, scenario) != simulate(14, scenario)

"""Any node of a cluster tells of all of it, as far as the others answer."""

from collections.abc import Awaitable, Callable

import pytest
import trio
from pamqp import commands

from amqpbroker.management import elsewhere
from amqpbroker.testing.api import Api
from amqpbroker.testing.client import Client, Content
from amqpbroker.testing.sim_cluster import SimCluster
from amqpbroker.testing.world import Simulation, simulate

basic, queue = commands.Basic, commands.Queue

Test = Callable[[SimCluster, list[Api]], Awaitable[None]]


def in_cluster(test: Test) -> None:
    """Run ``test`` with three nodes and the API of each."""

    async def scenario(sim: Simulation) -> None:
        async with SimCluster(sim) as cluster:
            nodes = [machine.node for machine in cluster.machines]
            await test(cluster, [Api.of(node) for node in nodes if node is not None])

    simulate(1, scenario)


async def client_with_queue(cluster: SimCluster, number: int, name: str) -> Client:
    """A client of a node that has declared a queue there."""
    client = await cluster.client(number)
    await client.call(queue.Declare(queue=name, durable=True), queue.DeclareOk)
    await client.call(commands.Confirm.Select(), commands.Confirm.SelectOk)
    return client


async def publish(client: Client, name: str, body: bytes) -> None:
    await client.publish(name, body, persistent=True)
    await client.wait_for(basic.Ack)


def names(things: list[dict[str, object]]) -> list[object]:
    return sorted(str(each["name"]) for each in things)


def test_connections_and_channels_of_all_nodes_are_listed() -> None:
    async def test(cluster: SimCluster, apis: list[Api]) -> None:
        for number in range(3):
            await cluster.client(number, 1, 7)
        for api in apis:
            connections = await api.get("/connections?sort=node")
            assert [each["node"] for each in connections] == [
                machine.name for machine in cluster.machines
            ]
            assert names(connections) == names(await api.get("/vhosts/%2F/connections"))
            channels = await api.get("/channels?columns=node,number")
            assert len(channels) == 6
            assert {each["node"] for each in channels} == {each.name for each in cluster.machines}
            page = await api.get("/channels?page=2&page_size=4")
            assert (page["total_count"], page["item_count"]) == (6, 2)
            for connection in connections:
                found = await api.get(f"/connections/{connection['name']}".replace(" ", "%20"))
                assert found["node"] == connection["node"]
                path = f"/connections/{connection['name']}/channels".replace(" ", "%20")
                assert [each["number"] for each in await api.get(path)] == [1, 7]
                path = f"/channels/{connection['name']} (7)".replace(" ", "%20")
                assert (await api.get(path))["node"] == connection["node"]
            assert (await api.call("GET", "/connections/nobody")).status == 404
            assert (await api.call("GET", "/channels/nobody%20(1)")).status == 404

    in_cluster(test)


def test_a_connection_is_closed_from_any_node() -> None:
    async def test(cluster: SimCluster, apis: list[Api]) -> None:
        client = await cluster.client(1)
        [connection] = await apis[0].get("/connections")
        await apis[0].call(
            "DELETE",
            f"/connections/{connection['name']}".replace(" ", "%20"),
            headers={"authorization": "Basic Z3Vlc3Q6Z3Vlc3Q=", "x-reason": "enough"},
        )
        close = await client.wait_for(commands.Connection.Close)
        assert close.reply_text == "CONNECTION_FORCED - enough"

        client = await cluster.client(2)
        assert len(await apis[0].get("/connections/username/guest")) == 1
        await apis[0].delete("/connections/username/guest")
        await client.wait_for(commands.Connection.Close)

    in_cluster(test)


def test_others_connections_are_seen_by_monitors_only() -> None:
    async def test(cluster: SimCluster, apis: list[Api]) -> None:
        await apis[0].put("/users/joe", {"password": "secret", "tags": "management"})
        await cluster.client(1)
        joe = {"user": "joe", "password": "secret"}
        [connection] = await apis[0].get("/connections")
        path = f"/connections/{connection['name']}".replace(" ", "%20")

        assert await apis[0].get("/connections", **joe) == []
        assert await apis[0].get("/channels", **joe) == []
        assert (await apis[0].call("GET", path, **joe)).status == 401
        overview = await apis[0].get("/overview", **joe)
        assert overview["object_totals"]["connections"] == 0

    in_cluster(test)


def test_consumers_are_listed_wherever_they_and_their_queues_are() -> None:
    async def test(cluster: SimCluster, apis: list[Api]) -> None:
        await client_with_queue(cluster, 0, "q")
        client = await cluster.client(1)
        await client.call(basic.Consume(queue="q", consumer_tag="t"), basic.ConsumeOk)
        for api in apis:
            [consumer] = await api.get("/consumers")
            assert (consumer["queue"]["name"], consumer["consumer_tag"]) == ("q", "t")
            assert consumer["channel_details"]["node"] == cluster.machines[1].name
            [there] = (await api.get("/queues/%2F/q"))["consumer_details"]
            assert there == consumer
            assert await api.get("/consumers/%2F") == [consumer]

    in_cluster(test)


def test_the_numbers_of_a_queue_are_the_same_everywhere() -> None:
    async def test(cluster: SimCluster, apis: list[Api]) -> None:
        client = await client_with_queue(cluster, 0, "q")
        for body in (b"1", b"22", b"333"):
            await publish(client, "q", body)
        await client.send(basic.Get(queue="q"))
        await client.wait_for(Content)
        other = await cluster.client(2)
        exclusive = queue.Declare(queue="own", exclusive=True)
        await other.call(exclusive, queue.DeclareOk)
        [there] = [
            each
            for each in await apis[0].get("/connections")
            if each["node"] == cluster.machines[2].name
        ]
        for api in apis:
            own, shared = await api.get("/queues")
            assert (shared["messages_ready"], shared["messages_unacknowledged"]) == (2, 1)
            stats = shared["message_stats"]
            assert (stats["publish"], stats["get"], stats["ack"]) == (3, 1, 0)
            assert own["owner_pid_details"]["name"] == there["name"]
            assert (own["node"], shared["node"]) == (
                cluster.machines[2].name,
                cluster.machines[0].name,
            )

    in_cluster(test)


def test_the_overview_sums_up_all_nodes_and_each_has_metrics_of_its_own() -> None:
    async def test(cluster: SimCluster, apis: list[Api]) -> None:
        client = await client_with_queue(cluster, 0, "q")
        other = await client_with_queue(cluster, 1, "r")
        for each in (client, other):
            await publish(each, "q", b"body")
        await other.call(basic.Consume(queue="q", no_ack=True), basic.ConsumeOk)
        await other.wait_for(Content)
        await other.wait_for(Content)
        await publish(client, "r", b"body")
        for api in apis:
            overview = await api.get("/overview")
            assert overview["object_totals"] == {
                "channels": 2,
                "connections": 2,
                "consumers": 1,
                "exchanges": 7,
                "queues": 2,
            }
            assert overview["queue_totals"]["messages"] == 1
            stats = overview["message_stats"]
            assert (stats["publish"], stats["confirm"], stats["deliver_no_ack"]) == (3, 3, 2)
            assert overview["churn_rates"]["queue_created"] == 2
            assert {each["node"] for each in overview["listeners"]} == {
                machine.name for machine in cluster.machines
            }
            [vhost] = await api.get("/vhosts")
            assert (vhost["messages"], vhost["message_stats"]["publish"]) == (1, 3)
        metrics = [(await api.call("GET", "/metrics", root="")).body for api in apis]
        for number, (queues, messages) in enumerate(((1, 0), (1, 1), (0, 0))):
            assert b"\nrabbitmq_queues %d\n" % queues in metrics[number]
            assert b"\nrabbitmq_queue_messages %d\n" % messages in metrics[number]
        each = (await apis[1].call("GET", "/metrics/per-object", root="")).body
        assert (b'queue="r"' in each, b'queue="q"' in each) == (True, False)

    in_cluster(test)


def test_each_node_tells_of_itself() -> None:
    async def test(cluster: SimCluster, apis: list[Api]) -> None:
        await cluster.client(1)
        one, two, three = await apis[0].get("/nodes")
        assert [each["sockets_used"] for each in (one, two, three)] == [0, 1, 0]
        there = await apis[1].get(f"/nodes/{two['name']}")
        assert there | {"uptime": two["uptime"]} == two
        assert (await apis[0].get(f"/nodes/{two['name']}/memory"))["memory"]["strategy"] == "rss"
        assert (await apis[0].call("GET", "/nodes/nope/memory")).status == 404

    in_cluster(test)


def test_a_node_that_is_silent_is_left_out() -> None:
    async def test(cluster: SimCluster, apis: list[Api]) -> None:
        for number in range(3):
            await cluster.client(number)
        cluster.sever(1, 0)
        clock = cluster.sim.world.clock
        before_s = clock.monotonic_s()
        connections = await apis[0].get("/connections")
        assert len(connections) == 2
        assert clock.monotonic_s() - before_s < elsewhere.SILENCE_S_MAX + 0.1
        cluster.kill(2)
        assert len(await apis[0].get("/connections")) == 1

    in_cluster(test)


def test_a_node_that_has_nothing_to_tell_yet_is_left_out() -> None:
    async def scenario(sim: Simulation) -> None:
        async with SimCluster(sim) as cluster:
            [one, two, _] = [machine.node for machine in cluster.machines]
            assert one is not None
            assert two is not None
            api = Api.of(one)
            Api.of(two)
            for number in range(3):
                await cluster.client(number)
            assert len(await api.get("/connections")) == 2

    simulate(1, scenario)


def test_many_connections_come_in_slices() -> None:
    async def test(cluster: SimCluster, apis: list[Api]) -> None:
        for _ in range(300):
            await cluster.client(1)
        assert len(await apis[0].get("/connections?columns=name")) == 300

    in_cluster(test)


def test_limits_hold_over_all_nodes_whichever_was_told() -> None:
    async def test(cluster: SimCluster, apis: list[Api]) -> None:
        await apis[0].put("/vhost-limits/%2F/max-connections", {"value": 2})
        await apis[0].put("/user-limits/guest/max-channels", {"value": 3})
        await apis[0].put("/cluster-name", {"name": "all of us"})
        for api in apis:
            assert len(await api.get("/vhost-limits")) == len(await api.get("/user-limits")) == 1
            assert (await api.get("/overview"))["cluster_name"] == "all of us"
        one = await cluster.client(0)
        two = await cluster.client(1, 1, 2)
        with pytest.raises(trio.TooSlowError), trio.fail_after(0.5):
            await cluster.client(2)  # It is told why it is closed, and waits on.
        await one.send(commands.Channel.Open(), 2)
        close = await one.wait_for(commands.Connection.Close)
        assert (close.reply_code, "limit of (3)" in close.reply_text) == (530, True)
        await one.send(commands.Connection.CloseOk(), 0)
        await two.call(commands.Channel.Open(), commands.Channel.OpenOk, 3)
        # Who does not answer counts for nothing, after a while.
        cluster.sever(1, 2)
        await cluster.client(2)

    in_cluster(test)


def test_parameters_outlive_all_nodes_and_end_with_their_virtual_host() -> None:
    async def scenario(sim: Simulation) -> None:
        async with SimCluster(sim) as cluster:
            [node, *_] = [machine.node for machine in cluster.machines]
            assert node is not None
            api = Api.of(node)
            await api.put("/vhosts/v")
            await api.put("/vhost-limits/v/max-queues", {"value": 2})
            await api.put("/global-parameters/gp", {"value": [1]})
            for number in range(3):
                cluster.kill(number)
            for number in range(3):
                await cluster.start(number)
            node = cluster.machines[2].node
            assert node is not None
            api = Api.of(node)
            assert await api.get("/vhost-limits/v") == [{"vhost": "v", "value": {"max-queues": 2}}]
            assert await api.get("/global-parameters/gp") == {"name": "gp", "value": [1]}
            await api.delete("/vhosts/v")
            await api.put("/vhosts/v")
            assert await api.get("/vhost-limits/v") == []

    simulate(1, scenario)

"""What our own paths do to the node."""

from amqpbroker.testing.api import Api


async def test_an_administrator_stops_the_node(api: Api) -> None:
    stopped: list[bool] = []
    api.facts.stop = lambda: stopped.append(True)

    answer = await api.call("POST", f"/amqpbroker/nodes/{api.broker.name}/stop", {})

    assert (answer.status, stopped) == (204, [True])


async def test_a_node_stops_no_other_node(api: Api) -> None:
    answer = await api.call("POST", "/amqpbroker/nodes/rabbit@other/stop", {})

    assert answer.status == 404

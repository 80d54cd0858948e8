"""What our own paths do to the node."""

from typing import Any

from amqpbroker.errors import ConfigError, PreconditionFailed
from amqpbroker.management.call import LOCAL_CALLER
from amqpbroker.testing.api import Api
from amqpbroker.testing.peer import Peer


async def test_an_administrator_stops_the_node(api: Api) -> None:
    stopped: list[bool] = []
    api.facts.stop = lambda: stopped.append(True)

    answer = await api.call("POST", f"/amqpbroker/nodes/{api.broker.name}/stop", {})

    assert (answer.status, stopped) == (204, [True])


async def test_a_node_stops_no_other_node(api: Api) -> None:
    answer = await api.call("POST", "/amqpbroker/nodes/rabbit@other/stop", {})

    assert answer.status == 404


async def test_settings_change_while_the_node_runs(api: Api) -> None:
    told: list[Any] = []

    def configure(settings: Any) -> None:
        if "listen" in settings:
            raise ConfigError("listen cannot be changed")
        told.append(settings)

    api.facts.configure = configure
    path = f"/amqpbroker/nodes/{api.broker.name}/settings"

    answer = await api.call("POST", path, {"disk_free_limit": "2GB"})
    refused = await api.call("POST", path, {"listen": "127.0.0.1:1"})

    assert (answer.status, told) == (204, [{"disk_free_limit": "2GB"}])
    assert (refused.status, refused.data["reason"]) == (400, "listen cannot be changed")


async def test_only_a_queue_that_a_policy_mirrors_has_mirrors(api: Api) -> None:
    await api.put("/queues/%2F/ha.1", {"durable": True})
    await api.put("/queues/%2F/other", {"durable": True})
    body = {"pattern": "^ha", "definition": {"max-length": 5, "ha-mode": "all"}}
    await api.put("/policies/%2F/ha", body)

    mirrored, other = await api.get("/queues/%2F")

    assert mirrored["slave_nodes"] == []
    assert "slave_nodes" not in other
    assert list((await api.get("/policies/%2F/ha"))["definition"]) == ["ha-mode", "max-length"]


async def test_all_feature_flags_are_enabled(api: Api) -> None:
    flags = await api.get("/feature-flags")

    assert {flag["state"] for flag in flags} == {"enabled"}
    assert [flag["name"] for flag in flags] == sorted(flag["name"] for flag in flags)
    assert await api.put("/feature-flags/maintenance_mode_status/enable") == 204
    assert (await api.call("PUT", "/feature-flags/warp_drive/enable")).status == 404


async def test_no_component_takes_parameters(api: Api) -> None:
    for component, vhost, status, reason in (
        ("shovel", "%2F", 400, "Validation failed\n\ncomponent shovel not found\n"),
        ("policy", "%2F", 400, "policies may not be set using this method"),
        ("shovel", "nope", 404, "vhost_not_found"),
    ):
        answer = await api.call("PUT", f"/parameters/{component}/{vhost}/x", {"value": 1})

        assert (answer.status, answer.data["reason"]) == (status, reason)


async def test_an_operators_policy_is_a_parameter(api: Api) -> None:
    body = {"pattern": "", "definition": {"max-length": 5}}
    await api.put("/operator-policies/%2F/op", body)

    found = await api.get("/parameters/operator_policy/%2F/op")

    assert found["value"]["definition"] == {"max-length": 5}
    assert (await api.call("GET", "/parameters/operator_policy/nope/op")).status == 404
    assert (await api.call("GET", "/parameters/shovel/%2F/op")).status == 404


async def test_who_comes_by_the_socket_may_delete_another_connections_own_queue(api: Api) -> None:
    Peer(api.broker).open(1).declare("own", exclusive=True)
    local = Api(api.broker, LOCAL_CALLER)

    refused = await api.call("DELETE", "/queues/%2F/own")
    await local.delete("/queues/%2F/own/contents", headers={})
    await local.delete("/queues/%2F/own", headers={})

    assert refused.status == 400
    assert "cannot obtain exclusive access" in refused.data["reason"]
    assert await api.get("/queues/%2F") == []


async def test_a_node_is_forgotten(api: Api) -> None:
    forgotten: list[str] = []
    assert (await api.call("DELETE", "/amqpbroker/nodes/rabbit@gone")).status == 404

    async def forget(node: str) -> None:
        if node == "rabbit@up":
            raise PreconditionFailed("must be stopped")
        forgotten.append(node)

    api.facts.forget = forget

    await api.delete("/amqpbroker/nodes/rabbit@gone")
    refused = await api.call("DELETE", "/amqpbroker/nodes/rabbit@up")

    assert forgotten == ["rabbit@gone"]
    assert (refused.status, refused.data["reason"]) == (400, "must be stopped")


async def test_a_node_takes_no_clients_for_a_while(api: Api) -> None:
    done: list[str] = []

    async def resume() -> None:
        done.append("resumed")

    async def fail() -> None:
        raise ConfigError("another program uses that port")

    api.facts.suspend = lambda: done.append("suspended")
    api.facts.drain = lambda: done.append("drained")
    api.facts.resume = api.facts.revive = resume
    path = f"/amqpbroker/nodes/{api.broker.name}"
    for action in ("suspend", "resume", "drain", "revive"):
        assert (await api.call("POST", f"{path}/{action}", {})).status == 204
    assert done == ["suspended", "resumed", "drained", "resumed"]
    api.facts.resume = api.facts.revive = fail
    for action in ("resume", "revive"):
        answer = await api.call("POST", f"{path}/{action}", {})
        assert (answer.status, answer.data["reason"]) == (400, "another program uses that port")
    api.facts.is_drained = lambda: True
    [node] = await api.get("/nodes")
    assert node["being_drained"] is True

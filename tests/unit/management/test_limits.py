"""Limits and parameters over HTTP; statuses and texts are those of RabbitMQ 3.10.8 and 3.13.7."""

from typing import Any

import pytest
from pamqp import commands

from amqpbroker.broker.broker import Broker
from amqpbroker.testing.api import Api
from amqpbroker.testing.peer import Peer


async def refused(api: Api, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    answer = await api.call(method, path, body)
    return answer.status, answer.data["reason"]


async def test_a_virtual_host_has_limits(api: Api) -> None:
    assert await api.get("/vhost-limits") == []
    assert await api.put("/vhost-limits/%2F/max-connections", {"value": 5}) == 204
    assert await api.put("/vhost-limits/%2F/max-queues", {"value": 7}) == 204

    limits = {"max-connections": 5, "max-queues": 7}
    for path in ("/vhost-limits", "/vhost-limits/%2F"):
        assert await api.get(path) == [{"vhost": "/", "value": limits}]
    parameter = {"vhost": "/", "component": "vhost-limits", "name": "limits", "value": limits}
    assert await api.get("/parameters") == [parameter]
    assert await api.get("/parameters/vhost-limits/%2F/limits") == parameter
    assert (await api.get("/definitions"))["parameters"] == [parameter]

    for name in limits:
        await api.delete(f"/vhost-limits/%2F/{name}")
        await api.delete(f"/vhost-limits/%2F/{name}")
    assert await api.get("/vhost-limits") == [{"vhost": "/", "value": {}}]
    assert await api.get("/vhost-limits/%2F") == []
    await api.delete("/parameters/vhost-limits/%2F/limits")
    assert await api.get("/vhost-limits") == []
    assert (await api.call("DELETE", "/parameters/vhost-limits/%2F/limits")).status == 404


@pytest.mark.parametrize(
    ("path", "value", "refusal"),
    [
        (
            "/vhost-limits/%2F/max-queues",
            "x",
            (400, 'Validation failed\n\nmax-queues should be a number, actually was <<"x">>\n'),
        ),
        (
            "/vhost-limits/%2F/foo",
            3,
            (400, 'Validation failed\n\nUnrecognised terms [{<<"foo">>,3}] in limits\n'),
        ),
        ("/vhost-limits/nope/max-queues", 3, (404, "vhost_not_found")),
        (
            "/parameters/vhost-limits/%2F/limits",
            {"max-queues": 7, "bar": "x"},
            (
                400,
                "Validation failed\n\nUnrecognised terms"
                ' [{&lt;&lt;"bar"&gt;&gt;,&lt;&lt;"x"&gt;&gt;}] in limits\n',
            ),
        ),
        (
            "/parameters/vhost-limits/%2F/limits",
            3,
            (400, "Validation failed\n\nlimits not a list 3\n"),
        ),
        ("/parameters/vhost-limits/nope/limits", {}, (404, "vhost_not_found")),
        ("/user-limits/guest/foo", 5, (400, 'Unrecognised terms [{<<"foo">>,5}] in user-limits')),
        (
            "/user-limits/guest/max-channels",
            "x",
            (400, 'max-channels should be a number, actually was <<"x">>'),
        ),
        ("/user-limits/nope/max-channels", 5, (400, ["no_such_user", "nope"])),
    ],
)
async def test_what_is_no_limit_is_refused(
    api: Api, path: str, value: Any, refusal: tuple[int, Any]
) -> None:
    assert await refused(api, "PUT", path, {"value": value}) == refusal
    if refusal[0] == 400:
        assert (await api.call("PUT", path, {})).status == 400


async def test_limits_of_what_is_not_there_are_not_found(api: Api) -> None:
    for path in ("/vhost-limits/nope", "/user-limits/nope", "/parameters/vhost-limits/nope"):
        assert (await api.call("GET", path)).status == 404


async def test_a_user_has_limits_and_keeps_them(api: Api) -> None:
    await api.put("/users/joe", {"password": "x", "tags": ""})
    assert await api.get("/user-limits") == []
    assert await api.put("/user-limits/joe/max-connections", {"value": 5}) == 204
    assert await api.put("/user-limits/joe/max-channels", {"value": -1}) == 204

    limits = {"max-connections": 5, "max-channels": -1}
    for path in ("/user-limits", "/user-limits/joe"):
        assert await api.get(path) == [{"user": "joe", "value": limits}]
    assert await api.get("/user-limits/guest") == []
    await api.put("/users/joe", {"password": "y", "tags": "management"})
    assert (await api.get("/users/joe"))["limits"] == limits
    await api.delete("/user-limits/joe/max-channels")
    await api.delete("/user-limits/joe/max-channels")
    assert (await api.get("/users/joe"))["limits"] == {"max-connections": 5}


async def test_limits_of_a_user_come_with_definitions(api: Api) -> None:
    user = {"name": "joe", "password_hash": "", "tags": [], "limits": {"max-channels": 3}}
    limits = {"component": "vhost-limits", "vhost": "/", "name": "limits", "value": []}
    said = {"name": "gp", "value": {"a": 1}}
    document = {"users": [user], "parameters": [limits], "global_parameters": [said]}
    assert (await api.call("POST", "/definitions", document)).status == 204

    exported = await api.get("/definitions")
    assert exported["users"][1]["limits"] == {"max-channels": 3}
    assert exported["global_parameters"] == [said]
    user["limits"] = {"max-channels": "x"}
    assert (await api.call("POST", "/definitions", {"users": [user]})).status == 400


async def test_global_parameters_may_say_anything(api: Api) -> None:
    assert await api.get("/global-parameters") == []
    assert (await api.call("GET", "/global-parameters/gp")).status == 404
    assert await api.put("/global-parameters/gp", {"value": {"a": [1, None, True]}}) == 201
    assert await api.get("/global-parameters/gp") == {"name": "gp", "value": {"a": [1, None, True]}}
    assert await api.put("/global-parameters/gp", {"value": 3}) == 204
    assert await refused(api, "PUT", "/global-parameters/gp", {}) == (400, "[{key_missing,value}]")
    await api.delete("/global-parameters/gp")
    assert (await api.call("DELETE", "/global-parameters/gp")).status == 404


async def test_a_cluster_is_called_what_somebody_says(api: Api, broker: Broker) -> None:
    assert await api.get("/cluster-name") == {"name": broker.name}
    assert await api.put("/cluster-name", {"name": "hoho"}) == 204
    assert await api.get("/cluster-name") == {"name": "hoho"}
    assert (await api.get("/overview"))["cluster_name"] == "hoho"
    assert await api.get("/global-parameters") == [{"name": "cluster_name", "value": "hoho"}]
    assert broker.server_properties()["cluster_name"] == "hoho"
    assert await refused(api, "PUT", "/cluster-name", {}) == (400, "[{key_missing,name}]")
    assert (await api.call("PUT", "/cluster-name", {"name": 3})).status == 400
    await api.put("/users/joe", {"password": "x", "tags": "management"})
    joe = {"user": "joe", "password": "x"}
    assert await api.get("/cluster-name", **joe) == {"name": "hoho"}
    assert (await api.call("PUT", "/cluster-name", {"name": "x"}, **joe)).status == 401


async def test_an_operators_policy_may_be_set_as_a_parameter(api: Api) -> None:
    value = {"pattern": "^a", "definition": {"max-length": 3}, "priority": 1, "apply-to": "queues"}
    assert await api.put("/parameters/operator_policy/%2F/op", {"value": value}) == 201
    [policy] = await api.get("/operator-policies")
    assert policy == {"name": "op", "vhost": "/", **value}
    await api.delete("/parameters/operator_policy/%2F/op")
    assert await api.get("/operator-policies") == []


async def test_no_queues_are_imported_for_which_there_is_no_room(api: Api) -> None:
    await api.put("/vhost-limits/%2F/max-queues", {"value": 2})
    await api.put("/queues/%2F/a", {})
    queue = {"vhost": "/", "durable": True, "auto_delete": False, "arguments": {}}
    document = {"queues": [{**queue, "name": name} for name in "abc"]}

    assert await refused(api, "POST", "/definitions", document) == (
        400,
        'Adding 2 queue(s) to virtual host "/" would exceed the limit of 2 queue(s).\n\n'
        "This virtual host currently has 1 queue(s) defined.\n\nImport aborted!",
    )
    assert len(await api.get("/queues")) == 1
    document["queues"].pop()
    assert (await api.call("POST", "/definitions/%2F", document)).status == 204


# -- what follows --------------------------------------------------------------------------------


async def test_a_full_virtual_host_takes_no_more_queues(api: Api, broker: Broker) -> None:
    await api.put("/vhost-limits/%2F/max-queues", {"value": 1})
    peer = Peer(broker).open(1)
    peer.declare("a")
    peer.declare("a")
    answer = peer.call(commands.Queue.Declare(queue="b"))

    assert answer.reply_text == (
        "PRECONDITION_FAILED - cannot declare queue 'b': queue limit in vhost '/' (1) is reached"
    )
    await api.put("/vhost-limits/%2F/max-queues", {"value": -1})

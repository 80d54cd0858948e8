"""Definitions out and in."""

import json
from pathlib import Path
from typing import Any

import pytest

from amqpbroker.broker.broker import Broker
from amqpbroker.testing.api import Api
from amqpbroker.testing.fakes import fake_world
from amqpbroker.testing.peer import Peer

EXPORTED = json.loads((Path(__file__).parent / "rabbitmq_3_10.json").read_text())
"""What RabbitMQ 3.10.8 has exported."""


def in_order(things: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(things, key=lambda thing: json.dumps(thing, sort_keys=True))


def without_metadata(vhosts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"name": vhost["name"]} for vhost in vhosts]


async def test_what_rabbitmq_has_exported_comes_out_as_it_went_in(api: Api) -> None:
    assert (await api.call("POST", "/definitions", EXPORTED)).status == 204

    out = await api.get("/definitions", user="guest")

    assert set(out) == set(EXPORTED)
    for part in ("permissions", "topic_permissions", "policies", "queues", "exchanges", "bindings"):
        assert in_order(out[part]) == in_order(EXPORTED[part]), part
    assert in_order(without_metadata(out["vhosts"])) == in_order(EXPORTED["vhosts"])
    assert in_order(out["users"]) == in_order(EXPORTED["users"])


async def test_what_was_exported_makes_the_same_broker_again(api: Api) -> None:
    await api.put("/vhosts/v", {"description": "what for", "tags": "a,b"})
    await api.put("/users/ann", {"password": "p", "tags": "management"})
    operators = {"pattern": "^", "definition": {"max-length": 5}, "priority": 2}
    await api.put("/operator-policies/v/o", operators)
    await api.call("POST", "/definitions", EXPORTED)
    first = await api.get("/definitions")
    other = Broker(fake_world())
    other.boot("guest", "guest")

    assert (await Api(other).call("POST", "/definitions", first)).status == 204

    again = await Api(other).get("/definitions")
    for part, things in first.items():
        if isinstance(things, list):
            assert in_order(again[part]) == in_order(things), part
    assert (await Api(other).get("/whoami", user="ann", password="p"))["name"] == "ann"


async def test_a_second_import_changes_nothing(api: Api) -> None:
    await api.call("POST", "/definitions", EXPORTED)
    before = await api.get("/definitions")

    assert (await api.call("POST", "/definitions", EXPORTED)).status == 204

    assert await api.get("/definitions") == before


async def test_one_virtual_host_is_not_named_in_its_definitions(api: Api) -> None:
    await api.call("POST", "/definitions", EXPORTED)
    await api.put("/vhosts/other")

    out = await api.get("/definitions/%2F")

    assert "users" not in out
    assert all("vhost" not in thing for part in ("queues", "bindings") for thing in out[part])
    assert (await api.call("POST", "/definitions/other", out)).status == 204
    assert len(await api.get("/queues/other")) == len(out["queues"])
    assert (await api.get("/policies/other"))[0]["vhost"] == "other"


async def test_what_ends_with_a_connection_is_not_exported(api: Api, broker: Broker) -> None:
    Peer(broker).open(1).declare("own", exclusive=True)

    assert (await api.get("/definitions"))["queues"] == []


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"x", "failed_to_parse_json"),
        (b"[]", "failed_to_parse_json"),
        ({"users": [{"name": "x"}]}, "tags_not_present"),
        ({"users": "x"}, "users must be a list of objects"),
        ({"queues": [{"name": "x"}]}, ["no_such_vhost", "undefined"]),
        ({"queues": [{"name": "x", "vhost": "nope"}]}, ["no_such_vhost", "nope"]),
        (
            {"permissions": [{"user": "nope", "vhost": "/"}]},
            ["no_such_user", "nope"],
        ),
        (
            {"queues": [{"name": "x", "vhost": "/"}]},
            'key \'durable\' is missing in {"name":"x","vhost":"/"}',
        ),
        (
            {"policies": [{"name": "x", "vhost": "/", "pattern": "a", "definition": {"foo": 1}}]},
            'Validation failed\n\n[{&lt;&lt;"foo"&gt;&gt;,1}] are not recognised policy settings'
            "\n (//x)",
        ),
        (
            {"parameters": [{"component": "shovel", "vhost": "/", "name": "s", "value": {}}]},
            "Validation failed\n\ncomponent shovel not found\n (//shovel/s)",
        ),
    ],
)
async def test_what_makes_no_sense_is_400(api: Api, document: Any, reason: Any) -> None:
    answer = await api.call("POST", "/definitions", document)

    assert (answer.status, answer.data["reason"]) == (400, reason)


async def test_what_is_left_out_is_no_fault(api: Api) -> None:
    nowhere = {
        "source": "nope",
        "vhost": "/",
        "destination": "q",
        "destination_type": "queue",
        "routing_key": "",
        "arguments": {},
    }
    limits = {"component": "vhost-limits", "vhost": "/", "name": "limits", "value": {}}
    document = {"bindings": [nowhere], "parameters": [limits], "foo": 1}

    assert (await api.call("POST", "/definitions", document)).status == 204
    assert (await api.call("POST", "/definitions", {})).status == 204


async def test_the_old_name_still_works(api: Api) -> None:
    assert await api.get("/all-configuration") == await api.get("/definitions")


async def test_a_virtual_host_that_is_not_there_takes_nothing(api: Api) -> None:
    answer = await api.call("POST", "/definitions/nope", {})

    assert (answer.status, answer.data["reason"]) == (404, "vhost_not_found")

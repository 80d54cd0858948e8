"""Users, virtual hosts and permissions; connections; rates."""

import base64
import hashlib
from typing import Any

import pytest
from pamqp import commands

from amqpbroker.broker.broker import Broker
from amqpbroker.testing.api import Api
from amqpbroker.testing.fakes import FakeClock
from amqpbroker.testing.peer import Peer


async def test_a_user_logs_in_with_its_password(api: Api, broker: Broker) -> None:
    assert await api.put("/users/ann", {"password": "p", "tags": "management,policymaker"}) == 201

    user = await api.get("/users/ann")

    assert user["tags"] == ["management", "policymaker"]
    assert (await api.get("/whoami", user="ann", password="p"))["name"] == "ann"


async def test_a_user_is_known_by_a_hash_that_rabbitmq_has_made(api: Api) -> None:
    first = {"password_hash": "qjPO20S+9TkfDdbkJSQLPiTXGaae4eGzMn7hS7ZVtZkSWKcE"}
    await api.put("/users/x", {**first, "tags": ["management"]})

    assert (await api.get("/whoami", user="x", password="p"))["name"] == "x"
    again = await api.get("/users/x")
    assert again["password_hash"] == first["password_hash"]


@pytest.mark.parametrize("algorithm", ["sha256", "sha512", "md5"])
async def test_passwords_are_hashed_in_the_way_that_is_said(api: Api, algorithm: str) -> None:
    digest = hashlib.new(algorithm, b"salt" + b"p").digest()
    body = {
        "password_hash": base64.b64encode(b"salt" + digest).decode(),
        "hashing_algorithm": f"rabbit_password_hashing_{algorithm}",
        "tags": "management",
    }
    await api.put("/users/x", body)

    assert (await api.get("/whoami", user="x", password="p"))["name"] == "x"
    assert (await api.call("GET", "/whoami", user="x", password="q")).status == 401


async def test_a_user_without_a_password_cannot_log_in(api: Api) -> None:
    await api.put("/users/ann", {"tags": "administrator"})

    assert (await api.call("GET", "/whoami", user="ann", password="")).status == 401


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "tags_not_present"),
        (
            {"tags": "", "password": "p", "password_hash": "x"},
            "both_password_and_password_hash_are_provided",
        ),
        ({"tags": 1}, "tags must be a list, or a string with commas"),
        ({"tags": "", "password": 1}, "a password must be a string"),
        ({"tags": "", "password_hash": "?"}, "password_hash is not in base64"),
        (
            {"tags": "", "password_hash": "AAAA", "hashing_algorithm": "x"},
            "unknown hashing algorithm x",
        ),
    ],
)
async def test_a_user_that_makes_no_sense_is_400(
    api: Api, body: dict[str, Any], reason: str
) -> None:
    answer = await api.call("PUT", "/users/ann", body)

    assert (answer.status, answer.data["reason"]) == (400, reason)


async def test_users_are_deleted_together(api: Api) -> None:
    for name in ("ann", "bob"):
        await api.put(f"/users/{name}", {"tags": ""})

    answer = await api.call("POST", "/users/bulk-delete", {"users": ["ann", "bob", "nobody"]})

    assert answer.status == 204
    assert [user["name"] for user in await api.get("/users")] == ["guest"]


async def test_who_may_enter_nowhere_is_listed(api: Api) -> None:
    await api.put("/users/ann", {"tags": ""})

    assert [user["name"] for user in await api.get("/users/without-permissions")] == ["ann"]


async def test_whoever_makes_a_virtual_host_may_do_everything_there(api: Api) -> None:
    await api.put(
        "/vhosts/v", {"description": "d", "tags": "a, b", "default_queue_type": "classic"}
    )

    there = await api.get("/vhosts/v")

    assert (there["description"], there["tags"]) == ("d", ["a", "b"])
    assert there["default_queue_type"] == "classic"
    assert there["metadata"]["tags"] == ["a", "b"]
    [permission] = await api.get("/vhosts/v/permissions")
    assert permission == {
        "user": "guest",
        "vhost": "v",
        "configure": ".*",
        "write": ".*",
        "read": ".*",
    }


async def test_a_virtual_host_is_described_anew(api: Api) -> None:
    await api.put("/vhosts/v", {"description": "old"})
    await api.put("/queues/v/q")

    await api.put("/vhosts/v", {"description": "new"})

    assert (await api.get("/vhosts/v"))["description"] == "new"
    assert len(await api.get("/queues/v")) == 1


async def test_permissions_are_set_and_taken_away(api: Api) -> None:
    await api.put("/users/ann", {"tags": ""})
    path = "/permissions/%2F/ann"
    assert (await api.call("GET", path)).status == 404

    assert await api.put(path, {"configure": "a", "write": "b", "read": "c"}) == 201

    assert (await api.get(path))["write"] == "b"
    assert await api.get("/users/ann/permissions") == [await api.get(path)]
    await api.delete(path)
    assert (await api.call("GET", path)).status == 404


async def test_topic_permissions_are_set_and_taken_away(api: Api) -> None:
    path = "/topic-permissions/%2F/guest"
    for exchange in ("amq.topic", "x"):
        await api.put(path, {"exchange": exchange, "write": "^a", "read": ".*"})

    assert len(await api.get(path)) == 2
    assert len(await api.get("/users/guest/topic-permissions")) == 2
    assert len(await api.get("/vhosts/%2F/topic-permissions")) == 2
    await api.delete(f"{path}/x")
    [left] = await api.get(path)
    assert left["exchange"] == "amq.topic"
    await api.delete(path)
    assert await api.get("/topic-permissions") == []


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("/permissions/%2F/nobody", {}, "vhost_or_user_not_found"),
        ("/permissions/nope/guest", {}, "vhost_or_user_not_found"),
        (
            "/permissions/%2F/guest",
            {"write": ""},
            "[{key_missing,configure},{key_missing,read}]",
        ),
        (
            "/permissions/%2F/guest",
            {"configure": 1, "write": "", "read": ""},
            "a pattern must be a string",
        ),
    ],
)
async def test_permissions_that_make_no_sense_are_400(
    api: Api, path: str, body: dict[str, Any], reason: str
) -> None:
    answer = await api.call("PUT", path, body)

    assert (answer.status, answer.data["reason"]) == (400, reason)


async def test_a_pattern_that_is_none_is_400(api: Api) -> None:
    answer = await api.call(
        "PUT", "/permissions/%2F/guest", {"configure": "(", "write": "", "read": ""}
    )

    assert answer.status == 400
    assert "is no regular expression" in answer.data["reason"]


async def test_a_body_that_is_json_twice_is_told_so(api: Api) -> None:
    answer = await api.call("PUT", "/users/ann", b'"{}"')

    assert "doubly-JSON-encoded" in answer.data["reason"]


async def test_a_password_is_hashed_for_whoever_asks(api: Api) -> None:
    hashed = (await api.get("/auth/hash_password/p"))["ok"]

    await api.put("/users/ann", {"password_hash": hashed, "tags": "management"})

    assert (await api.get("/whoami", user="ann", password="p"))["name"] == "ann"


# -- connections ---------------------------------------------------------------------------------


async def test_a_connection_is_closed_with_a_reason(api: Api, broker: Broker) -> None:
    peer = Peer(broker).open(1)
    [there] = await api.get("/connections")
    path = f"/connections/{there['name'].replace(' ', '%20')}"
    [channel] = await api.get(f"{path}/channels")
    name = channel["name"].replace(" ", "%20")
    assert (await api.get(f"/channels/{name}"))["consumer_details"] == []

    answer = await api.call(
        "DELETE",
        path,
        headers={"authorization": "Basic Z3Vlc3Q6Z3Vlc3Q=", "x-reason": "enough"},
    )

    assert answer.status == 204
    [(_, close)] = peer.received()
    assert isinstance(close, commands.Connection.Close)
    assert close.reply_text == "CONNECTION_FORCED - enough"
    assert (await api.call("GET", path)).status == 404
    assert (await api.call("GET", f"/channels/{name}")).status == 404


async def test_all_connections_of_a_user_are_closed(api: Api, broker: Broker) -> None:
    peers = [Peer(broker).open(1), Peer(broker).open(1)]
    assert len(await api.get("/connections/username/guest")) == 2

    await api.delete("/connections/username/guest")

    for peer in peers:
        [(_, close)] = peer.received()
        assert close.reply_text == "CONNECTION_FORCED - Closed via management plugin"


async def test_connections_are_listed_by_virtual_host(api: Api, broker: Broker) -> None:
    await api.put("/vhosts/v")
    Peer(broker).open(1, vhost="v")
    Peer(broker).open(1, 2)

    assert len(await api.get("/vhosts/v/connections")) == 1
    assert len(await api.get("/vhosts/%2F/channels")) == 2


# -- rates ---------------------------------------------------------------------------------------


async def test_a_rate_is_what_has_come_since_somebody_asked(api: Api, broker: Broker) -> None:
    clock = broker.world.clock
    assert isinstance(clock, FakeClock)
    peer = Peer(broker).open(1)
    peer.declare("q")

    async def rate() -> float:
        queue = await api.get("/queues/%2F/q")
        details: float = queue["messages_details"]["rate"]
        return details

    assert await rate() == 0.0
    peer.publish("q", *[b"m"] * 50)
    clock.advance(10)
    assert await rate() == 5.0
    clock.advance(10)
    assert await rate() == 0.0


async def test_a_queue_is_idle_since_its_numbers_stand_still(api: Api, broker: Broker) -> None:
    clock = broker.world.clock
    assert isinstance(clock, FakeClock)
    await api.put("/queues/%2F/q")
    first = (await api.get("/queues/%2F/q"))["idle_since"]
    clock.advance(100)

    assert (
        (await api.get("/queues/%2F/q"))["idle_since"] == first == "1970-01-01T00:16:40.000+00:00"
    )

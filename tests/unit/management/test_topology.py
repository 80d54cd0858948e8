"""Queues, exchanges and bindings: made and deleted by the rules that AMQP's methods follow."""

from typing import Any

import pytest
from pamqp import commands

from amqpbroker.broker.broker import Broker
from amqpbroker.testing.api import Api
from amqpbroker.testing.peer import Peer

LOCKED = (
    "cannot obtain exclusive access to locked queue 'own' in vhost '/'. It could be originally"
    " declared on another connection or the exclusive property value does not match that of the"
    " original declaration."
)


async def refusal(api: Api, method: str, path: str, body: Any = None) -> tuple[int, str, Any]:
    answer = await api.call(method, path, body)
    return answer.status, answer.data["error"], answer.data["reason"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error", "reason"),
    [
        (
            "PUT",
            "/exchanges/%2F/x",
            {"type": "direct"},
            400,
            "bad_request",
            "inequivalent arg 'type' for exchange 'x' in vhost '/': "
            "received 'direct' but current is 'fanout'",
        ),
        ("PUT", "/exchanges/%2F/amq.foo", {}, 401, "not_authorised", "Access refused."),
        ("DELETE", "/exchanges/%2F/amq.direct", None, 401, "not_authorised", "Access refused."),
        ("PUT", "/exchanges/nope/x", {}, 404, "not_found", "vhost_not_found"),
        ("PUT", "/queues/nope/q", {}, 404, "not_found", "vhost_not_found"),
        (
            "PUT",
            "/queues/%2F/q",
            {"durable": False},
            400,
            "bad_request",
            "inequivalent arg 'durable' for queue 'q' in vhost '/': "
            "received 'false' but current is 'true'",
        ),
        (
            "PUT",
            "/queues/%2F/new",
            {"arguments": {"x-max-length": "a"}},
            400,
            "bad_request",
            "invalid arg 'x-max-length' for queue 'new' in vhost '/': "
            '"expected integer, got longstr"',
        ),
        (
            "PUT",
            "/queues/%2F/new",
            {"durable": "x"},
            400,
            "bad_request",
            ["not_boolean", "x"],
        ),
        ("DELETE", "/queues/%2F/own", None, 400, "bad_request", LOCKED),
        ("DELETE", "/queues/%2F/own/contents", None, 400, "bad_request", LOCKED),
        (
            "DELETE",
            "/queues/%2F/q?if-empty=true",
            None,
            400,
            "bad_request",
            "queue 'q' in vhost '/' not empty",
        ),
        (
            "DELETE",
            "/queues/%2F/q?if-unused=true",
            None,
            400,
            "bad_request",
            "queue 'q' in vhost '/' in use",
        ),
        (
            "POST",
            "/bindings/%2F/e/x/q/nope",
            {},
            404,
            "not_found",
            "no queue 'nope' in vhost '/'",
        ),
        (
            "POST",
            "/bindings/%2F/e/nope/q/q",
            {},
            404,
            "not_found",
            "no exchange 'nope' in vhost '/'",
        ),
    ],
)
async def test_what_amqp_refuses_is_refused_in_rabbitmqs_words(
    api: Api,
    broker: Broker,
    method: str,
    path: str,
    body: Any,
    status: int,
    error: str,
    reason: Any,
) -> None:
    await api.put("/exchanges/%2F/x", {"type": "fanout", "durable": "true"})
    await api.put("/queues/%2F/q", {"durable": "true"})
    peer = Peer(broker).open(1)
    peer.declare("own", exclusive=True)
    peer.publish("q", b"m")
    peer.call(commands.Basic.Qos(prefetch_count=1))
    peer.publish("q", b"m")
    peer.consume("q", "tag")

    assert await refusal(api, method, path, body) == (status, error, reason)


async def test_an_exchange_is_made_as_it_is_asked_for(api: Api) -> None:
    body = {"type": "topic", "durable": "true", "arguments": {"alternate-exchange": "amq.fanout"}}
    assert await api.put("/exchanges/%2F/x", body) == 201
    assert await api.put("/exchanges/%2F/x", body) == 204

    there = await api.get("/exchanges/%2F/x")

    assert (there["type"], there["durable"], there["internal"]) == ("topic", True, False)
    assert there["arguments"] == {"alternate-exchange": "amq.fanout"}
    await api.delete("/exchanges/%2F/x")
    assert (await api.call("GET", "/exchanges/%2F/x")).status == 404


async def test_the_default_exchange_goes_by_amq_default(api: Api) -> None:
    assert (await api.get("/exchanges/%2F/amq.default"))["name"] == ""


async def test_a_binding_is_named_by_its_key_and_arguments(api: Api) -> None:
    await api.put("/queues/%2F/q")
    path = "/bindings/%2F/e/amq.headers/q/q"

    plain = await api.call("POST", path, {})
    special = await api.call("POST", path, {"routing_key": "a ~b", "arguments": {"z": 1}})

    assert (plain.status, plain.headers["location"]) == (201, "q/~")
    assert special.status == 201
    key = special.headers["location"].removeprefix("q/")
    found = {each["properties_key"] for each in await api.get(path)}
    assert found == {"~", key.replace("%2B", "+").replace("%25", "%")}
    assert (await api.get(f"{path}/{key}"))["arguments"] == {"z": 1}
    await api.delete(f"{path}/{key}")
    await api.delete(f"{path}/~")
    assert await api.get(path) == []
    assert (await api.call("DELETE", f"{path}/~")).status == 404


async def test_exchanges_are_bound_to_exchanges(api: Api) -> None:
    path = "/bindings/%2F/e/amq.direct/e/amq.fanout"

    assert (await api.call("POST", path, {"routing_key": "k"})).status == 201

    [there] = await api.get("/exchanges/%2F/amq.fanout/bindings/destination")
    assert (there["source"], there["destination_type"]) == ("amq.direct", "exchange")
    assert await api.get("/exchanges/%2F/amq.direct/bindings/source") == [there]


async def test_every_queue_is_bound_to_the_default_exchange(api: Api) -> None:
    await api.put("/queues/%2F/q")

    [implied] = await api.get("/queues/%2F/q/bindings")

    assert (implied["source"], implied["routing_key"]) == ("", "q")
    assert await api.get("/bindings/%2F") == [implied]
    assert await api.get("/bindings/%2F/e/amq.default/q/q") == [implied]
    assert await api.get("/exchanges/%2F/amq.default/bindings/source") == [implied]


async def test_what_is_no_kind_of_destination_is_400(api: Api) -> None:
    assert (await api.call("GET", "/bindings/%2F/e/amq.direct/z/q")).status == 400


async def test_a_policy_shows_where_it_holds(api: Api) -> None:
    await api.put("/queues/%2F/q1")
    await api.put("/exchanges/%2F/q1")
    definition = {"alternate-exchange": "x"}
    policy = {"pattern": "^q", "definition": definition, "priority": 3}
    assert await api.put("/policies/%2F/p", policy) == 201
    limit = {"pattern": "^q", "definition": {"max-length": 5}, "apply-to": "queues"}
    assert await api.put("/operator-policies/%2F/o", limit) == 201

    queue = await api.get("/queues/%2F/q1")

    assert (queue["policy"], queue["operator_policy"]) == ("p", "o")
    assert queue["effective_policy_definition"] == {**definition, "max-length": 5}
    assert (await api.get("/exchanges/%2F/q1"))["policy"] == "p"
    assert "policy" not in await api.get("/exchanges/%2F/amq.direct")
    [there] = await api.get("/policies")
    assert there == {"vhost": "/", "name": "p", "apply-to": "all", **policy}
    await api.delete("/policies/%2F/p")
    assert (await api.get("/queues/%2F/q1"))["policy"] is None


async def test_a_policy_that_makes_no_sense_is_400(api: Api) -> None:
    body = {"pattern": "^", "definition": {"max-length": "x"}}

    assert await refusal(api, "PUT", "/policies/%2F/p", body) == (
        400,
        "bad_request",
        'Validation failed\n\n&lt;&lt;"x"&gt;&gt; is not a valid maximum length\n',
    )
    assert await refusal(api, "PUT", "/policies/%2F/p", {}) == (
        400,
        "bad_request",
        "[{key_missing,pattern},{key_missing,definition}]",
    )
    assert (await api.call("PUT", "/policies/nope/p", body)).data["reason"] == "vhost_not_found"


# -- several policies at once --------------------------------------------------------------------


def _policy(name: object, **more: object) -> dict[str, object]:
    return {"name": name, "pattern": "^q", "definition": {"max-length": 3}, **more}


async def test_several_policies_are_set_at_once(api: Api) -> None:
    await api.put("/policies/%2F/same", {"pattern": "^q", "definition": {"max-length": 3}})
    await api.put("/policies/%2F/old", {"pattern": "x", "definition": {"max-length": 3}})
    body = {"policies": [_policy("same"), _policy("old"), _policy("new", priority=3)]}
    changes = [
        {"name": "same", "change": "none"},
        {"name": "old", "change": "changed"},
        {"name": "new", "change": "new"},
    ]
    path = "/amqpbroker/policies/%2F"
    answer = await api.call("POST", path, body | {"dry_run": True})
    assert (answer.status, answer.data) == (200, changes)
    assert len(await api.get("/policies")) == 2
    assert (await api.call("POST", path, body)).data == changes
    assert (await api.get("/policies/%2F/new"))["priority"] == 3
    assert (await api.get("/policies/%2F/old"))["pattern"] == "^q"
    assert (await api.call("POST", "/amqpbroker/policies/nope", body)).status == 404


async def test_none_of_several_policies_is_set_if_one_may_not_be(api: Api) -> None:
    wrong = [
        _policy("good"),
        _policy("odd", definition={"max-length": "x", "foo": 1}),
        _policy("good"),
        {"name": "empty"},
        _policy("strange", priorty=1),
        _policy(""),
        3,
    ]
    answer = await api.call("POST", "/amqpbroker/policies/%2F", {"policies": wrong})

    assert answer.status == 400
    assert answer.data["reason"].splitlines() == [
        "policy 'odd': <<\"x\">> is not a valid maximum length",
        "policy 'good': it is there twice",
        "policy 'empty': it has no pattern and no definition",
        "policy 'strange': it has priorty, which no policy has",
        "policy '': its name must be a text",
        "policy number 7: it is no object",
    ]
    assert await api.get("/policies") == []
    assert (await api.call("POST", "/amqpbroker/policies/%2F", {"policies": 3})).status == 400
    assert (await api.call("POST", "/amqpbroker/policies/%2F", {})).status == 400

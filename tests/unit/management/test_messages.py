"""Messages over HTTP: published, got, purged."""

import base64
from typing import Any

import pytest
from pamqp import commands

from amqpbroker.broker.broker import Broker
from amqpbroker.definitions import QueueDefinition, put
from amqpbroker.testing.api import Answer, Api
from amqpbroker.testing.peer import Peer

MESSAGE = {"routing_key": "q", "payload": "hi", "payload_encoding": "string", "properties": {}}
GET = {"count": 1, "ackmode": "ack_requeue_false", "encoding": "auto"}


@pytest.fixture(autouse=True)
def queue(broker: Broker) -> None:
    broker.submit(put(QueueDefinition("/", "q")))


async def publish(api: Api, exchange: str = "amq.default", **more: Any) -> Answer:
    return await api.call("POST", f"/exchanges/%2F/{exchange}/publish", {**MESSAGE, **more})


async def get(api: Api, queue: str = "q", **more: Any) -> Answer:
    return await api.call("POST", f"/queues/%2F/{queue}/get", {**GET, **more})


async def test_what_is_published_can_be_got_with_its_properties(api: Api) -> None:
    properties = {
        "delivery_mode": 2,
        "priority": 3,
        "timestamp": 1_700_000_000,
        "content_type": "text/plain",
        "type": "kind",
        "message_id": "m",
        "headers": {"a": 1, "b": ["x"]},
    }

    assert (await publish(api, properties=properties)).data == {"routed": True}

    [message] = (await get(api)).data
    assert message == {
        "payload_bytes": 2,
        "redelivered": False,
        "exchange": "",
        "routing_key": "q",
        "message_count": 0,
        "properties": properties,
        "payload": "hi",
        "payload_encoding": "string",
    }


async def test_octets_go_as_base64(api: Api) -> None:
    octets = base64.b64encode(b"\xff\x00").decode()
    await publish(api, payload=octets, payload_encoding="base64")

    [message] = (await get(api)).data

    assert (message["payload"], message["payload_encoding"]) == (octets, "base64")
    assert message["payload_bytes"] == 2


async def test_a_message_that_goes_nowhere_is_said_to(api: Api) -> None:
    assert (await publish(api, routing_key="nope")).data == {"routed": False}


async def test_consumers_have_what_is_published(api: Api, broker: Broker) -> None:
    peer = Peer(broker).open(1)
    peer.consume("q", "tag", no_ack=True)
    peer.received()

    await publish(api)

    [(deliver, body)] = [each for each in peer.deliveries() if each[1]]
    assert (deliver.routing_key, body) == ("q", b"hi")


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ({"payload_encoding": "x"}, 400, ["unsupported_encoding", "x"]),
        ({"payload_encoding": "base64", "payload": "!"}, 400, ["not_base64", "!"]),
        ({"payload": 1}, 400, "payload_not_string"),
        ({"properties": {"priority": "x"}}, 400, ["not_int", "priority"]),
        ({"properties": {"type": 1}}, 400, ["not_string", "type"]),
        (
            {"properties": {"user_id": "x"}},
            400,
            "406 PRECONDITION_FAILED - user_id property set to 'x' but authenticated user was"
            " 'guest'",
        ),
        (
            {"properties": {"expiration": "x"}},
            400,
            "406 PRECONDITION_FAILED - invalid expiration 'x': no_integer",
        ),
    ],
)
async def test_what_cannot_be_published_is_refused(
    api: Api, change: dict[str, Any], status: int, reason: Any
) -> None:
    answer = await publish(api, **change)

    assert (answer.status, answer.data["reason"]) == (status, reason)


async def test_keys_that_are_missing_are_named(api: Api) -> None:
    answer = await api.call("POST", "/exchanges/%2F/amq.default/publish", {"routing_key": "q"})

    assert answer.status == 400
    missing = ("properties", "payload", "payload_encoding")
    assert answer.data["reason"] == f"[{','.join(f'{{key_missing,{name}}}' for name in missing)}]"


async def test_an_internal_exchange_takes_nothing(api: Api) -> None:
    answer = await publish(api, "amq.rabbitmq.trace")

    assert answer.status == 401
    assert "cannot publish to internal exchange" in answer.data["reason"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/exchanges/%2F/nope/publish", "exchange_not_found"),
        ("/exchanges/nope/x/publish", "vhost_not_found"),
        ("/queues/%2F/nope/get", "queue_not_found"),
        ("/queues/nope/q/get", "vhost_not_found"),
        ("/queues/%2F/nope/actions", "queue_not_found"),
    ],
)
async def test_what_is_not_there_is_named(api: Api, path: str, reason: str) -> None:
    answer = await api.call("POST", path, {})

    assert (answer.status, answer.data) == (404, {"error": "not_found", "reason": reason})


@pytest.mark.parametrize(
    ("ackmode", "left"),
    [
        ("ack_requeue_true", 3),
        ("reject_requeue_true", 3),
        ("ack_requeue_false", 1),
        ("reject_requeue_false", 1),
    ],
)
async def test_messages_that_were_got_go_back_or_are_gone(
    api: Api, ackmode: str, left: int
) -> None:
    for payload in ("a", "b", "c"):
        await publish(api, payload=payload)

    got = (await get(api, ackmode=ackmode, count="2")).data

    assert [(each["payload"], each["message_count"]) for each in got] == [("a", 2), ("b", 1)]
    queue = await api.get("/queues/%2F/q")
    assert (queue["messages_ready"], queue["messages_unacknowledged"]) == (left, 0)
    if left == 3:
        [again, *_] = (await get(api)).data
        assert (again["payload"], again["redelivered"]) == ("a", True)


async def test_a_payload_is_cut_where_it_is_asked_for(api: Api) -> None:
    await publish(api, payload="hello")

    [message] = (await get(api, truncate=2)).data

    assert (message["payload"], message["payload_bytes"]) == ("he", 5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"encoding": "x"}, "Unsupported encoding. Please use auto or base64."),
        ({"count": "x"}, ["not_integer", "x"]),
        ({"ackmode": "x"}, ["unknown_ackmode", "x"]),
    ],
)
async def test_what_makes_no_sense_gets_nothing(
    api: Api, change: dict[str, Any], reason: Any
) -> None:
    answer = await get(api, **change)

    assert (answer.status, answer.data["reason"]) == (400, reason)


async def test_somebody_elses_queue_gives_nothing(api: Api, broker: Broker) -> None:
    Peer(broker).open(1).declare("own", exclusive=True)

    answer = await get(api, "own")

    assert answer.status == 400
    assert answer.data["reason"].startswith("405 RESOURCE_LOCKED - cannot obtain exclusive access")


async def test_an_empty_queue_gives_an_empty_list(api: Api) -> None:
    assert (await get(api, count=5)).data == []


async def test_a_queue_is_purged(api: Api) -> None:
    await publish(api)

    await api.delete("/queues/%2F/q/contents")

    assert (await api.get("/queues/%2F/q"))["messages"] == 0


async def test_without_mirrors_there_is_nothing_to_synchronise(api: Api) -> None:
    for action in ("sync", "cancel_sync"):
        assert (await api.call("POST", "/queues/%2F/q/actions", {"action": action})).status == 204
    answer = await api.call("POST", "/queues/%2F/q/actions", {"action": "x"})
    assert (answer.status, answer.data["reason"]) == (400, ["unknown", "x"])


async def test_whoever_publishes_needs_the_right_to(api: Api) -> None:
    await api.put("/users/ann", {"password": "p", "tags": "management"})
    rights = {"configure": "", "write": "^x", "read": ""}
    await api.put("/permissions/%2F/ann", rights)

    answer = await api.call(
        "POST", "/exchanges/%2F/amq.direct/publish", MESSAGE, user="ann", password="p"
    )

    assert answer.status == 401
    assert answer.data["reason"] == (
        "ACCESS_REFUSED - write access to exchange 'amq.direct' in vhost '/' refused for user 'ann'"
    )


async def test_publishing_leaves_no_connection_behind(api: Api, broker: Broker) -> None:
    await publish(api)
    await publish(api, payload=1)

    assert not broker.sessions
    assert await api.get("/connections") == []


async def test_what_happened_is_counted(api: Api, broker: Broker) -> None:
    await publish(api)
    await publish(api, routing_key="nope")
    await get(api)
    peer = Peer(broker).open(1)
    peer.publish("nope", b"dropped")
    peer.call(commands.Basic.Get(queue="q"))

    stats = (await api.get("/overview"))["message_stats"]

    counts = {name: count for name, count in stats.items() if not name.endswith("_details")}
    assert {name: count for name, count in counts.items() if count} == {
        "publish": 3,
        "confirm": 2,
        "return_unroutable": 1,
        "drop_unroutable": 1,
        "get_no_ack": 1,
        "deliver_get": 1,
        "get_empty": 1,
    }
    assert (await api.get("/vhosts/%2F"))["message_stats"]["publish"] == 3
    exchange = await api.get("/exchanges/%2F/amq.default")
    assert exchange["message_stats"]["publish_in"] == 3
    assert exchange["message_stats"]["publish_out"] == 1


async def test_sums_do_not_fall_when_queues_go(api: Api) -> None:
    await publish(api)
    await get(api)

    await api.delete("/queues/%2F/q")

    overview = await api.get("/overview")
    assert overview["message_stats"]["get_no_ack"] == 1
    assert overview["churn_rates"]["queue_deleted"] == 1

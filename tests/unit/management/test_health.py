"""Whether the broker is well, and its metrics."""

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from amqpbroker.broker.broker import Broker
from amqpbroker.definitions import QueueDefinition, put
from amqpbroker.management.facts import Listening
from amqpbroker.testing.api import Api
from amqpbroker.testing.peer import Peer

DASHBOARD = (
    "identity_info build_info queues queue_messages_ready queue_messages_unacked connections"
    " channels consumers global_publishers global_messages_received_total"
    " global_messages_received_confirm_total global_messages_routed_total"
    " global_messages_confirmed_total global_messages_unroutable_dropped_total"
    " global_messages_unroutable_returned_total"
    " global_messages_delivered_consume_manual_ack_total"
    " global_messages_delivered_consume_auto_ack_total"
    " global_messages_delivered_get_manual_ack_total"
    " global_messages_delivered_get_auto_ack_total global_messages_get_empty_total"
    " global_messages_redelivered_total global_messages_acknowledged_total"
    " connections_opened_total connections_closed_total channels_opened_total"
    " channels_closed_total queues_created_total queues_declared_total queues_deleted_total"
    " resident_memory_limit_bytes process_resident_memory_bytes process_open_fds"
    " process_max_fds process_open_tcp_sockets process_max_tcp_sockets"
    " disk_space_available_bytes"
)
"""What the dashboard RabbitMQ-Overview of Grafana reads."""


async def samples(api: Api, path: str) -> dict[tuple[str, str], float]:
    """What is at a path of metrics, by name and labels; that it is well-formed, too."""
    answer = await api.call("GET", path, headers={}, root="")
    assert answer.status == 200, answer
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, ",".join(sample.labels.get(key, "") for key in ("vhost", "queue"))): (
            sample.value
        )
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


async def test_the_metrics_of_the_dashboard_are_there(api: Api) -> None:
    names = {name for name, _ in await samples(api, "/metrics")}

    assert {f"rabbitmq_{name}" for name in DASHBOARD.split()} <= names


async def test_metrics_are_the_sums_of_what_happened(api: Api, broker: Broker) -> None:
    peer = Peer(broker).open(1)
    peer.declare("q")
    peer.publish("q", b"m", b"m")
    peer.publish("nope", b"m")

    found = await samples(api, "/metrics")

    assert found["rabbitmq_queue_messages_ready", ","] == 2
    assert found["rabbitmq_global_messages_received_total", ","] == 3
    assert found["rabbitmq_global_messages_routed_total", ","] == 2
    assert found["rabbitmq_connections", ","] == 1
    assert found["rabbitmq_global_publishers", ","] == 1


async def test_each_queue_has_metrics_of_its_own(api: Api, broker: Broker) -> None:
    peer = Peer(broker).open(1)
    for name in ("q", 'a "strange"\\name'):
        broker.submit(put(QueueDefinition("/", name)))
        peer.publish(name, b"m")

    found = await samples(api, "/metrics/per-object")

    assert found["rabbitmq_queue_messages_ready", "/,q"] == 1
    assert found["rabbitmq_queue_messages_ready", '/,a "strange"\\name'] == 1
    assert found["rabbitmq_queue_messages_published_total", "/,q"] == 1


async def test_families_are_asked_for_by_name_and_virtual_host(api: Api, broker: Broker) -> None:
    await api.put("/vhosts/v")
    await api.put("/queues/v/q")
    await api.put("/queues/%2F/q")

    found = await samples(api, "/metrics/detailed?family=queue_coarse_metrics&vhost=v")

    assert set(found) == {
        (f"rabbitmq_detailed_queue_{name}", "v,q")
        for name in ("messages_ready", "messages_unacked", "messages")
    }


# -- health --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/aliveness-test/%2F",
        "/healthchecks/node",
        "/healthchecks/node/rabbit@localhost",
        "/health/checks/alarms",
        "/health/checks/local-alarms",
        "/health/checks/virtual-hosts",
        "/health/checks/port-listener/5672",
        "/health/checks/protocol-listener/amqp",
        "/health/checks/certificate-expiration/1/weeks",
        "/health/checks/node-is-mirror-sync-critical",
        "/health/checks/node-is-quorum-critical",
    ],
)
async def test_a_broker_that_is_well_says_so(api: Api, path: str) -> None:
    api.facts.listeners.append(Listening("amqp", "127.0.0.1", 5672))

    assert (await api.get(path))["status"] == "ok"


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        (
            "/health/checks/alarms",
            {
                "status": "failed",
                "reason": "There are alarms in effect in the cluster",
                "alarms": [{"node": "rabbit@localhost", "resource": "memory"}],
            },
        ),
        (
            "/health/checks/local-alarms",
            {
                "status": "failed",
                "reason": "There are alarms in effect on the node",
                "alarms": [{"node": "rabbit@localhost", "resource": "memory"}],
            },
        ),
        (
            "/health/checks/port-listener/1",
            {"status": "failed", "reason": "No active listener", "missing": 1, "ports": [5672]},
        ),
        (
            "/health/checks/protocol-listener/mqtt",
            {
                "status": "failed",
                "reason": "No active listener",
                "missing": "mqtt",
                "protocols": ["amqp"],
            },
        ),
    ],
)
async def test_a_broker_that_is_not_well_says_why(
    api: Api, broker: Broker, path: str, answer: Any
) -> None:
    api.facts.listeners.append(Listening("amqp", "127.0.0.1", 5672))
    broker.set_alarm("memory", True)

    failed = await api.call("GET", path)

    assert (failed.status, failed.data) == (503, answer)


async def test_a_port_is_a_number(api: Api) -> None:
    answer = await api.call("GET", "/health/checks/port-listener/x")

    assert (answer.status, answer.data["reason"]) == (400, "Invalid port")


@pytest.mark.parametrize(
    "path",
    [
        "/vhost-limits",
        "/user-limits",
        "/deprecated-features",
        "/deprecated-features/used",
        "/extensions",
        "/parameters",
    ],
)
async def test_of_what_the_broker_does_not_have_there_is_none(api: Api, path: str) -> None:
    assert await api.get(path) == []


async def test_another_node_is_not_there(api: Api) -> None:
    for path in ("/nodes/other", "/nodes/other/memory", "/nodes/other/memory/relative"):
        assert (await api.call("GET", path)).status == 404
    assert (await api.get("/nodes/rabbit@localhost/memory/relative"))["memory"]["total"] == 100

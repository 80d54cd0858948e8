"""Clients read these keys, some of them strictly: one that is missing fails their whole command."""

from typing import Any

import pytest
from pamqp import commands

from amqpbroker.broker.broker import Broker
from amqpbroker.testing.api import Api
from amqpbroker.testing.peer import Peer

number = (int, float)
Keys = dict[str, Any]

OBJECTS: dict[str, tuple[str, Keys]] = {
    "channel": (
        "/channels",
        {
            "number": int,
            "name": str,
            "connection_details": {"name": str, "peer_host": str, "peer_port": int},
            "vhost": str,
            "user": str,
            "node": str,
            "state": str,
            "consumer_count": int,
            "confirm": bool,
            "transactional": bool,
            "prefetch_count": int,
            "global_prefetch_count": int,
            "messages_unacknowledged": int,
            "messages_unconfirmed": int,
            "messages_uncommitted": int,
            "acks_uncommitted": int,
            "idle_since": str,
        },
    ),
    "node": (
        "/nodes",
        {
            "name": str,
            "type": str,
            "running": bool,
            "uptime": int,
            "run_queue": int,
            "processors": int,
            "os_pid": str,
            "fd_total": int,
            "fd_used": int,
            "sockets_total": int,
            "sockets_used": int,
            "proc_total": int,
            "proc_used": int,
            "mem_limit": int,
            "mem_used": int,
            "mem_alarm": bool,
            "disk_free": int,
            "disk_free_limit": int,
            "disk_free_alarm": bool,
            "rates_mode": str,
            "enabled_plugins": list,
            "being_drained": bool,
            "partitions": list,
        },
    ),
    "connection": (
        "/connections",
        {
            "name": str,
            "node": str,
            "protocol": str,
            "user": str,
            "vhost": str,
            "state": str,
            "connected_at": int,
            "client_properties": dict,
            "channels": int,
            "channel_max": int,
            "frame_max": int,
            "timeout": int,
            "peer_host": str,
            "peer_port": int,
            "host": str,
            "port": int,
            "recv_oct": int,
            "recv_cnt": int,
            "send_oct": int,
            "send_cnt": int,
            "send_pend": int,
            "ssl": bool,
            "auth_mechanism": str,
        },
    ),
    "consumer": (
        "/consumers",
        {
            "consumer_tag": str,
            "active": bool,
            "activity_status": str,
            "ack_required": bool,
            "prefetch_count": int,
            "exclusive": bool,
            "arguments": dict,
            "consumer_timeout": int,
            "queue": {"name": str, "vhost": str},
            "channel_details": {
                "number": int,
                "name": str,
                "connection_name": str,
                "node": str,
                "peer_host": str,
                "peer_port": int,
                "user": str,
            },
        },
    ),
    "exchange": (
        "/exchanges",
        {
            "name": str,
            "vhost": str,
            "type": str,
            "durable": bool,
            "auto_delete": bool,
            "internal": bool,
            "arguments": dict,
        },
    ),
    "binding": (
        "/bindings",
        {
            "vhost": str,
            "source": str,
            "destination": str,
            "destination_type": str,
            "routing_key": str,
            "arguments": dict,
            "properties_key": str,
        },
    ),
    "queue": (
        "/queues",
        {
            "name": str,
            "vhost": str,
            "node": str,
            "type": str,
            "state": str,
            "durable": bool,
            "auto_delete": bool,
            "exclusive": bool,
            "arguments": dict,
            "policy": str,
            "effective_policy_definition": dict,
            "consumers": int,
            "consumer_utilisation": number,
            "consumer_capacity": number,
            "idle_since": str,
            "head_message_timestamp": type(None),
            "exclusive_consumer_tag": type(None),
            "garbage_collection": {"minor_gcs": int},
            "memory": int,
            "messages": int,
            "messages_details": {"rate": float},
            "messages_ready": int,
            "messages_unacknowledged": int,
            "messages_ram": int,
            "messages_persistent": int,
            "message_bytes": int,
            "message_bytes_ready": int,
            "message_bytes_unacknowledged": int,
            "message_bytes_ram": int,
            "message_bytes_persistent": int,
            "reductions": int,
            "recoverable_slaves": type(None),
            "message_stats": {
                "publish": int,
                "publish_details": {"rate": float},
                "deliver": int,
                "deliver_no_ack": int,
                "deliver_get": int,
                "deliver_get_details": {"rate": float},
                "get": int,
                "get_no_ack": int,
                "redeliver": int,
                "ack": int,
                "ack_details": {"rate": float},
            },
        },
    ),
    "permission": (
        "/permissions",
        {"user": str, "vhost": str, "configure": str, "read": str, "write": str},
    ),
    "topic permission": (
        "/topic-permissions",
        {"user": str, "vhost": str, "exchange": str, "read": str, "write": str},
    ),
    "policy": (
        "/policies",
        {
            "name": str,
            "vhost": str,
            "pattern": str,
            "apply-to": str,
            "priority": int,
            "definition": dict,
        },
    ),
    "parameter": ("/parameters", {"name": str, "vhost": str, "component": str, "value": dict}),
    "global parameter": ("/global-parameters", {"name": str, "value": str}),
    "user": (
        "/users",
        {"name": str, "tags": list, "password_hash": str, "hashing_algorithm": str},
    ),
    "current user": ("/whoami", {"name": str, "tags": list}),
    "virtual host": (
        "/vhosts",
        {
            "name": str,
            "description": str,
            "tags": list,
            "default_queue_type": str,
            "tracing": bool,
            "messages": int,
            "message_stats": {"publish": int},
        },
    ),
    "cluster": ("/cluster-name", {"name": str}),
    "memory": (
        "/nodes/rabbit@localhost/memory",
        {
            "memory": {
                **dict.fromkeys(
                    [
                        "connection_readers",
                        "connection_writers",
                        "connection_channels",
                        "connection_other",
                        "queue_procs",
                        "quorum_queue_procs",
                        "stream_queue_procs",
                        "stream_queue_replica_reader_procs",
                        "stream_queue_coordinator_procs",
                        "plugins",
                        "metadata_store",
                        "other_proc",
                        "metrics",
                        "mgmt_db",
                        "mnesia",
                        "quorum_ets",
                        "metadata_store_ets",
                        "other_ets",
                        "binary",
                        "msg_index",
                        "code",
                        "atom",
                        "other_system",
                        "allocated_unused",
                        "reserved_unallocated",
                    ],
                    int,
                ),
                "strategy": str,
                "total": {"erlang": int, "rss": int, "allocated": int},
            }
        },
    ),
    "overview": (
        "/overview",
        {
            "rabbitmq_version": str,
            "management_version": str,
            "erlang_version": str,
            "cluster_name": str,
            "node": str,
            "rates_mode": str,
            "exchange_types": [{"name": str, "description": str, "enabled": bool}],
            "message_stats": {
                "publish": int,
                "publish_details": {"rate": float},
                "deliver_details": {"rate": float},
                "deliver_no_ack_details": {"rate": float},
            },
            "churn_rates": {"connection_created": int, "queue_declared": int},
            "queue_totals": {
                "messages": int,
                "messages_ready": int,
                "messages_unacknowledged": int,
            },
            "object_totals": {
                "channels": int,
                "connections": int,
                "consumers": int,
                "exchanges": int,
                "queues": int,
            },
            "listeners": [{"node": str, "protocol": str, "ip_address": str, "port": int}],
            "contexts": list,
        },
    ),
}


def check(keys: Any, value: Any, where: str) -> None:
    """That every key is there, and holds what it should."""
    if isinstance(keys, list):
        for each in value:
            check(keys[0], each, where)
    elif isinstance(keys, dict):
        for key, kind in keys.items():
            assert key in value, f"{where}.{key}"
            check(kind, value[key], f"{where}.{key}")
    else:
        assert isinstance(value, keys), f"{where} is {value!r}"
        assert keys is not int or not isinstance(value, bool), where


@pytest.fixture
async def busy(api: Api, broker: Broker) -> Peer:
    """A broker with one of everything."""
    await api.put("/policies/%2F/p", {"pattern": "^q", "definition": {"max-length": 9}})
    operators = {"pattern": "^q", "definition": {"expires": 99999}}
    await api.put("/operator-policies/%2F/p", operators)
    topics = {"exchange": "amq.topic", "write": ".*", "read": ".*"}
    await api.put("/topic-permissions/%2F/guest", topics)
    await api.put("/global-parameters/gp", {"value": "said"})
    peer = Peer(broker).open(1)
    peer.declare("q")
    peer.call(commands.Queue.Bind(0, "q", "amq.topic", "a.#"))
    peer.publish("q", b"one", b"two")
    peer.consume("q", "tag")
    return peer


@pytest.mark.parametrize("name", OBJECTS)
async def test_every_key_that_clients_read_is_there(api: Api, busy: Peer, name: str) -> None:
    path, keys = OBJECTS[name]
    answer = await api.get(path)
    found = answer if isinstance(answer, list) else [answer]

    assert found
    for each in found:
        check(keys, each, name)


async def test_an_idle_broker_has_sums_too(api: Api) -> None:
    overview = await api.get("/overview")

    assert overview["message_stats"] == {}
    assert overview["queue_totals"]["messages"] == 0
    assert overview["object_totals"]["exchanges"] == 7


async def test_a_queue_that_nothing_went_through_has_no_message_stats(api: Api) -> None:
    await api.put("/queues/%2F/q")

    [queue] = await api.get("/queues")

    assert "message_stats" not in queue
    assert queue["policy"] is None
    assert queue["arguments"] == {}


async def test_a_queue_by_itself_names_its_consumers(api: Api, busy: Peer) -> None:
    queue = await api.get("/queues/%2F/q")

    [consumer] = queue["consumer_details"]
    assert consumer["consumer_tag"] == "tag"
    assert consumer["channel_details"]["number"] == 1

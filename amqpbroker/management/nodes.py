"""The nodes of a cluster, as one of them sees them."""

from typing import Any

from amqpbroker import __version__
from amqpbroker.broker.broker import Broker
from amqpbroker.management import elsewhere, totals
from amqpbroker.management.call import Call, not_found
from amqpbroker.management.facts import NodeFacts
from amqpbroker.management.listing import Listing
from amqpbroker.management.overview import VERSION, contexts, exchange_types

STORE_AWAY = "etcd does not answer: nothing can be declared, bound or deleted"
"""What an operator is told while the store of a cluster is away."""
_MEMORY = (
    "connection_readers",
    "connection_writers",
    "connection_channels",
    "connection_other",
    "queue_procs",
    "queue_slave_procs",
    "quorum_queue_procs",
    "quorum_queue_dlx_procs",
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
)
"""What RabbitMQ breaks its memory down into."""


async def nodes(call: Call) -> Listing:
    """The nodes of the cluster."""
    cluster = call.cluster
    names = [call.broker.name] if cluster is None else sorted({call.broker.name, *cluster.nodes})
    told = {each["name"]: each for each in await elsewhere.objects(call, "node")}
    found = [_node(call, name, told.get(name)) for name in names]
    return Listing(found, lambda node: node, lambda node: (node["name"],), is_paged=False)


async def node(call: Call) -> Any:
    """One node."""
    name = call.path["node"]
    for each in (await nodes(call)).items:
        if each["name"] == name:
            return each
    raise not_found()


def _node(call: Call, name: str, told: dict[str, Any] | None) -> dict[str, Any]:
    """A node: this one, or what another one has told of itself, and what is known of it here."""
    cluster = call.cluster
    if name == call.broker.name or cluster is None:
        return this_node(call)
    member = cluster.running.get(name)
    if member is None:
        return {"name": name, "type": "disc", "running": False}
    parted = {"partitions": [] if name in cluster.linked else [call.broker.name]}
    if told is not None:
        return told | parted
    return {
        **this_node(call),
        **{key: 0 for key, value in this_node(call).items() if isinstance(value, int | float)},
        "name": name,
        "running": True,
        "being_drained": member.maintenance,
        **parted,
        "os_pid": "",
        "uptime": max(0, call.broker.world.clock.wall_ms() - member.started),
        "mem_alarm": "memory" in member.alarms,
        "disk_free_alarm": "disk" in member.alarms,
        "contexts": [],
        "db_dir": "",
        "config_files": [],
        "applications": _applications(member.v),
        "amqpbroker_alarms": [],
    }


def _applications(version: str) -> list[dict[str, Any]]:
    return [
        {"name": "rabbit", "description": "RabbitMQ", "version": VERSION},
        {"name": "amqpbroker", "description": "amqpbroker", "version": version},
    ]


def own_alarms(broker: Broker, facts: NodeFacts) -> tuple[str, ...]:
    """What runs low on this node."""
    return broker.alarms if facts.cluster() is None else facts.alarms()


def this_node(call: Call) -> dict[str, Any]:
    """This node, as it tells of itself."""
    broker, facts = call.broker, call.facts
    world, cluster = broker.world, call.cluster
    used_bytes = world.memory.used_bytes()
    alarms = own_alarms(broker, facts)
    measured = {
        "mem_used": used_bytes,
        "fd_used": facts.files_used(),
        "sockets_used": len(broker.sessions),
        "proc_used": 1,
        "disk_free": facts.disk_free_bytes(),
        **dict.fromkeys(_NEVER_COUNTED, 0),
        **totals.churn(call.broker),
    }
    about = {
        "name": broker.name,
        "type": "disc" if facts.data_dir else "ram",
        "running": True,
        "being_drained": facts.is_drained(),
        "partitions": [],
        "os_pid": str(facts.process_id),
        "uptime": round((world.clock.monotonic_s() - facts.started_s) * 1000),
        "run_queue": 0,
        "processors": facts.processors,
        "fd_total": facts.files_max,
        "sockets_total": broker.limits.connections_max,
        "proc_total": 1,
        "mem_limit": facts.memory_limit_bytes(),
        "mem_alarm": "memory" in alarms,
        "mem_calculation_strategy": "rss",
        "disk_free_limit": facts.disk_free_limit_bytes(),
        "disk_free_alarm": "disk" in alarms,
        "rates_mode": "basic",
        "net_ticktime": 60,
        "exchange_types": exchange_types(),
        "auth_mechanisms": [
            {"name": name, "description": f"SASL {name}", "enabled": True}
            for name in ("AMQPLAIN", "PLAIN")
        ],
        "applications": _applications(__version__),
        "contexts": contexts(call),
        "log_files": ["<stderr>"],
        "db_dir": facts.data_dir,
        "config_files": [facts.config_file] if facts.config_file else [],
        "enabled_plugins": ["rabbitmq_management", "rabbitmq_prometheus"],
        "ra_open_file_metrics": {"ra_log_wal": 0, "ra_log_segment_writer": 0},
        "cluster_links": [],
        "amqpbroker_alarms": [] if cluster is None or not cluster.is_store_away else [STORE_AWAY],
        "metrics_gc_queue_length": {},
    }
    return {**about, **call.rates.details(facts, measured)}


_NEVER_COUNTED = (
    "gc_num",
    "gc_bytes_reclaimed",
    "context_switches",
    "io_read_count",
    "io_read_bytes",
    "io_read_avg_time",
    "io_write_count",
    "io_write_bytes",
    "io_write_avg_time",
    "io_sync_count",
    "io_sync_avg_time",
    "io_seek_count",
    "io_seek_avg_time",
    "io_reopen_count",
    "mnesia_ram_tx_count",
    "mnesia_disk_tx_count",
    "msg_store_read_count",
    "msg_store_write_count",
    "queue_index_write_count",
    "queue_index_read_count",
)
"""What has a meaning in RabbitMQ's machine only."""


async def memory(call: Call) -> Any:
    """What a node's memory is taken by: RabbitMQ's parts do not exist here, the whole does."""
    return await _memory_of(call)


async def relative_memory(call: Call) -> Any:
    """The same in percent."""
    await _memory_of(call)
    return {"memory": {**dict.fromkeys(_MEMORY, 0), "other_system": 100, "total": 100}}


async def _memory_of(call: Call) -> dict[str, Any]:
    """What is said of the memory of the path's node. Raises `Fault` (404)."""
    name = call.path["node"]
    if name == call.broker.name:
        return this_memory(call)
    for told in await elsewhere.objects(call, "memory"):
        if told["name"] == name:
            return {"memory": told["memory"]}
    raise not_found()


def this_memory(call: Call) -> dict[str, Any]:
    """What this node's memory is taken by."""
    used_bytes = call.broker.world.memory.used_bytes()
    total = {"erlang": used_bytes, "rss": used_bytes, "allocated": used_bytes}
    parts = dict.fromkeys(_MEMORY, 0) | {"other_system": used_bytes}
    return {"memory": {**parts, "strategy": "rss", "total": total}}

"""The broker as a whole, and its nodes."""

from typing import Any

from amqpbroker import __version__
from amqpbroker.management import rendering, totals
from amqpbroker.management.call import Call, not_found
from amqpbroker.management.listing import Listing
from amqpbroker.routing.router import EXCHANGE_TYPES

VERSION = "3.13.7"
"""The RabbitMQ that clients are told they talk to."""
_CONTEXTS = {
    "http": "RabbitMQ Management",
    "http/prometheus": "RabbitMQ Prometheus",
}
"""What is served over HTTP, by protocol."""
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


def exchange_types() -> list[dict[str, Any]]:
    """The types of exchanges that there are."""
    return [
        {
            "name": name,
            "description": f"AMQP {name} exchange, as per the AMQP specification",
            "enabled": True,
        }
        for name in sorted(EXCHANGE_TYPES)
    ]


def listeners(call: Call) -> list[dict[str, Any]]:
    """Where something is served."""
    return [
        {
            "node": call.broker.name,
            "protocol": listening.protocol,
            "ip_address": listening.host,
            "port": listening.port,
            "socket_opts": {},
        }
        for listening in sorted(call.facts.listeners, key=lambda each: (each.protocol, each.port))
    ]


def _contexts(call: Call) -> list[dict[str, Any]]:
    return [
        {
            "description": _CONTEXTS[listening.protocol],
            "path": "/",
            "cowboy_opts": "[]",
            "ip": listening.host,
            "port": str(listening.port),
        }
        for listening in call.facts.listeners
        if listening.protocol in _CONTEXTS
    ]


async def overview(call: Call) -> Any:
    """What is to be seen first; users who are no monitors see what is theirs."""
    broker = call.broker
    vhosts = [v for v in broker.vhosts.values() if call.is_monitor or call.may_enter(v.name)]
    lengths, counts = await totals.stats(broker, vhosts)
    sums = lengths | counts | totals.churn(call.broker)
    details = call.rates.details(broker if call.is_monitor else call.user, sums)

    def only(names: dict[str, int]) -> dict[str, Any]:
        return {name: details[name] for name in details if name.removesuffix("_details") in names}

    seen = list(rendering.connections(call))
    about = {
        "management_version": VERSION,
        "rates_mode": "basic",
        "sample_retention_policies": {"global": [], "basic": [], "detailed": []},
        "exchange_types": exchange_types(),
        "product_version": VERSION,
        "product_name": "RabbitMQ",
        "rabbitmq_version": VERSION,
        "amqpbroker_version": __version__,
        "cluster_name": broker.name,
        "erlang_version": "",
        "erlang_full_version": "",
        "release_series_support_status": "supported",
        "disable_stats": False,
        "is_op_policy_updating_enabled": True,
        "enable_queue_totals": False,
        "message_stats": only(counts) if any(counts.values()) else {},
        "churn_rates": only(totals.churn(call.broker)),
        "queue_totals": only(lengths),
        "object_totals": {
            "channels": sum(len(session.channels) for session in seen),
            "connections": len(seen),
            "consumers": sum(
                len(channel.consumers) for session in seen for channel in session.channels.values()
            ),
            "exchanges": sum(len(vhost.router.exchanges) for vhost in vhosts),
            "queues": sum(len(vhost.queues) for vhost in vhosts),
        },
        "statistics_db_event_queue": 0,
        "node": broker.name,
    }
    if not call.is_monitor:
        return about
    contexts = [{"ssl_opts": [], "node": broker.name, **each} for each in _contexts(call)]
    return {**about, "listeners": listeners(call), "contexts": contexts}


def cluster_name(call: Call) -> Any:
    """What the cluster is called."""
    return {"name": call.broker.name}


def extensions(call: Call) -> Any:
    """What pages there are beside the API."""
    return []


def rebalance(call: Call) -> None:
    """Spread the leaders of queues over the nodes: one node has them all."""


# -- nodes ---------------------------------------------------------------------------------------


def nodes(call: Call) -> Listing:
    """The nodes of the cluster."""
    return Listing(
        [call.broker.name],
        lambda name: _node(call),
        lambda name: (name,),
        is_paged=False,
    )


def node(call: Call) -> Any:
    """One node."""
    if call.path["node"] != call.broker.name:
        raise not_found()
    return _node(call)


def _node(call: Call) -> dict[str, Any]:
    broker, facts = call.broker, call.facts
    world = broker.world
    used_bytes, alarms = world.memory.used_bytes(), broker.alarms
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
        "being_drained": False,
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
        "applications": [
            {"name": "rabbit", "description": "RabbitMQ", "version": VERSION},
            {"name": "amqpbroker", "description": "amqpbroker", "version": __version__},
        ],
        "contexts": _contexts(call),
        "log_files": ["<stderr>"],
        "db_dir": facts.data_dir,
        "config_files": [facts.config_file] if facts.config_file else [],
        "enabled_plugins": ["rabbitmq_management", "rabbitmq_prometheus"],
        "ra_open_file_metrics": {"ra_log_wal": 0, "ra_log_segment_writer": 0},
        "cluster_links": [],
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


def memory(call: Call) -> Any:
    """What a node's memory is taken by: RabbitMQ's parts do not exist here, the whole does."""
    if call.path["node"] != call.broker.name:
        raise not_found()
    used_bytes = call.broker.world.memory.used_bytes()
    total = {"erlang": used_bytes, "rss": used_bytes, "allocated": used_bytes}
    parts = dict.fromkeys(_MEMORY, 0) | {"other_system": used_bytes}
    return {"memory": {**parts, "strategy": "rss", "total": total}}


def relative_memory(call: Call) -> Any:
    """The same in percent."""
    if call.path["node"] != call.broker.name:
        raise not_found()
    return {"memory": {**dict.fromkeys(_MEMORY, 0), "other_system": 100, "total": 100}}

"""The broker as a whole."""

from typing import Any

from amqpbroker import __version__
from amqpbroker.management import rendering, totals
from amqpbroker.management.call import Call
from amqpbroker.routing.router import EXCHANGE_TYPES

VERSION = "3.13.7"
"""The RabbitMQ that clients are told they talk to."""
_CONTEXTS = {
    "http": "RabbitMQ Management",
    "http/prometheus": "RabbitMQ Prometheus",
}
"""What is served over HTTP, by protocol."""


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


def contexts(call: Call) -> list[dict[str, Any]]:
    """What is served over HTTP."""
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
    await call.look_around()
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
        "cluster_name": call.cluster_name,
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
    served = [{"ssl_opts": [], "node": broker.name, **each} for each in contexts(call)]
    return {**about, "listeners": listeners(call), "contexts": served}


def cluster_name(call: Call) -> Any:
    """What the cluster is called."""
    return {"name": call.cluster_name}


def extensions(call: Call) -> Any:
    """What pages there are beside the API."""
    return []


def rebalance(call: Call) -> None:
    """Spread the leaders of queues over the nodes: one node has them all."""

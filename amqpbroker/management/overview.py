"""The broker as a whole, and its nodes."""

from typing import Any

from amqpbroker import __version__
from amqpbroker.management.call import Call
from amqpbroker.routing.router import EXCHANGE_TYPES

VERSION = "3.13.7"
"""The RabbitMQ that clients are told they talk to."""


def exchange_types() -> list[dict[str, Any]]:
    """The types of exchanges that there are."""
    return [
        {
            "name": name,
            "description": f"AMQP {name} exchange, as per the AMQP specification",
            "enabled": True,
        }
        for name in sorted(EXCHANGE_TYPES)
        if name
    ]


def overview(call: Call) -> Any:
    """What is to be seen first."""
    broker = call.broker
    vhosts = [v for v in broker.vhosts.values() if call.is_monitor or call.may_enter(v.name)]
    return {
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
        "message_stats": {},
        "queue_totals": {},
        "object_totals": {
            "exchanges": sum(len(vhost.router.exchanges) for vhost in vhosts),
            "queues": sum(len(vhost.queues) for vhost in vhosts),
            "connections": len(broker.sessions),
        },
        "node": broker.name,
        "listeners": [
            {
                "node": broker.name,
                "protocol": listening.protocol,
                "ip_address": listening.host,
                "port": listening.port,
                "socket_opts": {},
            }
            for listening in call.facts.listeners
        ],
    }

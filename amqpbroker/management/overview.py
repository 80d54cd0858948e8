"""The broker as a whole."""

from typing import Any

from amqpbroker import __version__
from amqpbroker.definitions import CLUSTER_NAME, GlobalParameterDefinition, put
from amqpbroker.management import connections, elsewhere, totals
from amqpbroker.management.call import Call, bad_request, not_authorised
from amqpbroker.queues.queue import Pending
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


def doors_here(call: Call) -> dict[str, Any]:
    """Where this node serves something."""
    served = [{"ssl_opts": [], "node": call.broker.name, **each} for each in contexts(call)]
    return {"listeners": listeners(call), "contexts": served}


def listeners(call: Call) -> list[dict[str, Any]]:
    """Where this node serves something, by protocol."""
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
    """What this node serves over HTTP."""
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
    found, churn = await totals.of_vhosts(call, vhosts)
    sums = totals.Sums()
    for each in found.values():
        sums.add(each.counts)
    lengths, counts = sums.only(totals.LENGTHS), sums.only(totals.COUNTED)
    everything = lengths | counts | churn
    details = call.rates.details(broker if call.is_monitor else call.user, everything)

    def only(names: dict[str, int]) -> dict[str, Any]:
        return {name: details[name] for name in details if name.removesuffix("_details") in names}

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
        "churn_rates": only(churn),
        "queue_totals": only(lengths),
        "object_totals": {
            **await _objects(call, sums),
            "exchanges": sum(len(vhost.router.exchanges) for vhost in vhosts),
            "queues": sum(len(vhost.queues) for vhost in vhosts),
        },
        "statistics_db_event_queue": 0,
        "node": broker.name,
    }
    if not call.is_monitor:
        return about
    doors = [doors_here(call), *await elsewhere.objects(call, "doors")]
    return about | {name: [each for there in doors for each in there[name]] for name in doors[0]}


async def _objects(call: Call, sums: totals.Sums) -> dict[str, int]:
    """How many connections, channels and consumers the user sees: all, or its own."""
    if call.is_monitor:
        return sums.only(totals.OBJECTS)
    user = call.user.name
    own = await connections.gathered(call, connections.sessions(call, user=user))
    here = [channel for session in own for channel in session.channels.values()]
    there = await elsewhere.objects(call, "channels", user=user)
    told = await elsewhere.tell(call, "connections", user=user)
    return {
        "channels": len(here) + len(there),
        "connections": len(own) + sum(len(rows) for rows in told.values()),
        "consumers": sum(len(channel.consumers) for channel in here)
        + sum(channel["consumer_count"] for channel in there),
    }


def cluster_name(call: Call) -> Any:
    """What the cluster is called."""
    return {"name": call.cluster_name}


def put_cluster_name(call: Call) -> Pending[None] | None:
    """Call the cluster something else."""
    if not call.is_administrator:
        raise not_authorised("Not administrator user")
    [name] = call.fields("name")
    if not isinstance(name, str):
        raise bad_request("name must be a string")
    return call.broker.submit(put(GlobalParameterDefinition(CLUSTER_NAME, name)))


def extensions(call: Call) -> Any:
    """What pages there are beside the API."""
    return []


def rebalance(call: Call) -> None:
    """Spread the leaders of queues over the nodes: one node has them all."""

"""Feature flags: what nodes of a cluster must agree on before they may use it.

RabbitMQ's tools look at them before an upgrade, and want all of them enabled. Those of RabbitMQ
3.13 are listed whose features are here (rabbit_core_ff.erl, rabbit_mgmt_ff.erl); not those of
queue types that are not.
"""

from typing import Any

from amqpbroker.management.call import Call, not_found

_CORE, _METRICS = "rabbit", "rabbitmq_management_agent"
_FLAGS = (
    (
        "classic_mirrored_queue_version",
        "Support setting version for classic mirrored queues",
        _CORE,
    ),
    ("direct_exchange_routing_v2", "v2 direct exchange routing implementation", _CORE),
    ("drop_unroutable_metric", "Count unroutable publishes to be dropped in stats", _METRICS),
    ("empty_basic_get_metric", "Count AMQP `basic.get` on empty queues in stats", _METRICS),
    ("feature_flags_v2", "Feature flags subsystem V2", _CORE),
    (
        "implicit_default_bindings",
        "Default bindings are now implicit, instead of being stored in the database",
        _CORE,
    ),
    ("maintenance_mode_status", "Maintenance mode status", _CORE),
    ("virtual_host_metadata", "Virtual host metadata (description, tags, etc)", _CORE),
)


def flags(call: Call) -> Any:
    """All flags, each of them enabled."""
    return [
        {
            "name": name,
            "desc": description,
            "doc_url": "",
            "state": "enabled",
            "stability": "required",
            "provided_by": provider,
        }
        for name, description, provider in _FLAGS
    ]


def is_flag(call: Call) -> bool:
    """Whether there is a flag of that name."""
    return any(name == call.path["name"] for name, *_ in _FLAGS)


def enable(call: Call) -> None:
    """Enable a flag, which it is. Raises `Fault` (404)."""
    if not is_flag(call):
        raise not_found()

"""The broker's objects as RabbitMQ's JSON (rabbit_mgmt_format.erl, rabbit_mgmt_db.erl of 3.13).

Every key that clients of RabbitMQ's API read is there. What has no meaning in this broker has the
value that RabbitMQ has for nothing.
"""

import base64
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus
from zlib import crc32

import attrs

from amqpbroker.broker.vhost import VHost
from amqpbroker.definitions import BindingDefinition, PolicyDefinition, UserDefinition
from amqpbroker.management.call import Call
from amqpbroker.management.encoding import table
from amqpbroker.queues.queue import Queue
from amqpbroker.routing.router import Exchange


def time_text(time_ms: int) -> str:
    """A time on the calendar (RFC 3339, in UTC)."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")


def record(definition: Any) -> dict[str, Any]:
    """A definition with its own names of fields."""
    return attrs.asdict(definition, recurse=False)


def user(definition: UserDefinition) -> dict[str, Any]:
    """A user, whose password cannot be told."""
    return {
        "name": definition.name,
        "password_hash": definition.password_hash,
        "hashing_algorithm": definition.hashing_algorithm,
        "tags": list(definition.tags),
        "limits": {},
    }


def vhost(call: Call, there: VHost) -> dict[str, Any]:
    """A virtual host."""
    definition = there.definition
    about = {"description": definition.description, "tags": list(definition.tags)}
    if definition.default_queue_type:
        about["default_queue_type"] = definition.default_queue_type
    return {
        "name": definition.name,
        "default_queue_type": "undefined",
        **about,
        "metadata": about,
        "tracing": False,
        "cluster_state": {call.broker.name: "running"},
    }


def policy(definition: PolicyDefinition) -> dict[str, Any]:
    """A policy."""
    return {
        "vhost": definition.vhost,
        "name": definition.name,
        "pattern": definition.pattern,
        "apply-to": definition.apply_to,
        "definition": definition.definition,
        "priority": definition.priority,
    }


# -- queues, exchanges, bindings -----------------------------------------------------------------


def queue(call: Call, there: Queue) -> dict[str, Any] | None:
    """A queue as it is listed; None: it was deleted meanwhile."""
    if there.version:
        return None
    definition, stat = there.definition, there.glance()
    messages = {
        "messages": stat.ready + stat.unsettled,
        "messages_ready": stat.ready,
        "messages_unacknowledged": stat.unsettled,
    }
    return {
        "name": definition.name,
        "vhost": definition.vhost,
        "type": definition.type,
        "durable": definition.durable,
        "auto_delete": definition.auto_delete,
        "exclusive": definition.exclusive,
        "arguments": table(definition.arguments),
        "node": call.broker.name,
        "state": "running",
        "consumers": stat.consumers,
        **call.rates.details(there, messages),
    }


def exchange(call: Call, there: Exchange) -> dict[str, Any]:
    """An exchange as it is listed."""
    definition = there.definition
    return {
        "name": definition.name,
        "vhost": definition.vhost,
        "type": definition.type,
        "durable": definition.durable,
        "auto_delete": definition.auto_delete,
        "internal": definition.internal,
        "arguments": table(definition.arguments),
        "user_who_performed_action": "rmq-internal",
    }


def binding(there: BindingDefinition) -> dict[str, Any]:
    """A binding."""
    return {
        "source": there.source,
        "vhost": there.vhost,
        "destination": there.destination,
        "destination_type": there.destination_type,
        "routing_key": there.routing_key,
        "arguments": table(there.arguments),
        "properties_key": properties_key(there),
    }


def properties_key(binding: BindingDefinition) -> str:
    """What names a binding among those between the same two ends, in a path."""
    key = quote_plus(binding.routing_key, safe="", errors="surrogateescape").replace("~", "%7E")
    if not binding.arguments:
        return key or "~"
    digest = crc32(repr(sorted(binding.arguments.items())).encode("utf-8", "surrogateescape"))
    octets = digest.to_bytes(4, "big")
    return f"{key}~{base64.urlsafe_b64encode(octets).decode().rstrip('=')}"

"""The broker's objects as RabbitMQ's JSON (rabbit_mgmt_format.erl, rabbit_mgmt_db.erl of 3.13).

Every key that clients of RabbitMQ's API read is there. What has no meaning in this broker has the
value that RabbitMQ has for nothing.
"""

import base64
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus
from zlib import crc32

import attrs

from amqpbroker.broker.channel import Channel
from amqpbroker.broker.consumer import ChannelConsumer
from amqpbroker.broker.policy import InForce
from amqpbroker.broker.session import Session
from amqpbroker.broker.vhost import VHost
from amqpbroker.definitions import BindingDefinition, PolicyDefinition, UserDefinition
from amqpbroker.management.call import Call
from amqpbroker.management.encoding import table
from amqpbroker.queues.queue import Queue, QueueCounts, QueueSizes, QueueStat
from amqpbroker.routing.router import Exchange

NO_COLLECTION = {
    "max_heap_size": -1,
    "min_bin_vheap_size": -1,
    "min_heap_size": -1,
    "fullsweep_after": -1,
    "minor_gcs": -1,
}
"""What RabbitMQ says of the garbage of a process that it knows nothing of."""
BROKER_USER = "rmq-internal"
"""Who has made what nobody is known to have made."""


def time_text(time_ms: int) -> str:
    """A time on the calendar (RFC 3339, in UTC)."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")


def record(definition: Any) -> dict[str, Any]:
    """A definition with its own names of fields."""
    return attrs.asdict(definition, recurse=False)


# -- users, virtual hosts, policies --------------------------------------------------------------


def user(definition: UserDefinition) -> dict[str, Any]:
    """A user, whose password cannot be told."""
    return {
        "name": definition.name,
        "password_hash": definition.password_hash,
        "hashing_algorithm": definition.hashing_algorithm,
        "tags": list(definition.tags),
        "limits": definition.limits,
    }


def vhost_metadata(there: VHost) -> dict[str, Any]:
    """What was said of a virtual host."""
    definition = there.definition
    about: dict[str, Any] = {
        "description": definition.description,
        "tags": list(definition.tags),
    }
    if definition.default_queue_type:
        about["default_queue_type"] = definition.default_queue_type
    return about


def vhost(call: Call, there: VHost) -> dict[str, Any]:
    """A virtual host as such; what is in it is counted elsewhere."""
    about = vhost_metadata(there)
    return {
        "name": there.name,
        "default_queue_type": "undefined",
        **about,
        "metadata": about,
        "tracing": False,
        "cluster_state": dict.fromkeys(_running(call), "running"),
    }


def _running(call: Call) -> list[str]:
    return [call.broker.name] if call.cluster is None else sorted(call.cluster.running)


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


def _in_force(found: InForce) -> dict[str, Any]:
    return {
        "policy": None if found.policy is None else found.policy.name,
        "operator_policy": None if found.operator is None else found.operator.name,
        "effective_policy_definition": found.definition,
    }


# -- queues --------------------------------------------------------------------------------------


def messages(stat: QueueStat) -> dict[str, int]:
    """How many messages a queue has."""
    return {
        "messages": stat.ready + stat.unsettled,
        "messages_ready": stat.ready,
        "messages_unacknowledged": stat.unsettled,
    }


_QUEUE_BYTES = 1400
"""What a queue takes in memory without its messages, about."""


def queue_sizes(stat: QueueStat, sizes: QueueSizes) -> dict[str, int]:
    """What the messages of a queue come to; those that wait are the first to leave memory."""
    message_bytes = sizes.ready_bytes + sizes.unsettled_bytes
    ready_ram = max(0, stat.ready - sizes.paged_out)
    ram = stat.ready + stat.unsettled - sizes.paged_out
    ram_bytes = message_bytes - sizes.paged_out_bytes
    return {
        "messages_ram": ram,
        "messages_ready_ram": ready_ram,
        "messages_unacknowledged_ram": ram - ready_ram,
        "messages_persistent": sizes.persistent,
        "messages_paged_out": sizes.paged_out,
        "message_bytes": message_bytes,
        "message_bytes_ready": sizes.ready_bytes,
        "message_bytes_unacknowledged": sizes.unsettled_bytes,
        "message_bytes_ram": ram_bytes,
        "message_bytes_persistent": sizes.persistent_bytes,
        "message_bytes_paged_out": sizes.paged_out_bytes,
        "memory": _QUEUE_BYTES + ram_bytes,
    }


def queue_counts(counts: QueueCounts) -> dict[str, int]:
    """What went through a queue."""
    return {
        "publish": counts.published,
        "deliver": counts.delivered,
        "deliver_no_ack": counts.delivered_no_ack,
        "get": counts.got,
        "get_no_ack": counts.got_no_ack,
        "get_empty": counts.got_empty,
        "deliver_get": counts.delivered + counts.delivered_no_ack + counts.got + counts.got_no_ack,
        "redeliver": counts.redelivered,
        "ack": counts.acked,
    }


def message_stats(details: dict[str, Any], counts: dict[str, int]) -> dict[str, Any]:
    """``message_stats``, which an object that nothing has gone through does not have."""
    if not any(counts.values()):
        return {}
    stats = {}
    for name in counts:
        stats[name], stats[f"{name}_details"] = details[name], details[f"{name}_details"]
    return {"message_stats": stats}


def queue(call: Call, there: Queue) -> dict[str, Any] | None:
    """A queue as it is listed; None: it was deleted meanwhile."""
    if there.version:
        return None
    definition = there.definition
    node = definition.leader or call.broker.name
    in_force = _in_force(call.broker.vhosts[definition.vhost].policies.of_queue(definition))
    about = {
        "name": definition.name,
        "vhost": definition.vhost,
        "type": definition.type,
        "durable": definition.durable,
        "auto_delete": definition.auto_delete,
        "exclusive": definition.exclusive,
        "arguments": table(definition.arguments),
        "node": node,
        "state": "running" if call.reaches(node) else "down",
        **in_force,
        **_mirrors(there, in_force),
        "recoverable_slaves": None,
        "storage_version": 2,
    }
    return about if about["state"] == "down" else about | _queue_in_numbers(call, there)


def _queue_in_numbers(call: Call, there: Queue) -> dict[str, Any]:
    """What is in a queue, and what went through it; nobody knows that of one that is down."""
    stat = there.glance()
    lengths, counts = messages(stat), queue_counts(there.counts)
    details = call.rates.details(there, lengths | counts)
    capacity: float = 0
    if stat.consumers:
        capacity = 0.0 if stat.ready else 1.0
    return {
        **_owner(there),
        "consumers": stat.consumers,
        "consumer_utilisation": capacity,
        "consumer_capacity": capacity,
        "exclusive_consumer_tag": None,
        "single_active_consumer_tag": None,
        "idle_since": time_text(call.rates.changed_ms(there)),
        **{name: value for name, value in details.items() if name.startswith("messages")},
        **message_stats(details, counts),
        **queue_sizes(stat, there.sizes()),
        "head_message_timestamp": None,
        "reductions": 0,
        "reductions_details": {"rate": 0.0},
        "garbage_collection": NO_COLLECTION,
    }


def _mirrors(there: Queue, in_force: dict[str, Any]) -> dict[str, Any]:
    """Where a queue is mirrored, if a policy says that it is."""
    if "ha-mode" not in in_force["effective_policy_definition"] or there.definition.exclusive:
        return {}
    return {"slave_nodes": [], "synchronised_slave_nodes": []}


def _owner(there: Queue) -> dict[str, Any]:
    title = there.owner_title
    return {} if title is None else {"owner_pid_details": _details(*title)}


def queue_in_full(rendered: dict[str, Any], consumers: list[dict[str, Any]]) -> dict[str, Any]:
    """A queue, with those who take from it."""
    exclusive = [each["consumer_tag"] for each in consumers if each["exclusive"]]
    return {
        **rendered,
        "exclusive_consumer_tag": exclusive[0] if exclusive else None,
        "consumer_details": consumers,
        "deliveries": [],
        "incoming": [],
    }


# -- exchanges and bindings ----------------------------------------------------------------------


def exchange(call: Call, there: Exchange) -> dict[str, Any]:
    """An exchange as it is listed."""
    definition = there.definition
    vhost = call.broker.vhosts[definition.vhost]
    counts = {"publish_in": there.published_in, "publish_out": there.published_out}
    found = vhost.policies.of_exchange(definition)
    policy = {} if found.policy is None else {"policy": found.policy.name}
    return {
        "name": definition.name,
        "vhost": definition.vhost,
        "type": definition.type,
        "durable": definition.durable,
        "auto_delete": definition.auto_delete,
        "internal": definition.internal,
        "arguments": table(definition.arguments),
        "user_who_performed_action": BROKER_USER,
        **policy,
        **message_stats(call.rates.details(there, counts), counts),
    }


def exchange_in_full(call: Call, there: Exchange) -> dict[str, Any]:
    """An exchange by itself."""
    return {**exchange(call, there), "incoming": [], "outgoing": []}


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


# -- connections, channels, consumers ------------------------------------------------------------


def consumers(call: Call) -> Iterator[ChannelConsumer]:
    """The consumers on all channels of this node, whoever's they are."""
    for session in list(call.broker.sessions):
        for channel in list(session.channels.values()):
            yield from list(channel.consumers.values())


def connection(call: Call, there: Session) -> dict[str, Any] | None:
    """A connection; None: it has ended meanwhile."""
    if not there.is_open:
        return None
    assert there.user is not None
    assert there.vhost is not None
    wire = there.connection
    octets = {"recv_oct": wire.received_bytes, "send_oct": wire.sent_bytes}
    (peer_host, peer_port), (host, port) = there.ends.peer, there.ends.local
    name = there.client_properties.get("connection_name")
    return {
        "name": there.ends.name,
        "user_provided_name": name if isinstance(name, str) else "",
        "user": there.user.name,
        "user_who_performed_action": there.user.name,
        "vhost": there.vhost.name,
        "node": call.broker.name,
        "type": "network",
        "protocol": "AMQP 0-9-1",
        "auth_mechanism": there.mechanism,
        "state": there.state,
        "connected_at": there.connected_ms,
        "host": host,
        "port": port,
        "peer_host": peer_host,
        "peer_port": peer_port,
        "channels": len(there.channels),
        "channel_max": wire.channel_max,
        "frame_max": wire.frame_max,
        "timeout": wire.heartbeat_s,
        "client_properties": table(there.client_properties),
        **call.rates.details(there, octets),
        "recv_cnt": wire.received_count,
        "send_cnt": wire.sent_count,
        "send_pend": there.backlog_bytes,
        "ssl": False,
        **dict.fromkeys(_OF_TLS),
        "garbage_collection": NO_COLLECTION,
        "reductions": 0,
        "reductions_details": {"rate": 0.0},
    }


_OF_TLS = (
    "ssl_protocol",
    "ssl_key_exchange",
    "ssl_cipher",
    "ssl_hash",
    "peer_cert_subject",
    "peer_cert_issuer",
    "peer_cert_validity",
)


def _details(name: str, host: str, port: int) -> dict[str, Any]:
    """A connection, in short."""
    return {"name": name, "peer_host": host, "peer_port": port}


def _channel_name(there: Channel) -> str:
    return f"{there.session.ends.name} ({there.number})"


def channel(call: Call, there: Channel) -> dict[str, Any] | None:
    """A channel; None: it was closed meanwhile."""
    session = there.session
    if session.channels.get(there.number) is not there:
        return None
    assert session.user is not None
    window, transaction = there.publisher.window, there.transaction
    counts = {
        "publish": window.published_count,
        "confirm": window.confirmed_count,
        "return_unroutable": there.publisher.counts.returned,
        "drop_unroutable": there.publisher.counts.dropped,
        "deliver_get": there.next_tag - 1,
    }
    details = call.rates.details(there, counts)
    return {
        "name": _channel_name(there),
        "number": there.number,
        "user": session.user.name,
        "user_who_performed_action": session.user.name,
        "vhost": there.vhost.name,
        "node": call.broker.name,
        "connection_details": _details(*session.title),
        "state": session.state,
        "confirm": window.confirming,
        "transactional": transaction is not None,
        "consumer_count": len(there.consumers),
        "prefetch_count": there.prefetch_for_new,
        "global_prefetch_count": there.prefetch,
        "messages_unacknowledged": there.unsettled.count,
        "messages_unconfirmed": window.unconfirmed_count,
        "messages_uncommitted": 0 if transaction is None else transaction.published_count,
        "acks_uncommitted": 0 if transaction is None else transaction.settled_count,
        "pending_raft_commands": 0,
        "idle_since": time_text(call.rates.changed_ms(there)),
        **message_stats(details, counts),
        "garbage_collection": NO_COLLECTION,
        "reductions": 0,
        "reductions_details": {"rate": 0.0},
    }


def channel_in_full(call: Call, there: Channel) -> dict[str, Any] | None:
    """A channel, with its consumers."""
    rendered = channel(call, there)
    if rendered is None:
        return None
    return {
        **rendered,
        "consumer_details": [consumer_of_channel(call, each) for each in there.consumers.values()],
        "deliveries": [],
        "publishes": [],
    }


def consumer_of_channel(call: Call, there: ChannelConsumer) -> dict[str, Any]:
    """A consumer."""
    channel = there.channel
    session = channel.session
    host, port = session.ends.peer
    definition = there.queue.definition
    return {
        "consumer_tag": there.tag,
        "queue": {"name": definition.name, "vhost": definition.vhost},
        "ack_required": not there.no_ack,
        "exclusive": there.exclusive,
        "prefetch_count": there.prefetch,
        "active": True,
        "activity_status": "up",
        "arguments": table(there.arguments),
        "consumer_timeout": 1_800_000,
        "channel_details": {
            "name": _channel_name(channel),
            "number": channel.number,
            "connection_name": session.ends.name,
            "node": call.broker.name,
            "peer_host": host,
            "peer_port": port,
            "user": "" if session.user is None else session.user.name,
        },
    }


def sum_of_counts(all_counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """The sums of counts, by name."""
    out: dict[str, int] = {}
    for counts in all_counts:
        for name, count in counts.items():
            out[name] = out.get(name, 0) + count
    return out

"""Metrics as Prometheus reads them, with the names of RabbitMQ's own (rabbitmq_prometheus).

``/metrics`` has the sums, whatever the number of objects; ``/metrics/per-object`` has each queue
and each connection; ``/metrics/detailed`` those families that are asked for, under names of their
own, and in the virtual hosts that are asked for. All are made in slices, as listings are.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import attrs

from amqpbroker import __version__
from amqpbroker.broker.broker import Broker
from amqpbroker.management import rendering, totals
from amqpbroker.management.call import Management
from amqpbroker.management.encoding import Pieces
from amqpbroker.management.facts import NodeFacts
from amqpbroker.management.listing import Breather
from amqpbroker.management.nodes import own_alarms
from amqpbroker.management.overview import VERSION
from amqpbroker.queues.queue import Queue

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_CHUNK_LINES = 256

Labels = dict[str, str]
Sample = tuple[Labels, float]

_PROTOCOL = {"protocol": "amqp091"}
_PROTOCOL_AND_TYPE = {"protocol": "amqp091", "queue_type": "rabbit_classic_queue"}


@attrs.frozen
class Family:
    """A metric: its name behind the prefix, what it says, and its samples."""

    name: str
    help: str
    samples: Iterable[Sample]

    @property
    def kind(self) -> str:
        """Whether it only ever rises."""
        return "counter" if self.name.endswith("_total") else "gauge"


async def aggregated(management: Management) -> Pieces:
    """The sums."""
    families = [*_node(management), *await _sums(management)]
    async for piece in _text(management, "rabbitmq_", families):
        yield piece


async def per_object(management: Management) -> Pieces:
    """The sums of the node, and what each object has."""
    everything = [family for families in _FAMILIES.values() for family in families(management, ())]
    async for piece in _text(management, "rabbitmq_", [*_node(management), *everything]):
        yield piece


async def detailed(
    management: Management, names: Collection[str], vhosts: Collection[str]
) -> Pieces:
    """The families that are named, for objects in ``vhosts`` (none: in all)."""
    wanted = [
        family
        for name, families in _FAMILIES.items()
        if name in names
        for family in families(management, vhosts)
    ]
    async for piece in _text(management, "rabbitmq_detailed_", wanted):
        yield piece


# -- text ----------------------------------------------------------------------------------------


async def _text(management: Management, prefix: str, families: Iterable[Family]) -> Pieces:
    breather = Breather(management.broker.world.clock)
    lines = []
    for family in families:
        name = prefix + family.name
        lines += [f"# TYPE {name} {family.kind}", f"# HELP {name} {family.help}"]
        for labels, value in family.samples:
            lines.append(f"{name}{_labels(labels)} {value:.16g}")
            if len(lines) > _CHUNK_LINES:
                yield _joined(lines)
                lines.clear()
            await breather.breathe()
    yield _joined(lines)


def _joined(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{pairs}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _one(name: str, text: str, value: float, labels: Labels | None = None) -> Family:
    return Family(name, text, [(labels or {}, value)])


# -- the node ------------------------------------------------------------------------------------


def _node(management: Management) -> Iterator[Family]:
    broker, facts = management.broker, management.facts
    cluster = facts.cluster()
    yield _one(
        "identity_info",
        "RabbitMQ node & cluster identity info",
        1,
        {
            "rabbitmq_node": broker.name,
            "rabbitmq_cluster": broker.name if cluster is None else cluster.name,
            "rabbitmq_cluster_permanent_id": "" if cluster is None else cluster.cluster_id,
        },
    )
    yield _one(
        "build_info",
        "RabbitMQ & Erlang/OTP version info",
        1,
        {
            "rabbitmq_version": VERSION,
            "prometheus_plugin_version": VERSION,
            "prometheus_client_version": "",
            "erlang_version": "",
            "product_name": "amqpbroker",
            "product_version": __version__,
        },
    )
    yield from _process(broker, facts)
    if cluster is not None:
        text = "is 1 while etcd does not answer the node"
        yield _one("alarms_metadata_store_away", text, cluster.is_store_away)
    alarms = (
        ("memory_used_watermark", "memory"),
        ("free_disk_space_watermark", "disk"),
        ("file_descriptor_limit", "file_descriptor_limit"),
    )
    for name, resource in alarms:
        text = f"is 1 if the alarm of the resource {resource} is in effect"
        yield _one(f"alarms_{name}", text, resource in own_alarms(broker, facts))


def _process(broker: Broker, facts: NodeFacts) -> Iterator[Family]:
    world = broker.world
    uptime_s = world.clock.monotonic_s() - facts.started_s
    yield _one("process_open_fds", "Open file descriptors", facts.files_used())
    yield _one("process_max_fds", "Open file descriptors limit", facts.files_max)
    yield _one("process_open_tcp_sockets", "Open TCP sockets", len(broker.sessions))
    yield _one("process_max_tcp_sockets", "Open TCP sockets limit", broker.limits.connections_max)
    yield _one("process_resident_memory_bytes", "Memory used in bytes", world.memory.used_bytes())
    yield _one(
        "resident_memory_limit_bytes", "Memory high watermark in bytes", facts.memory_limit_bytes()
    )
    yield _one(
        "disk_space_available_bytes", "Disk space available in bytes", facts.disk_free_bytes()
    )
    yield _one(
        "disk_space_available_limit_bytes",
        "Free disk space low watermark in bytes",
        facts.disk_free_limit_bytes(),
    )
    yield _one("erlang_uptime_seconds", "Node uptime", uptime_s)


# -- sums ----------------------------------------------------------------------------------------

_BY_PROTOCOL = (
    ("messages_received_total", "messages received from publishers", "publish"),
    ("messages_confirmed_total", "messages confirmed to publishers", "confirm"),
    (
        "messages_unroutable_dropped_total",
        "messages published as non-mandatory into an exchange and dropped as unroutable",
        "drop_unroutable",
    ),
    (
        "messages_unroutable_returned_total",
        "messages published as mandatory into an exchange and returned as unroutable",
        "return_unroutable",
    ),
)
_BY_TYPE = (
    (
        "messages_delivered_consume_manual_ack_total",
        "messages sent to consumers using basic.consume with manual acknowledgment",
        "deliver",
    ),
    (
        "messages_delivered_consume_auto_ack_total",
        "messages sent to consumers using basic.consume with automatic acknowledgment",
        "deliver_no_ack",
    ),
    (
        "messages_delivered_get_manual_ack_total",
        "messages sent to consumers using basic.get with manual acknowledgment",
        "get",
    ),
    (
        "messages_delivered_get_auto_ack_total",
        "messages sent to consumers using basic.get with automatic acknowledgment",
        "get_no_ack",
    ),
    ("messages_get_empty_total", "times basic.get operations fetched no message", "get_empty"),
    ("messages_redelivered_total", "messages redelivered to consumers", "redeliver"),
    ("messages_acknowledged_total", "messages acknowledged by consumers", "ack"),
    ("messages_delivered_total", "messages delivered to consumers", "deliver_get"),
)


async def _sums(management: Management) -> list[Family]:
    broker = management.broker
    counts = (await totals.of_node(broker)).counts
    sizes = await _size_sums(broker)
    there = totals.objects(broker)
    lost = counts["drop_unroutable"] + counts["return_unroutable"]
    waiting = there["unconfirmed"]
    received = "global_messages_received_confirm_total"
    return [
        _one("connections", "Connections currently open", there["connections"]),
        _one("channels", "Channels currently open", there["channels"]),
        _one("consumers", "Consumers currently connected", there["consumers"]),
        _one("queues", "Queues available", there["queues"]),
        *_churn(broker),
        _one(
            "queue_messages_ready",
            "Messages ready to be delivered to consumers",
            counts["messages_ready"],
        ),
        _one(
            "queue_messages_unacked",
            "Messages delivered to consumers but not yet acknowledged",
            counts["messages_unacknowledged"],
        ),
        _one("queue_messages", "Sum of ready and unacknowledged messages", counts["messages"]),
        _one("queue_consumers", "Consumers on a queue", there["consumers"]),
        *(_one(f"queue_{name}", text, sizes[key]) for name, text, key in _SIZES),
        *(
            _one(f"global_{name}", f"Total number of {text}", counts[key], _PROTOCOL)
            for name, text, key in _BY_PROTOCOL
        ),
        _one(
            received,
            "Total number of messages received from publishers using confirms",
            counts["confirm"] + waiting,
            _PROTOCOL,
        ),
        _one(
            "global_messages_routed_total",
            "Total number of messages routed to queues or streams",
            counts["publish"] - lost,
            _PROTOCOL,
        ),
        _one("global_publishers", "Publishers currently connected", there["publishers"], _PROTOCOL),
        _one("global_consumers", "Consumers currently connected", there["consumers"], _PROTOCOL),
        *(
            _one(f"global_{name}", f"Total number of {text}", counts[key], _PROTOCOL_AND_TYPE)
            for name, text, key in _BY_TYPE
        ),
    ]


def _churn(broker: Broker) -> Iterator[Family]:
    for name, count in totals.churn(broker).items():
        thing, act = name.split("_")
        said = "opened" if thing != "queue" and act == "created" else act
        yield _one(f"{thing}s_{said}_total", f"Total number of {thing}s {said}", count)


# -- each object ---------------------------------------------------------------------------------


def _of_queues(
    management: Management, vhosts: Collection[str], value: Callable[[Any], float]
) -> Iterator[Sample]:
    for vhost in list(management.broker.vhosts.values()):
        if not vhosts or vhost.name in vhosts:
            for queue in list(vhost.queues.values()):
                if queue.is_here:  # Each node tells of its own.
                    yield {"vhost": vhost.name, "queue": queue.definition.name}, value(queue)


def _queue_lengths(management: Management, vhosts: Collection[str]) -> Iterator[Family]:
    for name, text, value in (
        (
            "queue_messages_ready",
            "Messages ready to be delivered to consumers",
            lambda queue: queue.glance().ready,
        ),
        (
            "queue_messages_unacked",
            "Messages delivered to consumers but not yet acknowledged",
            lambda queue: queue.glance().unsettled,
        ),
        (
            "queue_messages",
            "Sum of ready and unacknowledged messages - total queue depth",
            lambda queue: queue.glance().ready + queue.glance().unsettled,
        ),
    ):
        yield Family(name, text, _of_queues(management, vhosts, value))


_SIZES = (
    ("process_memory_bytes", "Memory in bytes used by the queue", "memory"),
    ("messages_ram", "Ready and unacknowledged messages stored in memory", "messages_ram"),
    (
        "messages_ram_bytes",
        "Size of ready and unacknowledged messages stored in memory",
        "message_bytes_ram",
    ),
    ("messages_ready_ram", "Ready messages stored in memory", "messages_ready_ram"),
    (
        "messages_unacked_ram",
        "Unacknowledged messages stored in memory",
        "messages_unacknowledged_ram",
    ),
    ("messages_persistent", "Persistent messages", "messages_persistent"),
    (
        "messages_persistent_bytes",
        "Size in bytes of persistent messages",
        "message_bytes_persistent",
    ),
    ("messages_bytes", "Size in bytes of ready and unacknowledged messages", "message_bytes"),
    ("messages_ready_bytes", "Size in bytes of ready messages", "message_bytes_ready"),
    (
        "messages_unacked_bytes",
        "Size in bytes of all unacknowledged messages",
        "message_bytes_unacknowledged",
    ),
    ("messages_paged_out", "Messages paged out to disk", "messages_paged_out"),
    (
        "messages_paged_out_bytes",
        "Size in bytes of messages paged out to disk",
        "message_bytes_paged_out",
    ),
)
"""Metrics of queues, and which size of `rendering.queue_sizes` each is."""


def _sizes_of(queue: Queue) -> dict[str, int]:
    return rendering.queue_sizes(queue.glance(), queue.sizes())


def _queue_sizes(management: Management, vhosts: Collection[str]) -> Iterator[Family]:
    seen: dict[Queue, tuple[int, ...]] = {}

    def size(place: int) -> Callable[[Queue], int]:
        def one(queue: Queue) -> int:
            if queue not in seen:  # To weigh its messages once is enough.
                sizes = _sizes_of(queue)
                seen[queue] = tuple(sizes[key] for _, _, key in _SIZES)
            return seen[queue][place]

        return one

    for place, (name, text, _) in enumerate(_SIZES):
        yield Family(f"queue_{name}", text, _of_queues(management, vhosts, size(place)))


async def _size_sums(broker: Broker) -> Counter[str]:
    """What all queues of this node come to."""
    breather = Breather(broker.world.clock)
    sums: Counter[str] = Counter()
    for vhost in list(broker.vhosts.values()):
        for queue in list(vhost.queues.values()):
            if queue.is_here:
                sums.update(_sizes_of(queue))
            await breather.breathe()
    return sums


def _queue_consumers(management: Management, vhosts: Collection[str]) -> Iterator[Family]:
    samples = _of_queues(management, vhosts, lambda queue: queue.glance().consumers)
    yield Family("queue_consumers", "Consumers on a queue", samples)


def _queue_counts(management: Management, vhosts: Collection[str]) -> Iterator[Family]:
    for name, text, value in (
        (
            "queue_messages_published_total",
            "Total number of messages published to queues",
            lambda queue: queue.counts.published,
        ),
        (
            "queue_messages_delivered_total",
            "Total number of messages delivered to consumers",
            lambda queue: queue.counts.delivered + queue.counts.delivered_no_ack,
        ),
        (
            "queue_messages_acked_total",
            "Total number of messages acknowledged by consumers",
            lambda queue: queue.counts.acked,
        ),
    ):
        yield Family(name, text, _of_queues(management, vhosts, value))


def _connection_octets(management: Management, vhosts: Collection[str]) -> Iterator[Family]:
    def samples(value: Callable[[Any], float]) -> Iterator[Sample]:
        for session in list(management.broker.sessions):
            vhost = session.vhost
            if vhost is not None and (not vhosts or vhost.name in vhosts):
                yield {"connection": session.ends.name}, value(session.connection)

    yield Family(
        "connection_incoming_bytes_total",
        "Total number of bytes received on a connection",
        samples(lambda connection: connection.received_bytes),
    )
    yield Family(
        "connection_outgoing_bytes_total",
        "Total number of bytes sent on a connection",
        samples(lambda connection: connection.sent_bytes),
    )


_FAMILIES: dict[str, Callable[[Management, Collection[str]], Iterator[Family]]] = {
    "queue_coarse_metrics": _queue_lengths,
    "queue_consumer_count": _queue_consumers,
    "queue_delivery_metrics": _queue_counts,
    "queue_metrics": _queue_sizes,
    "connection_coarse_metrics": _connection_octets,
}
"""What each object has, by the names of /metrics/detailed."""

"""Listings of what there is, with columns to choose: ``list_queues``, and others."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from amqpbroker.cli.ctl.api import ApiRefused
from amqpbroker.cli.ctl.command import (
    BOTH,
    IN_VHOST,
    TIMED,
    Call,
    Command,
    InvalidArguments,
    Rows,
)
from amqpbroker.cli.ctl.erlang import FieldTable, Properties, Settings

Item = dict[str, Any]
Value = Callable[[Item], Any]


def pid(node: str, *names: str) -> str:
    """What stands for an Erlang process: of one thing always the same, of two never."""
    digest = hashlib.blake2b("\0".join(names).encode(), digest_size=8).digest()
    high, low = int.from_bytes(digest[:4]), int.from_bytes(digest[4:])
    return f"<{node}.{high}.{low}.0>"


def connection_pid(item: Item) -> str:
    """What ``list_connections pid`` says, and ``close_connection`` takes."""
    return pid(item["node"], "connection", item["name"])


@attrs.frozen
class Column:
    """A column: the keys of the API that it needs, and what it makes of them."""

    value: Value
    keys: tuple[str, ...]


def _plain(name: str) -> Column:
    return Column(lambda item: item.get(name), (name,))


def _count(name: str) -> Column:
    """A number; of what was just made RabbitMQ's API knows none yet.

    And of queues that are down nobody knows any.
    """
    return Column(lambda item: item.get(name, "" if item.get("state") == "down" else 0), (name,))


def _table(name: str) -> Column:
    return Column(lambda item: FieldTable(item.get(name) or {}), (name,))


def _columns(plain: str, tables: str = "", counts: str = "", **others: Column) -> dict[str, Column]:
    columns = {name: _plain(name) for name in plain.split()}
    columns |= {name: _table(name) for name in tables.split()}
    columns |= {name: _count(name) for name in counts.split()}
    return columns | others


# -- Queues ------------------------------------------------------------------------------------


def _queue_pid(item: Item) -> str:
    return pid(item["node"], "queue", item["vhost"], item["name"])


def _owner_pid(item: Item) -> str | None:
    owner = item.get("owner_pid_details") or {}
    return pid(item["node"], "connection", owner["name"]) if owner.get("name") else None


def _mirrors(key: str) -> Column:
    def value(item: Item) -> Any:
        nodes = item.get(key)
        if nodes is None:
            return None
        return [pid(node, "queue", item["vhost"], item["name"]) for node in nodes]

    return Column(value, (key, "vhost", "name"))


def _disk(key: str) -> Column:
    return Column(
        lambda item: (item.get("message_stats") or {}).get(key, 0), (f"message_stats.{key}",)
    )


_OF_QUEUE = ("node", "vhost", "name")

QUEUE_COLUMNS = _columns(
    plain="name durable auto_delete policy operator_policy exclusive exclusive_consumer_tag"
    " head_message_timestamp consumer_utilisation consumer_capacity memory state type leader"
    " members online",
    tables="arguments",
    counts="messages_ready messages_unacknowledged messages messages_ready_ram"
    " messages_unacknowledged_ram messages_ram messages_persistent message_bytes"
    " message_bytes_ready message_bytes_unacknowledged message_bytes_ram"
    " message_bytes_persistent consumers",
    effective_policy_definition=Column(
        lambda item: Settings(item.get("effective_policy_definition") or {}),
        ("effective_policy_definition",),
    ),
    pid=Column(_queue_pid, _OF_QUEUE),
    owner_pid=Column(_owner_pid, ("node", "owner_pid_details.name")),
    exclusive_consumer_pid=Column(lambda item: None, ()),
    disk_reads=_disk("disk_reads"),
    disk_writes=_disk("disk_writes"),
    slave_pids=_mirrors("slave_nodes"),
    synchronised_slave_pids=_mirrors("synchronised_slave_nodes"),
    mirror_pids=_mirrors("slave_nodes"),
    synchronised_mirror_pids=_mirrors("synchronised_slave_nodes"),
)

UNRESPONSIVE_COLUMNS = {
    name: QUEUE_COLUMNS.get(name) or _plain(name)
    for name in [
        "name",
        "durable",
        "auto_delete",
        "arguments",
        "pid",
        "recoverable_slaves",
        "recoverable_mirrors",
        "type",
    ]
}


def _list_queues(call: Call) -> Rows:
    options = call.options
    online, offline = options["online"], options["offline"]

    def is_wanted(item: Item) -> bool:
        if options["local"] and item["node"] != call.node:
            return False
        is_down = item.get("state") == "down"
        return bool(online == offline or (offline if is_down else online))

    names = _chosen(call, QUEUE_COLUMNS, "name messages")
    items = _items(call, names, QUEUE_COLUMNS, ("queues", call.vhost), ("state", "node"))
    return _rows(filter(is_wanted, items), names, QUEUE_COLUMNS)


def _list_unresponsive_queues(call: Call) -> Rows:
    """A queue answers with its node, or not at all: those of nodes that run are responsive."""
    names = _chosen(call, UNRESPONSIVE_COLUMNS, "name")
    items = _items(call, names, UNRESPONSIVE_COLUMNS, ("queues", call.vhost), ("state",))
    stuck = (item for item in items if item.get("state") in ("stopped", "crashed"))
    return _rows(stuck, names, UNRESPONSIVE_COLUMNS)


def _queues_banner(call: Call) -> str:
    timeout_s = float(call.options.get("timeout") or 60)
    return f"Timeout: {timeout_s} seconds ...\nListing queues for vhost {call.vhost} ..."


# -- The others --------------------------------------------------------------------------------

EXCHANGE_COLUMNS = _columns("name type durable auto_delete internal policy", "arguments")

_OTHER_NAMES = {
    "source_name": "source",
    "destination_name": "destination",
    "destination_kind": "destination_type",
}
BINDING_COLUMNS = _columns(
    "routing_key",
    "arguments",
    source_kind=Column(lambda item: "exchange", ()),
) | {name: _plain(key) for name, key in _OTHER_NAMES.items()}
BINDING_DEFAULT = "source_name source_kind destination_name destination_kind routing_key arguments"


def _protocol(item: Item) -> Any:
    """RabbitMQ's tool shows AMQP 0-9-1 by its numbers."""
    protocol = item.get("protocol")
    match = re.fullmatch(r"AMQP (\d+)-(\d+)-(\d+)", str(protocol))
    return protocol if match is None else tuple(map(int, match.groups()))


CONNECTION_COLUMNS = _columns(
    "name port host peer_port peer_host ssl ssl_protocol ssl_key_exchange ssl_cipher ssl_hash"
    " peer_cert_subject peer_cert_issuer peer_cert_validity state channels"
    " auth_mechanism user vhost timeout frame_max channel_max connected_at",
    "client_properties",
    "recv_oct recv_cnt send_oct send_cnt send_pend",
    pid=Column(connection_pid, ("node", "name")),
    protocol=Column(_protocol, ("protocol",)),
)

CHANNEL_COLUMNS = _columns(
    "name number user vhost transactional confirm",
    counts="consumer_count messages_unacknowledged messages_uncommitted acks_uncommitted"
    " messages_unconfirmed prefetch_count global_prefetch_count",
    pid=Column(lambda item: pid(item["node"], "channel", item["name"]), ("node", "name")),
    connection=Column(
        lambda item: pid(item["node"], "connection", item["connection_details"]["name"]),
        ("node", "connection_details.name"),
    ),
)


def _channel_pid(item: Item) -> str:
    channel = item["channel_details"]
    return pid(channel["node"], "channel", channel["name"])


CONSUMER_COLUMNS = _columns(
    "consumer_tag ack_required prefetch_count active activity_status",
    "arguments",
    queue_name=Column(lambda item: item["queue"]["name"], ("queue.name",)),
    channel_pid=Column(_channel_pid, ("channel_details.name", "channel_details.node")),
)
CONSUMER_DEFAULT = (
    "queue_name channel_pid consumer_tag ack_required prefetch_count active arguments"
)

VHOST_COLUMNS = _columns(
    "name description tags default_queue_type tracing",
    cluster_state=Column(
        lambda item: Properties(item.get("cluster_state") or {}), ("cluster_state",)
    ),
)


# -- What all have in common -------------------------------------------------------------------


def _chosen(call: Call, columns: Mapping[str, Column], default: str) -> list[str]:
    """The names of the columns that are asked for, by commas or spaces."""
    words = (word.strip() for argument in call.arguments for word in argument.split(","))
    return list(dict.fromkeys(word for word in words if word)) or default.split()


def _items(
    call: Call,
    names: Sequence[str],
    columns: Mapping[str, Column],
    path: tuple[str, ...],
    more_keys: tuple[str, ...] = (),
) -> list[Item]:
    """What the API has, only with the keys that are needed; nothing of what there is not."""
    keys = dict.fromkeys([*(key for name in names for key in columns[name].keys), *more_keys])
    try:
        items: list[Item] = call.api.get(*path, columns=",".join(keys) or "name")
    except ApiRefused as refusal:
        # RabbitMQ's tool lists nothing where there is no virtual host.
        if refusal.status != 404 or len(path) == 1 or call.api.find("vhosts", path[1]) is not None:
            raise
        return []
    return items


def _rows(items: Any, names: Sequence[str], columns: Mapping[str, Column]) -> Rows:
    rows = [{name: columns[name].value(item) for name in names} for item in items]
    return Rows(rows, streamed=True)


def _listing(
    name: str,
    columns: Mapping[str, Column],
    default: str,
    banner: str,
    description: str,
    *,
    in_vhost: bool = True,
    streamed: bool = True,
    timed: bool = True,
) -> Command:
    """The command that lists what the API has under the same word."""
    word = name.removeprefix("list_")

    def run(call: Call) -> Rows:
        names = _chosen(call, columns, default)
        path = (word, call.vhost) if in_vhost else (word,)
        rows = _rows(_items(call, names, columns, path), names, columns).rows
        return Rows(rows, streamed)

    usage = "[--vhost <vhost>] " if in_vhost else ""
    return Command(
        name=name,
        run=run,
        usage=f"{usage}[--no-table-headers] [<column> ...]",
        description=description,
        section="access_control" if word == "vhosts" else "observability_and_health_checks",
        details=(_column_detail(columns),),
        most=None,
        switches=TIMED if timed else {},
        defaults=IN_VHOST if in_vhost else {},
        banner=banner,
        check=_check_columns(columns),
        tools=BOTH,
        formatter="table",
    )


def _column_detail(columns: Mapping[str, Column]) -> tuple[str, str]:
    return "<column>", f"must be one of {', '.join(sorted(columns))}"


def _check_columns(columns: Mapping[str, Column]) -> Callable[[Call], None]:
    def check(call: Call) -> None:
        unknown = sorted(set(_chosen(call, columns, "")) - set(columns))
        if unknown:
            raise InvalidArguments(f"Info key(s) {','.join(unknown)} are not supported")

    return check


COMMANDS = (
    Command(
        name="list_queues",
        run=_list_queues,
        usage="[--vhost <vhost>] [--online] [--offline] [--local] [--no-table-headers]"
        " [<column>, ...]",
        description="Lists queues and their properties",
        section="observability_and_health_checks",
        details=(
            _column_detail(QUEUE_COLUMNS),
            ("--online", "lists only queues on online (reachable) nodes"),
            ("--offline", "lists only queues on offline (unreachable) nodes"),
            ("--local", "only return queues hosted on the target node"),
        ),
        most=None,
        switches={"online": bool, "offline": bool, "local": bool, **TIMED},
        defaults={**IN_VHOST, "online": False, "offline": False, "local": False, "timeout": 60},
        banner=_queues_banner,
        check=_check_columns(QUEUE_COLUMNS),
        tools=BOTH,
        formatter="table",
    ),
    Command(
        name="list_unresponsive_queues",
        run=_list_unresponsive_queues,
        usage="[--local] [--queue-timeout <milliseconds>] [<column> ...] [--no-table-headers]",
        description="Tests queues to respond within timeout. Lists those which did not respond",
        section="observability_and_health_checks",
        details=(_column_detail(UNRESPONSIVE_COLUMNS),),
        most=None,
        switches={"queue_timeout": int, "local": bool, **TIMED},
        defaults=IN_VHOST,
        banner="Listing unresponsive queues for vhost {vhost} ...",
        check=_check_columns(UNRESPONSIVE_COLUMNS),
        tools=BOTH,
        formatter="table",
    ),
    _listing(
        "list_exchanges",
        EXCHANGE_COLUMNS,
        "name type",
        "Listing exchanges for vhost {vhost} ...",
        "Lists exchanges",
    ),
    _listing(
        "list_bindings",
        BINDING_COLUMNS,
        BINDING_DEFAULT,
        "Listing bindings for vhost {vhost}...",
        "Lists all bindings on a vhost",
    ),
    _listing(
        "list_consumers",
        CONSUMER_COLUMNS,
        CONSUMER_DEFAULT,
        "Listing consumers in vhost {vhost} ...",
        "Lists all consumers for a vhost",
    ),
    _listing(
        "list_connections",
        CONNECTION_COLUMNS,
        "user peer_host peer_port state",
        "Listing connections ...",
        "Lists AMQP 0.9.1 connections for the node",
        in_vhost=False,
    ),
    _listing(
        "list_channels",
        CHANNEL_COLUMNS,
        "pid user consumer_count messages_unacknowledged",
        "Listing channels ...",
        "Lists all channels in the node",
        in_vhost=False,
        timed=False,
    ),
    _listing(
        "list_vhosts",
        VHOST_COLUMNS,
        "name",
        "Listing vhosts ...",
        "Lists virtual hosts",
        in_vhost=False,
        streamed=False,
    ),
)

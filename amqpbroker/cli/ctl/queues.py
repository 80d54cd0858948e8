"""What is done to queues and connections."""

import time
from collections import Counter
from typing import Any

from amqpbroker.cli.ctl.api import ApiRefused
from amqpbroker.cli.ctl.command import (
    EXIT_DATA,
    EXIT_USAGE,
    IN_VHOST,
    QUEUES,
    TIMED,
    Answer,
    Call,
    Command,
    CommandFailed,
    InvalidArguments,
    Rows,
    failed,
)
from amqpbroker.cli.ctl.erlang import inspected
from amqpbroker.cli.ctl.listing import connection_pid

_NOT_FOUND = 404


# -- Queues ------------------------------------------------------------------------------------


def _purge_queue(call: Call) -> None:
    try:
        call.api.delete("queues", call.vhost, call.arguments[0], "contents")
    except ApiRefused as refusal:
        raise _missing_queue(refusal) from refusal


def _missing_queue(refusal: ApiRefused) -> CommandFailed:
    if refusal.status != _NOT_FOUND:
        return failed(refusal.reason)
    return CommandFailed(EXIT_DATA, "Object (queue, stream, exchange, etc) was not found")


def _delete_queue(call: Call) -> str:
    (name,) = call.arguments
    queue = call.api.find("queues", call.vhost, name)
    if queue is None:
        raise failed("Queue not found", EXIT_USAGE)
    conditions = {
        key.replace("_", "-"): "true" for key in ("if_empty", "if_unused") if call.options[key]
    }
    try:
        call.api.request("DELETE", ("queues", call.vhost, name), query=conditions)
    except ApiRefused as refusal:
        for words, text in _WHY_NOT_DELETED.items():
            if words in refusal.reason:
                raise failed(text, EXIT_USAGE) from refusal
        raise
    return f"Queue was successfully deleted with {queue.get('messages_ready', 0)} ready messages"


_WHY_NOT_DELETED = {"not empty": "Queue is not empty", "in use": "Queue is in use"}


def _check_name(call: Call) -> None:
    if not call.arguments[0]:
        raise InvalidArguments("Bad argument: queue name cannot be an empty string", EXIT_DATA)


def _delete_banner(call: Call) -> str:
    conditions = {"if_empty": "if queue is empty ", "if_unused": "if queue is unused "}
    given = "and ".join(text for key, text in conditions.items() if call.options[key])
    return f"Deleting queue '{call.arguments[0]}' on vhost '{call.vhost}' {given}..."


def _sync(call: Call) -> None:
    if "slave_nodes" not in _queue(call):
        raise failed("not_mirrored")
    _act(call, "sync")


def _cancel_sync(call: Call) -> Answer:
    is_syncing = "sync_messages" in _queue(call)
    _act(call, "cancel_sync")
    return None if is_syncing else "not_syncing"


def _queue(call: Call) -> dict[str, Any]:
    queue: dict[str, Any] | None = call.api.find("queues", call.vhost, call.arguments[0])
    if queue is None:
        raise failed("not_found")
    return queue


def _act(call: Call, action: str) -> None:
    call.api.post("queues", call.vhost, call.arguments[0], "actions", body={"action": action})


def _rebalance(call: Call) -> Rows:
    """Move leaders of replicated queues; then say how many each node has."""
    body = {
        "type": call.arguments[0],
        "vhost_pattern": call.options["vhost_pattern"],
        "queue_pattern": call.options["queue_pattern"],
    }
    call.api.post("rebalance", "queues", body=body)
    queues = call.api.get("queues", columns="node,type,slave_nodes")
    counts: dict[str, Counter[str]] = {}
    for queue in queues:
        kind = queue["type"]
        if call.arguments[0] in ("all", kind) and (kind != "classic" or "slave_nodes" in queue):
            counts.setdefault(queue["node"], Counter())[kind] += 1
    kinds = {kind for there in counts.values() for kind in there}
    titles = {kind: title for kind, title in _REPLICATED.items() if kind in kinds}
    return Rows(
        [
            {"Node name": node, **{title: counts[node][kind] for kind, title in titles.items()}}
            for node in sorted(counts)
        ]
    )


_REPLICATED = {
    "classic": "Number of replicated classic queues",
    "quorum": "Number of quorum queues",
    "stream": "Number of streams",
}
_REBALANCED = ("all", "classic", "quorum", "stream")


def _check_type(call: Call) -> None:
    if call.arguments[0] not in _REBALANCED:
        text = f"type {call.arguments[0]} is not supported."
        raise failed(f"{text} Try one of {', '.join(_REBALANCED)}.")


# -- Connections -------------------------------------------------------------------------------


def _connections(call: Call) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = call.api.get("connections", columns="name,node,vhost")
    return found


def _close(call: Call, name: str, why: str) -> None:
    try:
        call.api.delete("connections", name, headers={"X-Reason": why})
    except ApiRefused as refusal:
        if refusal.status != _NOT_FOUND:  # It has gone by itself.
            raise


def _close_connection(call: Call) -> None:
    """Close the connection with that pid of ``list_connections``, or of that name."""
    wanted, why = call.arguments
    for connection in _connections(call):
        if wanted in (connection_pid(connection), connection["name"]):
            _close(call, connection["name"], why)
            return
    if not wanted.startswith("<") or not wanted.endswith(">"):
        raise failed(f"Error:\n{{:invalid_pid_syntax, {inspected(wanted)}}}")


def _close_all_connections(call: Call) -> str:
    options, (why,) = call.options, call.arguments
    if options["global"]:
        chosen = [each for each in _connections(call) if each["node"] == call.node]
    else:
        chosen = [each for each in _connections(call) if each["vhost"] == call.vhost]
        chosen = chosen[: options["limit"] or None]
    for number, connection in enumerate(chosen):
        if number:
            time.sleep(options["per_connection_delay"] / 1000)
        _close(call, connection["name"], why)
    return f"Closed {len(chosen)} connections"


def _close_all_banner(call: Call) -> str:
    options, (why,) = call.options, call.arguments
    if options["global"]:
        where = f"to node {call.node} (across all vhosts)"
        return f"Closing all connections {where}, reason: {why}..."
    return (
        f"Closing {options['limit'] or 'all'} connections in vhost {call.vhost}, reason: {why}..."
    )


def _close_all_user_connections(call: Call) -> None:
    user, why = call.arguments
    call.api.delete("connections", "username", user, headers={"X-Reason": why})


COMMANDS = (
    Command(
        name="purge_queue",
        run=_purge_queue,
        usage="<queue>",
        description="Purges a queue (removes all messages in it)",
        section="queues",
        details=(("<queue>", "Name of the queue to purge"),),
        least=1,
        most=1,
        switches=TIMED,
        defaults=IN_VHOST,
        banner="Purging queue '{0}' in vhost '{vhost}' ...",
    ),
    Command(
        name="delete_queue",
        run=_delete_queue,
        usage="[--vhost <vhost>] <queue_name> [--if-empty|-e] [--if-unused|-u]",
        description="Deletes a queue",
        section="queues",
        details=(
            ("--vhost", "Virtual host name"),
            ("<queue_name>", "name of the queue to delete"),
            ("--if-empty", "delete the queue if it is empty (has no messages ready for delivery)"),
            ("--if-unused", "delete the queue only if it has no consumers"),
        ),
        least=1,
        most=1,
        switches={"if_empty": bool, "if_unused": bool, **TIMED},
        aliases={"e": "if_empty", "u": "if_unused"},
        defaults={**IN_VHOST, "if_empty": False, "if_unused": False},
        banner=_delete_banner,
        check=_check_name,
    ),
    Command(
        name="sync_queue",
        run=_sync,
        usage="[--vhost <vhost>] <queue>",
        description="Instructs a mirrored queue with unsynchronised mirrors (follower replicas)"
        " to synchronise them",
        section="replication",
        details=(("<queue>", "Name of the queue to synchronise"),),
        least=1,
        most=1,
        defaults=IN_VHOST,
        banner="Synchronising queue '{0}' in vhost '{vhost}' ...",
    ),
    Command(
        name="cancel_sync_queue",
        run=_cancel_sync,
        usage="[--vhost <vhost>] <queue>",
        description="Instructs a synchronising mirrored queue to stop synchronising itself",
        section="replication",
        details=(("<queue>", "Queue name"),),
        least=1,
        most=1,
        defaults=IN_VHOST,
        banner="Stopping synchronising queue '{0}' in vhost '{vhost}' ...",
    ),
    Command(
        name="rebalance",
        run=_rebalance,
        usage="< all | classic | quorum | stream > [--vhost-pattern <pattern>]"
        " [--queue-pattern <pattern>]",
        description="Re-balances leaders of replicated queues across up-and-running cluster nodes",
        section="cluster_management",
        details=(
            ("<type>", "queue type, must be one of: all, classic, quorum, stream"),
            ("--queue-pattern <pattern>", "regular expression to match queue names"),
            ("--vhost-pattern <pattern>", "regular expression to match virtual host names"),
        ),
        least=1,
        most=1,
        switches={"vhost_pattern": str, "queue_pattern": str},
        defaults={"vhost_pattern": ".*", "queue_pattern": ".*"},
        banner="Re-balancing leaders of {0} queues...",
        check=_check_type,
        tools=(QUEUES,),
        formatter="pretty_table",
    ),
    Command(
        name="close_connection",
        run=_close_connection,
        usage="<connection pid> <explanation>",
        description="Instructs the broker to close the connection associated with the Erlang"
        " process id",
        section="operations",
        details=(
            ("<connection pid>", "connection identifier, see list_connections; or its name"),
            ("<explanation>", "reason for connection closure"),
        ),
        least=2,
        most=2,
        banner="Closing connection {0}, reason: {1}...",
    ),
    Command(
        name="close_all_connections",
        run=_close_all_connections,
        usage="[--vhost <vhost> --limit <limit>] [-n <node> --global]"
        " [--per-connection-delay <delay>] <explanation>",
        description="Instructs the broker to close all connections for the specified vhost"
        " or entire RabbitMQ node",
        section="operations",
        details=(
            ("--global", "consider connections across all virtual hosts"),
            ("--limit <number>", "close up to this many connections"),
            ("--per-connection-delay <milliseconds>", "inject a delay between closures"),
        ),
        least=1,
        most=1,
        switches={"global": bool, "per_connection_delay": int, "limit": int},
        defaults={**IN_VHOST, "global": False, "per_connection_delay": 0, "limit": 0},
        banner=_close_all_banner,
    ),
    Command(
        name="close_all_user_connections",
        run=_close_all_user_connections,
        usage="<username> <explanation>",
        description="Instructs the broker to close all connections of the specified user",
        section="operations",
        details=(
            ("<username>", "Self-explanatory"),
            (
                "<explanation>",
                "reason for connection closure, will be logged and provided to clients",
            ),
        ),
        least=2,
        most=2,
        banner="Closing connections of user {0}, reason: {1}...",
    ),
)

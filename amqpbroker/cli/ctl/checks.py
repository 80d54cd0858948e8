"""Questions about a node, and checks whose exit status is the answer."""

import re
import socket
from collections.abc import Iterable

from amqpbroker.cli.ctl.api import ApiRefused
from amqpbroker.cli.ctl.command import (
    BOTH,
    DIAGNOSTICS,
    EXIT_DATA,
    EXIT_UNAVAILABLE,
    IN_VHOST,
    QUEUES,
    TIMED,
    Answer,
    Call,
    CommandFailed,
    Report,
    Rows,
    failed,
)
from amqpbroker.cli.ctl.policies import as_listed, mirroring_policies
from amqpbroker.cli.ctl.reports import (
    Item,
    alarm_lines,
    asking,
    listener_line,
    listener_maps,
    not_passed,
    passed,
)
from amqpbroker.cli.ctl.waiting import MIRRORS_CHECK, SINGLE, check_positive


def _running_text(call: Call) -> str:
    return f"RabbitMQ on node {call.node} is fully booted and running"


def _is_running(call: Call) -> Report:
    text = _running_text(call)
    return Report([text], {"message": text, "result": True})


def _is_booting(call: Call) -> Report:
    """A node that answers has booted."""
    text = (
        f"RabbitMQ on node {call.node} is fully booted (check with is_running),"
        " stopped or has not started booting yet"
    )
    return Report([text], {"message": text, "result": False})


def _server_version(call: Call) -> Report:
    version = call.overview["rabbitmq_version"]
    return Report([version], {"result": "ok", "value": version})


def _alarms(call: Call) -> Report:
    lines = alarm_lines(call.api.get("nodes"))
    if not lines:
        text = f"Node {call.node} reported no alarms, local or clusterwide"
        return Report([text], {"alarms": [], "node": call.node, "result": "ok"})
    local = alarm_lines([call.api.get("nodes", call.node)])
    message = f"Node {call.node} reported alarms"
    others = [line for line in lines if line not in local]
    data = {"global": others, "local": local, "message": message, "result": "ok"}
    return Report(lines, data)


def _check_alarms(call: Call) -> Answer:
    lines = alarm_lines(call.api.get("nodes"))
    if lines:
        raise not_passed(call, "\n".join(lines))
    return passed(call, f"Node {call.node} reported no alarms, local or clusterwide")


def _check_local_alarms(call: Call) -> Answer:
    lines = alarm_lines([call.api.get("nodes", call.node)])
    if lines:
        raise not_passed(call, "Error:\n" + "\n".join(lines))
    return passed(call, f"Node {call.node} reported no local alarms")


def _check_virtual_hosts(call: Call) -> Answer:
    down = [
        vhost["name"]
        for vhost in call.api.get("vhosts")
        if any(state != "running" for state in (vhost.get("cluster_state") or {}).values())
    ]
    if down:
        names = "\n".join(down)
        text = f"Error:\nSome virtual hosts on node {call.node} are down:\n{names}"
        raise not_passed(call, text)
    return passed(call, f"Node {call.node} reported all vhosts as running")


def _own_listeners(call: Call) -> list[Item]:
    listeners = call.overview.get("listeners", ())
    return listener_maps(each for each in listeners if each["node"] == call.node)


def _listeners(call: Call) -> Report:
    listeners = _own_listeners(call)
    data = {"listeners": listeners, "node": call.node, "result": "ok"}
    return Report([listener_line(each) for each in listeners], data)


def _ports(listeners: Iterable[Item]) -> str:
    return ", ".join(map(str, sorted(each["port"] for each in listeners)))


def _check_port_listener(call: Call) -> Answer:
    listeners, (port,) = _own_listeners(call), call.arguments
    if not any(str(each["port"]) == port for each in listeners):
        raise CommandFailed(
            EXIT_UNAVAILABLE,
            f"No listener for port {port} is active on node {call.node}. "
            f"Found listeners that use the following ports: {_ports(listeners)}",
        )
    text = f"A listener for port {port} is running on node {call.node}."
    return Report([text], {"node": call.node, "port": port, "result": "ok"})


def _check_protocol_listener(call: Call) -> Answer:
    listeners, (wanted,) = _own_listeners(call), call.arguments
    protocol = _PROTOCOLS.get(wanted.lower(), wanted)
    there = sorted(each["protocol"] for each in listeners)
    if protocol not in there:
        raise failed(
            f"No listener for protocol {protocol} is active on node {call.node}. "
            f"Found listeners for the following protocols: {', '.join(there)}"
        )
    text = f"A listener for protocol {protocol} is running on node {call.node}."
    return Report([text], {"node": call.node, "protocol": protocol, "result": "ok"})


_PROTOCOLS = {"amqp091": "amqp", "amqp0.9.1": "amqp", "amqp0-9-1": "amqp", "amqps": "amqp/ssl"}


def _check_port_connectivity(call: Call) -> Answer:
    listeners, address = _own_listeners(call), call.options.get("address")
    timeout_s = int(call.options.get("timeout") or 30) / (len(listeners) + 1)
    shut = [each for each in listeners if not _connects(each, address, timeout_s)]
    if shut:
        title = f"Connection to ports of the following listeners on node {call.node} failed: "
        raise failed("\n".join([title, *map(listener_line, shut)]))
    how = f"{address} for target IP address" if address else "node hostname resolution"
    text = f"Successfully connected to ports {_ports(listeners)} on node {call.node} (using {how})"
    return Report([text], {"listeners": listeners, "node": call.node, "result": "ok"})


def _connects(listener: Item, address: str | None, timeout_s: float) -> bool:
    """Whether the port can be connected to: at ``address``, or where it listens."""
    host = address or listener["interface"].strip("[]")
    hosts = ("127.0.0.1", "::1") if host in _EVERYWHERE else (host,)
    for each in hosts:
        try:
            socket.create_connection((each, listener["port"]), timeout_s).close()
        except OSError:
            continue
        return True
    return False


_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104


def _connectivity_banner(call: Call) -> str:
    address = call.options.get("address")
    how = f"{address} for node IP address" if address else "hostname resolution"
    return f"Testing TCP connections to all active listeners on node {call.node} using {how} ..."


def _check_mirror_sync_critical(call: Call) -> Answer:
    try:
        answer = call.api.get("health", "checks", MIRRORS_CHECK)
    except ApiRefused as refusal:
        raise not_passed(call, refusal.reason) from refusal
    if (answer or {}).get("reason") == "single node cluster":
        return passed(call, f"Node {call.node} {SINGLE}, the check does not apply")
    text = "reported no classic mirrored queues without online synchronised mirrors"
    return passed(call, f"Node {call.node} {text}")


def _check_quorum_critical(call: Call) -> Answer:
    if len(call.api.get("nodes", columns="name")) == 1:
        return passed(call, f"Node {call.node} {SINGLE}, the check does not apply")
    text = "reported no quorum queues with minimum quorum"
    return passed(call, f"Node {call.node} {text}")


# -- Policies and deprecated features ----------------------------------------------------------


def _check_mirroring_policies(call: Call) -> Answer:
    kinds = {"Policy": "policies", "Operator policy": "operator-policies"}
    lines = [
        f"{kind} {policy['name']} enables classic queue mirroring"
        for kind, path in kinds.items()
        for policy in mirroring_policies(call, path)
    ]
    if lines:
        raise not_passed(call, "\n".join(lines))
    return passed(call, "Cluster reported no policies that enable classic queue mirroring")


def _list_policies_that_match(call: Call) -> Rows:
    """The policies that a queue or exchange could have, the one that it has first."""
    (name,), kind = call.arguments, call.options["object_type"]
    if call.api.find(f"{kind}s", call.vhost, name or "amq.default") is None:
        raise CommandFailed(EXIT_DATA, "Object (queue, stream, exchange, etc) was not found")
    matching = [
        policy
        for policy in call.api.get("policies", call.vhost)
        if _is_for(policy["apply-to"], kind) and re.search(policy["pattern"], name)
    ]
    matching.sort(key=lambda policy: -int(policy["priority"]))
    return Rows([as_listed(policy) for policy in matching])


def _is_for(apply_to: str, kind: str) -> bool:
    return apply_to == "all" or (kind == "exchange") == (apply_to == "exchanges")


def _deprecated_features(call: Call) -> Rows:
    path = ("deprecated-features", *(["used"] if call.options["used"] else []))
    names = [name for words in call.arguments for name in words.split(",")]
    names = names or ["name", "deprecation_phase"]
    found = call.api.find(*path) or []
    return Rows([{name: each.get(name) for name in names} for each in found])


def _check_deprecated_features(call: Call) -> Answer:
    used = call.api.find("deprecated-features", "used")
    if used:
        raise not_passed(call, "\n".join(each["name"] for each in used))
    return passed(call, "Cluster reported no deprecated features in use")


COMMANDS = (
    asking(
        "is_running",
        _is_running,
        "Asking node {node} for its status ...",
        "Checks if RabbitMQ is fully booted and running on the target node",
    ),
    asking(
        "is_booting",
        _is_booting,
        "Asking node {node} for its boot status ...",
        "Checks if RabbitMQ is still booting on the target node",
    ),
    asking(
        "check_running",
        _running_text,
        "Checking if RabbitMQ is running on node {node} ...",
        "Health check that exits with a non-zero code if the RabbitMQ app on the target node"
        " is not running",
    ),
    asking(
        "server_version",
        _server_version,
        "Asking node {node} for its RabbitMQ version...",
        "Displays server version on the target node",
    ),
    asking(
        "alarms",
        _alarms,
        "Asking node {node} to report any known resource alarms ...",
        "Lists resource alarms (local or cluster-wide) in effect on the target node",
    ),
    asking(
        "check_alarms",
        _check_alarms,
        "Asking node {node} to report any local resource alarms ...",
        "Health check that exits with a non-zero code if the target node reports any alarms,"
        " local or cluster-wide.",
    ),
    asking(
        "check_local_alarms",
        _check_local_alarms,
        "Asking node {node} to report any local resource alarms ...",
        "Health check that exits with a non-zero code if the target node reports any local alarms",
    ),
    asking(
        "check_virtual_hosts",
        _check_virtual_hosts,
        "Checking if all vhosts are running on node {node} ...",
        "Health check that checks if all vhosts are running in the target node",
    ),
    asking(
        "listeners",
        _listeners,
        "Asking node {node} to report its protocol listeners ...",
        "Lists active connection listeners (bound interface, port, protocol) on the target node",
    ),
    asking(
        "check_port_listener",
        _check_port_listener,
        "Asking node {node} if there's an active listener on port {0} ...",
        "Health check that exits with a non-zero code if target node does not have an active"
        " listener for given port",
        usage="<port>",
        least=1,
        most=1,
        check=check_positive,
    ),
    asking(
        "check_protocol_listener",
        _check_protocol_listener,
        "Asking node {node} if there's an active listener for protocol {0} ...",
        "Health check that exits with a non-zero code if target node does not have an active"
        " listener for given protocol",
        usage="<protocol>",
        least=1,
        most=1,
    ),
    asking(
        "check_port_connectivity",
        _check_port_connectivity,
        "",
        "Basic TCP connectivity health check for each listener's port on the target node",
        usage="[--address <target address>]",
        switches={"address": str, **TIMED},
        aliases={"a": "address"},
        banner=_connectivity_banner,
    ),
    asking(
        "check_if_node_is_mirror_sync_critical",
        _check_mirror_sync_critical,
        "Checking if node {node} is critical for data safety of any classic mirrored queues ...",
        "Health check that exits with a non-zero code if there are classic mirrored queues without"
        " online synchronised mirrors"
        " (queues that would potentially lose data if the target node is shut down)",
        tools=(DIAGNOSTICS, QUEUES),
    ),
    asking(
        "check_if_node_is_quorum_critical",
        _check_quorum_critical,
        "Checking if node {node} is critical for quorum of any quorum queues ...",
        "Health check that exits with a non-zero code if there are queues/streams with minimum"
        " online quorum (queues/streams that will lose their quorum if the target node shuts down)",
        tools=(DIAGNOSTICS, QUEUES),
    ),
    asking(
        "check_if_cluster_has_classic_queue_mirroring_policy",
        _check_mirroring_policies,
        "Checking if cluster has any classic queue mirroring policy ...",
        "Health check that exits with a non-zero code if there are policies that enable classic"
        " queue mirroring",
        tools=(DIAGNOSTICS, QUEUES),
    ),
    asking(
        "list_policies_that_match",
        _list_policies_that_match,
        "",
        "Lists all policies matching a queue/exchange (only the highest priority policy is active)",
        usage="[--object-type <type>] <name>",
        section="policies",
        least=1,
        most=1,
        switches={"object_type": str},
        defaults={**IN_VHOST, "object_type": "queue"},
        banner="Listing policies that match {object_type} '{0}' in vhost '{vhost}' ...",
        formatter="table",
    ),
    asking(
        "check_if_any_deprecated_features_are_used",
        _check_deprecated_features,
        "Checking if any deprecated features are used ...",
        "Generate a report listing all deprecated features in use",
        tools=BOTH,
    ),
    asking(
        "list_deprecated_features",
        _deprecated_features,
        "",
        "Lists deprecated features",
        usage="[--used] [<column> ...]",
        section="feature_flags",
        most=None,
        switches={"used": bool},
        defaults={"used": False},
        banner=lambda call: (
            "Listing deprecated features in use ..."
            if call.options["used"]
            else "Listing deprecated features ..."
        ),
        tools=BOTH,
        formatter="table",
    ),
)

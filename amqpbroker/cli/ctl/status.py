"""The state of one node: ``status``, and the checks of ``rabbitmq-diagnostics``."""

import socket
from collections.abc import Iterable
from typing import Any

from amqpbroker.cli.ctl.api import ApiRefused
from amqpbroker.cli.ctl.cluster import (
    Item,
    alarm_lines,
    alarm_maps,
    check_positive,
    listener_line,
    listener_maps,
    section_lines,
)
from amqpbroker.cli.ctl.command import (
    BOTH,
    DIAGNOSTICS,
    EXIT_UNAVAILABLE,
    QUEUES,
    TIMED,
    Answer,
    Call,
    Command,
    CommandFailed,
    InvalidArguments,
    Report,
    failed,
)

_UNITS = {"bytes": 1} | {
    unit: size
    for place, letter in enumerate("kmgtp", 1)
    for size, units in (
        (1000**place, (letter, f"{letter}b")),
        (1024**place, (f"{letter}i", f"{letter}ib")),
    )
    for unit in units
}


def _converted(count: float, unit: str) -> str:
    """A number of bytes in ``unit``."""
    if unit == "bytes":
        return f"{count} bytes"
    return f"{round(count / _UNITS[unit.lower()], 4)} {unit}"


def _check_unit(call: Call) -> None:
    unit = call.options["unit"]
    if unit.lower() not in _UNITS:
        known = "bytes, mb, mib, gb, gib, tb, tib"
        raise InvalidArguments(f"\"unit '{unit}' is not supported. Please use one of: {known}\"")


def _status(call: Call) -> Report:
    overview = call.overview
    node = call.api.get("nodes", call.node)
    found = call.api.find("nodes", call.node, "memory")
    memory = found["memory"] if found and isinstance(found.get("memory"), dict) else {}
    data = _status_data(call, node, memory)
    unit = call.options["unit"]
    sections = {
        "Runtime": _runtime_lines(data, call.node),
        "Plugins": [
            f"Enabled plugin file: {data['enabled_plugin_file']}",
            "Enabled plugins:\n",
            *(f" * {plugin}" for plugin in data["active_plugins"]),
        ],
        "Data directory": [
            f"Node data directory: {data['data_directory']}",
            f"Raft data directory: {data['raft_data_directory']}",
        ],
        "Config files": [f" * {path}" for path in data["config_files"]],
        "Log file(s)": [f" * {path}" for path in data["log_files"]],
        "Alarms": alarm_lines([node]) or ["(none)"],
        "Memory": _memory_lines(data, unit),
        "File Descriptors": [
            "Total: {total_used}, limit: {total_limit}".format(**data["file_descriptors"]),
            "Sockets: {sockets_used}, limit: {sockets_limit}".format(**data["file_descriptors"]),
        ],
        "Free Disk Space": [
            f"Low free disk space watermark: {_converted(data['disk_free_limit'], unit)}",
            f"Free disk space: {_converted(data['disk_free'], unit)}",
        ],
        "Totals": [
            f"Connection count: {data['totals']['connection_count']}",
            f"Queue count: {data['totals']['queue_count']}",
            f"Virtual host count: {data['totals']['virtual_host_count']}",
        ],
        "Listeners": [listener_line(each) for each in data["listeners"]] or ["(none)"],
    }
    assert overview["node"] == node["name"]
    return Report(section_lines(sections), data)


def _status_data(call: Call, node: Item, memory: Item) -> Item:
    overview = call.overview
    totals = overview.get("object_totals", {})
    listeners = [each for each in overview.get("listeners", ()) if each["node"] == call.node]
    return {
        "active_plugins": node.get("enabled_plugins", []),
        "alarms": alarm_maps([node]),
        "config_files": node.get("config_files", []),
        "data_directory": node.get("db_dir", ""),
        "disk_free": node.get("disk_free", 0),
        "disk_free_limit": node.get("disk_free_limit", 0),
        "enabled_plugin_file": node.get("enabled_plugin_file", ""),
        "erlang_version": overview.get("erlang_full_version", ""),
        "file_descriptors": {
            "sockets_limit": node.get("sockets_total", 0),
            "sockets_used": node.get("sockets_used", 0),
            "total_limit": node.get("fd_total", 0),
            "total_used": node.get("fd_used", 0),
        },
        "is_under_maintenance": bool(node.get("being_drained")),
        "listeners": listener_maps(listeners),
        "log_files": node.get("log_files", []),
        "memory": memory,
        "net_ticktime": node.get("net_ticktime", 0),
        "pid": int(node.get("os_pid", 0)),
        "processes": {"limit": node.get("proc_total", 0), "used": node.get("proc_used", 0)},
        "product_name": overview.get("product_name", ""),
        "product_version": overview.get("product_version", ""),
        "rabbitmq_version": overview["rabbitmq_version"],
        "raft_data_directory": "",
        "run_queue": node.get("run_queue", 0),
        "totals": {
            "connection_count": totals.get("connections", 0),
            "queue_count": totals.get("queues", 0),
            "virtual_host_count": len(call.api.get("vhosts", columns="name")),
        },
        "uptime": node.get("uptime", 0) // 1000,
        "vm_memory_calculation_strategy": node.get("mem_calculation_strategy", "rss"),
        "vm_memory_high_watermark_limit": node.get("mem_limit", 0),
        "vm_memory_used": node.get("mem_used", 0),
    }


def _runtime_lines(data: Item, node: str) -> list[str]:
    return [
        f"OS PID: {data['pid']}",
        f"Uptime (seconds): {data['uptime']}",
        f"Is under maintenance?: {str(data['is_under_maintenance']).lower()}",
        f"Product name: {data['product_name']}",
        f"Product version: {data['product_version']}",
        f"RabbitMQ version: {data['rabbitmq_version']}",
        f"Node name: {node}",
        f"Erlang configuration: {data['erlang_version']}",
        f"Erlang processes: {data['processes']['used']} used, {data['processes']['limit']} limit",
        f"Scheduler run queue: {data['run_queue']}",
        f"Cluster heartbeat timeout (net_ticktime): {data['net_ticktime']}",
    ]


def _memory_lines(data: Item, unit: str) -> list[str]:
    lines = [
        f"Total memory used: {_converted(data['vm_memory_used'], unit)}",
        f"Calculation strategy: {data['vm_memory_calculation_strategy']}",
        "Memory high watermark setting: computed to:"
        f" {_converted(data['vm_memory_high_watermark_limit'], unit)}\n",
    ]
    parts = {name: size for name, size in data["memory"].items() if isinstance(size, int)}
    total = max(sum(parts.values()), 1)
    for name, size in sorted(parts.items(), key=lambda part: -part[1]):
        lines.append(f"{name}: {_converted(size, unit)} ({round(100 * size / total, 2)} %)")
    return lines


# -- Checks ------------------------------------------------------------------------------------


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


def _passed(call: Call, text: str) -> Answer:
    """A check that holds; with --silent that is not worth a word."""
    return Report([] if call.options.get("silent") else [text], {"result": "ok"})


def _not_passed(call: Call, text: str) -> CommandFailed:
    return CommandFailed(EXIT_UNAVAILABLE, "" if call.options.get("silent") else text)


def _check_alarms(call: Call) -> Answer:
    lines = alarm_lines(call.api.get("nodes"))
    if lines:
        raise _not_passed(call, "\n".join(lines))
    return _passed(call, f"Node {call.node} reported no alarms, local or clusterwide")


def _check_local_alarms(call: Call) -> Answer:
    lines = alarm_lines([call.api.get("nodes", call.node)])
    if lines:
        raise _not_passed(call, "Error:\n" + "\n".join(lines))
    return _passed(call, f"Node {call.node} reported no local alarms")


def _check_virtual_hosts(call: Call) -> Answer:
    down = [
        vhost["name"]
        for vhost in call.api.get("vhosts")
        if any(state != "running" for state in (vhost.get("cluster_state") or {}).values())
    ]
    if down:
        names = "\n".join(down)
        text = f"Error:\nSome virtual hosts on node {call.node} are down:\n{names}"
        raise _not_passed(call, text)
    return _passed(call, f"Node {call.node} reported all vhosts as running")


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


_CRITICAL = "node-is-mirror-sync-critical"


def _check_mirror_sync_critical(call: Call) -> Answer:
    try:
        answer = call.api.get("health", "checks", _CRITICAL)
    except ApiRefused as refusal:
        raise _not_passed(call, refusal.reason) from refusal
    if (answer or {}).get("reason") == "single node cluster":
        return _passed(call, f"Node {call.node} {_SINGLE}, the check does not apply")
    text = "reported no classic mirrored queues without online synchronised mirrors"
    return _passed(call, f"Node {call.node} {text}")


_SINGLE = "seems to be the only one in a single node cluster"


def _check_quorum_critical(call: Call) -> Answer:
    if len(call.api.get("nodes", columns="name")) == 1:
        return _passed(call, f"Node {call.node} {_SINGLE}, the check does not apply")
    text = "reported no quorum queues with minimum quorum"
    return _passed(call, f"Node {call.node} {text}")


def _check(name: str, run: Any, says: str, description: str, **more: Any) -> Command:
    """A check: ``{node}`` in what it says before is the node's name."""
    return Command(
        **{
            "name": name,
            "run": run,
            "description": description,
            "section": "observability_and_health_checks",
            "switches": TIMED,
            "banner": lambda call: says.format(*call.arguments, node=call.node),
            "tools": (DIAGNOSTICS,),
        }
        | more
    )


COMMANDS = (
    _check(
        "status",
        _status,
        "Status of node {node} ...",
        "Displays status of a node",
        usage="[--unit <unit>]",
        switches={"unit": str, **TIMED},
        defaults={"unit": "gb"},
        check=_check_unit,
        tools=BOTH,
    ),
    _check(
        "is_running",
        _is_running,
        "Asking node {node} for its status ...",
        "Checks if RabbitMQ is fully booted and running on the target node",
    ),
    _check(
        "is_booting",
        _is_booting,
        "Asking node {node} for its boot status ...",
        "Checks if RabbitMQ is still booting on the target node",
    ),
    _check(
        "check_running",
        _running_text,
        "Checking if RabbitMQ is running on node {node} ...",
        "Health check that exits with a non-zero code if the RabbitMQ app on the target node"
        " is not running",
    ),
    _check(
        "server_version",
        _server_version,
        "Asking node {node} for its RabbitMQ version...",
        "Displays server version on the target node",
    ),
    _check(
        "alarms",
        _alarms,
        "Asking node {node} to report any known resource alarms ...",
        "Lists resource alarms (local or cluster-wide) in effect on the target node",
    ),
    _check(
        "check_alarms",
        _check_alarms,
        "Asking node {node} to report any local resource alarms ...",
        "Health check that exits with a non-zero code if the target node reports any alarms,"
        " local or cluster-wide.",
    ),
    _check(
        "check_local_alarms",
        _check_local_alarms,
        "Asking node {node} to report any local resource alarms ...",
        "Health check that exits with a non-zero code if the target node reports any local alarms",
    ),
    _check(
        "check_virtual_hosts",
        _check_virtual_hosts,
        "Checking if all vhosts are running on node {node} ...",
        "Health check that checks if all vhosts are running in the target node",
    ),
    _check(
        "listeners",
        _listeners,
        "Asking node {node} to report its protocol listeners ...",
        "Lists active connection listeners (bound interface, port, protocol) on the target node",
    ),
    _check(
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
    _check(
        "check_protocol_listener",
        _check_protocol_listener,
        "Asking node {node} if there's an active listener for protocol {0} ...",
        "Health check that exits with a non-zero code if target node does not have an active"
        " listener for given protocol",
        usage="<protocol>",
        least=1,
        most=1,
    ),
    _check(
        "check_port_connectivity",
        _check_port_connectivity,
        "",
        "Basic TCP connectivity health check for each listener's port on the target node",
        usage="[--address <target address>]",
        switches={"address": str, **TIMED},
        aliases={"a": "address"},
        banner=_connectivity_banner,
    ),
    _check(
        "check_if_node_is_mirror_sync_critical",
        _check_mirror_sync_critical,
        "Checking if node {node} is critical for data safety of any classic mirrored queues ...",
        "Health check that exits with a non-zero code if there are classic mirrored queues without"
        " online synchronised mirrors"
        " (queues that would potentially lose data if the target node is shut down)",
        tools=(DIAGNOSTICS, QUEUES),
    ),
    _check(
        "check_if_node_is_quorum_critical",
        _check_quorum_critical,
        "Checking if node {node} is critical for quorum of any quorum queues ...",
        "Health check that exits with a non-zero code if there are queues with minimum online"
        " quorum (queues that would lose their quorum if the target node shuts down)",
        tools=(DIAGNOSTICS, QUEUES),
    ),
)

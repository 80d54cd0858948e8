"""The nodes of a cluster: their state, and their coming and going."""

import time
from collections.abc import Callable, Iterable
from typing import Any

from amqpbroker.cli.ctl.api import ApiRefused, ApiTimeout, ApiUnreachable
from amqpbroker.cli.ctl.command import (
    BOTH,
    CTL,
    EXIT_DATA,
    EXIT_SOFTWARE,
    EXIT_UNAVAILABLE,
    TIMED,
    UPGRADE,
    Answer,
    Call,
    Command,
    CommandFailed,
    InvalidArguments,
    Report,
    failed,
)
from amqpbroker.cli.ctl.where import full_name

_NOT_FOUND = 404
_POLL_S = 0.5

Item = dict[str, Any]

PURPOSES = {
    "amqp": "AMQP 0-9-1 and AMQP 1.0",
    "amqp/ssl": "AMQP 0-9-1 and AMQP 1.0 over TLS",
    "http": "HTTP API",
    "https": "HTTP API over TLS (HTTPS)",
    "http/prometheus": "Prometheus exporter API over HTTP",
    "https/prometheus": "Prometheus exporter API over TLS (HTTPS)",
    "clustering": "inter-node and CLI tool communication",
}


def listener_maps(listeners: Iterable[Item]) -> list[Item]:
    """Listeners as reports have them, in the order of their protocols and ports."""
    maps = [
        {
            "interface": _interface(each["ip_address"]),
            "node": each["node"],
            "port": each["port"],
            "protocol": each["protocol"],
            "purpose": PURPOSES.get(each["protocol"], each["protocol"]),
        }
        for each in listeners
    ]
    return sorted(maps, key=lambda each: str(each["protocol"]), reverse=True)


def _interface(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def listener_line(listener: Item) -> str:
    """A listener of the node that is asked."""
    words = ("interface", "port", "protocol", "purpose")
    return ", ".join(f"{word}: {listener[word]}" for word in words).replace("i", "I", 1)


def alarm_lines(nodes: Iterable[Item]) -> list[str]:
    """The alarms of nodes, a line each."""
    lines = []
    for node in nodes:
        if node.get("mem_alarm"):
            lines.append(f"Memory alarm on node {node['name']}")
        if node.get("disk_free_alarm"):
            lines.append(f"Free disk space alarm on node {node['name']}")
        # What RabbitMQ has no alarm for, in the node's own words.
        lines += [f"{text} (node {node['name']})" for text in node.get("amqpbroker_alarms", ())]
    return lines


def alarm_maps(nodes: Iterable[Item]) -> list[Item]:
    """The same for ``--formatter json``."""
    kinds = {"mem_alarm": "memory", "disk_free_alarm": "disk"}
    return [
        {"node": node["name"], "resource": resource, "type": "resource_limit"}
        for node in nodes
        for key, resource in kinds.items()
        if node.get(key)
    ]


# -- cluster_status ----------------------------------------------------------------------------


def _cluster_status(call: Call) -> Report:
    overview = call.overview
    nodes = sorted(call.api.get("nodes"), key=lambda node: str(node["name"]))
    flags = call.api.find("feature-flags") or []
    running = [node for node in nodes if node.get("running")]
    listeners = listener_maps(overview.get("listeners", ()))
    partitions = {node["name"]: node["partitions"] for node in running if node.get("partitions")}
    data = {
        "alarms": alarm_maps(running),
        "cluster_name": overview["cluster_name"],
        "cpu_cores": {node["name"]: node.get("processors", 0) for node in running},
        "disk_nodes": [node["name"] for node in nodes if node.get("type") != "ram"],
        "feature_flags": flags,
        "listeners": {
            node["name"]: [each for each in listeners if each["node"] == node["name"]]
            for node in running
        },
        "maintenance_status": {node["name"]: _maintenance(node) for node in running},
        "partitions": partitions,
        "ram_nodes": [node["name"] for node in nodes if node.get("type") == "ram"],
        "running_nodes": [node["name"] for node in running],
        "versions": {node["name"]: _versions(node, overview) for node in running},
    }
    return Report(_cluster_lines(data, alarm_lines(running)), data)


def _maintenance(node: Item) -> str:
    return "marked for maintenance" if node.get("being_drained") else "not under maintenance"


def _versions(node: Item, overview: Item) -> Item:
    versions = {each["name"]: each.get("version") for each in node.get("applications", ())}
    return {
        "erlang_version": str(overview.get("erlang_version", "")),
        "rabbitmq_name": "RabbitMQ",
        "rabbitmq_version": versions.get("rabbit") or overview["rabbitmq_version"],
    }


def _cluster_lines(data: Item, alarms: list[str]) -> list[str]:
    cores = data["cpu_cores"]
    sections: dict[str, list[str]] = {
        "Basics": [
            f"Cluster name: {data['cluster_name']}",
            f"Total CPU cores available cluster-wide: {sum(cores.values())}",
        ],
        "Disk Nodes": data["disk_nodes"],
        "RAM Nodes": data["ram_nodes"],
        "Running Nodes": data["running_nodes"],
        "Versions": [
            f"{node}: {each['rabbitmq_name']} {each['rabbitmq_version']}"
            f" on Erlang {each['erlang_version']}"
            for node, each in data["versions"].items()
        ],
        "CPU Cores": [
            f"Node: {node}, available CPU cores: {count}" for node, count in cores.items()
        ],
        "Maintenance status": [
            f"Node: {node}, status: {status}" for node, status in data["maintenance_status"].items()
        ],
        "Alarms": alarms or ["(none)"],
        "Network Partitions": [
            f"Node {node} cannot communicate with {', '.join(lost)}"
            for node, lost in data["partitions"].items()
        ]
        or ["(none)"],
        "Listeners": [
            f"Node: {node}, {_lower(listener_line(each))}"
            for node, listeners in data["listeners"].items()
            for each in listeners
        ],
        "Feature flags": [
            f"Flag: {each['name']}, state: {each['state']}" for each in data["feature_flags"]
        ]
        or ["(none)"],
    }
    return section_lines({title: lines for title, lines in sections.items() if lines})


def _lower(line: str) -> str:
    return line.replace("I", "i", 1)


def section_lines(sections: dict[str, list[str]]) -> list[str]:
    """Lines under headings."""
    parts = ["\n".join([f"{title}\n", *lines]) for title, lines in sections.items()]
    return ["\n\n".join(parts)]


# -- Is it there? ------------------------------------------------------------------------------


def wanted_node(call: Call) -> str:
    """The name of the node that is asked, as far as it is known without it."""
    try:
        return call.node
    except (ApiUnreachable, ApiTimeout, ApiRefused, CommandFailed):
        return full_name(call.options)


def _timeout_ms(call: Call, default_s: int) -> int:
    return 1000 * int(call.options.get("timeout") or default_s)


def _ping(call: Call) -> str:
    try:
        call.api.get("overview", columns="node")
    except (ApiUnreachable, ApiTimeout) as error:
        text = f"Failed to connect and authenticate to {wanted_node(call)}"
        raise failed(f"{text} in {_timeout_ms(call, 60)} ms") from error
    return "Ping succeeded"


def _ping_banner(call: Call) -> str:
    return (
        f"Will ping {wanted_node(call)}. This only checks if the OS process is running and"
        f" registered with epmd. Timeout: {_timeout_ms(call, 60)} ms."
    )


def _poll(call: Call, default_s: int, is_done: Callable[[], bool]) -> bool:
    """Look again and again until it is so; False if the time is up before."""
    end_s = time.monotonic() + _timeout_ms(call, default_s) / 1000
    while True:
        try:
            if is_done():
                return True
        except (ApiUnreachable, ApiTimeout):
            pass
        except CommandFailed as failure:
            # Its socket is not there yet.
            if failure.status != EXIT_UNAVAILABLE:
                raise
        if time.monotonic() >= end_s:
            return False
        time.sleep(_POLL_S)


def _await_startup(call: Call) -> None:
    if not _poll(call, 300, lambda: bool(call.api.get("overview", columns="node"))):
        raise ApiTimeout


def _await_online_nodes(call: Call) -> None:
    wanted = int(call.arguments[0])

    def is_enough() -> bool:
        nodes = call.api.get("nodes", columns="name,running")
        return sum(bool(node.get("running")) for node in nodes) >= wanted

    if not _poll(call, 300, is_enough):
        text = f"Error: timed out while waiting. Not enough nodes joined {call.node}'s cluster."
        raise failed(text, EXIT_SOFTWARE)


def check_positive(call: Call) -> None:
    """The one argument is a number above 0."""
    if not call.arguments[0].isdecimal() or int(call.arguments[0]) < 1:
        text = "Bad argument: Argument must be a positive integer"
        raise InvalidArguments(text, EXIT_DATA)


# -- Coming and going --------------------------------------------------------------------------


def _target_node(call: Call) -> str:
    """The node that is asked; refused if another one was meant, which a mistake could stop."""
    wanted = call.options.get("node") or "rabbit"
    if "@" in wanted and wanted != call.node:
        raise failed(f"asked node {call.node}, which is not {wanted}; choose the node's own --url")
    return call.node


def _on_node(action: str) -> Callable[[Call], None]:
    """Ask the node to do it to itself."""

    def run(call: Call) -> None:
        call.api.post("amqpbroker", "nodes", _target_node(call), action, body={})

    return run


def _stop(call: Call) -> Answer:
    try:
        _on_node("stop")(call)
    except ApiUnreachable:
        if not call.options.get("idempotent"):
            raise
        return f"Node {wanted_node(call)} is no longer running"
    return None


def _shutdown(call: Call) -> Answer:
    """Stop it, and wait until it does not answer any more."""
    node = _target_node(call)
    _on_node("stop")(call)
    if not call.options["wait"]:
        return None
    if not _poll(call, 120, lambda: not _answers(call)):
        raise ApiTimeout
    return Report(
        [f"Shutting down RabbitMQ node {node}", f"RabbitMQ node {node} successfully shut down"]
    )


def _answers(call: Call) -> bool:
    try:
        call.api.get("overview", columns="node")
    except ApiUnreachable:
        return False
    return True


def _forget_cluster_node(call: Call) -> None:
    (node,) = call.arguments
    if call.options["offline"]:
        raise failed("--offline is not supported: ask any node of the cluster that runs")
    try:
        call.api.delete("amqpbroker", "nodes", node)
    except ApiRefused as refusal:
        if refusal.status != _NOT_FOUND:
            raise
        why = "{:not_a_cluster_node, 'The node selected is not in the cluster.'}"
        raise failed(why) from refusal


def _set_cluster_name(call: Call) -> None:
    call.api.put("cluster-name", body={"name": call.arguments[0]})


COMMANDS = (
    Command(
        name="cluster_status",
        run=_cluster_status,
        description="Displays all the nodes in the cluster grouped by node type,"
        " together with the currently running nodes",
        section="cluster_management",
        switches=TIMED,
        banner=lambda call: f"Cluster status of node {call.node} ...",
        tools=BOTH,
    ),
    Command(
        name="ping",
        run=_ping,
        description="Checks that the node OS process is up, registered with EPMD"
        " and CLI tools can authenticate with it",
        section="observability_and_health_checks",
        switches=TIMED,
        banner=_ping_banner,
        tools=BOTH,
    ),
    Command(
        name="await_startup",
        run=_await_startup,
        description="Waits for the RabbitMQ application to start on the target node",
        section="node_management",
    ),
    Command(
        name="await_online_nodes",
        run=_await_online_nodes,
        usage="<count>",
        description="Waits for <count> nodes to join the cluster",
        section="cluster_management",
        details=(("<count>", "how many cluster members must be up"),),
        least=1,
        most=1,
        switches=TIMED,
        banner=lambda call: (
            f"Will wait for at least {call.arguments[0]} nodes to join the cluster"
            f" of {call.node}. Timeout: {_timeout_ms(call, 300) // 1000} seconds."
        ),
        check=check_positive,
    ),
    Command(
        name="stop",
        run=_stop,
        usage="[--idempotent] [<pidfile>]",
        description="Stops the node",
        section="node_management",
        details=(("--idempotent", "return success if target node is not running"),),
        most=1,
        switches={"idempotent": bool},
        banner=lambda call: f"Stopping and halting node {wanted_node(call)} ...",
    ),
    Command(
        name="shutdown",
        run=_shutdown,
        usage="[--wait]",
        description="Stops the node, and waits until it has stopped",
        section="node_management",
        details=(
            ("--wait", "wait for target node to terminate"),
            ("--no-wait", "do not wait for target node to terminate"),
        ),
        switches={"wait": bool, **TIMED},
        defaults={"wait": True},
    ),
    Command(
        name="forget_cluster_node",
        run=_forget_cluster_node,
        usage="[--offline] <existing_cluster_member_node>",
        description="Removes a node from the cluster",
        section="cluster_management",
        least=1,
        most=1,
        switches={"offline": bool},
        defaults={"offline": False},
        banner="Removing node {0} from the cluster",
    ),
    Command(
        name="set_cluster_name",
        run=_set_cluster_name,
        usage="<name>",
        description="Sets the cluster name",
        section="configuration",
        details=(("<name>", "New cluster name"),),
        least=1,
        most=1,
        banner="Setting cluster name to {0} ...",
    ),
    Command(
        name="drain",
        run=_on_node("drain"),
        description="Puts the node in maintenance mode. Such nodes will not serve any client"
        " traffic or host any primary queue replicas",
        section="upgrade",
        banner=lambda call: (
            f"Will put node {call.node} into maintenance mode."
            " The node will no longer serve any client traffic!"
        ),
        tools=(UPGRADE, CTL),
    ),
    Command(
        name="revive",
        run=_on_node("revive"),
        description="Puts the node out of maintenance and into regular operating mode."
        " Such nodes will again serve client traffic and host primary queue replicas",
        section="upgrade",
        banner=lambda call: (
            f"Will put node {call.node} back into regular operating mode."
            " The node will again serve client traffic and host primary queue replicas."
        ),
        tools=(UPGRADE, CTL),
    ),
)

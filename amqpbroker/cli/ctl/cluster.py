"""The nodes of a cluster: their state, and their coming and going."""

from collections.abc import Callable

from amqpbroker.cli.ctl.api import ApiRefused, ApiTimeout, ApiUnreachable
from amqpbroker.cli.ctl.command import (
    BOTH,
    EXIT_USAGE,
    TIMED,
    UPGRADE,
    Answer,
    Call,
    Command,
    Report,
    failed,
)
from amqpbroker.cli.ctl.reports import (
    Item,
    alarm_lines,
    alarm_maps,
    listener_line,
    listener_maps,
    section_lines,
)
from amqpbroker.cli.ctl.waiting import is_alive, poll, read_pid, wanted_node

_NOT_FOUND = 404
_NOT_ALLOWED = 405
_POLL_S = 0.5

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


def _maintenance_mode(action: str) -> Callable[[Call], None]:
    """Begin or end it, if the node knows it."""
    act = _on_node(action)

    def run(call: Call) -> None:
        try:
            act(call)
        except ApiRefused as refusal:
            if refusal.status not in (_NOT_FOUND, _NOT_ALLOWED):
                raise
            text = f"Maintenance mode is not supported by node {call.node}"
            raise failed(text, EXIT_USAGE) from refusal

    return run


def _stop(call: Call) -> Answer:
    """Stop it; and if a pid file is given, wait until the process in it is gone."""
    files = call.arguments
    process_id = read_pid(files[0]) if files else 0
    try:
        _on_node("stop")(call)
    except ApiUnreachable:
        if not call.options.get("idempotent"):
            raise
        return f"Node {wanted_node(call)} is no longer running"
    if not files:
        return None
    if not process_id:
        raise failed(f"could not read pid from file {files[0]}")
    if not poll(call, 300, lambda: not is_alive(process_id)):
        raise ApiTimeout
    return f"process {process_id} (take from pid file {files[0]}) is no longer running"


def _stop_banner(call: Call) -> str:
    monitored = f"(will monitor pid file {call.arguments[0]}) " if call.arguments else ""
    return f"Stopping and halting node {wanted_node(call)} {monitored}..."


def _post_upgrade(call: Call) -> None:
    """Spread the queues again."""
    call.api.post("rebalance", "queues", body={})


def _shutdown(call: Call) -> Answer:
    """Stop it, and wait until it does not answer any more."""
    node = _target_node(call)
    _on_node("stop")(call)
    if not call.options["wait"]:
        return None
    if not poll(call, 120, lambda: not _answers(call)):
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


def _listeners_banner(act: str, now: str) -> Callable[[Call], str]:
    return lambda call: (
        f"Will {act} client connection listeners on node {call.node}. "
        f"The node will {now} accept client connections"
    )


COMMANDS = (
    Command(
        name="suspend_listeners",
        run=_on_node("suspend"),
        description="Suspends client connection listeners so that no new client connections are"
        " accepted",
        section="operations",
        switches=TIMED,
        banner=lambda call: f"{_listeners_banner('suspend', 'no longer')(call)}!",
    ),
    Command(
        name="resume_listeners",
        run=_on_node("resume"),
        description="Resumes client connection listeners making them accept client connections"
        " again",
        section="operations",
        switches=TIMED,
        banner=_listeners_banner("resume", "now"),
    ),
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
        name="stop",
        run=_stop,
        usage="[--idempotent] [<pidfile>]",
        description="Stops the node",
        section="node_management",
        details=(
            ("<pidfile>", "node PID file path to monitor"),
            ("--idempotent", "return success if target node is not running"),
        ),
        most=1,
        switches={"idempotent": bool},
        banner=_stop_banner,
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
        name="post_upgrade",
        run=_post_upgrade,
        description="Runs post-upgrade tasks",
        section="upgrade",
        banner="Executing post upgrade tasks...\nRebalancing queue masters...",
        tools=(UPGRADE,),
    ),
    Command(
        name="drain",
        run=_maintenance_mode("drain"),
        description="Puts the node in maintenance mode. Such nodes will not serve any client"
        " traffic or host any primary queue replicas",
        section="upgrade",
        banner=lambda call: (
            f"Will put node {call.node} into maintenance mode."
            " The node will no longer serve any client traffic!"
        ),
        tools=(UPGRADE,),
    ),
    Command(
        name="revive",
        run=_maintenance_mode("revive"),
        description="Puts the node out of maintenance and into regular operating mode."
        " Such nodes will again serve client traffic and host primary queue replicas",
        section="upgrade",
        banner=lambda call: (
            f"Will put node {call.node} back into regular operating mode."
            " The node will again serve client traffic and host primary queue replicas."
        ),
        tools=(UPGRADE,),
    ),
)

"""The state of one node: ``status``, and the checks of ``rabbitmq-diagnostics``."""

from amqpbroker.cli.ctl.command import (
    BOTH,
    TIMED,
    Call,
    InvalidArguments,
    Report,
)
from amqpbroker.cli.ctl.reports import (
    Item,
    alarm_lines,
    alarm_maps,
    asking,
    listener_line,
    listener_maps,
    section_lines,
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
    own_version = overview.get("amqpbroker_version", "")
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
        "product_name": "amqpbroker" if own_version else "",
        "product_version": own_version,
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
    names = {"Product name": "product_name", "Product version": "product_version"}
    product = [f"{title}: {data[key]}" for title, key in names.items() if data[key]]
    return [
        f"OS PID: {data['pid']}",
        f"Uptime (seconds): {data['uptime']}",
        f"Is under maintenance?: {str(data['is_under_maintenance']).lower()}",
        *product,
        f"RabbitMQ version: {data['rabbitmq_version']}",
        f"Node name: {node}",
        f"Erlang configuration: {data['erlang_version']}",
        f"Erlang processes: {data['processes']['used']} used, {data['processes']['limit']} limit",
        f"Scheduler run queue: {data['run_queue']}",
        f"Cluster heartbeat timeout (net_ticktime): {data['net_ticktime']}",
    ]


def _memory_lines(data: Item, unit: str) -> list[str]:
    limit = _converted(data["vm_memory_high_watermark_limit"], unit)
    lines = [
        f"Total memory used: {_converted(data['vm_memory_used'], unit)}",
        f"Calculation strategy: {data['vm_memory_calculation_strategy']}",
        f"Memory high watermark setting: {limit}, computed to: {limit}\n",
    ]
    for name, (size, percentage) in _shares(data["memory"]).items():
        lines.append(f"{name}: {_converted(size, unit)} ({percentage} %)")
    return lines


def _shares(memory: Item) -> dict[str, tuple[int, float]]:
    """What takes how much, the most first: bytes, and per cent of all."""
    parts = {name: size for name, size in memory.items() if isinstance(size, int)}
    totals = memory.get("total")
    whole = max(totals.values()) if isinstance(totals, dict) else sum(parts.values())
    return {
        name: (size, round(100 * size / max(whole, 1), 2))
        for name, size in sorted(parts.items(), key=lambda part: -part[1])
    }


def _memory_breakdown(call: Call) -> Report:
    memory = call.api.get("nodes", call.node, "memory")["memory"]
    unit = call.options["unit"].lower()
    parts = _shares(memory)
    lines = [
        f"{name}: {_converted(size, unit)} ({percentage}%)"
        for name, (size, percentage) in parts.items()
    ]
    data = {
        name: {"bytes": size, "percentage": percentage}
        for name, (size, percentage) in parts.items()
    }
    return Report([*lines, ""], data)


def _log_location(call: Call) -> Report:
    files = call.api.get("nodes", call.node).get("log_files") or ["<stderr>"]
    shown = files if call.options["all"] else files[:1]
    return Report(shown, {"node_name": call.node, "paths": shown, "result": "ok"})


COMMANDS = (
    asking(
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
    asking(
        "memory_breakdown",
        _memory_breakdown,
        "Reporting memory breakdown on node {node}...",
        "Provides a memory usage breakdown on the target node.",
        usage="[--unit <unit>]",
        switches={"unit": str, **TIMED},
        defaults={"unit": "gb"},
        check=_check_unit,
    ),
    asking(
        "log_location",
        _log_location,
        "Log file location(s) on node {node} ...",
        "Shows log file location(s) on target node",
        usage="[--all|-a]",
        section="configuration",
        switches={"all": bool, **TIMED},
        aliases={"a": "all"},
        defaults={"all": False},
    ),
)

"""What reports about nodes have in common."""

from collections.abc import Iterable
from typing import Any

from amqpbroker.cli.ctl.command import (
    DIAGNOSTICS,
    EXIT_UNAVAILABLE,
    TIMED,
    Answer,
    Call,
    Command,
    CommandFailed,
    Report,
)

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


def section_lines(sections: dict[str, list[str]]) -> list[str]:
    """Lines under headings."""
    parts = ["\n".join([f"{title}\n", *lines]) for title, lines in sections.items()]
    return ["\n\n".join(parts)]


def asking(name: str, run: Any, says: str, description: str, **more: Any) -> Command:
    """A command that asks one node: ``{node}`` in what it says before is the node's name."""
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


def passed(call: Call, text: str) -> Answer:
    """A check that holds; with --silent that is not worth a word."""
    return Report([] if call.options.get("silent") else [text], {"result": "ok"})


def not_passed(call: Call, text: str) -> CommandFailed:
    """A check that does not hold."""
    return CommandFailed(EXIT_UNAVAILABLE, "" if call.options.get("silent") else text)

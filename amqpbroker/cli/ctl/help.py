"""What the command says of itself, in rabbitmqctl's layout."""

from collections.abc import Iterable, Mapping

from amqpbroker.cli.ctl.command import Command
from amqpbroker.cli.ctl.where import HELP

_SECTIONS = {
    "help": "Help",
    "node_management": "Nodes",
    "cluster_management": "Cluster",
    "replication": "Replication",
    "user_management": "Users",
    "access_control": "Access Control",
    "observability_and_health_checks": "Monitoring, observability and health checks",
    "parameters": "Parameters",
    "policies": "Policies",
    "virtual_hosts": "Virtual hosts",
    "configuration": "Configuration and Environment",
    "definitions": "Definitions",
    "feature_flags": "Feature flags",
    "operations": "Operations",
    "plugin_management": "Plugin Management",
    "queues": "Queues",
    "upgrade": "Upgrade",
    "other": "Other",
    "deprecated": "Deprecated",
}
"""The sections of the help, in order."""

_OPTIONS = """\
The following options are accepted by most or all commands.

short            | long          | description
-----------------|---------------|--------------------------------
-?               | --help        | displays command help
-n <node>        | --node <node> | connect to node <node>
-l               | --longnames   | accepted, changes nothing
-t               | --timeout <n> | for commands that support it, operation timeout in seconds
-q               | --quiet       | suppress informational messages
-s               | --silent      | suppress informational messages
                                 | and table header row
-p               | --vhost       | for commands that are scoped to a virtual host,
                 |               | virtual host to use
                 | --formatter   | alternative result formatter to use
                                 | if supported: json, pretty_table, table, csv, erlang
                                   not all commands support all (or any) alternative formatters.
                 | --dry-run     | say what would be done, and do nothing
                 | --url <url>   | HTTP address of the node, with --user and --password"""


def base_usage(command: Command, program: str) -> str:
    """How a command is called."""
    timeout = " [--timeout <timeout>]" if "timeout" in command.switches else ""
    words = " ".join(filter(None, (command.name, command.usage)))
    return f"\nUsage\n\n{program} [--node <node>] [--longnames] [--quiet] {words}{timeout}"


def command_usage(command: Command, program: str) -> str:
    """All about a command."""
    parts = [base_usage(command, program)]
    if command.description:
        parts.append(f"{command.description}.\n")
    if command.details:
        entries = "\n".join(f"{option}\n\t{meaning}\n" for option, meaning in command.details)
        parts.append(f"Arguments and Options\n\n{entries}")
    parts.append(f"General Options\n\n{_OPTIONS}")
    parts.append(HELP)
    return "\n\n".join(parts) + "\n"


def all_usage(commands: Mapping[str, Command], program: str) -> str:
    """All commands."""
    return (
        f"\nUsage\n\n{program} [--node <node>] [--timeout <timeout>] [--longnames] [--quiet]"
        f" <command> [<command options>]\n\nAvailable commands:\n"
        f"{command_list(commands.values())}\n{HELP}\n\n"
        f"Use '{program} help <command>' to learn more about a specific command"
    )


def command_list(commands: Iterable[Command]) -> str:
    """The commands by section, a line each."""
    listed = sorted(commands, key=lambda command: command.name)
    width = max((len(command.name) for command in listed), default=0)
    lines = []
    for section, title in _SECTIONS.items():
        there = [command for command in listed if command.section == section]
        if there:
            lines.append(f"\n{title}:\n\n")
            lines += [f"   {each.name:{width}}  {each.description}\n" for each in there]
    return "".join(lines)


def suggestion(typed: str, names: Iterable[str]) -> str | None:
    """The command that ``typed`` was perhaps meant to be."""
    closest = max(sorted(names), key=lambda name: _jaro(name, typed), default=None)
    return closest if closest is not None and _jaro(closest, typed) >= _CLOSE else None


_CLOSE = 0.77
"""The Jaro similarity from which on a command is suggested, as in Elixir."""


def _jaro(one: str, other: str) -> float:
    """How alike two words are (Jaro): 0 not at all, 1 the same."""
    if one == other:
        return 1.0
    reach = max(len(one), len(other)) // 2 - 1
    taken = [False] * len(other)
    matched = []
    for place, letter in enumerate(one):
        for there in range(max(0, place - reach), min(len(other), place + reach + 1)):
            if not taken[there] and other[there] == letter:
                taken[there] = True
                matched.append(letter)
                break
    if not matched:
        return 0.0
    mirrored = [letter for letter, is_taken in zip(other, taken, strict=True) if is_taken]
    swapped = sum(left != right for left, right in zip(matched, mirrored, strict=True)) / 2
    count = len(matched)
    return (count / len(one) + count / len(other) + (count - swapped) / count) / 3

"""All commands, by the tool that has them."""

from collections.abc import Mapping

from amqpbroker.cli.ctl import (
    apply,
    checks,
    cluster,
    files,
    limits,
    listing,
    permissions,
    policies,
    queues,
    settings,
    status,
    tools,
    users,
    vhosts,
    waiting,
)
from amqpbroker.cli.ctl.command import (
    EXIT_USAGE,
    OWN_NAME,
    PLUGINS,
    TOOLS,
    Answer,
    Call,
    Command,
    CommandFailed,
    Raw,
)
from amqpbroker.cli.ctl.help import all_usage, command_list, command_usage, suggestion

_ROOMS = (
    apply,
    checks,
    cluster,
    files,
    limits,
    listing,
    permissions,
    policies,
    queues,
    settings,
    status,
    tools,
    users,
    vhosts,
    waiting,
)


def commands_of(tool: str) -> Mapping[str, Command]:
    """The commands of a tool (or of our own name), by name."""
    return _COMMANDS[tool]


def _help(tool: str) -> Command:
    def run(call: Call) -> Answer:
        commands = _COMMANDS[tool]
        if not call.arguments:
            if call.options.get("list_commands"):
                return Raw(command_list(commands.values()) + "\n")
            return all_usage(commands, call.program)
        (name,) = call.arguments
        if name in commands:
            return command_usage(commands[name], call.program)
        meant = suggestion(name, commands)
        missing = f"Error:\n\nCommand '{name}' not found."
        if meant is None:
            raise CommandFailed(EXIT_USAGE, missing)
        raise CommandFailed(EXIT_USAGE, f"{missing} \nDid you mean '{meant}'? \n")

    return Command(
        name="help",
        run=run,
        usage="(<command> | [--list-commands])",
        description="Displays usage information for a command",
        section="help",
        details=(("--list-commands", "only output a list of discovered commands"),),
        most=1,
        switches={"list_commands": bool},
    )


def _commands(name: str, *tools: str) -> dict[str, Command]:
    there = [
        command
        for room in _ROOMS
        for command in room.COMMANDS
        if not set(tools).isdisjoint(command.tools)
    ]
    return {command.name: command for command in (_help(name), *there)}


_COMMANDS = {tool: _commands(tool, tool) for tool in TOOLS} | {
    OWN_NAME: _commands(OWN_NAME, OWN_NAME, *(tool for tool in TOOLS if tool != PLUGINS))
}

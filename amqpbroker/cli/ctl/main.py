"""From a command line to an exit status, in rabbitmqctl's steps."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import attrs

from amqpbroker.cli.ctl.api import Api, ApiRefused, ApiTimeout, ApiUnreachable, Target
from amqpbroker.cli.ctl.command import (
    EXIT_TEMPORARY,
    EXIT_UNAVAILABLE,
    EXIT_USAGE,
    OWN_NAME,
    TOOLS,
    Call,
    Command,
    CommandFailed,
    InvalidArguments,
    failed,
)
from amqpbroker.cli.ctl.commands import commands_of
from amqpbroker.cli.ctl.erlang import json_text
from amqpbroker.cli.ctl.formatters import FORMATTERS, MACHINE_READABLE, format_answer
from amqpbroker.cli.ctl.help import all_usage, base_usage, command_usage, suggestion
from amqpbroker.cli.ctl.options import Parsed, Switches, parse
from amqpbroker.cli.ctl.where import find_target, full_name, unreachable

_SWITCHES: Switches = {
    "node": str,
    "quiet": bool,
    "silent": bool,
    "dry_run": bool,
    "vhost": str,
    "timeout": int,
    "longnames": bool,
    "formatter": str,
    "printer": str,
    "file": str,
    "script_name": str,
    "rabbitmq_home": str,
    "data_dir": str,
    "plugins_dir": str,
    "enabled_plugins_file": str,
    "aliases_file": str,
    "erlang_cookie": str,
    "help": bool,
    "print_stacktrace": bool,
    "url": str,
    "user": str,
    "password": str,
}
_ALIASES = {
    "p": "vhost",
    "n": "node",
    "q": "quiet",
    "s": "silent",
    "l": "longnames",
    "t": "timeout",
    "?": "help",
}
_TABLE_SWITCHES: Switches = {"table_headers": bool, "pad_to_header": bool}


@attrs.frozen
class Surroundings:
    """What a call has from the process that it runs in."""

    stdin: TextIO = attrs.Factory(lambda: sys.stdin)
    stdout: TextIO = attrs.Factory(lambda: sys.stdout)
    stderr: TextIO = attrs.Factory(lambda: sys.stderr)
    environment: Mapping[str, str] = attrs.Factory(lambda: os.environ)
    connect: Callable[[Target, float | None], Api] = Api


def entry_point() -> None:
    """The command in a shell; under the name of one of RabbitMQ's tools it is that tool."""
    try:
        sys.exit(main(sys.argv[1:], Path(sys.argv[0]).name))
    except BrokenPipeError:
        # Whoever read our output has had enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_UNAVAILABLE)
    except KeyboardInterrupt:
        sys.exit(130)


def main(words: Sequence[str], program: str = OWN_NAME, around: Surroundings | None = None) -> int:
    """Run a command line; its exit status."""
    around = around or Surroundings()
    try:
        _run(list(words), program, around)
    except CommandFailed as failure:
        if failure.text:
            around.stderr.write(f"{failure.text}\n")
        return failure.status
    return 0


def _run(words: list[str], program: str, around: Surroundings) -> None:
    program = _tool(words, program)
    commands = commands_of(program)
    if words in ([], ["--help"], ["-?"], ["-h"]):
        usage = all_usage(commands, program)
        if not words:
            raise CommandFailed(EXIT_USAGE, usage)
        around.stdout.write(f"{usage}\n")
        return
    if words == ["--version"]:
        words = ["version"]
    command = _find_command(parse(words, _SWITCHES, _ALIASES), commands, program)
    parsed = _parse_for(command, words)
    try:
        _check_options(parsed)
        _execute(command, parsed, program, around)
    except InvalidArguments as fault:
        given = " ".join(words)
        text = f"Error (argument validation): {fault.text}\nArguments given:\n\t{given}"
        usage = base_usage(command, program)
        raise CommandFailed(fault.status, f"{text}\n{usage}") from fault


def _tool(words: list[str], program: str) -> str:
    """The tool whose commands are meant: ``--script-name`` says another one than the name."""
    named = str(parse(words, _SWITCHES, _ALIASES).options.get("script_name", program))
    return named if named in TOOLS else OWN_NAME


def _find_command(parsed: Parsed, commands: Mapping[str, Command], program: str) -> Command:
    name = parsed.arguments[0] if parsed.arguments else ""
    if name in commands:
        return commands[name]
    missing = f"\nCommand '{name}' not found. \n" if name else ""
    meant = suggestion(name, commands) if name else None
    if meant is not None:
        raise CommandFailed(EXIT_USAGE, f"{missing}Did you mean '{meant}'? \n")
    raise CommandFailed(EXIT_USAGE, missing + all_usage(commands, program))


def _parse_for(command: Command, words: list[str]) -> Parsed:
    formatter_switches = _TABLE_SWITCHES if command.formatter == "table" else {}
    switches = {**_SWITCHES, **formatter_switches, **command.switches}
    parsed = parse(words, switches, {**_ALIASES, **command.aliases})
    login = None if "user" in command.switches else parsed.options.get("user")
    options = {**command.defaults, **parsed.options, "login": login}
    return Parsed(parsed.arguments[1:], options, parsed.invalid)


def _check_options(parsed: Parsed) -> None:
    if parsed.invalid:
        options = [f"{name} : {value or ''}" for name, value in parsed.invalid]
        raise InvalidArguments("\n".join(["Invalid options for this command:", *options]))


def _execute(command: Command, parsed: Parsed, program: str, around: Surroundings) -> None:
    options = parsed.options
    if options.get("help"):
        around.stdout.write(f"{command_usage(command, program)}\n")
        return
    call = Call(parsed.arguments, options, lambda: _api(options, around), program, around.stdin)
    _check_count(command, call)
    if command.check is not None:
        command.check(call)
    formatter = _formatter(command, options)
    try:
        if not call.is_quiet and formatter not in MACHINE_READABLE:
            banner = command.banner_of(call)
            if banner is not None:
                around.stdout.write(f"{banner}\n")
                around.stdout.flush()
        if not options.get("dry_run") or "dry_run" in command.switches:
            around.stdout.write(format_answer(command.run(call), call, formatter))
            around.stdout.flush()
    except (ApiRefused, ApiTimeout, ApiUnreachable) as error:
        raise _failure_of(error, command, call) from error
    except CommandFailed as failure:
        if failure.message and formatter == "json":
            data = {"message": failure.message, "node": call.node, "result": "error"}
            raise CommandFailed(EXIT_UNAVAILABLE, json_text(data)) from failure
        raise


def _api(options: Mapping[str, Any], around: Surroundings) -> Api:
    return around.connect(find_target(options, around.environment), options.get("timeout"))


def _check_count(command: Command, call: Call) -> None:
    count = len(call.arguments)
    if count < command.least:
        raise InvalidArguments("not enough arguments.")
    if command.most is not None and count > command.most:
        raise InvalidArguments("too many arguments.")


def _formatter(command: Command, options: Mapping[str, Any]) -> str:
    wanted = str(options.get("formatter", "")).lower()
    return wanted if wanted in FORMATTERS else command.formatter


def _failure_of(error: Exception, command: Command, call: Call) -> CommandFailed:
    """What RabbitMQ's tool says of a node that does not answer, or does not want to."""
    wanted = full_name(call.options)
    if isinstance(error, ApiTimeout):
        text = (
            f"Error: operation {command.name} on node {wanted} timed out."
            f" Timeout value used: {round(call.api.timeout_s * 1000)}"
        )
        return CommandFailed(EXIT_TEMPORARY, text)
    if isinstance(error, ApiUnreachable):
        why = f"asked {call.api.target.title}: {error}"
        return CommandFailed(EXIT_UNAVAILABLE, unreachable(wanted, why))
    assert isinstance(error, ApiRefused)
    if error.status == _UNAUTHORISED:
        why = f"asked {call.api.target.title} as user '{call.api.target.user}': {error.reason}"
        return CommandFailed(EXIT_UNAVAILABLE, unreachable(wanted, why))
    return failed(error.reason)


_UNAUTHORISED = 401

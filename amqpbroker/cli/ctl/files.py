"""Definitions to a file and back."""

import json
from pathlib import Path
from typing import Any

from amqpbroker.cli.ctl.command import (
    EXIT_DATA,
    TIMED,
    Answer,
    Call,
    Command,
    InvalidArguments,
    Raw,
    Report,
    failed,
)
from amqpbroker.cli.ctl.erlang import json_text


def _check_format(call: Call) -> None:
    """JSON only: the other format is Erlang's own."""
    wanted = call.options["format"].lower()
    if wanted == "erlang":
        text = "Bad argument: the format of definitions is json; Erlang's is not supported"
        raise InvalidArguments(text, EXIT_DATA)
    if wanted != "json":
        raise InvalidArguments("Bad argument: Format should be either json or erlang", EXIT_DATA)


def _check_export(call: Call) -> None:
    _check_format(call)
    path = call.arguments[0]
    folder = Path(path).parent
    if path != "-" and not folder.exists():
        raise InvalidArguments(f"Bad argument: Directory {folder} does not exist", EXIT_DATA)


def _check_import(call: Call) -> None:
    _check_format(call)
    if call.arguments and not Path(call.arguments[0]).exists():
        path = call.arguments[0]
        raise InvalidArguments(f"Bad argument: File {path} does not exist", EXIT_DATA)


def _export_definitions(call: Call) -> Answer:
    path = call.arguments[0]
    text = json_text(call.api.get("definitions"))
    if path == "-":
        return Raw(text)
    try:
        Path(path).write_text(text)
    except IsADirectoryError as error:
        raise failed(f"Path {path} is a directory", EXIT_DATA) from error
    except PermissionError as error:
        text = f"No permissions to write to file {path} or its parent directory"
        raise failed(text, EXIT_DATA) from error
    except OSError as error:
        text = f"Could not write to file {path}: {error.strerror}"
        raise failed(text, EXIT_DATA) from error
    return Raw("")


def _import_definitions(call: Call) -> Answer:
    call.api.post("definitions", body=_read(call))
    if call.options.get("formatter") == "json":
        return Report([], {"node": call.node, "result": "ok"})
    if call.is_quiet:
        return None
    return Raw(
        "Successfully started definition import. "
        "This process is asynchronous and can take some time."
        " Watch target node logs for completion.\n"
    )


def _read(call: Call) -> Any:
    """The definitions of the file, or of the standard input."""
    try:
        if call.arguments:
            text = Path(call.arguments[0]).read_text()
        else:
            text = call.stdin.read()
    except IsADirectoryError as error:
        raise failed(f"Path {call.arguments[0]} is a directory", EXIT_DATA) from error
    except (OSError, UnicodeDecodeError) as error:
        why = f"Could not read from file {call.arguments[0]}: {error}"
        raise failed(why, EXIT_DATA) from error
    if not text and call.arguments:
        raise failed(f"File {call.arguments[0]} is zero-sized", EXIT_DATA)
    try:
        return json.loads(text)
    except ValueError as error:
        why = f"Failed to deserialise input (format: JSON) (error: {error})"
        raise failed(why, EXIT_DATA) from error


def _export_banner(call: Call) -> str | None:
    path = call.arguments[0]
    return None if path == "-" else f'Exporting definitions in JSON to a file at "{path}" ...'


def _import_banner(call: Call) -> str:
    there = f'a file at "{call.arguments[0]}"' if call.arguments else "standard input"
    return f"Importing definitions in JSON from {there} ..."


COMMANDS = (
    Command(
        name="export_definitions",
        run=_export_definitions,
        usage='<file_path | "-"> [--format <json | erlang>]',
        description="Exports definitions in JSON or compressed Erlang Term Format.",
        section="definitions",
        details=(
            ("<file>", "Local file path to export to. Pass a dash (-) for stdout."),
            ("--format", "output format to use: json"),
        ),
        least=1,
        most=1,
        switches={"format": str, **TIMED},
        defaults={"format": "json"},
        banner=_export_banner,
        check=_check_export,
    ),
    Command(
        name="import_definitions",
        run=_import_definitions,
        usage='<file_path | "-"> [--format <json | erlang>] [--skip-if-unchanged]',
        description="Imports definitions in JSON or compressed Erlang Term Format.",
        section="definitions",
        details=(
            (
                "[file]",
                "Local file path to import from. If omitted will be read from standard input",
            ),
            ("--format", "input format to use: json"),
            ("--skip-if-unchanged", "accepted; what is unchanged is never touched"),
        ),
        most=1,
        switches={"format": str, "skip_if_unchanged": bool, **TIMED},
        defaults={"format": "json"},
        banner=_import_banner,
        check=_check_import,
    ),
)

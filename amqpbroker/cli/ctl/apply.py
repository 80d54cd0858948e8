"""Policies from a file: all of them, or none."""

import importlib.resources
import json
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from amqpbroker.cli.ctl.api import ApiRefused
from amqpbroker.cli.ctl.command import (
    EXIT_DATA,
    IN_VHOST,
    OWN_NAME,
    TIMED,
    Call,
    Command,
    Report,
    failed,
    no_such_vhost,
)

_NOT_FOUND = 404


def _shipped() -> Traversable:
    """Where the files are that come with the broker; in a checkout they lie beside it."""
    try:
        return importlib.resources.files("amqpbroker_policies")
    except ModuleNotFoundError:
        return Path(__file__).parents[3] / "policies"


def _file(name: str) -> Traversable:
    """The file that is meant: a path, or the name of one that is shipped."""
    if "/" in name or name.endswith(".json"):
        return Path(name)
    shipped = _shipped()
    file = shipped / f"{name}.json"
    if file.is_file():
        return file
    names = sorted(each.name for each in shipped.iterdir() if each.name.endswith(".json"))
    known = ", ".join(each.removesuffix(".json") for each in names)
    raise failed(
        f"there is no policy file '{name}'; there are: {known} (or give the path of a FILE.json)",
        EXIT_DATA,
    )


def _read(name: str) -> dict[str, Any]:
    """What the file says, as far as it can be judged here."""
    file = _file(name)
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise failed(f"{name} cannot be read: {error.strerror or error}", EXIT_DATA) from error
    except ValueError as error:
        raise failed(f"{name} is no JSON: {error}", EXIT_DATA) from error
    if not isinstance(document, dict) or not isinstance(document.get("policies"), list):
        text = 'it must be an object with a list of "policies"'
        raise failed(f"{name} is no policy file: {text}", EXIT_DATA)
    return document


def _apply(call: Call) -> Report:
    document = _read(call.arguments[0])
    body = {"policies": document["policies"], "dry_run": call.options["dry_run"]}
    try:
        changes = call.api.post("amqpbroker", "policies", call.vhost, body=body)
    except ApiRefused as refusal:
        if refusal.status == _NOT_FOUND:
            raise no_such_vhost(call.vhost) from refusal
        raise failed(f"nothing was changed:\n{refusal.reason}", EXIT_DATA) from refusal
    would = "would be " if call.options["dry_run"] else ""
    lines = [
        f"policy '{change['name']}': "
        + ("as it is" if change["change"] == "none" else f"{would}{change['change']}")
        for change in changes
    ]
    return Report(lines or ["there are no policies in it"], changes)


def _banner(call: Call) -> str:
    what = "Looking at" if call.options["dry_run"] else "Applying"
    return f"{what} policies of {call.arguments[0]} in vhost {call.vhost} ..."


COMMANDS = (
    Command(
        name="apply",
        run=_apply,
        usage="[--vhost <vhost>] [--dry-run] <name> | <file.json>",
        description="Sets the policies that a file names: all of them, or none",
        section="policies",
        details=(
            ("<name>", "a policy file that comes with the broker"),
            ("<file.json>", 'an object: {"description": ..., "policies": [{"name": ..., ...}]}'),
            ("--dry-run", "only say what would change"),
        ),
        least=1,
        most=1,
        switches={"dry_run": bool, **TIMED},
        defaults={**IN_VHOST, "dry_run": False},
        banner=_banner,
        tools=(OWN_NAME,),
    ),
)

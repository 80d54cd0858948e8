"""Limits of virtual hosts and users."""

from typing import Any

from amqpbroker.cli.ctl.api import ApiRefused
from amqpbroker.cli.ctl.command import (
    BOTH,
    IN_VHOST,
    Answer,
    Call,
    Command,
    Report,
    Rows,
    failed,
    no_such_vhost,
)
from amqpbroker.cli.ctl.erlang import inspected, json_text
from amqpbroker.cli.ctl.policies import read_json, refused_in_vhost

_NOT_FOUND = 404
_PARAMETER = "parameters", "vhost-limits"


def _limits(call: Call, path: str, name: str) -> dict[str, Any]:
    """The limits of a virtual host or user; none if there is neither."""
    found = call.api.find(path, name)
    limits: dict[str, Any] = found[0]["value"] if found else {}
    return limits


def _read_limits(text: str) -> dict[str, Any]:
    limits = read_json(text)
    if not isinstance(limits, dict):
        raise failed("Validation failed\n\nlimits should be a JSON object\n")
    return limits


def _set_vhost_limits(call: Call) -> None:
    """Put these limits in place of all others."""
    wanted = _read_limits(call.arguments[0])
    try:
        call.api.put(*_PARAMETER, call.vhost, "limits", body={"value": wanted})
    except ApiRefused as refusal:
        raise refused_in_vhost(call, refusal) from refusal


def _clear_vhost_limits(call: Call) -> None:
    if call.api.find(*_PARAMETER, call.vhost, "limits") is not None:
        call.api.delete(*_PARAMETER, call.vhost, "limits")


def _list_vhost_limits(call: Call) -> Answer:
    if call.options.get("global"):
        return _all_limits(call, "vhost-limits", "vhost")
    if call.api.find("vhosts", call.vhost) is None:
        raise no_such_vhost(call.vhost)
    limits = _limits(call, "vhost-limits", call.vhost)
    if not limits:
        return Rows([])
    text = json_text(limits)
    if call.options.get("formatter") == "json":
        return Report([], {"node": call.node, "result": "ok", "value": text})
    return text


def _set_user_limits(call: Call) -> None:
    user, definition = call.arguments
    _check_user(call, user)
    for name, value in _read_limits(definition).items():
        call.api.put("user-limits", user, name, body={"value": value})


def _clear_user_limits(call: Call) -> None:
    user, limit = call.arguments
    _check_user(call, user)
    there = _limits(call, "user-limits", user)
    for name in there if limit == "all" else [limit]:
        try:
            call.api.delete("user-limits", user, name)
        except ApiRefused as refusal:
            if refusal.status != _NOT_FOUND:
                raise


def _list_user_limits(call: Call) -> Answer:
    if call.options.get("global"):
        return _all_limits(call, "user-limits", "user")
    user = call.options["user"]
    _check_user(call, user)
    return json_text(_limits(call, "user-limits", user))


def _check_user(call: Call, user: str) -> None:
    if call.api.find("users", user) is None:
        raise failed(f"{{:no_such_user, {inspected(user)}}}")


def _all_limits(call: Call, path: str, key: str) -> Rows:
    return Rows(
        [{key: item[key], "limits": json_text(item["value"])} for item in call.api.get(path)]
    )


def _list_banner(all_of: str, one_of: str, key: str) -> Any:
    def banner(call: Call) -> str:
        if call.options.get("global"):
            return f"Listing limits for all {all_of} ..."
        return f'Listing limits for {one_of} "{call.options[key]}" ...'

    return banner


def _clear_banner(call: Call) -> str:
    user, limit = call.arguments
    if limit == "all":
        return f'Clearing all limits for user "{user}" ...'
    return f'Clearing "{limit}" limit for user "{user}" ...'


COMMANDS = (
    Command(
        name="set_vhost_limits",
        run=_set_vhost_limits,
        usage="[--vhost <vhost>] <definition>",
        description="Sets virtual host limits",
        section="virtual_hosts",
        details=(("<definition>", "Limit definitions, must be a valid JSON document"),),
        least=1,
        most=1,
        defaults=IN_VHOST,
        banner='Setting vhost limits to "{0}" for vhost "{vhost}" ...',
    ),
    Command(
        name="clear_vhost_limits",
        run=_clear_vhost_limits,
        usage="[--vhost <vhost>]",
        description="Clears virtual host limits",
        section="virtual_hosts",
        defaults=IN_VHOST,
        banner='Clearing vhost "{vhost}" limits ...',
    ),
    Command(
        name="list_vhost_limits",
        run=_list_vhost_limits,
        usage="[--vhost <vhost>] [--global] [--no-table-headers]",
        description="Displays configured virtual host limits",
        section="virtual_hosts",
        details=(("--global", "list the limits of all virtual hosts"),),
        switches={"global": bool},
        defaults=IN_VHOST,
        banner=_list_banner("vhosts", "vhost", "vhost"),
        tools=BOTH,
        formatter="table",
    ),
    Command(
        name="set_user_limits",
        run=_set_user_limits,
        usage="<username> <definition>",
        description="Sets user limits",
        section="user_management",
        details=(
            ("<username>", "Self-explanatory"),
            ("<definition>", "Limit definitions as a JSON document"),
        ),
        least=2,
        most=2,
        banner='Setting user limits to "{1}" for user "{0}" ...',
    ),
    Command(
        name="clear_user_limits",
        run=_clear_user_limits,
        usage="<username> <limit_type> | all",
        description="Clears user connection/channel limits",
        section="user_management",
        details=(
            ("<username>", "Self-explanatory"),
            ("<limit_type>", "Limit type, must be max-connections or max-channels"),
        ),
        least=2,
        most=2,
        banner=_clear_banner,
    ),
    Command(
        name="list_user_limits",
        run=_list_user_limits,
        usage="[--user <username>] [--global]",
        description="Displays configured user limits",
        section="user_management",
        details=(("--global", "list limits for all the users"),),
        switches={"global": bool, "user": str},
        defaults={"user": "guest"},
        banner=_list_banner("users", "user", "user"),
        tools=BOTH,
        formatter="table",
    ),
)

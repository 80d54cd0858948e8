"""Policies, those of operators, and runtime parameters."""

import json
from typing import Any

from amqpbroker.cli.ctl.api import ApiRefused
from amqpbroker.cli.ctl.command import (
    BOTH,
    DIAGNOSTICS,
    IN_VHOST,
    QUEUES,
    TIMED,
    Call,
    Command,
    CommandFailed,
    Rows,
    failed,
    no_such_vhost,
)
from amqpbroker.cli.ctl.erlang import Settings, json_text, term

_NOT_FOUND = 404
_MISSING = "Parameter does not exist"


def read_json(text: str) -> Any:
    """A value that is given as JSON."""
    try:
        return json.loads(text)
    except ValueError as error:
        reason = f"{{error,{{failed_to_decode_json,{term(text)}}}}}"
        raise failed(f"JSON decoding error. Reason: {reason}") from error


def refused_in_vhost(call: Call, refusal: ApiRefused, missing: str = _MISSING) -> CommandFailed:
    """What is said of something that was not found: the virtual host, or the thing itself."""
    if refusal.status != _NOT_FOUND:
        return failed(refusal.reason)
    if call.api.find("vhosts", call.vhost) is None:
        return no_such_vhost(call.vhost)
    return failed(missing)


def _set_policy(path: str) -> Any:
    def run(call: Call) -> None:
        name, pattern, definition = call.arguments
        body = {
            "pattern": pattern,
            "definition": read_json(definition),
            "priority": call.options["priority"],
            "apply-to": call.options["apply_to"],
        }
        try:
            call.api.put(path, call.vhost, name, body=body)
        except ApiRefused as refusal:
            raise refused_in_vhost(call, refusal) from refusal

    return run


def _clear_policy(path: str) -> Any:
    def run(call: Call) -> None:
        try:
            call.api.delete(path, call.vhost, call.arguments[0])
        except ApiRefused as refusal:
            if refusal.status != _NOT_FOUND:
                raise
            raise failed(_MISSING) from refusal

    return run


def _list_policies(path: str) -> Any:
    def run(call: Call) -> Rows:
        policies = call.api.find(path, call.vhost)
        if policies is None:
            raise no_such_vhost(call.vhost)
        return Rows([_policy_row(policy) for policy in policies])

    return run


def _policy_row(policy: dict[str, Any]) -> dict[str, Any]:
    return {
        "vhost": policy["vhost"],
        "name": policy["name"],
        "pattern": policy["pattern"],
        "apply-to": policy["apply-to"],
        "definition": json_text(policy["definition"]),
        "priority": policy["priority"],
    }


def _policies_with_mirroring(path: str) -> Any:
    def run(call: Call) -> Rows:
        return Rows([as_listed(policy) for policy in mirroring_policies(call, path)])

    return run


def mirroring_policies(call: Call, path: str) -> list[dict[str, Any]]:
    """The policies (or operators' ones) of all virtual hosts that have queues mirrored."""
    return [each for each in call.api.get(path) if "ha-mode" in each["definition"]]


def as_listed(policy: dict[str, Any]) -> dict[str, Any]:
    """A policy in the columns of RabbitMQ's own lists, where its definition is a term."""
    return _policy_row(policy) | {"definition": Settings(policy["definition"])}


def _set_parameter(call: Call) -> None:
    component, name, value = call.arguments
    body = {"value": read_json(value), "component": component, "vhost": call.vhost, "name": name}
    try:
        call.api.put("parameters", component, call.vhost, name, body=body)
    except ApiRefused as refusal:
        raise refused_in_vhost(call, refusal) from refusal


def _clear_parameter(call: Call) -> None:
    component, name = call.arguments
    try:
        call.api.delete("parameters", component, call.vhost, name)
    except ApiRefused as refusal:
        raise refused_in_vhost(call, refusal) from refusal


def _list_parameters(call: Call) -> Rows:
    if call.api.find("vhosts", call.vhost) is None:
        raise no_such_vhost(call.vhost)
    there = (item for item in call.api.get("parameters") if item.get("vhost") == call.vhost)
    return Rows([_parameter_row(item, "component", "name") for item in there])


def _parameter_row(item: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: item[key] for key in keys} | {"value": json_text(item["value"])}


def _set_global_parameter(call: Call) -> None:
    name, value = call.arguments
    call.api.put("global-parameters", name, body={"name": name, "value": read_json(value)})


def _clear_global_parameter(call: Call) -> None:
    try:
        call.api.delete("global-parameters", call.arguments[0])
    except ApiRefused as refusal:
        if refusal.status != _NOT_FOUND:
            raise
        raise failed(_MISSING) from refusal


def _list_global_parameters(call: Call) -> Rows:
    return Rows([_parameter_row(item, "name") for item in call.api.get("global-parameters")])


def _policy_commands(kind: str, path: str, words: dict[str, str]) -> tuple[Command, ...]:
    """Set, clear and list: of policies, or of operators' policies."""
    return (
        Command(
            name=f"set_{kind}policy",
            run=_set_policy(path),
            usage="[--vhost <vhost>] [--priority <priority>] [--apply-to <apply-to>]"
            " <name> <pattern> <definition>",
            description=words["set"],
            section="policies",
            details=(
                ("<name>", "policy name (identifier)"),
                (
                    "<pattern>",
                    "regular expression pattern that will be used to match queues, exchanges, etc",
                ),
                ("<definition>", "policy definition (arguments). Must be a valid JSON document"),
                ("--priority <priority>", "policy priority"),
                (
                    "--apply-to <queues | exchanges | all>",
                    "policy should only apply to queues, exchanges, or all entities",
                ),
            ),
            least=3,
            most=3,
            switches={"priority": int, "apply_to": str},
            defaults={**IN_VHOST, "priority": 0, "apply_to": "all"},
            banner=f'Setting {words["one"]} "{{0}}" for pattern "{{1}}" to "{{2}}" with priority'
            ' "{priority}" for vhost "{vhost}" ...',
        ),
        Command(
            name=f"clear_{kind}policy",
            run=_clear_policy(path),
            usage="[--vhost <vhost>] <name>",
            description=words["clear"],
            section="policies",
            details=(("<name>", "Name of policy to clear (remove)"),),
            least=1,
            most=1,
            defaults=IN_VHOST,
            banner=f'Clearing {words["short"]} "{{0}}" on vhost "{{vhost}}" ...',
        ),
        Command(
            name=f"list_{kind}policies",
            run=_list_policies(path),
            usage="[--vhost <vhost>] [--no-table-headers]",
            description=words["list"],
            section="policies",
            switches=TIMED,
            defaults=IN_VHOST,
            banner=f'Listing {words["all"]} for vhost "{{vhost}}" ...',
            tools=BOTH,
            formatter="table",
        ),
        Command(
            name=f"list_{kind}policies_with_classic_queue_mirroring",
            run=_policies_with_mirroring(path),
            usage="[--no-table-headers]",
            description=f"List all {words['many']} that enable classic queue mirroring",
            section="observability_and_health_checks",
            switches=TIMED,
            banner=f"Listing {words['many']} with classic queue mirroring ...",
            tools=(QUEUES, DIAGNOSTICS),
            formatter="table",
        ),
    )


COMMANDS = (
    *_policy_commands(
        "",
        "policies",
        {
            "one": "policy",
            "short": "policy",
            "all": "policies",
            "many": "policies",
            "set": "Sets or updates a policy",
            "clear": "Clears (removes) a policy",
            "list": "Lists all policies in a virtual host",
        },
    ),
    *_policy_commands(
        "operator_",
        "operator-policies",
        {
            "one": "operator policy override",
            "short": "operator policy",
            "all": "operator policy overrides",
            "many": "operator policies",
            "set": "Sets an operator policy that overrides a subset of arguments in user policies",
            "clear": "Clears an operator policy",
            "list": "Lists operator policy overrides for a virtual host",
        },
    ),
    Command(
        name="set_parameter",
        run=_set_parameter,
        usage="[--vhost <vhost>] <component_name> <name> <value>",
        description="Sets a runtime parameter.",
        section="parameters",
        details=(
            ("<component_name>", "component name"),
            ("<name>", "parameter name (identifier)"),
            ("<value>", "parameter value"),
        ),
        least=3,
        most=3,
        defaults=IN_VHOST,
        banner='Setting runtime parameter "{1}" for component "{0}" to "{2}"'
        ' in vhost "{vhost}" ...',
    ),
    Command(
        name="clear_parameter",
        run=_clear_parameter,
        usage="[--vhost <vhost>] <component_name> <name>",
        description="Clears a runtime parameter.",
        section="parameters",
        details=(
            ("<component_name>", "component name"),
            ("<name>", "parameter name (identifier)"),
        ),
        least=2,
        most=2,
        defaults=IN_VHOST,
        banner='Clearing runtime parameter "{1}" for component "{0}" on vhost "{vhost}" ...',
    ),
    Command(
        name="list_parameters",
        run=_list_parameters,
        usage="[--vhost <vhost>] [--no-table-headers]",
        description="Lists runtime parameters for a virtual host",
        section="parameters",
        switches=TIMED,
        defaults=IN_VHOST,
        banner='Listing runtime parameters for vhost "{vhost}" ...',
        tools=BOTH,
        formatter="table",
    ),
    Command(
        name="set_global_parameter",
        run=_set_global_parameter,
        usage="<name> <value>",
        description="Sets a runtime parameter.",
        section="parameters",
        details=(
            ("<name>", "global parameter name (identifier)"),
            ("<value>", "parameter value"),
        ),
        least=2,
        most=2,
        banner='Setting global runtime parameter "{0}" to "{1}" ...',
    ),
    Command(
        name="clear_global_parameter",
        run=_clear_global_parameter,
        usage="<name>",
        description="Clears a global runtime parameter",
        section="parameters",
        details=(("<name>", "parameter name (identifier)"),),
        least=1,
        most=1,
        banner='Clearing global runtime parameter "{0}" ...',
    ),
    Command(
        name="list_global_parameters",
        run=_list_global_parameters,
        usage="[--no-table-headers]",
        description="Lists global runtime parameters",
        section="parameters",
        switches=TIMED,
        banner="Listing global runtime parameters ...",
        tools=BOTH,
        formatter="table",
    ),
)

"""Parameters: what components of the broker are told of a virtual host, or of the whole.

Of RabbitMQ's components those are known that the broker itself has: the limits of virtual hosts,
and the operator's policies, which are kept elsewhere.
"""

import html
from collections.abc import Iterator
from typing import Any

from amqpbroker.broker.policy_keys import shown
from amqpbroker.broker.vhost import VHost
from amqpbroker.definitions import (
    VHOST_LIMITS,
    GlobalParameterDefinition,
    ParameterDefinition,
    PolicyDefinition,
    delete,
    put,
)
from amqpbroker.errors import DefinitionError
from amqpbroker.management import rendering
from amqpbroker.management.call import Call, Fault, bad_request
from amqpbroker.management.listing import Listing
from amqpbroker.management.policies import parse_policy
from amqpbroker.queues.queue import Pending

OPERATOR_POLICY = "operator_policy"
"""The component whose parameters are the operator's policies."""
_OF_VHOSTS = ("max-connections", "max-queues")
_OF_USERS = ("max-connections", "max-channels")


def empty(call: Call) -> Any:
    """There are none of what is asked for: flags of features, and the like."""
    return []


# -- what they may say ---------------------------------------------------------------------------


def parse_parameter(
    vhost: str, component: str, name: str, value: Any
) -> ParameterDefinition | PolicyDefinition:
    """A parameter as it is asked for. Raises `DefinitionError`."""
    if component == OPERATOR_POLICY:
        return parse_policy(vhost, name, value if isinstance(value, dict) else {}, True)
    if component != VHOST_LIMITS[0]:
        raise DefinitionError(f"Validation failed\n\ncomponent {component} not found\n")
    faults = list(_limit_faults(value, _OF_VHOSTS, name))
    if faults:
        raise DefinitionError("\n".join(("Validation failed", "", *faults, "")))
    return ParameterDefinition(vhost, component, name, value)


def check_user_limits(limits: object) -> None:
    """Raise `DefinitionError` for what is no limits of a user."""
    for fault in _limit_faults(limits, _OF_USERS, "user-limits"):
        raise DefinitionError(fault)


def _limit_faults(limits: object, known: tuple[str, ...], what: str) -> Iterator[str]:
    """What is wrong with limits (rabbit_parameter_validation:proplist)."""
    if not isinstance(limits, dict):
        yield f"{what} not a list {shown(limits)}"
        return
    strange = [f"{{{shown(name)},{shown(limits[name])}}}" for name in limits if name not in known]
    if strange:
        yield f"Unrecognised terms [{','.join(strange)}] in {what}"
    for name in known:
        value = limits.get(name, 0)
        if not isinstance(value, int) or isinstance(value, bool):
            yield f"{name} should be a number, actually was {shown(value)}"


# -- parameters of virtual hosts -----------------------------------------------------------------


def of_vhost(vhost: VHost) -> Iterator[dict[str, Any]]:
    """The parameters of a virtual host."""
    for each in list(vhost.parameters.values()):
        yield rendering.record(each)
    for policy in vhost.policies.all(is_operator=True):
        said = rendering.policy(policy)
        value = {name: said[name] for name in ("pattern", "definition", "priority", "apply-to")}
        yield {
            "vhost": vhost.name,
            "component": OPERATOR_POLICY,
            "name": policy.name,
            "value": value,
        }


def parameters(call: Call) -> Listing:
    """Parameters of all components; of one, if the path names it."""
    component = call.path.get("component")
    found = [
        each
        for vhost in call.visible_vhosts()
        for each in of_vhost(vhost)
        if component in (None, each["component"])
    ]
    return Listing(
        found,
        lambda each: each,
        lambda each: (each["component"], each["vhost"], each["name"]),
        is_paged=False,
    )


def _named(call: Call) -> ParameterDefinition | PolicyDefinition | None:
    """The parameter that the path names."""
    vhost = call.broker.vhosts.get(call.path["vhost"])
    component, name = call.path["component"], call.path["name"]
    if vhost is None:
        return None
    if component == OPERATOR_POLICY:
        return vhost.policies.named(name, is_operator=True)
    return vhost.parameters.get((component, name))


def parameter_exists(call: Call) -> bool:
    """Whether there is the parameter that the path names."""
    return _named(call) is not None


def parameter(call: Call) -> Any:
    """One of them."""
    path = call.path
    for each in of_vhost(call.vhost):
        if (each["component"], each["name"]) == (path["component"], path["name"]):
            return each
    return None


def put_parameter(call: Call) -> Pending[None] | None:
    """Set a parameter; not a policy, for they have paths of their own."""
    if call.path["vhost"] not in call.broker.vhosts:
        raise Fault(404, "not_found", "vhost_not_found")
    vhost, component, name = (call.path[part] for part in ("vhost", "component", "name"))
    [value] = call.fields("value")
    if component == "policy":
        raise bad_request("policies may not be set using this method")
    try:
        wanted = parse_parameter(vhost, component, name, value)
    except DefinitionError as error:
        raise bad_request(html.escape(str(error), quote=False)) from error
    return call.broker.submit(put(wanted))


def delete_parameter(call: Call) -> Pending[None] | None:
    """Take a parameter away."""
    there = _named(call)
    assert there is not None
    return call.broker.submit(delete(there))


# -- global parameters ---------------------------------------------------------------------------


def global_parameters(call: Call) -> Listing:
    """Parameters of no virtual host."""
    found = list(call.broker.global_parameters.values())
    return Listing(found, rendering.record, lambda each: (each.name,), is_paged=False)


def global_parameter_exists(call: Call) -> bool:
    """Whether there is the global parameter that the path names."""
    return call.path["name"] in call.broker.global_parameters


def global_parameter(call: Call) -> Any:
    """One of them."""
    return rendering.record(call.broker.global_parameters[call.path["name"]])


def put_global_parameter(call: Call) -> Pending[None] | None:
    """Set a global parameter, whatever it may mean."""
    [value] = call.fields("value")
    return call.broker.submit(put(GlobalParameterDefinition(call.path["name"], value)))


def delete_global_parameter(call: Call) -> Pending[None] | None:
    """Take a global parameter away."""
    return call.broker.submit(delete(call.broker.global_parameters[call.path["name"]]))

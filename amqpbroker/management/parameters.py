"""Parameters of components, of which only the operator's policies are known here."""

from typing import Any

from amqpbroker.management import definitions
from amqpbroker.management.call import Call, Fault, bad_request, not_found
from amqpbroker.management.listing import Listing


def empty(call: Call) -> Any:
    """There are none of what is asked for: limits, flags of features, and the like."""
    return []


def parameters(call: Call) -> Listing:
    """Parameters of plugins and other components; of one, if the path names it."""
    component = call.path.get("component")
    found = [
        each
        for vhost in call.visible_vhosts()
        for each in definitions.parameters(vhost)
        if component in (None, each["component"])
    ]
    return Listing(
        found,
        lambda each: each,
        lambda each: (each["component"], each["vhost"], each["name"]),
        is_paged=False,
    )


def _named(call: Call) -> dict[str, Any] | None:
    if call.path["vhost"] not in call.broker.vhosts:
        return None
    for each in definitions.parameters(call.vhost):
        if (each["component"], each["name"]) == (call.path["component"], call.path["name"]):
            return each
    return None


def parameter_exists(call: Call) -> bool:
    """Whether there is the parameter that the path names."""
    return _named(call) is not None


def parameter(call: Call) -> Any:
    """One of them."""
    return _named(call)


def put_parameter(call: Call) -> None:
    """Refuse it: no component takes parameters, and policies have paths of their own."""
    if call.path["vhost"] not in call.broker.vhosts:
        raise Fault(404, "not_found", "vhost_not_found")
    component = call.path["component"]
    if component in ("policy", definitions.OPERATOR_POLICY):
        raise bad_request("policies may not be set using this method")
    raise bad_request(f"Validation failed\n\ncomponent {component} not found\n")


def global_parameters(call: Call) -> Any:
    """Parameters of no virtual host."""
    return [{"name": "cluster_name", "value": call.cluster_name}]


def global_parameter(call: Call) -> Any:
    """One of them."""
    if call.path["name"] != "cluster_name":
        raise not_found()
    return {"name": "cluster_name", "value": call.cluster_name}

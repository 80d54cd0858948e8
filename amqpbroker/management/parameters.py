"""Parameters of components, of which only the operator's policies are known here."""

from typing import Any

from amqpbroker.management import definitions
from amqpbroker.management.call import Call, not_found
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


def global_parameters(call: Call) -> Any:
    """Parameters of no virtual host."""
    return [{"name": "cluster_name", "value": call.broker.name}]


def global_parameter(call: Call) -> Any:
    """One of them."""
    if call.path["name"] != "cluster_name":
        raise not_found()
    return {"name": "cluster_name", "value": call.broker.name}

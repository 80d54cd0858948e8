"""Limits of virtual hosts, which are parameters, and of users, which belong to them."""

from typing import Any

import attrs

from amqpbroker.broker.vhost import VHost
from amqpbroker.definitions import VHOST_LIMITS, UserDefinition, put
from amqpbroker.errors import DefinitionError
from amqpbroker.management.call import Call, bad_request
from amqpbroker.management.listing import Listing
from amqpbroker.management.parameters import check_user_limits, parse_parameter
from amqpbroker.management.topology import vhost_to_write
from amqpbroker.queues.queue import Pending

# -- of virtual hosts ----------------------------------------------------------------------------


def vhost_limits(call: Call) -> Listing:
    """The limits of the virtual hosts that the user sees, or of one."""
    is_one = "vhost" in call.path
    found = [
        (vhost.name, vhost.parameters[VHOST_LIMITS].value)
        for vhost in call.visible_vhosts()
        if VHOST_LIMITS in vhost.parameters
    ]
    return _listing("vhost", [each for each in found if each[1] or not is_one])


def _listing(kind: str, found: list[tuple[str, dict[str, int]]]) -> Listing:
    return Listing(
        found,
        lambda each: {kind: each[0], "value": each[1]},
        lambda each: (each[0],),
        is_paged=False,
    )


def _limits_of(vhost: VHost) -> dict[str, Any]:
    there = vhost.parameters.get(VHOST_LIMITS)
    return {} if there is None else there.value


def put_vhost_limit(call: Call) -> Pending[None] | None:
    """Set one limit."""
    vhost = vhost_to_write(call)
    [value] = call.fields("value")
    return _set(call, vhost, {**_limits_of(vhost), call.path["name"]: value})


def delete_vhost_limit(call: Call) -> Pending[None] | None:
    """Take one limit away."""
    vhost, name = vhost_to_write(call), call.path["name"]
    limits = _limits_of(vhost)
    return _set(call, vhost, {each: limits[each] for each in limits if each != name})


def _set(call: Call, vhost: VHost, limits: dict[str, Any]) -> Pending[None] | None:
    try:
        wanted = parse_parameter(vhost.name, *VHOST_LIMITS, limits)
    except DefinitionError as error:
        raise bad_request(str(error)) from error
    return call.broker.submit(put(wanted))


# -- of users ------------------------------------------------------------------------------------


def user_limits(call: Call) -> Listing:
    """The limits of all users that have some, or of one."""
    wanted = call.path.get("user")
    found = [
        (user.name, user.limits)
        for user in call.broker.users.values()
        if user.limits and wanted in (None, user.name)
    ]
    return _listing("user", found)


def _user(call: Call) -> UserDefinition:
    name = call.path["user"]
    user = call.broker.users.get(name)
    if user is None:
        raise bad_request(["no_such_user", name])
    return user


def put_user_limit(call: Call) -> Pending[None] | None:
    """Set one limit."""
    user = _user(call)
    [value] = call.fields("value")
    limit = {call.path["name"]: value}
    try:
        check_user_limits(limit)
    except DefinitionError as error:
        raise bad_request(str(error)) from error
    return call.broker.submit(put(attrs.evolve(user, limits={**user.limits, **limit})))


def delete_user_limit(call: Call) -> Pending[None] | None:
    """Take one limit away."""
    user, name = _user(call), call.path["name"]
    left = {each: user.limits[each] for each in user.limits if each != name}
    return call.broker.submit(put(attrs.evolve(user, limits=left)))

"""Virtual hosts, users, and what they may do."""

import base64
import binascii
from typing import Any

from amqpbroker.broker.access import HASHING_ALGORITHMS, hash_password
from amqpbroker.broker.broker import Broker
from amqpbroker.definitions import (
    PermissionDefinition,
    TopicPermissionDefinition,
    UserDefinition,
    VHostDefinition,
    delete,
    put,
)
from amqpbroker.errors import DefinitionError
from amqpbroker.management import rendering, totals
from amqpbroker.management.call import Call, bad_request
from amqpbroker.management.listing import Listing
from amqpbroker.management.parameters import check_user_limits
from amqpbroker.queues.queue import Pending

_SHA_256 = next(iter(HASHING_ALGORITHMS))


def whoami(call: Call) -> Any:
    """Who asks."""
    return {"name": call.user.name, "tags": list(call.tags), "is_internal_user": True}


def auth(call: Call) -> Any:
    """Whether users can come in by OAuth 2: they cannot."""
    return {"oauth_enabled": False}


def hashed_password(call: Call) -> Any:
    """A password as it would be kept."""
    return {"ok": hash_password(call.path["password"], call.broker.world.random)}


# -- virtual hosts -------------------------------------------------------------------------------


async def vhosts(call: Call) -> Listing:
    """The virtual hosts that the user sees; monitors see all."""
    visible = [
        vhost
        for name, vhost in call.broker.vhosts.items()
        if call.is_monitor or call.may_enter(name)
    ]
    sums = await totals.vhosts(call, visible)
    found = [{**rendering.vhost(call, vhost), **sums[vhost.name]} for vhost in visible]
    return Listing(found, lambda vhost: vhost, lambda vhost: (vhost["name"],))


def vhost_exists(call: Call) -> bool:
    """Whether the virtual host of the path is there."""
    return call.path["vhost"] in call.broker.vhosts


async def vhost(call: Call) -> Any:
    """One virtual host, and what is going on in it."""
    there = call.vhost
    return {**rendering.vhost(call, there), **(await totals.vhosts(call, [there]))[there.name]}


async def put_vhost(call: Call) -> None:
    """Make a virtual host, in which the user may do everything, or say something else of it."""
    name = call.path["vhost"]
    body = call.body
    wanted = VHostDefinition(
        name,
        body.get("description") or "",
        parse_tags(body.get("tags") or ""),
        body.get("default_queue_type") or body.get("defaultqueuetype") or "",
    )
    call.flag("tracing")
    is_new = name not in call.broker.vhosts
    await call.settled(call.broker.submit(put(wanted)))
    if is_new and not call.caller.is_local:
        rights = PermissionDefinition(name, call.user.name, ".*", ".*", ".*")
        await call.settled(call.broker.submit(put(rights)))


def delete_vhost(call: Call) -> Pending[None] | None:
    """Delete a virtual host with all that is in it."""
    return call.broker.submit(delete(call.vhost.definition))


def parse_tags(tags: Any) -> tuple[str, ...]:
    """Tags, that are written in one line or one by one. Raises `Fault` (400)."""
    if isinstance(tags, str):
        tags = tags.split(",")
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise bad_request("tags must be a list, or a string with commas")
    return tuple(tag.strip() for tag in tags if tag.strip())


# -- users ---------------------------------------------------------------------------------------


def users(call: Call) -> Listing:
    """All users."""
    return _user_list(list(call.broker.users.values()))


def users_without_permissions(call: Call) -> Listing:
    """The users who may enter no virtual host."""
    entering = {permission.user for permission in call.broker.permissions()}
    found = [user for user in call.broker.users.values() if user.name not in entering]
    return _user_list(found)


def _user_list(found: list[UserDefinition]) -> Listing:
    return Listing(found, rendering.user, lambda user: (user.name,))


def user_exists(call: Call) -> bool:
    """Whether the user of the path is there."""
    return call.path["user"] in call.broker.users


def user(call: Call) -> Any:
    """One user."""
    return rendering.user(call.broker.users[call.path["user"]])


def put_user(call: Call) -> Pending[None] | None:
    """Make a user, or change who it is."""
    return call.broker.submit(put(parse_user(call.broker, call.path["user"], call.body)))


def parse_user(broker: Broker, name: str, body: dict[str, Any]) -> UserDefinition:
    """A user as an object of JSON says it. Raises `Fault` (400)."""
    if "tags" in body:
        tags = parse_tags(body["tags"])
    elif "administrator" in body:
        tags = ("administrator",) if body["administrator"] in (True, "true") else ()
    else:
        raise bad_request("tags_not_present")
    if "password" in body and "password_hash" in body:
        raise bad_request("both_password_and_password_hash_are_provided")
    password, password_hash = body.get("password", ""), body.get("password_hash", "")
    if not isinstance(password, str) or not isinstance(password_hash, str):
        raise bad_request("a password must be a string")
    algorithm = body.get("hashing_algorithm") or _SHA_256
    if password or not password_hash:
        password_hash = hash_password(password, broker.world.random) if password else ""
        algorithm = _SHA_256
    if algorithm not in HASHING_ALGORITHMS:
        raise bad_request(f"unknown hashing algorithm {algorithm}")
    try:
        base64.b64decode(password_hash, validate=True)
    except binascii.Error:
        raise bad_request("password_hash is not in base64") from None
    return UserDefinition(name, password_hash, tags, algorithm, _limits(broker, name, body))


def _limits(broker: Broker, name: str, body: dict[str, Any]) -> dict[str, int]:
    """The limits of a user: those that are asked for, else what there are. Raises `Fault`."""
    there = broker.users.get(name)
    if body.get("limits") is None:
        return {} if there is None else there.limits
    limits: dict[str, int] = body["limits"] or {}
    try:
        check_user_limits(limits)
    except DefinitionError as error:
        raise bad_request(str(error)) from error
    return limits


def delete_user(call: Call) -> Pending[None] | None:
    """Delete a user; connections of that name are closed."""
    return call.broker.submit(delete(call.broker.users[call.path["user"]]))


async def delete_users(call: Call) -> None:
    """Delete several users; those that are not there are no fault."""
    [names] = call.fields("users")
    if not isinstance(names, list):
        raise bad_request("users must be a list")
    for name in names:
        there = call.broker.users.get(name)
        if there is not None:
            await call.settled(call.broker.submit(delete(there)))


# -- permissions ---------------------------------------------------------------------------------


def permissions(call: Call) -> Listing:
    """All permissions."""
    return _permission_list(call.broker.permissions())


def vhost_permissions(call: Call) -> Listing:
    """Who may enter a virtual host."""
    there = call.vhost.name
    return _permission_list([each for each in call.broker.permissions() if each.vhost == there])


def user_permissions(call: Call) -> Listing:
    """What one user may do."""
    name = call.path["user"]
    return _permission_list([each for each in call.broker.permissions() if each.user == name])


def _permission_list(found: list[PermissionDefinition]) -> Listing:
    return Listing(found, rendering.record, lambda each: (each.vhost, each.user), is_paged=False)


def _permission(call: Call) -> PermissionDefinition | None:
    return call.broker.permission(call.path["vhost"], call.path["user"])


def permission_exists(call: Call) -> bool:
    """Whether the user has any permission in the virtual host."""
    return _permission(call) is not None


def permission(call: Call) -> Any:
    """What one user may do in one virtual host."""
    there = _permission(call)
    assert there is not None
    return rendering.record(there)


def put_permission(call: Call) -> Pending[None] | None:
    """Say what a user may do in a virtual host."""
    _check_user_and_vhost(call)
    configure, write, read = _patterns(call, "configure", "write", "read")
    vhost, user = call.path["vhost"], call.path["user"]
    return call.broker.submit(put(PermissionDefinition(vhost, user, configure, write, read)))


def delete_permission(call: Call) -> Pending[None] | None:
    """Let a user do nothing more in a virtual host."""
    there = _permission(call)
    assert there is not None
    return call.broker.submit(delete(there))


def _check_user_and_vhost(call: Call) -> None:
    if not user_exists(call) or not vhost_exists(call):
        raise bad_request("vhost_or_user_not_found")


def _patterns(call: Call, *names: str) -> list[str]:
    values = call.fields(*names)
    for value in values:
        if not isinstance(value, str):
            raise bad_request("a pattern must be a string")
    return values


# -- topic permissions ---------------------------------------------------------------------------


def topic_permissions(call: Call) -> Listing:
    """All topic permissions."""
    return _topic_list(call.broker.topic_permissions())


def vhost_topic_permissions(call: Call) -> Listing:
    """The topic permissions in a virtual host."""
    there = call.vhost.name
    return _topic_list([each for each in call.broker.topic_permissions() if each.vhost == there])


def user_topic_permissions(call: Call) -> Listing:
    """The topic permissions of one user."""
    name = call.path["user"]
    return _topic_list([each for each in call.broker.topic_permissions() if each.user == name])


def _topic_list(found: list[TopicPermissionDefinition]) -> Listing:
    return Listing(
        found,
        rendering.record,
        lambda each: (each.vhost, each.user, each.exchange),
        is_paged=False,
    )


def _topics(call: Call) -> list[TopicPermissionDefinition]:
    vhost, user = call.path["vhost"], call.path["user"]
    exchange = call.path.get("exchange")
    return [
        each
        for each in call.broker.topic_permissions()
        if (each.vhost, each.user) == (vhost, user) and exchange in (None, each.exchange)
    ]


def topic_permission_exists(call: Call) -> bool:
    """Whether the user has topic permissions in the virtual host."""
    return bool(_topics(call))


def topic_permission(call: Call) -> Any:
    """The topic permissions of one user in one virtual host."""
    return [rendering.record(each) for each in _topics(call)]


def put_topic_permission(call: Call) -> Pending[None] | None:
    """Say which routing keys a user may use with an exchange."""
    _check_user_and_vhost(call)
    exchange, write, read = _patterns(call, "exchange", "write", "read")
    vhost, user = call.path["vhost"], call.path["user"]
    return call.broker.submit(put(TopicPermissionDefinition(vhost, user, exchange, write, read)))


async def delete_topic_permission(call: Call) -> None:
    """Take topic permissions away: for one exchange, or for all."""
    for each in _topics(call):
        await call.settled(call.broker.submit(delete(each)))

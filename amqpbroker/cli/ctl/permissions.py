"""What users may do."""

from amqpbroker.cli.ctl.api import ApiRefused
from amqpbroker.cli.ctl.command import (
    BOTH,
    EXIT_NO_USER,
    IN_VHOST,
    TIMED,
    Call,
    Command,
    CommandFailed,
    Rows,
    failed,
    no_such_vhost,
)
from amqpbroker.cli.ctl.erlang import inspected

_NOT_FOUND = 404


def _refused_permission(call: Call, refusal: ApiRefused) -> CommandFailed:
    """What RabbitMQ's tool says of a user or virtual host that is not there."""
    user = call.arguments[0]
    if call.api.find("users", user) is None:
        text = f"User {user} does not exist"
        return failed(text, EXIT_NO_USER, text)
    vhost = call.options.get("vhost", "/")
    if call.api.find("vhosts", vhost) is None:
        text = f"Virtual host {vhost} does not exist"
        return failed(text, message=text)
    return failed(refusal.reason)


def _set_permissions(call: Call) -> None:
    _put_permissions(call, call.vhost)


def _set_permissions_globally(call: Call) -> None:
    for vhost in call.api.get("vhosts", columns="name"):
        _put_permissions(call, vhost["name"])


def _put_permissions(call: Call, vhost: str) -> None:
    user, configure, write, read = call.arguments
    body = {"configure": configure, "write": write, "read": read}
    try:
        call.api.put("permissions", vhost, user, body=body)
    except ApiRefused as refusal:
        raise _refused_permission(call, refusal) from refusal


def _set_topic_permissions(call: Call) -> None:
    user, exchange, write, read = call.arguments
    body = {"exchange": exchange, "write": write, "read": read}
    try:
        call.api.put("topic-permissions", call.vhost, user, body=body)
    except ApiRefused as refusal:
        raise _refused_permission(call, refusal) from refusal


def _clear_permissions(call: Call) -> None:
    _delete_permissions(call, "permissions", call.vhost, call.arguments[0])


def _clear_topic_permissions(call: Call) -> None:
    _delete_permissions(call, "topic-permissions", call.vhost, *call.arguments)


def _clear_topic_banner(call: Call) -> str:
    user, *exchange = call.arguments
    where = f'on "{exchange[0]}" ' if exchange else ""
    return f'Clearing topic permissions {where}for user "{user}" in vhost "{call.vhost}" ...'


def _delete_permissions(call: Call, *path: str) -> None:
    """Delete them; where there are none, there is nothing to do."""
    try:
        call.api.delete(*path)
    except ApiRefused as refusal:
        failure = _refused_permission(call, refusal)
        if refusal.status != _NOT_FOUND or "does not exist" in failure.text:
            raise failure from refusal


def _listed(call: Call, path: tuple[str, ...], columns: str, *, of_user: bool) -> Rows:
    items = call.api.find(*path)
    if items is None and of_user:
        raise failed(f"{{:no_such_user, {inspected(call.arguments[0])}}}")
    if items is None:
        raise no_such_vhost(call.vhost)
    return Rows([{name: item[name] for name in columns.split()} for item in items])


def _list_permissions(call: Call) -> Rows:
    path = ("vhosts", call.vhost, "permissions")
    return _listed(call, path, "user configure write read", of_user=False)


def _list_topic_permissions(call: Call) -> Rows:
    path = ("vhosts", call.vhost, "topic-permissions")
    return _listed(call, path, "user exchange write read", of_user=False)


def _list_user_permissions(call: Call) -> Rows:
    path = ("users", call.arguments[0], "permissions")
    return _listed(call, path, "vhost configure write read", of_user=True)


def _list_user_topic_permissions(call: Call) -> Rows:
    path = ("users", call.arguments[0], "topic-permissions")
    return _listed(call, path, "vhost exchange write read", of_user=True)


_PATTERNS = (
    ("<conf>", "Configuration permission pattern"),
    ("<write>", "Write permission pattern"),
    ("<read>", "Read permission pattern"),
)


COMMANDS = (
    Command(
        name="set_permissions",
        run=_set_permissions,
        usage="[--vhost <vhost>] <username> <conf> <write> <read>",
        description="Sets user permissions for a vhost",
        section="access_control",
        details=(("<username>", "Self-explanatory"), *_PATTERNS),
        least=4,
        most=4,
        defaults=IN_VHOST,
        banner='Setting permissions for user "{0}" in vhost "{vhost}" ...',
    ),
    Command(
        name="set_permissions_globally",
        run=_set_permissions_globally,
        usage="<username> <conf> <write> <read>",
        description="Sets user permissions for all virtual hosts.",
        section="access_control",
        details=(("<username>", "Self-explanatory"), *_PATTERNS),
        least=4,
        most=4,
        banner='Setting permissions for user "{0}" in all virtual hosts ...',
    ),
    Command(
        name="clear_permissions",
        run=_clear_permissions,
        usage="[--vhost <vhost>] <username>",
        description="Revokes user permissions for a vhost",
        section="access_control",
        details=(("<username>", "Name of the user whose permissions should be revoked"),),
        least=1,
        most=1,
        defaults=IN_VHOST,
        banner='Clearing permissions for user "{0}" in vhost "{vhost}" ...',
    ),
    Command(
        name="list_permissions",
        run=_list_permissions,
        usage="[--vhost <vhost>] [--no-table-headers]",
        description="Lists user permissions in a virtual host",
        section="access_control",
        switches=TIMED,
        defaults=IN_VHOST,
        banner='Listing permissions for vhost "{vhost}" ...',
        tools=BOTH,
        formatter="table",
    ),
    Command(
        name="list_user_permissions",
        run=_list_user_permissions,
        usage="[--no-table-headers] <username>",
        description="Lists permissions of a user across all virtual hosts",
        section="access_control",
        details=(("<username>", "Name of the user"),),
        least=1,
        most=1,
        switches=TIMED,
        banner='Listing permissions for user "{0}" ...',
        tools=BOTH,
        formatter="table",
    ),
    Command(
        name="set_topic_permissions",
        run=_set_topic_permissions,
        usage="[--vhost <vhost>] <username> <exchange> <write> <read>",
        description="Sets user topic permissions for an exchange",
        section="access_control",
        details=(
            ("<username>", "Self-explanatory"),
            ("<exchange>", "Topic exchange to set the permissions for"),
            *_PATTERNS[1:],
        ),
        least=4,
        most=4,
        defaults=IN_VHOST,
        banner='Setting topic permissions on "{1}" for user "{0}" in vhost "{vhost}" ...',
    ),
    Command(
        name="clear_topic_permissions",
        run=_clear_topic_permissions,
        usage="[--vhost <vhost>] <username> [<exchange>]",
        description="Clears user topic permissions for a vhost or exchange",
        section="access_control",
        details=(
            ("<username>", "Name of the user whose topic permissions should be revoked"),
            ("<exchange>", "Exchange the permissions are for"),
        ),
        least=1,
        most=2,
        defaults=IN_VHOST,
        banner=_clear_topic_banner,
    ),
    Command(
        name="list_topic_permissions",
        run=_list_topic_permissions,
        usage="[--vhost <vhost>] [--no-table-headers]",
        description="Lists topic permissions in a virtual host",
        section="access_control",
        switches=TIMED,
        defaults=IN_VHOST,
        banner='Listing topic permissions for vhost "{vhost}" ...',
        tools=BOTH,
        formatter="table",
    ),
    Command(
        name="list_user_topic_permissions",
        run=_list_user_topic_permissions,
        usage="[--no-table-headers] <username>",
        description="Lists user topic permissions",
        section="access_control",
        details=(("<username>", "Name of the user"),),
        least=1,
        most=1,
        switches=TIMED,
        defaults={"table_headers": False},
        banner='Listing topic permissions for user "{0}" ...',
        tools=BOTH,
        formatter="table",
    ),
)

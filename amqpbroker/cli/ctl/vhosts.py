"""Virtual hosts."""

from typing import Any

from amqpbroker.cli.ctl.api import ApiRefused
from amqpbroker.cli.ctl.command import (
    EXIT_DATA,
    EXIT_USAGE,
    IN_VHOST,
    TIMED,
    Call,
    Command,
    InvalidArguments,
    failed,
    no_such_vhost,
)
from amqpbroker.cli.ctl.users import joined, tags_banner

_NOT_FOUND = 404


_QUEUE_TYPES = ("quorum", "classic", "stream")


def _add_vhost(call: Call) -> None:
    """Make it; one that is there stays as it is."""
    (vhost,) = call.arguments
    options = call.options
    if options.get("default_queue_type") not in (None, *_QUEUE_TYPES):
        raise failed("Unsupported default queue type", EXIT_USAGE)
    if call.api.find("vhosts", vhost) is None:
        _put_vhost(call, {"description": options["description"], "tags": options["tags"]})
        _withdraw(call)


def _withdraw(call: Call) -> None:
    """Take away what the API gives to whoever makes a virtual host: RabbitMQ's tool is nobody."""
    user = call.api.target.user
    if user and call.api.find("permissions", call.arguments[0], user) is not None:
        call.api.delete("permissions", call.arguments[0], user)


def _put_vhost(call: Call, body: dict[str, Any]) -> None:
    default_type = call.options.get("default_queue_type")
    more = {} if default_type is None else {"default_queue_type": default_type}
    call.api.put("vhosts", call.arguments[0], body={**body, **more})


def _delete_vhost(call: Call) -> None:
    try:
        call.api.delete("vhosts", call.arguments[0])
    except ApiRefused as refusal:
        if refusal.status != _NOT_FOUND:
            raise
        raise no_such_vhost(call.arguments[0]) from refusal


def _set_vhost_tags(call: Call) -> None:
    vhost, *tags = call.arguments
    found = call.api.find("vhosts", vhost)
    if found is None:
        text = f'Virtual host "{vhost}" does not exist'
        raise failed(text, EXIT_DATA, f'Virtual host "{vhost}" does not exists')
    body = {**metadata_of(found), "tags": ",".join(tags)}
    call.api.put("vhosts", vhost, body=body)


def _update_vhost_metadata(call: Call) -> None:
    found = call.api.find("vhosts", call.arguments[0])
    if found is None:
        raise no_such_vhost(call.arguments[0])
    given = {key: call.options[key] for key in _METADATA if key in call.options}
    call.api.put("vhosts", call.arguments[0], body={**metadata_of(found), **given})


def metadata_of(vhost: dict[str, Any]) -> dict[str, str]:
    """What must be said again of a virtual host, or a change of something else resets it."""
    metadata = {
        "description": vhost.get("description") or "",
        "tags": joined(vhost.get("tags") or []),
    }
    queue_type = vhost.get("default_queue_type", "undefined")
    return metadata if queue_type == "undefined" else {**metadata, "default_queue_type": queue_type}


def _check_metadata(call: Call) -> None:
    given = [key for key in _METADATA if key in call.options]
    if not given:
        raise InvalidArguments("not enough arguments.")
    queue_type = call.options.get("default_queue_type")
    if queue_type not in (None, *_QUEUE_TYPES):
        text = "Default queue type must be one of: quorum, stream, classic."
        raise InvalidArguments(f"Bad argument: {text} Provided: {queue_type}", EXIT_DATA)


def _restart_vhost(call: Call) -> str:
    if call.api.find("vhosts", call.vhost) is None:
        raise no_such_vhost(call.vhost)
    return f"Vhost '{call.vhost}' is already running on node '{call.node}'"


_METADATA = {"description": str, "tags": str, "default_queue_type": str}
_METADATA_DETAILS = (
    ("<vhost>", "Virtual host name"),
    ("--description <description>", "Virtual host description"),
    ("--tags <tag1,tag2>", "Comma-separated list of tags"),
    (
        "--default-queue-type <quorum|classic|stream>",
        "Queue type to use if no type is explicitly provided by the client",
    ),
)
_METADATA_USAGE = "--default-queue-type <quorum|classic|stream>]"


COMMANDS = (
    Command(
        name="add_vhost",
        run=_add_vhost,
        usage='<vhost> [--description <description> --tags "<tag1>,<tag2>,<...>" '
        + _METADATA_USAGE,
        description="Creates a virtual host",
        section="virtual_hosts",
        details=_METADATA_DETAILS,
        least=1,
        most=1,
        switches=_METADATA,
        aliases={"d": "description"},
        defaults={"description": "", "tags": ""},
        banner='Adding vhost "{0}" ...',
    ),
    Command(
        name="delete_vhost",
        run=_delete_vhost,
        usage="<vhost>",
        description="Deletes a virtual host",
        section="virtual_hosts",
        details=(("<vhost>", "Name of the virtual host to delete."),),
        least=1,
        most=1,
        banner='Deleting vhost "{0}" ...',
    ),
    Command(
        name="set_vhost_tags",
        run=_set_vhost_tags,
        usage="<vhost> <tag> [...]",
        description="Sets virtual host tags",
        section="virtual_hosts",
        details=(("<vhost>", "Self-explanatory"), ("<tags>", "Space separated list of tags")),
        least=1,
        most=None,
        banner=tags_banner("virtual host"),
    ),
    Command(
        name="update_vhost_metadata",
        run=_update_vhost_metadata,
        usage='<vhost> [--description <description>] [--tags "<tag1>,<tag2>,<...>"] ['
        + _METADATA_USAGE,
        description="Updates metadata (tags, description, default queue type) a virtual host",
        section="virtual_hosts",
        details=_METADATA_DETAILS,
        least=1,
        most=1,
        switches=_METADATA,
        aliases={"d": "description"},
        banner='Updating metadata of vhost "{0}" ...',
        check=_check_metadata,
    ),
    Command(
        name="restart_vhost",
        run=_restart_vhost,
        usage="[--vhost <vhost>]",
        description="Restarts a failed vhost data stores and queues",
        section="virtual_hosts",
        switches=TIMED,
        defaults=IN_VHOST,
        banner=lambda call: f"Trying to restart vhost '{call.vhost}' on node '{call.node}' ...",
    ),
)

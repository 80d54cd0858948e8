"""Users."""

import base64
import binascii
import getpass
import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any

from amqpbroker.cli.ctl.api import ApiRefused
from amqpbroker.cli.ctl.command import (
    BOTH,
    EXIT_DATA,
    EXIT_NO_USER,
    EXIT_SOFTWARE,
    TIMED,
    Answer,
    Call,
    Command,
    CommandFailed,
    InvalidArguments,
    Report,
    Rows,
    failed,
)
from amqpbroker.cli.ctl.erlang import inspected

_UNAUTHORISED = 401
_GRANT = (
    "Done. Don't forget to grant the user permissions to some virtual hosts!"
    " See 'rabbitmqctl help set_permissions' to learn more."
)


def _no_such_user(user: str) -> CommandFailed:
    text = f'User "{user}" does not exist'
    return failed(text, EXIT_NO_USER, f"User {user} does not exists")


def _found_user(call: Call) -> dict[str, Any]:
    user: dict[str, Any] | None = call.api.find("users", call.arguments[0])
    if user is None:
        raise _no_such_user(call.arguments[0])
    return user


def _password(call: Call, status: int) -> str:
    """The password from the command line, else from the terminal or a pipe."""
    if len(call.arguments) > 1:
        return call.arguments[1]
    if call.stdin.isatty():
        return getpass.getpass("Password: ")
    line = call.stdin.readline()
    if not line:
        raise failed("Password is not provided via argument or stdin", status)
    return line.rstrip("\r\n")


def _add_user(call: Call) -> Answer:
    user = call.arguments[0]
    password = _password(call, EXIT_DATA)
    if call.api.find("users", user) is not None:
        text = f'User "{user}" already exists'
        raise failed(text, EXIT_SOFTWARE, f"User {user} already exists")
    is_hash = call.options["pre_hashed_password"]
    call.api.put(
        "users", user, body={"password_hash" if is_hash else "password": password, "tags": ""}
    )
    if call.is_quiet:
        return None
    if call.options.get("formatter") == "json":
        return Report([], {"message": _GRANT, "node": call.node, "status": "ok"})
    return _GRANT


def _check_new_user(call: Call) -> None:
    if len(call.arguments) == 2 and not call.arguments[0]:
        raise InvalidArguments("Bad argument: user cannot be an empty string", EXIT_DATA)
    if len(call.arguments) == 2 and call.options["pre_hashed_password"]:
        try:
            base64.b64decode(call.arguments[1], validate=True)
        except binascii.Error as error:
            text = "Bad argument: Could not Base64 decode provided password hash value"
            raise InvalidArguments(text, EXIT_DATA) from error


def _delete_user(call: Call) -> None:
    _found_user(call)
    call.api.delete("users", call.arguments[0])


def _change_password(call: Call) -> None:
    tags = _found_user(call)["tags"]
    password = _password(call, EXIT_SOFTWARE)
    body = {"password": password, "tags": joined(tags)}
    call.api.put("users", call.arguments[0], body=body)


def _clear_password(call: Call) -> None:
    user = call.api.find("users", call.arguments[0])
    if user is None:
        raise failed(f"{{:no_such_user, {inspected(call.arguments[0])}}}")
    body = {"password_hash": "", "tags": joined(user["tags"])}
    call.api.put("users", call.arguments[0], body=body)


def _set_user_tags(call: Call) -> None:
    user = _found_user(call)
    kept = {key: user[key] for key in ("password_hash", "hashing_algorithm") if key in user}
    call.api.put("users", call.arguments[0], body={**kept, "tags": joined(call.arguments[1:])})


def joined(tags: str | Sequence[str]) -> str:
    """Tags as the API takes them, however it gave them."""
    return tags if isinstance(tags, str) else ",".join(tags)


def tags_banner(what: str) -> Callable[[Call], str]:
    """What is said before tags are set."""

    def banner(call: Call) -> str:
        name, *tags = call.arguments
        return f'Setting tags for {what} "{name}" to [{", ".join(tags)}] ...'

    return banner


def _list_users(call: Call) -> Rows:
    return Rows([{"user": user["name"], "tags": _tags(user)} for user in call.api.get("users")])


def _tags(user: dict[str, Any]) -> list[str]:
    tags = user["tags"]
    return [tag for tag in tags.split(",") if tag] if isinstance(tags, str) else tags


_KNOWN_BUT_REFUSED = ("Not management user", "User can only log in via localhost")
"""The password was right; the API is still not for that user."""


def _authenticate_user(call: Call) -> str:
    """Ask who that user is, as that user: the API knows a right password from a wrong one."""
    user, password = call.arguments[0], _password(call, EXIT_SOFTWARE)
    try:
        call.api.as_user(user, password).get("whoami")
    except ApiRefused as refusal:
        if refusal.status != _UNAUTHORISED:
            raise
        if refusal.reason not in _KNOWN_BUT_REFUSED:
            why = f"user '{user}' - invalid credentials"
            text = f'Error: failed to authenticate user "{user}"\n{why}'
            raise failed(text, EXIT_DATA) from refusal
    return "Success"


def _hash_banner(call: Call) -> str:
    return f"Will hash {f'password {call.arguments[0]}' if call.arguments else 'provided password'}"


def _hash_password(call: Call) -> str:
    """A hash as RabbitMQ keeps it: base64 of salt and SHA-256 of salt and password."""
    salt = os.urandom(4)
    password = call.arguments[0] if call.arguments else call.stdin.readline().rstrip("\r\n")
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


COMMANDS = (
    Command(
        name="add_user",
        run=_add_user,
        usage="<username> [<password>] [<password_hash> --pre-hashed-password]",
        description="Creates a new user in the internal database."
        " This user will have no permissions for any virtual hosts by default.",
        section="user_management",
        details=(
            ("<username>", "Self-explanatory"),
            (
                "<password>",
                "Password this user will authenticate with; read from the standard"
                " input if it is not given",
            ),
            ("--pre-hashed-password", "The second argument is a hash, as hash_password makes it"),
        ),
        least=1,
        most=2,
        switches={"pre_hashed_password": bool},
        defaults={"pre_hashed_password": False},
        banner='Adding user "{0}" ...',
        check=_check_new_user,
    ),
    Command(
        name="delete_user",
        run=_delete_user,
        usage="<username>",
        description="Removes a user from the internal database."
        " Has no effect on users provided by external backends such as LDAP",
        section="user_management",
        details=(("<username>", "Name of the user to delete."),),
        least=1,
        most=1,
        banner='Deleting user "{0}" ...',
    ),
    Command(
        name="change_password",
        run=_change_password,
        usage="<username> <password>",
        description="Changes the user password",
        section="user_management",
        details=(
            ("<username>", "Name of the user whose password should be changed"),
            ("<password>", "New password to set"),
        ),
        least=1,
        most=2,
        banner='Changing password for user "{0}" ...',
    ),
    Command(
        name="clear_password",
        run=_clear_password,
        usage="<username>",
        description="Clears (resets) password and disables password login for a user",
        section="user_management",
        details=(("<username>", "Name of the user whose password should be cleared"),),
        least=1,
        most=1,
        banner='Clearing password for user "{0}" ...',
    ),
    Command(
        name="authenticate_user",
        run=_authenticate_user,
        usage="<username> <password>",
        description="Attempts to authenticate a user."
        " Exits with a non-zero code if authentication fails.",
        section="user_management",
        details=(
            ("<username>", "Username to use"),
            ("<password>", "Password to use. Can be entered via stdin in interactive mode."),
        ),
        least=1,
        most=2,
        banner='Authenticating user "{0}" ...',
    ),
    Command(
        name="set_user_tags",
        run=_set_user_tags,
        usage="<username> <tag> [...]",
        description="Sets user tags",
        section="user_management",
        details=(("<username>", "Self-explanatory"), ("<tags>", "Space separated list of tags")),
        least=1,
        most=None,
        banner=tags_banner("user"),
    ),
    Command(
        name="list_users",
        run=_list_users,
        usage="[--no-table-headers]",
        description="List user names and tags",
        section="user_management",
        switches=TIMED,
        banner="Listing users ...",
        tools=BOTH,
        formatter="table",
    ),
    Command(
        name="hash_password",
        run=_hash_password,
        usage="<cleartext_password>",
        description="Hashes a plaintext password",
        section="user_management",
        details=(("<cleartext_password>", "password to hash"),),
        most=1,
        banner=_hash_banner,
    ),
)

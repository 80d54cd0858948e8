"""Who may: names and passwords, and what the tags of a user are good for.

RabbitMQ's rules (rabbit_web_dispatch_access_control.erl). A tag opens the API at all; what else is
asked of a user depends on the resource, and is one of the guards here.
"""

import base64
import binascii
from collections.abc import Callable

from amqpbroker.broker.access import is_loopback, password_matches
from amqpbroker.broker.broker import Broker
from amqpbroker.management.call import Call, Caller, Fault, not_authorised

REALM = "RabbitMQ Management"
_TAGS = {"administrator", "monitoring", "policymaker", "management"}
"""A user with none of these has no business here."""

Guard = Callable[[Call], None]
"""Raises `Fault` (401) unless the caller may."""


def authenticate(broker: Broker, authorization: str, host: str) -> Caller:
    """Who asks, by the header ``authorization``. Raises `Fault` (401)."""
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() != "basic":
        raise Fault(401, "", None)
    try:
        name, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise Fault(401, "", None) from None
    user = broker.users.get(name)
    if user is None or not password_matches(user, password):
        raise Fault(401, "not_authorized", "Not_Authorized")
    if name == "guest" and not is_loopback(host):
        raise not_authorised("User can only log in via localhost")
    if not _TAGS.intersection(user.tags):
        raise not_authorised("Not management user")
    return Caller(user, host)


def any_user(call: Call) -> None:
    """Whoever may use the API at all."""


def administrator(call: Call) -> None:
    """Administrators."""
    if not call.is_administrator:
        raise not_authorised("Not administrator user")


def monitor(call: Call) -> None:
    """Those who watch everything, and administrators."""
    if not call.is_monitor:
        raise not_authorised("Not monitor user")


def vhost_user(call: Call) -> None:
    """Who has a permission in the virtual host of the path, if it is there; administrators."""
    if not call.is_administrator and not _enters(call):
        raise not_authorised("User not authorised to access virtual host")


def vhost_observer(call: Call) -> None:
    """Who may at least see the virtual host of the path."""
    if not call.is_monitor and not _enters(call):
        raise not_authorised("User not authorised to access virtual host")


def policymaker(call: Call) -> None:
    """Administrators; policymakers, in virtual hosts where they have a permission."""
    if not call.is_administrator and not ("policymaker" in call.tags and _enters(call)):
        raise not_authorised("User not authorised to access object")


def global_policymaker(call: Call) -> None:
    """Policymakers, for what is nobody's in particular, and administrators."""
    if not {"administrator", "policymaker"}.intersection(call.tags):
        raise not_authorised("User not authorised to access object")


def _enters(call: Call) -> bool:
    name = call.path.get("vhost")
    return name is None or name not in call.broker.vhosts or call.may_enter(name)


def check_owner(call: Call, owner: str) -> None:
    """Raise `Fault` (401) unless a connection, or what belongs to it, is the caller's to see.

    Monitors see everybody's; only administrators delete what is not theirs.
    """
    above = call.is_administrator if call.method == "DELETE" else call.is_monitor
    if not above and owner != call.user.name:
        raise not_authorised("User not authorised to access object")

"""Who may come in, and what they may do."""

import base64
import hashlib
import hmac
import ipaddress
import random
from collections.abc import Mapping
from typing import Literal

from amqpbroker.definitions import (
    PermissionDefinition,
    TopicPermissionDefinition,
    UserDefinition,
)
from amqpbroker.errors import AccessRefused
from amqpbroker.patterns import holds

Right = Literal["configure", "write", "read"]

_SHA_256 = "rabbit_password_hashing_sha256"
HASHING_ALGORITHMS = {
    _SHA_256: "sha256",
    "rabbit_password_hashing_sha512": "sha512",
    "rabbit_password_hashing_md5": "md5",
}
"""RabbitMQ's names of what a password is hashed with; all but the first are taken, not made."""
_SALT_BYTES = 4
_NAMES_KEPT_MAX = 1024
_DEFAULT_EXCHANGE = "amq.default"
"""What patterns of permissions know the default exchange by."""


def hash_password(password: str, rng: random.Random) -> str:
    """RabbitMQ's form.

    Base64 of a salt and the SHA-256 over salt and password (rabbit_password_hashing_sha256).
    """
    salt = rng.randbytes(_SALT_BYTES)
    return base64.b64encode(salt + _digest(salt, password)).decode()


def _digest(salt: bytes, password: str, algorithm: str = _SHA_256) -> bytes:
    octets = salt + password.encode("utf-8", "surrogateescape")
    return hashlib.new(HASHING_ALGORITHMS[algorithm], octets).digest()


def password_matches(user: UserDefinition, password: str) -> bool:
    """Whether ``password`` is the user's; an empty one never is."""
    stored = base64.b64decode(user.password_hash)
    salt, digest = stored[:_SALT_BYTES], stored[_SALT_BYTES:]
    wanted = _digest(salt, password, user.hashing_algorithm)
    return bool(password) and hmac.compare_digest(digest, wanted)


def is_loopback(host: str) -> bool:
    """Whether ``host``, a numeric address, is this machine."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


class Access:
    """What ``user`` may do in a virtual host.

    It follows ``permission`` (None: nothing at all) and ``topics`` (by exchange; no record, no
    restriction). A record that changes makes a new `Access`. What was granted is remembered, so
    that asking again costs a look into a set.
    """

    def __init__(
        self,
        user: UserDefinition,
        permission: PermissionDefinition | None,
        topics: Mapping[str, TopicPermissionDefinition],
    ) -> None:
        self.user = user
        self._permission = permission
        self._topics = topics
        self._granted: set[tuple[str, ...]] = set()

    def check(
        self, right: Right, kind: Literal["queue", "exchange"], name: str, vhost: str
    ) -> None:
        """Raise `AccessRefused` unless the user has ``right`` on a queue or exchange."""
        name = name or (_DEFAULT_EXCHANGE if kind == "exchange" else "")
        asked = right, name
        if asked in self._granted:
            return
        if self._permission is None or not holds(getattr(self._permission, right), name):
            raise AccessRefused(
                f"{right} access to {kind} '{name}' in vhost '{vhost}' refused"
                f" for user '{self.user.name}'"
            )
        self._remember(asked)

    def check_topic(
        self, right: Literal["write", "read"], exchange: str, routing_key: str, vhost: str
    ) -> None:
        """Raise `AccessRefused` unless the user may use ``routing_key`` with a topic exchange."""
        record = self._topics.get(exchange)
        if record is None:
            return
        asked = right, exchange, routing_key
        if asked in self._granted:
            return
        pattern: str = getattr(record, right)
        for variable, value in (("{username}", self.user.name), ("{vhost}", vhost)):
            pattern = pattern.replace(variable, value)
        if not holds(pattern, routing_key):
            raise AccessRefused(
                f"{right} access to topic '{routing_key}' in exchange '{exchange}'"
                f" in vhost '{vhost}' refused for user '{self.user.name}'"
            )
        self._remember(asked)

    def _remember(self, asked: tuple[str, ...]) -> None:
        if len(self._granted) >= _NAMES_KEPT_MAX:
            self._granted.clear()
        self._granted.add(asked)

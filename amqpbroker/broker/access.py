"""Who may come in."""

import base64
import hashlib
import hmac
import ipaddress
import random

from amqpbroker.definitions import UserDefinition

_SALT_BYTES = 4


def hash_password(password: str, rng: random.Random) -> str:
    """RabbitMQ's form.

    Base64 of a salt and the SHA-256 over salt and password (rabbit_password_hashing_sha256).
    """
    salt = rng.randbytes(_SALT_BYTES)
    return base64.b64encode(salt + _digest(salt, password)).decode()


def _digest(salt: bytes, password: str) -> bytes:
    return hashlib.sha256(salt + password.encode("utf-8", "surrogateescape")).digest()


def password_matches(user: UserDefinition, password: str) -> bool:
    """Whether ``password`` is the user's; an empty one never is."""
    stored = base64.b64decode(user.password_hash)
    salt, digest = stored[:_SALT_BYTES], stored[_SALT_BYTES:]
    return bool(password) and hmac.compare_digest(digest, _digest(salt, password))


def is_loopback(host: str) -> bool:
    """Whether ``host``, a numeric address, is this machine."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback

"""The nodes of a cluster, as the store that they share has them: kinds of keys, and records.

    /CLUSTER/v1/meta        which cluster this is
    /CLUSTER/v1/secret      32 octets by which its nodes prove to each other that they belong to it
    /CLUSTER/v1/inc/NODE    which disk the node has, and how often it was started; it stays
    /CLUSTER/v1/n/NODE      the node is up, and where; it goes with the node's lease

Keys are made by `Schema.path`; values are JSON, but for the secret.
"""

import random
from typing import TypeVar

import attrs
import msgspec

from amqpbroker.errors import DataError

META, SECRET, INCARNATION, MEMBER = "meta", "secret", "inc", "n"
_PORT_MAX = 65535
SCHEMA = 1
"""The version of all keys and records; one that is higher must not be touched."""


class Meta(msgspec.Struct, frozen=True):
    """Which cluster this is."""

    cluster_id: str
    schema: int = SCHEMA
    uploader: str = ""
    """The disk of a node that brings definitions of its own: until they are there, no other node
    begins."""
    uploading: str = ""
    """The name of that node."""


class Incarnation(msgspec.Struct, frozen=True):
    """Which disk a node has, and how often it was started.

    A node that was forgotten has no disk; its number goes on, so that none is given twice.
    """

    uuid: str
    inc: int


class Member(msgspec.Struct, frozen=True, omit_defaults=True):
    """A node that is up: where it is reached, ``HOST:PORT`` each; empty for what it has not."""

    inc: int
    link: str = ""
    amqp: str = ""
    http: str = ""
    v: str = ""
    """The version of the software."""
    started: int = 0
    """When the process was started, in milliseconds since 1970."""
    maintenance: bool = False
    """It is being drained: no queue should come to it."""
    alarms: tuple[str, ...] = ()
    """Resources that run low there: publishers are held back everywhere."""

    @property
    def link_address(self) -> tuple[str, int]:
        """Where its links are accepted. Raises `DataError` if it says nonsense."""
        host, _, port = self.link.rpartition(":")
        if not (port or "0").isdecimal() or int(port or 0) > _PORT_MAX:
            raise DataError(f"a node says that its links are accepted at {self.link!r}")
        return host.removeprefix("[").removesuffix("]"), int(port or 0)


@attrs.frozen
class ClusterStatus:
    """A cluster as one of its nodes sees it."""

    name: str
    cluster_id: str
    nodes: tuple[str, ...]
    """All nodes that belong to it, up or not."""
    running: dict[str, Member]
    """Those that are up."""
    linked: tuple[str, ...]
    """Other nodes to which there is a link."""
    is_store_away: bool
    """etcd does not answer this node: nothing can be declared, bound or deleted."""


Record = Meta | Incarnation | Member
_Record = TypeVar("_Record", Meta, Incarnation, Member)


def encode(record: Record) -> bytes:
    """A record as JSON."""
    return msgspec.json.encode(record)


def decode(key: bytes, value: bytes, kind: type[_Record]) -> _Record:
    """The record in ``value``; fields of later versions are left alone. Raises `DataError`."""
    try:
        return msgspec.json.decode(value, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        name = key.decode(errors="replace")
        raise DataError(f"the key {name} in the cluster's store makes no sense: {error}") from error


def new_id(rng: random.Random) -> str:
    """An id that nothing else has: of a cluster, or of a disk."""
    return rng.randbytes(16).hex()

"""How a cluster's definitions lie in the store that its nodes share.

    /CLUSTER/v1/vh/VHOST                                {"description", "tags", …}
    /CLUSTER/v1/user/USER                               {"hash", "tags", "algorithm", …}
    /CLUSTER/v1/perm/VHOST/USER                         {"configure", "write", "read"}
    /CLUSTER/v1/tperm/VHOST/USER/EXCHANGE               {"write", "read"}
    /CLUSTER/v1/pol|oppol/VHOST/NAME                    {"pattern", "definition", "priority", …}
    /CLUSTER/v1/param/VHOST/COMPONENT/NAME              {"value"}
    /CLUSTER/v1/gparam/NAME                             {"value"}
    /CLUSTER/v1/x/VHOST/NAME                            {"type", "durable", …, "args"}
    /CLUSTER/v1/q/VHOST/NAME                            {"id", "durable", …, "owner", "args"}
    /CLUSTER/v1/ql/ID                                   {"e": epoch, "l": leader, "isr", "r"}
    /CLUSTER/v1/b/VHOST/SOURCE/q|x/DESTINATION/HASH     {"key", "args", "did"}

Parts of keys are percent-encoded, values compact JSON; what is not known there is ignored, so that
nodes of two versions can share a store. A queue's definition and where it is led lie apart: the
latter changes more often, and its key is the queue's id, so that a queue that is declared anew
never inherits it. A binding says the revision at which its destination came to be (``did``): it is
void when there is another by now.
"""

import json
from collections.abc import Sequence
from hashlib import sha256
from typing import Annotated, Any, TypeVar
from urllib.parse import quote, unquote_to_bytes

import attrs
import msgspec

from amqpbroker.cluster.records import plain, restored
from amqpbroker.definitions import (
    BindingDefinition,
    Definition,
    ExchangeDefinition,
    GlobalParameterDefinition,
    ParameterDefinition,
    PermissionDefinition,
    PolicyDefinition,
    QueueDefinition,
    TopicPermissionDefinition,
    UserDefinition,
    VHostDefinition,
)
from amqpbroker.errors import DefinitionError
from amqpbroker.replication.leadership import Leadership

_HASH_DIGITS = 16
_SHOWN_BYTES_MAX = 200
_LEADERSHIPS_MAX = 10_000
"""Those that are remembered by what says them: most queues of a node have the same."""
_decoder = json.JSONDecoder(object_hook=restored)


@attrs.frozen
class BoundTo:
    """A binding as it lies in the store: ``did`` is when its destination came to be."""

    definition: BindingDefinition
    did: int


class Schema:
    """Keys and values of one cluster."""

    def __init__(self, cluster: str) -> None:
        self.prefix = f"/{_quoted(cluster)}/v1/".encode()
        self._leaderships: dict[bytes, Leadership] = {}

    # -- keys ----------------------------------------------------------------------------------

    def path(self, kind: str, *parts: str) -> bytes:
        """The key of that kind."""
        return self.prefix + "/".join((kind, *map(_quoted, parts))).encode()

    def parts(self, key: bytes) -> list[str]:
        """The kind of a key, and what it names."""
        parts = key[len(self.prefix) :].decode().split("/")
        return parts if b"%" not in key else [_unquoted(part) for part in parts]

    def key(self, definition: Definition) -> bytes:
        """Where a definition lies."""
        match definition:
            case VHostDefinition():
                return self.path("vh", definition.name)
            case UserDefinition():
                return self.path("user", definition.name)
            case PermissionDefinition():
                return self.path("perm", definition.vhost, definition.user)
            case TopicPermissionDefinition():
                return self.path("tperm", definition.vhost, definition.user, definition.exchange)
            case PolicyDefinition():
                kind = "oppol" if definition.is_operator else "pol"
                return self.path(kind, definition.vhost, definition.name)
            case ParameterDefinition():
                return self.path("param", definition.vhost, definition.component, definition.name)
            case GlobalParameterDefinition():
                return self.path("gparam", definition.name)
            case ExchangeDefinition():
                return self.path("x", definition.vhost, definition.name)
            case QueueDefinition():
                return self.path("q", definition.vhost, definition.name)
            case BindingDefinition():
                return self.path(
                    "b",
                    definition.vhost,
                    definition.source,
                    definition.destination_type[0].replace("e", "x"),
                    definition.destination,
                    _binding_hash(definition),
                )

    def inside(self, kind: str, *parts: str) -> bytes:
        """What all keys of a kind begin with that lie within ``parts``."""
        return self.path(kind, *parts) + b"/"

    def leadership_key(self, queue: QueueDefinition) -> bytes:
        """Where it is said where a queue is led."""
        return self.path("ql", str(queue.log_id))

    # -- values --------------------------------------------------------------------------------

    def value(self, definition: Definition, did: int = 0) -> bytes:
        """What is written there; of a binding, with when its destination came to be."""
        match definition:
            case VHostDefinition():
                fields: dict[str, Any] = {
                    "description": definition.description,
                    "tags": definition.tags,
                    "default_queue_type": definition.default_queue_type,
                }
            case UserDefinition():
                fields = {
                    "hash": definition.password_hash,
                    "tags": definition.tags,
                    "algorithm": definition.hashing_algorithm,
                    "limits": definition.limits,
                }
            case PermissionDefinition():
                fields = {
                    "configure": definition.configure,
                    "write": definition.write,
                    "read": definition.read,
                }
            case TopicPermissionDefinition():
                fields = {"write": definition.write, "read": definition.read}
            case PolicyDefinition():
                fields = {
                    "pattern": definition.pattern,
                    "definition": definition.definition,
                    "priority": definition.priority,
                    "apply_to": definition.apply_to,
                }
            case ParameterDefinition() | GlobalParameterDefinition():
                fields = {"value": plain(definition.value)}
            case ExchangeDefinition():
                fields = {
                    "type": definition.type,
                    "durable": definition.durable,
                    "auto_delete": definition.auto_delete,
                    "internal": definition.internal,
                    "args": plain(definition.arguments),
                }
            case QueueDefinition():
                fields = {
                    "id": definition.log_id,
                    "durable": definition.durable,
                    "exclusive": definition.exclusive,
                    "auto_delete": definition.auto_delete,
                    "owner": definition.owner or None,
                    "args": plain(definition.arguments),
                }
            case BindingDefinition():
                fields = {
                    "key": definition.routing_key,
                    "args": plain(definition.arguments),
                    "did": did,
                }
        return _written(fields)

    def definition(self, key: bytes, value: bytes) -> "Definition | BoundTo | None":
        """What lies at ``key``; None if it is none of these. Raises `DefinitionError`."""
        try:
            kind, *parts = self.parts(key)
            if kind not in _DECODERS:
                return None
            make, fields = _DECODERS[kind]
            found: Definition | BoundTo = make(parts, _read(key, value, fields))
        except ValueError as error:
            raise DefinitionError(f"{key!r} is no name of anything: {error}") from error
        return found

    def leadership(self, key: bytes, value: bytes) -> Leadership:
        """Where a queue is led; what says the same is one object. Raises `DefinitionError`."""
        found = self._leaderships.get(value)
        if found is None:
            fields = _read(key, value, _Leadership)
            leader = fields.l or ""
            found = Leadership(fields.e, leader, fields.isr, fields.r, fields.unclean)
            if len(self._leaderships) >= _LEADERSHIPS_MAX:
                self._leaderships.clear()
            self._leaderships[value] = found
        return found


def leadership_value(leadership: Leadership) -> bytes:
    """What is written of where a queue is led."""
    return _written(
        {
            "e": leadership.epoch,
            "l": leadership.leader,
            "isr": leadership.in_sync,
            "r": leadership.replicas,
            "unclean": leadership.unclean,
        }
    )


def _quoted(part: str) -> str:
    return quote(part.encode("utf-8", "surrogateescape"), safe="")


def _unquoted(part: str) -> str:
    return unquote_to_bytes(part).decode("utf-8", "surrogateescape") if "%" in part else part


def _written(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def _binding_hash(binding: BindingDefinition) -> str:
    """Tells a binding from others between the same two things."""
    text = json.dumps([binding.routing_key, plain(binding.arguments)], sort_keys=True)
    return sha256(text.encode()).hexdigest()[:_HASH_DIGITS]


# -- reading -------------------------------------------------------------------------------------


class _VHost(msgspec.Struct, frozen=True):
    description: str
    tags: tuple[str, ...]
    default_queue_type: str


class _User(msgspec.Struct, frozen=True):
    hash: str
    tags: tuple[str, ...]
    algorithm: str
    limits: dict[str, int] = {}


class _Permission(msgspec.Struct, frozen=True):
    configure: str
    write: str
    read: str


class _TopicPermission(msgspec.Struct, frozen=True):
    write: str
    read: str


class _Policy(msgspec.Struct, frozen=True):
    pattern: str
    definition: dict[str, Any]
    priority: int
    apply_to: str


class _Parameter(msgspec.Struct, frozen=True):
    value: Any


class _Exchange(msgspec.Struct, frozen=True):
    type: str
    durable: bool
    auto_delete: bool
    internal: bool
    args: dict[str, Any]


class _Queue(msgspec.Struct, frozen=True):
    id: Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]
    durable: bool
    exclusive: bool
    auto_delete: bool
    owner: Annotated[str, msgspec.Meta(pattern=r"@\d+$")] | None
    args: dict[str, Any]


class _Binding(msgspec.Struct, frozen=True):
    key: str
    args: dict[str, Any]
    did: int


class _Leadership(msgspec.Struct, frozen=True):
    e: int
    l: str | None  # noqa: E741 - it is called so there
    isr: tuple[str, ...]
    r: tuple[str, ...]
    unclean: int = 0


_Fields = TypeVar("_Fields", bound=msgspec.Struct)


def _read(key: bytes, value: bytes, kind: type[_Fields]) -> _Fields:
    """The fields that lie at a key. Raises `DefinitionError` if some are missing or wrong."""
    try:
        return msgspec.convert(_decoder.decode(value.decode()), kind)
    except (ValueError, TypeError, RecursionError, ArithmeticError) as error:
        shown = value if len(value) <= _SHOWN_BYTES_MAX else value[:_SHOWN_BYTES_MAX] + b"..."
        raise DefinitionError(f"{key!r} says {shown!r}: {error}") from error


def _vhost(parts: Sequence[str], fields: _VHost) -> VHostDefinition:
    (name,) = parts
    return VHostDefinition(name, fields.description, fields.tags, fields.default_queue_type)


def _user(parts: Sequence[str], fields: _User) -> UserDefinition:
    (name,) = parts
    return UserDefinition(name, fields.hash, fields.tags, fields.algorithm, fields.limits)


def _permission(parts: Sequence[str], fields: _Permission) -> PermissionDefinition:
    vhost, user = parts
    return PermissionDefinition(vhost, user, fields.configure, fields.write, fields.read)


def _topic_permission(parts: Sequence[str], fields: _TopicPermission) -> TopicPermissionDefinition:
    vhost, user, exchange = parts
    return TopicPermissionDefinition(vhost, user, exchange, fields.write, fields.read)


def _policy(parts: Sequence[str], fields: _Policy, is_operator: bool = False) -> PolicyDefinition:
    vhost, name = parts
    return PolicyDefinition(
        vhost,
        name,
        fields.pattern,
        fields.definition,
        fields.priority,
        fields.apply_to,
        is_operator,
    )


def _operator_policy(parts: Sequence[str], fields: _Policy) -> PolicyDefinition:
    return _policy(parts, fields, is_operator=True)


def _parameter(parts: Sequence[str], fields: _Parameter) -> ParameterDefinition:
    vhost, component, name = parts
    return ParameterDefinition(vhost, component, name, fields.value)


def _global_parameter(parts: Sequence[str], fields: _Parameter) -> GlobalParameterDefinition:
    (name,) = parts
    return GlobalParameterDefinition(name, fields.value)


def _exchange(parts: Sequence[str], fields: _Exchange) -> ExchangeDefinition:
    vhost, name = parts
    return ExchangeDefinition(
        vhost,
        name,
        fields.type,
        fields.durable,
        fields.auto_delete,
        fields.internal,
        fields.args,
    )


def _queue(parts: Sequence[str], fields: _Queue) -> QueueDefinition:
    vhost, name = parts
    return QueueDefinition(
        vhost,
        name,
        fields.durable,
        fields.exclusive,
        fields.auto_delete,
        fields.args,
        log_id=fields.id,
        owner=fields.owner or "",
    )


def _binding(parts: Sequence[str], fields: _Binding) -> BoundTo:
    vhost, source, kind, destination, _ = parts
    fields.key.encode("utf-8", "surrogateescape")  # Else it can match no message.
    return BoundTo(
        BindingDefinition(
            vhost,
            source,
            destination,
            fields.key,
            fields.args,
            "queue" if kind == "q" else "exchange",
        ),
        fields.did,
    )


_DECODERS: dict[str, tuple[Any, type[msgspec.Struct]]] = {
    "vh": (_vhost, _VHost),
    "user": (_user, _User),
    "perm": (_permission, _Permission),
    "tperm": (_topic_permission, _TopicPermission),
    "pol": (_policy, _Policy),
    "oppol": (_operator_policy, _Policy),
    "param": (_parameter, _Parameter),
    "gparam": (_global_parameter, _Parameter),
    "x": (_exchange, _Exchange),
    "q": (_queue, _Queue),
    "b": (_binding, _Binding),
}

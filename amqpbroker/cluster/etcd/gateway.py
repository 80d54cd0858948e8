"""etcd's JSON: requests as it takes them, answers as it gives them.

The gateway is gRPC in JSON: octets are base64, 64-bit numbers are strings, and whatever has its
default value (0, false, empty) is left out.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from amqpbroker.cluster.etcd.contract import (
    Compare,
    Delete,
    Event,
    Get,
    KeyValue,
    Operation,
    OperationResult,
    Put,
    prefix_end,
)
from amqpbroker.errors import Compacted, LeaseExists, LeaseNotFound, StoreRefused

_RELATIONS = {"=": "EQUAL", "!=": "NOT_EQUAL", "<": "LESS", ">": "GREATER"}
_OPERANDS = {
    "CREATE": "create_revision",
    "MOD": "mod_revision",
    "VERSION": "version",
    "VALUE": "value",
    "LEASE": "lease",
}

PERMISSION_DENIED = 7
OUT_OF_RANGE = 11
UNAVAILABLE = 14
_TROUBLE = {1, 2, 4, 13, UNAVAILABLE}
"""gRPC's cancelled, unknown, deadline exceeded, internal, unavailable: they tell nothing."""

_NEVER_BEGUN = ("etcdserver: no leader", "etcdserver: too many requests")
_DENIED = ("permission denied", "user name is empty")
"""Why a watch is refused for good; all other reasons pass."""
_BAD_TOKEN = ("invalid auth token", "revision of auth store is old")


# -- answers -----------------------------------------------------------------------------------


class Header(msgspec.Struct):
    """What every answer says of the store."""

    revision: int = 0


class JsonKeyValue(msgspec.Struct):
    """A key; of a deleted one, only the key and the revision of its end."""

    key: bytes = b""
    value: bytes = b""
    create_revision: int = 0
    mod_revision: int = 0
    version: int = 0
    lease: int = 0

    def item(self) -> KeyValue:
        """It in the words of the contract."""
        return KeyValue(
            self.key,
            self.value,
            self.create_revision,
            self.mod_revision,
            self.version,
            self.lease,
        )


class RangeAnswer(msgspec.Struct):
    """Keys."""

    header: Header = msgspec.field(default_factory=Header)
    kvs: list[JsonKeyValue] = []
    more: bool = False

    def items(self) -> tuple[KeyValue, ...]:
        """The keys in the words of the contract."""
        return tuple(each.item() for each in self.kvs)


class PutAnswer(msgspec.Struct):
    """A key was written."""

    header: Header = msgspec.field(default_factory=Header)


class DeleteAnswer(msgspec.Struct):
    """Keys were deleted."""

    deleted: int = 0


class OperationAnswer(msgspec.Struct):
    """What an operation of a txn gave."""

    response_range: RangeAnswer | None = None
    response_put: PutAnswer | None = None
    response_delete_range: DeleteAnswer | None = None

    def result(self) -> OperationResult:
        """It in the words of the contract."""
        if self.response_range is not None:
            return OperationResult(self.response_range.items())
        if self.response_delete_range is not None:
            return OperationResult(deleted=self.response_delete_range.deleted)
        return OperationResult()


class TxnAnswer(msgspec.Struct):
    """What became of a txn."""

    header: Header = msgspec.field(default_factory=Header)
    succeeded: bool = False
    responses: list[OperationAnswer] = []


class LeaseAnswer(msgspec.Struct):
    """A lease; what is not there has no time to live."""

    id: int = msgspec.field(name="ID", default=0)
    ttl_s: int = msgspec.field(name="TTL", default=0)


class RevokeAnswer(msgspec.Struct):
    """A lease was ended."""


class TokenAnswer(msgspec.Struct):
    """Who logged in has a token."""

    token: str = ""


class VersionAnswer(msgspec.Struct):
    """What the member runs."""

    etcdserver: str = ""


class StreamFault(msgspec.Struct):
    """A fault within a stream of answers."""

    code: int = msgspec.field(name="grpc_code", default=2)
    message: str = ""


class KeepAliveAnswer(msgspec.Struct):
    """A stream of one answer: a lease, kept alive."""

    result: LeaseAnswer | None = None
    error: StreamFault | None = None


class JsonEvent(msgspec.Struct):
    """A change of a key."""

    kv: JsonKeyValue
    type: str = "PUT"

    def event(self) -> Event:
        """It in the words of the contract."""
        kv = self.kv
        if self.type == "DELETE":
            return Event(kv.key, None, kv.mod_revision, 0)
        return Event(kv.key, kv.value, kv.mod_revision, kv.create_revision, kv.lease)


class WatchAnswer(msgspec.Struct):
    """One message of a watch."""

    header: Header = msgspec.field(default_factory=Header)
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""
    events: list[JsonEvent] = []


class WatchLine(msgspec.Struct):
    """One line of a watch."""

    result: WatchAnswer | None = None
    error: StreamFault | None = None


class _FaultAnswer(msgspec.Struct):
    code: int = 2
    message: str = ""
    error: Any = ""


class Fault(Exception):
    """etcd answers that it did not do it, or does not know."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} (code {code})")
        self.code = code
        self.text = text

    @property
    def was_never_begun(self) -> bool:
        """Whether it was certainly not carried out, and may be tried elsewhere."""
        return any(text in self.text for text in _NEVER_BEGUN)

    @property
    def is_trouble(self) -> bool:
        """Whether it says that etcd is not well, and nothing of the request."""
        return self.code in _TROUBLE or self.was_never_begun

    @property
    def is_bad_token(self) -> bool:
        """Whether the token has had its time."""
        return any(text in self.text for text in _BAD_TOKEN)

    def refusal(self) -> StoreRefused:
        """It as callers of the store know it."""
        kind = StoreRefused
        if "requested lease not found" in self.text:
            kind = LeaseNotFound
        elif "lease already exists" in self.text:
            kind = LeaseExists
        return kind(self.code, self.text)


def fault_of(body: bytes) -> Fault:
    """What an answer with a bad status says."""
    try:
        fault = msgspec.json.decode(body, type=_FaultAnswer, strict=False)
    except msgspec.MsgspecError:
        text = body[:200].decode(errors="replace").strip()
        return Fault(2, f"not etcd's answer: {text!r}")
    return Fault(fault.code, fault.message or str(fault.error))


# -- requests ----------------------------------------------------------------------------------


def span(key: bytes, prefix: bool) -> dict[str, Any]:
    r"""What names one key, or all that begin with it; etcd's own name for all keys is ``\0``."""
    if not prefix:
        return {"key": key}
    return {"key": key or b"\0", "range_end": prefix_end(key)}


def json_compare(compare: Compare) -> dict[str, Any]:
    """A condition of a txn."""
    return {
        "key": compare.key,
        "target": compare.target,
        "result": _RELATIONS[compare.relation],
        _OPERANDS[compare.target]: compare.operand,
    }


def json_put(put: Put) -> dict[str, Any]:
    """A put, alone or in a txn."""
    request: dict[str, Any] = {"key": put.key, "value": put.value}
    if put.lease:
        request["lease"] = put.lease
    return request


def json_operations(operations: Iterable[Operation]) -> list[dict[str, Any]]:
    """The operations of a branch of a txn."""
    requests: list[dict[str, Any]] = []
    for operation in operations:
        match operation:
            case Put():
                requests.append({"request_put": json_put(operation)})
            case Delete(key, prefix):
                requests.append({"request_delete_range": span(key, prefix)})
            case Get(key, prefix):
                requests.append({"request_range": span(key, prefix)})
    return requests


def json_watch(prefix: bytes, from_revision: int) -> dict[str, Any]:
    """A watch. etcd is asked to give a sign of life even when there is nothing to tell."""
    start = {"start_revision": from_revision, "progress_notify": True}
    return {"create_request": span(prefix, True) | start}


def end_of_watch(line: WatchLine) -> Compacted | Fault | None:
    """Why a watch has ended, if this is its end."""
    if line.error is not None:
        return Fault(line.error.code, line.error.message)
    answer = line.result
    if answer is None or not answer.canceled:
        return None
    if answer.compact_revision:
        return Compacted(answer.compact_revision)
    denied = any(text in answer.cancel_reason for text in _DENIED)
    code = PERMISSION_DENIED if denied else UNAVAILABLE
    return Fault(code, answer.cancel_reason or "the watch was cancelled")

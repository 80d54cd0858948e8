"""A client for etcd's JSON gateway (v3, from etcd 3.4 on)."""

import random
import ssl
from collections.abc import Sequence
from typing import Any

import trio

from amqpbroker.cluster.etcd.contract import (
    Compare,
    Get,
    KeyValue,
    KeyValueStore,
    Lease,
    Operation,
    Put,
    RangeReading,
    Reading,
    TxnResult,
    check_txn,
)
from amqpbroker.cluster.etcd.gateway import (
    OUT_OF_RANGE,
    DeleteAnswer,
    Fault,
    KeepAliveAnswer,
    LeaseAnswer,
    PutAnswer,
    RangeAnswer,
    RevokeAnswer,
    TxnAnswer,
    VersionAnswer,
    json_compare,
    json_operations,
    json_put,
    span,
)
from amqpbroker.cluster.etcd.http import NotSent, Unanswered
from amqpbroker.cluster.etcd.members import (
    CHANGE,
    READ,
    SERIALIZABLE,
    EtcdUser,
    Members,
    decoded,
)
from amqpbroker.cluster.etcd.versions import judge_version
from amqpbroker.cluster.etcd.watch import EtcdWatch
from amqpbroker.errors import LeaseNotFound, StoreRefused, StoreUnavailable
from amqpbroker.world import Network

_PAGE_ITEMS = 8000
"""Keys that are read at once, 30 ms of this node: for each page etcd looks at all that follow."""


class EtcdClient(KeyValueStore):
    """The store of a cluster, in etcd.

    ``endpoints`` are URLs of members, asked in this order: the first that answers is asked until it
    fails. All calls end within ``timeout_s``; a change that was sent gets half of it, then its
    outcome is unknown. A watch that is silent for ``watch_silence_s`` begins anew, for its stream
    may be dead. `close` ends the idle connections.
    """

    def __init__(
        self,
        network: Network,
        rng: random.Random,
        endpoints: Sequence[str],
        *,
        tls: ssl.SSLContext | None = None,
        user: EtcdUser | None = None,
        timeout_s: float = 5.0,
        watch_silence_s: float = 5.0,
        connections_max: int = 32,
    ) -> None:
        self._members = Members(network, rng, endpoints, tls, user, timeout_s, connections_max)
        self._watch_silence_s = watch_silence_s

    def close(self) -> None:
        """End the connections that are not in use."""
        self._members.close()

    async def check_versions(self, *, development: bool = False) -> list[str]:
        """See what the members run: a list of warnings, a line each.

        Members that do not answer are left out. Raises `ConfigError` for a version that loses data,
        unless this is a ``development`` etcd; `StoreUnavailable` when no member answers.
        """
        warnings = []
        faults = []
        until_s = trio.current_time() + self._members.timeout_s
        for number, endpoint in enumerate(self._members.endpoints):
            share_s = (until_s - trio.current_time()) / (len(self._members.endpoints) - number)
            by_s = trio.current_time() + share_s
            try:
                response = await endpoint.request("/version", None, [], by_s, by_s)
                version = decoded(response, VersionAnswer).etcdserver
            except (NotSent, Unanswered, Fault) as fault:
                faults.append(str(fault))
                continue
            warning = judge_version(version, endpoint.url, development)
            if warning is not None:
                warnings.append(warning)
        if len(faults) == len(self._members.endpoints):
            raise StoreUnavailable(f"no member of etcd answers: {'; '.join(faults)}")
        return warnings

    # -- the contract --------------------------------------------------------------------------

    async def get(self, key: bytes, *, serializable: bool = False) -> Reading:
        answer = await self._range({"key": key}, serializable)
        items = answer.items()
        return Reading(answer.header.revision, items[0] if items else None)

    async def get_prefix(self, prefix: bytes, *, serializable: bool = False) -> RangeReading:
        until_s = trio.current_time() + self._members.timeout_s
        while True:
            try:
                return await self._pages(prefix, serializable)
            except StoreRefused as refusal:
                # Compacted between two pages, or another member has not come so far yet.
                if refusal.code != OUT_OF_RANGE:
                    raise
                if trio.current_time() > until_s:
                    raise StoreUnavailable(f"the keys cannot be read: {refusal}") from refusal

    async def _pages(self, prefix: bytes, serializable: bool) -> RangeReading:
        request = span(prefix, True) | {"limit": _PAGE_ITEMS}
        items: list[KeyValue] = []
        while True:
            answer = await self._range(request, serializable)
            revision = request.setdefault("revision", answer.header.revision)
            items += answer.items()
            if not answer.more or not answer.kvs:
                return RangeReading(revision, tuple(items))
            request["key"] = items[-1].key + b"\0"

    async def _range(self, request: dict[str, Any], serializable: bool) -> RangeAnswer:
        if serializable:
            request["serializable"] = True
        kind = SERIALIZABLE if serializable else READ
        return await self._members.ask("kv/range", request, RangeAnswer, kind)

    async def put(self, key: bytes, value: bytes, *, lease: int = 0) -> int:
        request = json_put(Put(key, value, lease))
        return (await self._members.ask("kv/put", request, PutAnswer, CHANGE)).header.revision

    async def delete(self, key: bytes) -> bool:
        return bool(await self._delete(span(key, False)))

    async def delete_prefix(self, prefix: bytes) -> int:
        return await self._delete(span(prefix, True))

    async def _delete(self, request: dict[str, Any]) -> int:
        return (await self._members.ask("kv/deleterange", request, DeleteAnswer, CHANGE)).deleted

    async def txn(
        self,
        compare: Sequence[Compare],
        then: Sequence[Operation],
        otherwise: Sequence[Operation] = (),
    ) -> TxnResult:
        check_txn(compare, then, otherwise)
        request = {
            "compare": [json_compare(each) for each in compare],
            "success": json_operations(then),
            "failure": json_operations(otherwise),
        }
        reads = all(isinstance(operation, Get) for operation in (*then, *otherwise))
        answer = await self._members.ask("kv/txn", request, TxnAnswer, READ if reads else CHANGE)
        results = tuple(each.result() for each in answer.responses)
        return TxnResult(answer.succeeded, answer.header.revision, results)

    async def grant_lease(self, ttl_s: int, lease: int = 0) -> Lease:
        request = {"TTL": ttl_s, "ID": lease}
        answer = await self._members.ask("lease/grant", request, LeaseAnswer, CHANGE)
        return Lease(answer.id, answer.ttl_s)

    async def keep_alive(self, lease: int, *, timeout_s: float = 1.0) -> int:
        answer = await self._members.ask(
            "lease/keepalive", {"ID": lease}, KeepAliveAnswer, READ, timeout_s
        )
        if answer.result is None or answer.result.ttl_s <= 0:
            raise LeaseNotFound(5, "etcdserver: requested lease not found")
        return answer.result.ttl_s

    async def revoke_lease(self, lease: int) -> None:
        await self._members.ask("lease/revoke", {"ID": lease}, RevokeAnswer, CHANGE)

    async def lease_time_to_live(self, lease: int) -> int:
        answer = await self._members.ask("lease/timetolive", {"ID": lease}, LeaseAnswer, READ)
        if answer.ttl_s < 0:
            raise LeaseNotFound(5, "etcdserver: requested lease not found")
        return answer.ttl_s

    def watch(self, prefix: bytes, from_revision: int) -> EtcdWatch:
        return EtcdWatch(self._members, prefix, from_revision, self._watch_silence_s)

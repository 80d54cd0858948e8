"""The members of etcd: whom to ask, for how long, and what a fault means for what was asked."""

import random
import ssl
from collections.abc import Sequence
from typing import Any, TypeVar

import attrs
import msgspec
import trio

from amqpbroker.cluster.etcd.gateway import Fault, KeepAliveAnswer, TokenAnswer, fault_of
from amqpbroker.cluster.etcd.http import Endpoint, Headers, NotSent, Response, Unanswered
from amqpbroker.errors import ConfigError, OutcomeUnknown, StoreRefused, StoreUnavailable
from amqpbroker.world import Network

_PAUSE_S = 0.05
"""Between two rounds of the endpoints, and up to as much again."""
_CHANGE_SHARE = 0.5
"""How much of its time a change that was sent waits for its answer.

One that was under way to a leader that died is never answered; a new leader is there after one or
two seconds, and whoever has asked can look what became of it.
"""
_LEADER_REQUIRED = ("Grpc-Metadata-hasleader", "true")
"""A member that has lost the others says so, instead of waiting, or of watching in vain."""

Answer = TypeVar("Answer")


@attrs.frozen
class EtcdUser:
    """Who the client is, where etcd wants to know."""

    name: str
    password: str = attrs.field(repr=False)


@attrs.frozen
class Kind:
    """What may be done with a request, and what it needs."""

    repeatable: bool
    """It may as well be carried out twice."""
    needs_leader: bool = True


READ = Kind(repeatable=True)
SERIALIZABLE = Kind(repeatable=True, needs_leader=False)
CHANGE = Kind(repeatable=False)


class Members:
    """Asks one member, and the next when that one fails; the first that answers is kept.

    All requests end within ``timeout_s``. Has idle connections until `close`.
    """

    def __init__(
        self,
        network: Network,
        rng: random.Random,
        urls: Sequence[str],
        tls: ssl.SSLContext | None,
        user: EtcdUser | None,
        timeout_s: float,
        connections_max: int,
    ) -> None:
        if not urls:
            raise ConfigError("etcd has no endpoints: name one or more, like http://127.0.0.1:2379")
        self.timeout_s = timeout_s
        self.endpoints = [Endpoint(network, url, tls, connections_max) for url in urls]
        self._random = rng
        self._chosen = 0
        self._user = user
        self._token: str | None = None
        self._login = trio.Lock()

    @property
    def endpoint(self) -> Endpoint:
        """The member that is asked now."""
        return self.endpoints[self._chosen]

    def attempt_s(self, timeout_s: float) -> float:
        """How long one member may take, so that others can be asked too."""
        return timeout_s / max(2, len(self.endpoints))

    async def give_up(self, endpoint: Endpoint) -> None:
        """Ask another member from now on; wait a little when all have had their turn."""
        if endpoint is self.endpoint:
            self._chosen = (self._chosen + 1) % len(self.endpoints)
        if self._chosen == 0:
            await trio.sleep(_PAUSE_S * (1 + self._random.random()))

    def close(self) -> None:
        """End the connections that are not in use."""
        for endpoint in self.endpoints:
            endpoint.close()

    async def headers(self, kind: Kind) -> Headers:
        """What goes with a request, after logging in if that is needed. Raises `StoreError`."""
        headers = [_LEADER_REQUIRED] if kind.needs_leader else []
        if self._user is not None:
            async with self._login:
                if self._token is None:
                    self._token = await self._authenticate(self._user)
                headers.append(("Authorization", self._token))
        return headers

    async def _authenticate(self, user: EtcdUser) -> str:
        body = msgspec.json.encode({"name": user.name, "password": user.password})
        answer = await self._attempts(
            "auth/authenticate", body, [_LEADER_REQUIRED], TokenAnswer, READ, self.timeout_s
        )
        return answer.token

    def forget_token(self, headers: Headers) -> bool:
        """Log in anew before the next request, after one with ``headers``; whether it may help."""
        if ("Authorization", self._token) in headers:
            self._token = None
        return self._user is not None

    async def ask(
        self,
        path: str,
        request: dict[str, Any],
        answer: type[Answer],
        kind: Kind,
        timeout_s: float | None = None,
    ) -> Answer:
        """A request and its answer, whichever member gives it. Raises `StoreError`."""
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        body = msgspec.json.encode(request)
        headers = await self.headers(kind)
        try:
            return await self._attempts(path, body, headers, answer, kind, timeout_s)
        except StoreRefused as refusal:
            fault = Fault(refusal.code, refusal.text)
            if not fault.is_bad_token or not self.forget_token(headers):
                raise
        headers = await self.headers(kind)
        return await self._attempts(path, body, headers, answer, kind, timeout_s)

    async def _attempts(
        self,
        path: str,
        body: bytes,
        headers: Headers,
        answer: type[Answer],
        kind: Kind,
        timeout_s: float,
    ) -> Answer:
        until_s = trio.current_time() + timeout_s
        trouble: Exception = NotSent("nobody was asked")
        while trio.current_time() < until_s:
            endpoint = self.endpoint
            sent_s = min(until_s, trio.current_time() + self.attempt_s(timeout_s))
            answered_s = sent_s
            if not kind.repeatable:
                answered_s = min(until_s, trio.current_time() + timeout_s * _CHANGE_SHARE)
            try:
                response = await endpoint.request(f"/v3/{path}", body, headers, sent_s, answered_s)
                return decoded(response, answer)
            except NotSent as fault:
                trouble = fault
                uncertain = False
            except Unanswered as fault:
                trouble = fault
                uncertain = True
            except Fault as fault:
                if not fault.is_trouble:
                    raise fault.refusal() from fault
                trouble = fault
                uncertain = not fault.was_never_begun
            with trio.move_on_at(until_s):
                await self.give_up(endpoint)
            if uncertain and not kind.repeatable:
                raise OutcomeUnknown(f"etcd does not say what became of {path}: {trouble}")
        raise StoreUnavailable(f"etcd does not answer within {timeout_s} s: {trouble}")


def decoded(response: Response, answer: type[Answer]) -> Answer:
    """What an answer says. Raises `Fault`, or `Unanswered` when it makes no sense."""
    if response.status != 200:
        raise fault_of(response.body)
    try:
        given = msgspec.json.decode(response.body, type=answer, strict=False)
    except msgspec.MsgspecError as error:
        raise Unanswered(f"the answer makes no sense: {error}") from error
    if isinstance(given, KeepAliveAnswer) and given.error is not None:
        raise Fault(given.error.code, given.error.message)
    return given

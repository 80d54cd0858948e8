"""One request, and the ways to answer it."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, TypeVar, cast

import attrs
import msgspec
import trio

from amqpbroker.broker.access import Access
from amqpbroker.broker.broker import Broker
from amqpbroker.broker.declaring import NOBODY, Asker
from amqpbroker.broker.vhost import VHost
from amqpbroker.cluster.members import ClusterStatus
from amqpbroker.definitions import PermissionDefinition, UserDefinition
from amqpbroker.management.facts import NodeFacts
from amqpbroker.management.rates import Rates
from amqpbroker.queues.queue import Pending

Value = TypeVar("Value")

_ANSWER_S_MAX = 2.0
"""How long other nodes are waited for by those who list queues."""
_LOOK_S = 0.005

DEFAULT_EXCHANGE = "amq.default"
"""What paths call the default exchange."""
_EXCHANGES = ("exchange", "source", "destination")
"""Parts of paths in which the default exchange goes by that name."""


class Fault(Exception):
    """An answer that is no success: ``status`` and, unless the body is empty, why."""

    def __init__(self, status: int, error: str, reason: Any) -> None:
        super().__init__(error, reason)
        self.status = status
        self.error = error
        self.reason = reason


def not_found() -> Fault:
    """There is no such thing."""
    return Fault(404, "Object Not Found", "Not Found")


def not_authorised(reason: str) -> Fault:
    """The user may not do this; RabbitMQ says 401, though it knows who it is."""
    return Fault(401, "not_authorised", reason)


def bad_request(reason: Any) -> Fault:
    """The request makes no sense."""
    return Fault(400, "bad_request", reason)


@attrs.frozen
class Reply:
    """An answer other than the usual: data with another status, or a place to look at."""

    status: int
    data: Any = None
    location: str | None = None


@attrs.frozen
class Caller:
    """Who asks, from where; ``is_local`` who comes by the node's own control socket."""

    user: UserDefinition
    host: str
    is_local: bool = False


LOCAL_CALLER = Caller(UserDefinition("rmq-internal", "", ("administrator",)), "127.0.0.1", True)
"""Who reaches the control socket owns the node: an administrator with every permission."""


@attrs.frozen
class Management:
    """What all calls share: the broker, what the node knows of itself, and what was read before."""

    broker: Broker
    facts: NodeFacts
    rates: Rates

    async def look_around(self) -> None:
        """Ask the other nodes what is in their queues, and give them a moment to answer."""
        self.facts.refresh()
        self.broker.turn.end_batch()
        with trio.move_on_after(_ANSWER_S_MAX):
            while self.facts.is_refreshing():  # noqa: ASYNC110 - answers come by many ways
                await trio.sleep(_LOOK_S)


class Call:
    """One request of one user.

    ``path`` has the variable parts of the path, ``query`` what stands behind the question mark.
    """

    def __init__(
        self,
        management: Management,
        method: str,
        path: Mapping[str, str],
        query: Mapping[str, str],
        body: bytes,
        headers: Mapping[str, str],
    ) -> None:
        self.look_around = management.look_around
        self.broker = management.broker
        self.facts = management.facts
        self.rates = management.rates
        self.method = method
        self.path = {
            name: "" if name in _EXCHANGES and value == DEFAULT_EXCHANGE else value
            for name, value in path.items()
        }
        self.query = query
        self.headers = headers
        self.caller: Caller
        self.found: Any = None
        """What the path names, if that had to be looked for."""
        self._body = body

    @property
    def user(self) -> UserDefinition:
        """Who asks."""
        return self.caller.user

    @property
    def tags(self) -> tuple[str, ...]:
        """What the user is."""
        return self.caller.user.tags

    @property
    def is_monitor(self) -> bool:
        """Whether the user may see what is everybody's."""
        return bool({"administrator", "monitoring"}.intersection(self.tags))

    @property
    def is_administrator(self) -> bool:
        """Whether the user may do everything."""
        return "administrator" in self.tags

    @cached_property
    def cluster(self) -> ClusterStatus | None:
        """The cluster, if the node is in one."""
        return self.facts.cluster()

    @property
    def cluster_name(self) -> str:
        """What the cluster is called; a node by itself is one of its own name."""
        own = self.broker.name if self.cluster is None else self.cluster.name
        return self.broker.cluster_name or own

    def reaches(self, node: str) -> bool:
        """Whether what is on a node can be used from here."""
        cluster = self.cluster
        return cluster is None or node == self.broker.name or node in cluster.linked

    # -- virtual hosts -------------------------------------------------------------------------

    def may_enter(self, vhost: str) -> bool:
        """Whether the user has any permission in a virtual host."""
        return self.caller.is_local or self.broker.may_enter(self.user.name, vhost)

    def access(self, vhost: str) -> Access:
        """What the user may do in a virtual host."""
        if self.caller.is_local:
            everything = PermissionDefinition(vhost, self.user.name, ".*", ".*", ".*")
            return Access(self.user, everything, {})
        return self.broker.access(self.user, vhost)

    @property
    def asker(self) -> Asker:
        """The user, as it asks for queues, exchanges and bindings of the path's virtual host.

        Who comes by the control socket may have another connection's own queue, as rabbitmqctl may.
        """
        access, vhost = self.access(self.vhost.name), self.vhost
        queue = vhost.queues.get(self.path.get("queue", "")) if self.caller.is_local else None
        owner = NOBODY if queue is None or queue.owner is None else queue.owner
        return Asker(vhost, access, owner, self.broker.limits.queues_per_vhost_max)

    @cached_property
    def vhost(self) -> VHost:
        """The virtual host that the path names. Raises `Fault` (404)."""
        vhost = self.broker.vhosts.get(self.path["vhost"])
        if vhost is None:
            raise not_found()
        return vhost

    def visible_vhosts(self) -> list[VHost]:
        """The virtual hosts whose contents the user sees: one, if the path names it."""
        if "vhost" in self.path:
            return [self.vhost]
        return [
            vhost
            for name, vhost in sorted(self.broker.vhosts.items())
            if self.is_administrator or self.may_enter(name)
        ]

    # -- body ----------------------------------------------------------------------------------

    @cached_property
    def body(self) -> dict[str, Any]:
        """The body, an object of JSON; nothing stands for an empty one. Raises `Fault` (400)."""
        if self._body in (b"", b"null", b"undefined"):
            return {}
        try:
            body = msgspec.json.decode(self._body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise bad_request("not_json") from None
        if isinstance(body, str):
            raise bad_request(
                "invalid payload: the request body JSON-decoded to a string. "
                "Is the input doubly-JSON-encoded?"
            )
        if not isinstance(body, dict):
            raise bad_request("not_json")
        return body

    def fields(self, *names: str) -> list[Any]:
        """The values of keys of the body. Raises `Fault` (400) if one is missing."""
        missing = [f"{{key_missing,{name}}}" for name in names if name not in self.body]
        if missing:
            raise bad_request(f"[{','.join(missing)}]")
        return [self.body[name] for name in names]

    def flag(self, name: str) -> bool | None:
        """A truth of the body; rabbitmqadmin writes it as text. Raises `Fault` (400)."""
        value = self.body.get(name)
        if value is None or isinstance(value, bool):
            return value
        if value in ("true", "false"):
            return bool(value == "true")
        raise bad_request(["not_boolean", value])

    # -- waiting -------------------------------------------------------------------------------

    def gather(self) -> "Gathered":
        """Answers that are waited for together."""
        return Gathered(self.broker)

    async def settled(self, answer: Value | Pending[Value]) -> Value:
        """The answer, once it is there. Raises `Fault` (500) if that takes too long."""
        if not isinstance(answer, Pending):
            return answer
        gathered = self.gather()
        gathered.add(answer)
        [value] = await gathered.all()
        return cast(Value, value)


class Gathered:
    """Answers, some of which are not there yet."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._values: list[Any] = []
        self._waiting: set[Pending[Any]] = set()
        self._error: Exception | None = None
        self._changed = trio.Event()

    def add(self, answer: Any) -> None:
        """Wait for this too, if it has to be waited for."""
        place = len(self._values)
        self._values.append(answer)
        if not isinstance(answer, Pending):
            return
        self._waiting.add(answer)

        def resolve(value: Any) -> None:
            self._values[place] = value
            self._done(answer)

        def fail(error: Exception) -> None:
            self._error = self._error or error
            self._done(answer)

        answer.then, answer.otherwise = resolve, fail

    def _done(self, answer: Pending[Any]) -> None:
        self._waiting.discard(answer)
        if not self._waiting:
            self._changed.set()

    async def all(self) -> list[Any]:
        """All of them, in the order in which they were added.

        Raises the first error among them, or `Fault` (500) if it takes too long.
        """
        self._broker.turn.end_batch()
        if self._waiting:
            self._changed = trio.Event()
            with trio.move_on_after(self._broker.limits.pending_s_max):
                await self._changed.wait()
        for answer in self._waiting:
            answer.then = answer.otherwise = None
        if self._error is not None:
            raise self._error
        if self._waiting:
            raise Fault(500, "timeout", "the answer took too long; try again")
        return self._values

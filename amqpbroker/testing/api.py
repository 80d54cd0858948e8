"""The API without sockets: a request goes in, an answer comes out."""

import base64
import json
from typing import Any, Self

import attrs
import trio

from amqpbroker.broker.broker import Broker
from amqpbroker.management.app import management_app
from amqpbroker.management.call import Caller, Management
from amqpbroker.management.facts import Listening, NodeFacts
from amqpbroker.management.rates import Rates
from amqpbroker.management.reports import reporter
from amqpbroker.management.resources import RESOURCES
from amqpbroker.server.node import Node


@attrs.frozen
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def data(self) -> Any:
        """The body as JSON says it."""
        return json.loads(self.body)


class Api:
    """The API of ``broker``; calls are guest's unless they say something else."""

    def __init__(
        self, broker: Broker, caller: Caller | None = None, facts: NodeFacts | None = None
    ) -> None:
        self.broker = broker
        self.facts = facts or NodeFacts()
        self.management = Management(broker, self.facts, Rates(broker.world.clock))
        self._app = management_app(self.management, RESOURCES, caller)

    @classmethod
    def of(cls, node: Node) -> Self:
        """The API of a node that runs; it tells other nodes of itself."""
        facts = NodeFacts(
            listeners=[Listening("amqp", *node.address)],
            cluster=node.cluster_status,
            refresh=node.refresh,
            is_refreshing=node.is_refreshing,
            inquire=node.inquire,
        )
        api = cls(node.broker, facts=facts)
        node.answer_by(reporter(api.management))
        return api

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        user: str = "guest",
        password: str = "guest",
        host: str = "127.0.0.1",
        headers: dict[str, str] | None = None,
        root: str = "/api",
    ) -> Answer:
        """A request for ``path`` behind ``root``; ``body`` becomes JSON, unless it is octets."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body)
        octets = data.encode() if isinstance(data, str) else data
        credentials = base64.b64encode(f"{user}:{password}".encode()).decode()
        sent = {"authorization": f"Basic {credentials}"} if headers is None else headers
        raw, _, query = f"{root}{path}".partition("?")
        scope = {
            "type": "http",
            "method": method,
            "path": raw,
            "raw_path": raw.encode(),
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
            "client": (host, 50000),
        }
        said: list[dict[str, Any]] = []

        sent_all = False

        async def receive() -> dict[str, Any]:
            nonlocal sent_all
            if sent_all:
                await trio.sleep_forever()  # The client waits for the answer.
            sent_all = True
            return {"type": "http.request", "body": octets, "more_body": False}

        async def send(message: Any) -> None:
            said.append(dict(message))

        await self._app(scope, receive, send)
        return Answer(
            said[0]["status"],
            {name.decode(): value.decode() for name, value in said[0]["headers"]},
            b"".join(message.get("body", b"") for message in said[1:]),
        )

    async def get(self, path: str, **more: Any) -> Any:
        """What is there, which must be there."""
        answer = await self.call("GET", path, **more)
        assert answer.status == 200, answer
        return answer.data

    async def put(self, path: str, body: Any = None, **more: Any) -> int:
        """The status of a PUT, which must have worked."""
        answer = await self.call("PUT", path, body, **more)
        assert answer.status in (201, 204), answer
        return answer.status

    async def delete(self, path: str, **more: Any) -> None:
        """A DELETE, which must have worked."""
        answer = await self.call("DELETE", path, **more)
        assert answer.status == 204, answer

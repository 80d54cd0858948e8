"""Calls of amqpbrokerctl in this process, answered by what the test says."""

import io
import json
from collections.abc import Mapping
from typing import Any

import attrs
import pytest

from amqpbroker.cli.ctl.api import Api, ApiUnreachable, Target
from amqpbroker.cli.ctl.main import Surroundings, main

NOT_FOUND = (404, {"error": "Object Not Found", "reason": "Not Found"})


@attrs.define
class Result:
    """What a command did."""

    status: int
    out: str
    err: str


class Node:
    """A node whose API answers what it is told to, and writes down what it is asked.

    Answers are data, or (status, data); by method and path, without a query.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {
            "GET /api/overview": {"node": "rabbit@here", "rabbitmq_version": "3.13.7"}
        }
        self.asked: list[str] = []
        self.bodies: list[Any] = []
        self.headers: list[Mapping[str, str]] = []
        self.targets: list[Target] = []

    def api(self, target: Target, timeout_s: float | None) -> Api:
        """What the command talks to instead of a real API."""
        node = self
        node.targets.append(target)

        class FakeApi(Api):
            def exchange(
                self, method: str, address: str, data: bytes | None, headers: Mapping[str, str]
            ) -> tuple[int, bytes]:
                node.asked.append(f"{method} {address}")
                node.bodies.append(None if data is None else json.loads(data))
                node.headers.append(headers)
                answer = node.answers.get(f"{method} {address.partition('?')[0]}", NOT_FOUND)
                if answer is None:
                    return 204, b""
                if isinstance(answer, Exception):
                    raise answer
                status, body = answer if isinstance(answer, tuple) else (200, answer)
                return status, json.dumps(body).encode()

        return FakeApi(target, timeout_s)

    def run(
        self, *words: str, tool: str = "rabbitmqctl", stdin: str = "", **environment: str
    ) -> Result:
        """Call a tool; without more in the environment, it is told a URL."""
        out, err = io.StringIO(), io.StringIO()
        environment = environment or {"AMQPBROKER_URL": "http://node"}
        around = Surroundings(io.StringIO(stdin), out, err, environment, self.api)
        status = main(words, tool, around)
        return Result(status, out.getvalue(), err.getvalue())


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.fixture
def unreachable(node: Node) -> Node:
    node.answers["GET /api/overview"] = ApiUnreachable("Connection refused")
    return node

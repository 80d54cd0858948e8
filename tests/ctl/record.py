"""Compare amqpbrokerctl with rabbitmqctl on a running RabbitMQ, and record what is the same.

    python tests/ctl/record.py http://127.0.0.1:15672 amqp://127.0.0.1 /usr/lib/rabbitmq/bin

Both get the command lines of ``lines.txt``, in turn; ours over that node's HTTP API. Where they
print the same, both outputs and what the API answered go to ``recorded.json``, which the tests
play back. What differs is shown.

The last argument is where RabbitMQ's tools are; RABBITMQ_NODENAME says which node they are for.
The node begins empty.
"""

import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pika

from amqpbroker.cli.ctl.api import Api, Target
from amqpbroker.cli.ctl.main import Surroundings, main

HERE = Path(__file__).parent
_KEPT = {
    "/api/overview": ("node", "cluster_name", "listeners", "rabbitmq_version", "erlang_version"),
    "/api/nodes": (
        "name",
        "running",
        "type",
        "processors",
        "mem_alarm",
        "disk_free_alarm",
        "enabled_plugins",
    ),
}
"""What is kept of long answers."""


class RecordingApi(Api):
    """Writes down what is asked and answered."""

    asked: list[Any] = []  # noqa: RUF012

    def exchange(
        self, method: str, address: str, data: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        status, answer = super().exchange(method, address, data, headers)
        text = answer.decode()
        for path, keys in _KEPT.items():
            if address.startswith(path) and "?" not in address and "/memory" not in address:
                text = json.dumps(_only(json.loads(text), keys))
        body = None if data is None else data.decode()
        self.asked.append([method, address, body, status, text])
        return status, answer


def _only(value: Any, keys: tuple[str, ...]) -> Any:
    if isinstance(value, list):
        return [_only(each, keys) for each in value]
    kept = {key: value[key] for key in keys if key in value}
    for listener in kept.get("listeners", ()):
        listener.pop("socket_opts", None)
    return kept


def normal(text: str, node: str) -> list[str]:
    """Lines without what is never the same: Erlang's processes, the order of rows, bold letters."""
    if "\x1b(0" not in text:
        text = text.replace("\x1b[1m", "").replace("\x1b[0m", "")
    text = re.sub(rf"<{re.escape(node)}\.[\d.]+>|#PID<[\d.]+>", "<PID>", text)
    text = re.sub(r"(?m)^\n?\d\d:\d\d:\d\d\.\d+ \[warning\].*\n", "", text)
    return sorted(line.removeprefix(",") for line in text.split("\n"))


def make_topology(api: Api, amqp: str) -> pika.BlockingConnection:
    """Things to list."""
    for path, body in (
        ("vhosts/v1", {"description": "the first", "tags": "a,b"}),
        ("users/alice", {"password": "x", "tags": "management,policymaker"}),
        ("users/bob", {"password": "x", "tags": ""}),
        ("permissions/v1/alice", {"configure": ".*", "write": "^a\\.", "read": ""}),
        ("permissions/v1/guest", {"configure": ".*", "write": ".*", "read": ".*"}),
        ("topic-permissions/v1/alice", {"exchange": "amq.topic", "write": ".*", "read": "^a"}),
        (
            "policies/v1/pol",
            {"pattern": "^p\\.", "definition": {"max-length": 10, "expires": 1800000}},
        ),
        ("policies/v1/all", {"pattern": ".*", "definition": {"ha-mode": "all"}}),
        ("operator-policies/v1/op", {"pattern": "^p\\.", "definition": {"max-length": 5}}),
        ("vhost-limits/v1/max-queues", {"value": 100}),
        ("user-limits/alice/max-channels", {"value": 7}),
        ("queues/%2F/plain", {"durable": True}),
        ("global-parameters/gp", {"value": {"a": [1, "x", None, True, 1.5]}}),
    ):
        api.put(*map(unquote, path.split("/")), body=body)
    connection = pika.BlockingConnection(pika.URLParameters(f"{amqp}/v1"))
    channel = connection.channel()
    channel.queue_declare("q1", durable=True, arguments={"x-max-length": 100})
    channel.queue_declare("p.one", durable=True)
    channel.queue_declare("tmp", exclusive=True)
    arguments = {"x-a": "ключ", "x-n": {"a": 1, "b": [1, "two"]}, "x-t": True}
    channel.queue_declare('qé "\\ x,y\tz', durable=True, arguments=arguments)
    channel.exchange_declare("x1", "topic", arguments={"alternate-exchange": "amq.fanout"})
    channel.exchange_declare("x2", "headers", auto_delete=True, internal=True)
    channel.queue_bind("q1", "x1", "a.*.#")
    channel.queue_bind("q1", "x2", "", {"k": "v", "n": 5, "x-match": "all"})
    channel.exchange_bind("x2", "x1", "ee")
    for _ in range(3):
        channel.basic_publish("", "q1", b"hello")
    channel.basic_qos(prefetch_count=9)
    channel.basic_consume("p.one", print, consumer_tag="ct-1", arguments={"x-priority": 4})
    channel.basic_consume("tmp", print, consumer_tag="ct-2", auto_ack=True)
    connection.channel().confirm_delivery()
    return connection


class Comparison:
    """Runs command lines with both commands, and keeps what is the same."""

    def __init__(self, api: str, node: str, tools: Path) -> None:
        self.api = api
        self.node = node
        self.tools = tools
        self.kept: list[Any] = []
        self.different = 0

    def run(self, line: str, before: list[str]) -> None:
        """Run a line, and what stands ``before`` it each time."""
        tool, *words = shlex.split(line)
        theirs, ours = self._theirs(tool, words, before), self._ours(tool, words, before)
        if theirs != ours:
            self.different += 1
            print(f"DIFFERENT: {line}", theirs, ours, sep="\n  ")
            return
        status, stdout, stderr = theirs
        self.kept.append(
            {"line": line, "node": self.node, "status": status, "asked": RecordingApi.asked}
            | {"stdout": stdout, "stderr": stderr}
        )

    def _prepare(self, before: list[str]) -> None:
        for line in before:
            tool, *words = shlex.split(line)
            subprocess.run([str(self.tools / tool), *words], capture_output=True, check=False)

    def _theirs(self, tool: str, words: list[str], before: list[str]) -> Any:
        self._prepare(before)
        result = subprocess.run([str(self.tools / tool), *words], capture_output=True, check=False)
        out, err = result.stdout.decode(), result.stderr.decode()
        return result.returncode, normal(out, self.node), normal(err, self.node)

    def _ours(self, tool: str, words: list[str], before: list[str]) -> Any:
        self._prepare(before)
        out, err = io.StringIO(), io.StringIO()
        RecordingApi.asked = []
        environment = {"AMQPBROKER_URL": self.api}
        status = main(words, tool, Surroundings(io.StringIO(), out, err, environment, RecordingApi))
        return status, normal(out.getvalue(), self.node), normal(err.getvalue(), self.node)


def record(api: str, amqp: str, tools: Path) -> int:
    """Run all lines; the number of those that differ."""
    there = Api(Target(api, user="guest", password="guest"))
    comparison = Comparison(api, there.get("overview")["node"], tools)
    connection = make_topology(there, amqp)
    before: list[str] = []
    for line in (HERE / "lines.txt").read_text().splitlines():
        connection.process_data_events(6 if line == "# wait" else 0)
        if line.startswith("& "):
            before.append(line[2:])
        elif line and not line.startswith("#"):
            comparison.run(line, before)
            before = []
    text = json.dumps(comparison.kept, ensure_ascii=False, indent=1)
    (HERE / "recorded.json").write_text(f"{text}\n")
    print(f"{len(comparison.kept)} the same, {comparison.different} different")
    return comparison.different


if __name__ == "__main__":
    sys.exit(bool(record(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))

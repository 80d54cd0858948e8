"""What rabbitmqctl printed on a real RabbitMQ, and that ours prints the same there.

`record.py` says how ``recorded.json`` is made.
"""

import io
import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from amqpbroker.cli.ctl.api import Api
from amqpbroker.cli.ctl.main import Surroundings, main

RECORDED = json.loads((Path(__file__).parent / "recorded.json").read_text())


class Replay:
    """Gives the answers that were recorded, and asserts that the same is asked."""

    def __init__(self, asked: list[Any]) -> None:
        self.left = list(asked)

    def api(self, *arguments: Any) -> Api:
        replay = self

        class ReplayedApi(Api):
            def exchange(
                self, method: str, address: str, data: bytes | None, headers: Mapping[str, str]
            ) -> tuple[int, bytes]:
                expected_method, expected_address, body, status, answer = replay.left.pop(0)
                assert (method, address) == (expected_method, expected_address)
                assert (None if data is None else data.decode()) == body
                return status, answer.encode()

        return ReplayedApi(*arguments)


def lines_of(text: str, node: str) -> list[str]:
    """The lines, sorted: RabbitMQ lists in no order. A process has another number every time."""
    text = re.sub(rf"<{re.escape(node)}\.[\d.]+>", "<PID>", text)
    return sorted(line.removeprefix(",") for line in text.split("\n"))


@pytest.mark.parametrize("case", RECORDED, ids=[case["line"] for case in RECORDED])
def test_ours_prints_what_rabbitmqctl_prints(case: dict[str, Any]) -> None:
    tool, *words = shlex.split(case["line"])
    replay, out, err = Replay(case["asked"]), io.StringIO(), io.StringIO()
    around = Surroundings(io.StringIO(), out, err, {"AMQPBROKER_URL": "http://node"}, replay.api)

    status = main(words, tool, around)

    stdout, stderr = lines_of(out.getvalue(), case["node"]), lines_of(err.getvalue(), case["node"])
    assert (status, stdout, stderr) == (case["status"], case["stdout"], case["stderr"])
    assert not replay.left

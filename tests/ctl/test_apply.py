"""Policies from a file."""

import json
from pathlib import Path
from typing import Any

import pytest

POLICY = {"name": "p", "pattern": "^q", "definition": {"max-length": 3}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"description": "what for", "policies": [POLICY]}))
    return path


def run(node: Any, *words: str) -> Any:
    return node.run("apply", *words, tool="amqpbrokerctl")


def test_the_policies_of_a_file_are_set(node: Any, file: Path) -> None:
    node.answers["POST /api/amqpbroker/policies/v"] = [
        {"name": "p", "change": "new"},
        {"name": "old", "change": "none"},
    ]
    result = run(node, str(file), "-p", "v")

    assert result.status == 0
    assert result.out == (
        f"Applying policies of {file} in vhost v ...\npolicy 'p': new\npolicy 'old': as it is\n"
    )
    assert node.bodies[-1] == {"policies": [POLICY], "dry_run": False}
    result = run(node, str(file), "-p", "v", "--dry-run", "-q")
    assert result.out == "policy 'p': would be new\npolicy 'old': as it is\n"
    assert node.bodies[-1]["dry_run"] is True
    assert json.loads(run(node, str(file), "-p", "v", "--formatter", "json").out)[0]["name"] == "p"


def test_a_file_that_comes_with_the_broker_goes_by_its_name(node: Any) -> None:
    node.answers["POST /api/amqpbroker/policies/%2F"] = []

    assert run(node, "flush-async").status == 0
    [policy] = node.bodies[-1]["policies"]
    assert policy["definition"] == {"flush": "async"}
    result = run(node, "warp-drive")
    assert result.status == 65
    assert "no policy file 'warp-drive'; there are: flush-async" in result.err


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "cannot be read: No such file or directory"),
        ("{", "is no JSON: Expecting property name"),
        ("[]", 'is no policy file: it must be an object with a list of "policies"'),
        ('{"policies": 3}', 'is no policy file: it must be an object with a list of "policies"'),
    ],
)
def test_what_is_no_policy_file_is_refused(
    node: Any, tmp_path: Path, text: str | None, why: str
) -> None:
    path = tmp_path / "x.json"
    if text is not None:
        path.write_text(text)
    result = run(node, str(path))

    assert result.status == 65
    assert why in result.err
    assert not any(asked.startswith("POST") for asked in node.asked)


def test_what_the_broker_has_against_it_is_told(node: Any, file: Path) -> None:
    node.answers["POST /api/amqpbroker/policies/%2F"] = 400, {"reason": "policy 'p': a\npolicy"}
    result = run(node, str(file))
    assert result.status == 65
    assert "nothing was changed:\npolicy 'p': a\npolicy" in result.err
    result = run(node, str(file), "-p", "nope")
    assert "Virtual host 'nope' does not exist" in result.err
    assert node.run("apply", str(file)).status == 64  # rabbitmqctl does not have it.

"""What scripts read from the output, in their own ways of reading.

Ansible's modules call ``rabbitmqctl -q -n rabbit …`` and take its lines apart.
"""

import json
import re
from typing import Any

QUIET = ("-q", "-n", "rabbit")

NODE = {
    "name": "rabbit@here",
    "enabled_plugins": ["consistent_hash", "rabbitmq_management"],
    "mem_used": 50_000_000,
    "mem_limit": 1_000_000_000,
    "running": True,
}


def running(node: Any) -> Any:
    node.answers["GET /api/overview"] = {
        "node": "rabbit@here",
        "cluster_name": "rabbit@here",
        "rabbitmq_version": "3.13.7",
        "object_totals": {"connections": 2, "queues": 5},
        "listeners": [
            {"node": "rabbit@here", "protocol": "amqp", "ip_address": "127.0.0.1", "port": 5672}
        ],
    }
    node.answers["GET /api/nodes"] = [NODE]
    node.answers["GET /api/nodes/rabbit%40here"] = NODE
    node.answers["GET /api/vhosts"] = [{"name": "/", "tracing": False}]
    return node


def test_the_version_is_found_in_the_status(node: Any) -> None:
    status = running(node).run(*QUIET, "status")

    match = re.search("RabbitMQ version: (?P<version>.*)", status.out)
    assert match is not None
    assert match["version"] == "3.13.7"


def test_the_version_is_found_in_the_status_as_json(node: Any) -> None:
    status = running(node).run(*QUIET, "status", "--formatter", "json")

    assert json.loads(status.out)["rabbitmq_version"] == "3.13.7"


def test_users_are_listed_as_json(node: Any) -> None:
    node.answers["GET /api/users"] = [{"name": "guest", "tags": ["administrator"]}]

    listed = json.loads(node.run(*QUIET, "list_users", "--formatter", "json").out)

    assert {each["user"]: each["tags"] for each in listed} == {"guest": ["administrator"]}


def test_users_are_listed_in_columns_with_tags_in_brackets(node: Any) -> None:
    node.answers["GET /api/users"] = [{"name": "guest", "tags": "administrator,monitoring"}]

    lines = node.run("list_users", "-q").out.splitlines()

    assert [line.split("\t") for line in lines] == [
        ["user", "tags"],
        ["guest", "[administrator, monitoring]"],
    ]


def test_a_user_without_permissions_has_an_empty_list(node: Any) -> None:
    node.answers["GET /api/users/joe/permissions"] = []

    out = node.run(*QUIET, "list_user_permissions", "joe", "--formatter", "json").out

    assert json.loads(out) == []


def test_policies_have_six_columns_under_one_header(node: Any) -> None:
    node.answers["GET /api/policies/%2F"] = [
        {
            "vhost": "/",
            "name": "ha",
            "pattern": "^ha\\.",
            "apply-to": "all",
            "definition": {"ha-mode": "all"},
            "priority": 0,
        }
    ]

    header, policy = node.run(*QUIET, "list_policies", "-p", "/").out.splitlines()

    assert header.split("\t") == ["vhost", "name", "pattern", "apply-to", "definition", "priority"]
    fields = policy.split("\t")
    assert fields[1:4] == ["ha", "^ha\\.", "all"]
    assert json.loads(fields[4]) == {"ha-mode": "all"}
    assert fields[5] == "0"


def test_virtual_hosts_are_read_by_tab_with_their_tracing(node: Any) -> None:
    lines = running(node).run(*QUIET, "list_vhosts", "name", "tracing").out.splitlines()

    assert [line.split("\t") for line in lines] == [["name", "tracing"], ["/", "false"]]


def test_enabled_plugins_are_lines_without_a_space(node: Any) -> None:
    lines = running(node).run("list", "-E", "-m", tool="rabbitmq-plugins").out.splitlines()

    there = [line for line in lines if " " not in line]
    assert there == ["consistent_hash", "rabbitmq_management"]


def test_enabling_a_plugin_that_is_there_changes_nothing(node: Any) -> None:
    words = ("-n", "rabbit", "enable", "--online", "rabbitmq_management")

    result = running(node).run(*words, tool="rabbitmq-plugins")

    assert (result.status, result.err) == (0, "")


def test_a_health_check_of_a_container_is_one_line(node: Any) -> None:
    for check in ("ping", "check_running", "check_local_alarms", "check_virtual_hosts"):
        result = running(node).run("-q", check, tool="rabbitmq-diagnostics")

        assert (result.status, result.out.count("\n")) == (0, 1)


def test_queues_are_purged_and_deleted_by_what_they_are_called(node: Any) -> None:
    node.answers["GET /api/queues/%2F"] = [{"name": "a"}, {"name": "b/c"}]
    node.answers["DELETE /api/queues/%2F/b%2Fc/contents"] = None

    names = node.run("-q", "list_queues", "name", "--no-table-headers").out.splitlines()
    result = node.run("purge_queue", names[1])

    assert names == ["a", "b/c"]
    assert result.status == 0

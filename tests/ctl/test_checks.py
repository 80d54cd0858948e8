"""Checks and questions, by their exit statuses."""

import os
from pathlib import Path
from typing import Any

import pytest

MIRRORED = {
    "vhost": "v",
    "name": "ha",
    "pattern": "^ha",
    "apply-to": "queues",
    "definition": {"ha-mode": "all"},
    "priority": 1,
}
BOUNDED = MIRRORED | {"name": "max", "definition": {"max-length": 5}, "priority": 7, "pattern": ""}
OF_EXCHANGES = MIRRORED | {"name": "x", "apply-to": "exchanges"}


def test_an_alarm_makes_the_check_fail(node: Any) -> None:
    node.answers["GET /api/nodes"] = [{"name": "rabbit@here", "mem_alarm": True}]

    result = node.run("-q", "check_alarms", tool="rabbitmq-diagnostics")

    assert (result.status, result.err) == (69, "Memory alarm on node rabbit@here\n")


def test_a_silent_check_says_nothing_by_words(node: Any) -> None:
    node.answers["GET /api/nodes"] = [{"name": "rabbit@here", "disk_free_alarm": True}]

    result = node.run("-s", "check_alarms", tool="rabbitmq-diagnostics")

    assert (result.status, result.out, result.err) == (69, "", "")


def test_a_policy_that_mirrors_is_found_in_any_virtual_host(node: Any) -> None:
    node.answers["GET /api/policies"] = [BOUNDED, MIRRORED]
    node.answers["GET /api/operator-policies"] = []
    check = "check_if_cluster_has_classic_queue_mirroring_policy"

    result = node.run("-q", check, tool="rabbitmq-queues")
    listed = node.run(
        "-s", "list_policies_with_classic_queue_mirroring", tool="rabbitmq-diagnostics"
    )

    assert (result.status, result.err) == (69, "Policy ha enables classic queue mirroring\n")
    assert listed.out == 'v\tha\t^ha\tqueues\t[{<<"ha-mode">>, all}]\t1\n'


def test_policies_that_match_are_listed_the_one_in_force_first(node: Any) -> None:
    node.answers["GET /api/policies/v"] = [MIRRORED, OF_EXCHANGES, BOUNDED]
    node.answers["GET /api/queues/v/ha.1"] = {"name": "ha.1"}
    words = ("-s", "-p", "v", "list_policies_that_match")

    result = node.run(*words, "ha.1", tool="rabbitmq-diagnostics")
    missing = node.run(*words, "nope", tool="rabbitmq-diagnostics")

    assert [line.split("\t")[1] for line in result.out.splitlines()] == ["max", "ha"]
    assert missing.status == 65


def test_a_node_that_is_up_need_not_be_waited_for(node: Any, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    file.write_text(f"{os.getpid()}\n")

    result = node.run("wait", os.fspath(file))

    assert result.status == 0
    assert f"pid is {os.getpid()}\n" in result.out
    assert node.run("wait", "--pid", str(os.getpid()), "-q").out == ""


@pytest.mark.parametrize("words", [(), ("a", "--pid", "1")])
def test_a_process_is_named_in_one_way(node: Any, words: tuple[str, ...]) -> None:
    assert node.run("wait", *words).status == 64


def test_a_process_that_has_ended_is_not_waited_for(unreachable: Any) -> None:
    result = unreachable.run("wait", "--pid", str(2**22 + 1))

    assert (result.status, result.err) == (70, "Error: process is not running.\n")


def test_our_own_name_has_the_commands_of_all_tools(node: Any) -> None:
    shown = node.run("help", tool="amqpbrokerctl").out

    for name in ("list_queues", "check_running", "rebalance", "drain"):
        assert f"   {name} " in shown


def test_the_script_name_chooses_a_tool(node: Any) -> None:
    node.answers["GET /api/nodes/rabbit%40here"] = {"enabled_plugins": ["p"]}
    words = ("--script-name", "rabbitmq-plugins", "list", "-m", "-q")

    assert node.run(*words, tool="amqpbrokerctl").out == "p\n"


def test_a_port_that_cannot_be_connected_to_is_told(node: Any) -> None:
    listener = {"node": "rabbit@here", "protocol": "amqp", "ip_address": "127.0.0.1", "port": 1}
    node.answers["GET /api/overview"] = {"node": "rabbit@here", "listeners": [listener]}

    result = node.run("-q", "check_port_connectivity", tool="rabbitmq-diagnostics")

    assert result.status == 69
    assert "Interface: 127.0.0.1, port: 1, protocol: amqp" in result.err


def test_a_feature_flag_is_enabled_if_there_is_one(node: Any) -> None:
    node.answers["PUT /api/feature-flags/known/enable"] = None

    assert node.run("enable_feature_flag", "known").status == 0
    assert node.run("enable_feature_flag", "all").status == 0
    assert node.run("enable_feature_flag", "all", "--experimental").status == 64
    unknown = node.run("enable_feature_flag", "unknown", "-q")
    assert unknown.status == 64
    assert unknown.err == "Error:\nThis feature flag is not supported by node rabbit@here\n"


def test_a_stop_waits_for_the_process_in_the_pid_file(node: Any, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    file.write_text(str(2**22 + 1))
    node.answers["POST /api/amqpbroker/nodes/rabbit%40here/stop"] = None

    result = node.run("stop", os.fspath(file))

    assert f"rabbit@here (will monitor pid file {file}) ...\n" in result.out
    assert result.out.endswith(f"(take from pid file {file}) is no longer running\n")
    assert node.run("stop", os.fspath(tmp_path / "nope")).status == 69


@pytest.mark.parametrize("command", ["drain", "revive"])
def test_a_node_that_knows_no_maintenance_says_so(node: Any, command: str) -> None:
    result = node.run(command, "-q", tool="rabbitmq-upgrade")

    assert result.status == 64
    assert result.err == "Error:\nMaintenance mode is not supported by node rabbit@here\n"

"""Which nodes are to have a queue: RabbitMQ's own table (dynamic_ha_SUITE), and what we add."""

from typing import Any

import pytest

from amqpbroker.replication.replicas import Copies, wanted

ALL: dict[str, Any] = {"ha-mode": "all"}


def nodes(names: str) -> dict[str, Any]:
    return {"ha-mode": "nodes", "ha-params": list(names)}


def exactly(count: int) -> dict[str, Any]:
    return {"ha-mode": "exactly", "ha-params": count}


def backwards(names: list[str]) -> list[str]:
    return names[::-1]


@pytest.mark.parametrize(
    ("policy", "mirrors", "in_sync", "running", "expected"),
    [
        (ALL, "", "", "abc", "abc"),
        (ALL, "bc", "bc", "abc", "abc"),
        (nodes("abc"), "b", "b", "abcd", "abc"),
        # Two are added, and one is dropped.
        (nodes("abc"), "d", "d", "abcd", "abc"),
        # Nodes that are not running are left out.
        (nodes("abf"), "b", "b", "abcd", "ab"),
        # None of those that are named is there: the leader stays.
        (nodes("fgh"), "b", "b", "abcd", "a"),
        # The leader is not named, and nobody else has the messages.
        (nodes("bc"), "", "", "abcd", "abc"),
        (nodes("bc"), "b", "", "abcd", "abc"),
        # Somebody has: the new leader is one of those, in whichever order they are named.
        (nodes("bc"), "b", "b", "abcd", "bc"),
        (nodes("cb"), "b", "b", "abcd", "bc"),
        (exactly(2), "c", "c", "abcd", "ac"),
        (exactly(2), "cd", "cd", "abcd", "ac"),
        (exactly(3), "cd", "cd", "abcd", "acd"),
        # Those that are missing are chosen among the others.
        (exactly(2), "", "", "abcd", "ad"),
        (exactly(3), "c", "c", "abcd", "acd"),
        (exactly(9), "c", "c", "abcd", "acdb"),
        # One whose node is down is replaced.
        (exactly(2), "c", "", "abd", "ad"),
        ({}, "bc", "b", "abc", "a"),
    ],
)
def test_a_policy_says_where_a_queue_is_to_be(
    policy: dict[str, Any], mirrors: str, in_sync: str, running: str, expected: str
) -> None:
    copies = Copies("a", tuple(mirrors), tuple(in_sync))
    found = wanted(policy, copies, list(running), backwards)
    assert found == Copies(expected[0], tuple(expected[1:]))


@pytest.mark.parametrize(("policy", "expected"), [(ALL, "abcd"), (nodes("abd"), "abd")])
def test_a_mirror_that_is_down_keeps_its_place(policy: dict[str, Any], expected: str) -> None:
    copies = Copies("a", ("b", "d"), ("b",))
    found = wanted(policy, copies, ["a", "b", "c"], backwards)
    assert {found.leader, *found.mirrors} == set(expected)


def test_a_leader_that_is_to_go_gives_way_to_one_that_runs() -> None:
    copies = Copies("a", ("b", "c"), ("b", "c"))
    assert wanted(nodes("bc"), copies, ["a", "c"], backwards) == Copies("c", ("b",))

"""Where new queues come to be."""

import random
from collections import Counter

import pytest

from amqpbroker.cluster.placement import choose_locator, is_locator, place

NODES = ["rabbit@b", "rabbit@a", "rabbit@c"]


def placed(locator: str, leaders: dict[str, int], running: list[str] = NODES) -> str:
    return place(locator, "rabbit@a", running, leaders, random.Random(1))


def test_a_queue_is_where_its_client_is() -> None:
    assert placed("client-local", {"rabbit@a": 9}) == "rabbit@a"
    assert placed("client-local", {}, running=["rabbit@b"]) == "rabbit@a"


@pytest.mark.parametrize("locator", ["min-masters", "balanced", "least-leaders"])
def test_a_queue_goes_where_the_fewest_are(locator: str) -> None:
    leaders = {"rabbit@a": 2, "rabbit@b": 1, "rabbit@c": 1, "rabbit@down": 0}
    assert placed(locator, leaders) == "rabbit@b"
    assert placed(locator, leaders | {"rabbit@b": 3}) == "rabbit@c"
    assert placed(locator, {"rabbit@a": 1, "rabbit@b": 1}) == "rabbit@c"


def test_balanced_does_not_count_many_queues() -> None:
    leaders = {"rabbit@a": 600, "rabbit@b": 400, "rabbit@c": 0}
    rng = random.Random(1)
    found = Counter(place("balanced", "rabbit@a", NODES, leaders, rng) for _ in range(300))
    assert min(found[node] for node in NODES) > 70
    assert placed("min-masters", leaders) == "rabbit@c"


def test_random_is_at_random() -> None:
    rng = random.Random(1)
    found = Counter(place("random", "rabbit@a", NODES, {"rabbit@a": 9}, rng) for _ in range(300))
    assert min(found[node] for node in NODES) > 70


def test_a_node_can_be_named() -> None:
    assert placed("node:rabbit@c", {}) == "rabbit@c"
    assert placed("node:rabbit@down", {}) == "rabbit@a"


@pytest.mark.parametrize("locator", ["min-masters", "balanced", "random", "node:rabbit@b"])
def test_with_nobody_to_choose_from_a_queue_stays_here(locator: str) -> None:
    assert placed(locator, {}, running=[]) == "rabbit@a"


def test_arguments_go_before_the_policy_and_that_before_settings() -> None:
    arguments = {"x-queue-master-locator": "random", "x-queue-leader-locator": "balanced"}
    policy = {"queue-master-locator": "min-masters"}
    settings = ("", "balanced")
    assert choose_locator(arguments, policy, settings) == "random"
    assert choose_locator({"x-queue-leader-locator": "balanced"}, policy, settings) == "balanced"
    assert choose_locator({}, policy, settings) == "min-masters"
    assert choose_locator({}, {}, settings) == "balanced"
    assert choose_locator({}, {}, ()) == "client-local"


def test_what_is_no_locator_is_passed_over() -> None:
    policy = {"queue-master-locator": "min-masters"}
    assert choose_locator({"x-queue-master-locator": "nowhere"}, policy, ()) == "min-masters"
    assert choose_locator({"x-queue-master-locator": 5}, {}, ("nowhere",)) == "client-local"
    assert is_locator("node:rabbit@a")
    assert not is_locator("node:")

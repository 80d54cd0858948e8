"""Policies: what they may say, and which of them holds."""

from typing import Any

import pytest

from amqpbroker.broker.broker import Broker
from amqpbroker.broker.policy import Policies
from amqpbroker.broker.policy_keys import check_policy
from amqpbroker.definitions import (
    ExchangeDefinition,
    PolicyDefinition,
    QueueDefinition,
    delete,
    put,
)
from amqpbroker.errors import DefinitionError
from amqpbroker.queues.classic import ClassicQueues
from amqpbroker.queues.queue import Keeper, Queue
from amqpbroker.testing.fakes import fake_world


def policy(name: str = "p", pattern: str = ".*", **more: Any) -> PolicyDefinition:
    definition = more.pop("definition", {"max-length": 1})
    return PolicyDefinition("/", name, pattern, definition, **more)


def queue(name: str = "q", kind: str | None = None) -> QueueDefinition:
    arguments = {} if kind is None else {"x-queue-type": kind}
    return QueueDefinition("/", name, arguments=arguments)


def fault_of(**fields: Any) -> str:
    """What is wrong with a policy, without the words around it."""
    with pytest.raises(DefinitionError) as caught:
        check_policy(policy(**fields))
    head, _, text = str(caught.value).partition("\n\n")
    assert head == "Validation failed"
    return text


def there(*policies: PolicyDefinition) -> Policies:
    found = Policies()
    for each in policies:
        found.put(each)
    return found


# -- what may be said ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("definition", "text"),
    [
        ({}, "no policy provided"),
        ({"max-length": "x"}, '<<"x">> is not a valid maximum length'),
        ({"max-length": -1}, "-1 is not a valid maximum length"),
        ({"expires": 0}, "0 is not a valid queue expiry"),
        ({"message-ttl": True}, "true is not a valid message TTL"),
        ({"dead-letter-exchange": 1}, "1 is not a valid dead letter exchange name"),
        ({"overflow": "x"}, '<<"x">> is not a valid overflow value'),
        ({"queue-master-locator": "x"}, '<<"x">> invalid queue-master-locator value'),
        (
            {"foo": 10, "bar": 1},
            '[{<<"bar">>,1},{<<"foo">>,10}] are not recognised policy settings',
        ),
        ({"ha-mode": "x"}, '<<"x">> is not a valid ha-mode value'),
        (
            {"ha-params": 2},
            "ha-mode must be specified to specify ha-params, "
            "ha-sync-mode or ha-promote-on-shutdown",
        ),
        (
            {"ha-mode": "exactly", "ha-params": "2"},
            'ha-mode="exactly" takes an integer, <<"2">> given',
        ),
        ({"ha-mode": "all", "ha-params": "2"}, 'ha-mode="all" does not take parameters'),
        (
            {"ha-mode": "nodes", "ha-params": [1]},
            'ha-mode="nodes" takes a list of strings, [1] was not a string',
        ),
        ({"ha-mode": "nodes", "ha-params": []}, 'ha-mode="nodes" list must be non-empty'),
        (
            {"ha-mode": "all", "ha-sync-mode": "x"},
            'ha-sync-mode must be "manual" or "automatic", got <<"x">>',
        ),
        (
            {"ha-mode": "all", "ha-promote-on-failure": "x"},
            'ha-promote-on-failure must be "always" or "when-synced", got <<"x">>',
        ),
        (
            {"ha-mode": "all", "ha-sync-batch-size": 0},
            "ha-sync-batch-size takes an integer greater than 0, 0 given",
        ),
    ],
)
def test_a_definition_that_makes_no_sense_is_refused_in_rabbitmqs_words(
    definition: dict[str, Any], text: str
) -> None:
    assert fault_of(definition=definition) == text + "\n"


def test_a_pattern_must_be_a_regular_expression() -> None:
    text = fault_of(pattern="^(")

    assert text.startswith('pattern should be regular expression but is invalid: {"missing )",')


def test_all_faults_are_told_at_once() -> None:
    faults = fault_of(definition={}, pattern=5, priority="7", apply_to="x").splitlines()

    assert faults == [
        "no policy provided",
        "apply-to 'x' unrecognised; should be one of: 'queues', 'classic_queues', "
        " 'quorum_queues', 'streams', 'exchanges', or 'all'",
        "pattern should be a binary but was 5",
        'priority should be a number, actually was <<"7">>',
    ]


def test_what_makes_sense_is_taken() -> None:
    check_policy(policy(definition={"ha-mode": "exactly", "ha-params": 2}))
    check_policy(policy(definition={"max-length": 10, "overflow": "reject-publish"}))


def test_the_operator_may_say_less() -> None:
    text = fault_of(definition={"alternate-exchange": "x"}, is_operator=True)

    assert "are not recognised policy settings" in text


# -- what holds ----------------------------------------------------------------------------------


def test_the_highest_priority_holds_alone() -> None:
    low = policy("low", priority=1, definition={"max-length": 1})
    high = policy("high", priority=2, definition={"expires": 5})

    in_force = there(low, high).of_queue(queue())

    assert in_force.policy is high
    assert in_force.definition == {"expires": 5}


def test_a_pattern_is_found_anywhere_in_a_name() -> None:
    policies = there(policy(pattern="b+"))

    assert policies.of_queue(queue("abba")).policy is not None
    assert policies.of_queue(queue("aa")).policy is None


@pytest.mark.parametrize(
    ("apply_to", "classic", "quorum", "exchange"),
    [
        ("all", True, True, True),
        ("queues", True, True, False),
        ("classic_queues", True, False, False),
        ("quorum_queues", False, True, False),
        ("streams", False, False, False),
        ("exchanges", False, False, True),
    ],
)
def test_a_policy_is_for_the_kinds_of_things_that_it_says(
    apply_to: str, classic: bool, quorum: bool, exchange: bool
) -> None:
    policies = there(policy(apply_to=apply_to))

    assert (policies.of_queue(queue()).policy is not None) is classic
    assert (policies.of_queue(queue(kind="quorum")).policy is not None) is quorum
    there_is = policies.of_exchange(ExchangeDefinition("/", "x", "direct")).policy is not None
    assert there_is is exchange


def test_a_policy_is_not_for_queues_of_a_type_that_does_not_know_what_it_says() -> None:
    policies = there(policy(definition={"ha-mode": "all"}))

    assert policies.of_queue(queue()).policy is not None
    assert policies.of_queue(queue(kind="quorum")).policy is None


@pytest.mark.parametrize(
    ("wanted", "above", "merged"),
    [
        ({"max-length": 5}, {"max-length": 3}, {"max-length": 3}),
        ({"max-length": 5}, {"expires": 3}, {"max-length": 5, "expires": 3}),
        ({"overflow": "drop-head"}, {"overflow": "reject-publish"}, {"overflow": "reject-publish"}),
        ({"ha-mode": "all"}, {"ha-mode": "exactly"}, {"ha-mode": "all"}),
        ({"ha-params": 3}, {"ha-params": 2}, {"ha-params": 3}),
        ({"ha-params": 3}, {"ha-params": ["a"]}, {"ha-params": 3}),
        ({"ha-params": ["a", "b"]}, {"ha-params": ["c"]}, {"ha-params": ["a", "b"]}),
    ],
)
def test_what_the_operator_says_is_merged_into_what_users_say(
    wanted: dict[str, Any], above: dict[str, Any], merged: dict[str, Any]
) -> None:
    policies = there(policy(definition=wanted), policy(definition=above, is_operator=True))

    assert policies.of_queue(queue()).definition == merged


def test_a_policy_that_is_gone_holds_no_more() -> None:
    gone = policy()
    policies = there(gone)

    policies.drop(gone)

    assert policies.of_queue(queue()).policy is None


# -- what queues act on --------------------------------------------------------------------------


class HeedingQueues(ClassicQueues):
    """Queues that note what they are to heed."""

    def __init__(self) -> None:
        super().__init__()
        self.heeded: dict[str, dict[str, Any]] = {}

    def open(self, definition: QueueDefinition, keeper: Keeper) -> Queue:
        opened = super().open(definition, keeper)
        opened.heed = lambda policy: self.heeded.update(  # type: ignore[method-assign]
            {definition.name: dict(policy)}
        )
        return opened


def test_queues_heed_a_policy_as_long_as_it_holds() -> None:
    queues = HeedingQueues()
    broker = Broker(fake_world(), queue_types={"classic": queues})
    broker.boot("guest", "guest")
    broker.submit(put(queue("old")))
    lax = policy(pattern="^(old|new)$", definition={"flush": "async"})
    broker.submit(put(lax))
    assert queues.heeded == {"old": {"flush": "async"}}

    broker.submit(put(queue("new")))
    broker.submit(put(queue("other")))
    assert queues.heeded["new"] == {"flush": "async"}
    assert queues.heeded["other"] == {}

    broker.submit(put(policy("above", "old", definition={"max-length": 1}, priority=1)))
    assert queues.heeded["old"] == {"max-length": 1}
    broker.submit(delete(lax))
    assert queues.heeded["new"] == {}


def test_flush_is_sync_or_async() -> None:
    check_policy(policy(definition={"flush": "async"}))
    assert "flush must be" in fault_of(definition={"flush": "never"})

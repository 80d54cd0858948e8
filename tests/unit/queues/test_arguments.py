"""The arguments of queues and consumers."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from amqpbroker.definitions import QueueDefinition, field_type
from amqpbroker.errors import PreconditionFailed
from amqpbroker.queues.arguments import (
    EXPIRES_MS_MAX,
    QUEUE_ARGUMENTS,
    check_consume,
    check_declare,
    check_queue_type,
    compared_arguments,
)


def queue(**arguments: Any) -> QueueDefinition:
    """A queue with arguments: ``x_expires=1`` is ``x-expires``."""
    return QueueDefinition(
        "/", "q", arguments={name.replace("_", "-"): value for name, value in arguments.items()}
    )


def check(definition: QueueDefinition) -> None:
    """See what a declare sees to."""
    check_queue_type(definition, ("classic", "quorum", "stream"))
    check_declare(definition)


def refusal(definition: QueueDefinition) -> str:
    """Why a queue cannot be declared, without what all reasons begin with."""
    with pytest.raises(PreconditionFailed) as refused:
        check(definition)
    return refused.value.text.removeprefix("invalid arg ")


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"x_expires": 1},
        {"x_expires": EXPIRES_MS_MAX},
        {"x_message_ttl": 0},
        {"x_message_ttl": EXPIRES_MS_MAX},
        {"x_dead_letter_exchange": ""},
        {"x_dead_letter_exchange": "x", "x_dead_letter_routing_key": "k"},
        {"x_dead_letter_exchange": b"\xff"},
        {"x_max_length": 0},
        {"x_max_length_bytes": 1 << 40},
        {"x_max_priority": 0},
        {"x_max_priority": 255},
        {"x_overflow": "drop-head"},
        {"x_overflow": "reject-publish"},
        {"x_overflow": "reject-publish-dlx"},
        {"x_queue_mode": "lazy"},
        {"x_queue_mode": "default"},
        {"x_queue_version": 1},
        {"x_queue_version": 2},
        {"x_single_active_consumer": True},
        {"x_queue_type": "classic"},
        {"x_queue_type": "undefined"},
        {"x_queue_master_locator": 7},
        {"x_stream_filter_size_bytes": "whatever"},
        {"x_anything": None},
    ],
)
def test_what_a_classic_queue_may_have(arguments: dict[str, Any]) -> None:
    check(queue(**arguments))


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("x-expires", 0, "{value_zero,0}"),
        ("x-expires", -1, "{value_negative,-1}"),
        ("x-expires", EXPIRES_MS_MAX + 1, "{value_too_large,315360000001}"),
        ("x-expires", False, '"expected integer, got bool"'),
        ("x-expires", Decimal(0), '"expected integer, got decimal"'),
        ("x-message-ttl", -1, "{value_negative,-1}"),
        ("x-message-ttl", EXPIRES_MS_MAX + 1, "{value_too_large,315360000001}"),
        ("x-message-ttl", "1", '"expected integer, got longstr"'),
        ("x-message-ttl", 0.0, '"expected integer, got double"'),
        ("x-message-ttl", None, '"expected integer, got void"'),
        ("x-dead-letter-exchange", 1, "{unacceptable_type,signedint}"),
        ("x-dead-letter-routing-key", "k", "routing_key_but_no_dlx_defined"),
        ("x-dead-letter-routing-key", 1, "{unacceptable_type,signedint}"),
        ("x-max-length", -1, "{value_negative,-1}"),
        ("x-max-length", [1], '"expected integer, got array"'),
        ("x-max-length-bytes", {}, '"expected integer, got table"'),
        ("x-max-priority", -1, "{value_negative,-1}"),
        ("x-max-priority", 256, "{max_value_exceeded,256}"),
        ("x-max-priority", bytearray(b"1"), '"expected integer, got binary"'),
        ("x-overflow", "nonsense", "invalid_overflow"),
        ("x-overflow", b"\xff", "invalid_overflow"),
        ("x-overflow", 1 << 40, "{unacceptable_type,long}"),
        ("x-queue-mode", "eager", "\"unsupported queue mode 'eager'\""),
        ("x-queue-mode", 'ü"\n', '"unsupported queue mode \'ü\\"\\n\'"'),
        ("x-queue-mode", datetime.now(UTC), "{unacceptable_type,timestamp}"),
        ("x-queue-version", 3, "\"unsupported queue version '3'\""),
        ("x-queue-version", -1, "{value_negative,-1}"),
        ("x-queue-version", True, '"expected integer, got bool"'),
        ("x-single-active-consumer", 1, "{unacceptable_type,signedint}"),
        ("x-queue-type", "nonsense", "\"unsupported queue type 'nonsense'\""),
        ("x-queue-type", 1, "{unacceptable_type,signedint}"),
    ],
)
def test_a_wrong_value_is_named_with_the_reason(name: str, value: object, reason: str) -> None:
    wrong = refusal(QueueDefinition("/", "q", arguments={name: value}))

    assert wrong == f"'{name}' for queue 'q' in vhost '/': {reason}"


def test_text_that_erlang_cannot_print_is_shown_as_numbers() -> None:
    numbers = ",".join(str(ord(char)) for char in "unsupported queue mode '€'")

    assert refusal(queue(x_queue_mode="€")).endswith(f": [{numbers}]")


@pytest.mark.parametrize(
    "name",
    [
        "x-dead-letter-strategy",
        "x-max-in-memory-length",
        "x-max-in-memory-bytes",
        "x-quorum-initial-group-size",
        "x-max-age",
        "x-stream-max-segment-size-bytes",
        "x-initial-cluster-size",
        "x-queue-leader-locator",
        "x-delivery-limit",
    ],
)
def test_what_only_other_types_have_is_refused(name: str) -> None:
    wrong = refusal(QueueDefinition("/", "q", arguments={name: 1}))

    assert wrong == f"'{name}' for queue 'q' in vhost '/' of queue type rabbit_classic_queue"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("x-dead-letter-strategy", "at-once", ": invalid_dlx_strategy"),
        ("x-max-in-memory-length", -1, ": {value_negative,-1}"),
        ("x-max-in-memory-bytes", "1", ': "expected integer, got longstr"'),
        ("x-quorum-initial-group-size", 0, ": {value_zero,0}"),
        ("x-quorum-initial-group-size", -1, ": {value_negative,-1}"),
        ("x-queue-leader-locator", "near", ": invalid_queue_locator_arg"),
        ("x-max-priority", 1, " of queue type rabbit_quorum_queue"),
    ],
)
def test_a_quorum_queue_has_arguments_of_its_own(name: str, value: object, reason: str) -> None:
    wrong = refusal(QueueDefinition("/", "q", arguments={"x-queue-type": "quorum", name: value}))

    assert wrong == f"'{name}' for queue 'q' in vhost '/'{reason}"


def test_what_a_quorum_queue_may_have() -> None:
    check(queue(x_queue_type="quorum", x_dead_letter_strategy="at-least-once", x_delivery_limit=3))
    check(queue(x_queue_type="quorum", x_queue_leader_locator="balanced"))
    check(queue(x_queue_type="quorum", x_quorum_initial_group_size=3))


def test_a_type_that_rabbitmq_has_not_has_the_arguments_of_a_classic_queue() -> None:
    check_declare(queue(x_queue_type="ours", x_expires=1))


def test_the_first_wrong_value_in_the_order_of_the_table_is_named() -> None:
    assert refusal(queue(x_max_age="1D", x_message_ttl=-1, x_expires=0)).startswith("'x-expires'")
    assert refusal(queue(x_max_age="1D", x_delivery_limit=1)).startswith("'x-max-age'")
    assert refusal(queue(x_delivery_limit=1, x_max_age="1D")).startswith("'x-delivery-limit'")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("x-priority", "1", ': "expected integer, got longstr"'),
        ("x-priority", True, ': "expected integer, got bool"'),
        ("x-cancel-on-ha-failover", 1, ": {unacceptable_type,signedint}"),
        ("x-stream-offset", "first", " of queue type rabbit_classic_queue"),
    ],
)
def test_what_a_consumer_may_not_ask_for(name: str, value: object, reason: str) -> None:
    with pytest.raises(PreconditionFailed) as refused:
        check_consume(queue(), {name: value})

    assert refused.value.text == f"invalid arg '{name}' for queue 'q' in vhost '/'{reason}"


def test_what_a_consumer_may_ask_for() -> None:
    check_consume(queue(), {})
    check_consume(queue(), {"x-priority": -(1 << 40), "x-cancel-on-ha-failover": False})
    check_consume(queue(), {"x-credit": {}, "x-anything": 1})


def test_what_is_compared_is_what_the_type_has() -> None:
    names = compared_arguments(queue())

    assert names[:2] == ["x-expires", "x-message-ttl"]
    assert "x-queue-master-locator" in names
    assert "x-delivery-limit" not in names
    assert len(names) < len(QUEUE_ARGUMENTS)


def test_what_no_field_can_hold_has_no_type() -> None:
    with pytest.raises(TypeError, match="set"):
        field_type(set())

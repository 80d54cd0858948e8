"""What policies may say: one table of keys, and how a policy is checked.

The rules and their words are RabbitMQ's (rabbit_policy.erl, rabbit_policies.erl and
rabbit_mirror_queue_misc.erl of 3.13).
"""

from collections.abc import Callable
from typing import Any

import attrs
import regex

from amqpbroker.definitions import PolicyDefinition
from amqpbroker.errors import DefinitionError
from amqpbroker.patterns import check_pattern

APPLY_TO = ("queues", "classic_queues", "quorum_queues", "streams", "exchanges", "all")
"""The kinds of things that a policy can be for."""
HA_MODES = ("nodes", "exactly", "all")
"""Ways to mirror, from the weakest to the strongest."""


def _is_count(value: object, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _one_of(*words: object) -> Callable[[object], bool]:
    return lambda value: value in words and not isinstance(value, bool)


@attrs.frozen
class PolicyKey:
    """A key of policies: ``is_valid`` judges values, ``wrong`` says what is wrong with one."""

    name: str
    is_valid: Callable[[object], bool]
    wrong: str
    """Behind the value as Erlang writes it, or around it, where it has ``{}``."""
    not_for: tuple[str, ...] = ()
    """The types of queues for which a policy with this key does not hold."""
    is_least: bool = False
    """Whether, of what users and the operator say, the lower value holds."""
    is_operators: bool = False
    """Whether the operator's policies have it too."""

    def fault(self, value: object) -> str | None:
        """What is wrong with a value; None if nothing is."""
        if self.is_valid(value):
            return None
        said = shown(value)
        return self.wrong.format(said) if "{}" in self.wrong else f"{said} {self.wrong}"


_NOT_CLASSIC = ("classic", "stream")
_STREAM_ONLY = ("classic", "quorum")
_CLASSIC_ONLY = ("quorum", "stream")


def _limit(name: str, wrong: str, *, least: int = 0, not_for: tuple[str, ...] = ()) -> PolicyKey:
    """A limit, in numbers, of which the lower one holds."""
    check: Callable[[object], bool] = lambda value: _is_count(value, least)
    return PolicyKey(name, check, wrong, not_for, is_least=True, is_operators=True)


def _between(least: int, most: int) -> Callable[[object], bool]:
    return lambda value: _is_count(value, least) and not _is_count(value, most + 1)


_KEYS = (
    PolicyKey("alternate-exchange", _is_text, "is not a valid alternate exchange name"),
    PolicyKey("consumer-timeout", _is_count, "is not a valid consumer timeout"),
    PolicyKey("dead-letter-exchange", _is_text, "is not a valid dead letter exchange name"),
    PolicyKey("dead-letter-routing-key", _is_text, "is not a valid dead letter routing key"),
    PolicyKey(
        "dead-letter-strategy",
        _one_of("at-most-once", "at-least-once"),
        "is not a valid dead letter strategy",
        _NOT_CLASSIC,
    ),
    _limit("message-ttl", "is not a valid message TTL"),
    _limit("expires", "is not a valid queue expiry", least=1),
    _limit("max-length", "is not a valid maximum length"),
    _limit("max-length-bytes", "is not a valid maximum length in bytes"),
    _limit("max-in-memory-length", "is not a valid maximum memory in bytes", not_for=_NOT_CLASSIC),
    _limit("max-in-memory-bytes", "is not a valid maximum memory in bytes", not_for=_NOT_CLASSIC),
    PolicyKey(
        "queue-mode", _one_of("default", "lazy"), "is not a valid queue-mode value", _CLASSIC_ONLY
    ),
    PolicyKey(
        "queue-version", _one_of(1, 2), "is not a valid queue-version value", is_operators=True
    ),
    PolicyKey(
        "overflow",
        _one_of("drop-head", "reject-publish", "reject-publish-dlx"),
        "is not a valid overflow value",
        is_operators=True,
    ),
    _limit("delivery-limit", "is not a valid delivery limit", not_for=_NOT_CLASSIC),
    PolicyKey(
        "max-age",
        lambda value: regex.fullmatch("[0-9]+[YMDhms]", str(value)) is not None,
        "is not a valid max age",
        _STREAM_ONLY,
    ),
    PolicyKey(
        "queue-leader-locator",
        _one_of("client-local", "balanced", "random", "least-leaders"),
        "is not a valid queue leader locator value",
        ("classic",),
    ),
    PolicyKey("initial-cluster-size", _is_count, "is not a valid cluster size", _STREAM_ONLY),
    PolicyKey(
        "stream-max-segment-size-bytes",
        _between(0, 3_000_000_000),
        "is not a valid segment size",
        _STREAM_ONLY,
    ),
    PolicyKey(
        "stream-filter-size-bytes",
        _between(16, 255),
        "is not a valid filter size. Valid range is 16-255",
    ),
    PolicyKey(
        "target-group-size",
        lambda value: _is_count(value, 1),
        "is not a valid target group size",
        _NOT_CLASSIC,
        is_operators=True,
    ),
    PolicyKey(
        "queue-master-locator",
        _one_of("min-masters", "client-local", "random"),
        "invalid queue-master-locator value",
        ("quorum",),
        is_operators=True,
    ),
    PolicyKey(
        "ha-mode",
        _one_of(*HA_MODES),
        "is not a valid ha-mode value",
        ("quorum",),
        is_operators=True,
    ),
    PolicyKey("ha-params", lambda value: True, "", ("quorum",), is_operators=True),
    PolicyKey(
        "ha-sync-mode",
        _one_of("manual", "automatic"),
        'ha-sync-mode must be "manual" or "automatic", got {}',
        ("quorum",),
        is_operators=True,
    ),
    PolicyKey(
        "ha-sync-batch-size",
        lambda value: _is_count(value, 1),
        "ha-sync-batch-size takes an integer greater than 0, {} given",
    ),
    *(
        PolicyKey(
            name,
            _one_of("always", "when-synced"),
            f'{name} must be "always" or "when-synced", got {{}}',
            ("quorum",),
        )
        for name in ("ha-promote-on-shutdown", "ha-promote-on-failure")
    ),
)
_OURS = (
    PolicyKey(
        "flush",
        _one_of("sync", "async"),
        'flush must be "sync" or "async", got {}',
        _CLASSIC_ONLY,
        is_operators=True,
    ),
)
"""Keys that RabbitMQ does not have."""
POLICY_KEYS = {key.name: key for key in (*_KEYS, *_OURS)}
"""What policies can say, in the order in which it is checked."""


def check_policy(policy: PolicyDefinition) -> None:
    """See that a policy makes sense. Raises `DefinitionError`, which names every fault."""
    faults = [
        _definition_fault(policy),
        _apply_to_fault(policy.apply_to),
        _pattern_fault(policy.pattern),
        _priority_fault(policy.priority),
    ]
    lines = [fault for fault in faults if fault is not None]
    if lines:
        raise DefinitionError("".join(f"{line}\n" for line in ["Validation failed\n", *lines]))


def _definition_fault(policy: PolicyDefinition) -> str | None:
    definition: object = policy.definition
    if not isinstance(definition, dict):
        return f"definition must be a dictionary: {shown(definition)}"
    if not definition:
        return "no policy provided"
    for name, key in POLICY_KEYS.items():
        fault = key.fault(definition[name]) if name in definition else None
        if fault is not None:
            return fault
    fault = _mirroring_fault(definition)
    if fault is not None:
        return fault
    strange = {
        name: value
        for name, value in sorted(definition.items())
        if name not in POLICY_KEYS or (policy.is_operator and not POLICY_KEYS[name].is_operators)
    }
    if strange:
        pairs = ",".join(f"{{{shown(name)},{shown(value)}}}" for name, value in strange.items())
        return f"[{pairs}] are not recognised policy settings"
    return None


def _mirroring_fault(definition: dict[str, Any]) -> str | None:
    """What is wrong with the keys of mirroring beside each other."""
    mode, params = definition.get("ha-mode"), definition.get("ha-params")
    if mode is None:
        if any(name.startswith("ha-") for name in definition if name in POLICY_KEYS):
            return (
                "ha-mode must be specified to specify ha-params, "
                "ha-sync-mode or ha-promote-on-shutdown"
            )
        return None
    match mode:
        case "all" if "ha-params" in definition:
            return 'ha-mode="all" does not take parameters'
        case "exactly" if not _is_count(params, 1):
            return f'ha-mode="exactly" takes an integer, {shown(params, "none")} given'
        case "nodes" if not isinstance(params, list):
            return f'ha-mode="nodes" takes a list, {shown(params, "none")} given'
        case "nodes" if not params:
            return 'ha-mode="nodes" list must be non-empty'
        case "nodes":
            assert isinstance(params, list)
            strange = [each for each in params if not isinstance(each, str)]
            if strange:
                return f'ha-mode="nodes" takes a list of strings, {shown(strange)} was not a string'
    return None


def _apply_to_fault(apply_to: object) -> str | None:
    if apply_to in APPLY_TO:
        return None
    return (
        f"apply-to '{apply_to}' unrecognised; should be one of: 'queues', 'classic_queues', "
        " 'quorum_queues', 'streams', 'exchanges', or 'all'"
    )


def _pattern_fault(pattern: object) -> str | None:
    if not isinstance(pattern, str):
        return f"pattern should be a binary but was {shown(pattern)}"
    try:
        check_pattern(pattern, "pattern")
    except DefinitionError as error:
        return f"pattern should be regular expression but is invalid: {_regex_fault(error)}"
    return None


def _regex_fault(error: DefinitionError) -> str:
    """What is wrong, and where, as Erlang says it."""
    cause = error.__cause__
    return f'{{"{getattr(cause, "msg", error)}",{getattr(cause, "pos", None) or 0}}}'


def _priority_fault(priority: object) -> str | None:
    if isinstance(priority, int | float) and not isinstance(priority, bool):
        return None
    return f"priority should be a number, actually was {shown(priority)}"


def shown(value: Any, nothing: str = "null") -> str:
    """A value of JSON as Erlang writes it."""
    match value:
        case None:
            return nothing
        case bool():
            return str(value).lower()
        case str():
            return f'<<"{value}">>'
        case list():
            return f"[{','.join(shown(each) for each in value)}]"
        case dict():
            pairs = ",".join(f"{shown(name)} => {shown(each)}" for name, each in value.items())
            return f"#{{{pairs}}}"
        case _:
            return str(value)

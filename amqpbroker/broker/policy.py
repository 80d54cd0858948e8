"""Policies: which of them holds for a queue or an exchange (rabbit_policy.erl of RabbitMQ 3.13)."""

from collections.abc import Iterable
from typing import Any

import attrs

from amqpbroker.broker.policy_keys import HA_MODES, POLICY_KEYS
from amqpbroker.definitions import ExchangeDefinition, PolicyDefinition, QueueDefinition
from amqpbroker.patterns import is_found

_QUEUES = {
    "classic": ("all", "queues", "classic_queues"),
    "quorum": ("all", "queues", "quorum_queues"),
    "stream": ("all", "queues", "streams"),
}


@attrs.frozen
class InForce:
    """What holds for a thing: the user's policy, the operator's, and what they come to."""

    policy: PolicyDefinition | None
    operator: PolicyDefinition | None

    @property
    def definition(self) -> dict[str, Any]:
        """What the thing has to heed."""
        wanted = self.policy.definition if self.policy is not None else {}
        above = self.operator.definition if self.operator is not None else {}
        merged = {**above, **wanted}
        for key in wanted.keys() & above.keys():
            merged[key] = _merged(key, wanted[key], above[key])
        return merged


class Policies:
    """The policies of one virtual host."""

    def __init__(self) -> None:
        self._there: dict[tuple[bool, str], PolicyDefinition] = {}

    def put(self, definition: PolicyDefinition) -> None:
        """Add a policy, or change the one of that name."""
        self._there[definition.is_operator, definition.name] = definition

    def drop(self, definition: PolicyDefinition) -> None:
        """Take a policy away."""
        del self._there[definition.is_operator, definition.name]

    def named(self, name: str, is_operator: bool = False) -> PolicyDefinition | None:
        """The policy ``name``, if it is there."""
        return self._there.get((is_operator, name))

    def all(self, is_operator: bool = False) -> list[PolicyDefinition]:
        """Those of users, or those of the operator."""
        return [each for each in self._there.values() if each.is_operator == is_operator]

    @property
    def are_heeded(self) -> bool:
        """Whether any of them says something that queues act on."""
        return any(not _HEEDED.isdisjoint(each.definition) for each in self._there.values())

    def of_queue(self, queue: QueueDefinition) -> InForce:
        """What holds for a queue. A policy that says what its type does not know is not for it."""
        kind = queue.type if queue.type in _QUEUES else "classic"
        return self._in_force(queue.name, _QUEUES[kind], _UNKNOWN_TO[kind])

    def of_exchange(self, exchange: ExchangeDefinition) -> InForce:
        """What holds for an exchange."""
        return self._in_force(exchange.name, ("all", "exchanges"), frozenset())

    def _in_force(self, name: str, kinds: Iterable[str], unknown: frozenset[str]) -> InForce:
        def first(is_operator: bool) -> PolicyDefinition | None:
            matching = (
                each
                for each in self._there.values()
                if each.is_operator == is_operator
                and each.apply_to in kinds
                and not unknown & each.definition.keys()
                and is_found(each.pattern, name)
            )
            return min(matching, key=lambda each: (-each.priority, each.name), default=None)

        if not self._there:
            return _NOTHING
        return InForce(first(False), first(True))


_NOTHING = InForce(None, None)
_HEEDED = {"flush"}
_UNKNOWN_TO = {
    kind: frozenset(key.name for key in POLICY_KEYS.values() if kind in key.not_for)
    for kind in _QUEUES
}


def _merged(key: str, wanted: Any, above: Any) -> Any:
    """What holds if both a user and the operator have said something."""
    match key:
        case "ha-mode":
            return max(wanted, above, key=HA_MODES.index)
        case "ha-params" if isinstance(wanted, list) and isinstance(above, list):
            return wanted if len(wanted) > len(above) else above
        case "ha-params" if isinstance(wanted, int) and isinstance(above, int):
            return max(wanted, above)
        case "ha-params":
            return wanted if isinstance(wanted, int) else above
    is_least = key in POLICY_KEYS and POLICY_KEYS[key].is_least
    return min(wanted, above) if is_least else above

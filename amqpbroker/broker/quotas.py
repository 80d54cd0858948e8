"""How many connections and channels virtual hosts and users may have, over all nodes.

The limits are set by parameters of virtual hosts, and with users. Who opens one more is counted
here at once; what other nodes have, they are asked for, but only where there is a limit. A node
that does not answer counts for nothing, as in RabbitMQ.
"""

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import attrs

from amqpbroker.errors import NotAllowed
from amqpbroker.queues.queue import Pending

if TYPE_CHECKING:
    from amqpbroker.broker.vhost import VHost
    from amqpbroker.definitions import UserDefinition

Counted = Literal["vhost-connections", "user-connections", "user-channels"]


def _nobody(what: Counted, name: str) -> Pending[int] | None:
    return None


class Quotas:
    """Counts the connections and channels of this node, and asks others for theirs."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self.elsewhere: Callable[[Counted, str], Pending[int] | None] = _nobody
        """How many other nodes have; None: there are none. The answer never fails."""

    def add(self, what: Counted, name: str, change: int) -> None:
        """A virtual host or user has one more, or (-1) one less."""
        self._counts[what, name] += change
        if not self._counts[what, name]:
            del self._counts[what, name]

    def count(self, what: str, name: str) -> int:
        """How many connections or channels a virtual host or user has on this node."""
        return self._counts[what, name]

    def enter(self, vhost: "VHost", user: "UserDefinition") -> Pending[None] | None:
        """Whether one more connection may be there. Raises `NotAllowed`, as the answer may."""
        rules = [
            _Rule(
                "vhost-connections",
                vhost.name,
                vhost.limit("max-connections"),
                f"access to vhost '{vhost.name}' refused for user '{user.name}': "
                "connection limit ({}) is reached",
            ),
            _Rule(
                "user-connections",
                user.name,
                user.limit("max-connections"),
                f"connection refused for user '{user.name}': "
                "user connection limit ({}) is reached",
            ),
        ]
        return self._check([rule for rule in rules if rule.limit is not None])

    def open_channel(self, user: "UserDefinition", node: str) -> Pending[None] | None:
        """Whether one more channel may be there. Raises `NotAllowed`, as the answer may.

        RabbitMQ says the name of the node where it means the user's.
        """
        text = (
            f"number of channels opened for user '{node}' has reached "
            "the maximum allowed user limit of ({})"
        )
        rule = _Rule("user-channels", user.name, user.limit("max-channels"), text)
        return None if rule.limit is None else self._check([rule])

    def _check(self, rules: "list[_Rule]") -> Pending[None] | None:
        """Judge by what is here, and then by what is elsewhere, if anybody else is there."""
        for rule in rules:
            rule.check(self.count(rule.what, rule.name))
        return self._ask(rules)

    def _ask(self, rules: "list[_Rule]") -> Pending[None] | None:
        if not rules:
            return None
        rule, *rest = rules
        asked = self.elsewhere(rule.what, rule.name)
        if asked is None:
            return None

        def judge(count: int) -> Pending[None] | None:
            own = rule.what == "user-channels"  # It is there by now, and counts itself.
            rule.check(self.count(rule.what, rule.name) - own + count)
            return self._ask(rest)

        return asked.chain(judge)


@attrs.frozen
class _Rule:
    """A limit of something that is counted, and what is said when it is reached."""

    what: Counted
    name: str
    limit: int | None
    text: str

    def check(self, count: int) -> None:
        """Raise `NotAllowed` if there are so many already."""
        assert self.limit is not None
        if count >= self.limit:
            raise NotAllowed(self.text.format(self.limit))

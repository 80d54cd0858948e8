"""Policies: those of users, and those of the operator."""

import html
from typing import Any

from amqpbroker.broker.policy_keys import check_policy
from amqpbroker.definitions import PolicyDefinition, delete, put
from amqpbroker.errors import DefinitionError
from amqpbroker.management import rendering
from amqpbroker.management.call import Call, Fault, bad_request
from amqpbroker.management.listing import Listing
from amqpbroker.queues.queue import Pending


def parse_policy(
    vhost: str, name: str, body: dict[str, Any], is_operator: bool
) -> PolicyDefinition:
    """A policy as an object of JSON says it. Raises `DefinitionError`."""
    policy = PolicyDefinition(
        vhost,
        name,
        body.get("pattern", ""),
        _sorted(body.get("definition", {})),
        0 if body.get("priority") is None else body["priority"],
        "all" if body.get("apply-to") is None else body["apply-to"],
        is_operator,
    )
    check_policy(policy)
    return policy


def _sorted(definition: Any) -> Any:
    """RabbitMQ keeps the keys of a definition in this order."""
    return dict(sorted(definition.items())) if isinstance(definition, dict) else definition


class PolicyResource:
    """What is done with policies; with the operator's, if ``is_operator``."""

    def __init__(self, is_operator: bool) -> None:
        self._is_operator = is_operator

    def list(self, call: Call) -> Listing:
        """The policies of all virtual hosts that the user sees, or of one."""
        found = [
            policy
            for vhost in call.visible_vhosts()
            for policy in vhost.policies.all(self._is_operator)
        ]
        return Listing(found, rendering.policy, lambda policy: (policy.priority, policy.name))

    def _named(self, call: Call) -> PolicyDefinition | None:
        vhost = call.broker.vhosts.get(call.path["vhost"])
        return None if vhost is None else vhost.policies.named(call.path["name"], self._is_operator)

    def exists(self, call: Call) -> bool:
        """Whether the policy of the path is there."""
        return self._named(call) is not None

    def get(self, call: Call) -> Any:
        """One policy."""
        policy = self._named(call)
        assert policy is not None
        return rendering.policy(policy)

    def put(self, call: Call) -> Pending[None] | None:
        """Set a policy."""
        if call.path["vhost"] not in call.broker.vhosts:
            raise Fault(404, "not_found", "vhost_not_found")
        call.fields("pattern", "definition")
        vhost, name = call.path["vhost"], call.path["name"]
        try:
            policy = parse_policy(vhost, name, call.body, self._is_operator)
        except DefinitionError as error:
            raise bad_request(html.escape(str(error), quote=False)) from error
        return call.broker.submit(put(policy))

    def delete(self, call: Call) -> Pending[None] | None:
        """Clear a policy."""
        policy = self._named(call)
        assert policy is not None
        return call.broker.submit(delete(policy))


USERS = PolicyResource(is_operator=False)
OPERATORS = PolicyResource(is_operator=True)

"""Policies: those of users, and those of the operator."""

import html
from collections.abc import Container
from typing import Any

from amqpbroker.broker.policy_keys import check_policy
from amqpbroker.definitions import PolicyDefinition, delete, put
from amqpbroker.errors import DefinitionError
from amqpbroker.management import rendering
from amqpbroker.management.call import Call, Fault, bad_request, not_found
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


_KEYS = {"name", "pattern", "definition", "priority", "apply-to"}


async def apply(call: Call) -> Any:
    """Set several policies, all or none: nothing is changed unless each of them may be.

    With ``dry_run`` nothing is changed at all. The answer says of each what it is: new, changed, or
    there already. Should the cluster's store fail halfway, it may be asked again.
    """
    vhost = call.broker.vhosts.get(call.path["vhost"])
    if vhost is None:
        raise not_found()
    [asked] = call.fields("policies")
    wanted = _parse_all(vhost.name, asked)
    changes = []
    gathered = call.gather()
    for policy in wanted:
        there = vhost.policies.named(policy.name)
        change = "new" if there is None else "none" if there == policy else "changed"
        changes.append({"name": policy.name, "change": change})
        if change != "none" and not call.flag("dry_run"):
            gathered.add(call.broker.submit(put(policy)))
    await gathered.all()
    return changes


def _parse_all(vhost: str, asked: Any) -> list[PolicyDefinition]:
    """Policies as a list of JSON says them. Raises `Fault` (400), which tells all that is wrong."""
    if not isinstance(asked, list):
        raise bad_request("policies must be a list of objects")
    wanted: dict[str, PolicyDefinition] = {}
    faults = []
    for place, each in enumerate(asked, 1):
        name = each.get("name") if isinstance(each, dict) else None
        title = f"policy '{name}'" if isinstance(name, str) else f"policy number {place}"
        fault = _fault(each, name, wanted)
        if fault is None:
            try:
                wanted[str(name)] = parse_policy(vhost, str(name), each, is_operator=False)
            except DefinitionError as error:
                fault = "; ".join(line for line in str(error).splitlines()[1:] if line)
        if fault is not None:
            faults.append(f"{title}: {fault}")
    if faults:
        raise bad_request("\n".join(faults))
    return list(wanted.values())


def _fault(policy: Any, name: Any, before: Container[str]) -> str | None:
    """What is wrong with a policy, apart from what it says."""
    if not isinstance(policy, dict):
        return "it is no object"
    missing = [key for key in ("name", "pattern", "definition") if key not in policy]
    if missing:
        return f"it has no {' and no '.join(missing)}"
    if not isinstance(name, str) or not name:
        return "its name must be a text"
    strange = sorted(policy.keys() - _KEYS)
    if strange:
        return f"it has {', '.join(strange)}, which no policy has"
    return "it is there twice" if name in before else None


USERS = PolicyResource(is_operator=False)
OPERATORS = PolicyResource(is_operator=True)

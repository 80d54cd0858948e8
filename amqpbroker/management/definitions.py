"""All definitions as one document, out and in (RabbitMQ: Definition Export and Import).

An import adds and never takes away. What is there already stays: users, permissions and policies
are changed, virtual hosts described anew, exchanges and queues left as they are.
"""

import html
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from amqpbroker.broker.declaring import NOBODY
from amqpbroker.broker.vhost import VHost, check_exchange_type
from amqpbroker.definitions import (
    BindingDefinition,
    Definition,
    ExchangeDefinition,
    GlobalParameterDefinition,
    PermissionDefinition,
    QueueDefinition,
    TopicPermissionDefinition,
    VHostDefinition,
    put,
)
from amqpbroker.errors import AmqpError, DefinitionError
from amqpbroker.management import identities, parameters, policies, rendering, topology
from amqpbroker.management.call import Call, Fault, bad_request
from amqpbroker.management.encoding import encode, table
from amqpbroker.management.listing import Breather
from amqpbroker.management.overview import VERSION

_QUEUE = ("name", "vhost", "durable", "auto_delete", "arguments")
_EXCHANGE = ("name", "vhost", "type", "durable", "auto_delete", "internal", "arguments")
_BINDING = (
    "source",
    "vhost",
    "destination",
    "destination_type",
    "routing_key",
    "arguments",
)


# -- out -----------------------------------------------------------------------------------------


async def export(call: Call) -> Any:
    """All definitions; those of one virtual host, which then is not named, if the path does."""
    breather = Breather(call.broker.world.clock)
    one = call.vhost if "vhost" in call.path else None
    vhosts = list(call.broker.vhosts.values()) if one is None else [one]
    left_out = () if one is None else ("vhost",)
    whole: dict[str, Any] = {"rabbit_version": VERSION, "rabbitmq_version": VERSION}
    if one is None:
        whole |= {"product_name": "RabbitMQ", "product_version": VERSION}
    for name, things in _sections(call, vhosts, one is None):
        pieces = []
        for thing in things:
            pieces.append(encode({key: thing[key] for key in thing if key not in left_out}))
            await breather.breathe()
        whole[name] = msgspec.Raw(b"[" + b",".join(pieces) + b"]")
    return msgspec.Raw(encode(whole))


def _sections(
    call: Call, vhosts: list[VHost], with_users: bool
) -> Iterable[tuple[str, Iterable[dict[str, Any]]]]:
    broker = call.broker
    if with_users:
        yield "users", map(rendering.user, list(broker.users.values()))
        yield "vhosts", map(_vhost, vhosts)
        yield "permissions", map(rendering.record, broker.permissions())
        yield "topic_permissions", map(rendering.record, broker.topic_permissions())
    yield "parameters", (each for vhost in vhosts for each in parameters.of_vhost(vhost))
    if with_users:
        yield "global_parameters", map(rendering.record, broker.global_parameters.values())
    yield (
        "policies",
        (rendering.policy(each) for vhost in vhosts for each in vhost.policies.all()),
    )
    yield (
        "queues",
        (
            _only(rendering.record(queue.definition), _QUEUE)
            for vhost in vhosts
            for queue in list(vhost.queues.values())
            if not queue.definition.exclusive
        ),
    )
    yield (
        "exchanges",
        (
            _only(rendering.record(exchange.definition), _EXCHANGE)
            for vhost in vhosts
            for exchange in list(vhost.router.exchanges.values())
            if _is_ours(exchange.definition.name)
        ),
    )
    yield "bindings", (_binding(each) for vhost in vhosts for each in _bindings(vhost))


def _vhost(vhost: VHost) -> dict[str, Any]:
    about = rendering.vhost_metadata(vhost)
    return {"name": vhost.name, **about, "metadata": about}


def _only(record: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    kept = {name: record[name] for name in names}
    return kept | {"arguments": table(kept["arguments"])}


def _binding(binding: BindingDefinition) -> dict[str, Any]:
    return _only(rendering.record(binding), _BINDING)


def _is_ours(exchange: str) -> bool:
    return bool(exchange) and not exchange.startswith("amq.")


def _bindings(vhost: VHost) -> Iterable[BindingDefinition]:
    """Those that somebody has made, and that do not end with a connection."""
    for exchange in list(vhost.router.exchanges.values()):
        for binding in list(exchange.bindings.values()):
            queue = vhost.queues.get(binding.destination)
            to_queue = binding.destination_type == "queue"
            if not to_queue or (queue is not None and not queue.definition.exclusive):
                yield binding


# -- in ------------------------------------------------------------------------------------------


async def take_in(call: Call) -> None:
    """Add definitions: all there are in the body, or those for one virtual host."""
    if "vhost" in call.path:
        topology.vhost_to_write(call)
    try:
        body = call.body
    except Fault:
        raise bad_request("failed_to_parse_json") from None
    for name, take in _TAKERS.items():
        things = body.get(name) or []
        if not isinstance(things, list) or not all(isinstance(each, dict) for each in things):
            raise bad_request(f"{name} must be a list of objects")
        if name == "queues":
            _check_limits(call, things)
        await _take_all(call, take, things)


def _check_limits(call: Call, queues: list[dict[str, Any]]) -> None:
    """Raise `Fault` (400) if there is no room for all the queues that are new."""
    new: Counter[str] = Counter()
    for queue in queues:
        name = call.path.get("vhost", queue.get("vhost"))
        vhost = call.broker.vhosts.get(name) if isinstance(name, str) else None
        if vhost is not None and queue.get("name") not in vhost.queues:
            new[vhost.name] += 1
    for name, count in new.items():
        there = call.broker.vhosts[name]
        limit = there.limit("max-queues")
        if limit is not None and len(there.queues) + count > limit:
            raise bad_request(
                f'Adding {count} queue(s) to virtual host "{name}" would exceed the limit of'
                f" {limit} queue(s).\n\nThis virtual host currently has {len(there.queues)}"
                " queue(s) defined.\n\nImport aborted!"
            )


_Taker = Callable[[Call, dict[str, Any]], Any]


async def _take_all(call: Call, take: _Taker, things: list[dict[str, Any]]) -> None:
    """Make what one part of the document names; the next part may build on it."""
    breather = Breather(call.broker.world.clock)
    gathered = call.gather()
    try:
        for thing in things:
            gathered.add(take(call, thing))
            await breather.breathe()
        await gathered.all()
    except AmqpError as error:
        raise bad_request(error.text) from error
    except KeyError as error:
        raise bad_request(f"key {error} is missing in {encode(thing).decode()}") from error
    except (TypeError, ValueError) as error:
        raise bad_request(f"{encode(thing).decode()} makes no sense: {error}") from error


def _vhost_of(call: Call, thing: dict[str, Any]) -> VHost:
    name = call.path.get("vhost", thing.get("vhost", "undefined"))
    vhost = call.broker.vhosts.get(name)
    if vhost is None:
        raise bad_request(["no_such_vhost", name])
    return vhost


def _take_user(call: Call, thing: dict[str, Any]) -> Any:
    return call.broker.submit(put(identities.parse_user(call.broker, thing["name"], thing)))


def _take_vhost(call: Call, thing: dict[str, Any]) -> Any:
    about = {**(thing.get("metadata") or {}), **thing}
    wanted = VHostDefinition(
        thing["name"],
        about.get("description") or "",
        identities.parse_tags(about.get("tags") or ""),
        about.get("default_queue_type") or "",
    )
    return call.broker.submit(put(wanted))


def _known_user(call: Call, thing: dict[str, Any]) -> str:
    name: str = thing["user"]
    if name not in call.broker.users:
        raise bad_request(["no_such_user", name])
    return name


def _take_permission(call: Call, thing: dict[str, Any]) -> Any:
    vhost, user = _vhost_of(call, thing), _known_user(call, thing)
    wanted = PermissionDefinition(
        vhost.name, user, thing["configure"], thing["write"], thing["read"]
    )
    return call.broker.submit(put(wanted))


def _take_topic_permission(call: Call, thing: dict[str, Any]) -> Any:
    vhost, user = _vhost_of(call, thing), _known_user(call, thing)
    wanted = TopicPermissionDefinition(
        vhost.name, user, thing["exchange"], thing["write"], thing["read"]
    )
    return call.broker.submit(put(wanted))


def _take_exchange(call: Call, thing: dict[str, Any]) -> Any:
    vhost = _vhost_of(call, thing)
    if thing["name"] in vhost.router.exchanges:
        return None
    check_exchange_type(thing["type"])
    wanted = ExchangeDefinition(
        vhost.name,
        thing["name"],
        thing["type"],
        thing["durable"],
        thing["auto_delete"],
        thing.get("internal", False),
        thing.get("arguments") or {},
    )
    return vhost.declare_exchange(wanted)


def _take_queue(call: Call, thing: dict[str, Any]) -> Any:
    vhost = _vhost_of(call, thing)
    if thing["name"] in vhost.queues:
        return None
    arguments = thing.get("arguments") or {}
    wanted = QueueDefinition(
        vhost.name,
        thing["name"],
        durable=thing["durable"],
        auto_delete=thing["auto_delete"],
        arguments=arguments,
    )
    return vhost.declare_queue(wanted, NOBODY)


def _take_binding(call: Call, thing: dict[str, Any]) -> Any:
    vhost = _vhost_of(call, thing)
    kind = thing["destination_type"]
    there = vhost.queues if kind == "queue" else vhost.router.exchanges
    if thing["source"] not in vhost.router.exchanges or thing["destination"] not in there:
        return None  # Of what is not there nobody takes notice (RabbitMQ).
    wanted = BindingDefinition(
        vhost.name,
        thing["source"],
        thing["destination"],
        thing["routing_key"],
        thing.get("arguments") or {},
        kind,
    )
    return vhost.bind(wanted, NOBODY)


def _take_policy(call: Call, thing: dict[str, Any]) -> Any:
    vhost, name = _vhost_of(call, thing).name, thing["name"]
    return _put(
        call,
        f"{vhost}/{name}",
        lambda: policies.parse_policy(vhost, name, thing, is_operator=False),
    )


def _take_parameter(call: Call, thing: dict[str, Any]) -> Any:
    vhost, component, name = _vhost_of(call, thing).name, thing["component"], thing["name"]
    value = thing["value"] or {}  # An object that is empty RabbitMQ writes as a list.
    return _put(
        call,
        f"{vhost}/{component}/{name}",
        lambda: parameters.parse_parameter(vhost, component, name, value),
    )


def _put(call: Call, what: str, parse: Callable[[], Definition]) -> Any:
    """Put in place what ``parse`` makes of the document."""
    try:
        wanted = parse()
    except DefinitionError as error:
        text = html.escape(str(error), quote=False)
        raise bad_request(f"{text} ({what})") from error
    return call.broker.submit(put(wanted))


def _take_global_parameter(call: Call, thing: dict[str, Any]) -> Any:
    return call.broker.submit(put(GlobalParameterDefinition(thing["name"], thing["value"])))


_TAKERS: dict[str, _Taker] = {
    "users": _take_user,
    "vhosts": _take_vhost,
    "permissions": _take_permission,
    "topic_permissions": _take_topic_permission,
    "global_parameters": _take_global_parameter,
    "exchanges": _take_exchange,
    "policies": _take_policy,
    "parameters": _take_parameter,
    "queues": _take_queue,
    "bindings": _take_binding,
}
"""The parts of the document, each after those that it names."""

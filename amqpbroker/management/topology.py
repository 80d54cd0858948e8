"""Queues, exchanges and bindings."""

from collections.abc import Iterable, Iterator
from typing import Any, Literal
from urllib.parse import quote_plus

from amqpbroker.broker import declaring
from amqpbroker.broker.vhost import Declared, VHost, check_name
from amqpbroker.definitions import BindingDefinition, ExchangeDefinition, QueueDefinition
from amqpbroker.management import connections, elsewhere, rendering
from amqpbroker.management.call import Call, Fault, Reply, bad_request
from amqpbroker.management.listing import Listing
from amqpbroker.queues.queue import Pending, Queue
from amqpbroker.routing.router import Exchange

_BINDINGS_KEY = ("vhost", "source", "destination_type", "destination", "routing_key")


def vhost_to_write(call: Call) -> VHost:
    """The virtual host of the path. Raises `Fault` (404), in the words for those who write."""
    vhost = call.broker.vhosts.get(call.path["vhost"])
    if vhost is None:
        raise Fault(404, "not_found", "vhost_not_found")
    return vhost


def _arguments(body: dict[str, Any]) -> dict[str, Any]:
    arguments = body.get("arguments") or {}
    if not isinstance(arguments, dict):
        raise bad_request("arguments must be an object")
    return arguments


# -- queues --------------------------------------------------------------------------------------


async def queues(call: Call) -> Listing:
    """The queues of all virtual hosts that the user sees, or of one."""
    await call.look_around()
    found = [queue for vhost in call.visible_vhosts() for queue in vhost.queues.values()]
    return Listing(found, lambda queue: rendering.queue(call, queue), _queue_key)


def _queue_key(queue: Queue) -> tuple[str, ...]:
    return queue.definition.vhost, queue.definition.name


def queue_exists(call: Call) -> bool:
    """Whether the queue of the path is there."""
    vhost = call.broker.vhosts.get(call.path["vhost"])
    return vhost is not None and call.path["queue"] in vhost.queues


async def queue(call: Call) -> Any:
    """One queue."""
    vhost, name = call.vhost.name, call.path["queue"]
    there = call.vhost.queues[name]
    await call.look_around()
    consumers = [
        rendering.consumer_of_channel(call, each)
        for each in await connections.gathered(call, connections.consumers_here(call, vhost, name))
    ]
    consumers += await elsewhere.objects(call, "consumers", vhost=vhost, queue=name)
    rendered = rendering.queue(call, there)
    return None if rendered is None else rendering.queue_in_full(rendered, consumers)


def put_queue(call: Call) -> Declared | Pending[Declared]:
    """Declare a queue."""
    vhost, name = vhost_to_write(call), call.path["queue"]
    if len(name.encode("utf-8", "surrogateescape")) > 255:
        raise bad_request(f"queue should be less than 255 bytes, actually was {len(name)}\n")
    check_name("queue", name)
    wanted = QueueDefinition(
        vhost.name,
        name,
        durable=call.flag("durable") or False,
        auto_delete=call.flag("auto_delete") or False,
        arguments=_arguments(call.body),
    )
    return declaring.declare_queue(call.asker, wanted)


def delete_queue(call: Call) -> int | Pending[int]:
    """Delete a queue, unless it is in use or not empty and that matters."""
    name, asker = call.path["queue"], call.asker
    asker.check("configure", "queue", name)
    if_unused = call.query.get("if-unused") == "true"
    if_empty = call.query.get("if-empty") == "true"
    return asker.vhost.delete_queue(name, asker.owner, if_unused, if_empty)


# -- exchanges -----------------------------------------------------------------------------------


def exchanges(call: Call) -> Listing:
    """The exchanges of all virtual hosts that the user sees, or of one."""
    found = [
        exchange for vhost in call.visible_vhosts() for exchange in vhost.router.exchanges.values()
    ]
    return Listing(found, lambda exchange: rendering.exchange(call, exchange), _exchange_key)


def _exchange_key(exchange: Exchange) -> tuple[str, ...]:
    return exchange.definition.vhost, exchange.definition.name


def exchange_exists(call: Call) -> bool:
    """Whether the exchange of the path is there."""
    vhost = call.broker.vhosts.get(call.path["vhost"])
    return vhost is not None and call.path["exchange"] in vhost.router.exchanges


def exchange(call: Call) -> Any:
    """One exchange."""
    return rendering.exchange_in_full(call, call.vhost.router.exchanges[call.path["exchange"]])


def put_exchange(call: Call) -> Pending[None] | None:
    """Declare an exchange."""
    vhost = vhost_to_write(call)
    kind = call.body.get("type", "direct")
    if not isinstance(kind, str):
        raise bad_request("type must be a string")
    wanted = ExchangeDefinition(
        vhost.name,
        call.path["exchange"],
        kind,
        call.flag("durable") or False,
        call.flag("auto_delete") or False,
        call.flag("internal") or False,
        _arguments(call.body),
    )
    return declaring.declare_exchange(call.asker, wanted)


def delete_exchange(call: Call) -> Pending[None] | None:
    """Delete an exchange, unless it is in use and that matters."""
    if_unused = call.query.get("if-unused") == "true"
    return declaring.delete_exchange(call.asker, call.path["exchange"], if_unused)


# -- bindings ------------------------------------------------------------------------------------


def all_bindings(vhost: VHost) -> Iterator[BindingDefinition]:
    """The bindings of a virtual host; what the default exchange implies comes first."""
    yield from _implied_bindings(vhost)
    for exchange in list(vhost.router.exchanges.values()):
        yield from list(exchange.bindings.values())


def _implied_bindings(vhost: VHost) -> Iterator[BindingDefinition]:
    for name in list(vhost.queues):
        yield implied_binding(vhost, name)


def implied_binding(vhost: VHost, queue: str) -> BindingDefinition:
    """How the default exchange is bound to a queue."""
    return BindingDefinition(vhost.name, "", queue, queue)


def _listing(found: Iterable[BindingDefinition]) -> Listing:
    def key(binding: BindingDefinition) -> tuple[Any, ...]:
        return tuple(getattr(binding, name) for name in _BINDINGS_KEY)

    return Listing(found, rendering.binding, key, is_paged=False)


def bindings(call: Call) -> Listing:
    """The bindings in all virtual hosts that the user sees, or in one."""
    return _listing(each for vhost in call.visible_vhosts() for each in all_bindings(vhost))


def bindings_from_exchange(call: Call) -> Listing:
    """Those that lead from an exchange."""
    vhost, name = call.vhost, call.path["exchange"]
    if not name:
        return _listing(_implied_bindings(vhost))
    exchange = vhost.router.exchanges.get(name)
    return _listing([] if exchange is None else list(exchange.bindings.values()))


def bindings_to_exchange(call: Call) -> Listing:
    """Those that lead to an exchange."""
    return _listing(call.vhost.router.bindings_to_exchange(call.path["exchange"]))


def bindings_to_queue(call: Call) -> Listing:
    """Those that lead to a queue."""
    vhost, name = call.vhost, call.path["queue"]
    implied = [implied_binding(vhost, name)] if name in vhost.queues else []
    return _listing(implied + vhost.router.bindings_to_queue(name))


def _kind(call: Call) -> Literal["queue", "exchange"]:
    match call.path["dtype"]:
        case "q":
            return "queue"
        case "e":
            return "exchange"
    raise bad_request("a binding leads to a queue (q) or to an exchange (e)")


def _between(call: Call) -> list[BindingDefinition]:
    """The bindings from the source to the destination of the path."""
    vhost = call.broker.vhosts.get(call.path["vhost"])
    if vhost is None:
        return []
    source, destination, kind = call.path["source"], call.path["destination"], _kind(call)
    if not source:
        there = kind == "queue" and destination in vhost.queues
        return [implied_binding(vhost, destination)] if there else []
    exchange = vhost.router.exchanges.get(source)
    return [
        each
        for each in ([] if exchange is None else exchange.bindings.values())
        if (each.destination, each.destination_type) == (destination, kind)
    ]


def bindings_between(call: Call) -> Listing:
    """Those from one source to one destination."""
    return _listing(_between(call))


async def bind(call: Call) -> Reply:
    """Bind a queue or an exchange."""
    vhost, destination = vhost_to_write(call), call.path["destination"]
    routing_key = call.body.get("routing_key") or ""
    if not isinstance(routing_key, str):
        raise bad_request("routing_key must be a string")
    binding = BindingDefinition(
        vhost.name,
        call.path["source"],
        destination,
        routing_key,
        _arguments(call.body),
        _kind(call),
    )
    await call.settled(declaring.bind(call.asker, binding))
    key = rendering.properties_key(binding)
    return Reply(201, location=f"{quote_plus(destination)}/{quote_plus(key, safe='~')}")


def _named(call: Call) -> BindingDefinition | None:
    key = call.path["props"]
    return next((each for each in _between(call) if rendering.properties_key(each) == key), None)


def binding_exists(call: Call) -> bool:
    """Whether the binding of the path is there."""
    return _named(call) is not None


def binding(call: Call) -> Any:
    """One binding."""
    there = _named(call)
    assert there is not None
    return rendering.binding(there)


def unbind(call: Call) -> Pending[None] | None:
    """Unbind a queue or an exchange."""
    there = _named(call)
    assert there is not None
    return declaring.unbind(call.asker, there)

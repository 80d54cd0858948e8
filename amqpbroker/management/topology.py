"""Queues, exchanges and bindings."""

from typing import Any

from amqpbroker.broker import declaring
from amqpbroker.broker.vhost import check_name
from amqpbroker.definitions import QueueDefinition
from amqpbroker.management import rendering
from amqpbroker.management.call import Call
from amqpbroker.management.listing import Listing
from amqpbroker.queues.queue import Pending, Queue


def queues(call: Call) -> Listing:
    """The queues of all virtual hosts that the user sees, or of one."""
    found = [queue for vhost in call.visible_vhosts() for queue in vhost.queues.values()]
    return Listing(found, lambda queue: rendering.queue(call, queue), _queue_key)


def _queue_key(queue: Queue) -> tuple[str, ...]:
    return queue.definition.vhost, queue.definition.name


def queue_exists(call: Call) -> bool:
    """Whether the queue of the path is there."""
    vhost = call.broker.vhosts.get(call.path["vhost"])
    return vhost is not None and call.path["queue"] in vhost.queues


def queue(call: Call) -> Any:
    """One queue."""
    return rendering.queue(call, call.vhost.queues[call.path["queue"]])


def put_queue(call: Call) -> Queue | Pending[Queue]:
    """Declare a queue."""
    name = call.path["queue"]
    check_name("queue", name)
    wanted = QueueDefinition(
        call.vhost.name,
        name,
        durable=call.flag("durable") or False,
        auto_delete=call.flag("auto_delete") or False,
        arguments=call.body.get("arguments") or {},
    )
    return declaring.declare_queue(call.asker, wanted)


def delete_queue(call: Call) -> Any:
    """Delete a queue, unless the query has something against it."""
    name, asker = call.path["queue"], call.asker
    asker.check("configure", "queue", name)
    if_unused = call.query.get("if-unused") == "true"
    if_empty = call.query.get("if-empty") == "true"
    return asker.vhost.delete_queue(name, asker.owner, if_unused, if_empty)

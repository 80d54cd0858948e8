"""What RabbitMQ's tools do over Erlang, and its API has no path for: ours are /api/amqpbroker/…."""

from amqpbroker.management.call import Call


def is_this_node(call: Call) -> bool:
    """Whether the path names the node that is asked."""
    return call.path["node"] == call.broker.name


def stop(call: Call) -> None:
    """Have the node stop, as a signal would."""
    call.facts.stop()

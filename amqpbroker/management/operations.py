"""What RabbitMQ's tools do over Erlang, and its API has no path for: ours are /api/amqpbroker/…."""

from amqpbroker.errors import ConfigError
from amqpbroker.management.call import Call, bad_request


def is_this_node(call: Call) -> bool:
    """Whether the path names the node that is asked."""
    return call.path["node"] == call.broker.name


def configure(call: Call) -> None:
    """Change settings of the node while it runs. Raises `Fault` (400)."""
    try:
        call.facts.configure(call.body)
    except ConfigError as error:
        raise bad_request(str(error)) from error


def stop(call: Call) -> None:
    """Have the node stop, as a signal would."""
    call.facts.stop()

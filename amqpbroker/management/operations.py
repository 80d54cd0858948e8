"""What RabbitMQ's tools do over Erlang, and its API has no path for: ours are /api/amqpbroker/…."""

from amqpbroker.errors import ConfigError, NotFound
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


def drain(call: Call) -> None:
    """Have the node serve no clients any more."""
    call.facts.drain()


async def revive(call: Call) -> None:
    """Have the node serve clients again. Raises `Fault` (400)."""
    try:
        await call.facts.revive()
    except ConfigError as error:
        raise bad_request(str(error)) from error


def suspend(call: Call) -> None:
    """Have the node take no more clients; those that are there stay."""
    call.facts.suspend()


async def resume(call: Call) -> None:
    """Have the node take clients again. Raises `Fault` (400)."""
    try:
        await call.facts.resume()
    except ConfigError as error:
        raise bad_request(str(error)) from error


async def forget(call: Call) -> None:
    """Strike a node off the cluster that is down for ever. Raises `AmqpError`."""
    if call.facts.forget is None:
        raise NotFound("The node selected is not in the cluster.")
    await call.facts.forget(call.path["node"])

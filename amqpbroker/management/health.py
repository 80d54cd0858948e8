"""Whether the broker is well: the checks that load balancers and operators make."""

from collections.abc import Iterator
from typing import Any

from pamqp import commands

from amqpbroker.broker.declaring import declare_queue
from amqpbroker.broker.inner import InnerPublisher
from amqpbroker.broker.session import Ends
from amqpbroker.broker.vhost import Declared
from amqpbroker.definitions import QueueDefinition
from amqpbroker.management import nodes
from amqpbroker.management.call import Call, Reply, bad_request

_OK = {"status": "ok"}
_ALIVENESS_QUEUE = "aliveness-test"


def _failed(reason: str, **more: Any) -> Reply:
    return Reply(503, {"status": "failed", "reason": reason, **more})


async def aliveness(call: Call) -> Any:
    """Publish a message and get it, in a queue of its own."""
    vhost, asker = call.vhost, call.asker
    wanted = QueueDefinition(vhost.name, _ALIVENESS_QUEUE)
    made = await call.settled(declare_queue(asker, wanted))
    assert isinstance(made, Declared)
    ends = Ends((call.caller.host, 0), ("", 0))
    publisher = InnerPublisher(call.broker, vhost, call.user, asker.access, ends)
    try:
        body = b"test_message"
        taken = publisher.publish("", _ALIVENESS_QUEUE, commands.Basic.Properties(), body)
        await call.settled(taken)
    finally:
        publisher.close()
    got = await call.settled(made.queue.get(no_ack=True))
    return _OK if got is not None else _failed("the test message did not come")


def alarms(call: Call) -> Any:
    """Whether some resource runs low, on whichever node."""
    low = list(_alarms(call))
    return _failed("There are alarms in effect in the cluster", alarms=low) if low else _OK


def _alarms(call: Call) -> Iterator[dict[str, str]]:
    """The nodes and their resources that run low."""
    running = {} if call.cluster is None else call.cluster.running
    low = {node: member.alarms for node, member in running.items()}
    for node, resources in {
        **low,
        call.broker.name: nodes.own_alarms(call.broker, call.facts),
    }.items():
        for resource in resources:
            yield {"node": node, "resource": resource}


def local_alarms(call: Call) -> Any:
    """Whether some resource of this node runs low."""
    low = [each for each in _alarms(call) if each["node"] == call.broker.name]
    return _failed("There are alarms in effect on the node", alarms=low) if low else _OK


def port(call: Call) -> Any:
    """Whether anything is served at a port."""
    try:
        wanted = int(call.path["port"])
    except ValueError:
        raise bad_request("Invalid port") from None
    ports = [listening.port for listening in call.facts.listeners]
    if wanted in ports:
        return {"status": "ok", "port": wanted}
    return _failed("No active listener", missing=wanted, ports=ports)


def protocol(call: Call) -> Any:
    """Whether a protocol is served."""
    wanted = call.path["protocol"]
    names = {"amqp091": "amqp", "amqp0.9.1": "amqp"}
    protocols = [listening.protocol for listening in call.facts.listeners]
    if names.get(wanted, wanted) in protocols:
        return {"status": "ok", "protocol": wanted}
    return _failed("No active listener", missing=wanted, protocols=protocols)


def virtual_hosts(call: Call) -> Any:
    """Whether all virtual hosts work, which they do as long as the node does."""
    return _OK


def certificates(call: Call) -> Any:
    """Whether certificates expire soon: there are none."""
    if call.path["unit"] not in ("days", "weeks", "months", "years"):
        raise bad_request("Time unit not recognised. Use: days, weeks, months, years.")
    return _OK


def critical(call: Call) -> Any:
    """Whether the node may not stop now, because others need it."""
    if call.cluster is not None and len(call.cluster.nodes) > 1:
        return _OK
    return {"status": "ok", "reason": "single node cluster"}


def node(call: Call) -> Any:
    """The old check of a node."""
    return _OK


def start_vhost(call: Call) -> None:
    """Start a virtual host on a node: all that are there have started."""

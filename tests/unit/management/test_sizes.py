"""What the messages of a queue come to, in octets."""

import pytest
from pamqp import commands

from amqpbroker.broker.broker import Broker
from amqpbroker.management import rendering
from amqpbroker.queues.queue import QueueSizes, QueueStat
from amqpbroker.testing.api import Api
from amqpbroker.testing.peer import Peer

PERSISTENT = commands.Basic.Properties(delivery_mode=2)


@pytest.fixture
def peer(broker: Broker) -> Peer:
    peer = Peer(broker).open(1)
    peer.declare("q", durable=True)
    return peer


async def sizes(api: Api, queue: str = "q") -> tuple[int, int, int, int]:
    """All, ready, unacknowledged, persistent."""
    found = await api.get(f"/queues/%2F/{queue}")
    assert found["message_bytes_ram"] == found["message_bytes"]
    names = ("", "_ready", "_unacknowledged", "_persistent")
    all_, ready, unsettled, persistent = (found[f"message_bytes{name}"] for name in names)
    return all_, ready, unsettled, persistent


async def test_bodies_are_counted_where_they_are(api: Api, peer: Peer) -> None:
    assert await sizes(api) == (0, 0, 0, 0)
    peer.publish("q", bytes(10), bytes(200), properties=PERSISTENT)
    peer.publish("q", bytes(3000))
    assert await sizes(api) == (3210, 3210, 0, 210)
    assert (await api.get("/queues/%2F/q"))["messages_persistent"] == 2

    peer.send(commands.Basic.Get(queue="q"))
    peer.send(commands.Basic.Get(queue="q"))
    assert await sizes(api) == (3210, 3000, 210, 210)
    peer.send(commands.Basic.Reject(1, requeue=True))
    assert await sizes(api) == (3210, 3010, 200, 210)
    peer.send(commands.Basic.Ack(2))
    assert (await sizes(api))[:3] == (3010, 3010, 0)
    peer.send(commands.Queue.Purge(queue="q"))
    assert await sizes(api) == (0, 0, 0, 0)


async def test_what_is_paged_out_is_not_in_memory(api: Api) -> None:
    stat, sizes = QueueStat(10, 5, 0), QueueSizes(1000, 500, paged_out=8, paged_out_bytes=800)
    found = rendering.queue_sizes(stat, sizes)

    assert (found["messages_ram"], found["messages_paged_out"]) == (7, 8)
    assert (found["messages_ready_ram"], found["messages_unacknowledged_ram"]) == (2, 5)
    assert (found["message_bytes_ram"], found["message_bytes_paged_out"]) == (700, 800)
    assert 700 < found["memory"] < 5000


async def test_metrics_say_it_too(api: Api, peer: Peer) -> None:
    peer.publish("q", bytes(10), bytes(200), properties=PERSISTENT)
    peer.send(commands.Basic.Get(queue="q"))
    sums = (await api.call("GET", "/metrics", root="")).body
    each = (await api.call("GET", "/metrics/per-object", root="")).body

    for line in ("messages_bytes", "messages_persistent_bytes"):
        assert f"\nrabbitmq_queue_{line} 210\n".encode() in sums
        assert f'\nrabbitmq_queue_{line}{{vhost="/",queue="q"}} 210\n'.encode() in each
    assert b"\nrabbitmq_queue_messages_unacked_bytes 10\n" in sums


async def test_nothing_of_a_transient_queue_is_persistent(api: Api, peer: Peer) -> None:
    peer.declare("t")
    peer.publish("t", bytes(10), properties=PERSISTENT)

    assert await sizes(api, "t") == (10, 10, 0, 0)


async def test_priorities_are_counted_in_their_lines(api: Api, peer: Peer) -> None:
    peer.declare("p", arguments={"x-max-priority": 3})
    for priority in range(4):
        properties = commands.Basic.Properties(priority=priority)
        peer.publish("p", bytes(10**priority), properties=properties)
    peer.send(commands.Basic.Get(queue="p"))

    assert await sizes(api, "p") == (1111, 111, 1000, 0)


async def test_what_waits_in_many_pieces_counts_by_its_mean(api: Api, peer: Peer) -> None:
    peer.publish("q", *[bytes(10)] * 400)
    peer.consume("q", "t")
    tags = [deliver.delivery_tag for deliver, _ in peer.deliveries()]
    peer.send(commands.Basic.Cancel("t"))
    for number, tag in enumerate(tags):
        if number % 7 in (0, 2):
            peer.send(commands.Basic.Reject(tag, requeue=True))
    ready = (await api.get("/queues/%2F/q"))["messages_ready"]

    assert await sizes(api) == (4000, 10 * ready, 4000 - 10 * ready, 0)

"""What is counted of virtual hosts and of the whole broker: sums that are made when asked for."""

from collections.abc import Iterable, Iterator
from typing import Any

from amqpbroker.broker.broker import Broker
from amqpbroker.broker.channel import Channel
from amqpbroker.broker.counts import VHostCounts
from amqpbroker.broker.vhost import VHost
from amqpbroker.management import rendering
from amqpbroker.management.call import Call
from amqpbroker.management.listing import Breather


async def stats(broker: Broker, vhosts: Iterable[VHost]) -> tuple[dict[str, int], dict[str, int]]:
    """How many messages there are in virtual hosts, and what went through them."""
    breather = Breather(broker.world.clock)
    lengths = {"messages": 0, "messages_ready": 0, "messages_unacknowledged": 0}
    counts = dict.fromkeys(_COUNTED, 0)
    for vhost in vhosts:
        _add(counts, _gone(vhost.counts))
        for exchange in list(vhost.router.exchanges.values()):
            counts["publish"] += exchange.published_in
            await breather.breathe()
        for queue in list(vhost.queues.values()):
            _add(lengths, rendering.messages(queue.glance()))
            _add(counts, _of_queue(rendering.queue_counts(queue.counts)))
            await breather.breathe()
        for channel in _channels(broker, vhost):
            counts["confirm"] += channel.publisher.window.confirmed_count
            counts["return_unroutable"] += channel.publisher.counts.returned
            counts["drop_unroutable"] += channel.publisher.counts.dropped
            await breather.breathe()
    return lengths, counts


_COUNTED = (
    "publish",
    "confirm",
    "return_unroutable",
    "drop_unroutable",
    "get",
    "get_no_ack",
    "deliver",
    "deliver_no_ack",
    "redeliver",
    "ack",
    "deliver_get",
    "get_empty",
)


def _channels(broker: Broker, vhost: VHost) -> Iterator[Channel]:
    for session in list(broker.sessions):
        if session.vhost is vhost:
            yield from list(session.channels.values())


def _of_queue(counts: dict[str, int]) -> dict[str, int]:
    """What a queue counts, but what it was given: that is counted where it is published."""
    return {name: count for name, count in counts.items() if name != "publish"}


def _gone(counts: VHostCounts) -> dict[str, int]:
    return {
        **_of_queue(rendering.queue_counts(counts.queues)),
        "publish": counts.published,
        "confirm": counts.confirmed,
        "return_unroutable": counts.returned,
        "drop_unroutable": counts.dropped,
    }


def _add(to: dict[str, int], counts: dict[str, int]) -> None:
    for name, count in counts.items():
        to[name] += count


def churn(broker: Broker) -> dict[str, int]:
    """What came and went."""
    there = broker.churn
    counts = [vhost.counts for vhost in broker.vhosts.values()]
    return {
        "channel_closed": there.channels_closed,
        "channel_created": there.channels_created,
        "connection_closed": there.connections_closed,
        "connection_created": there.connections_created,
        "queue_created": sum(each.queues_created for each in counts),
        "queue_declared": sum(each.queues_declared for each in counts),
        "queue_deleted": sum(each.queues_deleted for each in counts),
    }


def objects(broker: Broker) -> dict[str, int]:
    """How many objects there are, and messages that wait to be confirmed."""
    channels = [channel for session in broker.sessions for channel in session.channels.values()]
    windows = [channel.publisher.window for channel in channels]
    return {
        "connections": sum(session.is_open for session in broker.sessions),
        "channels": len(channels),
        "consumers": sum(len(channel.consumers) for channel in channels),
        "queues": sum(len(vhost.queues) for vhost in broker.vhosts.values()),
        "publishers": sum(window.published_count > 0 for window in windows),
        "unconfirmed": sum(window.unconfirmed_count for window in windows),
    }


async def vhost(call: Call, there: VHost) -> dict[str, Any]:
    """What a virtual host has, and what went through it."""
    lengths, counts = await stats(call.broker, [there])
    octets = {"recv_oct": 0, "send_oct": 0}
    for session in call.broker.sessions:
        if session.vhost is there:
            octets["recv_oct"] += session.connection.received_bytes
            octets["send_oct"] += session.connection.sent_bytes
    details = call.rates.details(there, octets | lengths | counts)
    without = {name: details[name] for name in details if name.removesuffix("_details") in lengths}
    traffic = {name: details[name] for name in details if name.removesuffix("_details") in octets}
    return {**traffic, **without, **rendering.message_stats(details, counts)}

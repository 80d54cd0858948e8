"""What is counted of virtual hosts and of the whole cluster: sums that are made when asked for.

Each node counts what is on it: its queues, exchanges as they are used by its clients, its channels
and connections. What the cluster has is the sum over the nodes that answer.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from amqpbroker.broker.broker import Broker
from amqpbroker.broker.channel import Channel
from amqpbroker.broker.counts import VHostCounts
from amqpbroker.broker.vhost import VHost
from amqpbroker.management import elsewhere, rendering
from amqpbroker.management.call import Call
from amqpbroker.management.listing import Breather

LENGTHS = ("messages", "messages_ready", "messages_unacknowledged")
COUNTED = (
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
OBJECTS = ("channels", "connections", "consumers")
OCTETS = ("recv_oct", "send_oct")


@attrs.frozen
class Sums:
    """Counts by name, every name that there is."""

    counts: Counter[str] = attrs.Factory(
        lambda: Counter(dict.fromkeys((*LENGTHS, *COUNTED, *OBJECTS, *OCTETS), 0))
    )

    def add(self, counts: dict[str, int]) -> None:
        """Add what something else has counted."""
        for name, count in counts.items():
            self.counts[name] += count

    def only(self, names: Iterable[str]) -> dict[str, int]:
        """Some of them."""
        return {name: self.counts[name] for name in names}


def walk(broker: Broker, vhost: VHost, into: Sums) -> Iterator[None]:
    """Add up what of a virtual host is on this node, a bit at each step."""
    into.add(_gone(vhost.counts))
    for exchange in list(vhost.router.exchanges.values()):
        into.counts["publish"] += exchange.published_in
        yield
    for queue in list(vhost.queues.values()):
        if queue.is_here:
            into.add(rendering.messages(queue.glance()))
            into.add(_of_queue(rendering.queue_counts(queue.counts)))
        yield
    for session in list(broker.sessions):
        if session.vhost is not vhost:
            continue
        into.counts["connections"] += session.is_open
        into.counts["recv_oct"] += session.connection.received_bytes
        into.counts["send_oct"] += session.connection.sent_bytes
        for channel in list(session.channels.values()):
            into.add(_of_channel(channel))
            yield


def _of_channel(channel: Channel) -> dict[str, int]:
    return {
        "channels": 1,
        "consumers": len(channel.consumers),
        "confirm": channel.publisher.window.confirmed_count,
        "return_unroutable": channel.publisher.counts.returned,
        "drop_unroutable": channel.publisher.counts.dropped,
    }


async def of_node(broker: Broker) -> Sums:
    """What is counted on this node."""
    breather = Breather(broker.world.clock)
    sums = Sums()
    for vhost in list(broker.vhosts.values()):
        for _ in walk(broker, vhost, sums):
            await breather.breathe()
    return sums


async def of_vhosts(call: Call, vhosts: Iterable[VHost]) -> tuple[dict[str, Sums], dict[str, int]]:
    """What is counted in the cluster: in each of ``vhosts``, and what came and went."""
    breather = Breather(call.broker.world.clock)
    found: dict[str, Sums] = {}
    for vhost in vhosts:
        found[vhost.name] = sums = Sums()
        for _ in walk(call.broker, vhost, sums):
            await breather.breathe()
    came_and_went = Counter(churn(call.broker))
    for told in await elsewhere.objects(call, "sums"):
        if told["vhost"] is None:
            came_and_went.update(told["sums"])
        elif told["vhost"] in found:
            found[told["vhost"]].add(told["sums"])
    return found, dict(came_and_went)


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


def churn(broker: Broker) -> dict[str, int]:
    """What came and went on this node."""
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
    """How many objects there are on this node, and messages that wait to be confirmed."""
    channels = [channel for session in broker.sessions for channel in session.channels.values()]
    windows = [channel.publisher.window for channel in channels]
    return {
        "connections": sum(session.is_open for session in broker.sessions),
        "channels": len(channels),
        "consumers": sum(len(channel.consumers) for channel in channels),
        "queues": sum(
            queue.is_here for vhost in broker.vhosts.values() for queue in vhost.queues.values()
        ),
        "publishers": sum(window.published_count > 0 for window in windows),
        "unconfirmed": sum(window.unconfirmed_count for window in windows),
    }


async def vhosts(call: Call, there: Iterable[VHost]) -> dict[str, dict[str, Any]]:
    """What virtual hosts have, and what went through them, by name."""
    by_name = {vhost.name: vhost for vhost in there}
    found, _ = await of_vhosts(call, by_name.values())
    return {name: _vhost(call, by_name[name], sums) for name, sums in found.items()}


def _vhost(call: Call, there: VHost, sums: Sums) -> dict[str, Any]:
    counts = sums.only(COUNTED)
    details = call.rates.details(there, sums.only((*OCTETS, *LENGTHS, *COUNTED)))

    def with_rates(names: Iterable[str]) -> dict[str, Any]:
        return {key: details[key] for name in names for key in (name, f"{name}_details")}

    return {
        **with_rates(OCTETS),
        **with_rates(LENGTHS),
        **rendering.message_stats(details, counts),
    }

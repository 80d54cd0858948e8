"""What this node tells the others of itself when they are asked about the cluster.

The other end of `elsewhere`. Each report is a generator of rows of JSON, which lets others in
between by an empty row where it only looks at things.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from amqpbroker.cluster.reports import Reporter
from amqpbroker.errors import NotFound
from amqpbroker.management import connections, nodes, overview, rendering, totals
from amqpbroker.management.call import LOCAL_CALLER, Call, Management
from amqpbroker.management.encoding import encode

_About = Mapping[str, str]


def reporter(management: Management) -> Reporter:
    """Makes the reports of a node."""

    def report(what: str, about: _About) -> Iterator[bytes]:
        make = _REPORTS.get(what)
        if make is None:  # The other node is newer than this one.
            raise NotFound(f"there is no report on {what}")
        call = Call(management, "GET", {}, {}, b"", {})
        call.caller = LOCAL_CALLER
        for row in make(call, about):
            yield b"" if row is None else encode(row)

    return report


Rows = Iterator[dict[str, Any] | None]


def _connections(call: Call, about: _About) -> Rows:
    for session in connections.sessions(call, **about):
        yield None if session is None else rendering.connection(call, session)


def _closed(call: Call, about: _About) -> Rows:
    """Not a report only: they are closed."""
    which = dict(about)
    reason = which.pop("reason")
    for session in connections.sessions(call, **which):
        if session is not None:
            connections.close(session, reason)
        yield None


def _channels(call: Call, about: _About) -> Rows:
    for channel in connections.channels_here(call, **about):
        yield None if channel is None else rendering.channel(call, channel)


def _channel(call: Call, about: _About) -> Rows:
    for channel in connections.channel_here(call, about["name"]):
        yield None if channel is None else rendering.channel_in_full(call, channel)


def _consumers(call: Call, about: _About) -> Rows:
    for consumer in connections.consumers_here(call, **about):
        yield None if consumer is None else rendering.consumer_of_channel(call, consumer)


def _node(call: Call, about: _About) -> Rows:
    yield nodes.this_node(call)


def _memory(call: Call, about: _About) -> Rows:
    yield {"name": call.broker.name, **nodes.this_memory(call)}


def _doors(call: Call, about: _About) -> Rows:
    yield overview.doors_here(call)


def _sums(call: Call, about: _About) -> Rows:
    """The sums of each virtual host; and what came and went, of no virtual host."""
    for vhost in list(call.broker.vhosts.values()):
        sums = totals.Sums()
        for _ in totals.walk(call.broker, vhost, sums):
            yield None
        yield {"vhost": vhost.name, "sums": sums.counts}
    yield {"vhost": None, "sums": totals.churn(call.broker)}


_REPORTS: dict[str, Callable[[Call, _About], Rows]] = {
    "channel": _channel,
    "channels": _channels,
    "closed": _closed,
    "connections": _connections,
    "consumers": _consumers,
    "doors": _doors,
    "memory": _memory,
    "node": _node,
    "sums": _sums,
}

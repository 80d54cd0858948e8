"""Connections, channels and consumers."""

from collections.abc import Iterable
from typing import Any

from amqpbroker.broker.channel import Channel
from amqpbroker.broker.consumer import ChannelConsumer
from amqpbroker.broker.session import Session
from amqpbroker.errors import ConnectionForced
from amqpbroker.management import rendering
from amqpbroker.management.access import check_owner
from amqpbroker.management.call import Call, not_found
from amqpbroker.management.listing import Listing

_REASON = "Closed via management plugin"


# -- connections ---------------------------------------------------------------------------------


def connections(call: Call) -> Listing:
    """The connections that the user may see; those in one virtual host, if the path names it."""
    return _connection_list(call, _in_vhost(call, rendering.connections(call)))


def _in_vhost(call: Call, found: Iterable[Any]) -> list[Any]:
    if "vhost" not in call.path:
        return list(found)
    return [each for each in found if each.vhost is call.vhost]


def _connection_list(call: Call, found: list[Session]) -> Listing:
    return Listing(
        found,
        lambda session: rendering.connection(call, session),
        lambda session: ("" if session.vhost is None else session.vhost.name, session.ends.name),
    )


def _named(call: Call) -> Session | None:
    name = call.path["connection"]
    return next(
        (each for each in call.broker.sessions if each.is_open and each.ends.name == name), None
    )


def connection_exists(call: Call) -> bool:
    """Whether the connection of the path is there. Raises `Fault` (401) if it is not to be seen."""
    session = _named(call)
    if session is None:
        return False
    assert session.user is not None
    check_owner(call, session.user.name)
    return True


def _connection(call: Call) -> Session:
    session = _named(call)
    if session is None:
        raise not_found()
    return session


def connection(call: Call) -> Any:
    """One connection."""
    return rendering.connection(call, _connection(call))


def close_connection(call: Call) -> None:
    """Close a connection; the header x-reason has a word for its peer."""
    _close(call, [_connection(call)])


def _close(call: Call, sessions: list[Session]) -> None:
    reason = call.headers.get("x-reason", _REASON)
    for session in sessions:
        session.fail(ConnectionForced(reason))


def connection_channels(call: Call) -> Listing:
    """The channels of a connection."""
    return _channel_list(call, list(_connection(call).channels.values()))


def _of_user(call: Call) -> list[Session]:
    name = call.path["username"]
    check_owner(call, name)
    return [
        each
        for each in call.broker.sessions
        if each.is_open and each.user is not None and each.user.name == name
    ]


def user_connections(call: Call) -> Listing:
    """The connections of a user, in short."""

    def render(session: Session) -> dict[str, Any] | None:
        whole = rendering.connection(call, session)
        return whole and {name: whole[name] for name in ("name", "vhost", "user", "node")}

    return Listing(_of_user(call), render, lambda session: (session.ends.name,), is_paged=False)


def close_user_connections(call: Call) -> None:
    """Close the connections of a user."""
    _close(call, _of_user(call))


# -- channels ------------------------------------------------------------------------------------


def channels(call: Call) -> Listing:
    """The channels that the user may see; those in one virtual host, if the path names it."""
    return _channel_list(call, _in_vhost(call, rendering.channels(call)))


def _channel_list(call: Call, found: list[Channel]) -> Listing:
    return Listing(
        found,
        lambda channel: rendering.channel(call, channel),
        lambda channel: (channel.vhost.name, channel.session.ends.name, f"{channel.number:05}"),
    )


def _channel(call: Call) -> Channel | None:
    name = call.path["channel"]
    for session in call.broker.sessions:
        if name.startswith(session.ends.name):
            for channel in session.channels.values():
                if name == f"{session.ends.name} ({channel.number})":
                    return channel
    return None


def channel_exists(call: Call) -> bool:
    """Whether the channel of the path is there. Raises `Fault` (401) if it is not to be seen."""
    channel = _channel(call)
    if channel is None:
        return False
    assert channel.session.user is not None
    check_owner(call, channel.session.user.name)
    return True


def channel(call: Call) -> Any:
    """One channel."""
    there = _channel(call)
    assert there is not None
    return rendering.channel_in_full(call, there)


# -- consumers -----------------------------------------------------------------------------------


def consumers(call: Call) -> Listing:
    """The consumers in all virtual hosts that the user sees, or in one."""
    visible = set(call.visible_vhosts())
    found = [each for each in rendering.consumers(call) if each.channel.vhost in visible]

    def key(consumer: ChannelConsumer) -> tuple[str, ...]:
        definition = consumer.queue.definition
        session = consumer.channel.session
        return definition.vhost, definition.name, session.ends.name, consumer.tag

    return Listing(
        found,
        lambda consumer: rendering.consumer_of_channel(call, consumer),
        key,
        is_paged=False,
    )

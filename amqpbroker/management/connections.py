"""Connections, channels and consumers, on whichever node of a cluster they are."""

from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

from amqpbroker.broker.channel import Channel
from amqpbroker.broker.consumer import ChannelConsumer
from amqpbroker.broker.session import Session
from amqpbroker.errors import ConnectionForced
from amqpbroker.management import elsewhere, rendering
from amqpbroker.management.access import check_owner
from amqpbroker.management.call import Call
from amqpbroker.management.elsewhere import Told
from amqpbroker.management.listing import Breather, Listing

_REASON = "Closed via management plugin"

Thing = TypeVar("Thing")


class ConnectionName(msgspec.Struct):
    """What a connection of another node is ordered by."""

    vhost: str
    name: str

    @property
    def key(self) -> tuple[Any, ...]:
        """Virtual host and name."""
        return self.vhost, self.name


class _Details(msgspec.Struct):
    name: str


class ChannelName(msgspec.Struct):
    """What a channel of another node is ordered by."""

    vhost: str
    number: int
    connection_details: _Details

    @property
    def key(self) -> tuple[Any, ...]:
        """Virtual host, connection and number."""
        return self.vhost, self.connection_details.name, f"{self.number:05}"


class _Queue(msgspec.Struct):
    name: str
    vhost: str


class _Channel(msgspec.Struct):
    connection_name: str


class ConsumerName(msgspec.Struct):
    """What a consumer of another node is ordered by."""

    consumer_tag: str
    queue: _Queue
    channel_details: _Channel

    @property
    def key(self) -> tuple[Any, ...]:
        """Queue, connection and tag."""
        channel, tag = self.channel_details, self.consumer_tag
        return self.queue.vhost, self.queue.name, channel.connection_name, tag


# -- what is here --------------------------------------------------------------------------------
#
# There may be many of them: what was looked at and does not fit is a None, so that whoever looks
# can let others in between.


def sessions(call: Call, **about: str) -> Iterator[Session | None]:
    """The connections of this node that are at work, and fit."""
    for session in list(call.broker.sessions):
        yield session if _fits(session, **about) else None


def _fits(session: Session, vhost: str = "", user: str = "", name: str = "") -> bool:
    """Whether a connection is at work, and what is not empty is so."""
    return bool(
        session.is_open
        and session.mechanism
        and (not vhost or (session.vhost is not None and session.vhost.name == vhost))
        and (not user or (session.user is not None and session.user.name == user))
        and (not name or session.ends.name == name)
    )


def channels_here(call: Call, **about: str) -> Iterator[Channel | None]:
    """The channels of this node, of connections that fit."""
    for session in sessions(call, **about):
        if session is None:
            yield None
        else:
            yield from list(session.channels.values())


def consumers_here(
    call: Call, vhost: str = "", queue: str = ""
) -> Iterator[ChannelConsumer | None]:
    """The consumers of this node, whoever's they are; of one queue, or in one virtual host."""
    for consumer in rendering.consumers(call):
        definition = consumer.queue.definition
        fits = (not vhost or definition.vhost == vhost) and (not queue or definition.name == queue)
        yield consumer if fits else None


async def gathered(call: Call, found: Iterator[Thing | None]) -> list[Thing]:
    """What there is among what was looked at."""
    breather = Breather(call.broker.world.clock)
    out = []
    for each in found:
        if each is not None:
            out.append(each)
        await breather.breathe()
    return out


# -- connections ---------------------------------------------------------------------------------


def visible(call: Call) -> dict[str, str]:
    """What narrows connections down to those that the user may see, in the path's virtual host."""
    vhost = call.vhost.name if "vhost" in call.path else ""
    return {"vhost": vhost, "user": "" if call.is_monitor else call.user.name}


async def connections(call: Call) -> Listing:
    """The connections that the user may see; those in one virtual host, if the path names it."""
    return await _connection_list(call, **visible(call))


async def _connection_list(call: Call, **about: str) -> Listing:
    told = await elsewhere.things(call, "connections", ConnectionName, **about)
    here = await gathered(call, sessions(call, **about))
    return Listing([*here, *told], lambda each: _rendered(call, each), _key)


def _rendered(call: Call, there: Session | Told) -> dict[str, Any] | None:
    return there.read() if isinstance(there, Told) else rendering.connection(call, there)


def _key(there: Session | Told) -> tuple[Any, ...]:
    if isinstance(there, Told):
        return there.key
    return "" if there.vhost is None else there.vhost.name, there.ends.name


async def connection_exists(call: Call) -> bool:
    """Whether the connection of the path is there. Raises `Fault` (401) if it is not to be seen."""
    found = (await _connection_list(call, name=call.path["connection"])).items
    for there in found:
        rendered = _rendered(call, there)
        if rendered is not None:
            check_owner(call, rendered["user"])
            call.found = rendered
            return True
    return False


def connection(call: Call) -> Any:
    """One connection."""
    return call.found


async def close_connection(call: Call) -> None:
    """Close a connection; the header x-reason has a word for its peer."""
    name = call.path["connection"]
    await _close_here(call, name=name)
    if call.found["node"] != call.broker.name:
        await _close_elsewhere(call, name=name)


async def _close_here(call: Call, **about: str) -> None:
    for session in await gathered(call, sessions(call, **about)):
        close(session, _reason(call))


async def _close_elsewhere(call: Call, **about: str) -> None:
    await elsewhere.tell(call, "closed", reason=_reason(call), **about)


def _reason(call: Call) -> str:
    return call.headers.get("x-reason", _REASON)


def close(session: Session, reason: str) -> None:
    """Close a connection, and say why."""
    session.fail(ConnectionForced(reason))


async def connection_channels(call: Call) -> Listing:
    """The channels of a connection."""
    return await _channel_list(call, name=call.path["connection"])


async def user_connections(call: Call) -> Listing:
    """The connections of a user, in short."""
    name = call.path["username"]
    check_owner(call, name)
    whole = await _connection_list(call, user=name)

    def render(there: Session | Told) -> dict[str, Any] | None:
        rendered = _rendered(call, there)
        return rendered and {key: rendered[key] for key in ("name", "vhost", "user", "node")}

    return Listing(whole.items, render, whole.key, is_paged=False)


async def close_user_connections(call: Call) -> None:
    """Close the connections of a user."""
    name = call.path["username"]
    check_owner(call, name)
    await _close_here(call, user=name)
    await _close_elsewhere(call, user=name)


# -- channels ------------------------------------------------------------------------------------


async def channels(call: Call) -> Listing:
    """The channels that the user may see; those in one virtual host, if the path names it."""
    return await _channel_list(call, **visible(call))


async def _channel_list(call: Call, **about: str) -> Listing:
    told = await elsewhere.things(call, "channels", ChannelName, **about)

    def render(there: Channel | Told) -> dict[str, Any] | None:
        return there.read() if isinstance(there, Told) else rendering.channel(call, there)

    def key(there: Channel | Told) -> tuple[Any, ...]:
        if isinstance(there, Told):
            return there.key
        return there.vhost.name, there.session.ends.name, f"{there.number:05}"

    return Listing([*await gathered(call, channels_here(call, **about)), *told], render, key)


def channel_here(call: Call, name: str) -> Iterator[Channel | None]:
    """The channel of that name, if it is on this node."""
    connection, _, number = name.rpartition(" (")
    for channel in channels_here(call, name=connection):
        is_it = channel is not None and number == f"{channel.number})"
        yield channel if is_it else None


async def channel_exists(call: Call) -> bool:
    """Whether the channel of the path is there. Raises `Fault` (401) if it is not to be seen."""
    name = call.path["channel"]
    found = [
        rendering.channel_in_full(call, channel)
        for channel in await gathered(call, channel_here(call, name))
    ]
    found = found or [*await elsewhere.objects(call, "channel", name=name)]
    if not found or found[0] is None:
        return False
    check_owner(call, found[0]["user"])
    call.found = found[0]
    return True


def channel(call: Call) -> Any:
    """One channel."""
    return call.found


# -- consumers -----------------------------------------------------------------------------------


async def consumers(call: Call) -> Listing:
    """The consumers in all virtual hosts that the user sees, or in one."""
    visible = {vhost.name for vhost in call.visible_vhosts()}
    vhost = call.vhost.name if "vhost" in call.path else ""
    here = await gathered(call, consumers_here(call, vhost))
    told = await elsewhere.things(call, "consumers", ConsumerName, vhost=vhost)

    def render(there: ChannelConsumer | Told) -> dict[str, Any]:
        if isinstance(there, Told):
            return there.read()
        return rendering.consumer_of_channel(call, there)

    def key(there: ChannelConsumer | Told) -> tuple[Any, ...]:
        if isinstance(there, Told):
            return there.key
        definition = there.queue.definition
        session = there.channel.session
        return definition.vhost, definition.name, session.ends.name, there.tag

    found = [
        *(each for each in here if each.channel.vhost.name in visible),
        *(each for each in told if each.key[0] in visible),
    ]
    return Listing(found, render, key, is_paged=False)

"""A session: one connection's user, virtual host and channels, and what holds it back.

The protocol says what the peer did; the session has it done and lets the answers gather in the
outbox. It never waits. What cannot be answered yet parks a channel (its later events wait in order,
other channels go on); what must not be read any more sets `held`, and whoever reads for the session
looks there.
"""

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import attrs
from pamqp import commands
from pamqp.base import Frame

from amqpbroker.broker.access import Access
from amqpbroker.broker.broker import Broker
from amqpbroker.broker.channel import Channel
from amqpbroker.broker.deadlines import Deadline
from amqpbroker.broker.vhost import VHost
from amqpbroker.definitions import UserDefinition, delete
from amqpbroker.errors import (
    ConnectionForced,
    DiskFailure,
    HardError,
    InternalError,
    NotAllowed,
    SoftError,
)
from amqpbroker.protocol.connection import Connection, State
from amqpbroker.protocol.events import (
    ChannelEvent,
    ChannelOpened,
    Closed,
    Event,
    Login,
    Open,
    Publish,
    SecretUpdated,
    Worked,
)
from amqpbroker.queues.queue import Pending, Queue, when_all

log = logging.getLogger(__name__)


_OWN = (Worked, Login, Open, SecretUpdated, Closed)
_OPEN_INDEX = commands.Connection.Open.index


@attrs.frozen
class Ends:
    """Where a connection begins and ends: addresses with their ports."""

    peer: tuple[str, int]
    local: tuple[str, int]

    @property
    def name(self) -> str:
        """What RabbitMQ calls such a connection."""
        return f"{_joined(*self.peer)} -> {_joined(*self.local)}"


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Session:
    """What one connection does in the broker.

    ``transmit`` sends what is in the connection's outbox as far as the peer takes it;
    ``on_release`` is called when `held` may have become false.
    """

    def __init__(
        self,
        broker: Broker,
        connection: Connection,
        ends: Ends,
        transmit: Callable[[], None],
        on_release: Callable[[], None],
    ) -> None:
        self.broker = broker
        self.connection = connection
        self.ends = ends
        self.host = ends.peer[0]
        self.mechanism = ""
        """How the peer has proved who it is."""
        self.client_properties: dict[str, Any] = {}
        self.connected_ms = broker.world.clock.wall_ms()
        self.user: UserDefinition | None = None
        self.vhost: VHost | None = None
        self.access: Access
        """What the user may do; there is one from the moment when the virtual host is open."""
        self.channels: dict[int, Channel] = {}
        self.unsent_bytes = 0
        """Octets that were taken from the outbox but not by the peer."""
        self.uncommitted_bytes = 0
        self.parked_bytes = 0
        self.held = False
        """Whether nothing more should be read from the peer for now."""
        self.congested: dict[Channel, None] = {}
        """Channels with consumers that wait for the outbox to drain."""
        self.own_queues: dict[Queue, None] = {}
        """Exclusive queues: they end with the session."""
        self._blocked = self._is_closing = self._is_entering = False
        self._rest: Publish | None = None
        self._due: deque[Channel] = deque()
        self._next_tick: Deadline | None = None
        self._transmit = transmit
        self._on_release = on_release
        broker.sessions[self] = None

    # -- events --------------------------------------------------------------------------------

    def take(self, work_max: int) -> bool:
        """Do what the received bytes say, up to ``work_max``; whether there is more to do."""
        connection = self.connection
        next_event = connection.next_event
        replies_max = self.broker.limits.replies_bytes_max
        work = 0
        self._look_what_holds()
        while work < work_max and not self.held:
            if self._rest is not None or self._due:
                work += self._go_on()
                continue
            try:
                event = next_event()
            except Exception as error:
                self._answer_fault(None, 0, error)
                return False
            if event is None:
                return False
            work += self.handle(event)
            if connection.outbox_bytes > replies_max:
                self._look_what_holds()
        return True

    def work_off(self, work_max: int) -> int:
        """Do what waited, up to ``work_max``; return the work it was."""
        work = 0
        self._look_what_holds()
        while work < work_max and not self.held and (self._rest is not None or self._due):
            work += self._go_on()
        if not self.held and (self._rest is not None or self._due):
            self.broker.turn.resume(self)
        self.broker.turn.speak(self)
        return work

    def _go_on(self) -> int:
        """Do the rest of a run that was cut, or what is parked on a channel that waits no more."""
        if self._rest is not None:
            rest, self._rest = self._rest, None
            return self._act(self.channels[rest.channel], rest)
        channel = self._due[0]
        if channel.waiting or not channel.parked:
            self._due.popleft()
            return 0
        event, size = channel.parked.popleft()
        self.parked_bytes -= size
        return self._act(channel, event)

    def put_back(self, rest: Publish) -> None:
        """``rest`` of a run was too much for one turn: it comes before all that follows it."""
        self._rest = rest

    def handle(self, event: Event) -> int:
        """Do what the peer asks; the work it was, in messages times destinations."""
        if isinstance(event, _OWN):
            if isinstance(event, Worked):
                return event.work
            index = _OPEN_INDEX if isinstance(event, Open) else 0
            self.guard(None, index, lambda: self._handle_own(event))
            return 1
        channel = self.channels.get(event.channel)
        if channel is None:
            assert isinstance(event, ChannelOpened), event
            self.channels[event.channel] = Channel(self, event.channel)
            self._count_channel(1)
            return 1
        if channel.waiting:
            channel.park_event(event)
            self._look_what_holds()
            return 1
        return self._act(channel, event)

    def _act(self, channel: Channel, event: ChannelEvent) -> int:
        if self.broker.alarms and isinstance(event, Publish):
            self._block()
        try:
            return channel.handle(event)
        except Exception as error:
            self._answer_fault(channel, event.index, error)
            return 1

    def guard(self, channel: Channel | None, index: int, act: Callable[[], None]) -> None:
        """Do something for the peer outside its turn, with the same consequences of a fault."""
        try:
            act()
        except Exception as error:
            self._answer_fault(channel, index, error)
            error.__traceback__ = None  # Frames that hold the error lead in a circle.

    def _answer_fault(self, channel: Channel | None, index: int, error: Exception) -> None:
        """Every fault ends here: a soft error closes the channel, a hard one the connection.

        A disk that failed stops the node. Anything else is a bug: the connection is closed with
        541, and the log has the traceback.
        """
        if isinstance(error, DiskFailure):
            raise error
        if isinstance(error, SoftError) and channel is not None:
            log.info("channel %d of %s: %s", channel.number, self.host, error.reply_text)
            self.close_channel(channel)
            self.connection.close_channel(channel.number, error, index)
        elif isinstance(error, HardError):
            self.fail(error, index)
        else:
            log.error("a bug: connection from %s is closed", self.host, exc_info=error)
            self.fail(InternalError("the broker's log says more"), index)

    def close_channel(self, channel: Channel) -> None:
        """Put a channel away."""
        if self.channels.pop(channel.number, None) is not None:
            self._count_channel(-1)
            self.parked_bytes -= channel.close()
            self.congested.pop(channel, None)
            if self._rest is not None and self._rest.channel == channel.number:
                self._rest = None
            if channel in self._due:
                self._due.remove(channel)
            self.release()

    def replay(self, channel: Channel) -> None:
        """A channel's answer came: what was parked behind it is due, before all that follows it."""
        if self.channels.get(channel.number) is channel:
            self._due.append(channel)
        self.broker.turn.resume(self)
        self.release()

    # -- the connection's own events -----------------------------------------------------------

    def _handle_own(self, event: Login | Open | SecretUpdated | Closed) -> None:
        if isinstance(event, Login):
            self._login(event)
        elif isinstance(event, Open):
            self._open(event)
        elif isinstance(event, SecretUpdated):
            log.info("connection from %s: the secret was updated: %s", self.host, event.reason)
            self.renew_access()
            self.connection.send_method(0, commands.Connection.UpdateSecretOk())
        else:
            gone = self.close()
            if not event.by_peer:
                return
            self._say_when(gone, self.connection.close_ok)

    def _say_when(self, gone: Pending[None] | None, say: Callable[[], None]) -> None:
        """Have the last word when the peer's own queues are ``gone``: it counts on that (RabbitMQ).

        But not for ever.
        """
        if gone is None:
            say()
            return

        def answer(_: object) -> None:
            deadline.cancel()
            gone.then = None
            self._is_closing = False
            if self.connection.state is not State.CLOSED:
                say()
            self.release()
            self.broker.turn.speak(self)

        self._is_closing = True
        now_s = self.broker.world.clock.monotonic_s()
        deadline = self.broker.deadlines.at(now_s + self.broker.limits.closing_s_max, answer)
        gone.then = answer
        self._look_what_holds()

    def _login(self, event: Login) -> None:
        self.mechanism, self.client_properties = event.mechanism, event.client_properties
        self.user = self.broker.login(event.user, event.password, self.host)
        if self.user is None:
            self.connection.refuse_login(event.mechanism)
        else:
            self.connection.accept_login()

    def _open(self, event: Open) -> None:
        broker = self.broker
        if len(broker.sessions) > broker.limits.connections_max:
            raise NotAllowed(
                "connection refused: "
                f"node connection limit ({broker.limits.connections_max}) is reached"
            )
        vhost = broker.vhosts.get(event.vhost)
        if vhost is None:
            raise NotAllowed(f"vhost {event.vhost} not found")
        assert self.user is not None
        asked = broker.quotas.enter(vhost, self.user)
        if asked is None:
            self._enter(event.vhost)
            return
        self._is_entering = True
        self._look_what_holds()
        asked.then = lambda _: self._go_in(lambda: self._enter(event.vhost))

        def refuse(error: Exception) -> None:
            def fail() -> None:
                raise error

            self._go_in(fail)

        asked.otherwise = refuse

    def _go_in(self, act: Callable[[], None]) -> None:
        """It is known by now whether there is room for this connection."""
        self._is_entering = False
        if self in self.broker.sessions:
            self.guard(None, _OPEN_INDEX, act)
            self.release()
            self.broker.turn.speak(self)

    def _enter(self, name: str) -> None:
        broker, vhost = self.broker, self.broker.vhosts.get(name)
        if vhost is None:
            raise NotAllowed(f"vhost {name} not found")
        assert self.user is not None
        if not broker.may_enter(self.user.name, name):
            raise NotAllowed(f"access to vhost '{name}' refused for user '{self.user.name}'")
        self.vhost = vhost
        self.access = broker.access(self.user, vhost.name)
        self._count_connection(1)
        self._limit_channels()
        self.connection.open_ok()
        broker.churn.connections_created += 1
        heartbeat_s = self.connection.heartbeat_s
        if heartbeat_s:
            now_s = broker.world.clock.monotonic_s()
            self._next_tick = broker.deadlines.at(now_s + heartbeat_s / 2, self._tick)

    def renew_access(self) -> None:
        """The user's record or rights have changed: nothing that was granted counts any more."""
        if self.user is None or self.vhost is None:
            return
        self.user = self.broker.users[self.user.name]
        self._limit_channels()
        self.access = self.broker.access(self.user, self.vhost.name)
        for channel in self.channels.values():
            channel.publisher.forget_routes()

    def _count_connection(self, change: int) -> None:
        assert self.vhost is not None
        assert self.user is not None
        quotas = self.broker.quotas
        quotas.add("vhost-connections", self.vhost.name, change)
        quotas.add("user-connections", self.user.name, change)

    def _count_channel(self, change: int) -> None:
        assert self.user is not None
        self.broker.quotas.add("user-channels", self.user.name, change)

    def _limit_channels(self) -> None:
        """See to the limit of channels that the user may have."""
        assert self.user is not None
        is_limited = self.user.limit("max-channels") is not None
        self.connection.before_channel = self._before_channel if is_limited else None

    def _before_channel(self) -> None:
        assert self.user is not None
        asked = self.broker.quotas.open_channel(self.user, self.broker.name)
        if asked is not None:
            asked.otherwise = lambda error: self._answer_fault(None, 0, error)

    @property
    def title(self) -> tuple[str, str, int]:
        return self.ends.name, *self.ends.peer

    def own(self, queue: Queue) -> None:
        if self in self.broker.sessions:
            self.own_queues[queue] = None
        else:
            self.broker.see_to(delete(queue.definition))

    def disown(self, queue: Queue) -> None:
        self.own_queues.pop(queue, None)

    def _tick(self, now_s: float) -> None:
        """Every half heartbeat: speak up, and listen."""
        if not self.connection.tick(now_s, listening=not self.held):
            log.warning("connection from %s: missed heartbeats", self.host)
            self.abandon()
            return
        self.broker.turn.speak(self)
        self._next_tick = self.broker.deadlines.at(
            now_s + self.connection.heartbeat_s / 2, self._tick
        )

    def fail(self, error: HardError, index: int = 0) -> None:
        """Close the connection with ``error``, unless it is closing already."""
        if self.connection.state in (State.CLOSING, State.CLOSED) or self._is_closing:
            return
        level = logging.INFO if isinstance(error, ConnectionForced) else logging.WARNING
        log.log(level, "connection from %s: %s", self.host, error.reply_text)
        self._say_when(self.close(), lambda: self.connection.fail(error, index))
        self.release()
        self.broker.turn.speak(self)

    def abandon(self) -> None:
        """The peer is gone: end without a word."""
        self.close()
        self.connection.state = State.CLOSED
        self.release()
        self.broker.turn.speak(self)

    def close(self) -> Pending[None] | None:
        """Put everything away: channels, then exclusive queues. Closing twice is harmless.

        The answer comes when the queues are gone; None: they are.
        """
        if self not in self.broker.sessions:
            return None
        del self.broker.sessions[self]
        if self.vhost is not None:
            self.broker.churn.connections_closed += 1
            self._count_connection(-1)
        if self._next_tick is not None:
            self._next_tick.cancel()
        for channel in list(self.channels.values()):
            self.close_channel(channel)
        own_queues, self.own_queues = list(self.own_queues), {}
        gone = when_all([self.broker.see_to(delete(queue.definition)) for queue in own_queues])
        self._blocked = self.held = False
        self.broker.held_sessions.pop(self, None)
        return gone

    def let_go(self) -> None:
        """The stream is closed: nothing leads in a circle any more, and all is freed at once.

        Full collections are rare in a node; a connection must not wait for one.
        """
        self._transmit = self._on_release = _nothing
        self.connection.before_channel = None
        self.broker.held_sessions.pop(self, None)

    @property
    def is_open(self) -> bool:
        """Whether it is at work in a virtual host."""
        return self.vhost is not None and self.connection.state is State.RUNNING

    @property
    def state(self) -> str:
        """What keeps it from being read, in RabbitMQ's words."""
        if self._blocked:
            return "blocked"
        return "flow" if self.held else "running"

    # -- sending -------------------------------------------------------------------------------

    @property
    def backlog_bytes(self) -> int:
        """What the peer has yet to take."""
        return self.connection.outbox_bytes + self.unsent_bytes

    def flush(self) -> None:
        self._transmit()
        self.release()
        if self.congested and self.backlog_bytes <= self.broker.limits.outbox_bytes_max:
            self.drained()

    def drained(self) -> None:
        """The peer has taken enough: consumers may have messages again."""
        channels, self.congested = self.congested, {}
        for channel in channels:
            channel.resume_consumers()

    # -- what holds the session back -----------------------------------------------------------

    def _look_what_holds(self) -> None:
        """See whether the peer may be read: asked when a batch begins, and when something grew."""
        limits = self.broker.limits
        self.held = self._is_entering or (
            self.connection.state is State.RUNNING
            and (
                self._blocked
                or self._is_closing
                or self.backlog_bytes > limits.replies_bytes_max
                or (self.parked_bytes > limits.parked_bytes_max and not self._due)
                or self.uncommitted_bytes > limits.uncommitted_connection_bytes_max
                or (
                    self.uncommitted_bytes > 0
                    and self.broker.uncommitted_bytes > limits.uncommitted_node_bytes_max
                )
            )
        )
        if self.held:
            self.broker.held_sessions[self] = None
        else:
            self.broker.held_sessions.pop(self, None)

    def release(self) -> None:
        if self.held:
            self._look_what_holds()
            if not self.held:
                self.broker.turn.resume(self)
                self._on_release()

    def account(self, change_bytes: int) -> None:
        """Octets were accepted that are not committed yet, or (negative) have been."""
        self.uncommitted_bytes += change_bytes
        self.broker.account_uncommitted(change_bytes)
        if change_bytes > 0:
            self._look_what_holds()

    def alarm_changed(self) -> None:
        if self.broker.alarms:
            if self.connection.content_pending:
                self._block()
        elif self._blocked:
            self._blocked = False
            self._say_if_capable(commands.Connection.Unblocked())
        self.release()

    def _block(self) -> None:
        """The peer publishes while a resource runs low.

        It is not read until that is over, and told why.
        """
        if not self._blocked:
            self._blocked = True
            self._look_what_holds()
            reason = "low on " + " & ".join(self.broker.alarms)
            self._say_if_capable(commands.Connection.Blocked(reason))

    def _say_if_capable(self, method: Frame) -> None:
        if self.connection.capabilities.get("connection.blocked") is True:
            self.connection.send_method(0, method)
            self.broker.turn.speak(self)


def _nothing() -> None:
    """What a session does that is over."""

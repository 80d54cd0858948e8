"""The streams between this node and all others: dialled, accepted, and dialled again.

Every node dials every other: on the streams that it has dialled it asks, on those that it was
dialled on it answers. A stream has a reader, which is the task that dialled or accepted it, and a
writer. The reader awaits nothing but its stream. Sending is tried at once, without waiting, at the
end of a turn; the writer sends what is left, and a heartbeat when nothing was sent for a while.
"""

import logging
from collections.abc import Callable, Mapping
from struct import Struct
from typing import Protocol

import attrs
import trio

from amqpbroker.cluster.hello import (
    HELLO_BYTES_MAX,
    NONCE_BYTES,
    Accepting,
    Dialling,
    Handshake,
    Identity,
)
from amqpbroker.cluster.wire import (
    FIRST_USER_KIND,
    FRAME_BYTES_MAX,
    HEARTBEAT,
    REVISION,
    Inbox,
    Link,
    LinkUser,
    Outbox,
)
from amqpbroker.errors import DiskFailure, LinkFault, LinkRefused
from amqpbroker.world import Listener, Stream, World

log = logging.getLogger(__name__)

HEARTBEAT_S = 0.5
SILENT_BEATS_MAX = 10
"""So many of its own heartbeats a node hears nothing before it takes the stream for broken.

A node that was itself stopped for some time counts one of them, and has not lost anybody.
"""
DIAL_S_MAX = 3.0
HELLO_S_MAX = 5.0
STRANGERS_MAX = 64
"""Streams whose other end has not proved anything yet."""
REDIAL_S_MIN = 0.05
REDIAL_S_MAX = 1.0
REFUSED_AGAIN_S = 0.05
"""A node that refuses connections is asked once more, after so long."""
RECEIVE_BYTES_MAX = 64 * 1024
"""Blocks over 128 KiB are new pages each time, and cost more than the turns that they save."""
_RECEIVE_BYTES_FIRST = 16 * 1024
_WORK_MAX = 2048
_ACCEPT_RETRY_S = 0.1
_REFUSAL_S_MAX = 1.0
"""How long a peer may take to read why it is refused."""
_PATIENCE = 4
"""What may be over in a moment is logged when it has happened so many times."""
_COMPLAINTS_MAX = 1000
_COMPLAINTS_OF_ONE_MAX = 20
"""So many different things are told of one host: strangers may say what they like."""
_DOOR = "links"
"""Who complains of what is no node's own trouble."""

_REVISION = Struct(">Q")


class Turning(Protocol):
    """What the links need of a turn."""

    def speak(self, speaker: "StreamLink | Links") -> None:
        """``speaker`` has something to send at the end of the turn."""

    def end_batch(self) -> None:
        """End the turn."""


@attrs.frozen
class Address:
    """Where a member of the cluster is to be found, and in which of its lives."""

    host: str
    port: int
    incarnation: int


class StreamLink(Link):
    """One end of the streams to or from a node; it has one at a time."""

    def __init__(self, title: str, node: str, user: LinkUser, turn: Turning) -> None:
        self.place: tuple[str, int] | None = None
        """Where the other end is, or was at last, in the life of its node that is dialled now."""
        self.node = node
        self.version = 0
        self.is_up = False
        self.is_heard = False
        """Whether the other end has said anything since it is up; both ends know then."""
        self._title = title
        self._user = user
        self._turn = turn
        self._outbox = Outbox()
        self._stream: Stream
        self._scope = trio.CancelScope()
        self._writer_lot = trio.lowlevel.ParkingLot()
        self._gone = trio.Event()
        self._reason = ""
        """Why the stream is to end; nothing is sent on it any more."""
        self._revision = 0
        self._is_left = False
        self._has_spoken = False
        self._silent_beats = 0

    @property
    def outbox_bytes(self) -> int:
        return self._outbox.size_bytes

    # -- the user's side -----------------------------------------------------------------------

    def send(self, kind: int, pieces: list[bytes]) -> None:
        if self.is_up and not self._reason:
            try:
                self._outbox.add(kind, pieces)
            except LinkFault as fault:
                self.break_off(str(fault))
            else:
                self._turn.speak(self)

    def break_off(self, reason: str) -> None:
        self._reason = self._reason or reason
        self._scope.cancel()

    def flush(self) -> None:
        """Send what the system takes at once; the writer sees to the rest."""
        if not self.is_up or self._reason:
            return
        if not self._is_left and self._outbox.size_bytes:
            try:
                self._send()
            except OSError as error:
                self.break_off(str(error))
                return
            if self._outbox.size_bytes:
                self._is_left = True
                self._writer_lot.unpark_all()
        self._outbox.end_turn()

    def _send(self) -> None:
        self._outbox.send(self._stream.send_nowait)
        self._has_spoken = True

    def tell_revision(self, revision: int) -> None:
        """Tell the other end how new what this node knows is, if it has not been told."""
        if self.is_up and revision > self._revision:
            self._revision = revision
            self._outbox.add_own(REVISION, _REVISION.pack(revision))
            self.flush()

    # -- a stream's life -----------------------------------------------------------------------

    async def serve(self, stream: Stream, handshake: Handshake, links: "Links") -> None:
        """Be up, on ``stream``, until it breaks; never raises for what the other end does."""
        self._stream, self.place = stream, stream.peer
        self._outbox = Outbox()
        self._scope, self._gone = trio.CancelScope(), trio.Event()
        self._reason, self._revision = "", 0
        self._is_left, self._silent_beats = False, 0
        self.version = handshake.version
        handshake.inbox.frame_bytes_max = FRAME_BYTES_MAX
        self.is_up, self.is_heard = True, False
        log.info("%s is up, version %d", self._title, self.version)
        try:
            self._user.up(self)
            links.changed(self)
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    await self._read(handshake.inbox, links)
                    nursery.cancel_scope.cancel()
        except* (OSError, LinkFault) as group:
            self._reason = self._reason or str(group.exceptions[0])
        finally:
            self.is_up = False
            stream.close()
            if self._reason:
                log.warning("%s is down: %s", self._title, self._reason)
            else:
                log.info("%s is down, as this node stops", self._title)
            self._outbox = Outbox()
            self._user.down(self)
            links.changed(self)
            self._gone.set()

    async def gone(self) -> None:
        """Wait until the stream that there is has ended, and the user was told."""
        await self._gone.wait()

    async def _read(self, inbox: Inbox, links: "Links") -> None:
        work = self._take_frames(inbox, links)
        size = _RECEIVE_BYTES_FIRST
        while True:
            self._turn.end_batch()
            if work < _WORK_MAX:
                data = await self._stream.receive_some(size)
                if not data:
                    raise LinkFault("the other end has ended it")
                size = (
                    RECEIVE_BYTES_MAX if len(data) == size else max(len(data), _RECEIVE_BYTES_FIRST)
                )
                self._silent_beats = 0
                self.is_heard = True
                inbox.receive(data)
            else:
                await trio.lowlevel.checkpoint()
            work = self._take_frames(inbox, links)

    def _take_frames(self, inbox: Inbox, links: "Links") -> int:
        """Take the frames that are there, until they are a turn's work; the work it was."""
        work = 0
        while work < _WORK_MAX and (frame := inbox.next_frame()) is not None:
            kind, payload = frame
            if kind >= FIRST_USER_KIND:
                try:
                    work += self._user.frame(self, kind, payload)
                except (LinkFault, DiskFailure):
                    raise
                except Exception as error:
                    log.exception("%s: a frame of kind %d met a fault", self._title, kind)
                    raise LinkFault("a fault of this node's own") from error
            elif kind == REVISION and len(payload) == _REVISION.size:
                links.take_revision(self.node, *_REVISION.unpack(payload))
            elif kind != HEARTBEAT:
                raise LinkFault(f"a frame of kind {kind} and {len(payload)} octets came")
        return work

    async def _write(self) -> None:
        beat_s = trio.current_time() + HEARTBEAT_S
        while True:
            with trio.move_on_at(beat_s):
                if not self._is_left:
                    await self._writer_lot.park()
                await self._stream.wait_writable()
                self._send()
                self._outbox.end_turn()
                if not self._outbox.size_bytes:
                    self._is_left = False
                    self._user.drained(self)
                    self._turn.end_batch()
            now_s = trio.current_time()
            if now_s >= beat_s:
                self._beat()
                beat_s = now_s + HEARTBEAT_S

    def _beat(self) -> None:
        """Say that this end lives, and listen whether the other does."""
        self._silent_beats += 1
        if self._silent_beats > SILENT_BEATS_MAX:
            raise LinkFault(f"silent for {SILENT_BEATS_MAX * HEARTBEAT_S:g} s")
        if not self._has_spoken and not self._is_left:
            self._outbox.add_own(HEARTBEAT)
            self.flush()
        self._has_spoken = False


class Links:
    """All streams of the node ``own``; `run` has them, `set_members` says with whom.

    ``asker`` uses those that are dialled, ``server`` those that were accepted.
    """

    def __init__(
        self, world: World, turn: Turning, own: Identity, asker: LinkUser, server: LinkUser
    ) -> None:
        self.revisions: dict[str, int] = {}
        """How new what other nodes know is, as they said; only of those with a stream."""
        self._world = world
        self._turn = turn
        self._own = own
        self._asker = asker
        self._server = server
        self._members: dict[str, Address] = {}
        self._dialled: dict[str, StreamLink] = {}
        self._accepted: dict[str, StreamLink] = {}
        self._dialling: dict[str, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None
        self._strangers: dict[trio.CancelScope, None] = {}
        self._revision = 0
        self._complaints: dict[tuple[str, str], int] = {}
        self.on_revision: Callable[[str, int], None] = _ignore
        """Called with the name of a node and its revision when it has risen."""
        self.on_refused: Callable[[str, int], None] = _ignore
        """Called with the name of a node and its incarnation when it refuses connections at the
        very address where it was found in that life; again and again, as long as it does.

        A node that lives listens, however slow it is: the system accepts for it. What is
        unreachable does not answer, which is no refusal. But there are systems that refuse in the
        name of others.
        """
        self.on_later_life: Callable[[str, int], None] = _ignore
        """Called with the name of a node and its incarnation when it has proved to be in a later
        life than it is known to be."""

    def to(self, node: str) -> StreamLink:
        """The link to a node, always the same; it is down as long as the node is no member."""
        link = self._dialled.get(node)
        if link is None:
            link = StreamLink(f"link to {node}", node, self._asker, self._turn)
            self._dialled[node] = link
        return link

    def are_up(self, node: str) -> bool:
        """Whether this node can ask another, and that one this."""
        accepted = self._accepted.get(node)
        return self.to(node).is_up and accepted is not None and accepted.is_heard

    def set_members(self, members: Mapping[str, Address]) -> None:
        """Have streams to and from these nodes, and no others; this node itself does not count.

        A node that has another address or incarnation than before is dialled anew.
        """
        before = self._members
        self._members = {
            node: address for node, address in members.items() if node != self._own.node
        }
        for node in before.keys() | self._members.keys():
            old, new = before.get(node), self._members.get(node)
            if old == new:
                continue
            reason = "it is no member any more" if new is None else "it has moved or was restarted"
            self.to(node).break_off(reason)
            if old is not None and (new is None or new.incarnation != old.incarnation):
                accepted = self._accepted.get(node)
                if accepted is not None:
                    accepted.break_off(reason)
            scope = self._dialling.get(node)
            if scope is not None:
                scope.cancel()
            elif self._nursery is not None:
                self._start_dialling(node)

    def report_revision(self, revision: int) -> None:
        """Tell every node, at the end of the turn, that this one knows all up to ``revision``."""
        if revision > self._revision:
            self._revision = revision
            self._turn.speak(self)

    def flush(self) -> None:
        """Tell what was reported."""
        for node in self._members:
            self._tell_revision(node)

    def _tell_revision(self, node: str) -> None:
        """One stream to a node is enough."""
        link: StreamLink | None = self.to(node)
        if link is not None and not link.is_up:
            link = self._accepted.get(node)
        if link is not None:
            link.tell_revision(self._revision)

    # -- what links say ------------------------------------------------------------------------

    def changed(self, link: StreamLink) -> None:
        """A link is up or down."""
        node = link.node
        accepted = self._accepted.get(node)
        if accepted is link and not link.is_up:
            accepted = None
            del self._accepted[node]
        if accepted is None and not self.to(node).is_up:
            self.revisions.pop(node, None)
        self._tell_revision(node)
        self._turn.end_batch()

    def take_revision(self, node: str, revision: int) -> None:
        """A node has told how new what it knows is."""
        if revision > self.revisions.get(node, 0):
            self.revisions[node] = revision
            self.on_revision(node, revision)

    def _complain(self, who: str, text: str, patience: int = 1) -> None:
        """Log what goes wrong again and again once, until all goes well."""
        if len(self._complaints) > _COMPLAINTS_MAX:
            self._complaints.clear()
        place = who.partition(",")[0]
        if (who, text) not in self._complaints and (
            sum(each.partition(",")[0] == place for each, _ in self._complaints)
            >= _COMPLAINTS_OF_ONE_MAX
        ):
            who, text, patience = place, "more is wrong, and is not told", 1
        times = self._complaints.get((who, text), 0) + 1
        self._complaints[who, text] = times
        if times == patience:
            log.warning("%s: %s", who, text)

    def _forgive(self, who: str) -> None:
        for complaint in [each for each in self._complaints if each[0] == who]:
            del self._complaints[complaint]

    # -- tasks ---------------------------------------------------------------------------------

    async def run(self, listener: Listener) -> None:
        """Dial the members, and accept them at ``listener`` until it is closed, until cancelled."""
        try:
            async with trio.open_nursery() as self._nursery:
                for node in self._members:
                    self._start_dialling(node)
                await self._accept_all(listener, self._nursery)
        finally:
            self._nursery = None

    async def _accept_all(self, listener: Listener, nursery: trio.Nursery) -> None:
        while True:
            try:
                stream = await listener.accept()
            except trio.ClosedResourceError:
                return
            except OSError as error:
                self._complain(_DOOR, f"cannot accept: {error}")
                await trio.sleep(_ACCEPT_RETRY_S)
                continue
            if len(self._strangers) >= STRANGERS_MAX:
                # Nodes say who they are at once: those who are here longest are none.
                self._complain(_DOOR, f"over {STRANGERS_MAX} strangers, the first are sent away")
                oldest = next(iter(self._strangers))
                del self._strangers[oldest]
                oldest.cancel()
            patience = trio.CancelScope()
            self._strangers[patience] = None
            nursery.start_soon(self._accept, stream, patience)

    def _start_dialling(self, node: str) -> None:
        assert self._nursery is not None
        self._dialling[node] = trio.CancelScope()
        self._nursery.start_soon(self._keep_dialling, node)

    async def _keep_dialling(self, node: str) -> None:
        """Dial a node again and again, as long as it is a member."""
        random, clock = self._world.random, self._world.clock
        while (address := self._members.get(node)) is not None:
            with trio.CancelScope() as self._dialling[node]:
                link, pause_s = self.to(node), REDIAL_S_MIN
                link.place = None
                while True:
                    start_s = clock.monotonic_s()
                    if await self._dial(link, address) and await self._is_deserted(link, address):
                        self.on_refused(node, address.incarnation)
                    if clock.monotonic_s() - start_s > REDIAL_S_MAX:
                        pause_s = 0
                    await trio.sleep(pause_s * random.uniform(0.5, 1))
                    pause_s = min(2 * pause_s, REDIAL_S_MAX) or REDIAL_S_MIN
        del self._dialling[node]

    async def _is_deserted(self, link: StreamLink, address: Address) -> bool:
        """Whether a node that has just refused a connection was found before, and refuses there.

        Twice in a row: one refusal may be that of a listener that was full, or about to begin.
        """
        if link.place is None:
            return False
        host, port = link.place
        # A name may lead elsewhere by now: what was dialled counts only if it is that very place.
        times = 1 if (host, port) == (address.host, address.port) else 2
        for _ in range(times):
            await trio.sleep(REFUSED_AGAIN_S)
            try:
                with trio.fail_after(DIAL_S_MAX):
                    stream = await self._world.network.connect(host, port)
            except ConnectionRefusedError:
                continue
            except (OSError, trio.TooSlowError):
                return False
            stream.close()
            return False
        return True

    async def _dial(self, link: StreamLink, address: Address) -> bool:
        """Dial once; done when the stream is over. Whether it was refused."""
        who = f"link to {link.node}"
        place = f"{address.host}:{address.port}"
        handshake = Dialling(self._own, self._nonce(), link.node, address.incarnation)
        stream: Stream | None = None
        try:
            with trio.fail_after(DIAL_S_MAX):
                stream = await self._world.network.connect(address.host, address.port)
            with trio.fail_after(HELLO_S_MAX):
                await _shake(stream, handshake)
            self._forgive(who)
            await link.serve(stream, handshake, self)
        except LinkRefused as error:
            self._complain(who, f"{place}: {error}", _PATIENCE if error.is_passing else 1)
        except (OSError, LinkFault, trio.TooSlowError, ValueError) as error:  # No such host.
            self._complain(who, f"{place}: {_told(error)}")
            return isinstance(error, ConnectionRefusedError)
        finally:
            if stream is not None:
                stream.close()
        return False

    async def _accept(self, stream: Stream, patience: trio.CancelScope) -> None:
        """Serve a stream that was accepted, if its other end proves to be a member.

        It has as much time for that as there is ``patience``.
        """
        handshake = Accepting(self._own, self._nonce(), self._incarnation_of)
        who = f"link from {stream.peer[0]}"
        try:
            try:
                with patience:
                    patience.deadline = trio.current_time() + HELLO_S_MAX
                    await _shake(stream, handshake)
            finally:
                self._strangers.pop(patience, None)
            if patience.cancelled_caught:
                raise trio.TooSlowError
            for each in (who, f"{who}, {handshake.node}", _DOOR):
                self._forgive(each)
            await self._serve(stream, handshake)
        except LinkRefused as error:
            times = _PATIENCE if error.is_passing else 1
            self._complain(f"{who}, {handshake.node}", str(error), times)
            if handshake.is_later_life:
                self.on_later_life(handshake.node, handshake.incarnation)
        except (OSError, LinkFault, trio.TooSlowError) as error:
            self._complain(who, _told(error))
        finally:
            stream.close()

    async def _serve(self, stream: Stream, handshake: Handshake) -> None:
        """Let go of the stream that the node has dialled before, then serve this one."""
        node = handshake.node
        link = StreamLink(f"link from {node}", node, self._server, self._turn)
        while (before := self._accepted.get(node)) is not None:
            before.break_off("the other end has dialled again")
            await before.gone()
        if self._incarnation_of(node) == handshake.incarnation:
            self._accepted[node] = link
            await link.serve(stream, handshake, self)

    def _incarnation_of(self, node: str) -> int | None:
        address = self._members.get(node)
        return None if address is None else address.incarnation

    def _nonce(self) -> bytes:
        return self._world.random.randbytes(NONCE_BYTES)


async def _shake(stream: Stream, handshake: Handshake) -> None:
    """Go through a hello.

    Raises what `Handshake.receive` does, and `OSError`.
    """
    try:
        while True:
            await _send_all(stream, handshake.take_outbox())
            if handshake.is_done:
                return
            data = await stream.receive_some(HELLO_BYTES_MAX)
            if not data:
                raise LinkFault("the other end has hung up during the hello")
            handshake.receive(data)
    except LinkRefused:
        # Octets that nobody reads turn the end into a reset, which can overtake the reason.
        if reason := handshake.take_outbox():
            with trio.move_on_after(_REFUSAL_S_MAX):
                await _send_all(stream, reason)
                while await stream.receive_some(HELLO_BYTES_MAX):
                    pass
        raise


async def _send_all(stream: Stream, data: bytes) -> None:
    rest = memoryview(data)
    while rest := rest[stream.send_nowait(rest) :]:
        await stream.wait_writable()


def _told(error: Exception) -> str:
    if isinstance(error, trio.TooSlowError):
        return "no answer"
    return str(error)


def _ignore(node: str, number: int) -> None:
    """Nobody wants to hear of it."""

"""The streams between this node and all others: dialled, accepted, and dialled again.

Every node dials every other: on the streams that it has dialled it asks, on those that it was
dialled on it answers. A node is dialled for ever, as long as it is a member; a stream that is
accepted counts once its other end has proved to be one, and takes the place of the one before.
"""

from collections.abc import Callable, Mapping

import attrs
import trio

from amqpbroker.cluster.complaints import Complaints
from amqpbroker.cluster.hello import (
    HELLO_BYTES_MAX,
    NONCE_BYTES,
    Accepting,
    Dialling,
    Handshake,
    Identity,
)
from amqpbroker.cluster.link import StreamLink, Turning
from amqpbroker.cluster.wire import LinkUser
from amqpbroker.errors import LinkFault, LinkRefused
from amqpbroker.world import Listener, Stream, World

DIAL_S_MAX = 3.0
HELLO_S_MAX = 5.0
STRANGERS_MAX = 64
"""Streams whose other end has not proved anything yet."""
REDIAL_S_MIN = 0.05
REDIAL_S_MAX = 1.0
REFUSED_AGAIN_S = 0.05
"""A node that refuses connections is asked once more, after so long."""
_ACCEPT_RETRY_S = 0.1
_REFUSAL_S_MAX = 1.0
"""How long a peer may take to read why it is refused."""
_PATIENCE = 4
"""What may be over in a moment is logged when it has happened so many times."""
_DOOR = "links"
"""Who complains of what is no node's own trouble."""


@attrs.frozen
class Address:
    """Where a member of the cluster is to be found, and in which of its lives."""

    host: str
    port: int
    incarnation: int


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
        self._complaints = Complaints()
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
                self._complaints.complain(_DOOR, f"cannot accept: {error}")
                await trio.sleep(_ACCEPT_RETRY_S)
                continue
            if len(self._strangers) >= STRANGERS_MAX:
                # Nodes say who they are at once: those who are here longest are none.
                self._complaints.complain(
                    _DOOR, f"over {STRANGERS_MAX} strangers, the first are sent away"
                )
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
            self._complaints.forgive(who)
            await link.serve(stream, handshake, self)
        except LinkRefused as error:
            times = _PATIENCE if error.is_passing else 1
            self._complaints.complain(who, f"{place}: {error}", times)
        except (OSError, LinkFault, trio.TooSlowError, ValueError) as error:  # No such host.
            self._complaints.complain(who, f"{place}: {_told(error)}")
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
                self._complaints.forgive(each)
            await self._serve(stream, handshake)
        except LinkRefused as error:
            times = _PATIENCE if error.is_passing else 1
            self._complaints.complain(f"{who}, {handshake.node}", str(error), times)
            if handshake.is_later_life:
                self.on_later_life(handshake.node, handshake.incarnation)
        except (OSError, LinkFault, trio.TooSlowError) as error:
            self._complaints.complain(who, _told(error))
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

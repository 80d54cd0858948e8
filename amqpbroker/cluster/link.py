"""One end of the streams to or from another node, which has one at a time.

A stream has a reader, which is the task that dialled or accepted it, and a writer. The reader
awaits nothing but its stream. Sending is tried at once, without waiting, at the end of a turn; the
writer sends what is left, and a heartbeat when nothing was sent for a while.
"""

import logging
from struct import Struct
from typing import Protocol

import trio

from amqpbroker.cluster.hello import Handshake
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
from amqpbroker.errors import DiskFailure, LinkFault
from amqpbroker.world import Stream

log = logging.getLogger(__name__)

HEARTBEAT_S = 0.5
SILENT_BEATS_MAX = 10
"""So many of its own heartbeats a node hears nothing before it takes the stream for broken.

A node that was itself stopped for some time counts one of them, and has not lost anybody.
"""
RECEIVE_BYTES_MAX = 64 * 1024
"""Blocks over 128 KiB are new pages each time, and cost more than the turns that they save."""
_RECEIVE_BYTES_FIRST = 16 * 1024
_WORK_MAX = 2048

_REVISION = Struct(">Q")


class Speaker(Protocol):
    """What has something to send."""

    def flush(self) -> None:
        """Send it."""


class Turning(Protocol):
    """What links need of a turn."""

    def speak(self, speaker: Speaker) -> None:
        """Flush ``speaker`` at the end of the turn."""

    def end_batch(self) -> None:
        """End the turn."""


class Registry(Protocol):
    """What has to know of the links of a node, and of what comes on them for itself."""

    def changed(self, link: "StreamLink") -> None:
        """A link is up or down."""

    def take_revision(self, node: str, revision: int) -> None:
        """A node has told how new what it knows is."""


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

    async def serve(self, stream: Stream, handshake: Handshake, links: Registry) -> None:
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

    async def _read(self, inbox: Inbox, links: Registry) -> None:
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

    def _take_frames(self, inbox: Inbox, links: Registry) -> int:
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

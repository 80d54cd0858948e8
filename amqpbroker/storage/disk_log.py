"""The log of a queue on a node that has a disk.

In memory it is a `MemoryLog`. Persistent messages of a durable queue are told to the node's
`Journal` too, and are committed when that has synced them; so is what becomes of them. Chunks that
have to wait while the memory for waiting ones is used up go to segments, transient ones as well,
and come back when they are read.

The journal is not endless: now and then it is begun anew, and every log says in it where it stands
(`restate`). Whatever has waited so long lies in segments by then (`put_some_away`), but for a
residue that is not worth a file and is said again. What was told since the journal was begun anew
(`renew`) need not be said again.

What is on disk is given up in one way: a place in a segment that is not needed any more is released
when the journal keeps what makes it so, be it that the last message there is settled, or that the
log stands elsewhere.
"""

import logging
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator

from amqpbroker.message import Batch, Origin, Traits
from amqpbroker.storage.chunks import (
    CHUNK_MAX,
    GONE,
    Chunk,
    image_of,
    in_chunks,
    inside,
    is_damaged,
    live_bits,
    live_parts,
    persistent_image,
    persistent_runs,
    revive,
    weight,
    weight_left,
)
from amqpbroker.storage.faults import Damage
from amqpbroker.storage.format import FormatError, Image, encode_packed_image
from amqpbroker.storage.index_set import IndexSet
from amqpbroker.storage.journal import Journal, Waiting
from amqpbroker.storage.log import READ_BYTES_MAX, Followers, MemoryLog
from amqpbroker.storage.log_state import ChunkState, LogState
from amqpbroker.storage.segments import Place, Segments

_PUT_AWAY_BYTES_MAX = 2 * 1024 * 1024
"""Messages that are written to segments in one go."""
_PUT_AWAY_MAX = 8192
"""The same, counted with those that were settled in between."""
_MOVED_MAX = 2048
"""Messages in chunks that leave sparse segments in one go."""
RESIDUE_BYTES_MAX = 1024 * 1024
"""Messages of one log that are said again when the journal begins anew, rather than put away."""

log = logging.getLogger(__name__)

_UNKNOWN = Origin("", "", b"\0\0", 0, 0, Traits(persistent=True))
"""Of messages that are damaged."""


class DiskLog(MemoryLog):
    """A log whose chunks may lie in ``segments``.

    ``journal`` is None if nothing in it outlives the node. With ``is_async`` messages are committed
    as they come, though a crash may still take what was not synced.
    """

    def __init__(
        self,
        log_id: int,
        segments: Segments,
        waiting: Waiting,
        journal: Journal | None,
        is_async: bool = False,
    ) -> None:
        super().__init__(shift=log_id * 97)
        self.log_id = log_id
        self.epoch = 1
        self._segments = segments
        self._waiting = waiting
        self._journal = journal
        self._is_async = is_async
        self.damaged_count = 0
        """Messages that were damaged, and are lost."""
        self.is_deleted = False
        self._has_persistent = False
        self._uncommitted = False
        self._kept_end = 0
        self._loaded: Chunk | None = None
        self.renewed_end = 0
        """The end when the journal was begun anew: it knows all messages from here on."""
        self._read_before = 0
        self._settled: list[Place] = []  # Released when it is kept what was told.
        self._left: list[Place] = []  # Released when it is kept where the log stands.

    # -- the marks -----------------------------------------------------------------------------

    def append(self, origin: Origin, raws: list[bytes]) -> int:
        first, readable, committed = self.end, self.readable, self.committed
        end = super().append(origin, raws)
        if self._journal is not None and origin.traits.persistent:
            self._journal.messages(self, first, origin, raws)
            self._has_persistent = self._uncommitted = True
        if self._uncommitted and not self._is_async:
            self.committed = committed
        if self.followers is not None:
            self.readable, self.committed = readable, committed
            self.followers.appended(first, origin, raws)
            if not self._uncommitted or self._is_async:
                self._keep(end)
        return end

    def skip_to(self, index: int) -> None:
        if self._kept_end == self.end:
            self._kept_end = index
        marks = self.readable, self.committed
        super().skip_to(index)
        if self.followers is not None:
            self.readable, self.committed = marks

    def synced(self, end: int, is_all: bool) -> None:
        """The journal keeps what was appended below ``end``; ``is_all``: nothing was told since."""
        self._uncommitted = not is_all
        self._keep(self.end if is_all or self._is_async else end)

    def _keep(self, end: int) -> None:
        """What lies below ``end`` is as safe here as it gets."""
        if self.followers is not None:
            self._kept_end = max(self._kept_end, end)
            self.followers.kept(self._kept_end)
            return
        self.committed = max(self.committed, end)
        if self.on_advance is not None:
            self.on_advance()

    @property
    def kept_end(self) -> int:
        """All that was appended below is as safe on this node as it gets.

        Synced, if it is persistent and not ``is_async``.
        """
        return self.committed if self.followers is None else self._kept_end

    def follow(self, followers: Followers | None) -> None:
        """Have ``followers`` say from now on how far the marks go, and what is forgotten.

        Where the marks are, they stay: ``readable`` until ``committed`` has caught up. None: there
        are none any more, and the marks go as far as they go without. What was settled, and not
        forgotten yet, is to be forgotten before.
        """
        if self.followers is None:
            self._kept_end = self.committed
        self.followers = followers
        if followers is None:
            self.readable = self.end
            self._keep(self._kept_end)

    def advance(self, end: int) -> None:
        """What lies below ``end`` may be delivered and confirmed, as far as it is kept here.

        Marks do not go back. `on_advance` is called if one has moved.
        """
        end = min(end, self.kept_end)
        if end <= self.committed:
            return
        self.committed = end
        self.readable = max(self.readable, end)
        if self.on_advance is not None:
            self.on_advance()

    def forget(self, indexes: range) -> None:
        """Let go of what was settled while the log had followers; each message once."""
        followers, self.followers = self.followers, None
        try:
            self.settle(indexes)
        finally:
            self.followers = followers

    def take_settled(self) -> list[Place]:
        """Places to `release` when it is kept what was told so far."""
        places, self._settled = self._settled, []
        return places

    def release(self, places: list[Place]) -> None:
        """Nothing in these places is needed any more, whatever happens. Raises `DiskFailure`."""
        for place in places:
            self._segments.release(place)

    def flush_async(self, is_async: bool) -> None:
        self._is_async = is_async
        if is_async and self.kept_end < self.end:
            self._keep(self.end)

    # -- memory --------------------------------------------------------------------------------

    def _next_chunk(self, full: Chunk) -> None:
        super()._next_chunk(full)
        if full.live:
            # What is being read has twice the room: it is likely to be gone before it is written.
            self._keep_waiting(full, self._waiting.bytes_max * (1 + (self._read_end > full.base)))

    def _keep_waiting(self, chunk: Chunk, room_bytes: int) -> None:
        """A chunk waits: in memory while less than ``room_bytes`` do, else in a segment."""
        size = weight(chunk)
        fits = self._waiting.bytes + size <= room_bytes
        if not fits and self._put_away(chunk):
            self._drop(chunk)
            return
        self._weigh(chunk, size)
        if not fits:
            self._fall_short()

    def _weigh(self, chunk: Chunk, size_bytes: int) -> None:
        """A chunk waits in memory."""
        chunk.weight_bytes = size_bytes
        self._waiting.bytes += size_bytes

    def _fall_short(self) -> None:
        """More waits in memory than there is room for."""
        self._waiting.short[self] = None
        self._waiting.on_short()

    def relieve(self) -> None:
        """Put chunks into segments for which there was no room, if they still are too many.

        A few milliseconds' work.
        """
        waiting = self._waiting
        size = 0
        for chunk in self._chunks.values():
            if waiting.bytes <= waiting.bytes_max:
                break
            if chunk.weight_bytes and chunk.base >= self._read_end:
                size += chunk.weight_bytes
                if size > _PUT_AWAY_BYTES_MAX or not (chunk.place or self._put_away(chunk)):
                    return
                self._drop(chunk)
        del waiting.short[self]
        if not waiting.short:
            waiting.is_full = False

    def _put_away(self, chunk: Chunk) -> bool:
        """Write a chunk to a segment; it stays in memory. False if the disk is full."""
        if chunk.offsets is not None and chunk.gone is None:
            indexes, origins = range(chunk.base, chunk.base + chunk.count), chunk.origins
            pieces = encode_packed_image(chunk.base, origins, chunk.offsets, chunk.packed)
            origins = origins * len(indexes) if len(origins) == 1 else origins
        else:
            indexes, origins, pieces = image_of(chunk, chunk.gone or bytes(chunk.count))
        transient = sum(not origin.traits.persistent for origin in origins)
        chunk.place = self._segments.store(
            pieces, indexes.start, len(indexes), len(origins), transient
        )
        self._waiting.is_full = chunk.place is None
        return chunk.place is not None

    def _drop(self, chunk: Chunk) -> None:
        """Let a chunk that lies in a segment leave memory."""
        self._note_header(chunk)
        self._lighten(chunk)
        chunk.raws, chunk.origins = [], []
        chunk.packed, chunk.offsets = b"", None

    def _lighten(self, chunk: Chunk) -> None:
        self._waiting.bytes -= chunk.weight_bytes
        chunk.weight_bytes = 0

    def _make_ready(self, chunk: Chunk) -> None:
        if chunk.origins:
            super()._make_ready(chunk)
            return
        loaded, self._loaded = self._loaded, chunk
        if loaded is not None and loaded.place is not None and loaded.live:
            self._drop(loaded)
        assert chunk.place is not None
        try:
            image = self._segments.load(chunk.place)
        except FormatError as error:
            self._give_up(chunk, chunk.place, str(error))
            return
        raws: list[bytes] = [b""] * chunk.count
        origins = [image.origins[0]] * chunk.count
        for index, origin, raw in zip(image.indexes, image.origins, image.raws, strict=True):
            raws[index - chunk.base] = raw
            origins[index - chunk.base] = origin
        chunk.raws, chunk.origins = raws, origins

    def _give_up(self, chunk: Chunk, place: Place, what: str) -> None:
        """The messages of a chunk are damaged: what is read of it has no octets."""
        self._loaded = None
        chunk.origins = [_UNKNOWN] * chunk.count
        self.damaged_count += chunk.live
        path = self._segments.path(place)
        damage = Damage(path, place.offset, what, self.log_id, chunk.live)
        self._waiting.damages.append(damage)
        log.error("%s", damage)

    def origins(self, indexes: range) -> list[Origin]:
        chunk = self._chunk_of(indexes[0])
        if not chunk.origins:
            self._make_ready(chunk)
        return super().origins(indexes)

    # -- what becomes of messages --------------------------------------------------------------

    def _forget(self, chunk: Chunk, here: range) -> None:
        if self._has_persistent and self._journal is not None:
            self._journal.settled(self, here)
        if len(here) < chunk.live:
            if chunk.gone is None:
                chunk.gone = bytearray(CHUNK_MAX)
            start, stop = here[0] - chunk.base, here[-1] - chunk.base + 1
            chunk.gone[start : stop : here.step] = GONE[: len(here)]
        live = chunk.live
        super()._forget(chunk, here)
        if chunk.place is not None:
            self._segments.lose(chunk.place, live, chunk.live)
        if not chunk.live:
            self._lighten(chunk)
            if chunk.place is None:
                return
            if self._has_persistent:
                self._settled.append(chunk.place)
            else:
                self._segments.release(chunk.place)

    def settle_live(self, indexes: range) -> int:
        """Forget those of the messages that are there; returns how many they were.

        For copies of a log: followers are not told.
        """
        count = 0
        for chunk in self._chunks_in(indexes) if indexes else ():
            past = max(0, chunk.base - indexes.start)
            here = indexes[-(-past // indexes.step) :]
            here = range(here.start, min(here.stop, chunk.base + chunk.count), here.step)
            for part in live_parts(chunk, here):
                count += len(part)
                self._forget(chunk, part)
        return count

    # -- copies --------------------------------------------------------------------------------

    def live(self) -> IndexSet:
        """The messages that are there: neither settled nor known to be damaged."""
        live = IndexSet()
        for chunk in self._all_chunks():
            if not is_damaged(chunk):
                live.add_bits(chunk.base, live_bits(chunk))
        return live

    def copy(self, indexes: range) -> Batch:
        """As `read`, for another node: nobody is given them, and they need not be readable."""
        chunk = self._chunk_of(indexes[0])
        offsets, packed = chunk.offsets, chunk.packed
        if offsets is None:
            read_end = self._read_end
            batch = self.read(indexes)
            self._read_end = read_end
            return batch
        here = inside(indexes, chunk)  # It stays packed: it will wait longer.
        first = here[0] - chunk.base
        limit = offsets[first] + READ_BYTES_MAX
        raws: list[bytes] = []
        for place in range(first, here[-1] - chunk.base + 1, here.step):
            if raws and offsets[place + 1] > limit:
                break
            raws.append(packed[offsets[place] : offsets[place + 1]])
        return Batch(self.origins(here)[: len(raws)], raws)

    def fill(self, image: Image) -> int:
        """Put messages into their places below the end, but for those that are there.

        Returns how many they were. `when_kept` tells when they are kept.
        """
        assert image.end <= self.end, (image.end, self.end)
        messages = dict(
            zip(image.indexes, zip(image.origins, image.raws, strict=True), strict=True)
        )
        for chunk in self._put_in(messages):
            if chunk is not self._last:
                chunk.pack()
                self._weigh_anew(chunk)
        if self._journal is not None:
            for first, origins, raws in persistent_runs(messages):
                self._journal.filled(self, first, origins, raws)
                self._has_persistent = self._uncommitted = True
        return len(messages)

    def when_kept(self, call: Callable[[], None]) -> None:
        """Call once all messages that are there now are as safe as they get; perhaps at once."""
        if self._journal is not None and self._uncommitted and not self._is_async:
            self._journal.when_kept(self, call)
        else:
            call()

    def _put_in(self, messages: dict[int, tuple[Origin, bytes]]) -> list[Chunk]:
        """Give messages their places; those that are there go from ``messages``.

        Returns the chunks that wait in memory since, and are yet to be weighed.
        """
        indexes = sorted(messages)
        rest = dict(messages)
        changed: list[Chunk] = []
        for chunk in self._chunks_in(range(indexes[0], indexes[-1] + 1)) if indexes else ():
            stop = chunk.base + chunk.count
            here = indexes[bisect_left(indexes, chunk.base) : bisect_left(indexes, stop)]
            gone = chunk.gone
            absent = [] if gone is None else [index for index in here if gone[index - chunk.base]]
            if absent:
                self._make_ready(chunk)
            if here and is_damaged(chunk):
                self.settle_live(range(chunk.base, stop))  # It leaves a gap.
                continue
            if absent:
                self._revive(chunk, {index: messages[index] for index in absent})
                changed.append(chunk)
            for index in here:
                del rest[index]
            for index in set(here).difference(absent):
                del messages[index]
        for chunk in in_chunks(rest, list(self._bases)):
            self._chunks[chunk.base] = chunk
            insort(self._bases, chunk.base)
            changed.append(chunk)
        return changed

    def _revive(self, chunk: Chunk, messages: dict[int, tuple[Origin, bytes]]) -> None:
        """Have messages be there again that are gone of a chunk; it leaves its segment."""
        place, live = chunk.place, chunk.live
        revive(chunk, messages)
        if place is not None:
            chunk.place = None
            self._leave(place, live)

    def reopen(self) -> None:
        """Be as after a restart for the queue that is opened next: all that is there was delivered.

        It was, perhaps, by the node from which this log has it.
        """
        self.recovered = self._live_runs()
        self.fresh_from = self.end

    def delete(self) -> None:
        self.is_deleted = True
        for chunk in self._chunks.values():
            self._lighten(chunk)
        self._waiting.short.pop(self, None)
        self._chunks, self._bases, self._last = {}, [], Chunk(self.end, self.end + CHUNK_MAX)
        self._settled, self._left = [], []
        if self._journal is None:
            self.erase()
        else:
            self._journal.forget(self)

    def erase(self) -> None:
        """It is kept that the log is deleted: nothing on disk is needed any more."""
        self._segments.remove_all()

    def make_way(self) -> tuple[int, bool]:
        """It is deleted, and another log is opened in its folder: see `Segments.share`."""
        return self._segments.share()

    def close(self) -> None:
        """End the use of all files, none of them being synced."""
        self._segments.close()

    # -- saying where it stands ----------------------------------------------------------------

    def _all_chunks(self) -> Iterator[Chunk]:
        """All that have messages, in order; none may go meanwhile."""
        for base in self._bases:
            yield self._chunks[base]
        if self._last.live:
            yield self._last

    def _chunks_in(self, span: range) -> list[Chunk]:
        """Those that lie between the first and the last of a run, in order."""
        first = max(0, bisect_right(self._bases, span[0]) - 1)
        bases = self._bases[first : bisect_right(self._bases, span[-1])]
        chunks = [self._chunks[base] for base in bases]
        if self._last.live and span[-1] >= self._last.base:
            chunks.append(self._last)
        return chunks

    def renew(self) -> None:
        """The journal begins anew: what it was told so far has to be said again, by `restate`."""
        self.renewed_end = self.end

    def _old_chunks(self) -> Iterator[Chunk]:
        """The chunks of which the new part of the journal does not know all."""
        for chunk in self._all_chunks():
            if chunk.base >= self.renewed_end:
                return
            yield chunk

    @property
    def lacks_room(self) -> bool:
        """Whether the disk had no room for the last chunk of any log."""
        return self._waiting.is_full

    def put_some_away(self) -> bool:
        """Put old chunks into segments, unless all of them are a small residue.

        Those in sparse segments, too. A few milliseconds' work; whether there is more, perhaps for
        want of room.
        """
        if self.leave_sparse(self._old_chunks()):
            return True
        apart = [chunk for chunk in self._old_chunks() if chunk.place is None]
        if sum(map(weight_left, apart)) <= RESIDUE_BYTES_MAX:
            return False
        size = count = 0
        for chunk in apart:
            if chunk is not self._last:
                size += weight_left(chunk)
                count += chunk.count
                if not self._put_away(chunk):
                    return True
            if size >= _PUT_AWAY_BYTES_MAX or count >= _PUT_AWAY_MAX:
                return True
        return False

    def leave_sparse(self, chunks: Iterable[Chunk]) -> bool:
        """Have some of those ``chunks`` wait elsewhere that lie in sparse segments.

        In memory while there is room, else in another segment. A few milliseconds' work; whether
        it was any.
        """
        sparse = self._segments.sparse
        count = 0
        for chunk in list(chunks) if sparse else ():
            place = chunk.place
            if place is None or place.segment not in sparse:
                continue
            if count >= _MOVED_MAX:
                break
            count += place.messages
            self._make_ready(chunk)
            if is_damaged(chunk):
                continue  # It stays where it is.
            chunk.place = None
            self._weigh_anew(chunk)
            self._leave(place, chunk.live)
        return count > 0

    def _weigh_anew(self, chunk: Chunk) -> None:
        """A chunk is in memory as it has not been before, and waits."""
        self._lighten(chunk)
        self._keep_waiting(chunk, self._waiting.bytes_max)

    def _leave(self, place: Place, live: int) -> None:
        """A chunk lies elsewhere now; of ``live`` messages in its place none is needed there."""
        self._segments.lose(place, live, 0)
        if self._has_persistent:
            self._left.append(place)
        else:
            self._segments.release(place)

    @property
    def is_sparse(self) -> bool:
        """Whether it has sparse segments, and the journal knows nothing of it."""
        return bool(self._segments.sparse) and not self._has_persistent

    def tidy(self) -> bool:
        """As `leave_sparse`, of all chunks of a log of which the journal knows nothing."""
        return self.is_sparse and self.leave_sparse(self._chunks.values())

    @property
    def waiting_count(self) -> int:
        """Messages that lie in no segment."""
        return sum(chunk.live for chunk in self._all_chunks() if chunk.place is None)

    async def sync_segments(self) -> None:
        """Make all chunks last that lie in segments. Raises `OSError`."""
        await self._segments.sync()

    @property
    def is_synced(self) -> bool:
        """Whether `restate` would speak of nothing that a crash could take."""
        is_synced = self._segments.is_synced
        return all(chunk.place is None or is_synced(chunk.place) for chunk in self._old_chunks())

    def restate(self) -> tuple[LogState, list[tuple[range, int, list[bytes]]]]:
        """Where the log stands, and its old persistent messages that lie in no segment.

        These as images, each with the indexes that it speaks of, and how many it holds. Once it is
        kept, nothing that lay elsewhere before is needed any more.
        """
        self._settled += self._left
        self._left = []
        chunks = []
        images = []
        for chunk in self._old_chunks():
            if chunk.place is not None:
                gone = chunk.gone and bytes(chunk.gone[: chunk.count])
                chunks.append(
                    ChunkState(chunk.base, chunk.count, chunk.live, chunk.place, gone or None)
                )
            elif self._has_persistent:
                indexes, origins, image = persistent_image(chunk)
                if origins:
                    images.append((indexes, len(origins), image))
        read_end = max(self._read_end, self._read_before)
        return LogState(self.renewed_end, self.end, read_end, chunks), images

    def _persistent(self, chunk: Chunk) -> int:
        if chunk.origins or chunk.place is None:
            return super()._persistent(chunk)
        lasting = chunk.place.messages - chunk.place.transient
        return chunk.live * lasting // chunk.place.messages

    # -- the start -----------------------------------------------------------------------------

    def recover(self, state: LogState, messages: dict[int, tuple[Origin, bytes]]) -> None:
        """Begin where the node has ended; ``messages`` lie in no segment, and outlive it."""
        self.end = self.readable = self.committed = state.end
        self._has_persistent = True
        chunks = [self._recover_chunk(there) for there in state.chunks]
        self._chunks = {chunk.base: chunk for chunk in chunks}
        self._bases = list(self._chunks)
        self._last = Chunk(self.end, self.end + self._last.stop)
        for chunk in chunks:
            self._drop_transient(chunk)
        for chunk in self._put_in(messages):
            self._weigh(chunk, weight(chunk))
        if self._waiting.bytes > self._waiting.bytes_max:
            self._fall_short()
        self.recovered = self._live_runs()
        fresh_from = self.end
        if self.recovered and self.recovered[-1].stop == self.end:
            fresh_from = self.recovered[-1].start
        self.fresh_from = max(state.read_end, fresh_from)
        self._read_before = state.read_end
        self.renew()

    def _recover_chunk(self, there: ChunkState) -> Chunk:
        """A chunk that lies in a segment."""
        chunk = Chunk(there.first, there.first + there.count)
        chunk.count, chunk.live, chunk.place = there.count, there.live, there.place
        chunk.size_bytes = there.place.size * there.count // there.place.messages
        if there.gone is not None:
            chunk.gone = bytearray(there.gone.ljust(CHUNK_MAX, b"\0"))
        self._segments.keep(there.place, there.live)
        return chunk

    def _drop_transient(self, chunk: Chunk) -> None:
        """What does not outlive a node ends with it."""
        if chunk.place is None or not chunk.place.transient:
            return
        self._make_ready(chunk)
        gone = chunk.gone or bytes(chunk.count)
        transient = [
            chunk.base + offset
            for offset, origin in enumerate(chunk.origins)
            if not gone[offset] and not origin.traits.persistent
        ]
        for index in transient:
            self._forget(chunk, range(index, index + 1))

    def _live_runs(self) -> list[range]:
        """All messages that are there, in runs."""
        runs: list[range] = []
        for chunk in self._all_chunks():
            for part in live_parts(chunk, range(chunk.base, chunk.base + chunk.count)):
                if runs and runs[-1].stop == part.start:
                    runs[-1] = range(runs[-1].start, part.stop)
                else:
                    runs.append(part)
        return runs

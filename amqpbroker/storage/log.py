"""The log under every queue.

A log is the messages of a queue in order, each with an index that counts up by one from 0 and never
comes again; it may jump ahead. It has two marks: what lies below ``readable`` may be delivered,
what lies below ``committed`` may be confirmed. In memory both follow the end at once; on disk, or
with mirrors, they lag behind.

`MemoryLog` keeps messages in chunks of up to `CHUNK_MAX`, or of fewer large ones
(`CHUNK_BYTES_MAX`).
"""

from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

import attrs

from amqpbroker.message import Batch, Origin
from amqpbroker.storage.chunks import CHUNK_BYTES_MAX, CHUNK_MAX, Chunk, extend, inside, places

READ_BYTES_MAX = 256 * 1024
"""Octets that one `Log.read` gives, unless the first message is larger."""
_NOTHING = [b""] * CHUNK_MAX
_BODY_SIZE = slice(11, 19)
"""Where the first content frame of a message says how long the body is."""
_HEADER_BYTES_MIN = 30
"""What a message without properties takes beside its body."""
_LOOKED_AT_MAX = 64
"""Messages whose sizes are added up one by one."""


@attrs.define
class Bodies:
    """What messages come to: octets of their bodies, and how much of that outlives the node."""

    octets: int = 0
    persistent: int = 0
    """Messages."""
    persistent_octets: int = 0
    paged_out: int = 0
    """Messages that are not in memory."""
    paged_out_octets: int = 0


class Followers(ABC):
    """Those who follow a log elsewhere: other nodes' copies of it, seen from their leader.

    While a log has them (`DiskLog.follow`), its marks do not move by themselves, and what is
    settled is not forgotten: they say when (`DiskLog.advance`, `DiskLog.forget`).
    """

    @abstractmethod
    def appended(self, first: int, origin: Origin, raws: list[bytes]) -> None:
        """A run was appended from index ``first`` on; ``raws`` is not to be changed."""

    @abstractmethod
    def settled(self, indexes: range) -> None:
        """Messages are not needed any more: the log is to `forget` them in time, each once."""

    @abstractmethod
    def kept(self, end: int) -> None:
        """All that was appended below ``end`` is as safe on this node as it gets.

        Synced, if it is persistent. Perhaps in the midst of an append.
        """


class Log(ABC):
    """Messages in order, with a mark for what may be delivered and one for what may be confirmed.

    ``on_advance`` is called, with nothing, whenever a mark has moved by itself rather than by an
    append.
    """

    end: int
    readable: int
    committed: int
    on_advance: Callable[[], None] | None = None
    on_skip: Callable[[range], None] | None = None
    """Called when the log has jumped, with the indexes that it has left out."""
    recovered: Sequence[range] = ()
    """Messages that were there when the log was opened; of another life of the node."""
    fresh_from: int = 0
    """Those of them from this index on were never delivered."""
    followers: Followers | None = None
    """Who says what becomes of the marks, and of messages that are settled."""

    @abstractmethod
    def append(self, origin: Origin, raws: list[bytes]) -> int:
        """Add a run of messages; the new end."""

    @abstractmethod
    def skip_to(self, index: int) -> None:
        """Go on at ``index``, the end or beyond: nothing lies in between, and nothing ever will.

        Marks that stood at the end do so again, unless followers say where they are. If no queue
        stands on the log, what it has counts as delivered.
        """

    @abstractmethod
    def read(self, indexes: range) -> Batch:
        """The messages at ``indexes`` (ascending, below ``readable``, not settled).

        As many as lie together, at least one, at most `CHUNK_MAX`, and about `READ_BYTES_MAX`.
        If there are origins, but no messages, then so many are damaged and lost; they are to be
        settled like others.
        """

    @abstractmethod
    def origins(self, indexes: range) -> list[Origin]:
        """Only the origins of the messages at ``indexes``; at least one, at most `CHUNK_MAX`.

        For those who want to know about messages that nobody is given.
        """

    @abstractmethod
    def settle(self, indexes: range) -> None:
        """Messages are not needed any more: each of them is settled once, and is not read again."""

    @abstractmethod
    def bodies(self) -> Bodies:
        """What all messages that are not settled come to.

        A few messages are weighed one by one. Of many the sum is exact as long as those that lie
        together have headers of the same size; on disk, bodies too, if some of them are settled.
        To know better, each would have to be looked at, now or when it came.
        """

    @abstractmethod
    def body_octets(self, indexes: range) -> int:
        """What the messages at ``indexes`` come to, in octets; none of them is settled."""

    def flush_async(self, is_async: bool) -> None:  # noqa: B027 - in memory nothing is synced
        """From now on messages are committed before they are synced, or not any more."""

    def delete(self) -> None:  # noqa: B027 - a log in memory goes with its last reference
        """The queue is gone: nothing of the log is needed any more, and nothing is asked of it."""


class DeletedLog(Log):
    """What stands in for the log of a deleted queue: it takes all there is, and keeps nothing.

    Indexes go on from ``end``; whatever is appended is as good as committed.
    """

    def __init__(self, end: int) -> None:
        self.end = self.readable = self.committed = end

    def append(self, origin: Origin, raws: list[bytes]) -> int:
        self.end = self.committed = self.end + len(raws)
        return self.end

    def skip_to(self, index: int) -> None:
        self.end = self.committed = index

    def read(self, indexes: range) -> Batch:
        raise AssertionError("there is nothing to read")

    def origins(self, indexes: range) -> list[Origin]:
        raise AssertionError("there is nothing to read")

    def settle(self, indexes: range) -> None:
        """Nothing is left to forget."""

    def bodies(self) -> Bodies:
        return Bodies()

    def body_octets(self, indexes: range) -> int:
        return 0


class MemoryLog(Log):
    """A log that lives as long as its process: appended is readable is committed.

    ``shift`` makes its first chunk shorter. Many queues fill in step; if their chunks did so too, a
    thousand would have to be packed at once.
    """

    def __init__(self, shift: int = 0) -> None:
        self.end = self.readable = self.committed = 0
        self._chunks: dict[int, Chunk] = {}  # By their bases, which ascend.
        self._bases: list[int] = []
        self._last = Chunk(0, CHUNK_MAX - shift % CHUNK_MAX)
        self._read_end = 0
        self._header_bytes = _HEADER_BYTES_MIN
        """What a message takes beside its body; of the last that was looked at."""

    def append(self, origin: Origin, raws: list[bytes]) -> int:
        chunk = self._last
        added = len(raws)
        end = self.end + added
        if end < chunk.stop:
            size_bytes = chunk.size_bytes
            size_bytes += len(raws[0]) if added == 1 else sum(map(len, raws))
            if size_bytes < CHUNK_BYTES_MAX:
                chunk.raws += raws  # As `extend` does it; this is the hot path.
                chunk.origins += [origin] * added
                chunk.count += added
                chunk.live += added
                chunk.size_bytes = size_bytes
                self.end = self.readable = self.committed = end
                return end
        self._append_in_parts(origin, raws)
        self.end = self.readable = self.committed = end
        return end

    def _append_in_parts(self, origin: Origin, raws: list[bytes]) -> None:
        """Append messages with which the last chunk is full."""
        done = 0
        while done < len(raws):
            chunk = self._last
            part = raws[done : done + chunk.stop - chunk.base - chunk.count]
            size_bytes = sum(map(len, part))
            room_bytes = CHUNK_BYTES_MAX - chunk.size_bytes
            if size_bytes > room_bytes:
                sizes = list(accumulate(map(len, part)))
                del part[bisect_left(sizes, room_bytes) + 1 :]
                size_bytes = sizes[len(part) - 1]
            extend(chunk, origin, part, size_bytes)
            done += len(part)
            if chunk.base + chunk.count == chunk.stop or size_bytes >= room_bytes:
                self._next_chunk(chunk)

    def _next_chunk(self, full: Chunk) -> None:
        """Put the full chunk away, and begin another.

        Packed, if it will have to wait; nowhere, if it is empty already.
        """
        if full.live:
            if self._read_end <= full.base:
                full.pack()
            self._chunks[full.base] = full
            self._bases.append(full.base)
        end = full.base + full.count
        self._last = Chunk(end, end + CHUNK_MAX)

    def skip_to(self, index: int) -> None:
        end, last = self.end, self._last
        assert index >= end, (index, end)
        if index == end:
            return
        if last.live:
            self._next_chunk(last)
        self._last = Chunk(index, index + last.stop - end)
        self.end = self.fresh_from = index
        if self.readable == end:
            self.readable = index
        if self.committed == end:
            self.committed = index
        if self.on_skip is not None:
            self.on_skip(range(end, index))

    def _chunk_of(self, index: int) -> Chunk:
        chunk = self._last
        if index < chunk.base:
            chunk = self._chunks[self._bases[bisect_right(self._bases, index) - 1]]
        assert chunk.base <= index < chunk.base + chunk.count, (index, chunk.base, chunk.count)
        return chunk

    def read(self, indexes: range) -> Batch:
        chunk = self._chunk_of(indexes[0])
        self._make_ready(chunk)
        here = inside(indexes, chunk)
        raws = chunk.raws[places(here, chunk.base)]
        if len(raws) > 1 and sum(map(len, raws)) > READ_BYTES_MAX:
            sizes = list(accumulate(map(len, raws)))
            here = here[: max(1, bisect_right(sizes, READ_BYTES_MAX))]
            raws = raws[: len(here)]
        self._read_end = max(self._read_end, here[-1] + 1)
        return Batch(chunk.origins[places(here, chunk.base)], raws)

    def _make_ready(self, chunk: Chunk) -> None:
        """See that the messages of a chunk can be read."""
        if chunk.offsets is not None:
            chunk.unpack()

    def origins(self, indexes: range) -> list[Origin]:
        chunk = self._chunk_of(indexes[0])
        here = inside(indexes, chunk)
        if len(chunk.origins) < chunk.count:  # Packed: they all have the same.
            return chunk.origins * len(here)
        return chunk.origins[places(here, chunk.base)]

    def settle(self, indexes: range) -> None:
        if self.followers is not None:
            self.followers.settled(indexes)
            return
        while indexes:
            chunk = self._chunk_of(indexes[0])
            here = inside(indexes, chunk)
            indexes = indexes[len(here) :]
            self._forget(chunk, here)

    def _forget(self, chunk: Chunk, here: range) -> None:
        """Let go of messages of one chunk, and of the chunk with the last of them."""
        chunk.live -= len(here)
        assert chunk.live >= 0, (chunk.base, chunk.live)
        if chunk.live:
            if chunk.raws:
                chunk.raws[places(here, chunk.base)] = _NOTHING[: len(here)]
        elif chunk is self._last:
            chunk.begin(self.end)
        else:
            del self._chunks[chunk.base]
            del self._bases[bisect_left(self._bases, chunk.base)]

    # -- sizes ---------------------------------------------------------------------------------

    def bodies(self) -> Bodies:
        sums = Bodies()
        for chunk in (*self._chunks.values(), self._last):
            if 0 < chunk.live <= _LOOKED_AT_MAX and chunk.raws:
                _look_at(chunk, sums)
            elif chunk.live:
                octets = self._without_headers(chunk, _octets(chunk), chunk.live)
                persistent = self._persistent(chunk)
                sums.octets += octets
                sums.persistent += persistent
                sums.persistent_octets += octets * persistent // chunk.live
                if not chunk.origins:
                    sums.paged_out += chunk.live
                    sums.paged_out_octets += octets
        return sums

    def body_octets(self, indexes: range) -> int:
        octets = 0
        while indexes:
            chunk = self._chunk_of(indexes[0])
            here = inside(indexes, chunk)
            indexes = indexes[len(here) :]
            if len(here) <= _LOOKED_AT_MAX and chunk.raws:
                octets += sum(map(_body_octets, chunk.raws[places(here, chunk.base)]))
            else:
                octets += self._without_headers(chunk, _octets_at(chunk, here), len(here))
        return octets

    def _without_headers(self, chunk: Chunk, octets: int, count: int) -> int:
        """What of ``octets`` is bodies, if so many messages of a chunk have them."""
        self._note_header(chunk)
        return max(0, octets - self._header_bytes * count)

    def _note_header(self, chunk: Chunk) -> None:
        """See what a message takes beside its body, if there is one in memory."""
        first = chunk.packed[: chunk.offsets[1]] if chunk.offsets else b""
        raw = first or next(filter(None, chunk.raws), b"")
        if raw:
            self._header_bytes = len(raw) - _body_octets(raw)

    def _persistent(self, chunk: Chunk) -> int:
        """How many messages of a chunk outlive the node, of those that are not settled."""
        kinds = {origin.traits.persistent for origin in set(chunk.origins)}
        if len(kinds) == 1:
            return chunk.live if kinds == {True} else 0
        there = [origin.traits.persistent for origin in chunk.origins]
        return sum(there) * chunk.live // chunk.count


def _body_octets(raw: bytes) -> int:
    """What a message has, as it says itself; no more than there is."""
    return min(int.from_bytes(raw[_BODY_SIZE]), len(raw))


def _look_at(chunk: Chunk, sums: Bodies) -> None:
    """Add up the messages of a chunk one by one."""
    for origin, raw in zip(chunk.origins, chunk.raws, strict=True):
        if raw:
            octets = _body_octets(raw)
            sums.octets += octets
            if origin.traits.persistent:
                sums.persistent += 1
                sums.persistent_octets += octets


def _octets(chunk: Chunk) -> int:
    """What the messages of a chunk that are not settled come to, headers included."""
    if chunk.live == chunk.count:
        return chunk.size_bytes
    if chunk.raws:
        return sum(map(len, chunk.raws))
    return chunk.size_bytes * chunk.live // chunk.count


def _octets_at(chunk: Chunk, indexes: range) -> int:
    """The same of some of them, which are not settled."""
    if len(indexes) == chunk.live:
        return _octets(chunk)
    first, stop = indexes[0] - chunk.base, indexes[-1] - chunk.base + 1
    if chunk.raws:
        return sum(map(len, chunk.raws[first : stop : indexes.step]))
    if chunk.offsets is not None and indexes.step == 1:
        return chunk.offsets[stop] - chunk.offsets[first]
    return chunk.size_bytes * len(indexes) // chunk.count

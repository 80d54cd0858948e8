"""Chunks: what logs keep their messages in.

Two things are dear with a long backlog in Python: an object per message, and the garbage
collector's walk over them. A chunk is two lists while it is being written or read. One that fills
up before anybody reads it is packed: one string of octets and an array of offsets, nothing the
collector looks at, and less than half the memory.
"""

from array import array
from bisect import bisect_right
from itertools import accumulate, compress
from operator import or_

from amqpbroker.message import Origin
from amqpbroker.storage.format import encode_image
from amqpbroker.storage.segments import Place

CHUNK_MAX = 1024
"""Messages in a chunk; also the most that one `Log.read` gives."""
CHUNK_BYTES_MAX = 1024 * 1024
"""Octets with which a chunk is full, whatever it holds: the last message may go beyond."""
_PACKED_MESSAGE_BYTES_MAX = 4096
_ENTRY_BYTES = 8
"""What a list or an array has for each message, be it there or settled."""
GONE = b"\1" * CHUNK_MAX
_DIGITS = b"01" + b"1" * 254
_NEGATED = b"\1" + bytes(255)


class Chunk:
    """Messages that lie together: the first has index ``base``, the last one comes before ``stop``.

    Of ``count`` messages that came here ``live`` are not settled; the others have empty octets in
    ``raws``. ``size_bytes`` is what they all had when they came. What a log on
    disk notes beside: ``gone`` has an octet for each message, not 0 for a settled one (None: none
    is); ``place`` is where the chunk lies in a segment, if it does, and then it need not be in
    memory; ``weight_bytes`` is what it counts for among those that wait in memory.
    """

    __slots__ = (
        "base",
        "count",
        "gone",
        "live",
        "offsets",
        "origins",
        "packed",
        "place",
        "raws",
        "size_bytes",
        "stop",
        "weight_bytes",
    )

    def __init__(self, base: int, stop: int) -> None:
        self.base = base
        self.stop = stop
        self.count = 0
        self.live = 0
        self.size_bytes = 0
        self.origins: list[Origin] = []
        self.raws: list[bytes] = []
        self.packed = b""
        self.offsets: array[int] | None = None
        self.gone: bytearray | None = None
        self.place: Place | None = None
        self.weight_bytes = 0

    def begin(self, base: int) -> None:
        """All that was there is settled: go on from ``base``."""
        self.base = base
        self.count = self.size_bytes = 0
        self.gone = None
        self.origins.clear()
        self.raws.clear()

    def pack(self) -> None:
        """Change to the form for waiting, if the messages are small enough to gain by it."""
        offsets = array("Q", accumulate(map(len, self.raws), initial=0))
        if offsets[-1] > _PACKED_MESSAGE_BYTES_MAX * self.count:
            return
        self.packed = b"".join(self.raws)
        self.offsets = offsets
        self.raws = []
        if self.origins.count(self.origins[0]) == self.count:
            self.origins = self.origins[:1]

    def unpack(self) -> None:
        """Change to the form for work."""
        packed, offsets = self.packed, self.offsets
        assert offsets is not None
        self.raws = [packed[offsets[i] : offsets[i + 1]] for i in range(self.count)]
        if len(self.origins) == 1:
            self.origins = self.origins * self.count
        self.packed = b""
        self.offsets = None


def extend(chunk: Chunk, origin: Origin, raws: list[bytes], size_bytes: int) -> None:
    """Add messages to a chunk that has room for them."""
    added = len(raws)
    chunk.raws += raws
    chunk.origins += [origin] * added
    chunk.count += added
    chunk.live += added
    chunk.size_bytes += size_bytes


def inside(indexes: range, chunk: Chunk) -> range:
    """The first of ``indexes``, as far as they lie in ``chunk``."""
    stop = chunk.base + chunk.count
    if indexes[-1] < stop:
        return indexes
    return range(indexes.start, stop, indexes.step)


def places(indexes: range, base: int) -> slice:
    """Where ``indexes`` lie in lists that begin at ``base``."""
    return slice(indexes[0] - base, indexes[-1] - base + 1, indexes.step)


def is_damaged(chunk: Chunk) -> bool:
    """Whether a chunk was read, and its messages are not what was written."""
    return bool(chunk.origins) and not chunk.raws and chunk.offsets is None


def revive(chunk: Chunk, messages: dict[int, tuple[Origin, bytes]]) -> None:
    """Have messages be there again that are gone of a chunk; it is not packed."""
    gone = chunk.gone
    assert gone is not None
    for index, (origin, raw) in messages.items():
        at = index - chunk.base
        chunk.origins[at], chunk.raws[at], gone[at] = origin, raw, 0
    chunk.live += len(messages)
    there = gone[: chunk.count].translate(_NEGATED)
    octets = sum(map(len, compress(chunk.raws, there)))
    chunk.size_bytes = octets * chunk.count // chunk.live
    if chunk.live == chunk.count:
        chunk.gone = None


def live_bits(chunk: Chunk) -> int:
    """A bit for each message of a chunk, set if it is not settled."""
    bits = (1 << chunk.count) - 1
    if chunk.gone is not None:
        bits ^= int(chunk.gone[chunk.count - 1 :: -1].translate(_DIGITS), 2)
    return bits


def live_parts(chunk: Chunk, here: range) -> list[range]:
    """Those of a run within a chunk that are not settled, as runs of the same step."""
    if not here or chunk.gone is None:
        return [here] if here else []
    gone = chunk.gone[here[0] - chunk.base : here[-1] - chunk.base + 1 : here.step]
    parts = []
    start = gone.find(0)
    while start >= 0:
        stop = gone.find(1, start)
        stop = len(gone) if stop < 0 else stop
        parts.append(here[start:stop])
        start = gone.find(0, stop)
    return parts


def persistent_runs(
    messages: dict[int, tuple[Origin, bytes]],
) -> list[tuple[int, list[Origin], list[bytes]]]:
    """Messages that outlive the node, in runs: first index, origins, octets."""
    runs: list[tuple[int, list[Origin], list[bytes]]] = []
    for index, (origin, raw) in messages.items():
        if not origin.traits.persistent:
            continue
        if not runs or runs[-1][0] + len(runs[-1][2]) != index:
            runs.append((index, [], []))
        runs[-1][1].append(origin)
        runs[-1][2].append(raw)
    return runs


def in_chunks(messages: dict[int, tuple[Origin, bytes]], borders: list[int]) -> list[Chunk]:
    """Messages that lie in no segment as chunks, none of which goes beyond one of ``borders``.

    What is missing within a chunk is gone.
    """
    chunks: list[Chunk] = []
    for index in sorted(messages):
        origin, raw = messages[index]
        if not chunks or index >= chunks[-1].stop or chunks[-1].size_bytes >= CHUNK_BYTES_MAX:
            border = bisect_right(borders, index)
            chunks.append(Chunk(index, min([index + CHUNK_MAX, *borders[border : border + 1]])))
        chunk = chunks[-1]
        missing = index - chunk.base - chunk.count
        if missing:
            if chunk.gone is None:
                chunk.gone = bytearray(CHUNK_MAX)
            chunk.gone[chunk.count : chunk.count + missing] = GONE[:missing]
            chunk.raws += [b""] * missing
            chunk.origins += [origin] * missing
            chunk.count += missing
        extend(chunk, origin, [raw], len(raw))
    for chunk in chunks:  # As if those that are missing had been of the same size.
        chunk.size_bytes = chunk.size_bytes * chunk.count // chunk.live
    return chunks


def weight(chunk: Chunk) -> int:
    """What a chunk takes in memory, but for objects around it."""
    if chunk.offsets is not None:
        return len(chunk.packed) + _ENTRY_BYTES * chunk.count
    return sum(map(len, chunk.raws)) + 2 * _ENTRY_BYTES * chunk.count


def weight_left(chunk: Chunk) -> int:
    """About what a chunk takes without the octets of messages that are settled."""
    if not chunk.weight_bytes:
        return weight(chunk)
    entries = _ENTRY_BYTES * chunk.count
    return entries + (chunk.weight_bytes - entries) * chunk.live // chunk.count


def persistent_image(chunk: Chunk) -> tuple[range, list[Origin], list[bytes]]:
    """As `image_of`, of what outlives the node."""
    gone = chunk.gone or bytes(chunk.count)
    indexes, origins, pieces = image_of(chunk, gone)
    if all(origin.traits.persistent for origin in origins):
        return indexes, origins, pieces
    passing = (not origin.traits.persistent for origin in chunk.origins)
    return image_of(chunk, bytes(map(or_, passing, gone)))


def image_of(chunk: Chunk, gone: bytes | bytearray) -> tuple[range, list[Origin], list[bytes]]:
    """The image of what is not ``gone`` of a chunk in memory: its span, origins, pieces."""
    if chunk.offsets is not None:
        chunk.unpack()
    start, stop = max(0, gone.find(0)), gone.rfind(0, 0, chunk.count) + 1
    marks = gone[start:stop]
    there = marks.translate(_NEGATED)
    origins = list(compress(chunk.origins[start:stop], there))
    raws = list(compress(chunk.raws[start:stop], there))
    sparse = marks if len(raws) < len(marks) else None
    pieces = encode_image(chunk.base + start, origins, raws, sparse)
    return range(chunk.base + start, chunk.base + stop), origins, pieces

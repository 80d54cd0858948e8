"""The octets that storage writes: images of messages, and batches of the write-ahead log.

An *image* holds messages of one log: the index of the first, which of those behind it are there,
what they share (runs of one `Origin`), their sizes, their octets. The write-ahead log carries
images as they are published, segments carry those that wait for long.

A *file* begins with a head: what it is, in which version, and a salt that goes into the checksums
of its batches' headers. So nothing that a client has sent, whatever it looks like, is ever taken
for a batch.

A *batch* is what is written and synced at once: a header with a checksum of its own, a directory of
the messages within, and records with a checksum each. A reader can therefore tell what a damaged
record has taken along, and go on behind it. ``synced_to`` in the header is the number of the last
batch that was known to be synced when this one was written: damage up to there is damage; beyond,
it may be the end of what a crash let through.

A head whose checksum fits when one bit is flipped back is taken as that: the bit was flipped.
What changes definitions is said twice in its batch.

All numbers are little-endian. Whatever cannot be decoded raises `FormatError`.
"""

import struct
import sys
from array import array
from collections.abc import Iterable
from enum import IntEnum
from itertools import accumulate, chain, groupby, pairwise
from zlib import crc32

import attrs

from amqpbroker.message import Origin, Traits

FORMAT_VERSION = 1

_NO_EXPIRY = -1
_PERSISTENT = 1
_SPARSE = 1
_SIZE_BYTES = 4
_RUN_MESSAGES_BYTES = 4
_KNOWN_MAX = 1024
"""Origins that a stream remembers."""

_FILE_HEAD = struct.Struct("<4sII")
"""Mark, version, salt."""
_IMAGE_HEAD = struct.Struct("<QIIHB")
"""First index, indexes, messages that are there, runs, flags."""
_RUN_HEAD = struct.Struct("<IBBHIqH")
"""Messages, flags, priority, channel, frame_max, expires_ms, octets of the address."""
_BATCH_HEAD = struct.Struct("<4sQQIII")
"""Mark, number, synced_to, directory entries, octets of the records, checksum of the directory."""
_DIRECTORY_ENTRY = struct.Struct("<QIQI")
"""Log, epoch, first index, messages."""
_RECORD_HEAD = struct.Struct("<IIBQI")
"""Octets of the payload, checksum of all that follows it, kind, log, epoch."""
_CHECKSUM = struct.Struct("<I")
_RANGE = struct.Struct("<QQI")
_BATCH_MARK = b"\xb2WAL"
_BATCH_HEAD_BYTES = _BATCH_HEAD.size + _CHECKSUM.size
FILE_HEAD_BYTES = _FILE_HEAD.size + _CHECKSUM.size


class FormatError(Exception):
    """Octets that are not what was written there."""


# -- heads ---------------------------------------------------------------------------------------


@attrs.frozen
class FileHead:
    """What a file begins with. ``is_mended``: not quite, one bit was flipped."""

    version: int
    salt: int
    is_mended: bool


def encode_file_head(mark: bytes, salt: int = 0) -> bytes:
    """The head of a file of this version."""
    return _sealed(_FILE_HEAD.pack(mark, FORMAT_VERSION, salt), 0)


def decode_file_head(data: bytes, mark: bytes) -> FileHead | None:
    """The head of a file that begins with ``data``; None if it is no such file."""
    head = data[:FILE_HEAD_BYTES]
    is_mended = len(head) == FILE_HEAD_BYTES and not _is_intact(head, 0)
    if is_mended:
        head = _mended(head, 0) or b""
    if len(head) < FILE_HEAD_BYTES or head[:4] != mark:
        return None
    _, version, salt = _FILE_HEAD.unpack_from(head)
    return FileHead(version, salt, is_mended)


def _sealed(head: bytes, salt: int) -> bytes:
    """A head with its checksum."""
    return head + _CHECKSUM.pack(crc32(head, salt))


def _is_intact(head: bytes | bytearray, salt: int) -> bool:
    return crc32(head[:-4], salt) == int.from_bytes(head[-4:], "little")


def _mended(head: bytes, salt: int) -> bytes | None:
    """A head with the one bit flipped back that was flipped; None if there is no such bit."""
    for bit in range(len(head) * 8):
        mended = bytearray(head)
        mended[bit // 8] ^= 1 << bit % 8
        if _is_intact(mended, salt):
            return bytes(mended)
    return None


# -- images --------------------------------------------------------------------------------------


@attrs.define
class Image:
    """Messages of one log: ``indexes[i]`` has ``origins[i]`` and ``raws[i]``.

    It speaks of all indexes from ``first`` on that lie before ``end``, be there a message or not.
    """

    first: int
    end: int
    indexes: list[int]
    origins: list[Origin]
    raws: list[bytes]


def encode_image(
    first: int,
    origins: list[Origin],
    raws: list[bytes],
    gone: bytes | bytearray | None = None,
) -> list[bytes]:
    """Pieces that together are the image of messages from index ``first`` on.

    ``gone`` has an octet for each index, not 0 where there is no message; without it there are no
    gaps.
    """
    sizes = array("I", map(len, raws))
    count, flags = (len(raws), 0) if gone is None else (len(gone), _SPARSE)
    if origins and origins.count(origins[0]) == len(origins):
        runs = [(origins[0], len(origins))]
    else:
        runs = [(origin, len(list(run))) for origin, run in groupby(origins)]
    return [*_image_head(first, count, sizes, runs, flags, bytes(gone or b"")), *raws]


def encode_packed_image(
    first: int, origins: list[Origin], offsets: "array[int]", packed: bytes
) -> list[bytes]:
    """As `encode_image`, of messages that lie in one piece between ``offsets``.

    One origin stands for all.
    """
    sizes = array("I", [stop - start for start, stop in pairwise(offsets)])
    runs = [(origin, len(list(run))) for origin, run in groupby(origins)]
    if len(origins) == 1:
        runs = [(origins[0], len(sizes))]
    return [*_image_head(first, len(sizes), sizes, runs, 0, b""), packed]


def _image_head(
    first: int,
    count: int,
    sizes: "array[int]",
    runs: list[tuple[Origin, int]],
    flags: int,
    gone: bytes,
) -> list[bytes]:
    """What precedes the messages themselves."""
    return [
        _IMAGE_HEAD.pack(first, count, len(sizes), len(runs), flags),
        *[_encode_run(origin, messages) for origin, messages in runs],
        gone,
        _octets(sizes),
    ]


def decode_image(data: bytes) -> Image:
    """The messages in an image; those of one run share an `Origin`. Raises `FormatError`."""
    first, count, gone, origins, raws = _decode(data, 0, None)
    indexes = list(range(first, first + count))
    if gone:
        indexes = [index for index, mark in zip(indexes, gone, strict=True) if not mark]
    if not len(indexes) == len(raws):
        raise FormatError("an image of messages does not add up")
    return Image(first, first + count, indexes, origins, raws)


def decode_messages(
    data: bytes, start: int, known: dict[bytes, Origin]
) -> tuple[int, list[Origin], list[bytes]]:
    """The index of the first, origins, and messages of an image that begins at ``start``.

    It has at least one message, and no gaps. ``known`` remembers origins: a run that says the same
    as another has its origin. Raises `FormatError`.
    """
    first, count, _, origins, raws = _decode(data, start, known)
    if not count == len(raws) > 0:
        raise FormatError("an image of messages has gaps")
    return first, origins, raws


def _decode(
    data: bytes, position: int, known: dict[bytes, Origin] | None
) -> tuple[int, int, bytes, list[Origin], list[bytes]]:
    """First index, indexes, marks of those that are gone, origins, messages."""
    try:
        first, count, present, run_count, flags = _IMAGE_HEAD.unpack_from(data, position)
        position += _IMAGE_HEAD.size
        if present * _SIZE_BYTES > len(data):
            raise FormatError("an image of messages is cut off")
        origins: list[Origin] = []
        for _ in range(run_count):
            origin, messages, position = _decode_run(data, position, known)
            if messages > present - len(origins):
                raise FormatError("an image of messages does not add up")
            origins += [origin] * messages
        gone = b""
        if flags & _SPARSE:
            gone = data[position : position + count]
            position += count
        sizes = _numbers(data[position : position + present * _SIZE_BYTES])
    except (struct.error, ValueError, IndexError) as error:
        raise FormatError("an image of messages is cut off") from error
    position += present * _SIZE_BYTES
    if position + sum(sizes) != len(data) or not len(origins) == len(sizes) == present:
        raise FormatError("an image of messages does not add up")
    return first, count, gone, origins, _cut(data, position, sizes)


def _cut(data: bytes, position: int, sizes: "array[int]") -> list[bytes]:
    """The pieces of ``data`` from ``position`` on."""
    if len(sizes) == 1:
        return [data[position:]]
    size = sizes[0] if sizes else 0
    if size and sizes.count(size) == len(sizes):
        pieces = struct.iter_unpack(f"{size}s", memoryview(data)[position:])
        return list(chain.from_iterable(pieces))
    return [data[start:stop] for start, stop in pairwise(accumulate(sizes, initial=position))]


def _encode_run(origin: Origin, messages: int) -> bytes:
    traits = origin.traits
    return (
        _RUN_HEAD.pack(
            messages,
            _PERSISTENT if traits.persistent else 0,
            traits.priority,
            origin.channel,
            origin.frame_max,
            _NO_EXPIRY if origin.expires_ms is None else origin.expires_ms,
            len(origin.address),
        )
        + origin.address
    )


def _decode_run(
    data: bytes, position: int, known: dict[bytes, Origin] | None
) -> tuple[Origin, int, int]:
    """A run's origin, its messages, and where it ends."""
    messages, flags, priority, channel, frame_max, expires_ms, size = _RUN_HEAD.unpack_from(
        data, position
    )
    end = position + _RUN_HEAD.size + size
    said = data[position + _RUN_MESSAGES_BYTES : end]
    origin = None if known is None else known.get(said)
    if origin is None:
        address = data[end - size : end]
        border = 1 + address[0]
        origin = Origin(
            address[1:border].decode("utf-8", "surrogateescape"),
            address[border + 1 :].decode("utf-8", "surrogateescape"),
            address,
            channel,
            frame_max,
            Traits(bool(flags & _PERSISTENT), priority=priority),
            expires_ms=None if expires_ms == _NO_EXPIRY else expires_ms,
        )
        if known is not None:
            if len(known) >= _KNOWN_MAX:
                known.clear()
            known[said] = origin
    return origin, messages, end


def _octets(numbers: "array[int]") -> bytes:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def _numbers(octets: bytes) -> "array[int]":
    numbers = array("I", octets)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


# -- records -------------------------------------------------------------------------------------


class Kind(IntEnum):
    """What a record of the write-ahead log says."""

    MESSAGES = 1
    """An image of messages that were published."""
    SETTLED = 2
    """Ranges of indexes that are gone."""
    STATE = 3
    """Where a log stands: all that was said of it before is void."""
    DEFINITIONS = 4
    """Lines that say all definitions: what was said of them before is void."""
    CHANGES = 5
    """Lines that change definitions."""
    RESTATED = 6
    """All logs have said where they stand: older files are not needed any more."""
    STOPPED = 7
    """The node has stopped in good order: every log has said where it stands."""


_KINDS = frozenset(Kind)


@attrs.define
class Record:
    """One record: its kind, the log that it is about, under which leader, and what it says."""

    kind: Kind
    log_id: int
    epoch: int
    payload: bytes


@attrs.define
class DirectoryEntry:
    """Messages that a batch holds: ``count`` of one log, from index ``first`` on.

    Or where the log stands, if ``count`` is 0.
    """

    log_id: int
    epoch: int
    first: int
    count: int


def encode_record(kind: Kind, log_id: int, epoch: int, pieces: Iterable[bytes]) -> bytes:
    """A record around ``pieces``."""
    payload = b"".join(pieces)
    head = _RECORD_HEAD.pack(len(payload), 0, kind, log_id, epoch)
    checksum = crc32(payload, crc32(head[8:]))
    return head[:4] + _CHECKSUM.pack(checksum) + head[8:] + payload


def decode_record(data: bytes, position: int, end: int) -> tuple[Record | None, int]:
    """The record at ``position``, and where it ends.

    None for a damaged one whose end can be seen all the same. Raises `FormatError` if it cannot.
    """
    if position + _RECORD_HEAD.size > end:
        raise FormatError("a record is cut off")
    size, checksum, kind, log_id, epoch = _RECORD_HEAD.unpack_from(data, position)
    start = position + _RECORD_HEAD.size
    stop = start + size
    if stop > end:
        raise FormatError("a record is cut off")
    payload = data[start:stop]
    if crc32(payload, crc32(data[position + 8 : start])) != checksum or kind not in _KINDS:
        return None, stop
    return Record(Kind(kind), log_id, epoch, payload), stop


def mend_record(data: bytes, position: int, end: int) -> tuple[Record | None, int]:
    """As `decode_record`, of a damaged one of whose size perhaps one bit was flipped."""
    head = data[position : position + _RECORD_HEAD.size]
    for bit in range(32 if len(head) == _RECORD_HEAD.size else 0):
        size = int.from_bytes(head[:4], "little") ^ 1 << bit
        if position + len(head) + size <= end:
            mended = size.to_bytes(4, "little") + data[position + 4 : position + len(head) + size]
            record, _ = decode_record(mended, 0, len(mended))
            if record is not None:
                return record, position + len(mended)
    return decode_record(data, position, end)


def encode_ranges(ranges: Iterable[range]) -> list[bytes]:
    """Pieces that say which indexes are meant."""
    return [_RANGE.pack(run.start, run.stop, run.step) for run in ranges]


def decode_ranges(payload: bytes) -> list[range]:
    """The ranges in a payload. Raises `FormatError`."""
    try:
        return [range(*numbers) for numbers in _RANGE.iter_unpack(payload)]
    except (struct.error, ValueError) as error:
        raise FormatError("ranges of indexes are cut off") from error


# -- batches -------------------------------------------------------------------------------------


@attrs.define
class BatchHead:
    """The header of a batch: what is needed to find one's way, whatever became of the records."""

    number: int
    synced_to: int
    directory: list[DirectoryEntry] | None
    """None: it is damaged."""
    records_at: int
    """Where the records begin, in octets from the batch's own beginning."""
    end: int
    """Where the batch ends, counted the same way."""
    is_mended: bool = False


def encode_batch(
    number: int,
    synced_to: int,
    directory: list[DirectoryEntry],
    records: list[bytes],
    salt: int = 0,
) -> bytes:
    """A batch of ``records``, for a file with that ``salt``."""
    body = b"".join(records)
    entries = b"".join(
        [_DIRECTORY_ENTRY.pack(at.log_id, at.epoch, at.first, at.count) for at in directory]
    )
    head = _BATCH_HEAD.pack(
        _BATCH_MARK, number, synced_to, len(directory), len(body), crc32(entries)
    )
    return b"".join((_sealed(head, salt), entries, body))


def decode_batch_head(data: bytes, position: int, salt: int = 0) -> BatchHead | None:
    """The header of the batch at ``position``; None if there is none, or a damaged one."""
    head = data[position : position + _BATCH_HEAD_BYTES]
    if len(head) < _BATCH_HEAD_BYTES or head[:4] != _BATCH_MARK or not _is_intact(head, salt):
        return None
    return _read_batch_head(data, position, head)


def mend_batch_head(data: bytes, position: int, salt: int = 0) -> BatchHead | None:
    """As `decode_batch_head`, of a header of which one bit was flipped."""
    head = data[position : position + _BATCH_HEAD_BYTES]
    mended = _mended(head, salt) if len(head) == _BATCH_HEAD_BYTES else None
    if mended is None or mended[:4] != _BATCH_MARK:
        return None
    return attrs.evolve(_read_batch_head(data, position, mended), is_mended=True)


def _read_batch_head(data: bytes, position: int, head: bytes) -> BatchHead:
    _, number, synced_to, entry_count, size, checksum = _BATCH_HEAD.unpack_from(head)
    records_at = _BATCH_HEAD_BYTES + entry_count * _DIRECTORY_ENTRY.size
    entries = data[position + _BATCH_HEAD_BYTES : position + records_at]
    directory = None
    if crc32(entries) == checksum:
        directory = [DirectoryEntry(*entry) for entry in _DIRECTORY_ENTRY.iter_unpack(entries)]
    return BatchHead(number, synced_to, directory, records_at, records_at + size)


def find_batch(data: bytes, position: int, salt: int = 0) -> int:
    """Where the next sound header of a batch begins, at ``position`` or behind; -1: nowhere."""
    while True:
        position = data.find(_BATCH_MARK, position)
        if position < 0 or decode_batch_head(data, position, salt) is not None:
            return position
        position += 1

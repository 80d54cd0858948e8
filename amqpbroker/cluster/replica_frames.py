"""The frames in which a leader and its mirrors speak of one queue.

A mirror asks, on the stream that its node has dialled: it says what it has, and what it keeps.
The leader tells on the same stream. Each frame begins with the queue's id and the epoch of the
leader, so that what one whose epoch is over still says does no harm. Messages travel as images, as
logs keep them.
"""

from collections.abc import Callable
from struct import Struct, error
from typing import Any

import msgspec

from amqpbroker.errors import LinkFault
from amqpbroker.message import Batch
from amqpbroker.replication.entries import (
    Ack,
    Append,
    Commit,
    Entry,
    Fill,
    Hello,
    Joined,
    Mark,
    Settle,
    Whole,
)
from amqpbroker.replication.leadership import EPOCH_INDEXES, EPOCH_MAX
from amqpbroker.storage.format import (
    FormatError,
    decode_image,
    decode_messages,
    decode_ranges,
    encode_image,
    encode_ranges,
)
from amqpbroker.storage.index_set import IndexSet

FIRST_REPLICA_KIND = 64
"""Kinds of frames from here on are about replicas; those before, about queues."""
(HELLO, ACK, REFUSED, JOINED, APPEND, SETTLE, FILL, WHOLE, COMMIT) = range(
    FIRST_REPLICA_KIND, FIRST_REPLICA_KIND + 9
)

_HEAD = Struct("<QI")
"""Queue, epoch."""
_SIZE = Struct("<I")
_NUMBER = Struct("<Q")
_ACK = Struct("<QQQ")
_COMMIT = Struct("<QQ")
_MARK = Struct("<QQQ")
_INDEXES_MAX = EPOCH_INDEXES * EPOCH_MAX

_encoder = msgspec.msgpack.Encoder()


class _Joined(msgspec.Struct, frozen=True, array_like=True):
    end: int
    settles: int
    publishers: dict[int, int]


_joined = msgspec.msgpack.Decoder(_Joined)


def decode_head(payload: bytes) -> tuple[int, int, bytes]:
    """The queue, the epoch, and what is said. Raises `LinkFault`."""
    if len(payload) < _HEAD.size:
        raise LinkFault("what is said of a replica is cut off")
    queue_id, epoch = _HEAD.unpack_from(payload)
    return queue_id, epoch, payload[_HEAD.size :]


# -- from a mirror -------------------------------------------------------------------------------


def encode_hello(queue_id: int, epoch: int, hello: Hello) -> list[bytes]:
    """A mirror wants to follow."""
    life = hello.life.encode("utf-8", "surrogateescape")
    head = _HEAD.pack(queue_id, epoch)
    return [head, _SIZE.pack(len(life)), life, hello.live.encode()]


def decode_hello(said: bytes) -> Hello:
    """What a mirror has. Raises `LinkFault`."""
    try:
        (size,) = _SIZE.unpack_from(said)
        end = _SIZE.size + size
        life = said[_SIZE.size : end].decode("utf-8", "surrogateescape")
        return Hello(life, IndexSet.decode(said[end:]))
    except (error, FormatError) as fault:
        raise LinkFault(f"a mirror's hello cannot be read: {fault}") from fault


def encode_ack(queue_id: int, epoch: int, ack: Ack) -> list[bytes]:
    """A mirror keeps something."""
    return [_HEAD.pack(queue_id, epoch), _ACK.pack(ack.end, ack.settles, ack.pages)]


def decode_ack(said: bytes) -> Ack:
    """What a mirror keeps. Raises `LinkFault`."""
    if len(said) != _ACK.size:
        raise LinkFault("a mirror's ack cannot be read")
    return Ack(*_ACK.unpack(said))


# -- from the leader -----------------------------------------------------------------------------


def encode_refused(queue_id: int, epoch: int) -> list[bytes]:
    """Whoever was asked does not lead the queue in that epoch."""
    return [_HEAD.pack(queue_id, epoch)]


def encode_entry(queue_id: int, epoch: int, entry: Entry) -> tuple[int, list[bytes]]:
    """What a leader tells, as a kind of frame and its pieces."""
    head = _HEAD.pack(queue_id, epoch)
    match entry:
        case Append(first, batch, marks):
            said = [_SIZE.pack(len(marks))]
            said += (_MARK.pack(mark.end, mark.publisher, mark.count) for mark in marks)
            return APPEND, [head, *said, *encode_image(first, batch.origins, batch.raws)]
        case Settle(number, runs):
            return SETTLE, [head, _NUMBER.pack(number), *encode_ranges(runs)]
        case Commit(end, settles):
            return COMMIT, [head, _COMMIT.pack(end, settles)]
        case Fill(number, image):
            gone = None
            if len(image.indexes) < image.end - image.first:
                gone = bytearray(b"\1" * (image.end - image.first))
                for index in image.indexes:
                    gone[index - image.first] = 0
            pieces = encode_image(image.first, image.origins, image.raws, gone)
            return FILL, [head, _NUMBER.pack(number), *pieces]
        case Whole(number, extra):
            return WHOLE, [head, _NUMBER.pack(number), *encode_ranges(extra)]
        case Joined(end, settles, publishers):
            return JOINED, [head, _encoder.encode(_Joined(end, settles, publishers))]


def decode_entry(kind: int, said: bytes, known: dict[bytes, Any]) -> Entry:
    """What a leader has told; ``known`` are origins that have come before. Raises `LinkFault`."""
    decode = _DECODERS.get(kind)
    if decode is None:
        raise LinkFault(f"a frame of kind {kind} is nothing that a leader says")
    try:
        return decode(said, known)
    except (error, FormatError, msgspec.DecodeError, ValueError) as fault:
        raise LinkFault(f"what a leader says cannot be read: {fault}") from fault


def _decode_append(said: bytes, known: dict[bytes, Any]) -> Append:
    (count,) = _SIZE.unpack_from(said)
    position = _SIZE.size
    if count * _MARK.size > len(said):
        raise FormatError("marks are cut off")
    marks = []
    for _ in range(count):
        marks.append(Mark(*_MARK.unpack_from(said, position)))
        position += _MARK.size
    first, origins, raws = decode_messages(said, position, known)
    return Append(first, Batch(origins, raws), tuple(marks))


def _decode_settle(said: bytes, known: dict[bytes, Any]) -> Settle:
    (number,) = _NUMBER.unpack_from(said)
    return Settle(number, _runs(said))


def _decode_whole(said: bytes, known: dict[bytes, Any]) -> Whole:
    (number,) = _NUMBER.unpack_from(said)
    return Whole(number, _runs(said))


def _runs(said: bytes) -> list[range]:
    runs = decode_ranges(said[_NUMBER.size :])
    if any(not run or run[-1] >= _INDEXES_MAX for run in runs):
        raise FormatError("there are no such indexes")
    return runs


def _decode_fill(said: bytes, known: dict[bytes, Any]) -> Fill:
    (number,) = _NUMBER.unpack_from(said)
    return Fill(number, decode_image(said[_NUMBER.size :]))


def _decode_commit(said: bytes, known: dict[bytes, Any]) -> Commit:
    return Commit(*_COMMIT.unpack(said))


def _decode_joined(said: bytes, known: dict[bytes, Any]) -> Joined:
    joined = _joined.decode(said)
    if not 0 <= joined.end < _INDEXES_MAX:
        raise FormatError("there is no such index")
    return Joined(joined.end, joined.settles, joined.publishers)


_DECODERS: dict[int, Callable[[bytes, dict[bytes, Any]], Entry]] = {
    APPEND: _decode_append,
    SETTLE: _decode_settle,
    COMMIT: _decode_commit,
    FILL: _decode_fill,
    WHOLE: _decode_whole,
    JOINED: _decode_joined,
}

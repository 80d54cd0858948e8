"""The frames in which nodes speak of queues.

On a stream one end has queues, the other asks for them (`RemoteQueues` asks, `Serving` serves).
Messages travel as images, as logs keep them, behind a small head. What is rarer is msgpack.
Queues go by their ids, which are the same on all nodes, consumers and questions by numbers that the
asking end gives. Nothing of a stream counts on another.

Asking: publish, settle, limits, direct replies, questions. Serving: deliveries, how much is
committed, answers.
"""

from collections.abc import Iterable
from itertools import starmap
from struct import Struct, error
from typing import Annotated, Any, NamedTuple

import msgspec

from amqpbroker import errors
from amqpbroker.cluster.wire import FIRST_USER_KIND
from amqpbroker.errors import AmqpError, InternalError, LinkFault
from amqpbroker.message import Batch, Origin
from amqpbroker.queues.queue import Got, Outcome
from amqpbroker.storage.format import FormatError, decode_messages, encode_image

(PUBLISH, SETTLE, LIMITS, QUESTION, DELIVER, COMMITTED, ANSWER, GOT, REPLY) = range(
    FIRST_USER_KIND, FIRST_USER_KIND + 9
)

_PUBLISH = Struct("<qI")
"""Time to live in milliseconds (-1: none), how many queues the messages go to."""
_ADDRESSEE = Struct("<QQ")
"""Queue, number of the first of the messages among those for it on this stream."""
_SETTLE = Struct("<Q")
"""Queue."""
_SETTLED = Struct("<QQIB")
"""First index, the one behind the last, step, outcome."""
_LIMIT = Struct("<QQQQQ")
"""Consumer; messages and octets that it may have had in all; its purse (0: none), and messages that
all who share that may have had."""
_DELIVER = Struct("<QQBI")
"""Consumer, its purse, whether they are redelivered, step."""
_COMMITTED = Struct("<QQI")
"""Queue, how many of its messages that were published on this stream are settled, and in how many
runs those lie which were not taken."""
_REFUSED = Struct("<QQ")
"""Those of them, counted from 0, that were not taken: the first, and the one behind the last."""
_REPLY = Struct("<H")
"""Octets of the address, which follows."""
_GOT = Struct("<QBQ")
"""Question, whether it is redelivered, messages that wait behind it."""

_INDEXES_MAX = 1 << 62
"""More than any log has."""
_OUTCOMES = (Outcome.ACK, Outcome.REJECT, Outcome.REQUEUE, Outcome.RETURN)
_CODES = {outcome: code for code, outcome in enumerate(_OUTCOMES)}
_ERRORS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, AmqpError)
}

Origins = dict[bytes, Origin]
"""Origins that have come on a stream: what is the same again is the same object."""


# -- messages ------------------------------------------------------------------------------------


def encode_publish(
    addressees: list[tuple[int, int]],
    ttl_ms: int | None,
    origins: list[Origin],
    raws: list[bytes],
) -> list[bytes]:
    """Messages for queues: to each its id, and which number the first has for it on this stream."""
    head = _PUBLISH.pack(-1 if ttl_ms is None else ttl_ms, len(addressees))
    return [head, *starmap(_ADDRESSEE.pack, addressees), *encode_image(0, origins, raws)]


def decode_publish(
    payload: bytes, known: Origins
) -> tuple[list[tuple[int, int]], int | None, Batch]:
    """Queues with the numbers of the first, time to live, and the messages."""
    try:
        ttl_ms, count = _PUBLISH.unpack_from(payload)
        start = _PUBLISH.size + count * _ADDRESSEE.size
        addressees = list(_ADDRESSEE.iter_unpack(payload[_PUBLISH.size : start]))
        _, origins, raws = decode_messages(payload, start, known)
    except (error, FormatError) as fault:
        raise LinkFault(f"what was published cannot be read: {fault}") from fault
    return addressees, None if ttl_ms < 0 else ttl_ms, Batch(origins, raws)


def encode_deliver(
    consumer: int, purse: int, indexes: range, batch: Batch, redelivered: bool
) -> list[bytes]:
    """Messages for a consumer, on account of a purse (0: none)."""
    head = _DELIVER.pack(consumer, purse, redelivered, indexes.step)
    return [head, *encode_image(indexes[0], batch.origins, batch.raws)]


def decode_deliver(payload: bytes, known: Origins) -> tuple[int, int, range, Batch, bool]:
    """Consumer, purse, indexes, messages, whether they are redelivered."""
    try:
        consumer, purse, redelivered, step = _DELIVER.unpack_from(payload)
        first, origins, raws = decode_messages(payload, _DELIVER.size, known)
        indexes = range(first, first + (len(raws) - 1) * step + 1, step)
    except (error, FormatError, ValueError) as fault:
        raise LinkFault(f"a delivery cannot be read: {fault}") from fault
    return consumer, purse, indexes, Batch(origins, raws), bool(redelivered)


def encode_got(question: int, got: Got) -> list[bytes]:
    """A message that was asked for."""
    head = _GOT.pack(question, got.redelivered, got.ready)
    return [head, *encode_image(got.index, [got.origin], [got.raw])]


def decode_got(payload: bytes, known: Origins) -> tuple[int, Got]:
    """The question, and the message."""
    try:
        question, redelivered, ready = _GOT.unpack_from(payload)
        index, (origin,), (raw,) = decode_messages(payload, _GOT.size, known)
    except (error, FormatError, ValueError) as fault:
        raise LinkFault(f"a message that was got cannot be read: {fault}") from fault
    return question, Got(index, origin, raw, bool(redelivered), ready)


def encode_reply(address: str, origin: Origin, raws: list[bytes]) -> list[bytes]:
    """Direct replies, for the channel that waits for them at ``address``."""
    octets = address.encode("utf-8", "surrogateescape")
    image = encode_image(0, [origin] * len(raws), raws)
    return [_REPLY.pack(len(octets)), octets, *image]


def decode_reply(payload: bytes, known: Origins) -> tuple[str, Origin, list[bytes]]:
    """The address, and the replies."""
    try:
        (size,) = _REPLY.unpack_from(payload)
        start = _REPLY.size + size
        _, origins, raws = decode_messages(payload, start, known)
    except (error, FormatError) as fault:
        raise LinkFault(f"a direct reply cannot be read: {fault}") from fault
    address = payload[_REPLY.size : start].decode("utf-8", "surrogateescape")
    return address, origins[0], raws


# -- what becomes of them ------------------------------------------------------------------------


def encode_settle(queue: int, settled: Iterable[tuple[range, Outcome]]) -> list[bytes]:
    """What became of messages of a queue."""
    return [
        _SETTLE.pack(queue),
        *[_SETTLED.pack(run.start, run.stop, run.step, _CODES[what]) for run, what in settled],
    ]


def decode_settle(payload: bytes) -> tuple[int, list[tuple[range, Outcome]]]:
    """Queue, and what became of its messages; no run is empty."""
    try:
        (queue,) = _SETTLE.unpack_from(payload)
        settled = [
            (range(start, stop, step), _OUTCOMES[code])
            for start, stop, step, code in _SETTLED.iter_unpack(payload[_SETTLE.size :])
        ]
    except (error, ValueError, IndexError) as fault:
        raise LinkFault(f"what became of messages cannot be read: {fault}") from fault
    if not all(run and run.stop < _INDEXES_MAX for run, _ in settled):
        raise LinkFault("what was settled is no message")
    return queue, settled


class Limit(NamedTuple):
    """What a consumer may have been sent in all: messages and octets.

    And messages that may have been sent to all who share its ``purse`` (0: it has none).
    """

    messages: int
    octets: int
    purse: int
    purse_messages: int


def encode_limit(consumer: int, limit: Limit) -> bytes:
    """The limit of a consumer; several make a frame."""
    return _LIMIT.pack(consumer, *limit)


def decode_limits(payload: bytes) -> list[tuple[int, Limit]]:
    """Consumers, and their limits."""
    if len(payload) % _LIMIT.size:
        raise LinkFault("limits of consumers are cut off")
    return [(consumer, Limit(*limit)) for consumer, *limit in _LIMIT.iter_unpack(payload)]


def encode_committed(queue: int, count: int, refused: list[range]) -> bytes:
    """How many of a queue's messages are settled, and which of the new ones were not taken.

    Several queues make a frame.
    """
    told = _COMMITTED.pack(queue, count, len(refused))
    for run in refused:
        told += _REFUSED.pack(run.start, run.stop)
    return told


def decode_committed(payload: bytes) -> list[tuple[int, int, list[range]]]:
    """Of each queue the count, and what was not taken."""
    told, position = [], 0
    try:
        while position < len(payload):
            queue, count, refusals = _COMMITTED.unpack_from(payload, position)
            position += _COMMITTED.size
            end = position + refusals * _REFUSED.size
            pairs = _REFUSED.iter_unpack(payload[position:end])
            told.append((queue, count, [range(start, stop) for start, stop in pairs]))
            position = end
    except error as fault:
        raise LinkFault(f"what was committed cannot be read: {fault}") from fault
    if position > len(payload):
        raise LinkFault("what was committed is cut off")
    return told


# -- questions and answers -----------------------------------------------------------------------

Number = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
"""What frames have room for: ids, counts, limits."""


class Consume(msgspec.Struct, frozen=True, array_like=True, tag="consume"):
    """Add a consumer; ``limit`` (messages, octets, purse, its messages) is its first."""

    number: Number
    queue: Number
    consumer: Number
    no_ack: bool
    exclusive: bool
    priority: int
    limit: tuple[Number, Number, Number, Number]


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag="cancel"):
    """Remove a consumer; the answer comes behind the last delivery."""

    number: Number
    queue: Number
    consumer: Number


class Get(msgspec.Struct, frozen=True, array_like=True, tag="get"):
    """Take a message."""

    number: Number
    queue: Number
    no_ack: bool


class Purge(msgspec.Struct, frozen=True, array_like=True, tag="purge"):
    """Drop all ready messages."""

    number: Number
    queue: Number


class Delete(msgspec.Struct, frozen=True, array_like=True, tag="delete"):
    """Delete a queue, if it may be."""

    number: Number
    queue: Number
    if_unused: bool
    if_empty: bool


class Stat(msgspec.Struct, frozen=True, array_like=True, tag="stat"):
    """Say the numbers of queues.

    If ``in_full``, all that there are, in several parts: there may be many queues.
    """

    number: Number
    queues: list[Number]
    in_full: bool = False


class FindReply(msgspec.Struct, frozen=True, array_like=True, tag="find-reply"):
    """Say whether somebody waits for direct replies at an address: a count of 1 or 0."""

    number: Number
    address: str


class Count(msgspec.Struct, frozen=True, array_like=True, tag="count"):
    """Say how many connections or channels a virtual host or user has (`Quotas.count`)."""

    number: int
    what: str
    name: str


class Touch(msgspec.Struct, frozen=True, array_like=True, tag="touch"):
    """A queue was declared again. There is no answer."""

    queue: Number


class Leave(msgspec.Struct, frozen=True, array_like=True, tag="leave"):
    """Nothing more will be said of a queue, which is deleted. There is no answer."""

    queue: Number


class Report(msgspec.Struct, frozen=True, array_like=True, tag="report"):
    """Tell of something else than queues (`Reporter`). The answers are `Rows`."""

    number: Number
    what: str
    about: dict[str, str]


Asked = Consume | Cancel | Get | Purge | Delete | Stat
Question = Asked | FindReply | Count | Touch | Leave | Report


class Done(msgspec.Struct, frozen=True, array_like=True, tag="done"):
    """It is done; the count that was asked for, if there is one."""

    number: Number
    count: Number | None


class QueueNumbers(msgspec.Struct, frozen=True, array_like=True):
    """A queue in numbers: `QueueStat`; and, if that was asked for, `QueueCounts`, `QueueSizes`.

    And whose own it is (`Owner.title`), if it is anybody's.
    """

    ready: Number
    unsettled: Number
    consumers: Number
    counts: list[Number] = []
    sizes: list[Number] = []
    owner: tuple[str, str, int] | None = None


class Numbers(msgspec.Struct, frozen=True, array_like=True, tag="numbers"):
    """The numbers of each queue, or of the next of them; None for one that is not here."""

    number: Number
    queues: list[QueueNumbers | None]
    is_last: bool = True


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """An error: its class in `errors`, and its text. Without a class: the queue is not here."""

    number: Number
    error: str
    text: str

    def to_error(self) -> AmqpError:
        """The error itself."""
        return _ERRORS.get(self.error, InternalError)(self.text)


class Rows(msgspec.Struct, frozen=True, array_like=True, tag="rows"):
    """A part of a report."""

    number: Number
    rows: list[bytes]
    is_last: bool


Answer = Done | Numbers | Failed | Rows

_encoder = msgspec.msgpack.Encoder()
_questions = msgspec.msgpack.Decoder(Question)
_answers = msgspec.msgpack.Decoder(Answer)


def queue_of(question: Question) -> int | None:
    """The one queue that a question is about; None: it is about several, or none."""
    if isinstance(question, FindReply | Count | Report):
        return None
    if isinstance(question, Stat):
        return question.queues[0] if len(question.queues) == 1 else None
    return question.queue


def encode_control(what: Question | Answer) -> list[bytes]:
    """A question or an answer."""
    return [_encoder.encode(what)]


def decode_question(payload: bytes) -> Question:
    """A question."""
    question: Question = _decoded(_questions, payload)
    return question


def decode_answer(payload: bytes) -> Answer:
    """An answer."""
    answer: Answer = _decoded(_answers, payload)
    return answer


def _decoded(decoder: "msgspec.msgpack.Decoder[Any]", payload: bytes) -> Any:
    try:
        return decoder.decode(payload)
    except (msgspec.DecodeError, ValueError, RecursionError) as fault:
        raise LinkFault(f"this is no question, and no answer: {fault}") from fault

"""The frames in which nodes speak of queues, and what does not make sense."""

import random

import msgspec
import pytest

from amqpbroker.cluster import queue_frames as frames
from amqpbroker.cluster.wire import Link
from amqpbroker.definitions import QueueDefinition
from amqpbroker.errors import InternalError, LinkFault, NotFound
from amqpbroker.message import Batch
from amqpbroker.queues.queue import Outcome, QueueStat
from amqpbroker.testing.fakes import FakeConsumer, fake_origin, numbered
from amqpbroker.testing.links import LoopbackLink
from amqpbroker.testing.remote_queues import Holder

DEFINITION = QueueDefinition("/", "q", log_id=7)


def octets(pieces: list[bytes]) -> bytes:
    return b"".join(pieces)


def test_what_was_published_comes_as_it_was() -> None:
    first, second = fake_origin(persistent=True), fake_origin("x", "y", priority=3)
    origins = [first, first, second]
    to = [(7, 40), (8, 0)]
    payload = octets(frames.encode_publish(to, 500, origins, [b"a", b"bb", b""]))
    known: frames.Origins = {}

    addressees, ttl_ms, batch = frames.decode_publish(payload, known)
    again = frames.decode_publish(payload, known)[2]

    assert (addressees, ttl_ms, batch.raws) == (to, 500, [b"a", b"bb", b""])
    assert [origin.routing_key for origin in batch.origins] == ["q", "q", "y"]
    assert [origin.traits.priority for origin in batch.origins] == [0, 0, 3]
    assert batch.origins[0] is batch.origins[1] is again.origins[0], "the same is one object"


def test_what_is_delivered_comes_in_its_stride() -> None:
    batch = Batch([fake_origin()] * 3, numbered(3))
    payload = octets(frames.encode_deliver(5, 6, range(3, 10, 3), batch, redelivered=True))

    consumer, purse, indexes, came, redelivered = frames.decode_deliver(payload, {})

    assert (consumer, purse, redelivered) == (5, 6, True)
    assert list(indexes) == [3, 6, 9]
    assert came.raws == numbered(3)


def test_what_is_committed_is_told_of_several_queues() -> None:
    payload = frames.encode_committed(7, 40, []) + frames.encode_committed(8, 3, [range(2)])

    assert frames.decode_committed(payload) == [(7, 40, []), (8, 3, [range(2)])]
    for end in range(1, len(payload)):
        if end != len(frames.encode_committed(7, 40, [])):
            with pytest.raises(LinkFault):
                frames.decode_committed(payload[:end])


def test_an_error_is_the_same_at_the_other_end() -> None:
    failed = frames.Failed(1, "NotFound", "no queue 'q' in vhost '/'")

    error = failed.to_error()

    assert isinstance(error, NotFound)
    assert error.reply_text == "NOT_FOUND - no queue 'q' in vhost '/'"
    assert isinstance(frames.Failed(1, "OfTheFuture", "text").to_error(), InternalError)


# -- what makes no sense -------------------------------------------------------------------------


class Noting(LoopbackLink):
    """Notes what is sent."""

    def send(self, kind: int, pieces: list[bytes]) -> None:
        if self.is_up:
            SENT.append((kind, octets(pieces)))
        super().send(kind, pieces)


SENT: list[tuple[int, bytes]] = []


def spoken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bytes]]:
    """Frames of every kind, as they are sent."""
    monkeypatch.setattr("amqpbroker.testing.links.LoopbackLink", Noting)
    SENT.clear()
    holder = Holder()
    holder.open(DEFINITION)
    asker = holder.dial()
    queue = asker.open(DEFINITION)
    consumer = FakeConsumer(credit=3)
    queue.consume(consumer)
    queue.publish(fake_origin(ttl_ms=90_000), numbered(5))
    holder.settle()
    queue.settle(range(2), Outcome.ACK)
    consumer.give(queue, 1)
    holder.settle()
    queue.get(no_ack=True)
    queue.get(no_ack=True)
    queue.stat()
    queue.purge()
    queue.may_delete(if_unused=True, if_empty=False)
    queue.cancel(consumer)
    holder.settle()
    node = asker.queues.nodes["rabbit@a"]
    assert node.reply("address", fake_origin(), numbered(2))
    node.has_reply_address("address")
    queue.delete()
    return list(SENT)


def test_every_kind_of_frame_is_spoken(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {kind for kind, _ in spoken(monkeypatch)}

    assert kinds == {
        frames.PUBLISH, frames.SETTLE, frames.LIMITS, frames.QUESTION,
        frames.DELIVER, frames.COMMITTED, frames.ANSWER, frames.GOT, frames.REPLY,
    }  # fmt: skip


def mutated(rng: random.Random, payload: bytes) -> bytes:
    """The payload with something wrong."""
    data = bytearray(payload)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data) + 1)
        dice = rng.randrange(4)
        if dice == 0 and data:
            data[rng.randrange(len(data))] = rng.choice((0, 1, 127, 128, 255))
        elif dice == 1:
            del data[place:]
        elif dice == 2:
            data[place:place] = rng.randbytes(rng.randint(1, 9))
        else:
            del data[place : place + rng.randint(1, 9)]
    return bytes(data)


@pytest.mark.parametrize("seed", range(20))
def test_a_frame_that_makes_no_sense_ends_the_stream_and_nothing_else(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    said = spoken(monkeypatch)
    for _ in range(40):
        holder = Holder()
        holder.open(DEFINITION)
        asker = holder.dial()
        queue = asker.open(DEFINITION)
        queue.consume(FakeConsumer(credit=2))
        queue.publish(fake_origin(), numbered(4))
        holder.settle()
        for end in (asker.stream.asking, asker.stream.serving):
            kind, payload = rng.choice(said)
            try:
                end.user.frame(
                    end, rng.choice((kind, kind, rng.randrange(16, 30))), mutated(rng, payload)
                )
                holder.settle()
            except LinkFault:
                end.break_off()
        asker.stream.cut()
        holder.settle()


def test_what_was_not_delivered_cannot_be_settled() -> None:
    holder = Holder()
    holder.open(DEFINITION)
    serving = holder.dial().stream.serving

    for run in (range(3), range(1 << 60), range(0, 1 << 60, 1 << 31)):
        with pytest.raises(LinkFault, match="what was settled was not delivered"):
            holder.serving.frame(
                serving, frames.SETTLE, octets(frames.encode_settle(7, [(run, Outcome.ACK)]))
            )


@pytest.mark.parametrize("run", [range(5, 5), range((1 << 64) - 1), range(1 << 63, (1 << 63) + 1)])
def test_what_can_be_no_message_cannot_be_settled(run: range) -> None:
    with pytest.raises(LinkFault, match="what was settled is no message"):
        frames.decode_settle(octets(frames.encode_settle(7, [(run, Outcome.ACK)])))


def test_who_settles_what_it_does_not_have_settles_nothing_and_all_waits_again() -> None:
    holder = Holder()
    held = holder.open(DEFINITION)
    held.publish(fake_origin(), numbered(3000))
    asker = holder.dial()
    asker.open(DEFINITION).consume(FakeConsumer(credit=2500))
    holder.settle()
    serving = asker.stream.serving
    settled = octets(frames.encode_settle(7, [(range(2700), Outcome.ACK)]))

    with pytest.raises(LinkFault, match="what was settled was not delivered"):
        holder.serving.frame(serving, frames.SETTLE, settled)
    asker.stream.cut()
    holder.settle()

    assert held.stat() == QueueStat(3000, 0, 0)


def question(*fields: object) -> bytes:
    return msgspec.msgpack.encode(fields)


@pytest.mark.parametrize(
    "said",
    [
        question("consume", 1, 7, -1, False, False, 0, (9, 9, 0, 0)),
        question("consume", 1, 7, (1 << 64) - 1, False, False, 0, (9, 9, 0, 0)),
        question("consume", 1, 7, 1, False, False, 0, (9, 9, -1, 9)),
        question("get", -1, 7, True),
        question("stat", 1, [7, -7]),
        question("get", 1, 7, True)[:-1] + b"\xc2" + b"\x91" * 100_000,
    ],
)
def test_numbers_that_no_frame_has_room_for_are_none(said: bytes) -> None:
    with pytest.raises(LinkFault, match="this is no question"):
        frames.decode_question(said)


def test_a_number_is_one_consumers_and_of_one_queue() -> None:
    holder = Holder()
    holder.open(DEFINITION)
    serving = holder.dial().stream.serving
    consume = question("consume", 1, 7, 5, False, False, 0, (9, 9, 0, 0))
    holder.serving.frame(serving, frames.QUESTION, consume)

    with pytest.raises(LinkFault, match="there is a consumer 5 already"):
        holder.serving.frame(serving, frames.QUESTION, consume)
    with pytest.raises(LinkFault, match="consumer 5 is not one of queue 8"):
        holder.serving.frame(serving, frames.QUESTION, question("cancel", 2, 8, 5))


def test_what_is_committed_does_not_become_less() -> None:
    holder = Holder()
    holder.open(DEFINITION)
    asker = holder.dial()
    asker.open(DEFINITION).publish(fake_origin(), numbered(3))
    holder.settle()
    asking = asker.stream.asking

    with pytest.raises(LinkFault, match="less is committed than before"):
        asking.user.frame(asking, frames.COMMITTED, frames.encode_committed(7, 2, []))


def test_messages_before_which_some_are_missing_are_not_taken() -> None:
    holder = Holder()
    held = holder.open(DEFINITION)
    serving: Link = holder.dial().stream.serving
    payload = octets(frames.encode_publish([(7, 1)], None, [fake_origin()], [b"second"]))

    with pytest.raises(LinkFault, match="messages are missing before the 1th"):
        holder.serving.frame(serving, frames.PUBLISH, payload)
    assert held.stat().ready == 0

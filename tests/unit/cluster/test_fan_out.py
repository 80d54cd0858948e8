"""What goes to several queues of another node travels once."""

import pytest

from amqpbroker.cluster import queue_frames as frames
from amqpbroker.cluster.wire import OUTBOX_BYTES_HIGH, Link
from amqpbroker.definitions import QueueDefinition
from amqpbroker.queues.queue import Outcome, QueueStat
from amqpbroker.testing.fakes import FakeConsumer, HeldLog, fake_origin, numbered
from amqpbroker.testing.remote_queues import Asker, Holder

IDS = (7, 8, 9)


def definition(queue_id: int) -> QueueDefinition:
    return QueueDefinition("/", f"q{queue_id}", durable=True, log_id=queue_id)


@pytest.fixture
def holder() -> Holder:
    holder = Holder()
    for queue_id in IDS:
        holder.open(definition(queue_id))
    return holder


@pytest.fixture
def asker(holder: Holder) -> Asker:
    return holder.dial()


def overheard(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, list[bytes]]]:
    """Frames as they are sent from now on: by whom, kind, pieces."""
    heard: list[tuple[str, int, list[bytes]]] = []

    def listen(who: str, link: Link) -> None:
        send = link.send

        def note(kind: int, pieces: list[bytes]) -> None:
            heard.append((who, kind, pieces))
            send(kind, pieces)

        monkeypatch.setattr(link, "send", note)

    listen("asker", asker.stream.asking)
    listen("holder", asker.stream.serving)
    return heard


def sent(heard: list[tuple[str, int, list[bytes]]]) -> list[tuple[list[int], list[bytes]]]:
    """What was published: the queues, and the messages."""
    published = []
    for _, kind, pieces in heard:
        if kind == frames.PUBLISH:
            addressees, _, batch = frames.decode_publish(b"".join(pieces), {})
            published.append(([queue_id for queue_id, _ in addressees], batch.raws))
    return published


def test_messages_for_all_queues_travel_once_and_so_does_what_is_told_of_them(
    holder: Holder, asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    queues = [asker.open(definition(queue_id)) for queue_id in IDS]
    queues[1].publish(fake_origin(), numbered(2))
    holder.settle()
    heard = overheard(asker, monkeypatch)

    origin, raws = fake_origin(), numbered(5)
    for queue in queues:
        queue.publish(origin, raws)
    holder.settle()

    assert sent(heard) == [([7, 8, 9], raws)]
    assert [kind for who, kind, _ in heard if who == "holder"] == [frames.COMMITTED]
    assert [queue.committed for queue in queues] == [5, 7, 5]
    assert [holder.queues[queue_id].stat().ready for queue_id in IDS] == [5, 7, 5]


def test_a_queue_that_has_others_too_gets_its_own(
    holder: Holder, asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (asker.open(definition(queue_id)) for queue_id in IDS)
    heard = overheard(asker, monkeypatch)

    origin, raws = fake_origin(), numbered(3)
    for queue in (first, second, third):
        queue.publish(origin, raws[:2])
    second.publish(origin, raws[2:])
    holder.settle()

    assert sent(heard) == [([7], raws[:2]), ([8], raws), ([9], raws[:2])]
    assert [queue.committed for queue in (first, second, third)] == [2, 3, 2]


def test_the_same_octets_of_another_origin_or_with_another_time_are_not_the_same(
    holder: Holder, asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    queues = [asker.open(definition(queue_id)) for queue_id in IDS]
    heard = overheard(asker, monkeypatch)

    for queue, key, ttl_ms in zip(queues, "abb", (None, None, 5000), strict=True):
        queue.publish(fake_origin("x", key, ttl_ms=ttl_ms), [b"body"])
    holder.settle()

    assert [to for to, _ in sent(heard)] == [[7], [8], [9]]


def test_what_a_queue_is_told_stays_in_order(holder: Holder, asker: Asker) -> None:
    first, second, _ = (asker.open(definition(queue_id)) for queue_id in IDS)
    consumer = FakeConsumer(credit=1)
    first.consume(consumer)
    first.publish(fake_origin(), numbered(1))
    holder.settle()
    counts: list[int] = []

    origin, raws = fake_origin(), numbered(4)
    for queue in (first, second):
        queue.publish(origin, raws)
    first.settle(range(1), Outcome.ACK)
    second.purge().then = counts.append
    for queue in (first, second):
        queue.publish(origin, raws[:1])
    holder.settle()

    assert counts == [4]
    assert holder.queues[7].stat() == QueueStat(5, 0, 1)
    assert holder.queues[8].stat() == QueueStat(1, 0, 0)


def test_no_more_than_a_turns_work_travels_at_once(
    holder: Holder, asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    queues = [asker.open(definition(queue_id)) for queue_id in IDS]
    heard = overheard(asker, monkeypatch)

    origin, raws = fake_origin(), numbered(1024)
    for queue in queues:
        queue.publish(origin, raws)
    holder.settle()

    assert [to for to, _ in sent(heard)] == [[7, 8], [9]]


def test_a_queue_that_commits_later_is_told_of_later(holder: Holder, asker: Asker) -> None:
    log = HeldLog()
    holder.open(definition(8), log)
    queues = [asker.open(definition(queue_id)) for queue_id in IDS]
    origin, raws = fake_origin(), numbered(3)
    for queue in queues:
        queue.publish(origin, raws)
    holder.settle()
    assert [queue.committed for queue in queues] == [3, 0, 3]

    log.advance(committed=2)
    holder.settle()

    assert [queue.committed for queue in queues] == [3, 2, 3]


def test_what_one_of_the_queues_has_not_taken_is_refused_for_that_one(
    holder: Holder, asker: Asker
) -> None:
    queues = [asker.open(definition(queue_id)) for queue_id in IDS]
    del holder.queues[8]

    origin, raws = fake_origin(), numbered(3)
    for queue in queues:
        queue.publish(origin, raws)
    holder.settle()

    assert [queue.committed for queue in queues] == [3, 3, 3]
    assert [queue.refused for queue in queues] == [[], [range(3)], []]


def test_who_finds_no_room_on_the_stream_speaks_when_there_is_some(
    holder: Holder, asker: Asker
) -> None:
    queues = [asker.open(definition(queue_id)) for queue_id in IDS]
    asker.stream.asking.is_stuck = True
    queues[0].publish(fake_origin(), [bytes(OUTBOX_BYTES_HIGH + 1)])
    holder.settle()
    for queue in queues[1:]:
        queue.publish(fake_origin(), numbered(2))
    holder.settle()
    assert holder.queues[9].stat().ready == 0

    asker.stream.asking.is_stuck = False
    holder.settle()

    assert [queue.committed for queue in queues] == [1, 2, 2]


def test_many_queues_speak_in_turns(holder: Holder, asker: Asker) -> None:
    many = range(1000, 1600)
    for queue_id in many:
        holder.open(definition(queue_id))
    queues = [asker.open(definition(queue_id)) for queue_id in many]
    for queue in reversed(queues):
        queue.publish(fake_origin(), numbered(1))

    holder.settle()

    assert all(queue.committed == 1 for queue in queues)


def test_what_waits_while_the_stream_breaks_goes_out_on_the_next(
    holder: Holder, asker: Asker
) -> None:
    queues = [asker.open(definition(queue_id)) for queue_id in IDS]
    for queue in queues:
        queue.publish(fake_origin(), numbered(2))

    asker.stream.cut()
    asker.stream.connect()
    holder.settle()

    assert [queue.committed for queue in queues] == [2, 2, 2]
    assert [holder.queues[queue_id].stat().ready for queue_id in IDS] == [2, 2, 2]

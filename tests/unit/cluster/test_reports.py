"""Reports of one node to another: rows in slices, and what comes of it when they stop."""

from collections.abc import Iterator, Mapping

import pytest

from amqpbroker.cluster import queue_frames as frames
from amqpbroker.cluster.reports import Inquiry
from amqpbroker.cluster.wire import OUTBOX_BYTES_HIGH
from amqpbroker.definitions import QueueDefinition
from amqpbroker.errors import LinkFault, NotFound
from amqpbroker.queues.queue import QueueStat
from amqpbroker.testing.fakes import fake_origin, numbered
from amqpbroker.testing.remote_queues import Asker, Holder


def rows(what: str, about: Mapping[str, str]) -> Iterator[bytes]:
    """As many rows as it is asked for, with nothing between them."""
    if what == "nothing":
        raise NotFound("there is no report on nothing")
    if what == "bug":
        raise ZeroDivisionError
    for number in range(int(about["count"])):
        yield b"%d" % number
        yield b""


@pytest.fixture
def holder() -> Holder:
    holder = Holder()
    holder.serving.report = rows
    return holder


@pytest.fixture
def asker(holder: Holder) -> Asker:
    return holder.dial()


def inquire(asker: Asker, what: str, **about: str) -> Inquiry:
    [inquiry] = asker.queues.inquire(what, about)
    return inquiry


def test_rows_come_in_their_order_in_parts(holder: Holder, asker: Asker) -> None:
    inquiry = inquire(asker, "rows", count="1000")
    news = 0

    def count() -> None:
        nonlocal news
        news += 1

    inquiry.on_news = count
    holder.settle()

    assert inquiry.rows == [b"%d" % number for number in range(1000)]
    assert inquiry.is_over
    assert not inquiry.has_failed
    assert news > 10


@pytest.mark.parametrize("what", ["nothing", "bug"])
def test_what_cannot_be_reported_fails(holder: Holder, asker: Asker, what: str) -> None:
    inquiry = inquire(asker, what)
    holder.settle()

    assert inquiry.has_failed
    assert inquire(asker, "rows", count="0").rows == []  # The stream is as before.


def test_a_report_fails_with_its_stream(holder: Holder, asker: Asker) -> None:
    inquiry = inquire(asker, "rows", count="1000")
    asker.stream.serving.is_held = True
    holder.settle()
    asker.stream.cut()

    assert inquiry.has_failed
    holder.settle()
    assert asker.queues.inquire("rows", {"count": "1"}) == []


def test_rows_wait_for_room_on_the_stream(holder: Holder, asker: Asker) -> None:
    asker.stream.serving.is_stuck = True
    asker.stream.serving.send(16, [bytes(OUTBOX_BYTES_HIGH + 1)])
    inquiry = inquire(asker, "rows", count="3")
    asker.stream.serving.is_held = True
    holder.settle()
    stream = holder.serving._streams[asker.stream.serving]
    assert len(stream.congested) == 1

    asker.stream.serving._travelling.clear()
    asker.stream.serving.is_stuck = False
    asker.stream.serving.flush()
    asker.stream.serving._travelling.clear()  # What filled the stream meant nothing.
    asker.stream.serving.is_held = False
    holder.settle()
    assert inquiry.rows == [b"0", b"1", b"2"]


def test_rows_that_nobody_has_asked_for_end_the_stream(holder: Holder, asker: Asker) -> None:
    answer = frames.encode_control(frames.Rows(99, [], True))
    asker.stream.serving.send(frames.ANSWER, answer)
    with pytest.raises(LinkFault):
        holder.settle()


# -- numbers of queues ---------------------------------------------------------------------------


def test_the_numbers_of_many_queues_come_in_parts(holder: Holder, asker: Asker) -> None:
    definitions = [QueueDefinition("/", f"q{number}", log_id=number) for number in range(1, 300)]
    queues = [holder.open(each) for each in definitions]
    remote = [asker.open(each) for each in definitions]
    for number, queue in enumerate(queues):
        queue.publish(fake_origin(), numbered(number % 5))
    holder.queues.pop(5)
    asker.queues.refresh()
    asker.queues.refresh()  # Once is enough.
    assert asker.queues.is_refreshing
    holder.settle()

    assert not asker.queues.is_refreshing
    assert [each.glance().ready for each in remote[5:]] == [n % 5 for n in range(5, 299)]
    assert remote[4].glance() == QueueStat(0, 0, 0)
    assert remote[7].counts.published == 2


def test_numbers_are_asked_for_anew_on_another_stream(holder: Holder, asker: Asker) -> None:
    asker.queues.refresh()
    assert not asker.queues.is_refreshing  # There are no queues.
    definition = QueueDefinition("/", "q", log_id=1)
    remote = asker.open(definition)
    holder.open(definition).publish(fake_origin(), numbered(3))
    asker.queues.refresh()
    asker.stream.cut()
    assert not asker.queues.is_refreshing
    asker.queues.refresh()
    assert not asker.queues.is_refreshing  # Nobody is there.
    asker.stream.connect()
    asker.queues.refresh()
    holder.settle()
    assert remote.glance().ready == 3


def test_other_answers_than_numbers_end_the_stream(holder: Holder, asker: Asker) -> None:
    asker.open(QueueDefinition("/", "q", log_id=1))
    asker.queues.refresh()
    [number] = [node._refreshing[0] for node in asker.queues.nodes.values() if node._refreshing]
    answer = frames.encode_control(frames.Done(number, 0))
    asker.stream.serving.send(frames.ANSWER, answer)
    with pytest.raises(LinkFault, match="no numbers"):
        holder.settle()

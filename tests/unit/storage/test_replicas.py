"""What a log does for copies of it on other nodes, and as one of them."""

from collections.abc import Awaitable, Callable

import pytest

from amqpbroker.definitions import QueueDefinition
from amqpbroker.message import Origin
from amqpbroker.queues.classic import ClassicQueue
from amqpbroker.queues.queue import Outcome
from amqpbroker.storage.chunks import CHUNK_MAX
from amqpbroker.storage.disk_log import DiskLog
from amqpbroker.storage.format import Image
from amqpbroker.storage.log import Followers
from amqpbroker.storage.store import Store
from amqpbroker.testing.fakes import FakeConsumer, FakeKeeper, fake_origin, numbered
from amqpbroker.testing.sim_disk import SimDisk

Wait = Callable[[Callable[[], Awaitable[object]]], object]
OpenStore = Callable[..., Store]

PERSISTENT, TRANSIENT = fake_origin(persistent=True), fake_origin()


class Noting(Followers):
    """Followers that note what they are told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def appended(self, first: int, origin: Origin, raws: list[bytes]) -> None:
        self.told.append((first, origin, list(raws)))

    def settled(self, indexes: range) -> None:
        self.told.append(indexes)

    def kept(self, end: int) -> None:
        self.told.append(end)


def image_of(indexes: list[int], origin: Origin = PERSISTENT) -> Image:
    raws = [b"message %d" % index for index in indexes]
    return Image(indexes[0], indexes[-1] + 1, indexes, [origin] * len(raws), raws)


def marks(log: DiskLog) -> tuple[int, int, int, int]:
    return log.readable, log.committed, log.kept_end, log.end


def live(log: DiskLog) -> list[int]:
    return [index for run in log.live().runs() for index in run]


def found(log: DiskLog) -> list[int]:
    return [index for run in log.recovered for index in run]


def sync(store: Store, wait: Wait) -> None:
    while store.wal.has_gathered:
        wait(store.wal.commit)


# -- followers -----------------------------------------------------------------------------------


def test_followers_say_how_far_the_marks_go(open_store: OpenStore, wait: Wait) -> None:
    store = open_store()
    log, followers = store.open_log(1), Noting()
    advances: list[int] = []
    log.on_advance = lambda: advances.append(log.committed)
    log.follow(followers)

    log.append(PERSISTENT, numbered(3))
    assert followers.told == [(0, PERSISTENT, numbered(3))]
    assert marks(log) == (0, 0, 0, 3)
    log.advance(3)
    assert marks(log) == (0, 0, 0, 3), "it is not kept here yet"
    sync(store, wait)
    assert followers.told[1:] == [3]
    assert marks(log) == (0, 0, 3, 3)
    assert advances == []
    log.advance(2)
    log.advance(1)

    assert marks(log) == (2, 2, 3, 3)
    assert advances == [2]


def test_what_need_not_be_synced_is_kept_at_once(open_store: OpenStore) -> None:
    store = open_store()
    for log, origin in (
        (store.open_log(1), TRANSIENT),
        (store.open_log(2, is_async=True), PERSISTENT),
        (store.open_transient_log(), PERSISTENT),
    ):
        followers = Noting()
        log.follow(followers)
        log.append(origin, numbered(2))

        assert followers.told == [(0, origin, numbered(2)), 2]
        assert marks(log) == (0, 0, 2, 2)


def test_followers_hear_of_it_when_messages_need_not_be_synced_any_more(
    open_store: OpenStore,
) -> None:
    log, followers = open_store().open_log(1), Noting()
    log.follow(followers)
    log.append(PERSISTENT, numbered(2))

    log.flush_async(True)

    assert followers.told[1:] == [2]
    assert marks(log) == (0, 0, 2, 2)


def test_what_is_settled_is_forgotten_when_followers_say_so(
    open_store: OpenStore, disk: SimDisk, wait: Wait
) -> None:
    store = open_store()
    log, followers = store.open_log(1), Noting()
    log.append(PERSISTENT, numbered(5))
    sync(store, wait)
    log.follow(followers)

    log.settle(range(1, 4, 2))
    assert followers.told == [range(1, 4, 2)]
    assert live(log) == [0, 1, 2, 3, 4]
    log.forget(range(1, 2))

    assert live(log) == [0, 2, 3, 4]
    assert followers.told == [range(1, 4, 2)]
    assert log.followers is followers
    sync(store, wait)
    disk.crash()
    assert found(open_store().open_log(1)) == [0, 2, 3, 4]


def test_marks_do_not_go_back_when_followers_come(open_store: OpenStore, wait: Wait) -> None:
    store = open_store()
    log, followers = store.open_log(1), Noting()
    log.append(PERSISTENT, numbered(2))
    sync(store, wait)
    log.append(PERSISTENT, numbered(3))
    log.follow(followers)
    assert marks(log) == (5, 2, 2, 5)

    log.append(PERSISTENT, numbered(1))
    sync(store, wait)
    assert marks(log) == (5, 2, 6, 6)
    log.advance(4)
    assert marks(log) == (5, 4, 6, 6)
    log.advance(6)
    assert marks(log) == (6, 6, 6, 6)


def test_marks_go_on_by_themselves_without_followers(open_store: OpenStore, wait: Wait) -> None:
    store = open_store()
    log, followers = store.open_log(1), Noting()
    advances: list[int] = []
    log.on_advance = lambda: advances.append(log.committed)
    log.follow(followers)
    log.append(PERSISTENT, numbered(2))
    sync(store, wait)
    log.append(PERSISTENT, numbered(2))
    assert marks(log) == (0, 0, 2, 4)

    log.follow(None)
    assert marks(log) == (4, 2, 2, 4)
    assert advances == [2]
    sync(store, wait)
    assert marks(log) == (4, 4, 4, 4)
    log.settle(range(4))
    assert live(log) == []
    log.append(TRANSIENT, numbered(1))
    assert marks(log) == (5, 5, 5, 5)


def test_a_log_with_followers_jumps_and_leaves_the_marks_to_them(
    open_store: OpenStore, wait: Wait
) -> None:
    store = open_store()
    log = store.open_log(1)
    log.follow(Noting())
    log.skip_to(10)
    assert marks(log) == (0, 0, 10, 10)
    log.append(PERSISTENT, numbered(1))
    log.skip_to(20)
    assert marks(log) == (0, 0, 10, 20)
    sync(store, wait)
    assert marks(log) == (0, 0, 20, 20)
    log.advance(20)
    assert marks(log) == (20, 20, 20, 20)


# -- copies --------------------------------------------------------------------------------------


def test_a_call_comes_when_all_that_is_there_is_kept(
    open_store: OpenStore, disk: SimDisk, wait: Wait
) -> None:
    store = open_store()
    log = store.open_log(1)
    calls: list[str] = []
    log.when_kept(lambda: calls.append("empty"))
    log.append(TRANSIENT, numbered(1))
    log.when_kept(lambda: calls.append("transient"))
    log.append(PERSISTENT, numbered(1))
    assert calls == ["empty", "transient"]
    log.when_kept(lambda: calls.append("first"))
    log.append(PERSISTENT, numbered(1))
    log.when_kept(lambda: calls.append("second"))
    assert len(calls) == 2

    sync(store, wait)

    assert calls[2:] == ["first", "second"]


def test_a_log_is_filled_where_it_has_nothing(
    open_store: OpenStore, disk: SimDisk, wait: Wait
) -> None:
    store = open_store()
    log = store.open_log(1)
    log.append(PERSISTENT, numbered(10))
    log.settle(range(2, 8))
    log.skip_to(5000)
    log.append(PERSISTENT, numbered(10, 5000))
    log.settle(range(5002, 5004))
    kept: list[int] = []

    assert log.fill(image_of([1, 3, 4, 100, 101, 1500, 4999, 5001, 5002])) == 7
    log.when_kept(lambda: kept.append(1))

    there = [0, 1, 3, 4, 8, 9, 100, 101, 1500, 4999, *range(5000, 5003), *range(5004, 5010)]
    assert live(log) == there
    assert kept == []
    assert log.kept_end == 0
    sync(store, wait)
    assert (kept, log.kept_end) == ([1], 5010)
    assert log.fill(image_of([1, 3, 4])) == 0
    disk.crash()
    log = open_store().open_log(1)
    assert found(log) == live(log) == there
    for index in there:
        assert log.read(range(index, index + 1)).raws == [b"message %d" % index]


def test_messages_come_back_into_a_chunk_that_lies_in_a_segment(
    open_store: OpenStore, disk: SimDisk, wait: Wait
) -> None:
    store = open_store(waiting_bytes_max=0)
    log = store.open_log(1)
    for index in range(CHUNK_MAX):
        log.append(PERSISTENT if index % 2 else TRANSIENT, [b"message %d" % index])
    log.settle(range(1, CHUNK_MAX, 4))
    sync(store, wait)
    wait(store.wal.begin_anew)
    while store.wal.has_stale:
        wait(store.wal.renew)
    sync(store, wait)

    assert log.fill(image_of([1, 3, 5])) == 2

    assert live(log)[:6] == [0, 1, 2, 3, 4, 5]
    assert log.read(range(6)).raws == [b"message %d" % index for index in range(6)]
    sync(store, wait)
    disk.crash()
    log = open_store(waiting_bytes_max=0).open_log(1)
    assert found(log) == [1, 3, 5, *range(7, CHUNK_MAX, 4)]
    assert log.read(range(1, 6, 2)).raws == [b"message 1", b"message 3", b"message 5"]


def test_what_is_damaged_can_be_filled(open_store: OpenStore, disk: SimDisk, wait: Wait) -> None:
    store = open_store(waiting_bytes_max=0)
    log = store.open_log(1)
    log.append(PERSISTENT, numbered(2 * CHUNK_MAX))
    log.settle(range(5))
    sync(store, wait)
    file = disk.open("/data/queues/1/00000001.seg")
    data = file.read(0, file.size_bytes)
    file.truncate(100)
    file.append(bytes([data[100] ^ 1]) + data[101:])
    assert log.read(range(5, 8)).raws == []

    first = CHUNK_MAX - 97  # Where the second chunk begins.
    assert live(log) == list(range(first, 2 * CHUNK_MAX))
    assert log.fill(image_of([3, 6, 7])) == 3

    assert live(log) == [3, 6, 7, *range(first, 2 * CHUNK_MAX)]
    assert log.read(range(6, 8)).raws == numbered(2, 6)


def test_what_is_live_is_settled_and_the_rest_passed_over(
    open_store: OpenStore, disk: SimDisk, wait: Wait
) -> None:
    store = open_store()
    log = store.open_log(1)
    log.append(PERSISTENT, numbered(3 * CHUNK_MAX))
    log.settle(range(CHUNK_MAX // 2, 2 * CHUNK_MAX))
    log.skip_to(9999)
    log.append(PERSISTENT, numbered(10, 9999))
    log.follow(Noting())

    run = range(CHUNK_MAX // 2 - 1, 12_000, 3)
    before = set(live(log))
    assert log.settle_live(run) == len(before.intersection(run))
    assert log.settle_live(run) == 0
    assert log.settle_live(range(20_000, 20_001)) == log.settle_live(range(0)) == 0

    assert log.followers is not None
    assert live(log) == sorted(before.difference(run))


def test_what_is_copied_counts_as_not_delivered(open_store: OpenStore, wait: Wait) -> None:
    store = open_store()
    log = store.open_log(1)
    raws = numbered(3 * CHUNK_MAX)
    log.append(PERSISTENT, raws)

    copied: list[bytes] = []
    while len(copied) < len(raws):
        copied += log.copy(range(len(copied), len(raws))).raws

    assert copied == raws
    assert log.copy(range(1, 20, 7)).raws == raws[1:20:7]
    wait(store.stop)
    assert open_store().open_log(1).fresh_from == 0


def test_a_copy_ends_where_it_has_its_fill(open_store: OpenStore) -> None:
    log = open_store().open_log(1)
    log.append(PERSISTENT, [bytes(4000)] * 2000)

    assert 60 <= len(log.copy(range(2000)).raws) <= 66


def test_a_queue_takes_over_a_copy(open_store: OpenStore, wait: Wait) -> None:
    store = open_store()
    log, followers = store.open_log(1), Noting()
    log.follow(followers)
    log.append(PERSISTENT, numbered(6))
    sync(store, wait)
    log.settle_live(range(1, 3))
    log.advance(4)

    log.skip_to(1 << 44)
    log.reopen()
    queue = ClassicQueue(QueueDefinition("/", "q"), log, keeper := FakeKeeper())
    consumer = FakeConsumer()
    queue.consume(consumer)
    queue.publish(PERSISTENT, numbered(2, 6))
    keeper.hand_out()
    assert consumer.indexes == [0, 3]
    sync(store, wait)
    log.advance(log.end)
    keeper.hand_out()

    assert consumer.indexes == [0, 3, 4, 5, 1 << 44, (1 << 44) + 1]
    assert [taken.redelivered for taken in consumer.taken] == [True] * 4 + [False] * 2
    queue.settle(range(3, 6), Outcome.ACK)
    assert followers.told[-1] == range(3, 6)


def test_a_copy_is_there_when_its_node_starts_again(open_store: OpenStore, wait: Wait) -> None:
    store = open_store(waiting_bytes_max=0)
    log = store.open_log(1)
    log.follow(Noting())
    log.append(PERSISTENT, numbered(3 * CHUNK_MAX))
    log.skip_to(1 << 44)
    log.fill(image_of([1 << 20]))
    wait(store.stop)

    store = open_store()
    log = store.open_log(1)
    store.clear_up({1})
    wait(store.stop)
    store = open_store()
    log = store.open_log(1)

    assert live(log) == [*range(3 * CHUNK_MAX), 1 << 20]
    assert log.end == 1 << 44


@pytest.mark.parametrize("is_kept", [False, True])
def test_a_copy_that_was_given_up_may_come_again(
    open_store: OpenStore, disk: SimDisk, wait: Wait, is_kept: bool
) -> None:
    store = open_store(waiting_bytes_max=0)
    first = store.open_log(1)
    first.append(PERSISTENT, numbered(3 * CHUNK_MAX))
    sync(store, wait)
    first.delete()
    if is_kept:
        sync(store, wait)

    log = store.open_log(1)
    assert live(log) == []
    log.skip_to(5000)
    log.append(PERSISTENT, numbered(3 * CHUNK_MAX, 5000))
    sync(store, wait)

    assert log.read(range(5000, 5001)).raws == [b"message 5000"]
    disk.crash()
    store = open_store(waiting_bytes_max=0)
    log = store.open_log(1)
    assert not store.damages
    assert found(log) == list(range(5000, 5000 + 3 * CHUNK_MAX))
    assert log.read(range(5000, 5001)).raws == [b"message 5000"]
    log.delete()
    sync(store, wait)
    assert disk.names("/data/queues") == []

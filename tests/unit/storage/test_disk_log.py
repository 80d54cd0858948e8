"""The log of a queue on a node with a disk."""

import itertools
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from amqpbroker.definitions import QueueDefinition
from amqpbroker.queues.classic import ClassicQueue
from amqpbroker.storage import wal
from amqpbroker.storage.chunks import CHUNK_BYTES_MAX, CHUNK_MAX
from amqpbroker.storage.disk_log import DiskLog
from amqpbroker.storage.format import FormatError
from amqpbroker.storage.log import Log
from amqpbroker.storage.log_state import ChunkState, LogState
from amqpbroker.storage.segments import Place
from amqpbroker.storage.store import Store
from amqpbroker.testing.fakes import FakeKeeper, fake_origin
from amqpbroker.testing.log_contract import LogContract, numbered
from amqpbroker.testing.sim_disk import SimDisk

Wait = Callable[[Callable[[], Awaitable[object]]], object]
OpenStore = Callable[..., Store]


class TestDiskLogOfADurableQueue(LogContract):
    store: Store
    wait: Wait
    ids: "itertools.count[int]"

    @pytest.fixture(autouse=True)
    def begin(self, open_store: OpenStore, wait: Wait) -> None:
        self.store, self.wait, self.ids = open_store(10_000), wait, itertools.count(1)

    def open(self) -> Log:
        return self.store.open_log(next(self.ids))

    def catch_up(self, log: Log) -> None:
        if self.store.wal.has_gathered:
            self.wait(self.store.wal.commit)


class TestDiskLogOfATransientQueue(LogContract):
    store: Store

    @pytest.fixture(autouse=True)
    def begin(self, open_store: OpenStore) -> None:
        self.store = open_store(10_000)

    def open(self) -> Log:
        return self.store.open_transient_log()


def indexes(log: DiskLog) -> list[int]:
    return [index for run in log.recovered for index in run]


PERSISTENT, TRANSIENT = fake_origin(persistent=True), fake_origin()


def test_persistent_messages_are_committed_when_they_are_synced(
    open_store: OpenStore, wait: Wait
) -> None:
    store = open_store()
    log = store.open_log(1)

    log.append(TRANSIENT, numbered(2))
    assert log.committed == 2
    log.append(PERSISTENT, numbered(3))
    log.append(TRANSIENT, numbered(1))
    assert (log.readable, log.committed) == (6, 2)
    wait(store.wal.commit)

    assert log.committed == 6


def test_messages_may_be_committed_before_they_are_synced_if_that_is_wanted(
    open_store: OpenStore, disk: SimDisk, wait: Wait
) -> None:
    store = open_store()
    log = store.open_log(1, is_async=True)

    log.append(PERSISTENT, numbered(3))
    assert log.committed == 3
    wait(store.wal.commit)
    log.append(PERSISTENT, numbered(2, 3))
    assert log.committed == 5
    disk.crash()

    assert indexes(open_store().open_log(1)) == [0, 1, 2]


def test_a_log_may_change_when_its_messages_are_committed(
    open_store: OpenStore, wait: Wait
) -> None:
    store = open_store()
    log = store.open_log(1)
    advances: list[int] = []
    log.on_advance = lambda: advances.append(log.committed)

    log.append(PERSISTENT, numbered(3))
    log.flush_async(True)
    assert advances == [3]
    log.append(PERSISTENT, numbered(2))
    assert log.committed == 5
    log.flush_async(False)
    log.append(PERSISTENT, numbered(1))
    assert log.committed == 5
    wait(store.wal.commit)
    assert log.committed == 6


def test_a_queue_heeds_a_policy_unless_its_own_argument_says_otherwise(
    open_store: OpenStore,
) -> None:
    store = open_store()
    for number, (own, flush, committed) in enumerate(
        [(None, "async", 1), (None, None, 0), ("sync", "async", 0), ("async", "sync", 1)], start=1
    ):
        definition = QueueDefinition("/", "q", arguments={} if own is None else {"x-flush": own})
        log = store.open_log(number, is_async=own == "async")
        queue = ClassicQueue(definition, log, FakeKeeper())
        queue.heed({} if flush is None else {"flush": flush})
        queue.publish(PERSISTENT, numbered(1))
        assert queue.committed == committed, (own, flush)


def test_a_batch_holds_so_much_and_the_rest_waits_for_the_next(
    open_store: OpenStore, disk: SimDisk, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal, "BATCH_BYTES_MAX", 1000)
    store = open_store()
    log, other = store.open_log(1), store.open_log(2)
    log.append(PERSISTENT, [bytes(300)] * 10)
    log.settle(range(8, 9))
    log.append(TRANSIENT, numbered(1))
    other.append(PERSISTENT, numbered(1))

    committed = []
    while store.wal.has_gathered:
        wait(store.wal.commit)
        committed.append((log.committed, other.committed))

    assert committed == [(4, 0), (8, 0), (11, 1)]
    disk.crash()
    store = open_store()
    assert indexes(store.open_log(1)) == [*range(8), 9]
    assert indexes(store.open_log(2)) == [0]


def test_what_was_committed_is_there_after_a_crash(
    open_store: OpenStore, disk: SimDisk, wait: Wait
) -> None:
    store = open_store()
    log = store.open_log(1)
    log.append(PERSISTENT, numbered(5))
    log.append(TRANSIENT, numbered(2))
    log.settle(range(1, 3))
    wait(store.wal.commit)
    disk.crash()

    again = open_store().open_log(1)

    assert indexes(again) == [0, 3, 4]
    assert again.end == 5
    assert again.fresh_from == 5
    assert again.read(range(3, 5)).raws == numbered(2, 3)
    assert again.read(range(3, 5)).origins[0].traits.persistent


def test_after_an_orderly_stop_it_is_known_what_was_delivered(
    open_store: OpenStore, wait: Wait
) -> None:
    store = open_store()
    log = store.open_log(1)
    log.append(PERSISTENT, numbered(10))
    log.read(range(4))
    wait(store.stop)

    again = open_store().open_log(1)

    assert (indexes(again), again.fresh_from) == (list(range(10)), 4)


def test_what_waits_for_long_lies_in_segments_and_memory_is_free(
    open_store: OpenStore, disk: SimDisk, wait: Wait
) -> None:
    store = open_store(waiting_bytes_max=100_000)
    log = store.open_log(1)
    raws = [bytes(100) + b"%d" % number for number in range(20 * CHUNK_MAX)]
    log.append(PERSISTENT, raws)
    wait(store.wal.commit)

    assert store._waiting.bytes <= 100_000
    assert sum(len(chunk.raws) for chunk in log._chunks.values()) == 0
    assert disk.names("/data/queues/1")
    read: list[bytes] = []
    while len(read) < len(raws):
        read += log.read(range(len(read), len(raws))).raws
    assert read == raws


@pytest.mark.parametrize("are_read", [False, True])
def test_large_messages_fill_no_more_memory_than_small_ones(
    open_store: OpenStore, disk: SimDisk, wait: Wait, are_read: bool
) -> None:
    limit_bytes = 4 * CHUNK_BYTES_MAX
    store = open_store(waiting_bytes_max=limit_bytes)
    log = store.open_log(1)
    for index in range(80):
        log.append(PERSISTENT, [bytes([index]) * (CHUNK_BYTES_MAX // 2)])
        if are_read:
            log.read(range(index, log.end))
        wait(store.wal.commit)

    in_memory = sum(len(raw) for chunk in log._all_chunks() for raw in chunk.raws)
    assert in_memory <= limit_bytes * (2 if are_read else 1) + CHUNK_BYTES_MAX
    assert [log.read(range(index, index + 1)).raws[0][0] for index in range(80)] == list(range(80))


def test_what_comes_back_counts_among_what_waits(
    open_store: OpenStore, disk: SimDisk, wait: Wait
) -> None:
    limit_bytes = 4 * CHUNK_BYTES_MAX
    store = open_store(waiting_bytes_max=4 * limit_bytes)
    log = store.open_log(1)
    log.append(PERSISTENT, [bytes(CHUNK_BYTES_MAX // 4)] * 40)
    log.settle(range(1, 40, 7))
    while store.wal.has_gathered:
        wait(store.wal.commit)
    disk.crash()

    store = open_store(waiting_bytes_max=limit_bytes)
    log = store.open_log(1)
    while log in store._waiting.short:
        wait(store.work_off)

    in_memory = sum(len(raw) for chunk in log._all_chunks() for raw in chunk.raws)
    assert in_memory < store._waiting.bytes <= limit_bytes
    assert indexes(log) == [index for index in range(40) if index % 7 != 1]


def test_segments_go_with_the_last_of_their_messages(
    open_store: OpenStore, disk: SimDisk, wait: Wait
) -> None:
    store = open_store(waiting_bytes_max=0)
    log = store.open_log(1)
    log.append(PERSISTENT, [bytes(20_000)] * 2 * CHUNK_MAX)  # More than a segment holds.
    while store.wal.has_gathered:
        wait(store.wal.commit)
    assert len(disk.names("/data/queues/1")) == 3

    log.settle(range(log.end))
    for _ in range(2):
        log.append(PERSISTENT, [b"another"])
        wait(store.wal.commit)

    assert len(disk.names("/data/queues/1")) <= 1


def some_left(store: Store, log: DiskLog, wait: Wait) -> set[int]:
    """Let little be live in each chunk of a log, and that be kept; which messages are left."""
    log.append(PERSISTENT, [bytes(1000) for _ in range(8 * CHUNK_MAX)])
    left = set(range(0, log.end, 200))
    for index in left:
        log.settle(range(index + 1, min(index + 200, log.end)))
    while store.wal.has_gathered:
        wait(store.wal.commit)
    return left


def tidy(store: Store, wait: Wait) -> None:
    """Have a store give back what it need not keep."""
    wait(partial(store.tidy, is_idle=True))
    for _ in range(100):
        while store.wal.has_gathered:
            wait(store.wal.commit)
        if not store.has_work:
            return
        wait(store.work_off)
    raise AssertionError("there is no end to it")


@pytest.mark.parametrize("waiting_bytes_max", [0, 1 << 20])
def test_messages_leave_segments_of_which_little_is_live(
    open_store: OpenStore, disk: SimDisk, wait: Wait, waiting_bytes_max: int
) -> None:
    store = open_store(waiting_bytes_max)
    log = store.open_log(1)
    left = some_left(store, log, wait)
    before = disk.names("/data/queues/1")

    tidy(store, wait)

    assert not set(before) & set(disk.names("/data/queues/1"))
    assert store._waiting.bytes <= waiting_bytes_max
    assert all(log.read(range(index, index + 1)).raws == [bytes(1000)] for index in left)
    disk.crash()
    assert set(indexes(open_store().open_log(1))) == left


def test_a_damaged_segment_is_left_as_it_is(
    open_store: OpenStore, disk: SimDisk, wait: Wait
) -> None:
    store = open_store(waiting_bytes_max=0)
    log = store.open_log(1)
    left = some_left(store, log, wait)
    file = disk.open("/data/queues/1/00000001.seg")
    data = file.read(0, file.size_bytes)
    file.truncate(len(data) - 1)
    file.append(bytes([data[-1] ^ 1]))

    for _ in range(3):
        tidy(store, wait)

    assert "00000001.seg" in disk.names("/data/queues/1")
    assert len(store.damages) == 1
    assert log.damaged_count < len(left)
    readable = {index for index in left if log.read(range(index, index + 1)).raws}
    assert len(readable) == len(left) - log.damaged_count


def test_a_log_that_is_deleted_leaves_nothing_behind(
    open_store: OpenStore, disk: SimDisk, wait: Wait
) -> None:
    store = open_store(waiting_bytes_max=0)
    log, other = store.open_log(1), store.open_log(2)
    log.append(PERSISTENT, numbered(3 * CHUNK_MAX))
    other.append(PERSISTENT, numbered(3))

    log.delete()
    wait(store.wal.commit)

    assert disk.names("/data/queues") == []
    assert store._waiting.bytes == 0
    assert other.committed == 3
    store = open_store()
    assert indexes(store.open_log(2)) == [0, 1, 2]


def test_transient_messages_do_not_outlive_the_node(
    open_store: OpenStore, disk: SimDisk, wait: Wait
) -> None:
    store = open_store(waiting_bytes_max=0)
    log = store.open_log(1)
    for number in range(3 * CHUNK_MAX):
        log.append(TRANSIENT if number % 3 else PERSISTENT, numbered(1, number))
    wait(store.stop)

    again = open_store().open_log(1)

    assert indexes(again) == list(range(0, 3 * CHUNK_MAX, 3))
    assert again.read(range(3, 7, 3)).raws == [b"message 3", b"message 6"]


def test_what_lies_on_disk_of_queues_that_nobody_knows_is_cleared_up(
    open_store: OpenStore, disk: SimDisk, wait: Wait
) -> None:
    store = open_store(waiting_bytes_max=0)
    for log in (store.open_log(1), store.open_log(2), store.open_transient_log()):
        log.append(PERSISTENT, numbered(3 * CHUNK_MAX))
    wait(store.stop)
    store = open_store()
    store.open_log(2)

    store.clear_up({2})

    assert disk.names("/data/queues") == ["2"]


@pytest.mark.parametrize("gone", [bytes(3), b"\1\0\1" * 341, b"\0" * 1023 + b"\1"])
def test_the_state_of_a_log_comes_back(gone: bytes) -> None:
    place = Place(3, 5, 7, 11, 13, 2)
    chunks = [
        ChunkState(100, 1024, 1024, place, None),
        ChunkState(2000, len(gone), gone.count(0), place, gone),
    ]
    state = LogState(1 << 41, 1 << 40, 1 << 39, chunks)

    assert LogState.decode(b"".join(state.encode())) == state
    with pytest.raises(FormatError):
        LogState.decode(b"".join(state.encode())[:-60])

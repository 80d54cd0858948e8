"""A data directory in a world where every call may be the last.

Logs are filled, read and settled, the write-ahead log is committed and begun anew, chunks go to
segments, and leave those of which little is live; at some call the power fails, which takes a
random part of all that was not synced. Then the directory is opened again, and must hold what was
promised: every message that was committed and not settled, none that was settled and synced, and
nothing that was never sent.
"""

import random
from functools import partial

import attrs
import pytest
import trio
import trio.testing

from amqpbroker.storage import chunks, disk_log, segments, store, wal
from amqpbroker.storage import log as memory_log
from amqpbroker.storage.disk_log import DiskLog
from amqpbroker.storage.runs import runs_of
from amqpbroker.storage.store import Store
from amqpbroker.testing.fakes import fake_origin
from amqpbroker.testing.sim_disk import SimCrash, SimDisk
from amqpbroker.testing.trace import Trace

IDS = (1, 2, 3)
LIVES = 6


@attrs.define
class Sent:
    """What is known of one log, from outside."""

    raws: dict[int, bytes] = attrs.Factory(dict)
    persistent: set[int] = attrs.Factory(set)
    waiting: list[int] = attrs.Factory(list)
    settled: set[int] = attrs.Factory(set)
    settled_and_synced: set[int] = attrs.Factory(set)
    committed: int = 0

    def check(self, log: DiskLog) -> None:
        """See that a log that was opened anew holds what it must; go on from there."""
        there = [index for run in log.recovered for index in run]
        found = set(there)
        assert len(found) == len(there)
        promised = {index for index in self.persistent if index < self.committed}
        assert promised - self.settled <= found
        assert not found & self.settled_and_synced
        assert log.end > max(there, default=-1)
        for run in log.recovered:
            while run:
                batch = log.read(run)
                here, run = run[: len(batch.raws)], run[len(batch.raws) :]
                assert batch.raws == [self.raws[index] for index in here]
                assert all(origin.traits.persistent for origin in batch.origins)
        self.raws = {index: self.raws[index] for index in there}
        self.persistent, self.waiting = found, there
        self.settled, self.settled_and_synced = set(), set()
        self.committed = log.end

    def append(self, log: DiskLog, rng: random.Random) -> None:
        """Send some messages, most of them persistent."""
        first, persistent = log.end, rng.random() < 0.8
        count = rng.choice((1, 2, 50, 700))
        raws = [b"%d." % index + bytes(rng.randint(0, 20)) for index in range(first, first + count)]
        log.append(fake_origin(persistent=persistent), raws)
        new = range(first, log.end)
        self.raws.update(zip(new, raws, strict=True))
        self.waiting += new
        if persistent:
            self.persistent.update(new)

    def settle(self, log: DiskLog, rng: random.Random) -> None:
        """Settle some messages, mostly the first, that were perhaps read before."""
        start = rng.randrange(len(self.waiting)) if rng.random() < 0.3 else 0
        count = 1
        limit = rng.choice((1, 3, 300, 2000))
        here = self.waiting[start : start + limit]
        while count < len(here) and here[count] == here[0] + count:
            count += 1
        run = range(here[0], here[0] + count)
        if rng.random() < 0.5:
            assert log.read(run).raws[0] == self.raws[run[0]]
        log.settle(run)
        del self.waiting[start : start + count]
        self.settled.update(run)

    def settle_most(self, log: DiskLog, rng: random.Random) -> None:
        """Settle all but a few, so that little in many chunks is live."""
        left = set(rng.sample(self.waiting, len(self.waiting) // 50))
        for run in runs_of([index for index in self.waiting if index not in left]):
            log.settle(run)
            self.settled.update(run)
        self.waiting = sorted(left)


def use(logs: dict[int, DiskLog], rng: random.Random, sent: dict[int, Sent]) -> None:
    """What clients do in one turn."""
    for _ in range(rng.randint(1, 6)):
        log_id = rng.choice(IDS)
        if rng.random() < 0.6:
            sent[log_id].append(logs[log_id], rng)
        elif len(sent[log_id].waiting) > 1000 and rng.random() < 0.3:
            sent[log_id].settle_most(logs[log_id], rng)
        elif sent[log_id].waiting:
            sent[log_id].settle(logs[log_id], rng)


async def live(disk: SimDisk, rng: random.Random, sent: dict[int, Sent]) -> None:
    """One life of a node: it may end anywhere, or in good order."""
    store = await Store.open(disk, "/data", "rabbit@here", waiting_bytes_max=5000)
    logs = {log_id: store.open_log(log_id) for log_id in IDS}
    for log_id, log in logs.items():
        sent[log_id].check(log)
    assert not store.damages
    store.clear_up(set(IDS))
    store.wal.all_definitions = lambda: b"all\n"
    if store.is_new:  # Nobody uses a queue before it is kept.
        store.wal.definitions(b"all\n", lambda: None)
        await store.wal.commit()
    for _ in range(rng.randint(3, 30)):
        use(logs, rng, sent)
        told = {log_id: set(sent[log_id].settled) for log_id in IDS}
        if store.has_work and rng.random() < 0.5:
            await store.work_off()
            continue
        await store.tidy(is_idle=rng.random() < 0.3)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.wal.commit)
            if rng.random() < 0.5:
                await trio.sleep(rng.random() * disk.sync_s_max)
                use(logs, rng, sent)
                if store.has_work:
                    await store.work_off()
        for log_id in IDS:
            if logs[log_id] not in store.wal._gathered:
                sent[log_id].settled_and_synced |= told[log_id]
            sent[log_id].committed = logs[log_id].committed
    if rng.random() < 0.5:
        await store.stop()
        for log_id in IDS:
            sent[log_id].settled_and_synced |= sent[log_id].settled
            sent[log_id].committed = logs[log_id].end


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files so small that a short walk sees many of them come and go."""
    monkeypatch.setattr(wal, "WAL_FILE_BYTES_MAX", 20_000)
    monkeypatch.setattr(wal, "BATCH_BYTES_MAX", 3_000)
    monkeypatch.setattr(disk_log, "RESIDUE_BYTES_MAX", 12_000)
    monkeypatch.setattr(segments, "SEGMENT_BYTES_MAX", 30_000)
    monkeypatch.setattr(store, "WASTE_BYTES_MAX", 20_000)
    monkeypatch.setattr(store, "IDLE_WASTE_BYTES_MAX", 2_000)
    for module in (chunks, memory_log):
        monkeypatch.setattr(module, "CHUNK_BYTES_MAX", 8_000)


@pytest.mark.slow
@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("seed", range(60))
def test_what_was_promised_is_there_after_a_crash_at_any_call(seed: int) -> None:
    rng = random.Random(seed)
    disk = SimDisk(random.Random(seed + 1), Trace())
    sent = {log_id: Sent() for log_id in IDS}
    for _ in range(LIVES):
        disk.crash_at(disk.calls + rng.randint(1, 150))
        clock = trio.testing.MockClock(autojump_threshold=0)
        try:
            trio.run(partial(live, disk, rng, sent), clock=clock)
        except* SimCrash:
            pass  # This is what the test is about.
        disk.crash()
        disk.restart()

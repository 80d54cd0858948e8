"""A data directory in which something is not what was written there."""

import random
from collections.abc import Awaitable, Callable
from functools import partial

import attrs
import pytest

from amqpbroker.storage import disk_log, segments
from amqpbroker.storage.disk_log import DiskLog
from amqpbroker.storage.store import Store
from amqpbroker.testing.fakes import fake_origin
from amqpbroker.testing.sim_disk import SimDisk
from amqpbroker.testing.trace import Trace

Wait = Callable[[Callable[[], Awaitable[object]]], object]
Files = dict[str, bytes]

PERSISTENT = fake_origin(persistent=True)
DEFINITIONS = b"one\ntwo\n"


@attrs.define
class Directory:
    """A data directory: its files, and what its logs are to hold."""

    files: Files
    promised: dict[int, set[int]]
    settled: dict[int, set[int]]

    def disk(self, damaged: Files | None = None) -> SimDisk:
        """A disk with the directory on it, some files of it as in ``damaged``."""
        disk = SimDisk(random.Random(1), Trace())
        for path, data in (self.files | (damaged or {})).items():
            parts = path.split("/")
            for depth in range(2, len(parts)):
                disk.make_folder("/".join(parts[:depth]))
            disk.open(path, create=True).append(data)
        return disk


def files_on(disk: SimDisk, folder: str = "/data") -> Files:
    files: Files = {}
    for name in disk.names(folder):
        path = f"{folder}/{name}"
        try:
            file = disk.open(path)
        except IsADirectoryError:
            files |= files_on(disk, path)
        else:
            files[path] = file.read(0, file.size_bytes)
    return files


def flipped(data: bytes, bit: int) -> bytes:
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def opened(disk: SimDisk, wait: Wait, waiting_bytes_max: int = 3000) -> Store:
    disk.restart()
    store = wait(partial(Store.open, disk, "/data", "rabbit@here", waiting_bytes_max, 77))
    assert isinstance(store, Store)
    store.wal.all_definitions = lambda: DEFINITIONS
    return store


def message(index: int) -> bytes:
    return b"message %d" % index


def fill(log: DiskLog, count: int) -> None:
    log.append(PERSISTENT, [message(index) for index in range(log.end, log.end + count)])


def some_life(wait: Wait, stop: bool) -> Directory:
    """What is left of a node with three queues, of all kinds of files and records."""
    disk = SimDisk(random.Random(1), Trace())
    store = opened(disk, wait)
    logs = {log_id: store.open_log(log_id) for log_id in (1, 2, 3)}
    settled: dict[int, set[int]] = {log_id: set() for log_id in logs}
    rng = random.Random(2)
    for step in range(8):
        for log_id, log in logs.items():
            fill(log, (3, 40, 600)[log_id - 1])
            first = rng.randrange(log.end)
            if first not in settled[log_id]:
                log.settle(range(first, first + 1))
                settled[log_id].add(first)
        store.wal.definitions(b"step %d\n" % step, lambda: None)
        wait(store.wal.commit)
        if step == 5:
            wait(store.wal.begin_anew)
            while store.wal.has_stale:
                wait(store.wal.renew)
    if stop:
        wait(store.stop)
    promised = {log_id: set(range(log.end)) - settled[log_id] for log_id, log in logs.items()}
    return Directory(files_on(disk), promised, settled)


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_log, "RESIDUE_BYTES_MAX", 3_000)
    monkeypatch.setattr(segments, "SEGMENT_BYTES_MAX", 30_000)


def check(directory: Directory, disk: SimDisk, wait: Wait) -> int:
    """Open a damaged directory, see that no loss is silent; how many messages are lost."""
    store = opened(disk, wait)
    assert b"".join(store.definitions).startswith(DEFINITIONS)
    lost = 0
    for log_id, promised in directory.promised.items():
        log = store.open_log(log_id)
        found = set()
        for run in log.recovered:
            while run:
                batch = log.read(run)
                count = len(batch.origins)
                assert batch.raws in ([], [message(index) for index in run[:count]])
                if batch.raws:
                    found |= set(run[:count])
                else:
                    log.settle(run[:count])
                run = run[count:]
        missing = promised - found
        assert len(missing) <= log.damaged_count
        assert found <= promised | directory.settled[log_id]
        if found - promised:  # They come back flagged.
            assert store.damages
            assert log.fresh_from > max(found - promised)
        if missing:
            assert any(damage.log_id == log_id for damage in store.damages)
        lost += len(missing)
    return lost


@pytest.mark.usefixtures("small_files")
def test_a_directory_that_is_sound_is_told_to_be(wait: Wait) -> None:
    for stop in (False, True):
        directory = some_life(wait, stop)
        disk = directory.disk()

        assert check(directory, disk, wait) == 0
        assert not opened(disk, wait).damages


def flip_some(wait: Wait, stop: bool, chance: float, seed: int) -> tuple[int, int]:
    """Flip single bits; how many, and how many messages that has taken in all."""
    directory = some_life(wait, stop)
    rng = random.Random(seed)
    flips = lost = 0
    last = max(path for path in directory.files if path.endswith(".wal"))
    for path, data in directory.files.items():
        if path.endswith("node.json"):
            continue
        end = len(data)
        if path == last and not stop:
            end = data.rindex(b"\xb2WAL")  # Nothing tells the last batch from one that was cut off.
        bits = end * 8
        for bit in sorted(rng.sample(range(bits), min(bits, int(bits * chance) + 8))):
            disk = directory.disk({path: flipped(data, bit)})
            lost += check(directory, disk, wait)
            flips += 1
    return flips, lost


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("stop", [False, True])
def test_no_bit_that_is_flipped_makes_a_wrong_message_or_a_silent_loss(
    wait: Wait, stop: bool
) -> None:
    flips, lost = flip_some(wait, stop, 0.0003, seed=1)

    assert flips > 100
    assert lost > 0


@pytest.mark.slow
@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("seed", [2])
@pytest.mark.parametrize("stop", [False, True])
def test_no_other_bit_makes_a_wrong_message_or_a_silent_loss(
    wait: Wait, stop: bool, seed: int
) -> None:
    flip_some(wait, stop, 0.001, seed)

"""Data directories on simulated disks, to be spoiled."""

import random
from collections.abc import Awaitable, Callable
from functools import partial

import attrs

from amqpbroker.storage.disk_log import DiskLog
from amqpbroker.storage.runs import runs_of
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


def opened(disk: SimDisk, wait: Wait, name: str = "rabbit@here") -> Store:
    disk.restart()
    store = wait(partial(Store.open, disk, "/data", name, 3000, 77))
    assert isinstance(store, Store)
    store.wal.all_definitions = lambda: DEFINITIONS
    return store


def message(index: int) -> bytes:
    return b"message %d" % index


def fill(log: DiskLog, count: int) -> None:
    log.append(PERSISTENT, [message(index) for index in range(log.end, log.end + count)])


def some_life(wait: Wait, stop: bool) -> Directory:
    """What is left of a node with some queues, of all kinds of files and records."""
    disk = SimDisk(random.Random(1), Trace())
    store = opened(disk, wait)
    logs = {log_id: store.open_log(log_id) for log_id in (1, 2, 3, 4)}
    settled: dict[int, set[int]] = {log_id: set() for log_id in logs}
    rng = random.Random(2)
    for step in range(8):
        for log_id, log in logs.items():
            fill(log, (3, 40, 600, 500)[log_id - 1])
            first = rng.randrange(log.end)
            if first not in settled[log_id]:
                log.settle(range(first, first + 1))
                settled[log_id].add(first)
        if step == 4:  # Little is live in the segments of the last: they are left soon.
            many = set(range(logs[4].end)) - set(range(0, logs[4].end, 50)) - settled[4]
            for run in runs_of(sorted(many)):
                logs[4].settle(run)
            settled[4] |= many
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

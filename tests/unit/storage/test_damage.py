"""A data directory in which something is not what was written there."""

import random
import struct

import pytest

from amqpbroker.storage.format import Kind
from amqpbroker.storage.runs import runs_of
from amqpbroker.storage.store import Store
from amqpbroker.testing.sim_disk import SimDisk
from amqpbroker.testing.trace import Trace
from tests.unit.storage.directories import (
    DEFINITIONS,
    Directory,
    Wait,
    files_on,
    fill,
    flipped,
    message,
    opened,
    some_life,
)


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


def state_damaged(data: bytes, log_id: int) -> bytes:
    """A file of the write-ahead log, with damage in what a log says last of where it stands."""
    head = bytes([Kind.STATE]) + struct.pack("<QI", log_id, 1)
    return flipped(data, (data.rindex(head) + len(head)) * 8)


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("every", [20, 300])
def test_what_has_left_its_segment_is_found_though_it_is_damaged_where_to(
    wait: Wait, every: int
) -> None:
    disk = SimDisk(random.Random(1), Trace())
    store = opened(disk, wait)
    log = store.open_log(1)
    fill(log, 3000)
    commit_all(store, wait)
    begin_anew(store, wait)
    left = set(range(0, log.end, every))
    for run in runs_of(sorted(set(range(log.end)) - left)):
        log.settle(run)
    commit_all(store, wait)
    before = files_on(disk)
    begin_anew(store, wait)
    fill(log, 1)  # A last batch that is damaged would be taken for one that was cut off.
    left.add(log.end - 1)
    commit_all(store, wait)
    after = files_on(disk)
    assert before.keys() - after.keys() >= {"/data/queues/1/00000001.seg"}
    # The name of the older file may come back with a crash.
    older, newest = sorted(path for path in before | after if path.endswith(".wal"))
    files = after | {older: before[older], newest: state_damaged(after[newest], 1)}
    directory = Directory(files, {1: left}, {1: set(range(log.end)) - left})

    assert check(directory, directory.disk(), wait) == 0
    assert any(damage.log_id == 1 for damage in opened(directory.disk(), wait).damages)


def commit_all(store: Store, wait: Wait) -> None:
    while store.wal.has_gathered:
        wait(store.wal.commit)


def begin_anew(store: Store, wait: Wait) -> None:
    """Have the write-ahead log begun anew, and the older file go."""
    wait(store.wal.begin_anew)
    while store.wal.has_stale:
        wait(store.wal.renew)
    commit_all(store, wait)


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
    flips, lost = flip_some(wait, stop, 0.0001, seed=1)

    assert flips > 50
    assert lost > 0


@pytest.mark.slow
@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("seed", [2])
@pytest.mark.parametrize("stop", [False, True])
def test_no_other_bit_makes_a_wrong_message_or_a_silent_loss(
    wait: Wait, stop: bool, seed: int
) -> None:
    flip_some(wait, stop, 0.001, seed)

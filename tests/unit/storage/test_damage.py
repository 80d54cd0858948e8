"""A data directory in which something is not what was written there."""

import random

import pytest

from amqpbroker.testing.sim_disk import SimDisk
from tests.unit.storage.directories import (
    DEFINITIONS,
    Directory,
    Wait,
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

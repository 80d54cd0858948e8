"""A data directory that is checked offline: what it says is what a node would find."""

import random
from collections.abc import Callable

import attrs
import pytest

from amqpbroker.errors import DataError
from amqpbroker.storage.check import Check, LogReport, checking
from amqpbroker.storage.disk_log import DiskLog
from amqpbroker.storage.faults import Damage
from amqpbroker.storage.format import FILE_HEAD_BYTES
from amqpbroker.testing.sim_disk import SimDisk
from tests.unit.storage.directories import (
    Directory,
    Files,
    Wait,
    files_on,
    flipped,
    opened,
    some_life,
)

IDS = (1, 2, 3, 4)
FOLDER = "/data"

pytestmark = pytest.mark.usefixtures("small_files")


@attrs.define
class Findings:
    """What was found in a data directory, by whom it may be."""

    refused: bool = False
    damages: set[Damage] = attrs.Factory(set)
    messages: dict[int, int] = attrs.Factory(dict)
    lost: dict[int, int] = attrs.Factory(dict)


def checked(disk: SimDisk) -> tuple[Findings, list[LogReport], Check | None]:
    """What the check finds, without changing anything."""
    before = disk.calls
    findings = Findings()
    try:
        with checking(disk, FOLDER) as check:
            reports = [check.log(log_id) for log_id in IDS]
            check.others(IDS)
            check.torn()
            check.wal_files()
    except DataError:
        findings.refused = True
        return findings, [], None
    assert disk.calls > before
    findings.damages = set(check.damages)
    findings.messages = {report.log_id: report.messages for report in reports}
    findings.lost = {report.log_id: report.lost for report in reports}
    return findings, reports, check


def found_by_a_node(disk: SimDisk, wait: Wait, name: str) -> Findings:
    """What a node finds that opens the directory and reads every message."""
    findings = Findings()
    try:
        store = opened(disk, wait, name)
    except DataError:
        findings.refused = True
        return findings
    for log_id in IDS:
        log = store.open_log(log_id)
        findings.messages[log_id] = read_all(log)
        findings.lost[log_id] = log.damaged_count
    findings.damages = set(store.damages)
    return findings


def read_all(log: DiskLog) -> int:
    """Read all messages of a log; how many are not damaged."""
    count = 0
    for run in log.recovered:
        while run:
            batch = log.read(run)
            here, run = run[: len(batch.origins)], run[len(batch.origins) :]
            count += len(batch.raws)
            if not batch.raws:
                log.settle(here)
    return count


def agree(directory: Directory, wait: Wait, damaged: Files | None = None) -> Findings:
    """See that the check and a node find the same, and that the check changes nothing."""
    disk = directory.disk(damaged)
    there = files_on(disk)
    findings, _, check = checked(disk)
    assert files_on(disk) == there
    name = "rabbit@here" if check is None else check.owner.name  # A bit of it may be another one.
    assert findings == found_by_a_node(disk, wait, name)
    return findings


@pytest.mark.parametrize("stop", [False, True])
def test_a_sound_directory_is_found_sound(wait: Wait, stop: bool) -> None:
    directory = some_life(wait, stop)

    findings, reports, check = checked(directory.disk())

    assert check is not None
    assert findings.damages == set()
    assert findings.messages == {
        log_id: len(promised) for log_id, promised in directory.promised.items()
    }
    assert check.is_clean == stop
    assert not check.remarks
    assert not check.torn()
    for report in reports:
        folder = f"/data/queues/{report.log_id}/"
        there = [data for path, data in directory.files.items() if path.startswith(folder)]
        assert (report.segments.count, report.segments.octets) == (len(there), sum(map(len, there)))
        assert report.in_wal.count + report.in_segments.count == report.messages
    assert not agree(directory, wait).refused


def test_nothing_is_written_or_made(wait: Wait) -> None:
    disk = some_life(wait, stop=False).disk()
    calls: list[str] = []
    call = disk.call

    def noted(what: str, *details: object) -> object:
        calls.append(what)
        return call(what, *details)

    disk.call = noted

    checked(disk)

    assert set(calls) == {"names", "open", "lock", "read"}


def flips(files: Files, rng: random.Random, count: int) -> list[tuple[str, bytes]]:
    """Files each with a bit flipped, at random places; small files as often as large ones."""
    spoiled = []
    for _ in range(count):
        path = rng.choice([path for path, data in files.items() if data])
        spoiled.append((path, flipped(files[path], rng.randrange(len(files[path]) * 8))))
    return spoiled


def cuts(files: Files, rng: random.Random, count: int) -> list[tuple[str, bytes]]:
    """Files that are shorter than they were, or end in something else."""
    spoiled = []
    for _ in range(count):
        path = rng.choice([path for path, data in files.items() if data])
        end = rng.randrange(len(files[path]))
        rest = rng.choice((b"", bytes(len(files[path]) - end), rng.randbytes(100)))
        spoiled.append((path, files[path][:end] + rest))
    return spoiled


def holes(files: Files, rng: random.Random, count: int) -> list[tuple[str, bytes]]:
    """Files of which some octets in the midst are others."""
    spoiled = []
    for _ in range(count):
        path = rng.choice([path for path, data in files.items() if data])
        data = bytearray(files[path])
        start = rng.randrange(len(data))
        size = min(rng.choice((2, 100, 5000)), len(data) - start)
        data[start : start + size] = rng.choice((bytes(size), rng.randbytes(size)))
        spoiled.append((path, bytes(data)))
    return spoiled


Spoil = Callable[[Files, random.Random, int], list[tuple[str, bytes]]]


@pytest.mark.parametrize("spoil", [flips, cuts, holes])
@pytest.mark.parametrize("stop", [False, True])
def test_a_spoiled_directory_is_what_a_node_would_find(
    wait: Wait, spoil: Spoil, stop: bool
) -> None:
    directory = some_life(wait, stop)
    damaged = 0
    for path, data in spoil(directory.files, random.Random(1), 15):
        findings = agree(directory, wait, {path: data})
        damaged += bool(findings.damages or findings.refused)
    assert damaged >= 3


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [flips, cuts, holes])
@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("seed", [2, 3])
def test_any_spoiled_directory_is_what_a_node_would_find(
    wait: Wait, spoil: Spoil, stop: bool, seed: int
) -> None:
    directory = some_life(wait, stop)
    rng = random.Random(seed)
    for path, data in spoil(directory.files, rng, 60):
        other, more = spoil(directory.files, rng, 1)[0]
        agree(directory, wait, {path: data})
        agree(directory, wait, {other: more} | {path: data})


@pytest.mark.parametrize("stop", [False, True])
def test_a_file_that_is_missing_is_missed_as_by_a_node(wait: Wait, stop: bool) -> None:
    directory = some_life(wait, stop)
    for path in directory.files:
        if path in ("/data/lock", "/data/wal/00000002.wal"):
            continue  # That the newest file of the log was there, nothing tells.
        files = {name: data for name, data in directory.files.items() if name != path}
        findings = agree(attrs.evolve(directory, files=files), wait)
        if findings.refused:
            assert not path.endswith(".seg")
        elif path.endswith(".wal"):
            assert not stop
            assert [damage.what for damage in findings.damages] == ["batches 1 to 6 are not there"]
        elif findings.damages:
            [damage] = findings.damages
            assert (damage.path, damage.what) == (path, "the file is not there")
            assert findings.lost[damage.log_id] > 0
        else:  # What lies there stands in the write-ahead log, too.
            assert not stop
            assert findings.messages[3] == len(directory.promised[3])


def test_a_torn_end_is_told_from_damage(wait: Wait) -> None:
    directory = some_life(wait, stop=False)
    newest = max(path for path in directory.files if path.endswith(".wal"))
    data = directory.files[newest]
    at = data.rindex(b"\xb2WAL")
    for end in (at + 5, at + 100, len(data) - 1):
        _, _, check = checked(directory.disk({newest: data[:end]}))
        assert check is not None
        assert not check.damages
        [torn] = check.torn()
        assert (torn.path, torn.offset) == (newest, at)
        assert torn.what == f"{end - at} octets are cut off by a crash"
        agree(directory, wait, {newest: data[:end]})


def test_what_nobody_needs_is_read_too(wait: Wait) -> None:
    directory = some_life(wait, stop=True)
    path = next(path for path in directory.files if path.startswith("/data/queues/3/"))
    stray = f"/data/queues/17/{path.rpartition('/')[2]}"
    disk = directory.disk({stray: directory.files[path]})

    with checking(disk, FOLDER) as check:
        [other] = check.others(IDS)
    assert other.log_id == 17
    assert other.messages == 0
    assert other.not_needed.count > 0
    assert not check.remarks

    damaged = flipped(directory.files[path], 8 * (len(directory.files[path]) - 1))
    with checking(directory.disk({stray: damaged}), FOLDER) as check:
        check.others(IDS)
    assert not check.damages
    [remark] = check.remarks
    assert remark.path == stray
    assert remark.what.endswith("; it is not needed")


def test_what_is_found_without_its_head_is_not_lost(wait: Wait) -> None:
    directory = some_life(wait, stop=True)
    path = next(path for path in directory.files if path.startswith("/data/queues/3/"))
    data = flipped(directory.files[path], 3)
    data = flipped(data, FILE_HEAD_BYTES * 8)

    findings, _, check = checked(directory.disk({path: data}))

    assert check is not None
    assert not findings.damages
    assert [remark.offset for remark in check.remarks] == [0, FILE_HEAD_BYTES]
    assert agree(directory, wait, {path: data}).lost[3] == 0

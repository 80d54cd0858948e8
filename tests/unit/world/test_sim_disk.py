"""What a simulated disk loses in a crash, and how its calls fail."""

import errno
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import attrs
import pytest
import trio
import trio.testing
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from amqpbroker.testing.sim_disk import SimCrash, SimDisk
from amqpbroker.testing.trace import Trace
from amqpbroker.testing.world import Simulation, simulate
from amqpbroker.world import File

SEEDS = range(60)


def a_disk(seed: int = 1) -> SimDisk:
    return SimDisk(random.Random(seed), Trace())


def wait(act: Callable[[], Awaitable[object]]) -> None:
    """Run what waits, in no time."""
    trio.run(act, clock=trio.testing.MockClock(autojump_threshold=0))


def content(disk: SimDisk, path: str) -> bytes:
    file = disk.open(path)
    data = file.read(0, file.size_bytes)
    file.close()
    return data


def kept_file(disk: SimDisk, path: str = "a", data: bytes = b"") -> File:
    """An open file that is on the disk for good."""
    file = disk.open(path, create=True)
    file.append(data)
    wait(file.sync)
    wait(partial(disk.sync_folder, "/"))
    return file


def crash(disk: SimDisk) -> None:
    disk.crash()
    disk.restart()


def test_a_crash_takes_any_part_of_the_end_that_was_not_synced() -> None:
    left = set()
    for seed in SEEDS:
        disk = a_disk(seed)
        file = kept_file(disk, data=b"kept")
        file.append(b"one")
        file.append(b"two")
        crash(disk)
        left.add(content(disk, "a"))
    assert left == {b"keptonetwo"[:size] for size in range(4, 11)}


def test_a_crash_may_undo_a_cut_that_was_not_synced() -> None:
    left = set()
    for seed in SEEDS:
        disk = a_disk(seed)
        file = kept_file(disk, data=b"kept")
        file.truncate(1)
        file.append(b"x")
        crash(disk)
        left.add(content(disk, "a"))
    assert left == {b"kept", b"k", b"kx"}


def test_what_survives_a_crash_survives_the_next() -> None:
    for seed in SEEDS:
        disk = a_disk(seed)
        kept_file(disk).append(b"0123456789")
        crash(disk)
        left = content(disk, "a")
        crash(disk)
        assert content(disk, "a") == left


def test_a_sync_does_not_cover_appends_made_while_it_runs() -> None:
    async def sync_and_append() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(file.sync)
            await trio.testing.wait_all_tasks_blocked()
            file.append(b"late")

    left = set()
    for seed in SEEDS:
        disk = a_disk(seed)
        file = kept_file(disk)
        file.append(b"soon")
        wait(sync_and_append)
        crash(disk)
        left.add(content(disk, "a"))
    assert left == {b"soonlate"[:size] for size in range(4, 9)}


def test_a_sync_takes_time_that_the_seed_decides() -> None:
    async def scenario(sim: Simulation) -> float:
        file = sim.disk.open("a", create=True)
        began = sim.world.clock.monotonic_s()
        await file.sync()
        return sim.world.clock.monotonic_s() - began

    times = [simulate(seed, scenario) for seed in range(10)]
    assert times == [simulate(seed, scenario) for seed in range(10)]
    assert len(set(times)) == 10
    assert all(0 < time < 0.01 for time in times)


def test_one_sync_of_a_file_at_a_time() -> None:
    async def sync_twice() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(file.sync)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(AssertionError):
                await file.sync()
            with pytest.raises(AssertionError):
                file.close()

    file = a_disk().open("a", create=True)
    wait(sync_twice)
    file.close()


def test_names_that_were_not_synced_may_each_be_lost() -> None:
    left = set()
    for seed in SEEDS:
        disk = a_disk(seed)
        kept_file(disk, "old")
        disk.open("new", create=True)
        disk.remove("old")
        crash(disk)
        left.add(tuple(disk.names("/")))
    assert left == {(), ("new",), ("old",), ("new", "old")}


def test_a_replaced_file_is_the_old_or_the_new_and_never_gone() -> None:
    left = set()
    for seed in SEEDS:
        disk = a_disk(seed)
        kept_file(disk, "state", b"old")
        file = disk.open("state.new", create=True)
        file.append(b"new")
        wait(file.sync)
        disk.rename("state.new", "state")
        crash(disk)
        left.add(content(disk, "state"))
    assert left == {b"old", b"new"}


def test_a_replacement_that_was_not_synced_itself_may_be_torn() -> None:
    left = set()
    for seed in SEEDS:
        disk = a_disk(seed)
        kept_file(disk, "state", b"old")
        disk.open("state.new", create=True).append(b"new")
        disk.rename("state.new", "state")
        wait(partial(disk.sync_folder, "/"))
        crash(disk)
        left.add(content(disk, "state"))
    assert left == {b"", b"n", b"ne", b"new"}


def test_a_file_with_two_new_names_has_one_of_its_names_after_a_crash() -> None:
    for seed in SEEDS:
        disk = a_disk(seed)
        kept_file(disk, "a", b"kept")
        disk.rename("a", "b")
        disk.rename("b", "c")
        crash(disk)
        (name,) = disk.names("/")
        assert content(disk, name) == b"kept"


def test_a_folder_that_is_lost_takes_its_files_with_it() -> None:
    left = set()
    for seed in SEEDS:
        disk = a_disk(seed)
        disk.make_folder("queue")
        disk.open("queue/a", create=True)
        wait(partial(disk.sync_folder, "queue"))
        crash(disk)
        left.add(tuple(disk.names("/")))
        if disk.names("/"):
            assert disk.names("queue") == ["a"]
    assert left == {(), ("queue",)}


def test_a_process_that_starts_again_finds_all_it_wrote() -> None:
    disk = a_disk()
    file = disk.open("a", create=True)
    file.append(b"one")
    file.lock()
    disk.restart()
    with pytest.raises(SimCrash):
        file.append(b"two")
    assert content(disk, "a") == b"one"
    disk.open("a").lock()


def test_a_disk_that_is_down_serves_nobody() -> None:
    disk = a_disk()
    file = disk.open("a", create=True)
    disk.crash()
    disk.crash()
    for act in (
        lambda: file.append(b""),
        lambda: file.read(0, 1),
        lambda: file.size_bytes,
        lambda: disk.open("a"),
        lambda: disk.names("/"),
        lambda: disk.remove("a"),
    ):
        with pytest.raises(SimCrash):
            act()
    for sync in (file.sync, partial(disk.sync_folder, "/")):
        with pytest.raises(SimCrash):
            wait(sync)
    file.close()


@pytest.mark.parametrize("again", [False, True])
def test_who_waits_for_a_sync_learns_of_the_crash(again: bool) -> None:
    disk = a_disk()
    file = disk.open("a", create=True)

    async def scenario() -> None:
        learned = 0

        async def sync(what: Callable[[], Awaitable[None]]) -> None:
            nonlocal learned
            with pytest.raises(SimCrash):
                await what()
            learned += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sync, file.sync)
            nursery.start_soon(sync, partial(disk.sync_folder, "/"))
            await trio.testing.wait_all_tasks_blocked()
            disk.crash()
            file.close()
            if again:
                disk.restart()
        assert learned == 2

    wait(scenario)


def test_a_call_fails_by_its_number_and_the_next_does_not() -> None:
    disk = a_disk()
    disk.open("a", create=True)
    disk.fail_at(3, errno.EIO)
    assert disk.names("/") == ["a"]
    with pytest.raises(OSError) as failed:
        disk.remove("a")
    assert failed.value.errno == errno.EIO
    assert disk.names("/") == ["a"]
    disk.remove("a")
    assert disk.names("/") == []
    assert disk.calls == 6


def test_an_append_that_fails_leaves_a_part() -> None:
    left = set()
    for seed in SEEDS:
        disk = a_disk(seed)
        file = disk.open("a", create=True)
        disk.fail_at(2, errno.ENOSPC)
        with pytest.raises(OSError) as failed:
            file.append(b"one")
        assert failed.value.errno == errno.ENOSPC
        left.add(file.read(0, file.size_bytes))
        file.truncate(0)
        file.append(b"two")
        assert content(disk, "a") == b"two"
    assert left == {b"", b"o", b"on"}


def test_a_full_disk_takes_what_has_room() -> None:
    disk = a_disk()
    disk.capacity_bytes = 5
    disk.make_folder("b")
    disk.open("b/a", create=True).append(b"one")
    assert disk.free_bytes("/") == 2
    file = disk.open("a", create=True)
    with pytest.raises(OSError) as full:
        file.append(b"two")
    assert full.value.errno == errno.ENOSPC
    assert file.read(0, 10) == b"tw"
    assert disk.free_bytes("/") == 0
    disk.remove("b/a")
    assert disk.free_bytes("/") == 3


def test_after_a_failed_sync_no_other_makes_the_content_last() -> None:
    left = set()
    for seed in SEEDS:
        disk = a_disk(seed)
        file = kept_file(disk, data=b"kept")
        file.append(b"x")
        disk.fail_at(disk.calls + 1, errno.EIO)
        with pytest.raises(OSError):
            wait(file.sync)
        disk.restart()
        wait(disk.open("a").sync)
        crash(disk)
        left.add(content(disk, "a"))
        file = disk.open("a")
        file.append(b"y")
        wait(file.sync)
        crash(disk)
        assert content(disk, "a").endswith(b"y")
    assert left == {b"kept", b"keptx"}


def test_only_calls_to_come_can_be_made_to_fail() -> None:
    disk = a_disk()
    disk.names("/")
    with pytest.raises(AssertionError):
        disk.fail_at(1, errno.EIO)
    with pytest.raises(AssertionError):
        disk.crash_at(1)


async def log_and_state(disk: SimDisk) -> AsyncIterator[str]:
    """A small store, as a broker has it; what it yields is promised to last."""
    disk.make_folder("store")
    log = disk.open("store/log", create=True)
    await disk.sync_folder("/")
    await disk.sync_folder("store")
    for number in b"123":
        log.append(bytes([number]) * 3)
        await log.sync()
        yield f"log {chr(number)}"
        new = disk.open("store/state.new", create=True)
        new.truncate(0)
        new.append(bytes([number]))
        await new.sync()
        new.close()
        disk.rename("store/state.new", "store/state")
        await disk.sync_folder("store")
        yield f"state {chr(number)}"


def run_until_crash(disk: SimDisk) -> list[str]:
    """What the store had promised when its disk failed, or at its end."""
    promised = []

    async def run() -> None:
        async for promise in log_and_state(disk):
            promised.append(promise)

    try:
        wait(run)
    except (SimCrash, OSError):
        pass
    return promised


def calls_of_the_store() -> int:
    disk = a_disk()
    assert len(run_until_crash(disk)) == 6
    return disk.calls


@pytest.mark.parametrize("seed", range(5))
def test_what_was_promised_outlives_a_crash_at_any_call(seed: int) -> None:
    for call in range(1, calls_of_the_store() + 1):
        disk = a_disk(seed)
        disk.crash_at(call)
        promised = run_until_crash(disk)
        assert disk.down
        assert disk.calls == call
        disk.restart()
        for promise in promised:
            kind, number = promise.split()
            if kind == "log":
                assert number.encode() * 3 in content(disk, "store/log")
            else:
                assert content(disk, "store/state") >= number.encode()


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_what_was_promised_outlives_a_failure_at_any_call(error: int) -> None:
    for call in range(1, calls_of_the_store() + 1):
        disk = a_disk(call)
        disk.fail_at(call, error)
        promised = run_until_crash(disk)
        assert disk.calls == call
        crash(disk)
        for promise in promised:
            kind, number = promise.split()
            if kind == "log":
                assert number.encode() * 3 in content(disk, "store/log")
            else:
                assert content(disk, "store/state") >= number.encode()


@pytest.mark.parametrize("crash_at", [12, 13, 14])
def test_a_seed_replays_what_the_disk_does(crash_at: int) -> None:
    async def scenario(sim: Simulation) -> str:
        sim.disk.crash_at(crash_at)
        with pytest.raises(SimCrash):
            async for _ in log_and_state(sim.disk):
                pass
        sim.disk.restart()
        return sim.trace.digest

    digests = [simulate(seed, scenario) for seed in range(9)]
    assert digests == [simulate(seed, scenario) for seed in range(9)]
    assert len(set(digests)) == 9


def test_the_trace_tells_what_a_crash_left() -> None:
    def digest(seed: int) -> tuple[str, bytes]:
        trace = Trace()
        disk = SimDisk(random.Random(seed), trace)
        disk.sync_s_max = 0
        kept_file(disk).append(b"0123456789")
        crash(disk)
        digest = trace.digest
        return digest, content(disk, "a")

    seen = {digest(seed) for seed in SEEDS}
    assert len(seen) == len({trace for trace, _ in seen}) == len({data for _, data in seen}) > 1


@attrs.define(eq=False)
class ModelFile:
    """A file that knows every content that a crash may leave of it."""

    synced: bytes = b""
    unsynced: list[bytes | int] = attrs.Factory(list)
    broken: bool = False

    @property
    def seen(self) -> bytes:
        return self.after(len(self.unsynced))

    def after(self, changes: int) -> bytes:
        data = self.synced
        for change in self.unsynced[:changes]:
            data = data[:change] if isinstance(change, int) else data + change
        return data

    def sync(self, changes: int) -> None:
        if not self.broken:
            self.synced = self.after(changes)
            del self.unsynced[:changes]

    def may_be(self, data: bytes) -> bool:
        if data == self.synced:
            return True
        for i, change in enumerate(self.unsynced):
            before, after = self.after(i), self.after(i + 1)
            if data == after:
                return True
            if isinstance(change, bytes) and len(before) <= len(data) and after.startswith(data):
                return True
        return False


class DiskMachine(RuleBasedStateMachine):
    """A `SimDisk` with one folder against a model that says what is allowed."""

    names = st.sampled_from("abc")

    def __init__(self) -> None:
        super().__init__()
        self.disk = a_disk()
        self.files: dict[str, ModelFile] = {}
        self.history: dict[str, list[ModelFile | None]] = {}
        self.open_files: dict[str, File] = {}
        self.octet = 0
        self.sync_folder()

    def remember(self, *names: str) -> None:
        for name in names:
            self.history.setdefault(name, [None]).append(self.files.get(name))

    def the_file(self, name: str) -> tuple[File, ModelFile]:
        if name not in self.files:
            self.files[name] = ModelFile()
            self.remember(name)
        if name not in self.open_files:
            self.open_files[name] = self.disk.open(name, create=True)
        return self.open_files[name], self.files[name]

    def some_octets(self, size: int) -> bytes:
        self.octet += size
        return bytes(octet % 256 for octet in range(self.octet - size, self.octet))

    @rule(seed=st.integers(0, 1 << 32))
    def let_another_seed_decide(self, seed: int) -> None:
        self.disk._random.seed(seed)

    @rule(name=names, size=st.integers(0, 5))
    def append(self, name: str, size: int) -> None:
        file, model = self.the_file(name)
        octets = self.some_octets(size)
        file.append(octets)
        model.unsynced.append(octets)

    @rule(name=names, size=st.integers(1, 5))
    def fail_to_append(self, name: str, size: int) -> None:
        file, model = self.the_file(name)
        octets = self.some_octets(size)
        self.disk.fail_at(self.disk.calls + 1, errno.ENOSPC)
        with pytest.raises(OSError):
            file.append(octets)
        part = octets[: file.size_bytes - len(model.seen)]
        assert len(part) < size
        model.unsynced.append(part)

    @rule(name=names, share=st.floats(0, 1))
    def truncate(self, name: str, share: float) -> None:
        file, model = self.the_file(name)
        size = int(len(model.seen) * share)
        file.truncate(size)
        model.unsynced.append(size)

    @rule(name=names, late=st.integers(0, 5))
    def sync(self, name: str, late: int) -> None:
        file, model = self.the_file(name)
        covered = len(model.unsynced)
        octets = self.some_octets(late)

        async def run() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(file.sync)
                await trio.testing.wait_all_tasks_blocked()
                file.append(octets)

        wait(run)
        model.unsynced.append(octets)
        model.sync(covered)

    @rule(name=names)
    def fail_to_sync(self, name: str) -> None:
        file, model = self.the_file(name)
        self.disk.fail_at(self.disk.calls + 1, errno.EIO)
        with pytest.raises(OSError):
            wait(file.sync)
        with pytest.raises(OSError):
            file.append(b"x")
        model.broken = True
        del self.open_files[name]

    @rule(old=names, new=names)
    def rename(self, old: str, new: str) -> None:
        self.the_file(old)
        self.disk.rename(old, new)
        file = self.open_files.pop(old)
        self.files[new] = self.files.pop(old)
        self.open_files[new] = file
        self.remember(old, new)

    @precondition(lambda self: self.files)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.files)))
        self.disk.remove(name)
        del self.files[name]
        self.open_files.pop(name, None)
        self.remember(name)

    @rule()
    def sync_folder(self) -> None:
        wait(partial(self.disk.sync_folder, "/"))
        self.history = {name: [file] for name, file in self.files.items()}

    @rule()
    def restart(self) -> None:
        self.disk.restart()
        self.open_files.clear()

    @rule()
    def crash(self) -> None:
        crash(self.disk)
        names = self.disk.names("/")
        found = {name: content(self.disk, name) for name in names}
        for name, possible in self.history.items():
            if name in found:
                assert any(file and file.may_be(found[name]) for file in possible), name
            else:
                assert None in possible, name
        assert set(found) <= set(self.history)
        self.files = {name: ModelFile(data) for name, data in found.items()}
        self.history = {name: [file] for name, file in self.files.items()}
        self.open_files.clear()

    @rule()
    def look(self) -> None:
        assert self.disk.names("/") == sorted(self.files)
        for name, model in self.files.items():
            assert content(self.disk, name) == model.seen


@pytest.mark.slow
class TestDiskMachine(DiskMachine.TestCase):
    settings = settings(deadline=None, database=None, max_examples=60, stateful_step_count=30)

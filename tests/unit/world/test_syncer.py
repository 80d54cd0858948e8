"""The processes that sync, and how they end."""

import errno
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from amqpbroker.world.syncer import Syncer

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


async def started(descriptor: int) -> Syncer:
    """Its processes have been waited for."""
    syncer = Syncer()
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(syncer.sync_content, descriptor)
    return syncer


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Processes do nothing for a while."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def assert_refused(syncer: Syncer, descriptor: int, text: str) -> None:
    with pytest.raises(OSError, match=text) as refused:
        await syncer.sync_content(descriptor)
    assert refused.value.errno == errno.EIO


async def test_processes_are_started_when_needed_and_end_with_the_syncer(descriptor: int) -> None:
    syncer = Syncer()
    assert syncer.pids == []
    await syncer.sync_content(descriptor)
    pids = syncer.pids
    await syncer.sync_content(descriptor)
    assert syncer.pids == pids
    assert all(map(is_there, pids))
    del syncer
    assert not any(map(is_there, pids))


@linux_only
async def test_thousands_of_syncs_leave_no_descriptor_behind() -> None:
    descriptor = os.memfd_create("a")
    syncer = await started(descriptor)
    before = os.listdir("/proc/self/fd")
    for _ in range(1000):
        await syncer.sync_content(descriptor)
        await syncer.sync_names(descriptor)
    assert os.listdir("/proc/self/fd") == before
    for pid in syncer.pids:
        assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
        assert os.readlink(f"/proc/{pid}/fd/2") == "/dev/null"
    os.close(descriptor)


@linux_only
def test_processes_have_the_environment_of_the_node(
    descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_NODE", "yes")
    syncer = trio.run(started, descriptor)
    for pid in syncer.pids:
        assert b"OF_THE_NODE=yes" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


async def test_an_error_is_that_of_the_system_and_for_one_caller_only(descriptor: int) -> None:
    syncer = Syncer()
    reader, writer = os.pipe()
    with pytest.raises(OSError) as failed:
        await syncer.sync_content(writer)
    assert failed.value.errno == errno.EINVAL
    await syncer.sync_content(descriptor)
    os.close(reader)
    os.close(writer)


async def test_more_may_ask_than_can_be_served_at_a_time(descriptor: int) -> None:
    syncer = await started(descriptor)
    done = 0

    async def sync() -> None:
        nonlocal done
        await syncer.sync_content(descriptor)
        done += 1

    async with trio.open_nursery() as nursery:
        with stopped(*syncer.pids):
            for _ in range(10):
                nursery.start_soon(sync)
            await trio.testing.wait_all_tasks_blocked()
            assert done == 0
    assert done == 10


async def test_a_slow_sync_does_not_keep_another_waiting(descriptor: int) -> None:
    syncer = await started(descriptor)
    async with trio.open_nursery() as nursery:
        with stopped(syncer.pids[0]):
            nursery.start_soon(syncer.sync_content, descriptor)
            await trio.testing.wait_all_tasks_blocked()
            await syncer.sync_content(descriptor)


async def test_cancelling_ends_neither_the_syncs_under_way_nor_those_in_line(
    descriptor: int,
) -> None:
    syncer = await started(descriptor)
    done = 0

    async def sync() -> None:
        nonlocal done
        await syncer.sync_content(descriptor)
        done += 1

    async with trio.open_nursery() as nursery:
        with stopped(*syncer.pids):
            for _ in range(4):
                nursery.start_soon(sync)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert done == 0
    assert done == 4


async def test_when_a_process_is_killed_nobody_is_served_any_more(descriptor: int) -> None:
    syncer = await started(descriptor)
    first, second = syncer.pids
    text = "was killed by signal 9: nothing lasts any more, restart the node"
    async with trio.open_nursery() as nursery:
        with stopped(second):
            with stopped(first):
                nursery.start_soon(assert_refused, syncer, descriptor, text)
                await trio.testing.wait_all_tasks_blocked()
                # One that another process has in hand will have its true answer.
                nursery.start_soon(syncer.sync_content, descriptor)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(assert_refused, syncer, descriptor, text)
                await trio.testing.wait_all_tasks_blocked()
                os.kill(first, signal.SIGKILL)
            await trio.testing.wait_all_tasks_blocked()
            await assert_refused(syncer, descriptor, text)
    await assert_refused(syncer, descriptor, text)


async def test_a_process_that_was_killed_in_between_is_missed(descriptor: int) -> None:
    syncer = await started(descriptor)
    os.kill(syncer.pids[0], signal.SIGKILL)
    await assert_refused(syncer, descriptor, "was killed by signal 9")


async def test_signals_for_all_of_the_node_do_not_end_the_processes(descriptor: int) -> None:
    syncer = Syncer()
    syncer.close_elsewhere(os.dup(descriptor))
    for pid in syncer.pids:  # They have hardly begun to start.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            os.kill(pid, number)
    async with trio.open_nursery() as nursery:
        for _ in syncer.pids:
            nursery.start_soon(syncer.sync_content, descriptor)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


async def test_a_program_that_is_not_there_is_a_clear_error(descriptor: int) -> None:
    syncer = Syncer("/nowhere/python")
    text = "cannot be started: .*No such file.*'/nowhere/python' must be the Python"
    await assert_refused(syncer, descriptor, text)
    await assert_refused(syncer, descriptor, text)


async def test_a_program_that_ends_at_once_is_a_clear_error(descriptor: int) -> None:
    wrong = shutil.which("false")
    assert wrong is not None
    syncer = Syncer(wrong)
    text = rf"ended before its first answer \(status 1\): .*'{wrong}' is the Python"
    await assert_refused(syncer, descriptor, text)
    await assert_refused(syncer, descriptor, text)


async def test_a_process_that_ends_in_the_midst_of_a_sync_is_a_clear_error(
    descriptor: int, tmp_path: Path
) -> None:
    script = tmp_path / "script"
    script.touch(0o700)
    script.write_text("#!/bin/sh\nhead -c 1; printf '\\0' >&0; head -c 1; exit 3")
    syncer = Syncer(str(script))
    await syncer.sync_content(descriptor)
    await assert_refused(syncer, descriptor, "ended with status 3: nothing lasts any more")


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """An interrupt raises KeyboardInterrupt, though whoever started pytest may ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_after_an_interrupt_no_answer_is_taken_for_another(descriptor: int) -> None:
    syncer = trio.run(started, descriptor)

    async def interrupt() -> None:
        await trio.testing.wait_all_tasks_blocked()
        signal.raise_signal(signal.SIGINT)

    async def sync() -> None:
        trio.lowlevel.spawn_system_task(interrupt)
        await syncer.sync_content(descriptor)

    with stopped(*syncer.pids), pytest.raises(KeyboardInterrupt):
        trio.run(sync)
    trio.run(assert_refused, syncer, descriptor, "broken off before its answer came")


def test_a_fork_does_not_end_the_processes(descriptor: int) -> None:
    syncer = trio.run(started, descriptor)
    pid = os.fork()
    if pid == 0:
        del syncer
        os._exit(0)
    os.waitpid(pid, 0)
    trio.run(syncer.sync_content, descriptor)


@linux_only
def test_when_the_node_is_killed_its_processes_end() -> None:
    script = (
        "import sys, trio; from amqpbroker.world.syncer import Syncer;"
        "syncer = Syncer(); trio.run(syncer.sync_content, int(sys.argv[1]));"
        "print(*syncer.pids, flush=True); sys.stdin.read()"
    )
    descriptor = os.memfd_create("a")
    with subprocess.Popen(
        [sys.executable, "-c", script, str(descriptor)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[descriptor],
    ) as node:
        assert node.stdout is not None
        ends = [os.pidfd_open(int(pid)) for pid in node.stdout.readline().split()]
        node.kill()
    os.close(descriptor)
    assert len(ends) == 2
    for end in ends:
        assert select.select([end], [], [], 10)[0]
        os.close(end)


async def test_a_descriptor_is_closed_elsewhere(descriptor: int) -> None:
    syncer = await started(descriptor)
    reader, writer = os.pipe()
    with stopped(*syncer.pids):
        syncer.close_elsewhere(writer)
        with pytest.raises(OSError):
            os.fstat(writer)
        assert not select.select([reader], [], [], 0)[0]  # It is open, elsewhere.
    await trio.lowlevel.wait_readable(reader)
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_where_nobody_closes_it_a_descriptor_is_closed_here() -> None:
    reader, writer = os.pipe()
    Syncer("/nowhere/python").close_elsewhere(writer)
    assert select.select([reader], [], [], 0)[0]
    os.close(reader)


async def test_descriptors_to_close_do_not_block_and_do_not_stop_syncs(descriptor: int) -> None:
    syncer = await started(descriptor)
    reader, writer = os.pipe()
    async with trio.open_nursery() as nursery:
        with stopped(*syncer.pids):
            for _ in range(400):
                syncer.close_elsewhere(os.dup(writer))
            for _ in range(3):
                nursery.start_soon(syncer.sync_content, descriptor)
            await trio.testing.wait_all_tasks_blocked()
    syncer.close_elsewhere(writer)
    await trio.lowlevel.wait_readable(reader)
    assert os.read(reader, 1) == b""
    os.close(reader)

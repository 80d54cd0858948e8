"""The real disk and the simulated one keep one contract."""

import errno
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import trio.testing

from amqpbroker.testing.disk_contract import DiskContract
from amqpbroker.testing.sim_disk import SimDisk
from amqpbroker.testing.trace import Trace
from amqpbroker.testing.world import Simulation, simulate
from amqpbroker.world import Disk, File, real_world
from amqpbroker.world.files import SystemDisk
from amqpbroker.world.syncer import Syncer

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's special files")


class TestSimDisk(DiskContract):
    @pytest.fixture
    def disk(self, autojump_clock: trio.testing.MockClock) -> Disk:
        disk = SimDisk(random.Random(1), Trace())
        disk.make_folder("/data")
        return disk

    @pytest.fixture
    def folder(self, disk: Disk) -> str:
        return "/data"

    def file_that_fails_to_sync(self, disk: Disk, folder: str) -> File:
        assert isinstance(disk, SimDisk)
        file = disk.open(f"{folder}/ill", create=True)
        disk.fail_at(disk.calls + 1, errno.EIO)
        return file

    def folder_that_fails_to_sync(self, disk: Disk, folder: str) -> str:
        assert isinstance(disk, SimDisk)
        disk.make_folder(f"{folder}/ill")
        disk.fail_at(disk.calls + 1, errno.EIO)
        return f"{folder}/ill"


class TestSystemDisk(DiskContract):
    @pytest.fixture
    def disk(self) -> Disk:
        return real_world().disk

    @pytest.fixture
    def folder(self, tmp_path: Path) -> str:
        return str(tmp_path)

    def file_that_fails_to_sync(self, disk: Disk, folder: str) -> File:
        return disk.open("/dev/null")  # Nothing there can be made to last: EINVAL.

    def folder_that_fails_to_sync(self, disk: Disk, folder: str) -> str:
        if sys.platform != "linux":
            pytest.skip("needs a folder that cannot be synced")
        return "/proc"

    @linux_only
    def test_a_full_disk_takes_nothing(self, disk: Disk) -> None:
        file = disk.open("/dev/full")
        with pytest.raises(OSError) as full:
            file.append(b"one")
        assert full.value.errno == errno.ENOSPC
        assert file.size_bytes == 0
        file.close()

    def test_what_is_made_is_for_its_owner_alone(self, disk: Disk, tmp_path: Path) -> None:
        disk.make_folder(f"{tmp_path}/b")
        disk.open(f"{tmp_path}/b/a", create=True).close()
        assert (tmp_path / "b").stat().st_mode & 0o077 == 0
        assert (tmp_path / "b" / "a").stat().st_mode & 0o077 == 0

    def test_the_last_descriptor_of_a_large_file_is_closed_elsewhere(self, folder: str) -> None:
        closed = []

        class NotedSyncer(Syncer):
            def close_elsewhere(self, descriptor: int) -> None:
                closed.append(os.fstat(descriptor).st_nlink)
                os.close(descriptor)

        disk = SystemDisk(NotedSyncer())

        def make(name: str, size_bytes: int) -> File:
            file = disk.open(f"{folder}/{name}", create=True)
            file.append(bytes(size_bytes))
            return file

        make("small", 1000).close()
        make("large", 1 << 20).close()
        disk.remove(f"{folder}/small")
        assert closed == []
        disk.remove(f"{folder}/large")
        assert closed == [0]
        make("replaced", 1 << 20).close()
        make("new", 1000).close()
        disk.rename(f"{folder}/new", f"{folder}/replaced")
        assert closed == [0, 0]
        file = make("open", 1 << 20)
        disk.remove(f"{folder}/open")
        assert closed == [0, 0, 0]
        file.close()
        assert closed == [0, 0, 0, 0]

    def test_a_lock_ends_with_its_process(self, disk: Disk, tmp_path: Path) -> None:
        script = (
            "import sys; from amqpbroker.world import real_world;"
            "real_world().disk.open(sys.argv[1], create=True).lock();"
            "print('locked', flush=True); sys.stdin.read()"
        )
        path = f"{tmp_path}/lock"
        with subprocess.Popen(
            [sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"locked\n"
            file = disk.open(path)
            with pytest.raises(BlockingIOError):
                file.lock()
            other.kill()
        file.lock()
        file.close()


def test_the_simulated_world_has_a_disk() -> None:
    async def scenario(sim: Simulation) -> None:
        assert sim.world.disk is sim.disk
        sim.world.disk.open("/a", create=True)
        assert sim.disk.names("/") == ["a"]

    simulate(1, scenario)

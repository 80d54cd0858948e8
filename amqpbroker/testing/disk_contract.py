"""What every `Disk` keeps."""

import errno
from abc import ABC, abstractmethod

import pytest
import trio
import trio.testing

from amqpbroker.world import Disk, File


class DiskContract(ABC):
    """The promises of `Disk` and `File`, as tests.

    A subclass has the fixtures ``disk`` and ``folder``, the path of an empty folder of that disk.
    """

    @abstractmethod
    def file_that_fails_to_sync(self, disk: Disk, folder: str) -> File:
        """An open file whose next sync fails."""

    @abstractmethod
    def folder_that_fails_to_sync(self, disk: Disk, folder: str) -> str:
        """The path of a folder whose next sync fails."""

    def test_a_file_is_made_only_when_asked(self, disk: Disk, folder: str) -> None:
        with pytest.raises(FileNotFoundError):
            disk.open(f"{folder}/a")
        assert disk.names(folder) == []
        disk.open(f"{folder}/a", create=True).close()
        assert disk.names(folder) == ["a"]
        file = disk.open(f"{folder}/a")
        assert file.size_bytes == 0
        file.close()

    def test_a_file_opened_again_holds_what_it_held(self, disk: Disk, folder: str) -> None:
        file = disk.open(f"{folder}/a", create=True)
        file.append(b"one")
        file.close()
        file = disk.open(f"{folder}/a", create=True)
        file.append(b"two")
        assert file.size_bytes == 6
        assert file.read(0, 100) == b"onetwo"
        file.close()

    def test_a_file_is_not_made_in_a_folder_that_is_not(self, disk: Disk, folder: str) -> None:
        with pytest.raises(FileNotFoundError):
            disk.open(f"{folder}/b/a", create=True)

    def test_a_folder_is_not_opened_as_a_file(self, disk: Disk, folder: str) -> None:
        with pytest.raises(IsADirectoryError):
            disk.open(folder)
        with pytest.raises(IsADirectoryError):
            disk.open(folder, read_only=True)

    async def test_a_file_that_is_only_read_is_not_changed(self, disk: Disk, folder: str) -> None:
        with pytest.raises(FileNotFoundError):
            disk.open(f"{folder}/a", read_only=True)
        file = disk.open(f"{folder}/a", create=True)
        file.append(b"one")
        only_read = disk.open(f"{folder}/a", read_only=True)
        assert only_read.size_bytes == 3
        assert only_read.read(1, 100) == b"ne"
        with pytest.raises(OSError) as refused:
            only_read.append(b"two")
        assert refused.value.errno == errno.EBADF
        with pytest.raises(OSError) as refused:
            only_read.truncate(0)
        assert refused.value.errno == errno.EBADF
        with pytest.raises(OSError) as refused:
            await only_read.sync()
        assert refused.value.errno == errno.EBADF
        only_read.lock()
        with pytest.raises(BlockingIOError):
            file.lock()
        only_read.close()
        assert file.read(0, 100) == b"one"
        file.close()

    def test_a_read_is_short_only_where_the_file_ends(self, disk: Disk, folder: str) -> None:
        file = disk.open(f"{folder}/a", create=True)
        file.append(b"0123456789")
        assert file.read(0, 4) == b"0123"
        assert file.read(7, 4) == b"789"
        assert file.read(10, 4) == b""
        assert file.read(99, 4) == b""
        file.close()

    def test_any_kind_of_octets_is_appended_as_it_is_now(self, disk: Disk, folder: str) -> None:
        file = disk.open(f"{folder}/a", create=True)
        octets = bytearray(b"abcdef")
        file.append(octets)
        file.append(memoryview(octets)[1:3])
        file.append(b"")
        octets[:] = b"......"
        assert file.read(0, 100) == b"abcdefbc"
        file.close()

    def test_a_file_that_was_cut_goes_on_from_there(self, disk: Disk, folder: str) -> None:
        file = disk.open(f"{folder}/a", create=True)
        file.append(b"0123456789")
        file.truncate(3)
        assert file.size_bytes == 3
        assert file.read(0, 100) == b"012"
        file.append(b"x")
        assert file.read(0, 100) == b"012x"
        with pytest.raises(AssertionError):
            file.truncate(5)
        file.close()

    async def test_a_sync_changes_nothing_that_is_seen(self, disk: Disk, folder: str) -> None:
        file = disk.open(f"{folder}/a", create=True)
        await file.sync()
        file.append(b"one")
        await file.sync()
        await file.sync()
        assert file.read(0, 100) == b"one"
        file.close()

    async def test_appends_are_taken_while_a_sync_runs(self, disk: Disk, folder: str) -> None:
        file = disk.open(f"{folder}/a", create=True)
        file.append(b"one")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(file.sync)
            await trio.testing.wait_all_tasks_blocked()
            file.append(b"two")
        assert file.read(0, 100) == b"onetwo"
        file.close()

    async def test_a_sync_cancelled_before_it_began_does_no_harm(
        self, disk: Disk, folder: str
    ) -> None:
        file = disk.open(f"{folder}/a", create=True)
        with trio.CancelScope() as scope:
            scope.cancel()
            await file.sync()
        assert scope.cancelled_caught
        with trio.CancelScope() as scope:
            scope.cancel()
            await disk.sync_folder(folder)
        assert scope.cancelled_caught
        file.append(b"one")
        await file.sync()
        await disk.sync_folder(folder)
        file.close()

    async def test_a_sync_that_has_begun_is_not_cancelled(self, disk: Disk, folder: str) -> None:
        file = disk.open(f"{folder}/a", create=True)
        file.append(b"one")
        returned = trio.Event()

        async def sync() -> None:
            await file.sync()
            returned.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sync)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert returned.is_set()
        file.close()

    async def test_files_are_synced_several_at_a_time(self, disk: Disk, folder: str) -> None:
        files = [disk.open(f"{folder}/{name}", create=True) for name in range(20)]
        async with trio.open_nursery() as nursery:
            for file in files:
                file.append(b"one")
                nursery.start_soon(file.sync)
            nursery.start_soon(disk.sync_folder, folder)
        for file in files:
            assert file.read(0, 100) == b"one"
            file.close()

    async def test_one_failed_sync_is_not_that_of_another_file(
        self, disk: Disk, folder: str
    ) -> None:
        broken = self.file_that_fails_to_sync(disk, folder)
        with pytest.raises(OSError):
            await broken.sync()
        file = disk.open(f"{folder}/a", create=True)
        file.append(b"one")
        await file.sync()
        file.close()
        broken.close()

    async def test_after_a_failed_sync_a_file_takes_nothing_more(
        self, disk: Disk, folder: str
    ) -> None:
        file = self.file_that_fails_to_sync(disk, folder)
        with pytest.raises(OSError):
            await file.sync()
        with pytest.raises(OSError) as refused:
            await file.sync()
        assert refused.value.errno == errno.EIO
        with pytest.raises(OSError) as refused:
            file.append(b"one")
        assert refused.value.errno == errno.EIO
        with pytest.raises(OSError) as refused:
            file.truncate(0)
        assert refused.value.errno == errno.EIO
        assert file.read(0, 100) == b""
        file.close()

    async def test_a_failed_sync_of_a_folder_is_not_retried(self, disk: Disk, folder: str) -> None:
        broken = self.folder_that_fails_to_sync(disk, folder)
        with pytest.raises(OSError):
            await disk.sync_folder(broken)
        with pytest.raises(OSError) as refused:
            await disk.sync_folder(broken)
        assert refused.value.errno == errno.EIO
        if broken != folder:
            await disk.sync_folder(folder)

    async def test_a_closed_file_is_of_no_use(self, disk: Disk, folder: str) -> None:
        file = disk.open(f"{folder}/a", create=True)
        file.close()
        file.close()
        for act in (
            lambda: file.size_bytes,
            lambda: file.append(b"one"),
            lambda: file.read(0, 1),
            lambda: file.truncate(0),
            lambda: file.lock(),
        ):
            with pytest.raises(OSError) as closed:
                act()
            assert closed.value.errno == errno.EBADF
        with pytest.raises(OSError) as closed:
            await file.sync()
        assert closed.value.errno == errno.EBADF

    def test_names_are_sorted(self, disk: Disk, folder: str) -> None:
        disk.make_folder(f"{folder}/b")
        for name in ("c", "a", "b/x"):
            disk.open(f"{folder}/{name}", create=True).close()
        assert disk.names(folder) == ["a", "b", "c"]
        assert disk.names(f"{folder}/b") == ["x"]
        assert disk.names(f"{folder}/b/") == ["x"]

    def test_names_are_those_of_a_folder(self, disk: Disk, folder: str) -> None:
        disk.open(f"{folder}/a", create=True).close()
        with pytest.raises(FileNotFoundError):
            disk.names(f"{folder}/b")
        with pytest.raises(NotADirectoryError):
            disk.names(f"{folder}/a")

    def test_making_a_folder_again_does_no_harm(self, disk: Disk, folder: str) -> None:
        disk.make_folder(f"{folder}/b")
        disk.open(f"{folder}/b/a", create=True).close()
        disk.make_folder(f"{folder}/b")
        assert disk.names(f"{folder}/b") == ["a"]

    def test_a_folder_needs_a_free_place_in_a_folder(self, disk: Disk, folder: str) -> None:
        disk.open(f"{folder}/a", create=True).close()
        with pytest.raises(FileExistsError):
            disk.make_folder(f"{folder}/a")
        with pytest.raises(FileNotFoundError):
            disk.make_folder(f"{folder}/b/c")
        with pytest.raises(NotADirectoryError):
            disk.make_folder(f"{folder}/a/c")

    def test_a_rename_replaces_what_had_the_name(self, disk: Disk, folder: str) -> None:
        for name in ("new", "state"):
            file = disk.open(f"{folder}/{name}", create=True)
            file.append(name.encode())
            file.close()
        disk.rename(f"{folder}/new", f"{folder}/state")
        assert disk.names(folder) == ["state"]
        file = disk.open(f"{folder}/state")
        assert file.read(0, 100) == b"new"
        file.close()

    def test_an_open_file_outlives_its_name(self, disk: Disk, folder: str) -> None:
        file = disk.open(f"{folder}/a", create=True)
        disk.rename(f"{folder}/a", f"{folder}/b")
        file.append(b"one")
        disk.remove(f"{folder}/b")
        file.append(b"two")
        assert disk.names(folder) == []
        assert file.read(0, 100) == b"onetwo"
        file.close()

    async def test_a_large_file_outlives_its_name_too(self, disk: Disk, folder: str) -> None:
        octets = bytes(range(256)) * (2 << 12)
        file = disk.open(f"{folder}/a", create=True)
        file.append(octets)
        disk.open(f"{folder}/new", create=True).close()
        disk.rename(f"{folder}/new", f"{folder}/a")
        assert disk.names(folder) == ["a"]
        assert file.read(0, len(octets)) == octets
        file.append(b"one")
        await file.sync()
        assert file.read(len(octets), 100) == b"one"
        file.close()

    def test_a_large_file_without_a_name_is_unlocked_when_it_is_closed(
        self, disk: Disk, folder: str
    ) -> None:
        first = disk.open(f"{folder}/a", create=True)
        first.append(bytes(2 << 20))
        second = disk.open(f"{folder}/a")
        first.lock()
        disk.remove(f"{folder}/a")
        assert disk.names(folder) == []
        first.close()
        second.lock()
        second.close()

    def test_what_is_not_there_is_neither_renamed_nor_removed(
        self, disk: Disk, folder: str
    ) -> None:
        with pytest.raises(FileNotFoundError):
            disk.rename(f"{folder}/a", f"{folder}/b")
        with pytest.raises(FileNotFoundError):
            disk.remove(f"{folder}/a")

    def test_a_file_does_not_take_the_place_of_a_folder(self, disk: Disk, folder: str) -> None:
        disk.make_folder(f"{folder}/b")
        disk.open(f"{folder}/a", create=True).close()
        with pytest.raises(IsADirectoryError):
            disk.rename(f"{folder}/a", f"{folder}/b")

    def test_only_an_empty_folder_is_removed(self, disk: Disk, folder: str) -> None:
        disk.make_folder(f"{folder}/b")
        disk.open(f"{folder}/b/a", create=True).close()
        with pytest.raises(OSError) as full:
            disk.remove(f"{folder}/b")
        assert full.value.errno == errno.ENOTEMPTY
        disk.remove(f"{folder}/b/a")
        disk.remove(f"{folder}/b")
        assert disk.names(folder) == []

    async def test_only_a_folder_that_is_there_is_synced(self, disk: Disk, folder: str) -> None:
        with pytest.raises(FileNotFoundError):
            await disk.sync_folder(f"{folder}/b")
        disk.make_folder(f"{folder}/b")
        await disk.sync_folder(f"{folder}/b")
        await disk.sync_folder(folder)

    async def test_a_folder_may_be_synced_by_many_at_a_time(self, disk: Disk, folder: str) -> None:
        async with trio.open_nursery() as nursery:
            for name in ("a", "b", "c"):
                disk.open(f"{folder}/{name}", create=True).close()
                nursery.start_soon(disk.sync_folder, folder)
        assert disk.names(folder) == ["a", "b", "c"]

    def test_there_is_room_to_write(self, disk: Disk, folder: str) -> None:
        assert disk.free_bytes(folder) > 0
        with pytest.raises(FileNotFoundError):
            disk.free_bytes(f"{folder}/b")

    def test_a_lock_has_one_holder_until_it_closes(self, disk: Disk, folder: str) -> None:
        first = disk.open(f"{folder}/lock", create=True)
        second = disk.open(f"{folder}/lock", create=True)
        first.lock()
        first.lock()
        with pytest.raises(BlockingIOError):
            second.lock()
        second.close()
        second = disk.open(f"{folder}/lock")
        with pytest.raises(BlockingIOError):
            second.lock()
        first.close()
        second.lock()
        second.close()

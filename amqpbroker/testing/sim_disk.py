"""A disk in memory that loses what a real one may lose.

Every file and folder is there twice: as programs see it, and as it would be found if the power
failed now, with the changes that lie between. A sync carries over the changes made before it began.
A crash carries over what the seed decides: of a file, the changes up to some point, be it in the
midst of one; of a folder, any of the changes, for no order is promised among names.

After a sync that failed, nothing more of that file or folder reaches the disk before the next
crash, whatever later syncs say, through whatever `File`: so do systems behave that drop what they
could not write and call it clean.
"""

import errno
import os
import random
import zlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar, Union

import trio

from amqpbroker.testing.trace import Trace
from amqpbroker.world import Disk, File

State = TypeVar("State")
Change = TypeVar("Change")


class SimCrash(BaseException):
    """The simulated machine went down, or has been down since this file was opened.

    Like the power that fails, it heeds no ``except Exception``.
    """


class _Stored(ABC, Generic[State, Change]):
    """Something on the disk: as it is ``seen``, as it is ``kept``, and the changes between."""

    def __init__(self, empty: Callable[[], State]) -> None:
        self.seen = empty()
        self.kept = empty()
        self.unsynced: deque[Change] = deque()
        self.changes = 0
        self.sync_failed = False

    @abstractmethod
    def apply(self, state: State, change: Change) -> None:
        """Make the change in ``state``."""

    def change(self, change: Change) -> None:
        """Make a change that a crash may undo."""
        self.apply(self.seen, change)
        self.unsynced.append(change)
        self.changes += 1

    def keep(self, changes: int) -> None:
        """Bring the first ``changes`` of all that were ever made to the disk."""
        while self.changes - len(self.unsynced) < changes and not self.sync_failed:
            self.apply(self.kept, self.unsynced.popleft())


class _Content(_Stored[bytearray, bytes | int]):
    """The content of a file; a change is what was appended, or the size to which it was cut."""

    def __init__(self) -> None:
        super().__init__(bytearray)
        self.locked_by: SimFile | None = None

    def apply(self, state: bytearray, change: bytes | int) -> None:
        if isinstance(change, int):
            del state[change:]
        else:
            state += change

    def lose_power(self, rng: random.Random) -> None:
        for _ in range(rng.randint(0, len(self.unsynced))):
            self.apply(self.kept, self.unsynced.popleft())
        if self.unsynced:
            torn = self.unsynced[0]
            if isinstance(torn, bytes):
                self.kept += torn[: rng.randint(0, len(torn))]
        self.unsynced.clear()
        self.seen = self.kept[:]
        self.sync_failed = False


_Node = Union[_Content, "_Folder"]
_Names = dict[str, _Node]


class _Folder(_Stored[_Names, tuple[str | None, _Node]]):
    """The names in a folder; a change is a name, or none, that something has from now on."""

    def __init__(self) -> None:
        super().__init__(dict)

    def apply(self, state: _Names, change: tuple[str | None, _Node]) -> None:
        name, node = change
        for former in [name for name, other in state.items() if other is node]:
            del state[former]
        if name is not None:
            state[name] = node

    def lose_power(self, rng: random.Random) -> None:
        for change in self.unsynced:
            if rng.random() < 0.5:
                self.apply(self.kept, change)
        self.unsynced.clear()
        self.seen = dict(self.kept)
        self.sync_failed = False
        for node in self.seen.values():
            node.lose_power(rng)


class SimFile(File):
    """A file of a `SimDisk`; it dies with the crash or the restart of its disk."""

    def __init__(self, disk: "SimDisk", path: str, content: _Content, read_only: bool) -> None:
        self.path = path
        self._disk = disk
        self._content = content
        self._read_only = read_only
        self._starts = disk.starts
        self._closed = False
        self._syncing = False
        self._sync_failed = False

    @property
    def alive(self) -> bool:
        """Whether its disk has neither crashed nor been restarted since."""
        return not self._disk.down and self._starts == self._disk.starts

    @property
    def size_bytes(self) -> int:
        self._check()
        return len(self._content.seen)

    def _check(self) -> None:
        if not self.alive:
            raise SimCrash(self.path)
        if self._closed:
            raise _error(errno.EBADF, self.path)

    def _check_trusted(self) -> None:
        self._check()
        if self._read_only:
            raise _error(errno.EBADF, self.path)
        if self._sync_failed:
            raise _error(errno.EIO, self.path)

    def append(self, data: bytes | bytearray | memoryview) -> None:
        self._check_trusted()
        octets = bytes(data)
        with self._disk.call("append", self.path, len(octets), zlib.crc32(octets)) as fault:
            taken = self._disk.room_bytes(len(octets), fault is not None)
            self._content.change(octets[:taken])
            if fault is not None:
                raise fault
            if taken < len(octets):
                raise _error(errno.ENOSPC, self.path)

    def read(self, offset: int, bytes_max: int) -> bytes:
        self._check()
        with self._disk.sure_call("read", self.path, offset, bytes_max):
            return bytes(self._content.seen[offset : offset + bytes_max])

    def truncate(self, size_bytes: int) -> None:
        self._check_trusted()
        assert 0 <= size_bytes <= self.size_bytes, (size_bytes, self.size_bytes)
        with self._disk.sure_call("truncate", self.path, size_bytes):
            self._content.change(size_bytes)

    async def sync(self) -> None:
        self._check_trusted()
        assert not self._syncing, self.path
        await trio.lowlevel.checkpoint_if_cancelled()
        self._syncing = True
        try:
            await self._disk.sync(self._content, "sync", self.path)
        except OSError:
            self._sync_failed = True
            raise
        finally:
            self._syncing = False

    def lock(self) -> None:
        self._check()
        with self._disk.sure_call("lock", self.path):
            holder = self._content.locked_by
            if holder not in (None, self) and holder.alive:
                raise _error(errno.EWOULDBLOCK, self.path)
            self._content.locked_by = self

    def close(self) -> None:
        assert not (self._syncing and self.alive), self.path
        self._closed = True
        if self._content.locked_by is self:
            self._content.locked_by = None


class SimDisk(Disk):
    """A disk of one simulated machine, with power that fails and calls that fail, by number.

    Calls are those of `Disk` and `File` that reach for the disk: all but `File.close` and
    `File.size_bytes`. They are counted from 1, over crashes and restarts.
    """

    def __init__(self, rng: random.Random, trace: Trace) -> None:
        self.sync_s_max = 0.01
        self.capacity_bytes = 1 << 40
        self.calls = 0
        self.starts = 0
        self.down = False
        self.on_crash: Callable[[], None] = lambda: None
        """Called when the power has failed."""
        self._random = rng
        self._trace = trace
        self._root = _Folder()
        self._faults: dict[int, int] = {}
        self._crash_at: int | None = None

    def fail_at(self, call: int, error: int) -> None:
        """Let a call to come raise `OSError` with the errno ``error``.

        An append has then added a part; a sync has failed for good; the others did nothing.
        """
        assert call > self.calls, (call, self.calls)
        self._faults[call] = error

    def crash_at(self, call: int | None) -> None:
        """Let the machine go down in the midst of a call to come, which raises `SimCrash`.

        None: of none.
        """
        assert call is None or call > self.calls, (call, self.calls)
        self._crash_at = call

    def crash(self) -> None:
        """Let the power fail: what was not synced is lost, or a part of it.

        Until `restart`, whoever uses the disk gets `SimCrash`; whoever waits for a sync, too.
        """
        if self.down:
            return
        self.down = True
        self._crash_at = None
        self._root.lose_power(self._random)
        self._trace.note("disk", "crash", self.calls, sorted(_found(self._root)))
        self.on_crash()

    def restart(self) -> None:
        """Start the machine after a crash, or else only the process, which loses nothing.

        The files of before are of no use any more, and their locks are gone.
        """
        self.starts += 1
        self.down = False

    @contextmanager
    def call(self, what: str, path: str, *details: float | str) -> Iterator[OSError | None]:
        """Count and note a call; the error with which it is to fail.

        The power fails, if it is to, when the call has done its work.
        """
        if self.down:
            raise SimCrash(path)
        self.calls += 1
        number = self.calls
        self._trace.note("disk", number, what, path, *details)
        fault = self._faults.pop(number, None)
        try:
            yield None if fault is None else _error(fault, path)
        finally:
            if number == self._crash_at:
                self.crash()
                raise SimCrash(path)

    @contextmanager
    def sure_call(self, what: str, path: str, *details: float | str) -> Iterator[None]:
        """Such a call that does nothing when it is to fail."""
        with self.call(what, path, *details) as fault:
            if fault is not None:
                raise fault
            yield

    async def sync(self, stored: _Content | _Folder, what: str, path: str) -> None:
        """Bring to the disk, some time later, what has been changed until now."""
        starts = self.starts
        changes = stored.changes
        delay_s = self._random.random() * self.sync_s_max
        with self.call(what, path, delay_s) as fault:
            with trio.CancelScope(shield=True):
                await trio.sleep(delay_s)
            if self.down or starts != self.starts:
                raise SimCrash(path)
            if fault is not None:
                stored.sync_failed = True
                raise fault
        stored.keep(changes)

    def room_bytes(self, wanted: int, failing: bool) -> int:
        """How much of an append the disk takes."""
        if failing:
            wanted = self._random.randint(0, max(0, wanted - 1))
        return min(wanted, self._free_bytes())

    def _free_bytes(self) -> int:
        return max(0, self.capacity_bytes - _used_bytes(self._root))

    def open(self, path: str, create: bool = False, read_only: bool = False) -> File:
        with self.sure_call("open", path, create):
            folder, name = self._place(path)
            node = folder.seen.get(name)
            if node is None and create:
                node = _Content()
                folder.change((name, node))
            return SimFile(self, path, _file(node, path), read_only)

    def make_folder(self, path: str) -> None:
        with self.sure_call("make folder", path):
            folder, name = self._place(path)
            node = folder.seen.get(name)
            if node is None:
                folder.change((name, _Folder()))
            elif isinstance(node, _Content):
                raise _error(errno.EEXIST, path)

    def names(self, path: str) -> list[str]:
        with self.sure_call("names", path):
            return sorted(self._folder(path).seen)

    def rename(self, old: str, new: str) -> None:
        with self.sure_call("rename", old, new):
            folder, old_name = self._place(old)
            new_folder, new_name = self._place(new)
            assert folder is new_folder, (old, new)
            node = folder.seen.get(old_name)
            if not isinstance(node, _Folder) or new_name in folder.seen:
                node = _file(node, old)
            if new_name in folder.seen:
                _file(folder.seen[new_name], new)
            folder.change((new_name, node))

    def remove(self, path: str) -> None:
        with self.sure_call("remove", path):
            folder, name = self._place(path)
            node = folder.seen.get(name)
            if node is None:
                raise _error(errno.ENOENT, path)
            if isinstance(node, _Folder) and node.seen:
                raise _error(errno.ENOTEMPTY, path)
            folder.change((None, node))

    async def sync_folder(self, path: str) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.down:
            raise SimCrash(path)
        folder = self._folder(path)
        if folder.sync_failed:
            raise _error(errno.EIO, path)
        await self.sync(folder, "sync folder", path)

    def free_bytes(self, path: str) -> int:
        with self.sure_call("free bytes", path):
            self._folder(path)
            return self._free_bytes()

    def _folder(self, path: str) -> _Folder:
        node: _Node = self._root
        for name in _parts(path):
            if isinstance(node, _Content):
                raise _error(errno.ENOTDIR, path)
            if name not in node.seen:
                raise _error(errno.ENOENT, path)
            node = node.seen[name]
        if isinstance(node, _Content):
            raise _error(errno.ENOTDIR, path)
        return node

    def _place(self, path: str) -> tuple[_Folder, str]:
        *above, name = _parts(path)
        return self._folder("/".join(above)), name


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _error(code: int, path: str) -> OSError:
    return OSError(code, os.strerror(code), path)


def _file(node: _Node | None, path: str) -> _Content:
    if node is None:
        raise _error(errno.ENOENT, path)
    if isinstance(node, _Folder):
        raise _error(errno.EISDIR, path)
    return node


def _found(folder: _Folder, path: str = "") -> Iterator[tuple[str, int, int]]:
    """Path, size and checksum of everything in a folder."""
    for name, node in folder.seen.items():
        if isinstance(node, _Content):
            yield f"{path}/{name}", len(node.seen), zlib.crc32(node.seen)
        else:
            yield f"{path}/{name}/", 0, 0
            yield from _found(node, f"{path}/{name}")


def _used_bytes(folder: _Folder) -> int:
    return sum(
        len(node.seen) if isinstance(node, _Content) else _used_bytes(node)
        for node in folder.seen.values()
    )

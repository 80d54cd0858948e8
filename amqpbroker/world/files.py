"""The disk as it is: plain system calls, but for those that wait for it."""

import errno
import fcntl
import os
import posixpath
import stat
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from amqpbroker.world.contracts import Disk, File
from amqpbroker.world.syncer import Syncer

_UNKNOWN_BYTES = 1 << 60
_LARGE_BYTES = 1 << 20
"""To free a file of this size takes a fifth of a millisecond; of 64 MiB, 12 ms.

What `File.truncate` cuts off is not freed elsewhere: it is a batch or a chunk that did not fit on a
full disk, or what a crash has left of a batch, seldom more than this.
"""


def _refusal(path: str) -> OSError:
    return OSError(errno.EIO, "refused, for an earlier sync has failed", path)


class _SystemFile(File):
    """A file by its descriptor."""

    def __init__(self, path: str, create: bool, read_only: bool, syncer: Syncer) -> None:
        self.path = path
        self._syncer = syncer
        self._read_only = read_only
        flags = os.O_RDONLY if read_only else os.O_RDWR | os.O_APPEND
        flags |= os.O_CLOEXEC | (os.O_CREAT if create else 0)
        self._descriptor = os.open(path, flags, 0o600)
        state = os.fstat(self._descriptor)
        if stat.S_ISDIR(state.st_mode):  # To read it is no error at once.
            os.close(self._descriptor)
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        self._size_bytes = state.st_size
        self._syncing = False
        self._sync_failed = False

    @property
    def size_bytes(self) -> int:
        self._check()
        return self._size_bytes

    def _check(self) -> None:
        if self._descriptor == -1:
            raise OSError(errno.EBADF, "the file is closed", self.path)

    def _check_trusted(self) -> None:
        self._check()
        if self._read_only:
            raise OSError(errno.EBADF, "the file is only read", self.path)
        if self._sync_failed:
            raise _refusal(self.path)

    def append(self, data: bytes | bytearray | memoryview) -> None:
        self._check_trusted()
        rest = memoryview(data)
        while rest:
            written = os.write(self._descriptor, rest)
            self._size_bytes += written
            rest = rest[written:]

    def read(self, offset: int, bytes_max: int) -> bytes:
        self._check()
        data = os.pread(self._descriptor, bytes_max, offset)
        while len(data) < min(bytes_max, self._size_bytes - offset):
            more = os.pread(self._descriptor, bytes_max - len(data), offset + len(data))
            if not more:
                break  # Somebody else has cut the file.
            data += more
        return data

    def truncate(self, size_bytes: int) -> None:
        self._check_trusted()
        assert 0 <= size_bytes <= self._size_bytes, (size_bytes, self._size_bytes)
        os.ftruncate(self._descriptor, size_bytes)
        self._size_bytes = size_bytes

    async def sync(self) -> None:
        self._check_trusted()
        # Linux tells a failure once per descriptor: of two syncs at a time, one would hear nothing.
        assert not self._syncing, self.path
        await trio.lowlevel.checkpoint_if_cancelled()
        self._syncing = True
        try:
            await self._syncer.sync_content(self._descriptor)
        except BaseException:
            self._sync_failed = True
            raise
        finally:
            self._syncing = False

    def lock(self) -> None:
        self._check()
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def close(self) -> None:
        assert not self._syncing, self.path
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor == -1:
            return
        if self._size_bytes >= _LARGE_BYTES and os.fstat(descriptor).st_nlink == 0:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            self._syncer.close_elsewhere(descriptor)
        else:
            os.close(descriptor)


class SystemDisk(Disk):
    """The file systems of this machine; what is made is for its owner alone."""

    def __init__(self, syncer: Syncer | None = None) -> None:
        self._syncer = syncer or Syncer()
        self._folders_failed: set[tuple[int, int]] = set()

    def open(self, path: str, create: bool = False, read_only: bool = False) -> File:
        return _SystemFile(path, create, read_only, self._syncer)

    def make_folder(self, path: str) -> None:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if not os.path.isdir(path):
                raise

    def names(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def rename(self, old: str, new: str) -> None:
        assert posixpath.dirname(old) == posixpath.dirname(new), (old, new)
        with self._freed_elsewhere(new):
            os.replace(old, new)

    def remove(self, path: str) -> None:
        if os.path.isdir(path):
            os.rmdir(path)
        else:
            with self._freed_elsewhere(path):
                os.unlink(path)

    @contextmanager
    def _freed_elsewhere(self, path: str) -> Iterator[None]:
        """Keep the last descriptor of a large file that loses its name, and close it elsewhere."""
        descriptor = None
        try:
            state = os.lstat(path)
            if stat.S_ISREG(state.st_mode) and state.st_size >= _LARGE_BYTES:
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            pass  # It is not there, or there is no descriptor left: freed here, it is as well.
        try:
            yield
        finally:
            if descriptor is not None:
                self._syncer.close_elsewhere(descriptor)

    async def sync_folder(self, path: str) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            state = os.fstat(descriptor)
            folder = state.st_dev, state.st_ino
            if folder in self._folders_failed:
                raise _refusal(path)
            try:
                await self._syncer.sync_names(descriptor)
            except BaseException:
                self._folders_failed.add(folder)
                raise
        finally:
            os.close(descriptor)

    def free_bytes(self, path: str) -> int:
        state = os.statvfs(path)
        if not state.f_blocks:
            return _UNKNOWN_BYTES  # Some network file systems do not say.
        return state.f_bavail * state.f_frsize

"""The data directory of a node: who it belongs to, its write-ahead log, its queues' segments.

DIR/node.json     whose it is, and in which format
DIR/lock          locked while a node runs on it
DIR/wal/          the write-ahead log
DIR/queues/ID/    segments of the log with that id
"""

import json
import posixpath
from collections.abc import Callable
from weakref import WeakSet

import attrs

from amqpbroker.errors import DataError
from amqpbroker.storage.disk_log import DiskLog, LogState, Waiting
from amqpbroker.storage.faults import Damage, must_work
from amqpbroker.storage.format import FORMAT_VERSION, FormatError
from amqpbroker.storage.recovery import Kept, Recovered, recover
from amqpbroker.storage.segments import (
    Segments,
    remove_folder,
    segment_numbers,
    segment_path,
    stored_chunks,
)
from amqpbroker.storage.wal import Wal
from amqpbroker.world import Disk, File

WAITING_BYTES_MAX = 64 * 1024 * 1024
"""Messages that wait in memory, over all queues; what is beyond waits in segments."""


class Store:
    """The data directory ``folder``, which `open` has made ready for ``name``.

    ``damages`` is what was found to be wrong in it, at the start or since.
    """

    def __init__(
        self,
        disk: Disk,
        folder: str,
        lock: File,
        recovered: Recovered,
        newest_log_id: int,
        waiting_bytes_max: int,
        salt: int,
    ) -> None:
        self.damages: list[Damage] = recovered.damages
        self.definitions: list[bytes] = recovered.definitions
        """Lines that change definitions, as they were kept, in order."""
        self.wal = Wal(
            disk, f"{folder}/wal", recovered.number + 1, recovered.batch, recovered.paths, salt
        )
        self._disk = disk
        self._folder = folder
        self._lock = lock
        self._recovered = recovered
        self._waiting = Waiting(waiting_bytes_max, self.damages)
        self._transient_count = 0
        self._is_starting = True
        self._logs: WeakSet[DiskLog] = WeakSet()
        self.newest_log_id = newest_log_id
        """No log that has left a trace has a higher id."""

    @classmethod
    async def open(
        cls,
        disk: Disk,
        folder: str,
        name: str,
        waiting_bytes_max: int = WAITING_BYTES_MAX,
        salt: int = 0,
    ) -> "Store":
        """Open the data directory of the node ``name``, or make one.

        ``salt`` is a number of 32 bits that nobody can guess (see `Wal`).
        Raises `DataError` if it is not to be used: it says why, and what to do.
        """
        try:
            await _make_folders(disk, folder)
            lock = _lock(disk, folder)
            try:
                await _check_owner(disk, folder, name)
                recovered = recover(disk, f"{folder}/wal")
                if recovered.batch > 1 and not recovered.knows_definitions:
                    at = recovered.damages[0] if recovered.damages else folder
                    raise DataError(
                        f"the definitions in {folder} are lost ({at}): restore it from a backup,"
                        " or move it away"
                    )
                if recovered.torn is not None:
                    await _cut(disk, *recovered.torn)
                names = disk.names(f"{folder}/queues")
                ids = recovered.logs.keys() | {int(name) for name in names if name.isdecimal()}
            except BaseException:
                lock.close()
                raise
        except FormatError as error:
            raise DataError(str(error)) from error
        except OSError as error:
            raise DataError(
                f"cannot use the data directory {folder}: {error.strerror or error};"
                " see to its rights and to the disk, or choose another with --data-dir"
            ) from error
        return cls(disk, folder, lock, recovered, max(ids, default=0), waiting_bytes_max, salt)

    @must_work()
    def open_log(self, log_id: int, is_async: bool = False) -> DiskLog:
        """The log with that id, with what was kept of it; a new one, if nothing was.

        ``is_async``: its messages are committed before they are synced. Raises `DiskFailure`.
        """
        kept = self._recovered.logs.pop(log_id, None)
        folder = self._queue_folder(str(log_id))
        numbers = segment_numbers(self._disk, folder) if self._is_starting else []
        if kept is not None and kept.is_unsure:
            self._salvage(log_id, kept, folder, numbers)
        state = LogState(0, 0, 0, []) if kept is None else kept.state(self._recovered.clean)
        needed = {chunk.place.segment for chunk in state.chunks}
        for number in set(numbers) - needed:
            self._disk.remove(segment_path(folder, number))
        segments = Segments(self._disk, folder, max(numbers, default=0), bool(numbers))
        opened = DiskLog(log_id, segments, self._waiting, self.wal, is_async)
        self._logs.add(opened)
        if kept is not None:
            state = self._without_missing(log_id, state, needed - set(numbers), kept)
            opened.epoch = kept.epoch
            opened.recover(state, kept.messages)
            self.wal.adopt(opened)
            opened.damaged_count += len(kept.lost)
        return opened

    def _salvage(self, log_id: int, kept: Kept, folder: str, numbers: list[int]) -> None:
        """Take up all chunks of a log, for it is not known which of them are needed."""
        segments = Segments(self._disk, folder)
        for number in reversed(numbers):
            for place in reversed(stored_chunks(self._disk, folder, number)):
                try:
                    kept.salvage(place, segments.load(place))
                except FormatError as error:
                    damage = Damage(segments.path(place), place.offset, str(error), log_id)
                    self.damages.append(damage)
        segments.close()

    def open_transient_log(self) -> DiskLog:
        """A log whose messages end with the node; on disk are only those that wait for long."""
        self._transient_count += 1
        folder = self._queue_folder(f"transient-{self._transient_count}")
        opened = DiskLog(
            self._transient_count, Segments(self._disk, folder), self._waiting, journal=None
        )
        self._logs.add(opened)
        return opened

    def _without_missing(
        self, log_id: int, state: LogState, missing: set[int], kept: Kept
    ) -> LogState:
        """Where a log stands without the segments that are not there."""
        if not missing:
            return state
        chunks = []
        for chunk in state.chunks:
            if chunk.place.segment in missing:
                gone = chunk.gone or bytes(chunk.count)
                kept.lost.update(chunk.first + at for at, mark in enumerate(gone) if not mark)
            else:
                chunks.append(chunk)
        for number in sorted(missing):
            path = segment_path(self._queue_folder(str(log_id)), number)
            self.damages.append(Damage(path, 0, "the file is not there", log_id))
        return attrs.evolve(state, chunks=chunks)

    @property
    def is_new(self) -> bool:
        """Whether no node has ever run on it."""
        return not self.definitions

    @property
    def is_full(self) -> bool:
        """Whether something waits for room on the disk."""
        return self.wal.is_full or self._waiting.is_full

    def on_work(self, call: Callable[[], None]) -> None:
        """Have ``call`` called when there comes to be work for `work_off`."""
        self._waiting.on_short = call

    async def work_off(self) -> bool:
        """Do what is to be done beside the commits: some milliseconds' work; whether it was any.

        Raises `DiskFailure` or `OSError`.
        """
        for opened in self._waiting.short:
            opened.relieve()
            return True
        if self.wal.has_stale:
            await self.wal.renew()
            return True
        self._waiting.is_full = False
        return False

    @must_work()
    def free_bytes(self) -> int:
        """What can still be written. Raises `DiskFailure`."""
        return self._disk.free_bytes(self._folder)

    @must_work()
    def clear_up(self, known: set[int]) -> None:
        """All ``known`` logs are open; what is on disk of others belongs to nobody any more.

        It stays, though, where there is damage: who knows what has not been read. Raises
        `DiskFailure`.
        """
        self._is_starting = False
        self._recovered.logs.clear()
        if self.damages:
            return
        for name in self._disk.names(f"{self._folder}/queues"):
            if not name.isdecimal() or int(name) not in known:
                remove_folder(self._disk, self._queue_folder(name))

    def _queue_folder(self, name: str) -> str:
        return f"{self._folder}/queues/{name}"

    async def stop(self) -> None:
        """Everything that was told is kept, and where the queues stand. Raises `OSError`."""
        await self.wal.stop()
        self.close()

    def close(self) -> None:
        """Let go of the directory as it is."""
        for opened in self._logs:
            opened.close()
        self.wal.close()
        self._lock.close()


async def _make_folders(disk: Disk, folder: str) -> None:
    """See that all folders are there, those around the data directory too."""
    missing = [folder, f"{folder}/wal", f"{folder}/queues"]
    while (outer := posixpath.dirname(missing[0])) not in ("", "/"):
        missing.insert(0, outer)
    for path in missing:
        disk.make_folder(path)
    for path in missing:
        await disk.sync_folder(posixpath.dirname(path) or ".")


def _lock(disk: Disk, folder: str) -> File:
    lock = disk.open(f"{folder}/lock", create=True)
    try:
        lock.lock()
    except BlockingIOError:
        lock.close()
        raise DataError(
            f"the data directory {folder} is used by a running node: stop that one,"
            " or choose another with --data-dir"
        ) from None
    return lock


async def _cut(disk: Disk, path: str, size_bytes: int) -> None:
    """Take away what a crash has left of a batch: later on it would look like damage."""
    file = disk.open(path)
    file.truncate(size_bytes)
    await file.sync()
    file.close()


async def _check_owner(disk: Disk, folder: str, name: str) -> None:
    """See that the data is this node's, in a format that is known; sign what is new."""
    path = f"{folder}/node.json"
    if "node.json" not in disk.names(folder):
        draft = disk.open(f"{path}.new", create=True)
        draft.truncate(0)
        draft.append(json.dumps({"name": name, "format": FORMAT_VERSION}).encode())
        await draft.sync()
        draft.close()
        disk.rename(f"{path}.new", path)
        await disk.sync_folder(folder)
        return
    file = disk.open(path)
    try:
        owner = json.loads(file.read(0, file.size_bytes))
        there, version = owner["name"], owner["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read: {error}; restore it, or move {folder} away"
        ) from error
    finally:
        file.close()
    if there != name:
        raise DataError(
            f"the data directory {folder} belongs to node {there}, and this one is {name}:"
            " start it with that --name, or choose another with --data-dir"
        )
    if version > FORMAT_VERSION:
        raise DataError(
            f"the data directory {folder} has format {version}, and this version reads"
            f" {FORMAT_VERSION}: start it with the version that has written it, or a newer one"
        )

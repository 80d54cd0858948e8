"""What a node has in its data directory: its write-ahead log, its queues' segments."""

from collections.abc import Callable, Set
from contextlib import ExitStack
from weakref import WeakValueDictionary

from amqpbroker.errors import DataError
from amqpbroker.storage import directory
from amqpbroker.storage.directory import Owner
from amqpbroker.storage.disk_log import DiskLog
from amqpbroker.storage.faults import Damage, must_work
from amqpbroker.storage.format import FormatError
from amqpbroker.storage.journal import Waiting
from amqpbroker.storage.log_state import LogState
from amqpbroker.storage.recovery import Kept, Recovered, recover
from amqpbroker.storage.segments import (
    Segments,
    SegmentUse,
    remove_folder,
    segment_numbers,
    segment_path,
)
from amqpbroker.storage.standing import Standing, find_log
from amqpbroker.storage.wal import Wal
from amqpbroker.world import Disk, File

WAITING_BYTES_MAX = 64 * 1024 * 1024
"""Messages that wait in memory, over all queues; what is beyond waits in segments."""
WASTE_BYTES_MAX = 64 * 1024 * 1024
"""What may lie on disk and is not needed, beside as much as is needed."""
IDLE_WASTE_BYTES_MAX = 4 * 1024 * 1024
"""The same while nothing is to be done."""

TRANSIENT = "transient-"
"""What begins the name of a log's folder that ends with the node."""


class Store:
    """The data directory ``folder``, which `open` has made ready for ``name``.

    ``damages`` is what was found to be wrong in it, at the start or since.
    """

    def __init__(
        self,
        disk: Disk,
        folder: str,
        owner: Owner,
        lock: File,
        recovered: Recovered,
        former_ids: Set[int],
        waiting_bytes_max: int,
        salt: int,
    ) -> None:
        self.damages: list[Damage] = recovered.damages
        self.definitions: list[bytes] = recovered.definitions
        """Lines that change definitions, as they were kept, in order."""
        self.wal = Wal(
            disk, f"{folder}/wal", recovered.number + 1, recovered.batch, recovered.paths, salt
        )
        self.knows_definitions = recovered.knows_definitions
        """Whether they were all read."""
        self.owner = owner
        """Whose the directory is."""
        self._disk = disk
        self._folder = folder
        self._lock = lock
        self._recovered = recovered
        self._waiting = Waiting(waiting_bytes_max, self.damages)
        self._use = SegmentUse()
        self._transient_use = SegmentUse()
        self._transient_count = 0
        self._former_ids = former_ids
        """The logs of which something was kept, until `clear_up`."""
        self._logs: WeakValueDictionary[str, DiskLog] = WeakValueDictionary()
        self._untidy: list[DiskLog] = []
        self.newest_log_id = max(former_ids, default=0)
        """No log that has left a trace has a higher id."""

    @classmethod
    async def open(
        cls,
        disk: Disk,
        folder: str,
        name: str,
        waiting_bytes_max: int = WAITING_BYTES_MAX,
        salt: int = 0,
        see: Callable[[list[bytes]], None] = lambda lines: None,
        uuid: str = "",
        is_alone: bool = True,
    ) -> "Store":
        """Open the data directory of the node ``name``, or make one.

        ``salt`` is a number of 32 bits that nobody can guess (see `Wal`). ``see`` is shown the
        lines of definitions, and may raise `DataError`. A directory that is made is told from all
        others by ``uuid``. ``is_alone``: the node is started without a cluster.
        Raises `DataError` if it is not to be used: it says why, and what to do; nothing that was
        there is changed then.
        """
        with ExitStack() as undo, directory.refusals(disk, folder):
            lock, owner = await directory.enter(disk, folder, name, is_alone, undo)
            recovered = read_wal(disk, folder, owner)
            see(recovered.definitions)
            if recovered.torn is not None:
                await _cut(disk, *recovered.torn)
            if owner is None:
                owner = Owner(name, uuid=uuid)
                undo.callback(directory.unsign, disk, folder)
                await directory.sign(disk, folder, owner)
            ids = recovered.logs.keys() | set(log_ids(disk, folder))
            undo.pop_all()
        return cls(disk, folder, owner, lock, recovered, ids, waiting_bytes_max, salt)

    async def sign(self, owner: Owner) -> None:
        """Say anew whose the directory is. Raises `DataError`."""
        with directory.refusals(self._disk, self._folder):
            await directory.sign(self._disk, self._folder, owner)
        self.owner = owner

    @must_work()
    def open_log(self, log_id: int, is_async: bool = False) -> DiskLog:
        """The log with that id, with what was kept of it; a new one, if nothing was.

        What had the id before, and is deleted, has nothing to do with it.
        ``is_async``: its messages are committed before they are synced. Raises `DiskFailure`.
        """
        kept = self._recovered.logs.pop(log_id, None)
        folder = log_folder(self._folder, log_id)
        if log_id in self._former_ids:
            is_clean = self._recovered.clean
            standing = find_log(self._disk, folder, log_id, kept or Kept(), is_clean, self.damages)
        else:
            standing = Standing(Kept(), LogState(0, 0, 0, []), [])
        numbers = standing.segments
        for number in set(numbers) - standing.needed:
            self._disk.remove(segment_path(folder, number))
        newest, is_there = max(numbers, default=0), bool(numbers)
        former = self._logs.get(folder)
        if former is not None and former.is_deleted:
            newest, is_there = former.make_way()
        segments = Segments(self._disk, folder, newest, is_there, self._use)
        opened = DiskLog(log_id, segments, self._waiting, self.wal, is_async)
        self._logs[folder] = opened
        if kept is not None:
            opened.epoch = kept.epoch
            opened.recover(standing.state, kept.messages)
            self.wal.adopt(opened)
            opened.damaged_count += len(kept.lost)
        return opened

    def open_transient_log(self) -> DiskLog:
        """A log whose messages end with the node; on disk are only those that wait for long."""
        self._transient_count += 1
        folder = f"{self._folder}/queues/{TRANSIENT}{self._transient_count}"
        segments = Segments(self._disk, folder, use=self._transient_use)
        opened = DiskLog(self._transient_count, segments, self._waiting, journal=None)
        self._logs[folder] = opened
        return opened

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

    async def tidy(self, is_idle: bool) -> None:
        """Begin to give back what is not needed on disk, if that is much; `work_off` goes on.

        Between two commits. The journal begins anew when its newest file has grown long (or, when
        the node ``is_idle``, when most of it is void), or when much of the segments is wasted: with
        the chunks that are live the logs leave those that are sparse. Logs of which the journal
        knows nothing leave them as well. Raises `OSError`.
        """
        limit_bytes = IDLE_WASTE_BYTES_MAX if is_idle else WASTE_BYTES_MAX
        wal = self.wal
        is_due = wal.is_whole and (
            wal.is_long
            or self._use.is_wasteful(limit_bytes)
            or (is_idle and wal.is_mostly_void(limit_bytes))
        )
        if is_due or self._transient_use.is_wasteful(limit_bytes):
            self._untidy = [opened for opened in self._logs.values() if opened.is_sparse]
        if is_due:
            await wal.begin_anew()

    @property
    def has_work(self) -> bool:
        """Whether `work_off` has something to do."""
        return bool(self._waiting.short or self._untidy or self.wal.has_stale)

    async def work_off(self) -> bool:
        """Do what is to be done beside the commits: some milliseconds' work; whether it was any.

        Raises `DiskFailure` or `OSError`.
        """
        for opened in self._waiting.short:
            opened.relieve()
            return True
        if self._untidy:
            if not self._untidy[-1].tidy():
                self._untidy.pop()
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
        self._former_ids = frozenset()
        self._recovered.logs.clear()
        if self.damages:
            return
        queues = f"{self._folder}/queues"
        for name in self._disk.names(queues):
            if name.startswith(TRANSIENT) or (name.isdecimal() and int(name) not in known):
                remove_folder(self._disk, f"{queues}/{name}")

    async def stop(self) -> None:
        """Everything that was told is kept, and where the queues stand. Raises `OSError`."""
        await self.wal.stop()
        self.close()

    def close(self) -> None:
        """Let go of the directory as it is."""
        for opened in self._logs.values():
            opened.close()
        self.wal.close()
        self._lock.close()


def read_wal(disk: Disk, folder: str, owner: Owner | None = None) -> Recovered:
    """What the write-ahead log of the data directory ``folder`` has kept.

    Raises `DataError` if it cannot be used, and `OSError`. A node of a cluster has the definitions
    from there.
    """
    try:
        recovered = recover(disk, f"{folder}/wal")
    except FormatError as error:
        raise DataError(str(error)) from error
    is_alone = owner is None or not owner.cluster
    if (
        is_alone
        and not recovered.knows_definitions
        and (
            recovered.damages
            or recovered.batch > 1
            or any(
                segment_numbers(disk, log_folder(folder, each)) for each in log_ids(disk, folder)
            )
        )
    ):
        at = recovered.damages[0] if recovered.damages else f"{folder}/wal says nothing of them"
        raise DataError(
            f"the definitions in {folder} are lost ({at}): restore it from a backup,"
            " or move it away to begin anew"
        )
    return recovered


def log_ids(disk: Disk, folder: str) -> list[int]:
    """The ids of the logs that have a folder in the data directory ``folder``."""
    try:
        names = disk.names(f"{folder}/queues")
    except FileNotFoundError:
        return []
    return [int(name) for name in names if name.isdecimal()]


def log_folder(folder: str, log_id: int) -> str:
    """Where the segments of a log lie in the data directory ``folder``."""
    return f"{folder}/queues/{log_id}"


async def _cut(disk: Disk, path: str, size_bytes: int) -> None:
    """Take away what a crash has left of a batch: later on it would look like damage."""
    file = disk.open(path)
    file.truncate(size_bytes)
    await file.sync()
    file.close()

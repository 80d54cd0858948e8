"""The write-ahead log: one for all durable queues of a node.

What logs tell gathers while the batch before is being synced; then it is written and synced in one
go (group commit), and all logs concerned are told. So the busier the node, the larger its batches.

The log is a row of files. When the newest has grown enough, another is begun, in which every log
that older files speak of says anew where it stands; then the older ones go. A message that was
consumed in time is thus never written twice, and recovery has to read two files at most.

A failed write or sync is not tried again: nobody knows what has reached the disk (Rebello et al.,
Can Applications Recover from fsync Failures?, ATC 2020). `commit` raises, and the node must stop.
A full disk is another matter: what was written of the batch is cut off again, and the batch waits.
"""

import errno
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable
from functools import partial
from itertools import accumulate, islice

import attrs

from amqpbroker.message import Origin
from amqpbroker.storage.disk_log import DiskLog
from amqpbroker.storage.faults import is_full
from amqpbroker.storage.format import (
    DirectoryEntry,
    Kind,
    encode_batch,
    encode_file_head,
    encode_image,
    encode_ranges,
    encode_record,
)
from amqpbroker.storage.journal import Journal
from amqpbroker.storage.log_state import LogState
from amqpbroker.world import Disk, File

WAL_FILE_BYTES_MAX = 64 * 1024 * 1024
"""A file that has grown by this is followed by another, unless it has said more to begin with."""

FILE_MARK = b"\xb2LOG"
SUFFIX = ".wal"
BATCH_BYTES_MAX = 1024 * 1024
"""Messages in one batch, about: writing it must not keep others waiting for long."""
_BEYOND_ALL = 1 << 63
"""No index is as high."""
_RENEWED_AT_ONCE = 64
"""Logs that say where they stand in one batch."""


@attrs.define
class _Run:
    """Neighbouring messages of one log that wait to be written, behind what was ``settled``."""

    first: int
    origins: list[Origin]
    raws: list[bytes]
    settled: list[range] = attrs.Factory(list)
    when_kept: list[Callable[[], None]] = attrs.Factory(list)


@attrs.define
class _Gathered:
    """What one log has told since the last batch."""

    runs: list[_Run] = attrs.Factory(list)
    settled: list[range] = attrs.Factory(list)


@attrs.frozen
class _Batch:
    """A batch that is ready to be written, and where its logs ended when it was sealed."""

    number: int
    octets: bytes
    ends: dict[DiskLog, int]
    waiting: list[Callable[[], None]]


class Wal(Journal):
    """Writes to ``folder``: files from ``number`` on, batches from ``batch`` on.

    ``old`` are files that were there before; the logs of which they speak are given to `adopt`.
    ``salt`` is nothing that a client could know. ``on_gathered`` is called when there is something
    to commit again.
    """

    def __init__(
        self, disk: Disk, folder: str, number: int, batch: int, old: list[str], salt: int
    ) -> None:
        self.on_gathered: Callable[[], None] = _nothing
        self.all_definitions: Callable[[], bytes] = bytes
        """The lines that say all definitions: asked for when a file is begun."""
        self.is_full = False
        """Whether the disk is: what has gathered waits for room."""
        self._disk = disk
        self._folder = folder
        self._number = number
        self._salt = salt
        self._file: File | None = None
        self._batch = batch
        self._synced_to = batch - 1
        self._gathered: dict[DiskLog, _Gathered] = {}
        self._forgotten: list[DiskLog] = []  # Of which it is to be said that they are deleted.
        self._changes: list[bytes] = []
        self._waiting: list[Callable[[], None]] = []
        self._stuck: _Batch | None = None
        self._spoken_of: dict[DiskLog, None] = {}  # Logs of which the newest file speaks.
        self._stale: dict[DiskLog, None] = {}  # Logs of which older files speak.
        self._ready: dict[DiskLog, None] = {}  # Those of them that the next batches restate.
        self._old = old
        self._says_definitions = False
        # What the newest file holds: octets when the older ones went, octets of all definitions
        # at its beginning, messages and ranges of settled ones.
        self._said_bytes = self._definitions_bytes = self._said_count = 0
        self._looked_at = 0

    def adopt(self, log: DiskLog) -> None:
        """Older files speak of ``log``: it has to say anew where it stands."""
        self._stale[log] = None

    def forget(self, log: DiskLog) -> None:
        if log in self._spoken_of or log in self._stale or log in self._ready:
            self._forgotten.append(log)
        for logs in (self._gathered, self._spoken_of, self._stale, self._ready):
            logs.pop(log, None)
        self._wake()
        self._waiting.append(log.erase)

    # -- gathering -----------------------------------------------------------------------------

    def messages(self, log: DiskLog, first: int, origin: Origin, raws: list[bytes]) -> None:
        runs = self._gather(log).runs
        last = runs[-1] if runs else None
        if last is not None and last.first + len(last.raws) == first and not last.when_kept:
            last.origins += [origin] * len(raws)
            last.raws += raws
        else:
            runs.append(_Run(first, [origin] * len(raws), list(raws)))

    def filled(self, log: DiskLog, first: int, origins: list[Origin], raws: list[bytes]) -> None:
        gathered = self._gather(log)
        settled, gathered.settled = gathered.settled, []  # Perhaps these very messages.
        gathered.runs.append(_Run(first, origins, raws, settled))

    def when_kept(self, log: DiskLog, call: Callable[[], None]) -> None:
        gathered = self._gathered.get(log)
        if gathered is not None and gathered.runs:
            gathered.runs[-1].when_kept.append(call)
        else:  # They are being written.
            self._wake()
            self._waiting.append(call)

    def settled(self, log: DiskLog, indexes: range) -> None:
        settled = self._gather(log).settled
        if settled and settled[-1].stop == indexes.start and settled[-1].step == indexes.step == 1:
            settled[-1] = range(settled[-1].start, indexes.stop)
        else:
            settled.append(indexes)

    def definitions(self, line: bytes, when_kept: Callable[[], None]) -> None:
        """Keep a line that changes definitions; ``when_kept`` is called once it is."""
        self._wake()
        self._changes.append(line)
        self._waiting.append(when_kept)

    def _gather(self, log: DiskLog) -> _Gathered:
        gathered = self._gathered.get(log)
        if gathered is None:
            self._wake()
            gathered = self._gathered[log] = _Gathered()
        return gathered

    def _wake(self) -> None:
        """Something is about to gather."""
        if not self.has_gathered:
            self.on_gathered()

    @property
    def has_gathered(self) -> bool:
        """Whether there is something to commit."""
        return bool(
            self._gathered
            or self._changes
            or self._waiting
            or self._ready
            or self._stuck is not None
            or (self._old and not self._stale)
        )

    # -- committing ----------------------------------------------------------------------------

    async def commit(self) -> None:
        """Write and sync what has gathered, and tell the logs; one call at a time.

        Raises `OSError` when the disk fails: the node must stop. If it is full, `is_full` is set,
        and the batch waits for the next call.
        """
        if self._file is None and not await self._begin_file():
            return
        is_last = False
        batch = self._stuck
        if batch is None:
            restated = self._take_ready()
            is_last = bool(self._old) and not self._stale and not self._ready
            batch = self._seal(restated, [_sign(Kind.RESTATED)] if is_last else [])
        if await self._write(batch) and is_last:
            self._remove_old()

    def _seal(self, restated: Collection[DiskLog] = (), signs: Iterable[bytes] = ()) -> _Batch:
        """A batch: where ``restated`` stand, what has gathered, and ``signs`` at the end."""
        changes, self._changes = self._changes, []
        waiting, self._waiting = self._waiting, []
        said: list[bytes] = []
        if self._says_definitions:
            self._says_definitions = False
            said = [encode_record(Kind.DEFINITIONS, 0, 0, [self.all_definitions()])]
            self._definitions_bytes = len(said[0])
        elif changes:
            said = [encode_record(Kind.CHANGES, 0, 0, changes)]
        records = said[:]
        directory: list[DirectoryEntry] = []
        for log in self._forgotten:  # Before what another log with the same id may say.
            nothing = LogState(_BEYOND_ALL, log.end, 0, []).encode()
            records.append(encode_record(Kind.STATE, log.log_id, log.epoch, nothing))
            directory.append(DirectoryEntry(log.log_id, log.epoch, 0, 0))
        self._forgotten.clear()
        for log in restated:
            self._spoken_of[log] = None
            log_id, epoch = log.log_id, log.epoch
            state, images = log.restate()
            records.append(encode_record(Kind.STATE, log_id, epoch, state.encode()))
            directory.append(DirectoryEntry(log_id, epoch, 0, 0))
            for indexes, count, image in images:
                self._said_count += count
                records.append(encode_record(Kind.MESSAGES, log_id, epoch, image))
                directory.append(DirectoryEntry(log_id, epoch, indexes.start, len(indexes)))
        ends: dict[DiskLog, int] = {}
        finished = dict.fromkeys(restated)
        for log, runs, settled in self._take_gathered(restated):
            log_id, epoch = log.log_id, log.epoch
            for run in runs:
                if run.settled:
                    self._said_count += len(run.settled)
                    ranges = encode_ranges(run.settled)
                    records.append(encode_record(Kind.SETTLED, log_id, epoch, ranges))
                waiting += run.when_kept
                self._said_count += len(run.raws)
                image = encode_image(run.first, run.origins, run.raws)
                records.append(encode_record(Kind.MESSAGES, log_id, epoch, image))
                directory.append(DirectoryEntry(log_id, epoch, run.first, len(run.raws)))
            if settled:
                self._said_count += len(settled)
                ranges = encode_ranges(settled)
                records.append(encode_record(Kind.SETTLED, log_id, epoch, ranges))
            if log in self._gathered:
                ends[log] = self._gathered[log].runs[0].first
            else:
                ends[log] = log.end
                finished[log] = None
            self._spoken_of[log] = None
        for log in finished:
            if places := log.take_settled():
                waiting.append(partial(log.release, places))
        records += said
        records += signs
        batch = _Batch(
            self._batch,
            encode_batch(self._batch, self._synced_to, directory, records, self._salt),
            ends,
            waiting,
        )
        self._batch += 1
        return batch

    def _take_gathered(
        self, restated: Collection[DiskLog]
    ) -> list[tuple[DiskLog, list[_Run], list[range]]]:
        """What logs have told, about as much as a batch holds; the rest stays.

        What became of a log's messages stays with those that stay: it must come behind them. Logs
        that are ``restated`` in the batch keep nothing back of which that speaks: it must not come
        behind. Of messages that were told since the file was begun it does not speak.
        """
        taken: list[tuple[DiskLog, list[_Run], list[range]]] = []
        room_bytes = BATCH_BYTES_MAX
        told_of = [log for log in restated if log in self._gathered]
        for log in dict.fromkeys((*told_of, *self._gathered)):
            if room_bytes <= 0 and log not in restated:
                break
            told = self._gathered[log]
            runs: list[_Run] = []
            if log in restated:
                old = [at for at, run in enumerate(told.runs) if run.first < log.renewed_end]
                count = old[-1] + 1 if old else 0
                runs, told.runs = told.runs[:count], told.runs[count:]
                room_bytes -= sum(len(raw) for run in runs for raw in run.raws)
            while told.runs and room_bytes > 0:
                run, rest = _cut(told.runs[0], room_bytes)
                told.runs[:1] = [rest] if rest is not None else []
                runs.append(run)
                room_bytes -= sum(map(len, run.raws))
            if told.runs:
                taken.append((log, runs, []))
            else:
                taken.append((log, runs, told.settled))
                del self._gathered[log]
        return taken

    async def _write(self, batch: _Batch) -> bool:
        """Append a batch, sync it, and tell the logs; False if there is no room for it."""
        file = self._file
        assert file is not None
        start = file.size_bytes
        try:
            file.append(batch.octets)
        except OSError as error:
            if not is_full(error):
                raise
            file.truncate(start)
            self._stuck = batch
            self.is_full = True
            return False
        self._stuck = None
        self.is_full = False
        await file.sync()
        self._synced_to = batch.number
        for log, end in batch.ends.items():
            log.synced(end, log not in self._gathered)
        for call in batch.waiting:
            call()
        return True

    async def _begin_file(self) -> bool:
        """Begin a file; False if there is no room for it."""
        path = f"{self._folder}/{self._number:08}{SUFFIX}"
        file = None
        try:
            file = self._disk.open(path, create=True)
            file.append(encode_file_head(FILE_MARK, self._salt))
        except OSError as error:
            if file is not None:
                file.truncate(0)
                file.close()
            if not is_full(error):
                raise
            self.is_full = True
            return False
        self._file = file
        self._says_definitions = True
        await self._disk.sync_folder(self._folder)
        return True

    # -- beginning anew ------------------------------------------------------------------------

    @property
    def is_whole(self) -> bool:
        """Whether the newest file says all that is to be known: the older ones are gone."""
        return self._file is not None and not self._old

    @property
    def is_long(self) -> bool:
        """Whether the newest file has grown so much that another should be begun."""
        assert self._file is not None
        grown_bytes = self._file.size_bytes - self._said_bytes
        return grown_bytes >= max(WAL_FILE_BYTES_MAX, self._said_bytes)

    def is_mostly_void(self, bytes_min: int) -> bool:
        """Whether the newest file has ``bytes_min`` and most that it says is not needed any more.

        Counted in messages, over all logs of which it speaks. False if it was asked before, and
        nothing was said since.
        """
        assert self._file is not None
        size_bytes = self._file.size_bytes - self._definitions_bytes
        if size_bytes < bytes_min or self._looked_at == self._batch:
            return False
        self._looked_at = self._batch
        needed_count = sum(log.waiting_count for log in self._spoken_of)
        return 2 * needed_count <= self._said_count

    async def begin_anew(self) -> None:
        """Begin another file, between two commits; `renew` lets the older ones go.

        If the disk is full, the next commit begins it.
        """
        file, self._file = self._file, None
        assert file is not None
        self._old.append(file.path)
        file.close()
        self._number += 1
        self._said_bytes = self._said_count = 0
        self._stale, self._spoken_of = self._spoken_of, {}
        for log in self._stale:
            log.renew()
        await self._begin_file()

    @property
    def has_stale(self) -> bool:
        """Whether `renew` has something to do."""
        return bool(self._stale)

    async def renew(self) -> bool:
        """Have some logs get ready to say where they stand; the next commits say it.

        A few milliseconds' work, beside the commits. False if there was no room for it. Raises
        `OSError` when the disk fails.
        """
        for log in list(islice(self._stale, _RENEWED_AT_ONCE)):
            is_ready = not log.put_some_away()
            if log.lacks_room:
                return False
            if not log.is_synced:
                await log.sync_segments()
                is_ready = False  # What was put away meanwhile is not synced.
            if not is_ready:
                break
            if log in self._stale:  # It may have been deleted meanwhile.
                del self._stale[log]
                self._ready[log] = None
        self.on_gathered()
        return True

    def _take_ready(self) -> list[DiskLog]:
        """The logs that say in the next batch where they stand."""
        logs = list(islice(self._ready, _RENEWED_AT_ONCE))
        for log in logs:
            del self._ready[log]
            if not log.is_synced:
                self._stale[log] = None  # A chunk went to a segment in between.
        return [log for log in logs if log not in self._stale]

    def _remove_old(self) -> None:
        """All logs have said where they stand, and that is kept."""
        for path in self._old:
            self._disk.remove(path)
        self._old.clear()
        assert self._file is not None
        self._said_bytes = self._file.size_bytes

    async def stop(self) -> None:
        """Have all logs say where they stand, and end; they tell nothing any more.

        Raises `OSError` when the disk fails or is full.
        """
        await self._commit_all()
        if self._file is not None:
            await self.begin_anew()
        await self._commit_all()
        if self._file is None and not await self._begin_file():
            return
        await self._write(self._seal(signs=[_sign(Kind.STOPPED)]))

    async def _commit_all(self) -> None:
        while self.has_gathered or self._old:
            has_room = not self._stale or await self.renew()
            await self.commit()
            if self.is_full or not has_room:
                raise OSError(errno.ENOSPC, "no room to say where the queues stand", self._folder)

    def close(self) -> None:
        """End the use of the file, not while it is synced."""
        if self._file is not None:
            self._file.close()


def _cut(run: _Run, room_bytes: int) -> tuple[_Run, _Run | None]:
    """The first messages of a run, as many as there is room for (at least one), and the others."""
    count = bisect_left(list(accumulate(map(len, run.raws))), room_bytes) + 1
    if count >= len(run.raws):
        return run, None
    rest = attrs.evolve(
        run,
        first=run.first + count,
        origins=run.origins[count:],
        raws=run.raws[count:],
        settled=[],
    )
    run.origins, run.raws, run.when_kept = run.origins[:count], run.raws[:count], []
    return run, rest


def _sign(kind: Kind) -> bytes:
    """A record that is about no log."""
    return encode_record(kind, 0, 0, [])


def _nothing() -> None:
    """Nobody waits."""

"""What is in a data directory, and whether it is sound: read offline, and not changed.

It is read by the same code as at a node's start, so what it calls sound is what a node finds sound.
Beside that it reads what no node needs, of which it only tells: `Check.remarks`.
"""

import posixpath
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import attrs

from amqpbroker.errors import DataError, DiskFailure
from amqpbroker.storage import directory
from amqpbroker.storage.directory import Owner
from amqpbroker.storage.faults import Damage
from amqpbroker.storage.format import FILE_HEAD_BYTES, FormatError
from amqpbroker.storage.log_state import ChunkState
from amqpbroker.storage.recovery import Kept, Recovered
from amqpbroker.storage.segments import (
    Place,
    Segments,
    has_sound_head,
    segment_numbers,
    segment_path,
    stored_chunks,
)
from amqpbroker.storage.standing import find_log
from amqpbroker.storage.store import TRANSIENT, log_folder, log_ids, read_wal
from amqpbroker.world import Disk, File


@attrs.define
class Amount:
    """Some of the messages, or chunks of them, and their octets."""

    count: int = 0
    octets: int = 0

    def add(self, octets: int, count: int = 1) -> None:
        """Count more of them."""
        self.count += count
        self.octets += octets


@attrs.define
class LogReport:
    """What there is of a log."""

    log_id: int
    in_wal: Amount = attrs.Factory(Amount)
    """Messages that lie in the write-ahead log."""
    in_segments: Amount = attrs.Factory(Amount)
    """Messages that lie in segments, transient ones too."""
    transient: int = 0
    """Messages in segments that end with their node: the next start drops them."""
    lost: int = 0
    """Messages that are damaged, at most."""
    segments: Amount = attrs.Factory(Amount)
    """Its files, and all octets in them."""
    not_needed: Amount = attrs.Factory(Amount)
    """Chunks in them without any message that is still there."""

    @property
    def messages(self) -> int:
        """Those that are there after the next start: persistent ones."""
        return self.in_wal.count + self.in_segments.count - self.transient


class Check:
    """A data directory while it is checked: ask for every log by `log`, then for `others`.

    ``damages`` and ``remarks`` grow with that: what a node would find damaged, and what is not as
    it was written, but is not needed either.
    """

    def __init__(self, disk: Disk, folder: str, owner: Owner, recovered: Recovered) -> None:
        self.owner = owner
        self.definitions: list[bytes] = recovered.definitions
        """Lines that change definitions, in order."""
        self.is_clean = recovered.clean
        """Whether the node has stopped in good order."""
        self.damages: list[Damage] = recovered.damages
        self.remarks: list[Damage] = []
        self._disk = disk
        self._folder = folder
        self._recovered = recovered

    def log(self, log_id: int) -> LogReport:
        """Read all that there is of a log. Raises `OSError`."""
        kept = self._recovered.logs.get(log_id, Kept())
        folder = log_folder(self._folder, log_id)
        standing = find_log(self._disk, folder, log_id, kept, self.is_clean, self.damages)
        report = LogReport(log_id, lost=len(kept.lost))
        for _, raw in kept.messages.values():
            report.in_wal.add(len(raw))
        segments = Segments(self._disk, folder)
        needed: dict[int, list[Place]] = {number: [] for number in standing.segments}
        for chunk in standing.state.chunks:
            self._read_chunk(segments, chunk, report)
            needed[chunk.place.segment].append(chunk.place)
        for number, places in needed.items():
            self._read_rest(segments, number, places, report)
        segments.close()
        return report

    def _read_chunk(self, segments: Segments, chunk: ChunkState, report: LogReport) -> None:
        """Read the messages in a chunk that is needed."""
        place = chunk.place
        try:
            image = segments.load(place)
        except (FormatError, DiskFailure) as error:
            path = segments.path(place)
            self.damages.append(Damage(path, place.offset, _what(error), report.log_id, chunk.live))
            report.lost += chunk.live
            return
        gone = chunk.gone or bytes(chunk.count)
        for index, origin, raw in zip(image.indexes, image.origins, image.raws, strict=True):
            if not gone[index - chunk.first]:
                report.in_segments.add(len(raw))
                report.transient += not origin.traits.persistent

    def _read_rest(
        self, segments: Segments, number: int, needed: list[Place], report: LogReport
    ) -> None:
        """Read what nobody needs in a segment in which these chunks are needed."""
        path = segment_path(segments.folder, number)
        size = self._size(path)
        report.segments.add(size)
        if not has_sound_head(self._disk, segments.folder, number):
            self._remark(path, 0, "the head of the file is damaged; it is not needed")
        known = {place.offset for place in needed}
        position = FILE_HEAD_BYTES
        while True:
            for place in stored_chunks(self._disk, segments.folder, number, position):
                position = place.offset + place.size
                if place.offset not in known:
                    self._read_unneeded(segments, place, report)
            behind = [place for place in needed if place.offset >= position]
            if not behind:
                break
            # What is needed is found without headers.
            following = min(behind, key=lambda place: place.offset)
            self._remark(path, position, "the head of a chunk is damaged; it is not needed")
            position = following.offset + following.size
        if position < size:
            what = f"the last {size - position} octets are no chunk; they are not needed"
            self._remark(path, position, what)
            report.not_needed.add(size - position, 0)

    def _read_unneeded(self, segments: Segments, place: Place, report: LogReport) -> None:
        report.not_needed.add(place.size)
        try:
            segments.load(place)
        except (FormatError, DiskFailure) as error:
            self._remark(segments.path(place), place.offset, f"{_what(error)}; it is not needed")

    def log_ids(self) -> set[int]:
        """All logs that have left a trace. Raises `OSError`."""
        return self._recovered.logs.keys() | set(log_ids(self._disk, self._folder))

    def others(self, known: Collection[int]) -> list[LogReport]:
        """Read what there is of logs that are not ``known``: no queue needs them.

        Raises `OSError`.
        """
        damages, self.damages = self.damages, self.remarks
        reports = [self.log(log_id) for log_id in sorted(self.log_ids() - set(known))]
        self.damages = damages
        return reports

    def torn(self) -> list[Damage]:
        """What crashes have left at the ends of the write-ahead log's files: that is no damage."""
        at = [*self._recovered.rests, *filter(None, [self._recovered.torn])]
        damaged = {(damage.path, damage.offset) for damage in self.damages}
        return [
            Damage(path, offset, f"{self._size(path) - offset} octets are cut off by a crash")
            for path, offset in sorted(set(at) - damaged)
        ]

    def wal_files(self) -> Amount:
        """The files of the write-ahead log."""
        files = Amount()
        for path in self._recovered.paths:
            files.add(self._size(path))
        return files

    def strange(self) -> list[str]:
        """Paths of what no node has put there."""
        disk, folder = self._disk, self._folder
        found = [f"{folder}/{name}" for name in disk.names(folder) if name not in directory.OWN]
        known = {*self._recovered.paths, f"{folder}/wal/{directory.TRIAL}"}
        found += [path for path in _paths(disk, f"{folder}/wal") if path not in known]
        logs = {log_folder(folder, log_id) for log_id in log_ids(disk, folder)}
        for path in _paths(disk, f"{folder}/queues") if logs else []:
            name = posixpath.basename(path)
            if path in logs:
                numbers = segment_numbers(disk, path)
                own = {segment_path(path, number) for number in numbers}
                found += [inner for inner in _paths(disk, path) if inner not in own]
            elif not name.startswith(TRANSIENT) and name != directory.TRIAL:
                found.append(path)
        return found

    def _remark(self, path: str, offset: int, what: str) -> None:
        self.remarks.append(Damage(path, offset, what))

    def _size(self, path: str) -> int:
        file = self._disk.open(path, read_only=True)
        try:
            return file.size_bytes
        finally:
            file.close()


def _paths(disk: Disk, folder: str) -> list[str]:
    return [f"{folder}/{name}" for name in disk.names(folder)]


def _what(error: FormatError | DiskFailure) -> str:
    return f"it cannot be read ({error.__cause__})" if error.__cause__ else str(error)


@contextmanager
def checking(disk: Disk, folder: str) -> Iterator[Check]:
    """Check a data directory; no node starts on it meanwhile.

    Raises `DataError` if it is none, or a node runs on it, or would not start.
    """
    lock: File | None = None
    try:
        if "node.json" not in disk.names(folder):
            raise DataError(f"{folder} is no data directory: there is no node.json in it")
        owner = directory.owner_of(disk, folder)
        assert owner is not None
        lock = directory.open_lock(disk, folder)
        if lock is not None:
            directory.take(lock, folder, "stop it first")
        yield Check(disk, folder, owner, read_wal(disk, folder, owner))
    except OSError as error:
        where = f"{error.filename}: " if error.filename not in (None, folder) else ""
        raise DataError(
            f"cannot read the data directory {folder}: {where}{error.strerror or error}"
        ) from error
    finally:
        if lock is not None:
            lock.close()

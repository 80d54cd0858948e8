"""What the write-ahead log has kept: reading it, at a node's start or to see whether it is sound.

All files are read in order, batch by batch. A record that is damaged is left out and what it held
is noted; behind a damaged header the next sound one is looked for. Damage in a batch that the log
itself knows to be synced is `Damage`: messages are lost that were confirmed. Beyond, at the very
end, it is what a crash has left of a batch that nobody was promised anything about.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator
from itertools import compress, islice

import attrs

from amqpbroker.message import Origin
from amqpbroker.storage.faults import Damage
from amqpbroker.storage.format import (
    FILE_HEAD_BYTES,
    FORMAT_VERSION,
    BatchHead,
    DirectoryEntry,
    FormatError,
    Image,
    Kind,
    Record,
    decode_batch_head,
    decode_file_head,
    decode_image,
    decode_ranges,
    decode_record,
    find_batch,
    mend_batch_head,
    mend_record,
)
from amqpbroker.storage.log_state import ChunkState, LogState
from amqpbroker.storage.segments import Place
from amqpbroker.storage.wal import FILE_MARK, SUFFIX
from amqpbroker.world import Disk


@attrs.define
class _Stored:
    """A chunk in a segment; ``gone`` has an octet for each message, not 0 if it is settled."""

    first: int
    place: Place
    gone: bytearray


class Kept:
    """What is kept of one log."""

    def __init__(self) -> None:
        self.epoch = 1
        self.end = 0
        self.read_end = 0
        self.messages: dict[int, tuple[Origin, bytes]] = {}
        """Messages that were published, or said again."""
        self.lost: set[int] = set()
        """Messages that were synced, and are damaged."""
        self.is_unsure = False
        """Whether the last that it said of where it stands is damaged."""
        self._stored: list[_Stored] = []
        self._firsts: list[int] = []

    def begin(self, state: LogState) -> None:
        """The log has said anew where it stands."""
        self.is_unsure = False
        self.end, self.read_end = max(self.end, state.end), state.read_end
        self.lost = {index for index in self.lost if index >= state.renewed_end}
        self._stored = [
            _Stored(chunk.first, chunk.place, bytearray(chunk.gone or bytes(chunk.count)))
            for chunk in sorted(state.chunks, key=lambda chunk: chunk.first)
        ]
        self._firsts = [stored.first for stored in self._stored]
        self.messages = {
            index: message for index, message in self.messages.items() if index >= state.renewed_end
        }

    def add(self, image: Image) -> None:
        """Messages were published; perhaps they lie in a segment, too."""
        self.messages.update(
            zip(image.indexes, zip(image.origins, image.raws, strict=True), strict=True)
        )
        self.end = max(self.end, image.end)
        self.lost.difference_update(image.indexes)

    def miss(self, there: Collection[int]) -> set[int]:
        """Of all segments only these are ``there``; returns those in which messages should be.

        What was said in the write-ahead log is not lost with them.
        """
        missing = set()
        for stored in self._stored:
            if stored.place.segment not in there and 0 in stored.gone:
                missing.add(stored.place.segment)
                span = range(stored.first, stored.first + len(stored.gone))
                live = compress(span, [not mark for mark in stored.gone])
                self.lost.update(index for index in live if index not in self.messages)
        self._stored = [stored for stored in self._stored if stored.place.segment in there]
        self._firsts = [stored.first for stored in self._stored]
        return missing

    def salvage(self, place: Place, image: Image) -> None:
        """Take up a chunk, unless it is known: what was told of it is damaged.

        Its messages are there again, be they settled or not: better twice than never.
        """
        span = range(image.first, image.end)
        if next(self._overlapping(span), None) is not None:
            return
        gone = bytearray(b"\1" * len(span))
        for index in image.indexes:
            gone[index - image.first] = 0
        at = bisect_right(self._firsts, image.first)
        self._firsts.insert(at, image.first)
        self._stored.insert(at, _Stored(image.first, place, gone))
        self.end = max(self.end, span.stop)
        self.lost.difference_update(image.indexes)

    def _overlapping(self, run: range) -> Iterator[_Stored]:
        """The chunks in segments between the first and the last of a run."""
        at = max(0, bisect_right(self._firsts, run.start) - 1)
        for stored in islice(self._stored, at, None):
            if stored.first >= run.stop:
                break
            if stored.first + len(stored.gone) > run.start:
                yield stored

    def settle(self, run: range) -> None:
        """Messages are gone; what is not there any more does no harm."""
        messages = self.messages
        if messages:
            for index in run:
                messages.pop(index, None)
        if self.lost:
            self.lost.difference_update(run)
        for stored in self._overlapping(run):
            past = max(0, stored.first - run.start)
            here = run[-(-past // run.step) :]
            inside = range(here.start - stored.first, here.stop - stored.first, here.step)
            size = len(stored.gone[inside.start : inside.stop : inside.step])
            stored.gone[inside.start : inside.stop : inside.step] = b"\1" * size

    def state(self, is_clean: bool) -> LogState:
        """Where the log stands; after anything but an orderly stop, all may have been delivered.

        From here on ``messages`` are those that lie in no segment: not even in one of them as one
        that is gone, for then it has come back.
        """
        chunks = []
        indexes = sorted(self.messages)
        for stored in self._stored:
            start = bisect_left(indexes, stored.first)
            for index in indexes[start : bisect_left(indexes, stored.first + len(stored.gone))]:
                if not stored.gone[index - stored.first]:
                    del self.messages[index]
            live = stored.gone.count(0)
            if live:
                count = len(stored.gone)
                gone = bytes(stored.gone) if live < count else None
                chunks.append(ChunkState(stored.first, count, live, stored.place, gone))
        return LogState(self.end, self.end, self.read_end if is_clean else self.end, chunks)


@attrs.define
class Recovered:
    """What was found in the files ``paths``; the next batch is to have the number ``batch``."""

    paths: list[str] = attrs.Factory(list)
    number: int = 0
    """Of the newest file; 0: there is none."""
    batch: int = 1
    definitions: list[bytes] = attrs.Factory(list)
    """Lines that change definitions, in order."""
    knows_definitions: bool = False
    """Whether all of them were said once."""
    logs: dict[int, Kept] = attrs.Factory(dict)
    damages: list[Damage] = attrs.Factory(list)
    torn: tuple[str, int] | None = None
    """Where a batch begins that a crash has cut off: nobody was promised anything about it."""
    rests: list[tuple[str, int]] = attrs.Factory(list)
    """Where octets begin, at the end of a file, that are no batch; with them perhaps ``torn``."""
    clean: bool = False
    """Whether the last thing that was written says that the node has stopped in good order."""

    def log(self, log_id: int) -> Kept:
        """What is kept of a log, nothing so far if it is the first time."""
        return self.logs.setdefault(log_id, Kept())


@attrs.frozen
class _Batch:
    path: str
    offset: int
    head: BatchHead
    data: bytes


def recover(disk: Disk, folder: str) -> Recovered:
    """Read the write-ahead log in ``folder``.

    Raises `FormatError` for a file of a newer version or one that is no such file, and `OSError`.
    """
    recovered = Recovered()
    batches: list[_Batch] = []
    for name in disk.names(folder):
        number = name.removesuffix(SUFFIX)
        if name.endswith(SUFFIX) and number.isdecimal():
            path = f"{folder}/{name}"
            recovered.paths.append(path)
            recovered.number = int(number)
            batches += _read(disk, path, recovered)
    synced_to = max((batch.head.synced_to for batch in batches), default=0)
    last: _Batch | None = None
    for batch in batches:
        head = batch.head
        is_synced = head.number <= synced_to
        if last is None and head.number > 1:  # As it should be, if all is said anew here.
            what = f"batches 1 to {head.number - 1} are not there"
            recovered.damages.append(Damage(_file_before(batch.path), 0, what))
        if last is not None and head.number != last.head.number + 1 and is_synced:
            # Noted of the file before, if it is at a border: all older files may be unnecessary.
            what = f"batches {last.head.number + 1} to {head.number - 1} are not there"
            recovered.damages.append(Damage(last.path, last.offset + last.head.end, what))
        if not _take(batch, recovered, is_synced):
            recovered.torn = batch.path, batch.offset
            break
        last = batch
    recovered.batch = 1 if last is None else last.head.number + 1
    if recovered.damages:
        recovered.clean = False  # It is not sure that this knows who was given what.
    return recovered


def _file_before(path: str) -> str:
    """The file that was written before one."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/{int(name.removesuffix(SUFFIX)) - 1:08}{SUFFIX}"


def _read(disk: Disk, path: str, recovered: Recovered) -> list[_Batch]:
    """The batches in a file."""
    file = disk.open(path, read_only=True)
    try:
        data = file.read(0, file.size_bytes)
    finally:
        file.close()
    if len(data) < FILE_HEAD_BYTES:
        recovered.rests += [(path, 0)] if data else []
        return []  # A crash came between its name and its beginning.
    head = decode_file_head(data, FILE_MARK)
    if head is None or head.is_mended:
        recovered.damages.append(Damage(path, 0, "the head of the file is damaged"))
    if head is None:
        return []
    if head.version > FORMAT_VERSION:
        raise FormatError(
            f"{path} has format {head.version}, and this version reads {FORMAT_VERSION}:"
            " start it with the version that has written it, or a newer one"
        )
    return list(_batches(path, data, head.salt, recovered.rests))


def _batches(path: str, data: bytes, salt: int, rests: list[tuple[str, int]]) -> Iterator[_Batch]:
    """The batches in a file whose headers are sound, or can be mended."""
    position = FILE_HEAD_BYTES
    while position < len(data):
        head = decode_batch_head(data, position, salt) or mend_batch_head(data, position, salt)
        if head is None:
            rest, position = position, find_batch(data, position + 1, salt)
            if position < 0:
                rests.append((path, rest))
                return
            head = decode_batch_head(data, position, salt)
            assert head is not None
        yield _Batch(path, position, head, data)
        position += head.end


def _take(batch: _Batch, recovered: Recovered, is_synced: bool) -> bool:
    """Do what the records of a batch say; False for a batch that a crash has cut off."""
    head, data = batch.head, batch.data
    position, end = batch.offset + head.records_at, batch.offset + head.end
    records = list(_records(data, position, min(end, len(data))))
    is_whole = end <= len(data) and all(record is not None for record, _ in records)
    if not is_synced and not (is_whole and head.directory is not None):
        return False
    reader = _Reader(batch, recovered)
    if head.is_mended or head.directory is None:
        reader.damaged(batch.offset, "the head of a batch is damaged")
    for record, offset in records:
        try:
            if record is None:
                raise FormatError("a record is damaged")
            reader.apply(record)
        except FormatError as error:
            reader.damaged(offset, str(error))
    if end > len(data):
        reader.damaged(len(data), "a synced batch is cut off")
    reader.miss(head.directory or [])
    return True


def _records(data: bytes, position: int, end: int) -> Iterator[tuple[Record | None, int]]:
    """The records of a batch with their offsets; None for one that is damaged."""
    while position < end:
        offset = position
        try:
            record, position = decode_record(data, offset, end)
        except FormatError:
            record = None
        if record is None:
            try:
                record, position = mend_record(data, offset, end)
            except FormatError:
                position = end
        yield record, offset


class _Reader:
    """Does what the records of one batch say, and notes what is missing."""

    def __init__(self, batch: _Batch, recovered: Recovered) -> None:
        self._path = batch.path
        self._recovered = recovered
        self._seen: set[tuple[int, int | None]] = set()  # Messages of a log from an index on, or
        self._said: set[Kind] = set()  # where it stands (None); what is said twice.
        self._damaged_at = batch.offset

    def damaged(self, offset: int, what: str, log_id: int = 0, messages: int = 0) -> None:
        """Note damage."""
        self._damaged_at = offset
        self._recovered.damages.append(Damage(self._path, offset, what, log_id, messages))

    def miss(self, directory: list[DirectoryEntry]) -> None:
        """Note what is in the directory, and was not seen."""
        for entry in directory:
            log_id, first, count = entry.log_id, entry.first, entry.count
            kept = self._recovered.log(log_id)
            if not count and (log_id, None) not in self._seen:
                kept.is_unsure = True
                what = f"it is not known where log {log_id} stands"
                self.damaged(self._damaged_at, what, log_id)
            elif count and (log_id, first) not in self._seen:
                kept.lost.update(range(first, first + count))
                kept.end = max(kept.end, first + count)
                what = f"messages of log {log_id} are not what was written"
                self.damaged(self._damaged_at, what, log_id, count)

    def apply(self, record: Record) -> None:
        """Do what a record says. Raises `FormatError`."""
        recovered = self._recovered
        recovered.clean = record.kind is Kind.STOPPED
        if record.kind is Kind.RESTATED:  # What older files held is not needed.
            recovered.damages = [at for at in recovered.damages if at.path == self._path]
        if record.kind in (Kind.DEFINITIONS, Kind.CHANGES) and record.kind not in self._said:
            self._said.add(record.kind)
            if record.kind is Kind.DEFINITIONS:
                recovered.knows_definitions = True
                recovered.definitions = []
            recovered.definitions += record.payload.splitlines(keepends=True)
        if record.kind >= Kind.DEFINITIONS:
            return  # It is about no log.
        kept = recovered.log(record.log_id)
        kept.epoch = record.epoch
        match record.kind:
            case Kind.MESSAGES:
                image = decode_image(record.payload)
                kept.add(image)
                self._seen.add((record.log_id, image.first))
            case Kind.SETTLED:
                for run in decode_ranges(record.payload):
                    kept.settle(run)
            case Kind.STATE:
                kept.begin(LogState.decode(record.payload))
                self._seen.add((record.log_id, None))

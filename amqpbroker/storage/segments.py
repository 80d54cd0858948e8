"""Segments: files of one log, in which messages lie that wait for long.

A segment is a row of chunks, each a header with a checksum of its own and an image of messages. It
grows until it is full and is never changed; when the last of its chunks is released, the file goes.
Which of its messages are settled is not said here, but in the write-ahead log.

A segment is *sparse* when little of it is live. Somebody is to take its chunks elsewhere then and
release them (`DiskLog.leave_sparse`), or one message that nobody wants would keep the whole file.
"""

import struct
from zlib import crc32

import attrs

from amqpbroker.storage.faults import is_full, must_work
from amqpbroker.storage.format import (
    FILE_HEAD_BYTES,
    FormatError,
    Image,
    decode_file_head,
    decode_image,
    encode_file_head,
)
from amqpbroker.world import Disk, File

SEGMENT_BYTES_MAX = 16 * 1024 * 1024
"""A segment that has grown to this gets no more chunks."""
_SPARSE = 0.3
"""A segment is sparse when less than this share of its octets is live."""

_FILE_MARK = b"\xb2SEG"
_CHUNK_HEAD = struct.Struct("<4sQIIIII")
"""Mark, first index, indexes, messages, transient ones of them, octets, checksum of the image."""
_CHUNK_MARK = b"\xb2CHU"
_CHECKSUM = struct.Struct("<I")
_CHUNK_HEAD_BYTES = _CHUNK_HEAD.size + _CHECKSUM.size
_SUFFIX = ".seg"


@attrs.frozen
class Place:
    """Where a chunk lies: number of the segment, offset and octets of the image in it.

    ``messages`` counts what was written there, ``transient`` those of them that a restart ends.
    """

    segment: int
    offset: int
    size: int
    checksum: int
    messages: int
    transient: int

    def live_bytes(self, live: int) -> int:
        """What so many of the messages take, about."""
        return self.size * live // self.messages


@attrs.define
class SegmentUse:
    """What the segments of some logs hold: octets that are live, and others in sparse segments."""

    live_bytes: int = 0
    wasted_bytes: int = 0

    def is_wasteful(self, bytes_max: int) -> bool:
        """Whether more than ``bytes_max`` is wasted, and more than is live."""
        return self.wasted_bytes > max(bytes_max, self.live_bytes)


@attrs.define
class _Segment:
    """A segment: its octets, those that are live, chunks that are not released."""

    size_bytes: int
    live_bytes: int = 0
    chunks: int = 0
    wasted_bytes: int = 0
    is_damaged: bool = False


class Segments:
    """The segments of one log, in a folder of their own that is made when the first is.

    Numbers go up with every segment; those up to ``sealed_to`` are not written to any more.
    ``is_there`` says that the folder is. They count among what is in ``use``.
    """

    def __init__(
        self,
        disk: Disk,
        folder: str,
        sealed_to: int = 0,
        is_there: bool = False,
        use: SegmentUse | None = None,
    ) -> None:
        self.folder = folder
        self.sparse: set[int] = set()
        """The numbers of segments that are sparse. Those that are damaged count as if not."""
        self._use = use or SegmentUse()
        self._disk = disk
        self._number = sealed_to
        self._open: dict[int, File] = {}  # Segments that are written to, or not synced yet.
        self._is_writing = False
        self._dirty: set[int] = set()
        self._syncing: int | None = None
        self._synced_bytes: dict[int, int] = {}
        self._reading: tuple[int, File] | None = None
        self._segments: dict[int, _Segment] = {}
        self._folder_unsynced = False
        self._folder_there = is_there
        self._is_shared = False
        self._is_gone = False

    # -- writing -------------------------------------------------------------------------------

    @must_work()
    def store(
        self, pieces: list[bytes], first: int, count: int, live: int, transient: int
    ) -> Place | None:
        """Write the image of a chunk. It lasts once `sync` has returned.

        None if the disk is full: it lies nowhere then. Raises `DiskFailure`.
        """
        image = b"".join(pieces)
        checksum = crc32(image)
        head = _CHUNK_HEAD.pack(_CHUNK_MARK, first, count, live, transient, len(image), checksum)
        try:
            file = self._file_to_write()
            offset = file.size_bytes + _CHUNK_HEAD_BYTES
            _append_whole(file, b"".join((head, _CHECKSUM.pack(crc32(head)), image)))
        except OSError as error:
            if not is_full(error):
                raise
            return None
        place = Place(self._number, offset, len(image), checksum, live, transient)
        self._dirty.add(self._number)
        segment = self._segments.setdefault(self._number, _Segment(0))
        segment.size_bytes = file.size_bytes
        segment.chunks += 1
        self._change(self._number, len(image))
        return place

    def _file_to_write(self) -> File:
        is_full = not self._is_writing or self._open[self._number].size_bytes >= SEGMENT_BYTES_MAX
        if not is_full and self._number not in self.sparse:
            return self._open[self._number]
        if self._is_writing:
            self._is_writing = False
            self._close_if_done(self._number)
        if not self._folder_there:
            self._disk.make_folder(self.folder)
            self._folder_there = True
        path = self._path(self._number + 1)
        file = self._disk.open(path, create=True)
        try:
            file.append(encode_file_head(_FILE_MARK))
        except OSError:
            file.close()
            self._disk.remove(path)
            raise
        self._number += 1
        self._open[self._number] = file
        self._is_writing = self._folder_unsynced = True
        return file

    def _is_written(self, number: int) -> bool:
        return self._is_writing and number == self._number

    def _close_if_done(self, number: int) -> None:
        """Close a segment that is neither written to any more, nor to be synced."""
        done = number not in self._dirty and number != self._syncing
        if done and not self._is_written(number):
            self._open.pop(number).close()
            self._synced_bytes.pop(number, None)

    def is_synced(self, place: Place) -> bool:
        """Whether a chunk would survive a crash."""
        if place.segment not in self._open:
            return True
        return place.offset + place.size <= self._synced_bytes.get(place.segment, 0)

    async def sync(self) -> None:
        """Make all chunks last that were stored before the call; one call at a time.

        Raises `OSError`.
        """
        if self._folder_unsynced:
            self._folder_unsynced = False
            await self._disk.sync_folder(self.folder.rpartition("/")[0])
            if self._is_gone:
                return
            await self._disk.sync_folder(self.folder)
        for number in sorted(self._dirty):
            if number not in self._dirty:
                continue  # It went meanwhile.
            file = self._open[number]
            size = file.size_bytes
            self._dirty.discard(number)
            self._syncing = number
            try:
                await file.sync()
            finally:
                self._syncing = None
            self._synced_bytes[number] = size
            if self._is_gone:
                self.remove_all()
                return
            if number not in self._segments or not self._segments[number].chunks:
                self._remove(number)
            else:
                self._close_if_done(number)

    # -- reading -------------------------------------------------------------------------------

    @must_work()
    def load(self, place: Place) -> Image:
        """The messages of a chunk. Raises `FormatError` if it is damaged, or `DiskFailure`."""
        try:
            file = self._file_to_read(place.segment)
        except FileNotFoundError:
            self._note_damage(place)
            raise FormatError("the file is not there") from None
        data = file.read(place.offset, place.size)
        if len(data) != place.size or crc32(data) != place.checksum:
            self._note_damage(place)
            raise FormatError("a chunk of messages is not what was written there")
        return decode_image(data)

    def _note_damage(self, place: Place) -> None:
        segment = self._segments.get(place.segment)
        if segment is not None:
            segment.is_damaged = True
            self._change(place.segment, 0)

    def path(self, place: Place) -> str:
        """The file in which a chunk lies."""
        return self._path(place.segment)

    def _file_to_read(self, number: int) -> File:
        if number in self._open:
            return self._open[number]
        if self._reading is None or self._reading[0] != number:
            file = self._disk.open(self._path(number), read_only=True)
            self._close_reading()
            self._reading = number, file
        return self._reading[1]

    def _close_reading(self) -> None:
        if self._reading is not None:
            self._reading[1].close()
            self._reading = None

    # -- the end of chunks ---------------------------------------------------------------------

    @must_work()
    def keep(self, place: Place, live: int) -> None:
        """A chunk that was found at the start holds live messages. Raises `DiskFailure`."""
        if place.segment not in self._segments:
            file = self._disk.open(self.path(place), read_only=True)
            self._segments[place.segment] = _Segment(file.size_bytes)
            file.close()
        self._segments[place.segment].chunks += 1
        self._change(place.segment, place.live_bytes(live))

    def lose(self, place: Place, live: int, left: int) -> None:
        """Of ``live`` messages of a chunk only ``left`` are needed here any more."""
        self._change(place.segment, place.live_bytes(left) - place.live_bytes(live))

    @must_work()
    def release(self, place: Place) -> None:
        """Nothing of a chunk is needed here any more; its segment goes with the last such.

        Raises `DiskFailure`.
        """
        segment = self._segments[place.segment]
        segment.chunks -= 1
        if not segment.chunks and place.segment != self._syncing:
            self._remove(place.segment)

    def _change(self, number: int, live_bytes: int) -> None:
        """So many octets more of a segment are live."""
        segment, use = self._segments[number], self._use
        segment.live_bytes += live_bytes
        use.live_bytes += live_bytes
        wasted_bytes = 0
        # One of which nothing is live is about to go.
        if 0 < segment.live_bytes < segment.size_bytes * _SPARSE and not segment.is_damaged:
            wasted_bytes = segment.size_bytes - segment.live_bytes
            self.sparse.add(number)
        else:
            self.sparse.discard(number)
        use.wasted_bytes += wasted_bytes - segment.wasted_bytes
        segment.wasted_bytes = wasted_bytes

    def _forget(self, number: int) -> None:
        segment = self._segments.get(number)
        if segment is not None:
            self._change(number, -segment.live_bytes)
            del self._segments[number]

    def _remove(self, number: int) -> None:
        if self._is_written(number):
            self._is_writing = False
        self._forget(number)
        self._dirty.discard(number)
        self._synced_bytes.pop(number, None)
        if number in self._open:
            self._open.pop(number).close()
        if self._reading is not None and self._reading[0] == number:
            self._close_reading()
        self._disk.remove(self._path(number))

    def close(self) -> None:
        """End the use of all files, none of them being synced."""
        self._close_reading()
        for file in self._open.values():
            file.close()
        self._open.clear()
        self._dirty.clear()
        self._is_writing = False

    @must_work()
    def remove_all(self) -> None:
        """The log is deleted, and its files with it, once none is being synced.

        Raises `DiskFailure`.
        """
        self._is_gone = True
        for number in list(self._segments):
            self._forget(number)
        if self._syncing is None:
            self.close()
            if self._is_shared:
                for number in segment_numbers(self._disk, self.folder):
                    if number <= self._number:
                        self._disk.remove(self._path(number))
            elif self._folder_there:
                remove_folder(self._disk, self.folder)
                self._folder_there = False

    def share(self) -> tuple[int, bool]:
        """A log that follows this one has the folder too: of this one only its own files go.

        Returns its highest number, and whether there is a folder.
        """
        self._is_shared = self._folder_there
        return self._number, self._folder_there

    def _path(self, number: int) -> str:
        return segment_path(self.folder, number)


def _append_whole(file: File, data: bytes) -> None:
    """Append all of it, or nothing if the disk is full."""
    start = file.size_bytes
    try:
        file.append(data)
    except OSError as error:
        if is_full(error):
            file.truncate(start)
        raise


def segment_path(folder: str, number: int) -> str:
    """Where a segment lies."""
    return f"{folder}/{number:08}{_SUFFIX}"


def has_sound_head(disk: Disk, folder: str, number: int) -> bool:
    """Whether a segment begins as one should; messages are found without it."""
    file = disk.open(segment_path(folder, number), read_only=True)
    try:
        head = decode_file_head(file.read(0, FILE_HEAD_BYTES), _FILE_MARK)
    finally:
        file.close()
    return head is not None and not head.is_mended


def remove_folder(disk: Disk, folder: str) -> None:
    """Remove a folder of segments with all that is in it."""
    for name in disk.names(folder):
        disk.remove(f"{folder}/{name}")
    disk.remove(folder)


def segment_numbers(disk: Disk, folder: str) -> list[int]:
    """The numbers of the segments in a folder; none if there is no such folder."""
    try:
        names = disk.names(folder)
    except FileNotFoundError:
        return []
    stems = [name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)]
    return [int(stem) for stem in stems if stem.isdecimal() and stem == f"{int(stem):08}"]


def stored_chunks(
    disk: Disk, folder: str, number: int, start: int = FILE_HEAD_BYTES
) -> list[Place]:
    """Where chunks lie in a segment by their headers, from ``start`` to the first unsound one."""
    file = disk.open(segment_path(folder, number), read_only=True)
    try:
        places: list[Place] = []
        position = start
        while True:
            data = file.read(position, _CHUNK_HEAD_BYTES)
            head = data[: _CHUNK_HEAD.size]
            if len(data) < _CHUNK_HEAD_BYTES or data[:4] != _CHUNK_MARK:
                return places
            if _CHECKSUM.unpack_from(data, len(head))[0] != crc32(head):
                return places
            _, _, _, messages, transient, octets, checksum = _CHUNK_HEAD.unpack(head)
            offset = position + _CHUNK_HEAD_BYTES
            place = Place(number, offset, octets, checksum, messages, transient)
            position = place.offset + octets
            places.append(place)
    finally:
        file.close()

"""Whether every confirm was sent after the sync that covers its message.

Read from the journal of a `DiskShim` that records contents. Each message bears a `mark` at the
beginning and at the end of its body, so that it is recognised in whatever file it was written to.
It is kept from the moment on when both marks in one file are covered by a sync of that file, and
the file's name by a sync of its folder, up to the top. What the broker sends is read as it went
out, octet by octet: a confirm that begins to be sent before its message is kept came too early.
"""

import re
import struct
from collections.abc import Callable, Iterator

import attrs

from amqpbroker.testing.disk_shim import DiskShim, FileState, Kind, Note

_MARK = re.compile(rb"<~([0-9a-f]{8})~>")
_MARK_BYTES = 12
_FRAME = struct.Struct(">BHI")
_ACK = b"\x00\x3c\x00\x50"
_ACK_ARGUMENTS = struct.Struct(">QB")


def mark(number: int) -> bytes:
    """What the body of message ``number`` begins and ends with."""
    return b"<~%08x~>" % number


@attrs.define
class ConfirmOrder:
    """What was found."""

    confirms: int = 0
    """Messages that were confirmed and looked at."""
    early: list[int] = attrs.Factory(list)
    """Those that were confirmed before they were kept."""
    unkept: list[int] = attrs.Factory(list)
    """Those among them that never were, as far as the journal goes."""
    after_failed_sync: int = 0
    """Messages confirmed after a sync had failed."""


@attrs.define
class _Marks:
    """What of a file's marks is known: their ends, and those that a sync has covered."""

    tail: bytes = b""
    end: int = 0
    covered: dict[int, int] = attrs.Factory(dict)

    def cover(self, note: Note) -> list[int]:
        """A sync covers a write: the messages of which both marks are there now."""
        if note.kind is not Kind.WRITE:
            return []
        if note.a != self.end:
            self.tail = b""
        data = self.tail + note.second
        self.end = note.a + note.c
        self.tail = data[len(data) - min(len(data), _MARK_BYTES - 1) :]
        whole = []
        for found in _MARK.finditer(data):
            number = int(found[1], 16)
            self.covered[number] = self.covered.get(number, 0) + 1
            if self.covered[number] == 2:
                whole.append(number)
        return whole


@attrs.define
class _Sends:
    """What was sent on one connection, cut into acks."""

    data: bytes = b""
    confirmed: int = 0

    def acks(self, data: bytes) -> Iterator[range]:
        """Publish sequence numbers that are confirmed by what was sent now."""
        self.data += data
        while len(self.data) >= _FRAME.size:
            kind, _, size = _FRAME.unpack_from(self.data)
            if len(self.data) < _FRAME.size + size + 1:
                return
            payload = self.data[_FRAME.size : _FRAME.size + size]
            self.data = self.data[_FRAME.size + size + 1 :]
            if kind == 1 and payload.startswith(_ACK):
                tag, multiple = _ACK_ARGUMENTS.unpack_from(payload, len(_ACK))
                first = self.confirmed + 1 if multiple else tag
                if multiple:
                    self.confirmed = tag
                yield range(first, tag + 1)


def check_confirm_order(
    shim: DiskShim, message_of: Callable[[int, int], int | None]
) -> ConfirmOrder:
    """Read the journal; `DiskShim.crash` or `begin` must not have come in between.

    ``message_of`` tells which message a client, known by its port, has published with which
    sequence number on its only channel with confirms; None if it does not matter.
    """
    found = ConfirmOrder()
    disk, notes = shim.follow()
    marks: dict[FileState, _Marks] = {}
    kept_at: dict[int, int] = {}
    sending: dict[int, tuple[Note, int, int]] = {}
    sends: dict[int, _Sends] = {}
    confirmed: set[int] = set()
    for place, note in enumerate(notes):
        if disk.follow(note):
            for file in disk.root.files():
                for kept in file.take_kept():
                    for number in marks.setdefault(file, _Marks()).cover(kept):
                        kept_at.setdefault(number, place)
        if note.kind is Kind.SEND:
            sending[note.id] = note, place, disk.failed_syncs
        elif note.kind is Kind.DONE and note.id in sending:
            send, began, failed = sending.pop(note.id)
            octets = min(note.a, len(send.second)) if not note.a >> 63 else 0
            for tags in sends.setdefault(send.a, _Sends()).acks(send.second[:octets]):
                for tag in tags:
                    message = message_of(send.a, tag)
                    if message is None or message in confirmed:
                        continue
                    confirmed.add(message)
                    found.after_failed_sync += bool(failed)
                    if kept_at.get(message, began) >= began:
                        found.early.append(message)
    found.confirms = len(confirmed)
    found.unkept = [number for number in found.early if number not in kept_at]
    return found

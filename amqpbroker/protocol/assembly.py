"""A message that arrives in pieces.

Its frames are joined as they come, so that each costs as much as it has octets: a peer that sends
an octet a frame makes neither a message nine times as large nor one long stop at its end.
"""

import struct

import attrs

from amqpbroker.message import Traits
from amqpbroker.protocol.events import PublishMethod
from amqpbroker.protocol.frames import END, FRAME_OVERHEAD_BYTES

_SIZE = struct.Struct(">I")
_EMPTY = b"\0\0\0\0" + END


@attrs.define(eq=False)
class Assembly:
    """The content frames of one message, so far.

    ``payload_bytes_max`` is what one body frame may hold.
    """

    method: PublishMethod
    payload_bytes_max: int
    remaining: int = -1
    """Octets of body still to come; -1 while the header is due."""
    traits: Traits | None = None
    raw: bytearray = attrs.Factory(bytearray)
    _last: int = 0
    """Where the last body frame begins."""
    _room: int = 0
    """Octets that it may still take."""

    def add_header(self, frame: bytes, traits: Traits, body_bytes: int) -> None:
        """Take the header frame."""
        self.raw += frame
        self.traits = traits
        self.remaining = body_bytes

    def add_body(self, data: bytes, start: int, end: int) -> None:
        """Take the body frame in ``data`` from ``start`` to ``end``, which may be too large."""
        raw, size_max = self.raw, self.payload_bytes_max
        size = end - start - FRAME_OVERHEAD_BYTES
        self.remaining -= size
        if size <= size_max and not self._room:
            self._last = len(raw)
            self._room = size_max - size
            raw += data[start:end]
            return
        if size <= self._room:
            raw[-1:] = data[start + 7 : end]
            self._room -= size
            _SIZE.pack_into(raw, self._last + 3, size_max - self._room)
            return
        position, stop = start + 7, end - 1
        while position < stop:
            if not self._room:
                self._last = len(raw)
                self._room = size_max
                raw += data[start : start + 3] + _EMPTY
            part = data[position : min(stop, position + self._room)]
            raw[-1:] = part + END
            position += len(part)
            self._room -= len(part)
            _SIZE.pack_into(raw, self._last + 3, size_max - self._room)

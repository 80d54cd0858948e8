"""A message that arrives in pieces.

Its frames are joined as they come, so that each costs as much as it has octets: a peer that sends
an octet a frame makes neither a message nine times as large nor one long stop at its end.
"""

import attrs

from amqpbroker.errors import UnexpectedFrame
from amqpbroker.message import Traits
from amqpbroker.protocol.events import PublishMethod
from amqpbroker.protocol.frames import (
    BASIC,
    END,
    FRAME_OVERHEAD_BYTES,
    PAYLOAD_SIZE,
    PUBLISH_INDEX,
)

_NO_PAYLOAD = PAYLOAD_SIZE.pack(0) + END


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

    def unexpected(self) -> UnexpectedFrame:
        """The fault of a frame that is not the part of the message that is due."""
        part = "header" if self.remaining < 0 else "body"
        due = f"header for class {BASIC}" if self.remaining < 0 else "body"
        return UnexpectedFrame(
            f"expected content {due}, got non content {part} frame instead", PUBLISH_INDEX
        )

    def add_header(self, frame: bytes, traits: Traits, body_bytes: int) -> None:
        """Take the header frame."""
        self.raw += frame
        self.traits = traits
        self.remaining = body_bytes

    def add_body(self, data: bytes, start: int, end: int) -> None:
        """Take the body frame in ``data`` from ``start`` to ``end``.

        It fills up the last one first; what is left of it begins the next.
        """
        raw, room = self.raw, self._room
        self.remaining -= end - start - FRAME_OVERHEAD_BYTES
        position, stop = start + 7, end - 1
        while position < stop:
            if not room:
                self._last = len(raw)
                room = self.payload_bytes_max
                raw += data[start : start + 3] + _NO_PAYLOAD
            part = data[position : min(stop, position + room)]
            raw[-1:-1] = part  # Before its end octet.
            position += len(part)
            room -= len(part)
            PAYLOAD_SIZE.pack_into(raw, self._last + 3, self.payload_bytes_max - room)
        self._room = room

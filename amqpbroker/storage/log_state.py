"""Where a log stands, as it is said in the journal."""

import struct

import attrs

from amqpbroker.storage.format import FormatError
from amqpbroker.storage.segments import Place

_STATE_HEAD = struct.Struct("<QQQI")
"""Renewed end, end, index behind the last that was read, chunks in segments."""
_STATE_CHUNK = struct.Struct("<QIIIIIIIIB")
"""First index, indexes, live messages, the six of `Place`, whether a bitmap follows."""


@attrs.define
class ChunkState:
    """A chunk in a segment, as `DiskLog.restate` tells of it."""

    first: int
    count: int
    live: int
    place: Place
    gone: bytes | None


@attrs.frozen
class LogState:
    """Where a log stands, as far as messages below ``renewed_end`` are concerned.

    ``chunks`` are those in segments; what lies in none is said apart. Messages below ``read_end``
    may have been delivered.
    """

    renewed_end: int
    end: int
    read_end: int
    chunks: list[ChunkState]

    def encode(self) -> list[bytes]:
        """Pieces that say it."""
        pieces = [_STATE_HEAD.pack(self.renewed_end, self.end, self.read_end, len(self.chunks))]
        for chunk in self.chunks:
            place, gone = chunk.place, chunk.gone
            pieces.append(
                _STATE_CHUNK.pack(
                    chunk.first,
                    chunk.count,
                    chunk.live,
                    place.segment,
                    place.offset,
                    place.size,
                    place.checksum,
                    place.messages,
                    place.transient,
                    gone is not None,
                )
            )
            if gone is not None:
                pieces.append(_bits(gone))
        return pieces

    @classmethod
    def decode(cls, payload: bytes) -> "LogState":
        """What `encode` said. Raises `FormatError`."""
        try:
            renewed_end, end, read_end, count = _STATE_HEAD.unpack_from(payload)
            position = _STATE_HEAD.size
            chunks = []
            for _ in range(count):
                first, messages, live, *place, has_gone = _STATE_CHUNK.unpack_from(
                    payload, position
                )
                position += _STATE_CHUNK.size
                gone = None
                if has_gone:
                    size = (messages + 7) // 8
                    gone = _flags(payload[position : position + size], messages)
                    position += size
                chunks.append(ChunkState(first, messages, live, Place(*place), gone))
        except (struct.error, ValueError) as error:
            raise FormatError("the state of a log is cut off") from error
        return cls(renewed_end, end, read_end, chunks)


def _bits(flags: bytes) -> bytes:
    """Octets that are 0 or 1 as bits."""
    number = int(flags[::-1].translate(_DIGITS), 2)
    return number.to_bytes((len(flags) + 7) // 8, "little")


def _flags(bits: bytes, count: int) -> bytes:
    """Bits as octets that are 0 or 1. Raises `ValueError` if there are not enough."""
    if len(bits) < (count + 7) // 8:
        raise ValueError("a bitmap is cut off")
    digits = f"{int.from_bytes(bits, 'little'):0{count}b}"
    return bytes(digit == "1" for digit in reversed(digits))


_DIGITS = b"01" + b"1" * 254

"""What a broker says, out of octets: frames, and what pamqp takes them for."""

from typing import Any

import pamqp.frame

from amqpbroker.protocol.frames import (
    BODY,
    END,
    FRAME_HEAD_BYTES,
    FRAME_HEADER,
    FRAME_OVERHEAD_BYTES,
    frame,
)

RawFrame = tuple[int, int, bytes]
"""Type, channel and payload."""
Received = tuple[int, Any]
"""Channel and what came: a pamqp frame, or the octets of a body."""


def split_frames(data: bytes) -> tuple[list[RawFrame], bytes]:
    """The whole frames in ``data``, and the octets that are left.

    Raises `ValueError` if a frame does not end with the end octet.
    """
    frames: list[RawFrame] = []
    start = 0
    while len(data) - start >= FRAME_OVERHEAD_BYTES:
        kind, channel, size = FRAME_HEADER.unpack_from(data, start)
        end = start + size + FRAME_OVERHEAD_BYTES
        if end > len(data):
            break
        if data[end - 1 : end] != END:
            raise ValueError(f"a frame at octet {start} does not end at {end}")
        frames.append((kind, channel, data[start + FRAME_HEAD_BYTES : end - 1]))
        start = end
    return frames, data[start:]


def whole_frames(data: bytes) -> list[RawFrame]:
    """The frames in ``data``. Raises `ValueError` if it is anything else."""
    frames, rest = split_frames(data)
    if rest:
        raise ValueError(f"the last {len(rest)} octets are no whole frame")
    return frames


def read_frames(data: bytes) -> tuple[list[Received], bytes]:
    """What the whole frames in ``data`` say, and the octets that are left."""
    frames, rest = split_frames(data)
    return [(channel, _read(kind, channel, payload)) for kind, channel, payload in frames], rest


def _read(kind: int, channel: int, payload: bytes) -> Any:
    if kind == BODY:
        return payload
    return pamqp.frame.unmarshal(frame(kind, channel, payload))[2]
